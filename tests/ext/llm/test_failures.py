"""Whatever goes wrong arrives where the answer is read, after its tokens, and says what happened where."""

import logging
import traceback
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from miniagents import ErrorMessage, Message, MiniAgent, MiniAgents
from miniagents.ext.llm.anthropic import anthropic_agent, check_anthropic_key
from miniagents.ext.llm.endpoint import Endpoint
from miniagents.ext.llm.llm_common import (
    AssistantMessage,
    BrokenAnswerError,
    MissingKeyError,
    ModelError,
    TruncatedAnswerError,
)
from miniagents.ext.llm.openai import check_openai_key, openai_agent
from tests.ext.llm.helpers import BOTH_WAYS, KEY, Provider, read_until_error
from tests.support.llm_server import Gate, LLMServer, Malformed, Reply, StreamError


def shown(error: BaseException) -> str:
    """All that a person, a log or a reporter of errors may get to see of an error and of those below it."""
    parts = traceback.format_exception(error)
    below: BaseException | None = error
    while below is not None:
        parts += [repr(below), *(str(vars(below).get(name)) for name in ("api_message", "body", "message"))]
        below = below.__cause__ or below.__context__
    return "".join(parts)


@pytest.mark.parametrize("stream", BOTH_WAYS)
@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (529, {"openai": "InternalServerError", "anthropic": "OverloadedError"}),
    ],
)
async def test_refusals_arrive_as_the_sdk_raises_them(
    provider: Provider, status: int, name: str | dict[str, str], stream: bool
) -> None:
    """What the provider refuses is an error of its SDK, which notes which model was asked where."""
    tokens, error = await provider.fail(Reply(status=status), stream=stream)
    expected = name if isinstance(name, str) else name[provider.sdk.__name__]
    assert (tokens, type(error)) == ([], getattr(provider.sdk, expected))
    assert f"some-model at {provider.server.url}" in shown(error)


async def test_a_clean_end_without_a_finish_mark(provider: Provider) -> None:
    """A stream that just ends is a truncated answer; what had come stays readable."""
    tokens, error = await provider.fail(Reply(("a", "b"), finish=None))
    assert (tokens, type(error)) == (["a", "b"], TruncatedAnswerError)
    assert "some-model" in str(error)


async def test_an_answer_at_once_without_a_finish_mark(provider: Provider) -> None:
    """The same holds for an answer that comes in one piece."""
    tokens, error = await provider.fail(Reply(("ab",), finish=None), stream=False)
    assert (tokens, type(error)) == (["ab"], TruncatedAnswerError)


@pytest.mark.parametrize("ending", ["cut", "reset"])
async def test_a_connection_that_is_cut(provider: Provider, ending: Any) -> None:
    """A connection lost in mid-stream is an error after the tokens, and says which model's answer broke off."""
    gate = Gate()
    provider.server.script(Reply(("a", "b", gate), ending=ending))
    async with MiniAgents():
        reply = provider.agent.inquire("Hi")
        message = await anext(aiter(reply))
        reader = aiter(message)
        assert [await anext(reader), await anext(reader)] == ["a", "b"]
        gate.open()
        tokens, error = await read_until_error(reply)
        with pytest.raises(openai.APIConnectionError if provider.is_openai else BrokenAnswerError) as caught:
            await message
    assert (tokens, caught.value) == (["a", "b"], error)
    assert "some-model" in str(error)
    assert error.__cause__ is not None  # type: ignore[union-attr]


@pytest.mark.parametrize("ending", ["cut", "reset", "silent"])
async def test_an_answer_at_once_that_is_cut(provider: Provider, ending: Any) -> None:
    """An answer of which a part came is a connection error."""
    tokens, error = await provider.fail(Reply(("ab",), ending=ending), stream=False)
    assert (tokens, type(error)) == ([], provider.sdk.APIConnectionError)
    assert "some-model" in str(error)


async def test_an_error_in_mid_stream(provider: Provider) -> None:
    """An error event is raised at its place as the SDK's, and says its kind, its text and the model."""
    tokens, error = await provider.fail(Reply(("a", StreamError("overloaded_error", "too busy"))))
    assert tokens == ["a"]
    assert isinstance(error, provider.sdk.APIError)
    assert str(error).endswith("broke off its answer: overloaded_error: too busy")
    assert "some-model" in str(error)


@pytest.mark.parametrize("event", [{"error": {"message": "no"}}, {"error": "no"}])
async def test_an_error_in_mid_stream_without_a_kind(provider: Provider, event: Any) -> None:
    """A server that says less than it should is understood all the same."""
    if not provider.is_openai:
        event = {"type": "error", **event}
    tokens, error = await provider.fail(Reply(("a", event)))
    assert tokens == ["a"]
    assert isinstance(error, provider.sdk.APIError)
    assert "some-model" in str(error)


