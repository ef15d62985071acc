"""A run of a task graph: a run of a graph whose nodes are made of modules and whose decisions are flow control."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from typing import TYPE_CHECKING

from miniagents.ext.graph.errors import GraphDefinitionError, UnknownNodeError
from miniagents.ext.graph.graph import Node as GraphNode
from miniagents.ext.graph.run import GraphRun, Jump, NodeRun, NodeState
from miniagents.ext.graph.visit import Visit
from miniagents.ext.task_graph.errors import NodesFailedError, NonRetryableException
from miniagents.ext.task_graph.modules import Generators
from miniagents.ext.task_graph.nodes import Node
from miniagents.ext.task_graph.outcomes import NodeOutcome
from miniagents.ext.task_graph.plans import ExecutionPlan, compile_plan
from miniagents.ext.task_graph.state import RunState
from miniagents.ext.task_graph.tracing import TracedVisit
from miniagents.ext.task_graph.visits import TaskVisit
from miniagents.interaction import InteractionContext
from miniagents.sequences import MessageSequencePromise

if TYPE_CHECKING:
    from miniagents.ext.graph.conditions import CompiledCondition
    from miniagents.ext.task_graph.graph import TaskGraph
    from miniagents.ext.task_graph.tasks import Task

__all__ = ["TaskRun", "is_worth_a_retry"]


def is_worth_a_retry(error: BaseException) -> bool:
    """Whether what has failed may succeed when it is tried again."""
    if isinstance(error, NodesFailedError):
        return all(is_worth_a_retry(one) for one in error.errors.values())
    return isinstance(error, Exception) and not isinstance(
        error, (NonRetryableException, GraphDefinitionError, UnknownNodeError)
    )


class TaskRun(GraphRun):
    """One run of a task graph.

    Args:
        graph: The graph.
        ctx: The call of the graph as an agent.
        task: The task.
        state: Where to note what becomes known.
        progress: See `GraphRun`.
        timeout: After how many seconds it is stopped.

    Attributes:
        state: What is known of it.
        semaphore: What modules are given.
        generators: The generators that wait for the next visit of their nodes.
        task_nodes: What was said of the nodes.
    """

    graph: "TaskGraph"

    def __init__(
        self,
        graph: "TaskGraph",
        ctx: InteractionContext,
        *,
        task: "Task",
        state: RunState,
        progress: bool,
        timeout: float | None,
    ) -> None:
        super().__init__(graph, ctx, task=task, progress=progress)
        self.state = state
        self.semaphore = state.semaphore = state.semaphore or asyncio.Semaphore(graph.max_concurrent or 1)
        self.generators: Generators = {}
        self.task_nodes: dict[str, Node] = dict(graph.task_nodes)
        self._timeout = timeout

    async def complete(self) -> None:
        """See `GraphRun.complete`. It also waits for the clean-up of whatever was stopped."""
        await self.state.recorder.begin(self)
        timer = None if self._timeout is None else self.later(self._timeout, self._out_of_time)
        try:
            await super().complete()
            if self.state.stopped is None:
                await self.state.recorder.end(self)
        finally:
            if timer is not None:
                timer.cancel()
            self.state.conclude(self.nodes.values())
            for node_run in self.nodes.values():
                if node_run.leaving is not None:
                    await node_run.leaving._wait_until_over()
            for name, error in (await self._close(list(self.generators))).items():
                self.state.errors[name] = error
                self.state.note_failed(name, error)

    def add_task_node(self, node: Node) -> None:
        """Adds a node when the one at work has ended well; see `GraphRun.add_node`."""
        made = self.graph.graph_node_of(node)
        self.add_node(made.name, made.agent, after=made.after, policy=made.policy)
        self.task_nodes[node.name] = node

    def restore_new_nodes(self, creator: str, nodes: Iterable[Node]) -> None:
        """Adds the nodes that a node had added in another process."""
        added: list[GraphNode] = []
        for node in nodes:
            self.task_nodes[node.name] = node
            added.append(self.graph.graph_node_of(node))
        self._add_new_nodes(self.nodes[creator], added)
        self._queue.clear()  # what can start is found when everything has been restored

    # --- hooks of the engine ---

    def _begin(self) -> None:
        self.state.execution.follow(self._plan_of(self.nodes.values()))
        self.state.recorder.restore(self)
        super()._begin()

    def new_visit(self, node_run: NodeRun) -> Visit:
        """See `GraphRun.new_visit`."""
        if self.task_nodes[node_run.node.name].trace:
            return TracedVisit(self, node_run, self.state.tracer)
        return TaskVisit(self, node_run)

    def condition_holds(self, condition: "CompiledCondition") -> Awaitable[bool]:
        """See `GraphRun.condition_holds`. The task is what modules have made of it in the cache."""
        return self._holds(condition)

    async def _holds(self, condition: "CompiledCondition") -> bool:
        return await condition.holds(self.cache, await self.cache.get("task", default=self.task))

    def call(self, visit: Visit) -> MessageSequencePromise:
        """See `GraphRun.call`."""
        self.make_current(visit)
        if visit.attempt == 1:
            self.state.execution.total_iterations += 1
        agent, messages = visit.node_run.node.agent, self.inputs_of(visit.node_run)
        if isinstance(visit, TracedVisit):
            with visit.attempt_span():
                return self.inquire_inside(agent, messages, visit=visit)
        return self.inquire_inside(agent, messages, visit=visit)

    def outcome(self, visit: Visit) -> Jump | None:
        """See `GraphRun.outcome`."""
        outcome: NodeOutcome = visit.value
        if outcome.decision is None:
            return None
        self.node_named(outcome.decision, f"the decision of {visit.node_run.node.name}")
        return Jump((outcome.decision,), outcome.why, outcome.cleanup)

    def before_release(self, visit: Visit, jump: Jump | None) -> Awaitable[object] | None:
        """See `GraphRun.before_release`."""
        outcome: NodeOutcome = visit.value
        self.state.note_finished(visit.node_run.node.name, outcome.results)
        if jump is not None and jump.value:
            return self._after_cleanup(visit, jump)
        return self._recording(visit, jump)

    async def _after_cleanup(self, visit: Visit, jump: Jump) -> None:
        """Closes what a decision leaves behind, before anything follows it."""
        failures = await self._close(self._left_behind(jump))
        for error in failures.values():
            raise error
        recording = self._recording(visit, jump)
        if recording is not None:
            await recording

    def _recording(self, visit: Visit, jump: Jump | None) -> Awaitable[object] | None:
        used_up = () if jump is None else visit.value.condition_variables
        return self.state.recorder.before_release(self, visit, jump, used_up)

    def visit_finished(self, visit: Visit, jump: Jump | None) -> None:
        """See `GraphRun.visit_finished`."""
        if isinstance(visit, TracedVisit):
            visit.end_span()
        self.state.failures.pop(visit.node_run.node.name, None)
        super().visit_finished(visit, jump)

    def attempt_failed(self, visit: Visit, error: Exception) -> None:
        """See `GraphRun.attempt_failed`."""
        self._note_failure(visit.node_run.node.name)
        if isinstance(visit, TracedVisit):
            visit.attempt_failed(error)

    def visit_failed(self, visit: Visit, error: BaseException) -> None:
        """See `GraphRun.visit_failed`. Where the node says so the run is repeated from an earlier one instead."""
        if isinstance(visit, TracedVisit):
            visit.end_span(error)
        node_run = visit.node_run
        failures = self._note_failure(node_run.node.name)
        config = self.task_nodes[node_run.node.name].node_config
        target = self.nodes.get(config.retry_from) if config.retry_from else None
        if target is None or failures >= config.attempts or not is_worth_a_retry(error):
            super().visit_failed(visit, error)
        elif node_run in self._downstream_of([target]):
            self.repeat_from(visit, target.node.name, error, visit.policy.backoff(failures))
        else:
            super().visit_failed(visit, error)

    def halt(self, error: Exception) -> None:
        """See `GraphRun.halt`."""
        self.state.stopped = error
        super().halt(error)

    def settled(self, node_run: NodeRun) -> None:
        """See `GraphRun.settled`."""
        self.state.execution.execution_index += 1
        if node_run.state is NodeState.FAILED and node_run.error is not None:
            self.state.note_failed(node_run.node.name, node_run.error)
        super().settled(node_run)

    def jump(self, source: NodeRun, jump: Jump) -> None:
        """See `GraphRun.jump`."""
        super().jump(source, jump)
        targets = [self.nodes[name] for name in jump.targets if name in self.nodes]
        self.state.execution.follow(self._plan_of(self._downstream_of(targets)))
        for name in [name for name in self.state.node_results if name not in self.nodes]:
            del self.state.node_results[name]  # of nodes that were added by one which runs again

    # --- details ---

    def _out_of_time(self) -> None:
        self.halt(TimeoutError(f"{self.graph.alias} took longer than {self._timeout:g} s"))

    def _note_failure(self, name: str) -> int:
        failures = self.state.failures[name] = self.state.failures.get(name, 0) + 1
        return failures

    def _plan_of(self, node_runs: Iterable[NodeRun]) -> ExecutionPlan:
        chosen = {node_run.node.name for node_run in node_runs}
        after: Mapping[str, list[str]] = {
            name: list(node_run.after) for name, node_run in self.nodes.items() if name in chosen
        }
        return compile_plan(after)

    def _left_behind(self, jump: Jump) -> list[tuple[str, int]]:
        """The generators of the nodes that a jump makes run again."""
        targets = [self.nodes[name] for name in jump.targets]
        again = {node_run.node.name for node_run in self._downstream_of(targets)}
        return [key for key in self.generators if key[0] in again]

    async def _close(self, keys: list[tuple[str, int]]) -> dict[str, BaseException]:
        """Closes generators, all of them.

        Returns:
            What their clean-up has failed with, by their nodes.
        """
        failures: dict[str, BaseException] = {}
        for key in keys:
            generator = self.generators.pop(key, None)
            if generator is not None:
                try:
                    await generator.aclose()
                except Exception as error:
                    failures[key[0]] = error
        return failures
