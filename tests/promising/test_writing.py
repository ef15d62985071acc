"""Writing to streams: who may, until when, and what readers see when the writer's story ends badly."""

import asyncio
from typing import Any

import pytest

from miniagents.testing import quiescence
from promising import (
    Promise,
    PromiseCancelledError,
    PromisingContext,
    StreamAppender,
    StreamClosedError,
    StreamedPromise,
)
from tests.promising.at_rest import at_rest, forever, turns
from tests.promising.helpers import read, read_both_ways, read_until_error, resolver_of


async def test_several_promises_of_one_appender() -> None:
    """Any number of promises can be made of one appender, before, while and after it is written to."""
    async with PromisingContext():
        appender = StreamAppender[int]()
        before = StreamedPromise(appender)
        appender.append(1)
        meanwhile = StreamedPromise(appender, resolver=resolver_of("whole"))
        with appender:
            appender.append(2)
        after = StreamedPromise(appender)
        assert await read_both_ways(before) == await read_both_ways(after) == await read(meanwhile) == [1, 2]
        assert await meanwhile == "whole"


@pytest.mark.parametrize("error", [None, ValueError("x")], ids=repr)
async def test_what_was_closed_stays_closed(error: Exception | None) -> None:
    """A closed appender cannot be opened, entered or written to, however it was closed; its stream stays as it is."""
    appender = StreamAppender[int]().append(1)
    appender.close(error)
    for use in (appender.open, appender.__enter__, lambda: appender.append(2)):
        with pytest.raises(StreamClosedError):
            use()
    assert await read_until_error(StreamedPromise(appender)) == ([1], error)


async def test_several_writers() -> None:
    """Tasks and producers that share an appender write into one stream in the order of their writing."""
    async with PromisingContext() as context:
        appender = StreamAppender[int]()
        stream = StreamedPromise(appender)

        async def write(first: int) -> None:
            for number in range(first, 10, 2):
                appender.append(number)
                await asyncio.sleep(0)

        writers = [context.start_soon(write(first)) for first in (0, 1)]
        await asyncio.gather(*writers)
        appender.close()
        assert await read_both_ways(stream) == list(range(10))


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_base_exceptions_in_the_block(kind: type[BaseException], capture: bool) -> None:
    """Every error in the block ends the stream; the cancellation of the writer is raised in any case."""
    error = kind()
    raised: BaseException | None = None
    async with PromisingContext():
        appender = StreamAppender[int](capture_errors=capture)
        try:
            with appender:
                appender.append(1)
                raise error
        except BaseException as caught:
            raised = caught
        assert raised is (None if capture and kind is not asyncio.CancelledError else error)
        pieces, seen = await read_until_error(StreamedPromise(appender))
        assert pieces == [1]
        assert isinstance(seen, PromiseCancelledError) if kind is asyncio.CancelledError else seen is error


async def test_an_owner_that_ends_well_leaves_its_appender_open() -> None:
    """Whoever was handed the appender of a producer that has ended can go on writing."""

    async def owner(_: Any) -> tuple[StreamAppender[int], StreamedPromise[int, Any]]:
        appender = StreamAppender[int]()
        return appender.append(1), StreamedPromise(appender)

    async with PromisingContext():
        appender, stream = await Promise(owner)
        await quiescence()
        appender.append(2).close()
        assert await read_both_ways(stream) == [1, 2]


async def test_an_owner_that_fails_closes_what_others_write_to() -> None:
    """When the producer that made an appender fails, its readers get the error, and a helper cannot write any more."""
    refused: list[BaseException] = []
    error = ValueError("owner")

    async def owner(_: Any) -> None:
        appender = StreamAppender[int]()
        streams.append(StreamedPromise(appender))

        async def helper(_: Any) -> None:
            try:
                while True:
                    appender.append(1)
                    await asyncio.sleep(0)
            except StreamClosedError as closed:
                refused.append(closed)

        Promise(helper)
        await turns(3)
        raise error

    streams: list[StreamedPromise[int, Any]] = []
    async with PromisingContext():
        promise = Promise(owner)
        assert await at_rest(promise) is error
        pieces, seen = await at_rest(read_until_error(streams[0]))
        assert seen is error
        assert pieces
        assert "ValueError('owner')" in str(refused[0])


