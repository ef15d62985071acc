"""Hooks: what they are told, in which order, and that they disturb nothing."""

import asyncio
import logging
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.llm.budget import Budget, BudgetExceededError
from miniagents.ext.llm.hooks import Hooks
from miniagents.ext.tools import (
    AfterRequest,
    BeforeRequest,
    BudgetExceeded,
    ErrorEvent,
    Event,
    FunctionCallEnd,
    FunctionCallError,
    FunctionCallStart,
    ManualStop,
)
from promising import PromiseCancelledError
from tests.ext.llm.helpers import Provider
from tests.ext.tools.helpers import Running, call_of, calling, resolved, saying, soon
from tests.support.llm_server import PATIENCE, Gate, Reply, ToolCall

NAMES = [
    "on_before_request",
    "on_after_request",
    "on_function_call_start",
    "on_function_call_end",
    "on_function_call_error",
    "on_context_overflow",
    "on_manual_stop",
    "on_budget_exceeded",
    "on_error",
]
WHO = {"user_id": "u1", "chat_id": "c1", "agent_name": "Helper"}


async def weather(city: str) -> str:
    return f"sunny in {city}"


async def broken() -> str:
    raise LookupError("no such thing")


class Record(list[Any]):
    """Hooks of all names that keep the events they are told."""

    @property
    def hooks(self) -> dict[str, Any]:
        return dict.fromkeys(NAMES, self.append)

    @property
    def names(self) -> list[str]:
        return [event.hook.removeprefix("on_") for event in self]

    def one(self, kind: type[Any]) -> Any:
        (found,) = [event for event in self if type(event) is kind]
        return found


async def ask(provider: Provider, *replies: Reply, **options: Any) -> tuple[Any, ...]:
    provider.server.script(*replies)
    async with MiniAgents():
        reply = provider.agent.inquire("Hi", **{"tools": [weather, broken], **options})
        await reply.usage()  # the agent has ended, whether well or not
        return await resolved(reply)


async def test_the_events_of_a_loop_in_their_order(provider: Provider) -> None:
    """A loop with one call fires before and after each request, and around the call."""
    record = Record()
    turns = calling(call_of("weather", city="Rome")), saying("Sunny.")
    await ask(provider, *turns, hooks=record.hooks)
    assert record.names == [
        "before_request",
        "after_request",
        "function_call_start",
        "function_call_end",
        "before_request",
        "after_request",
    ]


async def test_every_event_says_for_whom(provider: Provider) -> None:
    """Each event is a frozen pydantic model with user, chat and agent."""
    record = Record()
    turns = calling("broken"), Reply(status=400)
    with pytest.raises(provider.sdk.BadRequestError):
        await ask(provider, *turns, hooks=record.hooks, **WHO)
    assert record.names == [
        "before_request",
        "after_request",
        "function_call_start",
        "function_call_error",
        "before_request",
        "error",
    ]
    for event in record:
        assert isinstance(event, Event)
        assert isinstance(event, BaseModel)
        assert (event.user_id, event.chat_id, event.agent_name) == ("u1", "c1", "Helper")
        with pytest.raises(ValidationError):
            event.user_id = "somebody else"


async def test_without_ids_events_name_the_agent(provider: Provider) -> None:
    """An agent without ids says None for them, and its alias."""
    record = Record()
    provider.agent = provider.agent.fork(alias="HELPER")
    await ask(provider, saying("Hi."), hooks=record.hooks)
    assert {(event.user_id, event.chat_id, event.agent_name) for event in record} == {(None, None, "HELPER")}


async def test_requests(provider: Provider) -> None:
    """The events of a request have the conversation that is sent, and the answer with its usage and duration."""
    record = Record()
    turns = calling(call_of("weather", city="Rome")), saying("Sunny.")
    messages = await ask(provider, *turns, hooks=record.hooks)
    before = [event for event in record if isinstance(event, BeforeRequest)]
    after = [event for event in record if isinstance(event, AfterRequest)]
    assert [event.model for event in (*before, *after)] == ["some-model"] * 4
    assert [[str(message) for message in event.messages] for event in before] == [
        ["Hi"],
        ["Hi", "", "sunny in Rome"],
    ]
    assert [event.message for event in after] == [messages[0], messages[2]]
    assert after[1].message.usage.input_tokens == 7
    assert all(event.seconds >= 0 for event in after)


