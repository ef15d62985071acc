"""How a pool is used, and who waits for it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from miniagents.ext.graph.resources.accounts import Account, missing_for
from miniagents.ext.graph.resources.allocation import Allocation
from miniagents.ext.graph.resources.requirements import (
    TYPES,
    ResourceRequirements,
    ResourceType,
    amount_of,
    amounts_of,
)
from miniagents.ext.graph.resources.waiting_line import Request

__all__ = ["ResourceUsageStats", "WaitingState", "state_allocations", "usage_stats", "waiting_states"]


@dataclass(frozen=True, slots=True)
class ResourceUsageStats:
    """How one type of resource is used.

    Attributes:
        total: How much there is.
        current_usage: How much is taken.
        peak_usage: The most that has been taken at any time.
    """

    total: float
    current_usage: float
    peak_usage: float

    @property
    def available(self) -> float:
        """How much is free."""
        return self.total - self.current_usage

    @property
    def utilization(self) -> float:
        """Which part is taken, from 0 to 1."""
        return self.current_usage / self.total if self.total else 0.0


class WaitingState(NamedTuple):
    """Somebody who waits for resources.

    Attributes:
        name: Who.
        requirements: For what.
        seconds: For how long by now.
        short_of: Of which types less is free than is asked for; none if it waits only because it is not its turn.
    """

    name: str
    requirements: ResourceRequirements
    seconds: float
    short_of: ResourceType


def usage_stats(account: Account) -> dict[ResourceType, ResourceUsageStats]:
    """See `ResourcePool.get_usage_stats`."""
    stats = {}
    for kind in ResourceType:
        index = TYPES.index(kind)
        total = account.totals[index]
        stats[kind] = ResourceUsageStats(
            total=amount_of(total),
            current_usage=amount_of(total - account.free[index]),
            peak_usage=amount_of(total - account.least_free[index]),
        )
    return stats


def state_allocations(held: Iterable[Allocation]) -> dict[str, dict[ResourceType, float]]:
    """See `ResourcePool.get_state_allocations`."""
    sums: dict[str, dict[int, int]] = {}
    for allocation in held:
        of_name = sums.setdefault(allocation.name, {})
        for index, units in allocation.requirements._needs:
            of_name[index] = of_name.get(index, 0) + units
    return {name: amounts_of(tuple(of_name.items())) for name, of_name in sums.items()}


def waiting_states(line: Iterable[Request], account: Account) -> dict[str, WaitingState]:
    """See `ResourcePool.get_waiting_states`."""
    waiting: dict[str, WaitingState] = {}
    for request in line:
        name, requirements = request.allocation.name, request.allocation.requirements
        if name in waiting or request.outcome is None:
            continue
        short_of = ResourceType.NONE
        for index in missing_for(account.free, request.needs):
            short_of |= TYPES[index]
        seconds = request.outcome.get_loop().time() - request.since
        waiting[name] = WaitingState(name, requirements, seconds, short_of)
    return waiting
