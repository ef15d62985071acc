"""User code that the type checkers have to accept, and to understand. It is never run."""

from collections.abc import AsyncIterator
from typing import Any, assert_type

from miniagents import (
    InteractionContext,
    Message,
    MessagePromise,
    MessageSequencePromise,
    MiniAgent,
    MiniAgents,
    miniagent,
)
from promising import FlatSequence, Promise, PromisingContext, StreamAppender, StreamedPromise


async def number(_: Promise[int]) -> int:
    return 1


async def letters(_: Any) -> AsyncIterator[str]:
    yield "a"


async def length(promise: StreamedPromise[str, int]) -> int:
    return len(promise.pieces_so_far)


class Rating(Message):
    stars: int


@miniagent
async def agent(ctx: InteractionContext, option: str = "") -> None:
    async for promise in ctx.message_promises:
        assert_type(promise, MessagePromise)
        ctx.reply([promise, "text", {"text": "x"}, [Message("y", role="user")]])


@miniagent(alias="OTHER")
async def other(ctx: InteractionContext) -> None:
    assert_type(await ctx.message_promises, tuple[Message, ...])


async def use() -> None:
    assert_type(await Promise(number), int)
    assert_type(await Promise(prefill_result="x"), str)
    stream = StreamedPromise(letters)
    assert_type(stream, StreamedPromise[str, tuple[str, ...]])
    assert_type(await stream, tuple[str, ...])
    async for piece in stream:
        assert_type(piece, str)
    whole = StreamedPromise(letters, resolver=length)
    assert_type(await whole, int)
    appender = StreamAppender[int]()
    assert_type(await StreamedPromise(appender), tuple[int, ...])
    sequence = FlatSequence[int, tuple[int, ...]](flatten=lambda item: [item], prefill_pieces=[1])
    assert_type(await sequence, tuple[int, ...])
    async with PromisingContext() as context:
        assert_type(await context.start_soon(use()), None)
    async with MiniAgents() as mini_agents:
        assert_type(mini_agents, MiniAgents)
    assert_type(agent, MiniAgent)
    replies = agent.fork(option="x").inquire(["a", Rating("b", stars=1)], option="y")
    assert_type(replies, MessageSequencePromise)
    async for promise in other.inquire(replies):
        async for token in promise:
            assert_type(token, str)
        assert_type((await promise).text, str | None)
