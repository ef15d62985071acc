"""The scripted model: a double of a model that users test their agents with."""

import asyncio
from typing import Any

import pytest

from miniagents import InteractionContext, Message, MessagePromise, MiniAgent, MiniAgents, miniagent
from miniagents.testing import Request, ScriptedModel, ScriptedReply, Timeline
from tests.promising.helpers import error_of, read_until_error


async def only(replies: Any) -> MessagePromise:
    (promise,) = [promise async for promise in replies]
    return promise


@pytest.mark.parametrize(
    ("scripted", "tokens"),
    [
        ("How are you?", ["How ", "are ", "you?"]),
        ("  two\n\nparts ", ["  ", "two\n\n", "parts "]),
        ("", []),
        (["Hel", "lo"], ["Hel", "lo"]),
        (("a", "", "b"), ["a", "", "b"]),
        (ScriptedReply("word by word"), ["word ", "by ", "word"]),
        (ScriptedReply(["to", "ken"]), ["to", "ken"]),
        (lambda messages: f"re: {messages[0]}", ["re: ", "Hi"]),
        (lambda messages: [str(messages[0]), "!"], ["Hi", "!"]),
    ],
)
async def test_replies(scripted: Any, tokens: list[str]) -> None:
    """A text is streamed word by word, a list as its tokens, and a function can look at the messages."""
    async with MiniAgents():
        with ScriptedModel(scripted) as model:
            replies = model.agent.inquire("Hi")
            assert [token async for token in await only(replies)] == tokens
            assert await replies == (Message("".join(tokens), role="assistant"),)


async def test_async_functions() -> None:
    """A function of the script may be async, and may return another function."""

    async def reply(messages: tuple[Message, ...]) -> Any:
        await asyncio.sleep(1)
        return lambda _: f"{len(messages)} messages"

    async with MiniAgents():
        with ScriptedModel(reply) as model:
            assert str((await model.agent.inquire(["a", "b"]))[0]) == "2 messages"


async def test_one_reply_for_each_call() -> None:
    """The replies are given in the order of the script, also those that were added later."""
    async with MiniAgents():
        with ScriptedModel("one", "two") as model:
            assert model.add("three", "four") is model
            texts = [str((await model.agent.inquire())[0]) for _ in range(4)]
    assert texts == ["one", "two", "three", "four"]


async def test_metadata() -> None:
    """The role is known from the beginning, the rest when the reply is complete."""
    reply = ScriptedReply(["a", "b"], metadata={"usage": {"output_tokens": 2}, "finish_reason": "stop"})
    async with MiniAgents():
        with ScriptedModel(reply, role="critic") as model:
            promise = await only(model.agent.inquire())
            async for _ in promise:
                assert promise.metadata["role"] == "critic"
            expected = Message("ab", role="critic", usage={"output_tokens": 2}, finish_reason="stop")
            assert await promise == expected


@pytest.mark.parametrize("tokens", [[], ["one "], ["one ", "two"]])
async def test_errors(tokens: list[str]) -> None:
    """An error comes after so many tokens as the script says, none included."""
    error = ConnectionError("cut")
    async with MiniAgents():
        with ScriptedModel(ScriptedReply(tokens, error=error)) as model:
            promise = await only(model.agent.inquire())
            assert await read_until_error(promise) == (tokens, error)
            assert await error_of(promise) is error


async def test_an_error_alone() -> None:
    """An error in the script is raised before the first token; it can come of a function, too."""
    first, second = TimeoutError("slow"), ValueError("bad request")
    async with MiniAgents():
        with ScriptedModel(first, lambda _: second) as model:
            assert await error_of(model.agent.inquire()) is first
            assert await error_of(model.agent.inquire()) is second


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, [0.0, 0.0, 0.0]), (2, [2.0, 4.0, 6.0]), ([5, 0.5, 0.5], [5.0, 5.5, 6.0])]
)
async def test_timing(seconds: Any, expected: list[float]) -> None:
    """Each token comes when the script says, on the clock of the loop."""
    async with MiniAgents():
        with ScriptedModel(ScriptedReply("three short words", seconds_per_token=seconds)) as model:
            timeline = Timeline()
            async for token in await only(model.agent.inquire()):
                timeline.note(token)
    assert timeline.entries == list(zip(expected, ["three ", "short ", "words"], strict=True))


async def test_the_time_of_an_error() -> None:
    """An error comes right after the last token before it."""
    async with MiniAgents():
        with ScriptedModel(ScriptedReply("a b", error=ValueError("x"), seconds_per_token=3)) as model:
            timeline = Timeline()
            await error_of(model.agent.inquire())
    assert timeline.elapsed == 6


