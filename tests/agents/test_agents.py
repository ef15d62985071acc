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
    AgentCall,
    Frozen,
    InteractionContext,
    Message,
    MessagePromise,
    MessageSequence,
    MessageSequencePromise,
    MiniAgent,
    MiniAgents,
    miniagent,
)
from miniagents.testing import Timeline, assert_no_leftovers, quiescence, run_with_virtual_clock
from promising import (
    AppenderNotClosedError,
    CircularWaitError,
    Promise,
    PromiseCancelledError,
    StreamAppender,
    StreamClosedError,
)
from tests.promising.helpers import error_of, read_until_error


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


# --- calling ---


async def test_arguments_of_calls_forks_and_decorators() -> None:
    """The arguments of the decorator, of forks and of the call are put together; the later one wins."""

    @miniagent(alias="NAMED", description="Collects.", a=1, b=1, c=1)
    async def collect(ctx: InteractionContext, **arguments: Any) -> None:
        assert ctx.this_agent.alias == "NAMED"
        ctx.reply(Message("arguments", **arguments))

    async with MiniAgents():
        (message,) = await collect.fork(b=2, c=2).inquire("x", c=3, d=4)
    assert message == Message("arguments", a=1, b=2, c=3, d=4)
    assert (collect.alias, collect.description) == ("NAMED", "Collects.")


async def test_an_agent_knows_what_it_is() -> None:
    """`ctx.this_agent` is the agent that was called, which can call itself."""

    @miniagent
    async def countdown(ctx: InteractionContext, number: int) -> None:
        ctx.reply(str(number))
        if number:
            ctx.reply(ctx.this_agent.inquire(number=number - 1))

    async with MiniAgents():
        assert await texts(countdown.inquire(number=3)) == ["3", "2", "1", "0"]


def test_an_agent_cannot_be_changed_through_a_fork() -> None:
    """What is given to a fork is copied: changing the dict later changes no agent."""
    options = {"greeting": "Hi"}
    fork = greet.fork(**options)
    options["greeting"] = "changed"
    assert str((MiniAgents().run(fork.inquire("Ada")))[0]) == "Hi Ada"


async def test_instances_of_a_class_are_not_shared() -> None:
    """Calls side by side each have an instance of their own, so that their states do not mix."""

    @miniagent
    class Slow:
        def __init__(self) -> None:
            self.seen: list[str] = []

        async def __call__(self, ctx: InteractionContext) -> None:
            async for message in ctx.message_promises:
                self.seen.append(str(await message))
                await asyncio.sleep(1)
            ctx.reply(",".join(self.seen))

    async with MiniAgents():
        replies = [Slow.inquire([f"{name}1", f"{name}2"]) for name in "abc"]
        assert [await texts(reply) for reply in replies] == [["a1,a2"], ["b1,b2"], ["c1,c2"]]


async def test_a_call_returns_at_once_and_starts_at_the_next_switch() -> None:
    """Nothing of the agent runs inside of `inquire`."""
    log: list[str] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        log.append("agent")

    async with MiniAgents():
        agent.inquire()
        log.append("caller")
        await quiescence()
    assert log == ["caller", "agent"]


@pytest.mark.parametrize("wrong", ["call", "await", "with arguments"])
async def test_calling_an_agent_like_a_function(wrong: str) -> None:
    """It is an error that says to use `inquire`."""
    with pytest.raises(TypeError, match=r"GREET.*inquire"):
        if wrong == "call":
            greet()
        elif wrong == "await":
            await greet("Ada")
        else:
            greet("Ada", greeting="Hi")


def test_more_wrong_definitions() -> None:
    """A sync method, a lambda and a sync `__call__` are refused when they are decorated."""

    class Sync:
        def __call__(self, ctx: InteractionContext) -> None: ...

    class Yielding:
        async def __call__(self, ctx: InteractionContext) -> AsyncIterator[str]:
            yield ""

    for wrong in (Sync, Yielding, lambda ctx: None, 5, "agent"):
        with pytest.raises(TypeError, match=r"async|__call__|ctx\.reply"):
            miniagent(wrong)  # type: ignore[call-overload]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_replies_can_be_read_by_anybody_at_any_time(when: str) -> None:
    """Readers that come before, while and after the agent replies all see the same message promises."""

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        for number in range(3):
            await asyncio.sleep(1)
            ctx.reply(str(number))

    async def read(replies: MessageSequencePromise, start: float) -> list[MessagePromise]:
        await asyncio.sleep(start)
        return [promise async for promise in replies]

    async with MiniAgents():
        replies = agent.inquire()
        if when == "after":
            await replies
        first, *others = await asyncio.gather(*[read(replies, start / 2) for start in range(8)])
        assert [str(promise) for promise in first] == ["0", "1", "2"]
        assert all(list(map(id, other)) == list(map(id, first)) for other in others)


