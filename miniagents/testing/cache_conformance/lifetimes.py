"""Values that are gone after a time."""

import asyncio
from collections.abc import Iterable
from typing import Final

import pytest

from miniagents.testing.cache_conformance.base import Cache, CacheTests, eventually

__all__ = ["LifetimeTests"]

_SOON: Final = 0.1


class LifetimeTests(CacheTests):
    """Tests of `ttl`."""

    async def test_values_expire(self, cache: Cache) -> None:
        """When its time is over a value is gone, for all operations."""
        await cache.set("a", 1, ttl=_SOON)
        await cache.set_bytes("b", b"1", ttl=_SOON)
        await cache.set_many({"c": 1, "d": [2]}, ttl=_SOON)
        await cache.add("e", 1, ttl=_SOON)
        await cache.set("stays", 1, ttl=1000)
        await eventually(lambda: _gone(cache, "abcde"))
        assert await cache.get_all() == {(await cache.keys())[0]: 1}
        assert await cache.delete("a") is False
        assert await cache.add("a", 2) is True
        assert await cache.increment("b", 5) == 5
        assert await cache.compare_and_set("c", 1, 2) is False
        with pytest.raises(KeyError):
            await cache.update("d", lambda value: value)
        assert await cache.get("stays") == 1

    async def test_a_later_set_takes_the_time_off(self, cache: Cache) -> None:
        """Without a time to live of its own the last value stays."""
        await cache.set_many({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}, ttl=3 * _SOON)
        await cache.set("a", 2)
        await cache.set_bytes("b", b"2")
        await cache.set_many({"c": 2})
        assert await cache.compare_and_set("d", 1, 2) or await cache.add("d", 2)
        await cache.update("e", lambda _: 2, default=None)
        await asyncio.sleep(4 * _SOON)
        assert await cache.get_many("abcde") == dict.fromkeys("abcde", 2)

    async def test_a_later_set_has_its_own_time(self, cache: Cache) -> None:
        """A value that is set again lives as long as was said last."""
        await cache.set("longer", 1, ttl=2 * _SOON)
        await cache.set("longer", 1, ttl=1000)
        await cache.set("shorter", 1, ttl=1000)
        await cache.set("shorter", 1, ttl=_SOON)
        await cache.set("compared", 1)
        assert await cache.compare_and_set("compared", 1, 2, ttl=_SOON)
        await cache.set("updated", 1)
        await cache.update("updated", lambda _: 2, ttl=_SOON)
        await eventually(lambda: _gone(cache, ["shorter", "compared", "updated"]))
        await asyncio.sleep(2 * _SOON)
        await cache.set("another", 1)
        assert await cache.get("longer") == 1

    async def test_counting_keeps_the_time(self, cache: Cache) -> None:
        """A counter expires when it was said to, however often it has counted."""

        async def was_in_time() -> bool:
            await cache.set("counter", 1, ttl=2 * _SOON)
            counted = await cache.increment("counter") == 2
            return counted and not await cache.add("counter", 5, ttl=1000)

        await eventually(was_in_time)
        await eventually(lambda: _gone(cache, ["counter"]))


async def _gone(cache: Cache, keys: Iterable[str]) -> bool:
    return not await cache.get_many(keys) and not any([await cache.contains(key) for key in keys])
