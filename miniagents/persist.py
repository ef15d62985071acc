"""Handing each message of a context to handlers, once, as soon as it is resolved.

Nothing of this costs anything as long as no open context has a handler.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ref

from miniagents.message import Message
from promising.replay import COMPLETE
from promising.sentinels import NO_VALUE
from promising.sequence import FlatSequence
from promising.waiters import park

if TYPE_CHECKING:
    from miniagents.context import MiniAgents

__all__ = ["PersistHandler", "Persistence", "contexts_with_handlers", "note_complete", "note_entered"]

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
            context.start_soon(self._hand_over(fresh, context))

    def _is_new(self, message: Message) -> bool:
        identity = id(message)
        if identity in self._given:
            return False
        self._given[identity] = ref(message, lambda _: self._given.pop(identity, None))
        return True

    async def _hand_over(self, messages: list[Message], context: "MiniAgents") -> None:
        for message in messages:
            for handler in self.handlers:
                try:
                    await handler(message)
                except Exception as error:  # the other handlers, and the other messages, have nothing to do with it
                    context.unconsumed.add(error, "a handler of on_persist_message")


def note_entered(items: Iterable[Any]) -> None:
    """Notes promises of messages, and of sequences of them, that have come into the context at work here.

    A message that is still streamed is noted by its own producer, if that is at work in this context; else it is
    watched, and so are sequences, since what is in them may have been made elsewhere. To watch is not to read: nothing
    is started by it, and errors stay with those who consume them.
    """
    from miniagents.context import MiniAgents

    context = MiniAgents.current()
    if context is None or not context.persistence.handlers:
        return
    for item in items:
        if not isinstance(item, FlatSequence):
            _note_message(item, context)
        elif item._buffer or item._buffer.end is None:
            context.start_soon(_watch_sequence(item, context))


def note_complete(promise: Any) -> None:
    """Notes the promise of a message all of whose tokens have come, and whose producer is at work here."""
    from miniagents.context import MiniAgents

    context = MiniAgents.current()
    if context is not None and context.persistence.handlers:
        context.start_soon(_watch_message(promise, context))


def _note_message(promise: Any, context: "MiniAgents") -> None:
    if promise._value is not NO_VALUE:
        context.persistence.note(promise._value, context)
    elif promise._context is None and (promise._run is None or promise._run._scope is not context):
        context.start_soon(_watch_message(promise, context))


async def _watch_message(promise: Any, context: "MiniAgents") -> None:
    await promise._wait_for_end()
    if promise._buffer.end is COMPLETE:
        context.persistence.note(await promise, context)


async def _watch_sequence(sequence: Any, context: "MiniAgents") -> None:
    pending, seen = [sequence], {id(sequence)}
    while pending:
        part = pending.pop()
        buffer, position = part._buffer, 0
        while True:
            for item in buffer[position:]:
                if not isinstance(item, FlatSequence):
                    _note_message(item, context)
                elif id(item) not in seen:
                    seen.add(id(item))
                    pending.append(item)
            position = len(buffer)
            if buffer.end is not None or part._context is not None:
                break  # that is all, or all that there is before somebody starts it
            if buffer.waiters is None:
                buffer.waiters = []
            await park(buffer.waiters)
