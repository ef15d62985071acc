"""`Agent`: a task graph that runs tasks."""

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from miniagents.agents import MiniAgent
from miniagents.ext.cache import Cache, MemoryCache
from miniagents.ext.forks import of_own_kind
from miniagents.ext.graph.errors import GraphDefinitionError
from miniagents.ext.task_graph.graph import TaskGraph
from miniagents.ext.task_graph.inquiry import until_over, work_at
from miniagents.ext.task_graph.nodes import Node
from miniagents.ext.task_graph.plans import ExecutionPlan, ExecutionState, compile_plan
from miniagents.ext.task_graph.state import RunState
from miniagents.ext.task_graph.tasks import Task
from miniagents.ext.task_graph.tracing import RunTracer
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.sequences import MessageType
from promising.sentinels import DEFAULT, Sentinel

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from miniagents.ext.checkpoints import CheckpointStore

__all__ = ["Agent"]


class Agent(MiniAgent):
    """A graph of nodes that works at tasks. It is an agent itself: in chains, as a node of a graph, or as a tool.

    A node starts the moment its own dependencies are met. When one fails, it is tried again as its `node_config` says;
    then what depends on it is skipped, and everything else goes on: the task is PARTIAL where something succeeded,
    FAILED where nothing did.

    While a task is at work it stands in the cache under the key "task", which modules and conditions read. State is per
    run: several tasks can be at work at once. One that starts while another is at work in the same namespace of the
    same cache works in a namespace of its own, whose suffix is its id.

    As an agent it makes a task of what it is sent, unless it is given one as `task`. It replies with the progress, as
    any `Graph` does, or with `progress=False` with the results of the last nodes alone. When a node has failed, the
    reply ends with its error, unless the task was given: then that says so.

    Args:
        cache: Where modules put what others are to know; a `MemoryCache` otherwise.
        max_concurrent_tasks: How many nodes run at once; modules get a semaphore with as many places.
        max_total_iterations: How many visits of nodes a run may begin in all; then it ends as failed.
        auto_snapshot: Whether nodes whose `snapshot` says so are written down; see `run_from_snapshot`.
        snapshot_dir: Where; what ASIMOV_SNAPSHOT or MINIAGENTS_SNAPSHOT says otherwise, or else a folder of the user's.
        snapshot_store: Where, if that is no folder of files: any store of `miniagents.ext.checkpoints`.
        snapshot_exclude: Keys of the cache that are not written down: secrets, and what is too large.
        snapshots_kept: How many of the newest snapshots of a task are kept at least.
        output_mailbox: The mailbox that gets `{"status", "result", "failed_chains"}` when a task has ended.
        error_mailbox: The mailbox that gets `{"status": "error", "node", "error"}` for each node that has failed.
        name: What the agent is called.
        description: What it does.
        tracer_provider: Where the spans of nodes with `trace=True` go; the one of the process otherwise.

    Example:
        ```python
        agent = Agent(max_concurrent_tasks=5)
        agent.add_multiple_nodes([planner_node, executor_node])
        task = await agent.run_task(Task(type="processing", objective="Process data"))
        print(task.status, agent.node_results["executor"])
        ```
    """

    __slots__ = (
        "_graph", "_last", "auto_snapshot", "cache", "error_mailbox", "max_concurrent_tasks", "max_total_iterations",
        "output_mailbox", "snapshot_dir", "snapshot_exclude", "snapshot_store", "snapshots_kept", "tracer_provider",
    )  # fmt: skip

    tells_progress = True  # see `Graph`

    def __init__(
        self,
        cache: Cache | None = None,
        max_concurrent_tasks: int = 5,
        max_total_iterations: int = 100,
        *,
        auto_snapshot: bool = False,
        snapshot_dir: str | os.PathLike[str] | None = None,
        snapshot_store: "CheckpointStore | None" = None,
        snapshot_exclude: Iterable[str] = (),
        snapshots_kept: int = 10,
        output_mailbox: str = "agent_output",
        error_mailbox: str = "agent_error",
        name: str = "TASK_GRAPH",
        description: str | None = None,
        tracer_provider: "TracerProvider | None" = None,
    ) -> None:
        super().__init__(self._work, alias=name, description=description)
        self.cache = MemoryCache() if cache is None else cache
        self.max_concurrent_tasks = max_concurrent_tasks
        self.max_total_iterations = max_total_iterations
        self.auto_snapshot = auto_snapshot
        self.snapshot_dir = snapshot_dir
        self.snapshot_store = snapshot_store
        self.snapshot_exclude = tuple(snapshot_exclude)
        self.snapshots_kept = snapshots_kept
        self.output_mailbox = output_mailbox
        self.error_mailbox = error_mailbox
        self.tracer_provider = tracer_provider
        self._graph = TaskGraph(name)
        self._last: RunState | None = None

    # --- nodes ---

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by their names."""
        return dict(self._graph.task_nodes)

    @property
    def graph(self) -> Mapping[str, list[str]]:
        """The dependencies of each node."""
        return {name: list(node.after) for name, node in self._graph.task_nodes.items()}

    def add_node(self, node: Node) -> None:
        """Adds a node.

        Args:
            node: The node; those that it depends on may be added later.

        Raises:
            ConditionError: Its condition does not compile.
            GraphDefinitionError: There is a node of that name already, or it closes a ring of dependencies.
            ImportError: It is to be traced, and OpenTelemetry is not installed.
        """
        self._graph.add_task_nodes([node])

    def add_multiple_nodes(self, nodes: Iterable[Node]) -> None:
        """Adds several nodes: all of them, or none if one of them cannot be added.

        Args:
            nodes: The nodes.

        Raises:
            ConditionError: A condition does not compile.
            GraphDefinitionError: Two nodes have one name, or nodes depend on each other in a ring.
            ImportError: One is to be traced, and OpenTelemetry is not installed.
        """
        self._graph.add_task_nodes(nodes)

    def compile_execution_plan(self) -> ExecutionPlan:
        """Makes the plan of the whole graph.

        Returns:
            The plan.

        Raises:
            GraphDefinitionError: A node depends on one that there is not, or there is a ring.
        """
        self._graph.plan()
        return compile_plan(self.graph)

    def compile_execution_plan_from(self, node: str) -> ExecutionPlan:
        """Makes the plan of what runs after a jump to a node: the node and all that is downstream of it.

        Args:
            node: The name of the node.

        Returns:
            The plan.

        Raises:
            GraphDefinitionError: There is no such node, or the graph has a fault.
        """
        whole, graph = self.compile_execution_plan(), self.graph
        if node not in graph:
            raise GraphDefinitionError(f"there is no node {node!r}; there are: {', '.join(sorted(graph))}")
        chosen = {node}
        for name in whole.nodes:
            if not chosen.isdisjoint(graph[name]):
                chosen.add(name)
        return compile_plan({name: after for name, after in graph.items() if name in chosen})

    def to_mermaid(self, events: Iterable[Message] = ()) -> str:
        """Draws the graph; see `Graph.to_mermaid`."""
        self._graph.plan()
        return self._graph.to_mermaid(events)

    def fork(
        self,
        *,
        alias: str | None = None,
        description: str | None = None,
        errors_as_messages: bool | Sentinel = DEFAULT,
        budget: AbstractContextManager[Any] | None = None,
        **arguments: Any,
    ) -> "Agent":
        """Makes an agent of the same nodes with some arguments set. Nodes that are added to one are not the other's.

        Args:
            alias: See `MiniAgent.fork`.
            description: See `MiniAgent.fork`.
            errors_as_messages: See `MiniAgent.fork`.
            budget: See `MiniAgent.fork`.
            **arguments: `progress` and `timeout`, see `Agent` and `run_task`.

        Returns:
            The fork.
        """
        plain = super().fork(
            alias=alias, description=description, errors_as_messages=errors_as_messages, budget=budget, **arguments
        )
        made = of_own_kind(self, plain)
        made._graph = self._graph.fork_with_nodes(made.alias)
        made._last = None
        return made

    # --- runs ---

    @property
    def node_results(self) -> dict[str, dict[str, Any]]:
        """What the nodes have returned in the last run: `{"status", "results"}` by their names.

        The status is "success"; "error", with the `error`; "skipped", with the `reason`; or "cancelled".
        """
        return {} if self._last is None else self._last.node_results

    @property
    def execution_state(self) -> ExecutionState:
        """How far the last run has come."""
        return ExecutionState() if self._last is None else self._last.execution

    async def run_task(self, task: Task, timeout: float | None = None) -> Task:
        """Works at a task. When this returns or raises nothing of it goes on.

        Args:
            task: The task, which has to be WAITING.
            timeout: How many seconds that may take; then what runs has failed, and what waits is skipped.

        Returns:
            The task, with its status, result (the results of all nodes) and error.

        Raises:
            GraphDefinitionError: A node depends on one that there is not.
            TaskTransitionError: The task is not WAITING.
        """
        await self._run_to_end(Message(task.objective), task=task, timeout=timeout)
        return task

    async def run_from_snapshot(
        self, snapshot_dir: str | os.PathLike[str] | UUID, timeout: float | None = None
    ) -> Task:
        """Goes on with a task where a snapshot says that it stood: what had finished is not run again.

        If the task had ended with failures, what had failed is tried again.

        Args:
            snapshot_dir: The folder of a snapshot, or that of the task for its newest one; or the id of the task, if
                its snapshots are where this agent has them.
            timeout: See `run_task`.

        Returns:
            The task.

        Raises:
            SnapshotError: There is no such snapshot.
            GraphChangedError: The graph is another one by now; it says how it differs.
            RunClaimedError: Another process is at work at the task.
            RunNotFoundError: There is no such task.
            TaskTakenOverError: This process was at a standstill, and another one has taken up the task since.
        """
        from miniagents.ext.task_graph.recording import taken_up

        self._graph.plan()
        async with taken_up(self, snapshot_dir) as state:
            await self._run_to_end(Message(state.task.objective), state=state, timeout=timeout)
        return state.task

    async def _run_to_end(self, messages: MessageType, **arguments: Any) -> None:
        await until_over(self.inquire(messages, progress=False, errors_as_messages=False, **arguments))

    async def _work(self, ctx: InteractionContext, **options: Any) -> None:  # none of which is a model's business
        await self._inquired(ctx, **options)

    async def _inquired(
        self,
        ctx: InteractionContext,
        *,
        task: Task | None = None,
        state: RunState | None = None,
        timeout: float | None = None,
        progress: bool = True,
    ) -> None:
        self._graph.plan()
        if state is None:
            made = task or Task(type="inquiry", objective="\n\n".join(map(str, await ctx.message_promises)))
            made.set_executing()
            try:
                state = await self._run_new(ctx, made, progress, timeout)
            except BaseException as error:
                if not made.is_over:
                    made.fail(f"{type(error).__name__}: {error}")
                raise
            if task is None and state.first_error is not None:
                raise state.first_error
        else:
            await self._run(ctx, state, progress, timeout)

    async def _run_new(self, ctx: InteractionContext, task: Task, progress: bool, timeout: float | None) -> RunState:
        if not self.auto_snapshot:
            state = RunState(task)
            await self._run(ctx, state, progress, timeout)
            return state
        from miniagents.ext.task_graph.recording import recorded

        async with recorded(self, task) as state:
            await self._run(ctx, state, progress, timeout)
        return state

    async def _run(self, ctx: InteractionContext, state: RunState, progress: bool, timeout: float | None) -> None:
        self._last = state
        state.tracer = RunTracer(self.tracer_provider)
        self._graph.configure(self.cache, self.max_concurrent_tasks, self.max_total_iterations)
        await work_at(self, self._graph, ctx, state, progress, timeout)
