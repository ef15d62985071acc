"""A run in a cache as whoever has claimed it works with it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from miniagents.ext.checkpoints.claims import Claim
from miniagents.ext.checkpoints.entries import Draft
from miniagents.ext.checkpoints.interface import Receipt
from miniagents.ext.checkpoints.outcomes import Outcomes
from miniagents.ext.checkpoints.redis_log import Record, RunLog, RunState
from miniagents.ext.checkpoints.redis_records import (
    as_text,
    check_claim,
    entries_record,
    load_objects,
    receipts_of,
    rows_in,
)
from miniagents.ext.checkpoints.redis_shelf import Shelf

__all__ = ["ClaimedRun"]


class ClaimedRun:
    """The log of a run, and what is known of it for one claim. Its methods are called one after the other.

    Args:
        shelf: Where it is.
        log: The log.
        claim: The claim.

    Attributes:
        log: The log.
        used: When it was used last, in unix seconds.
    """

    def __init__(self, shelf: Shelf, log: RunLog, claim: Claim) -> None:
        self.log = log
        self.used = time.time()
        self._shelf = shelf
        self._claim = claim
        self._objects: set[str] | None = None
        self._unlisted: set[str] = set()  # objects that are stored, which no record mentions yet
        claim.forget_outcomes()

    async def append(self, drafts: Sequence[Draft], status: str | None) -> Sequence[Receipt]:
        """Appends entries, see `CheckpointStore._append`."""
        while True:
            check_claim(self.log.state, self._claim)
            outcomes, objects = await self._known()
            outcomes.checked(drafts, self.log.state.last + 1)
            await self._write_objects(drafts, objects)
            addition = _Addition(self._claim, outcomes, drafts, status, self._unlisted)
            try:
                with self._forgetting_if_interrupted():
                    record = await self.log.commit(addition.record)
            except _OutdatedError:
                continue
            outcomes.note(addition.noted)
            objects |= self._unlisted
            self._unlisted.clear()
            return receipts_of(record)

    async def follow(self) -> None:
        """Reads what others have added, and looks whether the claim still holds."""
        with self._forgetting_if_interrupted():
            fresh = await self.log.follow()
        if _has_own(fresh, self._claim):
            self._forget()
        check_claim(self.log.state, self._claim)

    async def release(self) -> None:
        """Says that nobody holds the run any more."""
        await self.log.commit(lambda state, _: self._checked(state, [], {"what": "release"}))

    async def prune(self, before: int) -> None:
        """Removes entries, see `CheckpointStore.prune`."""
        while True:
            try:
                with self._forgetting_if_interrupted():
                    return await self._prune(before)
            except _OutdatedError:
                continue

    async def _prune(self, before: int) -> None:
        log = self.log
        await self.follow()
        before = min(before, log.state.last)
        if before - 1 <= log.state.pruned:
            return
        records = await log.records(0)
        first_kept = next(number for number, record in records if _last_in(record) >= before)
        kept = [record for number, record in records if number >= first_kept]
        listed = _objects_in(record for number, record in records if number < first_kept)
        needed, _ = await load_objects(self._shelf, log, rows_in(kept, before - 1), {})
        unneeded = listed - needed.keys() - _objects_in(kept)
        cleared, old = first_kept - 1, log.state.cleared
        record = {"what": "prune", "pruned": before - 1, "cleared": cleared, "objects": sorted(listed - unneeded)}
        await log.commit(lambda state, fresh: self._checked(state, fresh, record))
        await log.write_head()  # it has to be beyond what is removed now
        await log.clear(old + 1, cleared)
        await self._shelf.delete_many(log.key(f"object/{key}") for key in unneeded)
        if self._objects is not None:
            self._objects -= unneeded

    def _checked(self, state: RunState, fresh: list[Record], record: Record) -> Record:
        check_claim(state, self._claim)
        if _has_own(fresh, self._claim):
            raise _OutdatedError
        return record

    async def _known(self) -> tuple[Outcomes, set[str]]:
        """Gives what is recorded of visits, and which objects are stored, which is read once."""
        if self._claim.outcomes is None or self._objects is None:
            records = [record for _, record in await self.log.records(0)]
            self._claim.outcomes = Outcomes(self._claim.run_id, (row[:5] for row in rows_in(records, 0)))
            self._objects = _objects_in(records)
        return self._claim.outcomes, self._objects

    @contextmanager
    def _forgetting_if_interrupted(self) -> Iterator[None]:
        """Has everything read anew if the log is left at another place, without it being known what was there."""
        position = self.log.state.position
        try:
            yield
        except BaseException:
            if self.log.state.position != position:
                self._forget()
            raise

    def _forget(self) -> None:
        self._claim.forget_outcomes()
        self._objects = None

    async def _write_objects(self, drafts: Sequence[Draft], objects: set[str]) -> None:
        fresh: dict[str, str] = {}
        for draft in drafts:
            known = objects | self._unlisted | fresh.keys()
            fresh.update((key, as_text(data)) for key, data in draft.packed.objects(known.__contains__))
        if fresh:
            await self._shelf.set_many({self.log.key(f"object/{key}"): text for key, text in fresh.items()})
            self._unlisted.update(fresh)


class _Addition:
    """Entries on their way into the log.

    Attributes:
        noted: What there is to be noted of visits when they are there.
    """

    def __init__(
        self, claim: Claim, outcomes: Outcomes, drafts: Sequence[Draft], status: str | None, objects: set[str]
    ) -> None:
        self._claim = claim
        self._outcomes = outcomes
        self._drafts = drafts
        self._status = status
        self._objects = objects
        self.noted: Any = None

    def record(self, state: RunState, fresh: list[Record]) -> Record:
        """Makes the record, if the entries may be appended after these."""
        check_claim(state, self._claim)
        if _has_own(fresh, self._claim):
            raise _OutdatedError
        self.noted = self._outcomes.checked(self._drafts, state.last + 1)
        record = entries_record(self._drafts, state, self._claim.epoch, self._status)
        return {**record, "objects": sorted(self._objects)}


class _OutdatedError(Exception):
    """An append with this claim that was given up, because it was cancelled or got no answer, has been carried out."""


def _has_own(records: list[Record], claim: Claim) -> bool:
    return any(record["what"] == "entries" and record["epoch"] == claim.epoch for record in records)


def _last_in(record: Record) -> int:
    return record["first"] + len(record["entries"]) - 1 if record["what"] == "entries" else 0


def _objects_in(records: Any) -> set[str]:
    return {key for record in records for key in record.get("objects", ())}
