"""Modules: the pieces of work of which the nodes of a task graph consist."""

from collections.abc import AsyncGenerator, Mapping
from contextvars import ContextVar
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from miniagents.ext.values import register
from miniagents.interaction import InteractionContext
from miniagents.sequences import MessageType

if TYPE_CHECKING:
    from asyncio import Semaphore

    from pydantic._internal._model_construction import ModelMetaclass as _ModelMetaclass

    from miniagents.ext.cache.interface import Cache
else:
    _ModelMetaclass = type(BaseModel)

__all__ = ["AgentModule", "AtWork", "Middleware", "ModuleConfig", "ModuleType", "module_at_work"]


class AtWork:
    """A module at work.

    Args:
        call: The call of the node, to which the module can reply.
        context: What the configuration of the node gives modules to know.

    Attributes:
        has_replied: Whether it has.
    """

    __slots__ = ("call", "context", "has_replied")

    def __init__(self, call: InteractionContext, context: Mapping[str, Any]) -> None:
        self.call = call
        self.context = context
        self.has_replied = False


module_at_work: ContextVar[AtWork | None] = ContextVar("miniagents.task_graph.module", default=None)
"""The module at work here."""


@register
class ModuleType(StrEnum):
    """What a node or a module is for."""

    EXECUTOR = "executor"
    SUBGRAPH = "subgraph"
    FLOW_CONTROL = "flow_control"


class Middleware(BaseModel):
    """Looks at, or changes, what modules return. Override `process`."""

    model_config = ConfigDict(extra="allow")

    async def process(self, data: dict[str, Any], cache: "Cache") -> dict[str, Any]:
        """Is given the result of a module, and of the middlewares before.

        Args:
            data: The result: `{"status": ..., "result": ...}` and whatever else the module has put there.
            cache: The cache of the agent.

        Returns:
            The result to go on with.
        """
        return data


class ModuleConfig(BaseModel):
    """How modules run; given to a node it holds for all of its modules, beside what each of them says itself.

    Attributes:
        middlewares: What results pass through, in this order: those of the module, then those of the node.
        timeout: How many seconds one run of a module may take; what takes longer fails, and is tried again.
        stop_on_success: Whether nothing further of the node runs when the module has succeeded. If it fails, the others
            still can succeed in its place: the node fails when none does.
        context: Whatever else modules are to know; see `AgentModule.node_context`.
    """

    model_config = ConfigDict(extra="forbid")

    middlewares: list[Middleware] = Field(default_factory=list)
    timeout: float | None = Field(default=None, gt=0)
    stop_on_success: bool = False
    context: dict[str, Any] = Field(default_factory=dict)


class _AnnotatedByBase(_ModelMetaclass):
    """Lets subclasses give a field another default as plainly as any class attribute: `name = "x"`."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> Any:
        annotations = namespace.setdefault("__annotations__", {})
        for base in bases:
            for field_name, field in getattr(base, "__pydantic_fields__", {}).items():
                if field_name in namespace and field_name not in annotations:
                    annotations[field_name] = field.annotation
        return super().__new__(mcs, name, bases, namespace, **kwargs)


class AgentModule(BaseModel, metaclass=_AnnotatedByBase):
    """A piece of work. Override `process`.

    It is a pydantic model: a subclass can have fields of its own, and gives those below other defaults just by naming
    them (`name = "planner"`).

    Attributes:
        name: What it is called; the name of its class otherwise.
        type: What it is for.
        config: How it runs.
        dependencies: Nodes that have to finish before the node of this module, beside those that the node names.
        input_mailboxes: The mailboxes that it reads, for people and for `process` itself.
        output_mailbox: Where its results are published, if anywhere.
        trace: Whether it has a span of its own; needs `miniagents[otel]`.

    Example:
        ```python
        class Planner(AgentModule):
            name = "planner"

            async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> dict[str, Any]:
                task = await cache.get("task")
                self.reply(writer.inquire(f"Plan: {task.objective}"))  # streams to whoever reads the progress
                return {"status": "success", "result": "planned"}
        ```
    """

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    name: str = ""
    type: ModuleType = ModuleType.EXECUTOR
    config: ModuleConfig = Field(default_factory=ModuleConfig)
    dependencies: list[str] = Field(default_factory=list)
    input_mailboxes: list[str] = Field(default_factory=list)
    output_mailbox: str = ""
    trace: bool = False

    def model_post_init(self, context: Any) -> None:
        """Names the module after its class where it was given no name."""
        if not self.name:
            self.name = type(self).__name__

    def process(self, cache: "Cache", semaphore: "Semaphore") -> Any:
        """Does the work: a coroutine, or an async generator that gives one result per visit of its node.

        Args:
            cache: The cache of the agent; the task is at the key "task".
            semaphore: Has as many places as the agent has for tasks at once, for a module that works on many things.

        Returns:
            `{"status": "success" | "error", "result": ...}`. An error fails the node, as an exception does. Further
            keys: declared outputs; `new_nodes`, a list of nodes to add to the graph; `decision`, where to go on, see
            `FlowControlModule`. Anything else is taken for the result of a success.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no `process`; define `async def process(cache, semaphore)`"
        )

    def reply(self, messages: MessageType) -> None:
        """Adds to what the node says while it runs: other agents' unfinished replies, for example.

        A module that replies nothing has its result said in its place when it has one.

        Args:
            messages: See `InteractionContext.reply`.

        Raises:
            RuntimeError: No node is at work here.
        """
        at_work = module_at_work.get()
        if at_work is None:
            raise RuntimeError(f"{self.name} is not at work, so that nobody would read its reply")
        at_work.call.reply(messages)
        at_work.has_replied = True

    @property
    def node_context(self) -> dict[str, Any]:
        """What there is to know: `config.context` of the node at work, and on top of it that of the module."""
        at_work = module_at_work.get()
        return {**({} if at_work is None else at_work.context), **self.config.context}


Result = dict[str, Any]
Generators = dict[tuple[str, int], AsyncGenerator[Any, None]]
"""The generators of modules that wait for the next visit, by the name of the node and the place of the module."""
