"""Hooks: functions of the user that are told what an LLM agent does, and the events that they are told.

A hook is a function, sync or async, of one event. It is called when the thing happens and, if it is async, awaited
before the agent goes on, so that hooks see events in their order. A hook that fails is logged and disturbs nothing.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict

from miniagents.ext.llm.llm_common import AssistantMessage
from miniagents.message import Message
from miniagents.usage import Usage

__all__ = [
    "AfterRequest",
    "BeforeRequest",
    "BudgetExceeded",
    "Caller",
    "ContextOverflow",
    "ErrorEvent",
    "Event",
    "FunctionCallEnd",
    "FunctionCallError",
    "FunctionCallStart",
    "Hook",
    "Hooks",
    "HooksArgument",
    "ManualStop",
]

_logger = logging.getLogger("miniagents")


class Event(BaseModel):
    """Something that has happened in an LLM agent.

    Attributes:
        user_id: For whom the agent works, if it was told.
        chat_id: In which conversation, if it was told.
        agent_name: The agent.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    hook: ClassVar[str]

    user_id: str | None = None
    chat_id: str | None = None
    agent_name: str


class BeforeRequest(Event):
    """A model is about to be asked. A request that is tried again is one request.

    Attributes:
        model: The model.
        messages: The conversation that is sent.
    """

    hook = "on_before_request"
    model: str
    messages: tuple[Message, ...]


class AfterRequest(Event):
    """A model has answered.

    Attributes:
        model: The model.
        message: The answer, with its usage.
        seconds: How long it took.
    """

    hook = "on_after_request"
    model: str
    message: AssistantMessage
    seconds: float


class FunctionCallStart(Event):
    """A tool is about to be called.

    Attributes:
        tool_call_id: Which call it is.
        function_name: The tool.
        arguments: The arguments as the model has written them.
    """

    hook = "on_function_call_start"
    tool_call_id: str
    function_name: str
    arguments: str


class FunctionCallEnd(FunctionCallStart):
    """A tool has returned.

    Attributes:
        result: The text that the model gets.
        seconds: How long it took.
    """

    hook = "on_function_call_end"
    result: str
    seconds: float


class FunctionCallError(FunctionCallStart):
    """A tool has failed, or could not be called: it does not exist, its arguments do not fit, it was refused.

    Attributes:
        error: The text that the model gets.
        exception: What was raised.
        seconds: How long it took.
    """

    hook = "on_function_call_error"
    error: str
    exception: BaseException
    seconds: float


class ContextOverflow(Event):
    """A conversation does not fit into the context of the model.

    Attributes:
        context_length: Its length in tokens, estimated or counted.
        max_context_length: The limit, if it is the length that is exceeded.
        dropped: What is not sent.
    """

    hook = "on_context_overflow"
    context_length: int
    max_context_length: int | None
    dropped: tuple[Message, ...]


class ManualStop(Event):
    """The stop signal has come.

    Attributes:
        text: What the model has said so far in the answer that was stopped.
    """

    hook = "on_manual_stop"
    text: str


class BudgetExceeded(Event):
    """A request was not sent, because it might have exceeded a budget.

    Attributes:
        error: The error that says which and by how much.
        spent: What has been spent of the budget.
    """

    hook = "on_budget_exceeded"
    error: BaseException
    spent: Usage


class ErrorEvent(Event):
    """The agent has failed.

    Attributes:
        error: What is raised where the reply is consumed.
    """

    hook = "on_error"
    error: BaseException


Hook: TypeAlias = Callable[[Any], Awaitable[Any] | Any]
"""`def hook(event)` or `async def hook(event)`."""
HooksArgument: TypeAlias = "Mapping[str, Hook | Iterable[Hook]] | Hooks | None"

_EVENTS: tuple[type[Event], ...] = (
    BeforeRequest,
    AfterRequest,
    FunctionCallStart,
    FunctionCallEnd,
    FunctionCallError,
    ContextOverflow,
    ManualStop,
    BudgetExceeded,
    ErrorEvent,
)
_NAMES = tuple(event.hook for event in _EVENTS)


class Caller(BaseModel):
    """On whose behalf tools and hooks are called.

    Attributes:
        user_id: For whom.
        chat_id: In which conversation.
        agent_name: By which agent.
    """

    model_config = ConfigDict(frozen=True)

    user_id: str | None = None
    chat_id: str | None = None
    agent_name: str = ""


class Hooks:
    """The hooks of an agent.

    Args:
        hooks: Functions, or lists of functions, by the names of the hooks: `{"on_function_call_end": print}`.
        caller: Who the events are about.

    Raises:
        ValueError: There is no hook of that name.
        TypeError: A hook cannot be called.
    """

    __slots__ = ("_caller", "_failures", "_hooks")

    def __init__(self, hooks: HooksArgument = None, caller: Caller | None = None) -> None:
        self._caller = caller or Caller()
        self._failures: list[Exception] = []  # those that were told
        if isinstance(hooks, Hooks):
            self._hooks: dict[str, tuple[Hook, ...]] = hooks._hooks
            return
        self._hooks = {}
        for name, given in (hooks or {}).items():
            if name not in _NAMES:
                raise ValueError(f"there is no hook {name!r}; there are {', '.join(_NAMES)}")
            functions = tuple(given) if isinstance(given, Iterable) and not callable(given) else (given,)
            for function in functions:
                if not callable(function):
                    raise TypeError(f"the hook {name} is {function!r:.100}, which cannot be called")
            self._hooks[name] = functions

    async def fire(self, event: type[Event], **details: Any) -> None:
        """Calls the hooks for an event, if there are any.

        Args:
            event: The class of the event.
            **details: Its fields, those of the caller excepted.
        """
        functions = self._hooks.get(event.hook)
        if not functions:
            return
        told = event(**self._caller.model_dump(), **details)
        for function in functions:
            try:
                outcome = function(told)
                if inspect.isawaitable(outcome):
                    await outcome
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise  # it is the agent that is cancelled
                _logger.exception("the hook %s failed", event.hook)

    async def fire_failure(self, error: Exception) -> None:
        """Calls the hooks for a failure of the agent, once for each error, however many places it passes.

        Args:
            error: What is raised.
        """
        if any(error is known for known in self._failures):
            return
        self._failures.append(error)
        spent = getattr(error, "spent", None)
        if isinstance(spent, Usage):  # a `BudgetExceededError`, of which this module knows nothing else
            await self.fire(BudgetExceeded, error=error, spent=spent)
        else:
            await self.fire(ErrorEvent, error=error)
