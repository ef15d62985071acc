"""What the agents of all providers have in common: messages with roles, usage, and errors.

ModelError
├── MissingKeyError             there is no key to ask with
├── ModelTimeoutError           there was no answer in time
├── InvalidReplyError           an answer does not fit the type that was asked for
└── BrokenAnswerError           an answer began and did not come to a good end, or could not be understood
    └── TruncatedAnswerError    its stream ended without a word on why
"""

from collections.abc import AsyncGenerator, Sequence
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from pydantic import PrivateAttr

from miniagents.ext.llm.parts import Part, ThinkingPart, ToolCallPart, tool_calls_of
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise
from miniagents.usage import Usage

__all__ = [
    "AssistantMessage",
    "BrokenAnswerError",
    "CharacterJoiner",
    "FinishReason",
    "InvalidReplyError",
    "MissingKeyError",
    "ModelError",
    "ModelMessage",
    "ModelTimeoutError",
    "StopReason",
    "SystemMessage",
    "ToolResultMessage",
    "TruncatedAnswerError",
    "Usage",
    "UserMessage",
    "assistant_tokens",
    "instruction_of",
    "is_said_by_assistant",
    "role_of",
    "valid_text",
    "wire_text",
]

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]
"""Why an answer has ended; what the provider calls it stands beside it as `provider_finish_reason`."""

StopReason: TypeAlias = Literal["max_turns", "manual_stop", "budget_exceeded"]
"""Why an agent has ended before its model was done."""


class ModelMessage(Message):
    """What the messages of a conversation with a model have in common, whoever speaks.

    Attributes:
        role: Who speaks: "system", "user", "assistant" or "tool".
        parts: What there is beside the text: images, thoughts, calls of tools; see `miniagents.ext.llm.parts`.
        agent: The alias of the agent that has said it; None for people.
        cache_marker: Whether a provider that caches on request is to cache the conversation up to this message.
        inside_tool_call: Of what an agent says while it works as the tool of another one: which call of that tool it
            belongs to. It is there to be read, and not part of the conversation with the model that called the tool.
    """

    role: str = "user"
    parts: Sequence[Part] = ()
    agent: str | None = None
    cache_marker: bool = False
    inside_tool_call: str | None = None

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        """The calls of tools that the model has asked for."""
        return tool_calls_of(self)

    def __str__(self) -> str:
        return "" if self.text is None and self.parts else super().__str__()


class UserMessage(ModelMessage):
    """What a person, or whoever speaks for one, says to a model."""

    role: str = "user"


class SystemMessage(ModelMessage):
    """An instruction to a model."""

    role: str = "system"


class AssistantMessage(ModelMessage):
    """What a model has said.

    Attributes:
        model: The model, as the provider names it in its answer; as it was asked for where the answer has no name.
        finish_reason: Why the answer has ended.
        provider_finish_reason: The provider's own word for that.
        usage: The tokens and their price, where the provider says them.
        stop_reason: Why the agent went no further, where that was not the model's doing: see `StopReason`.
    """

    role: str = "assistant"
    model: str | None = None
    finish_reason: FinishReason | None = None
    provider_finish_reason: str | None = None
    usage: Usage | None = None
    stop_reason: StopReason | None = None

    @property
    def reasoning(self) -> str | None:
        """What the model has said to itself before, as far as the provider shows it."""
        return "".join(part.text for part in self.parts if isinstance(part, ThinkingPart)) or None

    @property
    def cost(self) -> Decimal | None:
        """The price in US dollars; None where it is not known."""
        return self.usage.cost if self.usage is not None else None

    @property
    def parsed(self) -> Any:
        """The object that the text stands for, where one was asked for by `reply_type=`. It is no part of the hash.

        Raises:
            pydantic.ValidationError: The text does not fit the type.
        """
        return None if self._adapter is None else self._adapter.validate_json(self.text or "")

    _adapter: Any = PrivateAttr(default=None)


