"""What the tests of caches share: the fixtures, and waiting."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeAlias
from uuid import uuid4

import pytest

__all__ = ["Cache", "CacheTests", "eventually"]

Cache: TypeAlias = Any
"""What is tested: a `miniagents.ext.cache.Cache`, which this layer does not know."""

_PATIENCE = 20.0


class CacheTests:
    """Tests of a cache that each test gets anew."""

    pytestmark: ClassVar[Any] = pytest.mark.asyncio

    @pytest.fixture
    def cache(self) -> Cache:
        """The cache to test. Its default namespace is empty, and nobody else uses it."""
        raise NotImplementedError(f"override the fixture `cache` in {type(self).__name__}; it gives the one to test")

    @pytest.fixture
    def own(self) -> str:
        """What the prefixes that a test gives begin with, so that it meets nobody on a server that others use, too."""
        return uuid4().hex[:12]

    @pytest.fixture
    def other(self, cache: Cache) -> Cache:
        """Another object for what `cache` keeps, as another process would have it; by default there is only the one."""
        return cache


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    """Waits until something is so.

    Args:
        look: Tells whether it is.

    Raises:
        TimeoutError: It has not become so in time.
    """
    async with asyncio.timeout(_PATIENCE):
        while not await look():  # noqa: ASYNC110  # a cache tells nobody that something has expired
            await asyncio.sleep(0.01)
