"""`SQLiteCheckpointStore`: what goes wrong with files, where they are, and what is written to them."""

import asyncio
import gc
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from miniagents import Message
from miniagents.ext.checkpoints import (
    CheckpointStore,
    CheckpointStoreError,
    Claim,
    Entry,
    NewEntry,
    RecordedAlreadyError,
    SQLiteCheckpointStore,
    StaleClaimError,
    StoreDamagedError,
    StoreFullError,
    StoreLockedError,
    StoreNotWritableError,
    StoreVersionError,
)
from tests.ext.checkpoints.disks import little_room, open_to_all
from tests.ext.checkpoints.processes import running


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[SQLiteCheckpointStore]:
    async with SQLiteCheckpointStore(folder / "runs.db", timeout=0.1) as store:
        yield store


async def _begin(store: CheckpointStore, run_id: str = "run") -> Claim:
    await store.create(run_id, workflow="tests")
    return await store.claim(run_id)


def _rows(path: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


# --- what goes wrong with the file ---


async def test_a_full_disk() -> None:
    """On a full disk the error says so, what is there can be read, also anew, and with room it goes on."""
    with little_room() as (folder, make_room):
        path = folder / "runs.db"
        async with SQLiteCheckpointStore(path) as store, SQLiteCheckpointStore(path) as other:
            claim, size, appended = await _begin(store), 1_000, []
            with pytest.raises(StoreFullError, match=r"runs\.db cannot be used: the disk is full.*make room"):
                while True:
                    appended += await store.append(claim, [NewEntry("finished", "a", size, data="x" * size)])
                    size *= 2
            for reader in (store, other):
                assert await reader.read("run") == appended
                assert (await reader.info("run")).status == "running"
            with pytest.raises(StoreFullError):
                await store.append(claim, [NewEntry("finished", "a", size, data="x" * size)], status="done")
            make_room()
            last = await store.append(claim, [NewEntry("finished", "a", size, data="x" * size)], status="done")
            assert await other.read("run") == appended + last


async def test_a_locked_file(store: SQLiteCheckpointStore) -> None:
    """While another program keeps the file locked the error says so, and what is there can be read."""
    claim = await _begin(store)
    (first,) = await store.append(claim, [NewEntry("started", "a")])
    locker = sqlite3.connect(store.path, isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    for _ in range(2):
        with pytest.raises(StoreLockedError, match=r"runs\.db.*locked.*timeout"):
            await store.append(claim, [NewEntry("finished", "a")])
        assert await store.read("run") == [first]
    locker.close()
    await store.append(claim, [NewEntry("finished", "a")])


async def test_a_file_that_must_not_even_be_read(folder: Path) -> None:
    """Another program can keep all others away; then that is the error, and afterwards the store can be used."""
    path = folder / "runs.db"
    async with SQLiteCheckpointStore(path) as store:
        await _begin(store)
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("PRAGMA locking_mode = EXCLUSIVE")
    locker.execute("BEGIN EXCLUSIVE")
    async with SQLiteCheckpointStore(path, timeout=0.05) as store:
        with pytest.raises(StoreLockedError):
            await store.read("run")
        locker.close()
        assert await store.read("run") == []


async def test_a_damaged_file(folder: Path) -> None:
    """Wherever the file is damaged: what is read is what was written, or the error says so and has what is before."""
    path = folder / "runs.db"
    written: dict[str, list[Entry]] = {}
    async with SQLiteCheckpointStore(path, synchronous="OFF") as store:
        for run_id in ("early", "late"):
            claim = await _begin(store, run_id)
            for number in range(60):
                data = {"said": [Message("shared"), Message(f"{run_id} {number}")], "text": f"{number}" * 500}
                await store.append(claim, [NewEntry("finished", "a", number, data=data)])
            written[run_id] = await store.read(run_id)
    whole, damaged = path.read_bytes(), folder / "damaged.db"
    readable = partly = 0
    for page in range(0, len(whole), 4096):
        damaged.write_bytes(whole[:page] + b"\xa5" * 4096 + whole[page + 4096 :])
        async with SQLiteCheckpointStore(damaged) as store:
            for run_id, entries in written.items():
                try:
                    found = await store.read(run_id)
                except StoreDamagedError as error:
                    found = error.readable
                    partly += 0 < len(found) < len(entries)
                assert found == entries[: len(found)]
                readable += found == entries
        for name in (damaged, *folder.glob("damaged.db-*")):
            name.unlink(missing_ok=True)
    pages = len(whole) // 4096
    assert readable > pages * 0.7
    assert partly > pages * 0.2


async def test_a_file_that_is_something_else(folder: Path) -> None:
    """A file that is no database, or that of another program, is neither used nor changed."""
    text, other = folder / "text", folder / "other.db"
    text.write_text("This is not a database, but a letter. " * 100)
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE theirs (id)")
    connection.commit()
    connection.close()
    for path, error, match in ((text, StoreDamagedError, "no SQLite"), (other, StoreVersionError, "another program")):
        before = path.read_bytes()
        async with SQLiteCheckpointStore(path) as store:
            with pytest.raises(error, match=match):
                await store.create("run", workflow="tests")
        assert path.read_bytes() == before


async def test_a_newer_version(folder: Path) -> None:
    """What a newer version has written is not touched; the error says to update."""
    async with SQLiteCheckpointStore(folder / "runs.db") as store:
        await store.create("run", workflow="tests")
    _rows(folder / "runs.db", "PRAGMA user_version = 99")
    async with SQLiteCheckpointStore(folder / "runs.db") as store:
        with pytest.raises(StoreVersionError, match=r"format 99, known here: 1\); update"):
            await store.read("run")


async def test_a_file_that_was_removed(store: SQLiteCheckpointStore) -> None:
    """Nothing is confirmed that would be written to a file that nobody finds any more."""
    claim = await _begin(store)
    store.path.unlink()
    with pytest.raises(StoreNotWritableError, match=r"moved, deleted or replaced.*close\(\)"):
        await store.append(claim, [NewEntry("started", "a")])
    await store.close()
    assert await store.runs() == []


async def test_a_folder_that_must_not_be_written() -> None:
    """In a folder that must not be written, and for a file that must not be read, the error says so."""
    with open_to_all() as folder:
        path = folder / "runs.db"
        async with SQLiteCheckpointStore(path) as store:
            await _begin(store)
        for name in folder.iterdir():
            name.chmod(0o444)
        for place in (path, folder / "new.db", folder / "deeper" / "new.db"):
            with running(_use_as_nobody, ("sqlite", str(place), "")) as child:
                error, message = child.said()
                assert error == "StoreNotWritableError"
                assert str(place.parent) in message or place.name in message
                assert "permissions" in message or "folder" in message


async def _use_as_nobody(store: CheckpointStore, connection: Connection) -> None:
    if os.getuid() == 0:
        os.setuid(65534)
    else:
        Path(store.path).parent.chmod(0o555)  # type: ignore[attr-defined]
    try:
        await store.create("other", workflow="tests")
    except CheckpointStoreError as error:
        connection.send((type(error).__name__, str(error)))


# --- where it is ---


async def test_the_default_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path it is a file in the folder for the user's state; MINIAGENTS_STATE names another one."""
    monkeypatch.delenv("MINIAGENTS_STATE", raising=False)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert SQLiteCheckpointStore().path == folder / "home/.local/state/miniagents/checkpoints.db"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    assert SQLiteCheckpointStore().path == folder / "state/miniagents/checkpoints.db"
    monkeypatch.setenv("MINIAGENTS_STATE", str(folder / "own"))
    async with SQLiteCheckpointStore() as store:
        await _begin(store)
        assert store.path == folder / "own/checkpoints.db"
        assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


async def test_files_are_private(store: SQLiteCheckpointStore) -> None:
    """Nobody else can read the file, nor those beside it, also if it was there, empty."""
    store.path.touch(0o644)
    await _begin(store)
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.path.parent.glob("runs.db*")} == {0o600}
    assert len(list(store.path.parent.glob("runs.db*"))) == 3


def test_a_database_in_memory() -> None:
    """A database in memory is refused, and the error says what to use for tests; so are wrong pragmas."""
    with pytest.raises(ValueError, match="MemoryCache"):
        SQLiteCheckpointStore(":memory:")
    with pytest.raises(ValueError, match="FULL"):
        SQLiteCheckpointStore("runs.db", synchronous="full; DROP TABLE runs")


# --- what is written ---


async def test_durability(store: SQLiteCheckpointStore) -> None:
    """By default each commit waits for the disk, with a write-ahead log."""
    await _begin(store)
    connection = store._database._connection
    assert connection is not None
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_appends_that_wait_go_together(store: SQLiteCheckpointStore) -> None:
    """What is appended while the disk is waited for is committed together, and each is there when it is confirmed."""
    claim = await _begin(store)
    commits: list[str] = []
    connection = store._database._connection
    assert connection is not None
    connection.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
    appends = [store.append(claim, [NewEntry("finished", "a", number)]) for number in range(200)]
    groups = await asyncio.gather(*appends)
    assert [entry.sequence for (entry,) in groups] == list(range(1, 201))
    assert len(commits) < 20


async def test_who_is_to_blame(store: SQLiteCheckpointStore) -> None:
    """Of writes that go together those fail that are wrong, and no others; numbers have no gaps."""
    claim = await _begin(store)
    await store.append(claim, [NewEntry("finished", "a", 3)])
    connection = store._database._connection
    assert connection is not None
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 50_000)
    appends = [
        store.append(claim, [NewEntry("finished", "a", number, data="x" * (60_000 if number == 5 else 1))])
        for number in range(10)
    ]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    failed = {number: type(outcome) for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)}
    assert failed == {3: RecordedAlreadyError, 5: CheckpointStoreError}
    assert [entry.visit for entry in await store.read("run")] == [3, 0, 1, 2, 4, 6, 7, 8, 9]
    await store.append(claim, [NewEntry("finished", "a", 5)])


