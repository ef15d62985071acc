"""Cancelling agents: the whole tree below a call, and nothing beside it."""

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from miniagents import InteractionContext, Message, MessageSequencePromise, MiniAgents, miniagent
from miniagents.testing import ScriptedModel, ScriptedReply, Timeline, assert_no_leftovers, quiescence
from promising import PromiseCancelledError, StreamAppender, detached
from tests.promising.helpers import error_of, read_until_error


class Log(list[str]):
    """What agents have noted, and an agent that works until it is cancelled."""

    def __init__(self) -> None:
        self.worker = miniagent(self._work, alias="WORKER")

    async def _work(self, ctx: InteractionContext, name: str, seconds: float = 10) -> None:
        self.append(f"{name} starts")
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.append(f"{name} is cancelled")
            raise
        ctx.reply(name)
        self.append(f"{name} ends")

    @property
    def cancelled(self) -> list[str]:
        return sorted(entry.removesuffix(" is cancelled") for entry in self if entry.endswith(" is cancelled"))


@miniagent
async def forward(ctx: InteractionContext) -> None:
    """Replies with what it is sent."""
    ctx.reply(ctx.message_promises)


async def slow_tokens(_: Any) -> AsyncIterator[str]:
    """Streams a token each second, ten in all."""
    for number in range(10):
        await asyncio.sleep(1)
        yield str(number)


@pytest.mark.parametrize("depth", [1, 2, 30])
@pytest.mark.parametrize("way", ["awaited", "forwarded", "unread"])
async def test_sub_agents_are_cancelled(depth: int, way: str) -> None:
    """Cancelling a reply cancels what the agent has called, however deep, and however it uses the replies."""
    log = Log()

    @miniagent
    async def boss(ctx: InteractionContext, depth: int) -> None:
        called = boss.inquire(depth=depth - 1) if depth else log.worker.inquire(name="worker")
        if way == "awaited":
            await called
        elif way == "forwarded":
            ctx.reply(called)
        else:
            await asyncio.sleep(1_000)

    async with MiniAgents():
        timeline = Timeline()
        replies = boss.inquire(depth=depth)
        await quiescence()
        assert replies.cancel()
        error = await error_of(replies)
        assert isinstance(error, PromiseCancelledError)
        assert await read_until_error(replies) == ([], error)
    assert timeline.elapsed == 0
    assert log == ["worker starts", "worker is cancelled"]


async def test_what_was_received_is_left_alone() -> None:
    """What the agent was sent goes on, whether it is read, forwarded or ignored."""
    log = Log()

    @miniagent
    async def reads(ctx: InteractionContext) -> None:
        ctx.reply(ctx.message_promises)
        await ctx.message_promises

    async with MiniAgents():
        sent = log.worker.inquire(name="sent")
        reader, forwarder = reads.inquire([sent, Message("x")]), forward.inquire(sent)
        await quiescence()
        assert reader.cancel()
        forwarder.cancel()
        assert [str(message) for message in await sent] == ["sent"]
        assert [str(message) for message in await forwarder] == ["sent"]
    assert log == ["sent starts", "sent ends"]


async def test_an_agent_that_has_ended_and_forwards() -> None:
    """Cancelling the reply of an agent that has called, forwarded and ended stops what it has called."""
    log = Log()

    @miniagent
    async def delegate(ctx: InteractionContext) -> None:
        ctx.reply(["before", log.worker.inquire(name="called")])

    async with MiniAgents():
        replies = delegate.inquire()
        await quiescence()
        assert replies.cancel()
        messages, error = await read_until_error(replies)
        assert [str(message) for message in messages] == ["before"]
        assert isinstance(error, PromiseCancelledError)
        await quiescence()
        assert not replies.cancel()
    assert log.cancelled == ["called"]


async def test_streams_of_an_agent_are_cancelled() -> None:
    """The stream that an agent has replied with ends where it is; its tokens so far stay, for readers of copies too."""

    @miniagent
    async def speak(ctx: InteractionContext) -> None:
        ctx.reply(Message.promise(slow_tokens))

    async with MiniAgents():
        timeline = Timeline()
        replies = speak.inquire()
        copies = forward.inquire(forward.inquire(replies))
        await asyncio.sleep(3.5)
        assert replies.cancel()
        for sequence in (replies, copies):
            promise = await anext(aiter(sequence))
            tokens, error = await read_until_error(promise)
            assert tokens == ["0", "1", "2"]
            assert isinstance(error, PromiseCancelledError)
            assert error is await error_of(promise)
    assert timeline.elapsed == 3.5


