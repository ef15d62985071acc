"""A text that streams through ten agents. Its first token is here before the last one has been made."""

import asyncio
from collections.abc import AsyncIterator

from miniagents import InteractionContext, Message, MessagePromise, MiniAgents, miniagent
from promising import StreamAppender

told = asyncio.Event()


@miniagent
async def storyteller(ctx: InteractionContext) -> None:
    """Tells a story, a word every 20 milliseconds."""

    async def stream(_: MessagePromise) -> AsyncIterator[str]:
        for word in ["Once ", "upon ", "a ", "time ", "there ", "were ", "ten ", "agents ", "in ", "a ", "row."]:
            await asyncio.sleep(0.02)
            yield word
        told.set()

    ctx.reply(Message.promise(stream))


@miniagent
async def relay(ctx: InteractionContext) -> None:
    """Reads each token and appends it to a message of its own."""
    async for received in ctx.message_promises:
        with StreamAppender[str]() as appender:
            ctx.reply(Message.promise(appender))
            async for token in received:
                appender.append(token)


async def main() -> None:
    replies = storyteller.inquire()
    for _ in range(10):
        replies = relay.inquire(replies)
    async for message_promise in replies:
        async for number, token in _enumerated(message_promise):
            if number == 0:
                print(f"(the story is {'finished' if told.is_set() else 'not finished'}) ", end="")
            print(token, end="", flush=True)
    print()


async def _enumerated(message_promise: MessagePromise) -> AsyncIterator[tuple[int, str]]:
    number = 0
    async for token in message_promise:
        yield number, token
        number += 1


if __name__ == "__main__":
    MiniAgents().run(main())
