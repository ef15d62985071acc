"""Chat completions of OpenAI."""

import re
from collections.abc import Iterator
from typing import Any

from tests.support.llm_server.openai_checks import check_chat
from tests.support.llm_server.replies import (
    Delta,
    Json,
    Piece,
    Request,
    StreamError,
    Thinking,
    ToolCall,
    arguments_of,
    merged,
)
from tests.support.llm_server.waiting import Gate
from tests.support.llm_server.wire import Memory, Refusal, Wire


class OpenAIWire(Wire):
    """Chat completions."""

    path = re.compile("/v1/chat/completions")
    request_id_header = "x-request-id"
    default_errors = {
        400: ("invalid_request_error", "Bad request.", None),
        401: ("invalid_request_error", "Incorrect API key provided.", "invalid_api_key"),
        403: ("invalid_request_error", "Country, region, or territory not supported", "unsupported_country"),
        404: ("invalid_request_error", "The model does not exist or you do not have access to it.", "model_not_found"),
        429: ("requests", "Rate limit reached for requests per minute.", "rate_limit_exceeded"),
        500: ("server_error", "The server had an error while processing your request. Sorry about that!", None),
        503: ("server_error", "The engine is currently overloaded, please try again later.", None),
    }

    @staticmethod
    def key_of(request: Request) -> str | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key if scheme.lower() == "bearer" else None

    @staticmethod
    def wrong_key(key: str | None) -> Refusal:
        if not key:
            return Refusal(401, "invalid_request_error", "You didn't provide an API key.")
        masked = f"{key[:4]}****{key[-4:]}"
        return Refusal(401, "invalid_request_error", f"Incorrect API key provided: {masked}.", "invalid_api_key")

    @staticmethod
    def unknown_model(model: str) -> Refusal:
        text = f"The model `{model}` does not exist or you do not have access to it."
        return Refusal(404, "invalid_request_error", text, "model_not_found")

    @classmethod
    def check(cls, request: Request, memory: Memory) -> None:
        check_chat(request.body)

    @staticmethod
    def error(kind: str, text: str, code: str | None) -> Json:
        return {"error": {"message": text, "type": kind, "param": None, "code": code}}

    def begin(self) -> Iterator[bytes]:
        if not self.reply.bare:
            yield self._choice({"role": "assistant", "content": "", "refusal": None})

    def text(self, text: str) -> Iterator[bytes]:
        yield self._choice({"content": text})

    def thinking(self, piece: Thinking) -> Iterator[bytes]:
        yield self._choice({"reasoning_content": piece.text})

    def tool_call(self, piece: ToolCall) -> "Iterator[bytes | Gate]":
        index = self.tool_calls
        function = {"name": piece.name, "arguments": ""}
        call = {"index": index, "id": self.call_id(piece, "call"), "type": "function", "function": function}
        yield self._choice({"tool_calls": [call]})
        for part in piece.arguments:
            if isinstance(part, Gate):
                yield part
            else:
                yield self._choice({"tool_calls": [{"index": index, "function": {"arguments": part}}]})

    def delta(self, fields: Json) -> Iterator[bytes]:
        yield self._choice(fields)

    def event(self, data: Json | str) -> bytes:
        return self.lines(b"data: " + (data.encode() if isinstance(data, str) else self.encoded(data)))

    def stream_error(self, piece: StreamError) -> bytes:
        return self.event(self.error(piece.kind, piece.text, None))

    def end(self) -> Iterator[bytes]:
        yield self._choice({}, self.finish("stop", "tool_calls"))
        if self._wants_usage:
            yield self._chunk([], usage=self._usage())
        if self.reply.final_mark:
            yield self.event("[DONE]")

    def whole(self, pieces: list[Piece]) -> Json:
        texts = [piece for piece in pieces if isinstance(piece, str)]
        message: Json = {"role": "assistant", "content": "".join(texts) if texts else None, "refusal": None}
        if thoughts := [piece.text for piece in pieces if isinstance(piece, Thinking)]:
            message["reasoning_content"] = "".join(thoughts)
        if calls := [self._whole_call(piece) for piece in pieces if isinstance(piece, ToolCall)]:
            message["tool_calls"] = calls
        for piece in pieces:
            if isinstance(piece, Delta):
                message |= piece.fields
        if self.reply.bare:
            message = {name: value for name, value in message.items() if value is not None and name != "role"}
        choice = {"message": message, "finish_reason": self.finish("stop", "tool_calls")}
        if self.reply.bare:
            return {"choices": [choice]}
        usage = {} if self.reply.usage is None else {"usage": self._usage()}
        return self._head("chat.completion") | {"choices": [{"index": 0, "logprobs": None, **choice}], **usage}

    @property
    def _wants_usage(self) -> bool:
        options = self.request.body.get("stream_options") or {}
        return bool(options.get("include_usage")) and self.reply.usage is not None and not self.reply.bare

    def _usage(self) -> Json:
        usage: Json = {
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }
        usage = merged(usage, self.reply.usage)
        return with_total(usage, "prompt_tokens", "completion_tokens")

    def _head(self, kind: str) -> Json:
        head = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": self.reply.model}
        return head | {"service_tier": "default", "system_fingerprint": "fp_1"}

    def _chunk(self, choices: list[Json], **fields: Any) -> bytes:
        if self.reply.bare:
            return self.event({"choices": choices})
        usage = {"usage": None} if self._wants_usage else {}
        return self.event(self._head("chat.completion.chunk") | {"choices": choices} | usage | fields)

    def _choice(self, delta: Json, finish: str | None = None) -> bytes:
        if self.reply.bare:
            return self._chunk([{"delta": delta} | ({"finish_reason": finish} if finish else {})])
        return self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}])

    def _whole_call(self, piece: ToolCall) -> Json:
        function = {"name": piece.name, "arguments": arguments_of(piece)}
        return {"id": self.call_id(piece, "call"), "type": "function", "function": function}


def with_total(usage: Json, *names: str) -> Json:
    """Usage with the sum of some counts, as far as they are counts."""
    counts = [usage[name] for name in names if isinstance(usage[name], int)]
    return {"total_tokens": sum(counts)} | usage
