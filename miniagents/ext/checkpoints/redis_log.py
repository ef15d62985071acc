"""The log of one run in a cache: everything that happens to the run is a record of it, at the next number.

A record is put there by `add`, of which one wins. Therefore whoever has put one has known all before it; and who has
claimed the run is known from the records, too. So nothing can be appended with a claim after another one, and of
several entries in one record there are all or none.

From time to time what follows from the records so far is written down as the head of the log, so that nobody has to
read all of them: whoever comes goes on from there.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

from miniagents.ext.checkpoints.errors import (
    RunNotFoundError,
    StoreDamagedError,
    StoreUnavailableError,
    StoreVersionError,
)
from miniagents.ext.checkpoints.interface import FORMAT
from miniagents.ext.checkpoints.redis_shelf import Shelf

__all__ = ["BehindError", "Record", "RunLog", "RunState", "forgotten"]

Record = dict[str, Any]

# It stands for a while where a record was removed, so that nobody who has not looked for long puts one there.
_GONE: Record = {"what": "gone"}

_HEAD_EVERY = 8
_FIRST_PAGE, _LARGEST_PAGE = 16, 500
_GONE_FOR = 86_400.0
_TRIES = 3


class BehindError(Exception):
    """What is known of the log is too old to go on from there: begin with its head."""


@dataclass
class RunState:
    """What follows from the records of a run.

    Attributes:
        run_id: See `RunInfo`, as for the following.
        workflow: The name of what runs.
        fingerprint: What describes it, as JSON.
        status: The status.
        created: When it was created.
        updated: When its newest entry or status was recorded.
        number: The number of the run, by which its keys are made: another one for each run, also of the same id.
        position: The number of the last record.
        last: The number of the last entry.
        epoch: The number of the last claim.
        holder: The key of who has made it; None if it was released.
        pruned: The number of the last entry that was removed.
        cleared: The number of the last record that was removed.
        is_deleted: Whether the run was deleted.
    """

    run_id: str
    workflow: str
    fingerprint: str
    status: str
    created: float
    updated: float
    number: int
    position: int = 0
    last: int = 0
    epoch: int = 0
    holder: str | None = None
    pruned: int = 0
    cleared: int = 0
    is_deleted: bool = False

    def apply(self, record: Record) -> None:
        """Takes note of the next record."""
        self.position += 1
        what = record["what"]
        if what == "entries":
            self.last += len(record["entries"])
            self.updated = record["time"]
            if record["status"] is not None:
                self.status = record["status"]
        elif what == "claim":
            self.epoch, self.holder = record["epoch"], record["holder"]
        elif what == "release":
            self.holder = None
        elif what == "prune":
            self.pruned, self.cleared = record["pruned"], record["cleared"]
        elif what == "deletion":
            self.is_deleted = True


class RunLog:
    """The log of a run, as far as it is known here.

    Args:
        shelf: Where it is.
        head: Its head.

    Attributes:
        state: What follows from the records that are known.
        lock: For whoever uses the log in several steps.
    """

    def __init__(self, shelf: Shelf, head: Record) -> None:
        self.lock = asyncio.Lock()
        self._shelf = shelf
        self._head = head
        if head["format"] != FORMAT:
            raise StoreVersionError(
                f"the run {head.get('run_id')} was written by a newer version of miniagents (format "
                f"{head['format']!r:.100}, known here: {FORMAT}); update miniagents"
            )
        self.state = RunState(**{field.name: head[field.name] for field in fields(RunState)})

    @staticmethod
    def head_of(state: RunState) -> Record:
        """Makes the head of a log."""
        return {"format": FORMAT, **asdict(state)}

    @classmethod
    async def opened(cls, shelf: Shelf, run_id: str) -> "RunLog":
        """Reads the log of a run from its head.

        Raises:
            RunNotFoundError: There is no such run.
            StoreDamagedError: The cache has forgotten a part of it.
            StoreVersionError: It was written by a newer version.
        """
        for _ in range(_TRIES):
            number = await shelf.get(f"run/{run_id}")
            if number is None:
                raise RunNotFoundError(f"there is no run {run_id} in the cache; see `store.runs()` for those that are")
            head = await shelf.get(f"{number}/head")
            if head is not None:
                log = cls(shelf, head)
                with suppress(BehindError):  # it has just been deleted, or old entries were removed
                    await log.follow()
                    return log
        raise forgotten(run_id)

    async def is_there(self) -> bool:
        """Reads what has been added, and says whether the run is there still."""
        try:
            await self.follow()
        except BehindError:
            return False
        return not self.state.is_deleted

    def key(self, name: object) -> str:
        """Gives the key of a record, by its number, or of something else that belongs to the run."""
        return f"{self.state.number}/{name}"

    async def follow(self) -> list[Record]:
        """Reads what has been added.

        Returns:
            The records that were not known.

        Raises:
            BehindError: They have been removed already.
        """
        fresh: list[Record] = []
        size = _FIRST_PAGE
        while True:
            first = self.state.position + 1
            for record in await self._shelf.get_many([self.key(number) for number in range(first, first + size)]):
                if record is None:
                    return fresh
                if record["what"] == "gone":
                    raise BehindError
                self.state.apply(record)
                fresh.append(record)
            size = min(size * 2, _LARGEST_PAGE)

    async def commit(self, make: Callable[[RunState, list[Record]], Record]) -> Record:
        """Adds a record.

        Args:
            make: Makes it, or raises. It is given the state before it, and the records that others have just added: if
                they were faster, it is called again.

        Returns:
            The record.

        Raises:
            BehindError: See `follow`.
        """
        identity, fresh = secrets.token_hex(8), list[Record]()
        while True:
            record = {"id": identity, **make(self.state, fresh)}
            if await self._shelf.add(self.key(self.state.position + 1), record):
                self.state.apply(record)
                break
            fresh = await self.follow()
            if any(other["id"] == identity for other in fresh):  # the answer to an earlier try was lost
                break
        if self.state.position - self._head["position"] >= _HEAD_EVERY:
            with suppress(StoreUnavailableError):  # the record is there; a later one will do
                await self.write_head()
        return record

    async def write_head(self) -> None:
        """Writes down what is known, unless somebody else has written down more."""
        while self._head["position"] < self.state.position:
            head = self.head_of(self.state)
            if await self._shelf.replace(self.key("head"), self._head, head):
                self._head = head
            else:
                found = await self._shelf.get(self.key("head"))
                if found is None:
                    return
                self._head = found

    async def records(self, after: int) -> list[tuple[int, Record]]:
        """Reads the records with the entries after a number, and maybe some before them.

        Args:
            after: The number.

        Returns:
            The records, with their numbers.

        Raises:
            BehindError: Some have been removed.
        """
        pages: list[list[tuple[int, Record]]] = []
        end, size = self.state.position, _FIRST_PAGE
        while end > self.state.cleared:
            begin = max(self.state.cleared, end - size)
            numbers = range(begin + 1, end + 1)
            found = await self._shelf.get_many([self.key(number) for number in numbers])
            if any(record is None or record["what"] == "gone" for record in found):
                raise BehindError
            pages.append(list(zip(numbers, found, strict=True)))
            first = next((record["first"] for record in found if record["what"] == "entries"), None)
            if first is not None and first <= after + 1:
                break
            end, size = begin, min(size * 2, _LARGEST_PAGE)
        return [record for page in reversed(pages) for record in page]

    async def clear(self, first: int, last: int) -> None:
        """Removes records, by their numbers."""
        await self._shelf.set_many({self.key(number): _GONE for number in range(first, last + 1)}, ttl=_GONE_FOR)

    async def remove(self) -> None:
        """Removes all records of a run that is deleted, and the objects that they list."""
        for first in range(self.state.cleared + 1, self.state.position + 1, _LARGEST_PAGE):
            numbers = range(first, min(first + _LARGEST_PAGE, self.state.position + 1))
            found = await self._shelf.get_many([self.key(number) for number in numbers])
            objects = {key for record in found if record is not None for key in record.get("objects", ())}
            await self._shelf.delete_many([self.key(f"object/{key}") for key in objects])
            await self.clear(numbers[0], numbers[-1])


def forgotten(run_id: str) -> StoreDamagedError:
    """Makes the error for a run of which a part is missing."""
    return StoreDamagedError(
        f"the cache has forgotten a part of the run {run_id}; give one that keeps everything (a MemoryCache needs "
        "`max_entries=None`, a Redis server `maxmemory-policy noeviction`)"
    )
