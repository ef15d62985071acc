"""The local server, seen through the real SDKs; and what the SDKs do in each case (openai 3.52, anthropic 2.11).

With `max_retries=0`, "create" is `await client...create(...)`, "read" is what follows in `async for`:

=================================  ====================================  ===========================================
what happens                       openai raises                         anthropic raises
=================================  ====================================  ===========================================
connection cut, read               APIConnectionError                    httpx2.RemoteProtocolError
connection reset, read             APIConnectionError                    httpx2.ReadError
nothing comes in time, read        APITimeoutError                       httpx2.ReadTimeout
cut, reset, no answer: create      APIConnectionError                    APIConnectionError
nothing comes in time, create      APITimeoutError                       APITimeoutError
connection refused                 APIConnectionError                    APIConnectionError
end without finish or final mark   nothing                               nothing
error event in the stream          APIError (no status; .body, .type)    APIStatusError (.status_code 200; .type)
malformed JSON, read or create     json.JSONDecodeError                  json.JSONDecodeError
no UTF-8, read                     UnicodeDecodeError                    UnicodeDecodeError
401                                AuthenticationError                   AuthenticationError
404                                NotFoundError                         NotFoundError
413                                APIStatusError                        ContentTooLargeError
429                                RateLimitError                        RateLimitError
500                                InternalServerError                   InternalServerError
503                                InternalServerError                   ServiceUnavailableError
529                                InternalServerError                   OverloadedError
a page of HTML with status 200     nothing: a `str`, or an empty stream  nothing: a `str`, or an empty stream
an error object with status 200    nothing: `choices` is None            nothing: `content` is None
no API key anywhere                OpenAIError, by the constructor       TypeError, by create
unknown parameter                  TypeError                             TypeError (temperature, top_p, top_k too)
lone surrogate in a request        UnicodeEncodeError                    UnicodeEncodeError
deprecated model name              -                                     warns DeprecationWarning on each call
max_tokens over 21,333, no stream  -                                     ValueError, unless `timeout=` is given
client closed, create              RuntimeError                          APIConnectionError
=================================  ====================================  ===========================================

APITimeoutError is an APIConnectionError, that is an APIError; only APIStatusError and its subclasses have `status_code`
and `response`. Fields that a server leaves out are None, required ones included: nothing is validated.

A response is closed by `await stream.close()`, which `async with stream:` calls (only openai's has `aclose`), and by a
cancellation that arrives while the SDK itself waits, in create or in `async for`. It stays open, and the model goes on,
after a `break` or a cancellation in the body of the loop. Closing takes two turns of the loop and waits for nobody;
cancelling it leaves nothing open. It costs the connection, unless the stream was read to its end before. What had been
received is still read after it, then comes the error of a reset connection; the same in another task that is reading.
"""

import asyncio
import inspect
import json
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.support.llm_server import (
    Delta,
    Gate,
    LLMServer,
    Malformed,
    Reply,
    Request,
    StreamError,
    Thinking,
    ToolCall,
)

USER: list[Any] = [{"role": "user", "content": "one two"}]
ROOT = Path(__file__).parents[2]


@dataclass
class Provider:
    """An SDK, and how to say the same things to each of them."""

    server: LLMServer
    sdk: Any
    client: Any
    clients: list[Any] = field(default_factory=list)

    @property
    def is_openai(self) -> bool:
        return self.sdk is openai

    @property
    def url(self) -> str:
        return self.server.openai_url if self.is_openai else self.server.anthropic_url

    def new_client(self, **options: Any) -> Any:
        make = openai.AsyncOpenAI if self.is_openai else anthropic.AsyncAnthropic
        client = make(**{"base_url": self.url, "api_key": "right-key", "max_retries": 0, **options})
        self.clients.append(client)
        return client

    def create(self, client: Any = None, **parameters: Any) -> Any:
        client = client or self.client
        if self.is_openai:
            return client.chat.completions.create(**{"model": "m", "messages": USER, **parameters})
        return client.messages.create(**{"model": "m", "messages": USER, "max_tokens": 100, **parameters})

    def text(self, event: Any) -> str | None:
        if self.is_openai:
            return event.choices[0].delta.content or None if event.choices else None
        return event.delta.text if event.type == "content_block_delta" and event.delta.type == "text_delta" else None

    def whole_text(self, answer: Any) -> str:
        if self.is_openai:
            return answer.choices[0].message.content or ""
        return "".join(block.text for block in answer.content if block.type == "text")

    def finish(self, answer: Any) -> Any:
        return answer.choices[0].finish_reason if self.is_openai else answer.stop_reason

    async def read(self, stream: Any) -> tuple[list[str], Exception | None]:
        """The tokens of a stream, and the error at its end."""
        tokens: list[str] = []
        try:
            async for event in stream:
                if (text := self.text(event)) is not None:
                    tokens.append(text)
        except Exception as error:
            return tokens, error
        return tokens, None

    async def tokens(self, **parameters: Any) -> list[str]:
        tokens, error = await self.read(await self.create(stream=True, **parameters))
        assert error is None
        return tokens


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer() as server:
        yield server
        server.assert_all_consumed()


