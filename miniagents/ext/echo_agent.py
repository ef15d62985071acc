"""`echo_agent`: replies with what it is sent."""

from miniagents.agents import miniagent
from miniagents.interaction import InteractionContext

__all__ = ["echo_agent"]


@miniagent
async def echo_agent(ctx: InteractionContext) -> None:
    """Replies with what it is sent, by reference: tokens pass as they come."""
    ctx.reply(ctx.message_promises)
