"""The history in a cache: its keys, its many writers, and servers and writers that die."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from miniagents import Message
from miniagents.ext.cache import CacheUnavailableError, MemoryCache, RedisCache
from miniagents.ext.chat_history_redis import ChatHistoryRedis
from miniagents.ext.values import UnreadableValueError
from miniagents.messages import MessagePromise
from miniagents.testing import quiescence
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[2]

StartRedis = Callable[..., RedisServer]


async def record(history: ChatHistoryRedis, *texts: str) -> None:
    for text in texts:
        await history.record(MessagePromise.of(Message(text)))


async def texts(history: ChatHistoryRedis) -> list[str]:
    return [str(message) for message in await history.aload_chat_history()]


class WatchedCache(MemoryCache):
    """Counts what would be a round trip each, and lets tests do something before one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.before_add: Callable[[str], Any] | None = None

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        self.operations.append("get")
        return await super().get(*args, **kwargs)

    async def get_many(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.operations.append("get_many")
        return await super().get_many(*args, **kwargs)

    async def _increment(self, key: str, by: int) -> int:
        self.operations.append("increment")
        return await super()._increment(key, by)

    async def _add(self, key: str, data: bytes, ttl: float | None) -> bool:
        self.operations.append("add")
        if self.before_add is not None:
            await self.before_add(key)
        return await super()._add(key, data, ttl)


# --- keys ---


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_histories_are_kept_apart(kind: str, redis_cache: RedisCache) -> None:
    """Each name is a history of its own, whatever characters it is made of."""
    cache = MemoryCache() if kind == "memory" else redis_cache
    names = [
        "a",
        "A",
        "",
        "/",
        "a/1",
        "a/length",
        "a/length/1",
        "1",
        "a:b",
        "a::b",
        "::",
        "a%",
        "%25",
        "é 😀\n\x00",
        "*",
    ]
    for name in names:
        await record(ChatHistoryRedis(cache, name), f"1 of {name}", f"2 of {name}")
    for name in names:
        assert await texts(ChatHistoryRedis(cache, name)) == [f"1 of {name}", f"2 of {name}"]


async def test_a_history_belongs_to_the_namespace(redis_cache: RedisCache) -> None:
    """The same name is another history under another prefix or suffix, and goes with its namespace."""
    history = ChatHistoryRedis(redis_cache, "chat")
    await record(history, "outside")
    async with redis_cache.with_suffix("other"):
        assert await texts(history) == []
        await record(history, "inside")
        assert await texts(history) == ["inside"]
        await redis_cache.clear()
        assert await texts(history) == []
    assert await texts(history) == ["outside"]


async def test_its_keys_begin_with_what_is_reserved() -> None:
    """What a user stores under the name of a history, or anything else, has nothing to do with it."""
    async with MemoryCache(default_prefix="app") as cache:
        history = ChatHistoryRedis(cache, "chat")
        await record(history, "one")
        for key in ("chat", "chat/1", "chat/length", "length"):
            await cache.set(key, "mine")
        assert await texts(history) == ["one"]
        assert [key for key in await cache.keys() if "~" in key] == [
            "app:~miniagents/chat_history/chat/1",
            "app:~miniagents/chat_history/chat/length",
        ]


async def test_names_that_make_no_sense() -> None:
    """A name that is no string is refused at once: it would be one with the string of it."""
    with pytest.raises(TypeError, match="the name of a chat history is 5; give a string"):
        ChatHistoryRedis(MemoryCache(), 5)  # type: ignore[arg-type]


async def test_the_cache_stays_open(redis_cache: RedisCache) -> None:
    """Closing a history leaves the cache to those who use it for other things."""
    history = ChatHistoryRedis(redis_cache, "chat")
    history.close()
    await redis_cache.set("key", 1)
    assert await texts(history) == []


# --- round trips ---


async def test_round_trips() -> None:
    """An addition takes two, however many others write; a load takes two for a thousand messages."""
    cache = WatchedCache()
    history = ChatHistoryRedis(cache, "chat")
    await record(history, "one")
    assert cache.operations == ["increment", "add"]
    await asyncio.gather(*(record(ChatHistoryRedis(cache, "chat"), f"{number}") for number in range(1500)))
    assert cache.operations.count("add") == 1501
    cache.operations.clear()
    loaded = await texts(history)
    assert cache.operations == ["get", "get_many", "get_many"]
    assert sorted(loaded) == sorted(["one", *(f"{number}" for number in range(1500))])


# --- writers that are late, or never come ---


async def test_the_gap_of_a_writer_that_died() -> None:
    """A position that was taken and never filled is left out, and costs nothing any more after the first load."""
    cache = WatchedCache()
    history = ChatHistoryRedis(cache, "chat")
    await record(history, "one")
    await cache.increment("~miniagents/chat_history/chat/length")  # what a writer does first
    await record(history, "two")
    assert await texts(history) == ["one", "two"]
    cache.operations.clear()
    assert await texts(history) == ["one", "two"]
    assert cache.operations == ["get", "get_many"]


async def test_a_late_writer_comes_behind_what_has_been_loaded() -> None:
    """A message that was on its way during a load is found behind those that were loaded."""
    cache = WatchedCache()
    history = ChatHistoryRedis(cache, "chat")
    may_go_on = asyncio.Event()

    async def wait(key: str) -> None:
        cache.before_add = None
        await may_go_on.wait()

    cache.before_add = wait
    late = asyncio.ensure_future(record(history, "late"))
    await quiescence()
    await record(history, "early")
    assert await texts(history) == ["early"]
    may_go_on.set()
    await late
    assert await texts(history) == ["early", "late"]


async def test_a_writer_that_comes_while_its_position_is_given_up() -> None:
    """A load that wants to give up a position, and finds the message there by then, has it."""
    cache = WatchedCache()
    history = ChatHistoryRedis(cache, "chat")
    may_go_on = asyncio.Event()
    loads = []

    async def let_the_writer_go_first(key: str) -> None:
        cache.before_add = None
        may_go_on.set()
        await writing

    async def load_meanwhile(key: str) -> None:
        cache.before_add = let_the_writer_go_first
        loads.append(asyncio.ensure_future(texts(history)))
        await may_go_on.wait()

    cache.before_add = load_meanwhile
    writing = asyncio.ensure_future(record(history, "one"))
    await writing
    assert await loads[0] == ["one"]


async def test_a_writer_that_is_always_late() -> None:
    """Whoever is slower than all loads comes to write all the same, and in a few attempts."""
    cache = WatchedCache()
    history = ChatHistoryRedis(cache, "chat")

    async def load_before(key: str) -> None:
        cache.before_add = None
        await texts(history)
        cache.before_add = load_before

    cache.before_add = load_before
    await record(history, "one", "two", "three")
    cache.before_add = None
    assert await texts(history) == ["one", "two", "three"]
    assert cache.operations.count("add") < 20


async def test_a_cache_that_does_not_know_what_it_has_done() -> None:
    """If a cache says of its own addition that there was something, the message is there once."""

    class ForgetfulCache(MemoryCache):
        async def _add(self, key: str, data: bytes, ttl: float | None) -> bool:
            await super()._add(key, data, ttl)
            return False

    history = ChatHistoryRedis(ForgetfulCache(), "chat")
    await record(history, "one", "one", "two")
    assert await texts(history) == ["one", "one", "two"]


async def test_a_lost_counter_loses_no_message() -> None:
    """If a cache has dropped the counter, no message is written over: they are found again with the next ones."""
    cache = MemoryCache()
    history = ChatHistoryRedis(cache, "chat")
    await record(history, "one", "two", "three")
    await cache.delete("~miniagents/chat_history/chat/length")
    await record(history, "four")
    assert await texts(history) == ["one", "two", "three", "four"]


async def test_a_class_that_is_not_known() -> None:
    """A message of an unknown class is an error that says in which history it is."""
    cache = MemoryCache()
    history = ChatHistoryRedis(cache, "a b")
    await record(history, "one")
    key = "~miniagents/chat_history/a b/1"
    stored = await cache.get_bytes(key)
    await cache.set_bytes(key, stored.replace(b"Message", b"Unknown"))
    with pytest.raises(UnreadableValueError, match="Unknown") as raised:
        await texts(history)
    assert raised.value.__notes__ == ["in the chat history 'a b'"]


# --- servers and processes that die ---


async def test_a_server_that_is_away(start_redis: StartRedis) -> None:
    """Without the server recording and loading fail, in time and with its name."""
    server = start_redis()
    async with RedisCache(port=server.port, timeout=0.3) as cache:
        history = ChatHistoryRedis(cache, "chat")
        await record(history, "one")
        server.kill()
        for use in (record(history, "two"), texts(history)):
            with pytest.raises(CacheUnavailableError, match=f":{server.port}"):
                await use


async def test_a_server_that_is_killed_while_many_write(start_redis: StartRedis) -> None:
    """Over deaths of the server all that is confirmed is there once, and in the order of each writer."""
    server = start_redis(durable=True)
    writers, count = 8, 40
    async with RedisCache(port=server.port) as cache:
        history = ChatHistoryRedis(cache, "chat")
        confirmed = 0

        async def write(writer: int) -> None:
            nonlocal confirmed
            for number in range(count):
                await record(history, f"{writer} {number}")
                confirmed += 1
                if confirmed % 80 == 0:
                    server.kill()  # while the others are at it
                    await asyncio.to_thread(server.start)

        await asyncio.gather(*map(write, range(writers)))
        loaded = await texts(history)
    for writer in range(writers):
        assert [text for text in loaded if text.startswith(f"{writer} ")] == [f"{writer} {n}" for n in range(count)]
    assert len(loaded) == writers * count


WRITERS = """
import asyncio, os, sys
from miniagents import Message
from miniagents.ext.cache import RedisCache
from miniagents.ext.history_agents import ChatHistoryRedis

async def write(writer):
    async with RedisCache.from_url(sys.argv[1], default_prefix=sys.argv[2]) as cache:
        history = ChatHistoryRedis(cache, "chat")
        for number in range(10**9):
            await history._append(Message(f"{number} " * (number % 50 * 40), writer=writer, number=number))
            os.write(1, f"{writer} {number}\\n".encode())

for writer in range(int(sys.argv[3])):
    if os.fork() == 0:
        os.write(1, f"{writer} pid {os.getpid()}\\n".encode())
        asyncio.run(write(writer))
for _ in range(int(sys.argv[3])):
    os.wait()
"""


def numbers_of(writer: int, messages: Sequence[Any]) -> list[int]:
    return [message.number for message in messages if message.writer == writer]


async def test_processes_that_are_killed_while_they_write(redis_url: str, redis_prefix: str) -> None:
    """Of processes that are killed at any moment all that was confirmed is there, whole, at every load from then on."""
    count = 8
    writers = subprocess.Popen(
        [sys.executable, "-c", WRITERS, redis_url, redis_prefix, str(count)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writers.stdout is not None
    processes, confirmed = {}, dict.fromkeys(range(count), -1)
    async with RedisCache.from_url(redis_url, default_prefix=redis_prefix) as cache:
        history = ChatHistoryRedis(cache, "chat")
        before: tuple[Message, ...] = ()
        for line in writers.stdout:
            writer, _, said = line.partition(" ")
            if said.startswith("pid"):
                processes[int(writer)] = int(said.split()[1])
                continue
            confirmed[int(writer)] = int(said)
            if int(said) == 10 + 7 * int(writer):
                os.kill(processes[int(writer)], signal.SIGKILL)
                loaded = await history.aload_chat_history()
                assert loaded[: len(before)] == before
                assert all(max(numbers_of(writer, loaded), default=-1) >= last for writer, last in confirmed.items())
                before = loaded
        loaded = await history.aload_chat_history()
    assert writers.wait() == 0
    writers.stdout.close()
    for number, last in confirmed.items():
        assert last >= 10
        assert numbers_of(number, loaded) in ([*range(last + 1)], [*range(last + 2)])
    assert all(str(message) == f"{n} " * (n % 50 * 40) for message in loaded for n in [message.number])  # type: ignore[attr-defined]
