"""`MemoryCache`: what every cache does, and what only one in memory can."""

import asyncio
import gc
import random
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import PrivateAttr

from miniagents import Frozen, Message
from miniagents.ext.cache import MemoryCache
from miniagents.testing import CacheConformance, quiescence, run_with_virtual_clock


class TestMemoryCache(CacheConformance):
    @pytest.fixture
    async def cache(self) -> AsyncIterator[MemoryCache]:
        async with MemoryCache() as cache:
            yield cache


class Noted(Frozen):
    _notes: list[int] = PrivateAttr(default_factory=list)


# --- what is kept, and for how long ---


async def test_what_cannot_be_changed_is_given_back_as_it_is() -> None:
    """Strings, messages and the like are neither copied nor written; what can be changed is."""
    cache = MemoryCache()
    text, message, pair, items, noted = "x" * 100, Message("Hi", seen=[1]), (1, "a" * 100), ([],), Noted()
    await cache.set_many({"text": text, "items": items})
    for key, value in {"text": text, "message": message, "pair": pair, "items": items, "noted": noted}.items():
        await cache.set(key, value)
    assert await cache.get("text") is text
    assert await cache.get("message") is message
    assert await cache.get("pair") is pair
    for key in ("items", "noted"):
        assert await cache.get(key) is not await cache.get(key)
    await cache.add("added", message)
    assert await cache.get("added") is await cache.get("added") is not message
    await cache.update("message", lambda value: value.model_copy(update={"text": "Ho"}))
    assert await cache.get("message") is await cache.get("message")


@pytest.mark.parametrize("max_entries", [1, 2, 5])
def test_the_least_recently_used_goes(max_entries: int) -> None:
    """Whatever is done to it, the cache holds what was used last, and no more."""

    @settings(max_examples=150)
    @given(
        st.lists(
            st.tuples(st.sampled_from(["set", "get", "get", "increment", "delete", "many", "add"]), st.integers(0, 5)),
            max_size=40,
        )
    )
    def check(steps: list[tuple[str, int]]) -> None:
        async def main() -> None:
            cache = MemoryCache(max_entries=max_entries)
            model: OrderedDict[str, int] = OrderedDict()
            for step, number in steps:
                key = f"k{number}"
                if step == "set":
                    await cache.set(key, number)
                    model[key] = number
                elif step in ("get", "many"):
                    found = (await cache.get(key, None)) if step == "get" else (await cache.get_many([key])).get(key)
                    assert found == model.get(key)
                elif step == "increment":
                    model[key] = model.get(key, 0) + 1
                    assert await cache.increment(key) == model[key]
                elif step == "add":
                    assert await cache.add(key, number) is (key not in model)
                    model.setdefault(key, number)
                else:
                    assert await cache.delete(key) is (key in model)
                    model.pop(key, None)
                if key in model:
                    model.move_to_end(key)
                if len(model) > max_entries:
                    model.popitem(last=False)
            assert await cache.get_all() == {f"miniagents:{key}": value for key, value in model.items()}

        asyncio.run(main())

    check()


KEYS = st.sampled_from(["a", "b", "x:a"])
STEPS = st.tuples(
    st.sampled_from(["set", "set", "raw", "get", "get", "get", "many", "delete", "clear", "ttl", "wait", "update"]),
    st.sampled_from(["", "x", "y"]),
    KEYS,
    st.sampled_from(["text", 1, [1], Message("m"), None]),
)


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=40))
def test_no_read_is_stale(steps: list[tuple[str, str, str, Any]]) -> None:
    """What is read is what was set last, in whatever namespace, and however often it was read before."""

    async def main() -> None:
        cache = MemoryCache()
        model: dict[str, tuple[Any, float]] = {}
        clock = asyncio.get_running_loop().time
        for step, prefix, key, value in steps:
            whole = f"{prefix or 'miniagents'}:{key}"
            async with AsyncExitStack() as stack:
                if prefix:
                    await stack.enter_async_context(cache.with_prefix(prefix))
                model = {key: entry for key, entry in model.items() if entry[1] > clock()}
                if step == "set":
                    await cache.set(key, value)
                    model[whole] = value, float("inf")
                elif step == "ttl":
                    await cache.set(key, value, ttl=10)
                    model[whole] = value, clock() + 10
                elif step == "raw":
                    await cache.set(key, value, raw=True)
                    model[key] = value, float("inf")
                elif step == "wait":
                    await asyncio.sleep(4)
                elif step == "delete":
                    assert await cache.delete(key) is (model.pop(whole, None) is not None)
                elif step == "clear":
                    await cache.clear()
                    model = {
                        key: entry for key, entry in model.items() if not key.startswith(f"{prefix or 'miniagents'}:")
                    }
                elif step == "update" and whole in model:
                    await cache.update(key, lambda _, value=value: value)
                    model[whole] = value, float("inf")
                elif step == "many":
                    expected = {key: model[whole][0]} if whole in model else {}
                    assert await cache.get_many([key]) == expected
                assert await cache.get(key, "missing") == model.get(whole, ("missing",))[0]
                assert await cache.get(key, "missing", raw=True) == model.get(key, ("missing",))[0]

    run_with_virtual_clock(main())


