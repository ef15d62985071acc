"""Who holds a claim, whether that process lives, and what it costs to hold one."""

import asyncio
import gc
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from miniagents.ext.cache import MemoryCache
from miniagents.ext.checkpoints import Claim, RedisCheckpointStore, SQLiteCheckpointStore, StoreUnavailableError
from miniagents.ext.checkpoints.claims import valid_holder
from miniagents.ext.checkpoints.holders import Holder
from miniagents.testing import run_with_virtual_clock


def test_this_process_lives() -> None:
    """A holder of this process is not gone; it is read as it was written, and no two are the same."""
    holder = Holder.new()
    assert not holder.is_gone()
    assert Holder.of_key(holder.key) == holder
    assert Holder.new() != holder
    assert str(holder) == f"process {os.getpid()} on {holder.host}"
    assert str(holder.token) not in str(holder)


def test_processes_that_are_gone() -> None:
    """A process of this machine is gone when it was killed, buried or not, or when its id belongs to another one."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        holder = _holder_of(process.pid)
        assert not holder.is_gone()
        assert holder._replace(started="1").is_gone()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert holder.is_gone()  # though nobody has buried it
    finally:
        process.kill()
        process.communicate()
    assert holder.is_gone()
    assert Holder.new()._replace(started="1").is_gone()


def _holder_of(pid: int) -> Holder:
    text = Path(f"/proc/{pid}/stat").read_text()
    return Holder.new()._replace(pid=pid, started=text.rpartition(")")[2].split()[19])


def test_processes_elsewhere() -> None:
    """Of other machines, and of this one before it was started anew, nothing is known: their leases count."""
    gone = Holder.new()._replace(pid=2**22 + 1)
    assert gone.is_gone()
    for other in (gone._replace(host="elsewhere"), gone._replace(machine="another-boot"), gone._replace(machine="-")):
        assert not other.is_gone()
        assert valid_holder(other.key, time.time() + 5) == other
        assert valid_holder(other.key, time.time() - 1) is None
    assert valid_holder(gone.key, time.time() + 5) is None
    assert valid_holder(None, time.time() + 5) is None


def test_a_claim_on_a_virtual_clock(folder: Path) -> None:
    """On a virtual clock claims and waits cost next to nothing, however long they last."""

    async def main() -> float:
        async with _Counting(folder / "runs.db") as store:
            await store.create("run", workflow="tests")
            async with await store.claim("run"):
                waiter = asyncio.ensure_future(store.wait("run", 0, timeout=7200))
                started = time.monotonic()
                await asyncio.sleep(3600)
                await store.tell("run", ("note", "", 1, 1, None))
                assert await waiter is True
                assert await store.wait("run", 1, timeout=3600) is False
                seconds = time.monotonic() - started
                assert store.renewals <= seconds + 3  # far from the thousands that two hours would need
                return seconds

    assert run_with_virtual_clock(main()) < 5


class _Counting(SQLiteCheckpointStore):
    renewals = 0

    async def _renew(self, claim: Claim) -> None:
        self.renewals += 1
        await super()._renew(claim)


async def test_a_claim_that_is_dropped_is_not_kept() -> None:
    """A claim that nobody has any more is freed at once, with what the store kept with it."""
    store = RedisCheckpointStore(MemoryCache(max_entries=None))
    await store.create("run", workflow="tests")
    claim = await store.claim("run")
    await store.append(claim, [("started", "a", 1, 1, None)])
    dropped = weakref.ref(claim)
    del claim
    gc.collect()
    assert dropped() is None


async def test_a_renewal_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """If the server is away for a while when a claim is renewed, that is logged, and tried again."""
    store = _Moody(MemoryCache(max_entries=None))
    await store.create("run", workflow="tests")
    async with await store.claim("run", lease=0.06) as claim:
        async with asyncio.timeout(5):
            await store.has_renewed.wait()
        assert not claim.is_lost
    assert "The claim of the run run could not be renewed: away" in caplog.text


class _Moody(RedisCheckpointStore):
    def __init__(self, cache: MemoryCache) -> None:
        super().__init__(cache)
        self.failures = 2
        self.has_renewed = asyncio.Event()

    async def _renew(self, claim: Claim) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailableError("away")
        await super()._renew(claim)
        self.has_renewed.set()
