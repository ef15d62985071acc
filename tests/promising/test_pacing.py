"""Streams that stay with their readers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents.testing import quiescence
from promising import PromisingContext, StreamAppender, StreamedPromise
from tests.promising.helpers import read_both_ways


def counting(log: list[int], count: int = 100) -> Any:
    async def streamer(_: Any) -> AsyncIterator[int]:
        for number in range(count):
            log.append(number)
            yield number

    return streamer


async def test_lazy_streams_produce_what_is_asked_for() -> None:
    """With `start_soon=False` the producer makes one piece for each that the furthest reader asks for."""
    log: list[int] = []
    async with PromisingContext():
        stream = StreamedPromise(counting(log), start_soon=False)
        await quiescence()
        assert log == []
        ahead, behind = aiter(stream), aiter(stream)
        for number in range(3):
            assert await anext(ahead) == number
            await quiescence()
            assert len(log) == number + 1
        assert await anext(behind) == 0
        await quiescence()
        assert len(log) == 3


@pytest.mark.parametrize("max_ahead", [1, 5])
async def test_bounded_streams(max_ahead: int) -> None:
    """With `max_ahead` an eager producer is paused when it is that far ahead of its furthest reader."""
    log: list[int] = []
    async with PromisingContext():
        stream = StreamedPromise(counting(log), max_ahead=max_ahead)
        await quiescence()
        assert len(stream.pieces_so_far) == max_ahead
        reader = aiter(stream)
        for number in range(10):
            assert await anext(reader) == number
            await quiescence()
            assert len(stream.pieces_so_far) == number + 1 + max_ahead


async def test_an_awaiter_asks_for_everything() -> None:
    """Awaiting the whole releases the producer."""
    async with PromisingContext():
        assert await StreamedPromise(counting([]), max_ahead=1) == tuple(range(100))
        assert await StreamedPromise(counting([]), start_soon=False) == tuple(range(100))
        assert await read_both_ways(StreamedPromise(counting([]), max_ahead=3)) == list(range(100))


async def test_a_reader_that_leaves_does_not_block_the_others() -> None:
    """The furthest reader counts, also when it has gone."""
    async with PromisingContext():
        stream = StreamedPromise(counting([], 10), max_ahead=1)
        first = aiter(stream)
        for _ in range(5):
            await anext(first)
        task = asyncio.create_task(anext(aiter(stream)))  # type: ignore[arg-type]
        assert await task == 0
        assert [piece async for piece in stream] == list(range(10))


def test_appenders_cannot_be_paused() -> None:
    """`max_ahead` with an appender, or less than 1, is an error."""
    with pytest.raises(ValueError, match="appender"):
        StreamedPromise(StreamAppender[int](), max_ahead=1)
    with pytest.raises(ValueError, match="at least 1"):
        StreamedPromise(counting([]), max_ahead=0)
