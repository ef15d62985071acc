"""Snapshots: where a run stood, as data; how they are read, and put together.

Each snapshot is an entry in the journal of the run, see `miniagents.ext.checkpoints`. It holds what has changed since
the one before; every so often one holds everything, so that those before it can be removed, and all of them together
stay as large as what they describe.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NotRequired, Required, TypedDict

from miniagents.ext.checkpoints import CheckpointStore, Entry, StoreDamagedError
from miniagents.ext.task_graph.errors import SnapshotError

if TYPE_CHECKING:
    from miniagents.ext.task_graph.nodes import Node
    from miniagents.ext.task_graph.tasks import Task
    from miniagents.message import Message

__all__ = ["SNAPSHOT", "Counts", "JumpRecord", "NodeRecord", "RunSnapshot", "SnapshotData", "read_snapshot"]

SNAPSHOT = "snapshot"
"""The kind of the entries that are snapshots."""


class NodeRecord(TypedDict, total=False):
    """How far a node had come. What is missing is what it is at the beginning.

    Attributes:
        state: The value of a `NodeState`.
        visits: How many visits have begun; without the one that was at work, as it begins anew.
        failures: How often it has failed since it last succeeded.
        result: What stands in `node_results`, if it has finished or failed.
        messages: What it has replied in its last visit that ended well.
        reason: Why it was skipped.
        failed_node: Of a skipped node the one whose failure it was skipped for.
        passed_over: Whether it was skipped because a decision went elsewhere.
        created: The nodes that it has added, by their names.
        is_written: Whether its end has been written down before; for those that want that once.
    """

    state: Required[str]
    visits: Required[int]
    failures: int
    result: dict[str, Any]
    messages: "list[Message]"
    reason: str | None
    failed_node: str
    passed_over: bool
    created: "dict[str, Node]"
    is_written: bool


class JumpRecord(TypedDict):
    """A decision that was taken, and not carried out yet.

    Attributes:
        targets: Where to go.
        why: What it rests on.
        cleanup: Whether generators begin anew.
        delete: The keys of the cache that are deleted with it.
    """

    targets: list[str]
    why: str | None
    cleanup: bool
    delete: list[str]


class Counts(TypedDict):
    """How often what has happened.

    Attributes:
        settled: How many nodes of the current plan have been dealt with.
        begun: How many visits have begun in all, without those that were at work, as they begin anew.
    """

    settled: int
    begun: int


class SnapshotData(TypedDict):
    """What a snapshot holds. All but the first three attributes is what has changed, unless the snapshot is a full one.

    Attributes:
        full: Whether it holds everything.
        jumps: What was decided and not carried out, by the nodes that have decided.
        counts: How often what has happened.
        nodes: How far nodes have come, by their names.
        withdrawn: Nodes that are no part of the graph any more.
        cache: The values of the cache, by their keys in the namespace of the run.
        raw: Bytes in the cache that are no values.
        deleted: Keys that are in the cache no more.
        plans: The nodes of each step of each plan, the present plan last.
        task: The task; in full snapshots only, as the following.
        messages: What the graph was sent.
        warnings: What will be different after a restart, for people.
    """

    full: bool
    jumps: dict[str, JumpRecord]
    counts: Counts
    nodes: dict[str, NodeRecord]
    withdrawn: list[str]
    cache: dict[str, Any]
    raw: dict[str, bytes]
    deleted: list[str]
    plans: list[list[list[str]]]
    task: "NotRequired[Task]"
    messages: "NotRequired[list[Message]]"
    warnings: list[str]


class RunSnapshot:
    """Where a run stood: a full snapshot with all that has changed since.

    Args:
        task: The task.
        messages: What the graph was sent.

    Attributes:
        task: The task.
        messages: What the graph was sent.
        nodes: How far nodes had come.
        jumps: What was decided and not carried out.
        cache: Values of the cache.
        raw: Bytes in the cache that are no values.
        plans: The plans, the present one last.
        counts: How often what has happened.
        entries: The numbers of all snapshots of the run, and whether each is a full one.
    """

    def __init__(self, task: "Task", messages: "Iterable[Message]") -> None:
        self.task = task
        self.messages = list(messages)
        self.nodes: dict[str, NodeRecord] = {}
        self.jumps: dict[str, JumpRecord] = {}
        self.cache: dict[str, Any] = {}
        self.raw: dict[str, bytes] = {}
        self.plans: list[list[list[str]]] = []
        self.counts: Counts = {"settled": 0, "begun": 0}
        self.entries: list[tuple[int, bool]] = []

    def take(self, data: SnapshotData) -> None:
        """Adds what has changed since."""
        self.nodes.update(data["nodes"])
        for name in data["withdrawn"]:
            self.nodes.pop(name, None)
        for key in (*data["cache"], *data["raw"], *data["deleted"]):
            self.cache.pop(key, None)
            self.raw.pop(key, None)
        self.cache.update(data["cache"])
        self.raw.update(data["raw"])
        self.jumps = data["jumps"]
        self.plans += data["plans"]
        self.counts = data["counts"]

    def data(self) -> SnapshotData:
        """Gives all of it, as a full snapshot."""
        return {
            "full": True,
            "jumps": self.jumps,
            "counts": self.counts,
            "nodes": self.nodes,
            "withdrawn": [],
            "cache": self.cache,
            "raw": self.raw,
            "deleted": [],
            "plans": self.plans,
            "task": self.task,
            "messages": self.messages,
            "warnings": [],
        }

    def try_again(self) -> None:
        """Has what had failed be tried again, and with it what was skipped for that."""
        for record in self.nodes.values():
            if record["state"] == "failed" or "failed_node" in record:
                record["state"] = "pending"
                for key in ("failures", "result", "reason", "failed_node"):
                    record.pop(key, None)  # type: ignore[misc]
                self.counts["settled"] -= 1


async def read_snapshot(store: CheckpointStore, task_id: str, number: int | None) -> RunSnapshot:
    """Reads the snapshots of a run.

    Args:
        store: Where they are.
        task_id: The id of the task.
        number: The snapshot to take; None for the newest.

    Returns:
        What they say, put together.

    Raises:
        SnapshotError: There is none, or not that one.
        StoreDamagedError: It is damaged; earlier ones can be taken, by their numbers.
    """
    snapshots = [entry for entry in await _entries(store, task_id, number) if entry.kind == SNAPSHOT]
    found: RunSnapshot | None = None
    for entry in snapshots:
        if number is not None and entry.sequence > number:
            break
        if entry.data["full"]:
            found = RunSnapshot(entry.data["task"], entry.data["messages"])
        if found is not None:
            found.take(entry.data)
    numbers = [entry.sequence for entry in snapshots]
    if found is None or number not in (None, *numbers):
        which = "" if number is None else f" {number}"
        listed = f"there are {', '.join(map(str, numbers))}" if numbers else "there is none; run it as a new task"
        raise SnapshotError(f"there is no snapshot{which} of the task {task_id} to go on from; {listed}")
    found.entries = [(entry.sequence, entry.data["full"]) for entry in snapshots]
    return found


async def _entries(store: CheckpointStore, task_id: str, number: int | None) -> list[Entry]:
    try:
        return await store.read(task_id)
    except StoreDamagedError as error:
        if number is not None and any(entry.sequence == number for entry in error.readable):
            return error.readable
        raise
