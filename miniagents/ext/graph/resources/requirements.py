"""What work asks for: amounts of resources, with a priority.

Amounts are kept as whole numbers of millionths, so that sums are exact: whatever was taken and given back in whatever
order, nothing is left over. A vector of them has an entry for each of `TYPES`, at its index.
"""

import math
from dataclasses import dataclass, field
from enum import Flag, IntEnum, auto
from typing import TypeAlias

__all__ = [
    "ALL_TYPES",
    "TYPES",
    "Needs",
    "Priority",
    "ResourceError",
    "ResourceRequirements",
    "ResourceTimeoutError",
    "ResourceType",
    "amount_of",
    "amounts_of",
    "described",
    "units_of",
]

_UNITS = 1_000_000
_MOST = 1e15

Needs: TypeAlias = tuple[tuple[int, int], ...]
"""Pairs of the index of a type and how many units of it, which is more than none, in the order of `TYPES`."""


class ResourceError(Exception):
    """Something can never be given: it is more than there is, or more than a quota allows. The message says how much.

    Ask for less, or make the pool or the quota larger.
    """


class ResourceTimeoutError(ResourceError, TimeoutError):
    """Resources did not become free in time; the message says which, and who holds them.

    Try again later, allow a longer `timeout`, or give a higher `priority`.
    """


class Priority(IntEnum):
    """Who is admitted first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


class ResourceType(Flag):
    """Kinds of resources; they can be put together: `ResourceType.CPU | ResourceType.GPU`."""

    NONE = 0
    CPU = auto()
    MEMORY = auto()
    IO = auto()
    NETWORK = auto()
    GPU = auto()
    ALL = CPU | MEMORY | IO | NETWORK | GPU


TYPES = (ResourceType.GPU, ResourceType.MEMORY, ResourceType.CPU, ResourceType.NETWORK, ResourceType.IO)
"""The single types, in the order in which those who wait secure them: first what is scarce and held for long."""

ALL_TYPES = (1 << len(TYPES)) - 1
"""A bit for the index of each type."""

_BITS = tuple(kind.value for kind in TYPES)

_LABELS = {
    ResourceType.GPU: "gpu",
    ResourceType.MEMORY: "memory (MB)",
    ResourceType.CPU: "cpu",
    ResourceType.NETWORK: "network",
    ResourceType.IO: "io",
}


@dataclass(frozen=True, slots=True)
class ResourceRequirements:
    """How much of a pool something takes while it runs.

    Attributes:
        cpu_units: CPU cores.
        memory_mb: Memory in MB.
        io_weight: Its part of the input and output that the pool allows.
        network_weight: Its part of the network traffic that the pool allows.
        gpu_units: GPUs.
        priority: Who is admitted first.
        timeout: How many seconds it waits at most until it is admitted; None for as long as it takes.
        resource_types: Which of the amounts count; the others are as good as 0.

    Raises:
        ValueError: An amount or the timeout is negative or not a finite number, or there is no such priority or type.

    Example:
        ```python
        ResourceRequirements(cpu_units=2.0, memory_mb=1024, gpu_units=1.0, priority=Priority.HIGH, timeout=300)
        ```
    """

    cpu_units: float = 1.0
    memory_mb: float = 100.0
    io_weight: float = 1.0
    network_weight: float = 1.0
    gpu_units: float = 0.0
    priority: Priority = Priority.NORMAL
    timeout: float | None = None
    resource_types: ResourceType = ResourceType.ALL
    _needs: Needs = field(init=False, repr=False, compare=False)
    _types: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.timeout is not None and not 0 <= self.timeout < math.inf:
            raise ValueError(f"timeout is {self.timeout!r} s; give a number from 0 on, or None for no limit")
        given = {
            "gpu_units": self.gpu_units,
            "memory_mb": self.memory_mb,
            "cpu_units": self.cpu_units,
            "network_weight": self.network_weight,
            "io_weight": self.io_weight,
        }
        units = [units_of(name, amount) for name, amount in given.items()]
        counted = ResourceType(self.resource_types).value
        needs = tuple((index, of_type) for index, of_type in enumerate(units) if of_type and counted & _BITS[index])
        object.__setattr__(self, "_needs", needs)
        object.__setattr__(self, "_types", sum(1 << index for index, _ in needs))
        object.__setattr__(self, "priority", Priority(self.priority))


def units_of(name: str, amount: float) -> int:
    """Turns an amount into units.

    A positive amount is at least one unit. What is smaller than a unit is cut off, so that three thirds fit into a
    whole; but 0.57, which as a float is a bit less, is not cut to 0.569999.

    Args:
        name: What it is called in errors.
        amount: The amount.

    Returns:
        How many millionths.

    Raises:
        ValueError: It is negative, or not a number that could be meant.
    """
    if not isinstance(amount, int | float) or not 0 <= amount <= _MOST:
        raise ValueError(f"{name} is {amount!r}; give a number from 0 to {_MOST:g}")
    return max(1, round(amount * _UNITS * 1000) // 1000) if amount else 0


def amount_of(units: int) -> float:
    """Turns units back into an amount."""
    return units / _UNITS


def amounts_of(needs: Needs) -> dict[ResourceType, float]:
    """Turns units back into amounts.

    Args:
        needs: Units of some types.

    Returns:
        The amounts by type.
    """
    return {TYPES[index]: amount_of(units) for index, units in needs}


def described(needs: Needs) -> str:
    """Says amounts for people.

    Args:
        needs: Units of some types.

    Returns:
        For example `gpu 1, cpu 0.5`.
    """
    return ", ".join(f"{_LABELS[kind]} {amount:g}" for kind, amount in amounts_of(needs).items()) or "nothing"
