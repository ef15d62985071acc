"""`AsyncOpenAISimpleAgent`: the documented class, its response, and the code blocks that document it."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import openai
import pytest

from miniagents import InteractionContext, MiniAgent, MiniAgents, miniagent
from miniagents.ext.llm.budget import Budget
from miniagents.ext.llm.llm_common import UserMessage
from miniagents.ext.tools import AsyncOpenAISimpleAgent, BudgetExceeded, ErrorEvent, tool
from promising import PromiseCancelledError
from tests.ext.llm.helpers import KEY
from tests.ext.tools.helpers import Running, all_sent, call_of, calling, calls_sent, results_sent, saying, soon
from tests.support.llm_server import Gate, LLMServer, Reply, Request, ToolCall

ROOT = Path(__file__).parents[3]
DOCUMENTED = Path(__file__).parent / "documented"  # as users have them, with the import changed
QUESTION = "What's the time and weather in Tokyo and London?"


async def get_weather(city: str, user_id: str, chat_id: str, agent_name: str) -> str:
    """Get weather for a city."""
    return f"Sunny in {city} for {user_id}, {chat_id}, {agent_name}"


SCHEMA = {
    "name": "get_weather",
    "description": "Get weather for a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The city to get weather for"}},
        "required": ["city"],
    },
}
REGISTRY = [{"name": "get_weather", "function_schema": SCHEMA, "func": get_weather}]


def agent_at(server: LLMServer, **options: Any) -> AsyncOpenAISimpleAgent:
    defaults: dict[str, Any] = {
        "agent_name": "Test_Agent",
        "user_id": "u1",
        "chat_id": "c1",
        "model": "gpt-4o-mini",
        "api_key": KEY,
        "base_url": server.openai_url,
        "tool_registry": REGISTRY,
        "max_retries": 0,
    }
    return AsyncOpenAISimpleAgent(**{**defaults, **options})


async def send(server: LLMServer, *replies: Reply, text: str = "Hi", **options: Any) -> dict[str, Any]:
    """A response; that it can be written as JSON is checked, and comes back the same."""
    server.script(*replies)
    response = await soon(agent_at(server, **options).send_message(text))
    assert json.loads(json.dumps(response)) == response
    return response


def contents(messages: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in messages]


# --- the response ---


async def test_the_documented_dictionary(server: LLMServer) -> None:
    """A response has what is documented, in plain data."""
    response = await send(
        server, calling(ToolCall("get_weather", ('{"city":"Rome"}',), "call_a")), saying("It is sunny."), text="And?"
    )
    assert set(response) == {"stop_reason", "history", "agent_name", "timestamp", "output", "usage"}
    assert (response["stop_reason"], response["agent_name"]) == ("completed", "Test_Agent")
    assert response["output"] == "It is sunny."
    assert datetime.fromisoformat(response["timestamp"])
    assert response["history"] == {
        "messages": [
            {"role": "user", "content": "And?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_a",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_a", "content": "Sunny in Rome for u1, c1, Test_Agent"},
            {"role": "assistant", "content": "It is sunny."},
        ],
        "simplified": [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "It is sunny."}],
    }


async def test_usage(server: LLMServer) -> None:
    """The usage has the documented fields, and is the sum over the requests."""
    usage = {"prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 2}}
    turn = calling(call_of("get_weather", city="Rome"))
    found = (await send(server, Reply(turn.pieces, usage=usage), Reply(("Sunny.",), usage=usage)))["usage"]
    assert (found["prompt_tokens"], found["completion_tokens"], found["total_tokens"]) == (14, 10, 24)
    documented = {"accepted_prediction_tokens", "audio_tokens", "reasoning_tokens", "rejected_prediction_tokens"}
    assert documented <= set(found["completion_tokens_details"])
    assert {"audio_tokens", "cached_tokens"} <= set(found["prompt_tokens_details"])
    assert found["completion_tokens_details"]["reasoning_tokens"] == 4
    assert found["prompt_tokens_details"]["cached_tokens"] == 6


async def test_the_system_prompt_is_sent_and_not_kept(server: LLMServer) -> None:
    """Every request has the system prompt; it is no part of the history."""
    response = await send(
        server, calling(call_of("get_weather", city="Rome")), saying("Sunny."), system_prompt="Be brief."
    )
    for request in server.requests:
        assert request.body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "Be brief." not in json.dumps(response)


# --- history ---


@pytest.mark.parametrize("form", ["messages", "simplified"])
async def test_both_forms_of_history(server: LLMServer, form: str) -> None:
    """A conversation goes on from either form; the new history has all of it, and what was given is not changed."""
    first = await send(server, calling(call_of("get_weather", city="Rome"), text="Let me see."), saying("Sunny."))
    given = first["history"][form]
    before = json.dumps(given)
    server.script(saying("There too."))
    second = await agent_at(server).send_message("And in Oslo?", history=given)
    assert json.dumps(given) == before
    assert second["history"]["messages"][: len(given)] == given
    assert contents(second["history"]["messages"][len(given) :]) == [
        ("user", "And in Oslo?"),
        ("assistant", "There too."),
    ]
    assert contents(second["history"]["simplified"]) == [
        ("user", "Hi"),
        ("assistant", "Let me see."),
        ("assistant", "Sunny."),
        ("user", "And in Oslo?"),
        ("assistant", "There too."),
    ]
    assert calls_sent(server.requests[2]) == ([("get_weather", {"city": "Rome"})] if form == "messages" else [])


async def test_other_histories(server: LLMServer) -> None:
    """A history may be an iterator of dicts and messages, with the fields that others write."""
    history = (
        message
        for message in [
            {"role": "system", "content": "Be kind."},
            UserMessage("Hello"),
            {"role": "assistant", "content": [{"type": "text", "text": "Hello, you."}], "refusal": None},
            {"role": "user", "content": "Hm", "name": "Ada"},
        ]
    )
    server.script(saying("Yes?"))
    response = await agent_at(server).send_message("Well", history=history)
    assert contents(response["history"]["simplified"]) == [
        ("user", "Hello"),
        ("assistant", "Hello, you."),
        ("user", "Hm"),
        ("user", "Well"),
        ("assistant", "Yes?"),
    ]
    assert contents(server.requests[0].body["messages"])[0] == ("system", "Be kind.")


async def test_a_history_with_calls_that_were_not_answered(server: LLMServer) -> None:
    """Calls without results are answered with "cancelled", so that the history can be sent."""
    call = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    server.script(saying("Sorry."))
    response = await agent_at(server).send_message("Well?", history=history)
    assert {"role": "tool", "tool_call_id": "a", "content": "cancelled"} in response["history"]["messages"]
    assert {"role": "tool", "tool_call_id": "a", "content": "cancelled"} in server.requests[0].body["messages"]


@pytest.mark.parametrize("message", [{"role": "robot", "content": "x"}, {"content": "x"}, {}])
async def test_a_history_that_cannot_be_read(server: LLMServer, message: Any) -> None:
    """A message without a known role is refused, and the roles are named."""
    with pytest.raises(ValueError, match="assistant"):
        await agent_at(server).send_message("Hi", history=[message])
    assert server.requests == []


# --- why it ends ---


async def test_max_turns(server: LLMServer) -> None:
    """An endless loop ends with `max_turns`, and its history can be sent again."""
    turns = [calling(call_of("get_weather", city=city), text=f"{city}?") for city in ("Rome", "Oslo")]
    response = await send(server, *turns, max_turns=2)
    assert (response["stop_reason"], response["output"]) == ("max_turns", "Oslo?")
    await goes_on(server, response)


async def goes_on(server: LLMServer, response: dict[str, Any]) -> Request:
    """Sends both forms of a history again, to the strict server."""
    for form in ("simplified", "messages"):
        server.script(saying("Well."))
        further = await soon(agent_at(server).send_message("Go on", history=response["history"][form]))
        assert (further["stop_reason"], further["output"]) == ("completed", "Well.")
    return server.requests[-1]


class Stop:
    """A stop signal that comes when the test says so."""

    def __init__(self) -> None:
        self.given = asyncio.Event()
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, user_id: str, chat_id: str) -> bool:
        self.asked.append((user_id, chat_id))
        await self.given.wait()
        return True


async def stopped(server: LLMServer, stop: Stop, at: Any, **options: Any) -> dict[str, Any]:
    agent = agent_at(server, manual_stop_signal_function=stop, **options)
    sending = asyncio.create_task(agent.send_message("Hi"))
    await soon(at.wait())
    stop.given.set()
    response = await soon(sending)
    assert json.loads(json.dumps(response)) == response
    assert response["stop_reason"] == "manual_stop"
    assert stop.asked == [("u1", "c1")]
    await goes_on(server, response)
    return response


async def test_manual_stop_before_the_first_token(server: LLMServer) -> None:
    """A stop before anything was said has an empty output."""
    gate = Gate()
    server.script(Reply(("never",), hold=gate))
    response = await stopped(server, Stop(), gate.reached)
    assert response["output"] == ""
    assert contents(response["history"]["simplified"]) == [("user", "Hi")]
    await server.client_disconnected(0)


async def test_manual_stop_in_mid_stream(server: LLMServer) -> None:
    """The text so far is the output, and part of the history; the request is closed."""
    gate, events = Gate(), []
    server.script(Reply(("so far", gate)))

    stop = Stop()
    agent = agent_at(server, manual_stop_signal_function=stop, hooks={"on_manual_stop": events.append})
    async with MiniAgents():
        stream = agent.stream_message("Hi")
        reader = aiter(stream)
        assert await soon(anext(reader)) == "so far"
        stop.given.set()
        assert [token async for token in reader] == []
        response = await soon(stream)
    assert (response["stop_reason"], response["output"]) == ("manual_stop", "so far")
    assert contents(response["history"]["simplified"]) == [("user", "Hi"), ("assistant", "so far")]
    assert [(event.text, event.user_id, event.chat_id, event.agent_name) for event in events] == [
        ("so far", "u1", "c1", "Test_Agent")
    ]
    await server.client_disconnected(0)
    await goes_on(server, response)


async def test_manual_stop_while_tools_run(server: LLMServer) -> None:
    """Unfinished calls are "cancelled" in the history."""
    running = Running()
    server.script(calling("work", call_of("get_weather", city="Rome"), text="Let me see."))
    response = await stopped(server, Stop(), running.began, tool_registry=[*REGISTRY, running])
    assert running.was_cancelled
    assert response["output"] == "Let me see."
    results = [message["content"] for message in response["history"]["messages"] if message["role"] == "tool"]
    assert results[0] == "cancelled"
    assert len(results) == 2


async def test_manual_stop_while_an_inner_agent_speaks(server: LLMServer) -> None:
    """What an inner agent has said so far is no output."""
    gate, stop = Gate(), Stop()
    inner = agent_at(server, agent_name="Inner", tool_registry=[]).agent
    server.script(calling(call_of("inner", message="?"), text="Let me ask."), Reply(("half of it", gate)))
    response = await stopped(server, stop, gate.reached, tool_registry=[inner])
    assert response["output"] == "Let me ask."
    assert "half of it" not in json.dumps(response)


async def test_manual_stop_between_two_turns(server: LLMServer) -> None:
    """A stop that comes when all tools have ended, and before the next request, is a manual stop, too."""
    stop = Stop()

    async def hooked(_: Any) -> None:
        stop.given.set()
        for _turn in range(20):
            await asyncio.sleep(0)

    server.script(calling(call_of("get_weather", city="Rome")))
    agent = agent_at(server, manual_stop_signal_function=stop, hooks={"on_function_call_end": hooked})
    response = await soon(agent.send_message("Hi"))
    assert response["stop_reason"] == "manual_stop"
    assert len(server.requests) == 1
    await goes_on(server, response)


async def test_a_signal_that_is_too_late(server: LLMServer) -> None:
    """An answer that is complete is "completed", and does not wait for the signal."""
    stop = Stop()
    response = await send(server, saying("Fine."), manual_stop_signal_function=stop)
    assert (response["stop_reason"], response["output"]) == ("completed", "Fine.")


async def test_budget_exceeded(server: LLMServer) -> None:
    """A budget that is used up ends the message with what there is; the hook fires, and nothing is raised."""
    events: list[Any] = []
    hooks = {"on_budget_exceeded": events.append, "on_error": events.append}
    response = await send(
        server,
        calling(call_of("get_weather", city="Rome"), text="Let me see."),
        budget=Budget(requests=1),
        hooks=hooks,
    )
    assert (response["stop_reason"], response["output"]) == ("budget_exceeded", "Let me see.")
    assert [type(event) for event in events] == [BudgetExceeded]
    assert events[0].spent.requests == 1
    assert len(server.requests) == 1
    assert results_sent(await goes_on(server, response)) == []


async def test_a_budget_is_for_all_messages_together(server: LLMServer) -> None:
    """The budget of an agent is one account, whatever number of messages it is sent."""
    agent = agent_at(server, budget=Budget(requests=2))
    server.script(saying("1"), saying("2"))
    reasons = [(await agent.send_message("Hi"))["stop_reason"] for _ in range(3)]
    assert reasons == ["completed", "completed", "budget_exceeded"]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_the_model_breaks_off(server: LLMServer, reason: str) -> None:
    """An answer that is too long, or filtered, says so."""
    response = await send(server, Reply(("half an",), finish=reason))
    assert (response["stop_reason"], response["output"]) == (reason, "half an")


async def test_the_model_breaks_off_in_a_call(server: LLMServer) -> None:
    """A call that was cut off is answered as one that does not fit, and the loop goes on."""
    cut = Reply((ToolCall("get_weather", ('{"city": "Ro',)),), finish="length")
    response = await send(server, cut, saying("Well."))
    assert (response["stop_reason"], response["output"]) == ("completed", "Well.")


# --- errors ---


async def test_an_error_is_raised_after_the_hook(server: LLMServer) -> None:
    """What fails is raised, when the hook `on_error` has seen it."""
    events: list[ErrorEvent] = []

    async def on_error(event: ErrorEvent) -> None:
        await asyncio.sleep(0)
        events.append(event)

    server.script(Reply(status=401, error=("invalid_api_key", f"Wrong key: {KEY}")))
    with pytest.raises(openai.AuthenticationError) as caught:
        await agent_at(server, hooks={"on_error": on_error}).send_message("Hi")
    (event,) = events
    assert event.error is caught.value
    assert (event.user_id, event.chat_id, event.agent_name) == ("u1", "c1", "Test_Agent")
    assert KEY not in str(caught.value)


async def test_a_failing_tool_is_no_error_of_the_agent(server: LLMServer) -> None:
    """A tool that fails is told to the model, and the message is completed."""

    async def broken() -> str:
        raise LookupError("no")

    response = await send(server, calling("broken"), saying("Oh."), tool_registry=[broken])
    assert response["stop_reason"] == "completed"
    assert "LookupError: no" in response["history"]["messages"][2]["content"]


async def test_cancelling_send_message(server: LLMServer) -> None:
    """Cancelling who waits for the response ends the request and the tools."""
    running = Running()
    server.script(calling("work"))
    sending = asyncio.create_task(agent_at(server, tool_registry=[running]).send_message("Hi"))
    await soon(running.began.wait())
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(sending)
    assert running.was_cancelled


# --- arguments ---


@pytest.mark.parametrize("name", ["agent_name", "user_id", "chat_id"])
@pytest.mark.parametrize("value", [None, "", 7])
def test_ids_are_compulsory(name: str, value: Any) -> None:
    """An agent without a name, a user or a chat cannot be made."""
    given = {"agent_name": "a", "user_id": "u", "chat_id": "c", name: value}
    with pytest.raises(ValueError, match=name):
        AsyncOpenAISimpleAgent(**given)


@pytest.mark.parametrize("name", ["agent_name", "user_id", "chat_id"])
def test_ids_cannot_be_left_out(name: str) -> None:
    """None of the three has a default."""
    given = {"agent_name": "a", "user_id": "u", "chat_id": "c"}
    del given[name]
    with pytest.raises(TypeError, match=name):
        AsyncOpenAISimpleAgent(**given)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"max_turn": 3}, TypeError, "max_turn"),
        ({"temperature": 0.1}, TypeError, "temperature"),
        ({"hooks": {"on_function_call_strat": print}}, ValueError, "on_function_call_start"),
        ({"hooks": {"on_error": 7}}, TypeError, "on_error"),
        ({"tool_registry": [{"name": "x", "func": print}]}, ValueError, "function_schema"),
        ({"tool_registry": [get_weather, get_weather]}, ValueError, "get_weather"),
        ({"context_handling_method": "exact"}, ValueError, "context_handling_method"),
        ({"dropping_strategy": "random"}, ValueError, "dropping_strategy"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_told_at_once(options: Any, error: type[Exception], named: str) -> None:
    """Options, hooks, tools and words that do not exist are refused when the agent is made."""
    with pytest.raises(error, match=named):
        AsyncOpenAISimpleAgent(agent_name="a", user_id="u", chat_id="c", **options)


@pytest.mark.parametrize(
    "options",
    [{"max_turns": 0}, {"check_for_stop_signal_time": 0}, {"timeout": -1}, {"max_retries": -1}],
    ids=str,
)
async def test_limits_that_are_none(server: LLMServer, options: dict[str, Any]) -> None:
    """Limits of nothing are refused, at the latest with the first message, and nothing is sent."""
    with pytest.raises(ValueError, match=next(iter(options))):
        await agent_at(server, **options).send_message("Hi")
    assert server.requests == []


async def test_parameters_reach_the_model(server: LLMServer) -> None:
    """Model, tools and further parameters are in the request."""
    await send(server, saying("Hi."), model_parameters={"temperature": 0.2, "max_tokens": 50})
    body = server.requests[0].body
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt-4o-mini", 0.2, 50)
    assert body["tools"][0]["function"]["parameters"] == SCHEMA["parameters"]


async def test_the_environment_says_where(server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `api_key` and `base_url` the environment says whom to ask."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
    response = await send(server, saying("Hi."), api_key=None, base_url=None)
    assert response["output"] == "Hi."
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("concurrently", [True, False])
async def test_execute_function_concurrently(server: LLMServer, concurrently: bool) -> None:
    """It decides whether the calls of a turn run at the same time."""
    at_work = most = 0

    async def work() -> str:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        for _ in range(20):
            await asyncio.sleep(0)
        at_work -= 1
        return "done"

    options = {"tool_registry": [work], "execute_function_concurrently": concurrently}
    await send(server, calling("work", "work", "work"), saying("Fine."), **options)
    assert most == (3 if concurrently else 1)


async def test_an_approver(server: LLMServer) -> None:
    """The approver is asked for tools that want it."""
    asked: list[Any] = []

    async def approver(request: Any) -> str:
        asked.append((request.user_id, request.chat_id, request.agent_name))
        return "not today"

    registry = [{**REGISTRY[0], "requires_approval": True}]
    turns = calling(call_of("get_weather", city="Rome")), saying("Oh.")
    response = await send(server, *turns, tool_registry=registry, approver=approver)
    assert "not today" in response["history"]["messages"][2]["content"]
    assert asked == [("u1", "c1", "Test_Agent")]


async def test_hooks_are_told_for_whom(server: LLMServer) -> None:
    """All hooks get user, chat and agent."""
    events: list[Any] = []
    names = ["on_before_request", "on_after_request", "on_function_call_start", "on_function_call_end"]
    turns = calling(call_of("get_weather", city="Rome")), saying("Oh.")
    await send(server, *turns, hooks=dict.fromkeys(names, events.append))
    assert {event.hook for event in events} == set(names)
    assert {(event.user_id, event.chat_id, event.agent_name) for event in events} == {("u1", "c1", "Test_Agent")}


# --- printing ---


async def test_debug_print(server: LLMServer, capsys: pytest.CaptureFixture[str]) -> None:
    """`debug_print=True` prints calls, results and answers, as they come, and no key."""
    server.script(calling(call_of("get_weather", city="Rome"), text="Let me see."), saying("It is sunny."))
    response = await agent_at(server).send_message("Hi", debug_print=True)
    printed = capsys.readouterr().out
    places = [printed.index(text) for text in ("Let me see.", "Sunny in Rome", "It is sunny.")]
    assert places == sorted(places)
    assert "get_weather" in printed
    assert "Test_Agent" in printed
    assert KEY not in printed
    assert response["output"] == "It is sunny."


async def test_nothing_is_printed_else(server: LLMServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Without it nothing is printed."""
    await send(server, calling(call_of("get_weather", city="Rome")), saying("It is sunny."))
    assert capsys.readouterr() == ("", "")


