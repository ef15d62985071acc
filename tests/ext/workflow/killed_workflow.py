"""The workflows of the tests in which processes are killed, and what they do to the world outside.

What they do is guarded by the idempotency key of a state: it is a row in another SQLite file, at most one for each key.
"""

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from miniagents.ext.checkpoints import CheckpointStore
from miniagents.ext.workflow import Agent, Context, DependencyType, RetryPolicy

__all__ = ["UNDISTURBED", "deeds_in", "made"]

QUICK = RetryPolicy(max_retries=5, initial_delay=0.002, exponential_base=1.5)

RESULT = {
    "numbers": [1, 2, 3],
    "log": ["again 1", "again 2", "again 3", "left", "right1", "right2"],
    "said": "42",
    "rounds": 3,
    "total": 48,
}
DEEDS = {
    "start/1", "left/1", "right1/1", "right2/1", "again/1", "again/2", "again/3", "ask/1", "merge/1", "after/1",
}  # fmt: skip

UNDISTURBED: dict[str, tuple[Any, set[str]]] = {
    "succeeds": (RESULT, DEEDS),
    "fails": (
        {**RESULT, "undone": ["fail", "merge", "again", "left", "right2", "start"]},
        DEEDS
        | {f"{name}_compensation/1" for name in ("fail", "merge", "again", "right2", "left", "start")}
        | {"fail/1"},
    ),
}
"""For each kind what the run brings, and the deeds that are done, whether it is disturbed or not."""


def deeds_in(path: Path) -> list[str]:
    """What has been done, each deed as often as it was done."""
    with closing(sqlite3.connect(path)) as world:
        return [key.partition("/")[2] for (key,) in world.execute("SELECT key FROM deeds")]


def made(kind: str, store: CheckpointStore, world: Path) -> Agent:
    """Makes one of the workflows.

    Args:
        kind: Whether it "succeeds" or "fails".
        store: Where its runs are recorded.
        world: The file in which its deeds are done.

    Returns:
        The workflow.
    """
    agent = Agent(
        f"work that {kind}",
        store=store,
        ask=None,
        reducers={"log": lambda there, more: sorted(there + more), "undone": lambda there, more: there + more},
    )

    async def do(context: Context) -> None:
        await asyncio.sleep(random.uniform(0, 0.004))
        with closing(sqlite3.connect(world, timeout=30)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS deeds (key TEXT PRIMARY KEY)")
            connection.execute("INSERT OR IGNORE INTO deeds VALUES (?)", (context.idempotency_key,))
        await asyncio.sleep(random.uniform(0, 0.004))

    def undo(name: str) -> Callable[[Context], Awaitable[None]]:
        async def work(context: Context) -> None:
            await do(context)
            context.set_state("undone", [name])

        return work

    @agent.state(compensation=undo("start"))
    async def start(context: Context) -> list[str]:
        await do(context)
        context.set_state("numbers", [1])
        context.set_state("log", [])
        return ["left", "right", "again"]

    @agent.state(compensation=undo("left"), retry_policy=QUICK)
    async def left(context: Context) -> str:
        await do(context)
        if random.random() < 0.5 and context.attempt < 5:
            context.set_state("log", [f"attempt {context.attempt}, which leaves nothing"])
            raise ConnectionError("the line is busy")
        context.set_state("log", ["left"])
        return "merge"

    @agent.state
    async def right(context: Context) -> list[str]:
        return ["right1", "right2"]

    @agent.state
    async def right1(context: Context) -> str:
        await do(context)
        context.set_state("log", ["right1"])
        return "right_end"

    @agent.state(compensation=undo("right2"))
    async def right2(context: Context) -> str:
        await do(context)
        context.set_state("log", ["right2"])
        return "right_end"

    @agent.state
    async def right_end(context: Context) -> str:
        context.get_state("numbers").append(2)
        return "ask"

    @agent.state
    async def ask(context: Context) -> str:
        await do(context)
        context.set_state("said", await context.human_in_the_loop("How many?", validator=str.isdigit))
        return "merge"

    @agent.state(compensation=undo("again"))
    async def again(context: Context) -> str:
        await do(context)
        rounds = context.get_state("rounds", 0) + 1
        context.set_state("rounds", rounds)
        context.set_state("log", [f"again {rounds}"])
        return "again" if rounds < 3 else "merge"

    @agent.state(compensation=undo("merge"))
    async def merge(context: Context) -> str | None:
        await do(context)
        numbers = context.get_state("numbers")
        numbers.append(3)
        context.set_state("total", sum(numbers) + int(context.get_state("said")))
        return None

    @agent.state(dependencies={"merge": DependencyType.REQUIRED})
    async def after(context: Context) -> str | None:
        await do(context)
        return "fail" if kind == "fails" else None

    @agent.state(compensation=undo("fail"), retry_policy=RetryPolicy(max_retries=1, initial_delay=0.001))
    async def fail(context: Context) -> None:
        await do(context)
        raise ValueError("no luck")

    return agent
