"""`MemoryCache`: what every cache does, and what only one in memory can."""

import pytest

from miniagents.ext.cache import MemoryCache
from miniagents.testing import CacheConformance


class TestMemoryCache(CacheConformance):
    @pytest.fixture
    async def cache(self):
        async with MemoryCache() as cache:
            yield cache
