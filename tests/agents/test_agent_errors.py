"""Errors of agents: raised where the reply is consumed, or sent as messages."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents import ErrorMessage, InteractionContext, Message, MiniAgents, miniagent
from miniagents.testing import quiescence
from tests.promising.helpers import error_of, read_until_error


@miniagent
async def writer(ctx: InteractionContext, error: BaseException | None = None) -> None:
    """Fails after its first message."""
    ctx.reply("a page")
    raise error or ValueError("no ink")


@miniagent
async def editor(ctx: InteractionContext) -> None:
    """Reads what the writer writes."""
    await writer.inquire()


@miniagent
async def stutterer(ctx: InteractionContext, error: BaseException | None = None) -> None:
    """Fails in the middle of a message."""

    async def stream(promise: Any) -> AsyncIterator[str]:
        yield "I "
        yield "me"
        raise error or ValueError("stuck")

    ctx.reply([Message.promise(stream, role="assistant"), "the next message"])


async def test_error_arrives_where_the_reply_is_consumed() -> None:
    """Messages before the error can be read; the error says which agents it passed."""
    async with MiniAgents():
        replies = writer.inquire()
        messages, error = await read_until_error(replies)
        assert [str(message) for message in messages] == ["a page"]
        assert error is await error_of(replies)
        passed = await error_of(editor.inquire())
    assert passed.__notes__ == ["in WRITER, called by EDITOR", "in EDITOR"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_interrupts_of_an_agent_do_not_hang(kind: type[BaseException]) -> None:
    """A KeyboardInterrupt in an agent reaches whoever reads it, and else the exit of the context."""
    async with MiniAgents():
        assert isinstance(await error_of(writer.inquire(error=kind())), kind)
    with pytest.raises(kind):
        async with MiniAgents():
            writer.inquire(error=kind())


@pytest.mark.parametrize("how", ["call", "fork", "context"])
async def test_errors_as_messages(how: str) -> None:
    """The error comes as a message that reads well; what was replied before stays."""
    async with MiniAgents(errors_as_messages=how == "context"):
        agent = writer.fork(errors_as_messages=True) if how == "fork" else writer
        replies = agent.inquire(errors_as_messages=True) if how == "call" else agent.inquire()
        page, error = await replies
        assert [str(await message) async for message in replies] == ["a page", "ValueError: no ink"]
    assert str(page) == "a page"
    assert isinstance(error, ErrorMessage)
    assert (error.error_type, error.agent) == ("ValueError", "WRITER")
    assert "Traceback" not in str(error)


async def test_a_call_can_say_otherwise_than_its_context() -> None:
    """`errors_as_messages=False` on a call, or on a fork, wins."""
    async with MiniAgents(errors_as_messages=True):
        assert isinstance(await error_of(writer.inquire(errors_as_messages=False)), ValueError)
        assert isinstance(await error_of(writer.fork(errors_as_messages=False).inquire()), ValueError)


async def test_a_message_that_fails_in_mid_stream() -> None:
    """What came of it stays as a message marked `interrupted`, the error follows, and the others are there."""
    async with MiniAgents():
        replies = stutterer.inquire(errors_as_messages=True)
        begun, error, following = await replies
        first = await anext(aiter(replies))
        assert [token async for token in first] == ["I ", "me"]
    assert begun == Message("I me", role="assistant", interrupted=True)
    assert isinstance(error, ErrorMessage)
    assert str(following) == "the next message"


async def test_interrupts_stay_errors() -> None:
    """KeyboardInterrupt and the end of the input are no messages."""
    async with MiniAgents(errors_as_messages=True):
        for kind in (KeyboardInterrupt, EOFError):
            assert isinstance(await error_of(writer.inquire(error=kind())), kind)
            assert isinstance(await error_of(stutterer.inquire(error=kind())), kind)


async def test_cancelling_a_call_whose_errors_are_messages() -> None:
    """It cancels the agent behind it."""
    log: list[str] = []

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            log.append("ended")

    async with MiniAgents():
        replies = slow.inquire(errors_as_messages=True)
        await quiescence()
        assert replies.cancel()
        await quiescence()
        assert log == ["ended"]
        await error_of(replies)


async def test_an_unread_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The error of an agent whose reply nobody reads is reported when the context ends."""
    async with MiniAgents():
        writer.inquire()
    assert "WRITER failed" in caplog.text
    assert "no ink" in caplog.text
