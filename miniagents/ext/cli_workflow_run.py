"""What `miniagents workflow run` and `resume` do: a run with its progress, and what it asks where nobody is at hand."""

import asyncio
import sys
import time
from collections.abc import Collection, Iterable
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypeAlias

import typer

from miniagents.agents import MiniAgent, miniagent
from miniagents.context import MiniAgents
from miniagents.interaction import InteractionContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents.ext.checkpoints import CheckpointStore, Entry
    from miniagents.ext.graph.progress import Progress
    from miniagents.ext.workflow import Agent
    from miniagents.ext.workflow.questions import OpenQuestion
    from miniagents.ext.workflow.run import WorkflowRun

    _Asked: TypeAlias = tuple[OpenQuestion, int]  # a question, and how many answers were refused

__all__ = ["CommandError", "moment", "naming_missing_run", "run_here", "say", "store_option"]

_FOLLOWS_EVERY = 0.1
"""How many seconds a question may take to be told, so that following a run of many states costs next to nothing."""
_OF_QUESTIONS = frozenset({"question", "answer", "refused"})


class CommandError(Exception):
    """What a command cannot do, in the words of the command line."""


def say(text: str) -> None:
    """Tells the person a line on standard error; above the live table, if there is one."""
    print(text, file=sys.stderr)  # not `typer.echo`, which goes past what the table puts in the place of `sys.stderr`


