"""States: what a workflow consists of, how often they are tried, and what is known of them while it runs."""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from miniagents.agents import MiniAgent
from miniagents.ext.graph.resources import ResourceRequirements
from miniagents.ext.workflow.dependencies import DependencyConfig
from miniagents.ext.workflow.successors import possible_successors

if TYPE_CHECKING:
    from miniagents.ext.workflow.agent import Agent

__all__ = [
    "NO_RETRIES",
    "AgentStatus",
    "RetryPolicy",
    "State",
    "StateFunction",
    "StateMetadata",
    "StateResult",
    "StateStatus",
]

StateResult: TypeAlias = "str | list[str | tuple[Agent, str]] | tuple[Agent, str] | None"
"""What a state returns: the next state, several to run side by side, `(other_agent, state)`, or None for no next."""

StateFunction: TypeAlias = Callable[[Any], Awaitable[Any]] | MiniAgent
"""An async function of a `Context`, or a miniagent."""


class AgentStatus(StrEnum):
    """How far a workflow has come."""

    IDLE = "idle"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StateStatus(StrEnum):
    """How far a state has come.

    PENDING: It is not in play. BLOCKED: It waits for others. READY: It waits for a place, or for resources.
    """

    PENDING = "pending"
    READY = "ready"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class RetryPolicy:
    """How often a state that has failed is tried again, and when.

    Attributes:
        max_retries: How often, after the first attempt.
        initial_delay: The pause before the first retry, in seconds.
        max_delay: The longest pause, in seconds.
        exponential_base: By what a pause is longer than the one before.
        jitter: Whether each pause is shortened by chance, to at least half, so that not all come back at once.
    """

    max_retries: int = 3
    initial_delay: float = 1.0
    max_delay: float = 60.0
    exponential_base: float = 2.0
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.max_retries < 0 or self.initial_delay < 0 or self.max_delay < 0 or self.exponential_base < 1:
            raise ValueError(f"{self} is no policy: counts and delays are not negative, and the base is at least 1")

    def delay(self, attempt: int) -> float:
        """Gives the pause after a failed attempt.

        Args:
            attempt: Its number, from 1.

        Returns:
            Seconds.
        """
        try:
            delay = min(self.initial_delay * self.exponential_base ** (attempt - 1), self.max_delay)
        except OverflowError:
            delay = self.max_delay
        return delay * random.uniform(0.5, 1.0) if self.jitter else delay


NO_RETRIES = RetryPolicy(max_retries=0)


@dataclass(frozen=True, slots=True)
class State:
    """What was said of a state; see `Agent.add_state`."""

    name: str
    function: StateFunction
    dependencies: Mapping[str, DependencyConfig] = field(default_factory=dict)
    starts: bool = False
    resources: ResourceRequirements | None = None
    retry_policy: RetryPolicy = NO_RETRIES
    compensation: str | None = None
    preemptible: bool = False
    timeout: float | None = None
    next_states: frozenset[str] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is tried once, for as long as it takes, and needs nothing for that."""
        return self.retry_policy.max_retries == 0 and self.timeout is None and self.resources is None

    @property
    def successors(self) -> frozenset[str] | None:
        """The states that it can name; None where that is not known."""
        if self.next_states is not None or isinstance(self.function, MiniAgent):
            return self.next_states
        return possible_successors(self.function)


@dataclass
class StateMetadata:
    """What is known of a state in the present, or the last, run.

    Attributes:
        name: Its name.
        status: How far it has come.
        attempts: The number of the present attempt, or of the last one.
        visits: How often it has begun.
        started_at: When it began last, in seconds since 1970.
        ended_at: When it ended last.
        duration: How long that took, in seconds.
        error: What it failed with.
        waits_for: Why it is BLOCKED.
    """

    name: str
    status: StateStatus = StateStatus.PENDING
    attempts: int = 0
    visits: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    error: str | None = None
    waits_for: tuple[str, ...] = ()

    @property
    def duration(self) -> float | None:
        """How long the last visit took, in seconds."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, self.ended_at - self.started_at)
