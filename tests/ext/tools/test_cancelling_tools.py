"""Cancelling a conversation with tools, wherever it waits: requests are closed, tools are cancelled, readers wake."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from miniagents import InteractionContext, MessagePromise, MessageSequencePromise, MiniAgents, miniagent
from miniagents.ext.tools import tool
from miniagents.testing import quiescence
from promising import PromiseCancelledError
from tests.ext.llm.helpers import Provider
from tests.ext.tools.helpers import (
    Cast,
    Follower,
    Running,
    agent_called,
    call_of,
    calling,
    resolved,
    saying,
    soon,
)
from tests.support.llm_server import Gate, Reply, Request, ToolCall


async def has_stopped(replies: MessageSequencePromise, follower: Follower) -> None:
    """Those who read and those who wait have been woken, with an error that is no cancellation of their own."""
    await follower.ends()
    assert isinstance(follower.error, PromiseCancelledError)
    with pytest.raises(PromiseCancelledError):
        await soon(replies)
    await soon(replies.usage())  # and all that belongs to the call has ended
    assert not replies.cancel()


async def ok() -> str:
    return "ok"


async def test_before_the_first_token(provider: Provider) -> None:
    """The first request is closed before it is answered."""
    gate = Gate()
    provider.server.script(Reply(("never",), hold=gate))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[ok])
        follower = Follower(replies)
        await gate.reached.wait()
        assert replies.cancel()
        await provider.server.client_disconnected(0)
        await has_stopped(replies, follower)


@pytest.mark.parametrize("where", ["text", "call"])
async def test_in_mid_stream(provider: Provider, where: str) -> None:
    """A request is closed in the middle of a text, and of a call, which is then not made."""
    gate, running = Gate(), Running()
    pieces = ("text", gate) if where == "text" else (ToolCall("work", ("{", gate, "}")),)
    provider.server.script(Reply(pieces))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[running])
        follower = Follower(replies)
        await gate.reached.wait()
        assert replies.cancel()
        await provider.server.client_disconnected(0)
        await has_stopped(replies, follower)
    assert not running.began.is_set()


@pytest.mark.parametrize("concurrently", [True, False])
async def test_async_tools(provider: Provider, concurrently: bool) -> None:
    """All tools that run are cancelled, others do not begin, and no further request is made."""
    first, second = Running("first"), Running("second")
    provider.server.script(calling("first", "second", text="Let me see."))
    async with MiniAgents():
        replies = provider.agent.fork(alias="HELPER").inquire(
            "Hi", tools=[first, second], execute_function_concurrently=concurrently
        )
        follower = Follower(replies)
        await soon(first.began.wait())
        if concurrently:
            await soon(second.began.wait())
        await quiescence()
        assert replies.cancel()
        await has_stopped(replies, follower)
        assert first.was_cancelled
        assert second.was_cancelled is concurrently
    assert follower.heard == [("HELPER", "assistant", "Let me see.")]
    assert len(provider.server.requests) == 1


async def test_a_tool_that_has_ended(provider: Provider) -> None:
    """Results that were there stay readable; the tool beside them is cancelled."""
    slow = Running("slow")
    provider.server.script(calling("ok", "slow"))
    async with MiniAgents():
        replies = provider.agent.fork(alias="HELPER").inquire("Hi", tools=[ok, slow])
        follower = Follower(replies)
        await follower.hears("HELPER", "tool", "ok")
        await soon(slow.began.wait())
        assert replies.cancel()
        await has_stopped(replies, follower)
        reader = aiter(replies)
        await anext(reader)
        assert str(await (await anext(reader))) == "ok"
    assert slow.was_cancelled


async def test_a_tool_that_takes_its_time_to_clean_up(provider: Provider) -> None:
    """Readers wake at once; the context waits until the tool has cleaned up."""
    began, cleaning, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()
    cleaned: list[bool] = []

    async def careful() -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await may_end.wait()
            cleaned.append(True)
        return "never"

    provider.server.script(calling("careful"))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[careful])
        follower = Follower(replies)
        await soon(began.wait())
        assert replies.cancel()
        await follower.ends()
        await soon(cleaning.wait())
        assert cleaned == []
        may_end.set()
    assert cleaned == [True]


async def test_blocking_tools(provider: Provider) -> None:
    """A blocking function cannot be ended, but nobody waits for it."""
    began, released = threading.Event(), threading.Event()
    waited: list[bool] = []

    def blocking() -> str:
        began.set()
        waited.append(released.wait(5))
        return "late"

    provider.server.script(calling("blocking"))
    try:
        async with MiniAgents():
            replies = provider.agent.inquire("Hi", tools=[blocking])
            follower = Follower(replies)
            await asyncio.to_thread(began.wait, 5)
            assert replies.cancel()
            await has_stopped(replies, follower)
        assert waited == []
    finally:
        released.set()


async def test_tools_that_stream(provider: Provider) -> None:
    """A generator is closed; what it has yielded stays readable."""
    closed: list[bool] = []

    async def report() -> AsyncIterator[str]:
        try:
            yield "half"
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    provider.server.script(calling("report"))
    async with MiniAgents():
        replies = provider.agent.fork(alias="HELPER").inquire("Hi", tools=[report])
        follower = Follower(replies)
        await follower.hears("HELPER", "tool", "half")
        assert replies.cancel()
        await has_stopped(replies, follower)
    assert closed == [True]


async def test_inner_agents(provider: Provider) -> None:
    """The requests of agents in tools are closed at every depth, and their tools are cancelled."""
    gate, running = Gate(), Running()
    provider.server.default = cast = Cast(
        OUTER=[calling(call_of("left", message="?"), call_of("right", message="?"))],
        LEFT=[Reply(("half", gate))],
        RIGHT=[calling("work")],
    )
    tools = [agent_called(provider, "LEFT"), agent_called(provider, "RIGHT", tools=[running])]
    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire("Hi", tools=tools)
        follower = Follower(replies)
        await soon(running.began.wait())
        await gate.reached.wait()
        assert replies.cancel()
        number = provider.server.requests.index(cast.asked["LEFT"][0])
        await provider.server.client_disconnected(number)
        await has_stopped(replies, follower)
    assert running.was_cancelled


async def test_an_agent_that_a_function_has_called(provider: Provider) -> None:
    """What a tool has started belongs to it, and ends with it."""
    gate = Gate()
    provider.server.default = Cast(OUTER=[calling("ask_inside")], INNER=[Reply(("half", gate))])
    inner = agent_called(provider, "INNER")

    async def ask_inside() -> str:
        return str((await inner.inquire("Hi"))[0])

    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire("Hi", tools=[ask_inside])
        follower = Follower(replies)
        await gate.reached.wait()
        assert replies.cancel()
        await provider.server.client_disconnected(1)
        await has_stopped(replies, follower)


async def test_between_two_turns(provider: Provider) -> None:
    """The request that follows the results is closed; the results stay readable."""
    gate = Gate()
    provider.server.script(calling("ok"), Reply(("never",), hold=gate))
    async with MiniAgents():
        replies = provider.agent.fork(alias="HELPER").inquire("Hi", tools=[ok])
        follower = Follower(replies)
        await gate.reached.wait()
        assert replies.cancel()
        await provider.server.client_disconnected(1)
        await has_stopped(replies, follower)
    assert follower.heard == [("HELPER", "tool", "ok")]


HOOKS = ["on_before_request", "on_after_request", "on_function_call_start", "on_function_call_end"]


@pytest.mark.parametrize("hook", [*HOOKS, "on_function_call_error"])
async def test_in_a_hook(provider: Provider, hook: str, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that is at work is cancelled, too, and is not logged as one that fails."""
    at_work = Running()

    async def hooked(_: Any) -> None:
        await at_work()

    name = "unknown" if hook == "on_function_call_error" else "ok"
    if hook != "on_before_request":
        provider.server.script(calling(name))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[ok], hooks={hook: hooked})
        follower = Follower(replies)
        await soon(at_work.began.wait())
        assert replies.cancel()
        await has_stopped(replies, follower)
    assert at_work.was_cancelled
    assert "hook" not in caplog.text