async def test_a_read_is_a_use() -> None:
    """Each read counts, not only the first one."""
    cache = MemoryCache(max_entries=2)
    await cache.set("a", "x")
    await cache.get("a")
    await cache.set("b", "x")
    await cache.get("a")
    await cache.set("c", "x")
    assert await cache.keys() == ["miniagents:a", "miniagents:c"]


def test_what_has_expired_is_not_there_for_anybody() -> None:
    """Also where nobody has read since: it is neither listed, nor deleted, nor in the way."""

    async def main() -> None:
        cache = MemoryCache()
        message = Message("x")
        gone = weakref.ref(message)
        await cache.set_many({"a": 1, "b": 1, "c": 1, "d": 1}, ttl=1)
        await cache.set("e", message, ttl=1)
        await asyncio.sleep(1)
        assert await cache.delete("a") is False
        assert await cache.delete_many(["b"]) == 0
        assert await cache.add("c", 2) is True
        assert await cache.keys() == ["miniagents:c"]
        del message
        gc.collect()
        assert gone() is None
        await cache.set("d", message := Message("y"), ttl=1)
        gone = weakref.ref(message)
        del message
        await asyncio.sleep(1)
        assert await cache.get("d", None) is None
        gc.collect()
        assert gone() is None

    run_with_virtual_clock(main())


def test_what_lives_longer_than_it_was_said_at_first() -> None:
    """When the first of its times is over a value stays, and goes when the last one is."""

    async def main() -> None:
        dice = random.Random(1)
        cache = MemoryCache(max_entries=None)
        for _ in range(20):
            for number in range(100):
                await cache.set(f"{number}", number, ttl=dice.randrange(1, 50))
        for number in range(100):
            await cache.set(f"{number}", number, ttl=100 + number)
        for passed in (60, 50):
            await asyncio.sleep(passed)
            await cache.set("another", "x")
        assert await cache.get_many(map(str, range(100))) == {f"{number}": number for number in range(11, 100)}
        assert cache._entries.count() == 90

    run_with_virtual_clock(main())


def test_what_expires_goes_by_and_by() -> None:
    """What nobody asks for any more takes no memory, though it has no timer."""

    async def main() -> None:
        cache = MemoryCache(max_entries=None)
        for number in range(2000):
            await cache.set(f"key {number}", "x", ttl=1 + number % 10)
            await cache.publish_to_mailbox(f"box {number}", "x", ttl=1 + number % 10)
        await asyncio.sleep(5.5)
        await cache.set("another", "x")
        await cache.publish_to_mailbox("another", "x")
        assert cache._entries.count() == 1001
        assert len(cache._mailboxes._boxes) == 1001
        assert len(await cache.keys()) == 1001

    run_with_virtual_clock(main())


@pytest.mark.parametrize("pause", [0, 1])
def test_what_is_set_again_and_again_leaves_nothing_behind(pause: float) -> None:
    """A key whose life is prolonged for ever takes no more memory than one that is set once."""

    async def main() -> None:
        cache = MemoryCache()
        for number in range(3000):
            await cache.set("key", number, ttl=1_000_000)
            await cache.publish_to_mailbox("box", 1, ttl=1_000_000)
            await asyncio.sleep(pause)
        assert len(cache._entries._deadlines._heap) < 100
        assert len(cache._mailboxes._deadlines._heap) < 100

    run_with_virtual_clock(main())


async def test_what_has_gone_is_not_kept_alive() -> None:
    """A value that was deleted, replaced or evicted is in nobody's memory, though it has been read."""
    cache = MemoryCache(max_entries=3)
    messages = [Message(f"{number}") for number in range(4)]
    gone = [weakref.ref(message) for message in messages]
    for number, message in enumerate(messages):
        await cache.set(f"key {number}", message)
        assert await cache.get(f"key {number}") is message
    await cache.set("key 1", "x")
    await cache.delete("key 2")
    del messages, message
    gc.collect()
    assert [reference() is None for reference in gone] == [True, True, True, False]
    for number in range(1000):
        await cache.set(f"{number}", "x")
        await cache.get(f"{number}")
    assert len(cache._known) < 10