@pytest.fixture(params=[openai, anthropic], ids=["openai", "anthropic"])
async def provider(request: pytest.FixtureRequest, server: LLMServer) -> AsyncIterator[Provider]:
    provider = Provider(server, request.param, None)
    provider.client = provider.new_client()
    yield provider
    for client in provider.clients:
        await client.close()


async def raw_events(server: LLMServer, path: str, body: dict[str, Any]) -> list[str]:
    """The events of a stream as they go over the wire, without the HTTP chunks around them."""
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    await reader.readuntil(b"\r\n\r\n")
    data = b""
    while size := int(await reader.readline(), 16):
        data += await reader.readexactly(size)
        await reader.readline()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    return data.decode().split("\n\n")[:-1]


def payloads(events: list[str]) -> list[Any]:
    return [json.loads(event.partition("data: ")[2]) for event in events]


# Answers


async def test_echo_word_by_word(provider: Provider) -> None:
    """Without a script the last message comes back, as a stream or at once."""
    assert await provider.tokens() == ["one ", "two "]
    assert provider.whole_text(await provider.create()) == "one two "


async def test_openai_wire(server: LLMServer) -> None:
    """Role, deltas, finish reason, usage where it was asked for, [DONE]: each an event, each with the ids."""
    body = {"model": "m", "messages": USER, "stream": True}
    *events, done = await raw_events(server, "/v1/chat/completions", body)
    assert done == "data: [DONE]"
    chunks = payloads(events)
    deltas = [(chunk["choices"][0]["delta"].get("content"), chunk["choices"][0]["finish_reason"]) for chunk in chunks]
    assert deltas == [("", None), ("one ", None), ("two ", None), (None, "stop")]
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks} == {
        ("chatcmpl-1", "chat.completion.chunk", "served-model")
    }
    assert all("usage" not in chunk for chunk in chunks)
    *events, last, done = await raw_events(
        server, "/v1/chat/completions", {**body, "stream_options": {"include_usage": True}}
    )
    assert all(chunk["usage"] is None for chunk in payloads(events))
    assert payloads([last])[0]["choices"] == []
    assert payloads([last])[0]["usage"]["total_tokens"] == 12


async def test_anthropic_wire(server: LLMServer) -> None:
    """Start, block start, ping, deltas, block stop, usage and stop reason, stop: events with their names."""
    body = {"model": "m", "messages": USER, "stream": True, "max_tokens": 9}
    events = await raw_events(server, "/v1/messages", body)
    data = payloads(events)
    assert [event["type"] for event in data] == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [event.partition("\n")[0] for event in events] == [f"event: {event['type']}" for event in data]
    assert data[0]["message"]["usage"]["output_tokens"] == 1
    assert (data[-2]["delta"]["stop_reason"], data[-2]["usage"]["output_tokens"]) == ("end_turn", 5)


async def test_blocks_of_anthropic_are_assembled_by_its_sdk(server: LLMServer) -> None:
    """Thoughts, text and tool calls stream as blocks which the SDK's own accumulator understands."""
    calls = ToolCall("f", ('{"a":', "1}")), ToolCall("g", id="toolu_x")
    server.script(
        Reply((Thinking("h"), Thinking("m", signature="sig"), "a", "b", *calls, "c"), usage={"input_tokens": 3})
    )
    async with (
        anthropic.AsyncAnthropic(base_url=server.anthropic_url, api_key="k", max_retries=0) as client,
        client.messages.stream(model="m", messages=USER, max_tokens=9) as stream,
    ):
        message = await stream.get_final_message()
    content: list[Any] = list(message.content)
    thinking, text, first, second, last = content
    assert (thinking.type, text.type, first.type, second.type) == ("thinking", "text", "tool_use", "tool_use")
    assert (thinking.thinking, thinking.signature, text.text) == ("hm", "sig", "ab")
    assert (first.id, first.name, first.input) == ("toolu_1", "f", {"a": 1})
    assert (second.id, second.name, second.input) == ("toolu_x", "g", {})
    assert last.type == "text"
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("tool_use", 3, 5)


