"""Agents as tools: what they say can be read live in the outer reply, and is no part of the outer conversation."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents import InteractionContext, Message, MessagePromise, MiniAgents, miniagent
from miniagents.ext.history_agents import InMemoryChatHistory
from miniagents.ext.llm.clients import AnthropicInferenceClient, OpenAIInferenceClient
from miniagents.ext.tools import AsyncOpenAISimpleAgent, tool
from tests.ext.llm.helpers import KEY, Provider
from tests.ext.tools.helpers import (
    Cast,
    Follower,
    agent_called,
    all_sent,
    call_of,
    calling,
    resolved,
    results_sent,
    saying,
    soon,
)
from tests.support.llm_server import Gate, LLMServer, Reply, ToolCall


def perform(provider: Provider, **scripts: list[Reply]) -> Cast:
    cast = Cast(**scripts)
    provider.server.default = cast
    return cast


def told(messages: Any) -> list[tuple[str, str, str, bool]]:
    """Role, agent, text of messages, and whether they were said inside of a tool."""
    return [(m.role, m.agent, str(m), m.inside_tool_call is not None) for m in messages]


async def test_inner_tokens_are_live(provider: Provider) -> None:
    """What an LLM agent says as a tool is in the outer reply while it says it, before the result of the tool."""
    gate = Gate()
    cast = perform(
        provider,
        OUTER=[calling(call_of("inner", message="What is it?")), saying("It is that.")],
        INNER=[Reply(("this ", gate, "and that"))],
    )
    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire("Hi", tools=[agent_called(provider, "INNER")])
        follower = Follower(replies)
        await follower.hears("INNER", "assistant", "this ")
        assert follower.heard == [("INNER", "assistant", "this ")]
        gate.open()
        await follower.ends()
        messages = await resolved(replies)
    assert follower.error is None
    assert told(messages) == [
        ("assistant", "OUTER", "", False),
        ("assistant", "INNER", "this and that", True),
        ("tool", "OUTER", "this and that", False),
        ("assistant", "OUTER", "It is that.", False),
    ]
    assert messages[1].inside_tool_call == messages[0].tool_calls[0].id
    assert messages[1].finish_reason == "stop"
    (asked,) = cast.asked["INNER"]
    assert "What is it?" in all_sent(asked)
    assert "Hi" not in all_sent(asked)
    assert results_sent(cast.asked["OUTER"][1]) == ["this and that"]


async def test_a_message_says_who_speaks_before_it_is_complete(provider: Provider) -> None:
    """The labels are there with the first token, and stay."""
    gate = Gate()
    perform(provider, OUTER=[calling(call_of("inner", message="?")), saying("That.")], INNER=[Reply(("this", gate))])
    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire("Hi", tools=[agent_called(provider, "INNER")])
        reader = aiter(replies)
        call = await soon(anext(reader))
        inner = await soon(anext(reader))
        assert await soon(anext(aiter(inner))) == "this"
        known = dict(inner.metadata)
        assert (known["role"], known["agent"], known["inside_tool_call"]) == (
            "assistant",
            "INNER",
            (await call).tool_calls[0].id,
        )
        gate.open()
        whole = await soon(inner)
        assert (whole.agent, whole.inside_tool_call) == ("INNER", known["inside_tool_call"])
        assert "".join([token async for token in inner]) == str(whole) == "this"  # and it can be read again
        await replies


async def test_at_depth_three(provider: Provider) -> None:
    """The tokens of an agent in a tool of an agent in a tool are as live as those of the first."""
    gate = Gate()
    cast = perform(
        provider,
        OUTER=[calling(ToolCall("middle", ('{"message": "?"}',), "call_of_outer")), saying("outer end")],
        MIDDLE=[
            calling(ToolCall("inner", ('{"message": "?"}',), "call_of_middle"), text="let me ask"),
            saying("middle end"),
        ],
        INNER=[Reply(("inner ", gate, "end"))],
    )
    middle = agent_called(provider, "MIDDLE", tools=[agent_called(provider, "INNER")])
    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire("Hi", tools=[middle])
        follower = Follower(replies)
        await follower.hears("INNER", "assistant", "inner ")
        assert follower.heard == [("MIDDLE", "assistant", "let me ask"), ("INNER", "assistant", "inner ")]
        gate.open()
        await follower.ends()
        messages = await resolved(replies)
        usage = await replies.usage()
    assert [(m.role, m.agent, m.inside_tool_call) for m in messages] == [
        ("assistant", "OUTER", None),
        ("assistant", "MIDDLE", "call_of_outer"),
        ("assistant", "INNER", "call_of_middle"),
        ("tool", "MIDDLE", "call_of_outer"),
        ("assistant", "MIDDLE", "call_of_outer"),
        ("tool", "OUTER", None),
        ("assistant", "OUTER", None),
    ]
    assert [str(message) for message in messages[2:5]] == ["inner end", "inner end", "middle end"]
    assert "middle end" in str(messages[5])
    assert "inner end" not in str(messages[5])
    assert usage.requests == 5
    assert "inner end" not in all_sent(cast.asked["OUTER"][1])
    cast.assert_all_said()


async def test_two_at_the_same_time(provider: Provider) -> None:
    """Two agents in one turn work at the same time; the reply has first what the first one says, then the second."""
    gates = {"ONE": Gate(), "TWO": Gate()}
    cast = perform(
        provider,
        OUTER=[calling(call_of("one", message="1"), call_of("two", message="2")), saying("end")],
        ONE=[Reply(("first", gates["ONE"], " end"))],
        TWO=[Reply(("second", gates["TWO"], " end"))],
    )
    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire(
            "Hi", tools=[agent_called(provider, "ONE"), agent_called(provider, "TWO")]
        )
        follower = Follower(replies)
        await soon(asyncio.gather(gates["ONE"].reached.wait(), gates["TWO"].reached.wait()))
        await follower.hears("ONE", "assistant", "first")
        gates["ONE"].open()
        await follower.hears("TWO", "assistant", "second")
        gates["TWO"].open()
        messages = await soon(resolved(replies))
        await follower.ends()
    assert [(m.agent, str(m)) for m in messages[1:5]] == [
        ("ONE", "first end"),
        ("OUTER", "first end"),
        ("TWO", "second end"),
        ("OUTER", "second end"),
    ]
    ids = [call.id for call in messages[0].tool_calls]
    assert [messages[1].inside_tool_call, messages[3].inside_tool_call] == ids
    assert results_sent(cast.asked["OUTER"][1]) == ["first end", "second end"]


async def test_inside_of_a_function(provider: Provider) -> None:
    """An agent that a function calls for itself is charged to the outer agent; its messages are the function's own."""
    perform(
        provider,
        OUTER=[calling("ask_inside"), saying("end")],
        INNER=[saying("inside")],
    )
    inner = agent_called(provider, "INNER")

    async def ask_inside() -> str:
        return str((await inner.inquire("Hi"))[0]).upper()

    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire("Hi", tools=[ask_inside])
        assert [str(message) for message in await resolved(replies)] == ["", "INSIDE", "end"]
        assert (await replies.usage()).requests == 3


