"""Processes that are killed by `kill -9` while they work at a graph of 30 nodes, and others that take their runs up."""

import asyncio
import json
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SHARED_MEMORY = Path("/dev/shm")  # where it is there: nothing of this has to outlive the machine

pytestmark = pytest.mark.timeout(240)  # hundreds of processes


@pytest.fixture
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as path:
        yield path


@pytest.fixture(params=["memory", "redis"])
def server(request: pytest.FixtureRequest) -> str:
    """The address of the server of the cache; empty for a cache in memory, which is lost with its process."""
    return "" if request.param == "memory" else str(request.getfixturevalue("redis_url"))


async def lives(folder: str, server: str, *what: str) -> AsyncIterator[dict[str, Any]]:
    """Has a nursery run the graph, and gives what comes of each run."""
    nursery = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "tests.ext.task_graph.nursery", folder, server, *what),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert nursery.stdout is not None
    try:
        async for line in nursery.stdout:
            yield json.loads(line)
        assert await nursery.wait() == 0
    finally:
        if nursery.returncode is None:
            nursery.kill()
            await nursery.wait()


async def test_killed_at_every_boundary(folder: str, server: str) -> None:
    """Whatever moment it is, the result is that of an undisturbed run, and no node that had finished runs again.

    Each boundary has three moments. With a server, where all takes longer, it is one or two of them.
    """
    undisturbed, *disturbed = [one async for one in lives(folder, server, "moments", "2" if server else "1")]
    assert undisturbed["outcome"]["status"] == "partial"
    assert len(disturbed) > (60 if server else 120)
    for one in disturbed:
        assert one["outcome"] == undisturbed["outcome"]
        assert one["again"] == []
        assert one["killed"] == 1


async def test_killed_again_and_again(folder: str, server: str) -> None:
    """A run that is killed at any moment, up to five times, ends like an undisturbed one."""
    seed = str(random.getrandbits(32))  # pytest-randomly tells with which seed that can be had again
    undisturbed, *disturbed = [one async for one in lives(folder, server, "random", seed, "12")]
    for one in disturbed:
        assert one["outcome"] == undisturbed["outcome"]
        assert one["again"] == []
    assert sum(one["killed"] for one in disturbed) >= 6  # when that happens is chance
