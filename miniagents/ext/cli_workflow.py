"""`miniagents workflow`: running workflows, looking at their runs, and answering their questions."""

import json
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from miniagents.ext.cli_graph import load, run_or_leave
from miniagents.ext.cli_workflow_run import CommandError, moment, naming_missing_run, run_here, say

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import CheckpointStore, Entry, RunInfo
    from miniagents.ext.workflow.questions import OpenQuestion

__all__ = ["workflow_app"]

workflow_app = typer.Typer(
    help="Run workflows, look at their runs, answer their questions.", no_args_is_help=True, rich_markup_mode=None
)

Target = Annotated[str, typer.Argument(metavar="FILE.py:NAME", help="A Python file, and the workflow that it defines.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The id of a run.")]
StorePath = Annotated[
    Path | None,
    typer.Option("--store", metavar="FILE", help="The SQLite file of runs; that of the user otherwise."),
]

_TITLES = ("run", "workflow", "status", "created", "at work")
_MOST = 100
_INTERRUPTED, _WAITS = "interrupted", "waits for an answer"
_UNENDED = ("running", _INTERRUPTED, _WAITS)
"""What becomes of the recorded status "running" when it is looked at whether anybody works at the run."""


class _Asked(NamedTuple):
    """A question that is open, of a run or of a part of it.

    Attributes:
        question: The question.
        answers: The answers that no process has taken up yet, in the order in which they came.
    """

    question: "OpenQuestion"
    answers: list[str]

    @property
    def is_overdue(self) -> bool:
        """Whether an answer would come too late."""
        return self.question.deadline is not None and self.question.deadline <= time.time()

    @property
    def told_answers(self) -> str:
        """The answers, for people."""
        return ", or if that will not do ".join(f"{answer!r:.60}" for answer in self.answers)


@workflow_app.command()
def run(
    target: Target,
    run_id: Annotated[str | None, typer.Option("--run-id", metavar="RUN", help="What to call the run.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set the shared state; VALUE is JSON, or text. Repeatable."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="How long it may take.")] = None,
    store: StorePath = None,
) -> None:
    """Run a workflow, with a live table of its states. The run is recorded, so that it can be resumed."""
    values = _parsed(settings or ())
    _do(run_here(load(target), store, run_id=run_id, timeout=timeout, values=values))


@workflow_app.command()
def resume(
    target: Target,
    run_id: RunId,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="How long it may take.")] = None,
    store: StorePath = None,
) -> None:
    """Go on with a run where it stood."""
    _do(run_here(load(target), store, run_id=run_id, timeout=timeout, resume=True))


@workflow_app.command("list")
def list_runs(
    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of that workflow.")] = None,
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="Only runs of that status.")] = None,
    store: StorePath = None,
) -> None:
    """List the runs that are recorded, the newest first.

    Besides running, completed, failed and cancelled a run may be interrupted, if nobody works at it, or wait for an
    answer. Then it can be resumed.
    """
    _do(_list(workflow, status, store))


@workflow_app.command()
def show(run_id: RunId, store: StorePath = None) -> None:
    """Show what has happened in a run, and which questions are open."""
    _do(_show(run_id, store))


@workflow_app.command()
def answer(
    run_id: RunId,
    question: Annotated[
        str | None,
        typer.Argument(metavar="QUESTION", help="The id of the question; or the answer, if just one is open."),
    ] = None,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The answer; asked for otherwise.")] = None,
    store: StorePath = None,
) -> None:
    """Answer a question of a run, whether it is at work or not. Without QUESTION the first open one."""
    _do(_answer(run_id, question, text, store))


@workflow_app.command()
def cancel(run_id: RunId, store: StorePath = None) -> None:
    """End a run: at once where it is at work, else so that it cannot be resumed."""
    _do(_cancel(run_id, store))


def _do(work: Coroutine[Any, Any, None]) -> None:
    """Does the work of a command. What it cannot do is said without the name of a Python class."""

    async def said() -> str | None:
        try:
            await work
        except CommandError as error:
            return str(error)
        return None

    wrong = run_or_leave(said())
    if wrong is not None:
        typer.echo(f"miniagents: {wrong}", err=True)
        raise typer.Exit(1)


