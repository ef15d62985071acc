"""A disk that is full, a file that is locked, a file that is damaged: what a running workflow does then."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from miniagents.ext.checkpoints import (
    CheckpointStore,
    SQLiteCheckpointStore,
    StoreDamagedError,
    StoreFullError,
    StoreLockedError,
    StoreNotWritableError,
)
from miniagents.ext.workflow import Agent, AgentStatus, Context
from tests.ext.checkpoints.disks import little_room
from tests.ext.workflow.helpers import expire_claim

STATES = 8


async def undo(context: Context) -> None:
    raise AssertionError("nothing has failed that would have to be undone")


def steps(store: CheckpointStore, calls: list[int], disturb: Callable[[int], object], size: int = 10) -> Agent:
    """A workflow of states that set something, and in which something may happen to the store."""

    async def work(context: Context) -> str | None:
        number = int(context.state_name.removeprefix("state"))
        calls.append(number)
        if context.attempt == 1:
            disturb(number)
        context.set_state(f"value{number}", f"{number}" * size)
        return f"state{number + 1}" if number + 1 < STATES else None

    agent = Agent("work", store=store, ask=None)
    for number in range(STATES):
        agent.add_state(f"state{number}", work, compensation=undo, max_retries=2)
    return agent


def nothing(number: int) -> None:
    """Does nothing."""


def interrupt(number: int) -> None:
    """Ends the program at some moment."""
    if number == 5:
        raise KeyboardInterrupt


def whole(size: int = 10) -> dict[str, str]:
    return {f"value{number}": f"{number}" * size for number in range(STATES)}


async def finished(store: CheckpointStore) -> list[str]:
    return [entry.node for entry in await store.read("r") if entry.kind == "finished"]


async def test_a_full_disk() -> None:
    """The run ends with an error that says so; what is recorded can be read, and is gone on from when there is room."""
    calls: list[int] = []
    with little_room() as (folder, make_room):
        async with SQLiteCheckpointStore(folder / "runs.db") as store:
            agent = steps(store, calls, nothing, size=200_000)
            with pytest.raises(StoreFullError, match="the disk is full"):
                await agent.run(run_id="r")
            assert agent.status is AgentStatus.FAILED
            count = len(calls) - 1
            assert await finished(store) == [f"state{number}" for number in range(count)]
            assert 0 < count < STATES
            make_room()
            expire_claim(store.path, "r")  # it could not be given back
            assert await steps(store, calls, nothing, size=200_000).resume_run("r") == whole(200_000)
            assert calls == [*range(count + 1), *range(count, STATES)]
            assert (await store.info("r")).status == "completed"


async def test_a_locked_file(tmp_path: Path) -> None:
    """Another program that keeps the file locked is named as the cause; when it has ended, the run goes on."""
    calls: list[int] = []
    async with SQLiteCheckpointStore(tmp_path / "runs.db", timeout=0.05) as store:
        locker = sqlite3.connect(store.path, isolation_level=None)

        def lock(number: int) -> None:
            if number == 3:
                locker.execute("BEGIN IMMEDIATE")

        with pytest.raises(StoreLockedError, match="another program keeps it locked; end that one"):
            await steps(store, calls, lock).run(run_id="r")
        assert await finished(store) == ["state0", "state1", "state2"]
        locker.close()
        expire_claim(store.path, "r")
        assert await steps(store, calls, nothing).resume_run("r") == whole()
    assert calls == [0, 1, 2, 3, *range(3, STATES)]


async def test_a_file_that_is_taken_away(tmp_path: Path) -> None:
    """The run ends; when the file is back, the run goes on from what is in there."""
    calls: list[int] = []
    path = tmp_path / "runs.db"
    async with SQLiteCheckpointStore(path) as store:
        with pytest.raises(StoreNotWritableError, match="moved, deleted or replaced"):
            await steps(store, calls, lambda number: number == 3 and path.rename(tmp_path / "elsewhere")).run("r")
    (tmp_path / "elsewhere").rename(path)
    expire_claim(path, "r")
    async with SQLiteCheckpointStore(path) as store:
        assert await steps(store, calls, nothing).resume_run("r") == whole()
    assert calls == [0, 1, 2, 3, *range(3, STATES)]


async def test_a_damaged_file(tmp_path: Path) -> None:
    """Wherever it is damaged: the run is what it was, or the error says so; a copy can be gone on from."""
    calls: list[int] = []
    path, copy = tmp_path / "runs.db", tmp_path / "copy.db"
    async with SQLiteCheckpointStore(path) as store:
        with pytest.raises(KeyboardInterrupt):
            await steps(store, calls, interrupt, size=2000).run(run_id="r")
        before = await store.read("r")
    shutil.copy(path, copy)
    content = path.read_bytes()
    errors: list[StoreDamagedError] = []
    for page in range(0, len(content), 4096):
        for beside in tmp_path.glob("runs.db-*"):
            beside.unlink()
        path.write_bytes(content[:page] + b"\xa5" * 4096 + content[page + 4096 :])
        async with SQLiteCheckpointStore(path) as store:
            try:
                assert await steps(store, calls, nothing, size=2000).resume_run("r") == whole(2000)
            except StoreDamagedError as error:
                errors.append(error)
    assert len(errors) > 3
    assert all("damaged" in str(error) or "no SQLite database" in str(error) for error in errors)
    assert all(error.readable == before[: len(error.readable)] for error in errors)
    async with SQLiteCheckpointStore(copy) as store:
        calls.clear()
        assert await steps(store, calls, nothing, size=2000).resume_run("r") == whole(2000)
        assert calls == [5, 6, 7]


async def test_a_file_that_is_damaged_while_a_run_goes_on(tmp_path: Path) -> None:
    """The run ends with the error, or does not notice; what is readable afterwards is what it was."""
    calls: list[int] = []
    path = tmp_path / "runs.db"

    def damage(number: int) -> None:
        if number == 4:
            other = sqlite3.connect(path)
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            other.close()
            with path.open("r+b") as file:
                file.seek(4096)
                file.write(b"\xa5" * (path.stat().st_size - 4096))

    async with SQLiteCheckpointStore(path) as store:
        with pytest.raises(StoreDamagedError, match="it is damaged; restore a copy"):
            await steps(store, calls, damage, size=2000).run(run_id="r")
    assert calls == [0, 1, 2, 3, 4]
