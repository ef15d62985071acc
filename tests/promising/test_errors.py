"""Errors arrive where they are consumed, and those that never were are reported."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents.testing import quiescence
from promising import Promise, PromiseCancelledError, PromisingContext, StreamedPromise
from tests.promising.helpers import error_of, read_until_error, resolver_of, streamer_of


def raising(error: BaseException) -> Any:
    async def resolver(_: Any) -> None:
        raise error

    return resolver


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit(3), MemoryError()], ids=repr)
async def test_errors_of_all_kinds_arrive_as_themselves(error: BaseException) -> None:
    """Whatever a resolver or streamer raises reaches its consumers, and the loop goes on."""
    async with PromisingContext():
        assert await error_of(Promise(raising(error))) is error
        assert await read_until_error(StreamedPromise(streamer_of([1], error))) == ([1], error)
        assert await Promise(resolver_of("still alive")) == "still alive"


@pytest.mark.parametrize("error", [StopAsyncIteration(), GeneratorExit(), StopIteration()], ids=repr)
async def test_errors_that_would_end_a_loop_in_silence(error: BaseException) -> None:
    """What a consumer's loop would take for an end arrives as a RuntimeError."""
    async with PromisingContext():
        seen = await error_of(Promise(raising(error)))
        pieces, in_stream = await read_until_error(StreamedPromise(streamer_of([1], error)))
    assert type(seen) is RuntimeError
    assert type(in_stream) is RuntimeError
    assert pieces == [1]


async def test_cancellation_of_a_producer_is_no_cancellation_of_the_consumer() -> None:
    """A producer's CancelledError arrives as an ordinary error."""
    async with PromisingContext():
        error = await error_of(Promise(raising(asyncio.CancelledError())))
    assert isinstance(error, PromiseCancelledError)
    assert isinstance(error, Exception)


async def test_unconsumed_errors_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """An error that was raised to nobody is logged when the context closes, once for all promises it passed through."""
    error = ValueError("lost")
    async with PromisingContext():
        first = Promise(raising(error))
        second = Promise(lambda _: first)  # type: ignore[arg-type]
        third = StreamedPromise(streamer_of([], error))
        await quiescence()
        assert not caplog.records
        del second, third
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]


async def test_consumed_errors_and_cancellations_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged of an error that somebody got, nor of what was cancelled on purpose."""
    async with PromisingContext():
        await error_of(Promise(raising(ValueError())))
        never = Promise(lambda _: asyncio.get_running_loop().create_future())
        waiting = Promise(lambda _: never)  # type: ignore[arg-type]
        await quiescence()
        assert never.cancel()
        del waiting
    assert not caplog.records


async def test_an_error_of_the_clean_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """When a cancelled producer fails with something else, somebody hears of it."""

    async def resolver(_: Any) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise ValueError("clean-up")

    async with PromisingContext():
        promise = Promise(resolver)
        await quiescence()
        promise.cancel()
    assert "clean-up" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2)], ids=repr)
async def test_interrupt_that_nobody_consumed_is_raised_at_the_exit(error: BaseException) -> None:
    """A KeyboardInterrupt or SystemExit of a producer is not lost."""
    with pytest.raises(type(error)):
        async with PromisingContext():
            Promise(raising(error))


async def test_interrupt_that_was_consumed_is_not_raised_again() -> None:
    """Whoever has caught it has decided."""
    async with PromisingContext():
        await error_of(Promise(raising(KeyboardInterrupt())))


async def test_handler_for_resolved_promises(caplog: pytest.LogCaptureFixture) -> None:
    """Handlers get each value that a producer brings, have ended with the context, and their errors are reported."""
    seen: list[Any] = []

    async def handler(promise: Promise[Any], value: Any) -> None:
        await asyncio.sleep(0)
        seen.append(value)
        if value == "bad":
            raise ValueError("handler")

    async with PromisingContext(on_promise_resolved=handler):
        Promise(resolver_of("a"))
        StreamedPromise(streamer_of("bc"))
        Promise(resolver_of("bad"))
        Promise(prefill_result="prefilled")
    assert sorted(map(str, seen)) == ["('b', 'c')", "a", "bad"]
    assert caplog.text.count("ValueError: handler") == 1


async def test_interrupt_in_a_handler_does_not_hang() -> None:
    """A KeyboardInterrupt in a handler is raised at the exit."""

    async def handler(promise: Promise[Any], value: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with PromisingContext(on_promise_resolved=[handler]):
            assert await Promise(resolver_of(1)) == 1


async def test_error_before_the_first_piece_wakes_readers_that_wait() -> None:
    """Readers that were there before the failure get it, too."""
    gate = asyncio.Event()

    async def streamer(_: Any) -> AsyncIterator[int]:
        await gate.wait()
        raise ValueError("early")
        yield

    async with PromisingContext():
        stream = StreamedPromise(streamer)
        readers = [asyncio.create_task(read_until_error(stream)) for _ in range(3)]
        await quiescence()
        gate.set()
        assert [str(error) for _, error in await asyncio.gather(*readers)] == ["early"] * 3


@pytest.mark.parametrize("level", [logging.ERROR])
async def test_log_names_the_producer(level: int, caplog: pytest.LogCaptureFixture) -> None:
    """The report says which producer failed."""

    async def fetch_page(_: Any) -> None:
        raise ValueError("x")

    async with PromisingContext():
        Promise(fetch_page)
    assert "fetch_page" in caplog.text
    assert caplog.records[0].levelno == level
