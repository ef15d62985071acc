"""What stands in the records of a run in a cache, and how it is read."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from miniagents.ext.checkpoints.claims import Claim
from miniagents.ext.checkpoints.entries import Draft
from miniagents.ext.checkpoints.errors import CheckpointStoreError, RunNotFoundError, StaleClaimError
from miniagents.ext.checkpoints.interface import Receipt, Row, StoredJournal
from miniagents.ext.checkpoints.objects import references_in
from miniagents.ext.checkpoints.redis_log import BehindError, Record, RunLog, RunState
from miniagents.ext.checkpoints.redis_shelf import Shelf

__all__ = [
    "as_data",
    "as_text",
    "check_claim",
    "entries_record",
    "lease_key",
    "load_objects",
    "not_found",
    "read_journal",
    "receipts_of",
    "rows_in",
    "until",
]

_AT_ONCE = 500


def entries_record(drafts: Sequence[Draft], state: RunState, epoch: int, status: str | None) -> Record:
    """Makes the record of entries.

    Args:
        drafts: The entries.
        state: The state before them.
        epoch: The number of the claim with which they are appended; 0 for none.
        status: The new status of the run, or None.

    Returns:
        The record.
    """
    entries = [[*draft[:4], as_text(draft.packed.data)] for draft in drafts]
    return {
        "what": "entries",
        "epoch": epoch,
        "first": state.last + 1,
        "entries": entries,
        "status": status,
        "time": time.time(),
    }


def receipts_of(record: Record) -> list[Receipt]:
    """Gives the receipts for the entries of a record."""
    first = record["first"]
    return [Receipt(number, record["time"]) for number in range(first, first + len(record["entries"]))]


def rows_in(records: Iterable[Record], after: int) -> Iterator[Row]:
    """Gives the entries of records that come after a number."""
    for record in records:
        for number, (kind, node, visit, attempt, data) in enumerate(record.get("entries", ()), record.get("first", 0)):
            if number > after:
                yield Row(number, kind, node, visit, attempt, as_data(data), record["time"])


async def read_journal(shelf: Shelf, log: RunLog, after: int, limit: int | None) -> StoredJournal:
    """Reads entries from the log of a run, and what they refer to.

    Raises:
        BehindError: Somebody has removed some of them in the meantime.
    """
    cleared = log.state.cleared
    after = max(after, log.state.pruned)
    records = [record for _, record in await log.records(after)]
    rows = list(rows_in(records, after))[:limit]
    inline = {key: as_data(text) for record in records for key, text in record.get("inline", {}).items()}
    objects, is_complete = await load_objects(shelf, log, rows, inline)
    if not is_complete:
        await log.follow()
        if log.state.cleared != cleared or log.state.is_deleted:
            raise BehindError
    return StoredJournal(rows, objects)


async def load_objects(
    shelf: Shelf, log: RunLog, rows: Iterable[Row], known: Mapping[str, bytes]
) -> tuple[dict[str, bytes], bool]:
    """Reads what entries refer to, and what that refers to, and so on; what is missing is left out.

    Args:
        shelf: Where it is.
        log: The log of the run.
        rows: The entries.
        known: The objects that need not be read.

    Returns:
        All objects by their hashes, and whether none is missing.
    """
    objects: dict[str, bytes] = dict(known)
    seen: set[str] = set()
    wanted = {key for row in rows for key in references_in(row.data)}
    while wanted:
        seen |= wanted
        keys = [key for key in wanted if key not in objects]
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            found = await shelf.get_many([log.key(f"object/{key}") for key in some])
            objects.update((key, as_data(text)) for key, text in zip(some, found, strict=True) if text is not None)
        wanted = {other for key in wanted for other in references_in(objects.get(key, b""))} - seen
    return objects, seen <= objects.keys()


def check_claim(state: RunState, claim: Claim) -> None:
    """Raises an error if a claim is not the last one of its run, or the run was deleted."""
    if state.is_deleted:
        raise not_found(claim.run_id)
    if (state.epoch, state.holder) != (claim.epoch, claim.holder.key):
        raise StaleClaimError(
            f"the run {claim.run_id} has been claimed by another one since (claim {claim.epoch}, now {state.epoch}); "
            "stop working at it"
        )


def not_found(run_id: str) -> CheckpointStoreError:
    """Makes the error for a run that is not there."""
    return RunNotFoundError(f"there is no run {run_id} in the cache; see `store.runs()` for those that are")


def lease_key(state: RunState) -> str:
    """Gives the key under which the lease of whoever has claimed a run stands, as long as it is not over."""
    token = (state.holder or "-").rpartition(" ")[2]
    return f"{state.number}/lease/{token}"


def until(lease: float | None) -> float:
    """Turns what stands there into a time of this machine, whose clock may not be that of the holder."""
    return 0.0 if lease is None else max(lease, time.time() + 1.0)


def as_text(data: bytes) -> str:
    """Turns JSON into a string."""
    return data.decode("utf-8", "surrogatepass")


def as_data(text: str) -> bytes:
    """Turns such a string into JSON again."""
    return text.encode("utf-8", "surrogatepass")
