"""Cached agents in several processes, with a real Redis: one run among them, and what happens when its owner dies."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from miniagents import MiniAgents
from miniagents.ext.cache import RedisCache, cached
from miniagents.ext.cache.lease import Lease
from miniagents.ext.cache.redis_address import read_url
from miniagents.testing import assert_no_leftovers, quiescence
from tests.ext.cache.cached_helpers import RUN_1, Work, first_token_of, pieces_of
from tests.promising.helpers import error_of
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[3]

Start = Callable[..., Any]
Together = Callable[[], RedisCache]


@pytest.fixture
async def start(redis_url: str, redis_prefix: str) -> AsyncIterator[Start]:
    """Starts processes of `cached_worker`, in the namespace of `redis_cache`."""
    processes: list[asyncio.subprocess.Process] = []

    async def start(calls: int = 1, lease: float = 60.0) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "tests.ext.cache.cached_worker"),
            *(redis_url, redis_prefix, str(calls), str(lease)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def answers_of(process: asyncio.subprocess.Process) -> Any:
    """What a process has printed, when it has ended well."""
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_processes_share_one_run(redis_cache: RedisCache, start: Start) -> None:
    """Equal calls in several processes are answered by one run, and each is streamed the same pieces."""
    processes = [await start(calls=20) for _ in range(3)]
    for _ in processes:
        assert await redis_cache.get_message("called", timeout=30) is not None
    await redis_cache.publish_to_mailbox("told", "done")
    for process in processes:
        assert await answers_of(process) == [[["run 1 ", "done"]]] * 20
    assert await redis_cache["runs"] == 1
    late = await start()
    assert await answers_of(late) == [[["run 1 ", "done"]]]
    assert await redis_cache["runs"] == 1


async def test_waiter_takes_over_when_the_owner_is_killed(redis_cache: RedisCache, start: Start) -> None:
    """When the process at work dies its lease runs out, and one of those that wait does the work."""
    processes = [await start(lease=1.0) for _ in range(3)]
    for _ in processes:
        assert await redis_cache.get_message("called", timeout=30) is not None
    owner = await redis_cache.get_message("begun", timeout=30)
    (killed,) = [process for process in processes if process.pid == owner]
    killed.kill()
    processes.remove(killed)
    assert await redis_cache.get_message("begun", timeout=10) in [process.pid for process in processes]
    await redis_cache.publish_to_mailbox("told", "done")
    for process in processes:
        assert await answers_of(process) == [[["run 2 ", "done"]]]
    assert await redis_cache["runs"] == 2


async def test_waiters_take_over_when_a_run_fails(redis_cache: RedisCache, start: Start) -> None:
    """An error is that of the process that had it; the next one is told at once, and tries for itself."""
    processes = [await start() for _ in range(3)]
    for _ in processes:
        assert await redis_cache.get_message("called", timeout=30) is not None
    for told in ("fail", "done"):
        await redis_cache.publish_to_mailbox("told", told)
    answers = [await answers_of(process) for process in processes]
    assert sorted(map(str, answers)) == [
        """["ValueError('told to fail')"]""",
        "[[['run 2 ', 'done']]]",
        "[[['run 2 ', 'done']]]",
    ]


# --- two caches in one process know as little of each other as those of two processes ---


@pytest.fixture
async def caches(redis_url: str, redis_prefix: str) -> AsyncIterator[list[RedisCache]]:
    caches = [RedisCache.from_url(redis_url, default_prefix=redis_prefix) for _ in range(3)]
    for cache in caches:
        await cache.contains("it connects")
    yield caches
    for cache in caches:
        await cache.close()


async def until_waiting(cache: RedisCache, count: int = 1) -> None:
    """Waits until calls of other processes wait for the run that is under way."""
    while not (leases := [key for key in await cache.keys() if key.endswith("/lease")]):
        await asyncio.sleep(0.005)
    mailbox = leases[0].removeprefix(f"{cache.default_prefix}:").removesuffix("lease") + "waiters"
    while await cache.mailbox_length(mailbox) < count:
        await asyncio.sleep(0.005)


async def test_calls_of_one_process_share_a_run_live(redis_cache: RedisCache) -> None:
    """In one process nobody waits for the record, whatever time the server takes."""
    work = Work()
    agent = cached(work.agent, cache=redis_cache)
    async with MiniAgents():
        calls = [agent.inquire("Hi") for _ in range(20)]
        for call in calls:
            assert await first_token_of(call) == "run 1 "
        work.gate.set()
        for call in calls:
            assert await pieces_of(call) == RUN_1


async def test_lease_is_not_needed_for_what_has_been_done(redis_cache: RedisCache) -> None:
    """Work that was done between the last look and the lease is not done again."""
    lease = Lease(redis_cache, "work", 600)

    async def look() -> str:
        return "done"

    assert await lease.acquire(look) == "done"
    await lease.release()
    assert await redis_cache.keys() == []


@pytest.mark.parametrize("ending", ["well", "with an error", "cancelled"])
async def test_waiter_is_told_at_once(caches: list[RedisCache], ending: str) -> None:
    """Whoever waits is woken when the run has ended, whatever its end, long before the lease would run out."""
    work = Work()
    agents = [cached(work.agent, cache=cache, lease=600) for cache in caches[:2]]
    async with assert_no_leftovers(), MiniAgents():
        leader = agents[0].inquire("Hi")
        assert await first_token_of(leader) == "run 1 "
        waiter = agents[1].inquire("Hi")
        await until_waiting(caches[0])
        if ending == "with an error":
            work.error = ValueError("no")
        if ending == "cancelled":
            leader.cancel()
        else:
            work.gate.set()
        if ending == "well":
            assert await pieces_of(waiter) == await pieces_of(leader) == RUN_1
        else:
            await error_of(leader)
            work.error = None
            work.gate.set()
            assert await pieces_of(waiter) == [["run 2 ", "is ", "done"]]
        assert len(await caches[0].keys()) == 1  # no lease is left


async def test_waiter_is_told_again(caches: list[RedisCache]) -> None:
    """Who was told, and then saw another one take over, is told when that one has ended."""
    work = Work(ValueError("no"))
    async with assert_no_leftovers(), MiniAgents():
        calls = [cached(work.agent, cache=cache, lease=600).inquire("Hi") for cache in caches]
        await until_waiting(caches[0], count=2)
        readers = [asyncio.ensure_future(pieces_of(call)) for call in calls]
        work.gate.set()
        await asyncio.wait(readers, return_when="FIRST_COMPLETED")
        work.gate.clear()
        work.error = None
        await until_waiting(caches[0])
        work.gate.set()
        answers = await asyncio.gather(*readers, return_exceptions=True)
        assert answers.count([["run 2 ", "is ", "done"]]) == 2


async def test_waiter_that_is_cancelled(caches: list[RedisCache]) -> None:
    """A call that waits for another process can be cancelled, and leaves the run alone."""
    work = Work()
    agents = [cached(work.agent, cache=cache) for cache in caches[:2]]
    async with assert_no_leftovers(), MiniAgents():
        leader = agents[0].inquire("Hi")
        await first_token_of(leader)
        waiters = [agents[1].inquire("Hi") for _ in range(2)]
        await until_waiting(caches[0])
        for waiter in waiters:
            assert waiter.cancel()
            await error_of(waiter)
        work.gate.set()
        assert await pieces_of(leader) == RUN_1
        assert await pieces_of(agents[1].inquire("Hi")) == RUN_1


async def test_no_lease_is_left_behind(caches: list[RedisCache]) -> None:
    """Whenever a call is cancelled, the next one in another process can work at once."""
    work = Work(at_once=True)
    first, second = [cached(work.agent, cache=cache, lease=600) for cache in caches[:2]]
    for step in range(60):
        async with assert_no_leftovers(), MiniAgents():
            cancelled = first.inquire(str(step))
            await asyncio.sleep(step * 0.0001)
            cancelled.cancel()
            assert await second.inquire(str(step))
    assert not [key for key in await caches[0].keys() if key.endswith("/lease")]


class Pausing(RedisCache):
    """A cache that deletes when it is told to."""

    def __init__(self, url: str, prefix: str) -> None:
        super().__init__(default_prefix=prefix, **read_url(url))
        self.is_asked, self.may_delete = asyncio.Event(), asyncio.Event()

    async def delete(self, key: str, raw: bool = False) -> bool:
        self.is_asked.set()
        await self.may_delete.wait()
        return await super().delete(key, raw)


async def test_lease_is_given_back_by_a_run_that_is_cancelled_then(redis_url: str, redis_prefix: str) -> None:
    """Cancelling a run that is about to give its lease back does not keep it from that."""
    work = Work(at_once=True)
    async with Pausing(redis_url, redis_prefix) as cache:
        async with MiniAgents():
            replies = cached(work.agent, cache=cache, lease=600).inquire("Hi")
            await cache.is_asked.wait()
            assert replies.cancel()
            await quiescence()
            cache.may_delete.set()
        assert len(await cache.keys()) == 1


async def test_lease_lasts_as_long_as_the_run(caches: list[RedisCache]) -> None:
    """A run that takes much longer than its lease is not done twice."""
    work = Work()
    agents = [cached(work.agent, cache=cache, lease=0.15) for cache in caches[:2]]
    async with MiniAgents():
        calls = [agent.inquire("Hi") for agent in agents]
        await asyncio.sleep(0.8)
        work.gate.set()
        assert [await pieces_of(call) for call in calls] == [RUN_1] * 2


async def test_contexts_of_one_process_and_another_process(caches: list[RedisCache]) -> None:
    """Calls in contexts of their own, in one process and another, are answered by one run."""
    work = Work()

    async def call(cache: RedisCache) -> list[list[str]]:
        async with MiniAgents():
            return await pieces_of(cached(work.agent, cache=cache).inquire("Hi"))

    calls = [asyncio.ensure_future(call(cache)) for cache in caches[:2] * 3]
    await until_waiting(caches[0])
    work.gate.set()
    assert [await one for one in calls] == [RUN_1] * 6


async def test_cache_that_is_closed_while_a_call_waits(caches: list[RedisCache]) -> None:
    """The call does not go on waiting for what it will not be told: it does the work."""
    work = Work()
    agents = [cached(work.agent, cache=cache, lease=600) for cache in caches[:2]]
    async with MiniAgents():
        leader, waiter = agents[0].inquire("Hi"), None
        await first_token_of(leader)
        waiter = agents[1].inquire("Hi")
        await until_waiting(caches[0])
        await caches[1].close()
        assert await first_token_of(waiter) == "run 2 "
        work.gate.set()


# --- a server that goes away ---


class Impatient(RedisCache):
    """A cache that gives up soon, and notes what it was asked."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__(port=server.port, default_prefix="test", timeout=0.3)
        self.asked: list[str] = []

    async def get(self, key: str, default: Any = None, raw: bool = False) -> Any:
        self.asked.append("get")
        return await super().get(key, default, raw)

    async def add(self, key: str, value: Any, raw: bool = False, ttl: float | None = None) -> bool:
        self.asked.append("add")
        return await super().add(key, value, raw, ttl)