async def test_messages_are_stored_once_for_all_runs(store: SQLiteCheckpointStore) -> None:
    """A message is one row, whichever entries and runs refer to it, and goes with the last run that does."""
    shared = [Message(f"shared {number}") for number in range(100)]
    claims = [await _begin(store, f"run-{number}") for number in range(3)]
    for number, claim in enumerate(claims):
        for visit in range(3):
            await store.append(claim, [NewEntry("finished", "a", visit, data=[*shared, Message(f"own {number}")])])
        await store.tell(claim.run_id, ("answer", "a", 1, 1, shared[:3]))
        await claim.release()
    count = "SELECT count(*) FROM objects WHERE data LIKE '%{}%'"
    assert _rows(store.path, count.format('"text":"shared ')) == [(100,)]
    assert _rows(store.path, count.format('"text":"own ')) == [(3,)]
    await store.delete("run-0")
    await store.delete("run-1")
    assert _rows(store.path, count.format('"text":"shared ')) == [(100,)]
    assert _rows(store.path, count.format('"text":"own ')) == [(1,)]
    assert (await store.read("run-2"))[-1].data == shared[:3]
    await store.delete("run-2")
    for table in ("runs", "entries", "objects", "uses"):
        assert _rows(store.path, f"SELECT count(*) FROM {table}") == [(0,)]


