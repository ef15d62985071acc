"""HTTP/1.1 as far as the SDKs use it."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from itertools import cycle
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from tests.support.llm_server.anthropic_clouds import BedrockWire, VertexWire
from tests.support.llm_server.anthropic_messages import AnthropicWire
from tests.support.llm_server.openai_chat import OpenAIWire
from tests.support.llm_server.openai_responses import ResponsesWire
from tests.support.llm_server.replies import Malformed, Reply, Request, ToolCall
from tests.support.llm_server.waiting import Gate
from tests.support.llm_server.wire import Refusal, Wire

if TYPE_CHECKING:
    from tests.support.llm_server.server import LLMServer

WIRES: tuple[type[Wire], ...] = (OpenAIWire, AnthropicWire, ResponsesWire, VertexWire, BedrockWire)
PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Protocol(asyncio.StreamReaderProtocol):
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
        return Request(method, url.path, parse_qs(url.query), headers, body, self._number, target, content)

    async def _serve_one(self, request: Request) -> bool:
        """Answers one request.

        Returns:
            Whether the connection can be used for another one.
        """
        reply = Reply()
        generates = request.method == "POST" and wire_of_path(request.path)
        wire = (generates or wire_of_headers(request))(request, reply, self._server)
        if generates:
            request.model, request.stream = wire.model_of(request), wire.streams(request)
        self._server.arrived(request)
        try:
            if not generates:
                await self._send_body(wire, wire.encoded(self._server.other(request)))
                return True
            self._server.check(request, type(wire))
        except Refusal as refusal:
            wire.reply = Reply(status=refusal.status, error=(refusal.kind, refusal.text))
            await self._send_error(wire, refusal.kind, refusal.text, refusal.code)
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
            await self._send_error(wire, kind, text, code)
        elif wire.request.stream:
            await self._send_events(wire)
        else:
            pieces = list(reply.pieces)
            for piece in pieces:
                for part in piece.arguments if isinstance(piece, ToolCall) else (piece,):
                    if isinstance(part, Gate):
                        await part.pass_through()
            broken = [piece.data.encode() for piece in pieces if isinstance(piece, Malformed)]
            await self._send_body(wire, broken[0] if broken else wire.encoded(wire.whole(pieces)))

    async def _send_error(self, wire: Wire, kind: str, text: str, code: str | None) -> None:
        await self._send_body(wire, wire.encoded(wire.error(kind, text, code)), wire.error_headers(kind))

    async def _send_events(self, wire: Wire) -> None:
        headers = {"content-type": wire.stream_type, "cache-control": "no-cache"}
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

    async def _send_body(self, wire: Wire, body: bytes, more: Mapping[str, str] = MappingProxyType({})) -> None:
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        self._writer.write(_head(wire, {**headers, **more}))
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


def wire_of_path(path: str) -> type[Wire] | None:
    return next((wire for wire in WIRES if wire.path.fullmatch(path)), None)


def wire_of_headers(request: Request) -> type[Wire]:
    """Whose client asks for what is no generation."""
    if VertexWire.count_path.fullmatch(request.path):
        return VertexWire
    anthropic = "anthropic-version" in request.headers or "x-api-key" in request.headers
    return AnthropicWire if anthropic else OpenAIWire


def _head(wire: Wire, headers: dict[str, str]) -> bytes:
    reply = wire.reply
    phrase = PHRASES.get(reply.status, "Unknown")
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
