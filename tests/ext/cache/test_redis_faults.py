"""`RedisCache` when connections are lost, the server dies or hangs, and readers are cancelled."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from miniagents.ext.cache import CacheUnavailableError, RedisCache
from tests.support.redis_server import RedisServer, StartRedis
from tests.support.tcp_proxy import TcpProxy

Operation = Callable[[RedisCache], Awaitable[Any]]


@pytest.fixture(autouse=True, scope="module")
def nothing_left_open() -> Iterator[None]:
    """Connections that were left open warn when they are collected, and warnings are errors."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server that stays alive."""
    server = RedisServer().start()
    yield server
    server.close()


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[TcpProxy]:
    """What loses replies of an empty server."""
    with server.client() as client:
        client.flushall()
    async with TcpProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def cache(proxy: TcpProxy) -> AsyncIterator[RedisCache]:
    async with RedisCache(port=proxy.port) as cache:
        await cache.set_many({"set": 1, "gone": 1})
        await cache.publish_to_mailbox("full", "first")
        await cache.publish_to_mailbox("full", "second")
        yield cache


@pytest.fixture
async def other(server: RedisServer) -> AsyncIterator[RedisCache]:
    """What another process sees."""
    async with RedisCache(port=server.port) as other:
        yield other


async def messages_in(cache: RedisCache, mailbox: str) -> list[Any]:
    """What is in a mailbox; it is empty then."""
    messages = []
    while (message := await cache.get_message(mailbox, timeout=0)) is not None:
        messages.append(message)
    return messages


# --- replies that are lost ---

LOST: dict[str, tuple[bytes, Operation, Any]] = {
    "get": (b"GET", lambda cache: cache.get("set"), 1),
    "set": (b"SET", lambda cache: cache.set("new", 2), None),
    "get_many": (b"MGET", lambda cache: cache.get_many(["set", "unset"]), {"set": 1}),
    "set_many": (b"MSET", lambda cache: cache.set_many({"a": 1, "b": 2}), None),
    "set_many with ttl": (b"SET", lambda cache: cache.set_many({"a": 1, "b": 2}, ttl=9), None),
    "delete_many": (b"UNLINK", lambda cache: cache.delete_many(["gone"]), 0),  # they are, but not by the second time
    "keys": (b"SCAN", lambda cache: cache.keys(), ["miniagents:gone", "miniagents:set"]),
    "add": (b"EVALSHA", lambda cache: cache.add("new", 2), True),
    "add in vain": (b"EVALSHA", lambda cache: cache.add("set", 2), False),
    "increment": (b"EVALSHA", lambda cache: cache.increment("set", 5), 6),
    "compare_and_set": (b"EVALSHA", lambda cache: cache.compare_and_set("set", 1, 2), True),
    "update": (b"EVALSHA", lambda cache: cache.update("set", lambda value: value + 1), 2),
    "publish": (b"EVALSHA", lambda cache: cache.publish_to_mailbox("new", "message"), None),
    "peek": (b"LINDEX", lambda cache: cache.peek_mailbox("full"), "first"),
    "length": (b"LLEN", lambda cache: cache.mailbox_length("full"), 2),
    "look": (b"LMOVE", lambda cache: cache.get_message("full", timeout=0), "first"),
    "wait": (b"BLMOVE", lambda cache: cache.get_message("full"), "first"),
}
LATER = {
    "set": {"new": 2},
    "set_many": {"a": 1, "b": 2},
    "set_many with ttl": {"a": 1, "b": 2},
    "add": {"new": 2},
    "increment": {"set": 6},
    "compare_and_set": {"set": 2},
    "update": {"set": 2},
}


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("name", LOST)
async def test_an_operation_whose_reply_is_lost_is_done_once(
    cache: RedisCache, proxy: TcpProxy, name: str, times: int
) -> None:
    """The server has done it, the connection is cut: the result is the right one, and nothing is done twice."""
    words, operation, expected = LOST[name]
    values: dict[str, Any] = {"set": 1, "gone": 1}
    proxy.lose_replies_to(words, times)
    assert await operation(cache) == expected
    assert proxy.lost == (1 if words.endswith(b"MOVE") else times)  # then it is asked what was moved
    values |= LATER.get(name, {})
    if name == "delete_many":
        del values["gone"]
    assert await cache.get_many(["set", "gone", "new", "a", "b"]) == values
    assert await messages_in(cache, "full") == (["second"] if words.endswith(b"MOVE") else ["first", "second"])
    assert await messages_in(cache, "new") == (["message"] if name == "publish" else [])


