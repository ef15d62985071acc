"""Questions to people, as they stand in the journal of a run."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

from miniagents.ext.checkpoints import Entry, NewEntry
from miniagents.ext.workflow.opening import is_there, part_run_id

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import CheckpointStore

__all__ = ["OpenQuestion", "answer_entry", "open_questions_in", "open_questions_of", "parts_of", "pending_answers_of"]


@dataclass(frozen=True)
class OpenQuestion:
    """A question that waits for its answer.

    Attributes:
        id: Its id, to answer it by.
        prompt: What is asked.
        deadline: Until when the answer is waited for, in seconds since 1970; None for as long as it takes.
        state: The state that asks.
        run_id: Its run; that of a part, where a state stands for another workflow.
    """

    id: str
    prompt: str
    deadline: float | None
    state: str
    run_id: str = ""


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


async def open_questions_in(store: "CheckpointStore", run_id: str) -> list[OpenQuestion]:
    """Finds the questions of a run that wait for their answers, and those of other workflows that are parts of it.

    Raises:
        RunNotFoundError: There is no such run.
    """
    entries = await store.read(run_id, lenient=True)
    found = [replace(question, run_id=run_id) for question in open_questions_of(entries)]
    for part in await parts_of(store, run_id, entries):
        found += await open_questions_in(store, part)
    return found


async def parts_of(store: "CheckpointStore", run_id: str, entries: Iterable[Entry]) -> list[str]:
    """Finds the runs of other workflows that are parts of a run, and have not ended as far as that knows.

    Args:
        store: Where they are recorded.
        run_id: The run.
        entries: Its journal.

    Returns:
        Their ids.
    """
    ids = [part_run_id(run_id, *visit) for visit in _at_work(entries)]
    return [part for part in ids if await is_there(store, part)]


def _at_work(entries: Iterable[Entry]) -> list[tuple[str, int]]:
    """The visits of states that may stand for other workflows, and have not ended."""
    found: dict[tuple[str, int], None] = {}
    for entry in entries:
        if entry.kind == "started" and "." in entry.node:
            found[entry.node, entry.visit] = None
        elif entry.kind in ("finished", "failed", "cancelled"):
            found.pop((entry.node, entry.visit), None)
        elif entry.kind == "ended":
            found.clear()
    return list(found)


def pending_answers_of(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Finds the answers in a journal that no process has taken up yet, because nobody works at the run.

    Args:
        entries: The journal.

    Returns:
        The answers to each open question that has some, by its id. The first one counts, or the next one if that will
        not do.
    """
    entries = list(entries)
    waiting = {question.id: question for question in open_questions_of(entries)}
    found: dict[str, dict[int, str]] = {}
    for entry in entries:
        if entry.kind not in ("question", "answer", "refused") or entry.data["id"] not in waiting:
            continue
        deadline, answers = waiting[entry.data["id"]].deadline, found.setdefault(entry.data["id"], {})
        if entry.kind == "question":
            answers.clear()  # it was asked before, and withdrawn
        elif entry.kind == "refused":
            answers.pop(entry.data["answer"], None)
        elif deadline is None or entry.time <= deadline:
            answers[entry.attempt] = entry.data["text"]
    return {key: list(answers.values()) for key, answers in found.items() if answers}