# --- what can be sent ---


class Settings(Frozen):
    colour: str = "red"


class Record(BaseModel):
    colour: str = "red"


@pytest.mark.parametrize("bad", [Settings(), Record()], ids=repr)
async def test_objects_with_fields_are_no_lists(bad: Any) -> None:
    """An object that is no message is refused, though it can be iterated over its fields."""
    with pytest.raises(TypeError, match="cannot be sent"):
        forward.inquire(bad)
    with pytest.raises(TypeError, match="cannot be sent"):
        forward.inquire(["ok", [bad]])


async def test_what_is_forgotten_easily() -> None:
    """An agent that was not called, and an appender without its promise, are refused with what to write."""
    with pytest.raises(TypeError, match="inquire"):
        forward.inquire(greet)
    with pytest.raises(TypeError, match=r"Message\.promise"):
        forward.inquire(StreamAppender[str]())


async def test_lists_that_contain_themselves() -> None:
    """A list in itself, and a reply in itself, is an error in place of a hang."""
    ring: list[Any] = ["x"]
    ring.append([ring])
    with pytest.raises(TypeError, match="itself"):
        forward.inquire(ring)

    @miniagent
    async def narcissus(ctx: InteractionContext) -> None:
        await asyncio.sleep(0)
        with pytest.raises(CircularWaitError, match="itself"):
            ctx.reply(["x", replies])
        ctx.reply("fine")

    async with MiniAgents():
        replies = narcissus.inquire()
        assert await texts(replies) == ["fine"]


async def test_deep_lists() -> None:
    """Lists can be nested deeper than Python's stack."""
    deep: Any = "bottom"
    for _ in range(20_000):
        deep = [deep]
    async with MiniAgents():
        assert await texts(forward.inquire(deep)) == ["bottom"]


async def test_forwarding_is_by_reference() -> None:
    """What is forwarded is the same promise and the same message for everybody, however often it is forwarded."""
    async with MiniAgents():
        source = Message.promise(lambda _: _generate("to", "ken"))
        replies = forward.inquire(forward.inquire([source]))
        (seen,) = [promise async for promise in replies]
        assert seen is source
        assert (await replies)[0] is await source


async def test_a_bad_part_adds_nothing() -> None:
    """If a part of what is sent cannot be sent, then the parts before it are not sent either."""
    with MessageSequence() as sequence:
        with pytest.raises(TypeError, match="cannot be sent"):
            sequence.append(["before", 5])
        sequence.append("after")
    async with MiniAgents():
        assert await texts(sequence.sequence_promise) == ["after"]
        call = forward.initiate_inquiry()
        with pytest.raises(TypeError, match="cannot be sent"):
            call.send_message(["before", 5])
        assert await texts(call.send_message("after").reply_sequence()) == ["after"]


# --- replies and their end ---


async def test_finish_early_twice_and_at_once() -> None:
    """The reply ends when the agent says so; a second call changes nothing, and the context waits for the agent."""
    log: list[str] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        ctx.finish_early()
        ctx.finish_early()
        with pytest.raises(StreamClosedError, match="after the end"):
            ctx.reply("late")
        await asyncio.sleep(5)
        log.append("done")

    async with MiniAgents():
        timeline = Timeline()
        assert await texts(agent.inquire()) == []
        assert timeline.elapsed == 0
    assert log == ["done"]
    assert timeline.elapsed == 5


async def test_a_reply_after_the_end_says_what_to_do() -> None:
    """The error names what was replied, and the mend: to keep the reply open."""
    kept: list[InteractionContext] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        kept.append(ctx)

    async with MiniAgents():
        await agent.inquire()
        with pytest.raises(StreamClosedError, match="(?s)late words.*(before|wait_for)"):
            kept[0].reply("late words")


async def test_wait_for_gives_the_result() -> None:
    """The agent can await what it waits for, and gets its value."""

    async def work() -> str:
        await asyncio.sleep(1)
        return "result"

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        waiting = ctx.wait_for(work())
        ctx.reply("first")
        ctx.reply(await waiting)

    async with MiniAgents():
        assert await texts(agent.inquire()) == ["first", "result"]
    assert await texts(agent.inquire()) == ["first", "result"]


