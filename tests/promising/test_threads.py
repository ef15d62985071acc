"""Promises and threads: work starts in its own loop only, what is settled is read anywhere."""

import asyncio
import gc
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from miniagents.testing import quiescence
from promising import FlatSequence, Promise, PromisingContext, StreamedPromise
from tests.promising.at_rest import forever, outcome
from tests.promising.helpers import read, read_until_error, resolver_of, streamer_of


async def in_a_thread(function: Callable[[], Any]) -> Any:
    """What a function returns, or raises, in a thread that has the variables of this place, like `to_thread`."""

    def call() -> Any:
        try:
            return function()
        except BaseException as error:
            return error

    return await asyncio.to_thread(call)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Promise(resolver_of(1)),
        lambda: StreamedPromise(streamer_of([1])),
        lambda: FlatSequence(streamer_of([1]), flatten=lambda item: [item]),
    ],
)
async def test_starting_work_in_a_thread(make: Any) -> None:
    """Making a promise that would start in a thread without a loop is an error that names the way to do it."""
    async with PromisingContext():
        error = await in_a_thread(make)
        assert isinstance(error, RuntimeError)
        assert "call_soon_threadsafe" in str(error)
        assert await Promise(resolver_of("goes on")) == "goes on"


async def test_start_soon_in_a_thread() -> None:
    """`start_soon` in a thread is the same error, and leaves no coroutine behind that was never awaited."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with PromisingContext() as context:
            error = await in_a_thread(lambda: context.start_soon(forever()))
            assert isinstance(error, RuntimeError)
            assert "call_soon_threadsafe" in str(error)
            del error
            gc.collect()
    assert [str(warning.message) for warning in caught] == []


async def test_lazy_promises_can_be_made_anywhere() -> None:
    """What does not start at once can be made in a thread, and is started by the loop."""
    async with PromisingContext():
        promise = await in_a_thread(lambda: Promise(resolver_of(1), start_soon=False))
        stream = await in_a_thread(lambda: StreamedPromise(streamer_of([1, 2]), start_soon=False))
        assert await promise == 1
        assert await stream == (1, 2)


async def test_the_way_that_the_error_names() -> None:
    """Work that a thread hands over with `call_soon_threadsafe` or `run_coroutine_threadsafe` runs."""
    loop = asyncio.get_running_loop()
    handed_over: list[Promise[Any]] = []
    there = asyncio.Event()

    def hand_over() -> None:
        handed_over.append(Promise(resolver_of("soon")))
        there.set()

    async with PromisingContext() as context:

        async def start() -> Any:
            return await context.start_soon(resolver_of("coroutine")(None))

        assert await in_a_thread(lambda: loop.call_soon_threadsafe(hand_over)) is not None
        await there.wait()
        assert await handed_over[0] == "soon"
        future = await in_a_thread(lambda: asyncio.run_coroutine_threadsafe(start(), loop))
        assert await asyncio.wrap_future(future) == "coroutine"


async def test_what_is_settled_is_read_anywhere() -> None:
    """Values, pieces, errors and flat sequences that are there can be awaited and read in another loop."""
    error = ValueError("x")

    async def fail(_: Any) -> None:
        raise error

    async with PromisingContext():
        nested: Any = FlatSequence(streamer_of([2]), flatten=lambda item: [item])
        promise, failed = Promise(resolver_of(1)), Promise(fail)
        stream, broken = StreamedPromise(streamer_of([1, 2])), StreamedPromise(streamer_of([1], error))
        sequence: Any = FlatSequence(flatten=lambda item: [item], prefill_pieces=[1, nested])
        await quiescence()

        async def elsewhere() -> list[Any]:
            return [
                await promise,
                await outcome(failed),
                await stream,
                await read(stream),
                await read_until_error(broken),
                await sequence,
                await read(sequence),
                stream.pieces_so_far,
                promise.done(),
            ]

        results = await in_a_thread(lambda: asyncio.run(elsewhere()))
    assert results == [1, error, (1, 2), [1, 2], ([1], error), (1, 2), [1, 2], (1, 2), True]


async def test_each_thread_can_have_a_loop_and_a_context_of_its_own() -> None:
    """Contexts in several loops at a time do not know of each other."""

    async def streamer(_: Any) -> AsyncIterator[int]:
        for number in range(100):
            await asyncio.sleep(0)
            yield number

    async def work() -> int:
        assert PromisingContext.current() is None
        async with PromisingContext():
            streams = [StreamedPromise(streamer) for _ in range(5)]
            return sum(map(len, await asyncio.gather(*streams)))

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(work()))) for _ in range(4)]
    async with PromisingContext():
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
    assert results == [500] * 4


async def test_work_of_a_context_in_another_loop() -> None:
    """Starting what belongs to a context in the loop of another thread is an error that says so, and costs nothing."""
    async with PromisingContext():
        lazy = Promise(resolver_of(1), start_soon=False)
        stream = StreamedPromise(streamer_of([1]), start_soon=False)

        async def elsewhere() -> list[Any]:
            return [await outcome(lazy), await outcome(stream), await outcome(read(stream))]

        errors = await in_a_thread(lambda: asyncio.run(elsewhere()))
        assert [type(error) for error in errors] == [RuntimeError] * 3
        assert all("call_soon_threadsafe" in str(error) for error in errors)
        assert await lazy == 1
        assert await read(stream) == [1]


def test_one_promise_in_several_loops_one_after_the_other() -> None:
    """What was settled in a loop that is closed is read in the next one; what was not started starts there."""
    settled, unstarted = Promise(resolver_of(1)), Promise(resolver_of(2))
    stream = StreamedPromise(streamer_of([1, 2]))

    async def first() -> None:
        assert await settled == 1
        assert await stream == (1, 2)

    async def second() -> None:
        assert await settled == 1
        assert await read(stream) == [1, 2]
        assert await unstarted == 2

    asyncio.run(first())
    asyncio.run(second())
