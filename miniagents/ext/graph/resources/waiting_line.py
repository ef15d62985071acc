"""The line of those who wait for resources, and who of them is admitted next.

The order is that of priority, and of arrival within a priority. These are the rules; they are few, so that it can be
proved that nobody waits for ever while others end:

1. A request is admitted only if it leaves what those before it have secured.
2. The first request of its kind (priority, types of resources, quota) that cannot be admitted secures what it is short
   of, one type after the other in the order of `TYPES`, until it is in. What it is not short of, or not yet, others may
   use meanwhile: a request that waits for a GPU for an hour does not keep the CPUs idle.
3. The request that has waited longest goes before all others once `max_overtakes` later ones were admitted that took
   something of what it, or one before it, has secured. Then the count begins with the next one: a crowd of low priority
   cannot block a high one.

So let a request be the oldest in line. Suppose that it is never overtaken again. Then what it and those before it have
secured only becomes free, the first of them gets in, and that is an overtaking; or it was the oldest one itself. So it
is in, or goes first at last. Then nobody takes anything that it has secured. It secures at most all five types, and is
in. Then the next one is the oldest.

A quota is a pool within the pool, for which the same holds. A request that has to wait for its own quota secures
nothing of the pool. Each quota has an oldest request of its own.
"""

from asyncio import Future
from collections import OrderedDict
from collections.abc import Iterator
from heapq import merge
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from miniagents.ext.graph.resources.accounts import set_aside, shortage
from miniagents.ext.graph.resources.requirements import ALL_TYPES, ResourceError

if TYPE_CHECKING:
    from miniagents.ext.graph.resources.accounts import Account
    from miniagents.ext.graph.resources.allocation import Allocation

__all__ = ["Request", "WaitingLine"]

_numbers = count()

_Queue: TypeAlias = "OrderedDict[Request, None]"  # leaving it in the middle takes constant time


class Request:
    """What asks for an allocation, and waits for it if need be.

    Args:
        allocation: What it gets when it is admitted.

    Attributes:
        allocation: The same.
        needs: How much it is.
        types: A bit for each type that it needs.
        number: The lower one has come earlier.
        place: The lower one stands before the other.
        secured: A bit for each type of which those behind it are given nothing that it needs.
        secured_of_quota: The same within its quota.
        overtaken: How often it has been overtaken by later ones, while it was the oldest.
        is_urgent: Whether that was too often.
        has_preempted: Whether others were asked to make room for it.
        outcome: Is done when it waits no more, with the error if it was not admitted; None if it does not wait at all.
        since: When it began to wait, on the clock of the event loop.
    """

    __slots__ = (
        "allocation", "has_preempted", "is_urgent", "needs", "number", "outcome", "overtaken", "place", "secured",
        "secured_of_quota", "since", "types",
    )  # fmt: skip

    def __init__(self, allocation: "Allocation") -> None:
        self.allocation = allocation
        self.needs = allocation.requirements._needs
        self.types = allocation.requirements._types
        self.number = next(_numbers)
        self.place = (1, -allocation.requirements.priority, self.number)
        self.secured = 0
        self.secured_of_quota = 0
        self.overtaken = 0
        self.is_urgent = False
        self.has_preempted = False
        self.outcome: Future[ResourceError | None] | None = None
        self.since = 0.0

    @property
    def has_left(self) -> bool:
        """Whether it waits no more, although it may still stand in line."""
        return self.outcome is not None and self.outcome.done()

    def resolve(self, error: ResourceError | None = None) -> None:
        """Ends its wait, unless that has ended already.

        Args:
            error: Why it is not admitted; None if it is.
        """
        if self.outcome is not None and not self.outcome.done():
            self.outcome.set_result(error)

    @property
    def quota(self) -> "Account | None":
        """The quota that it counts for."""
        return self.allocation._quota

    @property
    def kind(self) -> object:
        """Where the first of a kind cannot be admitted, no other one of it can."""
        return (self.allocation.requirements.priority, self.types, self.allocation._quota)

    def secure_all(self) -> None:
        """Secures all that it needs, because others make room for it."""
        self.secured = ALL_TYPES

    def has_secured_of(self, other: "Request") -> bool:
        """Whether it has secured something of what another one takes."""
        secured = self.secured | (self.secured_of_quota if self.quota is other.quota else 0)
        return bool(secured & other.types)

    def become_urgent(self) -> None:
        """Steps before all others but those that are urgent and older."""
        self.is_urgent = True
        self.place = (0, 0, self.number)


