"""The agents of the providers, through the real SDKs, against a server that speaks their protocols."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest

from miniagents import MessageSequencePromise, MiniAgent, MiniAgents
from miniagents.ext.llm.anthropic import anthropic_agent
from miniagents.ext.llm.llm_common import (
    AssistantMessage,
    MissingKeyError,
    ModelError,
    SystemMessage,
    TruncatedAnswerError,
    UserMessage,
)
from miniagents.ext.llm.openai import openai_agent
from promising import PromiseCancelledError
from tests.support.llm_server import Gate, LLMServer, Reply


@dataclass
class Provider:
    agent: MiniAgent
    server: LLMServer
    errors: Any


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer() as server:
        yield server
        server.assert_all_consumed()


@pytest.fixture(params=["openai", "anthropic"])
def provider(request: pytest.FixtureRequest, server: LLMServer) -> Provider:
    if request.param == "openai":
        agent = openai_agent.fork(base_url=server.openai_url, api_key="secret-key", max_retries=0)
        return Provider(agent, server, openai)
    return Provider(anthropic_agent.fork(base_url=server.url, api_key="secret-key", max_retries=0), server, anthropic)


async def tokens_of(replies: MessageSequencePromise) -> list[str]:
    return [token async for message in replies for token in [t async for t in message]]


async def read_until_error(replies: MessageSequencePromise) -> tuple[list[str], BaseException | None]:
    tokens: list[str] = []
    try:
        async for message in replies:
            async for token in message:
                tokens.append(token)
    except Exception as error:
        return tokens, error
    return tokens, None


@pytest.mark.parametrize("stream", [True, False])
async def test_answer_and_metadata(provider: Provider, stream: bool) -> None:
    """The answer is one assistant message that says its model, finish reason and usage."""
    provider.server.script(Reply(("Hello", ", ", "world")))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", stream=stream)
        assert await tokens_of(replies) == (["Hello", ", ", "world"] if stream else ["Hello, world"])
        (message,) = await replies
    assert isinstance(message, AssistantMessage)
    assert (message.text, message.role, message.model) == ("Hello, world", "assistant", "served-model")
    assert message.finish_reason == "stop"
    assert message.usage is not None
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 5)


async def test_the_providers_word_for_the_end_is_kept(provider: Provider) -> None:
    """A finish reason is translated, and the original stands beside it."""
    word = "length" if provider.errors is openai else "max_tokens"
    provider.server.script(Reply(("x",), finish=word))
    async with MiniAgents():
        (message,) = await provider.agent.inquire("Hi")
    assert isinstance(message, AssistantMessage)
    assert (message.finish_reason, message.provider_finish_reason) == ("length", word)


async def test_tokens_arrive_while_the_server_is_still_answering(provider: Provider) -> None:
    """A token can be read before the next one has been sent."""
    gate = Gate()
    provider.server.script(Reply(("first", gate, "second")))
    async with MiniAgents():
        message = await anext(aiter(provider.agent.inquire("Hi")))
        reader = aiter(message)
        assert await anext(reader) == "first"
        gate.open()
        assert await anext(reader) == "second"


async def test_conversation_is_translated(provider: Provider) -> None:
    """Roles, the system prompt and all parameters reach the server."""
    async with MiniAgents():
        await provider.agent.inquire(
            [SystemMessage("Be brief."), UserMessage("one"), AssistantMessage("two"), "three"],
            system="You are kind.",
            model="some-model",
            temperature=0.5,
            unheard_of=1,
        )
    body = provider.server.requests[0].body
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    turns += [{"role": "user", "content": "three"}]
    assert (body["model"], body["temperature"], body["unheard_of"]) == ("some-model", 0.5, 1)
    if provider.errors is openai:
        system = [{"role": "system", "content": text} for text in ("You are kind.", "Be brief.")]
        assert body["messages"] == system + turns
    else:
        assert body["system"] == "You are kind.\n\nBe brief."
        assert body["messages"] == turns


@pytest.mark.parametrize("what", ["message", "call"])
async def test_cancelling_closes_the_response(provider: Provider, what: str) -> None:
    """Cancelling a message in mid-stream, or the call, closes the HTTP response; the tokens stay readable."""
    gate = Gate()
    provider.server.script(Reply(("first", gate, "second")))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi")
        message = await anext(aiter(replies))
        await anext(aiter(message))
        await gate.reached.wait()
        assert (message if what == "message" else replies).cancel()
        with pytest.raises(PromiseCancelledError):
            await message
        assert message.pieces_so_far == ("first",)
        await asyncio.wait_for(provider.server.requests[0].disconnected.wait(), 5)


async def test_cancelling_before_the_first_byte_closes_the_connection(provider: Provider) -> None:
    """A request that has not been answered yet is given up, too."""
    gate = Gate()
    provider.server.script(Reply((gate, "x")))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", stream=False)
        await gate.reached.wait()
        replies.cancel()
        await asyncio.wait_for(provider.server.requests[0].disconnected.wait(), 5)


@pytest.mark.parametrize("ending", ["clean", "cut"])
async def test_incomplete_answers(provider: Provider, ending: str) -> None:
    """An answer that breaks off, or ends without a finish mark, is an error after its tokens."""
    provider.server.script(Reply(("a", "b"), finish=None, ending=ending))
    async with MiniAgents():
        tokens, error = await read_until_error(provider.agent.inquire("Hi"))
    assert tokens == ["a", "b"]
    if ending == "clean":
        assert isinstance(error, TruncatedAnswerError)
    else:
        assert isinstance(error, (ModelError, openai.APIConnectionError, anthropic.APIConnectionError))
    assert "secret-key" not in str(error)


@pytest.mark.parametrize(
    ("status", "kind", "name"),
    [
        (401, "authentication_error", "AuthenticationError"),
        (404, "not_found_error", "NotFoundError"),
        (429, "rate_limit_error", "RateLimitError"),
        (500, "api_error", "InternalServerError"),
    ],
)
async def test_errors_of_the_server_arrive_as_the_sdk_raises_them(
    provider: Provider, status: int, kind: str, name: str
) -> None:
    """What the provider refuses is raised where the reply is read."""
    provider.server.script(Reply(status=status, error=(kind, "no")))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi")
        with pytest.raises(getattr(provider.errors, name)):
            await replies


async def test_an_error_in_mid_stream_comes_after_the_tokens(provider: Provider) -> None:
    """An error event in the stream is raised at its place."""
    if provider.errors is openai:
        event: dict[str, Any] = {"error": {"message": "too busy", "type": "server_error", "code": None}}
    else:
        event = {"type": "error", "error": {"type": "overloaded_error", "message": "too busy"}}
    provider.server.script(Reply(("a", event), finish=None))
    async with MiniAgents():
        tokens, error = await read_until_error(provider.agent.inquire("Hi"))
    assert tokens == ["a"]
    assert isinstance(error, provider.errors.APIError)


async def test_malformed_json_is_a_clear_error(provider: Provider) -> None:
    """What cannot be parsed is reported with the model's name, not as a parser's error."""
    event = b"data: {nonsense\n\n" if provider.errors is openai else b"event: message_delta\ndata: {nonsense\n\n"
    provider.server.script(Reply(("a", event), finish=None))
    async with MiniAgents():
        tokens, error = await read_until_error(provider.agent.inquire("Hi", model="some-model"))
    assert tokens == ["a"]
    assert isinstance(error, ModelError)
    assert "some-model" in str(error)


async def test_refused_connection(provider: Provider) -> None:
    """A server that is not there is a connection error."""
    async with MiniAgents():
        with pytest.raises(provider.errors.APIConnectionError):
            await provider.agent.inquire("Hi", base_url="http://127.0.0.1:9/v1")


@pytest.mark.parametrize(("agent", "variable"), [(openai_agent, "OPENAI_API_KEY"), (anthropic_agent, "ANTHROPIC_API_KEY")])
async def test_missing_key_names_the_variable(agent: MiniAgent, variable: str) -> None:
    """Without a key the error says which variable to set, and is raised where the reply is read."""
    async with MiniAgents():
        replies = agent.inquire("Hi")
        with pytest.raises(MissingKeyError, match=variable):
            await replies


async def test_a_server_of_ones_own_needs_no_key(server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With OPENAI_BASE_URL alone the call goes through; a server that leaves fields out is understood."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
    server.script(Reply(("fine",), bare=True))
    async with MiniAgents():
        (message,) = await openai_agent.inquire("Hi")
    assert isinstance(message, AssistantMessage)
    assert (str(message), message.usage, message.finish_reason) == ("fine", None, "stop")


async def test_characters_cut_in_pieces(provider: Provider) -> None:
    """Text arrives whole however the bytes are cut, and halves of characters are passed on and sent back whole."""
    provider.server.script(Reply(("é€😀", "\ud83d", "\ude00"), split=1))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi")
        assert "".join(await tokens_of(replies)) == "é€😀\ud83d\ude00"
        await provider.agent.inquire([await replies, "and?"])
    assert "é€😀😀" in str(provider.server.requests[1].body)


async def test_parallel_calls_share_a_client_and_go_out_at_once(provider: Provider) -> None:
    """Ten calls are all under way before the first of them is answered."""
    gates = [Gate() for _ in range(10)]
    provider.server.script(*[Reply((gate, "x")) for gate in gates])
    async with MiniAgents():
        replies = [provider.agent.inquire("Hi") for _ in gates]
        for gate in gates:
            await gate.reached.wait()
        for gate in gates:
            gate.open()
        assert [str(message) for reply in replies for message in await reply] == ["x"] * 10


async def test_without_a_context(provider: Provider) -> None:
    """Outside a context a call starts when it is awaited, and closes its client itself."""
    (message,) = await provider.agent.inquire("one two")
    assert str(message) == "one two "


async def test_reasoning_is_metadata(server: LLMServer) -> None:
    """What a model says to itself is kept apart from what it says."""
    thought = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}
    server.script(Reply((thought, "answer")))
    async with MiniAgents():
        (message,) = await openai_agent.inquire("Hi", base_url=server.openai_url)
    assert isinstance(message, AssistantMessage)
    assert (str(message), message.reasoning) == ("answer", "hm")
