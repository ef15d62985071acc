"""`anthropic_agent`: the models of Anthropic."""

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

__all__ = ["DEFAULT_ANTHROPIC_MODEL", "DEFAULT_MAX_TOKENS", "anthropic_agent", "check_anthropic_key"]

DEFAULT_ANTHROPIC_MODEL = "claude-sonnet-5"
DEFAULT_MAX_TOKENS = 4096

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


@miniagent
async def anthropic_agent(
    ctx: InteractionContext,
    model: str = DEFAULT_ANTHROPIC_MODEL,
    system: str | None = None,
    stream: bool = True,
    api_key: str | None = None,
    base_url: str | None = None,
    max_retries: int = 2,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    **parameters: Any,
) -> None:
    """Asks a model of Anthropic.

    It replies with one `AssistantMessage`, which streams. Cancelling the message, or the call, closes the HTTP response.

    Args:
        ctx: What is sent: the conversation. System messages become part of `system`; neighbours of one role are joined.
        model: The name of the model.
        system: An instruction for the whole conversation.
        stream: Whether to have the answer token by token, or at once.
        api_key: The key; the environment variable ANTHROPIC_API_KEY otherwise.
        base_url: The address of the server; ANTHROPIC_BASE_URL, or else Anthropic's otherwise.
        max_retries: How often the SDK tries again before the first token.
        max_tokens: How long the answer may be, in tokens.
        **parameters: Whatever `messages.create` takes; what it does not know (`temperature`, for example) goes into the
            request as it is.

    Raises:
        MissingKeyError: There is no key.
        TruncatedAnswerError: The answer has no end; its tokens stay readable.
        anthropic.AnthropicError: What the SDK raises.
    """

    async def streamer(promise: MessagePromise) -> AsyncIterator[str]:
        options = {"api_key": _key(api_key, base_url), "base_url": base_url, "max_retries": max_retries}
        request = {"model": model, "max_tokens": max_tokens, **_conversation(await ctx.message_promises, system)}
        anthropic = await sdk("anthropic")
        async with borrowed_client(anthropic.AsyncAnthropic, **options) as client:
            create = client.messages.create
            request.update(with_extra_body(parameters, parameters_of(create)))
            try:
                async with aclosing((_streamed if stream else _at_once)(create, request, promise)) as answer:
                    async for token in answer:
                        yield token
            except (anthropic.AnthropicError, ModelError):
                raise
            except Exception as error:  # transports and parsers have errors of their own, which do not say where
                raise ModelError(f"the answer of Anthropic's {model} broke off: {type(error).__name__}") from error

    ctx.reply(AssistantMessage.promise(streamer))


def check_anthropic_key() -> None:
    """Checks that a call without `api_key=` would find a key, or a server that needs none.

    Raises:
        MissingKeyError: It would not.
    """
    _key(None, None)


def _key(api_key: str | None, base_url: str | None) -> str:
    key = api_key or os.environ.get("ANTHROPIC_API_KEY")
    if key:
        return key
    if base_url or os.environ.get("ANTHROPIC_BASE_URL"):
        return "none"  # the SDK insists on a key, a local server does not
    raise MissingKeyError("ANTHROPIC_API_KEY", "Anthropic")


def _conversation(messages: Sequence[Message], system: str | None) -> dict[str, Any]:
    instructions = [] if system is None else [system]
    turns: list[dict[str, Any]] = []
    for message in messages:
        role, text = role_of(message), wire_text(message)
        if role in ("system", "developer"):
            instructions.append(text)
        elif not text:
            continue  # the provider refuses empty content
        elif turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{text}"
        else:
            turns.append({"role": role, "content": text})
    return {"messages": turns, **({"system": "\n\n".join(instructions)} if instructions else {})}


async def _streamed(create: Any, request: dict[str, Any], promise: MessagePromise) -> AsyncGenerator[str, None]:
    response = await create(stream=True, **request)
    reasoning: list[str] = []
    input_tokens = 0
    ended = False
    try:
        async for event in response:
            if event.type == "message_start":
                promise.add_metadata(model=event.message.model)
                input_tokens = event.message.usage.input_tokens or 0
            elif event.type == "content_block_delta":
                if event.delta.type == "text_delta" and event.delta.text:
                    yield event.delta.text
                elif event.delta.type == "thinking_delta":
                    reasoning.append(event.delta.thinking)
                    promise.add_metadata(reasoning="".join(reasoning))
            elif event.type == "message_delta":
                usage = Usage(input_tokens=input_tokens, output_tokens=event.usage.output_tokens or 0)
                promise.add_metadata(usage=usage, **_finish(event.delta.stop_reason))
            elif event.type == "message_stop":
                ended = True
    finally:
        await response.close()
    if not ended:
        raise TruncatedAnswerError("Anthropic", request["model"])


async def _at_once(create: Any, request: dict[str, Any], promise: MessagePromise) -> AsyncGenerator[str, None]:
    message = await create(**request)
    usage = Usage(input_tokens=message.usage.input_tokens or 0, output_tokens=message.usage.output_tokens or 0)
    promise.add_metadata(model=message.model, usage=usage, **_finish(message.stop_reason))
    reasoning = "".join(block.thinking for block in message.content if block.type == "thinking")
    if reasoning:
        promise.add_metadata(reasoning=reasoning)
    for block in message.content:
        if block.type == "text" and block.text:
            yield block.text
    if message.stop_reason is None:
        raise TruncatedAnswerError("Anthropic", request["model"])


def _finish(reason: str | None) -> dict[str, Any]:
    if reason is None:
        return {}
    return {"finish_reason": _FINISH_REASONS.get(reason, "stop"), "provider_finish_reason": reason}
