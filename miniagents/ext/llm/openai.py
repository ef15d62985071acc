"""`openai_agent`: the models of OpenAI, and of every server that speaks its protocol."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from miniagents.agents import miniagent
from miniagents.ext.llm.llm_common import (
    AssistantMessage,
    FinishReason,
    MissingKeyError,
    ModelError,
    TruncatedAnswerError,
    Usage,
    role_of,
    wire_text,
    with_extra_body,
)
from miniagents.ext.llm.sdk_clients import borrowed_client, parameters_of, sdk
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.messages import MessagePromise

__all__ = ["DEFAULT_OPENAI_MODEL", "check_openai_key", "openai_agent"]

DEFAULT_OPENAI_MODEL = "gpt-5.4-mini"

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


@miniagent
async def openai_agent(
    ctx: InteractionContext,
    model: str = DEFAULT_OPENAI_MODEL,
    system: str | None = None,
    stream: bool = True,
    api_key: str | None = None,
    base_url: str | None = None,
    max_retries: int = 2,
    **parameters: Any,
) -> None:
    """Asks a model of OpenAI, or of a server that speaks its protocol.

    It replies with one `AssistantMessage`, which streams. Cancelling the message, or the call, closes the HTTP response.

    Args:
        ctx: What is sent: the conversation. The role of a message is its `role`, "user" where it has none.
        model: The name of the model.
        system: An instruction that is put before the conversation.
        stream: Whether to have the answer token by token, or at once.
        api_key: The key; the environment variable OPENAI_API_KEY otherwise.
        base_url: The address of the server; OPENAI_BASE_URL, or else OpenAI's otherwise. A server of one's own needs
            no key.
        max_retries: How often the SDK tries again before the first token.
        **parameters: Whatever `chat.completions.create` takes; what it does not know goes into the request as it is.

    Raises:
        MissingKeyError: There is no key.
        TruncatedAnswerError: The answer has no end; its tokens stay readable.
        openai.OpenAIError: What the SDK raises.
    """

    async def streamer(promise: MessagePromise) -> AsyncIterator[str]:
        options = {"api_key": _key(api_key, base_url), "base_url": base_url, "max_retries": max_retries}
        messages = _messages(await ctx.message_promises, system)
        openai = await sdk("openai")
        async with borrowed_client(openai.AsyncOpenAI, **options) as client:
            create = client.chat.completions.create
            known = with_extra_body(parameters, parameters_of(create))
            try:
                if stream:
                    answer = _streamed(create, model, messages, known, promise)
                else:
                    answer = _at_once(create, model, messages, known, promise)
                async with aclosing(answer):
                    async for token in answer:
                        yield token
            except (openai.OpenAIError, ModelError):
                raise
            except Exception as error:  # transports and parsers have errors of their own, which do not say where
                raise ModelError(f"the answer of OpenAI's {model} broke off: {type(error).__name__}") from error

    ctx.reply(AssistantMessage.promise(streamer))


def check_openai_key() -> None:
    """Checks that a call without `api_key=` would find a key, or a server that needs none.

    Raises:
        MissingKeyError: It would not.
    """
    _key(None, None)


def _key(api_key: str | None, base_url: str | None) -> str:
    key = api_key or os.environ.get("OPENAI_API_KEY")
    if key:
        return key
    if base_url or os.environ.get("OPENAI_BASE_URL"):
        return "none"  # the SDK insists on a key, a local server does not
    raise MissingKeyError("OPENAI_API_KEY", "OpenAI")


def _messages(messages: Sequence[Message], system: str | None) -> list[dict[str, Any]]:
    instruction = [] if system is None else [{"role": "system", "content": system}]
    return instruction + [{"role": role_of(message), "content": wire_text(message)} for message in messages]


async def _streamed(
    create: Any, model: str, messages: list[dict[str, Any]], parameters: dict[str, Any], promise: MessagePromise
) -> AsyncGenerator[str, None]:
    parameters.setdefault("stream_options", {"include_usage": True})
    response = await create(model=model, messages=messages, stream=True, **parameters)
    reasoning: list[str] = []
    finish_reason: str | None = None
    try:
        async for chunk in response:
            if chunk.model:
                promise.add_metadata(model=chunk.model)
            if chunk.usage:
                promise.add_metadata(usage=_usage(chunk.usage))
            for choice in (chunk.choices or ())[:1]:
                finish_reason = choice.finish_reason or finish_reason
                thought = getattr(choice.delta, "reasoning_content", None) if choice.delta else None
                if thought:
                    reasoning.append(thought)
                    promise.add_metadata(reasoning="".join(reasoning))
                if choice.delta and choice.delta.content:
                    yield choice.delta.content
    finally:
        await response.close()
    if finish_reason is None:
        raise TruncatedAnswerError("OpenAI", model)
    promise.add_metadata(**_finish(finish_reason))


async def _at_once(
    create: Any, model: str, messages: list[dict[str, Any]], parameters: dict[str, Any], promise: MessagePromise
) -> AsyncGenerator[str, None]:
    completion = await create(model=model, messages=messages, **parameters)
    if not completion.choices:
        raise TruncatedAnswerError("OpenAI", model)
    choice = completion.choices[0]
    promise.add_metadata(model=completion.model or model)
    if completion.usage:
        promise.add_metadata(usage=_usage(completion.usage))
    thought = getattr(choice.message, "reasoning_content", None)
    if thought:
        promise.add_metadata(reasoning=thought)
    if choice.message.content:
        yield choice.message.content
    if choice.finish_reason is None:
        raise TruncatedAnswerError("OpenAI", model)
    promise.add_metadata(**_finish(choice.finish_reason))


def _usage(usage: Any) -> Usage:
    return Usage(input_tokens=usage.prompt_tokens or 0, output_tokens=usage.completion_tokens or 0)


def _finish(reason: str) -> dict[str, Any]:
    return {"finish_reason": _FINISH_REASONS.get(reason, "stop"), "provider_finish_reason": reason}
