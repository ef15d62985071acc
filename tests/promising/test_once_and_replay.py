"""A producer runs once; everybody who reads gets everything."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents.testing import quiescence
from promising import Promise, PromisingContext, StreamedPromise
from tests.promising.helpers import error_of, read, read_both_ways, read_until_error, resolver_of, streamer_of


@pytest.mark.parametrize("in_context", [True, False])
async def test_resolver_runs_once(in_context: bool) -> None:
    """However many wait, and whenever they come, the resolver runs once."""
    runs = 0

    async def resolver(_: Any) -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return runs

    async def use() -> None:
        promise = Promise(resolver)
        assert await asyncio.gather(*[promise for _ in range(20)]) == [1] * 20
        assert await promise == await promise.aresolve() == 1

    if in_context:
        async with PromisingContext():
            await use()
    else:
        await use()
    assert runs == 1


async def test_a_failed_resolver_is_not_run_again() -> None:
    """The error of a promise is there for good, too."""
    runs = 0

    async def resolver(_: Any) -> None:
        nonlocal runs
        runs += 1
        raise ValueError("no")

    async with PromisingContext():
        promise = Promise(resolver)
        first, second = await error_of(promise), await error_of(promise)
    assert first is second
    assert runs == 1


@pytest.mark.parametrize("start_soon", [True, False])
async def test_readers_see_all_pieces_whenever_they_come(start_soon: bool) -> None:
    """A reader of a stream gets every piece in order: from the beginning, in the middle, and after the end."""
    async with PromisingContext():
        stream = StreamedPromise(streamer_of(range(10)), start_soon=start_soon)
        first = aiter(stream)
        assert [await anext(first) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert await read_both_ways(stream) == list(range(10))
        assert await read_both_ways(stream) == list(range(10))
        assert [piece async for piece in first] == [5, 6, 7, 8, 9]


async def test_prefilled() -> None:
    """What is there already needs no context, and is there without waiting."""
    promise: Promise[None] = Promise(prefill_result=None)
    stream = StreamedPromise(prefill_pieces=[1, 2])
    assert promise.done()
    assert stream.done()
    assert await promise is None
    assert await read_both_ways(stream) == [1, 2]


async def test_whole_of_a_stream_is_made_by_its_resolver_after_the_end() -> None:
    """A resolver of a stream runs once, in the task of the streamer, when all pieces are there."""
    tasks = []

    async def streamer(_: Any) -> AsyncIterator[int]:
        tasks.append(asyncio.current_task())
        yield 1
        yield 2

    async def resolver(promise: StreamedPromise[int, int]) -> int:
        tasks.append(asyncio.current_task())
        return sum(promise.pieces_so_far)

    async with PromisingContext():
        stream = StreamedPromise(streamer, resolver=resolver)
        assert await stream == 3
        assert await read(stream) == [1, 2]
    assert tasks[0] is tasks[1]
    assert len(tasks) == 2


async def test_methods_of_a_subclass() -> None:
    """A subclass may define the streamer and the resolver as methods."""

    class Doubled(StreamedPromise[int, str]):
        def __init__(self, count: int) -> None:
            self.count = count
            super().__init__()

        async def _streamer(self) -> AsyncIterator[int]:
            for number in range(self.count):
                yield number * 2

        async def _resolver(self) -> str:
            return "".join(map(str, self.pieces_so_far))

    class Answer(Promise[int]):
        async def _resolver(self) -> int:
            return 42

    async with PromisingContext():
        assert await Doubled(3) == "024"
        assert await read(Doubled(3)) == [0, 2, 4]
        assert await Answer() == 42


@pytest.mark.parametrize("pieces", [0, 1, 3])
async def test_error_stands_at_its_place(pieces: int) -> None:
    """Every reader gets the pieces before an error, the error, and then the end; an awaiter gets the error."""
    error = ValueError("broken")
    async with PromisingContext():
        stream = StreamedPromise(streamer_of(range(pieces), error))
        for _ in range(2):
            assert await read_until_error(stream) == (list(range(pieces)), error)
            assert await error_of(stream) is error


async def test_traceback_is_that_of_the_origin_and_does_not_grow() -> None:
    """However often an error is raised, its traceback begins here and ends where it came from."""

    async def failing(_: Any) -> None:
        raise ValueError("here")

    def frames(error: BaseException) -> list[str]:
        names, traceback = [], error.__traceback__
        while traceback is not None:
            names.append(traceback.tb_frame.f_code.co_name)
            traceback = traceback.tb_next
        return names

    async with PromisingContext():
        promise = Promise(failing)
        lengths = {len(frames(await error_of(promise))) for _ in range(5)}
        assert len(lengths) == 1
        assert frames(await error_of(promise))[-1] == "failing"


async def test_a_stream_can_be_the_streamer_of_another() -> None:
    """A stream forwards another one by reference, and with a whole of its own."""
    async with PromisingContext():
        inner = StreamedPromise(streamer_of("abc"))
        outer: StreamedPromise[str, Any] = StreamedPromise(inner)
        joined: StreamedPromise[str, str] = StreamedPromise(
            inner, resolver=lambda p: resolver_of("".join(p.pieces_so_far))(p)
        )
        assert await read_both_ways(outer) == ["a", "b", "c"]
        assert await joined == "abc"
        assert await read(joined) == ["a", "b", "c"]
        assert outer.cancel() is False
        lazy = StreamedPromise(streamer_of("abc"), start_soon=False)
        assert await read(StreamedPromise(lazy)) == ["a", "b", "c"]


async def test_break_and_concurrent_use_of_one_reader() -> None:
    """Leaving a loop disturbs nobody, and two tasks that share a reader share the pieces."""
    async with PromisingContext():
        stream = StreamedPromise(streamer_of(range(20)))
        async for _ in stream:
            break
        shared = aiter(stream)
        got: list[int] = []

        async def take() -> None:
            async for piece in shared:
                got.append(piece)

        await asyncio.gather(take(), take())
        assert sorted(got) == list(range(20))


async def test_state_is_shown() -> None:
    """`repr` is safe at any time and names the producer and its state; `done` never waits."""
    async with PromisingContext():
        promise = Promise(resolver_of(1))
        assert "resolver_of" in repr(promise)
        assert "pending" in repr(promise)
        assert not promise.done()
        await promise
        assert "resolved" in repr(promise)
        stream = StreamedPromise(streamer_of([1], ValueError("x")))
        await quiescence()
        assert stream.done()
        assert "failed" in repr(stream)
        assert stream.pieces_so_far == (1,)
        await error_of(stream)


async def test_many_pieces_and_many_readers() -> None:
    """A million pieces and ten thousand readers are no problem."""

    async def streamer(_: Any) -> AsyncIterator[int]:
        for number in range(1_000_000):
            yield number

    async with PromisingContext():
        big = StreamedPromise(streamer)
        total = 0
        async for piece in big:
            total += piece
        assert total == 499_999_500_000
        stream = StreamedPromise(streamer_of(range(3)))
        assert await asyncio.gather(*[read(stream) for _ in range(10_000)]) == [[0, 1, 2]] * 10_000
