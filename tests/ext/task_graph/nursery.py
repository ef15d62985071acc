"""A process that starts others, which work at the graph of `killed_graph` and are killed: what `test_kill` starts.

It runs the graph itself, undisturbed; then it forks, so that a child is at work within milliseconds. As arguments it
gets a folder, the address of a Redis server (empty: a cache in memory), and what to do:

* `moments STEP`: as many runs as there are moments at which to be killed: before a snapshot is written, when it is
  durable, and when what follows from it has been carried out. Each of them is killed at one, and taken up by another
  process. With a step of 2 it is every other moment.
* `random SEED COUNT`: so many runs, each of which is killed a few times, whenever that happens to be.

It prints a line of JSON for each run: how it ended, and which nodes were started again although they had finished.
"""

import asyncio
import gc
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from miniagents import MiniAgents
from miniagents.ext.cache import Cache, MemoryCache, RedisCache
from miniagents.ext.checkpoints import Claim, Entry, FileCheckpointStore
from miniagents.ext.graph import policy
from miniagents.ext.graph.run import Jump
from miniagents.ext.graph.visit import Visit
from miniagents.ext.task_graph import Agent, Task
from miniagents.ext.task_graph.run import TaskRun
from miniagents.ext.values import encode
from tests.ext.task_graph.killed_graph import STARTS, graph_agent

AT_ONCE = 3
policy._FIRST_DELAY = 0.001  # attempts that fail are no loss of time here


class Moments:
    """Counts the moments at which a process can be killed, and kills it at one of them."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.count = 0

    def passed(self) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


class WatchedStore(FileCheckpointStore):
    """A store in which there are moments before and after something is written."""

    def __init__(self, folder: Path, moments: Moments) -> None:
        super().__init__(folder, durable=False)  # what a process has written outlives it in any case
        self._moments = moments

    async def append(self, claim: Claim, entries: Any, *, status: str | None = None) -> list[Entry]:
        self._moments.passed()
        recorded = await super().append(claim, entries, status=status)
        self._moments.passed()
        return recorded


class Run(NamedTuple):
    """One run of the graph, in as many processes as it takes.

    Attributes:
        folder: Where its snapshots are.
        task_id: The id of its task.
        redis: The server, if there is one.
    """

    folder: Path
    task_id: UUID
    redis: str

    @property
    def starts(self) -> Path:
        return self.folder / "starts"

    @property
    def outcome(self) -> Path:
        return self.folder / "outcome"

    @property
    def tried_again(self) -> int:
        """How often what fails for good was tried again, since a process was killed that had just ended the task."""
        return max(visit for name, visit in self.started() if name == "broken") - 1

    def cache(self) -> Cache:
        return RedisCache.from_url(self.redis, default_prefix=f"test-{self.task_id}") if self.redis else MemoryCache()

    def finished(self) -> set[tuple[str, int]]:
        """The nodes that have finished, with the numbers of their visits, as people would see it."""
        entries = (json.loads(path.read_text()) for path in (self.folder / str(self.task_id)).glob("0*_*/entry.json"))
        return {(entry["node"], entry["visit"]) for entry in entries if entry["node"]}

    def started(self) -> list[tuple[str, int]]:
        lines = self.starts.read_text().splitlines() if self.starts.exists() else []
        return [(name, int(visit)) for name, _, visit in (line.rpartition(" ") for line in lines)]


def watch(moments: Moments) -> None:
    """Has a moment after what follows from the end of a node has been carried out."""
    carry_out = TaskRun.visit_finished

    def watched(self: TaskRun, visit: Visit, jump: Jump | None) -> None:
        carry_out(self, visit, jump)
        moments.passed()

    TaskRun.visit_finished = watched  # type: ignore[method-assign]


async def work(run: Run, moments: Moments) -> None:
    """Runs the graph, or takes up its run if there is something to take up."""
    watch(moments)
    store = WatchedStore(run.folder, moments)
    async with run.cache() as cache, store, MiniAgents():
        agent = graph_agent(cache, store, snapshots_kept=10_000)
        if any((run.folder / str(run.task_id)).glob("0*_*")):
            task = await agent.run_from_snapshot(run.task_id)
        else:
            await store.delete(str(run.task_id))
            task = await agent.run_task(Task(id=run.task_id, type="test", objective="go"))
        outcome = await outcome_of(agent, task, cache, run.tried_again)
        if run.redis:
            await cache.clear()
    run.outcome.write_text(json.dumps({**outcome, "moments": moments.count}))


async def outcome_of(agent: Agent, task: Task, cache: Cache, tried_again: int) -> dict[str, Any]:
    """All that is known of a run at its end, but for when and in which order it happened.

    When a process was killed that had just ended the task, what had failed in it is tried again, as the docs say. That
    does not count here.
    """
    values = await cache.get_all()
    namespace, state = cache.namespace, agent.execution_state
    known = {
        "status": task.status.value,
        "error": task.error,
        "results": dict(sorted(agent.node_results.items())),
        "iterations": state.total_iterations - tried_again,
        "plans": sorted(sorted(plan.nodes) for plan in [*state.execution_history, state.current_plan]),
        "cache": {namespace.key_of(key): value for key, value in sorted(values.items()) if not key.endswith(":task")},
    }
    return {"outcome": json.loads(encode(known))}


def fork(run: Run, last_moment: int = 0) -> int:
    """Starts a process. It is killed at that moment; 0 for never."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ[STARTS] = str(run.starts)
        asyncio.run(work(run, Moments(last_moment)))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def life(run: Run, kills: Iterator[int | float]) -> Any:
    """One run in several processes. Yields the id of each, and how many seconds it has; is sent how that has ended."""
    again: list[tuple[str, int]] = []
    killed = 0
    while True:
        finished, begun = run.finished(), len(run.started())
        kill = next(kills, None)
        status = yield (fork(run, kill), None) if isinstance(kill, int) else (fork(run), kill)
        again += finished.intersection(run.started()[begun:])
        if status == 0:
            break
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            raise RuntimeError(f"a process ended with {status}")
        killed += 1
    return {**json.loads(run.outcome.read_text()), "again": again, "killed": killed}


