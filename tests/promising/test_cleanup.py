"""Clean-up after a cancellation is left to finish, and waited for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from miniagents.testing import assert_no_leftovers, quiescence
from promising import Promise, PromiseCancelledError, PromisingContext, StreamAppender, StreamedPromise
from tests.promising.at_rest import at_rest, forever, outcome, turns
from tests.promising.helpers import read, resolver_of, streamer_of


class Cleaning:
    """A producer whose clean-up takes until the gate is open, and what became of it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.log: list[str] = []

    async def resolver(self, _: Any = None) -> None:
        try:
            await forever()
        finally:
            await self._clean_up()

    async def streamer(self, _: Any) -> AsyncIterator[int]:
        try:
            yield 1
            await forever()
        finally:
            await self._clean_up()

    async def _clean_up(self) -> None:
        self.log.append("begun")
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.log.append("interrupted")
            raise
        self.log.append("done")


def make_promise(cleaning: Cleaning) -> Promise[Any]:
    return Promise(cleaning.resolver)


def make_stream(cleaning: Cleaning) -> Promise[Any]:
    return StreamedPromise(cleaning.streamer)


both = pytest.mark.parametrize("make", [make_promise, make_stream])


@both
async def test_a_second_cancel_does_not_interrupt(make: Callable[[Cleaning], Promise[Any]]) -> None:
    """Cancelling what is cleaning up already lets it finish."""
    cleaning = Cleaning()
    async with PromisingContext():
        promise = make(cleaning)
        await quiescence()
        assert promise.cancel() is True
        await quiescence()
        promise.cancel()
        await quiescence()
        assert isinstance(await at_rest(promise), PromiseCancelledError)
        cleaning.gate.set()
    assert cleaning.log == ["begun", "done"]


@both
async def test_cancelling_the_parent_does_not_interrupt(make: Callable[[Cleaning], Promise[Any]]) -> None:
    """A child that is cleaning up when its parent is cancelled is left to finish."""
    cleaning = Cleaning()
    async with PromisingContext():
        children: list[Promise[Any]] = []

        async def parent(_: Any) -> None:
            children.append(make(cleaning))
            await forever()

        promise = Promise(parent)
        await quiescence()
        children[0].cancel()
        await quiescence()
        promise.cancel()
        await quiescence()
        cleaning.gate.set()
    assert cleaning.log == ["begun", "done"]


@both
async def test_leaving_the_context_by_an_error_does_not_interrupt(make: Callable[[Cleaning], Promise[Any]]) -> None:
    """What is cleaning up when a context is left by an error is left to finish."""
    cleaning = Cleaning()
    with pytest.raises(ValueError, match="leave"):
        async with PromisingContext():
            promise = make(cleaning)
            await quiescence()
            promise.cancel()
            await quiescence()
            asyncio.get_running_loop().call_soon(cleaning.gate.set)
            raise ValueError("leave")
    assert cleaning.log == ["begun", "done"]


@both
async def test_cancelling_the_exit_again_does_not_interrupt(make: Callable[[Cleaning], Promise[Any]]) -> None:
    """However often an exit is cancelled, clean-up goes on, and the cancellation is raised when it is done."""
    cleaning = Cleaning()

    async def run() -> None:
        async with PromisingContext():
            make(cleaning)
            await forever()

    async with assert_no_leftovers():
        task = asyncio.create_task(run())
        for _ in range(4):
            await quiescence()
            assert task.cancel()
        await quiescence()
        assert not task.done()
        cleaning.gate.set()
        assert isinstance(await at_rest(task), asyncio.CancelledError)
    assert cleaning.log == ["begun", "done"]


async def test_work_that_a_clean_up_started_survives_further_cancellations() -> None:
    """A clean-up that awaits new work, which saves something, is left to finish with it."""
    gate, log = asyncio.Event(), []

    async def save(_: Any) -> None:
        await gate.wait()
        log.append("saved")

    async def resolver(_: Any) -> None:
        try:
            await forever()
        finally:
            await Promise(save)

    async def run() -> None:
        async with PromisingContext():
            Promise(resolver)
            await forever()

    task = asyncio.create_task(run())
    for _ in range(3):
        await quiescence()
        task.cancel()
    await quiescence()
    gate.set()
    assert isinstance(await at_rest(task), asyncio.CancelledError)
    assert log == ["saved"]


