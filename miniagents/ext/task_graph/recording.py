"""Runs whose snapshots are written, and runs that begin at a snapshot: where, who may do that, and how they end."""

import logging
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from miniagents.ext.checkpoints import CheckpointStore, CheckpointStoreError, FileCheckpointStore
from miniagents.ext.checkpoints.local import state_folder
from miniagents.ext.task_graph.errors import GraphChangedError, SnapshotError
from miniagents.ext.task_graph.fingerprints import changes_between, fingerprint_of
from miniagents.ext.task_graph.recorder import SnapshotRecorder
from miniagents.ext.task_graph.snapshots import read_snapshot
from miniagents.ext.task_graph.state import RunState
from miniagents.ext.task_graph.tasks import TaskStatus

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import Claim
    from miniagents.ext.task_graph.agent import Agent
    from miniagents.ext.task_graph.snapshots import RunSnapshot
    from miniagents.ext.task_graph.tasks import Task

__all__ = ["recorded", "taken_up"]

_logger = logging.getLogger("miniagents.task_graph")

_ENTRY_FOLDER = re.compile(r"(\d+)_")


@asynccontextmanager
async def recorded(agent: "Agent", task: "Task") -> AsyncIterator[RunState]:
    """Surrounds a run whose snapshots are written.

    Args:
        agent: The agent.
        task: The task.

    Yields:
        The state of the run.

    Raises:
        CheckpointStoreError: The run cannot be written down.
    """
    store, run_id = _store_of(agent), str(task.id)
    async with _closed_if_own(agent, store):
        await store.create(
            run_id, workflow=agent.alias, fingerprint=fingerprint_of(agent.nodes), status=task.status.value
        )
        async with _claimed(store, run_id) as claim:
            state = RunState(task, _recorder(agent, store, claim))
            async with _ending_told(store, claim, state):
                yield state


@asynccontextmanager
async def taken_up(agent: "Agent", snapshot: "str | os.PathLike[str] | UUID") -> AsyncIterator[RunState]:
    """Surrounds a run that begins at a snapshot.

    Args:
        agent: The agent.
        snapshot: The folder of a snapshot or of a task, or the id of a task.

    Yields:
        The state of the run.

    Raises:
        CheckpointStoreError: There is no such task, or another process is at work at it.
        SnapshotError: There is no such snapshot.
        GraphChangedError: The graph is another one by now.
    """
    store, run_id, number = _place_of(agent, snapshot)
    async with _closed_if_own(agent, store):
        info = await store.info(run_id)
        changes = changes_between(info.fingerprint, fingerprint_of(agent.nodes))
        if changes:
            raise GraphChangedError(
                f"the task {run_id} cannot be taken up, since its graph has changed: {'; '.join(changes)}. Take it up "
                "with the graph as it was, or run a new task"
            )
        async with _claimed(store, run_id) as claim:
            restored = await read_snapshot(store, run_id, number)
            if info.status in (TaskStatus.FAILED, TaskStatus.PARTIAL):
                restored.try_again()
            state = RunState(restored.task, _recorder(agent, store, claim, restored))
            state.messages = restored.messages
            async with _ending_told(store, claim, state):
                yield state


def _recorder(
    agent: "Agent", store: CheckpointStore, claim: "Claim", restored: "RunSnapshot | None" = None
) -> SnapshotRecorder:
    return SnapshotRecorder(store, claim, excluded=agent.snapshot_exclude, kept=agent.snapshots_kept, restored=restored)


# --- where ---


def _store_of(agent: "Agent", folder: str | os.PathLike[str] | None = None) -> CheckpointStore:
    """The store of the agent, or one of files in a folder: the given one, the agent's, or the default one."""
    if agent.snapshot_store is not None and folder is None:
        return agent.snapshot_store
    chosen = folder or agent.snapshot_dir or os.environ.get("ASIMOV_SNAPSHOT") or os.environ.get("MINIAGENTS_SNAPSHOT")
    return FileCheckpointStore(chosen or state_folder() / "snapshots")


@asynccontextmanager
async def _closed_if_own(agent: "Agent", store: CheckpointStore) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if store is not agent.snapshot_store:
            await store.close()


def _place_of(agent: "Agent", snapshot: Any) -> tuple[CheckpointStore, str, int | None]:
    """The store, the id of the task and the number of the snapshot, None for the newest."""
    if _is_id(snapshot):
        return _store_of(agent), str(snapshot), None
    folder = Path(snapshot).absolute()
    if not folder.is_dir():
        raise SnapshotError(
            f"{folder} is no folder; give that of a task, or of one snapshot of it, or the id of a task"
        )
    number = _ENTRY_FOLDER.match(folder.name)
    if number is None:
        return _store_of(agent, folder.parent), folder.name, None
    return _store_of(agent, folder.parent.parent), folder.parent.name, int(number[1])


def _is_id(snapshot: Any) -> bool:
    try:
        return isinstance(snapshot, UUID) or str(UUID(snapshot)) == snapshot
    except (ValueError, AttributeError, TypeError):
        return False


# --- whose it is ---


@asynccontextmanager
async def _claimed(store: CheckpointStore, run_id: str) -> AsyncIterator["Claim"]:
    claim = await store.claim(run_id)
    try:
        yield claim
    finally:
        with _only_logged(f"the claim of the task {run_id} could not be given back"):
            await claim.release()


@asynccontextmanager
async def _ending_told(store: CheckpointStore, claim: "Claim", state: RunState) -> AsyncIterator[None]:
    """Has the store know how a task has ended."""
    try:
        yield
    finally:
        if state.task.is_over and not claim.is_lost:
            with _only_logged(f"the status of the task {state.task.id} could not be written"):
                await store.append(claim, [], status=state.task.status.value)


@contextmanager
def _only_logged(what: str) -> Iterator[None]:
    """Around what is no business of the task, which has ended."""
    try:
        yield
    except CheckpointStoreError as error:
        _logger.warning("%s: %s", what[0].upper() + what[1:], error)
