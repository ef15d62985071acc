"""What the tests of checkpoint stores share: the fixtures, and short forms."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias
from uuid import uuid4

import pytest

__all__ = ["Reopen", "Store", "StoreTests", "begin", "of", "refused", "when_free"]

Store: TypeAlias = Any
"""What is tested: a `miniagents.ext.checkpoints.CheckpointStore`, which this layer does not know."""

Reopen: TypeAlias = Callable[[], Awaitable[Store]]
"""Makes another object for what the store keeps."""

_PATIENCE = 20.0


class StoreTests:
    """Tests of a store that each test gets anew."""

    pytestmark: ClassVar[Any] = pytest.mark.asyncio

    @pytest.fixture
    def store(self) -> Store:
        """The store to test. There is no run in it."""
        raise NotImplementedError(f"override the fixture `store` in {type(self).__name__}; it gives the one to test")

    @pytest.fixture
    def reopen(self, store: Store) -> Any:
        """Makes further objects for the same store, as other processes would; by default there is only the one."""

        async def the_same() -> Store:
            return store

        return the_same


async def begin(store: Store, run_id: str | None = None) -> Any:
    """Creates a run, and claims it.

    Args:
        store: Where.
        run_id: Its id; one that nobody else has by default.

    Returns:
        The claim.
    """
    run_id = uuid4().hex if run_id is None else run_id
    await store.create(run_id, workflow="tests")
    return await store.claim(run_id)


async def when_free(call: Callable[[], Awaitable[Any]]) -> Any:
    """Does something with a run as soon as nobody else works at it.

    Args:
        call: What to do, again and again until it can be done.

    Returns:
        What that gives.

    Raises:
        TimeoutError: Somebody else keeps the run.
    """
    async with asyncio.timeout(_PATIENCE):
        while True:
            try:
                return await call()
            except Exception as error:
                if not _is(error, "RunClaimedError"):
                    raise
            await asyncio.sleep(0.01)


@contextmanager
def refused(kind: str, match: str | None = None) -> Iterator[Any]:
    """Expects an error, which this layer knows by its name only.

    Args:
        kind: The name of its class, or of a base of that.
        match: What its message contains, as a regular expression.

    Yields:
        What holds the error afterwards, see `pytest.raises`.
    """
    with pytest.raises(Exception, match=match) as caught:
        yield caught
    assert _is(caught.value, kind), repr(caught.value)


def of(node: str, kind: str, visit: int = 1, attempt: int = 1, data: Any = None) -> tuple[str, str, int, int, Any]:
    """An entry about a node."""
    return kind, node, visit, attempt, data


def _is(error: BaseException, kind: str) -> bool:
    return any(cls.__name__ == kind for cls in type(error).__mro__)
