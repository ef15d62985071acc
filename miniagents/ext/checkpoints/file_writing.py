"""The folder of one run, as it is written: nothing in it is ever half there.

An entry is written into a temporary folder, which is then renamed. The locked file says meanwhile that somebody writes;
if it does so still when the next one comes, that one looks for itself what is there, and removes what is not complete.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from miniagents.ext.checkpoints.entries import Draft
from miniagents.ext.checkpoints.errors import StoreDamagedError
from miniagents.ext.checkpoints.file_journal import Journal, Tail, folder_name
from miniagents.ext.checkpoints.files import (
    TEMPORARY,
    clear,
    compact,
    locked,
    new_folder,
    read_json,
    remove,
    sync_folder,
    write_json,
)
from miniagents.ext.checkpoints.holders import NOT_KNOWN, this_boot
from miniagents.ext.checkpoints.interface import Receipt
from miniagents.ext.checkpoints.objects import Packed, references_in

__all__ = ["JournalWriter", "begin_journal", "writing"]


def begin_journal(folder: Path, run: Mapping[str, Any], *, durable: bool) -> None:
    """Fills the folder of a new run.

    Args:
        folder: The folder, which is empty.
        run: What is known of the run.
        durable: Whether to wait for the disk.
    """
    write_json(folder / "run.json", {**run, "status_since": 0, "pruned": 0}, durable=durable)
    descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        Tail(0, 0.0, True).note(descriptor)
    finally:
        os.close(descriptor)
    if durable:
        sync_folder(folder)


@contextmanager
def writing(journal: Journal, timeout: float, *, durable: bool) -> Iterator["JournalWriter"]:
    """Has a journal for oneself, after what others have left behind was mended.

    Args:
        journal: The journal.
        timeout: How many seconds to wait for others.
        durable: Whether to wait for the disk.

    Yields:
        What to write with.

    Raises:
        FileNotFoundError: There is no such run.
        StoreLockedError: Others keep it locked.
        StoreDamagedError: An entry is missing.
    """
    with locked(journal.lock, timeout) as descriptor:
        writer = JournalWriter(journal, descriptor, durable)
        if not writer.tail.is_clean:
            writer.mend()
        yield writer


class JournalWriter:
    """Writes to the folder of a run, while nobody else does.

    Args:
        journal: The journal.
        descriptor: The file that is locked.
        durable: Whether to wait for the disk.

    Attributes:
        tail: Where the journal ends.
        has_mended: Whether somebody had left something behind.
    """

    def __init__(self, journal: Journal, descriptor: int, durable: bool) -> None:
        self.journal = journal
        self.tail = Tail.of(descriptor)
        self.has_mended = False
        self._descriptor = descriptor
        self._durable = durable

    def append(self, drafts: Sequence[Draft], status: str | None) -> list[Receipt]:
        """Appends entries, and sets the status of the run unless it is None."""
        now, first = time.time(), self.tail.last + 1
        last = self.tail.last + len(drafts)
        self._note(self.tail._replace(is_clean=False))
        for draft in drafts:
            self._write_objects(draft.packed)
        fresh = []
        for number, draft in enumerate(drafts, first):
            content = {"sequence": number, **_content(draft), "time": now}
            if len(drafts) > 1:
                content["together"] = [first, last]
            if number == last and status is not None:
                content["status"] = status
            fresh.append((self._write_entry(content), folder_name(number, draft.node)))
        for temporary, name in fresh:
            temporary.rename(self.journal.folder / name)
        if self._durable and fresh:
            sync_folder(self.journal.folder)
        if status is not None:
            self._write_status(status, last, now)
        self._note(Tail(last, now if drafts else self.tail.time, True))
        return [Receipt(number, now) for number in range(first, last + 1)]

    def prune(self, last: int) -> None:
        """Removes the entries up to a number, and what only they refer to."""
        path = self.journal.folder / "run.json"
        run = read_json(path)
        if last <= run["pruned"]:
            return
        self._note(self.tail._replace(is_clean=False))
        write_json(path, {**run, "pruned": last}, durable=self._durable)
        if self._durable:
            sync_folder(self.journal.folder)
        for number, name in self.journal.extent().names.items():
            if number <= last:
                remove(self.journal.folder / name)
        needed = self.journal.read(last, None).objects
        for path in (self.journal.folder / "objects").glob("[!.]*.json"):
            if path.stem not in needed:
                path.unlink()
        self._note(self.tail._replace(is_clean=True))

    def mend(self) -> None:
        """Finds out where the journal ends, and removes what is not complete.

        Raises:
            StoreDamagedError: An entry is missing; then nothing is removed.
        """
        journal = self.journal
        extent = journal.extent()
        if extent.damage is not None:
            raise extent.damage
        for number, name in extent.names.items():
            if not extent.pruned < number <= extent.last:
                remove(journal.folder / name)
        for path in journal.folder.iterdir():
            if path.name.startswith(TEMPORARY):
                clear(path)
        self._mend_objects()
        last = journal.entry(extent.names[extent.last]) if extent.last > extent.pruned else {"time": 0.0}
        self._mend_status(extent.names, extent.last)
        self.has_mended = True
        self._note(Tail(extent.last, last["time"], True))

    def _write_entry(self, content: Mapping[str, Any]) -> Path:
        folder = new_folder(self.journal.folder)
        write_json(folder / "entry.json", content, durable=self._durable)
        if self._durable:
            sync_folder(folder)
        return folder

    def _write_objects(self, packed: Packed) -> None:
        path = self.journal.object_path
        fresh = list(packed.objects(lambda key: path(key).exists()))
        if fresh:
            folder = self.journal.folder / "objects"
            folder.mkdir(mode=0o700, exist_ok=True)
            for key, data in fresh:
                write_json(path(key), {"object": json.loads(data)}, durable=self._durable)
            if self._durable:
                sync_folder(folder)

    def _write_status(self, status: str, since: int, now: float) -> None:
        path = self.journal.folder / "run.json"
        run = {**read_json(path), "status": status, "status_since": since, "updated": now}
        write_json(path, run, durable=self._durable)
        if self._durable:
            sync_folder(self.journal.folder)

    def _mend_status(self, names: Mapping[int, str], last: int) -> None:
        """Sets the status that was to be set with the last entries, if that was not done any more."""
        run = read_json(self.journal.folder / "run.json")
        for number in range(last, max(run["status_since"], run["pruned"]), -1):
            entry = self.journal.entry(names[number])
            if "status" in entry:
                self._write_status(entry["status"], number, entry["time"])
                return

    def _mend_objects(self) -> None:
        """Removes objects part of which is missing, as whoever has an object relies on having all that is in it."""
        folder = self.journal.folder / "objects"
        refer_to: dict[str, list[str]] = {}
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name.startswith(TEMPORARY):
                path.unlink()
            else:
                refer_to[path.stem] = []
                with suppress(KeyError, StoreDamagedError):  # whoever needs a damaged one will say that it is
                    refer_to[path.stem] = references_in(compact(read_json(path)["object"]))
        for key in _incomplete(refer_to):
            self.journal.object_path(key).unlink()

    def _note(self, tail: Tail) -> None:
        tail.note(self._descriptor)
        if self._durable and not tail.is_clean and this_boot() == NOT_KNOWN:
            os.fsync(self._descriptor)  # else, after a power failure, nobody could see that somebody was writing
        self.tail = tail


def _content(draft: Draft) -> dict[str, Any]:
    content = {name: getattr(draft, name) for name in ("kind", "node", "visit", "attempt")}
    return {**content, "data": json.loads(draft.packed.data)}


def _incomplete(refer_to: Mapping[str, Iterable[str]]) -> set[str]:
    """Those objects that refer to a missing one, directly or through others."""
    incomplete: set[str] = set()
    before = -1
    while len(incomplete) > before:
        before = len(incomplete)
        for key, others in refer_to.items():
            if any(other not in refer_to or other in incomplete for other in others):
                incomplete.add(key)
    return incomplete