async def test_while_somebody_is_asked(provider: Provider) -> None:
    """An approver that is at work is cancelled, and the tool does not run."""
    asked, running = Running("asked"), Running()

    async def approver(_: Any) -> bool:
        return bool(await asked())

    provider.server.script(calling("work"))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[tool(running, requires_approval=True)], approver=approver)
        follower = Follower(replies)
        await soon(asked.began.wait())
        assert replies.cancel()
        await has_stopped(replies, follower)
    assert asked.was_cancelled
    assert not running.began.is_set()


async def test_while_the_stop_signal_is_waited_for(provider: Provider) -> None:
    """A slow stop signal function ends with the conversation."""
    gate, asked = Gate(), Running()

    async def signal(*_: Any) -> bool:
        await asked()
        return False

    provider.server.script(Reply(("x", gate)))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[ok], manual_stop_signal_function=signal)
        follower = Follower(replies)
        await soon(asked.began.wait())
        await gate.reached.wait()
        assert replies.cancel()
        await provider.server.client_disconnected(0)
        await has_stopped(replies, follower)
    assert asked.was_cancelled


async def test_between_two_attempts(provider: Provider) -> None:
    """The pause before another attempt is ended."""
    provider.server.script(Reply(status=429, headers={"retry-after": "50"}))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[ok], max_retries=3)
        follower = Follower(replies)
        await soon((await provider.server.request(0)).finished.wait())
        assert replies.cancel()
        await has_stopped(replies, follower)


