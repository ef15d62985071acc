"""Agents with tools, the servers that they ask, and a check that they leave nothing running."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.ext.llm.conftest import *  # noqa: F403  (the fixtures)


@pytest.fixture(autouse=True)
async def no_tasks_left() -> AsyncIterator[None]:
    """It is set up before the server of a test, and looks when that is closed."""
    yield
    for _ in range(10):  # tasks that were cancelled at the very end
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"still running: {left}"
