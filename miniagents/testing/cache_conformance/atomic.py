"""What several do at the same time: nothing gets lost, nobody sees a half of it."""

import asyncio
from typing import Any, Final

import pytest

from miniagents.message import Message
from miniagents.testing.cache_conformance.base import Cache, CacheTests

__all__ = ["AtomicTests"]

_MANY: Final = 40
_LARGEST: Final = 2**63 - 1


class AtomicTests(CacheTests):
    """Tests of `add`, `increment`, `compare_and_set` and `update`."""

    # --- add ---

    async def test_add_sets_where_nothing_is(self, cache: Cache) -> None:
        """A value is added if there is none, and says whether it was."""
        assert await cache.add("key", (1,)) is True
        assert await cache.add("key", 2) is False
        assert await cache["key"] == (1,)
        await cache.set("none", None)
        assert await cache.add("none", 1) is False

    async def test_one_of_many_adds(self, cache: Cache, other: Cache) -> None:
        """Of many who add at the same time one is told that it has, and its value is there."""
        added = await asyncio.gather(*((cache, other)[number % 2].add("key", [number]) for number in range(_MANY)))
        assert added.count(True) == 1
        assert await cache["key"] == [added.index(True)]

    # --- increment ---

    async def test_counting(self, cache: Cache) -> None:
        """A counter begins at 0, counts by any integer, and is a value like others."""
        assert await cache.increment("counter") == 1
        assert await cache.increment("counter", 41) == 42
        assert await cache.increment("counter", by=-50) == -8
        assert await cache.increment("counter", 0) == -8
        assert await cache["counter"] == -8
        assert type(await cache["counter"]) is int
        await cache.set("counter", 7)
        assert await cache.increment("counter") == 8
        assert await cache.compare_and_set("counter", 8, 9)
        assert await cache.increment("counter") == 10

    async def test_many_count(self, cache: Cache, other: Cache) -> None:
        """No count of many is lost, and each is told another sum."""
        sums = await asyncio.gather(*((cache, other)[number % 2].increment("counter", 3) for number in range(_MANY)))
        assert sorted(sums) == list(range(3, 3 * _MANY + 1, 3))
        assert await cache["counter"] == 3 * _MANY

    @pytest.mark.parametrize("value", ["5", 1.0, True, None, [1], {"a": 1}, (1,), Message("1")])
    async def test_counting_what_is_no_integer(self, cache: Cache, value: Any) -> None:
        """Nothing can be added to what is no integer, not even to what looks like one; the error names the key."""
        await cache.set("counter", value)
        with pytest.raises(TypeError, match="counter"):
            await cache.increment("counter")
        assert await cache["counter"] == value

    @pytest.mark.parametrize("by", [1.0, "1", True, None])
    async def test_counting_by_what_is_no_integer(self, cache: Cache, by: Any) -> None:
        """Only integers can be added."""
        with pytest.raises(TypeError):
            await cache.increment("counter", by)
        assert await cache.get("counter", None) is None

    async def test_the_largest_count(self, cache: Cache) -> None:
        """A counter has 64 bits; beyond them it stays as it is."""
        await cache.set("counter", _LARGEST - 1)
        assert await cache.increment("counter") == _LARGEST
        with pytest.raises(OverflowError):
            await cache.increment("counter")
        assert await cache["counter"] == _LARGEST
        assert await cache.increment("low", -_LARGEST - 1) == -_LARGEST - 1
        with pytest.raises(OverflowError):
            await cache.increment("low", -1)
        assert await cache["low"] == -_LARGEST - 1

    # --- compare_and_set ---

    async def test_comparing(self, cache: Cache) -> None:
        """A value is set if the present one equals what is expected, and says whether it was."""
        assert await cache.compare_and_set("key", None, 1) is False
        assert await cache.get("key", "missing") == "missing"
        await cache.set("key", {"a": (1, Message("x")), "b": 2})
        assert await cache.compare_and_set("key", {"a": (1, Message("y")), "b": 2}, 1) is False
        assert await cache.compare_and_set("key", {"b": 2, "a": (1, Message("x"))}, [3]) is True
        assert await cache["key"] == [3]
        await cache.set("none", None)
        assert await cache.compare_and_set("none", None, 1) is True

    async def test_one_of_many_sets(self, cache: Cache, other: Cache) -> None:
        """Of many who expect the same value one sets its own."""
        await cache.set("key", "free")
        won = await asyncio.gather(
            *((cache, other)[number % 2].compare_and_set("key", "free", number) for number in range(_MANY))
        )
        assert won.count(True) == 1
        assert await cache["key"] == won.index(True)

    # --- update ---

    async def test_updating(self, cache: Cache) -> None:
        """A value is replaced by what a function makes of it, or of the default where there is none."""
        assert await cache.update("key", lambda value: value + 1, default=1) == 2
        assert await cache.update("key", lambda value: [value]) == [2]

        async def slowly(value: Any) -> Any:
            await asyncio.sleep(0)
            return (*value, "more")

        assert await cache.update("key", slowly) == (2, "more")
        assert await cache["key"] == (2, "more")
        assert await cache.update("none", lambda value: value, default=None) is None
        assert await cache.contains("none")

    async def test_many_update(self, cache: Cache, other: Cache) -> None:
        """No update of many is lost, however they get in each other's way."""

        async def append(number: int) -> None:
            async def appended(value: list[int]) -> list[int]:
                await asyncio.sleep(0)
                value.append(number)
                return value

            await (cache, other)[number % 2].update("key", appended, default=[])

        await asyncio.gather(*map(append, range(_MANY // 2)))
        assert sorted(await cache["key"]) == list(range(_MANY // 2))

    async def test_updates_that_fail(self, cache: Cache) -> None:
        """Without a value and a default there is nothing to update; an error of the function leaves the value."""
        with pytest.raises(KeyError, match="missing"):
            await cache.update("missing", lambda value: value)
        assert not await cache.contains("missing")

        def fail(value: Any) -> Any:
            value.append(2)
            raise ZeroDivisionError

        await cache.set("key", [1])
        with pytest.raises(ZeroDivisionError):
            await cache.update("key", fail)
        assert await cache["key"] == [1]

    async def test_updating_what_is_deleted_meanwhile(self, cache: Cache) -> None:
        """A function whose value has gone runs again, with the default."""
        await cache.set("key", "old")
        seen = []

        async def replaced(value: Any) -> Any:
            seen.append(value)
            await cache.delete("key")
            return f"{value} and new"

        assert await cache.update("key", replaced, default="default") == "default and new"
        assert seen == ["old", "default"]
        assert await cache["key"] == "default and new"
