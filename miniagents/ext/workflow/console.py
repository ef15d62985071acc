"""Asking the person at the console: one question at a time, in whichever order states ask."""

import asyncio
import sys
from weakref import WeakKeyDictionary

from miniagents.agents import MiniAgent, miniagent
from miniagents.interaction import InteractionContext

__all__ = ["console_asker", "person_at_console"]

_turns: "WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]" = WeakKeyDictionary()


@miniagent(alias="CONSOLE")
async def console_asker(ctx: InteractionContext) -> None:
    """Shows what it is sent, reads a line, and replies with it."""
    from miniagents.ext.console import console_here

    prompt = await ctx.message_promises.as_single_promise()
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        console = console_here()
        console.write(f"{prompt}\n")
        ctx.reply(await console.read())


def person_at_console() -> MiniAgent | None:
    """The agent that asks at the console, if there is somebody."""
    return console_asker if sys.stdin is not None and sys.stdin.isatty() else None
