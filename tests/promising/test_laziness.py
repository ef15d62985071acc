"""How far producers go ahead of their readers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniagents.testing import quiescence, run_with_virtual_clock
from promising import FlatSequence, PromisingContext, StreamedPromise
from tests.promising.at_rest import at_rest, outcome
from tests.promising.helpers import read, resolver_of


class Counting:
    """A producer that says how many pieces it has begun to make."""

    def __init__(self, total: int = 100) -> None:
        self.total = total
        self.made = 0

    async def __call__(self, _: Any) -> AsyncIterator[int]:
        for number in range(self.total):
            self.made += 1
            yield number


async def test_a_context_that_starts_nothing_soon_makes_lazy_streams() -> None:
    """Where lazy is the default, a stream produces what its readers ask for, as with `start_soon=False`."""
    async with PromisingContext(start_everything_soon_by_default=False):
        counting = Counting()
        stream = StreamedPromise(counting)
        await quiescence()
        assert counting.made == 0
        reader = aiter(stream)
        for number in range(3):
            assert await anext(reader) == number
            await quiescence()
            assert counting.made == number + 1


@pytest.mark.parametrize("resolver", [None, resolver_of("whole")])
async def test_a_lazy_stream_stays_with_its_readers(resolver: Any) -> None:
    """With `start_soon=False` nothing is produced ahead, with and without a resolver, in and outside of a context."""

    async def check() -> None:
        counting = Counting(5)
        stream: StreamedPromise[int, Any] = StreamedPromise(counting, resolver=resolver, start_soon=False)
        await quiescence()
        assert counting.made == 0
        reader = aiter(stream)
        for number in range(5):
            assert await anext(reader) == number
            await quiescence()
            assert counting.made == number + 1
        assert await at_rest(stream) == ("whole" if resolver else (0, 1, 2, 3, 4))

    await check()
    async with PromisingContext():
        await check()


async def test_asking_for_one_piece_and_leaving() -> None:
    """A reader that was cancelled while it waited has asked for one piece, and for no more."""
    gate = asyncio.Event()
    made = 0

    async def streamer(_: Any) -> AsyncIterator[int]:
        nonlocal made
        for number in range(10):
            await gate.wait()
            made += 1
            yield number

    async with PromisingContext():
        stream = StreamedPromise(streamer, start_soon=False)
        leaving = asyncio.create_task(outcome(anext(aiter(stream))))
        await quiescence()
        leaving.cancel()
        await leaving
        gate.set()
        await quiescence()
        assert made == 1
        assert await at_rest(read(stream)) == list(range(10))


@given(
    st.sampled_from(["lazy", 1, 2, 7]),
    st.booleans(),
    st.lists(st.integers(0, 2), max_size=40),
    st.integers(0, 25),
)
@settings(max_examples=100)
def test_never_further_ahead_than_allowed(ahead: Any, flat: bool, steps: list[int], total: int) -> None:
    """Whatever readers do in whatever order, exactly as much is produced as the furthest of them allows."""

    async def check() -> None:
        counting = Counting(total)
        options: Any = {"start_soon": False} if ahead == "lazy" else {"max_ahead": ahead}
        allowance = 0 if ahead == "lazy" else ahead
        async with PromisingContext():
            stream: Any = (
                FlatSequence(counting, flatten=lambda item: [item], **options)
                if flat
                else StreamedPromise(counting, **options)
            )
            readers = [aiter(stream) for _ in range(3)]
            positions = [0, 0, 0]
            for which in steps:
                piece = await at_rest(anext(readers[which]))
                if positions[which] == total:
                    assert isinstance(piece, StopAsyncIteration)
                else:
                    assert piece == positions[which]
                    positions[which] += 1
                await quiescence()
                assert len(stream.pieces_so_far) == min(total, max(positions) + allowance)
            assert await at_rest(stream) == tuple(range(total))
            assert counting.made == total

    run_with_virtual_clock(check())


async def test_an_eager_stream_is_not_held_back() -> None:
    """Without a bound, a producer goes on without any reader, and at once."""
    async with PromisingContext():
        counting = Counting(1_000)
        stream = StreamedPromise(counting)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert counting.made == 1_000
        assert stream.done()


async def test_a_chain_of_lazy_streams_produces_one_piece_for_each_that_is_read() -> None:
    """Laziness goes all the way down a chain of streams that read each other."""
    counting = Counting()
    async with PromisingContext():
        chain: Any = StreamedPromise(counting, start_soon=False)
        for _ in range(10):

            async def relay(_: Any, before: Any = chain) -> AsyncIterator[int]:
                async for piece in before:
                    yield piece

            chain = StreamedPromise(relay, start_soon=False)
        reader = aiter(chain)
        for number in range(3):
            assert await anext(reader) == number
            await quiescence()
            assert counting.made == number + 1


async def test_forwarding_a_lazy_stream_does_not_start_it() -> None:
    """Who only hands on a lazy stream, or puts it into a lazy sequence, has not read it."""
    counting = Counting(3)
    async with PromisingContext():
        lazy = StreamedPromise(counting, start_soon=False)
        forwarded = StreamedPromise(lazy, start_soon=False)
        sequence = FlatSequence(
            flatten=lambda item: [item], prefill_pieces=[0, FlatSequence(lazy, flatten=lambda i: [i], start_soon=False)]
        )
        reader = aiter(sequence)
        assert await anext(reader) == 0
        await quiescence()
        assert counting.made == 0
        assert await at_rest(anext(reader)) == 0
        await quiescence()
        assert counting.made == 1
        assert await at_rest(forwarded) == (0, 1, 2)


async def test_an_awaiter_that_has_left_still_counts() -> None:
    """Whoever awaited the whole has asked for everything, also when it has gone."""
    async with PromisingContext():
        counting = Counting(50)
        stream = StreamedPromise(counting, max_ahead=1)
        leaving = asyncio.create_task(outcome(stream))
        await asyncio.sleep(0)
        leaving.cancel()
        await quiescence()
        assert counting.made == 50
