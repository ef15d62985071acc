"""Rings of waits of every shape are found, and nothing else is taken for one."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

import promising
from promising import CircularWaitError, FlatSequence, Promise, PromisingContext, StreamAppender, StreamedPromise
from tests.promising.at_rest import outcome
from tests.promising.helpers import VIRTUAL_ONLY, read, read_until_error, resolver_of

pytestmark = pytest.mark.asyncio(**VIRTUAL_ONLY)


def now() -> float:
    return asyncio.get_running_loop().time()


WAYS = ["await", "aresolve", "async for", "await stream"]


@pytest.mark.parametrize("ways", [[way] for way in WAYS] + [[a, b] for a in WAYS for b in WAYS] + [[*WAYS]])
async def test_rings_of_any_ways_of_waiting(ways: list[str]) -> None:
    """Awaiting promises, awaiting streams and reading streams close a ring in any combination."""
    ring: list[Any] = []

    async def wait(number: int) -> None:
        following = (number + 1) % len(ways)
        if ways[following] == "async for":
            await read(ring[following])
        elif ways[following] == "aresolve":
            await ring[following].aresolve()
        else:
            await ring[following]

    def member(number: int) -> Any:
        async def resolver(_: Any) -> None:
            await wait(number)

        async def streamer(_: Any) -> AsyncIterator[int]:
            await wait(number)
            yield 1

        return StreamedPromise(streamer) if ways[number] in ("async for", "await stream") else Promise(resolver)

    async with PromisingContext():
        ring.extend(member(number) for number in range(len(ways)))
        started = now()
        errors = await asyncio.gather(*[outcome(one) for one in ring])
        assert all(isinstance(error, CircularWaitError) for error in errors)
        assert len({id(error) for error in errors}) == 1
        assert now() - started <= 1


async def test_a_ring_that_closes_in_mid_stream() -> None:
    """What was streamed before the ring closed stays readable, with the error behind it."""
    streams: list[Any] = []

    async def reads(_: Any) -> AsyncIterator[Any]:
        yield 0
        async for piece in streams[1]:
            yield piece

    async def awaits(_: Any) -> AsyncIterator[Any]:
        yield 1
        yield len(await streams[0])

    async with PromisingContext():
        streams += [StreamedPromise(reads), StreamedPromise(awaits)]
        for stream, before in zip(streams, ([0, 1], [1]), strict=True):
            pieces, error = await read_until_error(stream)
            assert pieces == before
            assert isinstance(error, CircularWaitError)


async def test_a_ring_through_nested_sequences() -> None:
    """A producer that waits for a sequence in which its own one is nested is in a ring."""
    sequences: list[Any] = []

    async def inner(_: Any) -> AsyncIterator[Any]:
        yield 1
        yield len(await sequences[1])

    async with PromisingContext():
        sequences.append(FlatSequence(inner, flatten=lambda item: [item]))
        sequences.append(FlatSequence(flatten=lambda item: [item], prefill_pieces=[0, sequences[0]]))
        started = now()
        assert isinstance(await outcome(sequences[0]), CircularWaitError)
        assert isinstance(await outcome(sequences[1]), CircularWaitError)
        assert sequences[1].pieces_so_far == (0, 1)
        assert now() - started <= 1


async def test_a_ring_across_contexts() -> None:
    """A ring between an outer context and one that was opened in a producer is found."""
    ring: list[Any] = []

    async def outer(_: Any) -> None:
        await ring[1]

    async def opens(_: Any) -> None:
        async with PromisingContext():

            async def inner(_: Any) -> None:
                await ring[0]

            ring.append(Promise(inner))
            await outcome(ring[1])

    async with PromisingContext():
        ring.append(Promise(lambda _: asyncio.sleep(0.1)))
        started = now()
        opening = Promise(opens)
        await asyncio.sleep(0)
        ring[0] = Promise(outer)
        errors = await asyncio.gather(outcome(ring[0]), outcome(ring[1]))
        assert all(isinstance(error, CircularWaitError) for error in errors)
        await opening
        assert now() - started <= 1


async def test_a_ring_in_a_crowd() -> None:
    """A ring among a thousand producers that wait for something else is found."""
    ring: list[Any] = []

    async def patient(_: Any) -> None:
        await asyncio.sleep(10)

    async def link(number: int) -> Any:
        return await ring[1 - number]

    async with PromisingContext():
        crowd = [Promise(patient) for _ in range(1_000)]
        for _ in range(1_000):
            Promise(lambda _, one=crowd[-1]: one)
        ring += [Promise(lambda _, number=number: link(number)) for number in (0, 1)]
        assert isinstance(await outcome(ring[0]), CircularWaitError)
        assert now() <= 5
    assert now() == pytest.approx(10)


async def test_strangers_do_not_hide_a_ring() -> None:
    """A ring of direct waits is an error whoever else is at work: nobody else could end it."""
    ring: list[Any] = []

    async def member(number: int) -> Any:
        Promise(lambda _: asyncio.sleep(30))  # a child that goes on meanwhile
        return await ring[1 - number]

    stranger = asyncio.create_task(asyncio.sleep(30))
    async with PromisingContext():
        ring += [Promise(lambda _, number=number: member(number)) for number in (0, 1)]
        assert isinstance(await outcome(ring[0]), CircularWaitError)
        assert now() <= 1
        for one in ring:
            one.cancel()
    assert not stranger.done()
    stranger.cancel()


async def test_what_waits_for_a_ring_gets_its_error() -> None:
    """Producers and consumers that are no part of the ring, but wait for it, get the same error."""
    ring: list[Any] = []

    async def own(_: Any) -> Any:
        return await ring[0]

    async def tail(_: Any) -> Any:
        return await ring[0]

    async with PromisingContext():
        ring.append(Promise(own))
        tails = [Promise(tail) for _ in range(5)]
        errors = await asyncio.gather(*map(outcome, tails))
        assert {id(error) for error in errors} == {id(await outcome(ring[0]))}
        assert "own" in str(errors[0])
        assert "tail" not in str(errors[0])


# From 3.12 on `wait_for` waits in the task itself, so that such a ring is seen, too.
@pytest.mark.parametrize("way", ["gather", "task", "lock", *(["wait_for"] if sys.version_info < (3, 12) else [])])
async def test_waits_that_are_not_seen(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """A ring through gather, wait_for, tasks or locks is nobody's business: no error, no warning."""
    ring: list[Any] = []
    lock = asyncio.Lock()

    async def member(number: int) -> Any:
        other = ring[1 - number]
        if number:
            return await other
        if way == "gather":
            return await asyncio.gather(other)
        if way == "wait_for":
            return await asyncio.wait_for(other, 50)
        if way == "task":
            return await asyncio.create_task(outcome(other))
        async with lock:
            return None

    async with lock, PromisingContext():
        ring += [Promise(lambda _, number=number: member(number)) for number in (0, 1)]
        await asyncio.sleep(20)
        assert not ring[0].done()
        assert not ring[1].done()
        ring[0].cancel()
    assert not caplog.records


