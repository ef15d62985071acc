"""Flat sequences: whatever is nested in whatever, readers see one flat stream."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents.testing import quiescence, run_with_virtual_clock
from promising import FlatSequence, PromisingContext
from tests.promising.helpers import error_of, read, read_both_ways, read_until_error

Sequence = FlatSequence[Any, tuple[Any, ...]]


def flatten(item: Any) -> list[Any]:
    """Lists are flattened here, all else stays."""
    return [leaf for part in item for leaf in flatten(part)] if isinstance(item, list) else [item]


def sequence(*items: Any) -> Sequence:
    return Sequence(flatten=flatten, prefill_pieces=items)


async def test_nested_sequences_are_read_in_order_and_live() -> None:
    """Pieces of a nested sequence are seen as they come, and those behind it wait for their turn."""
    gate = asyncio.Event()

    async def streamer(_: Any) -> AsyncIterator[Any]:
        yield "b"
        await gate.wait()
        yield ["c", sequence("d", sequence())]

    async with PromisingContext():
        outer = sequence("a", Sequence(streamer, flatten=flatten), ["e", ["f"]])
        await quiescence()
        assert outer.pieces_so_far == ("a", "b")
        assert not outer.done()
        gate.set()
        assert await read_both_ways(outer) == list("abcdef")
        assert outer.done()
        assert outer.pieces_so_far == tuple("abcdef")


async def test_an_error_in_a_nested_sequence_ends_its_readers_there() -> None:
    """Readers get what is before the error; the other parts go on."""
    error = ValueError("nested")

    async def failing(_: Any) -> AsyncIterator[Any]:
        yield 2
        raise error

    async with PromisingContext():
        rest = sequence(3, 4)
        outer = sequence(1, Sequence(failing, flatten=flatten), rest)
        assert await read_until_error(outer) == ([1, 2], error)
        assert await error_of(outer) is error
        assert await rest == (3, 4)
        assert outer.done()


async def test_deep_nesting() -> None:
    """Thousands of levels are read without recursion."""
    nested = sequence("bottom")
    for _ in range(5_000):
        nested = sequence(nested)
    assert await read(nested) == ["bottom"]
    assert await nested == ("bottom",)


async def test_lazy_parts_start_when_a_reader_gets_there() -> None:
    """With `start_soon=False` a nested sequence does nothing before it is its turn."""
    log: list[str] = []

    async def lazy(_: Any) -> AsyncIterator[Any]:
        log.append("started")
        yield 2

    async with PromisingContext():
        outer = sequence(1, Sequence(lazy, flatten=flatten, start_soon=False))
        reader = aiter(outer)
        assert await anext(reader) == 1
        await quiescence()
        assert not log
        assert await anext(reader) == 2
        assert await read_both_ways(outer) == [1, 2]


async def test_a_flatten_that_fails() -> None:
    """An error of the flatten function stands where the item was."""

    def strict(item: Any) -> list[Any]:
        if item == 2:
            raise TypeError("no 2")
        return [item]

    async def streamer(_: Any) -> AsyncIterator[Any]:
        yield 1
        yield 2

    async with PromisingContext():
        pieces, error = await read_until_error(Sequence(streamer, flatten=strict))
    assert pieces == [1]
    assert isinstance(error, TypeError)
    with pytest.raises(TypeError, match="no 2"):
        Sequence(flatten=strict, prefill_pieces=[2])


Tree = st.recursive(
    st.integers(),
    lambda children: (
        st.lists(children, max_size=4)
        | st.tuples(
            st.sampled_from(["prefilled", "streamed", "lazy"]), st.lists(st.tuples(children, st.integers(0, 3)))
        )
    ),
    max_leaves=25,
)


def _expected(tree: Any) -> list[int]:
    if isinstance(tree, int):
        return [tree]
    parts = [part for part, _ in tree[1]] if isinstance(tree, tuple) else tree
    return [leaf for part in parts for leaf in _expected(part)]


def _build(tree: Any) -> Any:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, list):
        return [_build(part) for part in tree]
    kind, parts = tree
    if kind == "prefilled":
        return sequence(*[_build(part) for part, _ in parts])

    async def streamer(_: Any) -> AsyncIterator[Any]:
        for part, turns in parts:
            for _ in range(turns):
                await asyncio.sleep(0)
            yield _build(part)

    return Sequence(streamer, flatten=flatten, start_soon=kind != "lazy")


@given(Tree)
def test_any_nesting_flattens_to_the_same_sequence(tree: Any) -> None:
    """Whatever is nested in whatever, and whenever its parts come, all ways of reading give the same flat sequence."""

    async def check() -> None:
        async with PromisingContext():
            assert await read_both_ways(sequence(_build(tree))) == _expected(tree)

    run_with_virtual_clock(check())