async def test_requests() -> None:
    """What the model was sent is recorded, resolved, along with the arguments of the call and of its fork."""
    async with MiniAgents():
        with ScriptedModel("a", "b", "c") as model:
            first = model.agent.inquire(["x", Message("y", role="user")])
            await model.agent.inquire([first], system="Be brief.")
            await model.agent.fork(temperature=0.5, model="m").inquire(model="n")
    assert model.requests == [
        Request((Message("x"), Message("y", role="user")), {}),
        Request((Message("a", role="assistant"),), {"system": "Be brief."}),
        Request((), {"temperature": 0.5, "model": "n"}),
    ]


async def test_calls_take_replies_as_their_messages_arrive() -> None:
    """Of two calls at once the first reply goes to that whose messages are complete first."""

    async def after(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return f"after {seconds}"

    async with MiniAgents():
        with ScriptedModel("first", "second") as model:
            slow, fast = model.agent.inquire(after(2)), model.agent.inquire(after(1))
            assert [str(message) for message in (*await slow, *await fast)] == ["second", "first"]
    assert [str(request.messages[0]) for request in model.requests] == ["after 1", "after 2"]


async def test_a_call_whose_messages_fail() -> None:
    """It gets the error of its messages and takes nothing of the script."""

    async def fail() -> str:
        raise ValueError("no question")

    async with MiniAgents():
        with ScriptedModel("answer") as model:
            assert isinstance(await error_of(model.agent.inquire(fail())), ValueError)
            assert not model.requests
            await model.agent.inquire()


def test_the_agent_is_an_agent() -> None:
    """It can be forked and named like any other."""
    model = ScriptedModel()
    assert isinstance(model.agent, MiniAgent)
    assert model.agent.fork(alias="WRITER").alias == "WRITER"
    assert model.agent.alias == "SCRIPTED_MODEL"


async def test_inside_of_other_agents() -> None:
    """Agents that call models can be tested with it."""
    model = ScriptedModel("draft", lambda messages: f"better {messages[0]}")

    @miniagent
    async def improve(ctx: InteractionContext, llm: MiniAgent) -> None:
        ctx.reply(llm.inquire(llm.inquire(ctx.message_promises)))

    async with MiniAgents():
        with model:
            assert str((await improve.inquire("Write!", llm=model.agent))[0]) == "better draft"


async def test_a_script_that_is_not_consumed() -> None:
    """The test fails at the end of the block and says what was not asked for."""
    model = ScriptedModel("first", "second", "third")
    async with MiniAgents():
        with pytest.raises(AssertionError, match=r"2 of 3 replies .* not asked for.*second"), model:
            await model.agent.inquire()
        with pytest.raises(AssertionError, match="2 of 3"):
            model.assert_consumed()
        await model.agent.inquire([model.agent.inquire()])
    model.assert_consumed()


async def test_a_script_that_runs_out() -> None:
    """The call beyond the script fails with what it was sent; so does the test, if somebody swallows that error."""
    model = ScriptedModel("only")
    async with MiniAgents():
        with pytest.raises(AssertionError, match=r"1 reply, and this is call 2 .*\n?.*surplus"), model:
            await model.agent.inquire()
            error = await error_of(model.agent.inquire("surplus"))
    assert isinstance(error, AssertionError)
    assert "this is call 2 of the model" in str(error)
    assert "surplus" in str(error)


def test_an_error_in_the_block_is_not_hidden() -> None:
    """If the block fails, its error is raised and not that of the script."""
    with pytest.raises(ValueError, match="mine"), ScriptedModel("unused"):
        raise ValueError("mine")


@pytest.mark.parametrize(
    "bad", [5, None, {"text": "x"}, {"a"}, b"x", Message("x"), ValueError, [1], ScriptedModel().agent], ids=repr
)
def test_what_is_no_reply(bad: Any) -> None:
    """It is refused at once, with what to give instead, and nothing is added."""
    model = ScriptedModel("fine")
    with pytest.raises(TypeError, match=r"give a text|are strings"):
        model.add("also fine", bad)
    with pytest.raises(AssertionError, match="1 of 1 reply "):
        model.assert_consumed()


async def test_a_function_that_returns_no_reply() -> None:
    """The call fails and says so."""
    async with MiniAgents():
        with ScriptedModel(lambda _: 5) as model:
            error = await error_of(model.agent.inquire())
    assert isinstance(error, TypeError)
    assert "5 is no reply" in str(error)


def test_replies_that_make_no_sense() -> None:
    """Times that do not fit the tokens, tokens that are no text, and errors that are none are refused."""
    with pytest.raises(ValueError, match="3 numbers of seconds were given for 2 tokens"):
        ScriptedReply("a b", seconds_per_token=[1, 2, 3])
    with pytest.raises(TypeError, match="strings"):
        ScriptedReply([1])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="instance"):
        ScriptedReply(error=ValueError)  # type: ignore[arg-type]