async def test_mailboxes_are_not_evicted_and_leave_nothing_behind() -> None:
    """The bound is one of values: messages stay; and an empty mailbox is none."""
    cache = MemoryCache(max_entries=1)
    for number in range(100):
        await cache.publish_to_mailbox(f"box {number}", number)
        await cache.set(f"key {number}", number)
    assert [await cache.get_message(f"box {number}") for number in range(100)] == list(range(100))
    assert await cache.get_message("other", timeout=0.001) is None
    assert await cache.mailbox_length("other") == 0
    await cancel(asyncio.create_task(cache.get_message("other")))
    (reader,) = readers(cache, 1, timeout=3600)
    await quiescence()
    await cache.publish_to_mailbox("box", 1)
    assert await reader == 1
    assert not cache._mailboxes._boxes
    timers: Any = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    assert all(timer.cancelled() for timer in timers)


async def test_without_a_bound() -> None:
    """With `max_entries=None` everything stays; the default is ten thousand."""
    for cache, expected in ((MemoryCache(max_entries=None), 10_500), (MemoryCache(), 10_000)):
        await cache.set_many({f"{number}": number for number in range(10_500)})
        assert len(await cache.keys()) == expected
        assert await cache["10499"] == 10_499


@pytest.mark.parametrize("max_entries", [0, -1])
def test_a_cache_for_nothing(max_entries: int) -> None:
    """A bound below one is an error."""
    with pytest.raises(ValueError, match="max_entries|entries"):
        MemoryCache(max_entries=max_entries)


async def test_long_scans_leave_time_for_others() -> None:
    """Between portions of many keys others have their turn."""
    cache = MemoryCache(max_entries=None)
    await cache.set_many({f"{number}": number for number in range(5000)})
    clearing = asyncio.create_task(cache.clear())
    await asyncio.sleep(0)
    assert not clearing.done()
    await cache.set("new", 1)
    await clearing
    assert await cache.keys() == ["miniagents:new"]


# --- mailboxes ---


async def cancel(*tasks: "asyncio.Task[Any]") -> None:
    await quiescence()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def readers(cache: MemoryCache, count: int, timeout: float | None = None) -> "list[asyncio.Task[Any]]":
    return [asyncio.create_task(cache.get_message("box", timeout)) for _ in range(count)]


async def test_readers_are_served_in_order() -> None:
    """Who has waited longest gets the next message; who has left is passed over."""
    cache = MemoryCache()
    waiting = readers(cache, 5)
    await cancel(waiting[1], waiting[3])
    for number in range(3):
        await cache.publish_to_mailbox("box", number)
    assert [await waiting[index] for index in (0, 2, 4)] == [0, 1, 2]


async def test_a_reader_that_is_cancelled_when_its_message_is_there_hands_it_on() -> None:
    """Cancelled in the very turn in which the message came, it leaves it to the next one, in order."""
    cache = MemoryCache()
    waiting = readers(cache, 3)
    await quiescence()
    await cache.publish_to_mailbox("box", 1)
    await cache.publish_to_mailbox("box", 2)
    waiting[0].cancel()
    assert await asyncio.gather(*waiting[1:]) == [1, 2]
    assert waiting[0].cancelled()
    (last,) = readers(cache, 1)
    await quiescence()
    await cache.publish_to_mailbox("box", 3)
    last.cancel()
    await asyncio.wait([last])
    assert last.cancelled()
    assert await cache.get_message("box", timeout=0) == 3


async def test_what_is_promised_is_nobody_elses() -> None:
    """Between the arrival of a message and its reader's turn it counts as taken, for lengths, looks and others."""
    cache = MemoryCache()
    waiting = readers(cache, 1)
    await quiescence()
    await cache.publish_to_mailbox("box", 1)
    assert await cache.mailbox_length("box") == 0
    assert await cache.peek_mailbox("box") is None
    assert await cache.get_message("box", timeout=0) is None
    await cache.publish_to_mailbox("box", 2)
    assert await cache.mailbox_length("box") == 1
    assert await cache.peek_mailbox("box") == 2
    assert await cache.get_message("box", timeout=0) == 2
    assert await waiting[0] == 1


