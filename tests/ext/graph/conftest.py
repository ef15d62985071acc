"""Graphs have no time, no process and no socket of their own, so that their tests run on a virtual clock."""

from collections.abc import Iterator
from typing import Any

import pytest

from miniagents.testing import VirtualClockEventLoop


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """See `tests/conftest.py`."""
    return {"virtual": VirtualClockEventLoop}


@pytest.fixture
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A test that uses it logs nothing, or clears what it was meant to log."""
    yield
    logged = caplog.get_records("call")
    assert not logged, "\n".join(record.getMessage() for record in logged)
