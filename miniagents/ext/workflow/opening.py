"""Opening the journal of a run: a new one, one that was recorded, or what a checkpoint says."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from miniagents.ext.checkpoints import Entry, NewEntry, RunNotFoundError
from miniagents.ext.workflow.errors import WorkflowError
from miniagents.ext.workflow.journal import Journal

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import CheckpointStore
    from miniagents.ext.workflow.agent import Agent
    from miniagents.ext.workflow.checkpoint import Checkpoint
    from miniagents.message import Message
    from miniagents.sequences import MessageSequencePromise

__all__ = ["Given", "is_there", "opened"]


@dataclass
class Given:
    """What a run is given to begin with.

    Attributes:
        sent: The messages that the workflow was sent.
        values: The shared state.
        start: The state to begin with; the first one otherwise.
        met_before: The states that completed in earlier runs of the same agent.
        restored: A checkpoint to go on from.
    """

    sent: "MessageSequencePromise"
    values: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None
    met_before: frozenset[str] = frozenset()
    restored: "Checkpoint | None" = None

    async def entries(self, agent: "Agent", *, is_recorded: bool) -> list[NewEntry]:
        """Makes the entries that the journal of a new run begins with."""
        if self.restored is not None:
            return [NewEntry(*entry[1:6]) for entry in _to_go_on_from(self.restored, agent.compensations)]
        data: dict[str, Any] = {"values": dict(self.values), "start": self.start, "met_before": sorted(self.met_before)}
        if is_recorded:  # in another process they could not be asked for again
            messages: tuple[Message, ...] = await self.sent
            data["messages"] = list(messages)
        return [NewEntry("created", data=data)]

    @property
    def is_anything(self) -> bool:
        """Whether a run that has not begun could not begin without it."""
        return bool(self.values) or self.start is not None or self.restored is not None


@asynccontextmanager
async def opened(
    agent: "Agent", store: "CheckpointStore | None", run_id: str, given: Given, *, resume: bool
) -> AsyncIterator[Journal]:
    """Opens the journal of a run.

    Args:
        agent: The workflow.
        store: Where runs are recorded.
        run_id: The id of the run.
        given: What it is given, if it is a new one.
        resume: Whether it is one that was recorded.

    Yields:
        The journal, which nobody else can write to until the end.

    Raises:
        CheckpointStoreError: There is such a run already, or none, or another one works at it, or the store fails.
        WorkflowError: The run cannot be resumed; it says why.
    """
    if store is None:
        if resume:
            raise WorkflowError(f"{agent.alias} has no store, so that nothing is known of runs; give it one")
        journal = Journal()
        journal.add(*await given.entries(agent, is_recorded=False))
        yield journal
        return
    if not resume:
        fingerprint = {**agent.fingerprint(), "given": given.is_anything}
        await store.create(run_id, workflow=agent.alias, fingerprint=fingerprint)
    async with await store.claim(run_id) as claim:
        journal = Journal(store, claim, await store.read(run_id))
        if resume:
            await _check(agent, store, run_id, given, journal)
        if not journal.created:
            recorded = journal.add(*await given.entries(agent, is_recorded=True))
            assert recorded is not None
            await recorded
        yield journal


async def is_there(store: "CheckpointStore", run_id: str) -> bool:
    """Whether a run is recorded."""
    try:
        await store.info(run_id)
    except RunNotFoundError:
        return False
    return True


async def _check(agent: "Agent", store: "CheckpointStore", run_id: str, given: Given, journal: Journal) -> None:
    before = (await store.info(run_id)).fingerprint
    agent.check_unchanged(before, journal.expected_states, run_id)
    if journal.ended not in (None, "completed"):
        raise WorkflowError(
            f"the run {run_id} {'was cancelled' if journal.ended == 'cancelled' else 'has failed'}, so that it cannot "
            "be resumed; start a new one"
        )
    if not journal.created and before["given"] and not given.is_anything:
        raise WorkflowError(
            f"the run {run_id} ended before it was recorded what it was given, so that it cannot be resumed; start a "
            "new one"
        )


def _to_go_on_from(checkpoint: "Checkpoint", compensations: Collection[str]) -> list[Entry]:
    """The journal of a checkpoint. If the run has failed and nothing was undone yet, what has failed is tried again."""
    entries = list(checkpoint.entries)
    ended = next((entry.data["status"] for entry in entries if entry.kind == "ended"), None)
    if ended == "completed":
        return entries
    failed = next((index for index, entry in enumerate(entries) if _ends_run(entry)), len(entries))
    if any(entry.node in compensations for entry in entries[failed:]):
        return entries
    return [entry for entry in entries if entry.kind != "ended" and not _ends_run(entry)]


def _ends_run(entry: Entry) -> bool:
    return entry.kind == "failed" and bool(entry.data["ends_run"])