async def test_a_message_arrives_though_the_answers_to_all_questions_for_it_are_lost(
    cache: RedisCache, proxy: TcpProxy
) -> None:
    """What was moved is asked for until the answer comes, and delivered once."""
    assert await cache.get_message("empty", timeout=0) is None  # there is a reader now, of which nothing is under way
    proxy.lose_replies_to(b"~miniagents/hand", times=6)  # to the wait, and to the questions
    assert await cache.get_message("full") == "first"
    assert proxy.lost == 6
    assert await messages_in(cache, "full") == ["second"]


async def test_an_acknowledgement_that_is_lost_delivers_nothing_twice(cache: RedisCache, proxy: TcpProxy) -> None:
    """A message that has arrived stays where it is, also if the server never learns that it has."""
    proxy.lose_replies_to(b"LTRIM")
    assert await cache.get_message("full") == "first"
    assert await cache.get_message("full") == "second"
    assert proxy.lost == 1
    assert await cache.get_message("full", timeout=0.01) is None


async def test_a_message_arrives_while_the_connection_is_lost(
    cache: RedisCache, proxy: TcpProxy, server: RedisServer
) -> None:
    """A reader that waits, and whose connection is cut, goes on waiting and misses nothing."""
    reading = asyncio.create_task(cache.get_message("box"))
    await until_readers_wait(server, 1)
    proxy.cut()
    await cache.publish_to_mailbox("box", "message")
    assert await reading == "message"


async def test_a_look_through_a_connection_that_was_lost_unnoticed_sees_what_is_there(
    cache: RedisCache, proxy: TcpProxy
) -> None:
    """That nothing was moved does not mean that there is nothing: the mailbox is looked into again."""
    for timeout in (0, 0.001, 1):
        await cache.publish_to_mailbox("box", timeout)
        assert await cache.get_message("full", timeout=0) is not None
        proxy.cut()
        assert await cache.get_message("box", timeout) == timeout
        await cache.publish_to_mailbox("full", "more")


async def test_many_connections_that_were_lost_unnoticed_are_not_tried_one_by_one(
    cache: RedisCache, other: RedisCache, proxy: TcpProxy
) -> None:
    """There were many readers, and the server has been away: the next one needs no time for that."""
    readers = [asyncio.create_task(cache.get_message("box")) for _ in range(32)]
    for number in range(32):
        await other.publish_to_mailbox("box", number)
    await asyncio.gather(*readers)
    proxy.cut()
    async with asyncio.timeout(2):  # with pauses it would be ten seconds
        assert await cache.get_message("box", timeout=0) is None


async def test_a_connection_that_is_lost_again_and_again_is_given_up(cache: RedisCache, proxy: TcpProxy) -> None:
    """Also where all other connections work, so that it is known each time that nothing was moved."""
    async with RedisCache(port=proxy.port, timeout=0.3) as impatient:
        proxy.lose_replies_to(b"LMOVE", times=1_000_000)
        with pytest.raises(CacheUnavailableError, match=f"localhost:{proxy.port} loses every connection"):
            await asyncio.wait_for(impatient.get_message("box", timeout=0), 5)
        assert proxy.lost < 20  # with pauses in between


