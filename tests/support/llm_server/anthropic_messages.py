"""Messages of Anthropic: its own API, Vertex AI, Bedrock."""

import json
import re
from collections.abc import Iterator

from tests.support.llm_server.anthropic_checks import check_messages
from tests.support.llm_server.openai_chat import OpenAIWire
from tests.support.llm_server.replies import (
    Json,
    Piece,
    Reply,
    Request,
    StreamError,
    Thinking,
    ToolCall,
    arguments_of,
    merged,
)
from tests.support.llm_server.waiting import Gate
from tests.support.llm_server.wire import Memory, Refusal, Wire


class AnthropicWire(Wire):
    """Messages."""

    path = re.compile("/v1/messages")
    request_id_header = "request-id"
    default_errors = {
        400: ("invalid_request_error", "Bad request.", None),
        401: ("authentication_error", "invalid x-api-key", None),
        403: ("permission_error", "Your API key does not have permission to use this model.", None),
        404: ("not_found_error", "model: no-such-model", None),
        413: ("request_too_large", "Request exceeds the maximum size", None),
        429: ("rate_limit_error", "This request would exceed your rate limit.", None),
        500: ("api_error", "Internal server error", None),
        529: ("overloaded_error", "Overloaded", None),
    }

    def __init__(self, request: Request, reply: Reply, memory: Memory) -> None:
        super().__init__(request, reply, memory)
        self._blocks = 0
        self._open: str | None = None
        self._thought = ""

    @staticmethod
    def key_of(request: Request) -> str | None:
        return request.headers.get("x-api-key") or OpenAIWire.key_of(request)

    @staticmethod
    def wrong_key(key: str | None) -> Refusal:
        return Refusal(401, "authentication_error", "invalid x-api-key" if key else "x-api-key header is required")

    @staticmethod
    def unknown_model(model: str) -> Refusal:
        return Refusal(404, "not_found_error", f"model: {model}")

    @classmethod
    def check(cls, request: Request, memory: Memory) -> None:
        check_messages(request.body, memory.thoughts)

    @staticmethod
    def error(kind: str, text: str, code: str | None) -> Json:
        return {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"}

    def begin(self) -> Iterator[bytes]:
        message: Json = {"type": "message", "role": "assistant", "model": self.reply.model, "content": []}
        if not self.reply.bare:
            message |= {"id": "msg_1", "stop_reason": None, "stop_sequence": None}
        if self.reply.usage is not None:
            message["usage"] = self.usage() | {"output_tokens": 1}
        yield self.event({"type": "message_start", "message": message})

    def text(self, text: str) -> Iterator[bytes]:
        yield from self._in_block("text", {"type": "text", "text": ""})
        yield self._block_delta({"type": "text_delta", "text": text})

    def thinking(self, piece: Thinking) -> Iterator[bytes]:
        yield from self._in_block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        self._thought += piece.text
        yield self._block_delta({"type": "thinking_delta", "thinking": piece.text})
        if piece.signature is not None:
            self.memory.thoughts[piece.signature].add(self._thought)
            yield self._block_delta({"type": "signature_delta", "signature": piece.signature})
            yield from self._close_block()

    def tool_call(self, piece: ToolCall) -> "Iterator[bytes | Gate]":
        yield from self._close_block()
        call = {"type": "tool_use", "id": self.call_id(piece, "toolu"), "name": piece.name, "input": {}}
        yield from self._in_block("tool_use", call)
        for part in piece.arguments:
            if isinstance(part, Gate):
                yield part
            else:
                yield self._block_delta({"type": "input_json_delta", "partial_json": part})
        yield from self._close_block()

    def delta(self, fields: Json) -> Iterator[bytes]:
        yield self._block_delta(fields)

    def event(self, data: Json | str) -> bytes:
        name = "content_block_delta" if isinstance(data, str) else str(data.get("type"))
        content = data.encode() if isinstance(data, str) else self.encoded(data)
        return self.lines(f"event: {name}".encode(), b"data: " + content)

    def stream_error(self, piece: StreamError) -> bytes:
        return self.event(self.error(piece.kind, piece.text, None))

    def end(self) -> Iterator[bytes]:
        yield from self._close_block()
        usage = {} if self.reply.usage is None else {"usage": self.usage()}
        delta = {"stop_reason": self.finish("end_turn", "tool_use"), "stop_sequence": None}
        yield self.event({"type": "message_delta", "delta": delta, **usage})
        if self.reply.final_mark:
            yield self.event(self.stop())

    def stop(self) -> Json:
        """The final mark."""
        return {"type": "message_stop"}

    def whole(self, pieces: list[Piece]) -> Json:
        blocks: list[Json] = []
        for piece in pieces:
            last = blocks[-1] if blocks else {}
            match piece:
                case str() if last.get("type") == "text":
                    last["text"] += piece
                case str():
                    blocks.append({"type": "text", "text": piece})
                case Thinking() if last.get("type") == "thinking" and not last["signature"]:
                    last["thinking"] += piece.text
                    last["signature"] = piece.signature or ""
                case Thinking():
                    blocks.append({"type": "thinking", "thinking": piece.text, "signature": piece.signature or ""})
                case ToolCall():
                    call = {"type": "tool_use", "id": self.call_id(piece, "toolu"), "name": piece.name}
                    blocks.append(call | {"input": json.loads(arguments_of(piece) or "{}")})
                case _:
                    pass
        for block in blocks:
            if block["type"] == "thinking":
                self.memory.thoughts[block["signature"]].add(block["thinking"])
        message: Json = {"type": "message", "role": "assistant", "model": self.reply.model, "content": blocks}
        message["stop_reason"] = self.finish("end_turn", "tool_use")
        if not self.reply.bare:
            message |= {"id": "msg_1", "stop_sequence": None}
        return message if self.reply.usage is None else message | {"usage": self.usage()}

    def usage(self) -> Json:
        usage: Json = {"input_tokens": 7, "output_tokens": 5}
        if not self.reply.bare:
            usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        return merged(usage, self.reply.usage)

    def _in_block(self, kind: str, block: Json) -> Iterator[bytes]:
        if self._open == kind:
            return
        yield from self._close_block()
        self._open = kind
        yield self.event({"type": "content_block_start", "index": self._blocks, "content_block": block})
        if self._blocks == 0 and not self.reply.bare:
            yield self.event({"type": "ping"})

    def _close_block(self) -> Iterator[bytes]:
        if self._open is not None:
            self._open, self._thought = None, ""
            yield self.event({"type": "content_block_stop", "index": self._blocks})
            self._blocks += 1

    def _block_delta(self, delta: Json) -> bytes:
        return self.event({"type": "content_block_delta", "index": self._blocks, "delta": delta})
