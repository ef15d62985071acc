"""`MemoryCache`: values and mailboxes in the memory of this process."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from miniagents.ext.cache.deadlines import now
from miniagents.ext.cache.entries import Entries, Entry
from miniagents.ext.cache.interface import Cache, checked_ttl
from miniagents.ext.cache.mailboxes import Mailboxes
from miniagents.ext.cache.namespaces import Namespace
from miniagents.ext.values import UnreadableValueError, decode, encode, is_immutable
from promising.sentinels import NO_VALUE

__all__ = ["MemoryCache"]

_BATCH = 1000
_64_BITS = 2**63


class MemoryCache(Cache):
    """Values and mailboxes in the memory of this process, the default wherever a cache is needed.

    Values are refused, and are objects of one's own, as with any cache; those that are immutable all the way down
    (strings, numbers, messages, ...) are kept and given back as they are. When there are too many, the value that has
    not been used for longest goes. Messages in mailboxes do not count, and stay until they are read or expire. Times to
    live are measured by the clock of the event loop. It can be used in one event loop after the other, but in one
    thread only.

    Args:
        max_entries: How many values there can be; None for any number.
        default_prefix: See `Cache`.
        default_suffix: See `Cache`.
        affix_sep: See `Cache`.

    Raises:
        ValueError: `max_entries` is less than 1.

    Example:
        ```python
        async with MemoryCache(max_entries=100) as cache:
            await cache.set("answer", 42, ttl=60)
            assert await cache["answer"] == 42
        ```
    """

    def __init__(
        self,
        *,
        max_entries: int | None = 10_000,
        default_prefix: str = "",
        default_suffix: str = "",
        affix_sep: str = ":",
    ) -> None:
        super().__init__(default_prefix=default_prefix, default_suffix=default_suffix, affix_sep=affix_sep)
        if max_entries is not None and max_entries < 1:
            raise ValueError(
                f"a cache of {max_entries!r} entries holds nothing; give 1 or more, or None for any number"
            )
        self._entries = Entries(max_entries)
        self._mailboxes = Mailboxes()
        # Entries that can be given as they are, by their keys in the namespace that was read last.
        self._known: dict[str, Entry] = {}
        self._known_of: Namespace | None = None

    async def get(self, key: str, default: Any = NO_VALUE, raw: bool = False) -> Any:
        """See `Cache.get`."""
        if self._namespace.get() is self._known_of and not raw:
            entry = self._known.get(key)
            if entry is not None and (entry.expires is None or entry.expires > now()):
                entries = self._entries
                entry.used = entries.uses = entries.uses + 1
                return entry.value
        found = self._entries.get(self._whole_key(key, raw))
        if found is None:
            return self._default_for(key, default)
        value = _value_of(found)
        if found.value is not NO_VALUE and not raw:
            self._know(key, found)
        return value

    async def set(self, key: str, value: Any, raw: bool = False, ttl: float | None = None) -> None:
        """See `Cache.set`."""
        whole_key = self._whole_key(key, raw)
        data = None if type(value) is str else encode(value)  # also to see whether it can be
        if is_immutable(value):
            self._entries.put(whole_key, value, None, checked_ttl(ttl))
        else:
            self._entries.put(whole_key, NO_VALUE, data, checked_ttl(ttl))

    async def contains(self, key: str, raw: bool = False) -> bool:
        """See `Cache.contains`."""
        return self._entries.get(self._whole_key(key, raw)) is not None

    async def get_many(self, keys: Iterable[str], raw: bool = False) -> dict[str, Any]:
        """See `Cache.get_many`."""
        found = {key: self._entries.get(self._whole_key(key, raw)) for key in keys}
        return {key: _value_of(entry) for key, entry in found.items() if entry is not None}

    async def close(self) -> None:
        """Sends those away who wait for messages. What is there can still be used, but nobody waits any more."""
        self._mailboxes.close()

    def _know(self, key: str, entry: Entry) -> None:
        namespace = self._namespace.get()
        # There are more than entries if some of them are entries that have gone.
        if namespace is not self._known_of or len(self._known) > self._entries.count():
            self._known_of = namespace
            self._known.clear()
        self._known[key] = entry

    async def _load(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        return None if entry is None else _data_of(entry)

    async def _load_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [await self._load(key) for key in keys]

    async def _store(self, values: Mapping[str, bytes], ttl: float | None) -> None:
        for key, data in values.items():
            self._entries.put(key, NO_VALUE, data, ttl)

    async def _remove(self, keys: Sequence[str]) -> int:
        return sum(map(self._entries.remove, keys))

    async def _add(self, key: str, data: bytes, ttl: float | None) -> bool:
        if self._entries.get(key) is not None:
            return False
        self._entries.put(key, NO_VALUE, data, ttl)
        return True

    async def _replace(self, key: str, expected: bytes, data: bytes, ttl: float | None) -> bool:
        entry = self._entries.get(key)
        if entry is None or _data_of(entry) != expected:
            return False
        self._entries.put(key, NO_VALUE, data, ttl)
        return True

    async def _increment(self, key: str, by: int) -> int:
        entry = self._entries.get(key)
        present = 0 if entry is None else _integer_of(entry)
        total = present + by
        if not -_64_BITS <= total < _64_BITS:
            raise OverflowError(f"{total} does not fit into 64 bits, so the value of {key!r} stays")
        if entry is None:
            self._entries.put(key, total, None, None)
        else:
            entry.value, entry.data = total, None
        return total

    async def _scan(self, namespace: Namespace) -> AsyncIterator[list[str]]:
        keys = [key for key in self._entries.all_keys() if namespace.has(key)]
        for start in range(0, len(keys), _BATCH):
            if start:
                await asyncio.sleep(0)  # others have their turn, too
            yield keys[start : start + _BATCH]

    async def _push(self, mailbox: str, data: bytes, ttl: float | None) -> None:
        self._mailboxes.push(mailbox, data, ttl)

    async def _pop(self, mailbox: str, timeout: float | None) -> bytes | None:
        return await self._mailboxes.pop(mailbox, timeout)

    async def _peek(self, mailbox: str) -> bytes | None:
        return self._mailboxes.peek(mailbox)

    async def _length(self, mailbox: str) -> int:
        return self._mailboxes.length(mailbox)


def _value_of(entry: Entry) -> Any:
    if entry.value is not NO_VALUE:
        return entry.value
    value = decode(entry.data or b"")
    if is_immutable(value):
        entry.value = value
    return value


def _integer_of(entry: Entry) -> int:
    with suppress(UnreadableValueError):
        value = _value_of(entry)
        if type(value) is int:
            return value
    raise TypeError(f"the value of {entry.key!r} is no integer, so nothing can be added to it")


def _data_of(entry: Entry) -> bytes:
    if entry.data is None:
        entry.data = encode(entry.value)
    return entry.data
