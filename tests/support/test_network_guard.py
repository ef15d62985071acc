"""No test leaves this machine, whichever way it tries."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support.network_guard import GUARD, NetworkAccess

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
FAR = "192.0.2.1"  # set aside for documentation: nobody is there


def connect() -> None:
    with socket.socket() as sock:
        sock.connect((FAR, 80))


def connect_ex() -> None:
    with socket.socket() as sock:
        sock.connect_ex((FAR, 80))


def connect_v6() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        sock.connect(("2001:db8::1", 80))


def send_to() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (FAR, 53))


@pytest.mark.parametrize(
    "attempt",
    [
        connect,
        connect_ex,
        connect_v6,
        send_to,
        lambda: socket.create_connection((FAR, 80)),
        lambda: socket.getaddrinfo("example.com", 80),
        lambda: socket.getaddrinfo(b"example.com", 80),
        lambda: socket.gethostbyname("example.com"),
        lambda: socket.gethostbyaddr(FAR),
        lambda: socket.getnameinfo((FAR, 80), 0),
    ],
)
def test_the_socket_module_is_watched(attempt: Callable[[], object]) -> None:
    """Connections, datagrams and lookups raise an error that names the address and the line, and are recorded."""
    with GUARD.expected() as attempts, pytest.raises(NetworkAccess, match=r"192\.0\.2\.1|2001:db8|example\.com"):
        attempt()
    assert len(attempts) == 1
    assert __file__ in attempts[0]


async def sock_connect() -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (FAR, 80))


LOOP_ATTEMPTS: list[Callable[[], Awaitable[object]]] = [
    sock_connect,
    lambda: asyncio.open_connection(FAR, 80),
    lambda: asyncio.open_connection("example.com", 80),
    lambda: asyncio.get_running_loop().getaddrinfo("example.com", 80),
    lambda: asyncio.get_running_loop().getnameinfo((FAR, 80)),
    lambda: asyncio.get_running_loop().create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(FAR, 53)),
]


@pytest.mark.parametrize("attempt", LOOP_ATTEMPTS)
@pytest.mark.parametrize("loop_factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_event_loops_are_watched(loop_factory: Any, attempt: Callable[[], Awaitable[object]]) -> None:
    """The same goes for event loops; uvloop does its network by itself, and is watched all the same."""

    async def main() -> None:
        await attempt()

    with (
        GUARD.expected() as attempts,
        asyncio.Runner(loop_factory=loop_factory) as runner,
        pytest.raises(NetworkAccess, match=r"192\.0\.2\.1|example\.com"),
    ):
        runner.run(main())
    assert len(attempts) == 1


async def serve_and_connect(tmp_path: Path) -> None:
    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    async with (
        await asyncio.start_server(close, "127.0.0.1", 0) as server,
        await asyncio.start_unix_server(close, tmp_path / "s"),
    ):
        port = server.sockets[0].getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            reader, writer = await asyncio.open_connection(host, port)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("loop_factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_this_machine_is_open(loop_factory: Any, tmp_path: Path) -> None:
    """Loopback addresses, localhost and unix sockets are let through."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve_and_connect(tmp_path))
    assert socket.getaddrinfo("::1", 80)
    assert socket.getaddrinfo(None, 80)
    assert GUARD.attempts == []


@pytest.mark.parametrize("loop_factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_invalid_names_do_not_resolve(loop_factory: Any) -> None:
    """A name under .invalid is no attempt: it fails as it would anywhere."""
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("nowhere.invalid", 80)
    with asyncio.Runner(loop_factory=loop_factory) as runner, pytest.raises(socket.gaierror):
        runner.run(asyncio.open_connection("nowhere.invalid", 80))
    with suppress(OSError):
        connect_there = socket.create_connection(("nowhere.invalid", 80))
        connect_there.close()
    assert GUARD.attempts == []


def test_a_swallowed_attempt_fails_the_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the code under test makes of the error, the phase of the test in which it was made fails."""
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(
        """
        import socket
        import threading
        import pytest

        def attempt():
            try:
                socket.getaddrinfo("example.com", 80)
            except BaseException:
                pass

        @pytest.fixture
        def late():
            yield
            attempt()

        def test_swallows(): attempt()
        def test_in_a_thread():
            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join()
        def test_skips():
            attempt()
            pytest.skip()
        def test_at_teardown(late): pass
        def test_fails_otherwise():
            attempt()
            assert 0, "otherwise"
        def test_good(): socket.getaddrinfo("127.0.0.1", 80)
        """
    )
    result = pytester.runpytest_subprocess(
        *("-p", "tests.support.network_guard", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist"),
        *("-q", "-rN"),
    )
    result.assert_outcomes(failed=4, passed=2, errors=1)
    assert result.stdout.str().count("and not: socket.getaddrinfo example.com at") == 4
    result.stdout.fnmatch_lines(["*otherwise*", "*It tried to leave this machine: socket.getaddrinfo example.com*"])
