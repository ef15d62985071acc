"""Functions that block, in threads."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Runs a function in a thread, with the context variables of this place.

    Args:
        function: The function.
        *args: Its arguments.
        **kwargs: Its arguments by name.

    Returns:
        What it returns.

    Raises:
        RuntimeError: It has raised `StopIteration`, which no future takes: who waits for it would do so for ever.
    """

    def guarded() -> T:
        try:
            return function(*args, **kwargs)
        except StopIteration as error:
            raise RuntimeError(f"{function!r:.100} raised StopIteration") from error

    return await asyncio.to_thread(guarded)
