"""A state in a run, and one visit of it."""

import asyncio
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from miniagents.ext.graph.graph import Node
from miniagents.ext.graph.run import NodeRun, NodeState
from miniagents.ext.workflow.branches import Branch
from miniagents.ext.workflow.dependencies import DependencyConfig
from miniagents.ext.workflow.shared import Writer, Writes
from miniagents.ext.workflow.states import State, StateMetadata
from miniagents.message import Message

if TYPE_CHECKING:
    from miniagents.ext.workflow.context import Context
    from miniagents.ext.workflow.controlled_run import ControlledRun

__all__ = ["StateRun", "VisitData"]

Waiting: TypeAlias = tuple[Branch | None, ...]
"""The branches in which a state is to run. These are tuples, as empty ones cost nothing, and there are many states."""


class VisitData:
    """What a run knows of a visit beside what the engine does.

    Attributes:
        writer: Who it is for the shared state.
        branches: In which branches it runs; None stands for the run itself.
        attempt: How many attempts have begun, those of processes that have died included.
        is_announced: Whether the attempt that begins next has been recorded already.
        is_called: Whether the state has been called.
        is_ending: Whether what has come of it is on its way into the journal.
        context: What the state was given in the attempt at work.
        waits: The states that it has named, and for how many groups each of them waits.
        writes: What it has set, once it has ended.
        messages: What a miniagent has replied.
        part: The run of another workflow that it stands for.
    """

    __slots__ = (
        "attempt", "branches", "context", "is_announced", "is_called", "is_ending", "messages", "part", "returned",
        "waits", "writer", "writes",
    )  # fmt: skip

    def __init__(self, writer: Writer, branches: Waiting, attempt: int) -> None:
        self.writer = writer
        self.branches = branches
        self.attempt = attempt
        self.is_announced = self.is_called = self.is_ending = False
        self.context: Context | None = None
        self.returned: Any = None
        self.waits: Mapping[str, int] = {}
        self.writes: Writes = {}
        self.messages: tuple[Message, ...] = ()
        self.part: ControlledRun | None = None


class StateRun(NodeRun):
    """One state in one run.

    Attributes:
        definition: What was said of it.
        metadata: What is known of it, for people.
        branches: In which branches it is to run next; None stands for the run itself.
        again: In which branches it is to run once more after that.
        waiting_since: Since when it waits for others, in seconds since 1970.
        timer: When to look again whether it can start.
        completions: How often it has completed.
        completed_at: When it completed last.
        attempts: How many attempts the visit with this number has had in processes that have died, or before a pause.
        failures: How many attempts of the visit with this number have failed before a pause.
        announced: The number of the visit whose first attempt is recorded before it begins.
        used: How often each state that it depends on had completed when it began last.
        met_before: The dependencies of lifecycle ONCE that were met in earlier runs.
        named_by: The messages of the miniagent that has named it.
    """

    __slots__ = (
        "again", "announced", "attempts", "branches", "completed_at", "completions", "definition", "failures",
        "met_before", "metadata", "named_by", "timer", "used", "waiting_since",
    )  # fmt: skip

    def __init__(self, node: Node, definition: State, met_before: Collection[str]) -> None:
        super().__init__(node)
        self.definition = definition
        self.state = NodeState.IDLE
        self.metadata = StateMetadata(definition.name)
        self.branches: Waiting = ()
        self.again: Waiting = ()
        self.waiting_since = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.completions = 0
        self.completed_at = 0.0
        self.attempts: tuple[int, int] = (0, 0)
        self.failures: tuple[int, int] = (0, 0)
        self.announced = 0
        self.used: dict[str, int] = {}
        self.met_before = met_before
        self.named_by: tuple[Message, ...] = ()

    @property
    def configs(self) -> Mapping[str, DependencyConfig]:
        """Its dependencies."""
        return self.definition.dependencies

    @property
    def is_at_work(self) -> bool:
        """Whether it runs, or is about to."""
        return self.state is NodeState.RUNNING or self.state is NodeState.PENDING

    @property
    def has_begun(self) -> bool:
        """Whether an attempt of the present visit has begun, in this process or before."""
        if self.visit is not None:
            begun: bool = self.visit.value.attempt > 0
            return begun
        return self.attempts_of(self.visits + 1) > 0

    @property
    def has_started(self) -> bool:
        """Whether it has ever begun; to wait for a place, or for resources, is no beginning."""
        return self.has_begun or self.visits > (self.visit is not None)

    @property
    def has_ended(self) -> bool:
        """Whether it has run, and ended in whichever way."""
        return self.state in (NodeState.FINISHED, NodeState.FAILED, NodeState.SKIPPED)

    @property
    def has_completed_last(self) -> bool:
        """Whether it has completed, and is neither at work again nor has failed since."""
        return self.state is NodeState.FINISHED

    @property
    def told(self) -> str:
        """How far it has come, in a word."""
        if self.state is NodeState.IDLE:
            return "nobody has named it"
        return self.metadata.status.value if self.error is None else f"failed: {self.metadata.error}"

    def attempts_of(self, visit: int) -> int:
        """How many attempts a visit has had that are over, without having brought an outcome."""
        return self.attempts[1] if self.attempts[0] == visit else 0

    def failures_of(self, visit: int) -> int:
        """How many attempts a visit has had that have failed, before it was put off by a pause."""
        return self.failures[1] if self.failures[0] == visit else 0

    def note_attempt(self, visit: int, attempt: int) -> None:
        """Takes note of an attempt that is over without having brought an outcome."""
        self.attempts = (visit, max(attempt, self.attempts_of(visit)))
