"""The promise of a whole that comes piece by piece."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from typing import Any, Generic, TypeAlias, TypeVar, overload

from promising.appender import StreamAppender
from promising.pacing import Pacing
from promising.promise import Promise, StartSoon, check_callable
from promising.readers import reader_of
from promising.replay import ReplayBuffer
from promising.sentinels import DEFAULT, NO_VALUE, Sentinel
from promising.unconsumed import Failure
from promising.waiters import park

__all__ = ["StreamedPromise", "Streamer", "as_async_iterator"]

P = TypeVar("P")
W = TypeVar("W")

Streamer: TypeAlias = Callable[[Any], AsyncIterator[P]]
"""What makes the pieces: an async generator function that is given the promise. An appender and a stream qualify
too."""


class StreamedPromise(Promise[W], Generic[P, W]):
    """The promise of a whole value that is streamed piece by piece.

    `async for piece in promise` reads it from the first piece, as often and from as many tasks as one likes, now or
    later; `await promise` waits for the whole. An error of the producer stands at its place in the stream: every reader
    gets the pieces before it, then the error, then the end.

    Args:
        streamer: `async def streamer(promise)` that yields the pieces; or a `StreamAppender`; or another
            `StreamedPromise`. A subclass may define `async def _streamer(self)` instead.
        resolver: `async def resolver(promise) -> whole`, which runs after the clean end of the stream, in the same
            task. A subclass may define `async def _resolver(self)` instead. The default whole is the tuple of the
            pieces.
        prefill_pieces: The pieces, if all of them are there already.
        prefill_result: The whole, if it is there already.
        start_soon: False to start with the first read, and to produce only what the readers ask for.
        max_ahead: How many pieces the producer may be ahead of its furthest reader before it is paused; at least 1. An
            awaiter of the whole asks for everything.

    Raises:
        TypeError: Not exactly one of streamer and pieces, both of resolver and result, or something that cannot be
            called.
        ValueError: `max_ahead` is less than 1, or given for an appender, which nobody can pause.

    Example:
        ```python
        async def count(promise: StreamedPromise[int, tuple[int, ...]]) -> AsyncIterator[int]:
            for number in range(3):
                yield number

        numbers = StreamedPromise(count)
        assert [number async for number in numbers] == [0, 1, 2]
        assert await numbers == (0, 1, 2)
        ```
    """

    __slots__ = ("_buffer", "_given_streamer", "_whole_from_pieces")

    _nested = False  # whether the buffer holds other streams, which are flattened on reading
    _buffer: ReplayBuffer[P]
    _whole_from_pieces: bool  # the whole is made of the pieces on demand; else a resolver makes it, or it was given

    @overload
    def __init__(
        self: "StreamedPromise[P, tuple[P, ...]]",  # pyright: ignore[reportInvalidTypeVarUse]
        streamer: "Streamer[P] | None" = None,
        *,
        prefill_pieces: Iterable[P] | Sentinel = NO_VALUE,
        start_soon: StartSoon = DEFAULT,
        max_ahead: int | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        streamer: "Streamer[P] | None" = None,
        *,
        resolver: "Callable[[Any], Awaitable[W]] | None" = None,
        prefill_pieces: Iterable[P] | Sentinel = NO_VALUE,
        prefill_result: W | Sentinel = NO_VALUE,
        start_soon: StartSoon = DEFAULT,
        max_ahead: int | None = None,
    ) -> None: ...

    def __init__(
        self,
        streamer: "Streamer[P] | None" = None,
        *,
        resolver: "Callable[[Any], Awaitable[W]] | None" = None,
        prefill_pieces: Iterable[P] | Sentinel = NO_VALUE,
        prefill_result: Any = NO_VALUE,
        start_soon: StartSoon = DEFAULT,
        max_ahead: int | None = None,
    ) -> None:
        self._value = prefill_result
        self._context = self._failure = self._run = self._waiters = None
        self._given_resolver = resolver
        self._given_streamer = streamer
        has_streamer_method = type(self)._streamer is not StreamedPromise._streamer
        has_resolver_method = type(self)._resolver is not Promise._resolver
        has_streamer = has_streamer_method or streamer is not None
        has_resolver = has_resolver_method or resolver is not None
        if has_streamer is (prefill_pieces is not NO_VALUE) or (has_streamer_method and streamer is not None):
            raise TypeError(_ONE_OF_TWO.format(type(self).__name__))
        if has_resolver_method + (resolver is not None) + (prefill_result is not NO_VALUE) > 1:
            raise TypeError(_AT_MOST_ONE.format(type(self).__name__))
        check_callable(resolver, "resolver")
        check_callable(streamer, "streamer")
        self._whole_from_pieces = not has_resolver and prefill_result is NO_VALUE
        pacing = _pacing(streamer, self._is_to_be_lazy(start_soon), max_ahead)
        if self._whole_from_pieces and max_ahead is None and not self._nested:  # items may have to be flattened first
            shared = _buffer_to_share(streamer)
            if shared is not None:
                self._buffer = shared
                if isinstance(streamer, StreamAppender):
                    self._given_streamer = None  # an appender that everybody else has dropped has to be noticed
                return
        self._buffer = ReplayBuffer()
        if isinstance(prefill_pieces, Sentinel):
            self._buffer.pacing = pacing
        else:
            for piece in prefill_pieces:
                self._take(piece)
            self._buffer.finish()
        if has_streamer or has_resolver:
            self._start_soon_or_later(start_soon)

    # --- what a consumer uses ---

    def __aiter__(self) -> "AsyncIterator[P]":
        return reader_of(self._buffer, self)

    def __await__(self) -> Generator[Any, Any, W]:
        if self._value is NO_VALUE:
            if self._context is not None:
                self._start_now()
            buffer = self._buffer
            if buffer.pacing is not None:
                buffer.pacing.ask_for_all()
            if not self._whole_from_pieces:
                return (yield from Promise.__await__(self))
            while buffer.end is None:
                if buffer.end_waiters is None:
                    buffer.end_waiters = []
                yield from park(buffer.end_waiters)
            if isinstance(buffer.end, Failure):
                buffer.end.throw()
            if self._value is NO_VALUE:  # another awaiter may have been faster
                self._value = self._make_whole()
        whole: W = self._value
        return whole

    @property
    def pieces_so_far(self) -> tuple[P, ...]:
        """The pieces that have been streamed so far, without waiting for more."""
        return tuple(self._buffer)

    def cancel(self) -> bool:
        """See `Promise.cancel`. A stream that an appender feeds ends; one that forwards another leaves that alone."""
        if self._run is None and isinstance(self._given_streamer, StreamedPromise) and self._context is None:
            return False
        return super().cancel()

    def __call__(self, _promise: Any) -> "AsyncIterator[P]":
        """Reads this stream: what makes a streamed promise a streamer for another one."""
        return self.__aiter__()

    # --- the state ---

    @property
    def _settled(self) -> bool:
        if self._whole_from_pieces:
            return self._buffer.end is not None
        return self._value is not NO_VALUE or self._failure is not None

    def _current_failure(self) -> Failure | None:
        end = self._buffer.end
        return end if isinstance(end, Failure) else self._failure

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {len(self._buffer)} pieces>"

    def _label(self) -> str:
        if self._run is not None:
            return repr(self._run)
        return getattr(self._given_streamer, "__qualname__", None) or super()._label()

    # --- the work ---

    def _streamer(self) -> AsyncIterator[P]:
        """Makes the pieces. Override it in a subclass, or give a streamer to the constructor."""
        assert self._given_streamer is not None
        return self._given_streamer(self)

    async def _produce(self) -> None:
        buffer = self._buffer
        if buffer.end is None:
            pacing = buffer.pacing
            take = self._take
            pieces = as_async_iterator(self._streamer(), "the streamer", self)
            self._given_streamer = None  # an appender that everybody else has dropped has to be noticed
            try:
                if pacing is None:
                    async for piece in pieces:
                        take(piece)
                else:
                    await pacing.pause(0)
                    async for piece in pieces:
                        take(piece)
                        await pacing.pause(len(buffer))
            finally:
                close = getattr(pieces, "aclose", None)
                if close is not None:
                    await close()
            buffer.finish()
            self._has_ended_well()
        if not self._whole_from_pieces:
            if self._value is NO_VALUE:
                self._resolve(await self._resolver())
            return
        scope = self._run._scope if self._run is not None else None
        if scope is not None and scope.observes_resolutions and self.done():
            self._note_resolved(await self)  # not before it is done: to listen is not to read, lazy parts stay lazy

    def _has_ended_well(self) -> None:
        """Is called when all pieces have come, in the task of the producer."""

    def _take(self, piece: P) -> None:
        """Adds what the streamer has yielded."""
        self._buffer.add(piece)

    async def _wait_for_end(self) -> None:
        """Waits until no piece follows, without starting the work and without counting as a consumer of its error."""
        buffer = self._buffer
        while buffer.end is None:
            if buffer.end_waiters is None:
                buffer.end_waiters = []
            await park(buffer.end_waiters)

    def _make_whole(self) -> Any:
        """Makes the whole of a complete stream that has no resolver."""
        return tuple(self._buffer)

    # --- the outcome ---

    def _can_fail(self) -> bool:
        return self._buffer.end is None or not self._settled

    def _settle(self, failure: Failure) -> None:
        self._buffer.finish(failure)
        self._given_streamer = None
        if not self._settled:
            super()._settle(failure)


def as_async_iterator(produced: Any, what: str, promise: object) -> AsyncIterator[Any]:
    """Checks what a streamer has returned.

    Args:
        produced: Its return value.
        what: What to call the streamer in the error.
        promise: Which promise it is for; only its `repr` is used.

    Returns:
        The async iterator over the pieces.

    Raises:
        TypeError: It is none; the message says what was probably meant.
    """
    if hasattr(produced, "__aiter__"):
        iterator: AsyncIterator[Any] = produced.__aiter__()
        return iterator
    hint = "It has to be an async generator function: `async def` with `yield` in it."
    if inspect.iscoroutine(produced):
        produced.close()
        hint = "It is an `async def` without any `yield`; yield the pieces, or make it a resolver."
    elif inspect.isgenerator(produced):
        hint = "It is a generator function; write `async def` in place of `def`."
    raise TypeError(f"{what} of {promise!r} returned {produced!r:.100}, which is no async iterator. {hint}")


def _pacing(streamer: object, lazy: bool, max_ahead: int | None) -> Pacing | None:
    if max_ahead is not None:
        if max_ahead < 1:
            raise ValueError(f"max_ahead is {max_ahead}; it has to be at least 1 (start_soon=False for no piece ahead)")
        if isinstance(streamer, StreamAppender):
            raise ValueError("max_ahead cannot pause an appender: whoever appends decides when")
        return Pacing(max_ahead)
    return Pacing(0) if lazy else None


def _buffer_to_share(streamer: object) -> ReplayBuffer[Any] | None:
    """The buffer that a promise can read by reference, instead of copying it piece by piece in a task of its own."""
    if isinstance(streamer, StreamAppender):
        return streamer._buffer
    if isinstance(streamer, StreamedPromise) and streamer._context is None and not streamer._nested:
        buffer: ReplayBuffer[Any] = streamer._buffer
        return buffer
    return None


_ONE_OF_TWO = (
    "{} needs exactly one of `streamer` (or a `_streamer` method of a subclass), which makes the pieces, and "
    "`prefill_pieces`, which are the pieces."
)
_AT_MOST_ONE = (
    "{} takes at most one of `resolver` (or a `_resolver` method of a subclass), which makes the whole, and "
    "`prefill_result`, which is the whole."
)
