"""Every provider through its own SDK, against a server that speaks its protocol: the same behaviour for all."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from miniagents import Message, MiniAgent, MiniAgents
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.llm.anthropic import anthropic_agent
from miniagents.ext.llm.bedrock import bedrock_agent
from miniagents.ext.llm.llm_common import BrokenAnswerError, ModelError, ModelTimeoutError, UserMessage
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.llm.parts import ImagePart
from miniagents.ext.llm.vertex import vertex_agent
from tests.ext.llm.helpers import BOTH_WAYS, read_until_error
from tests.support.llm_server import AwsCredentials, Gate, LLMServer, Malformed, Reply, StreamError, ToolCall

SECRET = "a-very-secret-secret"
PROVIDERS = ["openai", "responses", "anthropic", "bedrock", "vertex"]


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer(aws=AwsCredentials("AKIDEXAMPLE", SECRET)) as server:
        yield server
        server.assert_all_consumed()


@pytest.fixture(params=PROVIDERS)
def agent(request: pytest.FixtureRequest, server: LLMServer) -> MiniAgent:
    return agent_of(request.param, server)


def agent_of(provider: str, server: LLMServer) -> MiniAgent:
    match provider:
        case "openai":
            made = openai_agent.fork(base_url=server.openai_url, api_key=SECRET)
        case "responses":
            made = openai_agent.fork(base_url=server.openai_url, api_key=SECRET, api="responses")
        case "anthropic":
            made = anthropic_agent.fork(base_url=server.anthropic_url, api_key=SECRET)
        case "bedrock":
            credentials = {"aws_access_key": "AKIDEXAMPLE", "aws_secret_key": SECRET}
            made = bedrock_agent.fork(base_url=server.bedrock_url, region_name="us-east-1", **credentials)
        case _:
            made = vertex_agent.fork(base_url=server.vertex_url, project="p", location="us-east5", access_token=SECRET)
    return made.fork(model="some-model", max_retries=0)


async def fail(agent: MiniAgent, server: LLMServer, *replies: Reply, **options: Any) -> tuple[list[str], BaseException]:
    server.script(*replies)
    async with MiniAgents():
        reply = agent.inquire("Hi", **options)
        tokens, error = await read_until_error(reply)
        assert (tokens, error) == await read_until_error(reply)
    assert error is not None
    assert SECRET not in f"{error!r} {error} {vars(error)}"
    assert "".join(tokens) == error.partial_text  # type: ignore[attr-defined]
    return tokens, error


async def warm_up(agent: MiniAgent) -> None:
    """Imports and first signatures take their time, which is none of a test that has little."""
    async with MiniAgents():
        await agent.inquire("Hi")


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_an_answer(agent: MiniAgent, server: LLMServer, stream: bool) -> None:
    """Text, model, finish reason and usage are there, streamed or not."""
    server.script(Reply(("Hel", "lo")))
    async with MiniAgents():
        (message,) = await agent.inquire("Hi", stream=stream, system="Be kind.", max_tokens=99)
    assert isinstance(message, Message)
    known: Any = message
    assert (known.text, known.model, known.finish_reason) == ("Hello", "served-model", "stop")
    assert (known.usage.input_tokens, known.usage.output_tokens) == (7, 5)
    assert "Be kind." in str(server.requests[0].body)


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_tools_in_parallel(agent: MiniAgent, server: LLMServer, stream: bool) -> None:
    """Two calls of one answer run at the same time, and both results go back in order."""
    both = asyncio.Barrier(2)

    async def look(city: str) -> str:
        await both.wait()  # it never passes if they run one after the other
        return f"sunny in {city}"

    calls = (ToolCall("look", ('{"city": ', '"Rome"}')), ToolCall("look", ('{"city": "Oslo"}',)))
    server.script(Reply(("Let me see.", *calls)), Reply(("Sunny.",)))
    async with MiniAgents():
        reply = agent.inquire("Weather?", tools=[look], stream=stream)
        messages = await reply
        usage = await reply.usage()
    assert [str(message) for message in messages] == ["Let me see.", "sunny in Rome", "sunny in Oslo", "Sunny."]
    assert (usage.requests, usage.input_tokens) == (2, 14)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_errors_that_do_not_pass(agent: MiniAgent, server: LLMServer, status: int) -> None:
    """They are raised at once, as the error of the SDK."""
    _, error = await fail(agent, server, Reply(status=status), max_retries=3)
    assert error.status_code == status  # type: ignore[attr-defined]


async def test_errors_that_may_pass(agent: MiniAgent, server: LLMServer) -> None:
    """Rate limits, errors of the server, lost connections and errors before the first token are tried again."""
    again = {"retry-after-ms": "1"}
    server.script(
        Reply(status=429, headers=again),
        Reply(status=500, headers=again),
        Reply(status=529, headers=again),
        Reply(ending="silent"),
        Reply(("fine",)),
    )
    async with MiniAgents():
        (message,) = await agent.inquire("Hi", max_retries=4)
    assert str(message) == "fine"
    assert len(server.requests) == 5


async def test_a_long_retry_after(agent: MiniAgent, server: LLMServer) -> None:
    """A server that wants to be left alone for longer than a minute is not waited for."""
    _, error = await fail(agent, server, Reply(status=429, headers={"retry-after": "61"}), max_retries=4)
    assert error.status_code == 429  # type: ignore[attr-defined]


@pytest.mark.parametrize("ending", ["cut", "reset"])
async def test_a_cut_in_mid_stream(agent: MiniAgent, server: LLMServer, ending: Any) -> None:
    """The tokens that had come stay, and nothing is tried again."""
    tokens, _ = await fail(agent, server, Reply(("a", "b"), ending=ending), max_retries=3)
    assert tokens == ["a", "b"]


async def test_an_error_in_mid_stream(agent: MiniAgent, server: LLMServer) -> None:
    """The error of the server stands after the tokens that had come."""
    tokens, error = await fail(agent, server, Reply(("a", StreamError())), max_retries=3)
    assert tokens == ["a"]
    assert "Overloaded" in str(error)


async def test_a_stream_without_an_end(agent: MiniAgent, server: LLMServer) -> None:
    """An answer that ends without a word on why is an error."""
    _, error = await fail(agent, server, Reply(("a",), finish=None))
    assert isinstance(error, BrokenAnswerError)


async def test_malformed_events(agent: MiniAgent, server: LLMServer) -> None:
    """What cannot be understood is a broken answer."""
    tokens, error = await fail(agent, server, Reply(("a", Malformed())))
    assert tokens == ["a"]
    assert isinstance(error, BrokenAnswerError)


async def test_a_stalled_stream(agent: MiniAgent, server: LLMServer) -> None:
    """A server that falls silent in mid-stream is given up, and its connection is closed."""
    await warm_up(agent)
    tokens, _ = await fail(agent, server, Reply(("a", Gate())), stall_timeout=1.0)
    assert tokens == ["a"]
    await server.client_disconnected(1)


async def test_an_answer_that_takes_too_long(agent: MiniAgent, server: LLMServer) -> None:
    """The time for a request ends it before its first token, too."""
    await warm_up(agent)
    _, error = await fail(agent, server, Reply(hold=Gate()), timeout=1.0)
    assert isinstance(error, ModelTimeoutError) or "imed out" in str(error)
    await server.client_disconnected(1)


async def test_images(agent: MiniAgent, server: LLMServer) -> None:
    """An image goes to all of them."""
    server.script(Reply(("A cat.",)))
    async with MiniAgents():
        await agent.inquire(UserMessage("What is it?", parts=[ImagePart(data=b"\x89PNG", media_type="image/png")]))
    assert "iVBORw==" in str(server.requests[0].body)


@pytest.mark.parametrize("second", PROVIDERS)
async def test_going_on_with_another_provider(agent: MiniAgent, server: LLMServer, second: str) -> None:
    """A conversation with calls of tools is continued by every other one."""
    server.script(Reply((ToolCall("look", id="an id/that:nobody takes" * 3),)), Reply(("Sunny.",)), Reply(("Still.",)))
    async with MiniAgents():
        said = await agent.inquire("Weather?", tools=[look])
        answer = await agent_of(second, server).inquire(["Weather?", said, "And now?"])
    assert str(answer[-1]) == "Still."


def look() -> str:
    """Looks."""
    return "sunny"


async def test_a_wrong_signature(server: LLMServer) -> None:
    """A request that was signed with other credentials is refused, as AWS does."""
    agent = agent_of("bedrock", server).fork(aws_secret_key="some-other-secret")
    async with MiniAgents():
        with pytest.raises(Exception, match="signature") as caught:
            await agent.inquire("Hi")
    assert "some-other-secret" not in repr(caught.value)


async def test_where_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a region or a location the error says how to give one."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "CLOUD_ML_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    async with MiniAgents():
        with pytest.raises(ModelError, match="region_name"):
            await bedrock_agent.inquire("Hi")
        with pytest.raises(ModelError, match="location"):
            await vertex_agent.inquire("Hi")


async def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages of a provider the error says how to get them."""
    monkeypatch.setattr("miniagents.ext.llm.sdk_clients.find_spec", lambda _: None)
    async with MiniAgents():
        with pytest.raises(ModelError, match=r'pip install "miniagents\[bedrock\]"'):
            await bedrock_agent.inquire("Hi", region_name="us-east-1")
        with pytest.raises(ModelError, match=r'pip install "miniagents\[vertex\]"'):
            await vertex_agent.inquire("Hi", location="us-east5")


async def test_no_secret_is_kept(
    agent: MiniAgent, server: LLMServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A key is in no message, history, persisted message or log, also where the server repeats it in its error."""
    history = ChatHistoryMD(tmp_path / "CHAT.md")
    kept: list[str] = []
    mini_agents = MiniAgents(errors_as_messages=True)

    @mini_agents.on_persist_message
    async def keep(message: Message) -> None:
        kept.append(f"{message.serialize()} {message!r}")

    server.script(Reply(("fine",)), Reply(status=401, error=("authentication_error", f"no such key: {SECRET}")))
    with caplog.at_level("DEBUG", logger="miniagents"):
        async with mini_agents:
            for _ in range(2):
                await history.logging_agent.inquire(["Hi", agent.inquire("Hi")])
    written = (tmp_path / "CHAT.md").read_text()
    assert "no such key" in written
    assert SECRET not in written + "".join(kept) + caplog.text
