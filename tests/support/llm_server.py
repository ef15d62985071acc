"""A local server that speaks the wire protocols of OpenAI and Anthropic, for tests through the real SDKs.

    async with LLMServer() as server:
        gate = Gate()
        server.script(Reply(("Hel", gate, "lo")), Reply(status=429, headers={"retry-after": "1"}))
        client = openai.AsyncOpenAI(base_url=server.openai_url, api_key="any", max_retries=0)

`server.script(...)` says what it answers, request by request; with no script it echoes the last message, word by word.
What a test does not open, the server waits for: slow tokens need gates, not time. Each request is kept in
`server.requests`, and `await server.client_disconnected(n)` returns when the client has given it up. `with
LLMServer.in_thread() as server` serves blocking code and other processes; run this module to try things by hand.

It knows `POST /v1/chat/completions`, `POST /v1/messages` and its `/count_tokens`, and `GET /v1/models`. A further
protocol is a further subclass of `Wire` in `WIRES`.
"""

import argparse
import asyncio
import json
import re
import socket
import struct
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import cycle
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar
from urllib.parse import parse_qs, urlsplit

__all__ = [
    "AnthropicWire",
    "Delta",
    "Gate",
    "LLMServer",
    "Malformed",
    "OpenAIWire",
    "Reply",
    "Request",
    "Signal",
    "StreamError",
    "Thinking",
    "ToolCall",
    "Wire",
    "echo",
    "llm_server_in_thread",
]

Json: TypeAlias = dict[str, Any]
T = TypeVar("T")

PATIENCE = 10.0
"""For how many seconds a test waits for the server or the client before it fails."""


# Waiting


class Signal:
    """An event that any thread sets, and that threads and event loops wait for."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._waiters: set[asyncio.Future[None]] = set()

    def set(self) -> None:
        with self._lock:
            self._event.set()
            waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            with suppress(RuntimeError):  # its event loop is closed
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._event.is_set():
                return
            self._waiters.add(waiter)
        try:
            await waiter
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    def block(self, seconds: float = PATIENCE) -> None:
        """Waits in a thread without an event loop."""
        if not self._event.wait(seconds):
            raise TimeoutError(f"nothing happened in {seconds:g} s")


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


class Gate:
    """Where the server stops until the test opens the gate.

    Attributes:
        reached: Is set when the server has come to the gate, and has sent all that stands before it.
    """

    def __init__(self) -> None:
        self.reached = Signal()
        self._opened = Signal()

    def open(self) -> None:
        self._opened.set()

    async def pass_through(self) -> None:
        self.reached.set()
        await self._opened.wait()


class _Delay(Gate):
    """For manual trials only: a gate that opens by itself."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def pass_through(self) -> None:
        await asyncio.sleep(self._seconds)


# What is answered


