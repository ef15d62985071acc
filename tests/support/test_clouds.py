"""The local server as Vertex AI and as Bedrock, through the real clients; and what these do (anthropic 2.11).

Vertex raises what the direct API raises (see `test_llm_server`); so does Bedrock before the stream begins. In Bedrock's
stream an exception frame is an `APIStatusError` with status 200 whose type is AWS's (`throttlingException`), a broken
frame is botocore's `ChecksumMismatch`, and JSON cut short in a whole frame is a `json.JSONDecodeError`.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import pytest
from botocore.eventstream import ChecksumMismatch

from tests.support.llm_server import (
    AwsCredentials,
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
AWS = AwsCredentials("AKIDTEST", "secret", "eu-central-1")
MODEL = "anthropic.claude-opus-4:0"


@dataclass
class Cloud:
    name: str
    server: LLMServer
    client: Any
    clients: list[Any]

    def new_client(self, **options: Any) -> Any:
        if self.name == "vertex":
            given: dict[str, Any] = {"access_token": "right-token", "region": "eu-west1", "project_id": "p"}
            make: Any = anthropic.AsyncAnthropicVertex
            given["base_url"] = self.server.vertex_url
        else:
            given = {"aws_access_key": AWS.access_key, "aws_secret_key": AWS.secret_key, "aws_region": AWS.region}
            make = anthropic.AsyncAnthropicBedrock
            given["base_url"] = self.server.bedrock_url
        client = make(**{**given, "max_retries": 0, **options})
        self.clients.append(client)
        return client

    def create(self, client: Any = None, **parameters: Any) -> Any:
        create = (client or self.client).messages.create
        return create(**{"model": MODEL, "messages": USER, "max_tokens": 100, **parameters})

    async def read(self, stream: Any) -> tuple[list[str], Any]:
        """The tokens of a stream, and the error at its end."""
        tokens: list[str] = []
        try:
            async for event in stream:
                if event.type == "content_block_delta" and event.delta.type == "text_delta":
                    tokens.append(event.delta.text)
        except Exception as error:
            return tokens, error
        return tokens, None


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer(aws=AWS, api_key="right-token") as server:
        yield server
        server.assert_all_consumed()


async def _cloud(name: str, server: LLMServer) -> AsyncIterator[Cloud]:
    cloud = Cloud(name, server, None, [])
    cloud.client = cloud.new_client()
    yield cloud
    for client in cloud.clients:
        await client.close()


@pytest.fixture(params=["vertex", "bedrock"])
async def cloud(request: pytest.FixtureRequest, server: LLMServer) -> AsyncIterator[Cloud]:
    async for cloud in _cloud(request.param, server):
        yield cloud


@pytest.fixture
async def vertex(server: LLMServer) -> AsyncIterator[Cloud]:
    async for cloud in _cloud("vertex", server):
        yield cloud


@pytest.fixture
async def bedrock(server: LLMServer) -> AsyncIterator[Cloud]:
    async for cloud in _cloud("bedrock", server):
        yield cloud


async def error_of(awaitable: Any) -> Any:
    try:
        await awaitable
    except Exception as error:
        return error
    return None


async def test_whole_and_streamed(cloud: Cloud) -> None:
    """Both ways give the answer, at the paths of the cloud, with the model in the path and the version in the body."""
    answer = await cloud.create()
    assert [block.text for block in answer.content] == ["one two "]
    assert await cloud.read(await cloud.create(stream=True)) == (["one ", "two "], None)
    whole, streamed = cloud.server.requests
    if cloud.name == "vertex":
        path = f"/v1/projects/p/locations/eu-west1/publishers/anthropic/models/{MODEL}"
        assert (whole.path, streamed.path) == (f"{path}:rawPredict", f"{path}:streamRawPredict")
    else:
        path = f"/model/{MODEL}/invoke"
        assert (whole.path, streamed.path) == (path, f"{path}-with-response-stream")
    assert (whole.model, whole.stream, streamed.model, streamed.stream) == (MODEL, False, MODEL, True)
    assert "model" not in whole.body
    assert isinstance(whole.body["anthropic_version"], str)


async def test_blocks_are_assembled_by_the_sdk(cloud: Cloud) -> None:
    """Thoughts, text, tool calls and usage arrive as they do from the direct API."""
    usage = {"cache_read_input_tokens": 4, "output_tokens_details": {"thinking_tokens": 3}}
    cloud.server.script(Reply((Thinking("hm", "sig"), "a", ToolCall("f", ('{"a":', "1}"))), usage=usage))
    async with cloud.client.messages.stream(model=MODEL, messages=USER, max_tokens=9) as stream:
        message = await stream.get_final_message()
    thinking, text, call = message.content
    assert (thinking.thinking, thinking.signature, text.text, call.input) == ("hm", "sig", "a", {"a": 1})
    assert (message.stop_reason, message.usage.output_tokens) == ("tool_use", 5)
    assert message.usage.cache_read_input_tokens == 4
    assert message.usage.output_tokens_details.thinking_tokens == 3


async def test_gates_and_closing(cloud: Cloud) -> None:
    """Tokens come one by one, and a client that goes is seen."""
    first = Gate()
    cloud.server.script(Reply(("a", first, "b", Gate())))
    stream = await cloud.create(stream=True)
    texts = (event.delta.text async for event in stream if event.type == "content_block_delta")
    assert await anext(texts) == "a"
    await first.reached.wait()
    first.open()
    assert await anext(texts) == "b"
    await stream.close()
    await cloud.server.client_disconnected(0)


async def test_a_held_answer_is_given_up(cloud: Cloud) -> None:
    """A request that is cancelled before its answer closes its connection."""
    hold = Gate()
    cloud.server.script(Reply(hold=hold))
    creating = asyncio.create_task(cloud.create())
    await hold.reached.wait()
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await cloud.server.client_disconnected(0)


async def test_nothing_comes_in_time(cloud: Cloud) -> None:
    """A stream that stalls is the transport's time-out."""
    cloud.server.script(Reply((Gate(),), bare=True))
    stream = await cloud.create(stream=True)
    stream.response.request.extensions["timeout"]["read"] = 0.01
    assert type((await cloud.read(stream))[1]) is httpx2.ReadTimeout
    await cloud.server.client_disconnected(0)


