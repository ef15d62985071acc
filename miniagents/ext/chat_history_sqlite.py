"""A chat history in a SQLite database, for many writers: tasks, objects, and processes of one machine.

The database has one table, `messages(position, history, message)`, in which several histories stand side by side. A
message is JSON as `miniagents.ext.values` writes it, so other programs can read it, too::

    SELECT json_extract(message, '$.text') FROM messages WHERE history = 'chat' ORDER BY position

It has a write-ahead log (the files `-wal` and `-shm` beside it), and an addition is confirmed when it is on the disk.
Each object does all of that in one thread of its own, which keeps the order of its additions, and never in the loop.
"""

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from miniagents.ext.chat_history import ChatHistory, HistoryFileError, checked_name
from miniagents.ext.values import UnreadableValueError, decode, encode
from miniagents.message import Message

__all__ = ["ChatHistorySQLite"]

T = TypeVar("T")

_APPLICATION_ID = 0x6D696E61
_SCHEMA_VERSION = 1
_SCHEMA = (
    "CREATE TABLE messages (position INTEGER PRIMARY KEY AUTOINCREMENT, history TEXT NOT NULL, message TEXT NOT NULL)",
    "CREATE INDEX messages_of_history ON messages (history)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)
# The casts let half characters (lone surrogates) pass, which are no valid UTF-8.
_INSERT = "INSERT INTO messages (history, message) VALUES (?, CAST(? AS TEXT))"
_SELECT = "SELECT position, CAST(message AS BLOB) FROM messages WHERE history = ? ORDER BY position"

_LOCKED = "another program keeps it locked; end that one, or give a longer `timeout`"
_REASONS = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_NOTADB: "it is no SQLite database; give another file",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore a copy, or save what `sqlite3 FILE .recover` can still read",
    sqlite3.SQLITE_READONLY: "it cannot be written; change the permissions of file, `-wal`, `-shm` and folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; see whether it is a file, and whether its folder can be written",
    sqlite3.SQLITE_FULL: "there is no room for more; make some on the disk, or give another file",
    sqlite3.SQLITE_IOERR: "the disk did not read or write it; see whether it is full or failing",
}


class ChatHistorySQLite(ChatHistory):
    """Keeps a chat history in a SQLite database. Any number of objects and processes may add to it.

    Messages come back equal: class, role, text and metadata, nested messages included. The file is private to its user.

    Args:
        path: The file. It is made with the first addition.
        name: Which history of that file; each has a name.
        timeout: How many seconds to wait for others who write to the file.

    Raises:
        HistoryFileError: From whatever reads or writes: the file is damaged, locked, read-only, of another program, or
            the disk is full; the message says what to do.
        UnreadableValueError: From loading: a class of messages is not known in this process; import its module.

    Example:
        ```python
        history = ChatHistorySQLite("chats.db", name="support")
        await adialog_loop(console_user_agent.fork(chat_history=history), openai_agent)
        history.close()
        ```
    """

    def __init__(self, path: str | os.PathLike[str], name: str = "chat", *, timeout: float = 10.0) -> None:
        if os.fspath(path) == ":memory:":
            raise ValueError("a database in memory would be another one for each object; use InMemoryChatHistory")
        self.path = Path(path)
        self.name = checked_name(name)
        self._timeout = timeout
        self._database: _Database | None = None

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """See `ChatHistory`."""
        return await self._open_database().run(self._load)

    async def _append(self, message: Message) -> None:
        await self._open_database().run(self._insert, message)

    def open(self) -> None:
        """Makes sure that the file can be written, and makes it if it is not there. Blocks for that long.

        Raises:
            HistoryFileError: It cannot be used.
        """
        self._open_database().open()

    def close(self) -> None:
        """Finishes what is being written, and closes the file. Blocks for that long."""
        database, self._database = self._database, None
        if database is not None and database.is_of_this_process():
            database.close()

    def _open_database(self) -> "_Database":
        if self._database is None or not self._database.is_of_this_process():
            self._database = _Database(self.path, self._timeout)
        return self._database

    def _insert(self, database: "_Database", message: Message) -> None:
        data = encode(message)
        database.connection().execute(_INSERT, (self.name, data))

    def _load(self, database: "_Database") -> tuple[Message, ...]:
        if not database.exists():
            return ()
        rows = database.connection().execute(_SELECT, (self.name,)).fetchall()
        return tuple(self._message(position, data) for position, data in rows)

    def _message(self, position: int, data: bytes) -> Message:
        try:
            message: Message = decode(data)
        except UnreadableValueError as error:
            error.add_note(f"in the chat history {self.name!r} of {self.path}, at position {position}")
            raise
        return message


