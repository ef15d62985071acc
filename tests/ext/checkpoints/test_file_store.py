"""`FileCheckpointStore`: what people find in its folders, and what becomes of what is missing, damaged or half done."""

import fcntl
import json
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from miniagents import Message
from miniagents.ext.checkpoints import (
    CheckpointStore,
    CheckpointStoreError,
    Claim,
    FileCheckpointStore,
    NewEntry,
    RunExistsError,
    StoreDamagedError,
    StoreFullError,
    StoreLockedError,
    StoreVersionError,
)
from miniagents.ext.checkpoints.file_journal import Extent, Journal
from miniagents.ext.checkpoints.file_writing import writing
from tests.ext.checkpoints.disks import little_room, open_to_all
from tests.ext.checkpoints.processes import running


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[FileCheckpointStore]:
    async with FileCheckpointStore(folder / "runs", timeout=0.1) as store:
        yield store


async def _begin(store: CheckpointStore, run_id: str = "run") -> Claim:
    await store.create(run_id, workflow="tests")
    return await store.claim(run_id)


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _change(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(_json(path))))


def _leave_unclean(run: Path, **noted: Any) -> None:
    """Makes the run one whose writer was killed."""
    (run / ".lock").write_text(json.dumps({**_json(run / ".lock"), "clean": False, **noted}).ljust(200))


# --- what people find ---


async def test_what_people_find(store: FileCheckpointStore) -> None:
    """Each entry is a file of JSON in a folder that is named after its number and node; all say which format it is."""
    await store.create("run/1", workflow="report", fingerprint={"nodes": ["a"]})
    claim = await store.claim("run/1")
    reply = Message("Hello", role="user")
    await store.append(claim, [NewEntry("started", "write it/down"), NewEntry("state")])
    await store.append(claim, [NewEntry("finished", "check", 2, 3, {"reply": reply, "half": "\ud83d"})], status="done")
    run = store.folder / "run%2F1"
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock",
        "00000001_write-it-down",
        "00000002_run",
        "00000003_check",
        "claim.json",
        "objects",
        "run.json",
    ]
    found = json.loads((run / "00000003_check/entry.json").read_bytes().decode("utf-8", "surrogatepass"))
    (object_file,) = (run / "objects").iterdir()
    assert found == {
        "format": 1,
        "sequence": 3,
        "kind": "finished",
        "node": "check",
        "visit": 2,
        "attempt": 3,
        "data": {"reply": {"$ref": object_file.stem}, "half": "\ud83d"},
        "time": found["time"],
        "status": "done",
    }
    assert _json(object_file)["object"] == {"$class": "miniagents.message.Message", "text": "Hello", "role": "user"}
    info = _json(run / "run.json")
    assert (info["run_id"], info["workflow"], info["fingerprint"], info["status"]) == (
        *("run/1", "report"),
        *({"nodes": ["a"]}, "done"),
    )
    assert all(_json(path)["format"] == 1 for path in (run / "claim.json", run / "run.json", object_file))