async def test_a_sequence_put_into_itself_fails_at_once() -> None:
    """No time passes before a sequence that contains itself is an error, however roundabout, for every reader."""

    def same(item: Any) -> list[Any]:
        return [item]

    for size in (1, 2, 3, 10):
        ring: list[Any] = []

        def member(number: int, ring: list[Any] = ring, size: int = size) -> Any:
            async def streamer(_: Any) -> AsyncIterator[Any]:
                yield number
                yield ring[(number + 1) % size]

            return FlatSequence(streamer, flatten=same)

        async with PromisingContext():
            ring.extend(member(number) for number in range(size))
            for one in ring:
                assert isinstance(await outcome(one), CircularWaitError)
                assert isinstance(await outcome(read(one)), CircularWaitError)
    assert now() < 0.4


async def test_the_same_sequence_twice_is_no_ring() -> None:
    """A sequence may occur in another one as often as it likes."""

    def same(item: Any) -> list[Any]:
        return [item]

    async with PromisingContext():
        shared: Any = FlatSequence(flatten=same, prefill_pieces=[1])
        for _ in range(8):
            shared = FlatSequence(flatten=same, prefill_pieces=[shared, shared])
        assert await shared == (1,) * 256
        assert await read(shared) == [1] * 256


@pytest.mark.parametrize("writers", ["owner alone", "child", "body"])
async def test_rings_through_appenders(writers: str, caplog: pytest.LogCaptureFixture) -> None:
    """A ring through an appender is broken where only its members could append, and a warning else."""
    ring: list[Any] = []

    async def owner(_: Any) -> Any:
        appender = StreamAppender[int]()
        ring.append(StreamedPromise(appender))
        if writers == "child":

            async def child(_: Any) -> None:
                await asyncio.sleep(5)
                appender.append(1).close()

            Promise(child)
        elif writers == "body":
            ring.append(asyncio.create_task(_append_later(appender)))
        return await reader_promise

    async def reader(_: Any) -> Any:
        await asyncio.sleep(0)
        return await ring[0]

    async with PromisingContext():
        owner_promise = Promise(owner)
        reader_promise = Promise(reader)
        result = await outcome(owner_promise)
        if writers == "owner alone":
            assert isinstance(result, CircularWaitError)
            assert now() <= 1
        else:
            assert result == (1,)
            assert len(caplog.records) == 1
            assert "ring" in caplog.text


async def _append_later(appender: StreamAppender[int]) -> None:
    await asyncio.sleep(5)
    appender.append(1).close()


async def test_the_search_ends_with_the_work() -> None:
    """When nothing runs any more no timer is left in the loop."""
    loop: Any = asyncio.get_running_loop()

    def timers() -> int:
        return sum(not timer.cancelled() for timer in loop._scheduled)

    before = timers()
    for _ in range(3):
        async with PromisingContext():
            await Promise(resolver_of(1))
        assert await Promise(resolver_of(1)) == 1
        assert await StreamedPromise(prefill_pieces=[1]) == (1,)
    assert timers() == before
    assert "Nothing runs" in promising.tree()


async def test_the_tree_shows_a_ring() -> None:
    """While a ring is there, the picture says who waits for whom."""
    ring: list[Any] = []

    async def alpha(_: Any) -> Any:
        return await ring[1]

    async def beta(_: Any) -> Any:
        return await ring[0]

    async with PromisingContext():
        ring += [Promise(alpha), Promise(beta)]
        await asyncio.sleep(0.1)
        picture = promising.tree()
        assert "alpha: waits for " in picture
        assert "beta: waits for " in picture
        await outcome(ring[0])