@pytest.mark.parametrize("data", ['{"nonsense', "5", "[1]", "null", '{"choices": 5, "type": "message_delta"}'])
async def test_malformed_events(provider: Provider, data: str) -> None:
    """What cannot be understood is reported with the model's name, not as a parser's error."""
    tokens, error = await provider.fail(Reply(("a", Malformed(data))))
    assert (tokens, type(error)) == (["a"], BrokenAnswerError)
    assert "some-model" in str(error)
    assert error.__cause__ is not None


async def test_what_cannot_be_understood_is_not_listened_to_further(provider: Provider) -> None:
    """The response is closed, though the error that holds its frames is still around."""
    gate = Gate()
    _, error = await provider.fail(Reply(("a", Malformed("5"), gate)))
    assert isinstance(error, BrokenAnswerError)
    await provider.server.client_disconnected(0)


async def test_bytes_that_are_no_text(provider: Provider) -> None:
    """A stream that is not UTF-8 is a broken answer."""
    tokens, error = await provider.fail(Reply(("a", b'event: message_delta\ndata: {"a": "\xff"}\n\n')))
    assert (tokens, type(error)) == (["a"], BrokenAnswerError)


@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_a_page_in_place_of_an_answer(provider: Provider, stream: bool, content_type: str) -> None:
    """A proxy's page of HTML is no answer, and no silence either."""
    reply = Reply(body=b"<html>\n<h1>Log in</h1>", headers={"content-type": content_type})
    tokens, error = await provider.fail(reply, stream=stream)
    assert tokens == []
    assert isinstance(error, BrokenAnswerError)
    assert "some-model" in str(error)


async def test_an_error_in_place_of_choices(openai_provider: Provider) -> None:
    """Some servers report an error with status 200; what it says is not lost."""
    _, error = await openai_provider.fail(Reply(body=b'{"error": {"message": "no credits"}}'), stream=False)
    assert isinstance(error, BrokenAnswerError)
    assert "no credits" in str(error)


async def test_refused_connection(provider: Provider) -> None:
    """A server that is not there is a connection error that says where it should have been, and for whom."""
    _, error = await provider.fail(base_url="http://user:hush-hush@127.0.0.1:9/v1?token=hush-hush")
    assert isinstance(error, provider.sdk.APIConnectionError)
    assert "some-model at http://127.0.0.1:9/v1: " in str(error)
    assert "hush" not in shown(error)


