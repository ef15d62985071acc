"""Workflows: what a transition costs, what recording it costs, and ten thousand states at once."""

import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, compare_async
from miniagents import MiniAgents
from miniagents.ext.checkpoints import SQLiteCheckpointStore
from miniagents.ext.workflow import Agent, Context

__all__ = ["rows"]

_STATES = 200


def rows() -> list[Row]:
    """The rows of the table."""
    return [*_transitions(), *_recorded(), _parallel()]


async def work(context: Any) -> None:
    """What a state does."""
    await asyncio.sleep(0)


def _chain(states: int, store: SQLiteCheckpointStore | None = None) -> Agent:
    agent = Agent("chain", store=store, ask=None)
    for number in range(states):

        async def state(context: Context, number: int = number) -> str | None:
            await work(context)
            return f"state{number + 1}" if number + 1 < states else None

        agent.add_state(f"state{number}", state)
    return agent


def _transitions() -> list[Row]:
    agent = _chain(_STATES)

    async def ours() -> None:
        async with MiniAgents():
            await agent.run()

    async def awaits() -> None:
        for number in range(_STATES):
            await work(number)

    async def tasks() -> None:
        for number in range(_STATES):
            await asyncio.get_running_loop().create_task(work(number))

    found = []
    for name, by_hand in (("a bare await", awaits), ("a task", tasks)):
        ratio, mine, other = compare_async(ours, by_hand)
        per_state = 1e6 / _STATES
        detail = f"{mine * per_state:.1f} against {other * per_state:.1f} us"
        found.append(Row(f"a transition of states, against {name} of the same function", ratio, 5.0, 3.0, detail))
    return found


def _recorded() -> list[Row]:
    """By the clock on the wall, since most of it is the disk."""
    ways: dict[str, Callable[[Path], Coroutine[Any, Any, float]]] = {
        "ours": _seconds_of_recorded_run,
        "by hand, in a thread": partial(_seconds_by_hand, in_thread=True),
        "by hand": partial(_seconds_by_hand, in_thread=False),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(7):
            for name, way in ways.items():
                took[name].append(asyncio.run(way(Path(folder, f"{name} {number}.db"))))
    per_state = 1e6 / _STATES
    mine = statistics.median(took["ours"]) * per_state
    found = []
    for name in ("by hand, in a thread", "by hand"):
        ratio = statistics.median(ours / other for ours, other in zip(took["ours"], took[name], strict=True))
        other = statistics.median(took[name]) * per_state
        workload = f"a recorded state (SQLite, synchronous=FULL) against an await and the same INSERTs {name}"
        found.append(Row(workload, ratio, 1.3, 1.1, f"{mine:.0f} against {other:.0f} us by the clock"))
    return found


async def _seconds_of_recorded_run(path: Path) -> float:
    async with SQLiteCheckpointStore(path) as store:
        agent = _chain(_STATES, store)
        began = time.perf_counter()
        await agent.run()
        return time.perf_counter() - began


async def _seconds_by_hand(path: Path, *, in_thread: bool) -> float:
    """One transaction for each state, with the two lines that a state leaves: that it began, and what came of it."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, kind TEXT, node TEXT, data TEXT)")

    def insert(number: int) -> None:
        database.execute("BEGIN IMMEDIATE")
        for kind in ("started", "finished"):
            row = (kind, f"state{number}", '{"next":["state"]}')
            database.execute("INSERT INTO entries (kind, node, data) VALUES (?, ?, ?)", row)
        database.execute("COMMIT")

    began = time.perf_counter()
    for number in range(_STATES):
        await work(number)
        if in_thread:
            await asyncio.to_thread(insert, number)
        else:
            insert(number)
    seconds = time.perf_counter() - began
    database.close()
    return seconds


def _parallel() -> Row:
    count = 10_000
    agent = Agent("many", ask=None)

    async def start(context: Context) -> list[str]:
        return [f"state{number}" for number in range(count)]

    async def state(context: Context) -> str:
        await work(context)
        return "end"

    async def end(context: Context) -> None:
        pass

    agent.add_state("start", start)
    for number in range(count):
        agent.add_state(f"state{number}", state)
    agent.add_state("end", end)

    async def ours() -> None:
        async with MiniAgents():
            await agent.run()

    async def tasks() -> None:
        await asyncio.gather(*(asyncio.ensure_future(work(number)) for number in range(count)))

    ratio, mine, other = compare_async(ours, tasks, runs=3)
    return Row(
        "10,000 parallel states that meet again, against tasks",
        ratio,
        10.0,
        5.0,
        f"{mine * 1e6 / count:.1f} against {other * 1e6 / count:.1f} us per state",
    )
