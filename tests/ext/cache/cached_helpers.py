"""What the tests of cached agents share."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from miniagents import InteractionContext, Message, MessageSequencePromise, miniagent


class Numbered(Message):
    number: int


class Work:
    """An agent whose runs are counted. Each streams a token, waits at a gate, and streams the rest.

    Args:
        error: What it raises behind the gate.
        at_once: Whether the gate is open from the start.
    """

    def __init__(self, error: BaseException | None = None, *, at_once: bool = False) -> None:
        self.error = error
        self.runs = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        if at_once:
            self.gate.set()
        self.agent = miniagent(self._work, alias="WORKER")

    async def _work(self, ctx: InteractionContext, **_: Any) -> None:
        self.runs += 1
        number = self.runs

        async def tokens(promise: Any) -> AsyncIterator[str]:
            try:
                yield f"run {number} "
                await self.gate.wait()
                if self.error is not None:
                    raise self.error
                yield "is "
                yield "done"
                promise.add_metadata(number=number)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

        ctx.reply(Numbered.promise(tokens, role="assistant"))


RUN_1 = [["run 1 ", "is ", "done"]]


async def pieces_of(replies: MessageSequencePromise) -> list[list[str]]:
    """The tokens of each message."""
    return [[token async for token in promise] async for promise in replies]


async def number_of(replies: MessageSequencePromise) -> int:
    """The number of the run that a reply of `Work` is of."""
    (message,) = await replies
    assert isinstance(message, Numbered)
    return message.number


async def first_token_of(replies: MessageSequencePromise) -> str:
    """The first token; the reader leaves then."""
    async for promise in replies:
        async for token in promise:
            return token
    raise AssertionError("there is no token")