def test_a_timeout_that_comes_with_the_message() -> None:
    """At the very moment when time is over a message that has come in time is taken, and one that has not stays."""

    async def main() -> None:
        for published_first in (True, False):
            cache = MemoryCache()
            loop = asyncio.get_running_loop()
            publish = loop.create_future()
            if published_first:
                loop.call_later(1, publish.set_result, None)
            (reader,) = readers(cache, 1, timeout=1)
            await asyncio.sleep(0)
            if not published_first:
                loop.call_later(1, publish.set_result, None)
            await publish
            await cache.publish_to_mailbox("box", 1)
            found = [await reader, await cache.get_message("box", timeout=0)]
            assert sorted(found, key=str) == [1, None]

    run_with_virtual_clock(main())


async def test_what_was_promised_in_time_does_not_expire() -> None:
    """A message that has come in time is taken by its reader, also if the mailbox expires before its turn."""
    cache = MemoryCache()
    (reader,) = readers(cache, 1)
    await quiescence()
    await cache.publish_to_mailbox("box", 1, ttl=0.001)
    await cache.publish_to_mailbox("box", 2, ttl=0.001)
    time.sleep(0.01)  # nobody else has a turn meanwhile
    assert await cache.mailbox_length("box") == 0
    assert await reader == 1
    assert await cache.get_message("box", timeout=0) is None


def test_mailboxes_that_expire_while_somebody_waits() -> None:
    """What expires leaves readers waiting, and what has been promised in time is given."""

    async def main() -> None:
        cache = MemoryCache()
        (reader,) = readers(cache, 1)
        await quiescence()
        await cache.publish_to_mailbox("box", 1, ttl=5)
        assert await reader == 1
        (reader,) = readers(cache, 1)
        await asyncio.sleep(10)
        assert not reader.done()
        await cache.publish_to_mailbox("box", 2, ttl=5)
        assert await reader == 2
        await cache.publish_to_mailbox("box", 3, ttl=5)
        await asyncio.sleep(4)
        await cache.publish_to_mailbox("box", 4, ttl=5)
        await asyncio.sleep(4)
        assert await cache.mailbox_length("box") == 2
        await asyncio.sleep(1)
        assert await cache.mailbox_length("box") == 0
        (reader,) = readers(cache, 1, timeout=1)
        assert await reader is None

    run_with_virtual_clock(main())


async def test_random_readers_and_writers() -> None:
    """However publishing, reading, giving up and cancelling are mixed, each message arrives once."""
    for seed in range(30):
        dice = random.Random(seed)
        cache = MemoryCache()
        tasks: list[asyncio.Task[Any]] = []
        published = 0
        for _ in range(300):
            what = dice.random()
            if what < 0.45:
                await cache.publish_to_mailbox("box", published)
                published += 1
            elif what < 0.8:
                tasks += readers(cache, 1, timeout=dice.choice([None, 0, 0.0001]))
            elif what < 0.95 and tasks:
                dice.choice(tasks[-8:]).cancel()
            if dice.random() < 0.4:
                await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        await quiescence()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        taken = [task.result() for task in tasks if not task.cancelled()]
        while (message := await cache.get_message("box", timeout=0)) is not None:
            taken.append(message)
        assert sorted(message for message in taken if message is not None) == list(range(published))


# --- its life ---


async def test_after_closing_nobody_waits() -> None:
    """What is there can still be read; who would have to wait gets None, or the end of the stream, and others go on."""
    cache = MemoryCache()
    await cache.publish_to_mailbox("box", 1)
    await cache.set("key", "value")
    await cache.close()
    assert await cache["key"] == "value"
    assert [message async for message in cache.subscribe("box")] == [1]
    assert await cache.get_message("box") is None
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    for _ in range(5):  # a loop around it does not stop the world
        assert await cache.get_message("box") is None
    assert turns >= 4
    await cancel_now(counting)


async def cancel_now(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait([task])


def test_one_event_loop_after_the_other() -> None:
    """What was set in one loop is there in the next; readers of a loop that has ended get nothing."""
    cache = MemoryCache()

    async def first() -> None:
        await cache.set("key", "value")
        readers(cache, 2)
        await quiescence()

    async def second() -> None:
        assert await cache["key"] == "value"
        (reader,) = readers(cache, 1)
        await quiescence()
        await cache.publish_to_mailbox("box", 1)
        assert await reader == 1

    asyncio.run(first())
    asyncio.run(second())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_readers_of_a_loop_that_was_closed_under_them() -> None:
    """A loop that is closed with a reader in it keeps no message from others."""
    cache = MemoryCache()
    loop = asyncio.new_event_loop()
    reader = loop.create_task(cache.get_message("box"))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def second() -> None:
        await cache.publish_to_mailbox("box", 1)
        assert await cache.get_message("box", timeout=0) == 1

    asyncio.run(second())
    reader._log_destroy_pending = False  # type: ignore[attr-defined]
