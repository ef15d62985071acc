"""The rules by which the outcome of a visit is recorded once, and never by an attempt that was given up.

Only who holds the claim of a run records such entries, so what is known of them is kept with the claim: it is read
once, and no store has to search its journal whenever something is appended.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from miniagents.ext.checkpoints.entries import Draft
from miniagents.ext.checkpoints.errors import RecordedAlreadyError, StaleAttemptError

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
            if kind in ONCE:
                place = node, visit
                self._visits[place] = _after(self._visits.get(place), sequence, kind, attempt)

    def take(self, drafts: Sequence[Draft], first: int) -> None:
        """Takes note of entries that are about to be stored together, if they may be.

        Args:
            drafts: The entries.
            first: The number that the first of them will have.

        Raises:
            StaleAttemptError: A newer attempt of a visit has started. Then no note is taken of any entry.
            RecordedAlreadyError: A visit has finished, or what would be recorded of an attempt is recorded already.
        """
        self.note(self.checked(drafts, first))

    def note(self, checked: Mapping[tuple[str, int], _Visit]) -> None:
        """Takes note of entries that have been `checked`, and stored."""
        self._visits.update(checked)

    def checked(self, drafts: Sequence[Draft], first: int) -> Mapping[tuple[str, int], _Visit]:
        """Does what `take` does, but for taking note; gives what there is to be noted."""
        fresh: dict[tuple[str, int], _Visit] = {}
        for sequence, draft in enumerate(drafts, first):
            place = draft.node, draft.visit
            known = fresh.get(place) or self._visits.get(place)
            if known is not None:
                self._check(known, *draft[:4])
            if draft.kind in ONCE:
                fresh[place] = _after(known, sequence, draft.kind, draft.attempt)
        return fresh

    def _check(self, known: _Visit, kind: str, node: str, visit: int, attempt: int) -> None:
        where = f"visit {visit} of {node or 'the run as a whole'} in the run {self._run_id}"
        if attempt < known.attempt:
            raise StaleAttemptError(
                f"attempt {attempt} of {where} is over, as attempt {known.attempt} has started; drop what it brings"
            )
        if kind not in ONCE:
            return
        if known.finished:
            raise RecordedAlreadyError(f"{where} has finished already; use what is recorded", known.ended)
        recorded = known.ended or (known.started if kind == STARTED else 0)
        if attempt == known.attempt and recorded:
            raise RecordedAlreadyError(
                f"attempt {attempt} of {where} has {'failed' if known.ended else 'started'} already; a further attempt "
                "needs a higher number",
                recorded,
            )


def _after(known: _Visit | None, sequence: int, kind: str, attempt: int) -> _Visit:
    """What is recorded of a visit after a further entry."""
    if kind == STARTED:
        return _Visit(attempt, sequence, 0, False)
    started = known.started if known is not None and known.attempt == attempt else 0
    return _Visit(attempt, started, sequence, kind == FINISHED)