@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_an_owner_that_is_cancelled(after: int) -> None:
    """Readers of a cancelled producer's appender are woken at once, though it takes its time to clean up."""
    streams: list[StreamedPromise[int, Any]] = []
    gate = asyncio.Event()

    async def owner(_: Any) -> None:
        appender = StreamAppender[int]()
        streams.append(StreamedPromise(appender))
        try:
            while True:
                appender.append(1)
                await asyncio.sleep(0)
        finally:
            await gate.wait()

    async with PromisingContext():
        promise = Promise(owner)
        await turns(after + 1)
        reading = asyncio.create_task(read_until_error(streams[0]))
        await asyncio.sleep(0)
        promise.cancel()
        _, error = await at_rest(reading)
        assert isinstance(error, PromiseCancelledError)
        gate.set()


async def test_cancelling_one_stream_of_an_appender_tells_the_writer() -> None:
    """After the cancellation of its stream `append` raises, and leaving the block does no harm."""
    async with PromisingContext():
        stopped = StreamAppender[int]()
        stream = StreamedPromise(stopped)

        async def writer(_: Any) -> str:
            with stopped:
                try:
                    while True:
                        stopped.append(1)
                        await asyncio.sleep(0)
                except PromiseCancelledError:
                    return "told"

        promise = Promise(writer)
        await turns(5)
        assert stream.cancel() is True
        assert stream.cancel() is False
        assert await at_rest(promise) == "told"
        pieces, error = await at_rest(read_until_error(stream))
        assert pieces
        assert isinstance(error, PromiseCancelledError)


async def test_errors_of_nested_blocks() -> None:
    """An error that leaves two blocks ends both streams with it."""
    error = ValueError("x")
    outer, inner = StreamAppender[int](), StreamAppender[int]()
    with pytest.raises(ValueError, match="x"), outer, inner:
        inner.append(1)
        raise error
    assert await read_until_error(StreamedPromise(outer)) == ([], error)
    assert await read_until_error(StreamedPromise(inner)) == ([1], error)


async def test_readers_at_every_turn() -> None:
    """Whenever a reader comes, it gets what the others got, and no turn of the loop is lost between."""

    async def write(appender: StreamAppender[int]) -> None:
        with appender:
            for number in range(5):
                appender.append(number)
                await asyncio.sleep(0)

    async with PromisingContext() as context:
        for count in range(10):
            appender = StreamAppender[int]()
            stream = StreamedPromise(appender)
            context.start_soon(write(appender))
            await turns(count)
            assert await at_rest(read_both_ways(stream)) == list(range(5))


async def test_the_writer_need_not_wait_for_anything() -> None:
    """Writing works without a loop turn, and before, in and after any context."""
    appender = StreamAppender[int]()
    for number in range(100):
        appender.append(number)
    stream = StreamedPromise(appender)
    assert stream.pieces_so_far == tuple(range(100))
    assert not stream.done()
    async with PromisingContext():
        appender.append(100)
        waiting = StreamedPromise(appender)
    appender.close()
    assert stream.done()
    assert await waiting == await stream == tuple(range(101))


async def test_an_open_appender_does_not_keep_the_context_open() -> None:
    """A stream that nobody produces is no work to wait for."""
    async with PromisingContext():
        appender = StreamAppender[int]()
        stream = StreamedPromise(appender)
        Promise(resolver_of(1))
    appender.append(1).close()
    assert await stream == (1,)


async def test_a_reader_in_a_producer_that_is_cancelled_leaves_the_appender_alone() -> None:
    """Who only reads what an appender brings can be cancelled without any effect on it."""
    async with PromisingContext():
        appender = StreamAppender[int]()
        stream = StreamedPromise(appender)

        async def reader(_: Any) -> None:
            await read(stream)
            await forever()

        promise = Promise(reader)
        await quiescence()
        promise.cancel()
        await quiescence()
        appender.append(1).close()
        assert await at_rest(stream) == (1,)
