"""What of a long conversation a model is sent: as much of its end as fits, with what belongs together kept together."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from miniagents.agents import MiniAgent, miniagent
from miniagents.ext.llm.budget import BudgetExceededError, UnknownPriceError
from miniagents.ext.llm.conversation import sendable
from miniagents.ext.llm.hooks import Caller, ContextOverflow, Hooks, HooksArgument
from miniagents.ext.llm.llm_common import SystemMessage, UserMessage, role_of, valid_text
from miniagents.ext.llm.parts import TextPart, ToolCallPart, parts_of, tool_calls_of
from miniagents.ext.llm.tokens import CountingMethod, count_message_tokens, count_text_tokens
from miniagents.interaction import InteractionContext
from miniagents.message import Message

__all__ = ["ContextLimits", "Fitted", "context_agent", "fit"]

_logger = logging.getLogger("miniagents")

_SUMMARIZE = (
    "Summarize the following part of a conversation for somebody who has to go on with it: facts, decisions, names, "
    "numbers, and what is still open. Be brief, and answer with the summary only."
)
_SUMMARY = "Summary of what was said before:\n"
_CUT = "\n[... {} characters were left out here ...]\n"
_LEAST = 16  # tokens that are left of a message that has to be cut, however little room there is


@dataclass(frozen=True, kw_only=True)
class ContextLimits:
    """Limits for what is sent to a model. What is None is not limited.

    Attributes:
        context_handling_method: "simple" to estimate tokens from characters, "accurate" to count them.
        max_context_length: How many tokens are sent, the system prompt included.
        max_token_per_message: How many tokens of a message; the middle of a longer one is cut out.
        max_messages_in_context: How many messages, the system prompt not counted.
        dropping_strategy: "simple" to drop the oldest messages, "summary_dropping" to have them summarised.
        prompt_when_context_overflow: What the model is told, as a system note, when something is not sent.
        prompt_when_message_is_dropped: What stands in the place of what is dropped; with "summary_dropping", the
            instruction for who summarises it.
        keep_function_calls_in_context: Whether calls of tools and their results in earlier turns are sent.

    Raises:
        ValueError: A limit is not positive, or a word is not one of those above.
    """

    context_handling_method: str = "simple"
    max_context_length: int | None = None
    max_token_per_message: int | None = None
    max_messages_in_context: int | None = None
    dropping_strategy: str = "simple"
    prompt_when_context_overflow: str | None = None
    prompt_when_message_is_dropped: str | None = None
    keep_function_calls_in_context: bool = True

    def __post_init__(self) -> None:
        """Refuses what cannot be meant."""
        for name in ("max_context_length", "max_token_per_message", "max_messages_in_context"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} is {limit}; a limit is at least 1, or None for no limit")
        for name, words in _WORDS.items():
            word = getattr(self, name)
            if word.lower() not in words:
                raise ValueError(f"{name} is {word!r}; it has to be one of {', '.join(words)}")

    @property
    def method(self) -> CountingMethod:
        """How tokens are counted."""
        return "accurate" if self.context_handling_method.lower() == "accurate" else "simple"

    @property
    def is_unlimited(self) -> bool:
        """Whether everything is sent."""
        limits = (self.max_context_length, self.max_token_per_message, self.max_messages_in_context)
        return self.keep_function_calls_in_context and all(limit is None for limit in limits)


_WORDS = {
    "context_handling_method": ("simple", "accurate"),
    "dropping_strategy": ("simple", "summary_dropping"),
}


class Fitted(NamedTuple):
    """What is sent of a conversation.

    Attributes:
        messages: What is sent.
        dropped: What is not.
        context_length: The tokens of the conversation before anything was dropped or cut, the system prompt included.
    """

    messages: tuple[Message, ...]
    dropped: tuple[Message, ...]
    context_length: int


@miniagent
async def context_agent(
    ctx: InteractionContext,
    system: Any = None,
    model: str | None = None,
    summarizer: MiniAgent | None = None,
    hooks: HooksArgument = None,
    user_id: str | None = None,
    chat_id: str | None = None,
    agent_name: str | None = None,
    **limits: Any,
) -> None:
    """Replies with as much of the conversation as fits.

    Args:
        ctx: What is sent: the conversation.
        system: The system prompt that the model gets beside it, which counts.
        model: The model, whose vocabulary is used to count accurately.
        summarizer: The agent that summarises what is dropped, with `dropping_strategy="summary_dropping"`.
        hooks: See `miniagents.ext.llm.hooks`; of `on_context_overflow` is told here.
        user_id: For the event.
        chat_id: For the event.
        agent_name: For the event.
        **limits: See `ContextLimits`.

    Raises:
        TypeError: There is no such limit.

    Example:
        ```python
        await achain_loop([user, AWAIT, context_agent.fork(max_context_length=8_000), openai_agent])
        ```
    """
    known = {field.name for field in fields(ContextLimits)}
    unknown = [name for name in limits if name not in known]
    if unknown:
        raise TypeError(f"there is no limit {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    caller = Caller(user_id=user_id, chat_id=chat_id, agent_name=agent_name or ctx.this_agent.alias)
    fitted = await fit(
        await ctx.message_promises,
        ContextLimits(**limits),
        system=system,
        model=model,
        summarizer=summarizer,
        hooks=Hooks(hooks, caller),
    )
    ctx.reply(fitted.messages)


async def fit(
    messages: Sequence[Message],
    limits: ContextLimits,
    *,
    system: Any = None,
    model: str | None = None,
    summarizer: MiniAgent | None = None,
    hooks: Hooks | None = None,
) -> Fitted:
    """Chooses what of a conversation is sent. The messages themselves are not changed.

    System messages are always sent, and so is the newest message of the user. A message that calls tools and the
    results of these calls are sent together or not at all. What is dropped is the oldest; of what remains, messages are
    cut in their middle where there is no other way. Limits that cannot be met are exceeded by as little as possible.

    Args:
        messages: The conversation.
        limits: The limits.
        system: The system prompt that is sent beside it.
        model: The model.
        summarizer: Who summarises what is dropped.
        hooks: Who is told when something is dropped.

    Returns:
        What is sent, and what is not.
    """
    window = _Window(limits, system, model)
    kept = sendable(messages)
    length = window.fixed + sum(map(window.count, kept))
    if not limits.keep_function_calls_in_context:
        kept = _without_old_calls(kept)
    if limits.max_token_per_message is not None:
        kept = [window.cut(message, limits.max_token_per_message) for message in kept]
    instructions = [message for message in kept if _is_instruction(message)]
    units = _units([message for message in kept if not _is_instruction(message)])
    room = None if limits.max_context_length is None else limits.max_context_length - window.fixed
    if room is not None:
        room -= sum(map(window.count, instructions))
    dropped = window.drop(units, room)
    notes: list[Message] = []
    if dropped:
        notes = [*window.overflow_note, *await _in_place_of(dropped, limits, window, summarizer)]
        if hooks is not None:
            await hooks.fire(
                ContextOverflow,
                context_length=length,
                max_context_length=limits.max_context_length,
                dropped=tuple(dropped),
            )
    rest = [message for unit in units for message in unit]
    if room is not None:
        rest = window.squeeze(rest, room - sum(map(window.count, notes)))
    return Fitted((*instructions, *notes, *rest), tuple(dropped), length)


class _Window:
    """The limits, and what counts against them."""

    def __init__(self, limits: ContextLimits, system: Any, model: str | None) -> None:
        self._limits = limits
        self._method: CountingMethod = limits.method
        self._model = model
        self.fixed = self.count_text(system) if system else 0
        prompt = limits.prompt_when_context_overflow
        self.overflow_note: list[Message] = [SystemMessage(prompt)] if prompt else []

    def count(self, message: Message) -> int:
        return count_message_tokens(message, self._method, self._model)

    def count_text(self, text: Any) -> int:
        return count_text_tokens(text, self._method, self._model)

    def drop(self, units: list[list[Message]], room: int | None) -> list[Message]:
        """Takes out of the units what is not sent, the oldest first.

        Returns:
            What was taken out.
        """
        most = self._limits.max_messages_in_context
        tokens = [sum(map(self.count, unit)) for unit in units]
        total, number = sum(tokens), sum(map(len, units))
        if (room is None or total <= room) and (most is None or number <= most):
            return []
        notes = sum(map(self.count, self.overflow_note)) + self._room_for_note(room)
        newest = max((place for place, unit in enumerate(units) if role_of(unit[0]) == "user"), default=len(units) - 1)
        out: set[int] = set()
        # What comes after the newest message of the user is the turn in progress: the last of it is sent in any case.
        for place in [*range(newest), *range(newest + 1, len(units) - 1)]:
            is_enough = (room is None or total + notes <= room) and (most is None or number <= most)
            # A conversation that begins with what the model has said is refused by some.
            if is_enough and (place > newest or role_of(units[place][0]) == "user"):
                break
            out.add(place)
            total -= tokens[place]
            number -= len(units[place])
        dropped = [message for place in sorted(out) for message in units[place]]
        units[:] = [unit for place, unit in enumerate(units) if place not in out]
        return dropped

    def summary_room(self, room: int | None) -> int | None:
        return None if room is None else max(room // 4, _LEAST)

    def _room_for_note(self, room: int | None) -> int:
        if self._limits.dropping_strategy.lower() == "summary_dropping":
            return self.summary_room(room) or 0
        prompt = self._limits.prompt_when_message_is_dropped
        return self.count(SystemMessage(prompt)) if prompt else 0

    def squeeze(self, messages: list[Message], room: int) -> list[Message]:
        """Cuts messages, the longest first, until all of them fit, or nothing more can be cut."""
        counts = [self.count(message) for message in messages]
        while counts and sum(counts) > room:
            place = max(range(len(counts)), key=counts.__getitem__)
            wanted = max(counts[place] - (sum(counts) - room), _LEAST)
            shorter = self.cut(messages[place], wanted)
            shorter_count = self.count(shorter)
            if shorter_count >= counts[place]:
                break
            messages[place], counts[place] = shorter, shorter_count
        return messages

    def cut(self, message: Message, limit: int) -> Message:
        """Cuts the middle out of the text of a message that is too long. Calls of tools and images stay as they are."""
        excess = self.count(message) - limit
        text = message.text or ""
        if excess <= 0 or not text:
            return message
        # Tokens are not characters, so that the right place is searched for.
        least, most = 0, len(text)
        while least < most:
            kept = (least + most + 1) // 2
            if self.count(_with_text(message, _cut(text, kept))) <= limit:
                least = kept
            else:
                most = kept - 1
        shortened = _cut(text, least)
        return _with_text(message, shortened) if len(shortened) < len(text) else message


def _units(messages: Sequence[Message]) -> list[list[Message]]:
    """What is sent together or not at all."""
    units: list[list[Message]] = []
    for message in messages:
        if role_of(message) == "tool" and units:
            units[-1].append(message)
        else:
            units.append([message])
    return units


def _is_instruction(message: Message) -> bool:
    return role_of(message) in ("system", "developer")


def _without_old_calls(messages: Sequence[Message]) -> list[Message]:
    newest = max((place for place, message in enumerate(messages) if role_of(message) == "user"), default=0)
    kept: list[Message] = []
    for place, message in enumerate(messages):
        if place < newest and role_of(message) == "tool":
            continue
        if place < newest and tool_calls_of(message):
            if not message.text:
                continue
            # Signed thoughts belong to the calls that they led to.
            message = message.model_copy(update={"parts": []})
        kept.append(message)
    return kept


def _with_text(message: Message, text: str) -> Message:
    parts = parts_of(message)
    if any(isinstance(part, TextPart) for part in parts):
        calls = [part for part in parts if not isinstance(part, TextPart)]
        before = [part for part in calls if not isinstance(part, ToolCallPart)]
        after = [part for part in calls if isinstance(part, ToolCallPart)]
        return message.model_copy(update={"text": text, "parts": [*before, TextPart(text=text), *after]})
    return message.model_copy(update={"text": text})


def _cut(text: str, kept: int) -> str:
    if kept >= len(text):
        return text
    end = text[len(text) - kept // 2 :]
    return valid_text(text[: kept - kept // 2]) + _CUT.format(len(text) - kept) + valid_text(end)


async def _in_place_of(
    dropped: list[Message], limits: ContextLimits, window: _Window, summarizer: MiniAgent | None
) -> list[Message]:
    """What stands where messages were dropped."""
    prompt = limits.prompt_when_message_is_dropped
    if limits.dropping_strategy.lower() == "summary_dropping":
        if summarizer is None:
            raise ValueError('dropping_strategy="summary_dropping" needs an agent that summarises: `summarizer=`')
        try:
            summary = await _summaries.of(dropped, summarizer, prompt or _SUMMARIZE)
        except (BudgetExceededError, UnknownPriceError):
            raise
        except Exception:
            _logger.exception("what is dropped could not be summarised; it is dropped without")
            return []
        room = None if limits.max_context_length is None else window.summary_room(limits.max_context_length)
        note = SystemMessage(f"{_SUMMARY}{summary}")
        return [note if room is None else window.cut(note, room)]
    return [SystemMessage(prompt)] if prompt else []


class _Summaries:
    """Summaries of beginnings of conversations. One that grows is summarised from the summary that there is."""

    _MOST = 256

    def __init__(self) -> None:
        self._known: OrderedDict[str, str] = OrderedDict()

    async def of(self, messages: list[Message], summarizer: MiniAgent, prompt: str) -> str:
        keys = _prefix_keys(messages, f"{summarizer.alias}: {prompt}")
        done = next((place for place in range(len(keys), 0, -1) if keys[place - 1] in self._known), 0)
        summary = self._known[keys[done - 1]] if done else ""
        if done < len(messages):
            told = [f"{_SUMMARY}{summary}"] if summary else []
            told += [_told(message) for message in messages[done:]]
            request = [SystemMessage(prompt), UserMessage("\n\n".join(told))]
            summary = str(await summarizer.inquire(request).as_single_promise())
            self._known[keys[-1]] = summary
            while len(self._known) > self._MOST:
                self._known.popitem(last=False)
        self._known.move_to_end(keys[-1])
        return summary


_summaries = _Summaries()


def _prefix_keys(messages: list[Message], seed: str) -> list[str]:
    keys: list[str] = []
    digest = hashlib.sha256(seed.encode("utf-8", "surrogatepass"))
    for message in messages:
        digest.update(message.hash_key.encode())
        keys.append(digest.hexdigest())
    return keys


def _told(message: Message) -> str:
    calls = "".join(f" [calls {call.name} with {call.arguments}]" for call in tool_calls_of(message))
    return f"{role_of(message)}: {message}{calls}"
