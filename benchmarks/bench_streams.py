"""Tokens through agents, and many readers of one stream."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Any

from benchmarks.measure import Row, compare_async
from benchmarks.yardstick import SharedList
from miniagents import InteractionContext, Message, MessageSequencePromise, MiniAgents, miniagent
from promising import PromisingContext, StreamAppender, StreamedPromise

__all__ = ["rows"]

_HOPS = 10
_TOKENS = 2_000
_READERS = 10


async def _source(yielding: bool) -> AsyncIterator[str]:
    for _ in range(_TOKENS):
        if yielding:
            await asyncio.sleep(0)
        yield "token"


@miniagent
async def source(ctx: InteractionContext, yielding: bool) -> None:
    """Streams a message."""
    ctx.reply(Message.promise(lambda _: _source(yielding)))


@miniagent
async def appending_relay(ctx: InteractionContext) -> None:
    """Passes tokens on by an appender."""
    async for message in ctx.message_promises:
        with StreamAppender[str]() as appender:
            ctx.reply(Message.promise(appender))
            async for token in message:
                appender.append(token)


@miniagent
async def generating_relay(ctx: InteractionContext) -> None:
    """Passes tokens on by a generator."""
    async for message in ctx.message_promises:

        async def stream(_: Any, message: Any = message) -> AsyncIterator[str]:
            async for token in message:
                yield token

        ctx.reply(Message.promise(stream))


@miniagent
async def forwarding_relay(ctx: InteractionContext) -> None:
    """Passes everything on by reference."""
    ctx.reply(ctx.message_promises)


async def _read(replies: MessageSequencePromise) -> int:
    count = 0
    async for message in replies:
        async for _ in message:
            count += 1
    return count


def through_agents(relay: Any, yielding: bool, hops: int = _HOPS) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        async with MiniAgents():
            replies = source.inquire(yielding=yielding)
            for _ in range(hops):
                replies = relay.inquire(replies)
            assert await _read(replies) == _TOKENS

    return run


def through_lists(yielding: bool, hops: int = _HOPS) -> Callable[[], Awaitable[None]]:
    async def fill(target: SharedList[str]) -> None:
        async for token in _source(yielding):
            target.append(token)
        target.close()

    async def relay(received: SharedList[str], target: SharedList[str]) -> None:
        async for token in received.read():
            target.append(token)
        target.close()

    async def run() -> None:
        lists = [SharedList[str]() for _ in range(hops + 1)]
        tasks = [asyncio.create_task(fill(lists[0]))]
        tasks += [asyncio.create_task(relay(*pair)) for pair in pairwise(lists)]
        count = 0
        async for _ in lists[-1].read():
            count += 1
        assert count == _TOKENS
        await asyncio.gather(*tasks)

    return run


async def ten_readers() -> None:
    async def stream(_: Any) -> AsyncIterator[str]:
        async for token in _source(True):
            yield token

    async def read(promise: StreamedPromise[str, Any]) -> None:
        async for _ in promise:
            pass

    async with PromisingContext():
        promise = StreamedPromise[str, Any](stream)
        await asyncio.gather(*[asyncio.create_task(read(promise)) for _ in range(_READERS)])


async def ten_readers_by_hand() -> None:
    async def fill(target: SharedList[str]) -> None:
        async for token in _source(True):
            target.append(token)
        target.close()

    async def read(shared: SharedList[str]) -> None:
        async for _ in shared.read():
            pass

    shared = SharedList[str]()
    task = asyncio.create_task(fill(shared))
    await asyncio.gather(*[asyncio.create_task(read(shared)) for _ in range(_READERS)])
    await task


_FINISHED = list(range(20_000))


async def ten_readers_of_a_finished_stream() -> None:
    promise = StreamedPromise[int, Any](prefill_pieces=_FINISHED)
    for _ in range(_READERS):
        async for _piece in promise:
            pass


async def ten_generators_over_a_list() -> None:
    async def read() -> AsyncIterator[int]:
        for piece in _FINISHED:
            yield piece

    for _ in range(_READERS):
        async for _piece in read():
            pass


async def _first_token_share() -> float:
    """Which part of the whole time passes until the first token has come through the agents."""
    async with MiniAgents():
        started = time.perf_counter()
        replies = source.inquire(yielding=True)
        for _ in range(_HOPS):
            replies = appending_relay.inquire(replies)
        first = 0.0
        async for message in replies:
            async for _ in message:
                first = first or time.perf_counter()
        return (first - started) / (time.perf_counter() - started)


def rows() -> list[Row]:
    """Measures."""
    table = []
    hand = {yielding: through_lists(yielding) for yielding in (True, False)}
    for relay, goals in ((appending_relay, ((1.2, 1.1), (1.4, 1.3))), (generating_relay, ((1.25, 1.15), (1.8, 1.5)))):
        how = "agents append" if relay is appending_relay else "generators"
        for yielding, (goal, stretch) in zip((True, False), goals, strict=True):
            ratio, mine, other = compare_async(through_agents(relay, yielding), hand[yielding])
            micro = 1e6 / _TOKENS / _HOPS
            when = "source yields per token" if yielding else "source never yields"
            table.append(
                Row(
                    f"token through {_HOPS} agents, {when}, {how}",
                    ratio,
                    goal,
                    stretch,
                    f"{mine * micro:.2f} against {other * micro:.2f} us per hop",
                )
            )
    shares = sorted(asyncio.run(_first_token_share()) for _ in range(7))
    table.append(Row("first token through 10 agents, of the total", shares[3], 0.01, 0.005, "as a share"))
    base, more = through_agents(forwarding_relay, True, hops=1), through_agents(forwarding_relay, True, hops=11)
    one_hop, hops = through_lists(True, hops=1), through_lists(True, hops=11)
    _, short, long = compare_async(base, more)
    _, short_by_hand, long_by_hand = compare_async(one_hop, hops)
    per_hop, per_hop_by_hand = (long - short) / 10, (long_by_hand - short_by_hand) / 10
    table.append(
        Row(
            "forwarding by reference, per hop",
            per_hop / per_hop_by_hand,
            0.25,
            0.2,
            f"{per_hop * 1e6:.0f} against {per_hop_by_hand * 1e6:.0f} us for {_TOKENS:,} tokens",
        )
    )
    ratio, mine, other = compare_async(ten_readers, ten_readers_by_hand)
    micro = 1e6 / _TOKENS / _READERS
    table.append(
        Row("10 readers of a live stream", ratio, 1.2, 1.1, f"{mine * micro:.2f} against {other * micro:.2f} us")
    )
    ratio, mine, other = compare_async(ten_readers_of_a_finished_stream, ten_generators_over_a_list)
    nano = 1e9 / len(_FINISHED) / _READERS
    table.append(
        Row(
            "10 readers of a finished stream",
            ratio,
            1.4,
            1.2,
            f"{mine * nano:.0f} against {other * nano:.0f} ns per piece",
        )
    )
    return table
