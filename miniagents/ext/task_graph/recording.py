"""Runs whose snapshots are written, and runs that begin at a snapshot: who claims them, and how they end."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from miniagents.ext.checkpoints import CheckpointStore
from miniagents.ext.task_graph.errors import GraphChangedError
from miniagents.ext.task_graph.snapshots import (
    SnapshotRecorder,
    changes_between,
    default_store,
    fingerprint_of,
    folder_of,
    read_snapshot,
)
from miniagents.ext.task_graph.state import RunState

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import Claim
    from miniagents.ext.task_graph.agent import Agent
    from miniagents.ext.task_graph.snapshots import RestoredRun
    from miniagents.ext.task_graph.tasks import Task

__all__ = ["recorded", "taken_up"]


@asynccontextmanager
async def recorded(agent: "Agent", task: "Task") -> AsyncIterator[RunState]:
    """Surrounds a run whose snapshots are written.

    Args:
        agent: The agent.
        task: The task.

    Yields:
        The state of the run.
    """
    store = agent.snapshot_store or default_store(agent.snapshot_dir)
    run_id = str(task.id)
    await store.create(run_id, workflow=agent.alias, fingerprint=fingerprint_of(dict(agent.nodes)))
    async with await store.claim(run_id) as claim:
        state = RunState(task, recorder=_recorder(agent, store, claim))
        yield state
        await store.append(claim, [], status=task.status.value)


@asynccontextmanager
async def taken_up(agent: "Agent", snapshot: "str | os.PathLike[str] | UUID") -> AsyncIterator[RunState]:
    """Surrounds a run that begins at a snapshot.

    Args:
        agent: The agent.
        snapshot: The folder of a snapshot or of a task, or the id of a task.

    Yields:
        The state of the run.

    Raises:
        SnapshotError: There is no such snapshot.
        GraphChangedError: The graph is another one by now.
    """
    store, run_id, number = _place_of(agent, snapshot)
    changes = changes_between((await store.info(run_id)).fingerprint, fingerprint_of(dict(agent.nodes)))
    if changes:
        raise GraphChangedError(
            f"the task {run_id} cannot be taken up, since its graph has changed: {'; '.join(changes)}. Take it up with "
            "the graph as it was, or run a new task"
        )
    async with await store.claim(run_id) as claim:
        restored = await read_snapshot(store, run_id, number)
        assert restored.task is not None
        for key, value in restored.cache.items():
            await agent.cache.set(key, value, raw=True)
        state = RunState(restored.task, recorder=_recorder(agent, store, claim, restored))
        yield state
        await store.append(claim, [], status=state.task.status.value)


def _recorder(
    agent: "Agent", store: CheckpointStore, claim: "Claim", restored: "RestoredRun | None" = None
) -> SnapshotRecorder:
    return SnapshotRecorder(store, claim, excluded=agent.snapshot_exclude, kept=agent.snapshots_kept, restored=restored)


def _place_of(agent: "Agent", snapshot: Any) -> tuple[CheckpointStore, str, int | None]:
    if agent.snapshot_store is not None and not isinstance(snapshot, os.PathLike):
        return agent.snapshot_store, str(snapshot), None
    folder, run_id, number = folder_of(snapshot)
    return default_store(folder), run_id, number
