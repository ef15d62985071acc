"""`SQLiteCheckpointStore`: runs in one SQLite file, for the processes of one machine."""

import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from miniagents.ext.checkpoints.claims import Claim, refuse_if_held
from miniagents.ext.checkpoints.entries import Draft
from miniagents.ext.checkpoints.errors import (
    CheckpointStoreError,
    RunExistsError,
    RunNotFoundError,
    StaleClaimError,
    StoreDamagedError,
)
from miniagents.ext.checkpoints.holders import Holder
from miniagents.ext.checkpoints.interface import Receipt, Row, StoredJournal, StoredRun
from miniagents.ext.checkpoints.local import LocalStore, state_folder
from miniagents.ext.checkpoints.objects import Packed, references_in
from miniagents.ext.checkpoints.outcomes import ONCE, Outcomes
from miniagents.ext.checkpoints.sqlite_database import Database, Transaction

__all__ = ["SQLiteCheckpointStore"]

_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
_AT_ONCE = 500

# The casts let half characters (lone surrogates) pass, which are no valid UTF-8.
_INSERT_ENTRY = (
    "INSERT INTO entries (run, sequence, kind, node, visit, attempt, time, data) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT))"
)
_SELECT_ENTRIES = (
    "SELECT sequence, kind, node, visit, attempt, CAST(data AS BLOB), time FROM entries "
    "WHERE run = ? AND sequence > ? ORDER BY sequence LIMIT ?"
)
_SELECT_OUTCOMES = (
    "SELECT sequence, kind, node, visit, attempt FROM entries WHERE run = ? AND kind IN (?, ?, ?) ORDER BY sequence"
)
_LAST = "ifnull((SELECT max(sequence) FROM entries WHERE run = runs.id), 0)"
_SELECT_RUNS = (
    "SELECT run_id, workflow, CAST(fingerprint AS BLOB), status, created, max(updated, ifnull((SELECT time FROM "
    "entries WHERE run = runs.id ORDER BY sequence DESC LIMIT 1), 0)), holder, until FROM runs "
)
_DELETE_OBJECTS = (
    "DELETE FROM objects WHERE id IN (SELECT object FROM uses AS own WHERE run = ? AND NOT EXISTS "
    "(SELECT 1 FROM uses WHERE object = own.object AND run <> own.run))"
)


