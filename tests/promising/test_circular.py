"""Rings of waits are errors, not hangs."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from promising import CircularWaitError, FlatSequence, Promise, PromisingContext, StreamAppender, StreamedPromise
from tests.promising.helpers import VIRTUAL_ONLY, error_of, read, resolver_of, streamer_of

pytestmark = pytest.mark.asyncio(**VIRTUAL_ONLY)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
@pytest.mark.parametrize("in_context", [True, False])
async def test_ring_of_awaits(size: int, in_context: bool) -> None:
    """Producers that await each other in a ring fail within a second, and the error names the ring."""
    promises: list[Promise[Any]] = []

    def link(number: int) -> Promise[Any]:
        async def resolver(_: Any) -> Any:
            return await promises[(number + 1) % size]

        resolver.__qualname__ = f"link_{number}"
        return Promise(resolver)

    async def use() -> None:
        promises.extend(link(number) for number in range(size))
        error = await error_of(promises[0])
        assert isinstance(error, CircularWaitError)
        assert all(f"link_{number}" in str(error) for number in range(size))

    started = asyncio.get_running_loop().time()
    if in_context:
        async with PromisingContext():
            await use()
    else:
        await use()
    assert asyncio.get_running_loop().time() - started <= 1


async def test_the_error_is_raised_in_one_wait_which_may_handle_it() -> None:
    """The youngest producer of the ring gets the error and can break the ring; the others never see it."""
    promises: list[Promise[Any]] = []

    async def older(_: Any) -> Any:
        return await promises[1]

    async def youngest(_: Any) -> str:
        try:
            return str(await promises[0])
        except CircularWaitError:
            return "broken"

    async with PromisingContext():
        promises += [Promise(older), Promise(youngest)]
        assert await promises[0] == "broken"


async def test_ring_of_readers() -> None:
    """A ring of `async for` is found as well."""
    streams: list[StreamedPromise[int, Any]] = []

    def link(other: int) -> Any:
        async def streamer(_: Any) -> AsyncIterator[int]:
            async for piece in streams[other]:
                yield piece

        return streamer

    async with PromisingContext():
        streams += [StreamedPromise(link(1)), StreamedPromise(link(0))]
        assert isinstance(await error_of(streams[0]), CircularWaitError)


@pytest.mark.parametrize("foreign", [True, False])
async def test_ring_through_an_appender(foreign: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Where somebody else could still append, a ring is a warning; where nobody could, it is an error."""
    promises: list[Any] = []

    async def writer(_: Any) -> Any:
        appender = StreamAppender[int]()
        promises.append(StreamedPromise(appender))
        if foreign:

            async def append_later() -> None:
                await asyncio.sleep(3)
                with appender:
                    appender.append(1)

            promises.append(asyncio.create_task(append_later()))
        return await reader_promise

    async def reader(_: Any) -> Any:
        await asyncio.sleep(0)
        return await promises[0]

    async with PromisingContext():
        writer_promise = Promise(writer)
        reader_promise = Promise(reader)
        if foreign:
            assert await writer_promise == (1,)
            assert caplog.text.count("wait for each other in a ring") == 1
        else:
            assert isinstance(await error_of(writer_promise), CircularWaitError)


async def test_waits_that_are_no_ring() -> None:
    """Long chains, and producers that wait for anything else, are left alone."""
    async with PromisingContext():

        async def slow(_: Any) -> str:
            await asyncio.sleep(60)
            return "end"

        chain: list[Promise[str]] = [Promise(slow)]
        for _ in range(100):

            async def link(_: Any, before: Promise[str] = chain[-1]) -> str:
                return await before

            chain.append(Promise(link))
        assert await asyncio.gather(*chain) == ["end"] * 101


async def test_a_sequence_that_contains_itself() -> None:
    """Directly, or in a roundabout way, it is an error at once."""

    def same(item: Any) -> list[Any]:
        return [item]

    async with PromisingContext():
        sequences: list[Any] = []

        async def put(_: Any) -> AsyncIterator[Any]:
            yield 1
            yield sequences[0]

        sequences.append(FlatSequence(put, flatten=same))
        assert isinstance(await error_of(sequences[0]), CircularWaitError)
        pair: list[Any] = []

        async def put_other(number: int) -> AsyncIterator[Any]:
            yield pair[1 - number]

        pair += [FlatSequence(lambda _, number=number: put_other(number), flatten=same) for number in (0, 1)]
        for sequence in pair:
            assert isinstance(await error_of(sequence), CircularWaitError)


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_ring_on_a_real_clock() -> None:
    """On uvloop, too, a ring is found within a second."""
    promises: list[Promise[Any]] = []

    async def resolver(_: Any) -> Any:
        return await promises[0]

    started = time.perf_counter()
    async with PromisingContext():
        promises.append(Promise(resolver))
        assert isinstance(await error_of(promises[0]), CircularWaitError)
        assert await read(StreamedPromise(streamer_of([1]))) == [await Promise(resolver_of(1))]
    assert time.perf_counter() - started < 5  # it takes 0.4 s; the rest is for a busy machine
