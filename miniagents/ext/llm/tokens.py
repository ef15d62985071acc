"""How many tokens a conversation has: estimated from its characters, or counted with the vocabulary of the model."""

import hashlib
import json
import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Any, Literal

from miniagents.ext.llm.llm_common import instruction_of
from miniagents.ext.llm.parts import ImagePart, TextPart, ThinkingPart, ToolCallPart, ordered_parts, parts_of
from miniagents.ext.threads import in_thread
from miniagents.message import Message

__all__ = ["CountingMethod", "count_message_tokens", "count_text_tokens", "count_tokens", "load_vocabulary"]

CountingMethod = Literal["simple", "accurate"]

_CHARACTERS_PER_TOKEN = 4
_PER_MESSAGE = 4  # what a message costs beside its content: who speaks, where it begins and ends
_PER_IMAGE = 1_500  # it depends on the size and the provider; this is about a screenshot
_DEFAULT_ENCODING = "o200k_base"
_PATIENCE = 20.0  # seconds that a conversation waits for a download
_MOST_KNOWN = 65_536
_SHORT = 64  # characters up to which a text takes no more memory than its digest

_logger = logging.getLogger("miniagents")


def count_tokens(
    messages: Message | str | Iterable[Message | str], method: CountingMethod = "simple", model: str | None = None
) -> int:
    """Counts the tokens of a conversation: its texts, thoughts, images and calls of tools.

    A message costs 4 tokens beside its content, and an image is taken for 1,500 tokens, whatever its size.

    Args:
        messages: The conversation, or one message of it.
        method: "simple" for a quarter of the characters, "accurate" for the vocabulary of the model, which
            tiktoken downloads at its first use; where that fails it is logged once, and the estimate is what remains.
        model: The model. Without it, and for models that tiktoken does not know, the vocabulary of OpenAI's newer ones
            is used, o200k_base.

    Returns:
        The number of tokens.

    Raises:
        ImportError: "accurate" needs the package tiktoken, which is not installed.
    """
    if isinstance(messages, (Message, str)):
        messages = (messages,)
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
        elif isinstance(part, TextPart):
            tokens += count_text_tokens(part.text, method, model)
        elif isinstance(part, ThinkingPart):
            tokens += count_text_tokens(part.text, method, model) + _estimated(part.redacted or "")
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
        tokens = _vocabulary_for(model).count(text)
        if tokens is not None:
            return tokens
    return _estimated(text)


async def load_vocabulary(model: str | None = None) -> None:
    """Gets ready to count accurately, so that the first count does not hold up the event loop by a download.

    Args:
        model: See `count_tokens`.

    Raises:
        ImportError: The package tiktoken is not installed.
    """
    if "tiktoken" not in sys.modules or not _vocabulary_for(model).is_settled:
        await in_thread(lambda: _vocabulary_for(model).load_patiently(_PATIENCE))


def _estimated(text: str) -> int:
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


class _Vocabulary:
    """The vocabulary of some models. It is loaded once, whoever needs it first, and failures are final.

    Attributes:
        is_settled: Whether it is clear by what to count: the vocabulary is there, or nobody waits for it any longer.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._encode: Callable[[str], list[int]] | None = None
        self._known: OrderedDict[str | bytes, int] = OrderedDict()
        self.is_settled = False

    def count(self, text: str) -> int | None:
        """The tokens of a text; None where there is no vocabulary."""
        if not self.is_settled:
            self.load()
        if self._encode is None:
            return None
        # The same messages are counted before each request. What is kept of them is not their text, which may be long.
        key = text if len(text) <= _SHORT else hashlib.blake2b(text.encode(), digest_size=16).digest()
        tokens = self._known.pop(key, None)
        if tokens is None:
            tokens = len(self._encode(text))
        self._known[key] = tokens
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return tokens

    def load(self) -> None:
        import tiktoken

        with self._lock:
            if self._encode is not None or self.is_settled:
                return
            try:
                self._encode = tiktoken.get_encoding(self._name).encode_ordinary
            except Exception as error:
                self._settle_for_estimates(f"could not be loaded ({type(error).__name__}: {error!s:.200})")
            self.is_settled = True  # where it has come late, it is used from now on

    def load_patiently(self, seconds: float) -> None:
        """Loads it, and settles for estimates where that takes too long: tiktoken's download has no time-out."""
        loading = threading.Thread(target=self.load, name=f"vocabulary {self._name}", daemon=True)
        loading.start()
        loading.join(seconds)
        if loading.is_alive():
            self._settle_for_estimates(f"could not be loaded within {seconds:g} seconds")

    def _settle_for_estimates(self, problem: str) -> None:
        if not self.is_settled:  # of one failure is enough said
            self.is_settled = True
            _logger.warning("the vocabulary %s %s; tokens are estimated from now on", self._name, problem)


@lru_cache(maxsize=256)
def _vocabulary_for(model: str | None) -> _Vocabulary:
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
    return _vocabulary(name)


@cache  # there are but a few
def _vocabulary(name: str) -> _Vocabulary:
    return _Vocabulary(name)
