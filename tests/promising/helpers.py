"""What the tests of the promise layer share."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from promising import Promise, StreamedPromise

VIRTUAL_ONLY = {"loop_factories": ["virtual"]}


def resolver_of(value: Any) -> Callable[[Any], Any]:
    async def resolver(_: Any) -> Any:
        await asyncio.sleep(0)
        return value

    return resolver


def streamer_of(pieces: Iterable[Any], error: BaseException | None = None) -> Callable[[Any], AsyncIterator[Any]]:
    async def streamer(_: Any) -> AsyncIterator[Any]:
        for piece in pieces:
            await asyncio.sleep(0)
            yield piece
        if error is not None:
            raise error

    return streamer


async def read(stream: StreamedPromise[Any, Any]) -> list[Any]:
    return [piece async for piece in stream]


async def read_both_ways(stream: StreamedPromise[Any, Any]) -> list[Any]:
    """Iterates a stream and awaits it, in either order and side by side, and gives what all of them agree on."""
    iterated, awaited, again = await asyncio.gather(read(stream), stream, read(stream))
    assert tuple(iterated) == awaited == tuple(again) == await stream
    return iterated


async def read_until_error(stream: StreamedPromise[Any, Any]) -> tuple[list[Any], BaseException | None]:
    pieces: list[Any] = []
    reader = aiter(stream)
    try:
        async for piece in reader:
            pieces.append(piece)
    except BaseException as error:
        try:
            await anext(reader)
        except StopAsyncIteration:  # a reader is at its end after the error
            return pieces, error
        raise AssertionError("the reader went on after an error") from error
    return pieces, None


async def error_of(promise: Promise[Any]) -> BaseException:
    try:
        await promise
    except BaseException as error:
        return error
    raise AssertionError(f"{promise!r} did not fail")
