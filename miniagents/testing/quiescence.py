"""Waiting until nothing moves any more, in place of sleeping and hoping."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import AsyncGeneratorType
from typing import Any
from weakref import WeakSet

__all__ = ["assert_no_leftovers", "quiescence"]

_QUIET_TURNS = 3
_QUIET_TURNS_WITHOUT_QUEUE = 100


async def quiescence(*, max_turns: int = 100_000) -> None:
    """Waits until every other task of the loop waits for something that has not happened.

    Timers, threads and sockets do not count: who waits for one of them is at rest. It works by looking at the tasks, so
    it takes no time, and works on asyncio's loop, on uvloop and on a virtual clock. On uvloop, where the queue of
    callbacks cannot be seen, more than a hundred that call each other in a row without a task are missed.

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
    enough = _QUIET_TURNS if hasattr(loop, "_ready") else _QUIET_TURNS_WITHOUT_QUEUE
    for _ in range(max_turns):
        await asyncio.sleep(0)
        ready = getattr(loop, "_ready", None)  # callbacks that belong to no task; uvloop does not show them
        quiet = quiet + 1 if not ready and not _moving_tasks() else 0
        if quiet == enough:
            return
    names = ", ".join(task.get_name() for task in _moving_tasks()[:5]) or "callbacks of the loop"
    raise RuntimeError(f"the event loop did not come to rest within {max_turns} turns; what keeps moving: {names}")


@asynccontextmanager
async def assert_no_leftovers() -> AsyncIterator[None]:
    """Checks that nothing started inside is still running at the end.

    Yields:
        Nothing.

    Raises:
        AssertionError: A task is still there, or an async generator that was begun inside and neither ended nor was
            closed; the message names it.
    """
    before = asyncio.all_tasks()
    begun: WeakSet[AsyncGeneratorType[Any, Any]] = WeakSet()
    of_loop = sys.get_asyncgen_hooks().firstiter

    def note(generator: AsyncGenerator[Any, Any]) -> None:
        if isinstance(generator, AsyncGeneratorType):
            begun.add(generator)
        if of_loop is not None:
            of_loop(generator)

    sys.set_asyncgen_hooks(firstiter=note)
    try:
        yield
        await quiescence()
    finally:
        sys.set_asyncgen_hooks(firstiter=of_loop)
    open_ones = sorted(generator.__qualname__ for generator in begun if generator.ag_frame is not None)
    left = asyncio.all_tasks() - before
    assert not left, f"still running: {', '.join(sorted(task.get_name() for task in left))}"
    assert not open_ones, f"async generators still open: {', '.join(open_ones)}"


def _moving_tasks() -> list[asyncio.Task[Any]]:
    current = asyncio.current_task()
    return [task for task in asyncio.all_tasks() if task is not current and not _rests(task)]


def _rests(task: asyncio.Task[Any]) -> bool:
    waiter = getattr(task, "_fut_waiter", None)
    return waiter is not None and not waiter.done()
