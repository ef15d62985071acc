"""Agents: async functions that are called by sending messages, and answer with promises of messages."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, TypeVar, overload

from miniagents import persist
from miniagents.error_messages import replies_with_error_messages
from miniagents.interaction import InteractionContext, Replies
from miniagents.sequences import MessageSequence, MessageSequencePromise, MessageType
from miniagents.usage import remember_payers
from promising.promise import StartSoon
from promising.run import current_owner, owner_at_work
from promising.sentinels import DEFAULT, Sentinel

__all__ = ["AgentCall", "MiniAgent", "miniagent"]

AgentFunction = Callable[..., Awaitable[Any]]
AgentT = TypeVar("AgentT", bound=AgentFunction)


class MiniAgent:
    """An agent: a function together with the arguments of its forks. It is immutable. Make one with `@miniagent`.

    Attributes:
        alias: What it is called in errors, logs and pictures of what runs.
        description: What it does, for people and for models that may call it.
    """

    __slots__ = ("__weakref__", "_arguments", "_budgets", "_errors_as_messages", "_function", "alias", "description")

    alias: str
    description: str | None

    def __init__(
        self,
        function: AgentFunction,
        *,
        alias: str,
        description: str | None = None,
        arguments: dict[str, Any] | None = None,
        errors_as_messages: bool | Sentinel = DEFAULT,
        budgets: "tuple[AbstractContextManager[Any], ...]" = (),
    ) -> None:
        self._function = function
        self._budgets = budgets
        self._arguments = arguments or {}
        self._errors_as_messages = errors_as_messages
        self.alias = alias
        self.description = description

    def inquire(
        self,
        messages: MessageType = None,
        *,
        start_soon: StartSoon = DEFAULT,
        errors_as_messages: bool | Sentinel = DEFAULT,
        budget: AbstractContextManager[Any] | None = None,
        **arguments: Any,
    ) -> MessageSequencePromise:
        """Calls the agent. Returns at once; the agent starts at the next switch of tasks.

        Args:
            messages: What to send: text, messages, other agents' unfinished replies, nested lists of all that; see
                `MessageType`.
            start_soon: False to start with the first read of the reply.
            errors_as_messages: Whether an error arrives as an `ErrorMessage` in the reply; the default is what the fork
                or else the context says.
            budget: A limit for what this call and all that it calls may spend, beside the limits that hold already;
                see `miniagents.ext.llm.budget`.
            **arguments: Arguments of the agent's function, for this call.

        Returns:
            The promise of the reply. An error of the agent is raised where the reply is consumed.

        Raises:
            TypeError: The messages cannot be sent.
        """
        owner = current_owner.get()
        if owner is not None and owner._over:
            owner = owner_at_work()
        scope = owner._scope if owner is not None else None
        if errors_as_messages is DEFAULT:
            errors_as_messages = self._errors_as_messages
        if errors_as_messages is DEFAULT:
            errors_as_messages = getattr(scope, "errors_as_messages", False)
        if errors_as_messages:
            return replies_with_error_messages(
                lambda: self.inquire(messages, errors_as_messages=False, budget=budget, **arguments),
                self.alias,
                start_soon,
            )
        if messages is None:
            received = _NOTHING
        elif isinstance(messages, MessageSequencePromise):
            received = messages
        else:
            received = MessageSequencePromise.on_messages(messages)
        if not arguments:
            arguments = self._arguments
        elif self._arguments:
            arguments = {**self._arguments, **arguments}
        if persist.contexts_with_handlers:
            persist.note_entered((received,))
        interaction = InteractionContext(self, received, arguments)
        replies: Replies = Replies.on(interaction._replies)  # type: ignore[assignment]
        replies._interaction = interaction
        context = self._limited_context(budget) if budget is not None or self._budgets else None
        if scope is not None and (scope.start_everything_soon_by_default if start_soon is DEFAULT else start_soon):
            replies._start(owner, context)
        else:
            replies._context = context or copy_context()
            if owner is not None:
                remember_payers(replies._context)
        return replies

    def initiate_inquiry(self, **arguments: Any) -> "AgentCall":
        """Calls the agent now and sends it the messages later.

        Args:
            **arguments: As for `inquire`.

        Returns:
            The call, to send messages to and to take the reply from.
        """
        return AgentCall(self, arguments)

    def fork(
        self,
        *,
        alias: str | None = None,
        description: str | None = None,
        errors_as_messages: bool | Sentinel = DEFAULT,
        budget: AbstractContextManager[Any] | None = None,
        **arguments: Any,
    ) -> "MiniAgent":
        """Makes an agent that has some arguments set already. This one is not changed.

        Args:
            alias: What the fork is called.
            description: What the fork does.
            errors_as_messages: See `inquire`.
            budget: A limit for what all calls of the fork together may spend; see `inquire`.
            **arguments: Arguments of the agent's function, for all calls of the fork; a call can replace them.

        Returns:
            The fork.
        """
        return MiniAgent(
            self._function,
            alias=self.alias if alias is None else alias,
            description=self.description if description is None else description,
            arguments={**self._arguments, **arguments},
            errors_as_messages=self._errors_as_messages if errors_as_messages is DEFAULT else errors_as_messages,
            budgets=self._budgets if budget is None else (*self._budgets, budget),
        )

    def _limited_context(self, budget: AbstractContextManager[Any] | None) -> Context:
        """The context variables of a call with budgets. They are never left: the variables end with the call."""
        context = copy_context()
        for limit in self._budgets if budget is None else (*self._budgets, budget):
            context.run(limit.__enter__)
        return context

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Refuses: agents are not called like functions."""
        raise TypeError(
            f"{self.alias} is an agent and not called like a function; send it messages: `agent.inquire(messages)`, "
            "with the arguments of its function as keyword arguments"
        )

    def __repr__(self) -> str:
        arguments = "".join(f", {name}=..." for name in self._arguments)  # not the values: there may be keys among them
        return f"<MiniAgent {self.alias}{arguments}>"


