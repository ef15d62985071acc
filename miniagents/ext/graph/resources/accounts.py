"""What there is of each type of resource, and what of it is free: for a pool, and for each quota in it."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from miniagents.ext.graph.resources.requirements import ALL_TYPES, TYPES, Needs, ResourceType, units_of

__all__ = ["Account", "Quota", "add_to", "missing_for", "quota_totals", "set_aside", "shortage"]

Quota: TypeAlias = float | Mapping[ResourceType, float]
"""A share of the whole pool, above 0 and up to 1; or amounts by type, with no limit for other types."""


class Account:
    """Amounts of all types.

    Args:
        totals: How many units there are of each type.

    Attributes:
        totals: The same.
        free: How many units are free; less than none where more is taken than a quota, which was lowered, allows.
        least_free: The lowest that `free` has ever been.
    """

    __slots__ = ("free", "least_free", "totals")

    def __init__(self, totals: Iterable[int]) -> None:
        self.totals = tuple(totals)
        self.free = list(self.totals)
        self.least_free = list(self.totals)

    def take(self, needs: Needs) -> None:
        """Takes units, whether they are free or not."""
        free, least_free = self.free, self.least_free
        for index, units in needs:
            free[index] -= units
            if free[index] < least_free[index]:
                least_free[index] = free[index]

    def give_back(self, needs: Needs) -> None:
        """Gives units back."""
        add_to(self.free, needs)

    def too_much(self, needs: Needs) -> Needs:
        """Finds those of the needs that can never be met."""
        return tuple((index, units) for index, units in needs if units > self.totals[index])


def shortage(free: list[int], needs: Needs) -> int | None:
    """Finds what is short.

    Args:
        free: What is free of each type.
        needs: What is needed.

    Returns:
        The index of the first type of which there is not enough; None if there is enough of all.
    """
    for index, units in needs:
        if units > free[index]:
            return index
    return None


def add_to(free: list[int], needs: Needs) -> None:
    """Adds what will be given back to what is free."""
    for index, units in needs:
        free[index] += units


def set_aside(free: list[int], needs: Needs, types: int = ALL_TYPES) -> None:
    """Takes needs out of what is free.

    Args:
        free: What is free of each type; it is changed.
        needs: What is needed.
        types: A bit for the index of each type that is to be set aside.
    """
    for index, units in needs:
        if types >> index & 1:
            free[index] -= units


def missing_for(free: list[int], needs: Needs) -> dict[int, int]:
    """Computes what is missing.

    Args:
        free: What is free of each type.
        needs: What is needed.

    Returns:
        The missing units, more than none, by the index of their type.
    """
    return {index: units - free[index] for index, units in needs if units > free[index]}


def quota_totals(owner: str, quota: Quota, totals: tuple[int, ...]) -> list[int]:
    """Computes the most that a quota allows.

    Args:
        owner: Whose it is.
        quota: The quota.
        totals: What the pool has.

    Returns:
        The units of all types; where the quota says nothing, what the pool has.

    Raises:
        ValueError: It is none.
    """
    if isinstance(quota, Mapping):
        named = {kind: units_of(f"the quota of {owner!r} for {kind.name}", amount) for kind, amount in quota.items()}
        if not named.keys() <= set(TYPES):
            raise ValueError(f"the quota of {owner!r} is {quota!r}; give amounts for single types, such as CPU")
        return [named.get(kind, total) for kind, total in zip(TYPES, totals, strict=True)]
    if not 0 < quota <= 1:
        raise ValueError(f"the quota of {owner!r} is {quota!r}; give a share above 0 and up to 1, or amounts by type")
    return [round(total * quota) for total in totals]
