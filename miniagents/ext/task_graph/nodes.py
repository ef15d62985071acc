"""Nodes of task graphs: which modules, after which other nodes, and how."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from miniagents.agents import MiniAgent
from miniagents.ext.task_graph.modules import AgentModule, ModuleConfig, ModuleType
from miniagents.ext.values import register

__all__ = ["Node", "NodeConfig", "SnapshotControl"]


@register
class SnapshotControl(StrEnum):
    """Whether the state of a run is written down when a node has finished."""

    NEVER = "never"
    ONCE = "once"
    ALWAYS = "always"


class NodeConfig(BaseModel):
    """How a node runs.

    Attributes:
        parallel: Whether its modules run side by side, rather than one after the other.
        condition: Lua, or a function of cache and task: where it does not hold when the node could start, the node and
            what depends on it are skipped. See `miniagents.ext.graph.conditions`.
        retry_on_failure: Whether it is tried again after a failure.
        max_retries: How often it is tried in all.
        max_visits: How often flow control can bring a run here, the first visit included.
        inputs: Keys of the cache that have to be there when it starts.
        outputs: What it has to deliver: keys of the cache, or of the result of one of its modules.
        retry_from: The node from which the run is repeated when this one has failed, in place of this one alone.
    """

    model_config = ConfigDict(extra="forbid")

    parallel: bool = False
    condition: str | Callable[[Any, Any], bool | Awaitable[bool]] | None = None
    retry_on_failure: bool = True
    max_retries: int = Field(default=3, ge=1)
    max_visits: int = Field(default=5, ge=1)
    inputs: list[str] = Field(default_factory=list)
    outputs: list[str] = Field(default_factory=list)
    retry_from: str | None = None

    @property
    def attempts(self) -> int:
        """How often it is tried in all."""
        return self.max_retries if self.retry_on_failure else 1


class Node(BaseModel):
    """A node of a task graph.

    Attributes:
        name: Its name, the only one of that name in its graph.
        type: What it is for.
        modules: What it does: modules, or agents, whose reply is the result.
        nodes: The nodes of which a SUBGRAPH consists.
        dependencies: The nodes that have to finish before.
        config: How its modules run.
        node_config: How it runs itself.
        snapshot: Whether the state of the run is written down when it has finished.
        trace: Whether it has a span, with one for each of its modules and retries; needs `miniagents[otel]`.

    Example:
        ```python
        node = Node(name="executor", type=ModuleType.EXECUTOR, modules=[Executor()], dependencies=["planner"])
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    name: str = Field(min_length=1)
    type: ModuleType = ModuleType.EXECUTOR
    modules: list[AgentModule | MiniAgent] = Field(default_factory=list)
    nodes: "list[Node]" = Field(default_factory=list)
    dependencies: list[str] = Field(default_factory=list)
    config: ModuleConfig = Field(default_factory=ModuleConfig)
    node_config: NodeConfig = Field(default_factory=NodeConfig)
    snapshot: SnapshotControl = SnapshotControl.NEVER
    trace: bool = False

    @model_validator(mode="after")
    def _has_work(self) -> "Node":
        if self.nodes and self.type is not ModuleType.SUBGRAPH:
            raise ValueError(f"the node {self.name!r} has nodes of its own; its type is ModuleType.SUBGRAPH then")
        if not self.modules and not self.nodes:
            raise ValueError(f"the node {self.name!r} has nothing to do; give it modules, or nodes if it is a SUBGRAPH")
        return self

    @property
    def after(self) -> tuple[str, ...]:
        """The nodes that have to finish before: its own dependencies and those of its modules."""
        of_modules = [name for one in self.modules if isinstance(one, AgentModule) for name in one.dependencies]
        return tuple(dict.fromkeys([*self.dependencies, *of_modules]))

    @property
    def is_traced(self) -> bool:
        """Whether it, a module of it or a node in it wants a span."""
        of_modules = any(isinstance(one, AgentModule) and one.trace for one in self.modules)
        return self.trace or of_modules or any(node.is_traced for node in self.nodes)
