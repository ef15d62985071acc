"""What becomes known of an answer while it comes, and what went wrong with it."""

from collections.abc import Mapping
from json import JSONDecodeError
from typing import Any

from miniagents.ext.llm.llm_common import BrokenAnswerError, FinishReason, Usage, valid_text

__all__ = ["Answer", "explained_error"]


class Answer:
    """What becomes known of an answer while it comes. The provider's translation writes it down here.

    Args:
        model: The model that is asked, until the answer says what it is called.

    Attributes:
        model: The model.
        finish_reason: The provider's word for the end, when it has come.
        input_tokens: The tokens of the request, if the provider says them.
        output_tokens: The tokens of the answer, if the provider says them.
        reasoning: What the model says to itself, piece by piece.
        has_begun: Whether the server has accepted the request.
        is_empty: Whether no event has come so far.
    """

    __slots__ = ("finish_reason", "has_begun", "input_tokens", "is_empty", "model", "output_tokens", "reasoning")

    def __init__(self, model: str) -> None:
        self.model = model
        self.finish_reason: str | None = None
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.reasoning: list[str] = []
        self.has_begun = False
        self.is_empty = True

    def count(self, input_tokens: Any, output_tokens: Any) -> None:
        """Notes how many tokens there are. Later counts replace earlier ones.

        Args:
            input_tokens: Those of the request. What is no number says nothing new.
            output_tokens: Those of the answer.
        """
        if isinstance(input_tokens, int):
            self.input_tokens = input_tokens
        if isinstance(output_tokens, int):
            self.output_tokens = output_tokens

    def metadata(self, finish_reasons: Mapping[str, FinishReason]) -> dict[str, Any]:
        """What the message is to say about itself.

        Args:
            finish_reasons: What the provider's words for the end mean.

        Returns:
            Its fields, those that are known.
        """
        found: dict[str, Any] = {"model": str(self.model)}
        if self.finish_reason is not None:
            reason = str(self.finish_reason)
            found["finish_reason"] = finish_reasons.get(reason.lower(), "stop")
            found["provider_finish_reason"] = reason
        if self.input_tokens is not None or self.output_tokens is not None:
            found["usage"] = Usage(input_tokens=self.input_tokens or 0, output_tokens=self.output_tokens or 0)
        if self.reasoning:
            found["reasoning"] = valid_text("".join(self.reasoning))
        return found


def explained_error(error: Exception, package: Any, answer: Answer, who: str) -> Exception:
    """Makes clear what went wrong.

    Args:
        error: What was raised while a model was asked.
        package: The SDK.
        answer: What had come of the answer.
        who: Who was asked, for people.

    Returns:
        The error to raise: that of the SDK, with a text that says what happened where; one of ours in place of what a
        transport or a parser has raised, which say nothing of that; mistakes in the call as they are.
    """
    if isinstance(error, BrokenAnswerError):
        return error
    if isinstance(error, package.APIConnectionError):
        _set_text(error, f"{error} ({who}: {_reason(error)})")
    elif isinstance(error, package.APIError):
        if answer.has_begun:  # it came as an event of the stream, and knows neither a status nor who has sent it
            parts = (getattr(error, "type", None), getattr(error, "api_message", None) or error)
            _set_text(error, f"{who} broke off its answer: {': '.join(str(part) for part in parts if part)}")
        else:
            error.add_note(f"while asking {who}")
    elif answer.has_begun or isinstance(error, (JSONDecodeError, UnicodeDecodeError)):
        detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return BrokenAnswerError(f"the answer of {who} broke off or could not be understood ({detail:.200})")
    return error


def _set_text(error: Any, text: str) -> None:
    error.args = (text,)
    error.message = text


def _reason(error: BaseException) -> str:
    """What a transport says below all the layers that only pass it on."""
    cause: BaseException | None = error.__cause__
    while cause is not None and not str(cause):
        cause = cause.__cause__
    return str(cause) if cause is not None else "no reason given"
