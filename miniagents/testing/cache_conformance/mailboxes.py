"""Mailboxes: each message once, in order, lost by nobody."""

import asyncio
from contextlib import suppress
from typing import Any, Final

import pytest

from miniagents.message import Message
from miniagents.testing.cache_conformance.base import Cache, CacheTests, eventually

__all__ = ["MailboxTests"]

_SOON: Final = 0.1
_LONG: Final = 30.0


class MailboxTests(CacheTests):
    """Tests of mailboxes and their streams."""

    async def test_messages_come_in_order(self, cache: Cache, other: Cache) -> None:
        """Messages of any kind come as what they were, in the order in which they were published."""
        messages = [1, "", None, (2, [3]), {"a": b"4"}, Message("5", role="user"), "x" * 1_000_000, 1]
        for message in messages:
            await cache.publish_to_mailbox("box", message)
        assert [await other.get_message("box", _LONG) for _ in messages] == messages
        assert await cache.mailbox_length("box") == 0

    @pytest.mark.parametrize("name", ["", "a:b", "::", "*", "é€😀", "\x00\n"])
    async def test_any_string_is_a_name(self, cache: Cache, name: str) -> None:
        """A mailbox can have any name, and is another than all others."""
        await cache.publish_to_mailbox(f"{name}x", "other")
        await cache.publish_to_mailbox(name, "one")
        assert await cache.get_message(name, timeout=0) == "one"
        assert await cache.get_message(name, timeout=0) is None

    async def test_looking(self, cache: Cache) -> None:
        """With a time-out of 0 nobody waits."""
        assert await cache.get_message("box", timeout=0) is None
        await cache.publish_to_mailbox("box", 1)
        assert await cache.get_message("box", timeout=0) == 1
        assert await cache.get_message("box", timeout=0) is None

    async def test_waiting_in_vain(self, cache: Cache) -> None:
        """With a time-out None comes when it is over, and not long before."""
        clock = asyncio.get_running_loop().time
        began = clock()
        assert await cache.get_message("box", timeout=2 * _SOON) is None
        assert clock() - began > 1.5 * _SOON

    @pytest.mark.parametrize("timeout", [None, _LONG])
    async def test_waiting_for_a_message(self, cache: Cache, other: Cache, timeout: float | None) -> None:
        """Who waits gets the message when it is published."""
        reader = asyncio.create_task(cache.get_message("box", timeout=timeout))
        await asyncio.sleep(_SOON)
        assert not reader.done()
        await other.publish_to_mailbox("box", (1,))
        assert await asyncio.wait_for(reader, _LONG) == (1,)
        assert await cache.get_message("box", timeout=0) is None

    async def test_refused_arguments(self, cache: Cache) -> None:
        """Names that are no strings, and negative times, are refused."""
        for timeout in (-1, -0.001):
            with pytest.raises(ValueError, match="timeout"):
                await cache.get_message("box", timeout=timeout)
        for operation in (cache.get_message, cache.peek_mailbox, cache.mailbox_length):
            with pytest.raises(TypeError):
                await operation(1)
        with pytest.raises(TypeError):
            await cache.publish_to_mailbox(b"box", 1)
        with pytest.raises(TypeError):
            cache.subscribe(None)

    async def test_peeking_and_counting(self, cache: Cache) -> None:
        """The oldest message can be seen and all of them counted without taking one."""
        assert await cache.peek_mailbox("box") is None
        assert await cache.mailbox_length("box") == 0
        for number in range(3):
            await cache.publish_to_mailbox("box", [number])
        for number in range(3):
            assert await cache.mailbox_length("box") == 3 - number
            peeked = await cache.peek_mailbox("box")
            peeked.append("mine")
            assert await cache.peek_mailbox("box") == [number]
            assert await cache.get_message("box") == [number]
        assert await cache.peek_mailbox("box") is None

    async def test_many_readers(self, cache: Cache, other: Cache) -> None:
        """Of many readers each gets other messages, none is lost, and each gets its own in order."""
        taken: list[list[int]] = []

        async def read(reader: Cache) -> None:
            mine: list[int] = []
            taken.append(mine)
            while (message := await reader.get_message("box", _LONG)) != "end":
                mine.append(message)

        readers = [asyncio.create_task(read((cache, other)[number % 2])) for number in range(10)]
        for number in range(200):
            await (cache, other)[number % 2].publish_to_mailbox("box", number)
        for _ in readers:
            await cache.publish_to_mailbox("box", "end")
        await asyncio.wait_for(asyncio.gather(*readers), _LONG)
        assert sorted(number for mine in taken for number in mine) == list(range(200))
        assert all(mine == sorted(mine) for mine in taken)

    async def test_waiting_holds_up_nobody(self, cache: Cache) -> None:
        """However many wait for messages, values and other mailboxes can be used meanwhile."""
        readers = [asyncio.create_task(cache.get_message(f"empty {number}")) for number in range(60)]
        await asyncio.sleep(_SOON)
        async with asyncio.timeout(_LONG):
            await asyncio.gather(*(cache.set(f"key {number}", number) for number in range(60)))
            assert await cache.increment("counter") == 1
            await cache.publish_to_mailbox("box", 1)
            assert await cache.get_message("box") == 1
            for number in range(60):
                await cache.publish_to_mailbox(f"empty {number}", number)
            assert await asyncio.gather(*readers) == list(range(60))

    # --- readers that leave ---

    async def test_a_cancelled_reader_takes_nothing(self, cache: Cache) -> None:
        """A message that is published when a reader has been cancelled is for the next one."""
        reader = asyncio.create_task(cache.get_message("box"))
        await asyncio.sleep(_SOON)
        await _cancel(reader)
        await cache.publish_to_mailbox("box", 1)
        assert await cache.get_message("box", _LONG) == 1

    async def test_cancelling_races_with_publishing(self, cache: Cache, other: Cache) -> None:
        """Whatever comes first, publishing or cancelling: the message is with the reader, or still there, and once."""
        for round_ in range(30):
            reader = asyncio.create_task(cache.get_message("box"))
            await asyncio.sleep(0.001 * (round_ % 3))
            publishing = asyncio.create_task(other.publish_to_mailbox("box", round_))
            for _ in range(round_ % 6):
                await asyncio.sleep(0)
            if round_ % 2:
                await asyncio.sleep(0.0003 * (round_ % 5))
            reader.cancel()
            found = []
            with suppress(asyncio.CancelledError):
                found.append(await reader)
            await publishing
            if not found:
                found.append(await cache.get_message("box", _LONG))
            assert found == [round_]
            assert await cache.mailbox_length("box") == 0

    async def test_timing_out_races_with_publishing(self, cache: Cache, other: Cache) -> None:
        """Messages that are published while readers give up are all read in the end, once and in order."""

        async def publish() -> None:
            for number in range(60):
                await other.publish_to_mailbox("box", number)
                await asyncio.sleep(0.002)

        publishing = asyncio.create_task(publish())
        taken: list[int] = []
        async with asyncio.timeout(_LONG):
            while len(taken) < 60:
                message = await cache.get_message("box", timeout=0.002)
                if message is not None:
                    taken.append(message)
        await publishing
        assert taken == list(range(60))
        assert await cache.mailbox_length("box") == 0

    async def test_cancelled_readers_among_others(self, cache: Cache, other: Cache) -> None:
        """However many readers are cancelled, those that stay get all that the cancelled ones have not returned."""
        taken: list[int] = []

        async def read(reader: Cache) -> None:
            while True:
                taken.append(await reader.get_message("box"))

        patient = [asyncio.create_task(read(reader)) for reader in (cache, other)]
        for number in range(50):
            hasty = [asyncio.create_task(read(reader)) for reader in (cache, other)]
            await asyncio.sleep(0.001 * (number % 2))
            await cache.publish_to_mailbox("box", 2 * number)
            await other.publish_to_mailbox("box", 2 * number + 1)
            await _cancel(*hasty)
        await eventually(lambda: _is(len(taken) == 100))
        await _cancel(*patient)
        assert sorted(taken) == list(range(100))

    # --- streams ---

    async def test_subscribing(self, cache: Cache, other: Cache) -> None:
        """A stream gives what was in the mailbox and what comes into it."""
        await cache.publish_to_mailbox("box", 0)
        taken = []

        async def read() -> None:
            async for message in cache.subscribe("box"):
                taken.append(message)
                if message is None:
                    return

        reader = asyncio.create_task(read())
        await eventually(lambda: _is(taken == [0]))
        for message in (1, [2], None, 3):
            await other.publish_to_mailbox("box", message)
        await asyncio.wait_for(reader, _LONG)
        assert taken == [0, 1, [2], None]
        assert await cache.get_message("box", _LONG) == 3

    async def test_leaving_a_stream(self, cache: Cache) -> None:
        """What a reader that has left its stream has not got stays in the mailbox; the next one goes on there."""
        for number in range(4):
            await cache.publish_to_mailbox("box", number)
        async for message in cache.subscribe("box"):
            assert message == 0
            break
        with suppress(ZeroDivisionError):
            async for _ in cache.subscribe("box"):
                raise ZeroDivisionError
        stream = aiter(cache.subscribe("box"))
        assert await anext(stream) == 2
        assert await cache.mailbox_length("box") == 1
        assert await cache.get_message("box") == 3
        waiting = asyncio.create_task(_first(stream))
        await asyncio.sleep(_SOON)
        await _cancel(waiting)
        await cache.publish_to_mailbox("box", 4)
        assert await asyncio.wait_for(anext(stream), _LONG) == 4

    async def test_closing_ends_what_waits(self, cache: Cache) -> None:
        """When the cache is closed streams end, and readers that wait get None."""

        async def read() -> list[Any]:
            return [message async for message in cache.subscribe("box")]

        stream = asyncio.create_task(read())
        reader = asyncio.create_task(cache.get_message("another box"))
        await asyncio.sleep(_SOON)
        await cache.publish_to_mailbox("box", 1)
        await eventually(lambda: _is_empty(cache, "box"))
        await asyncio.sleep(_SOON)
        await cache.close()
        assert await asyncio.wait_for(stream, _LONG) == [1]
        assert await asyncio.wait_for(reader, _LONG) is None

    # --- times to live ---

    async def test_mailboxes_expire(self, cache: Cache) -> None:
        """After its time without a further message a mailbox is empty, and can be used anew."""
        await cache.publish_to_mailbox("box", 1)
        await cache.publish_to_mailbox("box", 2, ttl=_SOON)
        await eventually(lambda: _is_empty(cache, "box"))
        assert await cache.peek_mailbox("box") is None
        assert await cache.get_message("box", timeout=0) is None
        await cache.publish_to_mailbox("box", 3)
        await asyncio.sleep(2 * _SOON)
        assert await cache.get_message("box", _LONG) == 3

    async def test_a_further_message_keeps_a_mailbox(self, cache: Cache) -> None:
        """The last message says how long a mailbox lives."""
        while True:
            await cache.publish_to_mailbox("box", 1, ttl=3 * _SOON)
            await cache.publish_to_mailbox("box", 2)
            if await cache.mailbox_length("box") == 2:  # the second one came in time
                break
            await cache.get_message("box")
        await asyncio.sleep(4 * _SOON)
        assert [await cache.get_message("box", timeout=0) for _ in range(3)] == [1, 2, None]


async def _is(it: bool) -> bool:
    return it


async def _is_empty(cache: Cache, mailbox: str) -> bool:
    return bool(await cache.mailbox_length(mailbox) == 0)


async def _first(stream: Any) -> Any:
    return await anext(stream)


async def _cancel(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