async def test_a_server_that_was_emptied_repeats_nothing(
    cache: RedisCache, proxy: TcpProxy, server: RedisServer
) -> None:
    """Somebody removes all keys, those of readers too: what is published afterwards arrives once."""
    assert await cache.get_message("full") == "first"
    with server.client() as client:
        client.flushall()
    await cache.publish_to_mailbox("box", "message")
    assert await cache.get_message("box") == "message"
    assert await cache.mailbox_length("box") == 0
    proxy.cut()
    assert await cache.get_message("box", timeout=0) is None


async def test_a_dead_connection_is_not_waited_for_until_the_end(proxy: TcpProxy) -> None:
    """A connection on which nothing arrives any more is given up while there is time for another one."""
    async with RedisCache(port=proxy.port, timeout=0.8) as cache:
        await cache.set("key", 1)
        await cache.publish_to_mailbox("box", 1)
        assert await cache.get_message("box") == 1
        proxy.hold()
        assert await cache.get("key") == 1
        proxy.hold()
        reading = asyncio.create_task(cache.get_message("box"))
        await cache.publish_to_mailbox("box", 2)
        assert await reading == 2


async def test_what_arrives_late_is_not_done_a_second_time(proxy: TcpProxy) -> None:
    """A command that was held up on its way comes when it was repeated and others have followed: nothing happens."""
    async with RedisCache(port=proxy.port, timeout=0.8, max_connections=1) as cache:
        await cache.contains("it connects")
        for count in (1, 3):
            proxy.hold()
            assert await cache.increment("count") == count
            assert await cache.increment("count") == count + 1
            await proxy.release()
        assert await cache.get("count") == 4


async def test_a_wait_that_arrives_late_takes_nothing(proxy: TcpProxy, other: RedisCache) -> None:
    """A reader has gone on, or left, when the server learns that it waits: the message stays where it is."""
    async with RedisCache(port=proxy.port, timeout=0.8) as cache:
        for cancelled in (False, True):
            await other.publish_to_mailbox("warm up", 1)
            assert await cache.get_message("warm up") == 1
            proxy.hold()
            reading = asyncio.create_task(cache.get_message("box", timeout=0.01))
            if cancelled:
                await asyncio.sleep(0.001)
                reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled() if cancelled else reading.result() is None
            await other.publish_to_mailbox("box", "message")
            await proxy.release()
            assert await messages_in(other, "box") == ["message"]


async def until_readers_wait(server: RedisServer, number: int) -> None:
    with server.client() as client:
        while client.info("clients")["blocked_clients"] != number:
            await asyncio.sleep(0.005)


# --- readers that are cancelled ---


@pytest.mark.parametrize("full", [True, False])
async def test_a_reader_that_is_cancelled_at_any_moment_loses_nothing(
    cache: RedisCache, other: RedisCache, full: bool
) -> None:
    """After however many turns of the event loop: the message is here, or in its place at the head of the mailbox."""
    for turns in range(120):
        sending = asyncio.create_task(send(cache, f"first {turns}", f"second {turns}"))
        if full:
            await sending
        reading = asyncio.create_task(cache.get_message("box"))
        for _ in range(turns % 40):
            await asyncio.sleep(0 if turns < 80 else 0.0001)
        reading.cancel()
        await asyncio.wait([sending, reading])
        got = [] if reading.cancelled() else [reading.result()]
        assert got + await messages_in(other, "box") == [f"first {turns}", f"second {turns}"]


async def send(cache: RedisCache, *messages: str) -> None:
    for message in messages:
        await cache.publish_to_mailbox("box", message)


async def test_readers_that_are_cancelled_again_while_they_give_back_lose_nothing(
    cache: RedisCache, other: RedisCache
) -> None:
    """Whoever is impatient with a reader that is being cancelled does not keep it from giving back."""
    for turns in range(40):
        await cache.publish_to_mailbox("box", turns)
        reading = asyncio.create_task(cache.get_message("box"))
        for turn in range(turns + 20):
            if turn >= turns:
                reading.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([reading])
        got = [] if reading.cancelled() else [reading.result()]
        assert got + await messages_in(other, "box") == [turns]