@pytest.mark.parametrize("options", [{"max_ahead": 1}, {"start_soon": False}], ids=repr)
@pytest.mark.parametrize("left_by_error", [True, False])
async def test_a_clean_up_that_leaves_a_paused_producer_behind(options: dict[str, Any], left_by_error: bool) -> None:
    """A stream that a clean-up has begun to read, and that nobody reads on, does not keep the context open."""
    log: list[str] = []
    streams: list[StreamedPromise[int, Any]] = []

    async def counting(_: Any) -> AsyncIterator[int]:
        try:
            for number in range(10):
                yield number
        finally:
            log.append("closed")

    async def resolver(_: Any) -> None:
        try:
            await forever()
        finally:
            streams.append(StreamedPromise(counting, **options))
            assert await anext(aiter(streams[0])) == 0

    async def run() -> None:
        async with PromisingContext():
            promise = Promise(resolver)
            await turns(3)
            if left_by_error:
                raise ValueError("left")
            promise.cancel()

    task = asyncio.create_task(outcome(run()))
    await quiescence()
    ended = task.done()
    if not ended:  # let it end, so that it is this test alone that fails
        await outcome(streams[0])
    assert isinstance(await task, ValueError) is left_by_error
    assert ended
    assert log == ["closed"]


async def test_clean_up_can_read_streams_and_write_to_new_ones() -> None:
    """Everything works in a clean-up: reading a stream, awaiting a promise, appending to a stream made there."""
    log: list[Any] = []

    async def resolver(_: Any) -> None:
        try:
            await forever()
        finally:
            with StreamAppender[int]() as appender:
                appender.append(1)
            log.extend(
                [
                    await read(StreamedPromise(streamer_of([2, 3]))),
                    await StreamedPromise(appender),
                    await Promise(resolver_of(4)),
                ]
            )

    async with PromisingContext():
        promise = Promise(resolver)
        await quiescence()
        promise.cancel()
    assert log == [[2, 3], (1,), 4]


async def test_an_exit_cancelled_at_every_point() -> None:
    """Whenever a task with a context is cancelled, what it has started has cleaned up when the task ends."""
    count, running = 0, True
    while running:
        log: list[str] = []

        async def child(_: Any, log: list[str] = log) -> AsyncIterator[int]:
            log.append("begin")
            try:
                for number in range(3):
                    await asyncio.sleep(0)
                    yield number
            finally:
                try:
                    await turns(3)
                finally:
                    log.append("end")

        async def parent(_: Any, child: Any = child, log: list[str] = log) -> None:
            log.append("begin")
            try:
                await read(StreamedPromise(child))
            finally:
                try:
                    await asyncio.sleep(0)
                finally:
                    log.append("end")

        async def run(parent: Any = parent) -> None:
            async with PromisingContext():
                Promise(parent)
                await turns(2)
                async with PromisingContext():
                    Promise(parent)

        async with assert_no_leftovers():
            task = asyncio.create_task(run())
            await turns(count)
            running = task.cancel()
            result = await outcome(task)
            assert isinstance(result, asyncio.CancelledError) is running
            assert log.count("begin") == log.count("end")
        count += 1
    assert count > 10


@pytest.mark.parametrize("start_soon", [True, False])
async def test_a_generator_is_closed_wherever_it_was(start_soon: bool) -> None:
    """The `finally` of a streamer runs once, in its own task, at whatever turn its promise is cancelled."""
    count, stopped = 0, True
    while stopped:
        log: list[Any] = []

        async def streamer(_: Any, log: list[Any] = log) -> AsyncIterator[int]:
            task = asyncio.current_task()
            log.append("begin")
            try:
                for number in range(3):
                    yield number
                    await asyncio.sleep(0)
            finally:
                try:
                    await asyncio.sleep(0)
                finally:
                    log.append(asyncio.current_task() is task)

        async with assert_no_leftovers(), PromisingContext():
            stream = StreamedPromise(streamer, start_soon=start_soon)
            reading = asyncio.create_task(outcome(read(stream)))
            await turns(count)
            stopped = stream.cancel()
            await reading
        assert log in ([], ["begin", True])
        count += 1
    assert count > 5


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_in_a_clean_up_is_raised_at_the_exit(kind: type[BaseException]) -> None:
    """An interrupt that a cancelled producer raises has no consumer, and is not lost."""
    error = kind()

    async def resolver(_: Any) -> None:
        try:
            await forever()
        finally:
            raise error

    with pytest.raises(kind) as caught:
        async with PromisingContext():
            promise = Promise(resolver)
            await quiescence()
            promise.cancel()
            assert isinstance(await outcome(promise), PromiseCancelledError)
    assert caught.value is error


async def test_a_producer_that_swallows_its_cancellation() -> None:
    """What a cancelled producer returns is dropped: its consumers have been told already."""

    async def resolver(_: Any) -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            return "too late"
        return ""

    async with PromisingContext():
        promise = Promise(resolver)
        await quiescence()
        promise.cancel()
        assert isinstance(await at_rest(promise), PromiseCancelledError)
        await quiescence()
        assert isinstance(await at_rest(promise), PromiseCancelledError)
