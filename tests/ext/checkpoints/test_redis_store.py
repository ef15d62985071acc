"""`RedisCheckpointStore`: what is in the cache, and what is done when it forgets, is away or is shared with others."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from miniagents import Message
from miniagents.ext.cache import Cache, CacheUnavailableError, MemoryCache, RedisCache
from miniagents.ext.checkpoints import (
    Claim,
    NewEntry,
    RecordedAlreadyError,
    RedisCheckpointStore,
    RunClaimedError,
    RunNotFoundError,
    StaleClaimError,
    StoreDamagedError,
    StoreUnavailableError,
    StoreVersionError,
)
from miniagents.testing import run_with_virtual_clock
from tests.support.redis_server import StartRedis


@pytest.fixture
async def cache() -> AsyncIterator[MemoryCache]:
    async with MemoryCache(max_entries=None) as cache:
        yield cache


async def _begin(store: RedisCheckpointStore, run_id: str = "run") -> Claim:
    await store.create(run_id, workflow="tests")
    return await store.claim(run_id)


def _keys(cache: Cache) -> list[str]:
    assert isinstance(cache, MemoryCache)
    return sorted(cache._entries.all_keys())


async def _value(cache: Cache, key: str) -> Any:
    return await cache.get(f"miniagents/checkpoints/{key}", raw=True)


# --- what is in the cache ---


async def test_runs_are_in_no_namespace(cache: MemoryCache) -> None:
    """No `clear` removes runs; they are the same whatever namespace is entered, and others under another name."""
    store = RedisCheckpointStore(cache)
    async with cache.with_prefix("a"), cache.with_suffix("b"):
        claim = await _begin(store)
        waiter = asyncio.ensure_future(store.wait("run", 0))
        await asyncio.sleep(0.01)
    async with cache.with_prefix("c"):
        await store.append(claim, [NewEntry("started", "a")])
        async with asyncio.timeout(2):
            assert await waiter is True
        await cache.clear()
    await cache.clear()
    assert len(await store.read("run")) == 1
    assert await RedisCheckpointStore(cache, name="others").runs() == []


async def test_default_prefixes_are_apart() -> None:
    """Caches of different default prefixes do not see each other's runs."""
    cache = MemoryCache(max_entries=None, default_prefix="mine")
    store = RedisCheckpointStore(cache)
    await _begin(store)
    assert all(key.startswith("mine/checkpoints/") for key in _keys(cache))


def test_little_is_left_of_a_run() -> None:
    """Of a removed run only its records' places are kept, for a day, and nothing of what they held."""

    async def main() -> None:
        cache = MemoryCache(max_entries=None)
        store = RedisCheckpointStore(cache)
        claim = await _begin(store)
        await store.append(claim, [NewEntry("finished", "a", data=[Message(f"{number}") for number in range(40)])])
        await store.append(claim, [NewEntry("finished", "b", data=[Message("39"), Message("new")])])
        await store.tell("run", ("answer", "a", 1, 1, Message("inline")))
        with pytest.raises(RunClaimedError):
            await store.claim("run")
        assert sum("/lease/" in key for key in _keys(cache)) == 1
        await store.prune(claim, before=2)
        assert sum("/object/" in key for key in _keys(cache)) == 2
        await claim.release()
        await store.delete("run")
        left = {key: await cache.get(key, raw=True) for key in _keys(cache)}
        assert left.pop("miniagents/checkpoints/count") == 1
        assert {str(value) for value in left.values()} == {"{'what': 'gone'}"}
        assert (
            len(left) == 7
        )  # the claim, three times entries, the removal of the first ones, the release, the deletion
        await asyncio.sleep(86_400)
        assert await cache.get_many(left, raw=True) == {}

    run_with_virtual_clock(main())


async def test_messages_are_stored_once_for_a_run(cache: MemoryCache) -> None:
    """A message that recurs is one value, also after the run was claimed anew."""
    shared = [Message(f"shared {number}") for number in range(50)]
    for _ in range(2):
        store = RedisCheckpointStore(cache)
        if not await store.runs():
            await store.create("run", workflow="tests")
        async with await store.claim("run") as claim:
            for _ in range(3):
                await store.append(claim, [NewEntry("state", "a", data=shared)])
    texts = [str(await cache.get(key, raw=True)) for key in _keys(cache) if "/object/" in key]
    assert sum('"text":"shared' in text for text in texts) == 50
    assert all(entry.data == shared for entry in await RedisCheckpointStore(cache).read("run"))


