"""The rules by which the outcome of a visit is recorded once, and never by an attempt that was given up.

Only who holds the claim of a run records such entries, so what is known of them is kept with the claim: it is read
once, when the run is claimed, and no store has to search its journal when something is appended.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from miniagents.ext.checkpoints.entries import Draft
from miniagents.ext.checkpoints.errors import CheckpointStoreError, RecordedAlreadyError, StaleAttemptError

__all__ = ["FAILED", "FINISHED", "ONCE", "STARTED", "Outcomes"]

STARTED, FINISHED, FAILED = "started", "finished", "failed"

ONCE = frozenset({STARTED, FINISHED, FAILED})
"""The kinds of entries whose meaning the store knows."""


class _Visit(NamedTuple):
    """What is recorded of the newest attempt of a visit.

    Attributes:
        attempt: The attempt.
        started: The sequence number of the entry that says that it has started; 0 for none.
        ended: The sequence number of the entry with its outcome; 0 for none.
        finished: Whether that says that it has finished.
    """

    attempt: int
    started: int
    ended: int
    finished: bool


class Outcomes:
    """What is recorded of each visit of a run.

    Args:
        run_id: The run.
        recorded: Sequence, kind, node, visit and attempt of its entries so far, in their order. Those of other kinds do
            not matter.
    """

    def __init__(self, run_id: str, recorded: Iterable[tuple[int, str, str, int, int]] = ()) -> None:
        self._run_id = run_id
        self._visits: dict[tuple[str, int], _Visit] = {}
        for sequence, kind, node, visit, attempt in recorded:
            self.note(sequence, kind, node, visit, attempt)

    def check(self, kind: str, node: str, visit: int, attempt: int) -> None:
        """Checks whether an entry may be appended.

        Raises:
            StaleAttemptError: A newer attempt of the visit has started.
            RecordedAlreadyError: The visit has finished, or this is recorded of the attempt already.
        """
        known = self._visits.get((node, visit))
        if known is None:
            return
        where = f"visit {visit} of {node or 'the run as a whole'} in the run {self._run_id}"
        if attempt < known.attempt:
            raise StaleAttemptError(
                f"attempt {attempt} of {where} is over, as attempt {known.attempt} has started; drop what it brings"
            )
        if kind not in ONCE:
            return
        if known.finished:
            raise RecordedAlreadyError(f"{where} has finished already; use what is recorded", known.ended)
        if attempt == known.attempt:
            recorded = known.ended or (known.started if kind == STARTED else 0)
            if recorded:
                raise RecordedAlreadyError(
                    f"attempt {attempt} of {where} has {'failed' if known.ended else 'started'} already; "
                    "a further attempt needs a higher number",
                    recorded,
                )

    def note(self, sequence: int, kind: str, node: str, visit: int, attempt: int) -> None:
        """Takes note of an entry that has been checked."""
        if kind not in ONCE:
            return
        known = self._visits.get((node, visit))
        started = known.started if known is not None and known.attempt == attempt else 0
        self._visits[node, visit] = (
            _Visit(attempt, sequence, 0, False)
            if kind == STARTED
            else _Visit(attempt, started, sequence, kind == FINISHED)
        )

    def take(self, drafts: Sequence[Draft], first: int) -> Callable[[], None]:
        """Checks entries that are about to be stored together, and takes note of them.

        Args:
            drafts: The entries.
            first: The number that the first of them will have.

        Returns:
            What undoes it, if they cannot be stored after all.

        Raises:
            StaleAttemptError: See `check`; then no note is taken.
            RecordedAlreadyError: See `check`.
        """
        visits = self._visits
        before = {(draft.node, draft.visit): visits.get((draft.node, draft.visit)) for draft in drafts}

        def undo() -> None:
            for key, visit in before.items():
                if visit is None:
                    visits.pop(key, None)
                else:
                    visits[key] = visit

        try:
            for sequence, draft in enumerate(drafts, first):
                self.check(*draft[:4])
                self.note(sequence, *draft[:4])
        except CheckpointStoreError:
            undo()
            raise
        return undo