async def test_tool_calls_and_thoughts_of_openai_are_assembled_by_its_sdk(server: LLMServer) -> None:
    """Tool calls stream as deltas which the SDK's own accumulator understands; thoughts as `reasoning_content`."""
    server.script(Reply((Thinking("hm"), "a", ToolCall("f", ('{"a":', "1}")), ToolCall("g"))))
    async with (
        openai.AsyncOpenAI(base_url=server.openai_url, api_key="k", max_retries=0) as client,
        client.chat.completions.stream(model="m", messages=USER) as stream,
    ):
        thoughts = [
            getattr(event.chunk.choices[0].delta, "reasoning_content", None)
            async for event in stream
            if event.type == "chunk"
        ]
        choice = (await stream.get_final_completion()).choices[0]
    assert [thought for thought in thoughts if thought] == ["hm"]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "a")
    calls = [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
    assert calls == [("call_1", "f", '{"a":1}'), ("call_2", "g", "{}")]


async def test_whole_answers(provider: Provider) -> None:
    """An answer that does not stream has all parts at once."""
    provider.server.script(Reply((Thinking("h"), Thinking("m", "sig"), "a", "b", ToolCall("f", ('{"a":', "1}")))))
    answer = await provider.create()
    assert (provider.whole_text(answer), answer.model) == ("ab", "served-model")
    if provider.is_openai:
        message = answer.choices[0].message
        assert (message.reasoning_content, provider.finish(answer)) == ("hm", "tool_calls")
        assert (message.tool_calls[0].id, message.tool_calls[0].function.arguments) == ("call_1", '{"a":1}')
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 5)
    else:
        thinking, _, call = answer.content
        assert (thinking.thinking, thinking.signature, call.input) == ("hm", "sig", {"a": 1})
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 5)
        assert provider.finish(answer) == "tool_use"


async def test_raw_pieces(provider: Provider) -> None:
    """Deltas, whole events and bytes can be scripted in the protocol's own words."""
    if provider.is_openai:
        delta: dict[str, Any] = {"content": "b"}
        event: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": "c"}}]}
        data = b": a comment\n\n" + b'data: {"choices":[{"delta":{"content":"d"}}]}\n\n'
    else:
        delta = {"type": "text_delta", "text": "b"}
        event = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "c"}}
        data = (
            b": a comment\n\nevent: content_block_delta\ndata: "
            + json.dumps({**event, "delta": {"type": "text_delta", "text": "d"}}).encode()
        )
        data += b"\n\n"
    provider.server.script(Reply(("a", Delta(delta), event, data)))
    assert await provider.tokens() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_finish_and_model_are_scripted(provider: Provider, stream: bool) -> None:
    """The provider's words for the end and for its tokens are passed on."""
    usage = {"completion_tokens": 9} if provider.is_openai else {"output_tokens": 9}
    provider.server.script(Reply(("a",), model="other", finish="length", usage=usage))
    if not stream:
        answer = await provider.create()
        found = (answer.model, provider.finish(answer), answer.usage)
    elif provider.is_openai:
        *_, last, end = [e async for e in await provider.create(stream=True, stream_options={"include_usage": True})]
        found = (end.model, provider.finish(last), end.usage)
    else:
        first, *_, last, _ = [event async for event in await provider.create(stream=True)]
        found = (first.message.model, last.delta.stop_reason, last.usage)
    assert found[:2] == ("other", "length")
    assert (found[2].completion_tokens if provider.is_openai else found[2].output_tokens) == 9


async def test_imitations_leave_fields_out(provider: Provider) -> None:
    """What a server leaves out is None in the SDK, in fields that are never None at the provider's too."""
    provider.server.script(Reply(("a",), bare=True), Reply(("a",), bare=True), Reply((), usage=None))
    assert await provider.tokens() == ["a"]
    answer = await provider.create()
    assert (provider.whole_text(answer), answer.id) == ("a", None)
    if provider.is_openai:
        assert (answer.model, answer.usage, answer.choices[0].message.role) == (None, None, None)
    assert (await provider.create()).usage is None


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("split", [1, 7, (3, 1, 50)])
async def test_bytes_may_be_cut_anywhere(
    provider: Provider, split: int | tuple[int, ...], newline: str, escaped: bool
) -> None:
    """Characters, escapes of surrogate pairs, line ends and halves of characters survive any cut of the bytes."""
    pieces = ("é€", "😀", "\ud83d", "\ude00", "z")
    provider.server.script(Reply(pieces, split=split, newline=newline, escaped=escaped))
    assert await provider.tokens() == list(pieces)
    provider.server.script(Reply(("é€😀",), split=split, escaped=escaped))
    assert provider.whole_text(await provider.create()) == "é€😀"


async def test_lists_of_models_and_counts(provider: Provider) -> None:
    """The other endpoints are there in the provider's own form."""
    provider.server.models = ("m", "n")
    assert [model.id async for model in provider.client.models.list()] == ["m", "n"]
    assert (await provider.client.models.retrieve("n")).id == "n"
    with pytest.raises(provider.sdk.NotFoundError):
        await provider.client.models.retrieve("unknown")
    if not provider.is_openai:
        assert (await provider.client.messages.count_tokens(model="m", messages=USER)).input_tokens == 7


# Gates, scripts, records


