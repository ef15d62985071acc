"""Inference clients: requests for those who think in requests."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents import MiniAgents
from miniagents.ext.llm.clients import (
    AnthropicInferenceClient,
    BedrockInferenceClient,
    ChatMessage,
    ChatRole,
    InferenceClient,
    OpenAIInferenceClient,
    VertexInferenceClient,
)
from miniagents.ext.llm.llm_common import UserMessage
from miniagents.ext.llm.parts import ImagePart, ToolCallPart
from miniagents.ext.llm.plain_messages import message_from_dict, message_to_dict
from tests.support.llm_server import AwsCredentials, Gate, LLMServer, Reply, ToolCall

SECRET = "a-very-secret-secret"


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer(aws=AwsCredentials("AKIDEXAMPLE", SECRET)) as server:
        yield server


@pytest.fixture(params=["openai", "anthropic", "bedrock", "vertex"])
def client(request: pytest.FixtureRequest, server: LLMServer) -> InferenceClient:
    match request.param:
        case "openai":
            return OpenAIInferenceClient(model="m", api_key=SECRET, base_url=server.openai_url)
        case "anthropic":
            return AnthropicInferenceClient(model="m", api_key=SECRET, api_url=f"{server.anthropic_url}/v1/messages")
        case "bedrock":
            options = {"aws_access_key": "AKIDEXAMPLE", "aws_secret_key": SECRET, "base_url": server.bedrock_url}
            return BedrockInferenceClient(model="m", region_name="us-east-1", **options)
        case _:
            options = {"access_token": SECRET, "base_url": server.vertex_url}
            return VertexInferenceClient(model="m", project="p", location="us-east5", **options)


CONVERSATION = [
    ChatMessage(role=ChatRole.SYSTEM, content="Be kind.", cache_marker=True),
    ChatMessage(role=ChatRole.USER, content="Hello there"),
]


async def test_generation(client: InferenceClient, server: LLMServer) -> None:
    """The whole text of the answer, for what was asked for."""
    assert await client.get_generation(CONVERSATION, max_tokens=50, temperature=0.3, top_p=0.9) == "Hello there "
    sent = server.requests[0].body
    assert (sent["max_tokens"], sent["temperature"], sent["top_p"]) == (50, 0.3, 0.9)
    assert client.usage.requests == 1
    assert (client.usage.input_tokens, client.usage.output_tokens) == (7, 5)
    if not isinstance(client, OpenAIInferenceClient):
        assert sent["system"][0]["cache_control"] == {"type": "ephemeral"}


async def test_tokens(client: InferenceClient, server: LLMServer) -> None:
    """Token by token; who stops listening stops the answer."""
    assert [token async for token in client.connect_and_listen(["Hello there"])] == ["Hello ", "there "]
    gate = Gate()
    server.script(Reply(("a", gate)))
    listening = client.connect_and_listen("Hi")
    assert await anext(listening) == "a"
    await listening.aclose()  # type: ignore[attr-defined]
    await server.client_disconnected(1)
    assert client.usage.requests == 2


async def test_tools(client: InferenceClient, server: LLMServer) -> None:
    """The new messages of a conversation with tools; the number of requests is limited."""

    def look(city: str) -> str:
        return f"sunny in {city}"

    calling = Reply((ToolCall("look", ('{"city": "Rome"}',)),))
    server.script(calling, Reply(("Sunny.",)))
    messages: list[Any] = await client.tool_chain(["Weather?"], [look])
    assert [(message.role, str(message)) for message in messages] == [
        ("assistant", ""),
        ("tool", "sunny in Rome"),
        ("assistant", "Sunny."),
    ]
    server.script(calling, calling)
    messages = await client.tool_chain([{"role": "user", "content": "Weather?"}], [look], max_iterations=2)
    assert messages[-1].stop_reason == "max_turns"
    assert client.usage.requests == 4


async def test_what_fails(client: InferenceClient, server: LLMServer) -> None:
    """Errors are raised, and what was spent until then counts."""
    server.script(Reply(("a",), ending="cut"), Reply(status=400))
    tokens = []
    with pytest.raises(Exception) as caught:
        async for token in client.connect_and_listen("Hi"):
            tokens.append(token)
    assert (tokens, caught.value.partial_text) == (["a"], "a")  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="400"):
        await client.get_generation("Hi")
    assert client.usage.requests == 1


async def test_the_agent_behind_it(client: InferenceClient) -> None:
    """`client.agent` can be used wherever agents are."""
    async with MiniAgents():
        assert str(await client.agent.inquire("Hello").as_single_promise()) == "Hello "


def test_chat_messages() -> None:
    """They are messages like others; text and content are the same."""
    message = ChatMessage(role=ChatRole.ASSISTANT, content="Hi")
    assert (message.role, message.text, message.content, str(message)) == ("assistant", "Hi", "Hi", "Hi")
    assert message == ChatMessage("Hi", role="assistant")
    assert ChatRole.TOOL_RESULT.value == "tool"
    with pytest.raises(TypeError, match="not both"):
        ChatMessage("Hi", content="Hi")


@pytest.mark.parametrize(
    "plain",
    [
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": "Hello"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "result"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "See:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
                {"type": "image_url", "image_url": {"url": "https://here/x.png"}},
            ],
        },
    ],
)
def test_plain_data_and_back(plain: dict[str, Any]) -> None:
    """Histories in the words of OpenAI become messages, and plain data again."""
    message = message_from_dict(plain)
    assert message_to_dict(message) == plain


def test_roles_that_are_none() -> None:
    """They are refused, with those that there are."""
    with pytest.raises(ValueError, match="system, developer, user, assistant, tool"):
        message_from_dict({"role": "robot", "content": "x"})
    assert message_to_dict(UserMessage(parts=[ImagePart(url="https://here")]))["content"][0]["type"] == "image_url"
    assert ToolCallPart(id="c", name="f").arguments == "{}"
