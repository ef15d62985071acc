"""What is sent to a provider: the conversation in its words, and everything else that was asked for."""

from typing import Any

import pytest

from miniagents import Message, MiniAgents
from miniagents.ext.llm.anthropic import DEFAULT_ANTHROPIC_MODEL, DEFAULT_MAX_TOKENS, anthropic_agent
from miniagents.ext.llm.llm_common import AssistantMessage, SystemMessage, UserMessage, role_of
from miniagents.ext.llm.openai import DEFAULT_OPENAI_MODEL, openai_agent
from tests.ext.llm.helpers import BOTH_WAYS, KEY, Provider, texts
from tests.support.llm_server import LLMServer, Reply

Json = dict[str, Any]


def user(text: str) -> Json:
    return {"role": "user", "content": text}


async def body_for(provider: Provider, conversation: Any, **parameters: Any) -> Json:
    async with MiniAgents():
        await provider.agent.inquire(conversation, **parameters)
    body = provider.server.requests[-1].body
    assert isinstance(body, dict)
    return body


async def test_conversation_is_translated(provider: Provider) -> None:
    """Roles and instructions reach the model in their order."""
    conversation = [SystemMessage("Be brief."), UserMessage("one"), AssistantMessage("two"), "three"]
    body = await body_for(provider, conversation, system="You are kind.")
    turns = [user("one"), {"role": "assistant", "content": "two"}, user("three")]
    if provider.is_openai:
        instructions = [{"role": "system", "content": text} for text in ("You are kind.", "Be brief.")]
        assert body["messages"] == instructions + turns
    else:
        assert body["system"] == "You are kind.\n\nBe brief."
        assert body["messages"] == turns


async def test_system_messages_stay_in_their_place(openai_provider: Provider) -> None:
    """OpenAI is sent an instruction where it was given."""
    body = await body_for(openai_provider, ["one", SystemMessage("Now in French."), "two"])
    assert body["messages"] == [user("one"), {"role": "system", "content": "Now in French."}, user("two")]


async def test_neighbours_of_one_role_are_one_turn(anthropic_provider: Provider) -> None:
    """Anthropic is sent alternating turns, also where a system message stood between two of one role."""
    conversation = ["one", SystemMessage("Hm."), "two", AssistantMessage("a"), AssistantMessage("b"), "three"]
    body = await body_for(anthropic_provider, conversation)
    assert body["messages"] == [user("one\n\ntwo"), {"role": "assistant", "content": "a\n\nb"}, user("three")]


async def test_messages_without_text_are_not_sent_to_anthropic(anthropic_provider: Provider) -> None:
    """It refuses empty content; what such a message stood between is joined."""
    body = await body_for(anthropic_provider, ["one", AssistantMessage(""), " \n", SystemMessage(" "), "two"])
    assert (body["messages"], "system" in body) == ([user("one\n\ntwo")], False)


async def test_the_role_of_any_message_is_its_metadata(provider: Provider) -> None:
    """A message of no particular class is the user's, unless it says otherwise."""
    body = await body_for(provider, ["one", Message("two", role="assistant"), {"text": "three", "role": "user"}])
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert [role_of(Message("x", role=role)) for role in (None, "", 5, "tool")] == ["user", "user", "user", "tool"]


async def test_a_message_without_text_is_sent_as_its_fields(provider: Provider) -> None:
    """A model sees of a message what `str()` shows."""
    assert (await body_for(provider, Message(stars=5)))["messages"] == [user('{"stars":5}')]


async def test_a_conversation_goes_on_with_the_answer(provider: Provider) -> None:
    """The promise of an answer can be sent on at once, with the next question; its text arrives as the assistant's."""
    provider.server.script(Reply(("Hel", "lo"), split=3), Reply(("fine",)))
    async with MiniAgents():
        first = provider.agent.inquire("Hi")
        second = provider.agent.inquire(["Hi", first, "How are you?"])
        assert texts(await second) == ["fine"]
    turns = [user("Hi"), {"role": "assistant", "content": "Hello"}, user("How are you?")]
    assert provider.server.requests[1].body["messages"] == turns


async def test_halves_of_characters_are_sent_as_valid_text(provider: Provider) -> None:
    """A request can be written whatever strings there are."""
    body = await body_for(provider, ["\ud83d\ude00 \ud83d"], system="\ude00")
    assert body["messages"][-1] == user("😀 \ufffd")
    assert (body["messages"][0]["content"] if provider.is_openai else body["system"]) == "\ufffd"


@pytest.mark.parametrize("system", [SystemMessage("Be brief."), "Be brief."])
async def test_system_may_be_a_message(provider: Provider, system: Any) -> None:
    """An instruction may come as text or as a message."""
    body = await body_for(provider, "Hi", system=system)
    assert "Be brief." in (body["messages"][0]["content"] if provider.is_openai else body["system"])