async def test_a_gate_holds_the_rest_of_the_answer(provider: Provider) -> None:
    """What stands before a gate can be read before it opens, in the arguments of a tool as well."""
    first, second = Gate(), Gate()
    provider.server.script(Reply(("a", first, "b", ToolCall("f", ('{"a":', second, "1}")))))
    stream = await provider.create(stream=True)
    tokens = (text async for event in stream if (text := provider.text(event)) is not None)
    assert await anext(tokens) == "a"
    await first.reached.wait()
    assert not second.reached.is_set()
    first.open()
    assert await anext(tokens) == "b"
    await second.reached.wait()
    assert not provider.server.requests[0].finished.is_set()
    second.open()
    assert [token async for token in tokens] == []
    assert provider.server.requests[0].finished.is_set()


@pytest.mark.parametrize("stream", [True, False])
async def test_hold_before_the_first_byte(provider: Provider, stream: bool) -> None:
    """With `hold`, and with gates in an answer that does not stream, create itself waits."""
    hold, gate = Gate(), Gate()
    provider.server.script(Reply(("a",) if stream else (gate, "a"), hold=hold))
    creating = asyncio.create_task(provider.create(stream=stream))
    for waited in (hold,) if stream else (hold, gate):
        await waited.reached.wait()
        assert not creating.done()
        waited.open()
    answer = await creating
    assert (await provider.read(answer))[0] == ["a"] if stream else provider.whole_text(answer) == "a"


async def test_scripts_are_used_in_order(provider: Provider) -> None:
    """Replies, functions and async functions of the request answer one request each; then the default does."""

    async def later(request: Request) -> Reply:
        return Reply((f"{request.body['model']}!",))

    provider.server.script(Reply(("a",)), lambda request: Reply((request.method,)), later)
    assert [await provider.tokens(model=name) for name in "xyz"] == [["a"], ["POST"], ["z!"]]
    provider.server.default = lambda request: Reply(("default",))
    assert await provider.tokens() == ["default"]


async def test_a_script_that_is_left_over_is_an_error() -> None:
    """A script has to be used up."""
    async with LLMServer() as server:
        server.assert_all_consumed()
        server.script(Reply(), Reply())
        with pytest.raises(AssertionError, match="2 scripted replies"):
            server.assert_all_consumed()


async def test_requests_are_recorded(provider: Provider) -> None:
    """Method, path, headers and the JSON of the body are kept."""
    await provider.tokens(extra_query={"a": "1"}, extra_headers={"X-Mine": "yes"})
    request = await provider.server.request(0)
    assert (request.method, request.query, request.headers["x-mine"]) == ("POST", {"a": ["1"]}, "yes")
    assert request.path == ("/v1/chat/completions" if provider.is_openai else "/v1/messages")
    assert (request.body["messages"], request.body["stream"]) == (USER, True)
    assert request.headers["authorization"] == "Bearer right-key"  # anthropic 2.x sends its keys like this too


async def test_a_failure_of_the_server_is_raised_at_its_end() -> None:
    """A function in the script that fails fails the test, not only the request."""

    def wrong(request: Request) -> Reply:
        raise LookupError(request.path)

    server = await LLMServer().__aenter__()
    server.script(wrong)
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="k", max_retries=0) as client:
        error = await error_of(client.messages.create(model="m", max_tokens=1, messages=USER))
    assert type(error) is anthropic.APIConnectionError
    with pytest.raises(LookupError, match="/v1/messages"):
        await server.__aexit__(None)


async def test_many_requests_at_once(provider: Provider) -> None:
    """A hundred answers stream side by side, each through its own connection."""
    gates = [Gate() for _ in range(100)]
    provider.server.script(*[Reply((gate, "x")) for gate in gates])
    reading = [asyncio.create_task(provider.tokens()) for _ in gates]
    for gate in gates:
        await gate.reached.wait()
    for gate in gates:
        gate.open()
    assert await asyncio.gather(*reading) == [["x"]] * 100
    assert provider.server.connections == 100


# Errors


async def error_of(awaitable: Any) -> Exception | None:
    try:
        await awaitable
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize(("ending", "of_anthropic"), [("cut", httpx2.RemoteProtocolError), ("reset", httpx2.ReadError)])
async def test_connection_cut_in_mid_stream(provider: Provider, ending: Any, of_anthropic: type[Exception]) -> None:
    """What had come is read, then the transport's failure: wrapped by openai, as it is by anthropic."""
    provider.server.script(Reply(("a", "b"), ending=ending))
    tokens, error = await provider.read(await provider.create(stream=True))
    assert tokens == ["a", "b"]
    assert type(error) is (openai.APIConnectionError if provider.is_openai else of_anthropic)
    assert not provider.server.requests[0].disconnected.is_set()  # it was not the client who went


@pytest.mark.parametrize("ending", ["cut", "reset", "silent"])
async def test_connection_cut_before_the_answer_is_whole(provider: Provider, ending: Any) -> None:
    """In create a cut connection is an APIConnectionError in both."""
    provider.server.script(Reply(("a",), ending=ending))
    assert type(await error_of(provider.create())) is provider.sdk.APIConnectionError


async def test_connection_closed_without_an_answer(provider: Provider) -> None:
    """The same for a stream that never begins."""
    provider.server.script(Reply(ending="silent"))
    assert type(await error_of(provider.create(stream=True))) is provider.sdk.APIConnectionError


