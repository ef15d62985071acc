"""What all tests share."""

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import settings

from miniagents.testing import VirtualClockEventLoop

settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")

_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def _must_be_here(host: Any) -> None:
    host = host.decode() if isinstance(host, bytes) else host
    if host not in (None, "", "127.0.0.1", "::1", "localhost"):
        raise OSError(f"a test tried to reach {host}; tests talk to this machine only")


def _connect_here_only(self: socket.socket, address: Any) -> None:
    if isinstance(address, tuple):
        _must_be_here(address[0])
    _connect(self, address)


def _connect_ex_here_only(self: socket.socket, address: Any) -> int:
    if isinstance(address, tuple):
        _must_be_here(address[0])
    return _connect_ex(self, address)


def _look_up_here_only(host: Any, *args: Any, **kwargs: Any) -> Any:
    _must_be_here(host)
    return _getaddrinfo(host, *args, **kwargs)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _connect_here_only)
        patch.setattr(socket.socket, "connect_ex", _connect_ex_here_only)
        patch.setattr(socket, "getaddrinfo", _look_up_here_only)
        yield


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "ANTHROPIC_")):
            monkeypatch.delenv(name)


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """The loops that a test runs in: a virtual clock for what is ours alone, the real one for processes and sockets."""
    parts = item.path.parts
    if "ext" in parts or "support" in parts:
        return {"asyncio": asyncio.SelectorEventLoop}
    if "promising" in parts:
        return {"virtual": VirtualClockEventLoop, "uvloop": uvloop.new_event_loop}
    return {"virtual": VirtualClockEventLoop}