@pytest.mark.parametrize("split", [1, 7, (3, 1, 50)])
async def test_bytes_may_be_cut_anywhere(cloud: Cloud, split: Any) -> None:
    """Characters and frames survive any cut of the bytes."""
    cloud.server.script(Reply(("é€", "😀", "\ud83d", "\ude00"), split=split))
    assert await cloud.read(await cloud.create(stream=True)) == (["é€", "😀", "\ud83d", "\ude00"], None)


@pytest.mark.parametrize(("ending", "kind"), [("cut", httpx2.RemoteProtocolError), ("reset", httpx2.ReadError)])
async def test_a_connection_that_breaks(cloud: Cloud, ending: Any, kind: type) -> None:
    """In mid-stream the transport's error comes through; in create it is an APIConnectionError."""
    cloud.server.script(*[Reply(("a", "b"), ending=ending)] * 2, Reply(ending="silent"))
    tokens, error = await cloud.read(await cloud.create(stream=True))
    assert (tokens, type(error)) == (["a", "b"], kind)
    assert type(await error_of(cloud.create())) is anthropic.APIConnectionError
    assert type(await error_of(cloud.create(stream=True))) is anthropic.APIConnectionError


@pytest.mark.parametrize("reply", [Reply(("a",), finish=None), Reply(("a",), final_mark=False)])
async def test_an_end_without_its_mark_raises_nothing(cloud: Cloud, reply: Reply) -> None:
    """A truncated stream looks like any other."""
    cloud.server.script(reply)
    assert await cloud.read(await cloud.create(stream=True)) == (["a"], None)