@pytest.mark.parametrize("reply", [Reply(("a",), finish=None), Reply(("a",), final_mark=False)])
async def test_an_end_without_its_mark_raises_nothing(provider: Provider, reply: Reply) -> None:
    """A stream that ends without a finish reason, or without the final mark, looks like any other."""
    provider.server.script(reply)
    assert await provider.tokens() == ["a"]


async def test_an_error_in_mid_stream(provider: Provider) -> None:
    """An error event is an error without a status in openai, with status 200 in anthropic; its type is kept."""
    provider.server.script(Reply(("a", StreamError("overloaded_error", "too busy"), "never sent")))
    tokens, error = await provider.read(await provider.create(stream=True))
    assert tokens == ["a"]
    assert error is not None
    assert "too busy" in str(error)
    assert getattr(error, "type", None) == "overloaded_error"
    if provider.is_openai:
        assert type(error) is openai.APIError
    else:
        assert type(error) is anthropic.APIStatusError
        assert error.status_code == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_malformed_json(provider: Provider, stream: bool) -> None:
    """What is no JSON is a parser's error, in mid-stream and at once."""
    provider.server.script(Reply(("a", Malformed())))
    error = (
        (await provider.read(await provider.create(stream=True)))[1] if stream else await error_of(provider.create())
    )
    assert type(error) is json.JSONDecodeError


async def test_no_utf_8(provider: Provider) -> None:
    """Bytes that are no UTF-8 are a decoder's error."""
    provider.server.script(Reply(("a", b"data: \xff\n\n")))
    tokens, error = await provider.read(await provider.create(stream=True))
    assert (tokens, type(error)) == (["a"], UnicodeDecodeError)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "of_openai", "of_anthropic", "kind"),
    [
        (400, openai.BadRequestError, anthropic.BadRequestError, "invalid_request_error"),
        (401, openai.AuthenticationError, anthropic.AuthenticationError, "authentication_error"),
        (403, openai.PermissionDeniedError, anthropic.PermissionDeniedError, "permission_error"),
        (404, openai.NotFoundError, anthropic.NotFoundError, "not_found_error"),
        (413, openai.APIStatusError, anthropic.ContentTooLargeError, "request_too_large"),
        (429, openai.RateLimitError, anthropic.RateLimitError, "rate_limit_error"),
        (500, openai.InternalServerError, anthropic.InternalServerError, "api_error"),
        (503, openai.InternalServerError, anthropic.ServiceUnavailableError, "api_error"),
        (529, openai.InternalServerError, anthropic.OverloadedError, "overloaded_error"),
    ],
)
async def test_statuses(
    provider: Provider, status: int, of_openai: type, of_anthropic: type, kind: str, stream: bool
) -> None:
    """Each status has its exception, raised by create, with the status, the headers and the id of the request."""
    provider.server.script(Reply(status=status, headers={"retry-after": "3"}))
    error: Any = await error_of(provider.create(stream=stream))
    kind_of_error = type(error)
    assert kind_of_error is (of_openai if provider.is_openai else of_anthropic)
    assert (error.status_code, error.response.headers["retry-after"], error.request_id) == (status, "3", "req_1")
    if not provider.is_openai:
        assert error.type == kind


async def test_errors_are_scripted(provider: Provider) -> None:
    """The type and the text of an error can be given."""
    provider.server.script(Reply(status=429, error=("insufficient_quota", "no money")))
    error: Any = await error_of(provider.create())
    assert (type(error), error.type) == (provider.sdk.RateLimitError, "insufficient_quota")
    assert "no money" in str(error)


async def test_pages_of_proxies(provider: Provider) -> None:
    """HTML with an error's status is that error; with status 200 it is no error, but a string or an empty stream."""
    html: dict[str, Any] = {"body": b"<html>hello</html>", "headers": {"content-type": "text/html"}}
    provider.server.script(Reply(status=502, **html), Reply(**html), Reply(**html))
    error: Any = await error_of(provider.create())
    assert (type(error), error.body) == (provider.sdk.InternalServerError, "<html>hello</html>")
    assert await provider.create() == "<html>hello</html>"
    assert await provider.tokens() == []


async def test_an_error_with_status_200(provider: Provider) -> None:
    """An error object under status 200 is an answer without content."""
    provider.server.script(Reply(body=b'{"error":{"message":"no"}}'))
    answer = await provider.create()
    assert (answer.choices if provider.is_openai else answer.content) is None


async def test_keys_and_models(provider: Provider) -> None:
    """A server that knows its key and its models refuses others, as the provider does."""
    provider.server.api_key, provider.server.models = "right-key", ("m",)
    assert await provider.tokens() == ["one ", "two "]
    assert type(await error_of(provider.create(model="n"))) is provider.sdk.NotFoundError
    wrong = await error_of(provider.create(provider.new_client(api_key="wrong-key")))
    assert type(wrong) is provider.sdk.AuthenticationError
    assert "wrong-key" not in str(wrong)
    assert [request.path for request in provider.server.requests] == [provider.server.requests[0].path] * 3