async def test_appenders_of_an_agent_are_cancelled() -> None:
    """A stream that the agent feeds itself ends with the cancellation, so that no reader waits for ever."""

    @miniagent
    async def speak(ctx: InteractionContext) -> None:
        appender = StreamAppender[str]()
        ctx.reply(Message.promise(appender))
        appender.append("begun")
        await asyncio.sleep(10)

    async with MiniAgents():
        replies = speak.inquire()
        await quiescence()
        promise = await anext(aiter(replies))
        assert replies.cancel()
        tokens, error = await read_until_error(promise)
        assert tokens == ["begun"]
        assert isinstance(error, PromiseCancelledError)


async def test_generators_of_an_agent_are_cancelled() -> None:
    """An async generator that was replied is closed, with its `finally`."""
    log: list[str] = []

    async def generate() -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.sleep(10)
        finally:
            log.append("closed")

    @miniagent
    async def speak(ctx: InteractionContext) -> None:
        ctx.reply(generate())

    async with MiniAgents():
        replies = speak.inquire()
        await quiescence()
        assert replies.cancel()
        messages, error = await read_until_error(replies)
        assert [str(message) for message in messages] == ["one"]
        assert isinstance(error, PromiseCancelledError)
    assert log == ["closed"]


async def test_waited_for_work_is_cancelled() -> None:
    """Work that keeps the reply open is cancelled along with it, if the agent has started it."""
    log = Log()

    @miniagent
    async def speak(ctx: InteractionContext, given: MessageSequencePromise) -> None:
        async def work() -> None:
            await log.worker.inquire(name="own")

        ctx.wait_for(work())
        ctx.wait_for(given)

    async with MiniAgents():
        given = log.worker.inquire(name="given")
        replies = speak.inquire(given=given)
        await quiescence()
        assert replies.cancel()
        assert [str(message) for message in await given] == ["given"]
    assert log.cancelled == ["own"]


async def test_detached_work_goes_on() -> None:
    """What an agent has started as detached is not cancelled with it."""
    log = Log()

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        with detached():
            log.worker.inquire(name="detached")
        log.worker.inquire(name="own")
        await asyncio.sleep(10)

    async with MiniAgents():
        replies = boss.inquire()
        await quiescence()
        assert replies.cancel()
    assert log.cancelled == ["own"]
    assert "detached ends" in log


async def test_cancelled_before_it_starts() -> None:
    """An agent that is cancelled before its first step never runs, and its consumers get the error."""
    log = Log()
    async with MiniAgents():
        for start_soon in (True, False):
            replies = log.worker.inquire(name="x", start_soon=start_soon)
            assert replies.cancel()
            assert isinstance(await error_of(replies), PromiseCancelledError)
            assert not replies.cancel()
    assert not log


async def test_a_finished_reply() -> None:
    """Cancelling what has ended changes nothing."""
    async with MiniAgents():
        replies = forward.inquire("x")
        messages = await replies
        assert not replies.cancel()
        assert await replies == messages == (Message("x"),)


