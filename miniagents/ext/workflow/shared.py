"""The state that the states of a run share: who sees what when, and who must not set what."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from miniagents.ext.workflow.branches import are_beside
from miniagents.ext.workflow.copies import detached
from miniagents.ext.workflow.errors import StateConflictError
from promising.sentinels import Sentinel

if TYPE_CHECKING:
    from miniagents.ext.workflow.branches import Branch

__all__ = ["REMOVED", "Reducer", "Several", "SharedState", "Writer", "Writes", "each_of"]

Reducer = Callable[[Any, Any], Any]
"""Puts two values of one key together: what is there, and what comes."""

REMOVED = Sentinel("REMOVED", "the key is removed")
Writes = dict[str, Any]
"""What a state has set, by key; `REMOVED` for what it has removed."""


class Several(tuple[Any, ...]):
    """Several values that one state has set for a key with a reducer, to be put together one after the other."""


class Writer(NamedTuple):
    """Who sets something.

    Attributes:
        state: The name of the state.
        branch: The branch in which it runs; None for the run itself.
        began: How many commits there had been when it began.
    """

    state: str
    branch: "Branch | None"
    began: int


class SharedState:
    """The state that the states of a run share.

    What a state sets is its own until it has completed: then the others see it, all of it at once. So an attempt that
    fails leaves nothing behind, and what was recorded of a run is always the state between two of its steps. No value
    in here is ever changed: it is replaced.

    What states set for a key with a reducer is put together in the order in which they complete. That is the order of
    the journal, so that a run that is taken up again gets the same.

    Args:
        values: What it begins with.
        reducers: How to put together what states set for one key.
        outer: The keys with reducers of the run that this one is a part of.

    Attributes:
        values: The values that all see.
        given: For these keys, what was set in this run alone.
    """

    def __init__(self, values: Mapping[str, Any], reducers: Mapping[str, Reducer], outer: Collection[str] = ()) -> None:
        self.values = dict(values)
        self.reducers = reducers
        self.given: Writes = {}
        self._outer = outer
        self._commits = 0
        self._committed: dict[str, tuple[int, Writer]] = {}  # which commit has set each key last
        self._uncommitted: dict[str, str] = {}  # which state at work has set a key
        self._own: set[str] = set()  # keys whose values a reducer has made, so that nobody else has them

    @property
    def commits(self) -> int:
        """How many commits there have been."""
        return self._commits

    def copied(self) -> dict[str, Any]:
        """Copies of all values, which nobody else has."""
        return {key: detached(value) for key, value in self.values.items()}

    def note_write(self, key: str, writer: Writer) -> None:
        """Notes that a state at work sets a key.

        Args:
            key: The key.
            writer: The state.

        Raises:
            StateConflictError: Another state that runs, or has run, beside it has set the key, too.
        """
        if key in self.reducers:
            return
        other = self._uncommitted.get(key)
        if other is None and key in self._committed:
            when, by = self._committed[key]
            if when > writer.began or (by.branch is not writer.branch and are_beside(by.branch, writer.branch)):
                other = by.state
        if other is not None and other != writer.state:
            raise StateConflictError(
                f"{writer.state} sets {key!r}, and {other}, which runs beside it, has set it, too; use two keys, or "
                f"say how to put the values together: Agent(..., reducers={{{key!r}: function}})"
            )
        self._uncommitted[key] = writer.state

    def commit(self, writer: Writer, writes: Writes) -> None:
        """Lets everybody see what a state has set."""
        self._commits += 1
        for key, value in writes.items():
            if value is REMOVED:
                self.values.pop(key, None)
                self._own.discard(key)
            elif key in self.reducers:
                self._add(key, value)
            else:
                self.values[key] = value
            if key in self._outer:
                self._give(key, value)
            self._committed[key] = (self._commits, writer)
        self.forget(writer.state, writes)

    def forget(self, state: str, writes: Writes) -> None:
        """Forgets what a state has set and not committed."""
        for key in writes:
            if self._uncommitted.get(key) == state:
                del self._uncommitted[key]

    def check(self, writes: Writes) -> None:
        """Puts what a state has set together with what is there, to see before it is recorded whether that works.

        Raises:
            Exception: What a reducer raises.
        """
        for key, value in writes.items():
            if key in self.reducers and value is not REMOVED:
                self.seen_with(key, value)

    def lend(self, key: str) -> None:
        """Takes note that a reader looks at a value itself, so that no reducer may change it any more."""
        self._own.discard(key)

    def seen_with(self, key: str, value: Any) -> Any:
        """What the value of a key with a reducer would be, if a state that has set something would complete now."""
        return self._reduced(key, detached(self.values.get(key, REMOVED)), value)

    def _add(self, key: str, value: Any) -> None:
        there = self.values.get(key, REMOVED)
        if key not in self._own:  # it stands in the journal, too, and the reducer may change what it is given
            there = detached(there)
            self._own.add(key)
        self.values[key] = self._reduced(key, there, value)

    def _give(self, key: str, value: Any) -> None:
        """Puts together what was set in this run alone, for the run that it is a part of."""
        if key not in self.given or value is REMOVED:
            self.given[key] = value
        else:
            self.given[key] = Several((*each_of(self.given[key]), *each_of(value)))

    def _reduced(self, key: str, there: Any, value: Any) -> Any:
        try:
            for one in each_of(value):
                if one is REMOVED or there is REMOVED:
                    there = detached(one)
                else:
                    there = self.reducers[key](there, detached(one))
        except Exception as error:
            error.add_note(f"in the reducer of {key!r}")
            raise
        return there


def each_of(value: Any) -> Sequence[Any]:
    """All that was set for a key: several values, or just the one."""
    return value if isinstance(value, Several) else (value,)
