"""`anthropic_agent`: the models of Anthropic."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar

from miniagents.agents import miniagent
from miniagents.ext.llm.answer import Answer
from miniagents.ext.llm.endpoint import Endpoint, Home
from miniagents.ext.llm.llm_common import FinishReason, instruction_of, role_of, wire_text
from miniagents.ext.llm.provider import Call, Provider
from miniagents.interaction import InteractionContext
from miniagents.message import Message

__all__ = ["DEFAULT_ANTHROPIC_MODEL", "DEFAULT_MAX_TOKENS", "anthropic_agent", "check_anthropic_key"]

DEFAULT_ANTHROPIC_MODEL = "claude-sonnet-5"
DEFAULT_MAX_TOKENS = 4096

_HOME = Home("Anthropic", "https://api.anthropic.com", "anthropic.com", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")


@miniagent
async def anthropic_agent(
    ctx: InteractionContext,
    model: str = DEFAULT_ANTHROPIC_MODEL,
    system: Any = None,
    stream: bool = True,
    api_key: str | None = None,
    base_url: str | None = None,
    max_retries: int = 2,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    **parameters: Any,
) -> None:
    """Asks a model of Anthropic.

    It replies with one `AssistantMessage`, which streams. Cancelling it, or the call, closes the HTTP response.

    Args:
        ctx: What is sent: the conversation. System messages become part of `system`; neighbours of one role are joined,
            and messages without text are left out.
        model: The name of the model.
        system: An instruction for the whole conversation: text, a message, or Anthropic's content blocks.
        stream: Whether to have the answer token by token, or at once.
        api_key: The key; the environment variable ANTHROPIC_API_KEY otherwise.
        base_url: The address of the server; ANTHROPIC_BASE_URL, or else Anthropic's otherwise. A server of one's own
            needs no key.
        max_retries: How often the SDK tries again before the first token.
        max_tokens: How long the answer may be, in tokens.
        **parameters: Whatever `messages.create` takes; what it does not know (`temperature`, for example) goes into the
            request as it is.

    Raises:
        MissingKeyError: There is no key.
        BrokenAnswerError: The answer broke off or could not be understood; its tokens stay readable. It is a
            `TruncatedAnswerError` where the stream has ended without a finish mark.
        anthropic.AnthropicError: What the SDK raises, also for an error that the server sends in mid-stream: its status
            is 200 then, its `type` says more.

    Example:
        ```python
        async with MiniAgents():
            async for token in anthropic_agent.inquire("Hi", system="Be brief.").as_single_promise():
                print(token, end="", flush=True)
        ```
    """
    call = Call(model, system, stream, api_key, base_url, max_retries, {"max_tokens": max_tokens, **parameters})
    ctx.reply(_Anthropic().reply_to(ctx.message_promises, call))


def check_anthropic_key() -> None:
    """Checks that a call without `api_key=` would find a key, or a server that needs none.

    Raises:
        MissingKeyError: It would not.
    """
    Endpoint.find(_HOME)


class _Anthropic(Provider):
    """Messages."""

    home = _HOME
    package = "anthropic"
    client_class = "AsyncAnthropic"
    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "pause_turn": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    }

    def create_of(self, client: Any) -> Callable[..., Awaitable[Any]]:
        """See `Provider`."""
        create: Callable[..., Awaitable[Any]] = client.messages.create
        return create

    def request(self, messages: Sequence[Message], call: Call) -> dict[str, Any]:
        """See `Provider`."""
        instructions: list[str] = []
        turns: list[dict[str, Any]] = []
        for message in messages:
            role, text = role_of(message), wire_text(message)
            if not text.strip():
                continue  # the provider refuses it
            if role in ("system", "developer"):
                instructions.append(text)
            elif turns and turns[-1]["role"] == role:
                turns[-1]["content"] += f"\n\n{text}"
            else:
                turns.append({"role": role, "content": text})
        system = _joined(instruction_of(call.system), instructions)
        return {"messages": turns, **({"system": system} if system else {})}

    def read_event(self, event: Any, answer: Answer) -> str:
        """See `Provider`."""
        if event.type == "content_block_delta":
            if event.delta.type == "text_delta":
                return event.delta.text or ""
            if event.delta.type == "thinking_delta":
                answer.reasoning.append(event.delta.thinking or "")
        elif event.type == "message_start":
            answer.model = event.message.model or answer.model
            self._count(event.message.usage, answer)
        elif event.type == "message_delta":
            answer.finish_reason = event.delta.stop_reason or answer.finish_reason
            self._count(event.usage, answer)
        return ""

    def read_whole(self, whole: Any, answer: Answer) -> str:
        """See `Provider`."""
        answer.model = whole.model or answer.model
        answer.finish_reason = whole.stop_reason or None
        self._count(whole.usage, answer)
        answer.reasoning += [block.thinking for block in whole.content if block.type == "thinking" and block.thinking]
        return "".join(block.text for block in whole.content if block.type == "text" and block.text)

    def _count(self, usage: Any, answer: Answer) -> None:
        """Notes the tokens. Those of later events count from the start, and do not always say all again."""
        if usage is not None:
            parts = (usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens)
            known = [part for part in parts if isinstance(part, int)]  # with this provider they do not overlap
            answer.count(sum(known) if isinstance(usage.input_tokens, int) else None, usage.output_tokens)


def _joined(system: Any, instructions: list[str]) -> Any:
    """What goes into `system`: text, or blocks where the caller gave blocks."""
    if system is None or isinstance(system, str):
        return "\n\n".join([system, *instructions] if system else instructions)
    return [*system, *({"type": "text", "text": text} for text in instructions)]
