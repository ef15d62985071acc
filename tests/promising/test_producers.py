"""Where a producer runs: in one task of its own, with the variables of the place where its promise was made."""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents.testing import quiescence
from promising import FlatSequence, Promise, PromisingContext, StreamAppender, StreamedPromise
from tests.promising.at_rest import at_rest, outcome, turns
from tests.promising.helpers import read, resolver_of, streamer_of

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.mark.parametrize("in_context", [True, False])
@pytest.mark.parametrize("start_soon", [True, False])
async def test_readers_never_run_producer_code(in_context: bool, start_soon: bool) -> None:
    """Resolver, streamer and flatten run in a task that is none of the consumers', however they are started."""
    tasks: set[Any] = set()

    async def resolver(_: Any) -> int:
        tasks.add(asyncio.current_task())
        return 1

    async def streamer(_: Any) -> AsyncIterator[int]:
        tasks.add(asyncio.current_task())
        yield 1
        tasks.add(asyncio.current_task())

    def flatten(item: Any) -> list[Any]:
        tasks.add(asyncio.current_task())
        return [item]

    async def check() -> None:
        for make in (
            lambda: Promise(resolver, start_soon=start_soon),
            lambda: StreamedPromise(streamer, resolver=resolver, start_soon=start_soon),
            lambda: FlatSequence(streamer, flatten=flatten, start_soon=start_soon),
        ):
            tasks.clear()
            promise: Any = make()
            consumers = [asyncio.create_task(outcome(promise)) for _ in range(2)]
            if isinstance(promise, StreamedPromise):
                consumers.append(asyncio.create_task(outcome(read(promise))))
            await asyncio.gather(*consumers)
            assert len(tasks) == 1
            assert not tasks & {asyncio.current_task(), *consumers}

    if in_context:
        async with PromisingContext():
            await check()
    else:
        await check()


async def test_how_many_tasks_there_are() -> None:
    """There is one task for each producer at work, and none for what needs no producer."""
    gate = asyncio.Event()

    async def streamer(_: Any) -> AsyncIterator[int]:
        await gate.wait()
        yield 1

    async def waits(_: Any) -> None:
        await gate.wait()

    def tasks() -> int:
        return len(asyncio.all_tasks()) - before

    before = len(asyncio.all_tasks())
    async with PromisingContext():
        stream = StreamedPromise(streamer)
        assert tasks() == 1
        kept = [
            StreamedPromise(stream),
            StreamedPromise(StreamAppender[int]()),
            StreamedPromise(prefill_pieces=[1]),
            Promise(prefill_result=1),
            FlatSequence(flatten=lambda item: [item], prefill_pieces=[1]),
            Promise(waits, start_soon=False),
        ]
        await quiescence()
        assert tasks() == 1
        Promise(waits)
        await quiescence()
        assert tasks() == 2
        gate.set()
        await quiescence()
        assert tasks() == 0
        del kept


@pytest.mark.parametrize("where", ["here", "in another task", "outside", "in a producer"])
async def test_variables_are_those_of_the_place_where_the_promise_was_made(where: str) -> None:
    """Whoever starts a lazy promise, its producer sees the variables of its maker, and changes none of them."""

    async def resolver(_: Any) -> str:
        found = variable.get()
        variable.set("changed by the producer")
        return found

    async def streamer(_: Any) -> AsyncIterator[str]:
        yield await resolver(None)

    async def start(promise: Any) -> Any:
        variable.set("of the consumer")
        return await promise

    for make in (lambda: Promise(resolver, start_soon=False), lambda: StreamedPromise(streamer, start_soon=False)):
        variable.set("of the maker")
        if where == "outside":
            promise: Any = make()
        async with PromisingContext():
            if where != "outside":
                promise = make()
            if where == "in another task":
                found = await asyncio.create_task(start(promise))
            elif where == "in a producer":
                found = await Promise(lambda _, promise=promise: start(promise))
            else:
                found = await start(promise)
        assert found in ("of the maker", ("of the maker",))
        assert variable.get() != "changed by the producer"


async def test_an_eager_producer_sees_the_variables_as_they_were() -> None:
    """What the maker changes after making a promise is not seen by its producer."""
    variable.set("before")
    async with PromisingContext() as context:

        async def resolver(_: Any) -> str:
            await turns(2)
            return variable.get()

        promise, work = Promise(resolver), context.start_soon(resolver(None))
        variable.set("after")
        assert await promise == "before"
        assert await work in ("before", "after")


@pytest.mark.parametrize("consumers", [1, 2, 50])
@pytest.mark.parametrize("start_soon", [True, False])
@pytest.mark.parametrize("fails", [True, False])
async def test_once_whoever_comes_whenever(consumers: int, start_soon: bool, fails: bool) -> None:
    """Consumers that come at every turn, of promises and streams, share one run and one outcome."""
    runs = 0

    async def resolver(_: Any) -> object:
        nonlocal runs
        runs += 1
        await turns(3)
        if fails:
            raise ValueError("x")
        return object()

    async def streamer(promise: Any) -> AsyncIterator[object]:
        yield await resolver(promise)

    async def come(promise: Any, after: int) -> Any:
        await turns(after % 10)
        return await outcome(promise)

    for make in (Promise[object], StreamedPromise[object, Any]):
        runs = 0
        async with PromisingContext():
            promise: Any = make(resolver if make is Promise[object] else streamer, start_soon=start_soon)  # type: ignore[arg-type]
            results = await asyncio.gather(*[come(promise, after) for after in range(consumers)])
            assert len({id(result) for result in [*results, await outcome(promise)]}) == 1
        assert runs == 1


async def test_a_whole_is_made_once() -> None:
    """The default whole of a stream is one tuple, the same object for everybody."""
    async with PromisingContext():
        stream = StreamedPromise(streamer_of([1, 2]))
        wholes = await asyncio.gather(stream, stream, stream.aresolve())
    assert len({id(whole) for whole in [*wholes, await stream]}) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Promise(resolver_of(1)),
        lambda: StreamedPromise(streamer_of([1])),
        lambda: StreamedPromise(streamer_of([1]), resolver=resolver_of(1)),
        lambda: FlatSequence(streamer_of([1]), flatten=lambda item: [item]),
    ],
)
async def test_done_means_that_await_does_not_suspend(make: Any) -> None:
    """`done()` is false until awaiting would not suspend, and true from then on; `repr` works at every moment."""
    async with PromisingContext():
        promise = make()
        for _ in range(20):
            repr(promise)
            was_done = promise.done()
            waiting = promise.__await__()
            suspended = True
            try:
                waiting.send(None)
            except StopIteration:
                suspended = False
            waiting.close()
            assert was_done is not suspended
            await asyncio.sleep(0)
        assert promise.done()


async def test_a_stream_is_read_while_it_is_made() -> None:
    """A reader that waits gets each piece before the next one is made, however many streams are between."""
    gates = [asyncio.Event() for _ in range(3)]

    async def streamer(_: Any) -> AsyncIterator[int]:
        for number, gate in enumerate(gates):
            await gate.wait()
            yield number

    async with PromisingContext():
        stream: Any = StreamedPromise(streamer)
        for _ in range(10):

            async def relay(_: Any, before: Any = stream) -> AsyncIterator[int]:
                async for piece in before:
                    yield piece

            stream = StreamedPromise(relay)
        reader = aiter(stream)
        for number, gate in enumerate(gates):
            gate.set()
            assert await at_rest(anext(reader)) == number
            assert stream.pieces_so_far == tuple(range(number + 1))
            assert stream.done() is (number == 2)