async def test_a_request_that_is_tried_again_is_one(provider: Provider) -> None:
    """Attempts are no requests of their own."""
    record = Record()
    retry = Reply(status=429, headers={"retry-after": "0"})
    await ask(provider, retry, retry, saying("Hi."), hooks=record.hooks, max_retries=3)
    assert record.names == ["before_request", "after_request"]


async def test_a_call_of_a_function(provider: Provider) -> None:
    """Its events have the id, the name and the arguments as the model wrote them, then the result and the duration."""
    record = Record()
    call = ToolCall("weather", ('{ "city":', ' "Rome"}'), "call_a")
    await ask(provider, calling(call), saying("Sunny."), hooks=record.hooks)
    start, end = record.one(FunctionCallStart), record.one(FunctionCallEnd)
    for event in (start, end):
        assert (event.tool_call_id, event.function_name, event.arguments) == ("call_a", "weather", '{ "city": "Rome"}')
    assert end.result == "sunny in Rome"
    assert end.seconds >= 0


async def test_a_call_that_fails(provider: Provider) -> None:
    """The error event has what the model is told, and what was raised; no end event follows."""
    record = Record()
    messages = await ask(provider, calling(ToolCall("broken", id="call_a")), saying("Oh."), hooks=record.hooks)
    event = record.one(FunctionCallError)
    assert (event.tool_call_id, event.function_name, event.arguments) == ("call_a", "broken", "{}")
    assert event.error == str(messages[1])
    assert isinstance(event.exception, LookupError)
    assert event.seconds >= 0
    assert "function_call_end" not in record.names
    assert "error" not in record.names


async def test_parallel_calls(provider: Provider) -> None:
    """All calls of a turn are announced before the first of them has to end; each has its own events."""
    record = Record()
    slow, fast = Running("slow"), Running("fast")
    provider.server.script(calling("slow", "fast"), saying("Done."))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[slow, fast], hooks=record.hooks)
        await soon(asyncio.gather(slow.began.wait(), fast.began.wait()))
        fast.may_end.set()
        await soon(await nth(replies, 2))
        slow.may_end.set()
        await replies
    told = [(event.hook, event.function_name) for event in record if isinstance(event, FunctionCallStart)]
    assert told == [
        ("on_function_call_start", "slow"),
        ("on_function_call_start", "fast"),
        ("on_function_call_end", "fast"),
        ("on_function_call_end", "slow"),
    ]


async def nth(replies: Any, index: int) -> Any:
    reader = aiter(replies)
    for _ in range(index):
        await anext(reader)
    return await anext(reader)


async def test_a_manual_stop(provider: Provider) -> None:
    """The event of a stop has the text so far."""
    record, stop, gate = Record(), asyncio.Event(), Gate()

    async def signal(*_: Any) -> bool:
        await stop.wait()
        return True

    provider.server.script(Reply(("so far", gate)))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", manual_stop_signal_function=signal, hooks=record.hooks, **WHO)
        await gate.reached.wait()
        assert await anext(aiter(await nth(replies, 0))) == "so far"
        stop.set()
        await soon(replies)
    event = record.one(ManualStop)
    assert (event.text, event.user_id, event.chat_id, event.agent_name) == ("so far", "u1", "c1", "Helper")
    assert record.names[-1] == "manual_stop"
    assert "error" not in record.names