def moment(seconds: float) -> str:
    """Says when something was, or will be."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def store_option(store: "CheckpointStore") -> str | None:
    """Makes the option that has other commands look into the same store.

    Args:
        store: The store.

    Returns:
        The option, with a space before it; nothing for the user's own file; None if commands cannot look into it.
    """
    from miniagents.ext.checkpoints import SQLiteCheckpointStore

    if not isinstance(store, SQLiteCheckpointStore):
        return None
    if store.path.absolute() == SQLiteCheckpointStore().path.absolute():
        return ""
    return f" --store {quote(str(store.path.absolute()))}"


@contextmanager
def naming_missing_run(run_id: str | None, store: "CheckpointStore") -> "Iterator[None]":
    """Says inside, in the words of the command line, that a run is not there."""
    from miniagents.ext.checkpoints import RunNotFoundError

    try:
        yield
    except RunNotFoundError as error:
        option = store_option(store)
        if run_id is None or option is None:
            raise
        text = f"there is no run {run_id} in {_place_of(store)}; see `miniagents workflow list{option}`"
        raise CommandError(text) from error


async def run_here(agent: Any, path: Path | None, *, run_id: str | None, **arguments: Any) -> None:
    """Runs a workflow, or goes on with a run, and shows its progress and its result.

    Args:
        agent: The workflow.
        path: The SQLite file of runs; that of the workflow, or of the user, otherwise.
        run_id: The id of the run; made up otherwise.
        **arguments: Further arguments of the workflow.

    Raises:
        CommandError: It is no workflow, or there is no such run.
        BaseException: What the run fails with.
    """
    from miniagents.ext.checkpoints import SQLiteCheckpointStore
    from miniagents.ext.graph.progress import Progress
    from miniagents.ext.workflow import Agent
    from miniagents.ext.workflow.console import console_asker

    if not isinstance(agent, Agent):
        raise CommandError(f"{agent.alias} is no workflow; run it with `miniagents graph run`")
    if agent.store is None or path is not None:
        agent.store = SQLiteCheckpointStore(path)
    progress = Progress(agent.alias, lambda: _resources(agent))
    if agent.ask is console_asker:
        agent.ask = _asks_beside(progress)
    with naming_missing_run(run_id, agent.store):
        result = await _run_shown(agent, agent.store, progress, run_id=run_id, **arguments)
    for key, value in result.items():
        typer.echo(f"{key} = {value!r:.200}")


async def _run_shown(
    agent: "Agent", store: "CheckpointStore", progress: "Progress", **arguments: Any
) -> dict[str, Any]:
    """Runs a workflow, and shows its progress; beside it what it asks, unless there is an agent that does."""
    result: dict[str, Any] = {}
    followers: list[asyncio.Task[None]] = []

    def begun(run: "WorkflowRun") -> None:
        say(f"run {run.run_id}, recorded in {_place_of(store)}")
        if agent.ask is None:
            followers.append(asyncio.ensure_future(_Follower(store, agent.states).follow(run.run_id)))

    async with store, MiniAgents():
        try:
            await progress.show(agent.inquire(result=result, on_begin=begun, **arguments))
        finally:
            for follower in followers:
                follower.cancel()
            await asyncio.gather(*followers, return_exceptions=True)  # what ails the store is told by the run
    return result


def _place_of(store: "CheckpointStore") -> str:
    from miniagents.ext.checkpoints import SQLiteCheckpointStore

    return str(store.path.absolute()) if isinstance(store, SQLiteCheckpointStore) else repr(store)


class _Follower:
    """Says what a run asks people, and which of their answers will not do; of its parts, which are runs, too.

    Args:
        store: Where the run is recorded.
        states: The states of the workflow. Others that have started stand for parts.
    """

    def __init__(self, store: "CheckpointStore", states: Collection[str]) -> None:
        self._store = store
        self._states = states
        self._followed: set[str] = set()

    async def follow(self, run_id: str) -> None:
        """Follows a run, which may not be there yet, until it is cancelled."""
        from miniagents.ext.checkpoints import RunNotFoundError, StoreLockedError, StoreUnavailableError

        self._followed.add(run_id)
        known: list[Entry] = []
        told: dict[str, _Asked] = {}
        last = 0
        async with asyncio.TaskGroup() as parts:
            while True:
                try:
                    await self._store.wait(run_id, after=last)
                    news = await self._store.read(run_id, after=last)
                except (RunNotFoundError, StoreLockedError, StoreUnavailableError):
                    news = []
                for part in self._new_parts(run_id, news):
                    parts.create_task(self.follow(part))
                known, told = self._tell(run_id, known + news, told)
                last = news[-1].sequence if news else last
                await asyncio.sleep(_FOLLOWS_EVERY)

    def _new_parts(self, run_id: str, news: "Iterable[Entry]") -> list[str]:
        from miniagents.ext.workflow.opening import part_run_id

        parts = {
            part_run_id(run_id, entry.node, entry.visit)
            for entry in news
            if entry.kind == "started" and "." in entry.node and entry.node not in self._states
        }
        return list(parts - self._followed)

    def _tell(
        self, run_id: str, known: "list[Entry]", told: "dict[str, _Asked]"
    ) -> "tuple[list[Entry], dict[str, _Asked]]":
        """Says what is asked anew, unless an answer is there that may do.

        Args:
            run_id: The run.
            known: What has happened in it, as far as it has to do with questions that may be open.
            told: What was told before of each open question.

        Returns:
            The same two without what is over.
        """
        from miniagents.ext.workflow.questions import open_questions_of, pending_answers_of

        asked, pending = {question.id: question for question in open_questions_of(known)}, pending_answers_of(known)
        known = [entry for entry in known if entry.kind in _OF_QUESTIONS and entry.data["id"] in asked]
        told = {key: before for key, before in told.items() if key in asked}
        for key in [key for key in asked if key not in pending]:
            refused = [entry.data["text"] for entry in known if entry.kind == "refused" and entry.data["id"] == key]
            now = asked[key], len(refused)
            if told.get(key) != now:
                told[key] = now
                say((f"{refused[-1]!r} will not do. " if refused else "") + self._asking(run_id, asked[key]))
        return known, told

    def _asking(self, run_id: str, question: "OpenQuestion") -> str:
        until = "" if question.deadline is None else f", until {moment(question.deadline)},"
        option = store_option(self._store)
        if option is None:
            how = f"await agent.answer({run_id!r}, {question.id!r}, TEXT)"
        else:
            how = f"miniagents workflow answer {quote(run_id)} {quote(question.id)}{option}"
        return f"{question.state} asks ({question.id}): {question.prompt}\nanswer{until} with: {how}"


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
