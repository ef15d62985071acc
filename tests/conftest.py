"""What all tests share."""

import asyncio
import os
from typing import Any

import pytest
import uvloop
from hypothesis import settings

from miniagents.testing import VirtualClockEventLoop

settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")

pytest_plugins = ["tests.support.network_guard", "tests.support.redis_server"]


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
