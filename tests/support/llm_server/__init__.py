"""A local server that speaks the wire protocols of OpenAI and Anthropic, for tests through the real SDKs.

    async with LLMServer() as server:
        gate = Gate()
        server.script(Reply(("Hel", gate, "lo")), Reply(status=429, headers={"retry-after": "1"}))
        client = openai.AsyncOpenAI(base_url=server.openai_url, api_key="any", max_retries=0)

`server.script(...)` says what it answers, request by request; with no script it echoes the last message, word by word.
What a test does not open, the server waits for: slow tokens need gates, not time. Each request is kept in
`server.requests`, and `await server.client_disconnected(n)` returns when the client has given it up. `with
LLMServer.in_thread() as server` serves blocking code and other processes; run this package to try things by hand.
`LLMServer(default=Faults(...))` fails now and then, as providers do.

It knows, each at an address of its own (`server.openai_url` and so on):

- OpenAI: chat completions, responses, models;
- Anthropic: messages, the count of tokens, models;
- Vertex AI: messages and the count of tokens, by `rawPredict` and `streamRawPredict`;
- Bedrock: messages, by `invoke` and `invoke-with-response-stream`, with signatures.

A further protocol is a further subclass of `Wire` in `http.WIRES`.
"""

from tests.support.llm_server.anthropic_clouds import BedrockWire, VertexWire
from tests.support.llm_server.anthropic_messages import AnthropicWire
from tests.support.llm_server.faults import Faults
from tests.support.llm_server.openai_chat import OpenAIWire
from tests.support.llm_server.openai_responses import ResponsesWire
from tests.support.llm_server.replies import (
    Delta,
    Malformed,
    Reply,
    Request,
    Responder,
    StreamError,
    Thinking,
    ToolCall,
    echo,
)
from tests.support.llm_server.server import LLMServer, llm_server_in_thread
from tests.support.llm_server.waiting import PATIENCE, Gate, Signal
from tests.support.llm_server.wire import AwsCredentials, Wire

__all__ = [
    "PATIENCE",
    "AnthropicWire",
    "AwsCredentials",
    "BedrockWire",
    "Delta",
    "Faults",
    "Gate",
    "LLMServer",
    "Malformed",
    "OpenAIWire",
    "Reply",
    "Request",
    "Responder",
    "ResponsesWire",
    "Signal",
    "StreamError",
    "Thinking",
    "ToolCall",
    "VertexWire",
    "Wire",
    "echo",
    "llm_server_in_thread",
]
