"""What the server was asked, and what it answers."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from tests.support.llm_server.waiting import Gate, Signal

Json: TypeAlias = dict[str, Any]


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
        usage: Is merged into the tokens that the provider counts (7 and 5), in nested objects too; None to leave them
            out.
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
        target: Path and query, as they came.
        content: The bytes of the body.
        model: The model that is asked, wherever the protocol has its name.
        stream: Whether a stream is asked for, wherever the protocol says so.
        disconnected: Is set when the client has closed the connection before the end of the answer was written.
        finished: Is set when the server is done with the request, however it ended.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Json
    connection: int
    target: str = ""
    content: bytes = field(default=b"", repr=False)
    model: Any = None
    stream: bool = False
    disconnected: Signal = field(default_factory=Signal)
    finished: Signal = field(default_factory=Signal)


Responder: TypeAlias = Callable[[Request], "Reply | Awaitable[Reply]"]


def echo(request: Request) -> Reply:
    """What is answered without a script: the last message, word by word."""
    messages = request.body.get("messages") or request.body.get("input")
    last = messages[-1] if isinstance(messages, list) else {"content": messages}
    text = _text_of(last.get("content") or last.get("output"))
    return Reply(tuple(f"{word} " for word in text.split()))


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(filter(None, (_text_of(part.get("text") or part.get("content")) for part in content)))
    return content or ""


def arguments_of(piece: ToolCall) -> str:
    """The arguments of a call in one."""
    return "".join(part for part in piece.arguments if isinstance(part, str))


def merged(base: Json, changes: Mapping[str, Any] | None) -> Json:
    """Changes in place of what is there; in nested objects as well."""
    result = dict(base)
    for name, value in (changes or {}).items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both else value
    return result
