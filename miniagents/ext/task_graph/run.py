"""A run of a task graph: a run of a graph whose nodes are made of modules and whose decisions are flow control."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from miniagents.ext.graph.errors import GraphError
from miniagents.ext.graph.graph import Graph
from miniagents.ext.graph.graph import Node as GraphNode
from miniagents.ext.graph.policy import NodePolicy
from miniagents.ext.graph.run import GraphRun, Jump, NodeRun, NodeState
from miniagents.ext.graph.visit import Visit
from miniagents.ext.task_graph.errors import NonRetryableException
from miniagents.ext.task_graph.modules import AgentModule, Generators
from miniagents.ext.task_graph.nodes import Node
from miniagents.ext.task_graph.plans import ExecutionState, compile_plan
from miniagents.ext.task_graph.work import NodeOutcome, agent_of
from miniagents.interaction import InteractionContext
from miniagents.sequences import MessageSequencePromise

if TYPE_CHECKING:
    from miniagents.agents import MiniAgent
    from miniagents.ext.cache.interface import Cache
    from miniagents.ext.task_graph.tasks import Task

__all__ = ["RunState", "RunTracer", "TaskGraph", "TaskRun"]


class RunTracer:
    """Who is told of runs, nodes, modules and retries, to make spans of them. This one makes none."""

    def node(self, visit: Visit) -> AbstractContextManager[Any]:
        """Surrounds one attempt of a node, in the task that works at it."""
        return nullcontext()

    def module(self, node: Node, module: "AgentModule | MiniAgent") -> AbstractContextManager[Any]:
        """Surrounds one run of a module."""
        return nullcontext()


class RunRecorder:
    """Who writes down what has happened, so that a run can be taken up again. This one does not."""

    def restore(self, run: "TaskRun") -> None:
        """Brings a run that has just been set up to where it stood."""

    def before_release(self, visit: Visit, jump: Jump | None) -> Awaitable[object] | None:
        """Writes down that a node has finished; it counts as finished when that is done."""
        return None

    def released(self, name: str) -> None:
        """Is told that the end of a node has been carried out, with all that follows from it."""


class RunState:
    """What is known of one run, for the agent and for those who look at it later.

    Attributes:
        task: The task.
        node_results: `{"status", "results"}` of each node that has been dealt with, by its name.
        execution: How far the run has come.
        failed_chains: Each node that has failed for good, with those that were skipped for that.
        failures: How often each node has failed in all.
    """

    def __init__(self, task: "Task", recorder: RunRecorder | None = None, tracer: RunTracer | None = None) -> None:
        self.task = task
        self.node_results: dict[str, dict[str, Any]] = {}
        self.execution = ExecutionState()
        self.failed_chains: list[list[str]] = []
        self.failures: dict[str, int] = {}
        self.recorder = recorder or RunRecorder()
        self.tracer = tracer or RunTracer()

    @property
    def errors(self) -> dict[str, str]:
        """What nodes have failed with, by their names."""
        return {name: one["error"] for name, one in self.node_results.items() if one["status"] == "error"}

    @property
    def has_success(self) -> bool:
        """Whether any node has finished."""
        return any(one["status"] == "success" for one in self.node_results.values())

    def of_part(self, name: str) -> "RunState":
        """The state of the nodes of which a node consists."""
        return RunState(self.task, tracer=self.tracer)

    def raise_if_failed(self, name: str) -> None:
        """Raises an error if a node has failed.

        Raises:
            GraphError: It names the nodes and what they have failed with.
        """
        if self.errors:
            listed = "; ".join(f"{one}: {error}" for one, error in self.errors.items())
            raise GraphError(f"in the subgraph {name} failed {listed}")


class TaskGraph(Graph):
    """The graph of the nodes of an agent.

    Args:
        nodes: The nodes.
        alias: What it is called.
        cache: The cache of the agent.
        max_concurrent: How many nodes run at once.
        max_starts: How many visits a run may begin.

    Raises:
        GraphDefinitionError: Two nodes have one name.
        ConditionError: A condition does not compile.
    """

    __slots__ = ("task_nodes",)

    def __init__(
        self,
        nodes: Iterable[Node],
        alias: str,
        *,
        cache: "Cache",
        max_concurrent: int | None = None,
        max_starts: int | None = None,
    ) -> None:
        super().__init__(alias, cache=cache, max_concurrent=max_concurrent, max_starts=max_starts, raise_errors=False)
        self.task_nodes: dict[str, Node] = {}
        for node in nodes:
            self.task_nodes[node.name] = node
            self.add_node(node.name, self.agent_of(node), after=node.after, policy=policy_of(node))

    def agent_of(self, node: Node) -> "MiniAgent":
        """Makes the agent of a node."""
        assert self._cache is not None
        subgraph = TaskGraph(node.nodes, f"{node.name} (nodes)", cache=self._cache) if node.nodes else None
        if subgraph is not None:
            subgraph.plan()
        return agent_of(node, subgraph)

    async def _work(  # type: ignore[override]
        self, ctx: InteractionContext, *, task: Any, state: RunState, progress: bool = True
    ) -> None:
        await TaskRun(self, ctx, task=task, state=state, progress=progress).complete()


def policy_of(node: Node) -> NodePolicy:
    """Says the settings of a node in the words of the engine."""
    config = node.node_config
    return NodePolicy(
        condition=config.condition,
        attempts=1 if config.retry_from else config.attempts,
        retry_if=_is_worth_a_retry,
        max_visits=config.max_visits,
    )


def _is_worth_a_retry(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, NonRetryableException)


class TaskRun(GraphRun):
    """One run of a task graph.

    Attributes:
        state: What is known of it.
        semaphore: As many places as the agent has, for modules.
        generators: The generators that wait for the next visit of their nodes.
    """

    graph: TaskGraph

    def __init__(
        self, graph: TaskGraph, ctx: InteractionContext, *, task: "Task", state: RunState, progress: bool
    ) -> None:
        super().__init__(graph, ctx, task=task, progress=progress)
        self.state = state
        self.tracer = state.tracer
        self.semaphore = asyncio.Semaphore(graph.max_concurrent or 1)
        self.generators: Generators = {}
        self.task_nodes: dict[str, Node] = dict(graph.task_nodes)

    async def complete(self) -> None:
        """See `GraphRun.complete`."""
        try:
            await super().complete()
        finally:
            await self._close(list(self.generators))

    def add_task_node(self, node: Node) -> None:
        """Adds a node when the one at work has ended well; see `GraphRun.add_node`."""
        self.add_node(node.name, self.graph.agent_of(node), after=node.after, policy=policy_of(node))
        self.task_nodes[node.name] = node

    def restore_new_nodes(self, creator: str, nodes: Iterable[Node]) -> None:
        """Adds the nodes that a node had added in another process."""
        added = []
        for node in nodes:
            self.task_nodes[node.name] = node
            added.append(GraphNode.of(node.name, self.graph.agent_of(node), node.after, policy_of(node)))
        self._add_new_nodes(self.nodes[creator], added)
        self._queue.clear()  # what can start is found when everything has been restored

    # --- hooks of the engine ---

    def _begin(self) -> None:
        self.state.execution.follow(self.plan_of(self.nodes.values()))
        self.state.recorder.restore(self)
        super()._begin()

    def call(self, visit: Visit) -> MessageSequencePromise:
        """See `GraphRun.call`."""
        self.make_current(visit)
        if visit.attempt == 1:
            self.state.execution.total_iterations += 1
        return visit.node_run.node.agent.inquire(self.inputs_of(visit.node_run), visit=visit)

    def outcome(self, visit: Visit) -> Jump | None:
        """See `GraphRun.outcome`."""
        outcome: NodeOutcome = visit.value
        if outcome.decision is None:
            return None
        self.node_named(outcome.decision, f"the decision of {visit.node_run.node.name}")
        return Jump((outcome.decision,), outcome.why, outcome.cleanup)

    def before_release(self, visit: Visit, jump: Jump | None) -> Awaitable[object] | None:
        """See `GraphRun.before_release`."""
        closing = self._left_behind(jump) if jump is not None and jump.value else []
        self._note_result(visit)
        recording = self.state.recorder.before_release(visit, jump)
        if not closing:
            return recording
        return self._close_and(closing, recording)

    def visit_finished(self, visit: Visit, jump: Jump | None) -> None:
        """See `GraphRun.visit_finished`."""
        super().visit_finished(visit, jump)
        self.state.recorder.released(visit.node_run.node.name)

    def visit_failed(self, visit: Visit, error: BaseException) -> None:
        """See `GraphRun.visit_failed`. Where the node says so the run is repeated from an earlier one instead."""
        node_run = visit.node_run
        name = node_run.node.name
        failures = self.state.failures[name] = self.state.failures.get(name, 0) + 1
        config = self.task_nodes[name].node_config
        if config.retry_from and failures < config.attempts and _is_worth_a_retry(error):
            self.repeat_from(visit, config.retry_from, error)
        else:
            super().visit_failed(visit, error)

    def settled(self, node_run: NodeRun) -> None:
        """See `GraphRun.settled`."""
        self.state.execution.execution_index += 1
        if node_run.state is NodeState.FAILED:
            self.state.node_results[node_run.node.name] = {
                "status": "error",
                "results": [],
                "error": f"{type(node_run.error).__name__}: {node_run.error}",
            }
        super().settled(node_run)

    def jump(self, source: NodeRun, jump: Jump) -> None:
        """See `GraphRun.jump`."""
        super().jump(source, jump)
        targets = [self.nodes[name] for name in jump.targets if name in self.nodes]
        self.state.execution.follow(self.plan_of(self._downstream_of(targets)))

    def finished(self) -> None:
        """See `GraphRun.finished`."""
        for node_run in self.nodes.values():
            if node_run.state is NodeState.SKIPPED:
                skipped: dict[str, Any] = {"status": "skipped", "results": [], "reason": node_run.reason}
                self.state.node_results[node_run.node.name] = skipped
        chains: dict[str, list[str]] = {}
        for node_run in self.nodes.values():
            if node_run.failed_node is not None:
                chain = chains.setdefault(node_run.failed_node.node.name, [node_run.failed_node.node.name])
                if node_run is not node_run.failed_node:
                    chain.append(node_run.node.name)
        self.state.failed_chains = list(chains.values())
        super().finished()

    # --- details ---

    def plan_of(self, node_runs: Iterable[NodeRun]) -> Any:
        """The plan of some nodes of this run."""
        chosen = {node_run.node.name for node_run in node_runs}
        after: Mapping[str, list[str]] = {
            name: [one.node.name for one in node_run.after] for name, node_run in self.nodes.items() if name in chosen
        }
        return compile_plan(after)

    def _note_result(self, visit: Visit) -> None:
        self.state.node_results[visit.node_run.node.name] = {"status": "success", "results": visit.value.results}

    def _left_behind(self, jump: Jump) -> list[tuple[str, int]]:
        """The generators of the nodes that a jump makes run again."""
        targets = [self.nodes[name] for name in jump.targets]
        again = {node_run.node.name for node_run in self._downstream_of(targets)}
        return [key for key in self.generators if key[0] in again]

    async def _close_and(self, keys: list[tuple[str, int]], then: Awaitable[object] | None) -> None:
        await self._close(keys)
        if then is not None:
            await then

    async def _close(self, keys: list[tuple[str, int]]) -> None:
        for key in keys:
            generator = self.generators.pop(key, None)
            if generator is not None:
                await generator.aclose()
