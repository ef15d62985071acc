"""A process that calls a cached agent: what the tests of several processes start.

It takes the address of a Redis server, a prefix, a number of calls and the seconds of the lease, and prints what the
calls were answered, in one line of JSON. The agent counts its runs in Redis, says that it has begun, and waits for
whatever it is told there.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.cache import RedisCache, cached
from tests.ext.cache.cached_helpers import pieces_of


class Answer(Message):
    at: list[int]


async def main(url: str, prefix: str, calls: str, lease: str) -> None:
    """Makes the calls."""
    async with RedisCache.from_url(url, default_prefix=prefix) as cache, MiniAgents():

        @miniagent
        async def worker(ctx: InteractionContext) -> None:
            async def tokens(_: Any) -> AsyncIterator[str]:
                yield f"run {await cache.increment('runs')} "
                await cache.publish_to_mailbox("begun", os.getpid())
                told = await cache.get_message("told")
                if told == "fail":
                    raise ValueError("told to fail")
                yield told

            ctx.reply(Answer.promise(tokens, at=[1, 2]))

        agent = cached(worker, cache=cache, lease=float(lease))
        replies = [agent.inquire("Hi") for _ in range(int(calls))]
        await cache.publish_to_mailbox("called", os.getpid())
        answers: list[Any] = []
        for reply in replies:
            try:
                answers.append(pieces := await pieces_of(reply))
                assert await reply == (Answer("".join(pieces[0]), at=[1, 2]),)
            except ValueError as error:
                answers.append(repr(error))
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
