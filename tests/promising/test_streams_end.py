"""A stream always ends with a value or an error, never with silence."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents.testing import quiescence
from promising import (
    NO_VALUE,
    AppenderNotClosedError,
    FlatSequence,
    Promise,
    PromiseCancelledError,
    PromisingContext,
    StreamAppender,
    StreamedPromise,
)
from tests.promising.at_rest import at_rest, forever, outcome
from tests.promising.helpers import read, read_until_error, resolver_of, streamer_of


def same(item: Any) -> list[Any]:
    return [item]


class Fatal(BaseException):
    """An error that is no Exception, and that the test runner does not take for its own end."""


async def one_then_wait(_: Any) -> AsyncIterator[int]:
    yield 1
    await forever()


MAKERS = {
    "plain": lambda streamer: StreamedPromise(streamer),
    "resolver": lambda streamer: StreamedPromise(streamer, resolver=resolver_of("whole")),
    "given whole": lambda streamer: StreamedPromise(streamer, prefill_result="whole"),
    "lazy": lambda streamer: StreamedPromise(streamer, start_soon=False),
    "bounded": lambda streamer: StreamedPromise(streamer, max_ahead=1),
    "flat": lambda streamer: FlatSequence(streamer, flatten=same),
    "forwarded": lambda streamer: StreamedPromise(StreamedPromise(streamer)),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("in_context", [True, False])
@pytest.mark.parametrize("error", [ValueError, Fatal, StopAsyncIteration])
async def test_a_failing_streamer_ends_its_readers(kind: str, in_context: bool, error: type[BaseException]) -> None:
    """Readers of a stream whose producer fails get what was streamed and the error, of whatever kind the stream is."""

    async def check() -> None:
        pieces, seen = await at_rest(read_until_error(MAKERS[kind](streamer_of([1], error("x")))))
        assert pieces == [1]
        assert type(seen) is (RuntimeError if error is StopAsyncIteration else error)

    if in_context:
        async with PromisingContext():
            await check()
    else:
        await check()


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "forwarded"])
async def test_cancelling_ends_the_readers(kind: str) -> None:
    """Readers of a cancelled stream get what was streamed and the cancellation, of whatever kind the stream is."""
    async with PromisingContext():
        stream = MAKERS[kind](one_then_wait)
        reading = asyncio.create_task(read_until_error(stream))
        await quiescence()
        assert stream.cancel() is True
        for pieces, error in (await at_rest(reading), await at_rest(read_until_error(stream))):
            assert pieces == [1]
            assert isinstance(error, PromiseCancelledError)


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "forwarded"])
async def test_cancelling_before_the_first_step_ends_the_readers(kind: str) -> None:
    """A stream that is cancelled before anything has happened has the cancellation as its only content."""
    async with PromisingContext():
        stream = MAKERS[kind](one_then_wait)
        assert stream.cancel() is True
        pieces, error = await at_rest(read_until_error(stream))
        assert pieces == []
        assert isinstance(error, PromiseCancelledError)


async def test_a_given_whole_stays_when_the_stream_fails() -> None:
    """A whole that was there from the start is there for good; the pieces have an end of their own."""
    error = ValueError("x")
    async with PromisingContext():
        stream = StreamedPromise(streamer_of([1], error), prefill_result="whole")
        assert await at_rest(stream) == "whole"
        assert await at_rest(read_until_error(stream)) == ([1], error)
        assert await at_rest(stream) == "whole"


async def test_an_error_of_the_resolver_comes_after_the_clean_end() -> None:
    """When all pieces have come and the resolver fails, readers have a clean end and awaiters the error."""
    error = ValueError("resolver")

    async def resolver(_: Any) -> None:
        raise error

    async with PromisingContext():
        stream = StreamedPromise(streamer_of([1, 2]), resolver=resolver)
        assert await at_rest(read_until_error(stream)) == ([1, 2], None)
        assert await at_rest(stream) is error
        assert await at_rest(read(stream)) == [1, 2]


async def test_cancelled_in_the_resolver() -> None:
    """Pieces that have come, and their clean end, survive a cancellation that hits the resolver."""
    async with PromisingContext():
        stream = StreamedPromise(streamer_of([1, 2]), resolver=forever)
        await quiescence()
        assert stream.cancel() is True
        assert await at_rest(read(stream)) == [1, 2]
        assert isinstance(await at_rest(stream), PromiseCancelledError)


async def test_a_resolver_that_brings_no_value() -> None:
    """A resolver that returns the sentinel for "no value" is an error and no endless wait."""
    async with PromisingContext():
        assert isinstance(await at_rest(Promise(resolver_of(NO_VALUE))), Exception)
        assert isinstance(await at_rest(StreamedPromise(streamer_of([]), resolver=resolver_of(NO_VALUE))), Exception)


@pytest.mark.parametrize("in_context", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda appender: StreamedPromise(appender),
        lambda appender: StreamedPromise(appender, resolver=resolver_of("whole")),
        lambda appender: StreamedPromise(appender, prefill_result="whole"),
        lambda appender: StreamedPromise(appender, start_soon=False),
        lambda appender: FlatSequence(appender, flatten=same),
        lambda appender: StreamedPromise(StreamedPromise(appender)),
        lambda appender: StreamedPromise(StreamedPromise(appender), resolver=resolver_of("whole")),
    ],
    ids=["plain", "resolver", "given whole", "lazy", "flat", "forwarded", "forwarded with resolver"],
)
async def test_an_appender_that_is_dropped(make: Any, in_context: bool) -> None:
    """Readers of an appender that nobody can close any more get an error, whatever promise they read it through."""

    async def check() -> None:
        appender = StreamAppender[int]()
        stream = make(appender)
        appender.append(1)
        await quiescence()
        del appender
        gc.collect()
        pieces, error = await at_rest(read_until_error(stream))
        assert pieces == [1]
        assert isinstance(error, AppenderNotClosedError)

    if in_context:
        async with PromisingContext():
            await check()
    else:
        await check()


async def test_many_readers_that_wait_are_all_woken_by_a_failure() -> None:
    """Whoever waits when a producer fails is woken: readers, awaiters, and readers of the second piece."""
    gate, error = asyncio.Event(), ValueError("late")

    async def streamer(_: Any) -> AsyncIterator[int]:
        yield 1
        await gate.wait()
        raise error

    async with PromisingContext():
        stream = StreamedPromise(streamer)
        waiting = [asyncio.create_task(read_until_error(stream)) for _ in range(20)]
        awaiting = [asyncio.create_task(outcome(stream)) for _ in range(20)]
        await quiescence()
        gate.set()
        assert await at_rest(asyncio.gather(*waiting)) == [([1], error)] * 20
        assert await at_rest(asyncio.gather(*awaiting)) == [error] * 20


async def test_the_end_stays_the_end() -> None:
    """A reader that has come to a clean end or to an error is at its end, however often it is asked."""
    async with PromisingContext():
        for stream in (
            StreamedPromise(streamer_of([1], ValueError("x"))),
            StreamedPromise(streamer_of([1]), start_soon=False),
            FlatSequence(streamer_of([1], ValueError("x")), flatten=same),
        ):
            reader = aiter(stream)
            assert await anext(reader) == 1
            ends = [type(await at_rest(anext(reader))) for _ in range(3)]
            assert ends[1:] == [StopAsyncIteration] * 2
