"""What happens when a state has failed for good: what was done is undone, the last thing first."""

from collections.abc import Mapping

from miniagents.ext.workflow.states import State

__all__ = ["Saga"]


class Saga:
    """The compensation of one run.

    Args:
        definitions: What was said of the states.

    Attributes:
        failed: The states that have failed for good, the last one first.
        is_undoing: Whether compensation has begun.
    """

    def __init__(self, definitions: Mapping[str, State]) -> None:
        self.failed: list[str] = []
        self.is_undoing = False
        self._definitions = definitions
        self._plan: list[str] = []
        self._done: set[str] = set()

    def fail(self, state: str) -> None:
        """Takes note of a state that has failed for good."""
        self.failed.insert(0, state)

    def begin(self, completed: list[str]) -> None:
        """Plans the compensation: first of the states that have failed, then of those that have completed.

        Args:
            completed: These states, in the order in which they completed.
        """
        if not self.is_undoing:
            self.is_undoing = True
            states = dict.fromkeys([*self.failed, *reversed(completed)])
            plan = [self._definitions[name].compensation for name in states]
            self._plan = [name for name in dict.fromkeys(plan) if name is not None]

    def note_done(self, compensation: str) -> None:
        """Takes note of a compensation that has ended, in whichever way."""
        self._done.add(compensation)

    def next(self) -> str | None:
        """The state that compensates next; None if there is none any more."""
        return next((name for name in self._plan if name not in self._done), None)
