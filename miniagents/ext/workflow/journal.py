"""The journal of a run: what has happened, so that another process can go on where this one stood.

Each entry is about one attempt of one visit of a state: "started", "finished" with what it has set and named, "failed".
Others are about the run: "question", "answered", "refused", "answer" (told by anybody), "cancelled", "ended".
"""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from miniagents.ext.checkpoints import Entry, NewEntry

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import CheckpointStore, Claim

__all__ = ["Journal"]


class Journal:
    """What has happened in a run: in this process, and in a store if there is one.

    Args:
        store: Where entries are kept.
        claim: The right to add to them.
        entries: What has happened before.
    """

    def __init__(
        self, store: "CheckpointStore | None" = None, claim: "Claim | None" = None, entries: Iterable[Entry] = ()
    ) -> None:
        self.store = store
        self.claim = claim
        self.entries: list[Entry] = list(entries)
        self.read_up_to = self.entries[-1].sequence if self.entries else 0

    async def write(self, *entries: NewEntry, status: str | None = None) -> None:
        """Adds entries. They are durable when this returns, if there is a store.

        Args:
            *entries: The entries.
            status: The new status of the run, if it has one.
        """
        if self.store is None or self.claim is None:
            self.keep(entries)
            return
        recorded = await self.store.append(self.claim, entries, status=status)
        self.entries += recorded
        if recorded and recorded[0].sequence == self.read_up_to + 1:  # nobody else has said anything in between
            self.read_up_to = recorded[-1].sequence

    def keep(self, entries: Sequence[NewEntry]) -> None:
        """Adds entries to what this process knows."""
        now, count = time.time(), len(self.entries)
        self.entries += [Entry(count + number, *entry, now) for number, entry in enumerate(entries, 1)]

    async def news(self) -> list[Entry]:
        """Waits for entries that others have added, and gives them."""
        assert self.store is not None
        assert self.claim is not None
        run_id = self.claim.run_id
        while True:
            await self.store.wait(run_id, after=self.read_up_to)
            found = await self.store.read(run_id, after=self.read_up_to)
            if found:
                self.read_up_to = found[-1].sequence
                return [entry for entry in found if entry.kind in ("answer", "cancel")]

    @property
    def created(self) -> dict[str, Any]:
        """With what the run has begun: `values` and `start`."""
        return next((entry.data for entry in self.entries if entry.kind == "created"), {})