@pytest.mark.parametrize("moment", ["before the call", "during the run", "while waiting for another process"])
@pytest.mark.parametrize("how", ["killed", "silent"])
async def test_server_goes_away(
    start_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture, moment: str, how: str
) -> None:
    """Without its server an agent answers all the same, says so once, and does not ask it further."""
    server = start_redis()
    away = server.kill if how == "killed" else server.pause
    work = Work()
    async with Impatient(server) as cache, Impatient(server) as other, MiniAgents():
        agent = cached(work.agent, cache=cache, lease=600)
        calls = []
        if moment == "while waiting for another process":
            calls.append(cached(work.agent, cache=other, lease=600).inquire("Hi"))
            await first_token_of(calls[0])
        if moment == "before the call":
            away()
        calls.append(agent.inquire("Hi"))
        if moment == "during the run":
            await first_token_of(calls[0])
        elif moment == "while waiting for another process":
            await until_waiting(cache)
        if moment != "before the call":
            away()
        work.gate.set()
        for number, call in enumerate(calls, start=1):
            assert await pieces_of(call) == [[f"run {number} ", "is ", "done"]]
        assert await first_token_of(agent.inquire("Hi")) == f"run {len(calls) + 1} "
        assert caplog.text.count("without their cache") == len(calls)
        asked = {"before the call": "get", "during the run": "get add get"}
        assert " ".join(cache.asked) == asked.get(moment, "get add get add")
        if how == "silent":
            server.resume()
