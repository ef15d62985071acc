"""What the tests of workflows share."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from miniagents.ext.checkpoints import CheckpointStore, RunNotFoundError
from miniagents.ext.workflow import Agent, Context
from miniagents.testing import quiescence

__all__ = ["Log", "agent_of", "expire_claim", "goes_to", "started_task", "stopped", "until_asked", "until_recorded"]

T = TypeVar("T")


def started_task(coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Starts work in a task. An error that nobody asks for is no trouble."""
    task = asyncio.get_running_loop().create_task(coroutine)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def until_asked(agent: Agent, run_id: str | None = None) -> list[str]:
    """Waits until all moves there are have been made, and gives the ids of the questions that are open then."""
    await quiescence()
    return [question.id for question in await agent.open_questions(run_id)]


async def until_recorded(store: CheckpointStore, run_id: str, kind: str, count: int = 1) -> None:
    """Waits until there are entries of a kind in the journal of a run."""
    while True:
        with suppress(RunNotFoundError):
            if sum(entry.kind == kind for entry in await store.read(run_id)) >= count:
                return
        await asyncio.sleep(0.005)


def expire_claim(path: Path, run_id: str) -> None:
    """Makes the lease of a run end, as if its holder had not been heard of for long."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE runs SET until = 0 WHERE run_id = ?", (run_id,))


async def stopped(task: "asyncio.Task[Any]") -> None:
    """Stops a run, which cannot do anything about it."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def agent_of(*functions: Callable[[Context], Awaitable[Any]], name: str = "work", **options: Any) -> Agent:
    """A workflow of functions, which are called what their states are."""
    agent = Agent(name, **{"ask": None, **options})
    for function in functions:
        agent.add_state(function.__name__, function)
    return agent


class Log:
    """Writes down what states do, and when.

    Attributes:
        lines: What was written.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._began = asyncio.get_running_loop().time()

    def write(self, line: str) -> None:
        """Writes a line, after the seconds that have passed."""
        self.lines.append(f"{asyncio.get_running_loop().time() - self._began:g} {line}")

    def state(self, name: str, following: Any = None, seconds: float = 0.0, **values: Any) -> Any:
        """A state that writes down its beginning and its end, and sets values.

        Args:
            name: What it is called.
            following: What it returns.
            seconds: How long it takes.
            **values: What it sets.

        Returns:
            The function.
        """

        async def work(context: Context) -> Any:
            self.write(name)
            if seconds:
                await asyncio.sleep(seconds)
                self.write(f"{name} ends")
            for key, value in values.items():
                context.set_state(key, value)
            return following

        work.__name__ = name
        return work


def goes_to(name: str, following: Any) -> Any:
    """A state that does nothing but name others. What it can name cannot be seen in its source."""

    async def go(context: Context) -> Any:
        return following

    go.__name__ = name
    return go
