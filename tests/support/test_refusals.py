"""What the local server refuses, as OpenAI and Anthropic do, through the real SDKs."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from tests.support.llm_server import LLMServer, Reply, Thinking, ToolCall

PNG = "iVBORw0KGgo="
USER: dict[str, Any] = {"role": "user", "content": "one two"}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
STRICT = SCHEMA | {"required": ["a"], "additionalProperties": False}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer() as server:
        yield server


async def error_of(awaitable: Any) -> Any:
    try:
        await awaitable
    except Exception as error:
        return error
    return None


async def ask_openai(server: LLMServer, **parameters: Any) -> Any:
    async with openai.AsyncOpenAI(base_url=server.openai_url, api_key="k", max_retries=0) as client:
        create: Any = client.chat.completions.create
        return await create(**{"model": "m", "messages": [USER], **parameters})


async def ask_anthropic(server: LLMServer, **parameters: Any) -> Any:
    async with anthropic.AsyncAnthropic(base_url=server.anthropic_url, api_key="k", max_retries=0) as client:
        create: Any = client.messages.create
        return await create(**{"model": "m", "messages": [USER], "max_tokens": 2000, **parameters})


def parts(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


# OpenAI


def image_url(url: Any, **more: Any) -> dict[str, Any]:
    return parts({"type": "image_url", "image_url": {"url": url, **more}})


def function(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA, **more}}


def call(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}, **more}


def result(name: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": "r"}


def calls(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(content)}


def wanted(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def json_schema(**fields: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": fields}}


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        (parts({"type": "text", "text": "x"}), None),
        (parts({"type": "text"}), "Missing required parameter: 'messages[0].content[0].text'"),
        (parts(), "empty array"),
        (parts({"type": "input_text", "text": "x"}), "Invalid value: 'input_text'"),
        ({"messages": [{"role": "system", "content": [{"type": "image_url"}]}, USER]}, "Invalid value: 'image_url'"),
        ({"messages": [{"role": "user", "content": 7}]}, "Invalid type"),
        (image_url(f"data:image/png;base64,{PNG}"), None),
        (image_url("https://example.com/a.png", detail="low"), None),
        (image_url("https://example.com/a.png", detail="huge"), "huge"),
        (image_url(f"data:text/plain;base64,{PNG}"), "Invalid MIME type"),
        (image_url("data:image/png;base64,?"), "Invalid base64"),
        (image_url("data:image/png,abc"), "Invalid base64"),
        (image_url("/tmp/a.png"), "Failed to download"),
        (parts({"type": "image_url", "image_url": "https://example.com/a.png"}), "Invalid type"),
        ({"messages": [USER, calls(call("a"), call("b")), result("b"), result("a")]}, None),
        ({"messages": [USER, calls(call("a"), call("b")), result("a")]}, "had no response: b"),
        ({"messages": [USER, calls(call("a"), call("b")), result("a"), USER, result("b")]}, "had no response: b"),
        ({"messages": [USER, calls(call("a")), result("a"), result("a")]}, "must be a response"),
        ({"messages": [USER, calls(call("a"), call("a")), result("a")]}, "Duplicate value"),
        ({"messages": [USER, calls() | {"content": "x"}]}, "empty array"),
        ({"messages": [USER, calls(call("a", type="tool")), result("a")]}, "Invalid value: 'tool'"),
        ({"messages": [USER, calls(call("a", function={"name": "f"})), result("a")]}, "function.arguments"),
        ({"messages": [USER, calls(call("a", function={"name": "f", "arguments": {}})), result("a")]}, "Invalid type"),
        ({"messages": [USER, calls(call("a", function={"name": "f g", "arguments": ""})), result("a")]}, "pattern"),
        ({"tools": [function()], "tool_choice": wanted("f"), "parallel_tool_calls": False}, None),
        ({"tools": [function()], "tool_choice": "required"}, None),
        ({"tools": [function()], "tool_choice": "any"}, "Invalid value: 'any'"),
        ({"tools": [function()], "tool_choice": wanted("g")}, "not found in 'tools'"),
        ({"tool_choice": "auto"}, "only allowed when 'tools' are specified"),
        ({"parallel_tool_calls": True}, "only allowed when 'tools' are specified"),
        ({"tools": []}, "empty array"),
        ({"tools": [{"type": "function", "name": "f"}]}, "tools[0].function"),
        ({"tools": [{"name": "f", "input_schema": SCHEMA}]}, "tools[0].type"),
        ({"tools": [function("a.b")]}, "does not match pattern"),
        ({"tools": [function(parameters={})]}, "schema must be a JSON Schema"),
        ({"tools": [function(parameters=STRICT, strict=True)]}, None),
        ({"tools": [function(strict=True)]}, "'additionalProperties' is required"),
        ({"tools": [function(strict=True, parameters=STRICT | {"required": []})]}, "including every key"),
        ({"tools": [function(strict=True, parameters=STRICT | {"$defs": {"x": SCHEMA}})]}, "additionalProperties"),
        (json_schema(name="a", schema=STRICT, strict=True), None),
        (json_schema(name="a", schema=SCHEMA, strict=True), "response_format 'a'"),
        (json_schema(schema=SCHEMA), "response_format.json_schema.name"),
        ({"response_format": {"type": "json"}}, "Invalid value: 'json'"),
        ({"response_format": {"type": "json_object"}}, "must contain the word 'json'"),
        ({"response_format": {"type": "json_object"}, "messages": [{"role": "user", "content": "JSON"}]}, None),
        ({"stream_options": {"include_usage": True}}, "only allowed when 'stream' is enabled"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "at the same time"),
    ],
)
async def test_openai(server: LLMServer, parameters: dict[str, Any], problem: str | None) -> None:
    """Contents, images, calls and their results, tools, and formats are checked."""
    error = await error_of(ask_openai(server, **parameters))
    assert error is None if problem is None else type(error) is openai.BadRequestError and problem in str(error), error


# Anthropic


def image(**source: Any) -> dict[str, Any]:
    return parts({"type": "image", "source": source})


def tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"name": name, "input_schema": SCHEMA, **more}


def use(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": name, "name": "f", "input": {}, **more}


def used(name: str, content: Any = "r") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": name, "content": content}


def turn(*blocks: Any, answer: list[Any] | None = None) -> dict[str, Any]:
    """A turn of the assistant, and what the user says to it."""
    replies = answer if answer is not None else [used(block["id"]) for block in blocks if block["type"] == "tool_use"]
    messages = [USER, {"role": "assistant", "content": list(blocks)}]
    return {"messages": [*messages, {"role": "user", "content": replies or "go on"}]}


def cached(**more: Any) -> dict[str, Any]:
    return {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", **more}}


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "made elsewhere"}
TEXT = {"type": "text", "text": "x"}
THINK = {"type": "enabled", "budget_tokens": 1024}
ADAPTIVE = {"type": "adaptive"}


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        (image(type="base64", media_type="image/png", data=PNG), None),
        (image(type="base64", media_type="image/tiff", data=PNG), "media_type: Input should be"),
        (image(type="base64", media_type="image/png", data="?"), "invalid base64 data"),
        (image(type="base64", media_type="image/png", data=f"data:image/png;base64,{PNG}"), "invalid base64 data"),
        (image(type="url", url="https://example.com/a.png"), None),
        (image(type="url", url=f"data:image/png;base64,{PNG}"), "Only HTTPS"),
        (image(type="path", path="/tmp/a.png"), "Input tag does not match"),
        (parts({"type": "image_url", "image_url": {"url": "x"}}), "Input tag 'image_url'"),
        (parts({"type": "document", "source": {"type": "pdf"}}), "Input tag 'pdf'"),
        (parts(THOUGHT), "`thinking` blocks can only be in `assistant` messages"),
        ({"system": [TEXT]}, None),
        ({"system": [{"type": "text", "text": ""}]}, "must be non-empty"),
        ({"max_tokens": 0}, "greater than or equal to 1"),
        ({"messages": [USER, {"role": "assistant", "content": "so "}]}, "trailing whitespace"),
        (turn(use("a"), use("b")), None),
        (turn(use("a"), use("b"), answer=[used("b"), used("a"), TEXT]), None),
        (turn(use("a"), use("b"), answer=[used("a")]), "without `tool_result` blocks: b"),
        (turn(use("a"), answer=[TEXT, used("a")]), "they go first"),
        (turn(use("a"), answer=[used("a"), used("a")]), "Found multiple `tool_result`"),
        (turn(use("a"), use("a")), "must be unique"),
        (turn(use("a", input="{}")), "valid dictionary"),
        (turn(use("a"), answer=[used("a", [TEXT])]), None),
        (turn(use("a"), answer=[used("a", [{"type": "thinking"}])]), "Input tag 'thinking'"),
        (turn(use("a"), answer=[used("a", [{"type": "text", "text": ""}])]), "must be non-empty"),
        ({"tools": [tool()], "tool_choice": {"type": "tool", "name": "f"}}, None),
        ({"tools": [tool()], "tool_choice": {"type": "tool", "name": "g"}}, "Tool 'g' not found"),
        ({"tools": [tool()], "tool_choice": "auto"}, "should be an object"),
        ({"tools": [tool()], "tool_choice": {"type": "required"}}, "should be an object"),
        ({"tool_choice": {"type": "auto"}}, "while providing tools"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "name: Field required"),
        ({"tools": [{"name": "f"}]}, "input_schema: Field required"),
        ({"tools": [tool(input_schema={})]}, "input_schema.type"),
        ({"tools": [tool("a.b")]}, "should match pattern"),
        ({"tools": [tool(), tool()]}, "must be unique"),
        ({"tools": [{"type": "web_search_20260209", "name": "web_search"}]}, None),
        (turn(THOUGHT, use("a")) | {"thinking": THINK}, None),
        (turn(use("a")) | {"thinking": THINK}, "must start with a thinking block"),
        (turn(TEXT, use("a")) | {"thinking": THINK}, "found `text`"),
        (turn({"type": "redacted_thinking", "data": "x"}, use("a")) | {"thinking": THINK}, None),
        (turn(use("a")) | {"thinking": ADAPTIVE}, None),
        (turn(use("a")), None),
        (turn(TEXT) | {"thinking": THINK}, None),
        (turn({"type": "thinking", "thinking": "hm"}, TEXT), "signature: Field required"),
        (turn(THOUGHT | {"signature": ""}, TEXT), "Invalid `signature`"),
        (turn(TEXT, THOUGHT), "final block in an assistant message cannot be `thinking`"),
        ({"thinking": THINK | {"budget_tokens": 1000}}, "greater than or equal to 1024"),
        ({"thinking": THINK | {"budget_tokens": 2000}}, "must be greater than `thinking.budget_tokens`"),
        ({"thinking": THINK, "tools": [tool()], "tool_choice": {"type": "any"}}, "Thinking may not be enabled"),
        ({"thinking": {"type": "on"}}, "Input tag 'on'"),
        (parts(*[cached()] * 4), None),
        (parts(*[cached()] * 5), "A maximum of 4 blocks"),
        (
            parts(*[cached()] * 3) | {"system": [cached()], "tools": [tool(cache_control={"type": "ephemeral"})]},
            "Found 5",
        ),
        (turn(use("a"), answer=[used("a", [cached()] * 5)]), "Found 5"),
        (parts(cached(ttl="1h"), cached()), None),
        (parts(cached(), cached(ttl="1h")), "must not come after"),
        (parts(cached(ttl="2h")), "'5m' or '1h'"),
        (parts(TEXT | {"cache_control": {"type": "forever"}}), "should be 'ephemeral'"),
        (turn(THOUGHT | {"cache_control": {"type": "ephemeral"}}, TEXT), "Extra inputs"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_anthropic(server: LLMServer, parameters: dict[str, Any], problem: str | None) -> None:
    """Contents, images, uses of tools and their results, thoughts, tools, and marks for the cache are checked."""
    error = await error_of(ask_anthropic(server, **parameters))
    assert error is None if problem is None else type(error) is anthropic.BadRequestError and problem in str(error), (
        error
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_thoughts_of_anthropic_come_back_unchanged(server: LLMServer, stream: bool) -> None:
    """Thoughts that the server wrote have to keep their signatures: a changed thought is refused."""
    server.script(Reply((Thinking("h"), Thinking("m", "sig"), ToolCall("f"))))
    if stream:
        async with (
            anthropic.AsyncAnthropic(base_url=server.anthropic_url, api_key="k", max_retries=0) as client,
            client.messages.stream(model="m", messages=[{"role": "user", "content": "x"}], max_tokens=9) as events,
        ):
            message: Any = await events.get_final_message()
    else:
        message = await ask_anthropic(server)
    blocks = [block.model_dump(exclude_none=True) for block in message.content]
    assert await ask_anthropic(server, **turn(*blocks), thinking=THINK)
    blocks[0]["thinking"] = "hm, well"
    assert "Invalid `signature`" in str(await error_of(ask_anthropic(server, **turn(*blocks), thinking=THINK)))


async def test_a_lenient_server(server: LLMServer) -> None:
    """Without `strict` the server takes what imitations of the providers take."""
    server.strict = False
    assert await ask_openai(server, tool_choice="auto")
    assert await ask_anthropic(server, **turn(use("a"), answer=[TEXT]))


# Usage


async def test_usage_of_caches_and_thoughts(server: LLMServer) -> None:
    """Cached and reasoning tokens are merged with those that were not given."""
    server.script(
        Reply(
            usage={
                "prompt_tokens": 20,
                "prompt_tokens_details": {"cached_tokens": 16},
                "completion_tokens_details": {"reasoning_tokens": 3},
            }
        ),
        Reply(
            usage={
                "cache_read_input_tokens": 6,
                "cache_creation": {"ephemeral_1h_input_tokens": 4},
                "output_tokens_details": {"thinking_tokens": 3},
            }
        ),
    )
    usage = (await ask_openai(server)).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (20, 5, 25)
    assert (usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens_details.audio_tokens) == (16, 0)
    assert usage.completion_tokens_details.reasoning_tokens == 3
    usage = (await ask_anthropic(server)).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (7, 6, 0)
    assert (usage.cache_creation.ephemeral_1h_input_tokens, usage.output_tokens_details.thinking_tokens) == (4, 3)