async def test_a_time_out_that_races_a_message_loses_nothing(cache: RedisCache) -> None:
    """A message that arrives when the time is over is returned, or stays."""
    for number in range(60):
        reading = asyncio.create_task(cache.get_message("box", timeout=0.004))
        await asyncio.sleep(0.0025 + number % 30 / 10_000)
        await cache.publish_to_mailbox("box", number)
        message = await reading
        assert [message or number, *await messages_in(cache, "box")] in ([number], [number, number])
        assert await cache.mailbox_length("box") == 0


@pytest.mark.parametrize("first", ["contains", "look", "wait"])
async def test_what_a_cancelled_reader_cannot_give_back_now_it_gives_back_later(
    proxy: TcpProxy, other: RedisCache, server: RedisServer, first: str
) -> None:
    """The server is out of reach when the reader is cancelled: the message is back with the first operation."""
    async with RedisCache(port=proxy.port, timeout=0.8) as cache:
        proxy.lose_replies_to(b"BLMOVE")
        reading = asyncio.create_task(cache.get_message("box"))
        await until_readers_wait(server, 1)
        proxy.refuses = True
        await other.publish_to_mailbox("box", "message")
        while not proxy.lost:
            await asyncio.sleep(0.001)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
        assert await other.mailbox_length("box") == 0
        proxy.refuses = False
        if first == "contains":
            assert not await cache.contains("key")
            assert await messages_in(other, "box") == ["message"]
        else:
            assert await cache.get_message("box", timeout=0 if first == "look" else 5) == "message"


async def lose_a_message(cache: RedisCache, proxy: TcpProxy, other: RedisCache, server: RedisServer) -> None:
    """Has a message moved to a reader that never learns of it, and cannot ask either."""
    proxy.lose_replies_to(b"BLMOVE")
    reading = asyncio.create_task(cache.get_message("box"))
    await until_readers_wait(server, 1)
    proxy.refuses = True
    await other.publish_to_mailbox("box", "message")
    with pytest.raises(CacheUnavailableError):
        await reading
    proxy.refuses = False


async def test_what_a_reader_could_not_get_in_time_is_got_by_the_next_one(
    proxy: TcpProxy, other: RedisCache, server: RedisServer
) -> None:
    """A reader that gives up, as the server is away, has not taken what was moved to it."""
    async with RedisCache(port=proxy.port, timeout=0.8) as cache:
        await lose_a_message(cache, proxy, other, server)
        assert await cache.get_message("box", timeout=0) == "message"


async def test_what_is_still_to_be_given_back_is_given_back_by_close(
    proxy: TcpProxy, other: RedisCache, server: RedisServer
) -> None:
    """A cache that is closed leaves nothing in the hands of its readers."""
    async with RedisCache(port=proxy.port, timeout=0.8) as cache:
        await lose_a_message(cache, proxy, other, server)
    assert await messages_in(other, "box") == ["message"]


async def test_what_cannot_be_given_back_holds_up_nobody(
    proxy: TcpProxy, other: RedisCache, server: RedisServer
) -> None:
    """A server that refuses to take something back answers all the same, and takes it back when it can."""
    async with RedisCache(port=proxy.port, timeout=0.8) as cache:
        await lose_a_message(cache, proxy, other, server)
        with server.client() as client:
            client.config_set("maxmemory", 1)
            try:
                assert not await cache.contains("key")
                assert await other.mailbox_length("box") == 0
            finally:
                client.config_set("maxmemory", 0)
        assert not await cache.contains("key")
        assert await messages_in(other, "box") == ["message"]


