"""The Responses API of OpenAI."""

import re
from collections.abc import Iterator
from typing import Any

from tests.support.llm_server.openai_chat import OpenAIWire, with_total
from tests.support.llm_server.openai_checks import check_responses
from tests.support.llm_server.replies import Delta, Json, Piece, Reply, Request, StreamError, Thinking, ToolCall, merged
from tests.support.llm_server.waiting import Gate
from tests.support.llm_server.wire import Memory, invalid


class ResponsesWire(OpenAIWire):
    """Responses.

    Thoughts are summaries of reasoning; their signature is the encrypted content, sent if it was asked for. A `Delta`
    changes the fields of the delta event of the item that is open. `Reply.finish` is "completed" by default; "failed"
    ends with `Reply.error`; every other word is why the answer is incomplete ("max_output_tokens", for example).
    """

    path = re.compile("/v1/responses")

    def __init__(self, request: Request, reply: Reply, memory: Memory) -> None:
        super().__init__(request, reply, memory)
        self._events = 0
        self._output: list[Json] = []
        self._open: Json | None = None

    @classmethod
    def check_shape(cls, request: Request) -> None:
        if not isinstance(request.model, str):
            raise invalid("Missing required parameter: 'model'.", "missing_required_parameter")

    @classmethod
    def check(cls, request: Request, memory: Memory) -> None:
        check_responses(request.body)

    def begin(self) -> Iterator[bytes]:
        if not self.reply.bare:
            for kind in ("created", "in_progress"):
                yield self.event({"type": f"response.{kind}", "response": self._response("in_progress")})

    def text(self, text: str) -> Iterator[bytes]:
        yield from self._in_item("message")
        yield self._delta({"delta": text})

    def thinking(self, piece: Thinking) -> Iterator[bytes]:
        yield from self._in_item("reasoning")
        yield self._delta({"delta": piece.text})
        if piece.signature is not None:
            yield from self._close_item(encrypted=piece.signature)

    def tool_call(self, piece: ToolCall) -> "Iterator[bytes | Gate]":
        yield from self._close_item()
        yield from self._in_item("function_call", name=piece.name, call_id=self.call_id(piece, "call"))
        for part in piece.arguments:
            if isinstance(part, Gate):
                yield part
            else:
                yield self._delta({"delta": part})
        yield from self._close_item()

    def delta(self, fields: Json) -> Iterator[bytes]:
        if self._open is None:
            yield from self._in_item("message")
        yield self._delta(fields)

    def event(self, data: Json | str) -> bytes:
        if isinstance(data, str):
            return self.lines(b"event: response.output_text.delta", b"data: " + data.encode())
        kind = str(data.get("type"))
        self._events += 1
        return self.lines(
            f"event: {kind}".encode(), b"data: " + self.encoded({"sequence_number": self._events - 1} | data)
        )

    def stream_error(self, piece: StreamError) -> bytes:
        return self.event({"type": "error", "code": piece.kind, "message": piece.text, "param": None})

    def end(self) -> Iterator[bytes]:
        yield from self._close_item()
        if self.reply.final_mark:
            response = self._ended()
            yield self.event({"type": f"response.{response['status']}", "response": response})

    def whole(self, pieces: list[Piece]) -> Json:
        for piece in pieces:
            if isinstance(piece, str | Thinking | ToolCall | Delta):
                for _ in self.piece(piece):
                    pass
        for _ in self._close_item():
            pass
        return self._ended()

    # Items

    def _in_item(self, kind: str, **fields: Any) -> Iterator[bytes]:
        if self._open is not None and self._open["type"] == kind != "function_call":
            return
        yield from self._close_item()
        index = len(self._output)
        item: Json = {"type": kind, "id": f"{_PREFIXES[kind]}_{index + 1}", **fields}
        match kind:
            case "message":
                item |= {"role": "assistant", "status": "in_progress", "content": []}
            case "reasoning":
                item |= {"summary": []}
            case _:
                item |= {"arguments": "", "status": "in_progress"}
        self._open = item
        self._output.append(item)
        yield self.event({"type": "response.output_item.added", "output_index": index, "item": item})
        match kind:
            case "message":
                item["content"] = [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]
                yield self._part("response.content_part.added", part=item["content"][0])
            case "reasoning":
                item["summary"] = [{"type": "summary_text", "text": ""}]
                yield self._part("response.reasoning_summary_part.added", part=item["summary"][0])

    def _delta(self, fields: Json) -> bytes:
        assert self._open is not None
        text = fields.get("delta", "")
        match self._open["type"]:
            case "message":
                self._open["content"][0]["text"] += text
                return self._part("response.output_text.delta", **{"logprobs": [], **fields})
            case "reasoning":
                self._open["summary"][0]["text"] += text
                return self._part("response.reasoning_summary_text.delta", **fields)
            case _:
                self._open["arguments"] += text
                return self._part("response.function_call_arguments.delta", **fields)

    def _close_item(self, encrypted: str | None = None) -> Iterator[bytes]:
        item = self._open
        if item is None:
            return
        match item["type"]:
            case "message":
                text = item["content"][0]["text"]
                yield self._part("response.output_text.done", text=text, logprobs=[])
                yield self._part("response.content_part.done", part=item["content"][0])
            case "reasoning":
                if "reasoning.encrypted_content" in (self.request.body.get("include") or ()):
                    item["encrypted_content"] = encrypted or "encrypted"
                text = item["summary"][0]["text"]
                yield self._part("response.reasoning_summary_text.done", text=text)
                yield self._part("response.reasoning_summary_part.done", part=item["summary"][0])
            case _:
                yield self._part(
                    "response.function_call_arguments.done", arguments=item["arguments"], name=item["name"]
                )
        if "status" in item:
            item["status"] = "completed"
        index = len(self._output) - 1
        self._open = None
        yield self.event({"type": "response.output_item.done", "output_index": index, "item": item})

    def _part(self, kind: str, **fields: Any) -> bytes:
        assert self._open is not None
        place: Json = {"item_id": self._open["id"], "output_index": len(self._output) - 1}
        match self._open["type"]:
            case "message":
                place["content_index"] = 0
            case "reasoning":
                place["summary_index"] = 0
        return self.event({"type": kind} | place | fields)

    # The response

    def _ended(self) -> Json:
        finish = self.reply.finish
        if finish in ("default", "completed"):
            return self._response("completed")
        if finish == "failed":
            code, text = self.reply.error or ("server_error", "The model failed to generate a response.")
            return self._response("failed", error={"code": code, "message": text})
        if self._output and "status" in self._output[-1]:
            self._output[-1]["status"] = "incomplete"
        return self._response("incomplete", incomplete_details={"reason": finish})

    def _response(self, status: str, **fields: Any) -> Json:
        ended = status != "in_progress"
        response: Json = {"object": "response", "status": status, "output": self._output if ended else []}
        if not self.reply.bare:
            body = self.request.body
            response |= {
                "id": "resp_1",
                "created_at": 1,
                "model": self.reply.model,
                "error": None,
                "incomplete_details": None,
                "instructions": body.get("instructions"),
                "max_output_tokens": body.get("max_output_tokens"),
                "metadata": body.get("metadata") or {},
                "parallel_tool_calls": body.get("parallel_tool_calls", True),
                "previous_response_id": body.get("previous_response_id"),
                "reasoning": body.get("reasoning") or {"effort": None, "summary": None},
                "store": body.get("store", True),
                "temperature": body.get("temperature", 1.0),
                "text": body.get("text") or {"format": {"type": "text"}},
                "tool_choice": body.get("tool_choice", "auto"),
                "tools": body.get("tools") or [],
                "top_p": body.get("top_p", 1.0),
                "truncation": "disabled",
                "usage": self._response_usage() if ended and self.reply.usage is not None else None,
            }
        return response | fields

    def _response_usage(self) -> Json:
        usage: Json = {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        usage = merged(usage, self.reply.usage)
        return with_total(usage, "input_tokens", "output_tokens")


_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
