"""Conversations as they can be sent: what has to stand together does, and what is not the model's business is out."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from miniagents.ext.llm.llm_common import ToolResultMessage, role_of
from miniagents.ext.llm.parts import ToolCallPart, tool_calls_of
from miniagents.message import Message

__all__ = ["CANCELLED", "cancelled_result", "sendable", "wire_id", "wire_name"]

CANCELLED = "cancelled"
"""What stands for the result of a call that was never finished."""

_PLAIN_ID = re.compile(r"[a-zA-Z0-9_-]{1,40}")


def sendable(messages: Sequence[Message]) -> list[Message]:
    """Mends a conversation such that every provider takes it.

    Calls of tools are followed by their results, and results by no other way: results that are missing are replaced by
    "cancelled", those that nobody asked for are left out. So is what agents have said while they worked as tools, and
    what is not for models (`for_models = False` in its class), such as the events of graphs.

    Args:
        messages: The conversation.

    Returns:
        The messages to send.
    """
    kept = [message for message in messages if _is_for_models(message)]
    sent: list[Message] = []
    for position, message in enumerate(kept):
        if _is_result(message):
            continue  # it is put after the message that asked for it
        sent.append(message)
        calls = tool_calls_of(message) if role_of(message) == "assistant" else ()
        if calls:
            results = _results_after(kept, position)
            sent += [results.get(call.id) or cancelled_result(call) for call in calls]
    return sent


def _is_for_models(message: Message) -> bool:
    return getattr(message, "for_models", True) and not getattr(message, "inside_tool_call", None)


def cancelled_result(call: ToolCallPart, text: str = CANCELLED, **fields: Any) -> ToolResultMessage:
    """The result of a call that was not finished.

    Args:
        call: The call.
        text: Why there is no result.
        **fields: Further fields of the message.

    Returns:
        The message.
    """
    return ToolResultMessage(text, tool_call_id=call.id, tool_name=call.name, is_error=True, **fields)


def wire_id(identifier: str) -> str:
    """The id of a call in an alphabet and a length that all providers take.

    Args:
        identifier: The id, maybe another provider's.

    Returns:
        The id itself, if it can be sent; else one that is always the same for it.
    """
    if _PLAIN_ID.fullmatch(identifier):
        return identifier
    return "call_" + hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def wire_name(name: str) -> str:
    """The name of a tool in an alphabet and a length that all providers take, whatever a model has called it.

    Args:
        name: The name.

    Returns:
        The name itself, if it can be sent.
    """
    return re.sub("[^a-zA-Z0-9_-]", "_", name)[:64] or "unknown"


def _results_after(messages: Sequence[Message], position: int) -> dict[str, Message]:
    """The results of the calls in a message. They stand before the next message that has calls."""
    results: dict[str, Message] = {}
    for index in range(position + 1, len(messages)):
        message = messages[index]
        if _is_result(message):
            results.setdefault(str(getattr(message, "tool_call_id")), message)  # noqa: B009  (not every class has it)
        elif tool_calls_of(message):
            break
    return results


def _is_result(message: Message) -> bool:
    return role_of(message) == "tool" and isinstance(getattr(message, "tool_call_id", None), str)
