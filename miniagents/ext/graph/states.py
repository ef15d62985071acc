"""How far each node has come in a run."""

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from miniagents.ext.graph.graph import Node
    from miniagents.ext.graph.visit import Visit
    from promising.run import Run

__all__ = ["FAILED", "FINISHED", "IDLE", "PENDING", "RUNNING", "SKIPPED", "Jump", "NodeRun", "NodeState"]


class NodeState(Enum):
    """How far a node has come in a run."""

    IDLE = "idle"
    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    SKIPPED = "skipped"


# To look them up in their class takes eight times as long, and is done twenty times for each node.
IDLE: Final = NodeState.IDLE
PENDING: Final = NodeState.PENDING
RUNNING: Final = NodeState.RUNNING
FINISHED: Final = NodeState.FINISHED
FAILED: Final = NodeState.FAILED
SKIPPED: Final = NodeState.SKIPPED


class Jump(NamedTuple):
    """Where a run goes on, other than along its edges.

    Attributes:
        targets: The nodes to start at once, whatever they depend on.
        why: What the decision rests on, for people.
        value: Whatever the vocabulary wants to know of it.
    """

    targets: tuple[str, ...]
    why: str | None = None
    value: Any = None


class NodeRun:
    """One node in one run.

    Attributes:
        node: What was said of it.
        state: How far it has come.
        after: The names of what it waits for.
        dependents: The names of what waits for it.
        waiting: How many of `after` have not finished.
        visits: How many visits have begun.
        visit: The visit at work.
        last: The last visit that ended well.
        error: What the last visit failed with.
        reason: Why it was skipped.
        failed_node: Of a skipped node the one whose failure it was skipped for; None if it was for another reason.
        creator: The node that has added it while the graph ran.
        passed_over: Whether it was skipped because a decision went elsewhere; what is downstream of where that went
            does not wait for it.
        leaving: A call of an earlier visit that has been cancelled and still cleans up.
    """

    __slots__ = (
        "after", "created", "creator", "dependents", "error", "failed_node", "last", "leaving", "node", "passed_over",
        "reason", "state", "visit", "visits", "waiting",
    )  # fmt: skip

    def __init__(self, node: "Node", creator: "NodeRun | None" = None) -> None:
        self.node = node
        self.state = PENDING
        self.after: Sequence[str] = node.after
        self.dependents: Sequence[str] = ()
        self.waiting = 0
        self.visits = 0
        self.visit: Visit | None = None
        self.last: Visit | None = None
        self.error: BaseException | None = None
        self.reason: str | None = None
        self.failed_node: NodeRun | None = None
        self.creator = creator
        self.created: list[NodeRun] | None = None
        self.passed_over = False
        self.leaving: Run | None = None

    @property
    def is_met(self) -> bool:
        """Whether nobody has to wait for it any more."""
        return self.state is FINISHED or self.passed_over

    @property
    def is_hopeless(self) -> bool:
        """Whether whoever depends on it cannot run."""
        return self.state in (FAILED, SKIPPED) and not self.passed_over

    def __repr__(self) -> str:
        return f"<node {self.node.name}: {self.state.value}>"
