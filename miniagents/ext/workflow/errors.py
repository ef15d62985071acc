"""What goes wrong with workflows.

```
WorkflowError
├── UnknownStateError        a state, or a dependency, names a state that nobody has added
├── DependencyError          a dependency can never be met, or was not met in time
├── StateConflictError       two states that run side by side have set one key
├── StateTypeError           a TypeError: a value of the context has another type than was asked for
├── HumanInputError          a person did not answer in time, or nobody can be asked
├── WorkflowCancelledError   the run was cancelled
└── WorkflowChangedError     a run cannot be resumed, because its workflow is another one by now
```
"""

from collections.abc import Iterable

__all__ = [
    "DependencyError",
    "HumanInputError",
    "StateConflictError",
    "StateTypeError",
    "UnknownStateError",
    "WorkflowCancelledError",
    "WorkflowChangedError",
    "WorkflowError",
]


class WorkflowError(Exception):
    """What all errors of workflows derive from."""


class UnknownStateError(WorkflowError, LookupError):
    """There is no state of that name. Add it, or mend the name; a run with a store can be resumed then.

    Args:
        wanted: The name.
        where: What names it, for people.
        known: The states that there are.
    """

    def __init__(self, wanted: str, where: str, known: Iterable[str]) -> None:
        listed = ", ".join(sorted(known)) or "none"
        super().__init__(f"{where} names {wanted!r}, which is no state of this workflow; there are: {listed}")
        self.wanted = wanted


class DependencyError(WorkflowError):
    """A dependency can never be met, or was not met in time; the message says which, and why."""


class StateConflictError(WorkflowError):
    """Two states that run side by side have set one key of the context, so that it depended on chance which one stays.

    Use two keys, or say how values are put together: `Agent(..., reducers={key: function})`.
    """


class StateTypeError(WorkflowError, TypeError):
    """A value of the context has another type than was asked for."""


class HumanInputError(WorkflowError):
    """A person did not answer in time and there is no default, or nobody can be asked."""


class WorkflowCancelledError(WorkflowError):
    """The run was cancelled."""


class WorkflowChangedError(WorkflowError):
    """A run cannot be resumed, because its workflow is another one by now; the message says how it differs."""
