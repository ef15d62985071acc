"""Appenders: streams that are written to from wherever one likes, rather than made by one generator."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from promising.errors import AppenderNotClosedError, StreamClosedError, as_seen_by_consumers
from promising.readers import reader_of
from promising.replay import COMPLETE, ReplayBuffer
from promising.run import Run, current_owner
from promising.sentinels import DEFAULT, Sentinel
from promising.unconsumed import Failure, UnconsumedErrors

__all__ = ["StreamAppender"]

P = TypeVar("P")


class StreamAppender(Generic[P]):
    """The writing end of a stream; hand it to a `StreamedPromise` as its streamer to make the reading end.

    It is closed by leaving its `with` block, or by `close()`. If it is dropped unclosed, or if the producer in which it
    was made fails or is cancelled, then the stream ends with an error, so that no reader waits for ever.

    Args:
        capture_errors: True if an error that leaves the `with` block goes into the stream alone, False if it is raised
            as well. The default is what the context says (`appenders_capture_errors_by_default`). The cancellation of
            the writer is always raised as well.

    Example:
        ```python
        appender = StreamAppender[str]()
        stream = StreamedPromise(appender)
        with appender:
            appender.append("Hello, ").append("world")
        assert await stream == ("Hello, ", "world")
        ```
    """

    __slots__ = ("__weakref__", "_buffer", "_capture_errors", "_label", "_unconsumed")

    def __init__(self, *, capture_errors: bool | Sentinel = DEFAULT) -> None:
        self._buffer: ReplayBuffer[P] = ReplayBuffer(appendable=True)
        owner = current_owner.get()
        scope = owner._scope if owner is not None else None
        if isinstance(capture_errors, Sentinel):
            capture_errors = scope is not None and scope.appenders_capture_errors_by_default
        self._capture_errors = capture_errors
        self._unconsumed: UnconsumedErrors | None = scope.unconsumed if scope is not None else None
        self._label = "an appender"
        if isinstance(owner, Run):
            self._label = f"an appender of {owner!r}"
            if owner._appenders is None:
                owner._appenders = WeakSet()
            owner._appenders.add(self)

    def append(self, piece: P) -> "StreamAppender[P]":
        """Adds a piece, which all readers see at once.

        Args:
            piece: What is added.

        Returns:
            The appender itself, so that calls can be chained.

        Raises:
            StreamClosedError: The appender has been closed.
            PromiseCancelledError: The stream was cancelled by somebody who reads it: there is no need to go on.
        """
        buffer = self._buffer  # this is `buffer.add(piece)`, without the call, because it is done for each token
        if buffer.end is not None:
            buffer.refuse(piece)
        buffer.append(piece)
        if buffer.waiters is not None:
            buffer.wake_readers()
        return self

    def open(self) -> "StreamAppender[P]":
        """Says that pieces are to come, as entering a `with` block does.

        Returns:
            The appender itself.

        Raises:
            StreamClosedError: It has been closed, and what was closed stays closed.
        """
        if self._buffer.end is not None:
            raise StreamClosedError("this appender was closed and cannot be opened again; make a new one")
        return self

    def close(self, error: BaseException | None = None) -> None:
        """Ends the stream. Closing it again changes nothing.

        Args:
            error: What the readers get at the end, if the stream did not end well.
        """
        if self._buffer.end is None:
            self._buffer.finish(COMPLETE if error is None else self._failure(error))

    def __enter__(self) -> "StreamAppender[P]":
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.close(error)
        return self._capture_errors and isinstance(error, (Exception, KeyboardInterrupt, SystemExit))

    def __call__(self, _promise: Any) -> AsyncIterator[P]:
        """Reads what is appended: what makes an appender a streamer."""
        return reader_of(self._buffer, None)

    def __repr__(self) -> str:
        return f"<{self._label}: {'open' if self._buffer.end is None else 'closed'}, {len(self._buffer)} pieces>"

    def _failure(self, error: BaseException) -> Failure:
        seen = as_seen_by_consumers(error, self)
        if self._unconsumed is not None:
            self._unconsumed.add(seen, self._label)
        return Failure(seen, self._unconsumed)

    def __del__(self) -> None:
        buffer = getattr(self, "_buffer", None)  # the constructor may have failed
        if buffer is not None and buffer.end is None:
            self.close(
                AppenderNotClosedError(
                    f"{self._label} was dropped after {len(buffer)} pieces without being closed. Append inside "
                    "`with appender:`, or call `appender.close()` after the last piece."
                )
            )
