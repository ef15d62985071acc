"""Readers: one position each in the replay buffer of a stream.

They are classes and no generators, so that leaving a loop early costs nothing, and so that a reader whose `__anext__`
was cancelled (by `asyncio.wait_for`, say) can go on where it was.
"""

from asyncio import Future
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from promising.pacing import Pacing
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

    # The place of the reader is that of a list iterator, which is the fastest way to the next piece. An iterator that
    # has come to the end of its list is spent, also when the list grows afterwards, so it is replaced by one that
    # stands there.

    __slots__ = ("_ahead", "_buffer", "_promise")

    def __init__(self, buffer: ReplayBuffer[P], promise: "Promise[Any] | None") -> None:
        self._ahead: Iterator[P] = iter(buffer)
        self._buffer: ReplayBuffer[P] | None = buffer
        self._promise = promise

    def __aiter__(self) -> "StreamReader[P]":
        return self

    async def __anext__(self) -> P:
        for piece in self._ahead:
            return piece
        while True:
            await self._wait_at_end()
            for piece in self._ahead:
                return piece

    def _wait_at_end(self) -> "Future[None]":
        """What to await when all pieces so far have been read.

        Raises:
            StopAsyncIteration: No piece follows.
            BaseException: The error that stands at the end of the stream; the reader is at its end afterwards.
        """
        buffer = self._buffer
        if buffer is None:  # the reader has come to its end before
            raise StopAsyncIteration
        if self._promise is not None and self._promise._context is not None:
            self._promise._start_now()
        pieces = buffer
        ahead: Any = iter(pieces)
        ahead.__setstate__(len(pieces))
        self._ahead = ahead
        if buffer.end is not None:
            self._buffer = self._promise = None
            if isinstance(buffer.end, Failure):
                buffer.end.throw()
            raise StopAsyncIteration
        if buffer.waiters is None:
            buffer.waiters = []
        return park(buffer.waiters)


class PacedReader(Generic[P]):
    """A reader that tells the producer how far it has come.

    Args:
        buffer: The pieces.
        pacing: The account of what the readers ask for.
        promise: See `StreamReader`.
    """

    __slots__ = ("_buffer", "_pacing", "_position", "_promise")

    def __init__(self, buffer: ReplayBuffer[P], pacing: Pacing, promise: "Promise[Any] | None") -> None:
        self._buffer: ReplayBuffer[P] | None = buffer
        self._pacing = pacing
        self._position = 0
        self._promise = promise

    def __aiter__(self) -> "PacedReader[P]":
        return self

    async def __anext__(self) -> P:
        buffer = self._buffer
        if buffer is None:
            raise StopAsyncIteration
        if self._promise is not None and self._promise._context is not None:
            self._promise._start_now()
        self._pacing.ask_for(self._position + 1)
        while self._position >= len(buffer):
            if buffer.end is not None:
                self._buffer = self._promise = None
                if isinstance(buffer.end, Failure):
                    buffer.end.throw()
                raise StopAsyncIteration
            if buffer.waiters is None:
                buffer.waiters = []
            await park(buffer.waiters)
        self._position += 1
        return buffer[self._position - 1]


def reader_of(buffer: ReplayBuffer[P], promise: "Promise[Any] | None") -> AsyncIterator[P]:
    """Makes the reader that the buffer wants."""
    if buffer.pacing is None:
        return StreamReader(buffer, promise)
    return PacedReader(buffer, buffer.pacing, promise)
