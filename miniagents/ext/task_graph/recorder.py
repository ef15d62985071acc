"""Writing snapshots of a run, while it runs."""

import asyncio
import logging
from collections.abc import Awaitable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from miniagents.ext.checkpoints import CheckpointStore, CheckpointStoreError, Claim, NewEntry, StaleClaimError
from miniagents.ext.checkpoints.objects import Packed
from miniagents.ext.task_graph.changes import (
    NOTHING,
    Ending,
    Standing,
    Written,
    digests_of,
    stored_in,
    values_of,
)
from miniagents.ext.task_graph.errors import SnapshotError, TaskTakenOverError
from miniagents.ext.task_graph.nodes import SnapshotControl
from miniagents.ext.task_graph.restoring import carry_out_jumps, restore_cache, restore_nodes
from miniagents.ext.task_graph.snapshots import SNAPSHOT, RunSnapshot
from miniagents.ext.task_graph.state import RunRecorder

if TYPE_CHECKING:
    from miniagents.ext.graph.run import Jump
    from miniagents.ext.graph.visit import Visit
    from miniagents.ext.task_graph.run import TaskRun

__all__ = ["SnapshotRecorder"]

_logger = logging.getLogger("miniagents.task_graph")


class SnapshotRecorder(RunRecorder):
    """Writes snapshots of one run, and brings a run to where a snapshot says that it stood.

    Args:
        store: Where to write.
        claim: The right to write there.
        excluded: Keys of the cache that are not written down.
        kept: How many of the newest snapshots are kept at least.
        restored: Where the run is to begin; None for the beginning.
    """

    def __init__(
        self,
        store: CheckpointStore,
        claim: Claim,
        *,
        excluded: Collection[str] = (),
        kept: int = 10,
        restored: RunSnapshot | None = None,
    ) -> None:
        self._store = store
        self._claim = claim
        self._excluded = frozenset(excluded)
        self._kept = kept
        self._restored = restored
        self._given: RunSnapshot | None = None  # the task and the messages with which the run has begun
        self._entries: list[tuple[int, bool]] = [] if restored is None else restored.entries
        self._written = NOTHING
        self._written_once: set[str] = set()
        self._endings: dict[str, Ending] = {}
        self._writing = asyncio.Lock()
        self._looking = asyncio.Lock()  # while it is looked where the run stands nothing further counts as finished

    # --- the hooks ---

    async def begin(self, run: "TaskRun") -> None:
        """See `RunRecorder.begin`."""
        begun = self._restored
        if begun is None:
            begun = RunSnapshot(run.task, await run.ctx.message_promises)
        else:
            await restore_cache(run.cache, begun)
        self._given = RunSnapshot(begun.task, begun.messages)
        stored = await stored_in(run.cache, self._excluded)
        begun.cache, begun.raw = values_of(stored)
        written = Written(cache=digests_of(stored), plans=len(begun.plans))
        with _explained("the beginning of the task"):
            await self._append(NewEntry(SNAPSHOT, data=begun.data()), written, status=run.task.status.value)

    def restore(self, run: "TaskRun") -> None:
        """See `RunRecorder.restore`."""
        found, self._restored = self._restored, None
        if found is not None:
            self._written_once = {name for name, record in found.nodes.items() if record.get("is_written")}
            restore_nodes(run, found)
            self._written = self._written._replace(nodes=Standing(run, (), self._written_once).marks({}))
            carry_out_jumps(run, found)

    def before_release(
        self, run: "TaskRun", visit: "Visit", jump: "Jump | None", delete: Sequence[str]
    ) -> Awaitable[object] | None:
        """See `RunRecorder.before_release`."""
        ending = Ending(visit, jump, delete)
        control = run.task_nodes[ending.name].snapshot
        if control == SnapshotControl.ALWAYS:
            return self._write_ending(run, ending)
        if control == SnapshotControl.ONCE and ending.name not in self._written_once:
            return self._write_ending(run, ending)
        if delete or self._looking.locked():
            return self._end_unwritten(run, ending)
        return None

    async def end(self, run: "TaskRun") -> None:
        """See `RunRecorder.end`. All that had to be durable is so already: an error here is none of the run."""
        try:
            with _explained("the end of the task"):
                async with self._writing:
                    await self._write(run, None)
        except SnapshotError as error:
            _logger.warning("Task %s: %s", run.task.id, error)

    # --- writing ---

    async def _write_ending(self, run: "TaskRun", ending: Ending) -> None:
        name = ending.name
        try:
            async with self._writing:
                if run.task_nodes[name].snapshot == SnapshotControl.ONCE:
                    self._written_once.add(name)
                with _explained(f"the end of {name!r}"):
                    await self._write(run, ending)
                if ending.delete:
                    await run.cache.delete_many(ending.delete)
        except BaseException as error:
            if self._endings.get(name) is ending:
                del self._endings[name]
            self._written_once.discard(name)
            if isinstance(error, TaskTakenOverError):
                run.crash(error)
            raise

    async def _end_unwritten(self, run: "TaskRun", ending: Ending) -> None:
        async with self._looking:
            if ending.delete:  # no snapshot is to say that it is gone, and the decision still to be taken
                await run.cache.delete_many(ending.delete)
            self._endings[ending.name] = ending

    async def _write(self, run: "TaskRun", ending: Ending | None) -> None:
        """Writes what has changed; or all there is, if the changes have become as large as that."""
        async with self._looking:
            if ending is not None:
                self._endings[ending.name] = ending
            known = self._written if self._written.size_since < self._written.size_of_full else NOTHING
            while True:
                data, written = Standing(run, self._endings.values(), self._written_once).changes(known)
                # After the nodes: whatever counts as finished has put into the cache what it had to.
                stored = await stored_in(run.cache, self._excluded)
                if written.plans == len(run.state.execution.execution_history) + 1:
                    break  # else the run was repeated from a node meanwhile, which may have begun to work again
        for key in () if ending is None else ending.delete:
            stored.pop(key, None)
        digests = digests_of(stored)
        changed = {key: content for key, content in stored.items() if known.cache.get(key) != digests[key]}
        data["cache"], data["raw"] = values_of(changed)
        data["deleted"] = [key for key in known.cache if key not in digests]
        if data["full"]:
            assert self._given is not None
            data["task"], data["messages"] = self._given.task, self._given.messages
        entry = NewEntry(SNAPSHOT, data=data)
        if ending is not None:
            entry = entry._replace(node=ending.name, visit=ending.visit.number, attempt=ending.visit.attempt)
        await self._append(entry, written._replace(cache=digests))

    async def _append(self, entry: NewEntry, written: Written, status: str | None = None) -> None:
        self._written = NOTHING  # until it is certain
        size = len(Packed.of(entry.data).data)
        (recorded,) = await self._store.append(self._claim, [entry], status=status)
        is_full: bool = entry.data["full"]
        if is_full:
            self._written = written._replace(size_of_full=size)
        else:
            self._written = written._replace(size_since=written.size_since + size)
        self._entries.append((recorded.sequence, is_full))
        if is_full:
            await self._prune()

    async def _prune(self) -> None:
        """Removes what is older than the newest full snapshot with which enough are left."""
        count = len(self._entries)
        full = [place for place, (_, is_full) in enumerate(self._entries) if is_full and count - place >= self._kept]
        if full and full[-1] > 0:
            del self._entries[: full[-1]]
            try:
                await self._store.prune(self._claim, before=self._entries[0][0])
            except CheckpointStoreError as error:
                _logger.warning("Old snapshots of task %s could not be removed: %s", self._claim.run_id, error)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Says of errors that a snapshot could not be written, and which."""
    try:
        yield
    except StaleClaimError as error:
        raise TaskTakenOverError(
            f"another process is at work at the task by now, so this one stops: {error}"
        ) from error
    except CheckpointStoreError as error:
        raise SnapshotError(f"{what} cannot be written down: {error}") from error
    except (TypeError, ValueError) as error:
        raise SnapshotError(
            f"{what} cannot be written down: {error}. What is written are the results and messages of all nodes, and "
            "nodes that were added: let these have conditions in Lua, and modules that are objects of a class"
        ) from error
