"""Making room for requests of a higher priority: who is asked to give back what it has."""

from collections.abc import Iterable

from miniagents.ext.graph.resources.accounts import Account, add_to, missing_for, set_aside, shortage
from miniagents.ext.graph.resources.allocation import Allocation
from miniagents.ext.graph.resources.requirements import Priority
from miniagents.ext.graph.resources.waiting_line import Request, WaitingLine

__all__ = ["Preemption", "choose_victims"]


class Preemption:
    """The preemption of a pool.

    Nobody is asked in vain, nor twice for one request: what is given back goes to the request for which it was asked
    back, unless one of a still higher priority comes in between, or one has been overtaken too often.

    Args:
        account: What is free.
        line: The requests that wait.
    """

    def __init__(self, account: Account, line: WaitingLine) -> None:
        self._account = account
        self._line = line
        self._preemptible: dict[Allocation, None] = {}  # the oldest first
        self._leaving: dict[Allocation, None] = {}

    def add(self, allocation: Allocation) -> None:
        """Is told of an allocation that can be asked back."""
        self._preemptible[allocation] = None

    def remove(self, allocation: Allocation) -> None:
        """Is told that such an allocation was released."""
        self._preemptible.pop(allocation, None)
        self._leaving.pop(allocation, None)

    def make_room(self) -> None:
        """Asks for what would let requests in, as far down the line as it is certain who gets what is given back.

        That is: as long as all so far fit into what is free, what is on its way back and what is asked back now. A
        request that waits for its own quota is no obstacle, but its part is left for it.
        """
        if not self._preemptible:
            return
        expected = self._account.free.copy()
        expected_of_quotas: dict[Account, list[int]] = {}
        for allocation in self._leaving:
            add_to(expected, allocation.requirements._needs)
        for request in self._line:
            if not _waits_for_quota(request, expected_of_quotas):
                missing = missing_for(expected, request.needs)
                victims = self._victims(request, missing)
                if missing and not victims:
                    return
                for victim in victims:
                    add_to(expected, victim.requirements._needs)
            set_aside(expected, request.needs)

    def _victims(self, request: Request, missing: dict[int, int]) -> list[Allocation]:
        if not missing or request.has_preempted or request.outcome is None:
            return []
        victims = choose_victims(self._preemptible, missing, request.allocation.requirements.priority)
        if victims:
            request.has_preempted = True
            request.secure_all()  # or others would take of what is given back while the rest is still on its way
        for victim in victims:
            del self._preemptible[victim]
            self._leaving[victim] = None
            victim.ask_back(request.outcome.get_loop())
        return victims


def choose_victims(allocations: Iterable[Allocation], missing: dict[int, int], below: Priority) -> list[Allocation]:
    """Chooses allocations that make room: of the lowest priorities, of these as few as possible, the youngest first.

    Args:
        allocations: What can be asked back, the oldest first.
        missing: How many units are missing, by the index of their type; there is at least one.
        below: The priority of the request; what is asked back has a lower one.

    Returns:
        Allocations that bring what is missing, and none that could be spared; nothing if all together are not enough.
    """

    def worth(allocation: Allocation) -> float:
        """How much of what is missing it brings, as a sum of shares."""
        return sum(min(units / missing[index], 1.0) for index, units in _brings(allocation, missing))

    useful = [one for one in allocations if one.requirements.priority < below and _brings(one, missing)]
    useful.reverse()
    useful.sort(key=lambda one: (one.requirements.priority, -worth(one)))
    surplus = {index: -units for index, units in missing.items()}
    for allocation in useful:
        for index, units in _brings(allocation, missing):
            surplus[index] += units
    if min(surplus.values()) < 0:
        return []
    chosen = []
    for allocation in reversed(useful):  # who can be spared is, first those of the highest priority
        brings = _brings(allocation, missing)
        if all(surplus[index] >= units for index, units in brings):
            for index, units in brings:
                surplus[index] -= units
        else:
            chosen.append(allocation)
    return chosen[::-1]


def _brings(allocation: Allocation, missing: dict[int, int]) -> list[tuple[int, int]]:
    return [(index, units) for index, units in allocation.requirements._needs if index in missing]


def _waits_for_quota(request: Request, expected_of_quotas: dict[Account, list[int]]) -> bool:
    """Whether its quota is used up by what is held and by those before it in line; it counts for those behind it."""
    quota = request.quota
    if quota is None:
        return False
    left = expected_of_quotas.setdefault(quota, quota.free.copy())
    is_short = shortage(left, request.needs) is not None
    set_aside(left, request.needs)
    return is_short
