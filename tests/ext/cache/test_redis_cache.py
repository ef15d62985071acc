"""`RedisCache` with a real server: what a cache in memory does not have."""

import asyncio
import gc
import ssl
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from miniagents.ext.cache import CacheUnavailableError, RedisCache
from miniagents.testing import CacheConformance
from tests.support.certificate import make_certificate
from tests.support.redis_server import StartRedis
from tests.support.tcp_proxy import TcpProxy

SECRET = "pa:ss/w#rd"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """What sees and does things behind the back of a cache."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture(autouse=True, scope="module")
def nothing_left_open() -> Iterator[None]:
    """Connections that were left open warn when they are collected, and warnings are errors."""
    yield
    gc.collect()


class TestRedisCache(CacheConformance):
    """What every cache does, in Redis."""

    @pytest.fixture
    async def cache(self, redis_db_url: str) -> AsyncIterator[RedisCache]:
        async with RedisCache.from_url(redis_db_url) as cache:
            yield cache

    @pytest.fixture
    async def other(self, cache: RedisCache, redis_db_url: str) -> AsyncIterator[RedisCache]:
        async with RedisCache.from_url(redis_db_url) as other:
            yield other


# --- what the server is asked ---


async def test_bulk_operations_take_one_round_trip(start_redis: StartRedis) -> None:
    """However many keys there are, all commands are sent before the first reply is read."""
    values = {f"key {number}": number for number in range(1234)}
    async with TcpProxy(start_redis().port) as proxy, RedisCache(port=proxy.port) as cache:
        await cache.contains("it connects")
        for operation in (
            lambda: cache.set_many(values),
            lambda: cache.set_many(values, ttl=60),
            lambda: cache.get_many(values),
            lambda: cache.delete_many(values),
        ):
            before = proxy.round_trips
            await operation()
            assert proxy.round_trips == before + 1


async def test_many_and_large_values_come_back(redis_cache: RedisCache) -> None:
    """Several batches of keys, and values that are larger than any buffer, arrive whole and in their order."""
    large = {f"large {number}": str(number) * 3_000_000 for number in range(3)}
    small = {f"small {number}": number for number in range(2500)}
    await redis_cache.set_many(large)
    await redis_cache.set_many(small)
    assert await redis_cache.get_many([*small, *large]) == small | large
    assert await redis_cache.delete_many([*small, "unknown"]) == 2500
    assert len(await redis_cache.get_all()) == 3


@pytest.mark.parametrize("prefix", ["a*", "[ab]", "a?", "a\\", "a^b", "a-b", "*"])
async def test_prefixes_are_no_patterns(redis_cache: RedisCache, redis_prefix: str, prefix: str) -> None:
    """What is special in a pattern of Redis stands for itself in prefixes and suffixes."""
    prefixes = [f"{redis_prefix}{end}" for end in ("a", "b", "ab", "aab", "a-b", "a^b", "a\\", "\\", prefix)]
    for other in prefixes:
        async with redis_cache.with_prefix(other):
            await redis_cache.set("key", other)
    async with redis_cache.with_prefix(f"{redis_prefix}{prefix}"):
        assert list((await redis_cache.get_all()).values()) == [f"{redis_prefix}{prefix}"]
        await redis_cache.clear()
    for other in {*prefixes} - {f"{redis_prefix}{prefix}"}:
        async with redis_cache.with_prefix(other):
            assert await redis_cache.get("key") == other


async def test_foreign_keys_disturb_nobody(redis_cache: RedisCache, redis_prefix: str, client: redis.Redis) -> None:
    """Keys that are no text, and lists or hashes at keys of the namespace, are passed over by bulk operations."""
    client.set(redis_prefix.encode() + b":\xff\xfe", b"1")
    client.rpush(f"{redis_prefix}:list", "item")
    await redis_cache.set("key", 1)
    assert await redis_cache.keys() == [f"{redis_prefix}:key", f"{redis_prefix}:list"]
    assert await redis_cache.get_all() == {f"{redis_prefix}:key": 1}


async def test_what_is_no_value_is_named(redis_cache: RedisCache, redis_prefix: str, client: redis.Redis) -> None:
    """A list where a value should be is a TypeError with the key, not an error of Redis."""
    client.rpush(f"{redis_prefix}:list", "item")
    for operation in (redis_cache.get, lambda key: redis_cache.compare_and_set(key, 1, 2), redis_cache.increment):
        with pytest.raises(TypeError, match=f"{redis_prefix}:list"):
            await operation("list")


async def test_counters_have_64_bits(redis_cache: RedisCache) -> None:
    """Sums are exact where numbers of Lua are not, and too large ones are refused and change nothing."""
    await redis_cache.set("count", 2**53)
    assert await redis_cache.increment("count") == 2**53 + 1
    await redis_cache.set("count", 2**63 - 2)
    assert await redis_cache.increment("count") == 2**63 - 1
    for by in (1, 2**63, -(2**64)):
        with pytest.raises(OverflowError, match="count"):
            await redis_cache.increment("count", by)
    assert await redis_cache.get("count") == 2**63 - 1
    await redis_cache.set("count", 2**70)
    with pytest.raises(OverflowError, match="count"):
        await redis_cache.increment("count")


async def test_times_to_live_are_exact(redis_cache: RedisCache, redis_prefix: str, client: redis.Redis) -> None:
    """The server is told milliseconds; what has no time to live loses the one that was there before."""

    def left(key: str, kind: str = "") -> Any:
        return client.pttl(f"{kind}{redis_prefix}:{key}")

    await redis_cache.set("a", 1, ttl=60.25)
    assert 1000 < left("a") <= 60_250
    await redis_cache.increment("a")
    assert 1000 < left("a") <= 60_250
    await redis_cache.compare_and_set("a", 2, 3, ttl=2000.5)
    assert 1_900_000 < left("a") <= 2_000_500
    await redis_cache.set("a", 1)
    assert left("a") == -1
    await redis_cache.set_many({"b": 1, "c": 2}, ttl=0.0001)
    assert left("b") in (1, 0, -2)
    await redis_cache.add("d", 1, ttl=1e300)
    assert left("d") > 10**14
    await redis_cache.publish_to_mailbox("box", 1, ttl=60)
    assert 1000 < left("box", "~miniagents/mailbox/") <= 60_000
    await redis_cache.publish_to_mailbox("box", 1)
    assert left("box", "~miniagents/mailbox/") == -1


async def test_what_is_reserved_goes_by_itself(start_redis: StartRedis) -> None:
    """Everything beside values and mailboxes has a time to live, from the start."""
    server = start_redis()
    async with RedisCache(port=server.port) as cache:
        await cache.increment("count")
        await cache.publish_to_mailbox("box", 1)
        assert await cache.get_message("box") == 1
        waiting = asyncio.create_task(cache.get_message("box"))
        with server.client() as client:
            while not client.info("clients")["blocked_clients"]:
                await asyncio.sleep(0.005)
            for _ in range(2):  # while somebody waits, and afterwards
                reserved: set[Any] = set(client.keys()) - {b"miniagents:count"}
                assert {key.split(b"/")[1] for key in reserved} == {b"operation", b"hand"}
                assert all(0 < client.ttl(key) <= 3600 for key in reserved)
                waiting.cancel()
                await asyncio.wait([waiting])


async def test_scripts_are_told_anew(redis_cache: RedisCache, client: redis.Redis) -> None:
    """A server that does not know the scripts any more is told them."""
    for number in range(1, 4):
        assert await redis_cache.increment("count") == number
        client.script_flush()


# --- readers and others ---


async def test_readers_hold_nobody_up(redis_url: str, redis_prefix: str) -> None:
    """Many readers that wait do not count as operations: others go on with a single connection."""
    async with RedisCache.from_url(redis_url, redis_prefix, max_connections=1) as cache:
        readers = [asyncio.create_task(cache.get_message(f"box {number}")) for number in range(50)]
        for number in range(50):
            await cache.set("key", number)
            assert await cache.get("key") == number
            await cache.publish_to_mailbox(f"box {number}", number)
        assert await asyncio.gather(*readers) == list(range(50))


async def test_closing_wakes_readers_and_leaves_no_connection(start_redis: StartRedis) -> None:
    """Readers get None, streams end, and the server has no clients any more; clean-up still works."""
    server = start_redis()
    cache = RedisCache(port=server.port)
    await cache.publish_to_mailbox("stream", 1)

    async def read() -> list[Any]:
        return [message async for message in cache.subscribe("stream")]

    readers = [asyncio.create_task(cache.get_message("box", timeout)) for timeout in (None, 60)]
    readers.append(asyncio.create_task(read()))
    with server.client() as client:
        while client.info("clients")["blocked_clients"] < 3:
            await asyncio.sleep(0.005)
        await asyncio.gather(cache.close(), cache.close())
        await cache.close()
        assert await asyncio.gather(*readers) == [None, None, [1]]
        assert await cache.get_message("box") is None
        assert await cache.increment("count") == 1
        while client.info("clients")["connected_clients"] > 1:
            await asyncio.sleep(0.005)


async def test_time_outs_are_exact(redis_cache: RedisCache) -> None:
    """Waiting ends in time, though the server looks at its clock ten times a second only."""
    loop = asyncio.get_running_loop()
    took = []
    for _ in range(5):
        start = loop.time()
        assert await redis_cache.get_message("box", timeout=0.03) is None
        took.append(loop.time() - start)
    assert 0.03 <= min(took) < 0.06


# --- event loops and threads ---


def test_one_cache_serves_one_event_loop_after_the_other(redis_url: str, redis_prefix: str) -> None:
    """Connections belong to an event loop; the next one gets its own, and nothing is left open."""
    cache = RedisCache.from_url(redis_url, redis_prefix)

    async def use() -> list[Any]:
        waiting = asyncio.create_task(cache.get_message("box"))
        await cache.publish_to_mailbox("box", await cache.increment("count"))
        return [await waiting, await cache.mailbox_length("box")]

    assert [asyncio.run(use()) for _ in range(3)] == [[1, 0], [2, 0], [3, 0]]


def test_one_cache_serves_several_threads(redis_url: str, redis_prefix: str) -> None:
    """Event loops in different threads use a cache at the same time, and send each other messages."""
    cache = RedisCache.from_url(redis_url, redis_prefix)
    results: list[Any] = []

    async def work() -> None:
        for _ in range(50):
            await cache.increment("count")
        await cache.publish_to_mailbox("box", threading.get_ident())
        results.append(await cache.get_message("box"))

    threads = [threading.Thread(target=asyncio.run, args=(work(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    idents = {thread.ident for thread in threads}
    for thread in threads:
        thread.join()
    assert set(results) == idents
    assert asyncio.run(cache.get("count")) == 200


def test_a_loop_that_was_closed_rudely_is_forgotten(redis_url: str, redis_prefix: str) -> None:
    """A loop that ends without closing what it has takes nothing with it: the next one works."""
    cache = RedisCache.from_url(redis_url, redis_prefix)
    for number in range(1, 4):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(cache.increment("count")) == number
        loop.close()
    assert asyncio.run(cache.increment("count")) == 4


async def test_a_cache_that_nobody_has_any_more_closes_its_connections(start_redis: StartRedis) -> None:
    """Whoever forgets to close a cache leaves nothing open either."""
    server = start_redis()
    await RedisCache(port=server.port).set("key", 1)
    with server.client() as client:
        while client.info("clients")["connected_clients"] > 1:
            await asyncio.sleep(0.005)


# --- addresses, passwords, TLS ---


def everything_said_by(error: BaseException | None) -> str:
    """The text of an error and of all that it came from, and their forms for programmers."""
    said = "".join(traceback.format_exception(error)) if error else ""
    seen: set[int] = set()
    pending = [error]
    while pending:
        error = pending.pop()
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            said += f"{error} {error!r} {error.args}"
            pending += [error.__cause__, error.__context__]
    return said


async def test_the_right_password_is_needed_and_no_password_is_told(start_redis: StartRedis) -> None:
    """A wrong or missing password is refused at once, and appears in no error."""
    server = start_redis(password=SECRET)
    async with RedisCache(port=server.port, password=SECRET) as cache:
        await cache.set("key", 1)
        assert SECRET not in repr(cache)
    for wrong in ("wrong-" + SECRET, None):
        cache = RedisCache(port=server.port, password=wrong)
        for operation in (cache.get("key"), cache.get_message("box"), cache.increment("count"), cache.keys()):
            with pytest.raises(
                CacheUnavailableError, match=f"localhost:{server.port} refuses.*(WRONGPASS|NOAUTH)"
            ) as caught:
                await asyncio.wait_for(operation, 5)
            assert SECRET not in everything_said_by(caught.value)
        await cache.close()


async def test_servers_that_repeat_the_password_are_not_quoted(start_redis: StartRedis) -> None:
    """A server that does not know how to log in says what it did not understand; the error does not."""
    server = start_redis("--rename-command", "AUTH", "")
    async with RedisCache(port=server.port, password=SECRET * 20) as cache:  # servers shorten long words
        with pytest.raises(CacheUnavailableError, match="unknown command") as caught:
            await cache.get("key")
    assert SECRET not in everything_said_by(caught.value)


async def test_whatever_says_the_password_is_not_quoted() -> None:
    """Something between here and the server may say anything."""

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(f"-ERR what does {SECRET} mean\r\n".encode())
        writer.close()

    async with await asyncio.start_server(repeat, "localhost", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with RedisCache(port=port, password=SECRET) as cache:
            with pytest.raises(CacheUnavailableError, match=r"what does \*\*\* mean") as caught:
                await cache.get("key")
    assert SECRET not in everything_said_by(caught.value)


async def test_an_address_has_all_that_is_needed(start_redis: StartRedis) -> None:
    """Host, port, database, user, password and options are read from addresses; sockets work, too."""
    server = start_redis(*["--user", "ann", "on", ">se%cret", "~*", "+@all", "--user", "default", "off"])
    addresses = [
        f"redis://ann:se%25cret@127.0.0.1:{server.port}/3?client_name=me",
        f"unix://ann:se%25cret@{server.socket}?db=3",
    ]
    for number, address in enumerate(addresses, 1):
        async with RedisCache.from_url(address, "prefix") as cache:
            assert await cache.increment("count") == number


@pytest.mark.parametrize(
    "address", [f"redis://:{SECRET}@localhost:1/0", f"http://:{SECRET}@localhost", SECRET, f"redis://h:1?db={SECRET}"]
)
def test_an_address_that_cannot_be_read_is_not_repeated(address: str) -> None:
    """What is wrong with an address is said without the address: a part of the password may be anywhere in it."""
    with pytest.raises(ValueError, match="percent-encode") as caught:
        RedisCache.from_url(address)
    said = everything_said_by(caught.value)
    assert not any(part in said for part in (SECRET, "'pa'", "ss/w"))


def test_wrong_options_are_named() -> None:
    """Options that do not exist, or make no sense, are refused when the cache is made."""
    with pytest.raises(TypeError, match="retry_on_timeout"):
        RedisCache(retry_on_timeout=True)
    with pytest.raises(TypeError, match="ssl_ca_certs needs ssl=True"):
        RedisCache(ssl_ca_certs="ca.pem")
    with pytest.raises(ValueError, match="timeout"):
        RedisCache(timeout=0)
    with pytest.raises(ValueError, match="max_connections"):
        RedisCache.from_url("redis://localhost?max_connections=-1")


async def test_tls_with_a_certificate_that_is_trusted(start_redis: StartRedis, tmp_path: Path) -> None:
    """Values and messages pass through TLS, whether the certificate is named or in a context."""
    certificate = make_certificate(tmp_path)
    async with TcpProxy(start_redis().port, certificate.context) as proxy:
        caches = [
            RedisCache(port=proxy.port, ssl=True, ssl_ca_certs=certificate.path),
            RedisCache(port=proxy.port, ssl=ssl.create_default_context(cafile=certificate.path)),
            RedisCache.from_url(f"rediss://localhost:{proxy.port}?ssl_ca_certs={certificate.path}"),
        ]
        for number, cache in enumerate(caches, 1):
            async with cache:
                waiting = asyncio.create_task(cache.get_message("box"))
                await cache.publish_to_mailbox("box", await cache.increment("count"))
                assert await waiting == number


async def test_tls_with_a_certificate_that_is_not_trusted(start_redis: StartRedis, tmp_path: Path) -> None:
    """A wrong certificate does not get better: the error comes at once and says what is the matter."""
    context = make_certificate(tmp_path).context
    async with TcpProxy(start_redis().port, context) as proxy, RedisCache(port=proxy.port, ssl=True) as cache:
        with pytest.raises(CacheUnavailableError, match=f"localhost:{proxy.port} refuses.*certificate"):
            await asyncio.wait_for(cache.get("key"), 5)


# --- what the server refuses, and what it only puts off ---


async def test_a_server_that_is_full_says_so(start_redis: StartRedis) -> None:
    """What cannot be stored is an error with the words of the server, at once; what is there can be read."""
    server = start_redis("--maxmemory-policy", "noeviction")
    async with RedisCache(port=server.port) as cache:
        await cache.publish_to_mailbox("box", 1)
        assert await cache.get_message("box") == 1
        with server.client() as client:
            client.config_set("maxmemory", 1)
        operations: list[Awaitable[Any]] = [
            cache.set("key", 1),
            cache.set_many({"a": 1, "b": 2}, ttl=9),
            cache.increment("count"),
            cache.publish_to_mailbox("box", 1),
            cache.get_message("box", timeout=0),
        ]
        for operation in operations:
            with pytest.raises(CacheUnavailableError, match=f"localhost:{server.port} refuses.*OOM"):
                await asyncio.wait_for(operation, 5)
        assert await cache.get("key", default=None) is None


async def test_a_replica_says_that_it_cannot_write(start_redis: StartRedis) -> None:
    """A server that may only be read from is no reason to wait."""
    server = start_redis("--replicaof", "127.0.0.1", "1")
    async with RedisCache(port=server.port) as cache:
        for operation in (cache.set("key", 1), cache.add("key", 1), cache.get_message("box")):
            with pytest.raises(CacheUnavailableError, match="READONLY"):
                await asyncio.wait_for(operation, 5)
        assert await cache.get("key", default=None) is None


async def test_a_script_that_takes_long_is_waited_for(start_redis: StartRedis) -> None:
    """While the server is busy it says so; operations wait until it is done."""
    server = start_redis("--lua-time-limit", "1")
    with server.client() as client:
        busy = threading.Thread(
            target=client.eval,
            args=("local t = redis.call('TIME')[2] + 0; repeat until math.abs(redis.call('TIME')[2] - t) > 300000", 0),
        )
        async with RedisCache(port=server.port) as cache:
            await cache.set("key", 1)
            busy.start()
            waiting = asyncio.create_task(cache.get_message("box"))
            assert await cache.increment("key") == 2
            await cache.publish_to_mailbox("box", 1)
            assert await waiting == 1
        busy.join()


async def test_a_server_that_loads_its_data_is_waited_for(start_redis: StartRedis) -> None:
    """After a restart the server reads its data first; operations wait until it has."""
    server = start_redis("--key-load-delay", "10000", "--rdbcompression", "no")
    async with RedisCache(port=server.port) as cache:
        await cache.set_many({f"key {number}": "value" * 100_000 for number in range(30)})
        with server.client() as client:
            client.save()
        server.kill()
        server.start(wait=False)
        assert await cache.get("key 29") == "value" * 100_000
        assert await cache.increment("count") == 1