CALL = {"id": "c 1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "c 1", "content": "r"}
USE: dict[str, Any] = {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {}}]}
USED = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "r"}]}


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "empty array"),
        ([{"role": "nobody", "content": "x"}], "nobody"),
        ([{"role": "user", "content": None}], "got null"),
        ([*USER, {"role": "assistant", "tool_calls": [CALL]}], "must be followed by tool messages"),
        ([*USER, {"role": "assistant", "tool_calls": [CALL]}, *USER], "must be followed by tool messages"),
        ([*USER, RESULT], "must be a response"),
        ([*USER, {"role": "assistant", "tool_calls": [CALL]}, RESULT], None),
    ],
)
async def test_conversations_that_openai_refuses(server: LLMServer, messages: Any, problem: str | None) -> None:
    """A conversation that OpenAI would refuse is refused, and uses nothing of the script."""
    async with openai.AsyncOpenAI(base_url=server.openai_url, api_key="k", max_retries=0) as client:
        error = await error_of(client.chat.completions.create(model="m", messages=messages))
    assert error is None if problem is None else type(error) is openai.BadRequestError and problem in str(error)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "at least one message"),
        ([{"role": "tool", "content": "x"}], "tool"),
        ([{"role": "user", "content": ""}], "non-empty content"),
        ([{"role": "user", "content": [{"type": "text", "text": ""}]}], "must be non-empty"),
        ([*USER, USE], "without `tool_result`"),
        ([*USER, USE, *USER], "without `tool_result`"),
        ([*USER, USED], "unexpected `tool_use_id`"),
        ([*USER, {**USE, "content": [{**USE["content"][0], "id": "c 1"}]}, USED], "should match"),
        ([*USER, USE, USED], None),
    ],
)
async def test_conversations_that_anthropic_refuses(server: LLMServer, messages: Any, problem: str | None) -> None:
    """A conversation that Anthropic would refuse is refused."""
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="k", max_retries=0) as client:
        error = await error_of(client.messages.create(model="m", max_tokens=1, messages=messages))
    assert error is None if problem is None else type(error) is anthropic.BadRequestError and problem in str(error)


async def test_refused_connection(provider: Provider) -> None:
    """Where nobody listens, create raises an APIConnectionError."""
    gone = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = gone.sockets[0].getsockname()[1]
    gone.close()
    await gone.wait_closed()
    client = provider.new_client(base_url=f"http://127.0.0.1:{port}/v1")
    assert type(await error_of(provider.create(client, stream=True))) is provider.sdk.APIConnectionError


async def test_no_key(server: LLMServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a key openai's constructor fails, anthropic's first request does."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where a profile would do in place of a key
    with pytest.raises(openai.OpenAIError, match="OPENAI_API_KEY"):
        openai.AsyncOpenAI(base_url=server.openai_url)
    async with anthropic.AsyncAnthropic(base_url=server.url, max_retries=0) as client:
        with pytest.raises(TypeError, match="authentication"):
            await client.messages.create(model="m", max_tokens=1, messages=USER)


async def test_unknown_parameters_and_the_extra_body(provider: Provider) -> None:
    """The signature of create names what it takes; the rest goes to `extra_body`, which wins in the request."""
    create = provider.client.chat.completions.create if provider.is_openai else provider.client.messages.create
    known = set(inspect.signature(create).parameters)
    assert {"model", "messages", "max_tokens", "stream", "timeout", "extra_body", "extra_headers"} <= known
    assert ("temperature" in known) == ("top_p" in known) == provider.is_openai
    with pytest.raises(TypeError, match="unheard_of"):
        await provider.create(unheard_of=1)
    await provider.create(metadata={"a": "1"}, extra_body={"unheard_of": {"b": 1}, "temperature": 0.5, "metadata": {}})
    body = provider.server.requests[0].body
    assert (body["unheard_of"], body["temperature"], body["metadata"]) == ({"b": 1}, 0.5, {})


async def test_warnings_and_limits_of_anthropic(server: LLMServer) -> None:
    """A deprecated model warns on each call; a long answer that does not stream is refused by the SDK itself."""
    from anthropic.resources.messages.messages import DEPRECATED_MODELS  # which ones, changes with each release

    deprecated = min(DEPRECATED_MODELS)
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="k", max_retries=0) as client:
        create: Callable[..., Any] = client.messages.create
        for _ in range(2):
            with pytest.warns(DeprecationWarning, match=deprecated):
                await create(model=deprecated, max_tokens=1, messages=USER)
        with pytest.raises(ValueError, match="Streaming is required"):
            await create(model="m", max_tokens=21_334, messages=USER)
        await create(model="m", max_tokens=21_333, messages=USER)
        await create(model="m", max_tokens=21_334, messages=USER, timeout=60)


