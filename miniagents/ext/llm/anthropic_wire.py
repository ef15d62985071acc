"""The wire format of Anthropic's messages, which Anthropic, AWS Bedrock and Google Vertex share."""

import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar

from miniagents.ext.llm.answer import Answer
from miniagents.ext.llm.conversation import wire_id, wire_name
from miniagents.ext.llm.llm_common import FinishReason, instruction_of, role_of, valid_text, wire_text
from miniagents.ext.llm.parts import ImagePart, TextPart, ThinkingPart, ToolCallPart, ordered_parts, parts_of
from miniagents.ext.llm.provider import Call, Provider
from miniagents.ext.llm.structured import strict_schema
from miniagents.message import Message

__all__ = ["DEFAULT_MAX_TOKENS", "AnthropicWire"]

DEFAULT_MAX_TOKENS = 4096

_SIGNED_BY = "anthropic"  # the thoughts of its models are the same wherever they are offered
_CACHE = {"type": "ephemeral"}
_MOST_MARKERS = 4
# Those before Claude 4.1 have no output format of their own.
_WITHOUT_FORMAT = re.compile(r"claude-(2|instant|3|sonnet-4(-0|-2025|@|$)|opus-4(-0|-2025|@|$))")


class AnthropicWire(Provider):
    """Messages."""

    package = "anthropic"
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

    def parameters(self, options: Any) -> Mapping[str, Any]:
        """See `Provider`. The length of an answer has to be said."""
        return {"max_tokens": DEFAULT_MAX_TOKENS, **options.parameters}

    def text_tool(self, call: Call) -> str | None:
        """See `Provider`."""
        if call.reply_type is None or self._has_format(call.options.model):
            return None
        return call.reply_type.name

    def request(self, messages: Sequence[Message], call: Call) -> dict[str, Any]:
        """See `Provider`."""
        request: dict[str, Any] = {}
        instructions: list[dict[str, Any]] = []
        turns: list[tuple[str, list[dict[str, Any]]]] = []
        system = call.options.system
        if isinstance(system, Message):  # it may have a marker, too
            messages, system = [system.model_copy(update={"role": "system"}), *messages], None
        markers = 0
        for message in reversed(messages):  # the latest markers count, where there are more than the provider takes
            role = role_of(message)
            blocks = _result(message) if role == "tool" else _blocks(message)
            if getattr(message, "cache_marker", False) and blocks and markers < _MOST_MARKERS:
                markers += 1
                blocks[-1]["cache_control"] = _CACHE
            if role in ("system", "developer"):
                instructions[:0] = blocks
            elif blocks:
                role = "user" if role == "tool" else role
                if turns and turns[-1][0] == role:
                    turns[-1][1][:0] = blocks
                else:
                    turns.append((role, blocks))
        request["messages"] = [{"role": role, "content": _content(blocks)} for role, blocks in reversed(turns)]
        system = _joined(instruction_of(system), instructions)
        if system:
            request["system"] = system
        return {**request, **self._tools(call)}

    def read_event(self, event: Any, answer: Answer) -> str:
        """See `Provider`."""
        kind = event.type
        if kind == "content_block_delta":
            delta = event.delta
            if delta.type == "text_delta":
                return answer.add_text(delta.text or "")
            if delta.type == "input_json_delta":
                return answer.add_arguments(event.index, delta.partial_json or "")
            if delta.type == "thinking_delta":
                answer.add_thought(delta.thinking or "")
            elif delta.type == "signature_delta" and delta.signature:
                answer.add_thought(signature=delta.signature, provider=_SIGNED_BY)
        elif kind == "content_block_start":
            block = event.content_block
            if block.type == "tool_use":
                answer.begin_call(event.index, block.id, block.name)
            elif block.type == "redacted_thinking":
                answer.add_thought(redacted=block.data, provider=_SIGNED_BY)
        elif kind == "message_start":
            answer.model = event.message.model or answer.model
            self._count(event.message.usage, answer)
        elif kind == "message_delta":
            answer.finish_reason = event.delta.stop_reason or answer.finish_reason
            self._count(event.usage, answer)
        return ""

    def read_whole(self, whole: Any, answer: Answer) -> str:
        """See `Provider`."""
        answer.model = whole.model or answer.model
        answer.finish_reason = whole.stop_reason or None
        self._count(whole.usage, answer)
        texts: list[str] = []
        for index, block in enumerate(whole.content):
            if block.type == "text":
                texts.append(answer.add_text(block.text or ""))
            elif block.type == "thinking":
                signed = {"signature": block.signature, "provider": _SIGNED_BY} if block.signature else {}
                answer.add_thought(block.thinking or "", **signed)
            elif block.type == "redacted_thinking":
                answer.add_thought(redacted=block.data, provider=_SIGNED_BY)
            elif block.type == "tool_use":
                answer.begin_call(index, block.id, block.name)
                texts.append(answer.add_arguments(index, json.dumps(block.input, ensure_ascii=False)))
        return "".join(texts)

    def _tools(self, call: Call) -> dict[str, Any]:
        found: dict[str, Any] = {}
        tools: list[dict[str, Any]] = []
        for tool in call.tools:
            tools.append({"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters)})
            strict = strict_schema(tool.parameters) if tool.strict else None
            if strict is not None:
                tools[-1] |= {"strict": True, "input_schema": strict}
        choice = _choice(call.tool_choice)
        forced = self.text_tool(call)
        if call.reply_type is not None and forced is not None:
            description = "The answer, in the form in which it is wanted. Call this to answer."
            tools.append({"name": forced, "description": description, "input_schema": call.reply_type.schema})
            choice = choice or ({"type": "any"} if call.tools else {"type": "tool", "name": forced})
        elif call.reply_type is not None:
            schema = strict_schema(call.reply_type.schema) or call.reply_type.schema
            given = call.options.parameters.get("output_config") or {}
            found["output_config"] = {**given, "format": {"type": "json_schema", "schema": schema}}
        if tools:
            found["tools"] = tools
            if call.options.parallel_tool_calls is False and (choice or {}).get("type") != "none":
                choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
            if choice:
                found["tool_choice"] = choice
        return found

    def _has_format(self, model: str) -> bool:
        return "claude" in model and not _WITHOUT_FORMAT.search(model)

    def _count(self, usage: Any, answer: Answer) -> None:
        """Notes the tokens. Those of later events count from the start, and do not always say all again."""
        if usage is None:
            return
        written, cached = usage.cache_creation_input_tokens, usage.cache_read_input_tokens
        parts = [part for part in (usage.input_tokens, written, cached) if isinstance(part, int)]
        details = getattr(usage, "output_tokens_details", None)
        answer.count(
            input_tokens=sum(parts) if isinstance(usage.input_tokens, int) else None,  # here they do not overlap
            output_tokens=usage.output_tokens,
            cached_tokens=cached,
            cache_write_tokens=written,
            reasoning_tokens=getattr(details, "thinking_tokens", None),
        )


def _blocks(message: Message) -> list[dict[str, Any]]:
    if not parts_of(message):  # by far the most frequent case
        text = wire_text(message)
        return [{"type": "text", "text": text}] if text.strip() else []  # the provider refuses empty ones
    return [block for part in ordered_parts(message) if (block := _block(part)) is not None]


def _block(part: Any) -> dict[str, Any] | None:
    if isinstance(part, TextPart):
        return {"type": "text", "text": valid_text(part.text)} if part.text.strip() else None
    if isinstance(part, ImagePart):
        if part.data is None:
            return {"type": "image", "source": {"type": "url", "url": part.url}}
        data = base64.b64encode(part.data).decode("ascii")
        return {"type": "image", "source": {"type": "base64", "media_type": part.media_type, "data": data}}
    if isinstance(part, ThinkingPart):
        if part.provider != _SIGNED_BY:
            return None  # it would be refused
        if part.redacted is not None:
            return {"type": "redacted_thinking", "data": part.redacted}
        return {"type": "thinking", "thinking": part.text, "signature": part.signature} if part.signature else None
    assert isinstance(part, ToolCallPart)
    return {"type": "tool_use", "id": wire_id(part.id), "name": wire_name(part.name), "input": _input(part.arguments)}


def _input(arguments: str) -> Any:
    try:
        found = json.loads(arguments)
    except ValueError:
        return {}  # the result of the call tells the model what was wrong with them
    return found if isinstance(found, dict) else {}


def _result(message: Message) -> list[dict[str, Any]]:
    identifier: Any = getattr(message, "tool_call_id", None)
    blocks = _blocks(message)
    if not isinstance(identifier, str):
        return blocks  # nobody's result; it is said by the user
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": wire_id(identifier)}
    if blocks:
        result["content"] = blocks[0]["text"] if len(blocks) == 1 and blocks[0]["type"] == "text" else blocks
    if getattr(message, "is_error", False):
        result["is_error"] = True
    return [result]


def _content(blocks: list[dict[str, Any]]) -> Any:
    """Plain text where that says all."""
    if all(block["type"] == "text" and "cache_control" not in block for block in blocks):
        return "\n\n".join(block["text"] for block in blocks)
    return blocks


def _choice(choice: Any) -> dict[str, Any] | None:
    if choice is None or isinstance(choice, dict):
        return choice
    kinds = {"auto": "auto", "required": "any", "any": "any", "none": "none"}
    return {"type": kinds[choice]} if choice in kinds else {"type": "tool", "name": str(choice)}


def _joined(system: Any, instructions: list[dict[str, Any]]) -> Any:
    """What goes into `system`: text, or blocks where the caller gave blocks or wants some of it cached."""
    if isinstance(system, str):
        instructions = [{"type": "text", "text": system}, *instructions]
    elif system is not None:
        return [*system, *instructions]
    return _content(instructions)
