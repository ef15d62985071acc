"""Readers: one position each in the replay buffer of a stream.

They are classes and no generators, so that leaving a loop early costs nothing, and so that a reader whose `__anext__` was
cancelled (by `asyncio.wait_for`, say) can go on where it was.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from promising.replay import ReplayBuffer
from promising.unconsumed import Failure
from promising.waiters import park

if TYPE_CHECKING:
    from promising.promise import Promise

__all__ = ["PacedReader", "StreamReader", "reader_of"]

P = TypeVar("P")


class StreamReader(Generic[P]):
    """Reads a stream from its first piece.

    Args:
        buffer: The pieces.
        promise: Whose production has to be started when a piece is waited for; None where somebody else sees to it.
    """

    __slots__ = ("_buffer", "_pieces", "_position", "_promise")

    def __init__(self, buffer: ReplayBuffer[P], promise: "Promise[Any] | None") -> None:
        self._buffer: ReplayBuffer[P] | None = buffer
        self._pieces = buffer.pieces
        self._position = 0
        self._promise = promise

    def __aiter__(self) -> "StreamReader[P]":
        return self

    async def __anext__(self) -> P:
        try:
            piece = self._pieces[self._position]
        except IndexError:
            return await self._wait_for_piece()
        self._position += 1
        return piece

    async def _wait_for_piece(self) -> P:
        buffer = self._buffer
        if buffer is None:  # the reader has come to its end before
            raise StopAsyncIteration
        if self._promise is not None and self._promise._context is not None:
            self._promise._start_now()
        pieces = self._pieces
        while self._position >= len(pieces):
            if buffer.end is not None:
                self._buffer = self._promise = None
                if isinstance(buffer.end, Failure):
                    buffer.end.throw()
                raise StopAsyncIteration
            if buffer.waiters is None:
                buffer.waiters = []
            await park(buffer.waiters)
        piece = pieces[self._position]
        self._position += 1
        return piece


class PacedReader(StreamReader[P]):
    """A reader that tells the producer how far it has come."""

    __slots__ = ()

    async def __anext__(self) -> P:
        buffer = self._buffer
        if buffer is not None and buffer.pacing is not None:
            buffer.pacing.ask_for(self._position + 1)
        return await super().__anext__()


def reader_of(buffer: ReplayBuffer[P], promise: "Promise[Any] | None") -> AsyncIterator[P]:
    """Makes the reader that the buffer wants."""
    return StreamReader(buffer, promise) if buffer.pacing is None else PacedReader(buffer, promise)