# --- streaming ---


async def test_stream_message(server: LLMServer) -> None:
    """The tokens of the answers come as they are said, those of tools do not; the response is the same."""
    gate = Gate()

    async def report() -> AsyncIterator[str]:
        yield "a long report"

    server.script(calling("report", text="Let me see."), Reply(("It ", gate, "is.")))
    agent = agent_at(server, tool_registry=[report])
    async with MiniAgents():
        stream = agent.stream_message("Hi")
        reader = aiter(stream)
        assert [await soon(anext(reader)) for _ in range(2)] == ["Let me see.", "\n\nIt "]
        await gate.reached.wait()
        gate.open()
        assert [token async for token in reader] == ["is."]
        response = await stream
        assert "".join([token async for token in stream]) == "Let me see.\n\nIt is."  # it can be read again
        assert (await stream)["output"] == response["output"] == "It is."
    assert [message["role"] for message in response["history"]["messages"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert len(server.requests) == 2


async def test_stream_message_with_a_history(server: LLMServer) -> None:
    """It takes a history as `send_message` does, and works where no context is active."""
    server.script(saying("There too."))
    history = [{"role": "user", "content": "Rome?"}, {"role": "assistant", "content": "Sunny."}]
    stream = agent_at(server).stream_message("And Oslo?", history)
    assert "".join([token async for token in stream]) == "There too."
    assert contents((await stream)["history"]["messages"])[2:] == [("user", "And Oslo?"), ("assistant", "There too.")]


async def test_cancelling_a_stream(server: LLMServer) -> None:
    """`cancel()` closes the request; readers wake with an error."""
    gate = Gate()
    server.script(Reply(("half", gate)))
    async with MiniAgents():
        stream = agent_at(server).stream_message("Hi")
        reader = aiter(stream)
        assert await soon(anext(reader)) == "half"
        assert stream.cancel()
        with pytest.raises(PromiseCancelledError):
            await soon(anext(reader))
        with pytest.raises(PromiseCancelledError):
            await soon(stream)
        await server.client_disconnected(0)
        assert not stream.cancel()


async def test_many_at_once(server: LLMServer) -> None:
    """Messages that one agent is sent at the same time do not meet."""

    def answer(request: Request) -> Reply:
        city = next(city for city in ("Rome", "Oslo", "Lima") if city in all_sent(request))
        return saying(f"In {city}.") if results_sent(request) else calling(call_of("get_weather", city=city))

    server.default = answer
    agent = agent_at(server)
    cities = ["Rome", "Oslo", "Lima"] * 4
    responses = await asyncio.gather(*(agent.send_message(city) for city in cities))
    assert [response["output"] for response in responses] == [f"In {city}." for city in cities]
    assert {response["usage"]["requests"] for response in responses} == {2}


# --- the agent behind it ---


async def test_the_agent_behind_it(server: LLMServer) -> None:
    """`agent` is a miniagent, to be used wherever agents are, also as a tool of another one."""
    helper = agent_at(server, agent_name="Helper", agent_description="Knows the weather.", tool_registry=[])
    assert isinstance(helper.agent, MiniAgent)
    assert (helper.agent.alias, helper.agent.description) == ("Helper", "Knows the weather.")
    server.script(calling(call_of("helper", message="?")), saying("It rains."), saying("Rain."))
    response = await agent_at(server, tool_registry=[helper.agent]).send_message("Hi")
    assert response["output"] == "Rain."
    assert response["usage"]["requests"] == 3
    assert server.requests[0].body["tools"][0]["function"]["description"] == "Knows the weather."


async def test_a_registry_of_all_kinds(server: LLMServer) -> None:
    """A registry takes entries, functions, tools and agents side by side."""

    @miniagent
    async def parrot(ctx: InteractionContext) -> None:
        ctx.reply(ctx.message_promises)

    def plain(number: int) -> int:
        return number + 1

    registry = [*REGISTRY, plain, tool(parrot, name="polly")]
    turn = calling(call_of("get_weather", city="Rome"), call_of("plain", number=1), call_of("polly", message="Hello"))
    response = await send(server, turn, saying("Fine."), tool_registry=registry)
    results = [message["content"] for message in response["history"]["messages"] if message["role"] == "tool"]
    assert results == ["Sunny in Rome for u1, c1, Test_Agent", "2", "Hello"]


# --- the code blocks that document it ---


async def run_block(block: str, server: LLMServer, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a documented program in a process of its own that fails at every warning."""
    (folder / "block.py").write_text((DOCUMENTED / block).read_text())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ANTHROPIC_"))}
    variables = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.openai_url, "PYTHONPATH": str(ROOT)}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "block.py"],
        cwd=folder,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def weather_model(request: Request) -> Reply:
    """Asks the tools for whatever the last question names, then answers."""
    if results_sent(request):
        return saying("The weather is **Sunny**.")
    if "New York" in str(request.body["messages"][-1]):
        return calling(call_of("get_weather", city="New York"))
    return calling("get_current_time", call_of("get_weather", city="Tokyo"), call_of("get_weather", city="London"))


async def test_the_first_source_block(server: LLMServer, tmp_path: Path) -> None:
    """The example of the document runs with its import changed, and the line that it forgot."""
    server.default = weather_model
    result = await run_block("simple_agent.txt", server, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "get_weather called by Test_Agent for user test_user and chat test_chat" in result.stdout
    assert "Total time taken" in result.stdout
    assert KEY not in result.stdout
    response = json.loads((tmp_path / "response.json").read_text())
    assert (response["stop_reason"], response["agent_name"]) == ("completed", "Test_Agent")
    assert response["output"] == "The weather is **Sunny**."
    assert [message["role"] for message in response["history"]["messages"]] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert response["history"]["messages"][4]["content"] == "Sunny, 22°C in New York"
    assert len(response["history"]["simplified"]) == 4
    assert len(server.requests) == 4


async def test_the_second_source_block(server: LLMServer, tmp_path: Path) -> None:
    """The advanced example runs: its hook is told of the calls, and what takes over three seconds is stopped."""
    gate = Gate()

    def answer(request: Request) -> Reply:
        if "Germanay" in all_sent(request):
            return saying("Sunny everywhere.")
        return Reply(("So far", gate)) if results_sent(request) else weather_model(request)

    server.default = answer
    result = await run_block("simple_agent_with_controls.txt", server, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("THIS MESSAGE IS FROM HOOK ON FUNCTION CALL END") == 3
    assert "stop_chat_signal called for user test_user and chat test_chat" in result.stdout
    assert re.findall(r'"stop_reason": "(\w+)"', result.stdout) == ["manual_stop", "completed"]
    assert re.findall(r'"output": "(.*)"', result.stdout) == ["So far", "Sunny everywhere."]
    assert "So far" in all_sent(server.requests[-1])
    assert server.requests[1].disconnected.is_set()