async def test_wait_for_several_things() -> None:
    """The reply stays open for the longest of them; they run side by side, and can ask to wait for more."""

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        async def work(seconds: float, more: bool = False) -> None:
            await asyncio.sleep(seconds)
            ctx.reply(f"after {seconds}")
            if more:
                ctx.wait_for(work(3))

        ctx.wait_for(work(2, more=True))
        ctx.wait_for(work(1))

    async with MiniAgents():
        timeline = Timeline()
        assert await texts(agent.inquire()) == ["after 1", "after 2", "after 3"]
        assert timeline.elapsed == 5


async def test_an_error_of_what_is_waited_for() -> None:
    """It ends the reply when it happens, not when the rest of what the agent waits for has ended."""

    async def fail() -> None:
        await asyncio.sleep(1)
        raise ValueError("early")

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        ctx.wait_for(fail())
        ctx.wait_for(asyncio.sleep(100))

    async with MiniAgents():
        timeline = Timeline()
        assert isinstance(await error_of(agent.inquire()), ValueError)
        assert timeline.elapsed == 1


async def test_wait_for_the_reply_of_another_agent() -> None:
    """Anything that can be awaited can be waited for."""

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        await asyncio.sleep(1)

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        ctx.wait_for(slow.inquire())

    async with MiniAgents():
        timeline = Timeline()
        assert await texts(agent.inquire()) == []
        assert timeline.elapsed == 1


async def test_wait_for_something_that_cannot_be_awaited() -> None:
    """It is refused where it is given, with what to give."""
    caught: list[TypeError] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        with pytest.raises(TypeError, match="await") as info:
            ctx.wait_for(5)  # type: ignore[arg-type]
        caught.append(info.value)

    async with MiniAgents():
        assert await texts(agent.inquire()) == []
    assert len(caught) == 1


async def test_wait_for_after_the_end() -> None:
    """When the agent has ended there is nothing left to keep open, which is an error rather than lost work."""
    kept: list[InteractionContext] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        kept.append(ctx)

    async def work() -> None: ...

    async with MiniAgents():
        await agent.inquire()
        with pytest.raises(RuntimeError):
            kept[0].wait_for(work())


# --- calls in parts ---


async def test_the_agent_works_while_messages_are_sent() -> None:
    """Each message that is sent into an open call can be answered before the next one is sent."""
    async with MiniAgents():
        call = upper.initiate_inquiry()
        reader = aiter(call.reply_sequence(finish=False))
        for text in "abc":
            call.send_message(text)
            assert str(await anext(reader)) == text.upper()
        call.finish()
        call.finish()
        with pytest.raises(StopAsyncIteration):
            await anext(reader)
        with pytest.raises(StreamClosedError):
            call.send_message("d")
        assert await texts(call.reply_sequence()) == ["A", "B", "C"]


@miniagent
async def upper(ctx: InteractionContext) -> None:
    """Replies in upper case, message by message."""
    async for message in ctx.message_promises:
        ctx.reply(str(await message).upper())


async def test_a_call_that_is_left_by_an_error() -> None:
    """The agent gets the error at the end of its messages, and what was replied before stays."""
    error = ValueError("hung up")
    async with MiniAgents():
        with pytest.raises(ValueError, match="hung up"), upper.initiate_inquiry() as call:
            call.send_message("a")
            raise error
        messages, raised = await read_until_error(call.reply_sequence())
        assert [str(message) for message in messages] == ["A"]
        assert raised is error


async def test_a_dropped_call_does_not_hang() -> None:
    """An agent whose caller has dropped the call unfinished gets an error, so that its reply and the context end."""
    async with MiniAgents():
        replies = upper.initiate_inquiry().send_message("a").reply_sequence(finish=False)
        messages, error = await read_until_error(replies)
        assert [str(message) for message in messages] == ["A"]
        assert isinstance(error, AppenderNotClosedError)


# --- many agents ---


@pytest.mark.parametrize("way", ["reference", "messages", "await"])
async def test_long_rows_of_agents(way: str) -> None:
    """Fifteen hundred agents in a row work, however each of them hands on what it is sent."""

    @miniagent
    async def relay(ctx: InteractionContext) -> None:
        if way == "reference":
            ctx.reply(ctx.message_promises)
        elif way == "messages":
            async for message in ctx.message_promises:
                ctx.reply(message)
        else:
            ctx.reply(await ctx.message_promises)

    async with MiniAgents():
        replies: Any = ["a", Message.promise(lambda _: _generate("b", "c"))]
        for _ in range(1_500):
            replies = relay.inquire(replies)
        assert await texts(replies) == ["a", "bc"]


