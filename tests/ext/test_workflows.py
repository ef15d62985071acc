"""Workflows: states that name each other, meet again, fail, are undone, ask people, and are resumed."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from miniagents import MiniAgents
from miniagents.ext.checkpoints import RunClaimedError, SQLiteCheckpointStore
from miniagents.ext.workflow import (
    Agent,
    AgentStatus,
    Checkpoint,
    Context,
    DependencyError,
    DependencyType,
    StateConflictError,
    StateResult,
    StateStatus,
    TypedContextData,
    UnknownStateError,
    WorkflowCancelledError,
    WorkflowChangedError,
    WorkflowError,
)
from miniagents.ext.workflow.events import WorkflowFinished
from miniagents.testing import Timeline, run_with_virtual_clock


@dataclass
class Profile(TypedContextData):
    name: str
    age: int


def returning(result: StateResult, seconds: float = 0.0, **values: Any) -> Callable[[Context], Awaitable[StateResult]]:
    async def state(context: Context) -> StateResult:
        await asyncio.sleep(seconds)
        for key, value in values.items():
            context.set_state(key, value)
        return result

    return state


def test_branches_meet_again_once() -> None:
    """States side by side take the time of the longest; the state that all of them name runs once, at the end."""

    async def test() -> None:
        agent = Agent("w", ask=None)
        seen: list[Any] = []

        async def merge(context: Context) -> None:
            seen.append((context.get_state("a"), context.get_state("b")))

        agent.add_state("start", returning(["a", "b"]))
        agent.add_state("a", returning("merge", 1, a=1), next_states=["merge"])
        agent.add_state("b", returning("merge", 3, b=2), next_states=["merge"])
        agent.add_state("merge", merge)
        timeline = Timeline()
        assert await agent.run() == {"a": 1, "b": 2}
        assert (timeline.elapsed, seen) == (3, [(1, 2)])
        assert agent.status is AgentStatus.COMPLETED
        assert agent.completed_states == {"start", "a", "b", "merge"}
        assert agent.state_metadata["a"].status is StateStatus.COMPLETED

    run_with_virtual_clock(test())


def test_typed_values() -> None:
    """Typed values are kept, updated and checked."""

    async def test() -> None:
        async def state(context: Context) -> None:
            context.set_typed("user", Profile("Ada", 1))
            context.update_typed("user", age=2)
            assert context.get_typed("user", Profile).age == 2
            with pytest.raises(TypeError, match="not a int"):
                context.get_typed("user", int)
            with pytest.raises(TypeError, match="without a field sex"):
                context.update_typed("user", sex="f")

        agent = Agent("w", ask=None)
        agent.add_state("state", state)
        assert await agent.run() == {"user": Profile("Ada", 2)}

    run_with_virtual_clock(test())


def test_dependencies_start_states() -> None:
    """A state with dependencies starts when they are met; one that can never start ends the run with the reason."""

    async def test() -> None:
        agent = Agent("w", ask=None)
        agent.add_state("a", returning("b", 1))
        agent.add_state("b", returning(None, 5))
        agent.add_state("after", returning(None, 1, after=True), dependencies={"a": DependencyType.REQUIRED})
        timeline = Timeline()
        assert await agent.run() == {"after": True}
        assert timeline.elapsed == 6
        agent.add_state("never", returning(None))
        agent.add_state("waits", returning(None), dependencies={"never": DependencyType.REQUIRED})
        with pytest.raises(DependencyError, match="waits for ever: never has not completed"):
            await agent.run()

    run_with_virtual_clock(test())


def test_names_of_no_state() -> None:
    """A state that nobody has added is an error that lists the known ones; two names just end a branch."""

    async def test() -> None:
        agent = Agent("w", ask=None)
        agent.add_state("a", returning("nowhere"))
        with pytest.raises(UnknownStateError, match="'nowhere'.*there are: a"):
            await agent.run()
        agent = Agent("w", ask=None)
        agent.add_state("a", returning("await_completion", a=1))
        assert await agent.run() == {"a": 1}

    run_with_virtual_clock(test())


def test_failures_are_undone_in_reverse() -> None:
    """The state that failed for good is compensated, then the completed ones, the last first; the error is raised."""

    async def test() -> None:
        log: list[str] = []

        def noting(name: str, result: StateResult = None) -> Callable[[Context], Awaitable[StateResult]]:
            async def state(context: Context) -> StateResult:
                log.append(name)
                context.set_state("last", name)
                if name == "three":
                    raise ValueError("boom")
                return result

            return state

        agent = Agent("saga", ask=None)
        agent.add_state("one", noting("one", "two"), compensation=noting("undo one"))
        agent.add_state("two", noting("two", "three"))
        agent.add_state("two_compensation", noting("undo two"))
        agent.add_state("three", noting("three"), max_retries=1, compensation=noting("undo three"))
        with pytest.raises(ValueError, match="boom"):
            await agent.run()
        assert log == ["one", "two", "three", "three", "undo three", "undo two", "undo one"]
        assert agent.status is AgentStatus.FAILED

    run_with_virtual_clock(test())


@pytest.mark.parametrize("reducers", [{}, {"key": lambda old, new: old + new}])
def test_writes_side_by_side(reducers: Any) -> None:
    """Two states side by side that set one key are an error, unless it is said how to put the values together."""

    async def test() -> None:
        agent = Agent("w", ask=None, reducers=reducers)
        agent.add_state("start", returning(["left", "right"]))
        agent.add_state("left", returning(None, 1, key=1))
        agent.add_state("right", returning(None, 2, key=2))
        if reducers:
            assert await agent.run() == {"key": 3}
        else:
            with pytest.raises(StateConflictError, match="'key'"):
                await agent.run()

    run_with_virtual_clock(test())


def test_questions_are_asked_again_and_taken_along() -> None:
    """An answer that will not do is asked for again; a paused run goes on from its checkpoint in another agent."""

    async def test() -> None:
        async def ask(context: Context) -> None:
            score = await context.human_in_the_loop("Score?", 100, lambda text: int(text) <= 100, "50")
            context.set_state("score", int(score))

        agent = Agent("asks", ask=None)
        agent.add_state("first", returning("ask", first=1))
        agent.add_state("ask", ask)
        run = asyncio.ensure_future(agent.run())
        await asyncio.sleep(1)
        (question,) = await agent.open_questions()
        checkpoint = await agent.pause()
        assert agent.status is AgentStatus.PAUSED
        await agent.resume()
        for text in ("nonsense", "200", "7"):
            await asyncio.sleep(1)
            await agent.answer(None, question.id, text)
        assert await run == {"first": 1, "score": 7}

        restored = Agent("another", ask=None)
        await restored.restore_from_checkpoint(Checkpoint.from_dict(json.loads(json.dumps(checkpoint.to_dict()))))
        restored.add_state("first", returning("never", first=2))
        restored.add_state("ask", ask)
        assert await restored.run() == {"first": 1, "score": 50}  # nobody answers in time

    run_with_virtual_clock(test())


def test_stopping() -> None:
    """A run that takes too long, or is cancelled, ends with an error that says so."""

    async def test() -> None:
        agent = Agent("slow", ask=None)
        agent.add_state("slow", returning(None, 1000))
        timeline = Timeline()
        with pytest.raises(TimeoutError, match="longer than 5 s"):
            await agent.run(timeout=5)
        assert timeline.elapsed == 5
        run = asyncio.ensure_future(agent.run())
        await asyncio.sleep(1)
        await agent.cancel_all()
        with pytest.raises(WorkflowCancelledError):
            await run
        assert agent.status is AgentStatus.CANCELLED

    run_with_virtual_clock(test())


def test_another_workflow_goes_on() -> None:
    """A state can go on with a state of another workflow, which shares the state."""

    async def test() -> None:
        other = Agent("other", ask=None)
        other.add_state("unused", returning(None, unused=True))

        async def add(context: Context) -> None:
            context.set_state("sum", context.get_state("value") + 1)

        other.add_state("add", add)
        agent = Agent("first", ask=None)
        agent.add_state("start", returning((other, "add"), value=1))
        assert await agent.run() == {"value": 1, "sum": 2}

    run_with_virtual_clock(test())


def test_a_workflow_is_an_agent() -> None:
    """Its reply tells the progress, and ends with the end of the run."""

    async def test() -> None:
        agent = Agent("w", ask=None)
        agent.add_state("a", returning("b"))
        agent.add_state("b", returning(None))
        async with MiniAgents():
            events = await agent.inquire()
        told = [(type(event).__name__, getattr(event, "node", None)) for event in events]
        assert told == [
            ("NodeStarted", "a"), ("NodeFinished", "a"), ("DecisionTaken", "a"),
            ("NodeStarted", "b"), ("NodeFinished", "b"), ("WorkflowFinished", None),
        ]  # fmt: skip
        assert isinstance(events[-1], WorkflowFinished)

    run_with_virtual_clock(test())


def recorded(store: SQLiteCheckpointStore, log: Path, count: int = 3) -> Agent:
    """A workflow with branches, a retry and a question, which notes what it does."""

    def note(text: str) -> None:
        with log.open("a") as file:
            file.write(f"{text}\n")

    agent = Agent("recorded", store=store, ask=None)
    agent.add_state("start", returning([f"part{number}" for number in range(count)]))
    for number in range(count):

        async def part(context: Context, number: int = number) -> str:
            note(f"part{number}")
            await asyncio.sleep(0.02 * number)
            context.set_state(f"part{number}", number)
            return "merge"

        agent.add_state(f"part{number}", part, next_states=["merge"])

    async def merge(context: Context) -> str:
        if context.attempt == 1:
            raise ValueError("not yet")
        context.set_state("sum", sum(context.get_state(f"part{number}") for number in range(count)))
        return "ask"

    async def ask(context: Context) -> None:
        context.set_state("said", await context.human_in_the_loop("Well?"))

    agent.add_state("merge", merge, max_retries=1)
    agent.add_state("ask", ask)
    return agent


RESULT = {"part0": 0, "part1": 1, "part2": 2, "sum": 3, "said": "yes"}


def start(folder: Path, resume: bool) -> None:
    async def work() -> None:
        async with SQLiteCheckpointStore(folder / "runs.db") as store:
            agent = recorded(store, folder / "log")
            await (agent.resume_run("run") if resume else agent.run("run"))

    asyncio.run(work())


async def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """A run that was killed while it waited is resumed in a new process; completed states are not run again."""
    process = get_context("fork").Process(target=start, args=(tmp_path, False))
    process.start()
    async with SQLiteCheckpointStore(tmp_path / "runs.db") as store:
        agent = recorded(store, tmp_path / "log")
        while not any(run.run_id == "run" for run in await store.runs()):
            await asyncio.sleep(0.01)
        seen = 0
        while not await agent.open_questions("run"):
            await store.wait("run", seen)
            seen = len(await store.read("run"))
        with pytest.raises(RunClaimedError):
            await agent.resume_run("run")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        (question,) = await agent.open_questions("run")
        await agent.answer("run", question.id, "yes")
        assert await agent.resume_run("run") == RESULT
        assert await agent.resume_run("run") == RESULT  # it has ended, and is not run again
    assert sorted((tmp_path / "log").read_text().split()) == ["part0", "part1", "part2"]


async def test_a_changed_workflow_is_not_resumed(tmp_path: Path) -> None:
    """What has changed is named; what has ended is not resumed."""
    async with SQLiteCheckpointStore(tmp_path / "runs.db") as store:
        agent = Agent("w", store=store, ask=None)
        agent.add_state("a", returning(None, 1000))
        with pytest.raises(TimeoutError):
            await agent.run("one", timeout=0.01)
        agent.add_state("b", returning(None), dependencies={"a": DependencyType.OPTIONAL})
        with pytest.raises(WorkflowChangedError, match="the state 'b' is new"):
            await agent.resume_run("one")
        run = asyncio.ensure_future(agent.run("two"))
        while agent.status is not AgentStatus.RUNNING or agent.run_id != "two" or not agent._running_states:
            await asyncio.sleep(0.01)
        await agent.cancel_all()
        with pytest.raises(WorkflowCancelledError):
            await run
        with pytest.raises(WorkflowError, match="has cancelled|was cancelled|cancelled"):
            await agent.resume_run("two")
