"""Three agents that work at the same time under a fourth, which hands on what they say while they say it."""

import asyncio
from collections.abc import AsyncIterator

from miniagents import InteractionContext, Message, MessagePromise, MiniAgents, miniagent


@miniagent
async def critic(ctx: InteractionContext, name: str, opinion: str) -> None:
    """Says what it thinks, slowly."""

    async def stream(_: MessagePromise) -> AsyncIterator[str]:
        for word in f"{name}: {opinion}".split(" "):
            await asyncio.sleep(0.05)
            yield f"{word} "

    ctx.reply(Message.promise(stream))


@miniagent
async def panel(ctx: InteractionContext) -> None:
    """Asks all critics at once. Nothing is awaited here: the replies are handed on while they stream."""
    ctx.reply(
        [
            critic.inquire(ctx.message_promises, name="Ada", opinion="it computes, and that is what matters."),
            critic.inquire(ctx.message_promises, name="Blaise", opinion="it would have been shorter with more time."),
            critic.inquire(ctx.message_promises, name="Charles", opinion="the gears are too small."),
        ]
    )


async def main() -> None:
    async for message_promise in panel.inquire("What do you think of this engine?"):
        async for token in message_promise:
            print(token, end="", flush=True)
        print()


if __name__ == "__main__":
    MiniAgents().run(main())
