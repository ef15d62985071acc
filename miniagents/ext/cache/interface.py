"""`Cache`: values by key and mailboxes, for whoever works at the same thing, in one process or in many.

What is the same for all caches is here: namespaces, values, bulk and atomic operations. A backend says where the bytes
are: it derives from `Cache` and defines the methods of the last section, which know whole keys and bytes alone.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextvars import ContextVar
from inspect import isawaitable
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from miniagents.ext.cache.namespaces import RESERVED, Namespace
from miniagents.ext.values import decode, encode
from promising.sentinels import NO_VALUE

__all__ = ["Cache", "MailboxReader", "Scope"]

T = TypeVar("T")
CacheT = TypeVar("CacheT", bound="Cache")


class Cache(ABC):
    """Values by key, and mailboxes. Use `MemoryCache` in one process and `RedisCache` in several.

    A value is whatever `miniagents.ext.values` can write: plain data, pydantic models, messages, dataclasses and more;
    it comes back as what it was. Each key belongs to a namespace, which is a prefix and a suffix: the default ones of
    the cache, or those of the `with_prefix` and `with_suffix` around the operation. With `raw=True` a key is taken as
    the whole key, without prefix and suffix; that is the only difference.

    Args:
        default_prefix: The prefix of keys outside of any `with_prefix`; empty for a reserved one.
        default_suffix: The suffix of keys outside of any `with_suffix`; empty for none.
        affix_sep: What stands between prefix, key and suffix.

    Raises:
        CacheUnavailableError: From all operations: the server cannot be reached.

    Example:
        ```python
        async with MemoryCache() as cache:
            await cache.set("answer", 42, ttl=60)
            async with cache.with_prefix("other"):
                assert await cache.get("answer", default=None) is None
            assert await cache["answer"] == 42
        ```
    """

    def __init__(self, *, default_prefix: str = "", default_suffix: str = "", affix_sep: str = ":") -> None:
        self.default_prefix = default_prefix
        self.default_suffix = default_suffix
        self.affix_sep = affix_sep
        default = Namespace.of(default_prefix, default_suffix, affix_sep)
        self._namespace: ContextVar[Namespace] = ContextVar("miniagents.cache.namespace", default=default)

    # --- values ---

    async def get(self, key: str, default: Any = NO_VALUE, raw: bool = False) -> Any:
        """Gives the value of a key.

        Args:
            key: The key.
            default: What to give where there is no value.
            raw: Whether the key is a whole key.

        Returns:
            The value: an object of one's own, which can be changed without changing what is in the cache.

        Raises:
            KeyError: There is no value, and no default was given.
            UnreadableValueError: What is stored there is no value, or one of a class that is not known here.
        """
        data = await self._load(self._whole_key(key, raw))
        if data is None:
            return self._default_for(key, default)
        return decode(data)

    async def set(self, key: str, value: Any, raw: bool = False, ttl: float | None = None) -> None:
        """Sets the value of a key.

        Args:
            key: The key.
            value: The value.
            raw: Whether the key is a whole key.
            ttl: After how many seconds it is gone; None for never. A later `set` without it takes it off.

        Raises:
            TypeError: A part of the value cannot be represented; the message names the path to it.
            ValueError: `ttl` is not positive, or a number is not finite.
        """
        await self._store({self._whole_key(key, raw): encode(value)}, checked_ttl(ttl))

    async def get_bytes(self, key: str, default: Any = NO_VALUE, raw: bool = False) -> Any:
        """Gives the bytes that `set_bytes` has stored, or the encoded form of a value; see `get`."""
        data = await self._load(self._whole_key(key, raw))
        return self._default_for(key, default) if data is None else data

    async def set_bytes(self, key: str, data: bytes, raw: bool = False, ttl: float | None = None) -> None:
        """Stores bytes as they are; see `set`."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"{data!r:.100} are no bytes; use `set` for values")
        await self._store({self._whole_key(key, raw): bytes(data)}, checked_ttl(ttl))

    async def delete(self, key: str, raw: bool = False) -> bool:
        """Removes a key.

        Returns:
            Whether there was one.
        """
        return bool(await self._remove([self._whole_key(key, raw)]))

    async def contains(self, key: str, raw: bool = False) -> bool:
        """Whether there is a value of that key."""
        return await self._load(self._whole_key(key, raw)) is not None

    def __getitem__(self, key: str) -> Awaitable[Any]:
        """The awaitable form of `get(key)`."""
        return self.get(key)

    # --- many at once, in one round trip ---

    async def get_many(self, keys: Iterable[str], raw: bool = False) -> dict[str, Any]:
        """Gives the values of several keys.

        Args:
            keys: The keys.
            raw: Whether they are whole keys.

        Returns:
            The values by their keys as they were given, in that order; keys without a value are missing.
        """
        wanted = list(dict.fromkeys(keys))
        found = await self._load_many([self._whole_key(key, raw) for key in wanted]) if wanted else []
        return {key: decode(data) for key, data in zip(wanted, found, strict=True) if data is not None}

    async def set_many(self, values: Mapping[str, Any], raw: bool = False, ttl: float | None = None) -> None:
        """Sets several values at once; see `set`. If one of them cannot be represented, none is set."""
        encoded = {self._whole_key(key, raw): encode(value) for key, value in values.items()}
        ttl = checked_ttl(ttl)
        if encoded:
            await self._store(encoded, ttl)

    async def delete_many(self, keys: Iterable[str], raw: bool = False) -> int:
        """Removes several keys.

        Returns:
            How many of them there were.
        """
        whole = [self._whole_key(key, raw) for key in dict.fromkeys(keys)]
        return await self._remove(whole) if whole else 0

    # --- the namespace as a whole ---

    async def keys(self) -> list[str]:
        """Gives the whole keys of this namespace, sorted. Mailboxes are not among them."""
        return sorted({key async for batch in self._scan(self._namespace.get()) for key in batch})

    async def get_all(self) -> dict[str, Any]:
        """Gives all values of this namespace.

        Returns:
            The values by their whole keys: `set(key, value, raw=True)` restores them.
        """
        found: dict[str, Any] = {}
        async for batch in self._scan(self._namespace.get()):
            found.update(await self.get_many(batch, raw=True))
        return found

    async def clear(self) -> None:
        """Removes all keys of this namespace, and nothing else: no mailboxes, and nothing of other namespaces."""
        async for batch in self._scan(self._namespace.get()):
            if batch:
                await self._remove(batch)

    # --- atomic operations ---

    async def add(self, key: str, value: Any, raw: bool = False, ttl: float | None = None) -> bool:
        """Sets a value if there is none.

        Returns:
            Whether it was set; of any number of callers at the same time one is told so.
        """
        return await self._add(self._whole_key(key, raw), encode(value), checked_ttl(ttl))

    async def increment(self, key: str, by: int = 1, raw: bool = False) -> int:
        """Adds to an integer, which is 0 where there is no value. A time to live stays as it is.

        Args:
            key: The key.
            by: What to add; it may be negative.
            raw: Whether the key is a whole key.

        Returns:
            The sum.

        Raises:
            TypeError: The value, or `by`, is no integer.
            OverflowError: The sum does not fit into 64 bits.
        """
        if type(by) is not int:
            raise TypeError(f"{by!r:.100} is no integer; counters count integers")
        return await self._increment(self._whole_key(key, raw), by)

    async def compare_and_set(
        self, key: str, expected: Any, value: Any, raw: bool = False, ttl: float | None = None
    ) -> bool:
        """Sets a value if the present one equals what is expected.

        Args:
            key: The key.
            expected: What the present value is compared with, by `==`. Use `add` where none is expected.
            value: The new value.
            raw: Whether the key is a whole key.
            ttl: See `set`.

        Returns:
            Whether it was set.
        """
        whole_key, encoded, ttl = self._whole_key(key, raw), encode(value), checked_ttl(ttl)
        while (present := await self._load(whole_key)) is not None and decode(present) == expected:
            if await self._replace(whole_key, present, encoded, ttl):
                return True
        return False

    async def update(
        self,
        key: str,
        fn: Callable[[Any], Any],
        default: Any = NO_VALUE,
        raw: bool = False,
        ttl: float | None = None,
    ) -> Any:
        """Replaces a value by what a function makes of it; nobody else can change it in between.

        Args:
            key: The key.
            fn: Gets the present value and returns the new one, or an awaitable of it. It runs again if somebody else
                was faster, so it should do nothing else.
            default: What `fn` gets where there is no value.
            raw: Whether the key is a whole key.
            ttl: See `set`.

        Returns:
            The new value.

        Raises:
            KeyError: There is no value, and no default was given.
        """
        whole_key, ttl = self._whole_key(key, raw), checked_ttl(ttl)
        while True:
            present = await self._load(whole_key)
            made = fn(self._default_for(key, default) if present is None else decode(present))
            if isawaitable(made):
                made = await made
            encoded = encode(made)
            if present is None:
                if await self._add(whole_key, encoded, ttl):
                    return made
            elif await self._replace(whole_key, present, encoded, ttl):
                return made

    # --- mailboxes ---

    async def publish_to_mailbox(self, mailbox: str, value: Any, ttl: float | None = None) -> None:
        """Puts a message at the end of a mailbox. One reader will get it.

        Args:
            mailbox: The name of the mailbox; the namespace is part of it.
            value: The message: whatever can be a value.
            ttl: After how many seconds without a further message the whole mailbox is gone; None for never.

        Raises:
            TypeError: A part of the value cannot be represented.
        """
        await self._push(self._mailbox_key(mailbox), encode(value), checked_ttl(ttl))

    async def get_message(self, mailbox: str, timeout: float | None = None) -> Any:
        """Takes the oldest message out of a mailbox.

        Args:
            mailbox: The name of the mailbox.
            timeout: How many seconds to wait for one; 0 to look only, None to wait as long as it takes.

        Returns:
            The message, or None if there was none in time. A reader that is cancelled has taken none.
        """
        if timeout is not None and timeout < 0:
            raise ValueError(f"a timeout of {timeout!r} s is over before it begins; give 0 to look, None to wait")
        data = await self._pop(self._mailbox_key(mailbox), timeout)
        return None if data is None else decode(data)

    def subscribe(self, mailbox: str) -> "MailboxReader":
        """Reads a mailbox as a stream. Leaving it loses nothing: what was not read stays in the mailbox.

        Args:
            mailbox: The name of the mailbox; its namespace is the one of this place.

        Returns:
            What to iterate with `async for`; it ends when the cache is closed.
        """
        return MailboxReader(self, self._mailbox_key(mailbox))

    async def peek_mailbox(self, mailbox: str) -> Any:
        """Gives the oldest message of a mailbox and leaves it there, or None where there is none."""
        data = await self._peek(self._mailbox_key(mailbox))
        return None if data is None else decode(data)

    async def mailbox_length(self, mailbox: str) -> int:
        """Gives the number of messages in a mailbox."""
        return await self._length(self._mailbox_key(mailbox))

    # --- namespaces ---

    @property
    def namespace(self) -> Namespace:
        """The namespace that keys have here."""
        return self._namespace.get()

    def with_prefix(self: CacheT, prefix: str) -> "Scope[CacheT]":
        """Gives keys another prefix, in this task and those that it starts.

        Args:
            prefix: The prefix. It replaces the outer one; the suffix stays.

        Returns:
            What to enter: `async with cache.with_prefix("a"):`.
        """
        return Scope(self, lambda outer: Namespace.of(prefix, outer.suffix, self.affix_sep))

    def with_suffix(self: CacheT, suffix: str) -> "Scope[CacheT]":
        """Gives keys another suffix, in this task and those that it starts; see `with_prefix`."""
        return Scope(self, lambda outer: Namespace.of(outer.prefix, suffix, self.affix_sep))

    def _whole_key(self, key: str, raw: bool) -> str:
        if not raw:
            return self._namespace.get().whole_key(key)
        if not isinstance(key, str):
            raise TypeError(f"the key {key!r:.100} is no string; give the string that it stands for")
        if key.startswith(RESERVED):
            raise ValueError(f"keys that begin with {RESERVED!r} are reserved; give another one than {key!r:.100}")
        return key

    def _mailbox_key(self, mailbox: str) -> str:
        return f"{RESERVED}mailbox/{self._namespace.get().whole_key(mailbox)}"

    def _default_for(self, key: str, default: Any) -> Any:
        if default is NO_VALUE:
            namespace = self._namespace.get()
            raise KeyError(f"{key} (prefix {namespace.prefix!r}, suffix {namespace.suffix!r})")
        return default

    # --- its life ---

    async def close(self) -> None:  # noqa: B027  (there is nothing that has to be given back)
        """Gives back what the cache holds: connections, readers that wait. A second call changes nothing."""

    async def __aenter__(self: CacheT) -> CacheT:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # --- what a backend defines ---

    @abstractmethod
    async def _load(self, key: str) -> bytes | None:
        """Gives the bytes of a whole key, or None."""

    @abstractmethod
    async def _load_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Gives the bytes of whole keys, in their order, in one round trip."""

    @abstractmethod
    async def _store(self, values: Mapping[str, bytes], ttl: float | None) -> None:
        """Stores all of them, in one round trip, with the time to live in seconds or without one."""

    @abstractmethod
    async def _remove(self, keys: Sequence[str]) -> int:
        """Removes whole keys, in one round trip, and says how many there were."""

    @abstractmethod
    async def _add(self, key: str, data: bytes, ttl: float | None) -> bool:
        """Stores the bytes if there are none, atomically, and says whether."""

    @abstractmethod
    async def _replace(self, key: str, expected: bytes, data: bytes, ttl: float | None) -> bool:
        """Stores the bytes if the present ones are the expected ones, atomically, and says whether."""

    @abstractmethod
    async def _increment(self, key: str, by: int) -> int:
        """Adds to the integer that is stored in decimal digits, atomically, and gives the sum."""

    @abstractmethod
    def _scan(self, namespace: Namespace) -> AsyncIterator[list[str]]:
        """Gives the whole keys of a namespace (and of no other, see `Namespace.has`) in batches.

        Keys that are there all the time come at least once; others may come.
        """

    @abstractmethod
    async def _push(self, mailbox: str, data: bytes, ttl: float | None) -> None:
        """Puts bytes at the end of a mailbox."""

    @abstractmethod
    async def _pop(self, mailbox: str, timeout: float | None) -> bytes | None:
        """Takes the oldest bytes out of a mailbox, waiting for them. A cancelled call has taken nothing."""

    @abstractmethod
    async def _peek(self, mailbox: str) -> bytes | None:
        """Gives the oldest bytes of a mailbox."""

    @abstractmethod
    async def _length(self, mailbox: str) -> int:
        """Gives the number of messages in a mailbox."""


class Scope(Generic[CacheT]):
    """A cache with another namespace, for as long as it is entered. Made by `Cache.with_prefix` and `with_suffix`."""

    __slots__ = ("_cache", "_change", "_outer")

    def __init__(self, cache: CacheT, change: Callable[[Namespace], Namespace]) -> None:
        self._cache = cache
        self._change = change
        self._outer: Namespace | None = None

    async def __aenter__(self) -> CacheT:
        if self._outer is not None:
            raise RuntimeError("this namespace has been entered already; call `with_prefix` or `with_suffix` again")
        self._outer = self._cache._namespace.get()
        self._cache._namespace.set(self._change(self._outer))
        return self._cache

    async def __aexit__(self, *_: object) -> None:
        # Not by a token: a generator may be left in another context than it was entered in.
        outer, self._outer = self._outer, None
        self._cache._namespace.set(cast("Namespace", outer))

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("a namespace is entered, not awaited: `async with cache.with_prefix(...):`")


class MailboxReader:
    """Reads a mailbox as a stream, see `Cache.subscribe`."""

    __slots__ = ("_cache", "_mailbox")

    def __init__(self, cache: Cache, mailbox: str) -> None:
        self._cache = cache
        self._mailbox = mailbox

    def __aiter__(self) -> "MailboxReader":
        return self

    async def __anext__(self) -> Any:
        data = await self._cache._pop(self._mailbox, None)
        if data is None:  # the cache has been closed
            raise StopAsyncIteration
        return decode(data)


def checked_ttl(ttl: float | None) -> float | None:
    """Gives a time to live as it is, or raises a ValueError if it is none."""
    if ttl is not None and not 0 < ttl < float("inf"):
        raise ValueError(f"a time to live of {ttl!r} s is none; give a positive number, or None to keep the value")
    return ttl
