"""A process that starts others, which work at the workflows of `killed_workflow` and are killed.

It forks after it has imported everything, so that a child is at work within milliseconds. As arguments it gets a
folder, a seed, and how many children to kill. For each run it prints a line of JSON: what it brought, which deeds were
done, and how often it was killed.
"""

import asyncio
import gc
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from miniagents.ext.checkpoints import RunNotFoundError, SQLiteCheckpointStore
from miniagents.ext.workflow import Agent
from tests.ext.workflow.killed_workflow import deeds_in, made

AT_ONCE = 3
MOST_KILLS = 8
"""How often one run is killed at most."""
LONGEST_LIFE = 0.1
"""When a process is killed at the latest, in seconds after it was started."""


class Run(NamedTuple):
    """One run of a workflow, in as many processes as it takes."""

    kind: str
    folder: Path

    @property
    def world(self) -> Path:
        return self.folder / "world.db"

    @property
    def outcome(self) -> Path:
        return self.folder / "outcome"


async def work(run: Run) -> None:
    """Runs the workflow, or takes up its run."""
    async with SQLiteCheckpointStore(run.folder / "runs.db", synchronous="NORMAL") as store:
        agent = made(run.kind, store, run.world)
        answering = asyncio.ensure_future(answer(store))
        error = None
        try:
            try:
                info = await store.info("r")
            except RunNotFoundError:
                await agent.run(run_id="r")
            else:
                if info.status != "failed":
                    await agent.resume_run("r")
        except ValueError as failure:
            error = str(failure)
        finally:
            answering.cancel()
        if agent.run_id is None:  # it was killed when it had just recorded that it has failed
            outcome: Any = "failed before"
        else:
            outcome = {key: agent.get_state(key) for key in ("numbers", "log", "said", "rounds", "total", "undone")}
            outcome = {key: value for key, value in outcome.items() if value is not None}
            if "undone" in outcome:  # what ran side by side is undone in the order in which it happened to end
                first, second, *beside, last = outcome["undone"]
                outcome["undone"] = [first, second, *sorted(beside), last]
    run.outcome.write_text(json.dumps({"outcome": outcome, "error": error}))


async def answer(store: SQLiteCheckpointStore) -> None:
    """Answers what is asked, not always well."""
    anybody = Agent("anybody", store=store, ask=None)
    while True:
        await asyncio.sleep(0.003)
        with suppress(RunNotFoundError):
            for question in await anybody.open_questions("r"):
                await anybody.answer("r", question.id, random.choice(["42", "no idea"]))


def fork(run: Run) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        random.seed()
        asyncio.run(work(run))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class Nursery:
    """Runs several workflows side by side, and kills their processes at random moments.

    Args:
        folder: Where the runs are.
        kills: How many processes to kill.
    """

    def __init__(self, folder: Path, kills: int) -> None:
        self.folder = folder
        self.kills = kills
        self.killed = 0
        self.count = 0
        self.at_work: dict[int, tuple[Run, int, float]] = {}  # by process: how often the run was killed, and until when

    def lives(self) -> Iterator[dict[str, Any]]:
        """Gives what has come of each run."""
        while self.killed < self.kills or self.at_work:
            while len(self.at_work) < AT_ONCE and self.killed < self.kills:
                self.count += 1
                run = Run("fails" if self.count % 2 else "succeeds", self.folder / str(self.count))
                run.folder.mkdir()
                self.start(run, 0)
            self.kill_whose_time_has_come()
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                time.sleep(0.001)
                continue
            run, killed, _ = self.at_work.pop(child)
            ended = self.ended(run, killed, status)
            if ended is not None:
                yield ended

    def start(self, run: Run, killed: int) -> None:
        life = random.uniform(0, LONGEST_LIFE) if killed < MOST_KILLS else 60.0
        self.at_work[fork(run)] = run, killed, time.monotonic() + life

    def kill_whose_time_has_come(self) -> None:
        for child, (run, killed, until) in self.at_work.items():
            if until < time.monotonic():
                os.kill(child, signal.SIGKILL)
                self.at_work[child] = run, killed, float("inf")

    def ended(self, run: Run, killed: int, status: int) -> dict[str, Any] | None:
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL:
            self.killed += 1
            self.start(run, killed + 1)
            return None
        if code:
            raise RuntimeError(f"a process ended with {code} in {run.folder}")
        return {"kind": run.kind, "killed": killed, "deeds": deeds_in(run.world), **json.loads(run.outcome.read_text())}


if __name__ == "__main__":
    random.seed(int(sys.argv[2]))
    gc.freeze()
    for ended in Nursery(Path(sys.argv[1]), int(sys.argv[3])).lives():
        print(json.dumps(ended), flush=True)
