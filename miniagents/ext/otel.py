"""OpenTelemetry: spans of agents, requests to models and calls of tools, in the words of its conventions for GenAI.

Each piece of work has a task of its own, in whose context variables its span is the current one from the beginning to
the end. So the parents are right however many agents stream side by side, and no token has to be given back anywhere.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from miniagents import interaction
from miniagents.ext.llm import tracing
from miniagents.ext.llm.llm_common import AssistantMessage, role_of
from miniagents.ext.llm.parts import ImagePart, TextPart, ThinkingPart, ToolCallPart, ordered_parts
from miniagents.ext.tools.calls import call_tool
from miniagents.interaction import InteractionContext
from miniagents.message import Message

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["instrument", "note_failure", "uninstrument"]

_CAPTURE_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURE = ("true", "1", "span_only", "span_and_event")
_PARAMETERS = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_LONGEST_DESCRIPTION = 500


def instrument(tracer_provider: "TracerProvider | None" = None, capture_content: bool | None = None) -> None:
    """Makes spans from now on: `invoke_agent`, `chat` and `execute_tool`. It needs `pip install "miniagents[otel]"`.

    Args:
        tracer_provider: Where the spans go; the one that is set for the whole process otherwise.
        capture_content: Whether messages, arguments and results are part of the spans; what the environment variable
            OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT says otherwise.

    Raises:
        ImportError: opentelemetry-api is not installed.

    Example:
        ```python
        trace.set_tracer_provider(my_provider)
        instrument()
        ```
    """
    try:
        from opentelemetry import trace
    except ImportError:
        raise ImportError('tracing needs opentelemetry-api: pip install "miniagents[otel]"') from None
    if capture_content is None:
        capture_content = os.environ.get(_CAPTURE_VARIABLE, "").strip().lower() in _CAPTURE
    tracer = _Tracer(trace.get_tracer("miniagents", tracer_provider=tracer_provider), capture_content)
    tracing.set_tracer(tracer)
    interaction.set_call_observer(tracer.agent)


def uninstrument() -> None:
    """Makes no spans any more. What runs already is traced to its end."""
    tracing.set_tracer(None)
    interaction.set_call_observer(None)


class _Tracer(tracing.Tracer):
    def __init__(self, tracer: Any, capture: bool) -> None:
        self._tracer = tracer
        self._capture = capture

    def agent(self, interaction: InteractionContext) -> Callable[[BaseException], None]:
        """A call of an agent begins, in its own task. The span ends when all that the agent has started has ended."""
        if interaction.this_agent._function is call_tool._function:
            return _ignore  # it has a span of its own kind
        alias = interaction.this_agent.alias
        span = self._start(
            f"invoke_agent {alias}", {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": alias}
        )
        if interaction._end_waiters is None:
            interaction._end_waiters = []
        interaction._end_waiters.append(_EndOf(span))
        return lambda error: note_failure(span, error)

    def chat(self, **details: Any) -> tracing.Trace:
        call, provider, endpoint = details["call"], details["provider"], details["endpoint"]
        options = call.options
        address = urlsplit(endpoint.url)
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider.system_name,
            "gen_ai.request.model": options.model,
            "gen_ai.agent.name": call.agent,
            "server.address": address.hostname or "",
        }
        if address.port:
            attributes["server.port"] = address.port
        if options.chat_id:
            attributes["gen_ai.conversation.id"] = options.chat_id
        parameters = provider.parameters(options)
        for name in _PARAMETERS:
            if isinstance(parameters.get(name), (int, float)):
                attributes[f"gen_ai.request.{name}"] = parameters[name]
        for name in _LIMITS:
            if isinstance(parameters.get(name), int):
                attributes["gen_ai.request.max_tokens"] = parameters[name]
        if self._capture:
            attributes["gen_ai.input.messages"] = _as_json(details["messages"])
        return _ChatTrace(self._start(f"chat {options.model}", attributes, is_client=True), self._capture)

    def tool(self, **details: Any) -> tracing.Trace:
        call, tool, caller = details["call"], details["tool"], details["caller"]
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": call.name,
            "gen_ai.tool.call.id": call.id,
            "gen_ai.tool.type": "function",
        }
        if tool is not None and tool.description:
            attributes["gen_ai.tool.description"] = tool.description
        if caller.chat_id:
            attributes["gen_ai.conversation.id"] = caller.chat_id
        if self._capture:
            attributes["gen_ai.tool.call.arguments"] = call.arguments
        return _ToolTrace(self._start(f"execute_tool {call.name}", attributes), self._capture)

    def _start(self, name: str, attributes: dict[str, Any], *, is_client: bool = False) -> "Span":
        from opentelemetry import context, trace

        kind = trace.SpanKind.CLIENT if is_client else trace.SpanKind.INTERNAL
        span: Span = self._tracer.start_span(name, kind=kind, attributes=attributes)
        context.attach(trace.set_span_in_context(span))  # for this task, and for what is started in it
        return span


class _EndOf:
    """What waits for the end of a run like others do, and ends a span at once when it comes."""

    __slots__ = ("_span",)

    def __init__(self, span: "Span") -> None:
        self._span = span

    def done(self) -> bool:
        return False

    def set_result(self, _: None) -> None:
        self._span.end()


class _ChatTrace(tracing.Trace):
    __slots__ = ("_capture", "_span")

    def __init__(self, span: "Span", capture: bool) -> None:
        self._span = span
        self._capture = capture

    def event(self, name: str, **attributes: Any) -> None:
        self._span.add_event(name, attributes)

    def end(self, error: BaseException | None = None, **details: Any) -> None:
        span, fields, usage = self._span, details["fields"], details["usage"]
        if span.is_recording():
            span.set_attribute("gen_ai.response.model", fields.get("model", ""))
            if fields.get("finish_reason"):
                span.set_attribute("gen_ai.response.finish_reasons", [fields["finish_reason"]])
            if usage is not None:
                span.set_attributes(
                    {
                        "gen_ai.usage.input_tokens": usage.input_tokens,
                        "gen_ai.usage.output_tokens": usage.output_tokens,
                        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
                        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
                        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
                    }
                )
            if self._capture:
                said = AssistantMessage(details["text"], parts=fields.get("parts", ()))
                span.set_attribute("gen_ai.output.messages", _as_json([said]))
        if error is not None:
            note_failure(span, error)
        span.end()


class _ToolTrace(tracing.Trace):
    __slots__ = ("_capture", "_span")

    def __init__(self, span: "Span", capture: bool) -> None:
        self._span = span
        self._capture = capture

    def end(self, error: BaseException | None = None, **details: Any) -> None:
        if self._capture and details.get("result") is not None:
            self._span.set_attribute("gen_ai.tool.call.result", details["result"])
        if error is not None:
            note_failure(self._span, error)
        self._span.end()


def note_failure(span: "Span", error: BaseException) -> None:
    """Notes what kind of error it was, and its text; errors of providers have no keys in theirs.

    Args:
        span: The span of what has failed.
        error: What it has failed with.
    """
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", type(error).__qualname__)
    try:
        text = str(error)[:_LONGEST_DESCRIPTION]
    except Exception:
        text = ""
    span.set_status(Status(StatusCode.ERROR, text))


def _as_json(messages: Sequence[Message]) -> str:
    """Messages in the form of the conventions."""
    told = []
    for message in messages:
        parts: list[dict[str, Any]] = []
        if role_of(message) == "tool":
            identifier = getattr(message, "tool_call_id", None)
            parts.append({"type": "tool_call_response", "id": identifier, "response": str(message)})
        else:
            parts += [part for one in ordered_parts(message) if (part := _part(one)) is not None]
        told.append({"role": role_of(message), "parts": parts})
    return json.dumps(told, ensure_ascii=False)


def _part(part: Any) -> dict[str, Any] | None:
    if isinstance(part, TextPart):
        return {"type": "text", "content": part.text}
    if isinstance(part, ThinkingPart):
        return {"type": "reasoning", "content": part.text} if part.text else None
    if isinstance(part, ToolCallPart):
        return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": part.arguments}
    if isinstance(part, ImagePart):
        where = {"type": "uri", "uri": part.url} if part.url else {"type": "blob", "mime_type": part.media_type}
        return {**where, "modality": "image"}
    return None


def _ignore(_: BaseException) -> None:
    pass
