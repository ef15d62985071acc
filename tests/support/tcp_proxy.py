"""A proxy between a client and a server that loses what it is told to lose."""

import asyncio
import ssl
from contextlib import suppress

__all__ = ["TcpProxy"]


class TcpProxy:
    """Passes bytes on, in both directions. Use it with `async with`.

    Args:
        port: The port of the server.
        context: Ends TLS here, with this certificate; the server is talked to without.

    Attributes:
        port: The port of the proxy.
        lost: How many replies were lost.
        refuses: Whether new connections are cut at once.
        round_trips: How often the client has sent something after the server had.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.lost = 0
        self.refuses = False
        self.round_trips = 0
        self._target = port
        self._context = context
        self._words = b""
        self._times = 0
        self._server_was_last = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.WriteTransport] = set()
        self._held_up: set[asyncio.WriteTransport] = set()
        self._held: list[bytes] = []

    def lose_replies_to(self, words: bytes, times: int = 1) -> None:
        """Cuts a connection when the server has got these words and has replied, before the reply arrives.

        Args:
            words: A part of what is sent in one go.
            times: How often.
        """
        self._words, self._times = words, times

    def cut(self) -> None:
        """Cuts all connections."""
        for transport in self._transports:
            transport.abort()

    def hold(self) -> None:
        """Keeps what comes over the present connections."""
        self._held_up |= self._transports

    async def release(self) -> None:
        """Lets what was kept arrive, though its sender may be gone, and waits for the replies, which nobody gets."""
        held, self._held = self._held, []
        for data in held:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._target)
            writer.write(data)
            await reader.read(1)
            writer.close()
            await writer.wait_closed()

    async def __aenter__(self) -> "TcpProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if self.refuses:
            writer.transport.abort()
            self._tasks.discard(task)
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        transports = {writer.transport, server_writer.transport}
        self._transports |= transports
        doomed = asyncio.Event()
        ways = [
            asyncio.create_task(self._there(reader, server_writer, doomed)),
            asyncio.create_task(self._back(server_reader, writer, doomed)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for transport in transports:
                transport.abort()
            self._transports -= transports
            await asyncio.gather(*ways, return_exceptions=True)
            self._tasks.discard(task)

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                if self._times and self._words in data:
                    self._times -= 1
                    doomed.set()
                if writer.transport in self._held_up:
                    self._held.append(data)
                    continue
                self.round_trips += self._server_was_last
                self._server_was_last = False
                writer.write(data)
                await writer.drain()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                if doomed.is_set():
                    self.lost += 1
                    return
                self._server_was_last = True
                writer.write(data)
                await writer.drain()
