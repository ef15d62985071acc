"""Snapshots: the state of a run, written down when nodes have finished, and taken up again in another process.

Each snapshot is an entry in the journal of the run, see `miniagents.ext.checkpoints`. It holds what has changed since
the one before; every so often one holds everything, so that those before it can be removed, and all of them together
stay as large as what they describe.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Awaitable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniagents.ext.checkpoints import CheckpointStore, Claim, Entry, FileCheckpointStore, NewEntry
from miniagents.ext.graph.run import Jump, NodeRun, NodeState
from miniagents.ext.graph.visit import Visit
from miniagents.ext.task_graph.errors import SnapshotError
from miniagents.ext.task_graph.modules import AgentModule
from miniagents.ext.task_graph.nodes import Node, SnapshotControl
from miniagents.ext.task_graph.plans import ExecutionPlan
from miniagents.ext.task_graph.run import TaskRun
from miniagents.ext.task_graph.state import RunRecorder
from miniagents.ext.values import encode

if TYPE_CHECKING:
    from miniagents.ext.task_graph.tasks import Task

__all__ = ["RestoredRun", "SnapshotRecorder", "default_store", "fingerprint_of", "folder_of", "read_snapshot"]

_KIND = "snapshot"
_ENTRY_FOLDER = re.compile(r"(\d+)_")
_SETTLED = {"finished": NodeState.FINISHED, "failed": NodeState.FAILED, "skipped": NodeState.SKIPPED}


def default_store(folder: str | os.PathLike[str] | None) -> FileCheckpointStore:
    """Gives the store of snapshots.

    Args:
        folder: Where; what ASIMOV_SNAPSHOT or MINIAGENTS_SNAPSHOT says otherwise, or a folder of the user's.

    Returns:
        The store.
    """
    chosen = folder or os.environ.get("ASIMOV_SNAPSHOT") or os.environ.get("MINIAGENTS_SNAPSHOT")
    if not chosen:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        chosen = Path(state) / "miniagents" / "snapshots"
    return FileCheckpointStore(chosen)


def folder_of(path: str | os.PathLike[str]) -> tuple[Path, str, int | None]:
    """Finds out what a folder of snapshots is.

    Args:
        path: The folder of a task, or of one snapshot of it.

    Returns:
        The folder of all tasks, the id of the task, and the number of the snapshot, None for the newest.

    Raises:
        SnapshotError: It is neither.
    """
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise SnapshotError(f"{folder} is no folder; give that of a task, or of one snapshot of it")
    number = _ENTRY_FOLDER.match(folder.name)
    if number is not None:
        return folder.parent.parent, folder.parent.name, int(number[1])
    return folder.parent, folder.name, None


def fingerprint_of(nodes: dict[str, Node]) -> dict[str, Any]:
    """Describes a graph, so that a changed one can be told."""
    return {
        name: {
            "after": list(node.after),
            "modules": [type(one).__name__ if isinstance(one, AgentModule) else one.alias for one in node.modules],
        }
        for name, node in nodes.items()
    }


def changes_between(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Says how a graph differs from what it was."""
    changes = [f"the node {name!r} is missing" for name in before if name not in now]
    changes += [f"the node {name!r} is new" for name in now if name not in before]
    for name in now:
        if name in before:
            changes += [
                f"{what} of {name!r} were {before[name][key]} and are {now[name][key]}"
                for key, what in (("after", "the dependencies"), ("modules", "the modules"))
                if before[name][key] != now[name][key]
            ]
    return changes


class RestoredRun:
    """What the snapshots of a run say, put together.

    Attributes:
        task: The task.
        nodes: What is known of each node, by its name.
        new_nodes: The nodes that were added in the run, by those that have added them.
        jumps: Decisions that were taken and not carried out yet.
        cache: The values of the cache by their whole keys.
        plans: The plans that were followed, the present one last.
        iterations: How many visits had begun.
    """

    def __init__(self) -> None:
        self.task: Task | None = None
        self.nodes: dict[str, dict[str, Any]] = {}
        self.new_nodes: dict[str, list[Node]] = {}
        self.jumps: dict[str, list[Any]] = {}
        self.cache: dict[str, Any] = {}
        self.plans: list[ExecutionPlan] = []
        self.iterations = 0

    def take(self, data: dict[str, Any]) -> None:
        """Adds a snapshot to those before it."""
        if data["full"]:
            self.__init__()  # type: ignore[misc]
        self.task = data["task"]
        self.nodes.update(data["nodes"])
        self.new_nodes = data["new_nodes"]
        self.jumps = data["jumps"]
        self.cache.update(data["cache"])
        for key in data["gone"]:
            self.cache.pop(key, None)
        self.plans += data["plans"]
        self.iterations = data["iterations"]


