"""OpenAI's Responses API, through the SDK."""

from typing import Any

import openai
import pytest
from pydantic import BaseModel

from miniagents import Message, MiniAgent, MiniAgents
from miniagents.ext.llm.anthropic import anthropic_agent
from miniagents.ext.llm.llm_common import TruncatedAnswerError, UserMessage
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.llm.parts import ImagePart, ThinkingPart
from tests.ext.llm.helpers import BOTH_WAYS, KEY, Provider
from tests.support.llm_server import LLMServer, Reply, StreamError, Thinking, ToolCall


@pytest.fixture
def responses(server: LLMServer) -> Provider:
    agent = openai_agent.fork(
        base_url=server.openai_url, api_key=KEY, max_retries=0, model="some-model", api="responses"
    )
    return Provider(agent, server, openai)


def look(city: str) -> str:
    """Looks."""
    return f"sunny in {city}"


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_an_answer(responses: Provider, stream: bool) -> None:
    """Text, model, finish reason and usage, and what was sent for it."""
    message = await responses.ask(Reply(("Hel", "lo")), stream=stream, system="Be kind.", max_tokens=50, temperature=0)
    assert (message.text, message.model, message.finish_reason) == ("Hello", "served-model", "stop")
    assert message.usage is not None
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 5)
    (request,) = responses.server.requests
    assert request.path == "/v1/responses"
    sent = request.body
    assert (sent["instructions"], sent["max_output_tokens"], sent["temperature"]) == ("Be kind.", 50, 0)
    assert (sent["store"], sent["input"]) == (False, [{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_usage_in_detail(responses: Provider, stream: bool) -> None:
    """Tokens from the cache, and tokens of reasoning."""
    usage = {"input_tokens_details": {"cached_tokens": 3}, "output_tokens_details": {"reasoning_tokens": 2}}
    message = await responses.ask(Reply(("x",), usage=usage), stream=stream)
    assert message.usage is not None
    assert (message.usage.cached_tokens, message.usage.reasoning_tokens) == (3, 2)


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_tools_and_thoughts(responses: Provider, stream: bool) -> None:
    """Calls in parallel are answered, and thoughts are sent back unchanged, before the calls they led to."""
    calls = (ToolCall("look", ('{"city": ', '"Rome"}')), ToolCall("look", ('{"city": "Oslo"}',)))
    responses.server.script(Reply((Thinking("hm", "secret thoughts"), "Let me", *calls)), Reply(("Done",)))
    async with MiniAgents():
        messages: Any = await responses.agent.inquire("Weather?", tools=[look], stream=stream)
    assert [str(message) for message in messages] == ["Let me", "sunny in Rome", "sunny in Oslo", "Done"]
    assert messages[0].finish_reason == "tool_calls"
    assert messages[0].reasoning == "hm"
    kinds = [item.get("type") or item["role"] for item in responses.server.requests[1].body["input"]]
    assert kinds == ["user", "reasoning", "assistant", *["function_call"] * 2, *["function_call_output"] * 2]
    assert responses.server.requests[1].body["input"][1]["encrypted_content"] == "secret thoughts"


async def test_conversations_go_on_elsewhere_and_back(responses: Provider) -> None:
    """What was begun here, calls and thoughts included, other providers take, and the other way round."""
    server = responses.server
    chat = openai_agent.fork(base_url=server.openai_url, api_key=KEY, model="some-model")
    claude = anthropic_agent.fork(base_url=server.anthropic_url, api_key=KEY, model="some-model")
    calling = Reply((Thinking("hm", "signed"), ToolCall("look", ('{"city": "Rome"}',))))

    async def begun_on(agent: MiniAgent) -> tuple[Message, ...]:
        server.script(calling, Reply(("Sunny",)))
        return await agent.inquire("Weather?", tools=[look])

    async with MiniAgents():
        for first, second in [(responses.agent, chat), (responses.agent, claude), (claude, responses.agent)]:
            said = await begun_on(first)
            server.script(Reply(("Still sunny",)))
            (answer,) = await second.inquire(["Weather?", said, "And now?"])
            assert str(answer) == "Still sunny"
    assert "signed" not in str(server.requests[-1].body)


async def test_thoughts_of_others_are_left_out(responses: Provider) -> None:
    """A signature is good only where it comes from."""
    thought = ThinkingPart(text="hm", signature="theirs", provider="anthropic")
    responses.server.script(Reply(("x",)))
    async with MiniAgents():
        await responses.agent.inquire([Message("Hi", role="assistant", parts=[thought]), "Go on"])
    assert [item["role"] for item in responses.server.requests[0].body["input"]] == ["assistant", "user"]


async def test_images(responses: Provider) -> None:
    """Bytes and addresses are sent as images."""
    responses.server.script(Reply(("a cat",)))
    images = [ImagePart(data=b"\x89PNG", media_type="image/png"), ImagePart(url="https://here/cat.jpg")]
    async with MiniAgents():
        await responses.agent.inquire(UserMessage("What is it?", parts=images))
    (item,) = responses.server.requests[0].body["input"]
    assert [part["type"] for part in item["content"]] == ["input_text", "input_image", "input_image"]
    assert item["content"][1]["image_url"] == "data:image/png;base64,iVBORw=="


class City(BaseModel):
    name: str


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_objects(responses: Provider, stream: bool) -> None:
    """The schema is sent, and the answer is an object."""
    message = await responses.ask(Reply(('{"name": "Rome"}',)), stream=stream, reply_type=City)
    assert message.parsed == City(name="Rome")
    assert responses.server.requests[0].body["text"]["format"]["strict"] is True


@pytest.mark.parametrize(("word", "reason"), [("max_output_tokens", "length"), ("content_filter", "content_filter")])
@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_finish_reasons(responses: Provider, stream: bool, word: str, reason: str) -> None:
    """An incomplete answer says why."""
    message = await responses.ask(Reply(("x",), finish=word), stream=stream)
    assert (message.finish_reason, message.provider_finish_reason) == (reason, word)


@pytest.mark.parametrize(
    "reply", [Reply(("a", StreamError())), Reply(("a",), finish="failed")], ids=["error", "failed"]
)
async def test_errors_in_mid_stream(responses: Provider, reply: Reply) -> None:
    """They stand after the tokens that had come."""
    tokens, error = await responses.fail(reply)
    assert tokens == ["a"]
    assert isinstance(error, openai.APIError)
    assert error.partial_text == "a"  # type: ignore[attr-defined]


async def test_errors_before_the_first_token(responses: Provider) -> None:
    """They are tried again, whether they come as a status or as an event."""
    failures = [Reply(status=429, headers={"retry-after": "0"}), Reply((StreamError(),)), Reply(ending="silent")]
    message = await responses.ask(*failures, Reply(("fine",)), max_retries=3)
    assert message.text == "fine"
    assert len(responses.server.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_errors_that_do_not_pass(responses: Provider, status: int) -> None:
    """They are raised at once."""
    _, error = await responses.fail(Reply(status=status), max_retries=3)
    assert isinstance(error, openai.APIStatusError)
    assert error.status_code == status


async def test_a_stream_without_an_end(responses: Provider) -> None:
    """An answer that ends without a word on why is truncated."""
    tokens, error = await responses.fail(Reply(("a", "b"), finish=None))
    assert tokens == ["a", "b"]
    assert isinstance(error, TruncatedAnswerError)
    _, error = await responses.fail(Reply(("a",), ending="cut"))
    assert error.partial_text == "a"  # type: ignore[attr-defined]


async def test_which_interface(responses: Provider) -> None:
    """Another word for it is an error."""
    async with MiniAgents():
        with pytest.raises(ValueError, match='"chat" or "responses"'):
            await responses.agent.inquire("Hi", api="completions")
