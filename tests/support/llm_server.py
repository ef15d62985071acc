"""A local server that speaks the wire protocols of OpenAI and Anthropic, for tests through the real SDKs.

`async with LLMServer() as server` listens on 127.0.0.1; `server.script(...)` says what it answers, call by call. With
no script it echoes the last message, word by word. Run this file to have such a server to try things with.
"""

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

Pieces = tuple["str | bytes | Gate | dict[str, Any]", ...]


class Gate:
    """Where the server stops in mid-answer until the test opens the gate."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        self.reached.set()
        await self._open.wait()


@dataclass
class Reply:
    """One answer.

    Attributes:
        pieces: Text tokens; raw events (dicts) of the protocol; raw bytes to write as they are; gates to wait at.
        status: The HTTP status; with anything but 200 `error` is sent as the provider sends errors.
        headers: Further headers.
        error: The type and the text of an error.
        finish: The provider's word for the end; None to leave it out, and the final marks with it.
        ending: "clean", or "cut" to break the connection off after the pieces.
        bare: Leave out what only the providers themselves send: usage and ids.
        split: Send the body in TCP segments of this many bytes; 0 for one segment per event.
    """

    pieces: Pieces = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: tuple[str, str] = ("api_error", "it failed")
    finish: str | None = "default"
    ending: str = "clean"
    bare: bool = False
    split: int = 0


@dataclass
class Request:
    """What the server was asked.

    Attributes:
        disconnected: Is set when the client has closed the connection before the end of the answer.
    """

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)


class LLMServer:
    """See the module."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._script: deque[Reply] = deque()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    def script(self, *replies: Reply) -> None:
        self._script.extend(replies)

    def assert_all_consumed(self) -> None:
        assert not self._script, f"{len(self._script)} scripted replies were not asked for"

    async def __aenter__(self) -> "LLMServer":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: Any) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        request = Request(first.split(" ")[1], headers, json.loads(body or b"{}"))
        self.requests.append(request)
        protocol = _Anthropic() if request.path.endswith("/messages") else _OpenAI()
        reply = self._script.popleft() if self._script else _echo(request.body)
        watcher = asyncio.create_task(_watch(reader, request))
        try:
            return await _send(writer, protocol, reply, request)
        except ConnectionError:
            request.disconnected.set()
            return False
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


async def _watch(reader: asyncio.StreamReader, request: Request) -> None:
    """Notices that the client has gone: until the answer is complete it has nothing to send."""
    while not reader.at_eof() and reader.exception() is None:
        await asyncio.sleep(0.005)
    request.disconnected.set()


def _echo(body: dict[str, Any]) -> Reply:
    messages = body.get("messages") or [{"content": ""}]
    return Reply(tuple(f"{word} " for word in str(messages[-1]["content"]).split()))


async def _send(writer: asyncio.StreamWriter, protocol: "_OpenAI | _Anthropic", reply: Reply, request: Request) -> bool:
    if reply.status != 200:
        return await _send_json(writer, reply, protocol.error(*reply.error))
    if not request.body.get("stream"):
        for piece in reply.pieces:
            if isinstance(piece, Gate):
                await piece.pass_through()
        text = "".join(piece for piece in reply.pieces if isinstance(piece, str))
        return await _send_json(writer, reply, protocol.whole(text, reply, request))
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    await writer.drain()
    async for data in _events(protocol, reply, request):
        size = reply.split or len(data)
        for start in range(0, len(data), size):
            part = data[start : start + size]
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
            if request.disconnected.is_set():
                return False
            if reply.split:
                await asyncio.sleep(0)
    if reply.ending == "cut":
        writer.transport.abort()
        return False
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def _events(protocol: "_OpenAI | _Anthropic", reply: Reply, request: Request) -> AsyncIterator[bytes]:
    for event in protocol.begin(reply, request):
        yield event
    for piece in reply.pieces:
        if isinstance(piece, Gate):
            waiting = asyncio.create_task(piece.pass_through())
            gone = asyncio.create_task(request.disconnected.wait())
            await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            gone.cancel()
            if request.disconnected.is_set():
                raise ConnectionResetError
        elif isinstance(piece, bytes):
            yield piece
        elif isinstance(piece, dict):
            yield protocol.raw(piece)
        else:
            yield protocol.token(piece, reply)
    if reply.finish is not None and reply.ending != "cut":
        for event in protocol.end(reply, request):
            yield event