async def test_raw_pieces_and_bare_answers(cloud: Cloud) -> None:
    """Deltas and whole events of the protocol are framed as all others; what an imitation leaves out is None."""
    event = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "c"}}
    cloud.server.script(Reply(("a", Delta({"type": "text_delta", "text": "b"}), event)), Reply(("a",), bare=True))
    assert await cloud.read(await cloud.create(stream=True)) == (["a", "b", "c"], None)
    assert (await cloud.create()).id is None


@pytest.mark.parametrize("stream", [True, False])
async def test_malformed_json(cloud: Cloud, stream: bool) -> None:
    """What is no JSON is a parser's error, in mid-stream and at once."""
    cloud.server.script(Reply(("a", Malformed())))
    if stream:
        error = (await cloud.read(await cloud.create(stream=True)))[1]
    else:
        error = await error_of(cloud.create())
    assert type(error) is json.JSONDecodeError


STATUSES = [
    (400, anthropic.BadRequestError),
    (403, anthropic.PermissionDeniedError),
    (404, anthropic.NotFoundError),
    (429, anthropic.RateLimitError),
    (500, anthropic.InternalServerError),
    (503, anthropic.ServiceUnavailableError),
    (529, anthropic.OverloadedError),
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("status", "kind"), STATUSES)
async def test_statuses(cloud: Cloud, status: int, kind: type, stream: bool) -> None:
    """Each status has its exception, with the headers; the body has the form of the cloud."""
    cloud.server.script(Reply(status=status, headers={"retry-after": "3"}))
    error = await error_of(cloud.create(stream=stream))
    assert (type(error), error.status_code, error.response.headers["retry-after"]) == (kind, status, "3")
    if cloud.name == "bedrock":
        assert set(error.body) == {"message"}
        assert error.response.headers["x-amzn-errortype"].endswith("Exception")
    elif status in (403, 404, 429):
        assert error.body["error"]["code"] == status
    else:
        assert error.body["type"] == "error"


async def test_models_and_conversations_are_checked(cloud: Cloud) -> None:
    """Unknown models and conversations that Anthropic refuses are refused."""
    cloud.server.models = (MODEL,)
    assert type(await error_of(cloud.create(model="other"))) is anthropic.NotFoundError
    error = await error_of(cloud.create(messages=[{"role": "user", "content": ""}]))
    assert type(error) is anthropic.BadRequestError
    assert "non-empty content" in str(error)
    error = await error_of(cloud.create(extra_body={"anthropic_version": None}))
    assert "anthropic_version" in str(error)


async def test_names_of_models_are_unquoted(cloud: Cloud) -> None:
    """A name with characters that mean something in a path arrives as it was given."""
    name = "claude-opus-4@20250101" if cloud.name == "vertex" else "arn:aws:bedrock:eu:1:inference-profile/a.b:0"
    cloud.server.models = (name,)
    await cloud.create(model=name)
    assert cloud.server.requests[0].model == name


async def test_responders_see_the_model(cloud: Cloud) -> None:
    """A function that answers finds the model at the same place for each protocol."""

    async def reply(request: Request) -> Reply:
        return Reply((f"{request.model} {request.stream}",))

    cloud.server.script(reply)
    assert await cloud.read(await cloud.create(stream=True)) == ([f"{MODEL} True"], None)


# Vertex


async def test_access_tokens_of_vertex(vertex: Cloud) -> None:
    """A wrong token is Google's UNAUTHENTICATED, for the count of tokens too."""
    client = vertex.new_client(access_token="wrong")
    error = await error_of(vertex.create(client))
    assert (type(error), error.body["error"]["status"]) == (anthropic.AuthenticationError, "UNAUTHENTICATED")
    counting = client.messages.count_tokens(model=MODEL, messages=USER)
    assert type(await error_of(counting)) is anthropic.AuthenticationError
    assert (await vertex.client.messages.count_tokens(model=MODEL, messages=USER)).input_tokens == 7


async def test_an_error_in_the_stream_of_vertex(vertex: Cloud) -> None:
    """It is the error event of the direct API."""
    vertex.server.script(Reply(("a", StreamError("overloaded_error", "too busy"))))
    tokens, error = await vertex.read(await vertex.create(stream=True))
    assert (tokens, type(error), error.status_code) == (["a"], anthropic.APIStatusError, 200)
    assert error.type == "overloaded_error"


