"""What has changed in a run since the last snapshot."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from miniagents.ext.graph.run import NodeRun, NodeState
from miniagents.ext.task_graph.snapshots import JumpRecord, NodeRecord, SnapshotData
from miniagents.ext.values import UnreadableValueError, decode

if TYPE_CHECKING:
    from miniagents.ext.cache import Cache
    from miniagents.ext.graph.run import Jump
    from miniagents.ext.graph.visit import Visit
    from miniagents.ext.task_graph.run import TaskRun

__all__ = ["NOTHING", "Ending", "Mark", "Standing", "Written", "digests_of", "stored_in", "values_of"]


class Ending(NamedTuple):
    """The end of a visit that is about to be carried out: its node counts as finished.

    Attributes:
        visit: The visit.
        jump: Where the run goes on.
        delete: The keys of the cache that are deleted with that.
    """

    visit: "Visit"
    jump: "Jump | None"
    delete: Sequence[str]

    @property
    def name(self) -> str:
        """The name of the node."""
        return self.visit.node_run.node.name


class Mark(NamedTuple):
    """By what it can be seen whether a node has to be written anew; see `NodeRecord`."""

    state: NodeState
    visits: int
    last: "Visit | None"
    failures: int = 0
    reason: str | None = None
    failed_node: NodeRun | None = None
    passed_over: bool = False
    is_written: bool = False


class Written(NamedTuple):
    """What has been written so far.

    Attributes:
        nodes: The marks of the nodes; those that are as at the beginning are missing.
        cache: Digests of the values in the cache.
        plans: How many plans.
        size_of_full: The size of the last full snapshot.
        size_since: The size of those since, together.
    """

    nodes: Mapping[str, Mark] = {}
    cache: Mapping[str, bytes] = {}
    plans: int = 0
    size_of_full: int = 0
    size_since: int = 0


NOTHING = Written()


class Standing:
    """Where a run stands at one moment.

    Args:
        run: The run.
        endings: What is about to be carried out. Those that have been, or were given up, do not count.
        written_once: The nodes that want their end written once, and have that.
    """

    def __init__(self, run: "TaskRun", endings: Iterable[Ending], written_once: Collection[str]) -> None:
        self._run = run
        self._endings = {one.name: one for one in endings if not one.visit.over}
        self._written_once = written_once
        # Visits at work begin anew after a restart, unless a decision is about to end them.
        jumps = [one.jump for one in self._endings.values() if one.jump is not None]
        ended = run._downstream_of(run.nodes[name] for jump in jumps for name in jump.targets if name in run.nodes)
        self._begins_anew: dict[NodeRun, Visit] = {
            one: one.visit
            for name, one in run.nodes.items()
            if one.visit is not None and name not in self._endings and one not in ended
        }

    def marks(self, known: Mapping[str, Mark]) -> dict[str, Mark]:
        """Looks at all nodes, and only at a glance at those to which nothing can have happened.

        Args:
            known: The marks that they had.

        Returns:
            The marks of those that are not as at the beginning, by their names.
        """
        marks: dict[str, Mark] = {}
        for name, one in self._run.nodes.items():
            if one.state is NodeState.PENDING and not one.visits:
                continue
            mark = known.get(name)
            if mark is None or one.state is not NodeState.FINISHED or one.last is not mark.last:
                mark = self._mark(name, one)
            marks[name] = mark
        return marks

    def changes(self, known: Written) -> tuple[SnapshotData, Written]:
        """Finds out what has changed, but for the cache.

        Args:
            known: What has been written; `NOTHING` for a full snapshot.

        Returns:
            What is to be written, and what will have been written then.
        """
        marks, endings = self.marks(known.nodes), self._endings.values()
        execution = self._run.state.execution
        plans = [*execution.execution_history, execution.current_plan]
        data: SnapshotData = {
            "full": known is NOTHING,
            "jumps": {one.name: _jump_record(one.jump, one.delete) for one in endings if one.jump is not None},
            "counts": {
                "settled": execution.execution_index + sum(one.jump is None for one in endings),
                "begun": execution.total_iterations - sum(visit.attempt > 0 for visit in self._begins_anew.values()),
            },
            "nodes": {name: self._record(name, mark) for name, mark in marks.items() if known.nodes.get(name) != mark},
            "withdrawn": [name for name in known.nodes if name not in marks],
            "cache": {},
            "raw": {},
            "deleted": [],
            "plans": [[step.nodes for step in plan.steps] for plan in plans[known.plans :]],
            "warnings": [
                f"a generator of {name} is at work; after a restart it begins anew"
                for name in dict.fromkeys(name for name, _ in self._run.generators)
            ],
        }
        return data, known._replace(nodes=marks, plans=len(plans))

    def _mark(self, name: str, one: NodeRun) -> Mark:
        is_written = name in self._written_once
        if name in self._endings:
            return Mark(NodeState.FINISHED, one.visits, one.visit, is_written=is_written)
        state, visits = one.state, one.visits
        if one in self._begins_anew:
            visits -= 1
        elif state is NodeState.RUNNING:
            state = NodeState.PENDING
        failures = self._run.state.failures.get(name, 0)
        return Mark(state, visits, one.last, failures, one.reason, one.failed_node, one.passed_over, is_written)

    def _record(self, name: str, mark: Mark) -> NodeRecord:
        run, node_run, ending = self._run, self._run.nodes[name], self._endings.get(name)
        record: NodeRecord = {"state": mark.state.value, "visits": mark.visits}
        if mark.state in (NodeState.FINISHED, NodeState.FAILED):
            record["result"] = run.state.node_results[name]
        if mark.last is not None:
            record["messages"] = list(mark.last.messages)
        if mark.failures:
            record["failures"] = mark.failures
        if mark.state is NodeState.SKIPPED:
            record["reason"], record["passed_over"] = mark.reason, mark.passed_over
            if mark.failed_node is not None:
                record["failed_node"] = mark.failed_node.node.name
        if ending is not None:
            created = [node.name for node in ending.visit.new_nodes or ()]
        else:
            created = [one.node.name for one in node_run.created or ()]
        if created:
            record["created"] = {one: run.task_nodes[one] for one in created}
        if mark.is_written:
            record["is_written"] = True
        return record


def _jump_record(jump: "Jump", delete: Sequence[str]) -> JumpRecord:
    return {"targets": list(jump.targets), "why": jump.why, "cleanup": bool(jump.value), "delete": list(delete)}


# --- the cache ---


async def stored_in(cache: "Cache", excluded: Collection[str]) -> dict[str, bytes]:
    """Gives what is stored in the namespace of a cache.

    Args:
        cache: The cache.
        excluded: Keys that are left out.

    Returns:
        The bytes, by their keys as the user knows them.
    """
    namespace = cache.namespace
    found: dict[str, bytes] = {}
    async for batch in cache._scan(namespace):
        keys = {whole_key: key for whole_key in batch if (key := namespace.key_of(whole_key)) not in excluded}
        contents = await cache._load_many(list(keys)) if keys else []
        pairs = zip(keys.values(), contents, strict=True)
        found.update((key, content) for key, content in pairs if content is not None)
    return found


def values_of(stored: Mapping[str, bytes]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Reads what was stored, and sets apart what is no value."""
    values: dict[str, Any] = {}
    raw: dict[str, bytes] = {}
    for key, content in stored.items():
        try:
            values[key] = decode(content)
        except UnreadableValueError:
            raw[key] = content
    return values, raw


def digests_of(stored: Mapping[str, bytes]) -> dict[str, bytes]:
    """Gives what tells that something stored has changed."""
    return {key: hashlib.sha256(content).digest() for key, content in stored.items()}