@dataclass(frozen=True)
class Thinking:
    """A piece of what the model says to itself.

    Attributes:
        text: The piece. Neighbours belong together, until one has a signature.
        signature: For Anthropic: the signature of the thoughts so far.
    """

    text: str
    signature: str | None = None


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool.

    Attributes:
        name: The tool.
        arguments: Their JSON, in the pieces in which they stream. It need not be valid.
        id: The id of the call; made up if it is not given.
    """

    name: str
    arguments: "tuple[str | Gate, ...]" = ("{}",)
    id: str | None = None


@dataclass(frozen=True)
class Delta:
    """A delta in the words of the protocol: of the choice, or of the block that is open."""

    fields: Json


@dataclass(frozen=True)
class StreamError:
    """An error in mid-stream, as the provider sends it. Nothing comes after it."""

    kind: str = "overloaded_error"
    text: str = "Overloaded"


@dataclass(frozen=True)
class Malformed:
    """An event whose data is no JSON; in an answer that does not stream, the body."""

    data: str = '{"nonsense'


Piece: TypeAlias = "str | bytes | Json | Gate | Thinking | ToolCall | Delta | StreamError | Malformed"


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        pieces: Text tokens (lone surrogates allowed), thoughts, tool calls, deltas; dicts, which are whole events of
            the protocol; bytes, which are written as they are; gates to wait at. An answer that does not stream waits
            at all gates, then comes at once, without what only a stream can hold.
        status: The HTTP status; with anything but 200 an error is sent as the provider sends errors.
        headers: Further headers of the response.
        error: The type and the text of the error; what the provider says for this status otherwise.
        body: The whole body, as it is, whatever was asked for: a proxy's page of HTML, for example.
        model: The model that the answer names.
        finish: The provider's word for the end; None to leave it out, and the final mark with it.
        final_mark: Whether the stream has its `[DONE]` or `message_stop`.
        usage: Is merged into the tokens that the provider counts (7 and 5); None to leave them out.
        bare: Leave out all that an imitation of the provider may leave out: ids, names, roles, usage.
        hold: Wait here before the first byte.
        ending: "clean"; "cut" to end the connection after the pieces, with the end of the response missing; "reset" to
            do so with a TCP reset; "silent" to close the connection without a byte of an answer. Before "cut" and
            "reset" nothing comes of the provider's end of the answer, and half of an answer that does not stream.
        keep_alive: Whether the connection stays open for the next request.
        split: Write the body in HTTP chunks and TCP segments of this many bytes, or of these sizes in turn; 0 for one
            per event.
        escaped: Escape all that is not ASCII in JSON, surrogate pairs included, as many servers do.
        newline: The line end of the events.
    """

    pieces: Iterable[Piece] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error: tuple[str, str] | None = None
    body: bytes | None = None
    model: str = "served-model"
    finish: str | None = "default"
    final_mark: bool = True
    usage: Mapping[str, Any] | None = field(default_factory=dict)
    bare: bool = False
    hold: Gate | None = None
    ending: Literal["clean", "cut", "reset", "silent"] = "clean"
    keep_alive: bool = True
    split: int | tuple[int, ...] = 0
    escaped: bool = False
    newline: str = "\n"