async def test_a_lone_surrogate_cannot_be_sent(provider: Provider) -> None:
    """Half of a character, which a stream may hold, is an encoder's error when it is sent back."""
    error = await error_of(provider.create(messages=[{"role": "user", "content": "\ud83d"}]))
    assert type(error) is UnicodeEncodeError


async def test_nothing_comes_in_time(provider: Provider) -> None:
    """In create a time-out is an APITimeoutError; in mid-stream anthropic lets the transport's error through."""
    hold, gate = Gate(), Gate()
    provider.server.script(Reply(hold=hold), Reply((gate,), bare=True))
    timeout = httpx2.Timeout(60, read=0.01)
    assert type(await error_of(provider.create(timeout=timeout))) is provider.sdk.APITimeoutError
    stream = await provider.create(stream=True)
    stream.response.request.extensions["timeout"]["read"] = 0.01
    _, error = await provider.read(stream)
    assert type(error) is (openai.APITimeoutError if provider.is_openai else httpx2.ReadTimeout)
    await provider.server.client_disconnected(0)
    await provider.server.client_disconnected(1)


# Closing


async def began(provider: Provider) -> Any:
    """A stream of which one token has been read, and which has more."""
    provider.server.script(Reply(("a", Gate(), "b")))
    stream = await provider.create(stream=True)
    async for event in stream:
        if provider.text(event) == "a":
            break
    return stream


@pytest.mark.parametrize("how", ["close", "async with"])
async def test_closing_a_stream_closes_its_connection(provider: Provider, how: str) -> None:
    """After a break the response is open; `close()` and `async with` close it, and the server sees it."""
    stream = await began(provider)
    assert not stream.response.is_closed
    if how == "close":
        await stream.close()
    else:
        async with stream:
            pass
    assert stream.response.is_closed
    await provider.server.client_disconnected(0)
    await stream.close()  # does nothing
    _, error = await provider.read(stream)
    assert type(error) is (openai.APIConnectionError if provider.is_openai else httpx2.ReadError)


async def test_closing_costs_two_turns_and_the_connection(provider: Provider) -> None:
    """Closing waits for nobody; the next request needs a new connection, one after a whole stream does not."""
    stream = await began(provider)
    closing = asyncio.create_task(stream.close())
    turns = 0
    while not closing.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns <= 4
    for _ in range(3):
        await provider.tokens()
    assert [request.connection for request in provider.server.requests] == [1, 2, 2, 2]


async def test_closing_at_the_finish_mark_costs_the_connection(provider: Provider) -> None:
    """Who leaves at the finish mark has not read the end: a connection is reused only after the whole stream."""
    async with await provider.create(stream=True) as stream:
        async for event in stream:
            ended = event.choices[0].finish_reason if provider.is_openai else event.type == "message_stop"
            if ended:
                break
    await provider.tokens()
    assert [request.connection for request in provider.server.requests] == [1, 2]


async def test_cancelling_a_reader_closes_the_connection(provider: Provider) -> None:
    """A cancellation that arrives while the SDK waits for the next event closes the response by itself."""
    streams: list[Any] = []
    waiting = asyncio.Event()

    async def read() -> None:
        streams.append(await provider.create(stream=True))
        async for event in streams[0]:
            if provider.text(event) == "a":
                waiting.set()

    provider.server.script(Reply(("a", Gate())))
    reading = asyncio.create_task(read())
    await waiting.wait()
    assert not reading.done()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert streams[0].response.is_closed
    await provider.server.client_disconnected(0)


async def test_cancelling_the_body_of_the_loop_closes_nothing(provider: Provider) -> None:
    """A cancellation that arrives in the body of the loop leaves the response open: somebody has to close it."""
    streams: list[Any] = []
    inside = asyncio.Event()

    async def read() -> None:
        streams.append(await provider.create(stream=True))
        async for event in streams[0]:
            if provider.text(event) == "a":
                inside.set()
                await asyncio.Event().wait()

    provider.server.script(Reply(("a", Gate())))
    reading = asyncio.create_task(read())
    await inside.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not streams[0].response.is_closed
    await streams[0].close()
    await provider.server.client_disconnected(0)