async def test_an_error_at_the_end_of_a_long_row() -> None:
    """An error passes fifteen hundred forwarding agents as it is."""
    error = ValueError("far away")

    @miniagent
    async def fails(ctx: InteractionContext) -> None:
        ctx.reply("x")
        raise error

    async with MiniAgents():
        replies = fails.inquire()
        for _ in range(1_500):
            replies = forward.inquire(replies)
        messages, raised = await read_until_error(replies)
    assert [str(message) for message in messages] == ["x"]
    assert raised is error


async def test_agents_in_parallel() -> None:
    """Agents that are called before any is awaited take as long as the slowest; their order is that of the calls."""

    @miniagent
    async def slow(ctx: InteractionContext, seconds: float) -> None:
        await asyncio.sleep(seconds)
        ctx.reply(f"{seconds}")

    @miniagent
    async def aggregate(ctx: InteractionContext) -> None:
        ctx.reply([slow.inquire(seconds=seconds) for seconds in (3, 1, 2)])

    async with MiniAgents():
        timeline = Timeline()
        async for message in aggregate.inquire():
            timeline.note(str(await message))
        assert timeline.entries == [(3.0, "3"), (3.0, "1"), (3.0, "2")]
        timeline = Timeline()
        await texts(slow.inquire(slow.inquire(seconds=3), seconds=2))
        assert timeline.elapsed == 2  # the second one does not wait for what it does not read


# --- any nesting, any timing ---

TimedTree = st.recursive(
    st.tuples(
        st.just("tokens"), st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.text("ab", min_size=1)), max_size=3)
    ),
    lambda inner: st.tuples(
        st.sampled_from(["list", "forward", "late", "one by one", "generator", "coroutine", "call", "lazy"]),
        st.lists(st.tuples(st.sampled_from([0, 0, 1, 3]), inner), max_size=3),
    ),
    max_leaves=10,
)


async def _timed(parts: list[tuple[float, Any]], build: Any) -> AsyncIterator[Any]:
    for seconds, part in parts:
        await asyncio.sleep(seconds)
        yield build(part)


@miniagent
async def timed_agent(ctx: InteractionContext, parts: list[tuple[float, Any]], kind: str) -> None:
    """Replies with parts, each at its time."""
    if kind == "one by one":
        async for promise in ctx.message_promises:
            ctx.reply(promise)
    async for part in _timed(parts, _build_timed):
        ctx.reply(part)


async def _send_timed(call: AgentCall, parts: list[tuple[float, Any]]) -> None:
    with call:
        async for part in _timed(parts, _build_timed):
            call.send_message(part)


async def _value(parts: list[tuple[float, Any]]) -> list[Any]:
    return [part async for part in _timed(parts, _build_timed)]


def _build_timed(tree: Any) -> Any:
    kind, parts = tree
    if kind == "tokens":
        return Message.promise(lambda _: _timed(parts, str))
    if kind in ("list", "forward", "one by one", "lazy"):
        built = [_build_timed(part) for _, part in parts]
        if kind == "list":
            return built
        if kind == "one by one":
            return timed_agent.inquire(built, parts=[], kind=kind)
        return forward.inquire(built, start_soon=kind == "forward")
    if kind == "late":
        return timed_agent.inquire(parts=parts, kind=kind)
    if kind == "generator":
        return _timed(parts, _build_timed)
    if kind == "coroutine":
        return _value(parts)
    call = forward.initiate_inquiry()
    context = MiniAgents.current()
    assert context is not None
    context.start_soon(_send_timed(call, parts))
    return call.reply_sequence(finish=False)


def _expected_of(tree: Any) -> list[str]:
    kind, parts = tree
    if kind == "tokens":
        return ["".join(token for _, token in parts)]
    return [text for _, part in parts for text in _expected_of(part)]


@given(TimedTree)
def test_any_nesting_at_any_time_is_one_flat_sequence(tree: Any) -> None:
    """Whatever is nested in whatever, and whenever its parts come: all readers get the same messages in their order."""

    async def check() -> None:
        async with assert_no_leftovers(), MiniAgents():
            replies = forward.inquire(_build_timed(tree))
            awaited, streamed = await asyncio.gather(replies, texts(replies))
            assert [str(message) for message in awaited] == streamed == _expected_of(tree)
            assert await texts(replies) == streamed

    run_with_virtual_clock(check())