# --- what is no part of the outer conversation ---


@pytest.fixture
def chatty(provider: Provider) -> Cast:
    """An inner agent that calls a tool of its own, and says things on its way that are nobody else's business."""
    return perform(
        provider,
        OUTER=[calling(call_of("inner", message="?"), text="Let me ask."), saying("The answer."), saying("And more.")],
        INNER=[calling("secret", text="Let me look."), saying("inner result")],
    )


async def secret() -> str:
    """Looks up a secret."""
    return "inner secret"


async def test_left_out_of_what_is_sent(provider: Provider, chatty: Cast) -> None:
    """When all messages of a reply are sent again, those of inner agents are left out: only their result is there."""
    inner = agent_called(provider, "INNER", tools=[secret])
    outer = agent_called(provider, "OUTER", tools=[inner])
    async with MiniAgents():
        messages = await resolved(outer.inquire("Hi"))
        *_, last = await outer.inquire(["Hi", *messages, "And?"])
    assert str(last) == "And more."
    assert "inner secret" in [str(message) for message in messages]
    for request in chatty.asked["OUTER"]:
        assert "inner secret" not in all_sent(request)
        assert "secret" not in str([m for m in request.body["messages"] if m.get("tool_calls")])
    assert all_sent(chatty.asked["OUTER"][2]).count("inner result") == 1
    chatty.assert_all_said()


