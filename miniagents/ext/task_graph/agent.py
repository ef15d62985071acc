"""`Agent`: a task graph that runs tasks."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from miniagents.agents import MiniAgent
from miniagents.ext.cache import Cache, MemoryCache
from miniagents.ext.cache.namespaces import Namespace
from miniagents.ext.graph.errors import GraphDefinitionError
from miniagents.ext.task_graph.nodes import Node
from miniagents.ext.task_graph.plans import ExecutionPlan, ExecutionState, compile_plan
from miniagents.ext.task_graph.run import RunState, TaskGraph
from miniagents.ext.task_graph.tasks import Task
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.sequences import MessageType, until_complete
from promising.unconsumed import Failure

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import CheckpointStore

__all__ = ["Agent"]

_TASK_KEY = "task"


class Agent(MiniAgent):
    """A graph of nodes that works at tasks. It is an agent itself: in chains, as a node of a graph, or as a tool.

    A node starts the moment its own dependencies are met. When one fails, it is tried again as its `node_config` says;
    then what depends on it is skipped, and everything else goes on: the task is PARTIAL where something succeeded,
    FAILED where nothing did.

    While a task is at work it stands in the cache under the key "task", which modules and conditions read. State is per
    run: several tasks can be at work at once. One that starts while another of this agent is at work in the same
    namespace of the cache works in one of its own, whose suffix is its id.

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

    Example:
        ```python
        agent = Agent(max_concurrent_tasks=5)
        agent.add_multiple_nodes([planner_node, executor_node])
        task = await agent.run_task(Task(type="processing", objective="Process data"))
        print(task.status, agent.node_results["executor"])
        ```
    """

    __slots__ = (
        "_at_work", "_graph", "_last", "_nodes", "auto_snapshot", "cache", "error_mailbox", "max_concurrent_tasks",
        "max_total_iterations", "output_mailbox", "snapshot_dir", "snapshot_exclude", "snapshot_store",
        "snapshots_kept",
    )  # fmt: skip

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
        self._nodes: dict[str, Node] = {}
        self._graph: TaskGraph | None = None
        self._last: RunState | None = None
        self._at_work: dict[Namespace, int] = {}  # how many tasks are at work in each namespace of the cache

    # --- nodes ---

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by their names."""
        return dict(self._nodes)

    @property
    def graph(self) -> Mapping[str, list[str]]:
        """The dependencies of each node."""
        return {name: list(node.after) for name, node in self._nodes.items()}

    def add_node(self, node: Node) -> None:
        """Adds a node.

        Args:
            node: The node; those that it depends on may be added later.

        Raises:
            GraphDefinitionError: There is a node of that name already.
            ConditionError: Its condition does not compile.
        """
        self.add_multiple_nodes([node])

    def add_multiple_nodes(self, nodes: Iterable[Node]) -> None:
        """Adds several nodes: all of them, or none if one of them cannot be added.

        Args:
            nodes: The nodes.

        Raises:
            GraphDefinitionError: Two nodes have one name.
            ConditionError: A condition does not compile.
        """
        added = dict(self._nodes)
        for node in nodes:
            if node.name in added:
                raise GraphDefinitionError(f"there is a node {node.name!r} already; give one of the two another name")
            added[node.name] = node
        self._graph = self._graph_of(added)
        self._nodes = added

    def compile_execution_plan(self) -> ExecutionPlan:
        """Makes the plan of the whole graph.

        Returns:
            The plan.

        Raises:
            GraphDefinitionError: A node depends on one that there is not, or there is a ring.
        """
        self._checked_graph()
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
        self._checked_graph()
        if node not in self._nodes:
            raise GraphDefinitionError(f"there is no node {node!r}; there are: {', '.join(sorted(self._nodes))}")
        chosen = {node}
        for step in self.compile_execution_plan().steps:
            chosen.update(name for name in step.nodes if not chosen.isdisjoint(self._nodes[name].after))
        return compile_plan({name: after for name, after in self.graph.items() if name in chosen})

    def to_mermaid(self, events: Iterable[Message] = ()) -> str:
        """Draws the graph; see `Graph.to_mermaid`."""
        return self._checked_graph().to_mermaid(events)

    # --- runs ---

    @property
    def node_results(self) -> dict[str, dict[str, Any]]:
        """What the nodes have returned in the last run: `{"status", "results"}` by their names."""
        return {} if self._last is None else self._last.node_results

    @property
    def execution_state(self) -> ExecutionState:
        """How far the last run has come."""
        return ExecutionState() if self._last is None else self._last.execution

    async def run_task(self, task: Task, timeout: float | None = None) -> Task:
        """Works at a task.

        Args:
            task: The task, which has to be WAITING.
            timeout: How many seconds that may take; then the task has failed.

        Returns:
            The task, with its status, result (the results of all nodes) and error.

        Raises:
            GraphDefinitionError: A node depends on one that there is not, or there is a ring.
            TaskTransitionError: The task is not WAITING.
        """
        await self._run_to_end(Message(task.objective), task=task, timeout=timeout)
        return task

    async def run_from_snapshot(
        self, snapshot_dir: str | os.PathLike[str] | UUID, timeout: float | None = None
    ) -> Task:
        """Goes on with a task where a snapshot says that it stood: what had finished is not run again.

        Args:
            snapshot_dir: The folder of a snapshot, or that of the task for its newest one; or, with a `snapshot_store`,
                the id of the task.
            timeout: See `run_task`.

        Returns:
            The task.

        Raises:
            SnapshotError: There is no such snapshot.
            GraphChangedError: The graph is another one by now; it says how it differs.
            RunClaimedError: Another process is at work at the task.
        """
        found: list[Task] = []
        await self._run_to_end(None, snapshot=snapshot_dir, found=found, timeout=timeout)
        return found[0]

    async def _run_to_end(self, messages: MessageType, **arguments: Any) -> None:
        replies = self.inquire(messages, progress=False, **arguments)
        try:
            await until_complete(replies)
        except asyncio.CancelledError:
            replies.cancel()
            raise
        end = replies._buffer.end
        if isinstance(end, Failure):
            end.throw()

    async def _work(
        self,
        ctx: InteractionContext,
        *,
        task: Task | None = None,
        timeout: float | None = None,
        progress: bool = True,
        snapshot: "str | os.PathLike[str] | UUID | None" = None,
        found: list[Task] | None = None,
    ) -> None:
        self._checked_graph()
        if snapshot is not None:
            from miniagents.ext.task_graph.recording import taken_up

            async with taken_up(self, snapshot) as state:
                if found is not None:
                    found.append(state.task)
                await self._run(ctx, state, timeout, progress)
            return
        if task is None:
            objective = "\n\n".join(map(str, await ctx.message_promises))
            task = Task(type="inquiry", objective=objective)
        task.set_executing()
        if not self.auto_snapshot:
            await self._run(ctx, RunState(task), timeout, progress)
            return
        from miniagents.ext.task_graph.recording import recorded

        async with recorded(self, task) as state:
            await self._run(ctx, state, timeout, progress)

    async def _run(self, ctx: InteractionContext, state: RunState, timeout: float | None, progress: bool) -> None:
        self._last = state
        namespace = self.cache.namespace
        is_alone = not self._at_work.get(namespace)
        self._at_work[namespace] = self._at_work.get(namespace, 0) + 1
        try:
            if is_alone:
                await self._run_in_namespace(ctx, state, timeout, progress)
            else:
                async with self.cache.with_suffix(str(state.task.id)):
                    await self._run_in_namespace(ctx, state, timeout, progress)
        finally:
            self._at_work[namespace] -= 1
            if not self._at_work[namespace]:
                del self._at_work[namespace]
        await self._publish(state)

    async def _run_in_namespace(
        self, ctx: InteractionContext, state: RunState, timeout: float | None, progress: bool
    ) -> None:
        task = state.task
        await self.cache.set(_TASK_KEY, task)
        replies = self._checked_graph().inquire(ctx.message_promises, task=task, state=state, progress=progress)
        ctx.reply(replies)
        if replies._context is not None:  # outside of any context things start when they are awaited, as this is now
            replies._start_now()
        stopped: str | None = None
        try:
            async with asyncio.timeout(timeout) as limit:
                await replies._wait_for_end()
        except TimeoutError:
            if not limit.expired():
                raise
            replies.cancel()
            stopped = f"took longer than {timeout:g} s"
        except asyncio.CancelledError:
            task.fail("cancelled", state.node_results)
            raise
        end = replies._buffer.end
        if stopped is None and isinstance(end, Failure):
            task.fail(f"{type(end.error).__name__}: {end.error}", state.node_results)
            end.throw()
        self._settle(state, stopped)
        await self.cache.set(_TASK_KEY, task)

    def _settle(self, state: RunState, stopped: str | None) -> None:
        errors = [
            *([] if stopped is None else [stopped]),
            *(f"{node}: {error}" for node, error in state.errors.items()),
        ]
        if not errors:
            state.task.complete(state.node_results)
        elif state.has_success:
            state.task.partial(state.node_results, "; ".join(errors))
        else:
            state.task.fail("; ".join(errors), state.node_results)

    async def _publish(self, state: RunState) -> None:
        for node, error in state.errors.items():
            await self.cache.publish_to_mailbox(self.error_mailbox, {"status": "error", "node": node, "error": error})
        await self.cache.publish_to_mailbox(
            self.output_mailbox,
            {"status": state.task.status, "result": state.task.result, "failed_chains": state.failed_chains},
        )

    def _checked_graph(self) -> TaskGraph:
        if self._graph is None:
            self._graph = self._graph_of(self._nodes)
        self._graph.plan()
        return self._graph

    def _graph_of(self, nodes: Mapping[str, Node]) -> TaskGraph:
        return TaskGraph(
            nodes.values(),
            self.alias,
            cache=self.cache,
            max_concurrent=self.max_concurrent_tasks,
            max_starts=self.max_total_iterations,
        )
