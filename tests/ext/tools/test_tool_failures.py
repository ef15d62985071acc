"""Tools that fail: the model is told what was wrong, and the run goes on."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents import MiniAgents
from miniagents.ext.tools import FunctionCallError, ToolArgumentsError, ToolError, tool
from tests.ext.llm.helpers import Provider
from tests.ext.tools.helpers import (
    Cast,
    Follower,
    Running,
    agent_called,
    call_of,
    calling,
    calls_sent,
    resolved,
    results_sent,
    roles,
    saying,
    soon,
)
from tests.support.llm_server import Gate, Reply, ToolCall


async def weather(city: str, days: int = 1) -> str:
    """Looks up the weather."""
    return f"sunny in {city} for {days}"


async def run(provider: Provider, turn: Reply, *tools: Any, **options: Any) -> tuple[list[Any], list[Any]]:
    """Lets a model make calls, then answer; gives the results and the error events.

    The run has to go on, the model has to be told the same as the reader, and what fails has to be marked.
    """
    events: list[FunctionCallError] = []
    provider.server.script(turn, saying("Oh."))
    async with MiniAgents():
        replies = provider.agent.inquire(
            "Hi", tools=tools or [weather], hooks={"on_function_call_error": events.append}, **options
        )
        call, *results, answer = await soon(resolved(replies))
    assert roles([call, *results, answer]) == ["assistant", *["tool"] * len(results), "assistant"]
    assert str(answer) == "Oh."
    sent = provider.server.requests[-1]
    assert results_sent(sent) == [str(result) for result in results]
    if not provider.is_openai:
        blocks = [block for block in sent.body["messages"][-1]["content"] if block["type"] == "tool_result"]
        assert [block.get("is_error", False) for block in blocks] == [result.is_error for result in results]
    failed = {result.tool_call_id: result for result in results if result.is_error}
    assert {event.tool_call_id for event in events} == set(failed)
    assert all(str(failed[event.tool_call_id]).endswith(event.error) for event in events)
    return results, events


async def failing(
    provider: Provider, call: ToolCall | str, *tools: Any, **options: Any
) -> tuple[str, FunctionCallError]:
    """What the model is told of a call that fails, and the event."""
    (result,), (event,) = await run(provider, calling(call), *tools, **options)
    assert result.is_error
    assert result.stop_reason is None
    return str(result), event


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "error",
    [LookupError("no such city"), TimeoutError("the sensor is away"), KeyError("city"), Exception("plain")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_it_raises(provider: Provider, error: Exception, is_async: bool) -> None:
    """The model is told the tool, the kind of the error and its text, but no traceback; the event has the error."""

    async def broken() -> str:
        raise error

    def broken_at_once() -> str:
        raise error

    text, event = await failing(provider, "broken", tool(broken if is_async else broken_at_once, name="broken"))
    assert "broken" in text
    assert str(error) in text
    assert "Traceback" not in text
    assert type(error).__name__ in text
    assert repr(event.exception) == repr(error)


async def test_it_raises_stop_iteration(provider: Provider) -> None:
    """A `next(...)` too many fails like all else, though such an error cannot leave a coroutine."""

    async def exhausted() -> str:
        return next(iter([]))

    text, _ = await failing(provider, "exhausted", exhausted)
    assert "StopIteration" in text


async def test_it_raises_stop_iteration_in_a_thread(openai_provider: Provider) -> None:
    """So it does in a sync function."""

    def exhausted() -> str:
        return next(iter([]))

    text, _ = await failing(openai_provider, "exhausted", tool(exhausted, timeout=0.2))
    assert "StopIteration" in text


async def test_its_error_has_no_words(provider: Provider) -> None:
    """An error without a text is told by its kind; so is one whose text cannot be had."""

    async def silent() -> str:
        raise LookupError

    async def unprintable() -> str:
        raise Unprintable

    first, second = (await run(provider, calling("silent", "unprintable"), silent, unprintable))[0]
    assert "LookupError" in str(first)
    assert "Unprintable" in str(second)


async def test_it_says_itself_what_is_wrong(provider: Provider) -> None:
    """A `ToolError` is told in its own words."""

    async def picky() -> str:
        raise ToolError("there is no weather on Sundays")

    text, event = await failing(provider, "picky", picky)
    assert "there is no weather on Sundays" in text
    assert "ToolError" not in text
    assert isinstance(event.exception, ToolError)


async def test_it_raises_in_mid_stream(provider: Provider) -> None:
    """What a tool has yielded before it fails is kept, and the error stands after it."""

    async def report() -> AsyncIterator[str]:
        yield "half a report"
        raise LookupError("no more")

    (result,), _ = await run(provider, calling("report"), report)
    first, _, rest = str(result).partition("\n")
    assert first == "half a report"
    assert "LookupError: no more" in rest
    assert result.is_error


async def test_it_is_cancelled_by_itself(provider: Provider) -> None:
    """A tool that raises CancelledError, though nobody has cancelled it, has failed."""

    async def giving_up() -> str:
        raise asyncio.CancelledError

    _, event = await failing(provider, "giving_up", giving_up)
    assert isinstance(event.exception, Exception)


async def test_others_go_on(provider: Provider) -> None:
    """Of several calls those that do not fail have their results."""

    async def broken() -> str:
        raise LookupError("no")

    turn = calling(call_of("weather", city="Rome"), "broken", "unknown", call_of("weather", city="Oslo"))
    results, events = await run(provider, turn, weather, broken)
    assert [result.is_error for result in results] == [False, True, True, False]
    assert str(results[3]) == "sunny in Oslo for 1"
    assert sorted(event.function_name for event in events) == ["broken", "unknown"]


async def test_one_after_the_other(provider: Provider) -> None:
    """The calls after one that fails are made, too, where they are made one after the other."""

    async def broken() -> str:
        raise LookupError("no")

    turn = calling("broken", call_of("weather", city="Rome"))
    results, _ = await run(provider, turn, weather, broken, execute_function_concurrently=False)
    assert [result.is_error for result in results] == [True, False]


# --- time-outs ---


async def test_it_takes_too_long(provider: Provider) -> None:
    """A tool is cancelled after its `timeout`, and the model is told the limit."""
    slow = Running("slow")
    text, event = await failing(provider, "slow", tool(slow, timeout=0.01))
    assert slow.was_cancelled
    assert "0.01 s" in text
    assert isinstance(event.exception, ToolError)


async def test_it_does_not_end_when_its_time_is_over(provider: Provider) -> None:
    """Nobody waits for a tool that does not end when it is cancelled after its limit."""
    may_end = asyncio.Event()

    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
        return "never"

    provider.server.script(calling("stubborn"), saying("Oh."))
    async with MiniAgents():
        _, result, answer = await soon(resolved(provider.agent.inquire("Hi", tools=[tool(stubborn, timeout=0.01)])))
        may_end.set()
    assert ("0.01 s" in str(result), str(answer)) == (True, "Oh.")


async def test_it_takes_too_long_in_a_thread(provider: Provider) -> None:
    """The result of a blocking function that takes too long is not waited for."""
    released = threading.Event()
    waited: list[bool] = []

    def blocking() -> str:
        waited.append(released.wait(5))
        return "late"

    try:
        text, _ = await failing(provider, "blocking", tool(blocking, timeout=0.01))
        assert waited == []
    finally:
        released.set()
    assert "0.01 s" in text


async def test_it_streams_too_long(provider: Provider) -> None:
    """What came before the limit is kept; the generator is closed."""
    closed: list[bool] = []

    async def report() -> AsyncIterator[str]:
        try:
            yield "half"
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    (result,), _ = await run(provider, calling("report"), tool(report, timeout=0.01))
    assert str(result).startswith("half\n")
    assert result.is_error
    assert closed == [True]


async def test_an_agent_takes_too_long(provider: Provider) -> None:
    """The request of an agent that is a tool is closed after the limit of the tool."""
    gate = Gate()
    cast = Cast(OUTER=[calling(call_of("inner", message="Hi")), saying("Oh.")], INNER=[Reply(("half", gate))])
    provider.server.default = cast
    inner = tool(agent_called(provider, "INNER"), timeout=0.05)
    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire("Hi", tools=[inner])
        follower = await Follower(replies).ends()
        await provider.server.client_disconnected(1)
        _, _, result, answer = await replies
    assert follower.error is None
    assert (result.is_error, "0.05 s" in str(result), str(answer)) == (True, True, "Oh.")


async def test_each_tool_has_its_own_limit(provider: Provider) -> None:
    """One that takes too long does not end its neighbour; a registry entry has a limit, too."""
    slow, steady = Running("slow"), Running("steady", "steady")
    schema = {"name": "slow", "parameters": {"type": "object", "properties": {}}}
    entry = {"name": "slow", "function_schema": schema, "func": slow, "timeout": 0.01}
    provider.server.script(calling("slow", "steady"), saying("Oh."))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[entry, steady])
        await soon(slow.ended.wait())
        assert not steady.ended.is_set()
        steady.may_end.set()
        _, first, second, _ = await soon(replies)
    assert (first.is_error, str(second), second.is_error) == (True, "steady", False)


async def test_its_own_time_out_is_no_limit_of_ours(provider: Provider) -> None:
    """A TimeoutError that a tool raises is its error, also if the tool has a limit."""

    async def impatient() -> str:
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()
        return "never"

    text, event = await failing(provider, "impatient", tool(impatient, timeout=60))
    assert "60 s" not in text
    assert isinstance(event.exception, TimeoutError)


# --- arguments ---


@pytest.mark.parametrize(
    "arguments", ['{"city": "Ro', '{"city"', "{", "city=Rome", '{"city": "Rome"}}', '{"city": NaN', "{'city': 'Rome'}"]
)
async def test_broken_json(provider: Provider, arguments: str) -> None:
    """Arguments that are no JSON are no call; the model is told so, and sees `{}` as what it had asked for."""
    text, event = await failing(provider, ToolCall("weather", (arguments,)))
    assert "JSON" in text
    assert isinstance(event.exception, ToolArgumentsError)
    assert event.arguments == arguments
    assert calls_sent(provider.server.requests[1]) == [("weather", {})]


@pytest.mark.parametrize("arguments", ["[1, 2]", '"Rome"', "null", "7"])
async def test_json_that_is_no_object(provider: Provider, arguments: str) -> None:
    """Arguments have names."""
    text, event = await failing(provider, ToolCall("weather", (arguments,)))
    assert "object" in text
    assert isinstance(event.exception, ToolArgumentsError)
    assert calls_sent(provider.server.requests[1]) == [("weather", {})]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({}, "city"), ({"city": 7}, "city"), ({"city": "Rome", "days": "many"}, "days"), ({"city": "Rome", "x": 1}, "x")],
    ids=["missing", "wrong type", "wrong value", "unknown"],
)
async def test_arguments_that_do_not_fit(provider: Provider, arguments: Any, named: str) -> None:
    """The model is told which argument does not fit; the tool does not run."""
    runs: list[Any] = []

    async def weather(city: str, days: int = 1) -> str:
        runs.append((city, days))
        return "ran"

    text, event = await failing(provider, call_of("weather", **arguments), weather)
    assert named in text
    assert isinstance(event.exception, ToolArgumentsError)
    assert runs == []
    assert calls_sent(provider.server.requests[1]) == [("weather", arguments)]


async def test_arguments_that_do_not_fit_a_registry_entry(provider: Provider) -> None:
    """The schema of an entry is held to in the same way."""
    schema = {
        "name": "weather",
        "description": "Looks up the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    }
    entry = {"name": "weather", "function_schema": schema, "func": weather}
    turn = calling(call_of("weather"), call_of("weather", city=7), call_of("weather", city="Rome"))
    results, _ = await run(provider, turn, entry)
    assert [result.is_error for result in results] == [True, True, False]
    assert all("city" in str(result) for result in results[:2])


async def test_no_arguments(provider: Provider) -> None:
    """An empty text stands for no arguments, which some models write."""

    async def thing() -> str:
        return "ran"

    (result,), _ = await run(provider, calling(ToolCall("thing", ())), thing)
    assert (str(result), result.is_error) == ("ran", False)


# --- names ---


@pytest.mark.parametrize("name", ["wether", "weather2", "Weather"])
async def test_unknown_tools(provider: Provider, name: str) -> None:
    """The model is told that there is no such tool, and which there are."""
    text, event = await failing(provider, name)
    assert name in text
    assert "weather" in text
    assert event.function_name == name


async def test_calls_with_the_same_id(provider: Provider) -> None:
    """Calls that a careless server has given one id have each its result, and can be sent."""

    async def twice(number: int) -> int:
        return 2 * number

    provider.server.default = lambda request: saying("Fine.")
    calls = [ToolCall("twice", (f'{{"number": {number}}}',), "same") for number in (1, 2)]
    provider.server.script(calling(*calls))
    async with MiniAgents():
        messages = await soon(resolved(provider.agent.inquire("Hi", tools=[twice])))
    assert [str(message) for message in messages] == ["", "2", "4", "Fine."]
    assert results_sent(provider.server.requests[1]) == ["2", "4"]


async def test_no_tools_at_all(provider: Provider) -> None:
    """A model that calls a tool of an agent without any is answered as well, where the agent has the loop."""
    provider.server.script(calling("weather"), saying("Oh."))
    async with MiniAgents():
        messages = await soon(resolved(provider.agent.inquire("Hi", hooks={"on_error": print})))
    assert roles(messages) == ["assistant", "tool", "assistant"]


@pytest.mark.parametrize("name", ["", "multi_tool_use.parallel", "with space", "x" * 80, "ümlaut"])
async def test_names_that_no_provider_takes(provider: Provider, name: str) -> None:
    """A name that a model has made up is sent back such that the provider takes it."""
    provider.server.default = lambda request: saying("Oh.")
    provider.server.script(calling(name))
    async with MiniAgents():
        *_, result, answer = await soon(resolved(provider.agent.inquire("Hi", tools=[weather])))
    assert result.is_error
    assert str(answer) == "Oh."


# --- what is no ordinary error ---


class Fatal(BaseException):
    """Nothing that a tool should survive."""


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, Fatal])
@pytest.mark.parametrize("concurrently", [True, False])
async def test_exits_leave_the_loop(provider: Provider, kind: type[BaseException], concurrently: bool) -> None:
    """An exception that is no `Exception` ends the run, and is raised where the reply is consumed."""

    async def leaving() -> str:
        raise kind

    provider.server.script(calling("leaving"))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[leaving], execute_function_concurrently=concurrently)
        with pytest.raises(kind):
            await soon_or_raise(replies)
    assert len(provider.server.requests) == 1


async def soon_or_raise(replies: Any) -> None:
    async with asyncio.timeout(10):
        await replies


async def test_an_error_of_an_agent_with_errors_as_messages(provider: Provider) -> None:
    """`errors_as_messages` of the outer agent changes nothing for its tools: they fail in their results."""

    async def broken() -> str:
        raise LookupError("no")

    provider.server.script(calling("broken"), saying("Oh."))
    async with MiniAgents(errors_as_messages=True):
        messages = await soon(provider.agent.inquire("Hi", tools=[broken]))
    assert [str(message) for message in messages][2:] == ["Oh."]
    assert "LookupError: no" in str(messages[1])