async def test_left_out_of_what_is_sent_from_a_history(provider: Provider, chatty: Cast) -> None:
    """A history keeps the messages of inner agents, and what is sent of it does not have them."""
    inner = agent_called(provider, "INNER", tools=[secret])
    outer = agent_called(provider, "OUTER", tools=[inner])
    history = InMemoryChatHistory()
    async with MiniAgents():
        await history.logging_agent.inquire(["Hi", outer.inquire("Hi")])
        kept = await history.aload_chat_history()
        await outer.inquire([*kept, "And?"])
    assert "inner secret" in [str(message) for message in kept]
    assert "inner secret" not in all_sent(chatty.asked["OUTER"][2])


async def test_left_out_by_the_tool_chain_of_a_client(provider: Provider, chatty: Cast, server: LLMServer) -> None:
    """`tool_chain` returns the messages of the outer conversation only."""
    client: Any
    if provider.is_openai:
        client = OpenAIInferenceClient("some-model", KEY, server.openai_url, system="OUTER")
    else:
        client = AnthropicInferenceClient("some-model", KEY, server.anthropic_url, system="OUTER")
    inner = agent_called(provider, "INNER", tools=[secret])
    made = await client.tool_chain(["Hi"], [inner])
    assert [(m.role, "inner secret" in str(m)) for m in made] == [
        ("assistant", False),
        ("tool", False),
        ("assistant", False),
    ]
    assert client.usage.requests == 4
    more = await client.tool_chain(["Hi", *made, "And?"], [inner])
    assert [str(message) for message in more] == ["And more."]


