"""How many tokens a conversation has: estimated from its characters, or counted with the vocabulary of the model."""

import json
import logging
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Literal

from miniagents.ext.llm.llm_common import instruction_of
from miniagents.ext.llm.parts import ImagePart, TextPart, ThinkingPart, ToolCallPart, ordered_parts, parts_of
from miniagents.message import Message

__all__ = ["CountingMethod", "count_message_tokens", "count_text_tokens", "count_tokens"]

CountingMethod = Literal["simple", "accurate"]

_CHARACTERS_PER_TOKEN = 4
_PER_MESSAGE = 4  # what a message costs beside its content: who speaks, where it begins and ends
_PER_IMAGE = 1_500  # it depends on the size and the provider; this is about a screenshot
_DEFAULT_ENCODING = "o200k_base"

_logger = logging.getLogger("miniagents")


def count_tokens(messages: Iterable[Message | str], method: CountingMethod = "simple", model: str | None = None) -> int:
    """Counts the tokens of a conversation.

    Args:
        messages: The conversation.
        method: "simple" for a quarter of the characters, "accurate" for the vocabulary of the model, which
            tiktoken downloads at its first use; where that fails it is logged, and the estimate is what remains.
        model: The model; without it the vocabulary of OpenAI's newer ones is used.

    Returns:
        The number of tokens.

    Raises:
        ImportError: "accurate" needs the package tiktoken, which is not installed.
    """
    return sum(
        count_text_tokens(message, method, model) + _PER_MESSAGE
        if isinstance(message, str)
        else count_message_tokens(message, method, model)
        for message in messages
    )


def count_message_tokens(message: Message, method: CountingMethod = "simple", model: str | None = None) -> int:
    """Counts the tokens of one message, with all of its parts. See `count_tokens`.

    Args:
        message: The message.
        method: See `count_tokens`.
        model: See `count_tokens`.

    Returns:
        The number of tokens.
    """
    if not parts_of(message):
        return _PER_MESSAGE + count_text_tokens(str(message), method, model)
    tokens = _PER_MESSAGE
    for part in ordered_parts(message):
        if isinstance(part, ImagePart):
            tokens += _PER_IMAGE
        elif isinstance(part, (TextPart, ThinkingPart)):
            tokens += count_text_tokens(part.text, method, model)
        elif isinstance(part, ToolCallPart):
            tokens += count_text_tokens(f"{part.name}{part.arguments}", method, model)
    return tokens


def count_text_tokens(text: Any, method: CountingMethod = "simple", model: str | None = None) -> int:
    """Counts the tokens of a text. See `count_tokens`.

    Args:
        text: The text, or what an agent was given as `system`.
        method: See `count_tokens`.
        model: See `count_tokens`.

    Returns:
        The number of tokens.
    """
    text = instruction_of(text) or ""
    if not isinstance(text, str):
        text = json.dumps(text, default=str)
    if method == "accurate":
        encode = _encoder(model)
        if encode is not None:
            return _counted(encode, text)
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


@lru_cache(maxsize=16_384)
def _counted(encode: Callable[[str], list[int]], text: str) -> int:
    return len(encode(text))


@lru_cache(maxsize=64)
def _encoder(model: str | None) -> Callable[[str], list[int]] | None:
    """What makes tokens of a text; None where the vocabulary cannot be had, which is said once."""
    try:
        import tiktoken
    except ImportError:
        raise ImportError(
            'counting tokens accurately needs the package tiktoken: pip install "miniagents[tokens]"; or count with '
            'context_handling_method="simple"'
        ) from None
    try:
        name = tiktoken.encoding_name_for_model(model) if model else _DEFAULT_ENCODING
    except KeyError:
        name = _DEFAULT_ENCODING
    return _encoder_named(name)


@lru_cache(maxsize=16)
def _encoder_named(name: str) -> Callable[[str], list[int]] | None:
    import tiktoken

    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as error:
        _logger.warning(
            "the vocabulary %s could not be loaded (%s: %.200s); tokens are estimated from now on",
            name,
            type(error).__name__,
            error,
        )
        return None
    return encoding.encode_ordinary
