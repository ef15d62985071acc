"""`cancel` stops a tree of runs, and nothing beside it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents.testing import assert_no_leftovers, quiescence
from promising import Promise, PromiseCancelledError, PromisingContext, StreamAppender, StreamedPromise, detached
from tests.promising.helpers import error_of, read, read_until_error, resolver_of, streamer_of


async def forever(_: Any = None) -> None:
    await asyncio.get_running_loop().create_future()


async def test_consumers_are_woken_at_once_and_the_scope_waits_for_the_clean_up() -> None:
    """A cancelled promise has its error at once, while its producer may take its time to clean up."""
    log: list[str] = []
    gate = asyncio.Event()

    async def resolver(_: Any) -> None:
        try:
            await forever()
        finally:
            await gate.wait()
            log.append("cleaned up")

    async with assert_no_leftovers(), PromisingContext():
        promise = Promise(resolver)
        waiting = asyncio.create_task(error_of(promise))
        await quiescence()
        assert promise.cancel() is True
        assert isinstance(await waiting, PromiseCancelledError)
        assert not log
        gate.set()
    assert log == ["cleaned up"]


async def test_before_the_first_step() -> None:
    """A promise that is cancelled before its producer has begun never runs it."""
    log: list[int] = []

    async def resolver(_: Any) -> None:
        log.append(1)

    async with PromisingContext():
        promise = Promise(resolver)
        assert promise.cancel() is True
        assert promise.cancel() is False
        assert isinstance(await error_of(promise), PromiseCancelledError)
        lazy = Promise(resolver, start_soon=False)
        assert lazy.cancel() is True
        assert isinstance(await error_of(lazy), PromiseCancelledError)
    outside = Promise(resolver)
    outside.cancel()
    assert isinstance(await error_of(outside), PromiseCancelledError)
    assert not log


async def test_a_task_cancelled_from_outside_before_its_first_step() -> None:
    """Whoever cancels all tasks of the loop leaves no promise without an outcome."""
    async with PromisingContext():
        promise = Promise(resolver_of(1))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        assert isinstance(await error_of(promise), PromiseCancelledError)


async def test_cancelled_at_every_point() -> None:
    """Wherever a producer is when it is cancelled: everybody who waits is woken, and nothing is left running."""
    turns, stopped = 0, True
    while stopped:
        async with assert_no_leftovers(), PromisingContext():
            inner = StreamedPromise(streamer_of(range(4)))

            async def streamer(_: Any, inner: Any = inner) -> AsyncIterator[int]:
                child = StreamedPromise(streamer_of(range(4)))
                async for piece in inner:
                    yield piece
                async for piece in child:
                    yield piece

            stream = StreamedPromise(streamer)
            reader = asyncio.create_task(read_until_error(stream))
            for _ in range(turns):
                await asyncio.sleep(0)
            stopped = stream.cancel()
            pieces, error = await reader
            assert pieces == list(stream.pieces_so_far)
            assert isinstance(error, PromiseCancelledError) or (not stopped and error is None)
            assert await inner == (0, 1, 2, 3)
        turns += 1
    assert turns > 5


async def test_the_tree_is_cancelled_and_what_was_received_is_not() -> None:
    """What a producer started ends with it; what it was given goes on."""
    states: dict[str, str] = {}

    def child(name: str) -> Promise[None]:
        async def resolver(_: Any) -> None:
            states[name] = "running"
            try:
                await forever()
            except asyncio.CancelledError:
                states[name] = "cancelled"
                raise

        return Promise(resolver)

    async with PromisingContext():
        received = child("received")

        async def parent(_: Any) -> None:
            child("child")

            async def middle(_: Any) -> None:
                child("grandchild")
                await received

            await Promise(middle)

        promise = Promise(parent)
        await quiescence()
        promise.cancel()
        await quiescence()
        assert states == {"received": "running", "child": "cancelled", "grandchild": "cancelled"}
        received.cancel()


async def test_a_settled_promise_cancels_what_it_started() -> None:
    """A producer that is done long since still cancels the work that it left behind."""
    log: list[str] = []

    async def child(_: Any) -> None:
        try:
            await forever()
        finally:
            log.append("cancelled")

    async def parent(_: Any) -> str:
        Promise(child)
        return "value"

    async with PromisingContext():
        promise = Promise(parent)
        assert await promise == "value"
        await quiescence()
        assert promise.cancel() is True
        await quiescence()
        assert log == ["cancelled"]
        assert await promise == "value"
        assert promise.cancel() is False


async def test_detached_work_survives() -> None:
    """What is started inside `detached()` belongs to the context."""
    async with PromisingContext():
        kept: list[Promise[int]] = []

        async def parent(_: Any) -> None:
            with detached():
                kept.append(Promise(resolver_of(1)))
            await forever()

        promise = Promise(parent)
        await asyncio.sleep(0)
        promise.cancel()
        assert await kept[0] == 1


async def test_clean_up_can_start_and_await_new_work() -> None:
    """A cancelled producer can call others in its `finally`."""
    saved: list[int] = []

    async def resolver(_: Any) -> None:
        try:
            await forever()
        finally:
            saved.append(await Promise(resolver_of(7)))

    async with PromisingContext():
        promise = Promise(resolver)
        await quiescence()
        promise.cancel()
    assert saved == [7]


@pytest.mark.parametrize("start_soon", [True, False])
async def test_generators_are_closed(start_soon: bool) -> None:
    """The `finally` of a generator runs in its task, wherever it was suspended."""
    log: list[Any] = []

    async def streamer(_: Any) -> AsyncIterator[int]:
        task = asyncio.current_task()
        try:
            yield 1
            await forever()
        finally:
            log.append(asyncio.current_task() is task)

    async with PromisingContext():
        stream = StreamedPromise(streamer, start_soon=start_soon)
        assert await anext(aiter(stream)) == 1
        await quiescence()
        stream.cancel()
        assert (await read_until_error(stream))[0] == [1]
    assert log == [True]


async def test_a_producer_that_ignores_cancellation_cannot_add_to_the_stream() -> None:
    """After the cancellation nothing is added any more."""

    async def stubborn(_: Any) -> AsyncIterator[int]:
        yield 1
        try:
            await forever()
        except asyncio.CancelledError:
            yield 2

    async with PromisingContext():
        stream = StreamedPromise(stubborn)
        await quiescence()
        stream.cancel()
        await quiescence()
        assert stream.pieces_so_far == (1,)
        await read_until_error(stream)


async def test_a_stream_that_an_appender_feeds() -> None:
    """Cancelling it ends it, and tells whoever appends that there is no need to go on."""
    async with PromisingContext():
        appender = StreamAppender[int]()
        stream = StreamedPromise(appender)
        appender.append(1)
        assert stream.cancel() is True
        with pytest.raises(PromiseCancelledError):
            appender.append(2)
        assert (await read_until_error(stream))[0] == [1]


async def test_a_producer_may_cancel_itself() -> None:
    """A producer that cancels its own promise ends at its next wait."""
    async with PromisingContext():
        promises: list[Promise[None]] = []

        async def resolver(_: Any) -> None:
            promises[0].cancel()
            await asyncio.sleep(0)
            raise AssertionError("it went on")

        promises.append(Promise(resolver))
        assert isinstance(await error_of(promises[0]), PromiseCancelledError)


async def test_timeouts_inside_a_producer_are_its_own_affair() -> None:
    """A producer can be interrupted by its own time-out and go on."""

    async def resolver(_: Any) -> str:
        try:
            async with asyncio.timeout(0):
                await forever()
        except TimeoutError:
            return "timed out"
        return ""

    async with PromisingContext():
        assert await Promise(resolver) == "timed out"
        assert await read(StreamedPromise(streamer_of([1]))) == [1]
