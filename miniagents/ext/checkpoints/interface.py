"""`CheckpointStore`: where runs keep their journals, so that another process can go on where one has ended.

What is the same for all stores is here: entries are checked and written, messages set apart, claims renewed. A backend
says where the bytes are: it derives from `CheckpointStore` and defines the methods of the last section.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, TypeVar
from weakref import WeakSet

from miniagents.ext.checkpoints.claims import Claim, valid_holder
from miniagents.ext.checkpoints.entries import Draft, Entry, EntryLike, RunInfo, checked_text, draft_of
from miniagents.ext.checkpoints.errors import (
    CheckpointStoreError,
    RecordedAlreadyError,
    RunNotFoundError,
    StaleClaimError,
    StoreDamagedError,
)
from miniagents.ext.checkpoints.holders import Holder
from miniagents.ext.checkpoints.objects import Unpacker
from miniagents.ext.checkpoints.outcomes import ONCE
from miniagents.ext.threads import in_thread
from miniagents.ext.values import UnreadableValueError, decode, encode

__all__ = ["FORMAT", "CheckpointStore", "Receipt", "Row", "StoredJournal", "StoredRun"]

StoreT = TypeVar("StoreT", bound="CheckpointStore")

FORMAT = 1
"""The version of how runs and entries are stored, the same for all stores."""

_MANY = 100


class Receipt(NamedTuple):
    """What the store gives an entry.

    Attributes:
        sequence: Its number.
        time: When it was recorded, in unix seconds.
    """

    sequence: int
    time: float


class Row(NamedTuple):
    """An entry as it is stored.

    Attributes:
        sequence: See `Entry`, as for the following.
        kind: The kind.
        node: The node or state.
        visit: The visit of the node.
        attempt: The attempt of the visit.
        data: The data as JSON, with references to objects.
        time: When it was recorded.
    """

    sequence: int
    kind: str
    node: str
    visit: int
    attempt: int
    data: bytes
    time: float


class StoredJournal(NamedTuple):
    """Entries as they are stored, with all objects that they refer to.

    Attributes:
        rows: The entries.
        objects: The objects by their hashes, as JSON.
        damage: Why there are no further entries, if some are damaged.
    """

    rows: Sequence[Row]
    objects: Mapping[str, bytes]
    damage: StoreDamagedError | None = None


class StoredRun(NamedTuple):
    """What is stored of a run.

    Attributes:
        run_id: See `RunInfo`, as for the following.
        workflow: The name of what runs.
        fingerprint: What describes it, as JSON.
        status: The status.
        created: When it was created.
        updated: When its newest entry or status was recorded.
        holder: The key of who has claimed it last, see `Holder`; None if it was released.
        until: When the lease ends.
    """

    run_id: str
    workflow: str
    fingerprint: bytes
    status: str
    created: float
    updated: float
    holder: str | None
    until: float


class CheckpointStore(ABC):
    """Keeps runs, each of which is a journal: entries are appended, and never changed.

    Use `SQLiteCheckpointStore` on one machine, `RedisCheckpointStore` where several share a server, and
    `FileCheckpointStore` for files that people can read. All of them pass the tests of
    `miniagents.testing.CheckpointStoreConformance`.

    Any number of processes and objects can use the same store. To append to a run it has to be claimed; to read it, to
    answer a question or to ask it to be cancelled, it does not.

    Raises:
        CheckpointStoreError: From all methods: the place cannot be used; see `miniagents.ext.checkpoints.errors`.

    Example:
        ```python
        async with SQLiteCheckpointStore("runs.db") as store:
            await store.create("run-1", workflow="report", fingerprint={"nodes": ["write", "check"]})
            async with await store.claim("run-1") as claim:
                await store.append(claim, [NewEntry("started", "write")])
                await store.append(claim, [NewEntry("finished", "write", data={"reply": Message("Done")})])
            assert [entry.kind for entry in await store.read("run-1")] == ["started", "finished"]
        ```
    """

    def __init__(self) -> None:
        self._claims: WeakSet[Claim] = WeakSet()

    async def create(self, run_id: str, *, workflow: str, fingerprint: Any = None, status: str = "running") -> None:
        """Begins the journal of a run.

        Args:
            run_id: Its id, of at most 200 characters.
            workflow: The name of what runs.
            fingerprint: Plain data that describes it, to tell later whether it has changed.
            status: Its status.

        Raises:
            RunExistsError: There is a run of that id.
            TypeError: The fingerprint cannot be represented.
        """
        checked_text("the id of a run", run_id)
        checked_text("the name of a workflow", workflow)
        checked_text("the status of a run", status)
        await self._create(run_id, workflow, encode(fingerprint), status)

    async def claim(self, run_id: str, *, lease: float = 5.0, auto_renew: bool = True) -> Claim:
        """Claims a run, to work at it. Of any number of claimants one gets it, here and in other processes.

        Args:
            run_id: The run.
            lease: After how many seconds without a sign of life the claim is void. That of a process of this machine
                that does not live any more is void at once.
            auto_renew: Whether it is renewed by itself; if not, call `claim.renew()` in time.

        Returns:
            The claim, to be released: `async with await store.claim(run_id) as claim:`.

        Raises:
            RunClaimedError: Somebody else works at it.
            RunNotFoundError: There is no such run.
        """
        checked_text("the id of a run", run_id)
        if not 0 < lease < float("inf"):
            raise ValueError(f"a lease of {lease!r} s is none; give a positive number of seconds")
        holder = Holder.new()
        granting = asyncio.ensure_future(self._claim(run_id, holder, lease))
        try:
            epoch = await asyncio.shield(granting)
        except asyncio.CancelledError:
            with suppress(CheckpointStoreError):  # the run must not be held by nobody
                await Claim(self, run_id, await granting, holder, lease, auto_renew=False).release()
            raise
        claim = Claim(self, run_id, epoch, holder, lease, auto_renew=auto_renew)
        self._claims.add(claim)
        return claim

    async def append(self, claim: Claim, entries: Iterable[EntryLike], *, status: str | None = None) -> list[Entry]:
        """Appends entries to a run: all of them or none, durably when this returns.

        Of each visit of a node "finished" is recorded once, and of each attempt "started" once, and one of "finished"
        and "failed". Once an attempt has started, nothing can be appended about an earlier one of the same visit. If
        the call is cancelled, everything was appended or nothing.

        Args:
            claim: The claim of the run.
            entries: The entries. Their data is written at once, so it may be changed afterwards.
            status: The new status of the run, if it changes.

        Returns:
            The entries as they were recorded.

        Raises:
            StaleClaimError: Another one has claimed the run since.
            StaleAttemptError: A newer attempt of the visit has started.
            RecordedAlreadyError: The outcome is recorded already; `error.recorded` is the entry.
            RunNotFoundError: The run has been deleted.
            TypeError: A part of the data cannot be represented; the message names the path to it.
        """
        given = list(entries)
        drafts = [draft_of(entry) for entry in given]
        if status is not None:
            checked_text("the status of a run", status)
        claim.check()
        if not drafts and status is None:
            return []
        try:
            receipts = await self._append(claim, drafts, status)
        except (StaleClaimError, RunNotFoundError):
            claim.lose()
            raise
        except RecordedAlreadyError as error:
            error.recorded = next(iter(await self._entries(claim.run_id, error.sequence - 1, 1)), None)
            raise
        return [_entry(receipt, entry) for receipt, entry in zip(receipts, given, strict=True)]

    async def tell(self, run_id: str, entry: EntryLike) -> Entry:
        """Appends an entry to a run that somebody else may be working at: an answer, or the wish to cancel it.

        Args:
            run_id: The run.
            entry: The entry; its kind is none of "started", "finished" and "failed", which need a claim.

        Returns:
            The entry as it was recorded.

        Raises:
            RunNotFoundError: There is no such run.
        """
        checked_text("the id of a run", run_id)
        draft = draft_of(entry)
        if draft.kind in ONCE:
            raise ValueError(f"an entry {draft.kind!r} is for who works at the run; claim it, and append the entry")
        receipt = await self._tell(run_id, draft)
        return _entry(receipt, entry)

    async def read(self, run_id: str, after: int = 0, *, lenient: bool = False) -> list[Entry]:
        """Reads the journal of a run.

        Args:
            run_id: The run.
            after: The number of the entry after which to begin.
            lenient: Whether data with objects of classes that are not known in this process is given as the JSON that
                it is written as, for those who only look at it.

        Returns:
            The entries, in their order. Equal messages in them are the same object.

        Raises:
            RunNotFoundError: There is no such run.
            StoreDamagedError: An entry is damaged; `error.readable` holds the entries before it.
            UnreadableValueError: A class is not known in this process; import its module, or read leniently.
        """
        checked_text("the id of a run", run_id)
        return await self._entries(run_id, after, None, lenient=lenient)

    async def wait(self, run_id: str, after: int, timeout: float | None = None) -> bool:
        """Waits until there are entries beyond a number.

        Entries of this process, and with Redis those of all, wake who waits. With SQLite and files those of other
        processes are noticed by a cheap look every 0.2 s, and only while somebody waits.

        Args:
            run_id: The run.
            after: The number.
            timeout: For how many seconds to wait; 0 to look only, None as long as it takes.

        Returns:
            Whether there are entries.

        Raises:
            RunNotFoundError: There is no such run, or it was deleted in the meantime.
        """
        checked_text("the id of a run", run_id)
        if timeout is not None and timeout < 0:
            raise ValueError(f"a timeout of {timeout!r} s is over before it begins; give 0 to look, None to wait")
        return await self._wait(run_id, after, timeout)

    async def info(self, run_id: str) -> RunInfo:
        """Gives what is known of a run without reading its journal.

        Raises:
            RunNotFoundError: There is no such run.
        """
        checked_text("the id of a run", run_id)
        return _info(await self._info(run_id))

    async def runs(
        self, *, workflow: str | None = None, status: str | None = None, limit: int | None = 100
    ) -> list[RunInfo]:
        """Lists runs, the one that was created last first.

        Args:
            workflow: Only runs of that workflow.
            status: Only runs of that status.
            limit: How many at most; None for all.

        Returns:
            What is known of each of them.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"a list of {limit!r} runs is none; give 1 or more, or None for all")
        return [_info(run) for run in await self._runs(workflow, status, limit)]

    async def prune(self, claim: Claim, *, before: int) -> None:
        """Removes the first entries of a run, which nobody needs any more, and what only they refer to.

        Numbers stay, and go on. What the removed entries say of visits is not known any more to later claims.

        Args:
            claim: The claim of the run.
            before: The number of the first entry that stays; the newest one stays in any case.

        Raises:
            StaleClaimError: Another one has claimed the run since.
        """
        if type(before) is not int:
            raise TypeError(f"entries are removed before a number, not before {before!r:.100}")
        claim.check()
        try:
            await self._prune(claim, before)
        except (StaleClaimError, RunNotFoundError):
            claim.lose()
            raise

    async def delete(self, run_id: str) -> bool:
        """Removes a run, and what nobody else refers to.

        Returns:
            Whether there was one.

        Raises:
            RunClaimedError: Somebody works at it.
        """
        checked_text("the id of a run", run_id)
        return await self._delete(run_id)

    async def close(self) -> None:
        """Releases the claims that were made with this object, and gives back what it holds. It can be used again."""
        for claim in list(self._claims):
            with suppress(CheckpointStoreError):  # it ends with its lease, or with this process
                await claim.release()
        await self._close()

    async def __aenter__(self: StoreT) -> StoreT:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _entries(self, run_id: str, after: int, limit: int | None, *, lenient: bool = False) -> list[Entry]:
        journal = await self._read(run_id, after, limit)
        if len(journal.rows) <= _MANY:
            return _unpacked(run_id, journal, lenient)
        return await in_thread(_unpacked, run_id, journal, lenient)

    # --- what a backend defines ---

    @abstractmethod
    async def _create(self, run_id: str, workflow: str, fingerprint: bytes, status: str) -> None:
        """Stores a new run without entries, or raises a RunExistsError."""

    @abstractmethod
    async def _claim(self, run_id: str, holder: Holder, lease: float) -> int:
        """Stores who holds a run, atomically, unless `refuse_if_held` says that somebody does.

        Returns:
            The number of the claim, which is higher than that of any before.
        """

    @abstractmethod
    async def _renew(self, claim: Claim) -> None:
        """Stores that the lease begins anew now; a StaleClaimError if the claim is not the last one of the run."""

    @abstractmethod
    async def _release(self, claim: Claim) -> None:
        """Stores that nobody holds the run, if the claim is the last one."""

    @abstractmethod
    async def _append(self, claim: Claim, drafts: Sequence[Draft], status: str | None) -> Sequence[Receipt]:
        """Stores entries, with the objects that they refer to, and the status: all of it or nothing, durably.

        In the same transaction it has to be checked that the claim is the last one of the run, and that nothing is
        recorded twice: by `claim.outcomes.take`, after these have been read if they are None. If it cannot be stored
        after all, they have to be forgotten.
        """

    @abstractmethod
    async def _tell(self, run_id: str, draft: Draft) -> Receipt:
        """Stores one entry, whoever holds the run."""

    @abstractmethod
    async def _read(self, run_id: str, after: int, limit: int | None) -> StoredJournal:
        """Gives the entries after a number, at most as many as the limit says, and their objects."""

    @abstractmethod
    async def _wait(self, run_id: str, after: int, timeout: float | None) -> bool:
        """Waits for entries, see `wait`."""

    @abstractmethod
    async def _info(self, run_id: str) -> StoredRun:
        """Gives what is stored of a run."""

    @abstractmethod
    async def _runs(self, workflow: str | None, status: str | None, limit: int | None) -> Sequence[StoredRun]:
        """Gives what is stored of runs, see `runs`."""

    @abstractmethod
    async def _prune(self, claim: Claim, before: int) -> None:
        """Removes entries, see `prune`."""

    @abstractmethod
    async def _delete(self, run_id: str) -> bool:
        """Removes a run that nobody holds, see `delete`."""

    @abstractmethod
    async def _close(self) -> None:
        """Gives back what the store holds, if it holds anything."""


