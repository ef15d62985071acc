"""Conversations as plain data in the words of OpenAI's chat completions, which is what most histories are kept in."""

from collections.abc import Mapping
from typing import Any

from miniagents.ext.llm.llm_common import (
    AssistantMessage,
    ModelMessage,
    SystemMessage,
    ToolResultMessage,
    UserMessage,
    role_of,
)
from miniagents.ext.llm.openai_chat import data_url
from miniagents.ext.llm.parts import ImagePart, TextPart, ToolCallPart, ordered_parts, tool_calls_of
from miniagents.message import Message

__all__ = ["message_from_dict", "message_to_dict"]

_CLASSES: Mapping[str, type[ModelMessage]] = {
    "system": SystemMessage,
    "developer": SystemMessage,
    "user": UserMessage,
    "assistant": AssistantMessage,
}


def message_from_dict(plain: Mapping[str, Any]) -> Message:
    """Makes a message of plain data.

    Args:
        plain: `{"role": ..., "content": ...}`, with `tool_calls` or `tool_call_id` where there are any. The content is
            a text, or a list of texts and images. Further keys become fields of the message.

    Returns:
        The message.

    Raises:
        ValueError: It has no role, or one that is not known.
    """
    fields = dict(plain)
    role = fields.pop("role", None)
    content = fields.pop("content", None)
    parts: list[Any] = []
    if isinstance(content, list):
        parts = [_part(part) for part in content]
        content = "".join(part.text for part in parts if isinstance(part, TextPart))
        if all(isinstance(part, TextPart) for part in parts):
            parts = []
    for call in fields.pop("tool_calls", None) or ():
        function = call["function"]
        parts.append(ToolCallPart(id=call["id"], name=function["name"], arguments=function.get("arguments") or "{}"))
    if role == "tool":
        fields.setdefault("tool_name", fields.pop("name", ""))
        return ToolResultMessage(content, parts=parts, **fields)
    if role not in _CLASSES:
        raise ValueError(f"a message has the role {role!r}; it has to be one of {', '.join(_CLASSES)}, tool")
    return _CLASSES[role](content, role=role, parts=parts, **fields)


def message_to_dict(message: Message) -> dict[str, Any]:
    """Makes plain data of a message. What is neither text nor image nor call of a tool is left out.

    Args:
        message: The message.

    Returns:
        See `message_from_dict`.
    """
    role = role_of(message)
    text = str(message)
    plain: dict[str, Any] = {"role": role}
    if role == "tool":
        plain["tool_call_id"] = getattr(message, "tool_call_id", "")
    calls = tool_calls_of(message)
    images = [part for part in ordered_parts(message) if isinstance(part, ImagePart)]
    if images:
        plain["content"] = [
            _plain_part(part) for part in ordered_parts(message) if isinstance(part, (TextPart, ImagePart))
        ]
    else:
        plain["content"] = None if calls and not text else text
    if calls:
        plain["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return plain


def _part(plain: Any) -> TextPart | ImagePart:
    if isinstance(plain, str):
        return TextPart(text=plain)
    if plain.get("type") == "text":
        return TextPart(text=plain["text"])
    if plain.get("type") == "image_url":
        url = plain["image_url"] if isinstance(plain["image_url"], str) else plain["image_url"]["url"]
        return ImagePart.from_url(url)
    raise ValueError(f"a content part of the type {plain.get('type')!r} is not known; there are text and image_url")


def _plain_part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": data_url(part)}}
