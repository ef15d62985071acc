"""Errors of agents: raised where the reply is consumed, or sent as messages."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents import ErrorMessage, InteractionContext, Message, MiniAgents, miniagent
from miniagents.testing import Timeline, quiescence
from promising import StreamAppender
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


class Rating(Message):
    stars: int


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_typed_message_that_fails_in_mid_stream(streamed: bool) -> None:
    """No error leaves the reply, though the fields that were still to come are missing, or are not valid."""

    async def stream(promise: Any) -> AsyncIterator[str]:
        yield "good"
        if streamed:
            raise ValueError("stuck")  # before it has added the stars

    @miniagent
    async def critic(ctx: InteractionContext) -> None:
        ctx.reply([Rating.promise(stream) if streamed else Rating.promise(stream, stars="many"), "after"])

    async with MiniAgents():
        replies = critic.inquire(errors_as_messages=True)
        messages = await replies
        assert [str(await message) async for message in replies] == [str(message) for message in messages]
    begun, error, after = messages
    assert str(begun) == "good"
    assert begun.interrupted is True  # type: ignore[attr-defined]
    assert isinstance(error, ErrorMessage)
    assert error.error_type == ("ValueError" if streamed else "ValidationError")
    assert str(after) == "after"


async def test_metadata_is_known_early_where_errors_are_messages() -> None:
    """Who reads a message while it streams sees its role and its class, also where errors travel as messages."""

    async def stream(_: Any) -> AsyncIterator[str]:
        await asyncio.sleep(1)
        yield "token"

    @miniagent
    async def critic(ctx: InteractionContext) -> None:
        ctx.reply(Rating.promise(stream, stars=3, role="critic"))

    async with MiniAgents(errors_as_messages=True):
        async for message in critic.inquire():
            assert message.message_class is Rating
            async for _ in message:
                assert message.metadata == {"stars": 3, "role": "critic"}
            assert await message == Rating("token", stars=3, role="critic")


async def test_errors_as_messages_stream() -> None:
    """Where errors travel as messages each token still passes when it is there."""

    async def stream(_: Any) -> AsyncIterator[str]:
        for token in "abc":
            await asyncio.sleep(1)
            yield token
        raise ValueError("no d")

    @miniagent
    async def spell(ctx: InteractionContext) -> None:
        ctx.reply([Message.promise(stream), "next"])

    async with MiniAgents(errors_as_messages=True):
        timeline = Timeline()
        async for message in spell.inquire():
            async for token in message:
                timeline.note(token)
    assert timeline.entries == [(1.0, "a"), (2.0, "b"), (3.0, "c"), (3.0, "ValueError: no d"), (3.0, "next")]


async def test_the_next_agent_reads_the_error_message() -> None:
    """In a chain of agents the error of one is a message for the next, and names the agent that failed."""

    @miniagent
    async def forward(ctx: InteractionContext) -> None:
        ctx.reply(ctx.message_promises)

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        ctx.reply(["before", writer.inquire(), "after"])

    async with MiniAgents(errors_as_messages=True):
        messages = await forward.inquire(boss.inquire())
    assert [str(message) for message in messages] == ["before", "a page", "ValueError: no ink", "after"]
    assert [message.agent for message in messages if isinstance(message, ErrorMessage)] == ["WRITER"]


async def test_the_error_message_of_a_forwarded_error() -> None:
    """An agent that forwards replies which fail, with errors as messages for itself alone, ends with one message."""

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        ctx.reply(["before", writer.inquire()])

    async with MiniAgents():
        messages = await boss.inquire(errors_as_messages=True)
    assert [str(message) for message in messages] == ["before", "a page", "ValueError: no ink"]


@pytest.mark.parametrize(
    "error", [ValueError(), KeyError("k"), ValueError("two\nlines"), ExceptionGroup("g", [OSError()])], ids=repr
)
async def test_how_error_messages_read(error: Exception) -> None:
    """They have the class and the text of the error, and neither tracebacks nor notes nor paths."""
    async with MiniAgents():
        (_, message) = await writer.inquire(error=error, errors_as_messages=True)
    assert str(message).startswith(type(error).__name__)
    assert str(error) in str(message)
    for leak in ("Traceback", "in WRITER", ".py", "line "):
        assert leak not in str(message)
        assert leak not in message.model_dump_json()


async def test_scoped_options_do_not_reach_the_function() -> None:
    """`errors_as_messages` and `start_soon` are for the framework alone, the rest is for the function."""
    seen: list[dict[str, Any]] = []

    @miniagent
    async def agent(ctx: InteractionContext, **arguments: Any) -> None:
        seen.append(arguments)

    async with MiniAgents():
        fork = agent.fork(errors_as_messages=True, mine=1)
        await fork.inquire(yours=2, start_soon=False)
        await agent.inquire(errors_as_messages=True, mine=3)
        with fork.initiate_inquiry(errors_as_messages=False, yours=4) as call:
            pass
        await call.reply_sequence()
    assert seen == [{"mine": 1, "yours": 2}, {"mine": 3}, {"mine": 1, "yours": 4}]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["agent", "streamer", "generator", "appender", "wait_for", "coroutine", "nested"])
async def test_interrupts_from_everywhere(kind: type[BaseException], where: str) -> None:
    """An interrupt in any part of an agent reaches its reader, without a hang, and the loop goes on."""

    async def fail(_: Any = None) -> Any:
        await asyncio.sleep(0)
        raise kind

    async def generate(_: Any = None) -> AsyncIterator[str]:
        yield "x"
        raise kind

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        if where == "agent":
            await fail()
        elif where == "streamer":
            ctx.reply(Message.promise(generate))
        elif where == "generator":
            ctx.reply(generate())
        elif where == "appender":
            with StreamAppender[str]() as appender:
                ctx.reply(Message.promise(appender))
                raise kind
        elif where == "wait_for":
            ctx.wait_for(fail())
        elif where == "coroutine":
            ctx.reply(fail())
        else:
            ctx.reply(writer.inquire(error=kind()))

    async with MiniAgents():
        replies = agent.inquire()
        assert isinstance(await error_of(replies), kind)
        error: BaseException | None = None
        try:
            async for message in replies:
                await message
        except BaseException as raised:
            error = raised
        assert isinstance(error, kind)
        assert await miniagent(_fine).inquire() == (Message("fine"),)
    with pytest.raises(kind):
        async with MiniAgents():
            agent.inquire()


async def _fine(ctx: InteractionContext) -> None:
    ctx.reply("fine")


async def test_notes_of_a_chain() -> None:
    """Each agent that an error passes adds one line, from the inside out."""

    @miniagent
    async def relay(ctx: InteractionContext, depth: int) -> None:
        await (relay.fork(alias=f"R{depth - 1}").inquire(depth=depth - 1) if depth else writer.inquire())

    async with MiniAgents():
        error = await error_of(relay.fork(alias="R2").inquire(depth=2))
    assert error.__notes__ == ["in WRITER, called by R0", "in R0, called by R1", "in R1, called by R2", "in R2"]


async def test_a_forwarding_agent_adds_no_note() -> None:
    """An error that is merely handed on has not passed the agent that hands it on."""

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        ctx.reply(writer.inquire())

    async with MiniAgents():
        error = await error_of(boss.inquire())
    assert error.__notes__ == ["in WRITER, called by BOSS"]


async def test_the_same_error_for_everybody_with_one_traceback() -> None:
    """However many consumers read a failed reply, all get the same error, whose traceback does not grow."""
    async with MiniAgents():
        replies = writer.inquire()
        lengths = []
        for _ in range(5):
            error = await error_of(replies)
            lengths.append(len(traceback.extract_tb(error.__traceback__)))
    assert len(set(lengths)) == 1
    assert "raise error or ValueError" in "".join(traceback.format_exception(error))


async def test_an_error_after_the_end_of_the_reply(caplog: pytest.LogCaptureFixture) -> None:
    """An agent that fails after `finish_early()` has a good reply; its error is reported at the end of the context."""

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        ctx.reply("good")
        ctx.finish_early()
        await asyncio.sleep(0)
        raise ValueError("afterwards")

    async with MiniAgents():
        assert await agent.inquire() == (Message("good"),)
    assert caplog.text.count("ValueError: afterwards") == 1


async def test_an_error_is_reported_once_or_not_at_all(caplog: pytest.LogCaptureFixture) -> None:
    """What somebody has caught is not logged; what passed through three agents to nobody is logged once."""
    async with MiniAgents():
        await error_of(editor.inquire())
    assert not caplog.records
    async with MiniAgents():
        boss = miniagent(_boss)
        boss.inquire()
    assert len(caplog.records) == 1


async def _boss(ctx: InteractionContext) -> None:
    await editor.inquire()


async def test_a_failing_agent_closes_its_appenders() -> None:
    """A stream that the failing agent was feeding ends with its error, after what has come."""

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        appender = StreamAppender[str]()
        ctx.reply(Message.promise(appender))
        appender.append("so far")
        raise ValueError("broken")

    async with MiniAgents():
        replies = agent.inquire()
        promise = await anext(aiter(replies))
        tokens, error = await read_until_error(promise)
        assert tokens == ["so far"]
        assert error is await error_of(replies)
        begun, message = await agent.inquire(errors_as_messages=True)
        assert (str(begun), begun.interrupted) == ("so far", True)  # type: ignore[attr-defined]
        assert str(message) == "ValueError: broken"


@pytest.mark.parametrize("wrong", [StopIteration, StopAsyncIteration, GeneratorExit])
async def test_errors_that_would_be_taken_for_an_end(wrong: type[BaseException]) -> None:
    """They arrive as a RuntimeError, so that no reader takes them for a clean end."""

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        ctx.reply("x")
        raise wrong

    async with MiniAgents():
        messages, error = await read_until_error(agent.inquire())
    assert len(messages) == 1
    assert isinstance(error, RuntimeError)
    assert wrong.__name__ in str(error)


async def test_wrong_arguments() -> None:
    """Arguments that the function does not take are an error of the call, which names the function."""
    async with MiniAgents():
        error = await error_of(writer.inquire(colour="red"))
        assert isinstance(error, TypeError)
        assert "writer" in str(error)
        assert "colour" in str(error)