async def test_while_what_is_sent_is_on_its_way(provider: Provider) -> None:
    """Nothing is sent; what was to be sent is left alone."""
    goes_on = asyncio.Event()

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        await goes_on.wait()
        ctx.reply("the question")

    async with MiniAgents():
        question = slow.inquire()
        replies = provider.agent.inquire(question, tools=[ok])
        follower = Follower(replies)
        await quiescence()
        assert replies.cancel()
        await has_stopped(replies, follower)
        goes_on.set()
        assert str((await question)[0]) == "the question"
    assert provider.server.requests == []


async def test_one_message_of_the_reply(provider: Provider) -> None:
    """Cancelling the answer of the model alone closes its request, and ends the conversation with that."""
    gate = Gate()
    provider.server.script(Reply(("half", gate)))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[ok])
        message: MessagePromise = await soon(anext(aiter(replies)))
        await gate.reached.wait()
        assert message.cancel()
        await provider.server.client_disconnected(0)
        with pytest.raises(PromiseCancelledError):
            await soon(replies)


async def test_readers_that_go_disturb_nobody(provider: Provider) -> None:
    """Cancelling one who reads the reply, or waits for it, leaves the tools and the other readers alone."""
    running = Running()
    provider.server.script(calling("work"), saying("Fine."))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[running])
        readers = [asyncio.create_task(resolved(replies)), asyncio.ensure_future(replies)]
        await soon(running.began.wait())
        for reader in readers:
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
        assert not running.was_cancelled
        running.may_end.set()
        assert [str(message) for message in await soon(resolved(replies))] == ["", "done", "Fine."]


async def test_leaving_the_context_by_an_error(provider: Provider) -> None:
    """An error around the conversation ends it, its tools included."""
    running = Running()
    provider.server.script(calling("work"))
    with pytest.raises(LookupError):
        async with MiniAgents():
            provider.agent.inquire("Hi", tools=[running])
            await soon(running.began.wait())
            raise LookupError
    assert running.was_cancelled


async def test_others_go_on(provider: Provider) -> None:
    """Of two conversations of one agent the other comes to its end."""
    first, second = Running("first"), Running("second")
    provider.server.script(calling("first"))
    async with MiniAgents():
        cancelled = provider.agent.inquire("1", tools=[first])
        await soon(first.began.wait())
        provider.server.script(calling("second"), saying("Fine."))
        other = provider.agent.inquire("2", tools=[second])
        await soon(second.began.wait())
        assert cancelled.cancel()
        await soon(cancelled.usage())
        second.may_end.set()
        assert str((await soon(other))[-1]) == "Fine."
    assert first.was_cancelled


def endless(request: Request) -> Reply:
    """Calls tools of all kinds, inner agents among them, for ever."""
    if "INNER" in str(request.body.get("system", "")) or "INNER" in str(request.body["messages"][0]):
        return Reply(("inner ", "words"))
    return calling("ok", "blocking", "report", call_of("inner", message="?"), "unknown", text="Let me see.")


def blocking() -> str:
    return "ok"


async def report() -> AsyncIterator[str]:
    yield "one"
    yield "two"


@pytest.mark.parametrize("concurrently", [True, False])
async def test_at_every_step(provider: Provider, concurrently: bool) -> None:
    """Cancelled after any number of turns of the event loop, a conversation ends, and leaves nothing behind."""
    provider.server.default = endless
    events: list[Any] = []
    agent = provider.agent.fork(
        tools=[ok, blocking, report, agent_called(provider, "INNER")],
        execute_function_concurrently=concurrently,
        hooks=dict.fromkeys(HOOKS, events.append),
        manual_stop_signal_function=never,
        check_for_stop_signal_time=0.001,
        max_turns=1000,
    )
    async with MiniAgents():
        before = asyncio.all_tasks()  # connections of the server among them
        for turns in range(150):
            replies = agent.inquire("Hi")
            follower = Follower(replies)
            for _ in range(turns):
                await asyncio.sleep(0)
            assert replies.cancel()
            await has_stopped(replies, follower)
            await all_over(provider.server.requests)
        assert len(provider.server.requests) > 150  # it went further than the first request at times
        del before


async def never(*_: Any) -> bool:
    return False


async def all_over(requests: list[Request]) -> None:
    for request in requests:
        await soon(request.finished.wait())


async def test_at_every_stage_while_the_context_is_left(provider: Provider) -> None:
    """A context that is left by an error in any turn of the event loop is left with nothing behind."""
    provider.server.default = endless
    agent = provider.agent.fork(tools=[ok, report, agent_called(provider, "INNER")], max_turns=1000)
    for turns in range(0, 120, 5):
        with suppress(LookupError):
            async with MiniAgents():
                agent.inquire("Hi")
                for _ in range(turns):
                    await asyncio.sleep(0)
                raise LookupError
        await all_over(provider.server.requests)
    left = [task for task in asyncio.all_tasks() if "Connection" not in repr(task)] if turns else []
    assert left == [asyncio.current_task()]


Waiting = Callable[[], Awaitable[Any]]
