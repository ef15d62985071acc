"""`RedisCache`: values and mailboxes in Redis, for as many processes as there are."""

import asyncio
import re
import ssl as tls
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar

from redis.exceptions import ResponseError

from miniagents.ext.cache.interface import Cache
from miniagents.ext.cache.namespaces import Namespace
from miniagents.ext.cache.redis_address import read_url, server_at
from miniagents.ext.cache.redis_lines import Lines
from miniagents.ext.cache.redis_mailboxes import Mailboxes
from miniagents.ext.cache.redis_scripts import (
    ADD,
    INCREMENT,
    PUSH,
    REPLACE,
    Script,
    key_bytes,
    key_of,
    milliseconds,
    packed,
    pattern_of,
)

__all__ = ["RedisCache"]

T = TypeVar("T")

_BATCH = 500
"""How many keys one command deals with, so that none keeps the server busy for long."""


class RedisCache(Cache):
    """A cache in Redis 6.2 or newer, or what speaks its protocol. Redis Cluster is not supported.

    It can be used in several event loops and threads at the same time: each event loop has connections of its own.
    They are closed by `close`, or when the event loop ends (as `asyncio.run` ends one).

    A lost connection is opened again, and what may have reached the server is repeated without being done twice, as
    long as the server keeps what it knows (without persistence it forgets that when it dies). There is one exception:
    how many keys `delete_many` says there were, and the answer of `delete`, may be too low then. Messages that several
    readers give back at the same moment, because they are cancelled, may change places.

    Args:
        host: The host.
        port: The port.
        db: The number of the database.
        password: The password; it is in no error and no log.
        default_prefix: See `Cache`.
        default_suffix: See `Cache`.
        affix_sep: See `Cache`.
        username: The user; None for the default one.
        ssl: Whether to use TLS, or the context with the certificates for it.
        unix_socket_path: The path of a socket to use in place of host and port.
        timeout: After how many seconds without the server an operation is given up, also if the server hangs. The time
            for which `get_message` waits for a message does not count.
        max_connections: How many operations ask at the same time. Readers that wait for a message do not count: each
            has a connection of its own.
        **options: Further ones of redis-py's connections: `ssl_ca_certs` and all that begin with `ssl_`, `client_name`,
            `credential_provider`, `socket_keepalive`.

    Raises:
        TypeError: There is no such option.
        ValueError: `timeout` or `max_connections` is not positive.
        CacheUnavailableError: From all operations: the server was away, silent or not ready for `timeout` seconds, or
            refuses (it is full, read-only, wants another password). The operation may have been done.

    Example:
        ```python
        async with RedisCache("localhost", default_prefix="chat") as cache:
            await cache.set("answer", 42, ttl=60)
            await cache.publish_to_mailbox("jobs", {"question": "Why?"})
        ```
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 6379,
        db: int = 0,
        password: str | None = None,
        default_prefix: str = "",
        *,
        default_suffix: str = "",
        affix_sep: str = ":",
        username: str | None = None,
        ssl: bool | tls.SSLContext = False,
        unix_socket_path: str | None = None,
        timeout: float = 10.0,
        max_connections: int = 32,
        **options: Any,
    ) -> None:
        super().__init__(default_prefix=default_prefix, default_suffix=default_suffix, affix_sep=affix_sep)
        if max_connections < 1:
            raise ValueError(f"max_connections is {max_connections!r}; give at least 1")
        where = {"host": host, "port": port} if unix_socket_path is None else {"path": unix_socket_path}
        place = {**where, "db": db, "username": username, "password": password}
        self._server = server_at(place, ssl, timeout, options)
        self._max_connections = max_connections
        self._ends: dict[asyncio.AbstractEventLoop, _End] = {}

    @classmethod
    def from_url(cls, url: str, default_prefix: str = "", **options: Any) -> Self:
        """Makes a cache from an address.

        Args:
            url: `redis://[[user]:password@]host[:port][/db]`, `rediss://...` for TLS, or
                `unix://[[user]:password@]/path?db=0`. Options may follow behind `?`.
            default_prefix: See `Cache`.
            **options: See `RedisCache`; they come before those of the address.

        Returns:
            The cache.

        Raises:
            ValueError: The address cannot be understood.

        Example:
            ```python
            cache = RedisCache.from_url("rediss://:secret@cache.example.com:6380/2?ssl_ca_certs=/etc/ca.pem")
            ```
        """
        return cls(default_prefix=default_prefix, **{**read_url(url), **options})

    def __repr__(self) -> str:
        return f"<RedisCache {self._server.name}>"

    async def close(self) -> None:
        """Closes the connections of this event loop. Readers that wait get None, and nobody waits any more.

        Operations can still be used, for clean-up; each opens a connection of its own then.
        """
        end = await self._here()
        if not end.mailboxes.closed:
            await end.closing.aclose()

    # --- values ---

    async def _load(self, key: str) -> bytes | None:
        try:
            data: bytes | None = await self._ask(packed(b"GET", key_bytes(key)))
        except ResponseError as error:
            raise _wrong_type(key) from error
        return data

    async def _load_many(self, keys: Sequence[str]) -> list[bytes | None]:
        replies = await self._ask_all([packed(b"MGET", *map(key_bytes, batch)) for batch in _batches(keys)])
        return [data for reply in replies for data in reply]

    async def _store(self, values: Mapping[str, bytes], ttl: float | None) -> None:
        items = [(key_bytes(key), data) for key, data in values.items()]
        if ttl is not None:
            await self._ask_all([packed(b"SET", key, data, b"PX", milliseconds(ttl)) for key, data in items])
        elif len(items) == 1:
            await self._ask(packed(b"SET", *items[0]))
        else:
            await self._ask_all([packed(b"MSET", *[w for item in batch for w in item]) for batch in _batches(items)])

    async def _remove(self, keys: Sequence[str]) -> int:
        return sum(await self._ask_all([packed(b"UNLINK", *map(key_bytes, batch)) for batch in _batches(keys)]))

    async def _add(self, key: str, data: bytes, ttl: float | None) -> bool:
        return bool(await self._once(ADD, key, data, *_maybe_ms(ttl)) == b"1")

    async def _replace(self, key: str, expected: bytes, data: bytes, ttl: float | None) -> bool:
        try:
            return bool(await self._once(REPLACE, key, expected, data, *_maybe_ms(ttl)) == b"1")
        except ResponseError as error:
            raise _wrong_type(key) from error

    async def _increment(self, key: str, by: int) -> int:
        overflow = f"the sum at the key {key!r} does not fit into 64 bits"
        if not -(2**63) <= by < 2**63:
            raise OverflowError(overflow)
        try:
            return int(await self._once(INCREMENT, key, b"%d" % by))
        except ResponseError as error:
            if "overflow" in str(error) or re.fullmatch(rb"-?\d+", await self._load(key) or b""):
                raise OverflowError(overflow) from error
            raise TypeError(f"the value of the key {key!r} is no integer, so that nothing is added to it") from error

    async def _scan(self, namespace: Namespace) -> AsyncIterator[list[str]]:
        pattern = pattern_of(namespace)
        lines = (await self._here()).lines
        loop = asyncio.get_running_loop()
        cursor = b"0"
        async with lines.apart() as line:

            async def step() -> list[bytes]:
                nonlocal cursor
                if not line.connection.is_connected:
                    cursor = b"0"  # from the start: another server process counts otherwise
                keys: list[bytes]
                cursor, keys = await line.ask(packed(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _BATCH))
                return keys

            while True:
                keys = await lines.insist(step, loop.time() + self._server.timeout)
                yield [key for key in map(key_of, keys) if key is not None and namespace.has(key)]
                if cursor == b"0":
                    return

    # --- mailboxes ---

    async def _push(self, mailbox: str, data: bytes, ttl: float | None) -> None:
        await self._once(PUSH, mailbox, data, *_maybe_ms(ttl))

    async def _pop(self, mailbox: str, timeout: float | None) -> bytes | None:
        return await (await self._here()).mailboxes.take(key_bytes(mailbox), timeout)

    async def _peek(self, mailbox: str) -> bytes | None:
        data: bytes | None = await self._ask(packed(b"LINDEX", key_bytes(mailbox), b"0"))
        return data

    async def _length(self, mailbox: str) -> int:
        return int(await self._ask(packed(b"LLEN", key_bytes(mailbox))))

    # --- asking the server ---

    async def _ask(self, command: bytes) -> Any:
        return await (await self._here()).lines.run(lambda line: line.ask(command))

    async def _ask_all(self, commands: Sequence[bytes]) -> list[Any]:
        return await (await self._here()).lines.run(lambda line: line.ask_all(commands))

    async def _once(self, script: Script, key: str, *arguments: bytes) -> Any:
        whole_key = key_bytes(key)
        return await (await self._here()).lines.run(lambda line: line.run_once(script, whole_key, arguments))

    async def _here(self) -> "_End":
        loop = asyncio.get_running_loop()
        end = self._ends.get(loop)
        return end if end is not None else await self._opened(loop)

    async def _opened(self, loop: asyncio.AbstractEventLoop) -> "_End":
        for other in [other for other in list(self._ends) if other.is_closed()]:
            if (end := self._ends.pop(other, None)) is not None:
                end.mailboxes.abandon()
                end.lines.abandon()
        lines = Lines(self._server, self._max_connections)
        mailboxes = Mailboxes(lines)
        end = self._ends[loop] = _End(lines, mailboxes, _closing(lines, mailboxes))
        await anext(end.closing)
        return end


class _End(NamedTuple):
    """This end of the lines to the server, in one event loop."""

    lines: Lines
    mailboxes: Mailboxes
    closing: AsyncGenerator[None, None]


async def _closing(lines: Lines, mailboxes: Mailboxes) -> AsyncGenerator[None, None]:
    """Closes the connections when it is closed itself.

    The event loop does that with generators that are left when it ends, and when nobody has this one any more.
    """
    try:
        yield
    finally:
        try:
            await mailboxes.close()
        finally:
            await lines.close()


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))


def _maybe_ms(ttl: float | None) -> list[bytes]:
    return [] if ttl is None else [milliseconds(ttl)]


def _wrong_type(key: str) -> TypeError:
    return TypeError(
        f"what is stored at the key {key!r} is no value of a cache, but a list or the like; give another key or prefix"
    )
