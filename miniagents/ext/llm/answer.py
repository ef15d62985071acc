"""What becomes known of an answer while it comes, and what went wrong with it."""

from collections.abc import Mapping
from json import JSONDecodeError
from typing import Any
from uuid import uuid4

from miniagents.ext.llm.llm_common import BrokenAnswerError, FinishReason, ModelError, Usage, valid_text
from miniagents.ext.llm.parts import TextPart, ThinkingPart, ToolCallPart

__all__ = ["Answer", "explained_error"]


class Answer:
    """What becomes known of an answer while it comes. The provider's translation writes it down here.

    Args:
        model: The model that is asked, until the answer says what it is called.
        text_tool: The name of the tool whose arguments are the text, where an answer in JSON is had in that way.

    Attributes:
        model: The model.
        text_tool: See above.
        finish_reason: The provider's word for the end, when it has come.
        counts: The fields of `Usage`, as far as the provider has said them.
        has_begun: Whether the server has accepted the request.
        is_empty: Whether no event has come so far.
    """

    __slots__ = ("_blocks", "counts", "finish_reason", "has_begun", "is_empty", "model", "text_tool")

    def __init__(self, model: str, text_tool: str | None = None) -> None:
        self.model = model
        self.text_tool = text_tool
        self.finish_reason: str | None = None
        self.counts: dict[str, Any] = {}
        self.has_begun = False
        self.is_empty = True
        self._blocks: list[_Block] = []  # in the order in which they began

    def count(self, **counts: Any) -> None:
        """Notes how many tokens there are. Later counts replace earlier ones.

        Args:
            **counts: Fields of `Usage`. What is no number says nothing new.
        """
        self.counts |= {name: number for name, number in counts.items() if isinstance(number, int)}

    def add_text(self, text: str) -> str:
        """Notes a piece of the text.

        Args:
            text: The piece.

        Returns:
            The piece, to be shown.
        """
        if text:
            self._last("text").pieces.append(text)
        return text

    def add_thought(self, text: str = "", **fields: Any) -> None:
        """Notes a piece of what the model says to itself.

        Args:
            text: The piece.
            **fields: Other fields of `ThinkingPart`. With a signature the thought is complete.
        """
        block = self._last("thinking")
        block.pieces.append(text)
        block.fields |= fields
        if "signature" in fields or "redacted" in fields:
            block.kind = "complete thought"

    def begin_call(self, key: Any, call_id: str | None, name: str | None, arguments: str = "") -> None:
        """Notes that the model calls a tool; what is known already is kept.

        Args:
            key: What the provider's events call it.
            call_id: The id of the call.
            name: The tool.
            arguments: The arguments, as far as they have come.
        """
        block = next((block for block in self._blocks if block.kind == "call" and block.key == key), None)
        if block is None:
            block = _Block("call", key)
            self._blocks.append(block)
        block.fields |= {
            field: value for field, value in (("id", call_id), ("name", name)) if value and field not in block.fields
        }
        block.pieces.append(arguments)

    def add_arguments(self, key: Any, arguments: str) -> str:
        """Notes a piece of the arguments of a call.

        Args:
            key: See `begin_call`.
            arguments: The piece.

        Returns:
            What is to be shown: the piece, if these arguments are the text of the answer, else nothing.
        """
        for block in reversed(self._blocks):
            if block.kind == "call" and block.key == key:
                block.pieces.append(arguments)
                return arguments if self.text_tool is not None and block.fields.get("name") == self.text_tool else ""
        self.begin_call(key, None, None, arguments)
        return ""

    def metadata(self, finish_reasons: Mapping[str, FinishReason]) -> dict[str, Any]:
        """What the message is to say about itself.

        Args:
            finish_reasons: What the provider's words for the end mean.

        Returns:
            Its fields, those that are known; its usage is without a price.
        """
        found: dict[str, Any] = {"model": str(self.model)}
        parts = self._parts()
        if parts:
            found["parts"] = parts
        if self.finish_reason is not None:
            word = str(self.finish_reason)
            reason = finish_reasons.get(word.lower(), "stop")
            if any(isinstance(part, ToolCallPart) for part in parts):
                reason = "tool_calls" if reason == "stop" else reason  # some servers say "stop" here, too
            elif reason == "tool_calls" and self.text_tool is not None:
                reason = "stop"  # the call was the text
            found |= {"finish_reason": reason, "provider_finish_reason": word}
        if self.counts:
            found["usage"] = Usage(**self.counts)
        return found

    def _last(self, kind: str) -> "_Block":
        if not self._blocks or self._blocks[-1].kind != kind:
            self._blocks.append(_Block(kind))
        return self._blocks[-1]

    def _parts(self) -> list[Any]:
        """The parts, with texts among them only where their place would not be clear without."""
        parts: list[Any] = []
        ranks: list[int] = []
        for block in self._blocks:
            made = block.part(self.text_tool)
            if made is not None:
                if isinstance(made, ToolCallPart) and any(
                    made.id == call.id for call in parts if isinstance(call, ToolCallPart)
                ):
                    made = made.model_copy(update={"id": f"{made.id}_{len(parts)}"})  # some servers are careless
                parts.append(made)
                ranks.append(_RANKS[type(made)])
        is_clear = ranks == sorted(ranks) and ranks.count(_RANKS[TextPart]) <= 1
        return [part for part in parts if not is_clear or not isinstance(part, TextPart)]


_RANKS: Mapping[type[Any], int] = {ThinkingPart: 0, TextPart: 1, ToolCallPart: 2}


class _Block:
    """A part of an answer that may not be complete yet."""

    __slots__ = ("fields", "key", "kind", "pieces")

    def __init__(self, kind: str, key: Any = None) -> None:
        self.kind = kind
        self.key = key
        self.pieces: list[str] = []
        self.fields: dict[str, Any] = {}

    def part(self, text_tool: str | None) -> Any:
        text = valid_text("".join(self.pieces))
        if self.kind == "text":
            return TextPart(text=text)
        if self.kind != "call":
            return ThinkingPart(text=text, **self.fields) if text or self.fields else None
        name = self.fields.get("name", "")
        if text_tool is not None and name == text_tool:
            return None
        if "id" not in self.fields:
            self.fields["id"] = f"call_{uuid4().hex[:24]}"  # some servers leave it out
        return ToolCallPart(id=self.fields["id"], name=name, arguments=text or "{}")


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
    if isinstance(error, ModelError):
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
