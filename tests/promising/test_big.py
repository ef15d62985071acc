"""Large numbers: of pieces, of readers, of promises."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from promising import FlatSequence, Promise, PromisingContext, StreamAppender, StreamedPromise
from tests.promising.at_rest import outcome
from tests.promising.helpers import VIRTUAL_ONLY, read, resolver_of

MILLION = 1_000_000


async def count_to_a_million(_: Any) -> AsyncIterator[int]:
    for number in range(MILLION):
        yield number


@pytest.mark.asyncio(**VIRTUAL_ONLY)
@pytest.mark.parametrize("kind", ["stream", "forwarded", "nested", "appender"])
async def test_a_million_pieces(kind: str) -> None:
    """A stream of a million pieces is read and awaited, by whatever way the pieces come."""
    async with PromisingContext():
        stream: Any
        if kind == "stream":
            stream = StreamedPromise(count_to_a_million)
        elif kind == "forwarded":
            stream = StreamedPromise(StreamedPromise(StreamedPromise(count_to_a_million)))
        elif kind == "nested":
            inner: Any = FlatSequence(count_to_a_million, flatten=lambda item: (item,))
            stream = FlatSequence(flatten=lambda item: (item,), prefill_pieces=[inner])
        else:
            with StreamAppender[int]() as appender:
                for number in range(MILLION):
                    appender.append(number)
            stream = StreamedPromise(appender)
        total = 0
        async for piece in stream:
            total += piece
        assert total == MILLION * (MILLION - 1) // 2
        whole = await stream
        assert (len(whole), whole[0], whole[-1]) == (MILLION, 0, MILLION - 1)


@pytest.mark.parametrize("kind", ["promise", "stream", "nested", "failing"])
async def test_ten_thousand_consumers(kind: str) -> None:
    """Ten thousand consumers wait for one producer, and all of them get what it brings."""
    gate, error = asyncio.Event(), ValueError("x")

    async def resolver(_: Any) -> tuple[int, ...]:
        await gate.wait()
        return (1, 2)

    async def streamer(_: Any) -> AsyncIterator[int]:
        for number in (1, 2):
            await gate.wait()
            yield number
        if kind == "failing":
            raise error

    async with PromisingContext():
        promise: Any
        if kind == "promise":
            promise = Promise(resolver)
        elif kind == "nested":
            promise = FlatSequence(streamer, flatten=lambda item: [item])
        else:
            promise = StreamedPromise(streamer)
        waiting = [asyncio.create_task(outcome(promise)) for _ in range(5_000)]
        if kind != "promise":
            waiting += [asyncio.create_task(outcome(_tuple_of(promise))) for _ in range(5_000)]
        await asyncio.sleep(0)
        gate.set()
        expected = {"failing": error}.get(kind, (1, 2))
        assert await asyncio.gather(*waiting) == [expected] * len(waiting)


async def _tuple_of(stream: Any) -> tuple[Any, ...]:
    return tuple(await read(stream))


async def test_ten_thousand_promises() -> None:
    """Ten thousand producers run at once; some of them are cancelled, and the context waits for all of them."""
    async with PromisingContext():
        promises = [Promise(resolver_of(number)) for number in range(10_000)]
        cancelled = promises[::10]
        assert all(promise.cancel() for promise in cancelled)
    results = [await outcome(promise) for promise in promises]
    assert sum(isinstance(result, Exception) for result in results) == 1_000
    assert results[1] == 1
    assert results[9_999] == 9_999
