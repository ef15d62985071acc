"""Reading the reply of a node while it is made, without a task that does so."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise
from promising.replay import COMPLETE
from promising.sequence import AT_END, NOTHING_YET, FlatReader

if TYPE_CHECKING:
    from miniagents.ext.graph.visit import Visit

__all__ = ["Follower"]


class Follower:
    """Reads the reply of one attempt. It stands in parking lots in place of a future: there is no task to wake.

    Args:
        replies: The reply.
        visit: Whose attempt it is.

    Attributes:
        has_ended: Whether all has been read.
        error: What stood at the end in place of a further message.
    """

    __slots__ = ("_reader", "_replies", "error", "has_ended", "visit")

    def __init__(self, replies: MessageSequencePromise, visit: "Visit") -> None:
        self.visit = visit
        self.has_ended = False
        self.error: BaseException | None = None
        self._replies = replies
        self._reader: FlatReader[MessagePromise] | None = None  # as long as there is none, nothing has been read

    def read(self) -> Sequence[MessagePromise]:
        """Gives what has come since. If that is not all, the visit is woken when there is more."""
        if self._reader is None:
            buffer = self._replies._buffer
            if buffer.end is COMPLETE and all(type(one) is MessagePromise for one in buffer):
                self.has_ended = True  # everything has come at once, as it mostly does
                return buffer
            self._reader = FlatReader(self._replies)
        return self._read_on(self._reader)

    def waits_from_the_start(self) -> bool:
        """Looks whether there is nothing yet, as with an agent that has just been called, and waits then."""
        buffer = self._replies._buffer
        if buffer or buffer.end is not None or buffer.pacing is not None:
            return False
        if self._replies._context is not None:
            self._replies._start_now()
        if buffer.waiters is None:
            buffer.waiters = []
        buffer.waiters.append(self)  # type: ignore[arg-type]  # it does what is needed of a future
        return True

    def _read_on(self, reader: FlatReader[MessagePromise]) -> list[MessagePromise]:
        found: list[MessagePromise] = []
        try:
            while (promise := reader.next_nowait()) is not AT_END:
                if promise is NOTHING_YET:
                    reader.parking_lot().append(self)  # type: ignore[arg-type]  # as above
                    return found
                found.append(promise)
        except BaseException as error:
            self.error = error
        self.has_ended = True
        return found

    @property
    def read_so_far(self) -> Sequence[MessagePromise]:
        """All that it has read, when it has come to the end."""
        is_flat = self._reader is None or self._reader._outer is None
        return self._replies._buffer if is_flat else self._replies.pieces_so_far

    def done(self) -> bool:
        """Whether nobody waits any more; see `asyncio.Future`."""
        return self.visit.follower is not self

    def set_result(self, _: None) -> None:
        """Something has come; see `asyncio.Future`."""
        self.visit.run.wake(self)