@pytest.mark.parametrize(
    "url", ["nonsense", "127.0.0.1:8000", "http://", "http://[", "http://127.0.0.1:99999", "ftp://x"]
)
async def test_an_address_that_is_none(provider: Provider, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped address is an error where the answer is read, and says where it came from."""
    _, error = await provider.fail(base_url=url)
    assert type(error) is ModelError
    assert "`base_url=` is no address" in str(error)
    name = f"{provider.sdk.__name__.upper()}_BASE_URL"
    monkeypatch.setenv(name, url)
    _, error = await provider.fail(base_url=None)
    assert f"{name} is no address" in str(error)


async def test_mistakes_in_the_call_arrive_as_they_are(provider: Provider) -> None:
    """What the SDK finds wrong before it sends anything is no broken answer."""
    _, error = await provider.fail(user=object(), metadata={"x": object()})
    assert not isinstance(error, ModelError)
    assert provider.server.requests == []


async def test_a_long_answer_at_once(anthropic_provider: Provider) -> None:
    """What Anthropic's SDK will not do without streaming, it says itself."""
    _, error = await anthropic_provider.fail(stream=False, max_tokens=100_000)
    assert isinstance(error, ValueError)
    assert "Streaming is required" in str(error)


async def test_an_error_of_the_conversation_passes(provider: Provider) -> None:
    """What fails before the model is asked is not taken for its error."""

    async def failing(_: Any) -> AsyncIterator[str]:
        yield "Hi"
        raise LookupError("no history")

    _, error = await read_until_error_of(provider.agent, Message.promise(failing))
    assert (type(error), str(error)) == (LookupError, "no history")
    assert provider.server.requests == []


async def read_until_error_of(agent: MiniAgent, conversation: Any) -> tuple[list[str], BaseException | None]:
    async with MiniAgents():
        return await read_until_error(agent.inquire(conversation))


async def test_errors_as_messages(provider: Provider) -> None:
    """What came stays as a message that says its model and that it was interrupted; the error follows it."""
    provider.server.script(Reply(("a", "b"), finish=None))
    async with MiniAgents(errors_as_messages=True):
        partial, error = await provider.agent.inquire("Hi")
    assert (partial.text, partial.interrupted, partial.model) == ("ab", True, "served-model")  # type: ignore[attr-defined]
    assert isinstance(partial, AssistantMessage)
    assert isinstance(error, ErrorMessage)
    assert error.error_type == "TruncatedAnswerError"


# Keys


@pytest.mark.parametrize("blank", [None, "", " \n"])
@pytest.mark.parametrize(("agent", "name"), [(openai_agent, "OPENAI"), (anthropic_agent, "ANTHROPIC")])
async def test_a_missing_key_names_the_variable(
    agent: MiniAgent, name: str, blank: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key the error says which variable to set, and is raised where the reply is read."""
    if blank is not None:
        monkeypatch.setenv(f"{name}_API_KEY", blank)
        monkeypatch.setenv(f"{name}_BASE_URL", blank)
    _, error = await read_until_error_of(agent, "Hi")
    assert isinstance(error, MissingKeyError)
    assert f"{name}_API_KEY" in str(error)


@pytest.mark.parametrize("check", [check_openai_key, check_anthropic_key])
def test_checking_for_a_key(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there is a key can be found out before a call: there is one, or a server of one's own needs none."""
    name = "OPENAI" if check is check_openai_key else "ANTHROPIC"
    with pytest.raises(MissingKeyError):
        check()
    monkeypatch.setenv(f"{name}_BASE_URL", f"https://eu.api.{name.lower()}.com/v1")
    with pytest.raises(MissingKeyError):
        check()
    monkeypatch.setenv(f"{name}_BASE_URL", "http://gpu-box:8000/v1")
    check()
    monkeypatch.delenv(f"{name}_BASE_URL")
    monkeypatch.setenv(f"{name}_API_KEY", KEY)
    check()


@pytest.mark.parametrize("name", ["OPENAI", "ANTHROPIC"])
async def test_a_server_of_ones_own_needs_no_key(server: LLMServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the address in the environment alone the call goes through, with a placeholder for the key."""
    agent, url = (openai_agent, server.openai_url) if name == "OPENAI" else (anthropic_agent, server.anthropic_url)
    monkeypatch.setenv(f"{name}_BASE_URL", f" {url}\n")
    async with MiniAgents():
        assert str((await agent.inquire("Hi"))[0]) == "Hi "
    assert server.requests[0].headers["authorization"] == "Bearer none"


async def test_a_key_may_have_white_space_around_it(provider: Provider) -> None:
    """A key that was read from a file ends with a newline, which no header may hold."""
    await provider.ask(api_key=f" {KEY}\n")
    assert provider.server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", ["sk-sécret-key", "sk-secret\nkey", "sk-secret\x00key", "sk-…"])
async def test_a_key_that_cannot_be_one(provider: Provider, key: str) -> None:
    """A key with characters that cannot be sent is refused by a clear error that does not show it."""
    _, error = await provider.fail(api_key=key)
    assert isinstance(error, ModelError)
    assert "api_key=" in str(error)
    assert key not in shown(error)


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_a_key_that_the_server_repeats_is_hidden(
    provider: Provider, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """No key is in an error, its notes, its body or what it was caused by, wherever it came from."""
    for reply in (
        Reply(status=401, error=("invalid_request_error", f"Incorrect API key provided: {KEY}.")),
        Reply(status=401, body=f"no such key: {KEY}".encode()),
        Reply(("a", StreamError("x", f"bad key {KEY}")) if stream else (), finish=None),
    ):
        with caplog.at_level(logging.INFO):
            _, error = await provider.fail(reply, stream=stream)
        assert KEY not in shown(error)
    assert KEY not in caplog.text


async def test_a_key_in_what_only_we_report_is_hidden(openai_provider: Provider) -> None:
    """An error of ours, and the raw one below it, show no key either."""
    body = f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()
    _, error = await openai_provider.fail(Reply(body=body), stream=False)
    assert "bad key [key]" in str(error)
    assert KEY not in shown(error)


async def test_a_password_in_the_address_is_hidden(provider: Provider) -> None:
    """Errors of the transport name the whole address; what they show is without its password."""
    url = (provider.server.openai_url if provider.is_openai else provider.server.url).replace("//", "//me:hush-hush@")
    _, error = await provider.fail(Reply(status=404), base_url=url)
    assert isinstance(error, provider.sdk.NotFoundError)
    assert "hush" not in shown(error)


async def test_an_error_that_nobody_reads_is_logged_without_the_key(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """The report at the end of the context shows the error as it would have been raised."""
    provider.server.script(Reply(status=401, error=("invalid_request_error", f"Incorrect API key: {KEY}.")))
    async with MiniAgents():
        provider.agent.inquire("Hi")
    assert "'s some-model failed and nobody awaited" in caplog.text
    assert "AuthenticationError" in caplog.text
    assert KEY not in caplog.text


def test_what_holds_a_key_does_not_show_it() -> None:
    """Tools that show local variables show no key."""
    endpoint = Endpoint("openai", "http://user:password@here/v1?token=x", KEY)  # type: ignore[arg-type]
    assert repr(endpoint) == "<Endpoint http://here/v1>"
    assert KEY not in repr(openai_agent.fork(api_key=KEY))


def test_sdk_errors_are_not_ours() -> None:
    """Who catches one does not catch the other by accident."""
    assert not issubclass(openai.OpenAIError, ModelError)
    assert not issubclass(anthropic.AnthropicError, ModelError)
