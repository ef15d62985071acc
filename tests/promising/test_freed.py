"""What is over is freed at once, by reference counting alone."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from miniagents.testing import quiescence
from promising import FlatSequence, Promise, PromisingContext, StreamAppender, StreamedPromise
from tests.promising.at_rest import forever
from tests.promising.helpers import VIRTUAL_ONLY, read, resolver_of, streamer_of


class Payload:
    """Something that tells when it is freed."""


@pytest.fixture(autouse=True)
def _without_the_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def same(item: Any) -> list[Any]:
    return [item]


async def one_then_wait(_: Any) -> AsyncIterator[int]:
    yield 1
    await forever()


async def _calls_another(_: Any) -> Any:
    return await Promise(resolver_of(1))


def _appended() -> StreamedPromise[Any, Any]:
    with StreamAppender[int]() as appender:
        appender.append(1)
    return StreamedPromise(appender)


KINDS = {
    "promise": lambda: Promise(resolver_of(1)),
    "lazy promise": lambda: Promise(resolver_of(1), start_soon=False),
    "promise of a promise": lambda: Promise(_calls_another),
    "stream": lambda: StreamedPromise(streamer_of([1, 2])),
    "stream with resolver": lambda: StreamedPromise(streamer_of([1]), resolver=resolver_of(1)),
    "lazy stream": lambda: StreamedPromise(streamer_of([1, 2]), start_soon=False),
    "bounded stream": lambda: StreamedPromise(streamer_of([1, 2]), max_ahead=1),
    "forwarded stream": lambda: StreamedPromise(StreamedPromise(streamer_of([1, 2]))),
    "appended stream": _appended,
    "sequence": lambda: FlatSequence(streamer_of([1, 2]), flatten=same),
    "nested sequence": lambda: FlatSequence(
        flatten=same, prefill_pieces=[FlatSequence(streamer_of([1, 2]), flatten=same)]
    ),
}


@pytest.mark.parametrize("handlers", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_over_is_freed(kind: str, handlers: int) -> None:
    """A promise that was consumed, and the task that brought it, are freed when nobody holds them, context or not."""

    async def handler(promise: Any, value: Any) -> None:
        pass

    async def use() -> list[Any]:
        promise = KINDS[kind]()
        await promise
        if isinstance(promise, StreamedPromise):
            await read(promise)
        return [weakref.ref(promise)]

    async with PromisingContext(on_promise_resolved=[handler] * handlers):
        inside = await use()
        await quiescence()
        assert [reference() for reference in inside] == [None]
    assert [reference() for reference in await use()] == [None]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("make", [lambda: Promise(forever), lambda: StreamedPromise(one_then_wait)])
async def test_what_was_cancelled_is_freed(make: Any) -> None:
    """A cancelled promise is freed when its clean-up is done."""

    async def use() -> Any:
        promise = make()
        await quiescence()
        promise.cancel()
        return weakref.ref(promise)

    async with PromisingContext():
        reference = await use()
        await quiescence()
        assert reference() is None


async def test_what_was_never_started_is_freed() -> None:
    """A promise that nobody awaited leaves nothing behind."""
    references = [weakref.ref(Promise(resolver_of(1))), weakref.ref(StreamedPromise(streamer_of([1])))]
    async with PromisingContext():
        references.append(weakref.ref(Promise(resolver_of(1), start_soon=False)))
        references.append(weakref.ref(StreamedPromise(streamer_of([1]), start_soon=False)))  # type: ignore[arg-type]
        await quiescence()
        assert [reference() for reference in references] == [None] * 4


async def test_values_and_pieces_are_freed_with_their_promise() -> None:
    """What a promise holds, and what its producer held, goes with it."""
    references: list[Any] = []

    def payload() -> Payload:
        made = Payload()
        references.append(weakref.ref(made))
        return made

    async def resolver(_: Any) -> Payload:
        local = payload()
        await asyncio.sleep(0)
        del local
        return payload()

    async def streamer(_: Any) -> AsyncIterator[Payload]:
        local = payload()
        yield payload()
        del local

    async def use() -> None:
        await Promise(resolver)
        await StreamedPromise(streamer)

    async with PromisingContext():
        await use()
        await quiescence()
        assert [reference() for reference in references] == [None] * 4


async def test_a_producer_is_freed_before_its_value() -> None:
    """A promise that is kept for its value keeps neither its resolver nor what that one referred to."""
    held = Payload()
    reference = weakref.ref(held)

    async def resolver(_: Any, held: Payload = held) -> str:
        return "value"

    async def streamer(_: Any, held: Payload = held) -> AsyncIterator[str]:
        yield "piece"

    async with PromisingContext():
        kept: list[Any] = [Promise(resolver), StreamedPromise(streamer), FlatSequence(streamer, flatten=same)]
        await asyncio.gather(*kept)
        await quiescence()
        del held, resolver, streamer
        assert reference() is None
        assert await asyncio.gather(*kept) == ["value", ("piece",), ("piece",)]


@pytest.mark.asyncio(**VIRTUAL_ONLY)
@pytest.mark.parametrize("others", [False, True])
async def test_a_context_is_freed(others: bool) -> None:
    """A context that has ended is not kept by anything, also while another one goes on in the same loop."""
    ending = asyncio.Event()

    async def use() -> Any:
        async with PromisingContext() as context:
            Promise(resolver_of(1))
            context.start_soon(asyncio.sleep(0))
            await asyncio.sleep(1)
        return weakref.ref(context)

    async def other() -> None:
        async with PromisingContext():
            await ending.wait()

    tasks = [asyncio.create_task(use())]
    await asyncio.sleep(0)
    if others:
        tasks.append(asyncio.create_task(other()))
    reference = await tasks.pop(0)
    await asyncio.sleep(10)  # until the timers that the context had are over
    gc.collect()  # a context knows itself; there is one for many calls
    assert reference() is None
    ending.set()
    await asyncio.gather(*tasks)


async def test_nothing_is_left_for_the_collector() -> None:
    """A thousand calls leave no cycle of references behind."""

    async def use() -> None:
        async with PromisingContext():
            for _ in range(200):
                for kind in ("promise of a promise", "stream", "stream with resolver", "sequence", "appended stream"):
                    await KINDS[kind]()

    await use()
    gc.collect()
    await use()
    assert gc.collect() < 100
