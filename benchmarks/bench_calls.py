"""Calls of agents, and what a pending one weighs."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Row, compare_async
from miniagents import InteractionContext, MiniAgents, miniagent

__all__ = ["rows"]

_CALLS = 10_000


@miniagent
async def answer(ctx: InteractionContext) -> None:
    """Replies."""
    ctx.reply("answer")


async def answer_by_hand() -> str:
    return "answer"


async def calls_one_by_one() -> None:
    async with MiniAgents():
        for _ in range(_CALLS):
            await answer.inquire()


async def tasks_one_by_one() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(_CALLS):
        await loop.create_task(answer_by_hand())


async def calls_at_once() -> None:
    async with MiniAgents():
        replies = [answer.inquire() for _ in range(_CALLS)]
        for reply in replies:
            await reply


async def tasks_at_once() -> None:
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(answer_by_hand()) for _ in range(_CALLS)]
    for task in tasks:
        await task


def bytes_per_pending(make: Callable[[], Any]) -> float:
    """What one of many pending things weighs, made by `make` in a context and in a loop."""

    async def measure() -> float:
        async with MiniAgents():
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            pending = [make() for _ in range(_CALLS)]
            weight = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            for one in pending:
                await one
        return weight / _CALLS

    return asyncio.run(measure())


def rows() -> list[Row]:
    """Measures."""
    one, mine, other = compare_async(calls_one_by_one, tasks_one_by_one)
    many, mine_many, other_many = compare_async(calls_at_once, tasks_at_once)
    heavy = bytes_per_pending(answer.inquire)
    light = bytes_per_pending(lambda: asyncio.get_running_loop().create_task(answer_by_hand()))
    micro = 1e6 / _CALLS
    return [
        Row("one agent call, one reply", one, 2.5, 2.0, f"{mine * micro:.1f} against {other * micro:.1f} us"),
        Row(
            f"{_CALLS:,} calls at once, then each awaited",
            many,
            3.5,
            2.5,
            f"{mine_many * micro:.1f} against {other_many * micro:.1f} us per call",
        ),
        Row("memory per pending call", heavy / light, 2.0, 1.6, f"{heavy:.0f} against {light:.0f} bytes"),
    ]
