"""`file_agent`: writes what it is sent to a file, and passes it on."""

import os
from pathlib import Path

from miniagents.agents import miniagent
from miniagents.interaction import InteractionContext

__all__ = ["file_agent"]


@miniagent
async def file_agent(ctx: InteractionContext, file: str | os.PathLike[str], delimiter: str = "\n\n") -> None:
    """Writes the text of what it is sent to a file while it streams, and replies with it.

    Args:
        ctx: What is sent.
        file: Where to write. What was in the file is replaced; folders on the way to it are made.
        delimiter: What stands between two messages.
    """
    ctx.reply(ctx.message_promises)
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="replace", newline="") as target:  # noqa: ASYNC230  (a local file)
        async for token in ctx.message_promises.as_single_promise(delimiter):
            target.write(token)
            target.flush()
