"""Texts and messages that are too long: their middle is cut out, and a marker says how much it was."""

from collections.abc import Callable, Sequence
from typing import Any

from miniagents.ext.llm.llm_common import valid_text
from miniagents.ext.llm.parts import TextPart, parts_of
from miniagents.message import Message

__all__ = ["cut_message", "cut_text", "cut_to_fit"]

_MARKER = "\n[... {} characters were left out here ...]\n"
_LEAST = 16  # tokens that are left of a message, however little room there is: about as much as the marker alone takes


def cut_text(text: str, limit: int, count: Callable[[str], int]) -> str:
    """Cuts the middle out of a text that is too long.

    Args:
        text: The text.
        limit: How many tokens it may have, the marker included.
        count: What counts the tokens of a text.

    Returns:
        Its beginning and its end. Where not even the marker fits, the marker alone; the text as it is, where that would
        be no shorter.
    """
    if count(text) <= limit:
        return text
    # Tokens are not characters, so that the right place is searched for: from below, for the text may be huge.
    least, most = 0, max(limit, 1)
    while most < len(text) and count(_without_middle(text, most)) <= limit:
        least, most = most, 2 * most
    most = min(most, len(text))
    while least < most - 1:
        kept = (least + most) // 2
        if count(_without_middle(text, kept)) <= limit:
            least = kept
        else:
            most = kept
    shorter = _without_middle(text, least)
    return shorter if len(shorter) < len(text) else text


def cut_message(
    message: Message, limit: int, count: Callable[[Message], int], count_text: Callable[[str], int]
) -> Message:
    """Cuts the middle out of the text of a message that is too long.

    Calls of tools, thoughts and images are not cut, however long they are.

    Args:
        message: The message, which is not changed.
        limit: How many tokens it may have.
        count: What counts the tokens of a message.
        count_text: What counts the tokens of a text.

    Returns:
        A copy that is shorter; the message itself where it is short enough, or nothing can be cut.
    """
    parts = parts_of(message)
    if not any(isinstance(part, TextPart) for part in parts):
        text = (message.text or "") if parts else str(message)
        shorter = cut_text(text, limit - count(message) + count_text(text), count_text)
        return message if shorter == text else message.model_copy(update={"text": shorter})
    # Of several texts the longest is cut first.
    for place in sorted(range(len(parts)), key=lambda place: -len(_text_of(parts[place]))):
        excess = count(message) - limit
        text = _text_of(parts[place])
        if excess <= 0 or not text:
            break
        shorter = cut_text(text, count_text(text) - excess, count_text)
        if shorter != text:
            parts = (*parts[:place], TextPart(text=shorter), *parts[place + 1 :])
            message = message.model_copy(update={"parts": parts})
    return message


def cut_to_fit(
    messages: Sequence[Message], room: int, count: Callable[[Message], int], count_text: Callable[[str], int]
) -> list[Message]:
    """Cuts messages such that all of them together fit: the longest ones, all to about the same length.

    Args:
        messages: The messages.
        room: How many tokens they may have together.
        count: What counts the tokens of a message.
        count_text: What counts the tokens of a text.

    Returns:
        The messages. Where they cannot be made to fit, they are as short as can be.
    """
    counts = [count(message) for message in messages]
    if sum(counts) <= room:
        return list(messages)
    floors = [count(cut_message(message, _LEAST, count, count_text)) for message in messages]
    least, most = _LEAST, max(counts, default=0)
    while least < most:
        level = (least + most + 1) // 2
        if sum(max(floor, min(level, full)) for floor, full in zip(floors, counts, strict=True)) <= room:
            least = level
        else:
            most = level - 1
    return [cut_message(message, least, count, count_text) for message in messages]


def _text_of(part: Any) -> str:
    return part.text if isinstance(part, TextPart) else ""


def _without_middle(text: str, kept: int) -> str:
    if kept >= len(text):
        return text
    end = text[len(text) - kept // 2 :]  # not `[-(kept // 2) :]`, which is everything where nothing is kept
    return valid_text(text[: kept - kept // 2]) + _MARKER.format(len(text) - kept) + valid_text(end)
