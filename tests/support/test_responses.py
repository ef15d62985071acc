"""The local server's Responses API, through the real client; and what that does (openai 3.52).

A failure of the transport in mid-stream is an `APIConnectionError` or an `APITimeoutError`, as in chat completions. An
`error` event raises nothing: it is an event of the stream (`.type == "error"`, `.code`, `.message`); so are
`response.failed` and `response.incomplete`. `responses.stream(...)` ends with a `RuntimeError` when there was no
`response.completed`. A stream that ends without any of these raises nothing otherwise.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.support.llm_server import (
    Delta,
    Gate,
    LLMServer,
    Malformed,
    Reply,
    StreamError,
    Thinking,
    ToolCall,
)

PNG = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer(api_key="right-key") as server:
        yield server
        server.assert_all_consumed()


@pytest.fixture
async def client(server: LLMServer) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=server.openai_url, api_key="right-key", max_retries=0) as client:
        yield client


def create(client: Any, **parameters: Any) -> Any:
    return client.responses.create(**{"model": "m", "input": "one two", **parameters})


async def read(client: Any, **parameters: Any) -> tuple[list[Any], Exception | None]:
    """The events of a stream, and the error at its end."""
    events = []
    try:
        async for event in await create(client, stream=True, **parameters):
            events.append(event)
    except Exception as error:
        return events, error
    return events, None


def tokens(events: list[Any]) -> list[str]:
    return [event.delta for event in events if event.type == "response.output_text.delta"]


async def error_of(awaitable: Any) -> Any:
    try:
        await awaitable
    except Exception as error:
        return error
    return None


async def test_echo(client: Any, server: LLMServer) -> None:
    """The input comes back, as a stream or at once, be it a string or items."""
    assert (await create(client)).output_text == "one two "
    items = [{"role": "user", "content": [{"type": "input_text", "text": "three four"}]}]
    assert tokens((await read(client, input=items))[0]) == ["three ", "four "]
    assert [request.path for request in server.requests] == ["/v1/responses"] * 2


async def test_the_events(client: Any, server: LLMServer) -> None:
    """Each item is added, grows and is done, in numbered events; the last one has the whole response."""
    server.script(Reply((Thinking("h"), Thinking("m"), "a", "b", ToolCall("f", ('{"a":', "1}")))))
    events, error = await read(client)
    assert error is None
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].response.status, events[0].response.output) == ("in_progress", [])
    reasoning, message, call = events[-1].response.output
    assert [event.item for event in events if event.type == "response.output_item.done"] == [reasoning, message, call]
    assert (reasoning.summary[0].text, message.content[0].text) == ("hm", "ab")
    assert (call.call_id, call.name, call.arguments, call.status) == ("call_1", "f", '{"a":1}', "completed")


async def test_it_is_assembled_by_the_sdk(client: Any, server: LLMServer) -> None:
    """The SDK's own accumulator understands the stream, and every event is what its types say."""
    server.script(Reply((Thinking("hm"), "a", ToolCall("f", ('{"a":', "1}"), id="call_x"))))
    async with client.responses.stream(model="m", input="x") as stream:
        async for event in stream:
            type(event).model_validate(event.model_dump(by_alias=True, warnings=False))
        response = await stream.get_final_response()
    assert response.output_text == "a"
    assert response.output[-1].call_id == "call_x"


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_and_options(client: Any, server: LLMServer, stream: bool) -> None:
    """Tokens are merged in nested objects too; what was asked is in the response."""
    usage = {"output_tokens": 9, "input_tokens_details": {"cached_tokens": 3}}
    server.script(Reply(("a",), model="other", usage=usage | {"output_tokens_details": {"reasoning_tokens": 2}}))
    options: dict[str, Any] = {"instructions": "be brief", "max_output_tokens": 16, "metadata": {"a": "b"}}
    response = (await read(client, **options))[0][-1].response if stream else await create(client, **options)
    assert (response.model, response.instructions, response.metadata) == ("other", "be brief", {"a": "b"})
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (7, 9, 16)
    assert response.usage.input_tokens_details.cached_tokens == 3
    assert response.usage.input_tokens_details.cache_write_tokens == 0
    assert response.usage.output_tokens_details.reasoning_tokens == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_other_ends(client: Any, server: LLMServer, stream: bool) -> None:
    """An answer can be incomplete, or fail; neither raises."""
    server.script(
        Reply(("a",), finish="max_output_tokens"), Reply(("a",), finish="failed", error=("server_error", "no"))
    )
    responses = []
    for kind in ("response.incomplete", "response.failed"):
        if stream:
            events, error = await read(client)
            assert (events[-1].type, error) == (kind, None)
            responses.append(events[-1].response)
        else:
            responses.append(await create(client))
    incomplete, failed = responses
    assert (incomplete.status, incomplete.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert incomplete.output[0].status == "incomplete"
    assert (failed.status, failed.error.code, failed.error.message) == ("failed", "server_error", "no")


async def test_reasoning_that_is_sent_back(client: Any, server: LLMServer) -> None:
    """The encrypted reasoning comes when it is asked for, and goes back with its item."""
    server.script(Reply((Thinking("hm", "secret"), "a")), Reply((Thinking("hm", "secret"), "a")))
    assert (await create(client)).output[0].encrypted_content is None
    response = await create(client, store=False, include=["reasoning.encrypted_content"])
    assert response.output[0].encrypted_content == "secret"
    user = {"role": "user", "content": "more"}
    again = [{"role": "user", "content": "x"}, *(item.model_dump(exclude_none=True) for item in response.output), user]
    assert (await create(client, store=False, input=again)).output_text == "more "


async def test_gates_and_closing(client: Any, server: LLMServer) -> None:
    """Deltas come one by one, in the arguments of a tool as well, and a client that goes is seen."""
    first = Gate()
    server.script(Reply(("a", ToolCall("f", ("{", first, "}")), Gate())))
    stream = await create(client, stream=True)
    deltas = (event.delta async for event in stream if event.type.endswith(".delta"))
    assert [await anext(deltas), await anext(deltas)] == ["a", "{"]
    await first.reached.wait()
    first.open()
    assert await anext(deltas) == "}"
    await stream.close()
    await server.client_disconnected(0)


@pytest.mark.parametrize("split", [1, 7])
async def test_bytes_may_be_cut_anywhere(client: Any, server: LLMServer, split: int) -> None:
    """Characters, and halves of them, survive any cut of the bytes."""
    server.script(Reply(("é€", "😀", "\ud83d", "\ude00"), split=split, newline="\r\n"))
    assert tokens((await read(client))[0]) == ["é€", "😀", "\ud83d", "\ude00"]


@pytest.mark.parametrize("ending", ["cut", "reset"])
async def test_a_connection_that_breaks(client: Any, server: LLMServer, ending: Any) -> None:
    """What had come is read, then an APIConnectionError is raised."""
    server.script(*[Reply(("a", "b"), ending=ending)] * 2)
    events, error = await read(client)
    assert (tokens(events), type(error)) == (["a", "b"], openai.APIConnectionError)
    assert type(await error_of(create(client))) is openai.APIConnectionError


async def test_errors_in_mid_stream(client: Any, server: LLMServer) -> None:
    """An error event is an event; what is no JSON is a parser's error; a missing end raises nothing."""
    server.script(
        Reply(("a", StreamError("server_error", "no"))), Reply(("a", Malformed())), Reply(("a",), finish=None)
    )
    events, error = await read(client)
    assert (events[-1].type, events[-1].code, events[-1].message, error) == ("error", "server_error", "no", None)
    assert type((await read(client))[1]) is json.JSONDecodeError
    events, error = await read(client)
    assert (tokens(events), error) == (["a"], None)


async def test_the_accumulator_needs_the_end(client: Any, server: LLMServer) -> None:
    """`responses.stream` has no final response when the stream ends early."""
    server.script(Reply(("a",), finish=None))
    async with client.responses.stream(model="m", input="x") as stream:
        with pytest.raises(RuntimeError, match=r"response\.completed"):
            await stream.get_final_response()


async def test_raw_pieces_and_bare_answers(client: Any, server: LLMServer) -> None:
    """Deltas and whole events go as they are; an imitation leaves fields out."""
    event = {"type": "response.output_text.delta", "delta": "c", "item_id": "msg_1", "output_index": 0}
    server.script(Reply(("a", Delta({"delta": "b"}), event)), Reply(("a",), bare=True), Reply(("a",), bare=True))
    assert tokens((await read(client))[0]) == ["a", "b", "c"]
    assert tokens((await read(client))[0]) == ["a"]
    response = await create(client)
    assert (response.output_text, response.id, response.usage) == ("a", None, None)


@pytest.mark.parametrize("stream", [True, False])
async def test_statuses_and_keys(client: Any, server: LLMServer, stream: bool) -> None:
    """Errors are those of chat completions."""
    server.script(Reply(status=429, headers={"retry-after": "3"}))
    error = await error_of(create(client, stream=stream))
    assert (type(error), error.response.headers["retry-after"]) == (openai.RateLimitError, "3")
    wrong = client.with_options(api_key="wrong")
    assert type(await error_of(create(wrong, stream=stream))) is openai.AuthenticationError
    server.models = ("n",)
    assert type(await error_of(create(client, stream=stream))) is openai.NotFoundError


ASK = {"role": "user", "content": "x"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "r"}
REASONING: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": []}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}


def parts(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"input": [{"role": role, "content": list(content)}]}


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"input": [ASK, CALL, RESULT]}, None),
        ({"input": [ASK, REASONING, CALL, {**CALL, "call_id": "c2"}, RESULT, {**RESULT, "call_id": "c2"}]}, None),
        ({"input": [ASK, RESULT]}, "No tool call found for function call output with call_id c1"),
        ({"input": [ASK, RESULT], "previous_response_id": "resp_1"}, None),
        ({"input": [ASK, CALL]}, "No tool output found for function call c1"),
        ({"input": [ASK, RESULT, CALL]}, "No tool call found"),
        ({"input": [{"role": "nobody", "content": "x"}]}, "nobody"),
        ({"input": [{"role": "tool", "content": "x"}]}, "'tool'"),
        ({"input": [{"type": "nothing"}]}, "nothing"),
        ({"input": [ASK, REASONING, ASK]}, "without its required following item"),
        ({"input": [ASK, REASONING]}, "without its required following item"),
        ({"input": [ASK, REASONING, CALL, RESULT], "store": False}, "not persisted"),
        (parts({"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": PNG}), None),
        (parts({"type": "input_image", "image_url": "data:image/png;base64,?"}), "Invalid base64"),
        (parts({"type": "text", "text": "x"}), "Invalid value: 'text'"),
        (parts({"type": "input_text", "text": "x"}, role="assistant"), "Supported values are: output_text"),
        (parts({"type": "output_text", "text": "x"}, role="assistant"), None),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "f"}}, None),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "not found in 'tools'"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "Missing required parameter: 'tools[0].name'"),
        ({"tools": [TOOL | {"strict": True}]}, "'additionalProperties' is required"),
        ({"max_output_tokens": 15}, "below minimum value"),
        ({"extra_body": {"messages": []}}, "moved to 'input'"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}}}, None),
        ({"text": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, "text.format.name"),
        ({"input": openai.omit}, "Missing required parameter: 'input'"),
    ],
)
async def test_requests_that_are_refused(client: Any, parameters: dict[str, Any], problem: str | None) -> None:
    """What the real API refuses is refused."""
    error = await error_of(create(client, **parameters))
    assert error is None if problem is None else type(error) is openai.BadRequestError and problem in str(error)
