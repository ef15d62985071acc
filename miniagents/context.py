"""`MiniAgents`: the scope in which agents work."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TypeVar

from miniagents import persist
from miniagents.message import Message
from miniagents.persist import Persistence, PersistHandler
from miniagents.usage import NO_USAGE, Usage
from promising.context import PromiseResolvedHandler, PromisingContext

__all__ = ["MiniAgents", "run"]

T = TypeVar("T")
HandlerT = TypeVar("HandlerT", bound=Callable[[Message], Awaitable[Any]])
ContextT = TypeVar("ContextT", bound="MiniAgents")


class MiniAgents(PromisingContext):
    """The context of agents: inside of it calls start at once, and leaving it waits for all of them.

    Args:
        start_everything_soon_by_default: See `PromisingContext`.
        appenders_capture_errors_by_default: See `PromisingContext`.
        on_promise_resolved: See `PromisingContext`.
        errors_as_messages: Whether the error of an agent arrives as an `ErrorMessage` in its reply, rather than being
            raised where the reply is consumed. A fork or a call can say otherwise.
        on_persist_message: A handler, or several: `async def handler(message)` gets each message object of this context
            once, as soon as it is resolved, nested messages first.
        budget: A limit for what is spent in this context, see `miniagents.ext.llm.budget`.

    Example:
        ```python
        mini_agents = MiniAgents()

        @mini_agents.on_persist_message
        async def store(message: Message) -> None:
            database[message.hash_key] = message.serialize()

        print(mini_agents.run(agent.inquire("Hello!")))
        ```
    """

    def __init__(
        self,
        *,
        start_everything_soon_by_default: bool = True,
        appenders_capture_errors_by_default: bool = False,
        on_promise_resolved: PromiseResolvedHandler | Iterable[PromiseResolvedHandler] = (),
        errors_as_messages: bool = False,
        on_persist_message: PersistHandler | Iterable[PersistHandler] = (),
        budget: AbstractContextManager[Any] | None = None,
    ) -> None:
        super().__init__(
            start_everything_soon_by_default=start_everything_soon_by_default,
            appenders_capture_errors_by_default=appenders_capture_errors_by_default,
            on_promise_resolved=on_promise_resolved,
        )
        self.errors_as_messages = errors_as_messages
        handlers = (on_persist_message,) if callable(on_persist_message) else on_persist_message
        self.persistence = Persistence(handlers)
        self._counted = False
        self._budget = budget
        self._spent = NO_USAGE

    @property
    def usage(self) -> Usage:
        """What has been spent on models in this context so far."""
        return self._spent

    def on_persist_message(self, handler: HandlerT) -> HandlerT:
        """Registers a handler that gets each message of this context once; see the class.

        Args:
            handler: `async def handler(message)`.

        Returns:
            The handler, so that this can decorate it.
        """
        self.persistence.handlers.append(handler)
        self._count_handlers()
        return handler

    def run(self, awaitable: Awaitable[T]) -> T:
        """Runs an event loop with this context until the awaitable has ended, and all that was started along with it.

        Args:
            awaitable: A coroutine, or the promise of a reply.

        Returns:
            What it returns.

        Raises:
            RuntimeError: An event loop is running here already; use `await mini_agents.arun(...)` there.
            KeyboardInterrupt: Ctrl+C was pressed, or an agent raised it and nobody consumed it.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self.arun(awaitable))
        if asyncio.iscoroutine(awaitable):
            awaitable.close()
        raise RuntimeError("an event loop is running here already; use `await mini_agents.arun(...)` in place of `run`")

    async def arun(self, awaitable: Awaitable[T]) -> T:
        """Does what `run` does in the event loop that is running.

        Args:
            awaitable: A coroutine, or the promise of a reply.

        Returns:
            What it returns.
        """
        async with self:
            return await awaitable

    async def __aenter__(self: ContextT) -> ContextT:
        await super().__aenter__()
        self._count_handlers()
        if self._budget is not None:
            self._budget.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, traceback)
        finally:
            if self._budget is not None:
                self._budget.__exit__(kind, error, traceback)
            if self._counted:
                self._counted = False
                persist.contexts_with_handlers -= 1

    def _count_handlers(self) -> None:
        if self.persistence.handlers and self.loop is not None and not self._counted:
            self._counted = True
            persist.contexts_with_handlers += 1


def run(awaitable: Awaitable[T]) -> T:
    """Runs the awaitable in a new `MiniAgents` context and a new event loop: short for `MiniAgents().run(awaitable)`.

    Args:
        awaitable: A coroutine, or the promise of a reply.

    Returns:
        What it returns.
    """
    return MiniAgents().run(awaitable)
