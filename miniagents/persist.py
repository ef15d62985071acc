"""Handing each message of a context to handlers, once, as soon as it is resolved.

Nothing of this costs anything as long as no open context has a handler.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ref

from miniagents.message import Message
from promising.replay import COMPLETE
from promising.sentinels import NO_VALUE

if TYPE_CHECKING:
    from miniagents.context import MiniAgents

__all__ = ["PersistHandler", "Persistence", "contexts_with_handlers", "note_entered"]

PersistHandler: TypeAlias = Callable[[Message], Awaitable[Any]]
"""`async def handler(message)`."""

contexts_with_handlers = 0
"""How many open contexts have a handler: a module variable, because looking at it is all that the others pay."""


class Persistence:
    """The handlers of one context, and the messages that they have been given.

    Args:
        handlers: The handlers, called one after the other for each message.
    """

    def __init__(self, handlers: Iterable[PersistHandler]) -> None:
        self.handlers: list[PersistHandler] = list(handlers)
        self._given: dict[int, ref[Message]] = {}

    def note(self, message: Message, context: "MiniAgents") -> None:
        """Starts the handlers for a message and those nested in it, innermost first, unless they had it before."""
        fresh = [part for part in (*message.iter_nested(), message) if isinstance(part, Message) and self._is_new(part)]
        if fresh:
            context.start_soon(self._hand_over(fresh))

    def _is_new(self, message: Message) -> bool:
        identity = id(message)
        if identity in self._given:
            return False
        self._given[identity] = ref(message, lambda _: self._given.pop(identity, None))
        return True

    async def _hand_over(self, messages: list[Message]) -> None:
        for message in messages:
            for handler in self.handlers:
                await handler(message)


def note_entered(items: Iterable[Any]) -> None:
    """Notes message promises that have entered a sequence in the context at work here."""
    from miniagents.context import MiniAgents

    context = MiniAgents.current()
    if context is None or not context.persistence.handlers:
        return
    for item in items:
        message = item._value
        if message is not NO_VALUE:
            if not isinstance(message, tuple):
                context.persistence.note(message, context)
        elif hasattr(item, "_message_class") and item._run is None and item._context is None:
            context.start_soon(_persist_when_resolved(context, item))  # an appender feeds it: nobody else resolves it


async def _persist_when_resolved(context: "MiniAgents", promise: Any) -> None:
    """Waits for the end of a message without counting as one of its consumers: its error belongs to those."""
    await promise._wait_for_end()
    if promise._buffer.end is COMPLETE:
        context.persistence.note(await promise, context)