# Bedrock


@pytest.mark.parametrize(
    ("kind", "frame"),
    [
        ("overloaded_error", "serviceUnavailableException"),
        ("rate_limit_error", "throttlingException"),
        ("api_error", "internalServerException"),
        ("modelStreamErrorException", "modelStreamErrorException"),
    ],
)
async def test_an_exception_in_the_stream_of_bedrock(bedrock: Cloud, kind: str, frame: str) -> None:
    """An exception frame is an error with status 200 and AWS's type."""
    bedrock.server.script(Reply(("a", StreamError(kind, "too busy"))))
    tokens, error = await bedrock.read(await bedrock.create(stream=True))
    assert (tokens, type(error), error.status_code) == (["a"], anthropic.APIStatusError, 200)
    assert error.body == {"type": "error", "error": {"type": frame, "message": "too busy"}}


async def test_a_broken_frame_of_bedrock(bedrock: Cloud) -> None:
    """Bytes that are no frame are botocore's error."""
    bedrock.server.script(Reply(("a", b"\0\0\0\x20\0\0\0\0wrong checksum, of the prelude")))
    tokens, error = await bedrock.read(await bedrock.create(stream=True))
    assert (tokens, type(error)) == (["a"], ChecksumMismatch)


async def test_the_end_of_a_stream_of_bedrock_has_its_metrics(bedrock: Cloud) -> None:
    """The final mark counts the tokens once more, in AWS's words."""
    *_, last = [event async for event in await bedrock.create(stream=True)]
    assert last.type == "message_stop"
    assert last.model_extra["amazon-bedrock-invocationMetrics"]["outputTokenCount"] == 5


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"aws_secret_key": "other"}, "InvalidSignatureException"),
        ({"aws_region": "us-east-1"}, "InvalidSignatureException"),
        ({"aws_access_key": "AKIDOTHER"}, "UnrecognizedClientException"),
        ({"aws_session_token": "token"}, "UnrecognizedClientException"),
    ],
)
async def test_signatures_of_bedrock(bedrock: Cloud, wrong: dict[str, str], kind: str) -> None:
    """A signature by another key, or for another region, is refused as AWS does it."""
    error = await error_of(bedrock.create(bedrock.new_client(**wrong)))
    assert type(error) is anthropic.PermissionDeniedError
    assert error.response.headers["x-amzn-errortype"] == kind


async def test_a_session_token_of_bedrock(bedrock: Cloud) -> None:
    """Temporary credentials are signed with their token."""
    bedrock.server.aws = AwsCredentials(AWS.access_key, AWS.secret_key, AWS.region, "token")
    assert await bedrock.create(bedrock.new_client(aws_session_token="token"))
    assert await error_of(bedrock.create(bedrock.client)) is not None


async def test_a_request_that_was_changed_on_its_way(bedrock: Cloud) -> None:
    """The signature covers the body."""
    signed: list[Any] = []

    async def change(request: Any) -> None:
        signed.append(request.headers["authorization"])
        if len(signed) > 1:
            request.headers["authorization"] = signed[0]

    async with httpx2.AsyncClient(event_hooks={"request": [change]}) as http:
        client = bedrock.new_client(http_client=http)
        assert await bedrock.create(client)
        assert type(await error_of(bedrock.create(client, max_tokens=7))) is anthropic.PermissionDeniedError


async def test_keys_of_bedrock(bedrock: Cloud) -> None:
    """A key stands in place of a signature; without either the request is refused."""
    none = {"aws_access_key": None, "aws_secret_key": None}
    assert await bedrock.create(bedrock.new_client(**none, api_key="right-token"))
    wrong = bedrock.new_client(**none, api_key="wrong")
    assert type(await error_of(bedrock.create(wrong))) is anthropic.PermissionDeniedError
    async with httpx2.AsyncClient() as http:
        response = await http.post(f"{bedrock.server.bedrock_url}/model/m/invoke", json={})
    assert response.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"