async def test_cancelling_a_reader_disturbs_nobody() -> None:
    """Of three readers one is cancelled; the others, and the agent, do not notice."""
    log = Log()
    async with MiniAgents():
        replies = log.worker.inquire(name="x")
        readers = [asyncio.ensure_future(replies) for _ in range(3)]
        await quiescence()
        readers[0].cancel()
        assert [str(message) for reader in readers[1:] for message in await reader] == ["x", "x"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(log.worker.inquire(name="y"), 1)
    assert readers[0].cancelled()
    assert log == ["x starts", "x ends", "y starts", "y ends"]


async def test_the_consumer_of_a_cancelled_agent_can_go_on() -> None:
    """For an agent the cancellation of somebody else is an ordinary error, which it can catch."""
    log = Log()

    @miniagent
    async def tolerant(ctx: InteractionContext) -> None:
        try:
            await ctx.message_promises
        except PromiseCancelledError:
            ctx.reply("without it")

    async with MiniAgents():
        replies = log.worker.inquire(name="x")
        answer = tolerant.inquire(replies)
        await quiescence()
        replies.cancel()
        assert await answer == (Message("without it"),)


async def test_an_agent_that_cleans_up() -> None:
    """Consumers go on at once, the context waits for the clean-up, and nothing can be replied any more."""
    timeline = Timeline()

    @miniagent
    async def careful(ctx: InteractionContext) -> None:
        try:
            ctx.reply("before")
            await asyncio.sleep(100)
        finally:
            with pytest.raises(PromiseCancelledError):
                ctx.reply("too late")
            await asyncio.sleep(5)
            timeline.note("cleaned up")

    async with MiniAgents():
        replies = careful.inquire()
        await quiescence()
        assert replies.cancel()
        messages, error = await read_until_error(replies)
        timeline.note("consumer")
        assert [str(message) for message in messages] == ["before"]
        assert isinstance(error, PromiseCancelledError)
    assert timeline.entries == [(0.0, "consumer"), (5.0, "cleaned up")]


async def test_an_agent_that_swallows_its_cancellation() -> None:
    """It goes on, but its consumers have the cancellation already; the context waits for it."""
    log: list[str] = []

    @miniagent
    async def stubborn(ctx: InteractionContext) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        log.append("went on")

    async with MiniAgents():
        replies = stubborn.inquire()
        await quiescence()
        replies.cancel()
        assert isinstance(await error_of(replies), PromiseCancelledError)
    assert log == ["went on"]


async def test_an_agent_that_cancels_itself() -> None:
    """A CancelledError out of an agent is the error of its call, never the cancellation of a consumer."""

    @miniagent
    async def suicidal(ctx: InteractionContext) -> None:
        raise asyncio.CancelledError

    async with MiniAgents():
        error = await error_of(suicidal.inquire())
        assert isinstance(error, PromiseCancelledError)
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_leaving_the_context_by_an_error() -> None:
    """All agents are cancelled, and the error is what is raised."""
    log = Log()
    async with assert_no_leftovers():
        with pytest.raises(ValueError, match="out"):
            async with MiniAgents():
                forward.inquire([log.worker.inquire(name="a"), log.worker.inquire(name="b")])
                await quiescence()
                raise ValueError("out")
    assert log.cancelled == ["a", "b"]


async def test_cancelling_the_task_that_runs_a_context() -> None:
    """It cancels the agents in it."""
    log = Log()
    task = asyncio.create_task(MiniAgents().arun(log.worker.inquire(name="a")))
    await quiescence()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.cancelled == ["a"]


@pytest.mark.parametrize("turns", range(14))
async def test_cancelled_at_every_step(turns: int) -> None:
    """Wherever an agent stands when it is cancelled: readers get an end, nothing is left, nobody else is disturbed."""

    @miniagent
    async def step(ctx: InteractionContext) -> None:
        await asyncio.sleep(0)
        ctx.reply("one")
        async for message in ctx.message_promises:
            async for token in message:
                ctx.reply(token)
        with StreamAppender[str]() as appender:
            ctx.reply(Message.promise(appender))
            await asyncio.sleep(0)
            appender.append("two")
        (reply,) = await forward.inquire("three")
        ctx.reply([reply, forward.inquire(bystander)])

    async def tokens(_: Any) -> AsyncIterator[str]:
        for token in "ab":
            await asyncio.sleep(0)
            yield token

    async with assert_no_leftovers(), MiniAgents():
        sent, bystander = Message.promise(tokens), Message.promise(tokens)
        replies = step.inquire(sent)
        reader = asyncio.create_task(read_until_error(replies))
        for _ in range(turns):
            await asyncio.sleep(0)
        stopped = replies.cancel()
        messages, error = await reader
        if stopped:
            assert isinstance(error, PromiseCancelledError) or error is None
        else:
            assert error is None
        for message in messages:
            await read_until_error(message)
        if error is None:
            texts = [str(message) if message.done() else "" for message in messages]
            assert texts == ["one", "a", "b", "two", "three", "ab"]
        assert str(await sent) == str(await bystander) == "ab"
        again, same = await read_until_error(replies)
        assert again == messages
        assert same is error


async def test_a_model_stops_at_once() -> None:
    """Cancelling an agent does not wait for the next token of the model that it has called."""
    async with MiniAgents():
        with ScriptedModel(ScriptedReply("a b c", seconds_per_token=100)) as model:

            @miniagent
            async def ask(ctx: InteractionContext) -> None:
                ctx.reply(model.agent.inquire(ctx.message_promises))

            timeline = Timeline()
            replies = ask.inquire("?")
            await asyncio.sleep(150)
            assert replies.cancel()
            tokens, error = await read_until_error(await anext(aiter(replies)))
            assert tokens == ["a "]
            assert isinstance(error, PromiseCancelledError)
    assert timeline.elapsed == 150


@pytest.mark.parametrize("how", ["replied", "waited for", "sent", "in a list"])
async def test_coroutines_that_are_cancelled_before_they_start(how: str) -> None:
    """A coroutine that was handed over and never gets to run is closed, without a warning that nobody awaited it."""

    async def late() -> str:
        raise AssertionError("this runs though it was cancelled before")

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        if how == "waited for":
            ctx.wait_for(late())
        else:
            ctx.reply(["x", late()] if how == "in a list" else late())
        replies.cancel()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with suppress(KeyError):
            async with MiniAgents():
                if how == "sent":
                    forward.inquire(late())
                    raise KeyError  # everything is cancelled
                replies = agent.inquire()
                await error_of(replies)
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
