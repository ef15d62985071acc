"""Checkpoints against the same INSERT by hand, by the clock, since most of it is the disk; and the size of journals."""

import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from benchmarks.measure import Row
from miniagents import Message
from miniagents.ext.checkpoints import Claim, NewEntry, SQLiteCheckpointStore

__all__ = ["rows"]

_ROUNDS, _PER_ROUND = 12, 100
_WARM_UP = 1_300  # until the write-ahead log is written over, and does not grow any more
_SHORT, _LONG = 200, 2_000


def rows() -> list[Row]:
    """The rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        return [*asyncio.run(_appends(Path(folder))), asyncio.run(_conversation(Path(folder)))]


async def _appends(folder: Path) -> list[Row]:
    """Each is waited for before the next one, as a node that depends on another does."""
    hand = _Hand(folder / "hand.db")
    async with SQLiteCheckpointStore(folder / "ours.db") as store:
        await store.create("run", workflow="bench")
        claim = await store.claim("run")

        async def ours(number: int) -> None:
            await store.append(claim, [NewEntry("finished", "node", number, 1, {"a": 1})])

        async def in_loop(number: int) -> None:
            hand.insert(number)

        async def in_thread(number: int) -> None:
            await asyncio.to_thread(hand.insert, number)

        ways = {"ours": ours, "by hand": in_loop, "by hand, in a thread": in_thread}
        seconds, cpu = await _measured(ways)
    hand.close()
    mine = f"{seconds['ours'] * 1e6:.0f} us ({cpu['ours'] * 1e6:.0f} us of CPU)"
    return [
        Row(
            f"an append (SQLite, synchronous=FULL) against the same INSERT {way}",
            seconds["ours"] / seconds[way],
            1.3,
            1.1,
            f"{mine} against {seconds[way] * 1e6:.0f} us ({cpu[way] * 1e6:.0f} us)",
        )
        for way in ("by hand, in a thread", "by hand")
    ]


async def _measured(ways: Mapping[str, Callable[[int], Awaitable[None]]]) -> tuple[dict[str, float], dict[str, float]]:
    """The median seconds of each way by the clock, and its mean seconds of CPU, in alternation."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    cpu = dict.fromkeys(ways, 0.0)
    number = 0
    for name in ("ours", "by hand"):
        for _ in range(_WARM_UP):
            number += 1
            await ways[name](number)
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            began_cpu = time.process_time()
            for _ in range(_PER_ROUND):
                number += 1
                began = time.perf_counter()
                await way(number)
                took[name].append(time.perf_counter() - began)
            cpu[name] += time.process_time() - began_cpu
    count = _ROUNDS * _PER_ROUND
    return {name: statistics.median(found) for name, found in took.items()}, {n: s / count for n, s in cpu.items()}


async def _conversation(folder: Path) -> Row:
    """A conversation that is recorded, as a whole, with each of its messages."""
    async with SQLiteCheckpointStore(folder / "conversation.db", synchronous="OFF") as store:
        await store.create("run", workflow="bench")
        claim, said = await store.claim("run"), list[Message]()
        await _grow(store, claim, said, _SHORT)
        short = _stored(store.path) / _SHORT
        await _grow(store, claim, said, _LONG)
        long = _stored(store.path) / _LONG
    return Row(
        f"bytes per entry of a growing conversation, {_LONG} messages against {_SHORT}",
        long / short,
        2.0,
        1.6,
        f"{long:.0f} against {short:.0f} bytes; a message has {len(str(said[0]))} characters",
    )


async def _grow(store: SQLiteCheckpointStore, claim: Claim, said: list[Message], length: int) -> None:
    while len(said) < length:
        said.append(Message(f"{len(said):6} " + "x" * 193, role="user"))
        await store.append(claim, [NewEntry("finished", "talk", len(said), data={"said": tuple(said)})])


def _stored(path: Path) -> int:
    connection = sqlite3.connect(path)
    (pages,), (size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    connection.close()
    return int(pages * size)


class _Hand:
    """What somebody would write who needs a journal."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(
            "CREATE TABLE entries (run TEXT, sequence INTEGER, kind TEXT, node TEXT, visit INTEGER, attempt INTEGER, "
            "time REAL, data TEXT, PRIMARY KEY (run, sequence)) WITHOUT ROWID"
        )

    def insert(self, number: int) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        row = ("run", number, "finished", "node", number, 1, time.time(), '{"a":1}')
        self._database.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        self._database.execute("COMMIT")

    def close(self) -> None:
        self._database.close()