class SQLiteCheckpointStore(LocalStore):
    """Keeps runs in a SQLite file, which any number of processes of one machine may use at the same time.

    Messages are stored once for all runs, and go with the last run that has them. What is deleted makes room for what
    comes later; the file itself does not shrink. It is written with a write-ahead log (the files `-wal` and `-shm`
    beside it), and is private to its user. It should be on a local disk.

    Tables: `runs`, `entries` (data is JSON as `miniagents.ext.values` writes it, in which `{"$ref": key}` stands for a
    message), `objects` (the messages, and pieces of conversations), and `uses` (which run needs which object).

    Args:
        path: The file, which is made if it is not there. By default `checkpoints.db` in `$MINIAGENTS_STATE`, or in the
            folder `miniagents` where the user's state is (`$XDG_STATE_HOME`, or `~/.local/state`).
        synchronous: SQLite's pragma of that name. "FULL": what was appended survives a power failure; with "NORMAL" the
            last entries may be lost then, but not if only the process dies.
        timeout: How many seconds to wait for others who write to the file.

    Raises:
        CheckpointStoreError: From whatever reads or writes: the file is locked (StoreLockedError), damaged
            (StoreDamagedError), must not be written (StoreNotWritableError), was written by a newer version or another
            program (StoreVersionError), or the disk is full (StoreFullError). The message says what to do.

    Example:
        ```python
        store = SQLiteCheckpointStore("runs.db")
        for run in await store.runs(status="running"):
            print(run.run_id, run.claimed_by or "nobody works at it")
        ```
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, synchronous: str = "FULL", timeout: float = 10.0
    ) -> None:
        if path is not None and os.fspath(path) == ":memory:":
            raise ValueError(
                "a database in memory would not outlive its process; for tests give a file in a temporary folder, or "
                "use RedisCheckpointStore(MemoryCache(max_entries=None))"
            )
        if synchronous not in _SYNCHRONOUS:
            raise ValueError(f"synchronous is {synchronous!r}; give one of {', '.join(_SYNCHRONOUS)}")
        self.path = Path(path) if path is not None else state_folder() / "checkpoints.db"
        self._database = Database(self.path, timeout, synchronous)
        self._seen: tuple[int, int] | None = None
        super().__init__(f"sqlite:{os.path.realpath(self.path)}", self._database.worker)

    def __repr__(self) -> str:
        return f"<SQLiteCheckpointStore {self.path}>"

    async def _close(self) -> None:
        await self._database.close()

    # --- runs ---

    async def _create(self, run_id: str, workflow: str, fingerprint: bytes, status: str) -> None:
        def apply(transaction: Transaction) -> None:
            if _row_of(transaction.connection, "id", run_id) is not None:
                raise RunExistsError(f"there is a run {run_id} in {self.path} already; resume it, or give another id")
            now = time.time()
            transaction.connection.execute(
                "INSERT INTO runs (run_id, workflow, fingerprint, status, created, updated) "
                "VALUES (?, ?, CAST(? AS TEXT), ?, ?, ?)",
                (run_id, workflow, fingerprint, status, now, now),
            )

        await self._database.write(apply)

    async def _info(self, run_id: str) -> StoredRun:
        def found(connection: sqlite3.Connection) -> StoredRun:
            row = connection.execute(f"{_SELECT_RUNS} WHERE run_id = ?", (run_id,)).fetchone()
            if row is None:
                raise self._not_found(run_id)
            return StoredRun(*row)

        return await self._database.read(found)

    async def _runs(self, workflow: str | None, status: str | None, limit: int | None) -> Sequence[StoredRun]:
        wanted = {"workflow": workflow, "status": status}
        conditions = " AND ".join(f"{name} = :{name}" for name, value in wanted.items() if value is not None)
        query = f"{_SELECT_RUNS} WHERE {conditions or 'true'} ORDER BY id DESC LIMIT :limit"

        def found(connection: sqlite3.Connection) -> list[StoredRun]:
            rows = connection.execute(query, {**wanted, "limit": -1 if limit is None else limit})
            return [StoredRun(*row) for row in rows]

        return await self._database.read(found)

    async def _prune(self, claim: Claim, before: int) -> None:
        def apply(transaction: Transaction) -> None:
            connection = transaction.connection
            run, last = self._claimed(connection, claim)
            first = min(before, last)
            connection.execute("UPDATE runs SET pruned = max(pruned, ?) WHERE id = ?", (first - 1, run))
            connection.execute("DELETE FROM entries WHERE run = ? AND sequence < ?", (run, first))
            _remove_unused_objects(connection, run)

        await self._database.write(apply)

    async def _delete(self, run_id: str) -> bool:
        def apply(transaction: Transaction) -> bool:
            connection = transaction.connection
            row = _row_of(connection, "id, holder, until", run_id)
            if row is None:
                return False
            run, holder, until = row
            refuse_if_held(run_id, holder, until)
            for statement in (
                _DELETE_OBJECTS,
                "DELETE FROM uses WHERE run = ?",
                "DELETE FROM entries WHERE run = ?",
                "DELETE FROM runs WHERE id = ?",
            ):
                connection.execute(statement, (run,))
            transaction.committed.append(partial(self._place.ring, run_id))
            return True

        return await self._database.write(apply)

    # --- claims ---

    async def _claim(self, run_id: str, holder: Holder, lease: float) -> int:
        def apply(transaction: Transaction) -> int:
            connection = transaction.connection
            row = _row_of(connection, "id, epoch, holder, until", run_id)
            if row is None:
                raise self._not_found(run_id)
            run, epoch, previous, until = row
            refuse_if_held(run_id, previous, until)
            connection.execute(
                "UPDATE runs SET epoch = ?, holder = ?, until = ? WHERE id = ?",
                (epoch + 1, holder.key, time.time() + lease, run),
            )
            return int(epoch) + 1

        return await self._database.write(apply)

    async def _renew(self, claim: Claim) -> None:
        await self._update_claim(claim, claim.holder.key, claim.lease)

    async def _release(self, claim: Claim) -> None:
        await self._update_claim(claim, None, 0)

    async def _update_claim(self, claim: Claim, holder: str | None, lease: float) -> None:
        def apply(transaction: Transaction) -> None:
            run, _ = self._claimed(transaction.connection, claim)
            transaction.connection.execute(
                "UPDATE runs SET holder = ?, until = ? WHERE id = ?", (holder, time.time() + lease, run)
            )

        await self._database.write(apply)

    def _claimed(self, connection: sqlite3.Connection, claim: Claim) -> tuple[int, int]:
        """Gives the number of the run that is claimed, if it still is, and that of its last entry."""
        row = _row_of(connection, f"id, epoch, holder, {_LAST}", claim.run_id)
        if row is None:
            raise self._not_found(claim.run_id)
        run, epoch, holder, last = row
        if (epoch, holder) != (claim.epoch, claim.holder.key):
            raise StaleClaimError(
                f"the run {claim.run_id} has been claimed by another one since (claim {claim.epoch}, now {epoch}); "
                "stop working at it"
            )
        return run, last

    # --- entries ---

    async def _append(self, claim: Claim, drafts: Sequence[Draft], status: str | None) -> Sequence[Receipt]:
        def apply(transaction: Transaction) -> list[Receipt]:
            connection = transaction.connection
            (run, last), now = self._claimed(connection, claim), time.time()
            if claim.outcomes is None:
                claim.outcomes = Outcomes(claim.run_id, connection.execute(_SELECT_OUTCOMES, (run, *ONCE)))
            claim.outcomes.take(drafts, last + 1)
            transaction.rolled_back.append(claim.forget_outcomes)
            transaction.committed.append(partial(self._place.ring, claim.run_id))
            if status is not None:
                connection.execute("UPDATE runs SET status = ?, updated = ? WHERE id = ?", (status, now, run))
            return _insert(connection, run, last + 1, drafts, now)

        return await self._database.write(apply)

    async def _tell(self, run_id: str, draft: Draft) -> Receipt:
        def apply(transaction: Transaction) -> Receipt:
            connection = transaction.connection
            row = _row_of(connection, f"id, {_LAST}", run_id)
            if row is None:
                raise self._not_found(run_id)
            run, last = row
            transaction.committed.append(partial(self._place.ring, run_id))
            return _insert(connection, run, last + 1, [draft], time.time())[0]

        return await self._database.write(apply)

    async def _read(self, run_id: str, after: int, limit: int | None) -> StoredJournal:
        return await self._database.read(self._journal, run_id, after, limit)

    def _journal(self, connection: sqlite3.Connection, run_id: str, after: int, limit: int | None) -> StoredJournal:
        row = _row_of(connection, "id, pruned", run_id)
        if row is None:
            raise self._not_found(run_id)
        run, pruned = row
        after = max(after, pruned)
        rows: list[Row] = []
        objects: dict[str, bytes] = {}
        damage = None
        try:
            for found in connection.execute(_SELECT_ENTRIES, (run, after, -1 if limit is None else limit)):
                entry = Row(*found)
                if entry.sequence != after + len(rows) + 1:
                    raise StoreDamagedError(
                        f"entry {after + len(rows) + 1} of the run {run_id} is missing in {self.path}"
                    )
                rows.append(entry)
            _load_objects(connection, (row.data for row in rows), objects)
        except (sqlite3.Error, StoreDamagedError) as error:
            failure = self._database.failure(error)
            if not isinstance(failure, StoreDamagedError):
                raise
            damage = failure
        return StoredJournal(rows, objects, damage)

    # --- waiting ---

    async def _last(self, run_id: str) -> int:
        def found(connection: sqlite3.Connection) -> int:
            row = _row_of(connection, _LAST, run_id)
            if row is None:
                raise self._not_found(run_id)
            return int(row[0])

        return await self._database.read(found)

    async def _look(self, waited: Mapping[str, int]) -> Iterable[str]:
        def found(connection: sqlite3.Connection) -> list[str]:
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            seen, self._seen = self._seen, (self._database.times_opened, version)
            if seen == self._seen:  # nobody else has written since the last look
                return []
            return [run_id for run_id, after in waited.items() if _has_news(connection, run_id, after)]

        return await self._database.read(found)

    def _not_found(self, run_id: str) -> CheckpointStoreError:
        return RunNotFoundError(f"there is no run {run_id} in {self.path}; see `store.runs()` for those that are")


def _row_of(connection: sqlite3.Connection, columns: str, run_id: str) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = connection.execute(
        f"SELECT {columns} FROM runs WHERE run_id = ?", (run_id,)
    ).fetchone()
    return row


def _has_news(connection: sqlite3.Connection, run_id: str, after: int) -> bool:
    row = _row_of(connection, _LAST, run_id)
    return row is None or row[0] > after


def _insert(connection: sqlite3.Connection, run: int, first: int, drafts: Sequence[Draft], now: float) -> list[Receipt]:
    for number, draft in enumerate(drafts, first):
        _insert_objects(connection, run, draft.packed)
        connection.execute(_INSERT_ENTRY, (run, number, *draft[:4], now, draft.packed.data))
    return [Receipt(number, now) for number in range(first, first + len(drafts))]


def _insert_objects(connection: sqlite3.Connection, run: int, packed: Packed) -> None:
    known: dict[str, int] = {}

    def is_used(key: str) -> bool:
        row = connection.execute("SELECT id FROM objects WHERE key = ?", (key,)).fetchone()
        if row is None:
            return False
        known[key] = row[0]
        use = connection.execute("SELECT 1 FROM uses WHERE run = ? AND object = ?", (run, row[0])).fetchone()
        return use is not None

    for key, data in packed.objects(is_used):
        number = known.get(key)
        if number is None:
            inserted = connection.execute("INSERT INTO objects (key, data) VALUES (?, CAST(? AS TEXT))", (key, data))
            number = inserted.lastrowid
        connection.execute("INSERT INTO uses (run, object) VALUES (?, ?)", (run, number))


def _remove_unused_objects(connection: sqlite3.Connection, run: int) -> None:
    """Removes what no entry of a run refers to any more, unless another run needs it."""
    entries = connection.execute("SELECT CAST(data AS BLOB) FROM entries WHERE run = ?", (run,))
    needed: dict[str, bytes] = {}
    _load_objects(connection, (data for (data,) in entries), needed)
    used = connection.execute("SELECT id, key FROM objects JOIN uses ON object = id WHERE run = ?", (run,)).fetchall()
    for number in [number for number, key in used if key not in needed]:
        connection.execute("DELETE FROM uses WHERE run = ? AND object = ?", (run, number))
        connection.execute(
            "DELETE FROM objects WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM uses WHERE object = ?1)", (number,)
        )


def _load_objects(connection: sqlite3.Connection, written: Iterable[bytes], objects: dict[str, bytes]) -> None:
    """Loads what is referred to, and what that refers to, and so on."""
    wanted = {key for data in written for key in references_in(data)}
    while wanted:
        keys = list(wanted)
        found: dict[str, bytes] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            found.update(
                connection.execute(f"SELECT key, CAST(data AS BLOB) FROM objects WHERE key IN ({marks})", some)
            )
        objects.update(found)
        wanted = {key for data in found.values() for key in references_in(data)} - objects.keys()
