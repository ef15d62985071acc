"""What has happened by the time that nothing moves any more: a wait that would last for ever fails instead."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from miniagents.testing import quiescence


async def outcome(awaitable: Awaitable[Any]) -> Any:
    """The value of an awaitable, or the error that it raises."""
    try:
        return await awaitable
    except BaseException as error:
        return error


async def at_rest(awaitable: Awaitable[Any]) -> Any:
    """The value or the error that an awaitable has brought when all is at rest."""
    task = asyncio.ensure_future(outcome(awaitable))
    await quiescence()
    if not task.done():
        for _ in range(10):  # who catches a cancellation may wait again
            task.cancel()
            await asyncio.sleep(0)
        raise AssertionError("all is at rest, and it still waits: it would wait for ever")
    return task.result()


async def turns(count: int) -> None:
    """Lets the loop make some turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def forever(_: Any = None) -> None:
    """Waits until it is cancelled."""
    await asyncio.get_running_loop().create_future()
