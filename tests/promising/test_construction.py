"""Wrong use is refused with an error that says what to do."""

import asyncio
import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import pytest

import promising
from promising import AWAIT, DEFAULT, NO_VALUE, FlatSequence, Promise, PromisingContext, StreamedPromise
from tests.promising.helpers import error_of, resolver_of, streamer_of


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Promise(), "exactly one of `resolver`"),
        (lambda: Promise(resolver_of(1), prefill_result=1), "exactly one of `resolver`"),
        (lambda: StreamedPromise(), "exactly one of `streamer`"),
        (lambda: StreamedPromise(streamer_of([]), prefill_pieces=[]), "exactly one of `streamer`"),
        (lambda: StreamedPromise(prefill_pieces=[], resolver=resolver_of(1), prefill_result=1), "at most one of"),
        (lambda: Promise(5), "cannot be called"),  # type: ignore[arg-type]
        (lambda: StreamedPromise(streamer_of([])(None)), "the function itself|cannot be called"),  # type: ignore[arg-type]
        (lambda: FlatSequence(prefill_pieces=[], flatten=1), "cannot be called"),  # type: ignore[arg-type]
    ],
)
def test_construction(make: Any, message: str) -> None:
    """What a promise is made of is checked when it is made."""
    with pytest.raises(TypeError, match=message):
        make()


async def _coroutine(_: Any) -> int:
    return 1


def _generator(_: Any) -> Any:
    yield 1


@pytest.mark.parametrize(
    ("streamer", "hint"), [(_coroutine, "without any `yield`"), (_generator, "`async def` in place"), (len, "object")]
)
async def test_a_streamer_that_is_no_async_iterator(streamer: Any, hint: str) -> None:
    """The error arrives at the reader and says what was probably meant."""
    async with PromisingContext():
        error = await error_of(StreamedPromise(streamer))
    assert isinstance(error, TypeError)
    assert hint in str(error)


async def test_starting_from_a_thread() -> None:
    """Starting work in a thread is an error that names the way; what is settled can be read anywhere."""
    async with PromisingContext():
        settled = Promise(prefill_result=1)

        def work() -> int:
            with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
                Promise(resolver_of(1))
            return settled.__await__().send(None) if not settled.done() else asyncio.run(_await(settled))

        assert await asyncio.to_thread(work) == 1


async def _await(promise: Promise[int]) -> int:
    return await promise


async def test_another_loop() -> None:
    """A promise that is started in the loop of another context is an error."""
    async with PromisingContext():
        lazy = Promise(resolver_of(1), start_soon=False)
        errors: list[BaseException] = []
        thread = threading.Thread(target=lambda: errors.append(asyncio.run(error_of(lazy))))
        thread.start()
        thread.join()
        assert "another event loop" in str(errors[0])
        assert await lazy == 1


@pytest.mark.parametrize("make", [lambda: Promise(resolver_of(1)), lambda: StreamedPromise(streamer_of([1, 2]))])
async def test_freed_without_the_collector(make: Any) -> None:
    """When the work is over, references alone keep a promise."""

    async def use() -> list[Any]:
        async with PromisingContext():
            promise = make()
            await promise
            return [weakref.ref(promise)]

    gc.collect()
    gc.disable()
    try:
        assert [reference() for reference in await use()] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("sentinel", [AWAIT, DEFAULT, NO_VALUE])
def test_sentinels(sentinel: Any) -> None:
    """A sentinel prints as its name, stays itself through pickle and copy, and is neither true nor false."""
    assert repr(sentinel) in promising.__all__
    assert pickle.loads(pickle.dumps(sentinel)) is copy.deepcopy(sentinel) is sentinel
    with pytest.raises(TypeError, match="is neither true nor false"):
        bool(sentinel)
