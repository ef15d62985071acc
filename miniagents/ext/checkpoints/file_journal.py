"""The folder of one run, as it is read: each entry is in a folder of its own.

    <run>/run.json                      what is known of the run
    <run>/claim.json                    who works at it
    <run>/00000001_write/entry.json     the first entry, about the node `write`
    <run>/objects/<hash>.json           a message, or a piece of a conversation
    <run>/.lock                         locked by who writes; says where the journal ends

Of several entries that were appended together each says so, and they count as soon as all of them are there.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from miniagents.ext.checkpoints.errors import StoreDamagedError
from miniagents.ext.checkpoints.files import compact, read_json
from miniagents.ext.checkpoints.holders import this_boot
from miniagents.ext.checkpoints.interface import Row, StoredJournal
from miniagents.ext.checkpoints.objects import references_in

__all__ = ["Extent", "Journal", "Tail", "folder_name"]

_ENTRY = re.compile(r"(\d{8,})_")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NODE = 60


def folder_name(sequence: int, node: str) -> str:
    """Gives the name of the folder of an entry; the node in it is for people."""
    return f"{sequence:08}_{_UNSAFE.sub('-', node)[:_LONGEST_NODE] or 'run'}"


class Tail(NamedTuple):
    """Where a journal ends, as whoever wrote last has noted it.

    Attributes:
        last: The number of the last entry; 0 for none.
        time: When that was recorded; 0 for never.
        is_clean: Whether that is certain: nobody is writing now, or was killed while writing, and the machine was not.
    """

    last: int
    time: float
    is_clean: bool

    @classmethod
    def of(cls, descriptor: int) -> "Tail":
        """Reads it from the file that is locked by who writes."""
        try:
            noted = json.loads(os.pread(descriptor, 1000, 0))
            return cls(noted["last"], noted["time"], noted["clean"] and noted["boot"] == this_boot())
        except (ValueError, TypeError, KeyError):
            return cls(0, 0.0, False)

    def note(self, descriptor: int) -> None:
        """Writes it there."""
        noted = {"boot": this_boot(), "last": self.last, "time": self.time, "clean": self.is_clean}
        os.pwrite(descriptor, json.dumps(noted).ljust(200).encode(), 0)


class Extent(NamedTuple):
    """Which entries are there.

    Attributes:
        names: The names of their folders by their numbers, also of those that do not count.
        pruned: The number of the last one that was removed; 0 for none.
        last: The number of the last one that counts; 0 for none.
        damage: Why later ones do not count, if they should.
    """

    names: Mapping[int, str]
    pruned: int
    last: int
    damage: StoreDamagedError | None = None


class Journal:
    """The folder of a run.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / ".lock"

    def tail(self) -> Tail:
        """Tells where the journal ends, as it was noted.

        Raises:
            FileNotFoundError: There is no such run.
        """
        descriptor = os.open(self.lock, os.O_RDONLY)
        try:
            return Tail.of(descriptor)
        finally:
            os.close(descriptor)

    def extent(self) -> Extent:
        """Looks which entries are there."""
        pruned = read_json(self.folder / "run.json")["pruned"]
        names: dict[int, str] = {}
        for name in os.listdir(self.folder):  # noqa: PTH208  # of thousands of names, and nothing else is wanted
            match = _ENTRY.match(name)
            if match is not None and names.setdefault(int(match[1]), name) != name:
                damage = StoreDamagedError(f"{self.folder} has two entries of the number {int(match[1])}")
                return Extent({}, pruned, pruned, damage)
        last: int = pruned
        while last + 1 in names:
            last += 1
        together = self._together(names[last]) if last > pruned else None
        if together is not None and not all(number in names for number in range(last, together[1] + 1)):
            last = together[0] - 1
        for number in names:
            if number > last:
                together = self._together(names[number])
                if together is None or together[0] != last + 1:
                    where = f"entry {last + 1} is missing in {self.folder}, though there is entry {number}"
                    damage = StoreDamagedError(f"{where}; restore it, or delete the run")
                    return Extent(names, pruned, last, damage)
        return Extent(names, pruned, last)

    def read(self, after: int, limit: int | None) -> StoredJournal:
        """Reads entries, and what they refer to.

        Args:
            after: The number of the entry after which to begin.
            limit: How many to read; None for all.

        Returns:
            The entries up to the end, or to the first one that is damaged.
        """
        extent = self.extent()
        after = max(after, extent.pruned)
        last = extent.last if limit is None else min(extent.last, after + limit)
        damage = extent.damage if last == extent.last else None
        rows: list[Row] = []
        for number in range(after + 1, last + 1):
            try:
                rows.append(self._row(number, extent.names[number]))
            except StoreDamagedError as error:
                damage = error
                break
        objects, missing = self._objects(rows)
        if missing and damage is None:
            damage = StoreDamagedError(f"the object {missing[0]} is missing, or damaged, in {self.folder / 'objects'}")
        return StoredJournal(rows, objects, damage)

    def entry(self, name: str) -> dict[str, Any]:
        """Reads one entry.

        Raises:
            StoreDamagedError: It is none any more.
        """
        path = self.folder / name / "entry.json"
        try:
            return read_json(path)
        except FileNotFoundError:
            raise StoreDamagedError(f"the file {path} is missing; restore it, or delete the run") from None

    def object_path(self, key: str) -> Path:
        """Gives the file of an object."""
        return self.folder / "objects" / f"{key}.json"

    def _together(self, name: str) -> tuple[int, int] | None:
        """The numbers of the first and the last of those that were appended together with an entry."""
        try:
            first, last = self.entry(name)["together"]
        except (KeyError, TypeError, ValueError, StoreDamagedError):
            return None
        return first, last

    def _row(self, number: int, name: str) -> Row:
        found = self.entry(name)
        try:
            kind, node, visit, attempt = (found[part] for part in ("kind", "node", "visit", "attempt"))
            return Row(number, kind, node, visit, attempt, compact(found["data"]), found["time"])
        except KeyError as error:
            raise StoreDamagedError(f"the entry in {self.folder / name} has no {error}; restore it") from error

    def _objects(self, rows: Sequence[Row]) -> tuple[dict[str, bytes], list[str]]:
        """Reads what entries refer to, and what that refers to, and so on; and says what cannot be read."""
        objects: dict[str, bytes] = {}
        missing: list[str] = []
        pending = [key for row in rows for key in references_in(row.data)]
        while pending:
            key = pending.pop()
            if key not in objects:
                try:
                    objects[key] = compact(read_json(self.object_path(key))["object"])
                except (FileNotFoundError, KeyError, StoreDamagedError):
                    missing.append(key)
                    continue
                pending.extend(references_in(objects[key]))
        return objects, missing
