"""Task graphs have no time of their own, so that their tests run on a virtual clock, unless there is a server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents.ext.cache import Cache, MemoryCache, RedisCache
from miniagents.testing import VirtualClockEventLoop

_SERVERS = {"any_cache", "redis_url", "server"}


def pytest_asyncio_loop_factories(config: pytest.Config, item: Any) -> dict[str, Any]:
    """See `tests/conftest.py`."""
    if _SERVERS.isdisjoint(item.fixturenames):
        return {"virtual": VirtualClockEventLoop}
    return {"asyncio": asyncio.SelectorEventLoop}


@pytest.fixture(params=["memory", "redis"])
async def any_cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    """A cache in memory, and one in a real Redis."""
    if request.param == "memory":
        yield MemoryCache()
        return
    url, prefix = request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix")
    async with RedisCache.from_url(url, default_prefix=prefix) as cache:
        await cache.delete("nothing")  # what the cache itself needs has been started when the test begins
        yield cache
