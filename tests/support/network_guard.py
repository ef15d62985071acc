"""Keeps tests on this machine: a pytest plugin that fails a test which connects or looks a name up elsewhere.

The attempt itself raises `NetworkAccess`, before anything is sent. As code under test may swallow that, each attempt is
recorded too, and fails the phase of the test (setup, call, teardown) in which it was made. Names under `.invalid` fail
to resolve, as they do everywhere, and are not recorded: tests that need an unreachable host take these.

It sees the socket module through audit events, whoever imported what from it, and uvloop, which uses no sockets of
Python, through its methods. Processes that a test starts are not seen.
"""

import ipaddress
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

try:
    import uvloop
except ImportError:  # pragma: no cover
    uvloop = None  # type: ignore[assignment]

__all__ = ["GUARD", "NetworkAccess", "NetworkGuard"]

Wrapped = Callable[..., Any]


class NetworkAccess(AssertionError):
    """A test tried to reach another machine."""


class NetworkGuard:
    """Refuses and records what would leave this machine.

    Attributes:
        attempts: What was tried and where, since it was last taken.
    """

    def __init__(self) -> None:
        self.attempts: list[str] = []
        self._installed = False
        self._on = False

    def install(self) -> None:
        """Begins to watch; audit hooks last as long as the interpreter, so that a second call only switches it on."""
        self._on = True
        if not self._installed:
            self._installed = True
            sys.addaudithook(self._audit)
            if uvloop is not None:
                self._watch_uvloop()

    def stop(self) -> None:
        self._on = False

    def take(self) -> list[str]:
        attempts, self.attempts = self.attempts, []
        return attempts

    @contextmanager
    def expected(self) -> Iterator[list[str]]:
        """Attempts inside the block fail no test.

        Yields:
            The attempts made in it.
        """
        before, self.attempts = self.attempts, []
        try:
            yield self.attempts
        finally:
            self.attempts = before

    def check(self, what: str, host: Any) -> None:
        """Raises if a host is not this machine."""
        if not self._on:
            return
        if isinstance(host, (bytes, bytearray)):
            host = host.decode("ascii", "replace")
        if _is_here(host):
            return
        name = str(host).rstrip(".").lower()
        if name == "invalid" or name.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, f"{host} is no host, in tests as elsewhere")
        attempt = f"{what} {host} at {_place()}"
        self.attempts.append(attempt)
        raise NetworkAccess(f"tests talk to this machine only, and not: {attempt}")

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not event.startswith("socket.") or not self._on:
            return
        match event:
            case "socket.connect" | "socket.sendto" | "socket.sendmsg":
                sock, address = args
                if sock.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
                    self.check(event, address[0])
            case "socket.getaddrinfo" | "socket.gethostbyname" | "socket.gethostbyaddr":
                self.check(event, args[0])
            case "socket.getnameinfo":
                self.check(event, args[0][0])

    def _watch_uvloop(self) -> None:
        def getaddrinfo(original: Wrapped, loop: Any, host: Any, *args: Any, **options: Any) -> Any:
            self.check("uvloop.getaddrinfo", host)
            return original(loop, host, *args, **options)

        def getnameinfo(original: Wrapped, loop: Any, sockaddr: Any, *args: Any) -> Any:
            self.check("uvloop.getnameinfo", sockaddr[0])
            return original(loop, sockaddr, *args)

        def create_connection(
            original: Wrapped, loop: Any, factory: Any, host: Any = None, *args: Any, **options: Any
        ) -> Any:
            self.check("uvloop.create_connection", host)
            return original(loop, factory, host, *args, **options)

        def create_datagram_endpoint(
            original: Wrapped, loop: Any, factory: Any, local_addr: Any = None, remote_addr: Any = None, **options: Any
        ) -> Any:
            if isinstance(remote_addr, tuple):
                self.check("uvloop.create_datagram_endpoint", remote_addr[0])
            return original(loop, factory, local_addr, remote_addr, **options)

        for watcher in (getaddrinfo, getnameinfo, create_connection, create_datagram_endpoint):
            setattr(uvloop.Loop, watcher.__name__, _watching(getattr(uvloop.Loop, watcher.__name__), watcher))


def _watching(original: Wrapped, watcher: Wrapped) -> Wrapped:
    async def watched(*args: Any, **options: Any) -> Any:
        return await watcher(original, *args, **options)

    return watched


def _is_here(host: Any) -> bool:
    if host in (None, "", "localhost") or str(host).endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def _place() -> str:
    """The innermost line outside the standard library and this module."""
    frames = traceback.extract_stack()
    ours = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith(sys.base_prefix)]
    frame = (ours or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


GUARD = NetworkGuard()


def pytest_configure() -> None:
    GUARD.install()


def pytest_unconfigure() -> None:
    GUARD.stop()


def _fail_for_attempts() -> Iterator[None]:
    try:
        result = yield
    except BaseException as error:
        if (attempts := GUARD.take()) and not isinstance(error, pytest.skip.Exception):
            error.add_note("It tried to leave this machine: " + "; ".join(attempts))
            raise
        if not attempts:
            raise
    else:
        attempts = GUARD.take()
        if not attempts:
            return result
    pytest.fail("tests talk to this machine only, and not: " + "; ".join(attempts), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    return (yield from _fail_for_attempts())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    return (yield from _fail_for_attempts())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    return (yield from _fail_for_attempts())
