"""`miniagents workflow`: running workflows, looking at their runs, and answering their questions."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from miniagents.agents import MiniAgent, miniagent
from miniagents.context import MiniAgents
from miniagents.ext.cli_graph import load, run_or_leave
from miniagents.interaction import InteractionContext

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import CheckpointStore, RunInfo
    from miniagents.ext.graph.progress import Progress

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


@workflow_app.command()
def run(
    target: Target,
    run_id: Annotated[str | None, typer.Option("--run-id", metavar="RUN", help="What to call the run.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="How long it may take.")] = None,
    store: StorePath = None,
) -> None:
    """Run a workflow, with a live table of its states. The run is recorded, so that it can be resumed."""
    run_or_leave(_run(load(target), store, run_id=run_id, timeout=timeout))


@workflow_app.command()
def resume(
    target: Target,
    run_id: RunId,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="How long it may take.")] = None,
    store: StorePath = None,
) -> None:
    """Go on with a run where it stood."""
    run_or_leave(_run(load(target), store, run_id=run_id, timeout=timeout, resume=True))


@workflow_app.command("list")
def list_runs(
    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of that workflow.")] = None,
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="Only runs of that status.")] = None,
    store: StorePath = None,
) -> None:
    """List the runs that are recorded, the newest first."""

    async def work() -> None:
        async with _store(store) as runs:
            found = await runs.runs(workflow=workflow, status=status)
        _print_table(("run", "workflow", "status", "created", "at work"), [_row(info) for info in found])

    run_or_leave(work())


@workflow_app.command()
def show(run_id: RunId, store: StorePath = None) -> None:
    """Show what has happened in a run, and which questions are open."""
    run_or_leave(_show(run_id, store))


@workflow_app.command()
def answer(
    run_id: RunId,
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="The id of the question.")] = None,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The answer; asked for otherwise.")] = None,
    store: StorePath = None,
) -> None:
    """Answer a question of a run, whether it is at work or not. Without QUESTION the first open one."""
    run_or_leave(_answer(run_id, question, text, store))


@workflow_app.command()
def cancel(run_id: RunId, store: StorePath = None) -> None:
    """End a run: at once where it is at work, else so that it cannot be resumed."""
    run_or_leave(_cancel(run_id, store))


def _store(path: Path | None) -> "CheckpointStore":
    from miniagents.ext.checkpoints import SQLiteCheckpointStore

    return SQLiteCheckpointStore(path)


async def _run(agent: Any, path: Path | None, **arguments: Any) -> None:
    from uuid import uuid4

    from miniagents.ext.graph.progress import Progress
    from miniagents.ext.workflow import Agent
    from miniagents.ext.workflow.console import console_asker

    if not isinstance(agent, Agent):
        raise TypeError(f"{agent.alias} is no workflow; run it with `miniagents graph run`")
    if agent.store is None or path is not None:
        agent.store = _store(path)
    arguments["run_id"] = arguments["run_id"] or uuid4().hex
    typer.echo(f"run {arguments['run_id']}", err=True)
    result: dict[str, Any] = {}
    progress = Progress(agent.alias, lambda: _resources(agent))
    if agent.ask is console_asker:
        agent.ask = _asks_beside(progress)
    async with agent.store, MiniAgents():
        await progress.show(agent.inquire(result=result, **arguments))
    for key, value in result.items():
        typer.echo(f"{key} = {value!r:.200}")


def _asks_beside(progress: "Progress") -> MiniAgent:
    """Makes an agent that asks in the terminal in which the table is shown."""
    from miniagents.ext.console import console_here

    one_at_a_time = asyncio.Lock()

    @miniagent
    async def ask_here(ctx: InteractionContext) -> None:
        prompt = await ctx.message_promises.as_single_promise()
        async with one_at_a_time:
            with progress.hidden():
                console = console_here()
                console.write(f"{prompt}\n")
                ctx.reply(await console.read())

    return ask_here


def _resources(agent: Any) -> list[str]:
    """What of the resource pool is in use, if any state wants it."""
    if all(state.resources is None for state in agent.states.values()):
        return []
    stats = agent.resource_pool.get_usage_stats()
    used = [f"{kind.name.lower()} {one.current_usage:g} of {one.total:g}" for kind, one in stats.items() if one.total]
    return [f"resources: {', '.join(used)}"]


async def _show(run_id: str, path: Path | None) -> None:
    from miniagents.ext.workflow.questions import open_questions_of

    async with _store(path) as store:
        info, entries = await store.info(run_id), await store.read(run_id)
    _print_table(("run", "workflow", "status", "created", "at work"), [_row(info)])
    began = entries[0].time if entries else 0.0
    _print_table(
        ("after", "what", "state", "visit", "attempt", ""),
        [
            (
                f"{entry.time - began:.1f} s",
                entry.kind,
                entry.node,
                str(entry.visit),
                str(entry.attempt),
                _told(entry.data),
            )
            for entry in entries
        ],
    )
    for question in open_questions_of(entries):
        until = "" if question.deadline is None else f" (until {_moment(question.deadline)})"
        typer.echo(f"open question {question.id}{until}: {question.prompt}")


async def _answer(run_id: str, question_id: str | None, text: str | None, path: Path | None) -> None:
    from miniagents.ext.workflow.questions import answer_entry, open_questions_of

    async with _store(path) as store:
        questions = open_questions_of(await store.read(run_id))
        chosen = next((one for one in questions if question_id in (None, one.id)), None)
        if chosen is None:
            listed = ", ".join(one.id for one in questions) or "none"
            raise LookupError(f"no such question waits for an answer; there are: {listed}")
        given: str = typer.prompt(chosen.prompt) if text is None else text
        await store.tell(run_id, answer_entry(chosen.id, given))
        info = await store.info(run_id)
    if info.claimed_by is None:
        typer.echo("The answer is recorded; it counts as soon as the run is resumed.", err=True)


async def _cancel(run_id: str, path: Path | None) -> None:
    from miniagents.ext.checkpoints import NewEntry, RunClaimedError

    async with _store(path) as store:
        try:
            claim = await store.claim(run_id)
        except RunClaimedError:
            await store.tell(run_id, NewEntry("cancel", attempt=time.time_ns() >> 10))
            return
        async with claim:
            ended = any(entry.kind == "ended" for entry in await store.read(run_id))
            if not ended:
                await store.append(claim, [NewEntry("ended", data={"status": "cancelled"})], status="cancelled")


def _row(info: "RunInfo") -> tuple[str, ...]:
    return info.run_id, info.workflow, info.status, _moment(info.created), info.claimed_by or ""


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _told(data: Any) -> str:
    if not isinstance(data, dict):
        return ""
    return ", ".join(f"{key}={value!r:.60}" for key, value in data.items() if value not in (None, [], {}))


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