@pytest.mark.parametrize("provider", ["openai"], indirect=True)
async def test_left_out_by_the_simple_agent(provider: Provider, chatty: Cast, server: LLMServer) -> None:
    """Neither `send_message` nor `stream_message` has anything of what inner agents say but their result."""
    inner = agent_called(provider, "INNER", tools=[secret])
    agent = AsyncOpenAISimpleAgent(
        agent_name="Boss",
        user_id="u",
        chat_id="c",
        api_key=KEY,
        base_url=server.openai_url,
        system_prompt="OUTER",
        tool_registry=[inner],
    )
    async with MiniAgents():
        stream = agent.stream_message("Hi")
        tokens = [token async for token in stream]
        response = await stream
    assert "".join(tokens) == "Let me ask.\n\nThe answer."
    assert response["output"] == "The answer."
    assert [message["role"] for message in response["history"]["messages"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert "inner secret" not in json.dumps(response)
    assert response["usage"]["requests"] == 4
    response = await agent.send_message("And?", history=response["history"]["messages"])
    assert response["output"] == "And more."
    assert "inner secret" not in all_sent(chatty.asked["OUTER"][2])


# --- failures ---


async def test_an_inner_request_that_fails(provider: Provider) -> None:
    """The outer model is told that the agent has failed; for the reader that is no error, and the run goes on."""
    cast = perform(
        provider,
        OUTER=[calling(call_of("inner", message="?")), saying("Never mind.")],
        INNER=[Reply(status=400, error=("invalid_request_error", "too odd"))],
    )
    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire("Hi", tools=[agent_called(provider, "INNER")])
        follower = await Follower(replies).ends()
        messages = await soon(replies)
    assert follower.error is None
    assert follower.heard[-1] == ("OUTER", "assistant", "Never mind.")
    result = next(message for message in messages if message.role == "tool")
    assert result.is_error
    assert "too odd" in str(result)
    assert results_sent(cast.asked["OUTER"][1]) == [str(result)]
    assert "very-secret" not in str(result)


async def test_an_inner_stream_that_breaks(provider: Provider) -> None:
    """What an agent has said before it failed is kept in the reply, marked as interrupted, and is no result."""
    cast = perform(
        provider,
        OUTER=[calling(call_of("inner", message="?")), saying("Never mind.")],
        INNER=[Reply(("half of ",), ending="cut")],
    )
    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire("Hi", tools=[agent_called(provider, "INNER")])
        _, inner, result, answer = await soon(resolved(replies))
    assert (str(inner), inner.agent, inner.interrupted) == ("half of ", "INNER", True)
    assert result.is_error
    assert str(answer) == "Never mind."
    cast.assert_all_said()


async def test_an_agent_that_fails_at_depth_three(provider: Provider) -> None:
    """A failure is told to the model next to it, which may do without; those above see nothing of it."""
    cast = perform(
        provider,
        OUTER=[calling(call_of("middle", message="?")), saying("outer end")],
        MIDDLE=[calling(call_of("inner", message="?")), saying("middle end")],
        INNER=[Reply(status=400)],
    )
    middle = agent_called(provider, "MIDDLE", tools=[agent_called(provider, "INNER")])
    async with MiniAgents():
        messages = await soon(resolved(agent_called(provider, "OUTER").inquire("Hi", tools=[middle])))
    outer = [message for message in messages if not message.inside_tool_call]
    assert [str(message) for message in outer] == ["", "middle end", "outer end"]
    assert not outer[1].is_error
    cast.assert_all_said()


async def test_an_inner_loop_that_does_not_end(provider: Provider) -> None:
    """An inner agent that reaches its `max_turns` gives what it has said, and the outer run goes on."""
    cast = perform(
        provider,
        OUTER=[calling(call_of("inner", message="?")), saying("Never mind.")],
        INNER=[calling("secret", text="once"), calling("secret", text="twice")],
    )
    inner = agent_called(provider, "INNER", tools=[secret], max_turns=2)
    async with MiniAgents():
        messages = await soon(resolved(agent_called(provider, "OUTER").inquire("Hi", tools=[inner])))
    assert str(messages[-1]) == "Never mind."
    cast.assert_all_said()


async def test_an_inner_answer_that_was_mended(provider: Provider) -> None:
    """Of an agent that was asked to mend its answer, what it was asked is no part of the result."""
    cast = perform(
        provider,
        OUTER=[calling(call_of("inner", message="?")), saying("Thanks.")],
        INNER=[saying("no JSON"), saying('{"value": 7}')],
    )
    if not provider.is_openai:  # there the object is asked for as the call of a tool
        cast = perform(
            provider,
            OUTER=[calling(call_of("inner", message="?")), saying("Thanks.")],
            INNER=[saying("no JSON"), calling(ToolCall("int", ('{"value": 7}',)))],
        )
    inner = agent_called(provider, "INNER", reply_type=int)
    async with MiniAgents():
        *_, result, answer = await soon(resolved(agent_called(provider, "OUTER").inquire("Hi", tools=[inner])))
    assert str(answer) == "Thanks."
    assert not result.is_error
    assert '{"value": 7}' in str(result)
    assert "form that is wanted" not in str(result)
    cast.assert_all_said()


async def test_cancelling_closes_the_inner_request(provider: Provider) -> None:
    """Cancelling the outer reply closes the request of the innermost agent."""
    gate = Gate()
    perform(
        provider,
        OUTER=[calling(call_of("middle", message="?"))],
        MIDDLE=[calling(call_of("inner", message="?"))],
        INNER=[Reply(("half", gate))],
    )
    middle = agent_called(provider, "MIDDLE", tools=[agent_called(provider, "INNER")])
    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire("Hi", tools=[middle])
        follower = Follower(replies)
        await follower.hears("INNER", "assistant", "half")
        assert replies.cancel()
        await provider.server.client_disconnected(2)
        await follower.ends()


async def test_an_inner_message_cannot_be_cancelled_by_a_reader(provider: Provider) -> None:
    """A reader that cancels what it reads of an inner agent stops neither the agent nor the run."""
    gate = Gate()
    perform(
        provider, OUTER=[calling(call_of("inner", message="?")), saying("end")], INNER=[Reply(("one ", gate, "two"))]
    )
    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire("Hi", tools=[agent_called(provider, "INNER")])
        reader = aiter(replies)
        await soon(anext(reader))
        inner = await soon(anext(reader))
        await gate.reached.wait()
        assert not inner.cancel()
        gate.open()
        assert str((await soon(replies))[-1]) == "end"
        assert str(await inner) == "one two"


# --- miniagents ---


async def test_typed_parameters(provider: Provider) -> None:
    """A miniagent is called with its typed keyword parameters; what it replies streams, labelled with its alias."""
    goes_on = asyncio.Event()

    @miniagent
    async def adder(ctx: InteractionContext, left: int, right: int = 2) -> None:
        """Adds two numbers."""

        async def digits(_: MessagePromise) -> AsyncIterator[str]:
            yield "the sum is "
            await goes_on.wait()
            yield str(left + right)

        ctx.reply(Message.promise(digits))

    provider.server.script(calling(call_of("adder", left=40)), saying("42!"))
    async with MiniAgents():
        replies = provider.agent.fork(alias="OUTER").inquire("Hi", tools=[adder])
        follower = Follower(replies)
        await follower.hears("ADDER", "assistant", "the sum is ")
        goes_on.set()
        messages = await soon(resolved(replies))
        await follower.ends()
    assert told(messages)[1:3] == [
        ("assistant", "ADDER", "the sum is 42", True),
        ("tool", "OUTER", "the sum is 42", False),
    ]
    (described,) = provider.server.requests[0].body["tools"]
    function = described["function"] if provider.is_openai else described
    schema = function["parameters"] if provider.is_openai else function["input_schema"]
    assert (function["name"], function["description"]) == ("adder", "Adds two numbers.")
    assert (sorted(schema["properties"]), schema["required"]) == (["left", "right"], ["left"])


async def test_typed_parameters_that_do_not_fit(provider: Provider) -> None:
    """A miniagent is not called with arguments of other types; the model is told."""
    called: list[Any] = []

    @miniagent
    async def adder(ctx: InteractionContext, left: int) -> None:
        called.append(left)

    provider.server.script(calling(call_of("adder", left="forty")), saying("Oh."))
    async with MiniAgents():
        _, result, answer = await soon(resolved(provider.agent.inquire("Hi", tools=[adder])))
    assert (result.is_error, "left" in str(result), str(answer), called) == (True, True, "Oh.", [])


async def test_one_message(provider: Provider) -> None:
    """A miniagent without typed parameters is sent one message; it gets user, chat and agent where it takes them."""
    seen: list[Any] = []

    @miniagent
    async def parrot(ctx: InteractionContext, user_id: str = "nobody", agent_name: str = "nobody") -> None:
        """Says it again."""
        seen.append((user_id, agent_name))
        ctx.reply([ctx.message_promises, "again"])

    provider.server.script(calling(call_of("parrot", message="Hello")), saying("Nice."))
    async with MiniAgents():
        agent = provider.agent.fork(user_id="u1", agent_name="Boss")
        *_, result, _ = await soon(resolved(agent.inquire("Hi", tools=[parrot])))
    assert "again" in str(result)
    assert seen == [("u1", "Boss")]


async def test_classes(provider: Provider) -> None:
    """An agent that is a class is called with the typed parameters of its constructor."""

    @miniagent
    class Greeter:
        """Greets people."""

        def __init__(self, name: str) -> None:
            self._name = name

        async def __call__(self, ctx: InteractionContext) -> None:
            ctx.reply(f"Hello, {self._name}!")

    provider.server.script(calling(call_of("greeter", name="Ada")), saying("Nice."))
    async with MiniAgents():
        *_, result, _ = await soon(resolved(provider.agent.inquire("Hi", tools=[Greeter])))
    assert str(result) == "Hello, Ada!"


async def test_forks(provider: Provider) -> None:
    """What a fork has set already is not asked of the model."""

    @miniagent
    async def greeter(ctx: InteractionContext, greeting: str, name: str) -> None:
        """Greets people."""
        ctx.reply(f"{greeting}, {name}!")

    provider.server.script(calling(call_of("greeter", name="Ada")), saying("Nice."))
    async with MiniAgents():
        tools = [greeter.fork(greeting="Good evening")]
        *_, result, _ = await soon(resolved(provider.agent.inquire("Hi", tools=tools)))
    assert str(result) == "Good evening, Ada!"
    assert "greeting" not in str(provider.server.requests[0].body["tools"])


async def test_a_miniagent_that_fails(provider: Provider) -> None:
    """What an agent has replied before it failed is in the reply; the result has the error."""

    @miniagent
    async def failing(ctx: InteractionContext) -> None:
        ctx.reply("on my way")
        raise LookupError("lost")

    provider.server.script(calling(call_of("failing", message="?")), saying("Oh."))
    async with MiniAgents():
        _, said, result, answer = await soon(resolved(provider.agent.inquire("Hi", tools=[failing])))
    assert (str(said), said.agent) == ("on my way", "FAILING")
    assert result.is_error
    assert "LookupError: lost" in str(result)
    assert str(answer) == "Oh."


async def test_a_miniagent_that_says_nothing(provider: Provider) -> None:
    """An agent without a reply has an empty result, and the conversation goes on."""

    @miniagent
    async def silent(ctx: InteractionContext) -> None:
        await ctx.message_promises

    provider.server.script(calling(call_of("silent", message="?")), saying("Oh."))
    async with MiniAgents():
        _, result, answer = await soon(resolved(provider.agent.inquire("Hi", tools=[silent])))
    assert (str(result), result.is_error, str(answer)) == ("", False, "Oh.")


async def test_agents_and_functions_side_by_side(provider: Provider) -> None:
    """Functions, agents and entries can be called in one turn; each result stands with its call."""

    @miniagent
    async def agent(ctx: InteractionContext, number: int) -> None:
        ctx.reply(f"agent {number}")

    async def function(number: int) -> str:
        return f"function {number}"

    schema = {"name": "entry", "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}}}
    entry = {"name": "entry", "function_schema": schema, "func": lambda number: f"entry {number}"}
    names = ["agent", "function", "entry", "agent"]
    turn = calling(*(call_of(name, number=number) for number, name in enumerate(names)))
    provider.server.script(turn, saying("Fine."))
    async with MiniAgents():
        messages = await soon(resolved(provider.agent.inquire("Hi", tools=[tool(agent), function, entry])))
    expected = [f"{name} {number}" for number, name in enumerate(names)]
    assert [str(message) for message in messages if message.role == "tool"] == expected
    assert results_sent(provider.server.requests[1]) == expected


@pytest.mark.parametrize("context", [None, True, False])
async def test_wherever_it_runs(provider: Provider, context: bool | None) -> None:
    """Outside of any context, and in one where nothing starts before it is read, an agent works as a tool, too."""
    inner = provider.agent.fork(alias="inner")
    agent = provider.agent.fork(tools=[inner])
    provider.server.script(calling(call_of("inner", message="?")), saying("Inside."), saying("Outside."))
    if context is None:
        messages = await soon(agent.inquire("Hi"))
    else:
        async with MiniAgents(start_everything_soon_by_default=context):
            messages = await soon(resolved(agent.inquire("Hi")))
    assert [str(message) for message in messages] == ["", "Inside.", "Inside.", "Outside."]


async def test_for_whom_the_inner_agent_works(provider: Provider) -> None:
    """The tools and the hooks of an inner agent get the ids of the outer one, and its own name."""
    seen: list[tuple[str | None, str | None, str]] = []

    async def look(user_id: str, chat_id: str, agent_name: str) -> str:
        seen.append((user_id, chat_id, agent_name))
        return "seen"

    def hook(event: Any) -> None:
        seen.append((event.user_id, event.chat_id, event.agent_name))

    inner = provider.agent.fork(alias="inner", tools=[look], hooks={"on_function_call_start": hook})
    agent = provider.agent.fork(tools=[inner], user_id="u1", chat_id="c1")
    provider.server.script(calling(call_of("inner", message="?")), calling("look"), saying("In."), saying("Out."))
    async with MiniAgents():
        await soon(agent.inquire("Hi"))
    assert seen == [("u1", "c1", "inner")] * 2
