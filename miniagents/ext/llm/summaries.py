"""Summaries of what is left out of a long conversation. A summary that there is already is continued, not made anew."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from miniagents.agents import MiniAgent
from miniagents.ext.llm.cutting import cut_text
from miniagents.ext.llm.llm_common import SystemMessage, UserMessage, assistant_tokens, role_of
from miniagents.ext.llm.parts import ImagePart, TextPart, ordered_parts, tool_calls_of
from miniagents.message import Message

__all__ = ["SUMMARY", "Summaries", "SummaryLimits"]

SUMMARY = "Summary of what was said before:\n"
"""What every summary begins with, so that it is not taken for something that somebody has said."""

_SUMMARIZE = (
    "Summarize the following part of a conversation for somebody who has to go on with it: facts, decisions, names, "
    "numbers, and what is still open. Be brief, and answer with the summary only."
)
_MOST = 256  # summaries that are remembered; each is about a page


class SummaryLimits(NamedTuple):
    """How long summaries and the requests for them may be.

    Attributes:
        summary: How many tokens a summary may have; the middle of a longer one is cut out.
        request: How many tokens of a conversation are summarised at a time.
        count_tokens: What counts the tokens of a text.
    """

    summary: int
    request: int
    count_tokens: Callable[[str], int]


class Summaries:
    """The summaries of the beginnings of conversations."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, str] = OrderedDict()

    async def of(
        self, messages: Sequence[Message], summarizer: MiniAgent, limits: SummaryLimits, prompt: str | None = None
    ) -> str:
        """Summarises the beginning of a conversation.

        Args:
            messages: The messages.
            summarizer: The agent that is asked, unless it is known what it would say.
            limits: How long the summary and the requests may be.
            prompt: What it is asked for.

        Returns:
            The summary.

        Raises:
            ValueError: The agent had nothing to say.
        """
        prompt = prompt or _SUMMARIZE
        keys = _keys_of_beginnings(messages, _name_of(summarizer, prompt))
        done = next((number for number in range(len(keys), 0, -1) if keys[number - 1] in self._known), 0)
        summary = self._known[keys[done - 1]] if done else ""
        for told, number in _portions(messages, done, limits):
            so_far = f"{SUMMARY}{summary}\n\n" if summary else ""
            request = [SystemMessage(prompt), UserMessage(f"{so_far}{told}")]
            summary = cut_text(await _answer(summarizer, request), limits.summary, limits.count_tokens)
            self._remember(keys[number - 1], summary)
        if keys:
            self._known.move_to_end(keys[-1])
        return cut_text(summary, limits.summary, limits.count_tokens)

    def _remember(self, key: str, summary: str) -> None:
        self._known[key] = summary
        if len(self._known) > _MOST:
            self._known.popitem(last=False)


async def _answer(summarizer: MiniAgent, request: Sequence[Message]) -> str:
    # An error as a message would be taken for a summary.
    replies = summarizer.inquire(request, errors_as_messages=False)
    try:
        summary = "".join([token async for token in assistant_tokens(replies)]).strip()
    except asyncio.CancelledError:
        replies.cancel()  # nobody else wants it
        raise
    if not summary:
        raise ValueError(f"{summarizer.alias} was asked for a summary and replied with nothing")
    return summary


def _name_of(summarizer: MiniAgent, prompt: str) -> str:
    """What tells summaries by different agents apart, and holds also where an agent is made anew for each message."""
    told = summarizer._arguments
    return "\0".join((summarizer.alias, str(told.get("model")), str(told.get("system")), prompt))


def _keys_of_beginnings(messages: Sequence[Message], seed: str) -> list[str]:
    keys: list[str] = []
    digest = hashlib.sha256(seed.encode("utf-8", "surrogatepass"))
    for message in messages:
        digest.update(message.hash_key.encode())
        keys.append(digest.hexdigest())
    return keys


def _portions(messages: Sequence[Message], done: int, limits: SummaryLimits) -> Iterator[tuple[str, int]]:
    """What is told in one request, and how many messages are told with it: a long history may not fit into one."""
    told: list[str] = []
    room = limits.request
    for number in range(done, len(messages)):
        line = cut_text(_in_words(messages[number]), limits.request, limits.count_tokens)
        tokens = limits.count_tokens(line) + 1
        if told and tokens > room:
            yield "\n\n".join(told), number
            told, room = [], limits.request
        told.append(line)
        room -= tokens
    if told:
        yield "\n\n".join(told), len(messages)


def _in_words(message: Message) -> str:
    words = [part.text for part in ordered_parts(message) if isinstance(part, TextPart)]
    words += ["[an image]" for part in ordered_parts(message) if isinstance(part, ImagePart)]
    words += [f"[calls {call.name} with {call.arguments}]" for call in tool_calls_of(message)]
    return f"{role_of(message)}: {' '.join(words)}"