async def _send_json(writer: asyncio.StreamWriter, reply: Reply, content: dict[str, Any]) -> bool:
    data = json.dumps(content).encode()
    headers = {"content-type": "application/json", "content-length": str(len(data)), **reply.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {reply.status} X\r\n{lines}\r\n".encode() + data)
    await writer.drain()
    return True


class _OpenAI:
    """Chat completions."""

    def _chunk(self, reply: Reply, **fields: Any) -> bytes:
        ids = {} if reply.bare else {"id": "c1", "created": 1, "system_fingerprint": "f", "model": "served-model"}
        return self.raw({"object": "chat.completion.chunk", **ids, **fields})

    def _choice(self, reply: Reply, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return self._chunk(reply, choices=[{"index": 0, "delta": delta, "finish_reason": finish}])

    def raw(self, content: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps(content).encode() + b"\n\n"

    def begin(self, reply: Reply, request: Request) -> Iterator[bytes]:
        yield self._choice(reply, {"role": "assistant", "content": ""})

    def token(self, text: str, reply: Reply) -> bytes:
        return self._choice(reply, {"content": text})

    def end(self, reply: Reply, request: Request) -> Iterator[bytes]:
        yield self._choice(reply, {}, "stop" if reply.finish == "default" else reply.finish)
        if not reply.bare and (request.body.get("stream_options") or {}).get("include_usage"):
            yield self._chunk(reply, choices=[], usage=_OPENAI_USAGE)
        yield b"data: [DONE]\n\n"

    def whole(self, text: str, reply: Reply, request: Request) -> dict[str, Any]:
        finish = "stop" if reply.finish == "default" else reply.finish
        message = {"role": "assistant", "content": text}
        content: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
        if not reply.bare:
            content |= {"id": "c1", "object": "chat.completion", "created": 1, "model": "served-model"}
            content["usage"] = _OPENAI_USAGE
        return content

    def error(self, kind: str, text: str) -> dict[str, Any]:
        return {"error": {"message": text, "type": kind, "code": kind}}


class _Anthropic:
    """Messages."""

    def raw(self, content: dict[str, Any]) -> bytes:
        return f"event: {content['type']}\ndata: {json.dumps(content)}\n\n".encode()

    def begin(self, reply: Reply, request: Request) -> Iterator[bytes]:
        usage = {"input_tokens": 7, "output_tokens": 1}
        head = {"id": "m1", "type": "message", "role": "assistant", "model": "served-model", "content": []}
        yield self.raw({"type": "message_start", "message": {**head, "stop_reason": None, "usage": usage}})
        yield self.raw({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        yield self.raw({"type": "ping"})

    def token(self, text: str, reply: Reply) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return self.raw({"type": "content_block_delta", "index": 0, "delta": delta})

    def end(self, reply: Reply, request: Request) -> Iterator[bytes]:
        finish = "end_turn" if reply.finish == "default" else reply.finish
        yield self.raw({"type": "content_block_stop", "index": 0})
        delta = {"stop_reason": finish, "stop_sequence": None}
        yield self.raw({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}})
        yield self.raw({"type": "message_stop"})

    def whole(self, text: str, reply: Reply, request: Request) -> dict[str, Any]:
        finish = "end_turn" if reply.finish == "default" else reply.finish
        head = {"id": "m1", "type": "message", "role": "assistant", "model": "served-model", "stop_sequence": None}
        usage = {"input_tokens": 7, "output_tokens": 5}
        return {**head, "content": [{"type": "text", "text": text}], "stop_reason": finish, "usage": usage}

    def error(self, kind: str, text: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": kind, "message": text}}


_OPENAI_USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


@asynccontextmanager
async def _forever() -> AsyncIterator[LLMServer]:
    async with LLMServer() as server:
        yield server


@contextmanager
def llm_server_in_thread(*replies: Reply) -> Iterator[LLMServer]:
    """Runs a server beside code that blocks, or that runs an event loop of its own."""
    ready = threading.Event()
    running: list[Any] = []

    async def serve() -> None:
        async with LLMServer() as server:
            server.script(*replies)
            stop = asyncio.Event()
            running.extend((server, asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait()
    server, loop, stop = running
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


if __name__ == "__main__":

    async def main() -> None:
        async with LLMServer() as server:
            print(f"OPENAI_BASE_URL={server.openai_url} ANTHROPIC_BASE_URL={server.url}", flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
