"""Dependencies of states: on which others, in which way, and for how long that holds."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from miniagents.ext.workflow.state_run import StateRun

__all__ = ["Dependencies", "DependencyConfig", "DependencyLifecycle", "DependencyType", "configs_of", "look_at"]


class DependencyType(Enum):
    """In which way a state depends on another one.

    REQUIRED, AND: The other one has to have completed.
    OPTIONAL: If the other one is at work, or about to be, its end is waited for; else it does not matter.
    PARALLEL: The other one has to have started.
    SEQUENTIAL: The other one has to have ended, in whichever way.
    CONDITIONAL: REQUIRED where the condition holds when the state could start; else it does not matter.
    TIMEOUT: The completion of the other one is waited for, but no longer than the timeout says.
    XOR: Of all dependencies of this type just one has to have completed, and none of the others may be at work.
    OR: Of all dependencies of this type at least one has to have completed.
    """

    REQUIRED = "required"
    OPTIONAL = "optional"
    PARALLEL = "parallel"
    SEQUENTIAL = "sequential"
    CONDITIONAL = "conditional"
    TIMEOUT = "timeout"
    XOR = "xor"
    AND = "and"
    OR = "or"


class DependencyLifecycle(Enum):
    """For how long it counts that the other state has completed.

    SESSION: For the whole run.
    ONCE: For all later runs of the same agent, too.
    ALWAYS: For one visit: to run again, the state needs the other one to have completed again.
    TEMPORARY: For `expiry` seconds.
    PERIODIC: For `interval` seconds; the other state is run again when a state needs it after that.
    """

    ONCE = "once"
    ALWAYS = "always"
    SESSION = "session"
    TEMPORARY = "temporary"
    PERIODIC = "periodic"


@dataclass(frozen=True)
class DependencyConfig:
    """A dependency with all that can be said of it.

    Attributes:
        type: In which way the state depends on the other one.
        lifecycle: For how long a completion counts, where that is asked for: not with OPTIONAL, PARALLEL, SEQUENTIAL.
        condition: A function of the agent, which has to hold besides: it is looked at when the other state has done
            what is needed, and whenever a state has ended since. For CONDITIONAL it says whether the dependency matters
            at all, and is looked at when all others are met.
        expiry: For how many seconds a completion counts.
        interval: After how many seconds a PERIODIC dependency is run again.
        timeout: How many seconds are waited for it: then a TIMEOUT dependency is given up, any other is an error.
    """

    type: DependencyType = DependencyType.REQUIRED
    lifecycle: DependencyLifecycle = DependencyLifecycle.SESSION
    condition: Callable[[Any], bool] | None = None
    expiry: float | None = None
    interval: float | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.type is DependencyType.CONDITIONAL and self.condition is None:
            raise ValueError("a CONDITIONAL dependency needs a `condition`, a function of the agent")
        for name in ("expiry", "interval", "timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value!r}; give a positive number of seconds, or None")
        missing = {
            DependencyLifecycle.TEMPORARY: "expiry" if self.expiry is None else None,
            DependencyLifecycle.PERIODIC: "interval" if self.interval is None else None,
        }.get(self.lifecycle)
        if missing:
            raise ValueError(f"a {self.lifecycle.name} dependency needs `{missing}` in seconds")
        if self.type is DependencyType.TIMEOUT and self.timeout is None:
            raise ValueError("a TIMEOUT dependency needs `timeout` in seconds")

    @property
    def lasts(self) -> float | None:
        """For how many seconds a completion counts; None for no limit."""
        if self.lifecycle is DependencyLifecycle.PERIODIC:
            return self.interval
        return self.expiry

    def described(self) -> str:
        """What makes up the dependency, for comparing workflows."""
        parts = [self.type.value, self.lifecycle.value]
        parts += [
            f"{name}={getattr(self, name):g}" for name in ("expiry", "interval", "timeout") if getattr(self, name)
        ]
        return " ".join([*parts, "conditional"] if self.condition is not None else parts)


Dependencies: TypeAlias = Mapping[str, DependencyType | DependencyConfig]


def configs_of(dependencies: "Dependencies | Iterable[str] | None", where: str) -> dict[str, DependencyConfig]:
    """Checks dependencies, and says all that can be said of each.

    Args:
        dependencies: As a user has given them; just their names for REQUIRED ones.
        where: Whose they are, for an error.

    Returns:
        The configurations by the names of the states.

    Raises:
        TypeError: Something is neither a type nor a configuration.
    """
    if dependencies is None:
        return {}
    if isinstance(dependencies, (list, tuple, set, frozenset)):
        dependencies = dict.fromkeys(dependencies, DependencyType.REQUIRED)
    if not isinstance(dependencies, Mapping):
        raise TypeError(f"the dependencies of {where} are no mapping; give {{name: DependencyType.REQUIRED}}")
    configs: dict[str, DependencyConfig] = {}
    for name, given in dependencies.items():
        if isinstance(given, DependencyType):
            given = DependencyConfig(type=given)
        if not isinstance(given, DependencyConfig):
            raise TypeError(
                f"the dependency of {where} on {name!r} is {given!r:.100}; give a DependencyType or -Config"
            )
        configs[name] = given
    return configs


@dataclass
class Look:
    """What a look at the dependencies of a state says.

    Attributes:
        now: When it was looked, in seconds since 1970.
        unmet: Why the state cannot start yet: one reason for each dependency that is not met; empty if it can.
        run_again: The states that have to be run again first.
        look_again_in: After how many seconds something changes just by the time that passes.
        overdue: Which dependency was not met in time.
    """

    now: float
    unmet: list[str] = field(default_factory=list)
    run_again: list[str] = field(default_factory=list)
    look_again_in: float | None = None
    overdue: str | None = None


def look_at(state: "StateRun", others: Mapping[str, "StateRun"], agent: Any, now: float) -> Look:
    """Looks whether a state can start.

    Args:
        state: The state, with its configurations and since when it waits.
        others: All states.
        agent: What conditions get.
        now: The time, in seconds since 1970.

    Returns:
        What there is to know.
    """
    look = Look(now)
    groups: dict[DependencyType, list[str]] = {}
    conditional: list[tuple[str, DependencyConfig]] = []
    for name, config in state.configs.items():
        if config.type in (DependencyType.XOR, DependencyType.OR):
            groups.setdefault(config.type, []).append(name)
        elif config.type is DependencyType.CONDITIONAL:
            conditional.append((name, config))
        else:
            _look_at_one(look, state, others[name], config, agent)
    for kind, names in groups.items():
        _look_at_group(look, state, kind, [others[name] for name in names], agent)
    if not look.unmet:  # else it is too early for these conditions: they may be about what the others bring
        for name, config in conditional:
            if _holds(config, state, name, agent):
                _look_at_one(look, state, others[name], config, agent)
    return look


def _look_at_one(look: Look, state: "StateRun", other: "StateRun", config: DependencyConfig, agent: Any) -> None:
    kind, name = config.type, other.node.name
    if kind is DependencyType.OPTIONAL:
        met, reason = not other.is_at_work, f"{name} is still at work"
    elif kind is DependencyType.PARALLEL:
        met, reason = other.has_started, f"{name} has not started"
    elif kind is DependencyType.SEQUENTIAL:
        met, reason = other.has_ended, f"{name} has not ended"
    else:
        met, reason = _counts(look, state, other, config), _why_not(other)
    if met and not _holds(config, state, name, agent):
        met, reason = False, f"the condition of the dependency on {name} does not hold"
    if met:
        return
    if config.timeout is not None and _is_late(look, state, config.timeout):
        if kind is DependencyType.TIMEOUT:
            return
        look.overdue = f"{reason}, and {config.timeout:g} s have passed"
    look.unmet.append(reason)


def _is_late(look: Look, state: "StateRun", seconds: float) -> bool:
    """Whether a limit of time has passed; else it is looked again when it has."""
    left = state.waiting_since + seconds - look.now
    if left > 0:
        look.look_again_in = left if look.look_again_in is None else min(look.look_again_in, left)
    return left <= 0


def _why_not(other: "StateRun") -> str:
    """Why the completion of a state does not count, if it does not."""
    name = other.node.name
    if other.has_completed_last:
        return f"{name} has completed, but that does not count any more"
    return f"{name} has not completed ({other.told})"


def _holds(config: DependencyConfig, state: "StateRun", name: str, agent: Any) -> bool:
    if config.condition is None:
        return True
    try:
        holds = config.condition(agent)
        if inspect.isawaitable(holds):
            if inspect.iscoroutine(holds):
                holds.close()
            raise TypeError("it is async; give a function that says at once whether it holds")
        return bool(holds)
    except Exception as error:
        error.add_note(f"in the condition of the dependency of {state.node.name} on {name}")
        raise


def _look_at_group(look: Look, state: "StateRun", kind: DependencyType, others: "list[StateRun]", agent: Any) -> None:
    reason = _unmet_of_group(look, state, kind, others, agent)
    if reason is None:
        return
    look.unmet.append(reason)
    limits = [state.configs[other.node.name].timeout for other in others]
    known = [limit for limit in limits if limit is not None]
    if len(known) == len(limits) and _is_late(look, state, max(known)):  # none of them is waited for any longer
        look.overdue = f"{reason}, and {max(known):g} s have passed"


def _unmet_of_group(
    look: Look, state: "StateRun", kind: DependencyType, others: "list[StateRun]", agent: Any
) -> str | None:
    completed = [
        other.node.name
        for other in others
        if _counts(look, state, other, (config := state.configs[other.node.name]))
        and _holds(config, state, other.node.name, agent)
    ]
    if kind is DependencyType.XOR:
        at_work = [other.node.name for other in others if other.is_at_work]
        if at_work:
            return f"{', '.join(at_work)} is still at work"
        if len(completed) > 1:
            return f"just one of {_names(others)} has to have completed, but {', '.join(completed)} have"
    if completed:
        return None
    counts = any(other.completions for other in others)
    return f"none of {_names(others)} has completed{' such that it counts' if counts else ''}"


def _names(states: "list[StateRun]") -> str:
    return ", ".join(state.node.name for state in states)


def _counts(look: Look, state: "StateRun", other: "StateRun", config: DependencyConfig) -> bool:
    """Whether the completion of the other state counts for this one now."""
    name = other.node.name
    if config.lifecycle is DependencyLifecycle.ONCE and name in state.met_before:
        return True
    if not other.completions:
        return False
    if config.lifecycle is DependencyLifecycle.ALWAYS and other.completions <= state.used.get(name, 0):
        return False
    lasts = config.lasts
    if lasts is None:
        return True
    age = look.now - other.completed_at
    if age < lasts:
        return True
    if config.lifecycle is DependencyLifecycle.PERIODIC and not other.is_at_work:
        look.run_again.append(name)
    return False
