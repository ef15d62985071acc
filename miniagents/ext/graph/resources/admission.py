"""Admission to a pool: what is held, and the waits of those that are not in yet."""

import asyncio

from miniagents.ext.graph.resources.accounts import Account, missing_for, shortage
from miniagents.ext.graph.resources.allocation import Allocation
from miniagents.ext.graph.resources.preemption import Preemption
from miniagents.ext.graph.resources.requirements import ResourceTimeoutError, described
from miniagents.ext.graph.resources.waiting_line import Request, WaitingLine

__all__ = ["Admission"]

_NAMES_IN_ERRORS = 5


class Admission:
    """The admission to a pool.

    Args:
        account: What the pool has.
        max_overtakes: See `WaitingLine`.
        preemption: Whether allocations that are preemptible are asked back.

    Attributes:
        held: All that is held, the oldest first.
        line: The requests that wait.
    """

    def __init__(self, account: Account, max_overtakes: int, *, preemption: bool) -> None:
        self.held: dict[Allocation, None] = {}
        self.line = WaitingLine(max_overtakes)
        self._account = account
        self._preemption = Preemption(account, self.line) if preemption else None

    def admit_now(self, allocation: Allocation) -> bool:
        """Takes the resources for an allocation, unless they are not free, or others come first.

        Args:
            allocation: What is asked for.

        Returns:
            Whether it is held now.
        """
        if self.line:
            candidate = Request(allocation)
            if self.line.has_one_like(candidate):
                return False
            if self.line.first_that_fits(self._account.free, candidate) is not candidate:
                return False
            self._admit(candidate)
            self.admit_waiting()
            return True
        needs, quota = allocation.requirements._needs, allocation._quota
        if shortage(self._account.free, needs) is not None:
            return False
        if quota is not None and shortage(quota.free, needs) is not None:
            return False
        self._hold(allocation)
        return True

    async def wait_for(self, allocation: Allocation) -> None:
        """Waits until it is the turn of an allocation.

        Args:
            allocation: What is asked for; it is held afterwards, unless there is an error.

        Raises:
            ResourceError: The pool or the quota has become too small for it.
            ResourceTimeoutError: It took too long.
        """
        request, loop = Request(allocation), asyncio.get_running_loop()
        seconds = allocation.requirements.timeout
        if seconds == 0:
            raise self._timeout_error(request)
        request.outcome = loop.create_future()
        request.since = loop.time()
        self.line.join(request)
        self.admit_waiting()  # nothing has become free; but it notes what is secured, and may make room
        timer = None if seconds is None else loop.call_later(seconds, self._time_out, request)
        try:
            error = await request.outcome
            if error is not None:
                raise error
        except BaseException:  # also a cancellation in the very turn in which it was admitted
            self._withdraw(request)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def admit_waiting(self) -> None:
        """Admits all that can be. Is called whenever something has become free, or a request has come or gone."""
        while (request := self.line.first_that_fits(self._account.free)) is not None:
            self.line.leave(request)
            self._admit(request)
            request.resolve()
        if self._preemption is not None:
            self._preemption.make_room()

    def take_back(self, allocation: Allocation) -> None:
        """Gives back what an allocation holds, to those that wait.

        Args:
            allocation: What was held until now.
        """
        needs = allocation.requirements._needs
        self._account.give_back(needs)
        if allocation._quota is not None:
            allocation._quota.give_back(needs)
        del self.held[allocation]
        if self._preemption is not None:
            self._preemption.remove(allocation)
        if self.line:
            self.admit_waiting()

    def _admit(self, request: Request) -> None:
        if request.is_urgent:
            request.allocation.preemptible = False  # or the next one of a higher priority would send it away again
        self._hold(request.allocation)
        self.line.note_admission(request)

    def _hold(self, allocation: Allocation) -> None:
        needs = allocation.requirements._needs
        self._account.take(needs)
        if allocation._quota is not None:
            allocation._quota.take(needs)
        allocation.is_held = True
        self.held[allocation] = None
        if allocation.preemptible and self._preemption is not None:
            self._preemption.add(allocation)

    def _withdraw(self, request: Request) -> None:
        if request.allocation.is_held:
            request.allocation.release()
        else:
            self.line.leave(request)
            self.admit_waiting()

    def _time_out(self, request: Request) -> None:
        request.resolve(self._timeout_error(request))

    def _timeout_error(self, request: Request) -> ResourceTimeoutError:
        allocation, missing = request.allocation, missing_for(self._account.free, request.needs)
        asked = f"{allocation.name!r} asked for {described(request.needs)} and did not get it within"
        asked += f" {allocation.requirements.timeout:g} s: "
        if not missing:
            is_quota_used_up = request.quota is not None and shortage(request.quota.free, request.needs) is not None
            why = "its quota is used up" if is_quota_used_up else "others that wait come first"
            return ResourceTimeoutError(f"{asked}{why}")
        free = described(tuple((index, self._account.free[index]) for index in missing))
        names = list(dict.fromkeys(one.name for one in self.held if _holds_any(one, missing)))
        more = f" and {len(names) - _NAMES_IN_ERRORS} more" if len(names) > _NAMES_IN_ERRORS else ""
        held = ", ".join(map(repr, names[:_NAMES_IN_ERRORS]))
        return ResourceTimeoutError(f"{asked}free is {free}; the rest is held by {held}{more}")


def _holds_any(allocation: Allocation, types: dict[int, int]) -> bool:
    return any(index in types for index, _ in allocation.requirements._needs)
