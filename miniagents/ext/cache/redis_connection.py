"""A Redis server, and a connection to it that asks one thing after the other. Connections are those of redis-py."""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Any

from redis.asyncio.connection import AbstractConnection, SSLConnection
from redis.exceptions import AuthenticationError, AuthorizationError, NoScriptError, RedisError, ResponseError
from redis.exceptions import ConnectionError as LostConnectionError
from redis.exceptions import TimeoutError as SilentServerError

from miniagents.ext.cache.errors import CacheUnavailableError
from miniagents.ext.cache.namespaces import RESERVED
from miniagents.ext.cache.redis_scripts import Script

__all__ = ["FAILURES", "Line", "Server", "may_pass"]

FAILURES = (RedisError, OSError)
"""What redis-py, sockets and time-outs raise."""

_KEPT_MS = 60_000


class Server:
    """How a Redis server is reached.

    Args:
        kind: Which connections of redis-py are used.
        options: Their options, password included.
        timeout: After how many seconds an operation is given up.
        context: The certificates for TLS; None for those that the options name.

    Attributes:
        name: Host and port, or the path of the socket.
        timeout: As given.
        kept_ms: How long the server keeps what only matters while an operation may arrive late or again.
    """

    def __init__(
        self, kind: type[AbstractConnection], options: Mapping[str, Any], timeout: float, context: ssl.SSLContext | None
    ) -> None:
        self.name = str(options["path"]) if "path" in options else f"{options['host']}:{options['port']}"
        self.timeout = timeout
        self.kept_ms = b"%d" % (_KEPT_MS + int(timeout * 2000))
        self._kind = kind
        self._options = options
        self._context = context

    def connection(self) -> AbstractConnection:
        """Makes a connection. It is not open yet; it repeats nothing by itself, and others watch its time."""
        connection = self._kind(**self._options, protocol=2, socket_timeout=None, driver_info=None)
        if isinstance(connection, SSLConnection):
            if self._context is None:
                self._context = connection.ssl_context.get()  # takes many milliseconds: once is enough
            connection.ssl_context.context = self._context
        return connection

    def unavailable(self, why: str, error: BaseException | None = None) -> CacheUnavailableError:
        """Makes the error for a server that cannot be used.

        Args:
            why: What it did or did not do.
            error: What was raised.

        Returns:
            The error. It names the server, and never the password: a server may repeat what it did not understand.
        """
        said = "" if error is None else f": {_words_of(error)}"
        told, repeated, _ = said.partition(", with args beginning with")
        password = self._options.get("password")
        if repeated or (password and password in said):
            error = None
            said = told.replace(password, "***") if password else told
        unavailable = CacheUnavailableError(f"Redis at {self.name} {why}{said}")
        unavailable.__cause__ = error
        return unavailable


class Line:
    """A connection to the server, opened again when it was lost. Whoever uses it has it alone.

    Attributes:
        connection: The connection.
        name: A name that no other line has, in any process.
        number: How many operations it has been used for.
    """

    __slots__ = ("_server", "connection", "name", "number")

    def __init__(self, server: Server) -> None:
        self.connection: Any = server.connection()  # half of redis-py is not annotated
        self.name = token_hex(8).encode()
        self.number = 0
        self._server = server

    async def ask(self, command: bytes) -> Any:
        """Sends a command and gives the reply. If it fails or is cancelled, the connection is closed or in order."""
        connection = self.connection
        if not connection.is_connected:
            await connection.connect()
        await connection.send_packed_command(command, check_health=False)
        return await connection.read_response()

    async def ask_all(self, commands: Sequence[bytes]) -> list[Any]:
        """Sends several commands at once. Gives the replies, or raises the first error among them."""
        replies: list[Any] = []
        refusal: ResponseError | None = None
        if not self.connection.is_connected:
            await self.connection.connect()
        await self.connection.send_packed_command(b"".join(commands), check_health=False)
        for _ in commands:
            try:
                replies.append(await self.connection.read_response())
            except ResponseError as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal
        return replies

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Any:
        """Runs a script, also on a server that does not know it (any more)."""
        try:
            return await self.ask(script.by_digest(keys, arguments))
        except NoScriptError:
            return await self.ask(script.in_full(keys, arguments))

    async def run_once(self, script: Script, key: bytes, arguments: Sequence[bytes]) -> Any:
        """Runs a script that knows an operation when it arrives again: the present one of this line."""
        kept = RESERVED.encode() + b"operation/" + self.name
        return await self.run(script, [kept, key], [b"%d" % self.number, self._server.kept_ms, *arguments])

    async def close(self, within: float) -> None:
        """Closes the connection and waits until it is closed, for so many seconds at most."""
        with suppress(*FAILURES):
            async with asyncio.timeout(within):
                await self.connection.disconnect()

    def hang_up(self) -> None:
        """Closes the connection without waiting for anything."""
        self.connection._close()

    def abandon(self) -> None:
        """Closes the connection of an event loop that has ended, and does nothing any more."""
        writer = self.connection._writer
        if writer is not None:
            with suppress(RuntimeError):
                writer.transport.abort()
            end = getattr(writer.transport, "_call_connection_lost", None)  # what the loop would have called
            if end is not None:
                end(None)
            self.hang_up()


def may_pass(error: BaseException) -> bool:
    """Whether a command that has failed may be answered a little later.

    Args:
        error: One of `FAILURES`.

    Returns:
        True for lost connections and a server that is not ready; False for what it refuses.
    """
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return False
    if isinstance(error.__context__, ssl.SSLCertVerificationError):
        return False
    if isinstance(error, ResponseError):
        return str(error).startswith("BUSY ")  # a script takes long; while it loads its data it closes the connection
    return isinstance(error, (LostConnectionError, SilentServerError, OSError))


def _words_of(error: BaseException) -> str:
    code = getattr(error, "status_code", None)
    return " ".join(filter(None, [code, str(error)])) or "no answer"