async def test_the_head_follows(cache: MemoryCache) -> None:
    """The head of a log is never far behind, so that nobody has to read all of a long run to know its status."""
    store = RedisCheckpointStore(cache)
    claim = await _begin(store)
    for number in range(40):
        await store.append(claim, [NewEntry("finished", "a", number)], status=f"at {number}")
        head = await _value(cache, "1/head")
        assert number + 2 - head["position"] < 8
        assert (await RedisCheckpointStore(cache).info("run")).status == f"at {number}"


# --- what others do at the same time ---


async def test_one_who_has_not_looked_for_long(cache: MemoryCache) -> None:
    """A claimant who goes on where records were removed in the meantime is told that his claim is old."""
    store, other = RedisCheckpointStore(cache), RedisCheckpointStore(cache)
    await store.create("run", workflow="tests")
    old = await store.claim("run", lease=0.01, auto_renew=False)
    await store.append(old, [NewEntry("started", "a")])
    await asyncio.sleep(0.03)
    claim = await other.claim("run")
    for number in range(10):
        await other.append(claim, [NewEntry("finished", "b", number)])
    await other.prune(claim, before=8)
    with pytest.raises(StaleClaimError):
        await store.append(old, [NewEntry("finished", "a")])
    assert [entry.sequence for entry in await store.read("run")] == [8, 9, 10, 11]


async def test_a_deletion_that_was_interrupted(cache: MemoryCache) -> None:
    """A run whose removal was begun is gone, and its id can be used again, at whatever moment that was interrupted."""
    for moment in range(30):
        store = RedisCheckpointStore(cache)
        claim = await _begin(store)
        await store.append(claim, [NewEntry("finished", "a", data=Message("x"))])
        await claim.release()
        deletion = asyncio.ensure_future(_interrupted(store, moment))
        await asyncio.wait([deletion])
        if deletion.exception() is None:
            break
        try:
            await store.read("run")
        except RunNotFoundError:
            assert await store.runs() == []
            await store.create("run", workflow="tests")
        assert await store.delete("run")
    else:
        pytest.fail("the removal of a run never comes to its end")
    assert moment > 3


async def _interrupted(store: RedisCheckpointStore, moment: int) -> None:
    """Deletes a run, which fails at that operation."""
    shelf, count = store._shelf, 0

    def reachable() -> Any:
        nonlocal count
        count += 1
        if count > moment:
            raise StoreUnavailableError("interrupted")
        return original()

    original = shelf._reachable
    shelf._reachable = reachable  # type: ignore[method-assign]
    try:
        await store.delete("run")
    finally:
        shelf._reachable = original  # type: ignore[method-assign]


async def test_answers_that_are_lost() -> None:
    """What has been written although the answer was lost is neither written twice nor taken for another's."""
    cache = _ForgetfulServer(max_entries=None)
    store = RedisCheckpointStore(cache)
    claim = await _begin(store)
    for number in range(3):
        cache.loses_answer = True
        (entry,) = await store.append(claim, [NewEntry("finished", "a", number)])
        assert entry.sequence == number + 1
        assert not cache.loses_answer
    assert [entry.visit for entry in await store.read("run")] == [0, 1, 2]


class _ForgetfulServer(MemoryCache):
    """One that says of something that it has added that it was there already, as one that was asked again does."""

    loses_answer = False

    async def _add(self, key: str, data: bytes, ttl: float | None) -> bool:
        added = await super()._add(key, data, ttl)
        loses, self.loses_answer = self.loses_answer, False
        return added and not loses


async def test_what_is_there_is_confirmed() -> None:
    """If the server goes away when an entry is there already, the entry is confirmed all the same."""
    cache = _LeavingServer(max_entries=None)
    store = RedisCheckpointStore(cache)
    claim = await _begin(store)
    for number in range(20):
        cache.leaves_after_adding = True
        await store.append(claim, [NewEntry("finished", "a", number)])
        cache.leaves_after_adding = cache.has_left = False
    assert len(await store.read("run")) == 20


