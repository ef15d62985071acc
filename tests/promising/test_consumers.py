"""A consumer that leaves disturbs nobody: not the producer, not the other consumers, not the result."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents.testing import quiescence
from promising import FlatSequence, Promise, PromisingContext, StreamedPromise
from tests.promising.helpers import VIRTUAL_ONLY, read, resolver_of, streamer_of


async def test_tools_of_asyncio_take_promises() -> None:
    """gather, wait_for, shield, as_completed and ensure_future take a promise as it is."""
    async with PromisingContext():
        assert await asyncio.gather(Promise(resolver_of(1)), Promise(resolver_of(2))) == [1, 2]
        assert await asyncio.wait_for(Promise(resolver_of(3)), 1) == 3
        assert await asyncio.shield(Promise(resolver_of(4))) == 4
        assert [await one for one in asyncio.as_completed([Promise(resolver_of(5))])] == [5]
        done, _ = await asyncio.wait([asyncio.ensure_future(Promise(resolver_of(6)))])
        assert [task.result() for task in done] == [6]


@pytest.mark.asyncio(**VIRTUAL_ONLY)
async def test_a_time_out_cancels_the_wait_and_nothing_else() -> None:
    """After `wait_for` has given up the promise still resolves."""

    async def slow(_: Any) -> str:
        await asyncio.sleep(10)
        return "done"

    async with PromisingContext():
        promise = Promise(slow)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(promise, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await promise
        assert await promise == "done"


def _consumers(stream: StreamedPromise[int, Any]) -> list[Any]:
    async def iterate() -> None:
        await read(stream)

    async def wait() -> None:
        await stream

    return [iterate, wait]


@pytest.mark.parametrize("which", [0, 1], ids=["reader", "awaiter"])
@pytest.mark.parametrize("start_soon", [True, False])
@pytest.mark.parametrize("nested", [True, False])
async def test_a_consumer_cancelled_at_every_point(which: int, start_soon: bool, nested: bool) -> None:
    """Wherever a consumer is cancelled, the others get everything."""
    turns = 0
    cancelled = True
    while cancelled:
        async with PromisingContext():
            stream: StreamedPromise[int, Any] = StreamedPromise(streamer_of(range(5)), start_soon=start_soon)
            if nested:
                inner: Any = FlatSequence(streamer_of(range(5)), flatten=lambda item: [item], start_soon=start_soon)
                stream = FlatSequence(flatten=lambda item: [item], prefill_pieces=[inner])
            other = asyncio.create_task(read(stream))
            leaving = asyncio.create_task(_consumers(stream)[which]())
            for _ in range(turns):
                await asyncio.sleep(0)
            cancelled = leaving.cancel()
            assert await other == await read(stream) == list(range(5))
            assert await stream == tuple(range(5))
            await asyncio.gather(leaving, return_exceptions=True)
        turns += 1
    assert turns > 5


@pytest.mark.asyncio(**VIRTUAL_ONLY)
@pytest.mark.parametrize("start_soon", [True, False])
async def test_a_reader_that_gives_up_and_comes_back_loses_nothing(start_soon: bool) -> None:
    """A loop of `wait_for(anext(reader))` gets every piece, and leaves no pile of waiters behind."""

    async def slow(_: Any) -> AsyncIterator[int]:
        for number in range(5):
            await asyncio.sleep(100)
            yield number

    async with PromisingContext():
        stream = StreamedPromise(slow, start_soon=start_soon)
        reader = aiter(stream)
        got: list[int] = []
        waits = 0
        while len(got) < 5:
            waits += 1
            try:
                got.append(await asyncio.wait_for(anext(reader), 1))
            except TimeoutError:
                assert len(stream._buffer.waiters or ()) <= 32
        assert got == [0, 1, 2, 3, 4]
        assert waits > 400


async def test_a_reader_that_leaves_does_not_stop_the_producer() -> None:
    """The producer of an eager stream goes on without readers."""
    async with PromisingContext():
        stream = StreamedPromise(streamer_of(range(5)))
        async for _ in stream:
            break
        await quiescence()
        assert stream.pieces_so_far == (0, 1, 2, 3, 4)
