"""Questions to people, as they stand in the journal of a run."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import uuid4

from miniagents.ext.checkpoints import Entry, NewEntry

__all__ = ["OpenQuestion", "answer_entry", "open_questions_of"]


@dataclass(frozen=True)
class OpenQuestion:
    """A question that waits for its answer.

    Attributes:
        id: Its id, to answer it by.
        prompt: What is asked.
        deadline: Until when the answer is waited for, in seconds since 1970; None for as long as it takes.
        state: The state that asks.
    """

    id: str
    prompt: str
    deadline: float | None
    state: str


def answer_entry(question_id: str, text: str) -> NewEntry:
    """Makes the entry of a journal that answers a question."""
    return NewEntry("answer", attempt=uuid4().int >> 66, data={"id": question_id, "text": text})


def open_questions_of(entries: Iterable[Entry]) -> list[OpenQuestion]:
    """Finds the questions in a journal that wait for their answers."""
    found: dict[str, tuple[OpenQuestion, tuple[str, int]]] = {}
    for entry in entries:
        if entry.kind == "question":
            question = OpenQuestion(**entry.data)
            found[question.id] = question, (entry.node, entry.visit)
        elif entry.kind in ("answered", "withdrawn"):
            found.pop(entry.data["id"], None)
        elif entry.kind in ("finished", "failed", "cancelled"):  # a state that is over does not want to know any more
            visit = entry.node, entry.visit
            found = {key: kept for key, kept in found.items() if kept[1] != visit}
        elif entry.kind == "ended":
            found.clear()
    return [question for question, _ in found.values()]