async def test_files_are_private(store: FileCheckpointStore) -> None:
    """Nobody else can look into folders and files."""
    claim = await _begin(store)
    await store.append(claim, [NewEntry("state", "a", data=Message("x"))])
    for path in (store.folder, *store.folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_a_run_can_be_copied(store: FileCheckpointStore, folder: Path) -> None:
    """The folder of a run is all there is of it."""
    claim = await _begin(store)
    (entry,) = await store.append(claim, [NewEntry("state", "a", data=[Message("x")])])
    await claim.release()
    shutil.copytree(store.folder / "run", folder / "other" / "run")
    async with FileCheckpointStore(folder / "other") as other, await other.claim("run") as claim:
        assert await other.read("run") == [entry]
        assert (await other.append(claim, [NewEntry("state", "a")]))[0].sequence == 2


async def test_nothing_is_left_of_what_is_removed(store: FileCheckpointStore) -> None:
    """A removed run leaves no files, nor do removed entries, but for what others need."""
    claim = await _begin(store)
    shared = [Message(f"shared {number}") for number in range(30)]
    for visit in range(4):
        await store.append(claim, [NewEntry("finished", "a", visit, data=[*shared, Message(f"own {visit}")])])
    run = store.folder / "run"
    before = len(list((run / "objects").iterdir()))
    await store.prune(claim, before=4)
    texts = {_json(path)["object"]["text"] for path in (run / "objects").iterdir() if "text" in path.read_text()}
    assert texts == {*(message.text for message in shared), "own 3"}
    assert len(list((run / "objects").iterdir())) == before - 3
    assert [path.name for path in run.glob("0*")] == ["00000004_a"]
    await claim.release()
    await store.delete("run")
    assert list(store.folder.iterdir()) == []


# --- what processes leave behind that were killed ---


async def test_a_group_that_is_half_there(store: FileCheckpointStore, folder: Path) -> None:
    """Of entries that belong together none counts if one of them is missing; the next writer removes them."""
    claim = await _begin(store)
    await store.append(claim, [NewEntry("started", "a"), NewEntry("note", "a")])
    await store.append(claim, [NewEntry("started", name) for name in ("b", "c", "d")])
    run = store.folder / "run"
    for missing in ("00000003_b", "00000004_c", "00000005_d"):
        shutil.copytree(run, folder / missing / "run")
        shutil.rmtree(folder / missing / "run" / missing)
        (folder / missing / "run" / ".new-left-behind").mkdir()
        _leave_unclean(folder / missing / "run")
        async with FileCheckpointStore(folder / missing) as other:
            assert [entry.node for entry in await other.read("run")] == ["a", "a"]
            assert await other.wait("run", 1, timeout=0)
            assert not await other.wait("run", 2, timeout=0)
            told = await other.tell("run", ("note", "x", 1, 1, None))
            assert told.sequence == 3
            assert sorted(path.name for path in (folder / missing / "run").glob("*_*")) == [
                *("00000001_a", "00000002_a", "00000003_x"),
            ]
            assert not (folder / missing / "run" / ".new-left-behind").exists()


async def test_a_status_that_was_not_written_any_more(store: FileCheckpointStore) -> None:
    """A status belongs to its entry: if that is there, it is the status of the run."""
    claim = await _begin(store)
    await store.append(claim, [NewEntry("started", "a")], status="first")
    run = store.folder / "run"
    before = (run / "run.json").read_text()
    await store.append(claim, [NewEntry("finished", "a")], status="second")
    await store.append(claim, [NewEntry("started", "b")])
    (run / "run.json").write_text(before)
    _leave_unclean(run)
    assert (await store.info("run")).status == "second"
    assert [info.status for info in await store.runs(status="second")] == ["second"]


async def test_after_a_restart_of_the_machine(store: FileCheckpointStore) -> None:
    """What a file says of the end of the journal does not count if the machine was restarted since."""
    claim = await _begin(store)
    for number in range(3):
        await store.append(claim, [NewEntry("finished", "a", number)], status=f"at {number}")
    _leave_unclean(store.folder / "run", clean=True, boot="another", last=1)
    assert await store.wait("run", 2, timeout=0)
    (last,) = await store.append(claim, [NewEntry("finished", "a", 3)])
    assert last.sequence == 4
    (store.folder / "run" / ".lock").write_text("")
    assert (await store.append(claim, [NewEntry("finished", "a", 4)]))[0].sequence == 5
    assert (await store.info("run")).updated == (await store.read("run"))[-1].time


async def test_objects_part_of_which_was_not_written_any_more(store: FileCheckpointStore) -> None:
    """An object without all that is in it is written anew for whoever needs it."""
    claim = await _begin(store)
    said = [Message(f"message {number}") for number in range(100)]
    await store.append(claim, [NewEntry("state", "a", data=said)])
    run = store.folder / "run"
    shutil.rmtree(run / "00000001_a")
    for path in list((run / "objects").iterdir())[::3]:
        path.unlink()
    (run / "objects" / ".new-left-behind").touch()
    _leave_unclean(run)
    (entry,) = await store.append(claim, [NewEntry("state", "a", data=said)])
    assert entry.sequence == 1
    assert (await store.read("run"))[0].data == said
    assert not (run / "objects" / ".new-left-behind").exists()


async def test_what_is_recorded_is_looked_up_where_somebody_was_killed(store: FileCheckpointStore) -> None:
    """An append that was interrupted and is there all the same is not recorded twice."""
    claim = await _begin(store)
    await store.append(claim, [NewEntry("started", "a")])
    async with FileCheckpointStore(store.folder) as other:
        await claim.release()
        async with await other.claim("run") as second:
            await other.append(second, [NewEntry("finished", "a")])
            second.outcomes = claim.outcomes  # as if it had not come to take note
            _leave_unclean(store.folder / "run")
            with pytest.raises(CheckpointStoreError, match="finished already"):
                await other.append(second, [NewEntry("finished", "a")])


async def test_reading_what_is_removed_at_that_moment(
    store: FileCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If entries are removed between looking which are there and reading them, those that are left are read."""
    claim = await _begin(store)
    for number in range(4):
        await store.append(claim, [NewEntry("state", "a", data=Message(f"{number}"))])
    whole, look, moments = await store.read("run"), Journal.extent, iter([True])

    def look_and_remove(journal: Journal) -> Extent:
        extent = look(journal)
        if next(moments, False):
            with writing(journal, 1.0, durable=False) as writer:
                writer.prune(2)
        return extent

    monkeypatch.setattr(Journal, "extent", look_and_remove)
    assert await store.read("run") == whole[2:]


# --- what is damaged ---


async def test_a_missing_entry(store: FileCheckpointStore) -> None:
    """If an entry is missing that was there, the error says which, has those before it, and nothing is removed."""
    claim = await _begin(store)
    for number in range(5):
        await store.append(claim, [NewEntry("finished", "a", number)])
    whole = await store.read("run")
    run = store.folder / "run"
    shutil.rmtree(run / "00000003_a")
    with pytest.raises(StoreDamagedError, match="entry 3 is missing") as caught:
        await store.read("run")
    assert caught.value.readable == whole[:2]
    _leave_unclean(run)
    with pytest.raises(StoreDamagedError, match="entry 3 is missing"):
        await store.append(claim, [NewEntry("finished", "a", 9)])
    assert (run / "00000005_a").exists()


@pytest.mark.parametrize("content", ["", '{"format": 1, "kind": "finis', '{"format": 1}', "[]", "\x00" * 100])
async def test_a_damaged_entry(store: FileCheckpointStore, content: str) -> None:
    """If an entry is damaged the error names the file, and has those before it; other runs can be read."""
    claim, other = await _begin(store), await _begin(store, "other")
    for number in range(3):
        await store.append(claim, [NewEntry("finished", "a", number)])
    await store.append(other, [NewEntry("started", "a")])
    whole = await store.read("run")
    (store.folder / "run" / "00000002_a" / "entry.json").write_text(content)
    with pytest.raises(StoreDamagedError, match="00000002_a") as caught:
        await store.read("run")
    assert caught.value.readable == whole[:1]
    assert await store.read("run", 2) == whole[2:]
    assert len(await store.read("other")) == 1


async def test_a_file_that_is_gone(store: FileCheckpointStore) -> None:
    """A folder of an entry without its file is damage, too."""
    claim = await _begin(store)
    await store.append(claim, [NewEntry("started", "a")])
    (store.folder / "run" / "00000001_a" / "entry.json").unlink()
    with pytest.raises(StoreDamagedError, match="00000001_a"):
        await store.read("run")


@pytest.mark.parametrize("damage", ["changed", "missing"])
async def test_a_damaged_message(store: FileCheckpointStore, damage: str) -> None:
    """A message that is missing or was changed is noticed; entries that do not need it can be read."""
    claim = await _begin(store)
    for number in range(3):
        await store.append(claim, [NewEntry("finished", "a", number, data=Message(f"message {number}"))])
    whole = await store.read("run")
    (path,) = (path for path in (store.folder / "run/objects").iterdir() if "message 1" in path.read_text())
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(path.read_text().replace("message 1", "message 7"))
    with pytest.raises(StoreDamagedError, match=path.stem) as caught:
        await store.read("run")
    assert caught.value.readable == whole[:1]
    assert await store.read("run", 2) == whole[2:]


@pytest.mark.parametrize("name", ["run.json", "claim.json", "00000001_a/entry.json"])
async def test_a_newer_version(store: FileCheckpointStore, name: str) -> None:
    """What a newer version has written is not touched; the error says to update."""
    claim = await _begin(store)
    await store.append(claim, [NewEntry("started", "a")])
    await claim.release()
    _change(store.folder / "run" / name, lambda content: {**content, "format": 2})
    with pytest.raises(StoreVersionError, match=r"format 2, known here: 1\); update"):
        await (store.read("run") if "entry" in name else store.info("run"))


# --- what goes wrong ---


async def test_a_full_disk() -> None:
    """On a full disk the error says so, what is there can be read, also anew, and with room it goes on."""
    with little_room() as (folder, make_room):
        async with FileCheckpointStore(folder / "runs") as store, FileCheckpointStore(folder / "runs") as other:
            claim, size, appended = await _begin(store), 1_000, []
            with pytest.raises(StoreFullError, match="the disk is full; make room"):
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
            assert (await other.info("run")).status == "done"


async def test_a_locked_run(store: FileCheckpointStore) -> None:
    """While another program keeps a run locked the error says so; it can be read, and others can be used."""
    claim, other = await _begin(store), await _begin(store, "other")
    (first,) = await store.append(claim, [NewEntry("started", "a")])
    with (store.folder / "run/.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreLockedError, match=r"run/\.lock locked for 0\.1 s.*timeout"):
            await store.append(claim, [NewEntry("finished", "a")])
        assert await store.read("run") == [first]
        assert (await store.info("run")).updated == first.time
        await store.append(other, [NewEntry("started", "a")])
    await store.append(claim, [NewEntry("finished", "a")])


async def test_a_folder_that_must_not_be_written() -> None:
    """In a folder that must not be written the error says so."""
    with open_to_all() as folder:
        folder.chmod(0o555)
        with running(_use_as_nobody, ("files", str(folder), "")) as child:
            error, message = child.said()
        folder.chmod(0o755)
        assert error == "StoreNotWritableError"
        assert str(folder) in message
        assert "permissions" in message


async def _use_as_nobody(store: CheckpointStore, connection: Connection) -> None:
    if os.getuid() == 0:
        os.setuid(65534)
    try:
        await store.create("run", workflow="tests")
    except CheckpointStoreError as error:
        connection.send((type(error).__name__, str(error)))


async def test_a_folder_in_the_way(store: FileCheckpointStore) -> None:
    """A folder that was there before a run is no run, and is not overwritten."""
    store.folder.mkdir(parents=True)
    (store.folder / "run").mkdir()
    (store.folder / "run" / "notes.txt").write_text("mine")
    assert await store.runs() == []
    with pytest.raises(RunExistsError):
        await store.create("run", workflow="tests")
    assert [path.name for path in store.folder.iterdir()] == ["run"]