@dataclass
class Request:
    """What the server was asked.

    Attributes:
        method: The HTTP method.
        path: The path, without the query.
        query: The query.
        headers: The headers, by names in lower case.
        body: The JSON of the body; empty where there is none.
        connection: Which of the server's connections it came through, counted from 1.
        disconnected: Is set when the client has closed the connection before the end of the answer was written.
        finished: Is set when the server is done with the request, however it ended.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Json
    connection: int
    disconnected: Signal = field(default_factory=Signal)
    finished: Signal = field(default_factory=Signal)


Responder: TypeAlias = Callable[[Request], "Reply | Awaitable[Reply]"]


def echo(request: Request) -> Reply:
    """What is answered without a script: the last message, word by word."""
    return Reply(tuple(f"{word} " for word in _text_of(request.body["messages"][-1].get("content")).split()))


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(_text_of(part.get("text") or part.get("content")) for part in content)
    return content or ""


# The protocols


class Refusal(Exception):
    """A request that a provider would refuse."""

    def __init__(self, status: int, kind: str, text: str, code: str | None = None) -> None:
        super().__init__(text)
        self.status, self.kind, self.text, self.code = status, kind, text, code


class Wire:
    """A protocol, in the middle of one answer."""

    request_id_header: ClassVar[str]
    default_errors: ClassVar[Mapping[int, tuple[str, str, str | None]]]

    def __init__(self, request: Request, reply: Reply) -> None:
        self.request = request
        self.reply = reply
        self.tool_calls = 0

    @staticmethod
    def key_of(request: Request) -> str | None:
        """The API key of a request."""
        raise NotImplementedError

    @staticmethod
    def check(body: Json) -> None:
        """Refuses what the provider would refuse, as far as it is easily got wrong."""
        raise NotImplementedError

    @staticmethod
    def error(kind: str, text: str, code: str | None) -> Json:
        """The body of an error."""
        raise NotImplementedError

    @staticmethod
    def wrong_key(key: str | None) -> Refusal:
        raise NotImplementedError

    @staticmethod
    def unknown_model(model: str) -> Refusal:
        raise NotImplementedError

    def begin(self) -> Iterator[bytes]:
        """What comes before the pieces."""
        raise NotImplementedError

    def text(self, text: str) -> Iterator[bytes]:
        raise NotImplementedError

    def thinking(self, piece: Thinking) -> Iterator[bytes]:
        raise NotImplementedError

    def tool_call(self, piece: ToolCall) -> "Iterator[bytes | Gate]":
        raise NotImplementedError

    def delta(self, fields: Json) -> Iterator[bytes]:
        raise NotImplementedError

    def event(self, data: Json | str) -> bytes:
        """One server-sent event: its data as JSON, or as it is."""
        raise NotImplementedError

    def stream_error(self, piece: StreamError) -> bytes:
        raise NotImplementedError

    def end(self) -> Iterator[bytes]:
        """What comes after the pieces: the finish mark, usage, the final mark."""
        raise NotImplementedError

    def whole(self, pieces: list[Piece]) -> Json:
        """The answer at once."""
        raise NotImplementedError

    def piece(self, piece: Piece) -> "Iterator[bytes | Gate]":
        match piece:
            case str():
                yield from self.text(piece)
            case bytes() | Gate():
                yield piece
            case Thinking():
                yield from self.thinking(piece)
            case ToolCall():
                yield from self.tool_call(piece)
            case Delta():
                yield from self.delta(piece.fields)
            case StreamError():
                yield self.stream_error(piece)
            case Malformed():
                yield self.event(piece.data)
            case _:
                yield self.event(piece)

    def events(self) -> "Iterator[bytes | Gate]":
        """The whole stream, and the gates in it."""
        yield from self.begin()
        for piece in self.reply.pieces:
            yield from self.piece(piece)
            if isinstance(piece, StreamError):
                return
        if self.reply.finish is not None and self.reply.ending == "clean":
            yield from self.end()

    def encoded(self, content: Any) -> bytes:
        """JSON as servers write it: UTF-8, in which only lone surrogates are escaped, or ASCII."""
        text = json.dumps(content, ensure_ascii=self.reply.escaped, separators=(",", ":"))
        return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text).encode()

    def lines(self, *lines: bytes) -> bytes:
        newline = self.reply.newline.encode()
        return newline.join((*lines, b"", b""))

    def finish(self, stop: str, tools: str) -> str | None:
        """The word for the end: what was scripted, or what fits."""
        if self.reply.finish != "default":
            return self.reply.finish
        return tools if self.tool_calls else stop

    def call_id(self, piece: ToolCall, prefix: str) -> str:
        self.tool_calls += 1
        return piece.id or f"{prefix}_{self.tool_calls}"


class OpenAIWire(Wire):
    """Chat completions."""

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

    @staticmethod
    def check(body: Json) -> None:
        if not body["messages"]:
            raise _invalid("Invalid 'messages': empty array. Expected an array with minimum length 1.", "empty_array")
        open_calls: set[str] = set()
        for index, message in enumerate(body["messages"]):
            role = message.get("role")
            if role not in ("system", "developer", "user", "assistant", "tool", "function"):
                raise _invalid(f"Invalid value: '{role}' in messages[{index}].role.", "invalid_value")
            if role == "tool":
                if message.get("tool_call_id") not in open_calls:
                    raise _invalid(
                        "Invalid parameter: messages with role 'tool' must be a response to a preceding message with "
                        f"'tool_calls' (messages[{index}])."
                    )
                open_calls.discard(message["tool_call_id"])
                continue
            _check_open_calls(open_calls)
            calls = message.get("tool_calls") or ()
            if message.get("content") is None and not calls and not message.get("function_call"):
                raise _invalid(f"Invalid value for 'content': expected a string, got null (messages[{index}]).")
            open_calls = {call["id"] for call in calls}
        _check_open_calls(open_calls)

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
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }
        return usage | dict(self.reply.usage or {})

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
        function = {"name": piece.name, "arguments": _arguments(piece)}
        return {"id": self.call_id(piece, "call"), "type": "function", "function": function}


def _invalid(text: str, code: str | None = None) -> Refusal:
    return Refusal(400, "invalid_request_error", text, code)


def _check_open_calls(open_calls: set[str]) -> None:
    if open_calls:
        raise _invalid(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. These had no response: {', '.join(sorted(open_calls))}"
        )


def _arguments(piece: ToolCall) -> str:
    return "".join(part for part in piece.arguments if isinstance(part, str))


class AnthropicWire(Wire):
    """Messages."""

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

    def __init__(self, request: Request, reply: Reply) -> None:
        super().__init__(request, reply)
        self._blocks = 0
        self._open: str | None = None

    @staticmethod
    def key_of(request: Request) -> str | None:
        return request.headers.get("x-api-key") or OpenAIWire.key_of(request)

    @staticmethod
    def wrong_key(key: str | None) -> Refusal:
        return Refusal(401, "authentication_error", "invalid x-api-key" if key else "x-api-key header is required")

    @staticmethod
    def unknown_model(model: str) -> Refusal:
        return Refusal(404, "not_found_error", f"model: {model}")

    @staticmethod
    def check(body: Json) -> None:
        if not isinstance(body.get("max_tokens"), int):
            raise _invalid("max_tokens: Field required")
        if not body["messages"]:
            raise _invalid("messages: at least one message is required")
        open_calls: set[str] = set()
        for index, message in enumerate(body["messages"]):
            role, content = message.get("role"), message.get("content")
            if role not in ("user", "assistant", "system"):
                raise _invalid(f"messages.{index}: Input tag '{role}' found using 'role' does not match")
            if not content and (role != "assistant" or index + 1 < len(body["messages"])):
                raise _invalid(f"messages.{index}: all messages must have non-empty content")
            blocks = [{"type": "text", "text": content}] if content and isinstance(content, str) else content or []
            if any(block.get("type") == "text" and not block.get("text") for block in blocks):
                raise _invalid("messages: text content blocks must be non-empty")
            results = {block["tool_use_id"] for block in blocks if block.get("type") == "tool_result"}
            if open_calls - results:
                missing = ", ".join(sorted(open_calls - results))
                raise _invalid(f"messages.{index}: `tool_use` ids were found without `tool_result` blocks: {missing}")
            if results - open_calls:
                missing = ", ".join(sorted(results - open_calls))
                raise _invalid(f"messages.{index}: unexpected `tool_use_id` found in `tool_result` blocks: {missing}")
            open_calls = {block["id"] for block in blocks if block.get("type") == "tool_use"}
            for name in open_calls:
                if not re.fullmatch("[a-zA-Z0-9_-]+", name):
                    raise _invalid(f"messages.{index}: tool_use.id: should match '^[a-zA-Z0-9_-]+$': {name}")
        if open_calls:
            raise _invalid(f"messages: `tool_use` ids without `tool_result`: {', '.join(sorted(open_calls))}")

    @staticmethod
    def error(kind: str, text: str, code: str | None) -> Json:
        return {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"}

    def begin(self) -> Iterator[bytes]:
        message: Json = {"type": "message", "role": "assistant", "model": self.reply.model, "content": []}
        if not self.reply.bare:
            message |= {"id": "msg_1", "stop_reason": None, "stop_sequence": None}
        if self.reply.usage is not None:
            message["usage"] = self._usage() | {"output_tokens": 1}
        yield self.event({"type": "message_start", "message": message})

    def text(self, text: str) -> Iterator[bytes]:
        yield from self._in_block("text", {"type": "text", "text": ""})
        yield self._block_delta({"type": "text_delta", "text": text})

    def thinking(self, piece: Thinking) -> Iterator[bytes]:
        yield from self._in_block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        yield self._block_delta({"type": "thinking_delta", "thinking": piece.text})
        if piece.signature is not None:
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
        usage = {} if self.reply.usage is None else {"usage": self._usage()}
        delta = {"stop_reason": self.finish("end_turn", "tool_use"), "stop_sequence": None}
        yield self.event({"type": "message_delta", "delta": delta, **usage})
        if self.reply.final_mark:
            yield self.event({"type": "message_stop"})

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
                    blocks.append(call | {"input": json.loads(_arguments(piece) or "{}")})
                case _:
                    pass
        message: Json = {"type": "message", "role": "assistant", "model": self.reply.model, "content": blocks}
        message["stop_reason"] = self.finish("end_turn", "tool_use")
        if not self.reply.bare:
            message |= {"id": "msg_1", "stop_sequence": None}
        return message if self.reply.usage is None else message | {"usage": self._usage()}

    def _usage(self) -> Json:
        usage: Json = {"input_tokens": 7, "output_tokens": 5}
        if not self.reply.bare:
            usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        return usage | dict(self.reply.usage or {})

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
            self._open = None
            yield self.event({"type": "content_block_stop", "index": self._blocks})
            self._blocks += 1

    def _block_delta(self, delta: Json) -> bytes:
        return self.event({"type": "content_block_delta", "index": self._blocks, "delta": delta})


WIRES: Mapping[str, type[Wire]] = {"/v1/chat/completions": OpenAIWire, "/v1/messages": AnthropicWire}


# HTTP


class _Protocol(asyncio.StreamReaderProtocol):
    """Tells at once that the client has gone: until the answer is complete it has nothing more to send."""

    def __init__(self, server: "LLMServer") -> None:
        self._connection = _Connection(server)
        super().__init__(asyncio.StreamReader(limit=1 << 26), self._connection.start)

    def eof_received(self) -> bool | None:
        self._connection.client_gone()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.client_gone()
        super().connection_lost(exc)


class _Connection:
    def __init__(self, server: "LLMServer") -> None:
        self._server = server
        self._request: Request | None = None

    def start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._server.connections += 1
        self._number = self._server.connections
        self._task = asyncio.create_task(self._serve())
        self._server.tasks.add(self._task)
        self._task.add_done_callback(self._server.tasks.discard)

    def client_gone(self) -> None:
        if self._request is not None and not self._request.finished.is_set():
            self._request.disconnected.set()
            self._task.cancel()

    async def _serve(self) -> None:
        try:
            while (request := await self._read()) is not None:
                self._request = request
                if not await self._serve_one(request):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the server is being closed
        except Exception as error:
            self._server.errors.append(error)
        finally:
            if self._request is not None:
                self._request.finished.set()
            self._writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await self._writer.wait_closed()

    async def _read(self) -> Request | None:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        content = await self._reader.readexactly(int(headers.get("content-length", 0)))
        url = urlsplit(target)
        body = json.loads(content) if content else {}
        return Request(method, url.path, parse_qs(url.query), headers, body, self._number)

    async def _serve_one(self, request: Request) -> bool:
        """Answers one request.

        Returns:
            Whether the connection can be used for another one.
        """
        reply = Reply()
        wire = _wire_class(request)(request, reply)
        self._server.arrived(request)
        try:
            if request.method != "POST" or request.path not in WIRES:
                await self._send_body(wire, wire.encoded(self._server.other(request)))
                return True
            self._server.check(request, type(wire))
        except Refusal as refusal:
            wire.reply = Reply(status=refusal.status)
            await self._send_body(wire, wire.encoded(wire.error(refusal.kind, refusal.text, refusal.code)))
            return True
        reply = wire.reply = await self._server.next_reply(request)
        if reply.hold is not None:
            await reply.hold.pass_through()
        if reply.ending == "silent":
            request.finished.set()
            return False
        await self._send(wire)
        return reply.ending == "clean" and reply.keep_alive and request.headers.get("connection") != "close"

    async def _send(self, wire: Wire) -> None:
        reply = wire.reply
        if reply.body is not None:
            await self._send_body(wire, reply.body)
        elif reply.status != 200:
            kind, text, code = wire.default_errors.get(reply.status, wire.default_errors[500])
            if reply.error is not None:
                kind, text, code = *reply.error, reply.error[0]
            await self._send_body(wire, wire.encoded(wire.error(kind, text, code)))
        elif wire.request.body.get("stream"):
            await self._send_events(wire)
        else:
            pieces = list(reply.pieces)
            for piece in pieces:
                for part in piece.arguments if isinstance(piece, ToolCall) else (piece,):
                    if isinstance(part, Gate):
                        await part.pass_through()
            broken = [piece.data.encode() for piece in pieces if isinstance(piece, Malformed)]
            await self._send_body(wire, broken[0] if broken else wire.encoded(wire.whole(pieces)))

    async def _send_events(self, wire: Wire) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        self._writer.write(_head(wire, headers | {"transfer-encoding": "chunked"}))
        sizes = _sizes(wire.reply)
        for event in wire.events():
            if isinstance(event, Gate):
                await event.pass_through()
                continue
            async for part in _parts(event, sizes):
                self._writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                await self._writer.drain()
        await self._end(wire, b"0\r\n\r\n")

    async def _send_body(self, wire: Wire, body: bytes) -> None:
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        self._writer.write(_head(wire, headers))
        last = body[-1:] if wire.reply.ending == "clean" else b""
        async for part in _parts(body[:-1] if last else body[: len(body) // 2], _sizes(wire.reply)):
            self._writer.write(part)
            await self._writer.drain()
        await self._end(wire, last)

    async def _end(self, wire: Wire, last: bytes) -> None:
        """Writes the last bytes. Having them the client may go at once, so that the request is finished before."""
        transport = self._writer.transport
        if wire.reply.ending == "clean":
            self._writer.write(last)
        elif wire.reply.ending == "reset":
            # A socket that lingers for no time is closed with a reset.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        wire.request.finished.set()
        await self._writer.drain()


def _wire_class(request: Request) -> type[Wire]:
    anthropic = "anthropic-version" in request.headers or "x-api-key" in request.headers
    return WIRES.get(request.path, AnthropicWire if anthropic else OpenAIWire)


def _head(wire: Wire, headers: dict[str, str]) -> bytes:
    reply = wire.reply
    phrase = HTTPStatus(reply.status).phrase if reply.status in set(HTTPStatus) else "Unknown"
    headers = headers | {wire.request_id_header: "req_1"} | ({} if reply.keep_alive else {"connection": "close"})
    lines = [f"{name}: {value}" for name, value in {**headers, **reply.headers}.items()]
    return "\r\n".join([f"HTTP/1.1 {reply.status} {phrase}", *lines, "", ""]).encode()


def _sizes(reply: Reply) -> Iterator[int]:
    return cycle((reply.split,) if isinstance(reply.split, int) else reply.split)


async def _parts(data: bytes, sizes: Iterator[int]) -> AsyncIterator[bytes]:
    """Cuts bytes in parts, and lets each be sent and received before the next is written."""
    start = 0
    while start < len(data):
        size = next(sizes)
        if size <= 0:
            yield data[start:]
            return
        yield data[start : start + size]
        start += size
        await asyncio.sleep(0)


# The server


class LLMServer:
    """A server on 127.0.0.1, at a free port. See the module.

    Args:
        api_key: The key that requests must have; any, or none, if it is not given.
        models: The models that there are; any if it is not given.
        default: What answers when the script is at its end.
        strict: Refuse conversations that the providers refuse: empty messages, tool calls without results.
        port: The port.

    Attributes:
        requests: What it was asked, in order. Requests that it refused are here too.
        connections: How many connections were opened to it.
        errors: What went wrong in the server itself; the first is raised when it is closed.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        models: tuple[str, ...] | None = None,
        default: Responder = echo,
        strict: bool = True,
        port: int = 0,
    ) -> None:
        self.api_key = api_key
        self.models = models
        self.default = default
        self.strict = strict
        self.requests: list[Request] = []
        self.connections = 0
        self.errors: list[Exception] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self._port = port
        self._script: deque[Reply | Responder] = deque()
        self._arrivals: defaultdict[int, Signal] = defaultdict(Signal)
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None, "the server is not running"
        return f"http://127.0.0.1:{self._port}"

    @property
    def openai_url(self) -> str:
        """What `AsyncOpenAI(base_url=)` and OPENAI_BASE_URL take."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """What `AsyncAnthropic(base_url=)` and ANTHROPIC_BASE_URL take."""
        return self.url

    def script(self, *replies: Reply | Responder) -> None:
        """Says what the next requests are answered: replies, or functions of the request that give one."""
        self._script.extend(replies)

    def assert_all_consumed(self) -> None:
        assert not self._script, f"{len(self._script)} scripted replies were not asked for"

    async def request(self, number: int) -> Request:
        """Waits until a request, counted from 0, has come in."""
        await _in_time(self._arrivals[number].wait(), f"request {number} did not come")
        return self.requests[number]

    async def client_disconnected(self, number: int) -> Request:
        """Waits until the client has given up a request, counted from 0, in mid-answer."""
        request = await self.request(number)
        await _in_time(request.disconnected.wait(), f"the client did not close the connection of request {number}")
        return request

    def block_until_request(self, number: int) -> Request:
        """The same as `request`, for a thread without an event loop."""
        self._arrivals[number].block()
        return self.requests[number]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Protocol(self), "127.0.0.1", self._port, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0)  # so that each task has begun, and can close its connection
        while self.tasks:
            for task in self.tasks:
                task.cancel()
            await asyncio.wait(self.tasks)
        await self._server.wait_closed()
        if self.errors and kind is None:
            raise self.errors[0]

    @classmethod
    @contextmanager
    def in_thread(cls, *replies: Reply | Responder, **options: Any) -> Iterator[Self]:
        """Runs a server beside code that blocks, or that runs event loops of its own.

        Args:
            *replies: The script.
            **options: What the class takes.

        Yields:
            The server. Signals and gates work from every thread.
        """
        started: Future[tuple[Self, Callable[[], object]]] = Future()

        async def serve() -> None:
            stop = Signal()
            try:
                async with cls(**options) as server:
                    server.script(*replies)
                    started.set_result((server, stop.set))
                    await stop.wait()
            except BaseException as error:
                if not started.done():
                    started.set_exception(error)
                raise

        with ThreadPoolExecutor(1, "llm_server") as pool:
            running = pool.submit(asyncio.run, serve())
            server, stop = started.result(PATIENCE)
            try:
                yield server
            finally:
                stop()
            running.result(PATIENCE)

    # What connections call

    def arrived(self, request: Request) -> None:
        self.requests.append(request)
        self._arrivals[len(self.requests) - 1].set()

    def check(self, request: Request, wire: type[Wire]) -> None:
        """Refuses what the provider would refuse."""
        self._check_key(request, wire)
        body = request.body
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            raise _invalid("messages: Field required")
        if not isinstance(body.get("model"), str):
            raise _invalid("you must provide a model parameter")
        if self.models is not None and body["model"] not in self.models:
            raise wire.unknown_model(body["model"])
        if self.strict:
            wire.check(body)

    async def next_reply(self, request: Request) -> Reply:
        reply = self._script.popleft() if self._script else self.default
        if isinstance(reply, Reply):
            return reply
        answer = reply(request)
        return answer if isinstance(answer, Reply) else await answer

    def other(self, request: Request) -> Json:
        """Answers what is no generation: the list of models, the count of tokens."""
        wire = _wire_class(request)
        self._check_key(request, wire)
        if request.method == "POST" and request.path == "/v1/messages/count_tokens":
            return {"input_tokens": 7}
        if request.method != "GET" or not re.fullmatch("/v1/models(/.+)?", request.path):
            raise Refusal(404, "not_found_error", f"{request.method} {request.path} is not here")
        models = self.models or ("served-model",)
        name = request.path.removeprefix("/v1/models").removeprefix("/")
        if name and name not in models:
            raise wire.unknown_model(name)
        if wire is AnthropicWire:
            entries = [_anthropic_model(model) for model in models]
            ends = {"first_id": models[0], "last_id": models[-1], "has_more": False}
            return entries[models.index(name)] if name else {"data": entries, **ends}
        entries = [{"id": model, "object": "model", "created": 1, "owned_by": "tests"} for model in models]
        return entries[models.index(name)] if name else {"object": "list", "data": entries}

    def _check_key(self, request: Request, wire: type[Wire]) -> None:
        key = wire.key_of(request)
        if self.api_key is not None and key != self.api_key:
            raise wire.wrong_key(key)


def _anthropic_model(model: str) -> Json:
    return {
        "type": "model",
        "id": model,
        "display_name": model,
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
    }


async def _in_time(waiting: Awaitable[T], otherwise: str) -> T:
    try:
        return await asyncio.wait_for(waiting, PATIENCE)
    except TimeoutError:
        raise AssertionError(f"{otherwise} within {PATIENCE:g} s") from None


llm_server_in_thread = LLMServer.in_thread


def _slow_echo(delay: float) -> Responder:
    def reply(request: Request) -> Reply:
        return Reply(tuple(part for word in echo(request).pieces for part in (_Delay(delay), word)))

    return reply


async def _main() -> None:
    parser = argparse.ArgumentParser(description="A server that echoes, for manual trials.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds before each word")
    options = parser.parse_args()
    async with LLMServer(default=_slow_echo(options.delay), port=options.port) as server:
        print(f"OPENAI_BASE_URL={server.openai_url}\nANTHROPIC_BASE_URL={server.anthropic_url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main())