class AgentCall:
    """A call to which messages are sent while the agent works already. Make one with `agent.initiate_inquiry()`.

    Example:
        ```python
        with agent.initiate_inquiry() as call:
            call.send_message("first")
            call.send_message("second")
        print(await call.reply_sequence())
        ```
    """

    __slots__ = ("_replies", "_sent")

    def __init__(self, agent: MiniAgent, arguments: Mapping[str, Any]) -> None:
        self._sent = MessageSequence()
        self._replies = agent.inquire(self._sent.sequence_promise, **arguments)

    def send_message(self, message: MessageType) -> "AgentCall":
        """Sends whatever can be sent; the agent sees it at once.

        Args:
            message: See `MessageType`.

        Returns:
            The call itself, so that calls can be chained.

        Raises:
            StreamClosedError: The inquiry is finished.
        """
        self._sent.append(message)
        return self

    def reply_sequence(self, *, finish: bool = True) -> MessageSequencePromise:
        """Gives the reply.

        Args:
            finish: Whether to finish the inquiry, so that the agent sees the end of its messages.

        Returns:
            The promise of the reply, always the same one.
        """
        if finish:
            self.finish()
        return self._replies

    def finish(self, error: BaseException | None = None) -> None:
        """Says that no message follows. A second call changes nothing.

        Args:
            error: What the agent gets at the end of its messages instead.
        """
        self._sent.close(error)

    def __enter__(self) -> "AgentCall":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish(error)


@overload
def miniagent(
    target: Callable[..., Any], /, *, alias: str | None = None, description: str | None = None, **arguments: Any
) -> MiniAgent: ...


@overload
def miniagent(
    *, alias: str | None = None, description: str | None = None, **arguments: Any
) -> Callable[[Callable[..., Any]], MiniAgent]: ...


def miniagent(
    target: Callable[..., Any] | None = None,
    /,
    *,
    alias: str | None = None,
    description: str | None = None,
    **arguments: Any,
) -> Any:
    """Makes an agent of an async function, or of a class with `async def __call__(self, ctx)`.

    The function gets the `InteractionContext` and the keyword arguments of `inquire` and `fork`. Of a class an instance
    is made for each call: the keyword arguments go to its constructor, the context to its `__call__`.

    Args:
        target: The function or the class.
        alias: What the agent is called; the name of the function in upper case otherwise.
        description: What it does; its docstring otherwise.
        **arguments: Arguments of the function for all calls.

    Returns:
        The agent, or where no target was given, the decorator.

    Raises:
        TypeError: The target is no async function and no class with an async `__call__`.

    Example:
        ```python
        @miniagent
        async def greeter(ctx: InteractionContext, greeting: str = "Hello") -> None:
            ctx.reply(f"{greeting}, {await ctx.message_promises.as_single_promise()}!")

        polite = greeter.fork(greeting="Good evening")
        print(await polite.inquire("Ada"))
        ```
    """
    if target is None:
        return lambda found: _make(found, alias, description, arguments)
    return _make(target, alias, description, arguments)


def _make(
    target: Callable[..., Any], alias: str | None, description: str | None, arguments: Mapping[str, Any]
) -> MiniAgent:
    return MiniAgent(
        _as_function(target),
        alias=alias or getattr(target, "__name__", type(target).__name__).upper(),
        description=description or inspect.getdoc(target),
        arguments=dict(arguments),
    )


def _as_function(target: Any) -> AgentFunction:
    if isinstance(target, MiniAgent):
        raise TypeError(f"{target!r} is an agent already; `fork` it")
    if isinstance(target, type):
        if not inspect.iscoroutinefunction(getattr(target, "__call__", None)):
            raise TypeError(f"the class {target.__name__} needs `async def __call__(self, ctx)` to be an agent")

        def call(ctx: InteractionContext, /, **arguments: Any) -> Awaitable[Any]:
            instance: Any = target(**arguments)
            outcome: Awaitable[Any] = instance(ctx)
            return outcome

        call.__wrapped__ = target  # type: ignore[attr-defined]  # whose arguments these are
        return call
    if inspect.isasyncgenfunction(target):
        raise TypeError(
            f"{target.__name__} yields, but an agent replies: write `ctx.reply(...)` in place of `yield ...`"
        )
    function = target if inspect.isroutine(target) else getattr(target, "__call__", target)
    if not inspect.iscoroutinefunction(inspect.unwrap(function)) and not inspect.iscoroutinefunction(function):
        name = getattr(target, "__name__", repr(target))
        raise TypeError(f"{name} is not async, so it cannot be an agent; write `async def {name}(ctx, ...)`")
    agent_function: AgentFunction = target
    return agent_function


_NOTHING = MessageSequencePromise(prefill_messages=None)
