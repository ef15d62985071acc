"""Graphs have no time, no process and no socket of their own, so that their tests run on a virtual clock."""

from typing import Any

import pytest

from miniagents.testing import VirtualClockEventLoop


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """See `tests/conftest.py`."""
    return {"virtual": VirtualClockEventLoop}