@pytest.mark.parametrize("system", [None, "", SystemMessage(""), []])
async def test_no_instruction(provider: Provider, system: Any) -> None:
    """An empty instruction is none."""
    body = await body_for(provider, "Hi", system=system)
    assert (body["messages"], "system" in body) == ([user("Hi")], False)


async def test_system_may_be_in_the_words_of_the_provider(provider: Provider) -> None:
    """Content blocks go through as they are; for Anthropic, system messages are added as further ones."""
    blocks: list[Json] = [{"type": "text", "text": "Be brief."}]
    if provider.is_openai:
        body = await body_for(provider, "Hi", system=blocks)
        assert body["messages"][0] == {"role": "system", "content": blocks}
    else:
        blocks[0]["cache_control"] = {"type": "ephemeral"}
        body = await body_for(provider, ["Hi", SystemMessage("Be kind.")], system=blocks)
        assert body["system"] == [*blocks, {"type": "text", "text": "Be kind."}]


async def test_parameters_are_passed_on(provider: Provider) -> None:
    """What the SDK takes is given to it, the rest goes into the body, beside an `extra_body` of the caller's."""
    body = await body_for(
        provider, "Hi", service_tier="auto", temperature=0.5, top_k=3, unheard_of={"a": [1]}, extra_body={"seed": 1},
        extra_headers={"x-mine": "yes"}, extra_query={"q": "1"}, timeout=30,
    )  # fmt: skip
    expected = {"service_tier": "auto", "temperature": 0.5, "top_k": 3, "unheard_of": {"a": [1]}, "seed": 1}
    assert {name: body[name] for name in expected} == expected
    assert "timeout" not in body
    request = provider.server.requests[0]
    assert (request.headers["x-mine"], request.query) == ("yes", {"q": ["1"]})


async def test_defaults(server: LLMServer) -> None:
    """Without a word on it a current model is asked, and for a stream with usage."""
    async with MiniAgents():
        await openai_agent.inquire("Hi", base_url=server.openai_url)
        await anthropic_agent.inquire("Hi", base_url=server.anthropic_url)
    first, second = (request.body for request in server.requests)
    assert (first["model"], first["stream"]) == (DEFAULT_OPENAI_MODEL, True)
    assert first["stream_options"] == {"include_usage": True}
    assert (second["model"], second["stream"]) == (DEFAULT_ANTHROPIC_MODEL, True)
    assert second["max_tokens"] == DEFAULT_MAX_TOKENS


async def test_the_key_is_sent(provider: Provider) -> None:
    """The key reaches the server."""
    await body_for(provider, "Hi")
    assert provider.server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_usage": True, "include_obfuscation": False}),
        ({"include_usage": False}, {"include_usage": False}),
        (None, None),
    ],
)
async def test_stream_options_are_added_to(openai_provider: Provider, given: Any, sent: Any) -> None:
    """Usage is asked for in streams beside what the caller has asked for, unless the caller says no."""
    assert (await body_for(openai_provider, "Hi", stream_options=given))["stream_options"] == sent


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_stream_options_are_for_streams(openai_provider: Provider, stream: bool) -> None:
    """OpenAI refuses them elsewhere."""
    assert ("stream_options" in await body_for(openai_provider, "Hi", stream=stream)) is stream


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_does_not_know_stream_options(openai_provider: Provider, status: int) -> None:
    """A server that refuses what we added is asked once more without it."""
    refusal = Reply(status=status, error=("invalid_request_error", "Extra inputs are not permitted: stream_options"))
    message = await openai_provider.ask(refusal, Reply(("fine",)))
    assert (message.text, message.usage) == ("fine", None)
    assert ["stream_options" in request.body for request in openai_provider.server.requests] == [True, False]


async def test_stream_options_of_the_callers_own_are_not_dropped(openai_provider: Provider) -> None:
    """What the caller has asked for is either done or refused."""
    refusal = Reply(status=400, error=("invalid_request_error", "stream_options: unknown"))
    _, error = await openai_provider.fail(refusal, stream_options={"include_usage": True})
    assert isinstance(error, openai_provider.sdk.BadRequestError)


async def test_retries_of_the_sdk(provider: Provider) -> None:
    """`max_retries` is how often the SDK tries again before the first token."""
    busy = Reply(status=429, headers={"retry-after-ms": "1", "retry-after": "0"})
    message = await provider.ask(busy, busy, Reply(("fine",)), max_retries=2)
    assert message.text == "fine"


@pytest.mark.parametrize(("misspelt", "meant"), [("max_turn", "max_turns"), ("tool", "tools"), ("systm", "system")])
async def test_misspelt_options(provider: Provider, misspelt: str, meant: str) -> None:
    """An argument that is almost an option is an error: the provider might ignore it."""
    async with MiniAgents():
        with pytest.raises(TypeError, match=f"is '{meant}' meant"):
            await provider.agent.inquire("Hi", **{misspelt: 3})
    assert provider.server.requests == []
