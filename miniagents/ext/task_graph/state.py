"""What is known of one run of a task graph."""

from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from miniagents.ext.graph.run import NodeRun, NodeState
from miniagents.ext.task_graph.errors import NodesFailedError, RestoredError, TaskTakenOverError
from miniagents.ext.task_graph.plans import ExecutionState
from miniagents.ext.task_graph.tracing import RunTracer

if TYPE_CHECKING:
    import asyncio

    from miniagents.ext.graph.run import Jump
    from miniagents.ext.graph.visit import Visit
    from miniagents.ext.task_graph.run import TaskRun
    from miniagents.ext.task_graph.tasks import Task
    from miniagents.message import Message

__all__ = ["RunRecorder", "RunState", "described"]


class RunRecorder:
    """Who writes down what has happened, so that a run can be taken up again. This one does not."""

    async def begin(self, run: "TaskRun") -> None:
        """Writes down that a run begins, before anything of it does."""

    def restore(self, run: "TaskRun") -> None:
        """Brings a run that has just been set up to where it stood."""

    def before_release(
        self, run: "TaskRun", visit: "Visit", jump: "Jump | None", delete: Sequence[str]
    ) -> Awaitable[object] | None:
        """Writes down that a node has finished; it counts as finished when that is done.

        Args:
            run: The run.
            visit: The visit of the node.
            jump: Where the run goes on, if the node has decided that.
            delete: Keys to delete from the cache, as the decision has used them up.

        Returns:
            What to await; None for nothing.
        """
        return run.cache.delete_many(delete) if delete else None

    async def end(self, run: "TaskRun") -> None:
        """Writes down that all nodes have been dealt with."""


class RunState:
    """What is known of one run, for the agent and for those who look at it later.

    Args:
        task: The task.
        recorder: Who writes down what has happened.

    Attributes:
        task: The task.
        messages: What the graph is sent in place of what the agent is sent, if the run was taken up.
        node_results: `{"status", "results"}` of each node that has been dealt with, by its name.
        execution: How far the run has come.
        failed_chains: Each node that has failed for good, with those that were skipped for that.
        failures: How often each node has failed since it last succeeded.
        errors: What nodes have failed with for good, by their names; known when the run has ended.
        stopped: Why the whole run was stopped, if it was.
        recorder: Who writes down what has happened.
        tracer: Who makes spans for those who want some.
        semaphore: What modules are given; there when the run has begun.
    """

    def __init__(self, task: "Task", recorder: RunRecorder | None = None) -> None:
        self.task = task
        self.messages: list[Message] | None = None
        self.node_results: dict[str, dict[str, Any]] = {}
        self.execution = ExecutionState()
        self.failed_chains: list[list[str]] = []
        self.failures: dict[str, int] = {}
        self.errors: dict[str, BaseException] = {}
        self.stopped: BaseException | None = None
        self.recorder = recorder or RunRecorder()
        self.tracer = RunTracer()
        self.semaphore: asyncio.Semaphore | None = None

    @property
    def first_error(self) -> BaseException | None:
        """What the run has failed with, in part or as a whole."""
        return self.stopped or next(iter(self.errors.values()), None)

    @property
    def has_success(self) -> bool:
        """Whether any node has finished."""
        return any(one["status"] == "success" for one in self.node_results.values())

    @property
    def is_taken_over(self) -> bool:
        """Whether another process goes on with the task, so that it is no business of this one any more."""
        return isinstance(self.stopped, TaskTakenOverError)

    def describe_errors(self) -> str:
        """Says what has gone wrong; nothing, if nothing has."""
        said = [f"{name}: {described(error)}" for name, error in self.errors.items() if error is not self.stopped]
        return "; ".join(said if self.stopped is None else [described(self.stopped), *said])

    def of_part(self) -> "RunState":
        """The state of the nodes of which a node consists."""
        part = RunState(self.task)
        part.tracer, part.semaphore = self.tracer, self.semaphore
        return part

    def raise_if_failed(self, name: str) -> None:
        """Raises an error if anything has failed.

        Args:
            name: The node of whose nodes this is the state.

        Raises:
            NodesFailedError: Nodes have failed.
            Exception: The run was stopped.
        """
        if self.stopped is not None:
            raise self.stopped
        if self.errors:
            raise NodesFailedError(name, self.errors)

    def note_finished(self, name: str, results: list[dict[str, Any]]) -> None:
        """Notes what a node has come to."""
        self.node_results[name] = {"status": "success", "results": results}

    def note_failed(self, name: str, error: BaseException) -> None:
        """Notes what a node has failed with."""
        self.node_results[name] = {"status": "error", "results": [], "error": described(error)}

    def conclude(self, nodes: Iterable[NodeRun]) -> None:
        """Notes with what all nodes have ended."""
        chains: dict[str, list[str]] = {}
        for node_run in nodes:
            name, failed = node_run.node.name, node_run.failed_node
            if node_run.state is NodeState.FAILED and node_run.error is not None:
                self.errors[name] = node_run.error
                self.note_failed(name, node_run.error)
            elif node_run.state is NodeState.SKIPPED:
                self.node_results[name] = {"status": "skipped", "results": [], "reason": node_run.reason}
            elif node_run.state is not NodeState.FINISHED:
                self.node_results[name] = {"status": "cancelled", "results": []}
            if failed is not None:
                chain = chains.setdefault(failed.node.name, [failed.node.name])
                if failed is not node_run:
                    chain.append(name)
        self.failed_chains = list(chains.values())


def described(error: BaseException) -> str:
    """Says what something has failed with."""
    if isinstance(error, RestoredError):
        return str(error)
    return f"{type(error).__name__}: {error}"
