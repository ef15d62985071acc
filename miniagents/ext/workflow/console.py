"""Asking the person at the console: one question at a time, in whichever order states ask."""

import asyncio
import sys
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from miniagents.agents import MiniAgent, miniagent
from miniagents.interaction import InteractionContext

if TYPE_CHECKING:
    from miniagents.ext.console import Console

__all__ = ["console_asker", "person_at_console"]

_consoles: "WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Console, asyncio.Lock]]" = WeakKeyDictionary()


@miniagent(alias="CONSOLE")
async def console_asker(ctx: InteractionContext) -> None:
    """Shows what it is sent, reads a line, and replies with it."""
    prompt = await ctx.message_promises.as_single_promise()
    console, turn = _console_of(asyncio.get_running_loop())
    async with turn:
        console.write(f"{prompt}\n")
        ctx.reply(await console.read())


def person_at_console() -> MiniAgent | None:
    """The agent that asks at the console, if there is somebody."""
    return console_asker if sys.stdin is not None and sys.stdin.isatty() else None


def _console_of(loop: asyncio.AbstractEventLoop) -> "tuple[Console, asyncio.Lock]":
    from miniagents.ext.console import console_here

    if loop not in _consoles:
        _consoles[loop] = console_here(), asyncio.Lock()
    return _consoles[loop]
