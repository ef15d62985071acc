"""Flat sequences: streams that hold other streams by reference, and are flattened while they are read."""

import math
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from typing import Any, Final, Generic, TypeAlias, TypeVar

from promising.errors import CircularWaitError
from promising.promise import StartSoon, check_callable
from promising.replay import ReplayBuffer
from promising.sentinels import DEFAULT, NO_VALUE, Sentinel
from promising.stream import StreamedPromise, Streamer
from promising.unconsumed import Failure
from promising.waiters import Waiters, park

__all__ = ["AT_END", "NOTHING_YET", "FlatReader", "FlatSequence", "Flatten"]

P = TypeVar("P")
W = TypeVar("W")

Flatten: TypeAlias = Callable[[Any], Iterable["P | FlatSequence[P, Any]"]]

NOTHING_YET: Final = Sentinel("NOTHING_YET", "the next piece has not come yet")
AT_END: Final = Sentinel("AT_END", "no piece follows")


class FlatSequence(StreamedPromise[P, W], Generic[P, W]):
    """A streamed sequence whose items may be sequences in their turn; readers see one flat sequence.

    A nested sequence is held by reference: what it streams is seen through any depth of nesting at once, and forwarding
    it costs the same however long it is. An error in a nested sequence is raised to a reader when it gets there, and
    ends that reader; the other parts go on.

    Args:
        streamer: Makes items, see `StreamedPromise`.
        flatten: Turns an item into pieces and nested `FlatSequence`s, in order; called once for each item.
        prefill_pieces: The items, if all of them are there already.
        start_soon: See `StreamedPromise`.
        max_ahead: See `StreamedPromise`; it counts items.

    Raises:
        TypeError: As in `StreamedPromise`.
        CircularWaitError: The sequence is put into itself. Where that happens in a roundabout way, readers get the
            error.

    Example:
        ```python
        def split(item: str | FlatSequence[str, tuple[str, ...]]) -> list[str | FlatSequence[str, tuple[str, ...]]]:
            return list(item.split()) if isinstance(item, str) else [item]

        inner = FlatSequence[str, tuple[str, ...]](flatten=split, prefill_pieces=["b c"])
        outer = FlatSequence[str, tuple[str, ...]](flatten=split, prefill_pieces=["a", inner, "d"])
        assert await outer == ("a", "b", "c", "d")
        ```
    """

    __slots__ = ("_flatten",)

    _nested = True
    _flatten: "Flatten[P]"

    def __init__(
        self,
        streamer: "Streamer[Any] | None" = None,
        *,
        flatten: "Flatten[P]",
        prefill_pieces: Iterable[Any] | Sentinel = NO_VALUE,
        start_soon: StartSoon = DEFAULT,
        max_ahead: int | None = None,
    ) -> None:
        if flatten is None:
            raise TypeError("a flat sequence needs a function `flatten(item)` that returns pieces and nested sequences")
        check_callable(flatten, "flatten function")
        self._flatten = flatten
        super().__init__(streamer, prefill_pieces=prefill_pieces, start_soon=start_soon, max_ahead=max_ahead)

    def __aiter__(self) -> "AsyncIterator[P]":
        return FlatReader(self)

    def __await__(self) -> Generator[Any, Any, W]:
        if self._value is NO_VALUE:
            reader = FlatReader[P](self, wants_all=True)
            pieces = []
            while (piece := reader.next_nowait()) is not AT_END:
                if piece is NOTHING_YET:
                    yield from park(reader.parking_lot())
                else:
                    pieces.append(piece)
            if self._value is NO_VALUE:  # another awaiter may have been faster
                self._value = tuple(pieces)
        whole: W = self._value
        return whole

    @property
    def pieces_so_far(self) -> tuple[P, ...]:
        """The flat pieces that a reader would get now without waiting, up to the first gap or error."""
        reader = FlatReader[P](self)
        pieces = []
        while (piece := reader.next_nowait(raising=False)) is not AT_END and piece is not NOTHING_YET:
            pieces.append(piece)
        return tuple(pieces)

    def done(self) -> bool:
        """Whether `await` would return or raise at once: all nested sequences have ended, or one of them has failed."""
        if self._value is not NO_VALUE:
            return True
        reader = FlatReader[P](self)
        while (piece := reader.next_nowait(raising=False)) is not AT_END:
            if piece is NOTHING_YET:
                return False
        return True

    def _take(self, piece: Any) -> None:
        for item in self._flatten(piece):
            if item is self:
                raise CircularWaitError(f"{self!r} was put into itself, so that it could never end")
            self._buffer.add(item)  # type: ignore[arg-type]


class FlatReader(Generic[P]):
    """Reads a flat sequence: a position in it, and the positions further out to go back to.

    Args:
        sequence: What to read.
        wants_all: Whether the reader is an unlimited demand for producers that are paced by their readers.
    """

    __slots__ = ("_buffer", "_outer", "_position", "_sequence", "_wants_all")

    def __init__(self, sequence: FlatSequence[P, Any], *, wants_all: bool = False) -> None:
        self._sequence: FlatSequence[P, Any] = sequence
        self._buffer: ReplayBuffer[P] | None = sequence._buffer
        self._position = 0
        self._outer: dict[int, tuple[FlatSequence[P, Any], int]] | None = None  # by the identity of the buffer
        self._wants_all = wants_all

    def __aiter__(self) -> "FlatReader[P]":
        return self

    async def __anext__(self) -> P:
        while (piece := self.next_nowait()) is NOTHING_YET:
            await park(self.parking_lot())
        if piece is AT_END:
            raise StopAsyncIteration
        found: P = piece
        return found

    def next_nowait(self, *, raising: bool = True) -> Any:
        """Takes the next piece if it is there.

        Args:
            raising: False to treat an error as the end.

        Returns:
            A piece, or `NOTHING_YET`, or `AT_END`.

        Raises:
            BaseException: The error that stands at this place. The reader is at its end then.
        """
        while True:
            buffer = self._buffer
            if buffer is None:
                return AT_END
            position = self._position
            if buffer.pacing is not None and raising:
                buffer.pacing.ask_for(math.inf if self._wants_all else position + 1)
            if position < len(buffer):
                piece = buffer[position]
                self._position = position + 1
                if not isinstance(piece, FlatSequence):
                    return piece
                if not self._descend(piece):
                    if raising:
                        raise CircularWaitError("a sequence contains itself, so that it could never end")
                    return AT_END
                continue
            end = buffer.end
            if end is None:
                return NOTHING_YET
            if isinstance(end, Failure):
                self._buffer = self._outer = None
                if raising:
                    end.throw()
                return AT_END
            if not self._outer:
                self._buffer = None
                return AT_END
            _, (self._sequence, self._position) = self._outer.popitem()
            self._buffer = self._sequence._buffer

    def parking_lot(self) -> Waiters:
        """Where to wait when the next piece has not come yet; starts its production if nobody did."""
        if self._sequence._context is not None:
            self._sequence._start_now()
        assert self._buffer is not None
        if self._buffer.waiters is None:
            self._buffer.waiters = []
        return self._buffer.waiters

    def _descend(self, sequence: "FlatSequence[P, Any]") -> bool:
        """Goes on in a nested sequence, unless it is one of those that we are in already; then the reader has ended."""
        if self._outer is None:
            self._outer = {}
        self._outer[id(self._buffer)] = (self._sequence, self._position)
        buffer = sequence._buffer
        if id(buffer) in self._outer:
            self._buffer = self._outer = None
            return False
        self._sequence = sequence
        self._buffer = buffer
        self._position = 0
        return True
