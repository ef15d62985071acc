"""A consumer may leave at any moment and through any of asyncio's tools: nobody else notices."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from miniagents.testing import quiescence
from promising import FlatSequence, Promise, PromisingContext, StreamedPromise
from tests.promising.at_rest import at_rest, forever, outcome, turns
from tests.promising.helpers import VIRTUAL_ONLY, read, streamer_of


async def _as_completed(promise: Any) -> Any:
    for first in asyncio.as_completed([promise]):
        return await first
    return None


async def _timeout(promise: Any) -> Any:
    async with asyncio.timeout(1_000):
        return await promise


TOOLS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "await": outcome,
    "aresolve": lambda promise: promise.aresolve(),
    "gather": lambda promise: asyncio.gather(promise, promise),
    "wait_for": lambda promise: asyncio.wait_for(promise, 1_000),
    "shield": lambda promise: asyncio.shield(promise),
    "as_completed": _as_completed,
    "ensure_future": lambda promise: asyncio.ensure_future(promise),
    "timeout": _timeout,
    "async for": lambda promise: read(promise) if isinstance(promise, StreamedPromise) else promise.aresolve(),
}


def _promise(log: list[str], start_soon: bool) -> Promise[Any]:
    async def resolver(_: Any) -> tuple[int, ...]:
        log.append("begin")
        await turns(3)
        log.append("end")
        return (0, 1, 2)

    return Promise(resolver, start_soon=start_soon)


async def _stream_pieces(log: list[str]) -> AsyncIterator[int]:
    log.append("begin")
    for number in range(3):
        await asyncio.sleep(0)
        yield number
    log.append("end")


def _stream(log: list[str], start_soon: bool) -> Promise[Any]:
    return StreamedPromise(lambda _: _stream_pieces(log), start_soon=start_soon)


def _bounded(log: list[str], start_soon: bool) -> Promise[Any]:
    return StreamedPromise(lambda _: _stream_pieces(log), start_soon=start_soon, max_ahead=1)


def _with_resolver(log: list[str], start_soon: bool) -> Promise[Any]:
    async def resolver(promise: Any) -> Any:
        await asyncio.sleep(0)
        return promise.pieces_so_far

    return StreamedPromise(lambda _: _stream_pieces(log), resolver=resolver, start_soon=start_soon)


def _nested(log: list[str], start_soon: bool) -> Promise[Any]:
    inner: Any = FlatSequence(lambda _: _stream_pieces(log), flatten=lambda item: [item], start_soon=start_soon)
    return FlatSequence(flatten=lambda item: [item], prefill_pieces=[inner])


@pytest.mark.asyncio(**VIRTUAL_ONLY)
@pytest.mark.parametrize("start_soon", [True, False])
@pytest.mark.parametrize("make", [_promise, _stream, _bounded, _with_resolver, _nested])
@pytest.mark.parametrize("tool", TOOLS)
async def test_cancelled_at_every_point(make: Any, tool: str, start_soon: bool) -> None:
    """Whenever one consumer is cancelled, the producer ends as it would have, and the other consumers get it all."""

    async def consume(promise: Any) -> Any:
        return await TOOLS[tool](promise)

    count, left = 0, True
    while left:
        log: list[str] = []
        async with PromisingContext():
            promise = make(log, start_soon)
            staying = asyncio.create_task(outcome(promise))
            leaving = asyncio.create_task(consume(promise))
            await turns(count)
            left = leaving.cancel()
            with suppress(asyncio.CancelledError):
                await leaving
            assert await at_rest(staying) == (0, 1, 2)
            assert await at_rest(promise) == (0, 1, 2)
        assert log == ["begin", "end"]
        count += 1
    assert count > 3


async def test_the_only_consumer_leaves() -> None:
    """A producer goes on when the last consumer has gone, also one that was started by that consumer."""
    for make in (_promise, _stream, _with_resolver):
        for start_soon in (True, False):
            log: list[str] = []
            async with PromisingContext():
                promise = make(log, start_soon)
                leaving = asyncio.create_task(outcome(promise))
                await turns(3)
                leaving.cancel()
                await quiescence()
                assert log == ["begin", "end"]
                assert promise.done()


@pytest.mark.parametrize("nested", [True, False])
async def test_many_readers_half_of_which_leave(nested: bool) -> None:
    """Of ten thousand readers that wait, half leave; the others get everything."""
    gate = asyncio.Event()

    async def streamer(_: Any) -> AsyncIterator[int]:
        for number in range(3):
            await gate.wait()
            yield number

    async with PromisingContext():
        stream: Any = FlatSequence(streamer, flatten=lambda item: [item]) if nested else StreamedPromise(streamer)
        readers = [asyncio.create_task(outcome(read(stream))) for _ in range(10_000)]
        await turns(3)
        for reader in readers[::2]:
            reader.cancel()
        gate.set()
        results = await asyncio.gather(*readers)
    assert results[1::2] == [[0, 1, 2]] * 5_000
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])


@pytest.mark.asyncio(**VIRTUAL_ONLY)
@pytest.mark.parametrize("seconds", [0.3, 0.5, 1.0, 2.0])
async def test_giving_up_at_the_moment_when_a_piece_comes_loses_nothing(seconds: float) -> None:
    """A loop around `wait_for(anext(reader))` gets every piece once, also where time-out and piece coincide."""

    async def streamer(_: Any) -> AsyncIterator[int]:
        for number in range(10):
            await asyncio.sleep(1)
            yield number

    async with PromisingContext():
        for stream in (
            StreamedPromise(streamer),
            StreamedPromise(streamer, start_soon=False),
            StreamedPromise(streamer, max_ahead=2),
            FlatSequence(streamer, flatten=lambda item: [item]),
        ):
            got: list[int] = []
            reader = aiter(stream)
            while True:
                try:
                    got.append(await asyncio.wait_for(anext(reader), seconds))
                except TimeoutError:
                    continue
                except StopAsyncIteration:
                    break
            assert got == list(range(10))


@pytest.mark.parametrize("live", [0, 3, 40])
@pytest.mark.parametrize("kind", ["promise", "stream", "reader", "nested"])
async def test_waiters_that_have_gone_are_cleared_away(kind: str, live: int) -> None:
    """Consumers that give up and come back for ever do not pile up, however many others stay."""

    async def streamer(_: Any) -> AsyncIterator[int]:
        await forever()
        yield 1

    def futures() -> int:
        lots = [getattr(promise, "_waiters", None)]
        if isinstance(promise, StreamedPromise):
            lots += [promise._buffer.waiters, promise._buffer.end_waiters]
        return sum(len(lot) for lot in lots if lot)

    async with PromisingContext():
        promise: Any
        if kind == "promise":
            promise = Promise(forever)
        elif kind == "nested":
            promise = FlatSequence(streamer, flatten=lambda item: [item])
        else:
            promise = StreamedPromise(streamer)
        staying = [asyncio.create_task(outcome(promise)) for _ in range(live)]
        await quiescence()
        for _ in range(500):
            leaving = asyncio.create_task(outcome(read(promise) if kind == "reader" else promise))
            await turns(2)
            leaving.cancel()
            await leaving
        assert futures() <= 2 * live + 32
        promise.cancel()
        await asyncio.gather(*staying)


async def test_a_consumer_that_is_a_producer_leaves() -> None:
    """Cancelling a producer that waits for another promise leaves that promise and its other consumers alone."""
    count, left = 0, True
    while left:
        async with PromisingContext():
            source = StreamedPromise(streamer_of(range(3)))

            async def relay(_: Any, source: Any = source) -> AsyncIterator[int]:
                async for piece in source:
                    yield piece
                await source

            leaving, staying = StreamedPromise(relay), StreamedPromise(relay)
            await turns(count)
            left = leaving.cancel()
            assert await at_rest(read(staying)) == await at_rest(read(source)) == [0, 1, 2]
        count += 1
    assert count > 3