async def read_snapshot(store: CheckpointStore, task_id: str, number: int | None) -> RestoredRun:
    """Reads the snapshots of a run.

    Args:
        store: Where they are.
        task_id: The id of the task.
        number: The snapshot to take; None for the newest.

    Returns:
        What they say.

    Raises:
        SnapshotError: There is none.
    """
    restored, found = RestoredRun(), False
    for entry in await store.read(task_id):
        if entry.kind == _KIND and (number is None or entry.sequence <= number):
            restored.take(entry.data)
            found = found or entry.data["full"]
    if not found:
        raise SnapshotError(f"there is no snapshot of the task {task_id} to go on from")
    return restored


class SnapshotRecorder(RunRecorder):
    """Writes snapshots of one run, and brings a run to where a snapshot says that it stood.

    Args:
        store: Where to write.
        claim: The right to write there.
        excluded: Keys of the cache that are not written down.
        kept: How many of the newest snapshots are kept at least.
        restored: Where the run is to begin.
    """

    def __init__(
        self,
        store: CheckpointStore,
        claim: Claim,
        *,
        excluded: Collection[str] = (),
        kept: int = 10,
        restored: RestoredRun | None = None,
    ) -> None:
        self._store = store
        self._claim = claim
        self._excluded = frozenset(excluded)
        self._kept = kept
        self._restored = restored
        self._lock = asyncio.Lock()
        self._written_once: set[str] = set()
        self._releasing: dict[str, list[Any] | None] = {}  # nodes whose end is written, or about to be; and their jumps
        self._known_nodes: dict[str, Any] = {}
        self._known_cache: dict[str, bytes] = {}
        self._plans_written = 0
        self._size_of_full = self._size_of_changes = 0
        self._numbers: list[int] = []  # of the snapshots since the last full one before the newest full one

    # --- writing ---

    def before_release(self, visit: Visit, jump: Jump | None) -> Awaitable[object] | None:
        """See `RunRecorder.before_release`."""
        name = visit.node_run.node.name
        run: TaskRun = visit.run  # type: ignore[assignment]
        control = run.task_nodes[name].snapshot
        if control is SnapshotControl.NEVER or (control is SnapshotControl.ONCE and name in self._written_once):
            return None
        return self._write(run, visit, jump)

    async def _write(self, run: TaskRun, visit: Visit, jump: Jump | None) -> None:
        name = visit.node_run.node.name
        async with self._lock:
            self._releasing[name] = None if jump is None else [list(jump.targets), jump.why, jump.value]
            try:
                data = await self._changes(run, visit)
                entry = NewEntry(_KIND, name, visit.number, visit.attempt, data)
                (recorded,) = await self._store.append(self._claim, [entry])
            except (TypeError, ValueError) as error:
                self._releasing.pop(name)
                raise SnapshotError(
                    f"the end of {name} cannot be written down: {error}. Let modules, results and the cache hold plain "
                    "data and objects of known classes, or exclude the key"
                ) from error
            except BaseException:
                self._releasing.pop(name)
                raise
            self._written_once.add(name)
            await self._prune(recorded, data["full"])

    async def _changes(self, run: TaskRun, visit: Visit) -> dict[str, Any]:
        """What is to be written: what has changed, or everything if the changes have become as large as that."""
        state = run.state
        values = {key: value for key, value in (await run.cache.get_all()).items() if not self._is_excluded(run, key)}
        digests = {key: hashlib.sha256(encode(value)).digest() for key, value in values.items()}
        nodes = {name: self._record(run, node_run, visit) for name, node_run in run.nodes.items()}
        full = self._size_of_changes >= self._size_of_full
        known_nodes, known_cache = ({}, {}) if full else (self._known_nodes, self._known_cache)
        changed = {name: record for name, record in nodes.items() if known_nodes.get(name) != record}
        set_since = {key: values[key] for key, digest in digests.items() if known_cache.get(key) != digest}
        plans = [*state.execution.execution_history, state.execution.current_plan]
        size = len(changed) + len(set_since) + 1
        self._size_of_full, self._size_of_changes = (
            (size, 0) if full else (self._size_of_full, self._size_of_changes + size)
        )
        data = {
            "full": full,
            "task": run.task,
            "nodes": changed,
            "new_nodes": self._new_nodes(run),
            "jumps": {source: jump for source, jump in self._releasing.items() if jump is not None},
            "cache": set_since,
            "gone": [key for key in known_cache if key not in digests],
            "plans": plans if full else plans[self._plans_written :],
            "iterations": state.execution.total_iterations,
            "warnings": [
                f"a generator of {name} is at work; after a restart it begins anew" for name, _ in run.generators
            ],
        }
        self._known_nodes, self._known_cache, self._plans_written = nodes, digests, len(plans)
        return data

    def _is_excluded(self, run: TaskRun, whole_key: str) -> bool:
        namespace = run.cache.namespace
        return any(whole_key == namespace.whole_key(key) for key in self._excluded)

    def _record(self, run: TaskRun, node_run: NodeRun, visit: Visit) -> dict[str, Any]:
        name = node_run.node.name
        record: dict[str, Any] = {"visits": node_run.visits, "failures": run.state.failures.get(name, 0)}
        ended = node_run.visit if name in self._releasing else node_run.last
        if name in self._releasing or node_run.state is NodeState.FINISHED:
            record["state"] = "finished"
            record["result"] = run.state.node_results.get(name)
            if ended is not None and ended.messages:
                record["messages"] = list(ended.messages)
        elif node_run.state in (NodeState.FAILED, NodeState.SKIPPED):
            record["state"] = node_run.state.value
            record["result"] = run.state.node_results.get(name)
            record["reason"] = node_run.reason
            record["failed_node"] = None if node_run.failed_node is None else node_run.failed_node.node.name
        else:
            record["state"] = "pending"
            record["visits"] -= node_run.state is NodeState.RUNNING
        return record

    def _new_nodes(self, run: TaskRun) -> dict[str, list[Node]]:
        found = {
            name: [run.task_nodes[one.node.name] for one in node_run.created]
            for name, node_run in run.nodes.items()
            if node_run.created
        }
        for name in self._releasing:
            visit = run.nodes[name].visit
            if visit is not None and visit.new_nodes:
                found[name] = [run.task_nodes[node.name] for node in visit.new_nodes]
        return found

    def released(self, name: str) -> None:
        """Is told that the end of a node has been carried out, its jump included."""
        self._releasing.pop(name, None)

    async def _prune(self, recorded: Entry, full: bool) -> None:
        """Removes what nobody needs any more: all before a full snapshot, but for the newest ones."""
        self._numbers.append(recorded.sequence)
        if full and len(self._numbers) > self._kept:
            first_kept = self._numbers[-self._kept]
            await self._store.prune(self._claim, before=first_kept)
            self._numbers = self._numbers[-self._kept :]

    # --- restoring ---

    def restore(self, run: TaskRun) -> None:
        """See `RunRecorder.restore`."""
        restored = self._restored
        if restored is None:
            return
        state = run.state
        for creator, nodes in restored.new_nodes.items():
            run.restore_new_nodes(creator, nodes)
        for name, record in restored.nodes.items():
            node_run = run.nodes.get(name)
            if node_run is None:
                continue  # it was added by a node that runs again
            node_run.visits = record["visits"]
            if record["failures"]:
                state.failures[name] = record["failures"]
            settled = _SETTLED.get(record["state"])
            if settled is not None:
                if record["result"] is not None:
                    state.node_results[name] = record["result"]
                failed_by = record.get("failed_node")
                run.restore_settled(
                    node_run,
                    settled,
                    messages=record.get("messages", ()),
                    reason=record.get("reason"),
                    failed_node=run.nodes[failed_by] if failed_by else None,
                )
        run.recount()
        plans = restored.plans
        state.execution.execution_history, state.execution.current_plan = plans[:-1], plans[-1]
        state.execution.total_iterations = restored.iterations
        for source, (targets, why, cleanup) in restored.jumps.items():
            run.jump(run.nodes[source], Jump(tuple(targets), why, cleanup))
