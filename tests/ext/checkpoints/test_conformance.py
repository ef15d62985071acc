"""Every checkpoint store of ours passes the tests that users can run against theirs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from miniagents.ext.cache import MemoryCache, RedisCache
from miniagents.ext.checkpoints import (
    CheckpointStore,
    FileCheckpointStore,
    RedisCheckpointStore,
    SQLiteCheckpointStore,
)
from miniagents.testing import CheckpointStoreConformance

Reopen = Callable[[], Awaitable[CheckpointStore]]


class OfOurs(CheckpointStoreConformance):
    @pytest.fixture
    async def reopen(self, store: CheckpointStore) -> AsyncIterator[Reopen]:
        async with AsyncExitStack() as stores:

            async def another() -> CheckpointStore:
                return await stores.enter_async_context(self.another(store))

            yield another

    def another(self, store: Any) -> CheckpointStore:
        raise NotImplementedError


class TestSQLite(OfOurs):
    @pytest.fixture
    async def store(self, folder: Path) -> AsyncIterator[CheckpointStore]:
        async with SQLiteCheckpointStore(folder / "runs.db", synchronous="OFF") as store:
            yield store

    def another(self, store: Any) -> CheckpointStore:
        return SQLiteCheckpointStore(store.path, synchronous="OFF")


class TestFiles(OfOurs):
    @pytest.fixture
    async def store(self, folder: Path) -> AsyncIterator[CheckpointStore]:
        async with FileCheckpointStore(folder / "runs", durable=False) as store:
            yield store

    def another(self, store: Any) -> CheckpointStore:
        return FileCheckpointStore(store.folder, durable=False)


class TestMemory(OfOurs):
    @pytest.fixture
    async def store(self) -> AsyncIterator[CheckpointStore]:
        async with MemoryCache(max_entries=None) as cache, RedisCheckpointStore(cache) as store:
            yield store

    def another(self, store: Any) -> CheckpointStore:
        return RedisCheckpointStore(store.cache)


class TestRedis(OfOurs):
    @pytest.fixture
    async def store(self, redis_cache: RedisCache) -> AsyncIterator[CheckpointStore]:
        async with RedisCheckpointStore(redis_cache) as store:
            yield store

    def another(self, store: Any) -> CheckpointStore:
        return RedisCheckpointStore(store.cache)