@asynccontextmanager
async def _opened(path: Path | None, run_id: str | None = None) -> "AsyncIterator[CheckpointStore]":
    from miniagents.ext.checkpoints import SQLiteCheckpointStore

    async with SQLiteCheckpointStore(path) as store:
        with naming_missing_run(run_id, store):
            yield store


def _parsed(settings: Sequence[str]) -> dict[str, Any]:
    """Reads what `--set` was given."""
    values = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not key or not sign:
            raise typer.BadParameter(f"--set {setting} sets nothing; give --set KEY=VALUE")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


# --- what is known of runs ---


async def _list(workflow: str | None, status: str | None, path: Path | None) -> None:
    recorded = "running" if status in _UNENDED else status
    limit = None if status in _UNENDED else _MOST
    rows = []
    async with _opened(path) as store:
        for info in await store.runs(workflow=workflow, status=recorded, limit=limit):
            now = await _status_now(store, info)
            if status in (None, now):
                rows.append(_row(info, now))
    _print_table(_TITLES, rows)
    if len(rows) == limit:
        say(f"These are the newest {limit}; see those of one workflow or status with --workflow and --status.")


async def _status_now(store: "CheckpointStore", info: "RunInfo") -> str:
    """The status of a run, whose journal is read only if nobody works at it though it has not ended."""
    from miniagents.ext.checkpoints import RunNotFoundError, StoreDamagedError
    from miniagents.ext.values import UnreadableValueError

    if info.status != "running" or info.claimed_by is not None:
        return info.status
    try:
        return _status_of(info, await _asked_in(store, info.run_id))
    except (RunNotFoundError, StoreDamagedError, UnreadableValueError):
        return _INTERRUPTED  # the others are to be listed all the same; `show` says what is wrong with this one


def _status_of(info: "RunInfo", asked: "Sequence[_Asked]") -> str:
    if info.status != "running" or info.claimed_by is not None:
        return info.status
    return _WAITS if any(not one.answers and not one.is_overdue for one in asked) else _INTERRUPTED


async def _asked_in(store: "CheckpointStore", run_id: str) -> "list[_Asked]":
    from miniagents.ext.workflow.questions import open_questions_in, pending_answers_of

    questions = await open_questions_in(store, run_id)
    answers = {
        asking: pending_answers_of(await store.read(asking, lenient=True))
        for asking in {one.run_id for one in questions}
    }
    return [_Asked(question, answers[question.run_id].get(question.id, [])) for question in questions]


async def _show(run_id: str, path: Path | None) -> None:
    async with _opened(path, run_id) as store:
        info, entries, asked = (
            await store.info(run_id),
            await store.read(run_id, lenient=True),
            await _asked_in(store, run_id),
        )
    _print_table(_TITLES, [_row(info, _status_of(info, asked))])
    began = entries[0].time if entries else 0.0
    _print_table(
        ("after", "what", "state", "visit", "attempt", ""), [_entry_row(entry, entry.time - began) for entry in entries]
    )
    for one in asked:
        question = one.question
        part = "" if question.run_id == run_id else f" of {question.run_id}"
        until = "" if question.deadline is None else f" (until {moment(question.deadline)})"
        typer.echo(f"{'' if one.answers else 'open '}question {question.id}{part}{until}: {question.prompt}")
        if one.answers:
            typer.echo(f"  answered {one.told_answers}, which counts {_when(info)}")


def _entry_row(entry: "Entry", seconds: float) -> tuple[str, ...]:
    """The row of an entry. What is about the run as a whole has no visits and attempts, though it may have a number."""
    numbers = (str(entry.visit), str(entry.attempt)) if entry.node else ("", "")
    return f"{seconds:.1f} s", entry.kind, entry.node, *numbers, _told(entry)


def _told(entry: "Entry") -> str:
    if not isinstance(entry.data, dict):
        return ""
    data = {key: value for key, value in entry.data.items() if value not in (None, [], {})}
    if entry.kind == "refused":
        data.pop("answer", None)  # a number that only tells this answer from others
    return ", ".join(f"{key}={value!r:.60}" for key, value in data.items())


