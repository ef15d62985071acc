"""Waiting until nothing moves any more, in place of sleeping and hoping."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

__all__ = ["assert_no_leftovers", "quiescence"]

_QUIET_TURNS = 3


async def quiescence(*, max_turns: int = 100_000) -> None:
    """Waits until every other task of the loop waits for something that has not happened.

    Timers, threads and sockets do not count: who waits for one of them is at rest. It works by looking at the tasks, so
    it takes no time, and works on asyncio's loop, on uvloop and on a virtual clock.

    Args:
        max_turns: After how many turns of the loop to give up.

    Raises:
        RuntimeError: The loop did not come to rest; the message names tasks that kept moving.

    Example:
        ```python
        task = asyncio.create_task(reader())
        await quiescence()  # the reader has read all that there is
        ```
    """
    quiet = 0
    loop = asyncio.get_running_loop()
    for _ in range(max_turns):
        await asyncio.sleep(0)
        ready = getattr(loop, "_ready", None)  # callbacks that belong to no task; uvloop does not show them
        quiet = quiet + 1 if not ready and not _moving_tasks() else 0
        if quiet == _QUIET_TURNS:
            return
    names = ", ".join(task.get_name() for task in _moving_tasks()[:5]) or "callbacks of the loop"
    raise RuntimeError(f"the event loop did not come to rest within {max_turns} turns; what keeps moving: {names}")


@asynccontextmanager
async def assert_no_leftovers() -> AsyncIterator[None]:
    """Checks that nothing started inside is still running at the end.

    Yields:
        Nothing.

    Raises:
        AssertionError: A task is still there; the message names it.
    """
    before = asyncio.all_tasks()
    yield
    await quiescence()
    left = asyncio.all_tasks() - before
    assert not left, f"still running: {', '.join(sorted(task.get_name() for task in left))}"


def _moving_tasks() -> list[asyncio.Task[Any]]:
    current = asyncio.current_task()
    return [task for task in asyncio.all_tasks() if task is not current and not _rests(task)]


def _rests(task: asyncio.Task[Any]) -> bool:
    waiter = getattr(task, "_fut_waiter", None)
    return waiter is not None and not waiter.done()