class _LeavingServer(MemoryCache):
    """One that cannot be reached any more as soon as it has added something."""

    leaves_after_adding = has_left = False

    async def get(self, key: str, default: Any = None, raw: bool = False) -> Any:
        if self.has_left:
            raise CacheUnavailableError("away")
        return await super().get(key, default, raw)

    async def _load(self, key: str) -> bytes | None:
        if self.has_left:
            raise CacheUnavailableError("away")
        return await super()._load(key)

    async def _add(self, key: str, data: bytes, ttl: float | None) -> bool:
        added = await super()._add(key, data, ttl)
        self.has_left = self.leaves_after_adding
        return added


# --- a cache that forgets, or is away ---


@pytest.mark.parametrize("key", ["1/head", "1/1", "1/2", "1/3"])
async def test_a_cache_that_forgets(cache: MemoryCache, key: str) -> None:
    """If the cache has dropped a part of a run, whoever needs it is told, and which cache to give."""
    store = RedisCheckpointStore(cache)
    claim = await _begin(store)
    for number in range(9):
        await store.append(claim, [NewEntry("finished", "a", number)])
    await cache.delete(f"miniagents/checkpoints/{key}", raw=True)
    with pytest.raises(StoreDamagedError, match="forgotten a part of the run run.*max_entries=None"):
        await store.read("run")


async def test_a_cache_that_forgets_messages(cache: MemoryCache) -> None:
    """If the cache has dropped a message, the error names it, and has the entries before it."""
    store = RedisCheckpointStore(cache)
    claim = await _begin(store)
    for number in range(3):
        await store.append(claim, [NewEntry("finished", "a", number, data=Message(f"message {number}"))])
    whole = await store.read("run")
    keys = [key for key in _keys(cache) if "/object/" in key]
    (key,) = [key for key in keys if "message 1" in await cache.get(key, raw=True)]
    await cache.delete(key, raw=True)
    with pytest.raises(StoreDamagedError, match=key.rpartition("/")[2]) as caught:
        await store.read("run")
    assert caught.value.readable == whole[:1]


async def test_a_newer_version(cache: MemoryCache) -> None:
    """What a newer version has written is not touched; the error says to update."""
    store = RedisCheckpointStore(cache)
    await store.create("run", workflow="tests")
    head = {**await _value(cache, "1/head"), "format": 2}
    await cache.set("miniagents/checkpoints/1/head", head, raw=True)
    for ask in (store.info("run"), store.runs(), store.claim("run")):
        with pytest.raises(StoreVersionError, match=r"run .*format 2, known here: 1\); update"):
            await ask


async def test_a_server_that_is_killed(start_redis: StartRedis) -> None:
    """What a durable server has confirmed is there after it was killed; meanwhile the error says that it is away."""
    server = start_redis(durable=True)
    async with RedisCache.from_url(server.url, timeout=0.3) as cache:
        store = RedisCheckpointStore(cache)
        claim = await _begin(store)
        entries = await store.append(claim, [NewEntry("started", "a", data=Message("kept"))])
        server.kill()
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            await store.append(claim, [NewEntry("finished", "a")])
        server.start()
        try:
            entries += await store.append(claim, [NewEntry("finished", "a")])
        except RecordedAlreadyError as error:
            pytest.fail(f"{error}: nobody was there to record it")
        assert await store.read("run") == entries


async def test_what_is_in_the_server(redis_cache: RedisCache, redis_url: str, redis_prefix: str) -> None:
    """In Redis all keys of a store begin with the prefix of its cache."""
    store = RedisCheckpointStore(redis_cache)
    async with await _begin(store) as claim:
        await store.append(claim, [NewEntry("started", "a", data=Message("x"))])
        with redis.Redis.from_url(redis_url) as client:
            keys = {key.decode() for key in client.scan_iter(f"*{redis_prefix}*")}
    assert {key.removeprefix(f"{redis_prefix}/checkpoints/").partition("/")[0] for key in keys} == {
        *("count", "list", "run", "1"),
    }
