"""The journal of a run: what has happened, so that another process can go on where this one stood.

Entries about a visit of a state: "started" (an attempt), "finished" with what it has set and named, "failed" for good,
"cancelled". About its questions: "question", "answered", "refused", "withdrawn". About the run: "created" with what it
was given, "added" and "lacks" of states that were added meanwhile or are missing, "checkpoint" to say that it goes on,
"ended". Others may add "answer" and "cancel".
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any

from miniagents.ext.checkpoints import Entry, NewEntry, StaleClaimError
from miniagents.ext.workflow.errors import StateTypeError

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import CheckpointStore, Claim

__all__ = ["Journal"]


class _Writing:
    """Entries that are to be added together.

    Args:
        entries: The entries.
        status: The new status of the run, if it has one.
    """

    __slots__ = ("done", "entries", "status")

    def __init__(self, entries: Sequence[NewEntry], status: str | None) -> None:
        self.entries = entries
        self.status = status
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # whoever waits for it gets it; it is known to the journal in any case

    def succeed(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Journal:
    """What has happened in a run: in this process, and in a store if there is one.

    Entries are added in the order in which they were given, whatever the store is like. Those that come while others
    are on their way to the disk are added together, so that they wait for the disk once.

    Args:
        store: Where entries are kept.
        claim: The right to add to them.
        entries: What has happened before.

    Attributes:
        store: The same, as `entries`.
        on_failure: Is told once if the store fails: nothing can be added after that.
    """

    def __init__(
        self, store: "CheckpointStore | None" = None, claim: "Claim | None" = None, entries: Iterable[Entry] = ()
    ) -> None:
        self.store = store
        self.entries: list[Entry] = list(entries)
        self._claim = claim
        self._read_up_to = self.entries[-1].sequence if self.entries else 0
        self._waiting: list[_Writing] = []
        self._writer: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self.on_failure: Callable[[BaseException], None] = lambda _: None

    @property
    def is_recorded(self) -> bool:
        """Whether there is a store."""
        return self.store is not None

    def add(self, *entries: NewEntry, status: str | None = None) -> "asyncio.Future[None] | None":
        """Adds entries.

        Args:
            *entries: The entries; all of them are added, or none.
            status: The new status of the run, if it has one.

        Returns:
            What is done when they are durable, or has the error: a StateTypeError if something in them cannot be
            written, else that of the store. It need not be awaited. None if there is nothing to wait for.
        """
        if self.store is None:
            now, number = time.time(), len(self.entries)
            for entry in entries:
                number += 1
                self.entries.append(Entry(number, *entry, now))
            return None
        writing = _Writing(entries, status)
        if self._failure is not None:
            writing.fail(self._failure)
            return writing.done
        self._waiting.append(writing)
        if self._writer is None:
            loop = asyncio.get_running_loop()
            self._writer = loop.create_task(self._write_waiting(), name="journal", context=Context())
        return writing.done

    async def flush(self) -> None:
        """Waits until nothing is on its way any more."""
        while self._writer is not None:
            await asyncio.wait([self._writer])

    async def news(self) -> list[Entry]:
        """Waits for entries that others have added, and gives them."""
        assert self.store is not None
        assert self._claim is not None
        run_id = self._claim.run_id
        while True:
            await self.store.wait(run_id, after=self._read_up_to)
            found = await self.store.read(run_id, after=self._read_up_to)
            if found:
                self._read_up_to = max(self._read_up_to, found[-1].sequence)
                return [entry for entry in found if entry.kind in ("answer", "cancel")]

    async def until_claim_lost(self) -> StaleClaimError:
        """Waits until another one works at the run, and gives the error that says so."""
        assert self._claim is not None
        while True:
            await self._claim.until_lost()
            try:
                self._claim.check()
            except StaleClaimError as error:
                return error

    @property
    def created(self) -> dict[str, Any]:
        """What the run was given: `values`, `start`, `messages` and `met_before`."""
        return next((entry.data for entry in self.entries if entry.kind == "created"), {})

    @property
    def expected_states(self) -> set[str]:
        """The states that were added while the run went on, and those that it has lacked."""
        return {entry.data["state"] for entry in self.entries if entry.kind in ("added", "lacks")}

    @property
    def ended(self) -> str | None:
        """How the run has ended, if it has."""
        return next((entry.data["status"] for entry in reversed(self.entries) if entry.kind == "ended"), None)

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                await self._append(group)
        finally:
            self._writer = None

    async def _append(self, group: list[_Writing]) -> None:
        entries = [entry for writing in group for entry in writing.entries]
        status = next((writing.status for writing in reversed(group) if writing.status is not None), None)
        try:
            await self._add(entries, status)
        except (TypeError, ValueError) as error:  # an entry cannot be written; the others are not to suffer from it
            if len(group) == 1:
                group[0].fail(_unwritable(group[0].entries, error))
                return
            for writing in group:
                await self._append([writing])
        except BaseException as error:
            self._failure = error  # what comes after what is missing would make no sense
            for writing in [*group, *self._waiting]:
                writing.fail(error)
            self._waiting = []
            self.on_failure(error)
        else:
            for writing in group:
                writing.succeed()

    async def _add(self, entries: list[NewEntry], status: str | None) -> None:
        assert self.store is not None
        assert self._claim is not None
        recorded = await self.store.append(self._claim, entries, status=status)
        self.entries += recorded
        if recorded and recorded[0].sequence == self._read_up_to + 1:  # nobody else has said anything in between
            self._read_up_to = recorded[-1].sequence


def _unwritable(entries: Sequence[NewEntry], error: Exception) -> StateTypeError:
    made = StateTypeError(f"what {entries[0].node or 'the run'} has set cannot be recorded: {error}")
    made.__cause__ = error
    return made