async def test_a_budget_that_is_exceeded(provider: Provider) -> None:
    """The event has the error and what was spent; the request is not sent, and it is no other error."""
    record = Record()
    turns = (calling(call_of("weather", city="Rome")),)
    with pytest.raises(BudgetExceededError) as caught:
        await ask(provider, *turns, hooks=record.hooks, budget=Budget(requests=1), **WHO)
    event = record.one(BudgetExceeded)
    assert event.error is caught.value
    assert event.spent.requests == 1
    assert (event.user_id, event.agent_name) == ("u1", "Helper")
    assert "error" not in record.names
    assert len(provider.server.requests) == 1


async def test_an_error(provider: Provider) -> None:
    """The event of a failure has the very error that the reader gets, and comes before it."""
    record = Record()
    with pytest.raises(provider.sdk.BadRequestError) as caught:
        await ask(provider, Reply(status=400), hooks=record.hooks)
    assert record.one(ErrorEvent).error is caught.value
    assert record.names == ["before_request", "error"]


async def test_the_hook_comes_before_the_error(provider: Provider) -> None:
    """Who reads the reply gets the error when the hook has seen it: leaving the context for it takes nothing away."""
    told: list[str] = []

    async def hook(event: ErrorEvent) -> None:
        await asyncio.sleep(0)
        told.append(event.hook)

    provider.server.script(Reply(status=400))
    with pytest.raises(provider.sdk.BadRequestError):
        async with MiniAgents():
            async for promise in provider.agent.inquire("Hi", hooks={"on_error": hook}):
                await promise
    assert told == ["on_error"]


async def test_an_error_of_what_is_sent(provider: Provider) -> None:
    """When what is to be sent fails, nothing is sent, and the error event fires."""
    record = Record()

    @miniagent
    async def failing(ctx: InteractionContext) -> None:
        raise LookupError("no question")

    async with MiniAgents():
        reply = provider.agent.inquire(failing.inquire(), hooks=record.hooks)
        await reply.usage()
        with pytest.raises(LookupError, match="no question"):
            await reply
    assert record.names == ["error"]
    assert provider.server.requests == []


async def test_hooks_without_tools(provider: Provider) -> None:
    """An agent that has no tools fires the events of its request, too."""
    record = Record()
    await ask(provider, saying("Hi."), hooks=record.hooks, tools=[])
    assert record.names == ["before_request", "after_request"]


async def test_async_hooks_are_waited_for(provider: Provider) -> None:
    """The agent goes on when an async hook has ended: what it does happens in order."""
    order: list[str] = []
    goes_on, began = asyncio.Event(), asyncio.Event()

    async def hook(event: FunctionCallStart) -> None:
        began.set()
        await goes_on.wait()
        order.append("hook")

    async def thing() -> str:
        order.append("tool")
        return "ok"

    provider.server.script(calling("thing"), saying("Fine."))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[thing], hooks={"on_function_call_start": hook})
        await soon(began.wait())
        assert order == []
        goes_on.set()
        await soon(replies)
    assert order == ["hook", "tool"]