class WaitingLine:
    """The requests that wait.

    Args:
        max_overtakes: How often the oldest one may be overtaken.
    """

    def __init__(self, max_overtakes: int) -> None:
        self._max_overtakes = max_overtakes
        self._queues: dict[object, _Queue] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __iter__(self) -> Iterator[Request]:
        """All that wait, in their order."""
        for request in merge(*self._queues.values(), key=lambda request: request.place):
            if not request.has_left:
                yield request

    def has_one_like(self, request: Request) -> bool:
        """Whether one of the same kind waits before a request, so that it has to wait as well."""
        queue = self._queues.get(request.kind)
        return queue is not None and _first_in(queue) is not None

    def join(self, request: Request) -> None:
        """Puts a request in line."""
        self._queues.setdefault(request.kind, OrderedDict())[request] = None

    def leave(self, request: Request) -> None:
        """Takes a request out of line, if it is in."""
        queue = self._queues.get(request.kind)
        if queue is not None:
            queue.pop(request, None)
            if not queue:
                del self._queues[request.kind]

    def first_that_fits(self, free: list[int], candidate: Request | None = None) -> Request | None:
        """Finds the request that can be admitted now. All before it secure what they are short of.

        Args:
            free: What is free in the pool.
            candidate: A request that is not in line; those behind it are not looked at then.

        Returns:
            The first in the order that fits into what those before it leave; None if there is none.
        """
        fronts = self._fronts()
        if candidate is not None:
            fronts = [request for request in fronts if request.place < candidate.place]
            fronts.append(candidate)
        left = free.copy()
        left_of_quotas: dict[Account, list[int]] = {}
        for request in fronts:
            quota = request.quota
            left_of_quota = None
            if quota is not None:
                left_of_quota = left_of_quotas.setdefault(quota, quota.free.copy())
            if _fits(request, left, left_of_quota):
                return request
        return None

    def note_admission(self, admitted: Request) -> None:
        """Counts whom a request has overtaken.

        Args:
            admitted: What was admitted; it is not in line any more.
        """
        fronts = self._fronts()
        oldest: dict[Account | None, int] = {}
        for request in fronts:
            oldest[request.quota] = min(request.number, oldest.get(request.quota, request.number))
        takes_of_what_is_secured = False
        for request in fronts:
            takes_of_what_is_secured |= request.has_secured_of(admitted)
            if takes_of_what_is_secured and oldest[request.quota] == request.number < admitted.number:
                request.overtaken += 1
                if request.overtaken >= self._max_overtakes:
                    request.become_urgent()

    def requeue(self) -> None:
        """Lines all up again, in the order of arrival, after quotas were changed, and so the kinds."""
        waiting = sorted((request for queue in self._queues.values() for request in queue), key=lambda one: one.number)
        self._queues = {}
        for request in waiting:
            self.join(request)

    def _fronts(self) -> list[Request]:
        """The first of each kind, in their order. Those that wait no more are forgotten on the way."""
        fronts = []
        for kind, queue in list(self._queues.items()):
            request = _first_in(queue)
            if request is None:
                del self._queues[kind]
            else:
                fronts.append(request)
        fronts.sort(key=lambda request: request.place)
        return fronts


def _first_in(queue: _Queue) -> Request | None:
    while queue:
        request = next(iter(queue))
        if not request.has_left:
            return request
        del queue[request]
    return None


def _fits(request: Request, left: list[int], left_of_quota: list[int] | None) -> bool:
    """Whether a request fits into what is left. If not, what it has secured is not left for those behind it."""
    needs = request.needs
    short = None if left_of_quota is None else shortage(left_of_quota, needs)
    if short is not None:
        request.secured_of_quota |= 1 << short
    else:
        short = shortage(left, needs)
        if short is None:
            return True
        request.secured |= 1 << short
        set_aside(left, needs, request.secured)
    if left_of_quota is not None:
        set_aside(left_of_quota, needs, request.secured_of_quota)
    return False
