"""How whole keys are made: two of different origin are never equal, and each belongs to one namespace."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents.ext.cache import MemoryCache
from miniagents.ext.cache.namespaces import DEFAULT_PREFIX, RESERVED, Namespace

# Little else than what could be mistaken for a separator, and for what stands for one.
TRICKY = st.text(st.sampled_from(":%325Aab~"), max_size=7)
PARTS = st.tuples(TRICKY | st.text(max_size=3), TRICKY | st.text(max_size=3), TRICKY | st.text(max_size=3))


def whole_key(prefix: str, key: str, suffix: str, separator: str = ":") -> str:
    return Namespace.of(prefix, suffix, separator).whole_key(key)


@given(PARTS, PARTS, st.sampled_from(":/-é"))
def test_different_keys_have_different_whole_keys(
    one: tuple[str, str, str], another: tuple[str, str, str], separator: str
) -> None:
    """Neither prefix nor key nor suffix can be chosen such that it looks like a part of another."""
    same = (one[0] or DEFAULT_PREFIX, *one[1:]) == (another[0] or DEFAULT_PREFIX, *another[1:])
    assert (whole_key(*one, separator) == whole_key(*another, separator)) == same


@given(PARTS, st.sampled_from(":/-é"))
def test_a_whole_key_gives_its_key_back(parts: tuple[str, str, str], separator: str) -> None:
    """`key_of` undoes `whole_key`."""
    namespace = Namespace.of(parts[0], parts[2], separator)
    assert namespace.key_of(namespace.whole_key(parts[1])) == parts[1]


@given(PARTS, PARTS, st.sampled_from(":/-é"))
def test_a_whole_key_belongs_to_its_own_namespace_alone(
    one: tuple[str, str, str], another: tuple[str, str, str], separator: str
) -> None:
    """`has` is true for keys of this namespace and for no others."""
    own, other = Namespace.of(one[0], one[2], separator), Namespace.of(another[0], another[2], separator)
    assert own.has(own.whole_key(one[1]))
    same = (own.prefix or DEFAULT_PREFIX, own.suffix) == (other.prefix or DEFAULT_PREFIX, other.suffix)
    assert own.has(other.whole_key(another[1])) == same


@pytest.mark.parametrize(
    ("prefix", "key", "suffix", "expected"),
    [
        ("a", "user:1", "", "a:user:1"),
        ("a", "user:1", "b", "a:user:1::b"),
        ("", "k", "", "miniagents:k"),
        ("", "k", "b", "miniagents:k::b"),
        ("a:b", "k", "c:d", "a%3Ab:k::c%3Ad"),
        ("a", "k::b", "", "a:k%3A%3Ab"),
        ("100%", "5%", "", "100%25:5%25"),
        ("a", "", "", "a:"),
    ],
)
def test_whole_keys(prefix: str, key: str, suffix: str, expected: str) -> None:
    """An ordinary key stands as it is; what could be mistaken is percent-encoded."""
    assert whole_key(prefix, key, suffix) == expected


@pytest.mark.parametrize("separator", ["", "::", "%", "2", "A"])
def test_separators_that_separate_nothing(separator: str) -> None:
    """A separator is one character, and none of those that others are encoded with."""
    with pytest.raises(ValueError, match="separator"):
        Namespace.of("a", "b", separator)


def test_what_is_no_string() -> None:
    """Prefix, suffix, separator and key have to be strings; the error says which is not."""
    for what, parts in (("prefix", (1, "", ":")), ("suffix", ("", None, ":")), ("separator", ("", "", 1))):
        with pytest.raises(TypeError, match=what):
            Namespace.of(*parts)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key"):
        Namespace.of("a", "", ":").whole_key(b"k")  # type: ignore[arg-type]


def test_reserved_prefixes() -> None:
    """No prefix leads to what the cache keeps for itself."""
    with pytest.raises(ValueError, match="reserved"):
        Namespace.of(f"{RESERVED}mailbox", "", ":")


async def test_a_cache_has_a_default_namespace() -> None:
    """The prefix, suffix and separator of a cache hold where nothing else is said."""
    cache = MemoryCache(default_prefix="app", default_suffix="v1", affix_sep="/")
    await cache.set("user/1", 1)
    assert await cache.keys() == ["app/user/1//v1"]
    async with cache.with_prefix("other"):
        await cache.set("user", 2)
        assert await cache.keys() == ["other/user//v1"]
        async with cache.with_suffix("v2"):
            assert await cache.keys() == []
    async with cache.with_prefix(""), cache.with_suffix(""):
        await cache.set("user", 3)
        assert await cache.keys() == ["miniagents/user"]
    assert await cache.get_all() == {"app/user/1//v1": 1}


async def test_caches_do_not_share_their_namespaces() -> None:
    """`with_prefix` of one cache leaves another alone."""
    one, another = MemoryCache(), MemoryCache()
    async with one.with_prefix("a"):
        await another.set("k", 1)
        assert await another.keys() == ["miniagents:k"]


@pytest.mark.parametrize("options", [{"affix_sep": ""}, {"default_prefix": RESERVED}])
def test_caches_without_a_sensible_namespace(options: dict[str, str]) -> None:
    """Affixes that cannot be are refused when the cache is made."""
    with pytest.raises(ValueError):
        MemoryCache(**options)  # type: ignore[arg-type]