async def test_what_only_removed_entries_needed_is_removed(store: SQLiteCheckpointStore) -> None:
    """With entries that are removed their messages go, unless later entries or other runs need them."""
    claim, other = await _begin(store), await _begin(store, "other")
    shared, others = Message("shared"), Message("others")
    for number in range(3):
        await store.append(claim, [NewEntry("finished", "a", number, data=[shared, others, Message(f"own {number}")])])
    await store.append(other, [NewEntry("finished", "a", data=others)])
    await store.append(claim, [NewEntry("finished", "a", 4, data=shared)])
    await store.prune(claim, before=3)
    texts = "SELECT json_extract(data, '$.text') FROM objects ORDER BY 1"
    assert _rows(store.path, texts) == [("others",), ("own 2",), ("shared",)]
    await store.prune(claim, before=4)
    assert _rows(store.path, texts) == [("others",), ("shared",)]
    assert _rows(store.path, "SELECT count(*) FROM uses") == [(2,)]


async def test_writers_wait_for_each_other(store: SQLiteCheckpointStore) -> None:
    """Two objects that write again and again at the same time get their turns, and no error."""
    claim = await _begin(store)

    async with SQLiteCheckpointStore(store.path) as other, SQLiteCheckpointStore(store.path) as patient:

        async def write(number: int, tell: Callable[[int], Awaitable[Any]]) -> None:
            for visit in range(150):
                await tell(number * 1000 + visit)

        await asyncio.gather(
            write(1, lambda visit: patient.append(claim, [NewEntry("finished", "a", visit)])),
            write(2, lambda visit: other.tell("run", ("note", "a", visit, 1, None))),
        )
        assert [entry.sequence for entry in await other.read("run")] == list(range(1, 301))


