"""What a protocol is to the server."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from tests.support.llm_server.replies import (
    Delta,
    Json,
    Malformed,
    Piece,
    Reply,
    Request,
    StreamError,
    Thinking,
    ToolCall,
)
from tests.support.llm_server.waiting import Gate

PLAIN = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
ESCAPING = json.JSONEncoder(separators=(",", ":"))


class Refusal(Exception):
    """A request that a provider would refuse."""

    def __init__(self, status: int, kind: str, text: str, code: str | None = None) -> None:
        super().__init__(text)
        self.status, self.kind, self.text, self.code = status, kind, text, code


def invalid(text: str, code: str | None = None) -> Refusal:
    return Refusal(400, "invalid_request_error", text, code)


@dataclass(frozen=True)
class AwsCredentials:
    """With what requests to Bedrock have to be signed.

    Attributes:
        access_key: The id of the key.
        secret_key: The key.
        region: The region.
        session_token: The token that temporary keys come with.
    """

    access_key: str
    secret_key: str
    region: str = "us-east-1"
    session_token: str | None = None


class Memory(Protocol):
    """What a server knows beyond one request.

    Attributes:
        api_key: The key that requests must have; any, or none, if it is not given.
        aws: With what requests to Bedrock have to be signed; anything if it is not given.
        thoughts: The thoughts that were sent out, by their signatures.
    """

    api_key: str | None
    aws: AwsCredentials | None
    thoughts: defaultdict[str, set[str]]


class Wire:
    """A protocol, in the middle of one answer."""

    path: ClassVar[re.Pattern[str]]
    request_id_header: ClassVar[str]
    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"
    default_errors: ClassVar[Mapping[int, tuple[str, str, str | None]]]

    def __init__(self, request: Request, reply: Reply, memory: Memory) -> None:
        self.request = request
        self.reply = reply
        self.memory = memory
        self.tool_calls = 0

    @classmethod
    def model_of(cls, request: Request) -> Any:
        """The model that is asked."""
        return request.body.get("model")

    @classmethod
    def streams(cls, request: Request) -> bool:
        return bool(request.body.get("stream"))

    @staticmethod
    def key_of(request: Request) -> str | None:
        """The API key of a request."""
        raise NotImplementedError

    @classmethod
    def check_access(cls, request: Request, memory: Memory) -> None:
        """Refuses requests of strangers."""
        key = cls.key_of(request)
        if memory.api_key is not None and key != memory.api_key:
            raise cls.wrong_key(key)

    @classmethod
    def check_shape(cls, request: Request) -> None:
        """Refuses what is no request at all."""
        if not isinstance(request.body.get("messages"), list):
            raise invalid("messages: Field required")
        if not isinstance(request.model, str):
            raise invalid("you must provide a model parameter")

    @classmethod
    def check(cls, request: Request, memory: Memory) -> None:
        """Refuses what the provider would refuse, as far as it is easily got wrong."""
        raise NotImplementedError

    @staticmethod
    def error_headers(kind: str) -> dict[str, str]:
        """Headers that go with an error."""
        return {}

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
        text = (ESCAPING if self.reply.escaped else PLAIN).encode(content)
        try:
            return text.encode()
        except UnicodeEncodeError:
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
