"""The keys of a cache that belong to a checkpoint store."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from miniagents.ext.cache.errors import CacheUnavailableError
from miniagents.ext.cache.interface import Cache
from miniagents.ext.cache.namespaces import DEFAULT_PREFIX
from miniagents.ext.checkpoints.errors import StoreUnavailableError

__all__ = ["Shelf"]


class Shelf:
    """Values and mailboxes of a cache whose keys begin alike, whatever namespace is entered.

    Args:
        cache: The cache.
        name: What the keys begin with, behind the default prefix of the cache.

    Raises:
        StoreUnavailableError: From all operations: the server cannot be reached.
    """

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache = cache
        self._root = f"{cache.default_prefix or DEFAULT_PREFIX}/{name}/"

    async def get(self, key: str, default: Any = None) -> Any:
        """See `Cache.get`."""
        with self._reachable():
            return await self._cache.get(self._root + key, default, raw=True)

    async def get_many(self, keys: Sequence[str]) -> list[Any]:
        """Gives the values of keys, in their order; None where there is none."""
        whole = [self._root + key for key in keys]
        with self._reachable():
            found = await self._cache.get_many(whole, raw=True)
        return [found.get(key) for key in whole]

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """See `Cache.set`."""
        with self._reachable():
            await self._cache.set(self._root + key, value, raw=True, ttl=ttl)

    async def set_many(self, values: Mapping[str, Any], ttl: float | None = None) -> None:
        """See `Cache.set_many`."""
        with self._reachable():
            await self._cache.set_many({self._root + key: v for key, v in values.items()}, raw=True, ttl=ttl)

    async def delete_many(self, keys: Iterable[str]) -> None:
        """See `Cache.delete_many`."""
        with self._reachable():
            await self._cache.delete_many([self._root + key for key in keys], raw=True)

    async def add(self, key: str, value: Any) -> bool:
        """See `Cache.add`."""
        with self._reachable():
            return await self._cache.add(self._root + key, value, raw=True)

    async def replace(self, key: str, expected: Any, value: Any) -> bool:
        """See `Cache.compare_and_set`."""
        with self._reachable():
            return await self._cache.compare_and_set(self._root + key, expected, value, raw=True)

    async def increment(self, key: str) -> int:
        """See `Cache.increment`."""
        with self._reachable():
            return await self._cache.increment(self._root + key, raw=True)

    async def update(self, key: str, change: Callable[[Any], Any], default: Any, ttl: float) -> None:
        """See `Cache.update`."""
        with self._reachable():
            await self._cache.update(self._root + key, change, default, raw=True, ttl=ttl)

    async def publish(self, mailbox: str, ttl: float) -> None:
        """Puts a sign into a mailbox."""
        with self._reachable():
            async with self._own_mailboxes():
                await self._cache.publish_to_mailbox(mailbox, True, ttl=ttl)

    async def take(self, mailbox: str, timeout: float) -> None:
        """Waits for a sign in a mailbox."""
        with self._reachable():
            async with self._own_mailboxes():
                await self._cache.get_message(mailbox, timeout=timeout)

    @asynccontextmanager
    async def _own_mailboxes(self) -> AsyncIterator[None]:
        async with self._cache.with_prefix(self._root), self._cache.with_suffix(""):
            yield

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except CacheUnavailableError as error:
            raise StoreUnavailableError(f"the checkpoints cannot be reached: {error}") from error