async def test_a_conversation_grows_by_what_is_new(store: SQLiteCheckpointStore) -> None:
    """What is written for each entry of a growing conversation does not grow with it."""
    claim = await _begin(store)
    said: list[Message] = []

    async def grow(to: int) -> float:
        before = _stored(store.path)
        entries = []
        for number in range(len(said), to):
            said.append(Message(f"{number}: " + "x" * 100, role="user"))
            entries.append(NewEntry("finished", "talk", number, data={"said": tuple(said)}))
        await store.append(claim, entries)
        return (_stored(store.path) - before) / len(entries)

    await grow(100)
    early = await grow(200)
    await grow(900)
    assert await grow(1_000) < 1.5 * early
    assert early < 2_500


def _stored(path: Path) -> int:
    tables = ("entries", "objects")
    return int(sum(_rows(path, f"SELECT total(length(data)) FROM {table}")[0][0] for table in tables))


async def test_what_people_can_see(store: SQLiteCheckpointStore) -> None:
    """Other programs can read the tables: data is JSON."""
    claim = await _begin(store)
    await store.append(claim, [NewEntry("finished", "a", data={"reply": Message("Hello"), "half": "\ud83d"})])
    key = """json_extract(entries.data, '$.reply."$ref"')"""
    query = f"SELECT json_extract(objects.data, '$.text') FROM entries JOIN objects ON key = {key}"
    assert _rows(store.path, query) == [("Hello",)]


# --- the object ---


async def test_nothing_is_kept_of_who_has_waited(store: SQLiteCheckpointStore) -> None:
    """When nobody waits any more nobody is known as waiting, and nobody looks."""
    claim = await _begin(store)
    waiter = asyncio.ensure_future(store.wait("run", 0))
    assert await store.wait("run", 0, timeout=0.01) is False
    await store.append(claim, [NewEntry("started", "a")])
    assert await waiter is True
    assert store._place._listeners == {}
    assert store._watches == {}


async def test_it_can_be_used_again_after_it_was_closed(store: SQLiteCheckpointStore) -> None:
    """Closing gives back what it holds; another use opens it anew."""
    claim = await _begin(store)
    await store.close()
    await store.close()
    assert claim.is_lost
    with pytest.raises(StaleClaimError):
        await store.append(claim, [NewEntry("started", "a")])
    async with await store.claim("run") as claim:
        await store.append(claim, [NewEntry("started", "a")])


def test_it_can_be_used_in_one_event_loop_after_the_other(folder: Path) -> None:
    """A store belongs to no event loop; what one of them has left behind harms none."""
    store = SQLiteCheckpointStore(folder / "runs.db")

    async def once(number: int) -> None:
        claim = await _begin(store, f"run-{number}")
        await store.append(claim, [NewEntry("started", "a")])
        assert await store.wait(f"run-{number}", 1, timeout=0.01) is False

    for number in range(3):
        asyncio.run(once(number))
    asyncio.run(store.close())
    assert asyncio.run(_listed(store)) == ["run-2", "run-1", "run-0"]
    asyncio.run(store.close())


async def _listed(store: CheckpointStore) -> list[str]:
    return [run.run_id for run in await store.runs()]


def test_a_store_that_nobody_closes(folder: Path) -> None:
    """A store that is dropped closes its file, without a warning."""
    path = folder / "runs.db"

    async def use() -> None:
        store = SQLiteCheckpointStore(path)
        await store.create("run", workflow="tests")

    asyncio.run(use())
    until = time.monotonic() + 20
    while (folder / "runs.db-wal").exists() and time.monotonic() < until:
        gc.collect()  # its thread may have it for a moment longer
        time.sleep(0.001)
    assert not (folder / "runs.db-wal").exists()
    shutil.copy(path, folder / "copy.db")
    assert _rows(folder / "copy.db", "SELECT run_id FROM runs") == [("run",)]
