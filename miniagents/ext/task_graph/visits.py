"""A visit of a node of a task graph, among whose modules there can be graphs and other agents."""

from miniagents.ext.graph.events import SpokenPromise, is_event, result_in
from miniagents.ext.graph.visit import Visit
from miniagents.message import Message
from miniagents.messages import MessagePromise
from promising.sentinels import NO_VALUE

__all__ = ["TaskVisit"]


class TaskVisit(Visit):
    """A visit of a node of a task graph: of what it replies, the results of graphs count, and not what led to them."""

    __slots__ = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """See `Visit.messages`."""
        if not self.has_events:
            return tuple(promise._value for promise in self._promises)
        messages: list[Message] = []
        for promise in self._promises:
            if is_event(promise):
                messages += result_in([promise]) or ()
            elif _counts(promise):
                messages.append(promise._value)
        return tuple(messages)

    @property
    def has_events(self) -> bool:
        """See `Visit.has_events`."""
        return any(is_event(promise) for promise in self._promises)

    def unresolved(self) -> list[MessagePromise]:
        """See `Visit.unresolved`."""
        return [one for one in self._promises if one._value is NO_VALUE and _counts(one)]


def _counts(promise: MessagePromise) -> bool:
    """Whether a message is said by the node itself, rather than by a node of a graph in it."""
    return not isinstance(promise, SpokenPromise) and not is_event(promise)
