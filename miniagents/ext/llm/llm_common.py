"""What the agents of all providers have in common: messages with roles, usage, and errors."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from miniagents.frozen import Frozen
from miniagents.message import Message

__all__ = [
    "AssistantMessage",
    "FinishReason",
    "MissingKeyError",
    "ModelError",
    "SystemMessage",
    "TruncatedAnswerError",
    "Usage",
    "UserMessage",
    "role_of",
    "wire_text",
    "with_extra_body",
]

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]
"""Why an answer has ended; what the provider calls it stands beside it as `provider_finish_reason`."""


class UserMessage(Message):
    """What a person, or whoever speaks for one, says to a model."""

    role: str = "user"


class SystemMessage(Message):
    """An instruction to a model."""

    role: str = "system"


class Usage(Frozen):
    """What an answer has cost in tokens, as the provider counts them."""

    input_tokens: int
    output_tokens: int


class AssistantMessage(Message):
    """What a model has said.

    Attributes:
        model: The model, as the provider names it in its answer.
        finish_reason: Why the answer has ended.
        provider_finish_reason: The provider's own word for that.
        usage: The tokens, where the provider says them.
        reasoning: What the model said to itself before, where the provider shows it.
    """

    role: str = "assistant"
    model: str | None = None
    finish_reason: FinishReason | None = None
    provider_finish_reason: str | None = None
    usage: Usage | None = None
    reasoning: str | None = None


class ModelError(Exception):
    """A model could not be asked, or its answer is not what it should be."""


class MissingKeyError(ModelError):
    """There is no key to ask the provider with. Set the environment variable that the message names."""

    def __init__(self, variable: str, provider: str) -> None:
        super().__init__(
            f"there is no key for {provider}: set the environment variable {variable}, or pass `api_key=` to the agent"
        )


class TruncatedAnswerError(ModelError):
    """The answer stopped without a word on why: it is incomplete. What had come stays readable in the stream."""

    def __init__(self, provider: str, model: str) -> None:
        super().__init__(f"the answer of {provider}'s {model} broke off: its stream has ended without a finish mark")


def role_of(message: Message) -> str:
    """Says who speaks.

    Args:
        message: Any message.

    Returns:
        Its `role`, and "user" for a message without one.
    """
    role = getattr(message, "role", None)
    return role if isinstance(role, str) else "user"


def wire_text(message: Message) -> str:
    """The text of a message as it can be sent: halves of characters that tokens were cut into are joined again.

    Args:
        message: Any message.

    Returns:
        Its text, valid Unicode, with U+FFFD where half of a character is missing.
    """
    text = str(message)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def with_extra_body(parameters: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """Sorts parameters: what the SDK does not take goes to the body of the request as it is.

    Args:
        parameters: The keyword arguments of the call.
        known: The names of the parameters that the SDK takes.

    Returns:
        The keyword arguments for the SDK.
    """
    taken = {name: value for name, value in parameters.items() if name in known}
    extra = {name: value for name, value in parameters.items() if name not in known}
    if extra:
        taken["extra_body"] = {**(parameters.get("extra_body") or {}), **extra}
    return taken
