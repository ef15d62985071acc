"""Workflows have no time of their own, so that their tests run on a virtual clock, unless there are other processes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from miniagents.ext.cache import MemoryCache
from miniagents.ext.checkpoints import (
    CheckpointStore,
    FileCheckpointStore,
    RedisCheckpointStore,
    SQLiteCheckpointStore,
)
from miniagents.testing import VirtualClockEventLoop

_IN_REAL_TIME = {"in_real_time", "server"}


def pytest_asyncio_loop_factories(config: pytest.Config, item: Any) -> dict[str, Any]:
    """See `tests/conftest.py`."""
    if _IN_REAL_TIME.isdisjoint(item.fixturenames):
        return {"virtual": VirtualClockEventLoop}
    return {"asyncio": asyncio.SelectorEventLoop}


@pytest.fixture
def in_real_time() -> None:
    """For tests in which something outside of this process takes its time."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[CheckpointStore]:
    """A store in which nothing is lost when the process dies, though it may be when the machine does."""
    async with SQLiteCheckpointStore(tmp_path / "runs.db", synchronous="OFF") as store:
        yield store


@pytest.fixture(params=["sqlite", "files", "cache"])
async def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CheckpointStore]:
    """Each kind of store."""
    made: CheckpointStore
    if request.param == "sqlite":
        made = SQLiteCheckpointStore(tmp_path / "runs.db", synchronous="OFF")
    elif request.param == "files":
        made = FileCheckpointStore(tmp_path / "runs", durable=False)
    else:
        made = RedisCheckpointStore(MemoryCache(max_entries=None))
    async with made as store:
        yield store


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the default store keeps its file."""
    folder = tmp_path / "state"
    monkeypatch.setenv("MINIAGENTS_STATE", str(folder))
    return folder
