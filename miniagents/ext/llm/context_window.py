"""What of a long conversation a model is sent: as much of its end as fits, with what belongs together kept together."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

from miniagents.agents import MiniAgent, miniagent
from miniagents.ext.llm.budget import BudgetExceededError, UnknownPriceError
from miniagents.ext.llm.conversation import cancelled_result
from miniagents.ext.llm.cutting import cut_message, cut_to_fit
from miniagents.ext.llm.hooks import Caller, ContextOverflow, Hooks, HooksArgument
from miniagents.ext.llm.llm_common import SystemMessage, UserMessage, role_of
from miniagents.ext.llm.parts import ImagePart, TextPart, ToolCallPart, parts_of, tool_calls_of
from miniagents.ext.llm.summaries import SUMMARY, Summaries, SummaryLimits
from miniagents.ext.llm.tokens import CountingMethod, count_message_tokens, count_text_tokens, load_vocabulary
from miniagents.interaction import InteractionContext
from miniagents.message import Message

__all__ = ["ContextLimits", "Fitted", "context_agent", "fit"]

_logger = logging.getLogger("miniagents")

_NUMBERS = ("max_context_length", "max_token_per_message", "max_messages_in_context")
_WORDS = {
    "context_handling_method": ("simple", "accurate"),
    "dropping_strategy": ("simple", "summary_dropping"),
}
_LONGEST_SUMMARY = 2_000  # tokens
_SHORTEST_SUMMARY = 32
_SUMMARIZED_AT_ONCE = 25_000  # tokens, where there is no limit to the context


@dataclass(frozen=True, kw_only=True)
class ContextLimits:
    """Limits for what is sent to a model. What is None is not limited.

    Attributes:
        context_handling_method: "simple" to estimate tokens from characters, "accurate" to count them; in any case,
            like "Accurate".
        max_context_length: How many tokens are sent, the system prompt included.
        max_token_per_message: How many tokens of a message; the middle of a longer one is cut out. The system prompt is
            never cut.
        max_messages_in_context: How many messages, the system prompt not counted.
        dropping_strategy: "simple" to drop the oldest messages, "summary_dropping" to have them summarised.
        prompt_when_context_overflow: What the model is told, as a system note, when something is dropped.
        prompt_when_message_is_dropped: What stands in the place of what is dropped, as a system note; with
            "summary_dropping", the instruction for who summarises it.
        keep_function_calls_in_context: Whether calls of tools and their results in earlier turns are sent.

    Raises:
        ValueError: A limit is not positive, or a word is not one of those above.
        TypeError: A limit is no whole number, or a prompt no text.
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
        for name in _NUMBERS:
            limit = getattr(self, name)
            if limit is None:
                continue
            if not isinstance(limit, int) or isinstance(limit, bool):
                raise TypeError(f"{name} is {limit!r:.100}; a limit is a whole number, or None for no limit")
            if limit < 1:
                raise ValueError(f"{name} is {limit}; a limit is at least 1, or None for no limit")
        for name, words in _WORDS.items():
            word = getattr(self, name)
            if not isinstance(word, str) or word.lower() not in words:
                raise ValueError(f"{name} is {word!r:.100}; it has to be one of {', '.join(words)}")
            object.__setattr__(self, name, word.lower())
        for name in ("prompt_when_context_overflow", "prompt_when_message_is_dropped"):
            prompt = getattr(self, name)
            if prompt is not None and not isinstance(prompt, str):
                raise TypeError(f"{name} is {prompt!r:.100}; it has to be a text, or None for none")

    @classmethod
    def of(cls, limits: Mapping[str, Any]) -> Self:
        """Makes limits of keyword arguments.

        Args:
            limits: The limits by name.

        Returns:
            The limits.

        Raises:
            TypeError: There is no limit of that name.
        """
        known = [option.name for option in fields(cls)]
        unknown = [name for name in limits if name not in known]
        if unknown:
            raise TypeError(f"there is no limit {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
        return cls(**limits)

    @property
    def method(self) -> CountingMethod:
        """How tokens are counted."""
        return "accurate" if self.context_handling_method == "accurate" else "simple"

    @property
    def is_unlimited(self) -> bool:
        """Whether everything is sent."""
        return self.keep_function_calls_in_context and all(getattr(self, name) is None for name in _NUMBERS)


class Fitted(NamedTuple):
    """What is sent of a conversation.

    Attributes:
        messages: What is sent.
        dropped: What is not, for lack of room.
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
    checked_limits = ContextLimits.of(limits)
    told = Hooks(hooks, Caller(user_id=user_id, chat_id=chat_id, agent_name=agent_name or ctx.this_agent.alias))
    conversation = await ctx.message_promises
    fitted = await fit(conversation, checked_limits, system=system, model=model, summarizer=summarizer, hooks=told)
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

    System messages are always sent, and so are the newest message of the user and the end of the conversation. A
    message that calls tools, the results of these calls and what agents have said while they worked on them are sent
    together or not at all; results that are missing are filled with "cancelled". What is dropped is the oldest; of what
    must be sent, messages are cut in their middle where there is no other way. Limits that cannot be met are exceeded
    by as little as possible.

    What the caller has to say about what was dropped is a system message. A summary is a message of the user: it comes
    from what users and tools have said, and is not to have the authority of a system prompt.

    Args:
        messages: The conversation.
        limits: The limits.
        system: The system prompt that is sent beside it.
        model: The model.
        summarizer: Who summarises what is dropped.
        hooks: Who is told when something is dropped; None where they were told already.

    Returns:
        What is sent, and what is not.

    Raises:
        ValueError: Something is to be summarised, and there is nobody to do it.
        BudgetExceededError: There is no money left for a summary.
        ImportError: Tokens are to be counted accurately, which needs the package tiktoken.
    """
    if limits.dropping_strategy == "summary_dropping" and not isinstance(summarizer, MiniAgent):
        raise ValueError(
            'dropping_strategy="summary_dropping" needs an agent that summarises: `summarizer=`, which is '
            f"{summarizer!r:.100}"
        )
    if limits.method == "accurate":
        await load_vocabulary(model)
    window = _Window(limits, system, model)
    units = _units(messages)
    length = window.fixed + sum(window.count(message) for unit in units for message in unit.told)
    if not limits.keep_function_calls_in_context:
        _leave_out_earlier_calls(units)
    window.take_fixed(unit for unit in units if unit.is_instruction)
    said = [unit for unit in units if unit.sent and not unit.is_instruction]
    if not window.fits(said):
        window.choose(said)
    dropped = [message for unit in said if not unit.is_kept for message in unit.messages]
    notes: list[Message] = []
    if dropped:
        if hooks is not None:
            is_too_long = limits.max_context_length is not None and length > limits.max_context_length
            await hooks.fire(
                ContextOverflow,
                context_length=length,
                max_context_length=limits.max_context_length if is_too_long else None,
                dropped=tuple(dropped),
            )
        notes = [*window.overflow_note, *await window.in_place_of(dropped, summarizer)]
    window.squeeze([unit for unit in said if unit.is_kept], sum(map(window.count, notes)))
    return Fitted(tuple(_put_together(units, notes)), tuple(dropped), length)


@dataclass(eq=False, slots=True)
class _Unit:
    """What is sent together or not at all: a message, or one with calls of tools together with all that came of them.

    Attributes:
        role: Who speaks.
        messages: What was said.
        missing: What stands for results that there are not.
        sent: What is sent of it, if it is.
        cut: The same, with long messages cut, once somebody has counted its tokens.
        tokens: How many tokens that has.
        is_kept: Whether it is sent.
    """

    role: str
    messages: list[Message]
    missing: list[Message] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    cut: list[Message] | None = None
    tokens: int = 0
    is_kept: bool = True

    @property
    def is_instruction(self) -> bool:
        return self.role in ("system", "developer")

    @property
    def told(self) -> list[Message]:
        """What the model is told of it."""
        return [message for message in (*self.messages, *self.missing) if _is_told(message)]

    @property
    def number(self) -> int:
        return sum(map(_is_told, self.sent))


class _Window:
    """The limits, and what counts against them."""

    def __init__(self, limits: ContextLimits, system: Any, model: str | None) -> None:
        self._limits = limits
        self._method: CountingMethod = limits.method
        self._model = model
        self.fixed = self.count_text(system) if system else 0
        self._room: int | None = None
        prompt = limits.prompt_when_context_overflow
        self.overflow_note: list[Message] = [SystemMessage(prompt)] if prompt else []

    def count(self, message: Message) -> int:
        return count_message_tokens(message, self._method, self._model)

    def count_text(self, text: Any) -> int:
        return count_text_tokens(text, self._method, self._model)

    def take_fixed(self, instructions: Iterable[_Unit]) -> None:
        """Notes how much room the instructions leave."""
        if self._limits.max_context_length is not None:
            taken = sum(self.count(message) for unit in instructions for message in unit.sent)
            self._room = self._limits.max_context_length - self.fixed - taken

    def fits(self, units: Sequence[_Unit]) -> bool:
        """Whether all of this can be sent."""
        most = self._limits.max_messages_in_context
        if most is not None and sum(unit.number for unit in units) > most:
            return False
        if self._room is not None:
            tokens = 0
            for unit in reversed(units):  # of most of a conversation that is too long nobody needs to know the length
                tokens += self._weigh(unit)
                if tokens > self._room:
                    return False
        return True

    def choose(self, units: Sequence[_Unit]) -> None:
        """Decides what is sent. What is newer than the newest message of the user is the turn in progress."""
        newest = max((place for place, unit in enumerate(units) if unit.role == "user"), default=len(units) - 1)
        last = len(units) - 1
        for place, unit in enumerate(units):
            unit.is_kept = place in (newest, last)
        compulsory = [unit for unit in units if unit.is_kept]
        tokens = sum(map(self._weigh, compulsory))
        number = sum(unit.number for unit in compulsory)
        room = None if self._room is None else self._room - self._taken_by_notes()
        for place in (*range(last - 1, newest, -1), *range(newest - 1, -1, -1)):
            unit = units[place]
            tokens += self._weigh(unit) if room is not None else 0
            number += unit.number
            if room is not None and tokens > room:
                break
            if self._limits.max_messages_in_context is not None and number > self._limits.max_messages_in_context:
                break
            unit.is_kept = True
        if units[newest].role == "user":  # some providers refuse a conversation that begins with the model
            first = next(place for place, unit in enumerate(units) if unit.is_kept and unit.role == "user")
            for unit in units[:first]:
                unit.is_kept = False

    def squeeze(self, units: Sequence[_Unit], taken: int) -> None:
        """Cuts what has to be sent and is too long. Nothing is too long where something could be dropped instead."""
        tokens = sum(map(self._weigh, units))
        if self._room is None or tokens <= self._room - taken:
            for unit in units:
                unit.sent = unit.cut or []
            return
        # It is the whole messages that are cut, so that the markers say how much is missing of them.
        told = [message for unit in units for message in unit.sent if _is_told(message)]
        cut = iter(cut_to_fit(told, self._room - taken, self.count, self.count_text))
        for unit in units:
            unit.sent = [next(cut) if _is_told(message) else message for message in unit.sent]

    async def in_place_of(self, dropped: Sequence[Message], summarizer: MiniAgent | None) -> list[Message]:
        """What stands where messages were dropped."""
        prompt = self._limits.prompt_when_message_is_dropped
        if self._limits.dropping_strategy == "simple" or summarizer is None:
            return [SystemMessage(prompt)] if prompt else []
        limits = SummaryLimits(
            summary=self._longest_summary() - self.count(UserMessage(SUMMARY)) - 1,
            request=max((self._limits.max_context_length or _SUMMARIZED_AT_ONCE) // 2, _LONGEST_SUMMARY),
            count_tokens=self.count_text,
        )
        try:
            summary = await _summaries.of([*filter(_is_told, dropped)], summarizer, limits, prompt)
        except (BudgetExceededError, UnknownPriceError):
            raise
        except Exception:
            _logger.exception("what is dropped could not be summarised; it is dropped without")
            return []
        return [UserMessage(f"{SUMMARY}{summary}")]

    def _taken_by_notes(self) -> int:
        taken = sum(map(self.count, self.overflow_note))
        if self._limits.dropping_strategy == "summary_dropping":
            return taken + self._longest_summary()
        prompt = self._limits.prompt_when_message_is_dropped
        return taken + (self.count(SystemMessage(prompt)) if prompt else 0)

    def _longest_summary(self) -> int:
        longest = min(_LONGEST_SUMMARY, self._limits.max_token_per_message or _LONGEST_SUMMARY)
        if self._room is not None:
            longest = min(longest, self._room // 4)
        return max(longest, _SHORTEST_SUMMARY)

    def _weigh(self, unit: _Unit) -> int:
        """The tokens of what is sent of a unit when messages that are too long by themselves are cut."""
        if unit.cut is None:
            limit = self._limits.max_token_per_message
            unit.cut = unit.sent
            if limit is not None:
                unit.cut = [
                    cut_message(message, limit, self.count, self.count_text) if _is_told(message) else message
                    for message in unit.sent
                ]
            unit.tokens = sum(self.count(message) for message in unit.cut if _is_told(message))
        return unit.tokens


_summaries = Summaries()


def _units(messages: Sequence[Message]) -> list[_Unit]:
    """Finds what belongs together. Results that nobody has asked for, and what led to them, belong to nothing."""
    units: list[_Unit] = []
    asking: _Unit | None = None  # the newest one that calls tools
    unanswered: dict[str, ToolCallPart] = {}
    for message in messages:
        role = role_of(message)
        call_id = getattr(message, "tool_call_id", None)
        if not _is_told(message):
            if asking is not None and asking is units[-1]:
                asking.messages.append(message)
        elif role == "tool" and isinstance(call_id, str):
            if asking is not None and unanswered.pop(call_id, None) is not None:
                asking.messages.append(message)
        else:
            unit = _Unit(role, [message])
            units.append(unit)
            calls = tool_calls_of(message)
            if calls:
                _fill(asking, unanswered)
                asking = unit if role == "assistant" else None
                unanswered = {call.id: call for call in calls} if role == "assistant" else {}
    _fill(asking, unanswered)
    for unit in units:
        unit.sent = [*unit.messages, *unit.missing]
    return units


def _fill(unit: _Unit | None, unanswered: Mapping[str, ToolCallPart]) -> None:
    if unit is not None:
        unit.missing = [cancelled_result(call) for call in unanswered.values()]


def _is_told(message: Message) -> bool:
    """Whether a model is told of it: not of what agents say while they work as its tools."""
    return not getattr(message, "inside_tool_call", None)


def _leave_out_earlier_calls(units: Sequence[_Unit]) -> None:
    """Leaves the text of what called tools in earlier turns, and nothing else."""
    newest = max((place for place, unit in enumerate(units) if unit.role == "user"), default=0)
    for unit in units[:newest]:
        message = unit.messages[0]
        if tool_calls_of(message):
            # Not the thoughts either: those with a signature belong to the calls that they led to.
            parts = [part for part in parts_of(message) if isinstance(part, (TextPart, ImagePart))]
            unit.sent = [message.model_copy(update={"parts": parts})] if parts or message.text else []


def _put_together(units: Sequence[_Unit], notes: Sequence[Message]) -> Iterator[Message]:
    """All that is sent, in its order, with the notes where something is missing first."""
    for unit in units:
        if unit.is_kept:
            yield from unit.sent
        else:
            yield from notes
            notes = ()