class ToolResultMessage(ModelMessage):
    """What a tool has returned to a model.

    Attributes:
        tool_call_id: Which call it answers.
        tool_name: The tool.
        is_error: Whether the tool has failed, or was not run; the text says why.
        stop_reason: Why the tool was not run, where the agent went no further.
    """

    role: str = "tool"
    tool_call_id: str
    tool_name: str
    is_error: bool = False
    stop_reason: StopReason | None = None


class ModelError(Exception):
    """A model could not be asked, or its answer is not what it should be.

    Attributes:
        partial_text: What had come of the answer. The errors of the SDKs get this attribute, too.
    """

    partial_text: str = ""


class MissingKeyError(ModelError):
    """There is no key to ask the provider with. Set the environment variable that the message names."""


class ModelTimeoutError(ModelError, TimeoutError):
    """There was no answer, or not the whole of it, in the time that was given by `timeout=`."""


class InvalidReplyError(ModelError):
    """An answer does not fit the `reply_type` that was asked for, also after the model was asked to mend it."""


class BrokenAnswerError(ModelError):
    """The answer broke off or could not be understood. What had come stays readable in the stream.

    Its `__cause__` is what the SDK or the transport below it has raised.
    """


class TruncatedAnswerError(BrokenAnswerError):
    """The stream of the answer ended without a word on why: it is incomplete. What had come stays readable."""


def role_of(message: Message) -> str:
    """Says who speaks.

    Args:
        message: Any message.

    Returns:
        Its `role`, and "user" for a message without one.
    """
    role = getattr(message, "role", None)
    return role if isinstance(role, str) and role else "user"


def wire_text(message: Message) -> str:
    """The text of a message as it can be sent.

    Args:
        message: Any message.

    Returns:
        What a model is to see of it, as valid Unicode.
    """
    return valid_text(str(message))


def instruction_of(system: Any) -> Any:
    """What an agent was given as `system`, as it can be sent.

    Args:
        system: Text, a message, or parts in the words of the provider.

    Returns:
        The text, or the parts as they are; None where there is no instruction.
    """
    if isinstance(system, Message):
        return wire_text(system) or None
    return (valid_text(system) if isinstance(system, str) else system) or None


def is_said_by_assistant(promise: MessagePromise) -> bool:
    """Whether a message of an agent's reply is for its user: no result of a tool, nothing said by agents inside of one.

    Args:
        promise: The promise of the message, as it stands in the reply.

    Returns:
        True also for messages that say nothing about themselves.
    """
    known = promise.metadata
    return known.get("role", "assistant") == "assistant" and not known.get("inside_tool_call")


async def assistant_tokens(replies: MessageSequencePromise) -> AsyncGenerator[str, None]:
    """Reads what an agent says to its user, token by token, and passes over what it and its tools do meanwhile.

    Args:
        replies: The reply of the agent.

    Yields:
        The tokens; an empty line between two messages.
    """
    separator = ""
    async for promise in replies:
        if is_said_by_assistant(promise):
            is_first = True
            async for token in promise:
                yield separator + token if is_first else token
                is_first = False
                separator = "\n\n"
        else:
            await promise  # it may have failed


def valid_text(text: str) -> str:
    """Makes valid Unicode of any string.

    Args:
        text: A string that may hold surrogates, that is halves of characters.

    Returns:
        The string, with matching halves joined, and U+FFFD where the other half of a character is missing.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class CharacterJoiner:
    r"""Makes valid Unicode of tokens, some of which may begin or end in the middle of a character.

    Servers cut their text anywhere, also between the two surrogates of a pair, and whoever prints such a token fails.

    Example:
        ```python
        joiner = CharacterJoiner()
        assert joiner.feed("a\ud83d") == "a"
        assert joiner.feed("\ude00") == "\U0001f600"
        assert joiner.rest() == ""
        ```
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, token: str) -> str:
        """Takes a token.

        Args:
            token: What has come.

        Returns:
            What can be passed on by now; empty where it is but half of a character.
        """
        if token.isascii() and not self._held:
            return token
        text = self._held + token
        self._held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return valid_text(text[:-1] if self._held else text)

    def rest(self) -> str:
        """What stands for a half that has come last, and whose other half never did."""
        held, self._held = self._held, ""
        return valid_text(held)