async def test_cancelling_does_not_wait_for_others(start_redis: StartRedis) -> None:
    """While a server hangs all lines may be taken: a reader that is cancelled does not queue for one until the end."""
    server = start_redis()
    async with RedisCache(port=server.port, timeout=2, max_connections=2) as cache:
        reading = asyncio.create_task(cache.get_message("box"))
        await until_readers_wait(server, 1)
        server.pause()
        asking = [asyncio.create_task(cache.contains("key")) for _ in range(4)]
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading], timeout=1.5)
        assert reading.cancelled()
        server.resume()
        assert await asyncio.gather(*asking) == [False] * 4


async def test_closing_reaches_readers_at_any_moment(proxy: TcpProxy) -> None:
    """Wherever a reader is when the cache is closed, it does not wait any more; what it has got is not lost."""
    for turns in range(60):
        cache = RedisCache(port=proxy.port)
        if turns % 3 == 0:
            await cache.publish_to_mailbox("box", turns)
        if turns % 2 == 0:  # there is a reader that was used before
            await cache.publish_to_mailbox("other", turns)
            await cache.get_message("other")
        reading = asyncio.create_task(cache.get_message("box"))
        for _ in range(turns // 2):
            await asyncio.sleep(0)
        await cache.close()
        got = await asyncio.wait_for(reading, 1)
        left = await messages_in(cache, "box")
        assert [*([] if got is None else [got]), *left] == ([turns] if turns % 3 == 0 else [])


# --- a server that dies, and one that hangs ---


async def waiting_for(cache: RedisCache, operations: dict[str, Operation]) -> dict[str, Any]:
    """What operations at the same time end with, and how long they took."""
    loop = asyncio.get_running_loop()

    async def end(operation: Operation) -> tuple[Any, float]:
        start = loop.time()
        try:
            return await operation(cache), loop.time() - start
        except CacheUnavailableError as error:
            return error, loop.time() - start

    ends = await asyncio.gather(*map(end, operations.values()))
    return dict(zip(operations, ends, strict=True))


ALL: dict[str, Operation] = {
    "get": lambda cache: cache.get("key"),
    "set": lambda cache: cache.set("key", 1),
    "get_many": lambda cache: cache.get_many(["key"]),
    "keys": lambda cache: cache.keys(),
    "clear": lambda cache: cache.clear(),
    "add": lambda cache: cache.add("key", 1),
    "increment": lambda cache: cache.increment("key"),
    "publish": lambda cache: cache.publish_to_mailbox("box", 1),
    "look": lambda cache: cache.get_message("box", timeout=0),
    "wait": lambda cache: cache.get_message("box"),
    "wait a little": lambda cache: cache.get_message("box", timeout=0.1),
}


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("fault", ["hangs", "dead"])
async def test_every_operation_ends_in_time_without_the_server(
    start_redis: StartRedis, fault: str, connected: bool
) -> None:
    """When the server hangs, or is gone, each operation ends soon after the time-out, with an error that names it."""
    server = start_redis()
    async with RedisCache(port=server.port, timeout=0.6, max_connections=4) as cache:
        if connected:
            await asyncio.gather(*(cache.set("key", 1) for _ in range(8)))
            await cache.get_message("box", timeout=0.001)
        server.pause() if fault == "hangs" else server.kill()
        ends = await waiting_for(cache, ALL | {f"{name} {n}": ALL[name] for name in ("get", "look") for n in range(20)})
        for name, (error, took) in ends.items():
            assert isinstance(error, CacheUnavailableError), name
            assert f"localhost:{server.port}" in str(error)
            assert took < 1.4, name  # a wait that the server does not end is noticed after half of the time-out
        if fault == "hangs":
            server.resume()
        else:
            server.start()
        await cache.set("key", 1)
        assert await cache.get("key") == 1


async def test_a_server_that_is_none() -> None:
    """Something that speaks another protocol is not waited for; something that says nothing at all is, in vain."""

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    for behaviour, expected in ((shout, "refuses.*HTTP"), (be_silent, "within 0.3 s.*no answer")):
        async with await asyncio.start_server(behaviour, "localhost", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with RedisCache(port=port, timeout=0.3, password="secret") as cache:
                with pytest.raises(CacheUnavailableError, match=f"localhost:{port} .*{expected}"):
                    await asyncio.wait_for(cache.get("key"), 5)
                with pytest.raises(CacheUnavailableError, match=f"localhost:{port} .*{expected}"):
                    await asyncio.wait_for(cache.get_message("box"), 5)


@pytest.mark.parametrize("durable", [True, False])
async def test_readers_go_on_after_a_restart(start_redis: StartRedis, durable: bool) -> None:
    """Readers that wait for ever survive that the server is killed and comes back."""
    server = start_redis(durable=durable)
    async with RedisCache(port=server.port) as cache:
        readers = [asyncio.create_task(cache.get_message("box")) for _ in range(20)]
        await until_readers_wait(server, 20)
        server.kill()
        await asyncio.sleep(0.05)
        await asyncio.to_thread(server.start)
        for number in range(20):
            await cache.publish_to_mailbox("box", number)
        assert sorted(await asyncio.gather(*readers)) == list(range(20))


async def test_keys_are_found_though_the_server_counts_otherwise_after_a_restart(start_redis: StartRedis) -> None:
    """A server that is killed in the middle of a scan, and whose keys are in another order then, leaves none out."""
    server = start_redis(durable=True)
    async with RedisCache(port=server.port) as cache:
        keys = {f"key {number}" for number in range(3000)}
        await cache.set_many(dict.fromkeys(keys, 1))
        found: set[str] = set()
        async for batch in cache._scan(cache.namespace):
            if not found:
                server.kill()
                await asyncio.to_thread(server.start)
            found.update(batch)
        assert found == {cache.namespace.whole_key(key) for key in keys}


@pytest.mark.parametrize("durable", [True, False])
async def test_the_server_is_killed_in_the_middle_of_a_thousand_operations(
    start_redis: StartRedis, durable: bool
) -> None:
    """No value is wrong, each operation ends with a value or as unavailable; nothing is counted or sent twice."""
    server = start_redis(durable=durable)
    failed: list[int] = []
    counted: list[int] = []
    sent: set[int] = set()
    received: list[int] = []
    wrong: list[Any] = []
    enough = asyncio.Event()

    async def act(cache: RedisCache, number: int) -> None:
        if number % 5 == 0:
            counted.append(await cache.increment("count"))
        elif number % 5 == 1:
            await cache.set(f"key {number}", number)
            found = await cache.get(f"key {number}", default=None)
            if found != number and (durable or found is not None):
                wrong.append((number, found))
        elif number % 5 == 2:
            await cache.publish_to_mailbox("box", number)
            sent.add(number)
        elif number % 5 == 3:
            message = await cache.get_message("box", timeout=0.5)
            received.extend([] if message is None else [message])
        elif not await cache.add(f"lock {number}", number):
            wrong.append((number, "somebody else has it"))

    async def finish(cache: RedisCache, number: int) -> None:
        try:
            await act(cache, number)
        except CacheUnavailableError:
            failed.append(number)
        finished.append(number)
        if len(finished) == 250:
            enough.set()

    finished: list[int] = []
    async with RedisCache(port=server.port) as cache:
        finishing = [asyncio.create_task(finish(cache, number)) for number in range(1000)]
        await enough.wait()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await asyncio.gather(*finishing)
        received += await messages_in(cache, "box")
        total = await cache.get("count", default=0)
    assert not wrong
    assert len(failed) < 500  # and none at all where the server is back in time
    assert set(received) <= sent | set(failed)
    if durable:  # else the server has forgotten what it had done, and does it again
        assert Counter(received) == Counter(set(received))
        assert sent <= set(received)
        assert len(counted) == len(set(counted))
        assert len(counted) <= total <= len(counted) + sum(number % 5 == 0 for number in failed)
