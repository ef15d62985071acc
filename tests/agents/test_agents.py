"""Agents: called by messages, answering with promises of messages."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from miniagents import (
    InteractionContext,
    Message,
    MessagePromise,
    MessageSequence,
    MessageSequencePromise,
    MiniAgent,
    MiniAgents,
    miniagent,
)
from miniagents.testing import Timeline, quiescence, run_with_virtual_clock
from promising import Promise, PromiseCancelledError, StreamAppender, StreamClosedError
from tests.promising.helpers import error_of


@miniagent
async def forward(ctx: InteractionContext) -> None:
    """Replies with what it is sent."""
    ctx.reply(ctx.message_promises)


@miniagent
async def greet(ctx: InteractionContext, greeting: str = "Hello", mark: str = "") -> None:
    """Greets."""
    ctx.reply(f"{greeting} {await ctx.message_promises.as_single_promise()}{mark}")


async def texts(replies: MessageSequencePromise) -> list[str]:
    """Reads a reply both ways, and gives its texts."""
    streamed = ["".join([token async for token in message]) async for message in replies]
    assert streamed == [str(message) for message in await replies]
    return streamed


async def test_call() -> None:
    """A call returns at once, and its reply can be awaited and iterated."""
    async with MiniAgents():
        replies = greet.inquire("Ada")
        assert not replies.done()
        assert await texts(replies) == ["Hello Ada"]
        assert await greet.inquire(greet.inquire("Ada"), greeting="Well,") == (Message("Well, Hello Ada"),)


async def test_forks_do_not_affect_each_other() -> None:
    """A fork is a new agent; the one it comes from, and its other forks, stay as they were."""
    polite = greet.fork(greeting="Good evening,", alias="POLITE", description="Greets politely.")
    loud = polite.fork(mark="!")
    async with MiniAgents():
        assert await texts(polite.inquire("Ada")) == ["Good evening, Ada"]
        assert await texts(loud.inquire("Ada", greeting="Hey")) == ["Hey Ada!"]
        assert await texts(greet.inquire("Ada")) == ["Hello Ada"]
    assert (polite.alias, loud.alias, greet.alias) == ("POLITE", "POLITE", "GREET")
    assert (polite.description, greet.description) == ("Greets politely.", "Greets.")
    assert "Good evening" not in repr(polite)


async def test_classes_are_agents() -> None:
    """Of a class an instance is made for each call, with the arguments of the call."""

    @miniagent
    @dataclass
    class Counter:
        step: int
        count: int = 0

        async def __call__(self, ctx: InteractionContext) -> None:
            self.count += self.step
            ctx.reply(str(self.count))

    @miniagent(alias="named")
    class Model(BaseModel):
        word: str

        async def __call__(self, ctx: InteractionContext) -> None:
            ctx.reply(self.word)

    async with MiniAgents():
        assert await texts(Counter.fork(step=2).inquire()) == ["2"]
        assert await texts(Counter.inquire(step=3, count=1)) == ["4"]
        assert await texts(Model.inquire(word="w")) == ["w"]
    assert (Counter.alias, Model.alias) == ("COUNTER", "named")


async def _later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def _generate(*values: Any) -> AsyncIterator[Any]:
    for value in values:
        await asyncio.sleep(0)
        yield value


def _appended() -> MessagePromise:
    with StreamAppender[str]() as appender:
        appender.append("app").append("ended")
    return Message.promise(appender)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: "text", ["text"]),
        (lambda: None, []),
        (lambda: Message("m"), ["m"]),
        (lambda: {"text": "d", "role": "user"}, ["d"]),
        (lambda: ["a", ("b", [Message("c"), []]), None], ["a", "b", "c"]),
        (lambda: (letter for letter in "ab"), ["a", "b"]),
        (lambda: _generate("a", ["b", _generate("c")]), ["a", "b", "c"]),
        (lambda: Promise(lambda _: _later(["p", "q"])), ["p", "q"]),
        (lambda: _later("coroutine"), ["coroutine"]),
        (lambda: Message.promise(lambda _: _generate("to", "ken")), ["token"]),
        (lambda: _appended(), ["appended"]),
        (lambda: greet.inquire("x"), ["Hello x"]),
        (lambda: MessageSequence.turn_into_sequence_promise("s"), ["s"]),
    ],
)
async def test_what_can_be_sent_and_replied(make: Any, expected: list[str]) -> None:
    """Everything that can be a message, in any nesting, is one: sent, replied, and put into a sequence."""

    @miniagent
    async def reply(ctx: InteractionContext) -> None:
        ctx.reply(["<", make(), ">"])

    async with MiniAgents():
        assert await texts(reply.inquire()) == ["<", *expected, ">"]
        assert await texts(forward.inquire(make())) == expected
        with MessageSequence("first") as sequence:
            sequence.append(make())
        assert await texts(sequence.sequence_promise) == ["first", *expected]


@pytest.mark.parametrize(
    ("bad", "hint"),
    [
        (5, "Send text"),
        (b"x", "Decode"),
        (ValueError("x"), "raise"),
        ({"text": {1, 2}}, "text"),
        (["ok", object()], "Send"),
    ],
    ids=["int", "bytes", "error", "dict", "list"],
)
async def test_what_cannot_be_sent(bad: Any, hint: str) -> None:
    """It is refused where it is given, with a hint; and nothing of it has been added."""

    @miniagent
    async def reply(ctx: InteractionContext) -> None:
        with pytest.raises((TypeError, ValueError), match=hint):
            ctx.reply(["before", bad])

    async with MiniAgents():
        assert await texts(reply.inquire()) == []
        with pytest.raises((TypeError, ValueError), match=hint):
            forward.inquire(bad)


def test_wrong_definitions_and_calls() -> None:
    """What cannot be an agent, and what is no way to call one, is refused with what to do instead."""

    def sync(ctx: InteractionContext) -> None: ...

    async def yielding(ctx: InteractionContext) -> AsyncIterator[str]:
        yield ""

    class NotCallable: ...

    with pytest.raises(TypeError, match="async def sync"):
        miniagent(sync)
    with pytest.raises(TypeError, match="ctx.reply"):
        miniagent(yielding)
    with pytest.raises(TypeError, match="__call__"):
        miniagent(NotCallable)
    with pytest.raises(TypeError, match="fork"):
        miniagent(greet)
    with pytest.raises(TypeError, match="inquire"):
        greet("Ada")


async def test_reply_after_the_end() -> None:
    """After the agent has ended, or has said so, a reply is an error."""
    contexts: list[InteractionContext] = []

    @miniagent
    async def early(ctx: InteractionContext) -> None:
        contexts.append(ctx)
        ctx.reply("one")
        ctx.finish_early()
        await asyncio.sleep(1)
        with pytest.raises(StreamClosedError):
            ctx.reply("two")

    async with MiniAgents():
        timeline = Timeline()
        assert await texts(early.inquire()) == ["one"]
        assert timeline.elapsed == 0
    with pytest.raises(StreamClosedError):
        contexts[0].reply("three")


@pytest.mark.parametrize("kind", ["coroutine", "task", "promise"])
async def test_wait_for_keeps_the_reply_open(kind: str) -> None:
    """Work that the agent waits for can reply after the function has returned; its error ends the reply."""

    @miniagent
    async def agent(ctx: InteractionContext, error: Exception | None = None) -> None:
        async def work(_: Any = None) -> None:
            await asyncio.sleep(1)
            ctx.reply("late")
            if error is not None:
                raise error

        if kind == "promise":
            ctx.wait_for(Promise(work))
        else:
            ctx.wait_for(work() if kind == "coroutine" else asyncio.create_task(work()))

    async with MiniAgents():
        assert await texts(agent.inquire()) == ["late"]
        error = ValueError("late")
        assert await error_of(agent.inquire(error=error)) is error


async def test_initiate_inquiry() -> None:
    """Messages can be sent while the agent works already; a call that is dropped unfinished ends with an error."""
    async with MiniAgents():
        with forward.initiate_inquiry() as call:
            call.send_message("a").send_message(["b", greet.inquire("c")])
        assert await texts(call.reply_sequence()) == ["a", "b", "Hello c"]
        dropped = forward.initiate_inquiry().send_message("x").reply_sequence(finish=False)
        await quiescence()
        assert "unclosed" in str(await error_of(dropped)) or "closed" in str(await error_of(dropped))


@pytest.mark.parametrize("start_soon", [True, False])
async def test_start_soon_per_call(start_soon: bool) -> None:
    """A call can be put off until its reply is read."""
    log: list[str] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        log.append("started")
        ctx.reply("x")

    async with MiniAgents():
        replies = agent.inquire(start_soon=start_soon)
        await quiescence()
        assert log == ["started"] * start_soon
        assert await texts(replies) == ["x"]
        agent.inquire(start_soon=False)
    assert log == ["started"]


async def test_fifteen_hundred_forwarding_agents() -> None:
    """A chain of agents may be as long as one likes."""
    async with MiniAgents():
        replies = forward.inquire("through")
        for _ in range(1_500):
            replies = forward.inquire(replies)
        assert await texts(replies) == ["through"]


async def test_agents_run_in_parallel_and_their_tokens_pass_at_once() -> None:
    """Three slow agents take the time of one, and each token passes through ten agents before the next is made."""

    @miniagent
    async def slow(ctx: InteractionContext, name: str) -> None:
        async def stream(_: Any) -> AsyncIterator[str]:
            for number in range(3):
                await asyncio.sleep(1)
                yield f"{name}{number}"

        ctx.reply(Message.promise(stream))

    @miniagent
    async def relay(ctx: InteractionContext) -> None:
        async for message in ctx.message_promises:
            with StreamAppender[str]() as appender:
                ctx.reply(Message.promise(appender))
                async for token in message:
                    appender.append(token)

    @miniagent
    async def aggregate(ctx: InteractionContext) -> None:
        ctx.reply([slow.inquire(name=name) for name in "abc"])

    async with MiniAgents():
        timeline = Timeline()
        replies: MessageSequencePromise = slow.inquire(name="t")
        for _ in range(10):
            replies = relay.inquire(replies)
        async for message in replies:
            async for token in message:
                timeline.note(token)
        assert timeline.entries == [(1.0, "t0"), (2.0, "t1"), (3.0, "t2")]
        timeline = Timeline()
        assert await texts(aggregate.inquire()) == ["a0a1a2", "b0b1b2", "c0c1c2"]
        assert timeline.elapsed == 3


async def test_cancelling_a_call_cancels_what_it_called() -> None:
    """The sub-agents of a cancelled call are cancelled, also after it has replied; what it was sent is not."""
    log: list[str] = []

    @miniagent
    async def slow(ctx: InteractionContext, name: str) -> None:
        try:
            await asyncio.sleep(10)
            ctx.reply(name)
        except asyncio.CancelledError:
            log.append(name)
            raise

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        ctx.reply([slow.inquire(name="called"), ctx.message_promises])

    async with MiniAgents():
        sent = slow.inquire(name="sent")
        replies = boss.inquire(sent)
        await quiescence()
        assert replies.cancel()
        assert isinstance(await error_of(replies), PromiseCancelledError)
        assert await texts(sent) == ["sent"]
    assert log == ["called"]


async def test_a_call_outside_of_any_context() -> None:
    """It starts when it is awaited."""
    assert await texts(greet.inquire("Ada")) == ["Hello Ada"]
    assert await greet.inquire(greet.inquire("Ada")) == (Message("Hello Hello Ada"),)


Tree = st.recursive(
    st.text("ab", min_size=1),
    lambda inner: st.tuples(st.sampled_from(["list", "forward", "generator", "append"]), st.lists(inner, max_size=3)),
    max_leaves=12,
)


def _expected(tree: Any) -> list[str]:
    return [tree] if isinstance(tree, str) else [text for part in tree[1] for text in _expected(part)]


def _build(tree: Any) -> Any:
    if isinstance(tree, str):
        return Message.promise(lambda _: _generate(*tree))
    kind, parts = tree
    built = [_build(part) for part in parts]
    if kind == "forward":
        return forward.inquire(built)
    if kind == "generator":
        return _generate(*built)
    if kind == "append":
        with forward.initiate_inquiry() as call:
            for part in built:
                call.send_message(part)
        return call.reply_sequence()
    return built


@given(Tree)
def test_any_nesting_of_inputs_is_one_flat_sequence(tree: Any) -> None:
    """Whatever agents, lists and streams are nested in each other, the messages come in their order."""

    async def check() -> None:
        async with MiniAgents():
            assert await texts(forward.inquire(_build(tree))) == _expected(tree)

    run_with_virtual_clock(check())


def test_agents_can_be_annotated() -> None:
    """The decorator makes a `MiniAgent`."""
    assert isinstance(greet, MiniAgent)
