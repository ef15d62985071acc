"""Opening the journal of a run: a new one, one that was recorded, or what a checkpoint says."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from miniagents.ext.checkpoints import Entry, NewEntry, RunNotFoundError
from miniagents.ext.workflow.errors import WorkflowError
from miniagents.ext.workflow.journal import Journal
from miniagents.ext.workflow.recording import error_in

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import CheckpointStore
    from miniagents.ext.workflow.agent import Agent
    from miniagents.ext.workflow.checkpoint import Checkpoint
    from miniagents.message import Message
    from miniagents.sequences import MessageSequencePromise

__all__ = ["Given", "failure_in", "is_there", "opened", "part_run_id"]

_LONGEST_ID = 200


@dataclass
class Given:
    """What a run is given to begin with.

    Attributes:
        sent: The messages that the workflow was sent.
        values: The shared state.
        start: The state to begin with; the first one otherwise.
        met_before: The states that completed in earlier runs of the same agent.
        restored: A checkpoint to go on from.
        key: What the idempotency keys of the run begin with; its id otherwise.
    """

    sent: "MessageSequencePromise"
    values: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None
    met_before: frozenset[str] = frozenset()
    restored: "Checkpoint | None" = None
    key: str | None = None

    async def entries(self, agent: "Agent", *, is_recorded: bool) -> list[NewEntry]:
        """Makes the entries that the journal of a new run begins with."""
        if self.restored is not None:
            return _restored_entries(self.restored, agent.compensations)
        data: dict[str, Any] = {"values": dict(self.values), "start": self.start, "met_before": sorted(self.met_before)}
        if self.key is not None:
            data["key"] = self.key
        if is_recorded:  # in another process they could not be asked for again
            messages: tuple[Message, ...] = await self.sent
            data["messages"] = list(messages)
        return [NewEntry("created", data=data)]


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
        journal.entries = _as_they_were(journal.entries)
        yield journal
        return
    entries: list[NewEntry] = []
    if not resume:  # what is given is there before the run is, so that no run is there without it for long
        entries = await given.entries(agent, is_recorded=True)
        fingerprint = {**agent.fingerprint(), "given": _is_anything(entries)}
        await store.create(run_id, workflow=agent.alias, fingerprint=fingerprint)
    async with await store.claim(run_id) as claim:
        journal = Journal(store, claim, _as_they_were(await store.read(run_id)))
        if resume:
            await _check(agent, store, run_id, journal)
        if not journal.created:
            recorded = journal.add(*(entries or await _given_again(agent, store, run_id, given)))
            assert recorded is not None
            await recorded
            journal.entries = _as_they_were(journal.entries)
        yield journal


def failure_in(entries: Sequence[Entry]) -> Exception | None:
    """What a run has failed with, if it has ended so; what failed may still be compensated otherwise."""
    if not any(entry.kind == "ended" for entry in entries):
        return None
    return next((error_in(entry) for entry in entries if _ends_run(entry)), None)


def part_run_id(run_id: str, state: str, visit: int) -> str:
    """The id of the run of another workflow that a visit of a state stands for."""
    made = f"{run_id}/{state}/{visit}"
    return made if len(made) <= _LONGEST_ID else sha256(made.encode()).hexdigest()[:40]


async def is_there(store: "CheckpointStore", run_id: str) -> bool:
    """Whether a run is recorded."""
    try:
        await store.info(run_id)
    except RunNotFoundError:
        return False
    return True


async def _check(agent: "Agent", store: "CheckpointStore", run_id: str, journal: Journal) -> None:
    before = (await store.info(run_id)).fingerprint
    agent.check_unchanged(before, journal.expected_states, run_id)
    if journal.ended not in (None, "completed"):
        failure = None if journal.ended == "cancelled" else failure_in(journal.entries)
        how = "was cancelled" if failure is None else f"has failed ({type(failure).__name__}: {failure})"
        raise WorkflowError(f"the run {run_id} {how}, so that it cannot be resumed; start a new one") from failure


async def _given_again(agent: "Agent", store: "CheckpointStore", run_id: str, given: Given) -> list[NewEntry]:
    """What a run is to begin with whose process has died before that was recorded."""
    entries = await given.entries(agent, is_recorded=True)
    if (await store.info(run_id)).fingerprint["given"] and not _is_anything(entries):
        raise WorkflowError(
            f"the run {run_id} ended before it was recorded what it was given, so that it cannot be resumed; start a "
            "new one"
        )
    return entries


def _is_anything(entries: list[NewEntry]) -> bool:
    """Whether a run is given something to begin with that it could not do without."""
    data = entries[0].data if entries else {"values": {}, "start": None}
    return len(entries) > 1 or bool(data["values"] or data["start"] is not None or data.get("messages"))


def _restored_entries(checkpoint: "Checkpoint", compensations: Collection[str]) -> list[NewEntry]:
    """The journal of a checkpoint for another run, which remembers when all of it was recorded."""
    entries = _to_go_on_from(checkpoint, compensations)
    made = [NewEntry(*entry[1:6]) for entry in entries]
    if made and made[0].kind == "created":
        data = {"key": checkpoint.run_id, **made[0].data, "times": [entry.time for entry in entries]}
        made[0] = made[0]._replace(data=data)
    return made


def _as_they_were(entries: list[Entry]) -> list[Entry]:
    """Entries with the times at which they were recorded first, in the run that a checkpoint was made of."""
    times = entries[0].data.get("times", ()) if entries and entries[0].kind == "created" else ()
    known = [entry._replace(time=time) for entry, time in zip(entries, times, strict=False)]
    return known + entries[len(known) :]


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
