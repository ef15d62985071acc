"""Where a Redis server is, and how it is reached: the arguments of a `RedisCache`, or an address."""

import ssl as tls
from collections.abc import Mapping
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url

from miniagents.ext.cache.redis_connection import Server

__all__ = ["read_url", "server_at"]

_OPTIONS = ("client_name", "credential_provider", "socket_keepalive", "socket_keepalive_options")


def server_at(
    place: Mapping[str, Any], ssl: bool | tls.SSLContext, timeout: float, options: Mapping[str, Any]
) -> Server:
    """Makes the server.

    Args:
        place: Host and port or path, database, user and password.
        ssl: Whether to use TLS, or the context for it.
        timeout: After how many seconds an operation is given up.
        options: What the user wants redis-py's connections to be given, too.

    Returns:
        The server.

    Raises:
        TypeError: There is no such option.
        ValueError: The time-out is not positive.
    """
    for name in options:
        if name.startswith("ssl_") and not ssl:
            raise TypeError(f"{name} needs ssl=True, or an address that begins with rediss://")
        if name not in _OPTIONS and not name.startswith("ssl_"):
            raise TypeError(f"a RedisCache has no option {name!r}; there are {', '.join(_OPTIONS)} and those of TLS")
    if not timeout > 0:
        raise ValueError(f"a timeout of {timeout!r} s leaves no time for anything; give a positive number")
    kind = UnixDomainSocketConnection if "path" in place else SSLConnection if ssl else Connection
    context = ssl if isinstance(ssl, tls.SSLContext) else None
    return Server(kind, {**options, **place, "socket_connect_timeout": timeout}, timeout, context)


def read_url(url: str) -> dict[str, Any]:
    """Reads an address.

    Args:
        url: The address.

    Returns:
        The arguments of a `RedisCache`.

    Raises:
        ValueError: The address cannot be understood.
    """
    try:
        read = dict(parse_url(url))
    except ValueError:
        read = None  # the error is raised out here: the first one may name what it has taken for a port
    if read is None:
        raise ValueError(
            "the address of the Redis server cannot be understood; give redis://, rediss:// or unix://, "
            "and percent-encode special characters of user and password"
        )
    kind = read.pop("connection_class", None)
    if kind is SSLConnection:
        read["ssl"] = True
    if "path" in read:
        read["unix_socket_path"] = read.pop("path")
    return read