@pytest.mark.parametrize("turns", range(1, 4))
async def test_cancelling_the_closing_leaves_nothing_open(provider: Provider, turns: int) -> None:
    """Whoever is cancelled again while closing has closed the connection all the same."""
    stream = await began(provider)
    closing = asyncio.create_task(stream.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await provider.server.client_disconnected(0)


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_create_closes_the_connection(provider: Provider, stream: bool) -> None:
    """A request that has not been answered yet is given up."""
    hold = Gate()
    provider.server.script(Reply(hold=hold))
    creating = asyncio.create_task(provider.create(stream=stream))
    await hold.reached.wait()
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    request = await provider.server.client_disconnected(0)
    await request.finished.wait()


async def test_closing_wakes_a_reader_in_another_task(provider: Provider) -> None:
    """A reader that waits for the next event gets the error of a broken connection when another task closes it."""
    stream = await began(provider)
    reading = asyncio.create_task(provider.read(stream))
    await asyncio.sleep(0)
    await stream.close()
    _, error = await reading
    assert type(error) is (openai.APIConnectionError if provider.is_openai else httpx2.ReadError)


async def test_closing_the_client_closes_its_responses(provider: Provider) -> None:
    """Closing a client ends what it is reading, and refuses what comes after."""
    stream = await began(provider)
    await provider.client.close()
    await provider.server.client_disconnected(0)
    assert (await provider.read(stream))[1] is not None
    late = await error_of(provider.create())
    assert type(late) is (RuntimeError if provider.is_openai else anthropic.APIConnectionError)


async def test_one_pool_of_connections_for_many_keys(provider: Provider) -> None:
    """`with_options` makes a client of another key or address on the same pool, which either of them closes."""
    other = provider.client.with_options(api_key="other-key")
    await provider.tokens()
    await provider.read(await provider.create(other, stream=True))
    first, second = provider.server.requests
    assert (second.headers["authorization"], second.connection) == ("Bearer other-key", first.connection)
    await other.close()
    assert provider.client.is_closed()


async def test_the_server_can_refuse_to_keep_a_connection(provider: Provider) -> None:
    """With `keep_alive=False` each request has a connection of its own."""
    provider.server.script(Reply(("a",), keep_alive=False))
    await provider.tokens()
    await provider.tokens()
    assert [request.connection for request in provider.server.requests] == [1, 2]


async def test_the_end_of_the_server_ends_what_it_was_sending() -> None:
    """A server that is closed in mid-answer leaves nothing behind, and the client sees its connection cut."""
    async with LLMServer() as server:
        async with openai.AsyncOpenAI(base_url=server.openai_url, api_key="k", max_retries=0) as client:
            provider = Provider(server, openai, client)
            stream = await began(provider)
            await server.__aexit__(None)
            assert type((await provider.read(stream))[1]) is openai.APIConnectionError
            assert not server.requests[0].disconnected.is_set()
        assert not server.tasks


# Threads and processes


def test_in_a_thread() -> None:
    """A server in a thread serves blocking clients and one event loop after another; its gates open from anywhere."""
    gate = Gate()
    with LLMServer.in_thread(Reply(("a", gate, "b")), models=("m",)) as server:
        with openai.OpenAI(base_url=server.openai_url, api_key="k", max_retries=0) as client:
            create: Callable[..., Any] = client.chat.completions.create
            stream = create(model="m", messages=USER, stream=True)
            tokens = (chunk.choices[0].delta.content for chunk in stream)
            assert [next(tokens), next(tokens)] == ["", "a"]
            gate.reached.block()
            gate.open()
            assert list(tokens) == ["b", None]
        for number in (1, 2):
            assert asyncio.run(_cancelled(server, number)) == ("m", True)


async def _cancelled(server: LLMServer, number: int) -> tuple[str, bool]:
    async with anthropic.AsyncAnthropic(base_url=server.anthropic_url, api_key="k", max_retries=0) as client:
        server.script(Reply(("a", Gate())))
        create: Callable[..., Any] = client.messages.create
        async with await create(model="m", messages=USER, max_tokens=1, stream=True):
            pass
    request = await server.client_disconnected(number)
    assert server.block_until_request(number) is request
    return request.body["model"], request.disconnected.is_set()


def test_a_failure_in_the_thread_is_raised() -> None:
    """What goes wrong in the thread's server is raised where its block ends; a server that cannot start, at once."""

    def wrong(request: Request) -> Reply:
        raise LookupError(request.path)

    with (
        pytest.raises(LookupError),
        LLMServer.in_thread(wrong) as server,
        openai.OpenAI(base_url=server.openai_url, api_key="k", max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.chat.completions.create(model="m", messages=USER)
    with pytest.raises(OverflowError), LLMServer.in_thread(port=1 << 20):
        pass


async def test_as_a_program() -> None:
    """Run as a module it prints what to put into the environment, and echoes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.llm_server", "--delay", "0", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        lines = [(await process.stdout.readline()).decode().strip() for _ in range(4)]
        urls = dict(line.split("=") for line in lines)
        async with openai.AsyncOpenAI(base_url=urls["OPENAI_BASE_URL"], api_key="k", max_retries=0) as client:
            answer = await client.chat.completions.create(model="m", messages=USER)
        assert answer.choices[0].message.content == "one two "
        root = urls["ANTHROPIC_BASE_URL"]
        assert urls == {
            "OPENAI_BASE_URL": f"{root}/v1",
            "ANTHROPIC_BASE_URL": root,
            "ANTHROPIC_VERTEX_BASE_URL": f"{root}/v1",
            "ANTHROPIC_BEDROCK_BASE_URL": root,
        }
    finally:
        process.terminate()
        await process.wait()
