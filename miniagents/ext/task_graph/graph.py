"""The graph of the nodes of an agent, or of those of which a node consists."""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from miniagents.ext.graph.errors import GraphDefinitionError
from miniagents.ext.graph.graph import Graph
from miniagents.ext.graph.graph import Node as GraphNode
from miniagents.ext.graph.policy import NodePolicy
from miniagents.ext.task_graph.nodes import Node
from miniagents.ext.task_graph.run import TaskRun, is_worth_a_retry
from miniagents.ext.task_graph.state import RunState
from miniagents.ext.task_graph.tracing import check_installed
from miniagents.ext.task_graph.work import agent_of
from miniagents.interaction import InteractionContext

if TYPE_CHECKING:
    from miniagents.ext.cache.interface import Cache
    from miniagents.ext.graph.run import GraphRun
    from miniagents.ext.task_graph.tasks import Task

__all__ = ["TaskGraph"]


class TaskGraph(Graph):
    """A graph of task nodes.

    Args:
        alias: What it is called.
        parent: The graph of the node that consists of these nodes.

    Attributes:
        parent: See above.
        task_nodes: The nodes by their names.
        is_traced: Whether any of its nodes, or of their modules and nodes, wants a span.
    """

    __slots__ = ("_missing", "is_traced", "parent", "task_nodes")

    def __init__(self, alias: str, parent: "TaskGraph | None" = None) -> None:
        super().__init__(alias, raise_errors=False)
        self.parent = parent
        self.task_nodes: dict[str, Node] = {}
        self.is_traced = False
        self._missing: set[str] = set()  # nodes that others depend on and that are to be added

    def configure(self, cache: "Cache", max_concurrent: int, max_starts: int) -> None:
        """Says what the next runs share.

        Args:
            cache: The cache.
            max_concurrent: How many nodes of a run work at once.
            max_starts: How many visits a run may begin.
        """
        self._cache, self.max_concurrent, self.max_starts = cache, max_concurrent, max_starts

    def add_task_nodes(self, nodes: Iterable[Node]) -> None:
        """Adds several nodes: all of them, or none if one of them cannot be added.

        Args:
            nodes: The nodes; those that they depend on may be added later.

        Raises:
            ConditionError: A condition does not compile.
            GraphDefinitionError: Two nodes have one name, or nodes wait for each other in a ring.
            ImportError: A node wants a span, and OpenTelemetry is not installed.
        """
        added: dict[str, Node] = {}
        for node in nodes:
            if node.name in self.task_nodes or node.name in added:
                raise GraphDefinitionError(f"there is a node {node.name!r} already; give one of the two another name")
            added[node.name] = node
        made = [self.graph_node_of(node) for node in added.values()]
        needed = {name for node in added.values() for name in node.after}
        if not (self._missing | needed).isdisjoint(added):  # else nothing was waiting for them
            self._refuse_rings({**self.task_nodes, **added})
        for graph_node in made:
            self.add(graph_node)
        self.task_nodes.update(added)
        self._missing = {name for name in self._missing | needed if name not in self.task_nodes}
        self.is_traced = self.is_traced or any(node.is_traced for node in added.values())

    def graph_node_of(self, node: Node) -> GraphNode:
        """Makes the node of the engine for a node of a task graph.

        Raises:
            ConditionError: A condition does not compile.
            GraphDefinitionError: The nodes of which it consists are no graph.
            ImportError: It wants a span, and OpenTelemetry is not installed.
        """
        if node.is_traced:
            check_installed()
        subgraph = None
        if node.nodes:
            subgraph = TaskGraph(f"{self.alias}/{node.name}", self)
            subgraph.add_task_nodes(node.nodes)
            subgraph.plan()
        return GraphNode.of(node.name, agent_of(node, subgraph), node.after, _policy_of(node))

    def plan(self) -> tuple[GraphNode, ...]:
        """See `Graph.plan`."""
        if self._plan is None:
            super().plan()
            try:
                self._check_retries()
            except GraphDefinitionError:
                self._plan = None
                raise
        return super().plan()

    def fork_with_nodes(self, alias: str) -> "TaskGraph":
        """Makes a graph of the same nodes, to which others can be added."""
        made = TaskGraph(alias, self.parent)
        made.add_task_nodes(self.task_nodes.values())
        return made

    def cache_for(self, run: "GraphRun") -> "Cache":
        """See `Graph.cache_for`."""
        return super().cache_for(run) if self.parent is None else self.parent.cache_for(run)

    async def _run(  # type: ignore[override]
        self,
        ctx: InteractionContext,
        *,
        task: "Task",
        state: RunState,
        progress: bool = True,
        timeout: float | None = None,
    ) -> None:
        if self.parent is not None:
            self.max_concurrent, self.max_starts = self.parent.max_concurrent, self.parent.max_starts
        await TaskRun(self, ctx, task=task, state=state, progress=progress, timeout=timeout).complete()

    def _refuse_rings(self, nodes: Mapping[str, Node]) -> None:
        try:
            TopologicalSorter({name: node.after for name, node in nodes.items()}).prepare()
        except CycleError as error:
            ring = " -> ".join(reversed(error.args[1]))
            raise GraphDefinitionError(
                f"nodes of {self.alias} wait for each other in a ring: {ring}; take out one dependency (to go round in "
                "a run, use flow control)"
            ) from None

    def _check_retries(self) -> None:
        for name, node in self.task_nodes.items():
            target = node.node_config.retry_from
            if target is None:
                continue
            if target not in self.task_nodes:
                known = ", ".join(sorted(self.task_nodes))
                raise GraphDefinitionError(
                    f"{name} is to be retried from {target!r}, which is no node of {self.alias}; there are: {known}"
                )
            if target not in self._upstream_of(name):
                raise GraphDefinitionError(
                    f"{name} is to be retried from {target!r}, which does not come before it; name a node that it "
                    "depends on, or itself"
                )

    def _upstream_of(self, name: str) -> set[str]:
        found, pending = {name}, [name]
        while pending:
            new = set(self.task_nodes[pending.pop()].after) - found
            found |= new
            pending += new
        return found


def _policy_of(node: Node) -> NodePolicy:
    """Says the settings of a node in the words of the engine."""
    config = node.node_config
    return NodePolicy(
        condition=config.condition,
        attempts=1 if config.retry_from else config.attempts,
        retry_if=is_worth_a_retry,
        max_visits=config.max_visits,
    )
