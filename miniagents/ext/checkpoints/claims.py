"""Claims: of all that would work at a run, one does."""

import asyncio
import logging
import time
from contextlib import suppress
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import ref

from miniagents.ext.checkpoints.errors import CheckpointStoreError, RunClaimedError, RunNotFoundError, StaleClaimError
from miniagents.ext.checkpoints.holders import Holder
from miniagents.ext.checkpoints.outcomes import Outcomes

if TYPE_CHECKING:
    from miniagents.ext.checkpoints.interface import CheckpointStore

__all__ = ["Claim", "refuse_if_held", "valid_holder"]

_logger = logging.getLogger("miniagents.checkpoints")

_RENEWALS_PER_LEASE = 3


def valid_holder(key: str | None, until: float) -> Holder | None:
    """Finds out who holds a run.

    Args:
        key: The `key` of whoever has claimed it last; None if it was released.
        until: The end of the lease, in unix seconds.

    Returns:
        The holder, or None if the run can be claimed: the lease is over, or the process does not live any more.
    """
    if key is None or until <= time.time():
        return None
    holder = Holder.of_key(key)
    return None if holder.is_gone() else holder


def refuse_if_held(run_id: str, key: str | None, until: float) -> None:
    """Raises a RunClaimedError if there is a `valid_holder`."""
    holder = valid_holder(key, until)
    if holder is not None:
        raise RunClaimedError(run_id, str(holder), until)


class Claim:
    """The right to append to a run, made by `CheckpointStore.claim`. It ends with `release`, or the `async with`.

    It is renewed by itself as long as the event loop lives in which it was made. Whoever dies loses it: at once for
    claimants of the same machine, with the end of the lease for those of others. Once another one has claimed the run,
    nothing can be appended with the old claim, however late it comes.

    Attributes:
        run_id: The run.
        epoch: A number that is higher for each claim of the run.
        holder: Who holds it.
        lease: For how many seconds it holds without being renewed.
        outcomes: What is recorded of the visits of the run, for the store; None if it has to be read.
        of_store: What else the store keeps with it.

    Example:
        ```python
        async with await store.claim("run-1") as claim:
            await store.append(claim, [NewEntry("started", "write")])
        ```
    """

    def __init__(
        self, store: "CheckpointStore", run_id: str, epoch: int, holder: Holder, lease: float, *, auto_renew: bool
    ) -> None:
        self.run_id = run_id
        self.epoch = epoch
        self.holder = holder
        self.lease = lease
        self.outcomes: Outcomes | None = None
        self.of_store: Any = None
        self._store = store
        self._released = False
        self._lost = asyncio.Event()
        self._renewal = _Renewal(self)
        if not auto_renew:
            self._renewal.end()

    @property
    def is_lost(self) -> bool:
        """Whether it is known that the claim does not hold any more."""
        return self._lost.is_set()

    async def until_lost(self) -> None:
        """Waits until it is known that another one has claimed the run, or that the claim was released.

        This is found out when the claim is renewed, within a third of the lease, or when something is appended.
        """
        await self._lost.wait()

    async def renew(self) -> None:
        """Begins the lease anew.

        Raises:
            StaleClaimError: Another one has claimed the run since, or it was released.
        """
        self.check()
        try:
            await self._store._renew(self)
        except (StaleClaimError, RunNotFoundError):
            self.lose()
            raise
        self._renewal.note()

    async def release(self) -> None:
        """Gives the run free. A second call changes nothing, and neither does one after another claim of the run."""
        await self._renewal.stop()
        if not self._released:
            self._released = True
            was_lost = self.is_lost
            self.lose()
            if not was_lost:
                with suppress(StaleClaimError, RunNotFoundError):
                    await self._store._release(self)

    def check(self) -> None:
        """Raises a StaleClaimError if it is known that the claim does not hold any more."""
        if self._lost.is_set():
            why = "was released" if self._released else "has been taken over by another one"
            raise StaleClaimError(f"the claim of the run {self.run_id} {why}; claim it again to go on")

    def forget_outcomes(self) -> None:
        """Has the outcomes read anew, as what has been noted may not have been stored."""
        self.outcomes = None

    def lose(self) -> None:
        """Takes note that the claim does not hold any more."""
        self._renewal.end()
        self._lost.set()

    async def __aenter__(self) -> "Claim":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.release()

    def __repr__(self) -> str:
        return f"<Claim {self.epoch} of {self.run_id} by {self.holder}{', lost' if self.is_lost else ''}>"


class _Renewal:
    """Renews a claim in time. It does not keep the claim alive: one that nobody knows any more ends with its lease."""

    is_background = True  # for clocks: this timer alone is no reason to believe that something is going to happen

    def __init__(self, claim: Claim) -> None:
        self._claim = ref(claim)
        self._pause = claim.lease / _RENEWALS_PER_LEASE
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self.note()
        self._arm()

    def note(self) -> None:
        """Takes note that the lease begins anew now."""
        self._renewed = time.monotonic()

    def end(self) -> None:
        """Renews no more."""
        self._ended = True
        self._timer.cancel()

    async def stop(self) -> None:
        """Renews no more, and waits for the renewal that is under way, unless it belongs to another loop."""
        self.end()
        task = self._task
        if task is not None and self._loop is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])

    def _arm(self) -> None:
        self._timer = self._loop.call_later(self._pause, self._tick, context=Context())

    def _tick(self) -> None:
        claim = self._claim()
        if claim is None:
            return
        # Leases are in real time, and the clock of the loop may be a virtual one.
        if time.monotonic() - self._renewed < self._pause / 2:
            self._arm()
        else:
            self._task = self._loop.create_task(self._renew(claim), context=Context())

    async def _renew(self, claim: Claim) -> None:
        try:
            await claim.renew()
        except (StaleClaimError, RunNotFoundError):
            return
        except CheckpointStoreError as error:
            _logger.warning("The claim of the run %s could not be renewed: %s", claim.run_id, error)
        finally:
            self._task = None
        if not self._ended:
            self._arm()
