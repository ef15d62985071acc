"""A SQLite database for runs: its schema, the thread that uses it, and transactions that wait for each other together.

Each commit waits for the disk. Writes that come in the meantime go into the next transaction, all of them together, so
that they wait for the disk once.
"""

import asyncio
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from miniagents.ext.checkpoints.errors import (
    CheckpointStoreError,
    StoreDamagedError,
    StoreFullError,
    StoreLockedError,
    StoreNotWritableError,
    StoreVersionError,
)
from miniagents.ext.checkpoints.files import meaning_of
from miniagents.ext.checkpoints.interface import FORMAT
from miniagents.ext.checkpoints.local import Worker

__all__ = ["Database", "Transaction"]

T = TypeVar("T")

_APPLICATION_ID = 0x6D696E63
_SCHEMA = f"""
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, workflow TEXT NOT NULL, fingerprint TEXT NOT NULL,
    status TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 0, holder TEXT, until REAL NOT NULL DEFAULT 0, pruned INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE entries (
    run INTEGER NOT NULL, sequence INTEGER NOT NULL, kind TEXT NOT NULL, node TEXT NOT NULL, visit INTEGER NOT NULL,
    attempt INTEGER NOT NULL, time REAL NOT NULL, data TEXT NOT NULL, PRIMARY KEY (run, sequence)
) WITHOUT ROWID;
CREATE TABLE objects (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, data TEXT NOT NULL);
CREATE TABLE uses (run INTEGER NOT NULL, object INTEGER NOT NULL, PRIMARY KEY (run, object)) WITHOUT ROWID;
CREATE INDEX uses_of_object ON uses (object);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""
_LARGEST_GROUP = 500

_LOCKED = (StoreLockedError, "another program keeps it locked; end that one, or give a longer `timeout`")
_DAMAGED = (
    StoreDamagedError,
    "it is damaged; restore a copy, save what `sqlite3 FILE .recover` can read, or give another file",
)
_NOT_WRITABLE = (
    StoreNotWritableError,
    "it cannot be written; change the permissions of the file and of its folder, or give another file",
)
_FULL = (StoreFullError, "the disk is full, or no more may be written to it; make room, and try again")
_CAUSES: dict[int, tuple[type[CheckpointStoreError], str]] = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_NOTADB: (StoreDamagedError, "it is no SQLite database, or not any more; give another file"),
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_READONLY: _NOT_WRITABLE,
    sqlite3.SQLITE_PERM: _NOT_WRITABLE,
    sqlite3.SQLITE_CANTOPEN: (
        StoreNotWritableError,
        "it cannot be opened; see whether it is a file, and its folder can be written, or give another file",
    ),
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR_WRITE: _FULL,
    sqlite3.SQLITE_IOERR: (
        CheckpointStoreError,
        "the disk did not read or write it; see whether it is full or failing, or give another file",
    ),
}


class Transaction:
    """What a write is given.

    Attributes:
        connection: The connection to write with.
        committed: Functions to call when what was written is durable.
        rolled_back: Functions to call if it is not written after all.
    """

    __slots__ = ("committed", "connection", "rolled_back")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.committed: list[Callable[[], object]] = []
        self.rolled_back: list[Callable[[], object]] = []


class _Write(Generic[T]):
    """A write on its way.

    Args:
        apply: Writes, and returns the outcome. What it refuses by a `CheckpointStoreError` it has not written.
    """

    __slots__ = ("apply", "error", "is_abandoned", "is_done", "outcome")

    def __init__(self, apply: Callable[[Transaction], T]) -> None:
        self.apply = apply
        self.is_abandoned = False
        self.is_done = False
        self.outcome: T
        self.error: Exception | None = None


class Database:
    """A database, and the thread in which everything is done with it.

    Args:
        path: The file. It is made with the first use.
        timeout: How many seconds to wait for others who write to it.
        synchronous: The pragma of that name.

    Attributes:
        worker: The thread.
        times_opened: How often the file has been opened.
    """

    def __init__(self, path: Path, timeout: float, synchronous: str) -> None:
        self.path = path
        self.worker = Worker("checkpoints")
        self.times_opened = 0
        self._timeout = timeout
        self._synchronous = synchronous
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._file: tuple[int, int] | None = None
        self._waiting: deque[_Write[Any]] = deque()

    async def read(self, function: Callable[..., T], *args: Any) -> T:
        """Calls a function of the connection and the arguments.

        Raises:
            CheckpointStoreError: The file cannot be used; the message says what to do.
        """
        return await self.worker.run(self._read, function, *args)

    async def write(self, apply: Callable[[Transaction], T]) -> T:
        """Calls a function in a transaction, maybe together with others.

        Args:
            apply: Writes, and returns the outcome. Before it raises a `CheckpointStoreError` it must not have written.

        Returns:
            The outcome, when it is durable.

        Raises:
            CheckpointStoreError: That of the function, or the file cannot be used; then nothing was written.
        """
        write = _Write(apply)
        self._waiting.append(write)
        try:
            await self.worker.run(self._perform, write)
        except asyncio.CancelledError:
            write.is_abandoned = True  # if it still waits
            raise
        return write.outcome

    async def close(self) -> None:
        """Closes the connection when everything so far is done."""
        if self._connection is not None:
            await self.worker.run(self._disconnect)
        self.worker.close()

    def __del__(self) -> None:
        self.worker.close()
        self._disconnect()

    def failure(self, error: Exception) -> CheckpointStoreError:
        """Says what an error of SQLite or of the system means for the user."""
        if isinstance(error, CheckpointStoreError):
            return error
        if isinstance(error, OSError):
            return meaning_of(error, self.path)
        code = getattr(error, "sqlite_errorcode", 0)
        known = _CAUSES.get(code) or _CAUSES.get(code & 0xFF)
        if known is None and "decode" in str(error):  # what should be text is none
            known = _DAMAGED
        kind, what = known or (CheckpointStoreError, f"{error}; mend that, or give another file")
        return kind(f"the checkpoints in {self.path} cannot be used: {what}")

    # --- in the thread ---

    def _read(self, function: Callable[..., T], *args: Any) -> T:
        connection = None
        try:
            connection = self._connect()
            connection.execute("BEGIN")  # so that all that the function reads is of the same moment
            return function(connection, *args)
        except (sqlite3.Error, OSError) as error:
            raise self._failed(error) from error
        finally:
            if connection is not None:
                self._roll_back(connection)

    def _perform(self, write: _Write[Any]) -> None:
        if not write.is_done:
            group: list[_Write[Any]] = []
            while self._waiting and len(group) < _LARGEST_GROUP:
                waiting = self._waiting.popleft()
                if not waiting.is_abandoned:
                    group.append(waiting)
            self._commit(group if write in group else [*group, write])
        if write.error is not None:
            raise write.error

    def _commit(self, group: list[_Write[Any]]) -> None:
        transaction = None
        try:
            transaction = Transaction(self._connect())
            transaction.connection.execute("BEGIN IMMEDIATE")
            for write in group:
                write.error = None
                try:
                    write.outcome = write.apply(transaction)
                except CheckpointStoreError as error:
                    write.error = error
            transaction.connection.execute("COMMIT")
        except Exception as error:
            if transaction is not None:
                self._roll_back(transaction.connection)
                for undo in reversed(transaction.rolled_back):
                    undo()
            if len(group) > 1:  # the others are not to suffer from what one of them has
                for write in group:
                    self._commit([write])
                return
            group[0].error = self._failed(error) if isinstance(error, (sqlite3.Error, OSError)) else error
        else:
            for call in transaction.committed:
                call()
        for write in group:
            write.is_done = True

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        """Ends a transaction, if the connection is still open and one is."""
        try:
            if connection is self._connection and connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._disconnect()  # which rolls back what is open

    def _failed(self, error: Exception) -> CheckpointStoreError:
        failure = self.failure(error)
        # With a full or locked disk the connection may be the last means to read what is there. In other cases the next
        # use begins anew, when the cause may be mended.
        if not isinstance(failure, (StoreFullError, StoreLockedError)):
            self._disconnect()
        return failure

    def _connect(self) -> sqlite3.Connection:
        if self._process != os.getpid():
            self._connection, self._process = None, os.getpid()  # that of another process must not even be closed
        if self._connection is None:
            _create(self.path)
            connection = sqlite3.connect(
                self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection, self.path, self._timeout, self._synchronous)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self.times_opened += 1
            self._file = _identity(self.path)
        elif _identity(self.path) != self._file:  # SQLite would go on with a file that nobody finds any more
            raise StoreNotWritableError(
                f"the checkpoints in {self.path} were moved, deleted or replaced while they were in use; put them "
                "back, or close() this store to begin a new file"
            )
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._process == os.getpid():
            connection.close()


_creating = threading.Lock()


def _create(path: Path) -> None:
    """Makes an empty file that is private, and opens none that is there: to close it would take off SQLite's locks."""
    with _creating:  # nobody else here locks the file before it is closed
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            pass


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  # it is done for each write, and this is faster
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _prepare(connection: sqlite3.Connection, path: Path, timeout: float, synchronous: str) -> None:
    if _versions(connection) != (_APPLICATION_ID, FORMAT):
        connection.execute("BEGIN IMMEDIATE")
        _make_schema(connection, path)
        connection.execute("COMMIT")
    _write_ahead(connection, time.monotonic() + timeout)
    connection.execute(f"PRAGMA synchronous = {synchronous}")


def _versions(connection: sqlite3.Connection) -> tuple[int, int]:
    ((application,),), ((version,),) = (
        connection.execute(f"PRAGMA {name}").fetchall() for name in ("application_id", "user_version")
    )
    return application, version


def _make_schema(connection: sqlite3.Connection, path: Path) -> None:
    application, version = _versions(connection)
    if application == _APPLICATION_ID:
        if version > FORMAT:
            raise StoreVersionError(
                f"the checkpoints in {path} were written by a newer version of miniagents (format {version}, known "
                f"here: {FORMAT}); update miniagents, or give another file"
            )
        return  # somebody else has just made it
    if application or version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
        raise StoreVersionError(f"{path} is the database of another program; give the checkpoints another file")
    path.chmod(0o600)  # it may have been there, empty, and open to all
    for statement in _SCHEMA.split(";"):
        connection.execute(statement)


def _write_ahead(connection: sqlite3.Connection, deadline: float) -> None:
    """Switches to the write-ahead log. SQLite itself does not wait for others when it does so."""
    while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.002)
