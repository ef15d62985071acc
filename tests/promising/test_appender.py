"""Appenders: streams that are written to, with an end in every case."""

import asyncio
import gc
from typing import Any

import pytest

from miniagents.testing import quiescence
from promising import (
    AppenderNotClosedError,
    Promise,
    PromiseCancelledError,
    PromisingContext,
    StreamAppender,
    StreamClosedError,
    StreamedPromise,
)
from tests.promising.helpers import error_of, read, read_both_ways, read_until_error


async def test_pieces_arrive_as_they_are_appended() -> None:
    """A reader that waits gets each piece at once; the order of writing and reading does not matter."""
    appender = StreamAppender[int]()
    stream = StreamedPromise(appender)
    reader = asyncio.create_task(read(stream))
    with appender:
        for number in range(3):
            appender.append(number)
            await quiescence()
            assert stream.pieces_so_far == tuple(range(number + 1))
    assert await reader == await read_both_ways(stream) == [0, 1, 2]
    assert await read(StreamedPromise(appender, resolver=lambda p: _sum(p))) == [0, 1, 2]


async def _sum(promise: Any) -> int:
    return sum(promise.pieces_so_far)


async def test_open_and_close_by_hand() -> None:
    """Without `with`: open, append, close; closing twice changes nothing."""
    appender = StreamAppender[int]().open().append(1).append(2)
    appender.close()
    appender.close(ValueError("too late"))
    assert await StreamedPromise(appender) == (1, 2)
    assert await StreamedPromise(appender, resolver=_sum) == 3


async def test_after_the_end() -> None:
    """Appending to a closed stream, and opening it again, are errors that say what to do."""
    with StreamAppender[int]() as appender:
        appender.append(1)
    with pytest.raises(StreamClosedError, match="before the stream is closed"):
        appender.append(2)
    with pytest.raises(StreamClosedError, match="make a new one"):
        appender.open()


@pytest.mark.parametrize("capture", [True, False, None])
async def test_errors_in_the_block(capture: bool | None) -> None:
    """An error that leaves the block ends the stream, and is raised as well unless errors are captured."""
    error = ValueError("in the block")
    async with PromisingContext(appenders_capture_errors_by_default=capture is None):
        appender = StreamAppender[int]() if capture is None else StreamAppender[int](capture_errors=capture)
        stream = StreamedPromise(appender)
        raised: BaseException | None = None
        try:
            with appender:
                appender.append(1)
                raise error
        except ValueError as caught:
            raised = caught
        assert raised is (error if capture is False else None)
        assert await read_until_error(stream) == ([1], error)


async def test_dropped_without_being_closed() -> None:
    """Readers of an appender that nobody can close any more get an error that says so."""
    appender = StreamAppender[int]()
    stream = StreamedPromise(appender)
    appender.append(1)
    reader = asyncio.create_task(read_until_error(stream))
    await quiescence()
    del appender
    gc.collect()
    pieces, error = await reader
    assert pieces == [1]
    assert isinstance(error, AppenderNotClosedError)


async def test_owner_fails() -> None:
    """The appenders of a producer that fails end with its error."""
    made: list[Any] = []
    error = ValueError("owner")

    async def owner(_: Any) -> None:
        appender = StreamAppender[int]()
        made.extend((appender, StreamedPromise(appender)))
        appender.append(1)
        raise error

    async with PromisingContext():
        promise = Promise(owner)
        assert await error_of(promise) is error
        assert await read_until_error(made[1]) == ([1], error)


async def test_owner_is_cancelled() -> None:
    """The appenders of a producer that is cancelled end with the cancellation, at once."""
    made: list[Any] = []

    async def owner(_: Any) -> None:
        with StreamAppender[int]() as appender:
            made.append(StreamedPromise(appender))
            appender.append(1)
            await asyncio.get_running_loop().create_future()

    async with PromisingContext():
        promise = Promise(owner)
        await quiescence()
        promise.cancel()
        pieces, error = await read_until_error(made[0])
        assert pieces == [1]
        assert isinstance(error, PromiseCancelledError)


async def test_an_unconsumed_error_of_an_appender_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error that an appender was closed with is reported like any other."""
    async with PromisingContext():
        StreamAppender[int]().close(ValueError("closed with it"))
    assert "closed with it" in caplog.text