def live(lives: Iterator[Any]) -> Iterator[dict[str, Any]]:
    """Runs several lives side by side, and gives what comes of them."""
    at_work: dict[int, Any] = {}
    deadlines: dict[int, float] = {}

    def go_on(one: Any, status: int | None) -> dict[str, Any] | None:
        try:
            child, seconds = one.send(status)
        except StopIteration as ended:
            result: dict[str, Any] = ended.value
            return result
        at_work[child] = one
        if seconds is not None:
            deadlines[child] = time.monotonic() + seconds
        return None

    waiting = iter(lives)
    while True:
        for one in waiting:
            go_on(one, None)
            if len(at_work) == AT_ONCE:
                break
        if not at_work:
            return
        child, status = wait(deadlines)
        result = go_on(at_work.pop(child), status)
        if result is not None:
            yield result


def wait(deadlines: dict[int, float]) -> tuple[int, int]:
    """Waits for the next process that ends, and kills those whose time is over."""
    while deadlines:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            deadlines.pop(child, None)
            return child, status
        for one in [one for one, deadline in deadlines.items() if deadline < time.monotonic()]:
            del deadlines[one]
            os.kill(one, signal.SIGKILL)
        time.sleep(0.001)
    return os.waitpid(-1, 0)


def runs(folder: Path, redis: str) -> Iterator[Run]:
    number = 0
    while True:
        number += 1
        made = Run(folder / str(number), UUID(int=random.getrandbits(128), version=4), redis)
        made.folder.mkdir(parents=True)
        yield made


def grow_up(run: Run) -> dict[str, Any]:
    """Runs the graph undisturbed in this process, which has everything at hand then that children need.

    Returns:
        How that has ended.
    """
    os.environ[STARTS] = str(run.starts)
    asyncio.run(work(run, Moments(0)))
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join()  # a fork has none of them
    gc.freeze()  # so that children need not copy what they only look at
    undisturbed: dict[str, Any] = json.loads(run.outcome.read_text())
    return undisturbed


def main(folder: str, redis: str, what: str, *arguments: str) -> None:
    every = runs(Path(folder), redis)
    undisturbed = grow_up(next(every))
    print(json.dumps(undisturbed), flush=True)
    if what == "moments":
        moments = range(1, undisturbed["moments"], int(arguments[0]))  # at the last one everything is over
        lives = (life(next(every), iter([moment])) for moment in moments)
    else:
        seed, count = map(int, arguments)
        chance = random.Random(seed)
        began = time.monotonic()
        next(live(iter([life(next(every), iter(()))])))
        typical = time.monotonic() - began
        lives = (life(next(every), iter([chance.uniform(0, typical) for _ in range(5)])) for _ in range(count))
    for result in live(lives):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
