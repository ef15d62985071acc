"""What a node is sent: the replies of those before it, one after the other."""

from collections.abc import Iterable
from typing import Any

from miniagents.sequences import MessageSequencePromise, flatten_messages
from promising.replay import COMPLETE, ReplayBuffer
from promising.sentinels import NO_VALUE

__all__ = ["inputs_of"]


def inputs_of(replies: "Iterable[MessageSequencePromise]") -> MessageSequencePromise:
    """Makes one sequence of replies, which are held by reference.

    Args:
        replies: The replies.

    Returns:
        The sequence.
    """
    return _Inputs(replies)


# What is the same for all of them is said of the class, as one is made for each node: slots would have to be filled.


class _CompleteBuffer(ReplayBuffer[Any]):
    """A buffer to which nothing is added."""

    __slots__ = ()

    end = COMPLETE
    waiters = end_waiters = pacing = None
    appendable = False

    def __init__(self, items: Iterable[Any]) -> None:
        list.__init__(self, items)


class _Inputs(MessageSequencePromise):
    """A sequence of sequences that are there."""

    __slots__ = ()

    _context = _failure = _run = _waiters = _given_resolver = _given_streamer = None
    _whole_from_pieces = True
    _flatten = staticmethod(flatten_messages)

    def __init__(self, replies: Iterable[MessageSequencePromise]) -> None:
        self._value = NO_VALUE
        self._buffer = _CompleteBuffer(replies)