class _Database:
    """A connection, and the thread in which everything is done with it.

    Args:
        path: The file.
        timeout: How many seconds to wait for others.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._process = os.getpid()
        self._path = path
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="chat-history")
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def is_of_this_process(self) -> bool:
        """Whether the thread is there: a fork of the process does not have it."""
        return self._process == os.getpid()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Calls a function of this database and the arguments in the thread, one call after the other.

        A call that is cancelled before its turn does not take place; after that it is carried out.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, function, *args)

    def open(self) -> None:
        """Makes the connection, and waits for it."""
        self._thread.submit(self._guarded, _Database.connection).result()

    def close(self) -> None:
        """Waits for the calls so far, and closes the connection."""
        self._thread.submit(self._disconnect)
        self._thread.shutdown()

    def __del__(self) -> None:
        self._thread.shutdown(wait=False)
        self._disconnect()

    def exists(self) -> bool:
        """Whether there is a file."""
        return self._connection is not None or self._path.exists()

    def connection(self) -> sqlite3.Connection:
        """Gives the connection, and makes it if there is none. To be called in the thread."""
        if self._connection is None:
            _create(self._path)
            connection = sqlite3.connect(
                self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection, self._path, self._timeout)
            except BaseException:
                connection.close()
                raise
            self._connection, self._file = connection, _identity(self._path)
        elif _identity(self._path) != self._file:  # SQLite would go on with a file that nobody finds any more
            raise HistoryFileError(
                f"the chat history {self._path} was moved, deleted or replaced while it was in use; put it back, or "
                "close() this history to begin a new file"
            )
        return self._connection

    def _guarded(self, function: Callable[..., T], *args: Any) -> T:
        try:
            return function(self, *args)
        except (sqlite3.Error, OSError) as error:
            self._disconnect()  # when the cause is mended, the next call begins anew
            raise HistoryFileError(f"the chat history {self._path} cannot be used: {_reason(error)}") from error

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


_creating = threading.Lock()


def _create(path: Path) -> None:
    """Makes an empty private file if there is none. One that is there is not touched: closing it would unlock it."""
    with _creating, suppress(FileExistsError):  # until it is closed nobody else in this process can lock it
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _prepare(connection: sqlite3.Connection, path: Path, timeout: float) -> None:
    if _versions(connection) != (_APPLICATION_ID, _SCHEMA_VERSION):
        connection.execute("BEGIN IMMEDIATE")
        _make_schema(connection, path)
        connection.execute("COMMIT")
    connection.execute("PRAGMA synchronous = FULL")
    _write_ahead(connection, time.monotonic() + timeout)


def _versions(connection: sqlite3.Connection) -> tuple[int, int]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application, version


def _make_schema(connection: sqlite3.Connection, path: Path) -> None:
    application, version = _versions(connection)
    if application == _APPLICATION_ID:
        if version > _SCHEMA_VERSION:
            raise HistoryFileError(
                f"the chat history {path} was written by a newer version of miniagents (schema {version}, known here: "
                f"{_SCHEMA_VERSION}); update miniagents, or give another file"
            )
        return  # somebody else has just made it
    if application or version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
        raise HistoryFileError(f"{path} is the database of another program; give the chat history another file")
    path.chmod(0o600)  # it may have been there, empty, and open to all
    for statement in _SCHEMA:
        connection.execute(statement)


def _write_ahead(connection: sqlite3.Connection, deadline: float) -> None:
    """Switches to the write-ahead log. SQLite itself does not wait for others when it does so."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.002)


def _reason(error: sqlite3.Error | OSError) -> str:
    known = _REASONS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)  # the rest of the code is of no importance here
    if known is not None:
        return known
    what = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
    return f"{what}; mend that, or give another file"
