"""Prefixes, suffixes and whole keys: no namespace sees into another."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from miniagents.testing.cache_conformance.base import Cache, CacheTests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["NamespaceTests"]

_KEYS: Final = ["k", "a", "b", "b:k", "a:k", ":k", "k:", "k::b", "::", "::b", "b::", "", "%3A", "k%3A%3Ab", "*"]

_CONFUSABLE: Final = [  # pairs of namespaces, each a prefix and a suffix; "" for the default one
    (("a", ""), ("a:b", "")),
    (("a", ""), ("ab", "")),
    (("a", ""), ("a:", "")),
    (("a", ""), (":a", "")),
    (("a", ""), ("a::b", "")),
    (("a", ""), ("a*", "")),
    (("ab", ""), ("a?", "")),
    (("a", ""), ("[ab]", "")),
    (("a", ""), ("\\a", "")),
    (("a", ""), ("A", "")),
    (("a:b", ""), ("a%3Ab", "")),
    (("a%", ""), ("a%25", "")),
    (("a", ""), ("a", "b")),
    (("a", "b"), ("a", "b:b")),
    (("a", "b"), ("a", "b::b")),
    (("a", "b"), ("a", ":b")),
    (("a", "b"), ("a", "bb")),
    (("a", "b"), ("a", "*")),
    (("a", "b"), ("a::b", "")),
    (("a", "b"), ("b", "a")),
    (("a", ""), ("", "a")),
    (("", ""), ("a", "")),
    (("", ""), ("", "b")),
    (("", ""), (":", "")),
    (("é", ""), ("e\u0301", "")),
]


class NamespaceTests(CacheTests):
    """Tests of `with_prefix`, `with_suffix` and `raw`."""

    @pytest.mark.parametrize(("one", "another"), _CONFUSABLE)
    async def test_namespaces_are_apart(
        self, cache: Cache, own: str, one: tuple[str, str], another: tuple[str, str]
    ) -> None:
        """Whatever two namespaces are called, and keys in them, neither sees, changes or clears what the other has."""
        one, another = _of(own, one), _of(own, another)
        for namespace in (one, another):
            async with _inside(cache, namespace):
                await cache.set_many({key: [*namespace, key] for key in _KEYS})
                for key in _KEYS:
                    await cache.publish_to_mailbox(key, [*namespace, key])
        whole_keys = []
        for namespace in (one, another):
            async with _inside(cache, namespace):
                assert await cache.get_many(_KEYS) == {key: [*namespace, key] for key in _KEYS}
                everything = await cache.get_all()
                assert sorted(everything) == await cache.keys()
                assert sorted(everything.values()) == sorted([*namespace, key] for key in _KEYS)
                whole_keys.extend(everything)
        assert len(set(whole_keys)) == 2 * len(_KEYS)
        async with _inside(cache, one):
            await cache.delete("k")
            await cache.clear()
            assert await cache.keys() == []
            for key in _KEYS:
                assert await cache.get_message(key, timeout=0) == [*one, key]
        async with _inside(cache, another):
            assert await cache.get_many(_KEYS) == {key: [*another, key] for key in _KEYS}
            for key in _KEYS:
                assert await cache.get_message(key, timeout=0) == [*another, key]

    async def test_whole_keys_are_readable(self, cache: Cache, own: str) -> None:
        """An ordinary key stands as it is between its prefix and its suffix."""
        async with _inside(cache, (f"{own}a", "v1")):
            await cache.set("user:1", 1)
            assert await cache.keys() == [f"{own}a:user:1::v1"]
        async with cache.with_prefix(f"{own}a"):
            await cache.set("user:1", 1)
            assert await cache.keys() == [f"{own}a:user:1"]

    async def test_whole_keys_restore_what_was_there(self, cache: Cache, own: str) -> None:
        """What `get_all` gives can be written back with `raw=True`, from any namespace."""
        for namespace in (_of(own, ("a", "")), _of(own, ("a:b", "c")), ("", "")):
            async with _inside(cache, namespace):
                await cache.set_many({key: [*namespace, key] for key in _KEYS})
                saved = await cache.get_all()
                await cache.clear()
            async with cache.with_prefix(f"{own}elsewhere"):
                for key, value in saved.items():
                    await cache.set(key, value, raw=True)
                assert await cache.get_many(saved, raw=True) == saved
                assert await cache.keys() == []
            async with _inside(cache, namespace):
                assert await cache.get_many(_KEYS) == {key: [*namespace, key] for key in _KEYS}

    async def test_raw_is_for_the_whole_key(self, cache: Cache, own: str) -> None:
        """With `raw=True` all operations take the key as it is stored, in whatever namespace, and do what they do."""
        k = f"{own}a:k"
        async with _inside(cache, _of(own, ("b", "c"))):
            await cache.set(k, 1, raw=True)
            assert await cache.get(k, None) is None
            assert await cache.get(k, raw=True) == 1
            assert await cache.get_bytes(k, raw=True) == b"1"
            assert await cache.contains(k, raw=True)
            assert await cache.increment(k, raw=True) == 2
            assert await cache.compare_and_set(k, 2, 3, raw=True)
            assert await cache.update(k, lambda value: value + 1, raw=True) == 4
            assert await cache.add(k, 5, raw=True) is False
            assert await cache.get_many([k], raw=True) == {k: 4}
        async with cache.with_prefix(f"{own}a"):
            assert await cache["k"] == 4
            assert await cache.keys() == [k]
        assert await cache.delete_many([k], raw=True) == 1
        await cache.set_many({k: 1}, raw=True)
        await cache.set_bytes(f"{own}a:l", b"2", raw=True)
        async with cache.with_prefix(f"{own}a"):
            assert await cache.get_many("kl") == {"k": 1, "l": 2}
        assert await cache.delete(k, raw=True)
        with pytest.raises(KeyError):
            await cache.get(k, raw=True)

    async def test_raw_keys_that_are_reserved(self, cache: Cache) -> None:
        """What the cache keeps for itself, mailboxes for example, is not to be had by a whole key or a prefix."""
        await cache.publish_to_mailbox("box", 1)
        for operation in (cache.get, cache.delete, cache.get_bytes):
            with pytest.raises(ValueError, match="reserved"):
                await operation("~miniagents/mailbox/miniagents:box", raw=True)
        with pytest.raises(ValueError, match="reserved"):
            async with cache.with_prefix("~miniagents/mailbox/miniagents"):
                pass
        assert await cache.mailbox_length("box") == 1

    async def test_prefixes_nest(self, cache: Cache, own: str) -> None:
        """The innermost prefix counts, and the innermost suffix; after a block what was before counts again."""

        async def key() -> str:
            await cache.set("k", 1)
            (found,) = await cache.keys()
            await cache.clear()
            return str(found)

        outermost = await key()
        async with cache.with_prefix(f"{own}a") as same:
            assert same is cache
            assert await key() == f"{own}a:k"
            async with cache.with_suffix("s"):
                assert await key() == f"{own}a:k::s"
                async with cache.with_prefix(f"{own}b"), cache.with_suffix("t"):
                    assert await key() == f"{own}b:k::t"
                    async with cache.with_suffix(""):
                        assert await key() == f"{own}b:k"
                assert await key() == f"{own}a:k::s"
            assert await key() == f"{own}a:k"
        assert await key() == outermost

    async def test_an_error_leaves_the_namespace(self, cache: Cache, own: str) -> None:
        """After an error inside of a block what was before counts again."""
        with pytest.raises(ZeroDivisionError):
            async with cache.with_prefix(f"{own}a"):
                raise ZeroDivisionError
        await cache.set("k", 1)
        async with cache.with_prefix(f"{own}a"):
            assert await cache.get("k", None) is None

    async def test_namespaces_are_those_of_the_task(self, cache: Cache, own: str) -> None:
        """Tasks have namespaces of their own; a task begins with that of the place where it was started."""
        begun, done = asyncio.Event(), asyncio.Event()

        async def inner() -> Any:
            begun.set()
            await done.wait()
            return await cache["k"]

        async def outer(name: str) -> Any:
            async with cache.with_prefix(f"{own}{name}"):
                await cache.set("k", name)
                task = asyncio.create_task(inner())
                await asyncio.sleep(0)
                assert await cache["k"] == name
            async with cache.with_prefix(f"{own}another"):
                return await task

        tasks = [asyncio.create_task(outer(name)) for name in ("a", "b", "c")]
        await begun.wait()
        await cache.set("k", "outermost")
        done.set()
        assert await asyncio.gather(*tasks) == ["a", "b", "c"]
        assert await cache["k"] == "outermost"

    async def test_misused_namespaces(self, cache: Cache) -> None:
        """A namespace is a string; it is entered with `async with`, and once."""
        for change in (cache.with_prefix, cache.with_suffix):
            with pytest.raises(TypeError):
                async with change(1):
                    pass
            with pytest.raises(TypeError, match="async with"):
                await change("a")
            scope = change("a")
            async with scope:
                with pytest.raises(RuntimeError):
                    async with scope:
                        pass
        await cache.set("k", 1)
        assert len(await cache.keys()) == 1

    async def test_mailboxes_are_no_keys(self, cache: Cache) -> None:
        """A mailbox and a value can have the same name, and nothing that is done to values touches mailboxes."""
        await cache.publish_to_mailbox("name", 1)
        assert await cache.keys() == []
        assert await cache.get_all() == {}
        assert await cache.get("name", None) is None
        await cache.set("name", "value")
        assert await cache.get_message("name", timeout=0) == 1
        assert await cache["name"] == "value"
        await cache.publish_to_mailbox("name", 2)
        await cache.delete("name")
        await cache.clear()
        assert await cache.mailbox_length("name") == 1

    async def test_mailboxes_have_namespaces(self, cache: Cache, own: str) -> None:
        """A stream reads the mailbox of the namespace in which it was asked for."""
        async with cache.with_prefix(f"{own}a"):
            stream = cache.subscribe("box")
        await cache.publish_to_mailbox("box", "outermost")
        async with cache.with_prefix(f"{own}a"):
            await cache.publish_to_mailbox("box", "a")
        assert await anext(aiter(stream)) == "a"
        assert await cache.get_message("box", timeout=0) == "outermost"


@asynccontextmanager
async def _inside(cache: Cache, namespace: tuple[str, str]) -> "AsyncIterator[None]":
    prefix, suffix = namespace
    async with AsyncExitStack() as stack:
        if prefix:
            await stack.enter_async_context(cache.with_prefix(prefix))
        if suffix:
            await stack.enter_async_context(cache.with_suffix(suffix))
        yield


def _of(own: str, namespace: tuple[str, str]) -> tuple[str, str]:
    prefix, suffix = namespace
    return f"{own}{prefix}" if prefix else "", suffix