async def test_lists_of_hooks(provider: Provider) -> None:
    """A name may have several hooks, sync and async, functions and objects; they are called in their order."""
    told: list[str] = []

    def first(_: Any) -> None:
        told.append("first")

    async def second(_: Any) -> None:
        told.append("second")

    class Third:
        async def __call__(self, _: Any) -> None:
            told.append("third")

    hooks = {"on_before_request": [first, second, Third()], "on_after_request": (lambda _: second(_),)}
    await ask(provider, saying("Hi."), hooks=hooks)
    assert told == ["first", "second", "third", "second"]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "failure",
    [ValueError("a hook's mistake"), asyncio.CancelledError(), PromiseCancelledError(), Unprintable()],
    ids=lambda failure: type(failure).__name__,
)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_failing_hooks_disturb_nothing(
    provider: Provider, failure: BaseException, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Hooks of all names that fail are logged by their names; the run, and the hooks after them, go on."""
    record = Record()

    async def failing(_: Any) -> None:
        raise failure

    def failing_at_once(_: Any) -> None:
        raise failure

    hooks = {name: [failing if is_async else failing_at_once, record.append] for name in NAMES}
    turns = calling(call_of("weather", city="Rome"), "broken"), saying("Sunny.")
    with caplog.at_level(logging.ERROR, "miniagents"):
        messages = await ask(provider, *turns, hooks=hooks)
    assert str(messages[-1]) == "Sunny."
    assert sorted(record.names) == [
        "after_request",
        "after_request",
        "before_request",
        "before_request",
        "function_call_end",
        "function_call_error",
        "function_call_start",
        "function_call_start",
    ]
    logged = [entry.getMessage() for entry in caplog.records if entry.name == "miniagents"]
    assert len(logged) == len(record)
    assert all(any(event.hook in text for text in logged) for event in record)


@pytest.mark.parametrize("name", ["on_function_call_start", "on_function_call_end", "on_before_request"])
@pytest.mark.parametrize("kind", ["function", "agent"])
async def test_a_hook_may_end_the_program(provider: Provider, name: str, kind: str) -> None:
    """`sys.exit()` in a hook is raised where the reply is consumed; nobody waits for ever."""

    async def thing(message: str) -> str:
        return message

    @miniagent(alias="thing")
    async def agent(ctx: InteractionContext) -> None:
        ctx.reply("ok")

    def leaving(_: Any) -> None:
        raise SystemExit(3)

    if name != "on_before_request":
        provider.server.script(calling(call_of("thing", message="?")))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[agent if kind == "agent" else thing], hooks={name: leaving})
        with pytest.raises(SystemExit):
            async with asyncio.timeout(PATIENCE):
                await resolved(replies)
        replies.cancel()


async def test_a_failing_hook_hides_no_error(provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    """When the hook for errors fails, too, the error of the agent is raised all the same."""

    def failing(_: Any) -> None:
        raise ValueError("a hook's mistake")

    with pytest.raises(provider.sdk.BadRequestError):
        await ask(provider, Reply(status=400), hooks={"on_error": failing})
    assert "on_error" in caplog.text


@pytest.mark.parametrize("name", ["on_function_call_strat", "function_call_start", "", "on_after_Request"])
async def test_misspelt_names(provider: Provider, name: str) -> None:
    """A hook that does not exist is an error that names those that do; nothing is sent."""
    with pytest.raises(ValueError, match="on_function_call_start"):
        await ask(provider, hooks={name: print})
    assert provider.server.requests == []


@pytest.mark.parametrize("hook", [7, "print", [print, None], None])
def test_hooks_can_be_called(hook: Any) -> None:
    """What is no function is refused at once, with the name of the hook."""
    with pytest.raises(TypeError, match="on_error"):
        Hooks({"on_error": hook})


@pytest.mark.parametrize("hooks", [None, {}, {"on_error": []}])
async def test_no_hooks(provider: Provider, hooks: Any) -> None:
    """No hooks are no hooks, however that is written."""
    messages = await ask(provider, calling(call_of("weather", city="Rome")), saying("Sunny."), hooks=hooks)
    assert str(messages[-1]) == "Sunny."


async def test_inner_agents_have_their_own_hooks(provider: Provider) -> None:
    """The hooks of an agent are told of its own requests and calls, not of those of agents inside of its tools."""
    outer, inner = Record(), Record()
    helper = provider.agent.fork(alias="HELPER", hooks=inner.hooks)
    provider.server.script(calling(call_of("helper", message="Hi")), saying("inside"), saying("outside"))
    async with MiniAgents():
        await provider.agent.fork(alias="BOSS").inquire("Hi", tools=[helper], hooks=outer.hooks)
    assert {event.agent_name for event in outer} == {"BOSS"}
    assert {event.agent_name for event in inner} == {"HELPER"}
    assert inner.names == ["before_request", "after_request"]
    assert outer.names.count("before_request") == 2


async def test_no_key_in_any_event(provider: Provider) -> None:
    """Events can be printed and logged: the key is in none of them."""
    record = Record()
    with pytest.raises(provider.sdk.BadRequestError):
        await ask(provider, calling("broken"), Reply(status=400), hooks=record.hooks)
    assert "very-secret" not in f"{list(record)!r}"
