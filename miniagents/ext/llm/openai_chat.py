"""The wire format of OpenAI's chat completions, which most other servers speak as well."""

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar

from miniagents.ext.llm.answer import Answer
from miniagents.ext.llm.conversation import wire_id, wire_name
from miniagents.ext.llm.llm_common import FinishReason, instruction_of, role_of, valid_text, wire_text
from miniagents.ext.llm.parts import ImagePart, TextPart, ToolCallPart, ordered_parts, parts_of
from miniagents.ext.llm.provider import Call, Provider
from miniagents.ext.llm.structured import strict_schema
from miniagents.message import Message

__all__ = ["OpenAIChat", "data_url", "valid_arguments"]


class OpenAIChat(Provider):
    """Chat completions."""

    package = "openai"
    client_class = "AsyncOpenAI"
    price_list = "openai"
    system_name = "openai"
    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {
        "stop": "stop",
        "length": "length",
        "max_tokens": "length",  # so say some of those that speak OpenAI's protocol
        "model_length": "length",
        "tool_calls": "tool_calls",
        "function_call": "tool_calls",
        "content_filter": "content_filter",
    }

    def create_of(self, client: Any) -> Callable[..., Awaitable[Any]]:
        """See `Provider`."""
        create: Callable[..., Awaitable[Any]] = client.chat.completions.create
        return create

    def request(self, messages: Sequence[Message], call: Call) -> dict[str, Any]:
        """See `Provider`."""
        system = instruction_of(call.options.system)
        turns: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        images: list[dict[str, Any]] = []  # a result of a tool cannot hold any here; they follow the results
        for message in messages:
            role = role_of(message)
            if role == "tool" and isinstance(getattr(message, "tool_call_id", None), str):
                turns.append(_result(message))
                images += [_image(part) for part in parts_of(message) if isinstance(part, ImagePart)]
                continue
            if images:
                turns.append({"role": "user", "content": images})
                images = []
            turns.append(_turn("user" if role == "tool" else role, message))
        if images:
            turns.append({"role": "user", "content": images})
        request: dict[str, Any] = {"messages": turns, **self._tools(call)}
        options = call.options.parameters.get("stream_options", {})
        if call.options.stream and options is not None:
            request["stream_options"] = {"include_usage": True, **options}
        return request

    def simpler_request(self, request: dict[str, Any], call: Call, error: Exception) -> dict[str, Any] | None:
        """Leaves out `stream_options`: there are servers that refuse what they do not know."""
        refused = getattr(error, "status_code", None) in (400, 422) and "stream_options" in str(error)
        if not refused or not call.options.stream or "stream_options" in call.options.parameters:
            return None
        return {name: value for name, value in request.items() if name != "stream_options"}

    def read_event(self, event: Any, answer: Answer) -> str:
        """See `Provider`."""
        self._note(event, answer)
        for choice in event.choices or ():
            if not choice.index:  # None where the server leaves it out; others were asked for by `n=`
                answer.finish_reason = choice.finish_reason or answer.finish_reason
                return self._read(choice.delta, answer)
        return ""

    def read_whole(self, whole: Any, answer: Answer) -> str:
        """See `Provider`."""
        self._note(whole, answer)
        if not whole.choices:
            raise ValueError(f"it has no choices, but an error: {getattr(whole, 'error', None)!r:.200}")
        choice = whole.choices[0]
        answer.finish_reason = choice.finish_reason or None
        return self._read(choice.message, answer)

    def _note(self, event: Any, answer: Answer) -> None:
        answer.model = event.model or answer.model
        usage = event.usage
        if usage:
            sent, made = usage.prompt_tokens_details, usage.completion_tokens_details
            answer.count(
                input_tokens=usage.prompt_tokens,
                output_tokens=usage.completion_tokens,
                cached_tokens=getattr(sent, "cached_tokens", None),
                cache_write_tokens=getattr(sent, "cache_write_tokens", None),
                reasoning_tokens=getattr(made, "reasoning_tokens", None),
            )

    def _read(self, part: Any, answer: Answer) -> str:
        """The text of a delta or of a message, which have the same fields."""
        if part is None:
            return ""
        # OpenAI shows no reasoning here; those that do have two names for it.
        thought = getattr(part, "reasoning_content", None) or getattr(part, "reasoning", None)
        if isinstance(thought, str):
            answer.add_thought(thought)
        text = answer.add_text(part.content or part.refusal or "")
        for position, wanted in enumerate(part.tool_calls or ()):
            function = getattr(wanted, "function", None)
            if function is not None:
                key = getattr(wanted, "index", None)
                key = position if key is None else key
                answer.begin_call(key, wanted.id, function.name, function.arguments or "")
        return text

    def _tools(self, call: Call) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if call.tools:
            found["tools"] = [{"type": "function", "function": _function(tool)} for tool in call.tools]
            if call.tool_choice is not None:
                found["tool_choice"] = _choice(call.tool_choice)
            if call.options.parallel_tool_calls is not None:
                found["parallel_tool_calls"] = call.options.parallel_tool_calls
        if call.reply_type is not None:
            strict = strict_schema(call.reply_type.schema)
            wanted = {"name": call.reply_type.name, "schema": strict or call.reply_type.schema}
            found["response_format"] = {
                "type": "json_schema",
                "json_schema": wanted | ({"strict": True} if strict else {}),
            }
        return found


def data_url(image: ImagePart) -> str:
    """The address of an image, which may hold the image itself."""
    if image.data is None:
        return str(image.url)
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode('ascii')}"


def valid_arguments(arguments: str) -> str:
    """The arguments of a call as they can be sent back: those that are no JSON object were answered with an error."""
    from pydantic_core import from_json

    try:
        return arguments if isinstance(from_json(arguments), dict) else "{}"
    except ValueError:
        return "{}"


def _turn(role: str, message: Message) -> dict[str, Any]:
    if not parts_of(message):
        return {"role": role, "content": wire_text(message)}
    parts = ordered_parts(message)
    turn: dict[str, Any] = {"role": role}
    calls = [part for part in parts if isinstance(part, ToolCallPart)] if role == "assistant" else []
    if role == "assistant":
        turn["content"] = wire_text(message) or (None if calls else "")
    else:
        content: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, TextPart):
                content.append({"type": "text", "text": valid_text(part.text)})
            elif isinstance(part, ImagePart):
                content.append(_image(part))
        turn["content"] = content
    if calls:
        turn["tool_calls"] = [
            {
                "id": wire_id(part.id),
                "type": "function",
                "function": {"name": wire_name(part.name), "arguments": valid_arguments(part.arguments)},
            }
            for part in calls
        ]
    return turn


def _result(message: Message) -> dict[str, Any]:
    identifier: Any = getattr(message, "tool_call_id", "")
    return {"role": "tool", "tool_call_id": wire_id(identifier), "content": wire_text(message)}


def _image(part: ImagePart) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(part)}}


def _function(tool: Any) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    strict = strict_schema(tool.parameters) if tool.strict else None
    return function if strict is None else {**function, "parameters": strict, "strict": True}


def _choice(choice: Any) -> Any:
    if isinstance(choice, dict) or choice in ("auto", "required", "none"):
        return choice
    return {"type": "function", "function": {"name": str(choice)}}