def _row(info: "RunInfo", status: str) -> tuple[str, ...]:
    return info.run_id, info.workflow, status, moment(info.created), info.claimed_by or ""


def _when(info: "RunInfo") -> str:
    return "when the run is resumed" if info.claimed_by is None else "as soon as the run has taken it up"


# --- what is told to runs ---


async def _answer(run_id: str, named: str | None, text: str | None, path: Path | None) -> None:
    from miniagents.ext.workflow.questions import answer_entry

    async with _opened(path, run_id) as store:
        known = {entry.data["id"] for entry in await store.read(run_id, lenient=True) if entry.kind == "question"}
        chosen, text = _chosen(run_id, await _asked_in(store, run_id), known, named, text)
        question = chosen.question
        if text is None:
            text = _asked_for(question)
        if chosen.is_overdue:
            raise CommandError(
                f"{question.id} waited for an answer until {moment(question.deadline or 0)}, and no more"
            )
        await store.tell(question.run_id, answer_entry(question.id, text))
        info = await store.info(question.run_id)
    if chosen.answers:
        say(f"This is a further answer to {question.id}; it counts if {chosen.told_answers} will not do.")
    if info.claimed_by is None:
        say(f"{question.id} is answered {text!r:.60}. That is recorded; it counts as soon as the run is resumed.")
    else:
        say(f"{question.id} is answered {text!r:.60}. The run is at work, and is told so.")


def _chosen(
    run_id: str, asked: "Sequence[_Asked]", known: set[str], named: str | None, text: str | None
) -> "tuple[_Asked, str | None]":
    """Finds out which question is meant, and what is to be its answer if that was given.

    Args:
        run_id: The run.
        asked: Its open questions.
        known: The ids of all questions that it has asked.
        named: The first argument of the person: a question, or the answer to the only one.
        text: The second one: the answer.
    """
    unanswered = [one for one in asked if not one.answers] or asked
    if named is None and unanswered:
        return unanswered[0], text
    meant = next((one for one in asked if one.question.id == named), None)
    if meant is not None:
        return meant, text
    if text is None and named not in known and len(unanswered) == 1:
        return unanswered[0], named
    raise CommandError(_why_not(run_id, named, [one.question.id for one in asked]))


def _why_not(run_id: str, named: str | None, open_ids: Sequence[str]) -> str:
    if not open_ids:
        return f"no question of {run_id} waits for an answer; see `miniagents workflow show {quote(run_id)}`"
    return (
        f"no question {named!r:.60} of {run_id} waits for an answer; there are: {', '.join(open_ids)}; give "
        "`miniagents workflow answer RUN QUESTION TEXT`"
    )


def _asked_for(question: "OpenQuestion") -> str:
    try:
        given: str = typer.prompt(question.prompt)
    except typer.Abort:
        raise CommandError("no answer was given, and none is recorded") from None
    return given


async def _cancel(run_id: str, path: Path | None) -> None:
    from miniagents.ext.checkpoints import NewEntry, RunClaimedError

    async with _opened(path, run_id) as store:
        try:
            await _cancel_here(store, run_id)
        except RunClaimedError:
            await store.tell(run_id, NewEntry("cancel", attempt=time.time_ns() >> 10))
            say(f"{run_id} is at work, and is told to end.")
            return
    say(f"{run_id} is cancelled, and cannot be resumed any more.")


async def _cancel_here(store: "CheckpointStore", run_id: str) -> None:
    """Ends a run that nobody works at, and what is a part of it."""
    from miniagents.ext.checkpoints import NewEntry, RunClaimedError
    from miniagents.ext.workflow.questions import parts_of

    async with await store.claim(run_id) as claim:
        status = (await store.info(run_id)).status
        if status != "running":
            raise CommandError(f"{run_id} has ended already: it is {status}")
        parts = await parts_of(store, run_id, await store.read(run_id, lenient=True))
        await store.append(claim, [NewEntry("ended", data={"status": "cancelled"})], status="cancelled")
    for part in parts:
        with suppress(CommandError, RunClaimedError):  # it has ended, though the run did not hear of it
            await _cancel_here(store, part)


def _print_table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=title in ("run", "status"))
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    console.print(table, soft_wrap=not console.is_terminal)
