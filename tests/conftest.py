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

_connect = socket.socket.connect


def _connect_here_only(self: socket.socket, address: Any) -> None:
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"a test tried to reach {address[0]}; tests talk to this machine only")
    _connect(self, address)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    socket.socket.connect = _connect_here_only  # type: ignore[method-assign,assignment]
    yield
    socket.socket.connect = _connect  # type: ignore[method-assign]


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
