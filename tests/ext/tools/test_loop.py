"""The loop: the model, the tools that it calls, their results, the model again."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents import InteractionContext, Message, MessagePromise, MessageSequencePromise, MiniAgents, miniagent
from miniagents.ext.llm.llm_common import AssistantMessage, ToolResultMessage, UserMessage
from miniagents.ext.llm.parts import ImagePart, ToolCallPart
from miniagents.ext.tools import tool
from miniagents.testing import quiescence
from tests.ext.llm.helpers import BOTH_WAYS, Provider
from tests.ext.llm.test_all_providers import PROVIDERS, agent_of
from tests.ext.tools.helpers import (
    Follower,
    Running,
    all_sent,
    call_of,
    calling,
    calls_sent,
    resolved,
    results_sent,
    roles,
    said,
    saying,
    soon,
)
from tests.support.llm_server import LLMServer, Reply, ToolCall

PIXEL = b"\x89PNG\r\n\x1a\n"


async def weather(city: str) -> str:
    """Looks up the weather."""
    return f"sunny in {city}"


async def ask(provider: Provider, *replies: Reply, **options: Any) -> tuple[Any, ...]:
    provider.server.script(*replies)
    async with MiniAgents():
        return await resolved(provider.agent.inquire("How is it?", **options))


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_from_the_question_to_the_answer(provider: Provider, stream: bool) -> None:
    """The reply holds the call, the result and the answer in order, each with its role and the agent."""
    provider.server.script(
        Reply(("Let me ", "see.", ToolCall("weather", ('{"ci', 'ty": "Rome"}'), "call_a"))), Reply(("It is ", "sunny."))
    )
    async with MiniAgents():
        replies = provider.agent.fork(alias="HELPER").inquire("How is it?", tools=[weather], stream=stream)
        call, result, answer = await resolved(replies)
        usage = await replies.usage()
    assert said([call, result, answer]) == [
        ("assistant", "HELPER", "Let me see."),
        ("tool", "HELPER", "sunny in Rome"),
        ("assistant", "HELPER", "It is sunny."),
    ]
    assert [type(message) for message in (call, result, answer)] == [
        AssistantMessage,
        ToolResultMessage,
        AssistantMessage,
    ]
    assert [(made.id, made.name, made.arguments) for made in call.tool_calls] == [
        ("call_a", "weather", '{"city": "Rome"}')
    ]
    assert (result.tool_call_id, result.tool_name, result.is_error) == ("call_a", "weather", False)
    assert (call.finish_reason, answer.finish_reason) == ("tool_calls", "stop")
    assert call.stop_reason is result.stop_reason is answer.stop_reason is None
    assert (usage.requests, usage.input_tokens) == (2, call.usage.input_tokens + answer.usage.input_tokens)
    second = provider.server.requests[1]
    assert calls_sent(second) == [("weather", {"city": "Rome"})]
    assert results_sent(second) == ["sunny in Rome"]


async def test_the_model_is_told_of_its_tools(provider: Provider) -> None:
    """Name, description and schema of each tool are in every request of the loop."""
    await ask(provider, calling(call_of("weather", city="Rome")), saying("Sunny."), tools=[weather])
    for request in provider.server.requests:
        (told,) = request.body["tools"]
        function = told["function"] if provider.is_openai else told
        schema = function["parameters"] if provider.is_openai else function["input_schema"]
        assert (function["name"], function["description"]) == ("weather", "Looks up the weather.")
        assert schema["properties"] == {"city": {"type": "string"}}
        assert schema["required"] == ["city"]


async def test_many_turns(provider: Provider) -> None:
    """The loop goes on as long as the model calls tools; all turns are sent, ids that servers use again included."""
    turns = [calling(call_of("weather", city=city)) for city in ("Rome", "Oslo", "Lima")]
    messages = await ask(provider, *turns, saying("Sunny."), tools=[weather])
    assert roles(messages) == ["assistant", "tool"] * 3 + ["assistant"]
    assert [str(message) for message in messages if message.role == "tool"] == [
        "sunny in Rome",
        "sunny in Oslo",
        "sunny in Lima",
    ]
    last = provider.server.requests[-1]
    assert calls_sent(last) == [("weather", {"city": city}) for city in ("Rome", "Oslo", "Lima")]
    assert all(f"sunny in {city}" in all_sent(last) for city in ("Rome", "Oslo", "Lima"))


async def test_without_a_call_there_is_one_request(provider: Provider) -> None:
    """A model that needs no tool is asked once."""
    (answer,) = await ask(provider, saying("I know that."), tools=[weather])
    assert str(answer) == "I know that."
    assert len(provider.server.requests) == 1


async def test_calls_run_at_the_same_time(provider: Provider) -> None:
    """Two tools that wait for each other both come to their end."""
    both = asyncio.Barrier(2)

    async def left() -> str:
        await both.wait()
        return "left"

    async def right() -> str:
        await both.wait()
        return "right"

    messages = await soon(ask(provider, calling("left", "right"), saying("Both."), tools=[left, right]))
    assert roles(messages) == ["assistant", "tool", "tool", "assistant"]
    assert results_sent(provider.server.requests[1]) == ["left", "right"]


async def test_blocking_functions_run_in_threads(provider: Provider) -> None:
    """Two sync functions that wait for each other come to their end, and the event loop is not blocked."""
    both = threading.Barrier(2, timeout=10)
    threads: list[int] = []

    def blocking() -> str:
        both.wait()
        threads.append(threading.get_ident())
        return "done"

    tools = [tool(blocking, name="left"), tool(blocking, name="right")]
    messages = await soon(ask(provider, calling("left", "right"), saying("Both."), tools=tools))
    assert [str(message) for message in messages[1:3]] == ["done", "done"]
    assert len({*threads, threading.get_ident()}) == 3


async def test_calls_run_one_after_the_other(provider: Provider) -> None:
    """With `execute_function_concurrently=False` a tool begins when the one before it has ended."""
    first, second = Running("first"), Running("second")
    provider.server.script(calling("first", "second"), saying("Done."))
    async with MiniAgents():
        replies = provider.agent.inquire("Go", tools=[first, second], execute_function_concurrently=False)
        await soon(first.began.wait())
        await quiescence()
        assert not second.began.is_set()
        first.may_end.set()
        await soon(second.began.wait())
        assert first.ended.is_set()
        assert len(provider.server.requests) == 1
        second.may_end.set()
        assert [str(message) for message in await resolved(replies)] == ["", "done", "done", "Done."]


async def test_results_stand_in_the_order_of_the_calls(provider: Provider) -> None:
    """A tool that ends first is not put first, yet its result can be read before that of a slow one is there."""
    slow, fast = Running("slow", "slow"), Running("fast", "fast")
    provider.server.script(calling("slow", "fast"), saying("Done."))
    async with MiniAgents():
        replies = provider.agent.inquire("Go", tools=[slow, fast])
        reader = aiter(replies)
        _, of_slow, of_fast = [await soon(anext(reader)) for _ in range(3)]
        fast.may_end.set()
        assert str(await soon(of_fast)) == "fast"
        assert not of_slow.done()
        slow.may_end.set()
        messages = await resolved(replies)
    assert [str(message) for message in messages] == ["", "slow", "fast", "Done."]
    assert results_sent(provider.server.requests[1]) == ["slow", "fast"]


async def test_a_result_streams_while_the_tool_runs(provider: Provider) -> None:
    """What an async generator yields is in the outer reply at once."""
    goes_on = asyncio.Event()

    async def report(topic: str) -> AsyncIterator[str]:
        yield f"on {topic}: "
        await goes_on.wait()
        yield "all is well"

    provider.server.script(calling(call_of("report", topic="it")), saying("Fine."))
    async with MiniAgents():
        replies = provider.agent.fork(alias="HELPER").inquire("Go", tools=[report])
        follower = Follower(replies)
        await follower.hears("HELPER", "tool", "on it: ")
        assert len(provider.server.requests) == 1
        goes_on.set()
        await follower.ends()
        assert [str(message) for message in await resolved(replies)] == ["", "on it: all is well", "Fine."]
    assert follower.heard[1:] == [("HELPER", "tool", "all is well"), ("HELPER", "assistant", "Fine.")]
    assert results_sent(provider.server.requests[1]) == ["on it: all is well"]


async def test_a_tool_may_return_promises(provider: Provider) -> None:
    """A promise of a message, and the reply of an agent, stream as the result of the function that returns them."""
    goes_on = asyncio.Event()

    async def streamer(_: MessagePromise) -> AsyncIterator[str]:
        yield "one "
        await goes_on.wait()
        yield "two"

    @miniagent
    async def pair(ctx: InteractionContext) -> None:
        ctx.reply(["first", "second"])

    async def message() -> MessagePromise:
        return Message.promise(streamer)

    async def several() -> MessageSequencePromise:
        return pair.inquire()

    provider.server.script(calling("message", "several"), saying("Fine."))
    async with MiniAgents():
        outer = provider.agent.fork(alias="HELPER").inquire("Go", tools=[message, several])
        follower = Follower(outer)
        await follower.hears("HELPER", "tool", "one ")
        goes_on.set()
        await follower.ends()
        await resolved(outer)
    assert results_sent(provider.server.requests[1]) == ["one two", "first\n\nsecond"]


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ({"degrees": 20, "sky": ["blue"]}, '{"degrees":20,"sky":["blue"]}'),
        (7, "7"),
        (True, "true"),
        (Message("a message"), "a message"),
        ("", ""),
        ("half of a \ud83d", "half of a �"),
        ("\x00 nul", "\x00 nul"),
    ],
    ids=["dict", "number", "bool", "message", "empty", "surrogate", "control"],
)
async def test_what_a_tool_returns(provider: Provider, returned: Any, text: str) -> None:
    """Whatever a tool returns becomes text that the provider takes; what is no text becomes JSON."""

    async def thing() -> Any:
        return returned

    messages = await ask(provider, calling("thing"), saying("Fine."), tools=[thing])
    assert not messages[1].is_error
    assert results_sent(provider.server.requests[1]) == [text]


@pytest.mark.parametrize("returned", [None, object()], ids=["nothing", "object"])
async def test_a_tool_that_returns_nothing_much(provider: Provider, returned: Any) -> None:
    """None, and what is no data, is a result too."""

    async def thing() -> Any:
        return returned

    messages = await ask(provider, calling("thing"), saying("Fine."), tools=[thing])
    assert (roles(messages), messages[1].is_error) == (["assistant", "tool", "assistant"], False)


async def test_a_tool_may_return_an_image(provider: Provider) -> None:
    """An image that a tool returns is shown to the model, and is a part of the result."""

    async def photo() -> list[Any]:
        return ["Here it is.", ImagePart(data=PIXEL, media_type="image/png")]

    messages = await ask(provider, calling("photo", "photo"), saying("Nice."), tools=[photo])
    assert [part.media_type for part in messages[1].parts] == ["image/png"]
    assert all_sent(provider.server.requests[1]).count("Here it is.") == 2
    assert all_sent(provider.server.requests[1]).count("image/png") == 2


async def test_max_turns(provider: Provider) -> None:
    """An endless loop ends after `max_turns` requests; the calls that are left are not run, and say why."""
    runs: list[str] = []

    async def again() -> str:
        runs.append("again")
        return "once more"

    messages = await ask(provider, calling("again"), calling("again", "again"), tools=[again], max_turns=2)
    assert roles(messages) == ["assistant", "tool", "assistant", "tool", "tool"]
    assert runs == ["again"]
    assert [message.stop_reason for message in messages[3:]] == ["max_turns", "max_turns"]
    assert all(message.is_error and "2 requests" in str(message) for message in messages[3:])
    async with MiniAgents():  # and what was said can be sent again
        provider.server.script(saying("Well."))
        *_, answer = await provider.agent.inquire([UserMessage("Go"), *messages, "And now?"], tools=[again])
    assert str(answer) == "Well."


async def test_one_turn(provider: Provider) -> None:
    """With `max_turns=1` no tool runs; an answer without calls is complete."""
    messages = await ask(provider, calling("weather"), tools=[weather], max_turns=1)
    assert [getattr(message, "stop_reason", None) for message in messages] == [None, "max_turns"]
    (answer,) = await ask(provider, saying("Sunny."), tools=[weather], max_turns=1)
    assert (answer.stop_reason, answer.finish_reason) == (None, "stop")


@pytest.mark.parametrize("turns", [0, -1])
async def test_max_turns_is_positive(provider: Provider, turns: int) -> None:
    """A loop of no turns is refused."""
    with pytest.raises(ValueError, match="max_turns"):
        await ask(provider, tools=[weather], max_turns=turns)


@pytest.mark.parametrize("choice", ["required", "weather"])
async def test_a_forced_call_is_forced_once(provider: Provider, choice: str) -> None:
    """`tool_choice` that forces a call holds for the first turn only; else the loop would never end."""
    await ask(provider, calling(call_of("weather", city="Rome")), saying("Sunny."), tools=[weather], tool_choice=choice)
    first, second = (request.body.get("tool_choice") for request in provider.server.requests)
    if provider.is_openai:
        named = {"type": "function", "function": {"name": "weather"}}
        assert first == (choice if choice == "required" else named)
    else:
        assert first == ({"type": "any"} if choice == "required" else {"type": "tool", "name": "weather"})
    assert second in (None, "auto", {"type": "auto"})


@pytest.mark.parametrize("choice", ["auto", "none"])
async def test_a_free_choice_stays(provider: Provider, choice: str) -> None:
    """`tool_choice` that forces nothing holds for every turn."""
    await ask(provider, calling(call_of("weather", city="Rome")), saying("Sunny."), tools=[weather], tool_choice=choice)
    expected = choice if provider.is_openai else {"type": choice}
    assert [request.body["tool_choice"] for request in provider.server.requests] == [expected, expected]


@pytest.mark.parametrize("parallel", [True, False])
async def test_parallel_tool_calls(provider: Provider, parallel: bool) -> None:
    """`parallel_tool_calls` reaches the provider in every turn, in its words."""
    turns = calling(call_of("weather", city="Rome")), saying("Sunny.")
    await ask(provider, *turns, tools=[weather], parallel_tool_calls=parallel)
    for request in provider.server.requests:
        if provider.is_openai:
            assert request.body["parallel_tool_calls"] is parallel
        else:
            choice = request.body.get("tool_choice") or {}
            assert choice.get("disable_parallel_tool_use", False) is not parallel


async def test_long_results_are_cut(provider: Provider) -> None:
    """Of a result over `max_tool_result_length` the middle is left out, with a word on that."""

    async def long() -> str:
        return "begin " + "x" * 5000 + " end"

    messages = await ask(provider, calling("long"), saying("Long."), tools=[long], max_tool_result_length=200)
    result = str(messages[1])
    assert len(result) <= 200
    assert result.startswith("begin xx")
    assert result.endswith("xx end")
    assert "left out" in result
    assert results_sent(provider.server.requests[1]) == [result]


async def test_long_streams_are_cut(provider: Provider) -> None:
    """What a tool yields is cut like what it returns; short results are untouched."""

    async def long() -> AsyncIterator[str]:
        for _ in range(100):
            yield "0123456789"

    async def short() -> str:
        return "y" * 200

    turns = calling("long", "short"), saying("Long.")
    messages = await ask(provider, *turns, tools=[long, short], max_tool_result_length=200)
    assert len(str(messages[1])) <= 200
    assert str(messages[2]) == "y" * 200


async def test_long_errors_are_cut(provider: Provider) -> None:
    """What is said about a failure is no longer than a result may be."""

    async def broken() -> str:
        raise ValueError("z" * 5000)

    messages = await ask(provider, calling("broken"), saying("Oh."), tools=[broken], max_tool_result_length=200)
    assert len(str(messages[1])) <= 200
    assert "ValueError" in str(messages[1])


async def test_the_conversation_can_be_continued(provider: Provider) -> None:
    """The messages of a loop are accepted when they are sent again, with a further question."""
    turns = calling(call_of("weather", city="Rome"), call_of("weather", city="Oslo"), text="Let me see.")
    messages = await ask(provider, turns, saying("Sunny."), tools=[weather])
    await ask_more(provider, messages)
    assert calls_sent(provider.server.requests[2]) == [("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"})]


async def ask_more(provider: Provider, messages: tuple[Any, ...], answer: str = "There too.") -> None:
    provider.server.script(saying(answer))
    async with MiniAgents():
        *_, last = await provider.agent.inquire([UserMessage("How is it?"), *messages, "And in Lima?"], tools=[weather])
    assert str(last) == answer


async def test_results_belong_to_the_turn_before_them(provider: Provider) -> None:
    """Where servers use ids again, a call without a result is not given that of a later one."""
    calls = [
        AssistantMessage(parts=[ToolCallPart(id="call_1", name="weather", arguments=f'{{"city": "{city}"}}')])
        for city in ("Rome", "Oslo")
    ]
    result = ToolResultMessage("sunny in Oslo", tool_call_id="call_1", tool_name="weather")
    provider.server.script(saying("Well."))
    async with MiniAgents():
        await provider.agent.inquire([UserMessage("Rome?"), calls[0], UserMessage("Oslo?"), calls[1], result])
    (request,) = provider.server.requests
    assert results_sent(request) == ["sunny in Oslo"]
    assert all_sent(request).count("sunny in Oslo") == 1
    assert all_sent(request).count("cancelled") == 1


async def test_the_conversation_can_be_continued_elsewhere(
    openai_provider: Provider, anthropic_provider: Provider
) -> None:
    """A conversation with calls goes on with another provider, and back."""
    for one, other in [(openai_provider, anthropic_provider), (anthropic_provider, openai_provider)]:
        turn = calling(ToolCall("weather", ('{"city": "Rome"}',), "functions.weather:0 é" * 5))
        messages = await ask(one, turn, saying("Sunny."), tools=[weather])
        await ask_more(other, messages)
        assert calls_sent(other.server.requests[-1]) == [("weather", {"city": "Rome"})]


async def test_no_tools_any_more(provider: Provider) -> None:
    """A conversation with calls can be sent to an agent that has no tools."""
    messages = await ask(provider, calling(call_of("weather", city="Rome")), saying("Sunny."), tools=[weather])
    provider.server.script(saying("Bye."))
    async with MiniAgents():
        assert str((await provider.agent.inquire([*messages, "Bye"]))[-1]) == "Bye."


async def test_tools_know_for_whom_they_run(provider: Provider) -> None:
    """Tools that take them get `user_id`, `chat_id` and `agent_name`; the model is not asked for them, nor believed."""
    seen: list[Any] = []

    async def asynchronous(city: str, user_id: str, chat_id: str, agent_name: str) -> str:
        seen.append((city, user_id, chat_id, agent_name))
        return "ok"

    def synchronous(user_id: str, agent_name: str) -> str:
        seen.append((user_id, agent_name))
        return "ok"

    await ask(
        provider,
        calling(call_of("asynchronous", city="Rome", user_id="somebody else")),
        calling(call_of("synchronous")),
        saying("Fine."),
        tools=[asynchronous, synchronous],
        user_id="u1",
        chat_id="c1",
        agent_name="Helper",
    )
    assert seen == [("Rome", "u1", "c1", "Helper"), ("u1", "Helper")]
    assert "user_id" not in str(provider.server.requests[0].body["tools"])


async def test_agents_need_no_ids(provider: Provider) -> None:
    """Without ids tools get None, or their own defaults, and the alias of the agent."""
    seen: list[Any] = []

    async def asynchronous(user_id: str, agent_name: str, chat_id: str = "no chat") -> str:
        seen.append((user_id, chat_id, agent_name))
        return "ok"

    provider.agent = provider.agent.fork(alias="HELPER")
    await ask(provider, calling("asynchronous"), saying("Fine."), tools=[asynchronous])
    assert seen == [(None, "no chat", "HELPER")]


async def test_conversations_do_not_meet(provider: Provider) -> None:
    """Many conversations of one agent at the same time keep their calls and results apart."""

    def answer(request: Any) -> Reply:
        city = next(word for word in ("Rome", "Oslo", "Lima") if word in all_sent(request))
        results = results_sent(request)
        return saying(f"{city}: {results[0]}") if results else calling(call_of("weather", city=city))

    provider.server.default = answer
    agent = provider.agent.fork(tools=[weather])
    async with MiniAgents():
        calls = [agent.inquire(city) for city in ("Rome", "Oslo", "Lima") * 3]
        answers = [str((await call)[-1]) for call in calls]
    assert answers == ["Rome: sunny in Rome", "Oslo: sunny in Oslo", "Lima: sunny in Lima"] * 3


async def test_a_failing_turn_leaves_what_was_said(provider: Provider) -> None:
    """When a later request fails, the messages before it stay readable, and the error is at the end."""
    provider.server.script(calling(call_of("weather", city="Rome")), Reply(status=400))
    async with MiniAgents():
        replies = provider.agent.fork(alias="HELPER").inquire("Go", tools=[weather])
        follower = await Follower(replies).ends()
        with pytest.raises(provider.sdk.BadRequestError):
            await replies
    assert follower.heard == [("HELPER", "tool", "sunny in Rome")]
    assert isinstance(follower.error, provider.sdk.BadRequestError)


async def test_outside_a_context(provider: Provider) -> None:
    """The loop works where no context is active: it runs when it is read."""
    provider.server.script(calling(call_of("weather", city="Rome")), saying("Sunny."))
    messages = await provider.agent.inquire("Go", tools=[weather])
    assert [str(message) for message in messages] == ["", "sunny in Rome", "Sunny."]


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_every_provider(name: str, stream: bool) -> None:
    """Results of all kinds come to the model of each provider, a limit ends the loop, and all can be sent again."""

    async def empty() -> str:
        return ""

    async def photo() -> ImagePart:
        return ImagePart(data=PIXEL, media_type="image/png")

    async def broken() -> str:
        raise LookupError("no")

    cut = ToolCall("weather", ('{"city": "Ro',)) if stream else call_of("weather", city=7)  # whole answers are valid
    calls = call_of("weather", city="Rome"), "empty", "photo", "broken", "un.known", cut
    async with LLMServer() as server, MiniAgents():
        server.script(calling(*calls, text="Let me see."), calling("empty"), saying("Well."), saying("Sunny."))
        agent = agent_of(name, server).fork(tools=[weather, empty, photo, broken], stream=stream)
        messages = await soon(resolved(agent.inquire("How is it?", max_turns=2)))
        assert roles(messages) == ["assistant", *["tool"] * 6, "assistant", "tool"]
        assert [message.is_error for message in messages[1:7]] == [False, False, False, True, True, True]
        assert messages[-1].stop_reason == "max_turns"
        second = all_sent(server.requests[1])
        assert all(
            text in second for text in ("sunny in Rome", "image/png", "LookupError: no", "un.known", "arguments")
        )
        for answer in ("Well.", "Sunny."):
            (last,) = await soon(resolved(agent.inquire([UserMessage("How is it?"), *messages, "And now?"])))
            assert str(last) == answer
        server.assert_all_consumed()
