"""The wire format of OpenAI's Responses API."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from miniagents.ext.llm.answer import Answer
from miniagents.ext.llm.conversation import wire_id, wire_name
from miniagents.ext.llm.llm_common import FinishReason, instruction_of, role_of, valid_text, wire_text
from miniagents.ext.llm.openai_chat import data_url, valid_arguments
from miniagents.ext.llm.parts import ImagePart, TextPart, ThinkingPart, ToolCallPart, ordered_parts, parts_of
from miniagents.ext.llm.provider import Call, Provider
from miniagents.ext.llm.structured import strict_schema
from miniagents.message import Message

__all__ = ["OpenAIResponses"]

_SIGNED_BY = "openai-responses"
_ENCRYPTED = "reasoning.encrypted_content"


class OpenAIResponses(Provider):
    """Responses. Nothing is kept at the provider, unless `store=True` is given: thoughts are sent back encrypted."""

    package = "openai"
    client_class = "AsyncOpenAI"
    price_list = "openai"
    system_name = "openai"
    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {
        "completed": "stop",
        "max_output_tokens": "length",
        "content_filter": "content_filter",
    }

    def create_of(self, client: Any) -> Callable[..., Awaitable[Any]]:
        """See `Provider`."""
        create: Callable[..., Awaitable[Any]] = client.responses.create
        return create

    def parameters(self, options: Any) -> Mapping[str, Any]:
        """See `Provider`. The length of an answer has a name of its own here."""
        found = {"store": False, **options.parameters}
        if "max_tokens" in found:
            found["max_output_tokens"] = found.pop("max_tokens")
        if not found["store"]:
            found["include"] = list({*found.get("include", ()), _ENCRYPTED})
        return found

    def request(self, messages: Sequence[Message], call: Call) -> dict[str, Any]:
        """See `Provider`."""
        request: dict[str, Any] = {"input": [item for message in messages for item in _items(message)]}
        system = instruction_of(call.options.system)
        if system is not None:
            request["instructions"] = system
        return {**request, **self._tools(call)}

    def read_event(self, event: Any, answer: Answer) -> str:
        """See `Provider`."""
        kind = event.type
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            return answer.add_text(event.delta or "")
        if kind == "response.function_call_arguments.delta":
            return answer.add_arguments(event.output_index, event.delta or "")
        if kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            answer.add_thought(event.delta or "")
        elif kind == "response.output_item.added" and event.item.type == "function_call":
            answer.begin_call(event.output_index, event.item.call_id, event.item.name)
        elif kind == "response.output_item.done" and event.item.type == "reasoning":
            _sign(event.item, answer)
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            self._note_end(event.response, answer)
        elif kind == "response.created":
            answer.model = event.response.model or answer.model
        elif kind == "error":
            _fail(event)
        return ""

    def read_whole(self, whole: Any, answer: Answer) -> str:
        """See `Provider`."""
        self._note_end(whole, answer)
        texts: list[str] = []
        for index, item in enumerate(whole.output or []):
            if item.type == "message":
                for part in item.content:
                    text = getattr(part, "text", None) or getattr(part, "refusal", None) or ""
                    texts.append(answer.add_text(text))
            elif item.type == "function_call":
                answer.begin_call(index, item.call_id, item.name, item.arguments or "")
            elif item.type == "reasoning":
                answer.add_thought("".join(part.text for part in item.summary or []))
                _sign(item, answer)
        return "".join(texts)

    def _note_end(self, response: Any, answer: Answer) -> None:
        answer.model = response.model or answer.model
        usage = response.usage
        if usage:
            answer.count(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cached_tokens=getattr(usage.input_tokens_details, "cached_tokens", None),
                reasoning_tokens=getattr(usage.output_tokens_details, "reasoning_tokens", None),
            )
        if response.status == "failed":
            _fail(response.error)
        answer.finish_reason = getattr(response.incomplete_details, "reason", None) or response.status

    def _tools(self, call: Call) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if call.tools:
            found["tools"] = [_function(tool) for tool in call.tools]
            if call.tool_choice is not None:
                found["tool_choice"] = _choice(call.tool_choice)
            if call.options.parallel_tool_calls is not None:
                found["parallel_tool_calls"] = call.options.parallel_tool_calls
        if call.reply_type is not None:
            strict = strict_schema(call.reply_type.schema)
            wanted = {"type": "json_schema", "name": call.reply_type.name, "schema": strict or call.reply_type.schema}
            given = call.options.parameters.get("text") or {}
            found["text"] = {**given, "format": {**wanted, "strict": bool(strict)}}
        return found


def _items(message: Message) -> list[dict[str, Any]]:
    role = role_of(message)
    identifier = getattr(message, "tool_call_id", None)
    if role == "tool" and isinstance(identifier, str):
        return [{"type": "function_call_output", "call_id": wire_id(identifier), "output": _output(message)}]
    if role == "assistant":
        return [item for part in ordered_parts(message) if (item := _own_item(part)) is not None]
    content = [item for part in ordered_parts(message) if (item := _given(part)) is not None]
    if not content:
        return []
    return [{"role": "user" if role == "tool" else role, "content": _plain(content)}]


def _own_item(part: Any) -> dict[str, Any] | None:
    """What the model itself has said, thought or called."""
    if isinstance(part, TextPart):
        return {"role": "assistant", "content": valid_text(part.text)} if part.text else None
    if isinstance(part, ToolCallPart):
        arguments = valid_arguments(part.arguments)
        return {
            "type": "function_call",
            "call_id": wire_id(part.id),
            "name": wire_name(part.name),
            "arguments": arguments,
        }
    if isinstance(part, ThinkingPart) and part.provider == _SIGNED_BY and part.signature:
        summary = [{"type": "summary_text", "text": part.text}] if part.text else []
        return {"type": "reasoning", "id": part.id, "summary": summary, "encrypted_content": part.signature}
    return None  # thoughts of others would be refused


def _given(part: Any) -> dict[str, Any] | None:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": valid_text(part.text)}
    if isinstance(part, ImagePart):
        return {"type": "input_image", "image_url": data_url(part), "detail": "auto"}
    return None


def _output(message: Message) -> Any:
    if not any(isinstance(part, ImagePart) for part in parts_of(message)):
        return wire_text(message)
    return [item for part in ordered_parts(message) if (item := _given(part)) is not None]


def _plain(content: list[dict[str, Any]]) -> Any:
    return content[0]["text"] if len(content) == 1 and content[0]["type"] == "input_text" else content


def _function(tool: Any) -> dict[str, Any]:
    strict = strict_schema(tool.parameters) if tool.strict else None
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": strict or dict(tool.parameters),
        "strict": strict is not None,
    }


def _choice(choice: Any) -> Any:
    if isinstance(choice, dict) or choice in ("auto", "required", "none"):
        return choice
    return {"type": "function", "name": str(choice)}


def _sign(item: Any, answer: Answer) -> None:
    encrypted = getattr(item, "encrypted_content", None)
    if encrypted:
        answer.add_thought(signature=encrypted, id=item.id, provider=_SIGNED_BY)


def _fail(error: Any) -> NoReturn:
    """Raises what comes as an event here, as the SDK raises it elsewhere."""
    import httpx2
    import openai

    code, text = getattr(error, "code", None), getattr(error, "message", None)
    raise openai.APIError(
        text or "the server sent an error",
        httpx2.Request("POST", "https://api.openai.com/v1/responses"),
        body={"code": code, "type": code, "message": text},
    )