def _entry(receipt: Receipt, new: EntryLike) -> Entry:
    kind, node, visit, attempt, data = new
    return Entry(receipt.sequence, kind, node, visit, attempt, data, receipt.time)


def _info(run: StoredRun) -> RunInfo:
    holder = valid_holder(run.holder, run.until)
    return RunInfo(
        run.run_id,
        run.workflow,
        decode(run.fingerprint),
        run.status,
        run.created,
        run.updated,
        None if holder is None else str(holder),
    )


def _unpacked(run_id: str, journal: StoredJournal, lenient: bool) -> list[Entry]:
    unpacker = Unpacker(journal.objects)
    entries: list[Entry] = []
    for row in journal.rows:
        try:
            entries.append(Entry(*row[:5], unpacker.value(row.data), row.time))
        except (StoreDamagedError, UnreadableValueError) as error:
            failure = _damage(row, error, entries)
            if lenient and isinstance(failure, UnreadableValueError):
                entries.append(Entry(*row[:5], json.loads(row.data), row.time))
                continue
            failure.add_note(f"in entry {row.sequence} ({row.kind} of {row.node or 'the run'}) of the run {run_id}")
            raise failure from None
    if journal.damage is not None:
        journal.damage.readable = entries
        raise journal.damage
    return entries


def _damage(row: Row, error: StoreDamagedError | UnreadableValueError, readable: list[Entry]) -> Exception:
    """What to raise for an entry that cannot be read: a class may be missing here, or bytes may be missing there."""
    if isinstance(error, UnreadableValueError):
        try:
            json.loads(row.data)
        except ValueError:
            error = StoreDamagedError(f"entry {row.sequence} is damaged: {error}; the entries before it can be read")
        else:
            return error
    error.readable = readable
    return error
