"""The replay buffer: what was streamed so far, for any number of readers, from the first piece, at any time."""

from typing import Final, NoReturn, TypeVar

from promising.errors import PromiseCancelledError, StreamClosedError
from promising.pacing import Pacing
from promising.sentinels import Sentinel
from promising.unconsumed import Failure
from promising.waiters import Waiters, wake

__all__ = ["COMPLETE", "ReplayBuffer"]

P = TypeVar("P")

COMPLETE: Final = Sentinel("COMPLETE", "the stream has ended as it should")


class ReplayBuffer(list[P]):
    """The pieces of a stream so far, and its end. It is a list to which nothing is done but appending.

    Several promises can share a buffer: a stream that is forwarded is forwarded by reference. It is a list, rather than
    having one, because there is a buffer for each call of an agent.

    Args:
        appendable: Whether anybody who holds an appender may add pieces, rather than one producer alone.

    Attributes:
        end: None as long as pieces may follow, then `COMPLETE` or the failure that stands at the end.
        waiters: Who waits for the next piece or the end.
        end_waiters: Who waits for the end.
        pacing: How far ahead of its readers the producer may go; None for as far as it likes.
    """

    __slots__ = ("appendable", "end", "end_waiters", "pacing", "waiters")

    def __init__(self, *, appendable: bool = False) -> None:
        self.end: Sentinel | Failure | None = None
        self.waiters: Waiters | None = None
        self.end_waiters: Waiters | None = None
        self.pacing: Pacing | None = None
        self.appendable = appendable

    def add(self, piece: P) -> None:
        """Appends a piece and wakes the readers.

        Raises:
            StreamClosedError: The stream has ended.
            PromiseCancelledError: It was cancelled.
        """
        if self.end is not None:
            self.refuse(piece)
        self.append(piece)
        if self.waiters is not None:
            self.wake_readers()

    def refuse(self, piece: object) -> NoReturn:
        """Raises the reason why nothing can be added any more."""
        if isinstance(self.end, Failure) and isinstance(self.end.error, PromiseCancelledError):
            self.end.throw()
        raise StreamClosedError(
            f"{piece!r:.100} came after the end of its stream"
            + (f", which ended with {self.end.error!r}" if isinstance(self.end, Failure) else "")
            + ". Append it before the stream is closed."
        )

    def finish(self, end: Sentinel | Failure = COMPLETE) -> None:
        """Ends the stream, once; a second end changes nothing."""
        if self.end is None:
            self.end = end
            if self.waiters is not None:
                self.wake_readers()
            if self.end_waiters is not None:
                waiters, self.end_waiters = self.end_waiters, None
                wake(waiters)

    def wake_readers(self) -> None:
        """Wakes whoever waits for the next piece."""
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
