"""The values of a cache in memory: bounded in number and in time."""

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from miniagents.ext.cache.deadlines import Deadlines, now

__all__ = ["Entries", "Entry"]

_by_use = attrgetter("used")


class Entry:
    """What is stored under one key.

    Attributes:
        key: The whole key.
        value: The value, if it is one that can be given to everybody; else `NO_VALUE`.
        data: The value as bytes, or None if they have not been asked for.
        expires: When it is gone, or None.
        used: When it was used last, counted in uses.
    """

    __slots__ = ("data", "expires", "key", "used", "value")

    def __init__(self, key: str, value: Any, data: bytes | None, expires: float | None) -> None:
        self.key = key
        self.value = value
        self.data = data
        self.expires = expires
        self.used = 0


class Entries:
    """Entries by their whole keys, of which the one that has not been used for longest goes when there are too many.

    A use costs no more than a count: nothing is kept in the order of use. When an entry has to go, all of them are
    sorted, and that order serves until it is used up: what has not been used since then has not been for longest.

    Args:
        max_entries: How many there can be; None for any number.
    """

    __slots__ = ("_by_key", "_deadlines", "_max_entries", "_oldest", "_sorted_at", "uses")

    def __init__(self, max_entries: int | None) -> None:
        self._max_entries = max_entries
        self._by_key: dict[str, Entry] = {}
        self._deadlines = Deadlines(self._goes_at, self._by_key.__len__)
        self._oldest: Iterator[Entry] = iter(())
        self._sorted_at = 0
        self.uses = 0

    def get(self, key: str) -> Entry | None:
        """Gives the entry of a key, which is used thereby."""
        entry = self._by_key.get(key)
        if entry is None:
            return None
        if entry.expires is not None and entry.expires <= now():
            self.remove(key)
            return None
        entry.used = self.uses = self.uses + 1
        return entry

    def put(self, key: str, value: Any, data: bytes | None, ttl: float | None) -> None:
        """Makes a new entry, in place of the present one."""
        self._remove_due()
        self.remove(key)
        entry = self._by_key[key] = Entry(key, value, data, None if ttl is None else now() + ttl)
        entry.used = self.uses = self.uses + 1
        if entry.expires is not None:
            self._deadlines.add(key, entry.expires)
        if self._max_entries is not None and len(self._by_key) > self._max_entries:
            self._remove_oldest()

    def remove(self, key: str) -> bool:
        """Removes the entry of a key and says whether there was one that has not expired."""
        entry = self._by_key.pop(key, None)
        if entry is None:
            return False
        expired = entry.expires is not None and entry.expires <= now()
        entry.value = entry.data = None  # whoever remembers the entry keeps no value alive
        entry.expires = 0.0
        return not expired

    def count(self) -> int:
        """Gives the number of entries."""
        return len(self._by_key)

    def all_keys(self) -> list[str]:
        """Gives the keys of all entries."""
        self._remove_due()
        return [*self._by_key]

    def _remove_due(self) -> None:
        for key in self._deadlines.due():
            self.remove(key)

    def _remove_oldest(self) -> None:
        while True:
            for entry in self._oldest:
                if entry.used <= self._sorted_at and self._by_key.get(entry.key) is entry:
                    self.remove(entry.key)
                    return
            self._sorted_at = self.uses
            self._oldest = iter(sorted(self._by_key.values(), key=_by_use))

    def _goes_at(self, key: str, when: float) -> bool:
        entry = self._by_key.get(key)
        return entry is not None and entry.expires == when
