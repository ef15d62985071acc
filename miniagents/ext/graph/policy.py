"""What is said of a node beside which agent it is: when it runs, how often, how long, and next to how many others."""

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from miniagents.message import Message

if TYPE_CHECKING:
    from miniagents.ext.graph.conditions import Condition
    from miniagents.ext.graph.resources import ResourceRequirements

__all__ = ["ConcurrencyLimit", "Decide", "NodePolicy", "default_backoff"]

Targets: TypeAlias = str | Sequence[str] | None
Decide: TypeAlias = Callable[[tuple[Message, ...]], Targets | Awaitable[Targets]]
"""Gets the messages of a node that has finished, and names the node, or nodes, to jump to; None to go on."""

_next_number = count().__next__
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 30.0


def default_backoff(attempt: int) -> float:
    """The pause after a failed attempt: it doubles from about 0.05 s up to half a minute, with some chance in it.

    Args:
        attempt: The number of the attempt that has failed, from 1.

    Returns:
        Seconds.
    """
    from tenacity import RetryCallState, wait_exponential, wait_random

    state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    state.attempt_number = attempt
    pauses = wait_exponential(multiplier=_FIRST_DELAY, max=_LONGEST_DELAY) + wait_random(max=_FIRST_DELAY / 2)
    return pauses(state)


def _any_error(error: BaseException) -> bool:
    return isinstance(error, Exception)


class ConcurrencyLimit:
    """So many nodes at once, first come first served. One object can be shared by nodes, graphs and runs.

    A node that is a graph keeps its place for as long as that runs, so that nodes inside need a limit of their own.

    Args:
        limit: How many.

    Raises:
        ValueError: The limit is not positive.

    Attributes:
        number: Places in several limits are taken in this order, so that no two nodes wait for each other.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a limit of {limit} lets nothing run; give at least 1")
        self.limit = limit
        self.number = _next_number()
        self._inside = 0
        self._waiting: OrderedDict[Callable[[], None], None] = OrderedDict()

    def enter(self, callback: Callable[[], None]) -> bool:
        """Takes a place, or gets in line for one.

        Args:
            callback: Is called once, when a place has been given later.

        Returns:
            Whether there was a place.
        """
        if self._inside < self.limit:
            self._inside += 1
            return True
        self._waiting[callback] = None
        return False

    def forget(self, callback: Callable[[], None]) -> None:
        """Gets out of the line."""
        self._waiting.pop(callback, None)

    def leave(self) -> None:
        """Gives a place back, to the first in line."""
        if self._waiting:
            callback, _ = self._waiting.popitem(last=False)
            callback()
        else:
            self._inside -= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePolicy:
    """How a node runs.

    Attributes:
        condition: Lua, or a function of cache and task; see `miniagents.ext.graph.conditions`. Where it does not hold
            when the node could start, the node and what depends on it are skipped.
        attempts: How often it is tried in all; 1 for no retries.
        backoff: Gives the pause in seconds after a failed attempt, by its number from 1.
        retry_if: Whether an error is worth another attempt.
        timeout: How many seconds one attempt may take. What takes longer fails with a TimeoutError.
        max_visits: How often jumps can bring a run here, the first visit included.
        concurrency: Limits shared with other nodes: it runs only while it has a place in each of them.
        resources: What of the graph's resource pool it takes while it runs.
        preemptible: Whether it may be stopped, and started again later, for a node of a higher priority.
        decide: Where the run jumps to when the node has finished; see `Decide`.
    """

    condition: "Condition | None" = None
    attempts: int = 1
    backoff: Callable[[int], float] = default_backoff
    retry_if: Callable[[BaseException], bool] = _any_error
    timeout: float | None = None
    max_visits: int | None = None
    concurrency: tuple[ConcurrencyLimit, ...] = field(default=())
    resources: "ResourceRequirements | None" = None
    preemptible: bool = False
    decide: Decide | None = None

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; a node is tried at least once")
        if self.max_visits is not None and self.max_visits < 1:
            raise ValueError(f"max_visits is {self.max_visits}; a node is visited at least once")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout is {self.timeout!r} s; give a positive number, or None for no limit")
        if self.concurrency:
            limits = sorted(set(self.concurrency), key=lambda limit: limit.number)
            object.__setattr__(self, "concurrency", tuple(limits))  # the object is frozen
