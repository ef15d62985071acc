"""What a flat sequence is made of, and who sees what of it when."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniagents.testing import quiescence, run_with_virtual_clock
from promising import FlatSequence, Promise, PromisingContext, StreamAppender, StreamedPromise
from tests.promising.at_rest import at_rest, outcome, turns
from tests.promising.helpers import read, read_both_ways, read_until_error, resolver_of, streamer_of

Flat = FlatSequence[Any, tuple[Any, ...]]
DEEP = 1_500  # more than the recursion limit


def flatten(item: Any) -> list[Any]:
    return [leaf for part in item for leaf in flatten(part)] if isinstance(item, list) else [item]


SOURCES = {
    "generator": lambda items: streamer_of(items),
    "appender": lambda items: _appender(items),
    "appender while it is written": lambda items: _slow_appender(items),
    "stream": lambda items: StreamedPromise(streamer_of(items)),
    "lazy stream": lambda items: StreamedPromise(streamer_of(items), start_soon=False),
    "prefilled stream": lambda items: StreamedPromise(prefill_pieces=items),
    "stream of an appender": lambda items: StreamedPromise(_appender(items)),
    "sequence": lambda items: Flat(streamer_of(items), flatten=lambda item: [item]),
}


def _appender(items: list[Any]) -> StreamAppender[Any]:
    with StreamAppender[Any]() as appender:
        for item in items:
            appender.append(item)
    return appender


def _slow_appender(items: list[Any]) -> StreamAppender[Any]:
    appender = StreamAppender[Any]()

    async def write() -> None:
        with appender:
            for item in items:
                await asyncio.sleep(0)
                appender.append(item)

    context = PromisingContext.current()
    assert context is not None
    context.start_soon(write())
    return appender


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("start_soon", [True, False])
async def test_whatever_streams_the_items_they_are_flattened(source: str, start_soon: bool) -> None:
    """Every kind of streamer feeds a flat sequence, and its items are flattened on their way."""
    async with PromisingContext():
        nested = Flat(streamer_of([4, [5]]), flatten=flatten)
        items = [1, [2, [3]], nested, [], [6]]
        sequence = Flat(SOURCES[source](items), flatten=flatten, start_soon=start_soon)
        assert await at_rest(read_both_ways(sequence)) == [1, 2, 3, 4, 5, 6]
        assert sequence.pieces_so_far == (1, 2, 3, 4, 5, 6)
        assert sequence.done()


async def test_flatten_is_called_once_for_each_item() -> None:
    """Items are flattened when they come, and not again for each reader."""
    calls: list[Any] = []

    def note(item: Any) -> list[Any]:
        calls.append(item)
        return [item]

    async with PromisingContext():
        sequence = Flat(streamer_of([1, 2]), flatten=note)
        for _ in range(3):
            assert await read_both_ways(sequence) == [1, 2]
    assert calls == [1, 2]


@pytest.mark.parametrize("way", ["nested", "streamed", "streamer", "read", "awaited"])
async def test_chains_longer_than_the_recursion_limit(way: str) -> None:
    """Long chains of forwarding, by whatever means, are read and awaited, and an error passes through them."""
    error = ValueError("at the bottom")
    for bottom in (streamer_of([1, 2]), streamer_of([1], error)):
        async with PromisingContext():
            chain: Any = Flat(bottom, flatten=flatten)
            first = chain
            for _ in range(DEEP):
                if way == "nested":
                    chain = Flat(flatten=flatten, prefill_pieces=[chain])
                elif way == "streamed":
                    chain = Flat(streamer_of([chain]), flatten=flatten)
                elif way == "streamer":
                    chain = StreamedPromise(chain)
                elif way == "read":

                    async def relay(_: Any, before: Any = chain) -> AsyncIterator[Any]:
                        async for piece in before:
                            yield piece

                    chain = StreamedPromise(relay)
                else:

                    async def link(_: Any, before: Any = chain) -> Any:
                        return await before

                    chain = Promise(link)
            expected = (1, 2) if await outcome(first) == (1, 2) else error
            assert await at_rest(chain) == expected
            if way != "awaited":
                assert await at_rest(read_until_error(chain)) == (
                    ([1, 2], None) if expected is not error else ([1], error)
                )


async def test_pieces_are_seen_through_many_levels_at_once() -> None:
    """A piece that a deeply nested sequence brings is there for a reader of the outermost one two turns later."""
    appender = StreamAppender[int]()
    sequence: Any = Flat(appender, flatten=flatten)
    for number in range(100):
        sequence = Flat(flatten=flatten, prefill_pieces=[number, sequence])
    got: list[int] = []

    async def reader() -> None:
        async for piece in sequence:
            got.append(piece)

    task = asyncio.create_task(reader())
    await quiescence()
    assert got == list(range(99, -1, -1))
    for number in range(3):
        appender.append(number)
        await turns(2)
        assert sequence.pieces_so_far[-1] == number
        await turns(1)
        assert got[-1] == number
    appender.close()
    await at_rest(task)
    assert await sequence == tuple(got)


async def test_parts_run_side_by_side() -> None:
    """A part that is slow does not keep the parts behind it from being produced."""
    gate = asyncio.Event()

    async def slow(_: Any) -> AsyncIterator[int]:
        await gate.wait()
        yield 1

    async with PromisingContext():
        behind = Flat(streamer_of([2, 3]), flatten=flatten)
        sequence = Flat(flatten=flatten, prefill_pieces=[Flat(slow, flatten=flatten), behind])
        await quiescence()
        assert sequence.pieces_so_far == ()
        assert behind.done()
        gate.set()
        assert await at_rest(sequence) == (1, 2, 3)


@pytest.mark.parametrize("handlers", [0, 1])
async def test_whoever_listens_does_not_change_what_starts(handlers: int) -> None:
    """A lazy part starts when a reader gets there, also where a handler for resolved promises is registered."""
    log: list[str] = []

    async def lazy(_: Any) -> AsyncIterator[Any]:
        log.append("started")
        yield 1

    async def handler(promise: Any, value: Any) -> None:
        pass

    async with PromisingContext(on_promise_resolved=[handler] * handlers):
        sequence = Flat(streamer_of([Flat(lazy, flatten=flatten, start_soon=False)]), flatten=flatten)
        await quiescence()
        assert log == []
        assert await at_rest(sequence) == (1,)


async def test_cancelling_a_sequence_leaves_its_parts_alone() -> None:
    """What was put into a cancelled sequence was made elsewhere, and goes on."""
    gate = asyncio.Event()

    async def part(_: Any) -> AsyncIterator[int]:
        yield 1
        await gate.wait()
        yield 2

    async with PromisingContext():
        inner = Flat(part, flatten=flatten)

        async def outer_streamer(_: Any) -> AsyncIterator[Any]:
            yield inner
            await asyncio.Event().wait()

        outer = Flat(outer_streamer, flatten=flatten)
        await quiescence()
        assert outer.cancel() is True
        gate.set()
        assert await at_rest(inner) == (1, 2)
        pieces, error = await at_rest(read_until_error(outer))
        assert pieces == [1, 2]
        assert error is not None


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_every_reader_gets_an_error_at_the_same_place(position: int) -> None:
    """Live, late, awaiting and partial readers agree on where a nested error stands; the parts behind it go on."""
    error = ValueError("nested")
    async with PromisingContext():
        parts: list[Any] = [Flat(streamer_of([10 * number, 10 * number + 1]), flatten=flatten) for number in range(3)]
        parts[position] = Flat(streamer_of([10 * position], error), flatten=flatten)
        sequence = Flat(streamer_of(parts), flatten=flatten)
        expected = [*[piece for number in range(position) for piece in (10 * number, 10 * number + 1)], 10 * position]
        live = [asyncio.create_task(read_until_error(sequence)) for _ in range(3)]
        partial = aiter(sequence)
        await anext(partial)
        assert await at_rest(asyncio.gather(*live)) == [(expected, error)] * 3
        assert await at_rest(read_until_error(sequence)) == (expected, error)
        assert await at_rest(read_until_error(partial)) == (expected[1:], error)  # type: ignore[arg-type]
        assert await at_rest(sequence) is error
        for number in range(position + 1, 3):
            assert await at_rest(parts[number]) == (10 * number, 10 * number + 1)


class Boom(Exception):
    """What a part fails with."""


Part = st.recursive(
    st.integers(0, 9) | st.just("boom"),
    lambda parts: st.tuples(
        st.sampled_from(["list", "prefilled", "streamed", "lazy", "bounded", "appender", "forwarded"]),
        st.lists(st.tuples(parts, st.integers(0, 3)), max_size=4),
    ),
    max_leaves=20,
)


def _expected(part: Any) -> tuple[list[int], bool]:
    """The leaves up to the first error, and whether there is one."""
    if part == "boom":
        return [], True
    if isinstance(part, int):
        return [part], False
    leaves: list[int] = []
    for child, _ in part[1]:
        more, failed = _expected(child)
        leaves += more
        if failed:
            return leaves, True
    return leaves, False


async def _boom(_: Any) -> AsyncIterator[Any]:
    await asyncio.sleep(0)
    raise Boom
    yield


def _build(part: Any) -> Any:
    if part == "boom":
        return Flat(_boom, flatten=flatten)
    if isinstance(part, int):
        return part
    kind, children = part
    if kind == "list":
        return [_build(child) for child, _ in children]
    if kind == "prefilled":
        return Flat(flatten=flatten, prefill_pieces=[_build(child) for child, _ in children])

    async def streamer(_: Any) -> AsyncIterator[Any]:
        for child, count in children:
            await turns(count)
            yield _build(child)

    if kind == "appender":
        appender = StreamAppender[Any]()

        async def write() -> None:
            with appender:
                async for item in streamer(None):
                    appender.append(item)

        context = PromisingContext.current()
        assert context is not None
        context.start_soon(write())
        return Flat(appender, flatten=flatten)
    if kind == "forwarded":
        return Flat(StreamedPromise(streamer), flatten=flatten)
    return Flat(
        streamer,
        flatten=flatten,
        start_soon=kind != "lazy",
        max_ahead=2 if kind == "bounded" else None,
    )


@given(Part, st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=100)
def test_all_readers_agree_whatever_is_nested_and_whenever_they_come(part: Any, arrivals: list[int]) -> None:
    """Any nesting of all kinds of parts, with errors in them, reads the same to everybody, early or late."""

    async def check() -> None:
        leaves, failed = _expected(("list", [(part, 0)]))
        async with PromisingContext():
            sequence = Flat(flatten=flatten, prefill_pieces=[_build(part)])

            async def reader(arrival: int) -> tuple[list[Any], BaseException | None]:
                await turns(arrival)
                return await read_until_error(sequence)

            reads = await asyncio.gather(*map(reader, arrivals), outcome(sequence), reader(0))
            whole = reads.pop(len(arrivals))
            for pieces, error in [*reads, await read_until_error(sequence)]:
                assert pieces == leaves
                assert isinstance(error, Boom) is failed
            assert isinstance(whole, Boom) if failed else whole == tuple(leaves)
            assert sequence.done()
            assert sequence.pieces_so_far == tuple(leaves)

    run_with_virtual_clock(check())


async def test_a_plain_stream_holds_sequences_as_pieces() -> None:
    """Only flat sequences flatten: in any other stream a sequence is a piece like any other."""
    async with PromisingContext():
        inner = Flat(streamer_of([1]), flatten=flatten)
        stream = StreamedPromise(streamer_of([inner, [2]]))
        assert await read_both_ways(stream) == [inner, [2]]
        assert await read(Flat(stream, flatten=flatten)) == [1, 2]
        assert await Promise(resolver_of(inner)) is inner
