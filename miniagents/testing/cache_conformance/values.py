"""What is set comes back as what it was, or was refused."""

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pytest
from pydantic import BaseModel

from miniagents.frozen import Frozen
from miniagents.message import Message
from miniagents.testing.cache_conformance.base import Cache, CacheTests
from miniagents.testing.cache_conformance.samples import SAMPLE_VALUES, SamplePerson
from miniagents.testing.sample_messages import SAMPLE_MESSAGES

__all__ = ["ValueTests"]

_WRONG_TIMES: Final = [0, -1, math.nan, math.inf]


class ValueTests(CacheTests):
    """Tests of single values, and of many at once."""

    @pytest.mark.parametrize("name", [*SAMPLE_VALUES, *SAMPLE_MESSAGES])
    async def test_values_come_back_as_what_they_were(self, cache: Cache, other: Cache, name: str) -> None:
        """A value comes back equal, and of the same type in all its parts."""
        value = SAMPLE_VALUES[name] if name in SAMPLE_VALUES else SAMPLE_MESSAGES[name]
        await cache.set("key", value)
        found = await other.get("key")
        assert found == value
        assert _types(found) == _types(value)
        if name in ("floats", "decimals"):
            assert repr(found) == repr(value)
        if isinstance(value, Frozen):
            assert found.hash_key == value.hash_key

    async def test_what_is_not_there(self, cache: Cache) -> None:
        """Without a value there is the default, whatever it is, or a KeyError that names the key."""
        with pytest.raises(KeyError, match="missing"):
            await cache.get("missing")
        for default in (None, 0, "x"):
            assert await cache.get("missing", default) is default
        assert not await cache.contains("missing")
        assert not await cache.delete("missing")

    async def test_none_is_a_value(self, cache: Cache) -> None:
        """None that was set is no missing value."""
        await cache.set("key", None)
        assert await cache.get("key", 1) is None
        assert await cache.contains("key")

    async def test_setting_reading_deleting(self, cache: Cache) -> None:
        """The last value counts, until it is deleted."""
        await cache.set("key", 1)
        await cache.set("key", [2])
        assert await cache["key"] == [2]
        assert await cache.delete("key") is True
        assert await cache.get("key", None) is None
        assert await cache.delete("key") is False

    @pytest.mark.parametrize(
        "key", ["", " ", "a:b", "::", ":", "%", "%3A", "~", "é€😀", "\ud83d", "\n\x00", "*", "a?[b-z]\\", "k" * 5000]
    )
    async def test_any_string_is_a_key(self, cache: Cache, key: str) -> None:
        """A key can be any string, and is no pattern for others."""
        await cache.set(key, "value")
        await cache.set(f"{key}b", "other value")
        assert await cache.get(key) == "value"
        assert len(await cache.keys()) == 2
        assert await cache.delete(key)
        assert await cache.get(key, None) is None
        assert await cache.get(f"{key}b") == "other value"

    async def test_objects_are_ones_own(self, cache: Cache) -> None:
        """Neither the object that was set nor one that was read is what is in the cache."""
        value = {"list": [1], "person": SamplePerson(name="Ada")}
        await cache.set("key", value)
        for _ in range(2):
            value["list"].append(2)  # type: ignore[attr-defined]
            value["person"].name = "Bob"  # type: ignore[attr-defined]
            value = await cache.get("key")
            assert value == {"list": [1], "person": SamplePerson(name="Ada")}
        many = await cache.get_many(["key"])
        many["key"]["list"].append(2)
        everything = await cache.get_all()
        assert list(everything.values()) == [{"list": [1], "person": SamplePerson(name="Ada")}]

    async def test_big_values(self, cache: Cache) -> None:
        """Some megabytes come back whole."""
        await cache.set("text", "0123456789abcdef" * 200_000)
        await cache.set("bytes", bytes(2_000_000))
        assert await cache.get("text") == "0123456789abcdef" * 200_000
        assert await cache.get("bytes") == bytes(2_000_000)

    @pytest.mark.parametrize(
        ("make", "path", "error"),
        [
            (lambda: {"users": [{}, {"birth": object()}]}, "value.users[1].birth", TypeError),
            (lambda: SamplePerson.model_construct(name=print), "value.name", TypeError),
            (lambda: (1, math.nan), "value[1]", ValueError),
            (lambda: {1: 2}, "value", TypeError),
            (lambda: [type("Text", (str,), {})("x")], "value[0]", TypeError),
            (lambda: [lambda: None], "value[0]", TypeError),
        ],
    )
    async def test_refused_values(
        self, cache: Cache, make: Callable[[], Any], path: str, error: type[Exception]
    ) -> None:
        """What cannot come back as what it was is refused wherever it is given, with the path, and nothing changes."""
        value = make()
        await cache.set("key", 1)
        attempts: list[Callable[[], Any]] = [
            lambda: cache.set("key", value),
            lambda: cache.set_many({"another": 1, "key": value}),
            lambda: cache.add("another", value),
            lambda: cache.compare_and_set("key", 1, value),
            lambda: cache.update("key", lambda _: value),
            lambda: cache.publish_to_mailbox("key", value),
        ]
        for attempt in attempts:
            with pytest.raises(error) as raised:
                await attempt()
            assert str(raised.value).startswith(f"{path}: ")
        assert list((await cache.get_all()).values()) == [1]
        assert await cache.mailbox_length("key") == 0

    async def test_bytes_as_they_are(self, cache: Cache) -> None:
        """`set_bytes` stores and `get_bytes` gives bytes as they are; of values it gives the JSON."""
        for data in (b"", b"\x00\xff\xfe", bytes(range(256))):
            await cache.set_bytes("key", data)
            found = await cache.get_bytes("key")
            assert found == data
            assert type(found) is bytes
        await cache.set_bytes("key", bytearray(b"12"))
        assert await cache.get("key") == 12
        await cache.set("key", {"a": (1,)})
        assert json.loads(await cache.get_bytes("key")) == {"a": {"$tuple": [1]}}
        assert await cache.get_bytes("missing", None) is None
        with pytest.raises(KeyError):
            await cache.get_bytes("missing")
        with pytest.raises(TypeError):
            await cache.set_bytes("key", "text")

    @pytest.mark.parametrize("data", [b"", b"\xff", b"{", b'{"$uuid":"x"}', b'{"$class":"nobody.Knows","x":1}'])
    async def test_what_is_no_value(self, cache: Cache, data: bytes) -> None:
        """What cannot be read as a value is an `UnreadableValueError`, and can be replaced."""
        await cache.set_bytes("key", data)
        with pytest.raises(ValueError, match=r".") as raised:
            await cache.get("key")
        assert type(raised.value).__name__ == "UnreadableValueError"
        if b"nobody" in data:
            assert "nobody.Knows" in str(raised.value)
        await cache.set("key", 1)
        assert await cache.get("key") == 1

    async def test_wrong_arguments(self, cache: Cache) -> None:
        """Keys that are no strings and times that are none are refused, and nothing changes."""
        await cache.set("key", 1)
        for key in (None, 1, b"key"):
            for operation in (cache.get, cache.delete, cache.contains, cache.get_bytes, cache.increment):
                with pytest.raises(TypeError):
                    await operation(key)
                with pytest.raises(TypeError):
                    await operation(key, raw=True)
            with pytest.raises(TypeError):
                await cache.set(key, 1)
            with pytest.raises(TypeError):
                await cache.set_many({"another": 1, key: 2})
        for ttl in _WRONG_TIMES:
            attempts: list[Callable[..., Any]] = [
                partial(cache.set, "key", 2),
                partial(cache.set_bytes, "key", b"2"),
                partial(cache.set_many, {"key": 2}),
                partial(cache.add, "another", 2),
                partial(cache.compare_and_set, "key", 1, 2),
                partial(cache.update, "key", lambda _: 2),
                partial(cache.publish_to_mailbox, "key", 2),
            ]
            for attempt in attempts:
                with pytest.raises(ValueError, match="time to live"):
                    await attempt(ttl=ttl)
        assert list((await cache.get_all()).values()) == [1]

    # --- many at once ---

    async def test_many_at_once(self, cache: Cache, other: Cache) -> None:
        """Several values are set, read in the order that was asked for, and deleted at once."""
        await cache.set_many({"a": 1, "b": (2,), "c": Message("3")})
        found = await other.get_many(key for key in ("c", "missing", "a", "c"))
        assert list(found.items()) == [("c", Message("3")), ("a", 1)]
        assert await cache.delete_many(["a", "missing", "b", "a"]) == 2
        assert await cache.get_many(["a", "b", "c"]) == {"c": Message("3")}

    async def test_nothing_at_once(self, cache: Cache) -> None:
        """No values at all are no error."""
        await cache.set_many({})
        assert await cache.get_many([]) == {}
        assert await cache.delete_many([]) == 0

    async def test_very_many(self, cache: Cache) -> None:
        """Thousands of values go at once, and are counted."""
        values = {f"key {number}": number for number in range(3000)}
        await cache.set_many(values)
        assert await cache.get_many(values) == values
        assert len(await cache.keys()) == len(await cache.get_all()) == 3000
        assert await cache.delete_many(list(values)[:1000]) == 1000
        await cache.clear()
        assert await cache.keys() == []

    async def test_closing_twice(self, cache: Cache) -> None:
        """A second `close` changes nothing."""
        await cache.set("key", 1)
        await cache.close()
        await cache.close()


def _types(value: Any) -> Any:
    """The types of a value and of all its parts."""
    if isinstance(value, dict):
        return type(value), [(key, _types(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [_types(item) for item in value]
    if isinstance(value, BaseModel):
        return type(value), value.model_fields_set, [(name, _types(item)) for name, item in value]
    return type(value)
