"""`MiniAgents`: running, and handing messages to handlers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import miniagents
from miniagents import InteractionContext, Message, MessageSequence, MiniAgents, miniagent
from miniagents.testing import quiescence
from promising import PromisingContext, StreamAppender


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Replies with what it is sent."""
    ctx.reply(ctx.message_promises)


def test_run() -> None:
    """`run` takes coroutines and replies, several times, and is there as a function, too."""
    mini_agents = MiniAgents()

    async def main() -> str:
        assert MiniAgents.current() is mini_agents
        return str((await echo.inquire("x"))[0])

    assert mini_agents.run(main()) == "x"
    assert mini_agents.run(echo.inquire("Hi")) == (Message("Hi"),)
    assert miniagents.run(echo.inquire("Hi")) == (Message("Hi"),)


async def test_run_inside_a_loop() -> None:
    """In a running loop `run` says what to use, and `arun` works."""
    with pytest.raises(RuntimeError, match="arun"):
        MiniAgents().run(asyncio.sleep(0))
    assert await MiniAgents().arun(echo.inquire("Hi")) == (Message("Hi"),)


async def test_current_context() -> None:
    """The innermost open `MiniAgents` is found through contexts of other classes."""
    async with MiniAgents() as outer, PromisingContext():
        assert MiniAgents.current() is outer
    assert MiniAgents.current() is None


@pytest.mark.parametrize("how", ["constructor", "decorator"])
async def test_each_message_is_handed_over_once(how: str) -> None:
    """Handlers get each message object once, whatever way it takes, those inside of it first."""
    handed: list[Message] = []

    async def handler(message: Message) -> None:
        await asyncio.sleep(0)
        handed.append(message)

    context = MiniAgents(on_persist_message=handler if how == "constructor" else ())
    if how == "decorator":
        context.on_persist_message(handler)

    async def stream(_: Any) -> AsyncIterator[str]:
        yield "str"
        yield "eamed"

    async with context:
        inner = Message("inner")
        outer = Message("outer", about=[inner])
        replies = echo.inquire(["text", outer, Message.promise(stream)])
        await echo.inquire([replies, outer])
        appender = StreamAppender[str]()
        MessageSequence(Message.promise(appender)).close()
        with appender:
            appender.append("appended")
        Message.promise(stream, start_soon=False)
    assert sorted(str(message) for message in handed) == ["appended", "inner", "outer", "streamed", "text"]
    assert handed.index(inner) < handed.index(outer)


async def test_messages_of_other_contexts_are_not_handed_over() -> None:
    """A handler gets the messages of its own context only, and nothing when its context has ended."""
    handed: list[str] = []

    async def handler(message: Message) -> None:
        handed.append(str(message))

    async with MiniAgents(on_persist_message=handler):
        await echo.inquire("mine")
    async with MiniAgents():
        await echo.inquire("not mine")
    assert handed == ["mine"]


async def test_a_failing_message_is_not_handed_over_and_stays_unconsumed(caplog: pytest.LogCaptureFixture) -> None:
    """To persist is not to consume: the error of a message that nobody reads is still reported."""
    handed: list[Message] = []

    async def handler(message: Message) -> None:
        handed.append(message)

    async with MiniAgents(on_persist_message=handler):
        appender = StreamAppender[str]()
        MessageSequence(Message.promise(appender)).close()
        await quiescence()
        appender.close(ValueError("never read"))
    assert not handed
    assert "never read" in caplog.text


async def test_a_failing_handler_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The error of a handler is logged; an interrupt is raised at the exit."""

    async def failing(message: Message) -> None:
        raise ValueError("disk full")

    async def interrupting(message: Message) -> None:
        raise KeyboardInterrupt

    async with MiniAgents(on_persist_message=failing):
        assert await echo.inquire("x") == (Message("x"),)
    assert "disk full" in caplog.text
    with pytest.raises(KeyboardInterrupt):
        async with MiniAgents(on_persist_message=interrupting):
            await echo.inquire("x")
