"""Recorded runs: taken up wherever they stopped, by one process at a time, with the workflow that they began with."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import pytest

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.checkpoints import (
    CheckpointStore,
    CheckpointStoreError,
    Claim,
    Entry,
    NewEntry,
    RunClaimedError,
    RunExistsError,
    RunNotFoundError,
    SQLiteCheckpointStore,
    StaleClaimError,
    StoreUnavailableError,
)
from miniagents.ext.workflow import (
    Agent,
    AgentStatus,
    Context,
    DependencyConfig,
    DependencyLifecycle,
    DependencyType,
    RetryPolicy,
    StateStatus,
    StateTypeError,
    UnknownStateError,
    WorkflowChangedError,
    WorkflowError,
)
from miniagents.ext.workflow.journal import Journal
from tests.ext.workflow.helpers import Log, agent_of, expire_claim, goes_to, started_task, stopped, until_recorded

AT_ONCE = RetryPolicy(max_retries=2, initial_delay=0, jitter=False)


# --- a run that stops at any moment ---


class Dying(SQLiteCheckpointStore):
    """A store that works so many times, and then seems to be gone, before or after it has written once more."""

    left = 0
    writes_once_more = False

    async def append(self, claim: Claim, entries: Any, *, status: str | None = None) -> list[Entry]:
        self.left -= 1
        if self.left < 0:
            if self.left == -1 and self.writes_once_more:
                await super().append(claim, entries, status=status)
            raise StoreUnavailableError("the store is gone")
        return await super().append(claim, entries, status=status)


Make = Callable[[CheckpointStore, dict[str, int]], Agent]


def all_at_once(store: CheckpointStore, done: dict[str, int]) -> Agent:
    """A workflow of parallel states in groups inside of groups, retries, loops, a question, reducers and a part."""
    other = Agent("other", ask=None)

    @other.state
    async def double(context: Context) -> str:
        context.set_state("numbers", [number * 2 for number in context.get_state("numbers")])
        context.set_state("log", ["double"])
        return "count"

    @other.state
    async def count(context: Context) -> None:
        once(context)
        context.set_state("log", ["count"])
        context.set_state("count", len(context.get_state("numbers")))

    @miniagent
    async def person(ctx: InteractionContext) -> None:
        ctx.reply("17")

    def once(context: Context) -> None:
        done.setdefault(context.idempotency_key, len(done))

    agent = Agent("work", store=store, ask=person, reducers={"log": lambda there, more: sorted(there + more)})

    @agent.state
    async def start(context: Context) -> list[str]:
        once(context)
        context.set_state("numbers", [1])
        context.set_state("log", ["start"])
        return ["left", "right"]

    @agent.state
    async def left(context: Context) -> list[str]:
        return ["left1", "left2"]

    @agent.state
    async def left1(context: Context) -> str:
        once(context)
        context.set_state("log", ["left1"])
        return "left_end"

    @agent.state(retry_policy=AT_ONCE)
    async def left2(context: Context) -> str:
        once(context)
        if context.attempt < 3:
            raise ValueError
        context.set_state("log", ["left2"])
        return "left_end"

    @agent.state
    async def left_end(context: Context) -> str:
        context.get_state("numbers").append(2)
        return "merge"

    @agent.state
    async def right(context: Context) -> str:
        once(context)
        number = context.get_state("right", 0) + 1
        context.set_state("right", number)
        return "right" if number < 3 else "ask"

    @agent.state
    async def ask(context: Context) -> str:
        context.set_state("said", int(await context.human_in_the_loop("How many?", validator=str.isdigit)))
        return "merge"

    @agent.state
    async def merge(context: Context) -> Any:
        once(context)
        context.get_state("numbers").append(context.get_state("said"))
        return other, "double"

    @agent.state(dependencies={"merge": DependencyType.REQUIRED, "ask": DependencyType.OPTIONAL})
    async def after(context: Context) -> None:
        once(context)
        context.set_state("log", ["after"])

    return agent


ALL_AT_ONCE = {
    "numbers": [2, 4, 34],
    "log": ["after", "count", "double", "left1", "left2", "start"],
    "right": 3,
    "said": 17,
    "count": 3,
}


def failing(store: CheckpointStore, done: dict[str, int]) -> Agent:
    """A workflow of parallel states one of which fails for good, so that all that was done is undone."""
    agent = Agent("work", store=store, ask=None, reducers={"undone": lambda there, more: there + more})

    def undo(name: str) -> Callable[[Context], Awaitable[None]]:
        async def work(context: Context) -> None:
            done.setdefault(context.idempotency_key, len(done))
            context.set_state("undone", [name])

        return work

    agent.add_state("start", goes_to("start", ["a", "fail", "tolerated"]), compensation=undo("start"))
    agent.add_state("a", goes_to("a", "a2"), compensation=undo("a"), next_states=["a2"])
    agent.add_state("a2", goes_to("a2", None), compensation=undo("a2"), next_states=[])

    async def fail(context: Context) -> None:
        await asyncio.sleep(1)
        raise ValueError("boom")

    agent.add_state("fail", fail, retry_policy=AT_ONCE, compensation=undo("fail"))
    agent.add_state("tolerated", fail)
    agent.add_state("late", goes_to("late", None), dependencies={"tolerated": DependencyType.SEQUENTIAL})
    return agent


async def lives(make: Make, path: Any, moment: int, *, writes: bool) -> tuple[dict[str, int], Agent, Any]:
    """Runs a workflow whose process is gone at that moment, and takes it up again. None if it ended before."""
    done: dict[str, int] = {}
    async with Dying(path, synchronous="OFF") as dying:
        dying.left, dying.writes_once_more = moment, writes
        try:
            await make(dying, done).run(run_id="r")
        except StoreUnavailableError:
            pass
        except Exception as error:
            return done, make(dying, done), error
        else:
            return done, make(dying, done), None
    async with SQLiteCheckpointStore(path, synchronous="OFF") as store:
        agent = make(store, done)
        try:
            return done, agent, await agent.resume_run("r")
        except Exception as error:
            return done, agent, error


@pytest.mark.parametrize("writes", [False, True])
async def test_a_run_that_stops_at_any_moment(tmp_path: Any, writes: bool) -> None:
    """Wherever a run stops, before or after something is written, the resumed one ends like an undisturbed one."""
    undisturbed: dict[str, int] = {}
    async with SQLiteCheckpointStore(tmp_path / "whole.db", synchronous="OFF") as store:
        assert await all_at_once(store, undisturbed).run(run_id="r") == ALL_AT_ONCE
    for moment in range(1000):
        done, _, result = await lives(all_at_once, tmp_path / f"{moment}.db", moment, writes=writes)
        if result is None:
            break
        assert result == ALL_AT_ONCE, moment
        assert done.keys() == undisturbed.keys(), moment
    assert moment > 15


@pytest.mark.parametrize("writes", [False, True])
async def test_a_failing_run_that_stops_at_any_moment(tmp_path: Any, writes: bool) -> None:
    """What has to be undone is undone once, in the same order, and the error is the same."""
    for moment in range(1000):
        done, agent, result = await lives(failing, tmp_path / f"{moment}.db", moment, writes=writes)
        if agent.status is AgentStatus.IDLE:
            break
        if isinstance(result, WorkflowError):  # it was just recorded that it has failed
            assert "has failed" in str(result)
            continue
        assert isinstance(result, ValueError), moment
        assert str(result) == "boom"
        assert agent.get_state("undone") == ["fail", "a2", "a", "start"], moment
        assert len(done) == 4
    assert moment > 9


# --- what is run again ---


async def test_completed_states_are_not_run_again(any_store: CheckpointStore) -> None:
    """A new object of the same workflow goes on; what was at work is tried again, as a further attempt."""
    log = Log()

    def made() -> Agent:
        async def slow(context: Context) -> str:
            log.write(f"slow {context.attempt} {context.idempotency_key}")
            if context.attempt < 3:
                await asyncio.sleep(1000)
            return "end"

        return agent_of(log.state("start", "slow", key=[1]), slow, log.state("end"), store=any_store)

    for attempt in (1, 2):
        agent = made()
        task = started_task(agent.run(run_id="r") if attempt == 1 else agent.resume_run("r"))
        while log.lines[-1:] != [f"0 slow {attempt} r/slow/1"]:
            await asyncio.sleep(0)
        await stopped(task)
    agent = made()
    assert await agent.resume_run("r") == {"key": [1]}
    assert [line[2:] for line in log.lines] == ["start", "slow 1 r/slow/1", "slow 2 r/slow/1", "slow 3 r/slow/1", "end"]
    assert (agent.status, agent.run_id) == (AgentStatus.COMPLETED, "r")
    assert agent.completed_states == {"start", "slow", "end"}
    assert agent.state_metadata["slow"].attempts == 3
    info = await any_store.info("r")
    assert (info.workflow, info.status, info.claimed_by) == ("work", "completed", None)


async def test_an_attempt_is_recorded_before_it_begins(store: CheckpointStore) -> None:
    """When a state is called, that is known already to whoever would take up the run."""
    seen = []

    async def look(context: Context) -> Any:
        entries = [(one.node, one.visit, one.attempt) for one in await store.read("r") if one.kind == "started"]
        key = (context.state_name, int(context.idempotency_key[-1]), context.attempt)
        seen.append((key, entries.count(key)))
        if context.attempt == 1 and context.state_name == "b":
            raise ValueError
        return {"start": ["a", "b"], "a": "end", "b": "end"}.get(context.state_name)

    agent = Agent("work", store=store, ask=None)
    for name in ("start", "a", "b", "end"):
        agent.add_state(name, look, retry_policy=AT_ONCE)
    agent.add_state("late", look, dependencies={"end": DependencyType.REQUIRED})
    await agent.run(run_id="r")
    assert len(seen) == 6
    assert all(count == 1 for _, count in seen)


async def test_who_waits_for_a_place_has_not_been_tried(store: CheckpointStore) -> None:
    """An attempt counts from its beginning: a state that only waited when the process died has its first one then."""
    attempts = []

    def made() -> Agent:
        async def work(context: Context) -> None:
            attempts.append((context.state_name, context.attempt))
            await asyncio.sleep(1000 if len(attempts) == 1 else 1)

        agent = Agent("work", max_concurrent=1, store=store, ask=None)
        agent.add_state("start", goes_to("start", ["a", "b"]))
        agent.add_state("a", work)
        agent.add_state("b", work)
        return agent

    task = started_task(made().run(run_id="r"))
    await until_recorded(store, "r", "started", 2)
    await stopped(task)
    await made().resume_run("r")
    assert attempts == [("a", 1), ("a", 2), ("b", 1)]


async def test_what_has_come_of_a_state_is_recorded_before_anything_follows(any_store: CheckpointStore) -> None:
    """When a state begins, all that it follows from is known already to whoever would take up the run."""

    async def look(context: Context) -> Any:
        recorded = {one.node for one in await any_store.read("r") if one.kind == "finished"}
        assert recorded >= {"start": set(), "a": {"start"}, "b": {"start"}, "end": {"a", "b"}}[context.state_name]
        return {"start": ["a", "b"], "a": "end", "b": "end"}.get(context.state_name)

    agent = Agent("work", store=any_store, ask=None)
    for name in ("start", "a", "b", "end"):
        agent.add_state(name, look)
    await agent.run(run_id="r")


async def test_two_that_name_one_state_at_the_same_moment(store: CheckpointStore) -> None:
    """States that are no group name the next one: it runs for each of them, or once for both, in any process."""
    log = Log()

    def made() -> Agent:
        agent = agent_of(goes_to("start", None), log.state("end", None, 1), store=store)
        for name in ("a", "b", "c"):
            agent.add_state(name, log.state(name, "end", 5), dependencies={"start": DependencyType.REQUIRED})
        return agent

    agent = made()
    await agent.run(run_id="r")
    visits = agent.state_metadata["end"].visits
    assert visits in (1, 2)
    agent = made()
    await agent.resume_run("r")
    assert agent.state_metadata["end"].visits == visits


async def test_nothing_is_added_to_a_journal_with_a_hole(tmp_path: Any) -> None:
    """What could not be recorded is not followed by what came after it, though the store works again."""
    async with Dying(tmp_path / "runs.db") as dying:
        await dying.create("r", workflow="work")
        async with await dying.claim("r") as claim:
            journal = Journal(dying, claim)
            dying.left = 0
            with pytest.raises(StoreUnavailableError):
                await journal.add(NewEntry("finished", "a"))
            dying.left = 100
            with pytest.raises(StoreUnavailableError):
                await journal.add(NewEntry("finished", "b"))
            await journal.flush()
            assert await dying.read("r") == journal.entries == []


async def test_entries_are_added_together_and_in_order(store: CheckpointStore) -> None:
    """What is written while the disk is busy is added in one go, each entry where it was given."""
    await store.create("r", workflow="work")
    async with await store.claim("r") as claim:
        journal = Journal(store, claim)
        writings = [journal.add(NewEntry("note", f"{number}")) for number in range(100)]
        wrong = journal.add(NewEntry("note", "wrong", data=object()))
        writings.append(journal.add(NewEntry("note", "100")))
        await asyncio.gather(*writings)
        with pytest.raises(TypeError):
            await wrong
        assert [entry.node for entry in await store.read("r")] == [f"{number}" for number in range(101)]


async def test_a_run_that_has_completed_is_just_read(store: CheckpointStore) -> None:
    """Resuming it gives its result, and runs nothing."""
    log = Log()
    agent = agent_of(log.state("start", "end", key={"a": 1}), log.state("end"), store=store)
    assert await agent.run(run_id="r") == {"key": {"a": 1}}
    entries = await store.read("r")
    assert await agent.resume_run("r") == {"key": {"a": 1}}
    assert log.lines == ["0 start", "0 end"]
    assert await store.read("r") == entries


async def test_a_run_that_has_failed_is_not_resumed(store: CheckpointStore) -> None:
    """It has failed for good, and was compensated."""

    async def fail(context: Context) -> None:
        raise ValueError("boom")

    agent = agent_of(fail, store=store)
    with pytest.raises(ValueError):
        await agent.run(run_id="r")
    assert (await store.info("r")).status == "failed"
    with pytest.raises(WorkflowError, match=r"the run r has failed \(ValueError: boom\), so that it cannot be resumed"):
        await agent.resume_run("r")


async def test_a_run_that_has_timed_out_is_resumed(store: CheckpointStore) -> None:
    """The limit counts for each process anew."""

    async def slow(context: Context) -> None:
        await asyncio.sleep(100 if context.attempt == 1 else 1)
        context.set_state("attempt", context.attempt)

    agent = agent_of(slow, store=store)
    with pytest.raises(TimeoutError):
        await agent.run(run_id="r", timeout=5)
    assert (await store.info("r")).status == "running"
    assert await agent.resume_run("r", timeout=5) == {"attempt": 2}


async def test_a_cancelled_state_stays_cancelled(store: CheckpointStore) -> None:
    """Who resumes the run does not begin it again."""
    log = Log()

    def made() -> Agent:
        agent = agent_of(goes_to("start", ["a", "b"]), log.state("end"), store=store)
        agent.add_state("a", log.state("a", "end", 100))
        agent.add_state("b", log.state("b", "end", 10))
        return agent

    agent = made()
    task = started_task(agent.run(run_id="r"))
    await asyncio.sleep(1)
    assert agent.cancel_state("a")
    await until_recorded(store, "r", "cancelled")
    await stopped(task)
    agent = made()
    await agent.resume_run("r")
    assert [line.partition(" ")[2] for line in log.lines] == ["a", "b", "b", "b ends", "end"]
    assert agent.state_metadata["a"].status is StateStatus.CANCELLED


async def test_what_a_run_was_given_is_recorded(store: CheckpointStore) -> None:
    """Messages, and which dependencies were met before, are there in the next process, too."""
    seen = []

    def made() -> Agent:
        agent = Agent("work", store=store, ask=None)

        @agent.state
        async def start(context: Context) -> str | None:
            if context.attempt == 1 and context.run_id == "second":
                await asyncio.sleep(1000)
            seen.append([str(message) for message in await context.message_promises])
            return "setup" if context.run_id == "first" else None

        agent.add_state("setup", goes_to("setup", None))
        once = DependencyConfig(DependencyType.REQUIRED, DependencyLifecycle.ONCE)
        agent.add_state("late", goes_to("late", None), dependencies={"setup": once})
        return agent

    agent = made()
    await agent.run(run_id="first")
    async with MiniAgents():
        replies = agent.inquire(["Hello", Message("you")], run_id="second")
        await until_recorded(store, "second", "started")
        replies.cancel()
    other = made()
    await other.resume_run("second")
    assert seen == [[], ["Hello", "you"]]
    assert other.completed_states == {"start", "late"}


async def test_messages_of_miniagents_are_recorded(store: CheckpointStore) -> None:
    """What a miniagent has replied is what the state that it names is sent, also in the next process."""
    spoken = []

    @miniagent
    async def writer(ctx: InteractionContext) -> None:
        spoken.append(1)
        ctx.reply(Message("A text", next_state="look", tags=("x",)))

    async def look(context: Context) -> None:
        if context.attempt == 1:
            await asyncio.sleep(1000)
        (message,) = await context.message_promises
        context.set_state("seen", message)

    def made() -> Agent:
        agent = Agent("work", store=store, ask=None)
        agent.add_state("writer", writer)
        agent.add_state("look", look)
        return agent

    task = started_task(made().run(run_id="r"))
    await until_recorded(store, "r", "started", 2)
    await stopped(task)
    assert await made().resume_run("r") == {"seen": Message("A text", next_state="look", tags=("x",))}
    assert spoken == [1]


async def test_a_state_that_was_named_while_it_ran_runs_again_after_a_restart(store: CheckpointStore) -> None:
    """Each visit that was asked for is made, whichever process makes it."""
    log = Log()

    def made() -> Agent:
        agent = agent_of(goes_to("start", ["slow", "quick"]), log.state("quick", None, 1), store=store)
        agent.add_state("slow", log.state("slow", None, 100))
        agent.add_state("again", goes_to("again", "slow"), dependencies={"quick": DependencyType.REQUIRED})
        return agent

    task = started_task(made().run(run_id="r"))
    await until_recorded(store, "r", "finished", 3)
    await stopped(task)
    agent = made()
    await agent.resume_run("r")
    assert agent.state_metadata["slow"].visits == 2
    assert [line.partition(" ")[2] for line in log.lines] == ["slow", "quick", "quick ends", *["slow", "slow ends"] * 2]


async def test_parts_are_resumed(store: CheckpointStore) -> None:
    """The states of a part that have completed are not run again either, though it has no store of its own."""
    log = Log()

    def made() -> Agent:
        other = agent_of(log.state("one", "two", 1, one=1), name="other")

        @other.state
        async def two(context: Context) -> None:
            log.write("two")
            if context.attempt == 1:
                await asyncio.sleep(1000)
            context.set_state("two", context.get_state("start") + context.get_state("one"))

        agents.append(other)  # it has to be there as long as the run
        return agent_of(log.state("start", (other, "one"), start=1), store=store)

    agents: list[Agent] = []
    task = started_task(made().run(run_id="r"))
    await until_recorded(store, "r/other.one/1", "started", 2)
    await stopped(task)
    agents.clear()
    assert await made().resume_run("r") == {"start": 1, "one": 1, "two": 2}
    assert [line.partition(" ")[2] for line in log.lines] == ["start", "one", "one ends", "two", "two"]


# --- which workflow ---


async def test_an_unknown_state_is_added_and_the_run_goes_on(any_store: CheckpointStore) -> None:
    """Nothing is lost by a name that nobody knows: with the state it names, the run is resumed."""
    log = Log()

    def made() -> Agent:
        return agent_of(log.state("start", "work", key=1), log.state("work", "finish"), store=any_store)

    with pytest.raises(UnknownStateError, match="work names 'finish'"):
        await made().run(run_id="r")
    agent = made()
    agent.add_state("finish", log.state("finish"), compensation=log.state("undo"))
    assert await agent.resume_run("r") == {"key": 1}
    assert log.lines == ["0 start", "0 work", "0 work", "0 finish"]


async def test_a_name_is_mended_and_the_run_goes_on(store: CheckpointStore) -> None:
    """The other way to mend it."""
    log = Log()
    with pytest.raises(UnknownStateError):
        await agent_of(log.state("start", "fnish"), log.state("finish"), store=store).run(run_id="r")
    await agent_of(log.state("start", "finish"), log.state("finish"), store=store).resume_run("r")
    assert log.lines == ["0 start", "0 start", "0 finish"]


async def test_states_that_were_added_while_the_run_went_on(store: CheckpointStore) -> None:
    """A process that has added them beforehand goes on; one that has not is told what is missing."""
    log = Log()

    def made() -> Agent:
        agent = Agent("work", store=store, ask=None)

        @agent.state
        async def start(context: Context) -> list[str]:
            add_chunks(agent)
            return ["chunk0", "chunk1"]

        return agent

    def add_chunks(agent: Agent) -> None:
        for number in range(2):
            agent.add_state(f"chunk{number}", log.state(f"chunk{number}", None, 100))

    task = started_task(made().run(run_id="r"))
    await until_recorded(store, "r", "started", 3)
    await stopped(task)
    with pytest.raises(UnknownStateError, match="the journal of the run names 'chunk0'"):
        await made().resume_run("r")
    agent = made()
    add_chunks(agent)
    await agent.resume_run("r")
    assert agent.completed_states == {"start", "chunk0", "chunk1"}


CHANGES: list[tuple[Callable[[Agent], None], str]] = [
    (lambda agent: agent.states.pop("b") and None, "the state 'b' is missing"),
    (lambda agent: agent.add_state("new", goes_to("new", None)), "the state 'new' is new"),
    (lambda agent: agent.states.update(a=agent.states.pop("a")), "the first state was 'a' and is 'b'"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
async def test_a_workflow_that_has_changed(
    store: CheckpointStore, change: Callable[[Agent], None], message: str
) -> None:
    """The error says how, and the run can still be resumed with the workflow as it was."""

    def made() -> Agent:
        return agent_of(goes_to("a", "b"), goes_to("b", None), store=store)

    task = started_task(made().run(run_id="r"))
    await stopped(task)
    await made().run(run_id="r2")
    changed = made()
    change(changed)
    with pytest.raises(WorkflowChangedError, match=f"the run r2 cannot be resumed, since work has changed: {message}"):
        await changed.resume_run("r2")
    await made().resume_run("r2")


async def test_dependencies_that_have_changed(store: CheckpointStore) -> None:
    """What they were and what they are is said, and so is another compensation."""

    def made(dependency: Any, compensation: Any) -> Agent:
        agent = agent_of(goes_to("a", None), goes_to("undo", None), store=store)
        agent.add_state("b", goes_to("b", None), dependencies={"a": dependency}, compensation=compensation)
        return agent

    await made(DependencyType.REQUIRED, None).run(run_id="r")
    await made(DependencyType.REQUIRED, None).resume_run("r")
    with pytest.raises(WorkflowChangedError, match=r"dependencies of 'b' were \['a \(required .*optional"):
        await made(DependencyType.OPTIONAL, None).resume_run("r")
    with pytest.raises(WorkflowChangedError, match=r"expiry=5"):
        await made(DependencyConfig(expiry=5), None).resume_run("r")
    with pytest.raises(WorkflowChangedError, match=r"the compensations of 'b' were none and are \['undo'\]"):
        await made(DependencyType.REQUIRED, "undo").resume_run("r")


async def test_other_names_in_the_source_are_no_change(store: CheckpointStore) -> None:
    """Which states meet where is recorded, so that a state may name others by then."""
    log = Log()

    def made(*successors: str) -> Agent:
        agent = agent_of(goes_to("start", ["a", "b"]), store=store)
        agent.add_state("a", log.state("a", "merge", 1), next_states=["merge"])
        agent.add_state("b", log.state("b", successors[0], 5), next_states=successors)
        agent.add_state("merge", log.state("merge"), next_states=[])
        return agent

    task = started_task(made("merge").run(run_id="r"))
    await until_recorded(store, "r", "finished", 2)
    await stopped(task)
    agent = made("await_processing")
    await agent.resume_run("r")
    assert agent.state_metadata["merge"].visits == 1
    assert log.lines[-1].endswith("merge")


# --- who works at it ---


async def test_one_of_two_that_resume_wins(any_store: CheckpointStore) -> None:
    """The other one is told who it is, and disturbs nobody."""
    log = Log()

    def made() -> Agent:
        return agent_of(log.state("start", "slow"), log.state("slow", None, 5), store=any_store)

    task = started_task(made().run(run_id="r"))
    await until_recorded(any_store, "r", "finished")
    await stopped(task)
    log.lines.clear()
    results = await asyncio.gather(made().resume_run("r"), made().resume_run("r"), return_exceptions=True)
    refused = [result for result in results if isinstance(result, RunClaimedError)]
    assert len(refused) == 1
    assert "the run r is claimed by" in str(refused[0])
    assert {} in results
    assert [line.partition(" ")[2] for line in log.lines] == ["slow", "slow ends"]


async def test_who_has_lost_a_run_stops_working_at_it(store: SQLiteCheckpointStore) -> None:
    """A process that was believed dead does not go on beside the one that has taken over."""
    log = Log()

    async def slow(context: Context) -> None:
        log.write(f"attempt {context.attempt}")
        try:
            await asyncio.sleep(1000 if context.attempt == 1 else 1)
        finally:
            log.write(f"end of {context.attempt}")

    first = agent_of(slow, store=store)
    task = started_task(first.run(run_id="r"))
    await until_recorded(store, "r", "started")
    async with SQLiteCheckpointStore(store.path, synchronous="OFF") as other:
        expire_claim(store.path, "r")
        second = started_task(agent_of(slow, store=other).resume_run("r"))
        await until_recorded(other, "r", "started", 2)
        for claim in store._claims:
            with pytest.raises(StaleClaimError):
                await claim.renew()
        with pytest.raises(StaleClaimError, match="taken over by another one"):
            await task
        await second
    assert [line.partition(" ")[2] for line in log.lines] == ["attempt 1", "attempt 2", "end of 1", "end of 2"]


async def test_ids_of_runs(any_store: CheckpointStore) -> None:
    """An id is used once; what is not there cannot be resumed; without a store nothing can."""
    agent = agent_of(goes_to("start", None), store=any_store)
    await agent.run(run_id="r")
    with pytest.raises(RunExistsError, match="there is a run r"):
        await agent.run(run_id="r")
    with pytest.raises(RunNotFoundError, match="there is no run r2"):
        await agent.resume_run("r2")
    with pytest.raises(WorkflowError, match="work has no store, so that nothing is known of runs; give it one"):
        await agent_of(goes_to("start", None)).resume_run("r")
    assert len(await any_store.runs()) == 1


# --- what cannot be stored ---


async def test_a_value_that_cannot_be_recorded(store: CheckpointStore) -> None:
    """It fails its state, with an error that says which value; what else is written at that moment is not lost."""
    calls = []

    async def wrong(context: Context) -> None:
        calls.append(1)
        context.set_state("client", {"http": object()})

    async def right(context: Context) -> None:
        context.set_state("fine", 1)

    agent = agent_of(goes_to("start", ["wrong", "right"]), right, store=store)
    agent.add_state("wrong", wrong, max_retries=3)
    with pytest.raises(StateTypeError, match=r"what wrong has set cannot be recorded: .*client\.http"):
        await agent.run(run_id="r")
    assert calls == [1]
    finished = {entry.node for entry in await store.read("r") if entry.kind == "finished"}
    assert finished == {"start", "right"}
    assert agent.state_metadata["wrong"].status is StateStatus.FAILED


async def test_a_store_that_fails_fails_no_state(tmp_path: Any) -> None:
    """The run ends with the error of the store: nothing is tried again, nothing compensated, so that it can go on."""
    log = Log()

    def made(store: CheckpointStore) -> Agent:
        agent = Agent("work", store=store, ask=None)
        agent.add_state("start", log.state("start", "work"), compensation=log.state("undo"))
        agent.add_state("work", log.state("work"), retry_policy=AT_ONCE)
        return agent

    async with Dying(tmp_path / "runs.db") as dying:
        dying.left = 3
        agent = made(dying)
        with pytest.raises(CheckpointStoreError, match="the store is gone"):
            await agent.run(run_id="r")
        assert agent.status is AgentStatus.FAILED
        dying.left = 100
        await made(dying).resume_run("r")
    assert log.lines == ["0 start", "0 work", "0 work"]


async def test_what_was_at_work_when_another_state_failed_goes_on(store: CheckpointStore) -> None:
    """It ends, and is undone, as in an undisturbed run."""
    log = Log()

    def made() -> Agent:
        agent = agent_of(goes_to("start", ["hotel", "flight"]), store=store)
        agent.add_state("hotel", log.state("hotel", None, 5), compensation=log.state("cancel_hotel"))

        @agent.state
        async def flight(context: Context) -> None:
            await asyncio.sleep(1)
            raise ValueError("no seat")

        return agent

    task = started_task(made().run("r"))
    await until_recorded(store, "r", "failed")
    await stopped(task)
    with pytest.raises(ValueError, match="no seat"):
        await made().resume_run("r")
    assert [line.split(maxsplit=1)[1] for line in log.lines] == ["hotel", "hotel", "hotel ends", "cancel_hotel"]


async def test_a_wish_to_cancel_that_came_too_late(store: CheckpointStore) -> None:
    """The run has completed, and that is what it says."""
    log = Log()
    agent = agent_of(log.state("start", key=1), store=store)
    await agent.run("r")
    await store.tell("r", NewEntry("cancel"))
    assert await agent.resume_run("r") == {"key": 1}
    assert (await store.info("r")).status == "completed"


async def test_a_run_is_there_when_all_is_there_that_it_was_sent(store: CheckpointStore) -> None:
    """Else it would be taken up without that."""
    log = Log()

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        ctx.reply("beer")
        await asyncio.sleep(5)

    async with MiniAgents():
        replies = agent_of(log.state("start"), store=store).inquire(slow.inquire(), run_id="r")
        await asyncio.sleep(1)
        replies.cancel()
    with pytest.raises(RunNotFoundError):
        await agent_of(log.state("start"), store=store).resume_run("r")


async def test_a_cancelled_state_that_was_named_again(store: CheckpointStore) -> None:
    """It runs once more, also when the run is taken up."""
    log = Log()

    def made() -> Agent:
        agent = Agent("work", store=store, ask=None)

        @agent.state
        async def other(context: Context) -> list[str]:
            await asyncio.sleep(1)
            return ["x", "canceller"]

        @agent.state
        async def canceller(context: Context) -> None:
            await asyncio.sleep(1)
            assert agent.cancel_state("x")

        agent.add_state("x", log.state("x", None, 9), [])
        return agent

    task = started_task(made().run("r"))
    await until_recorded(store, "r", "cancelled")
    await until_recorded(store, "r", "started", 4)
    await stopped(task)
    await made().resume_run("r")
    assert [line.split(maxsplit=1)[1] for line in log.lines] == ["x", "x", "x", "x ends"]


async def test_attempts_that_have_failed_count_after_a_resume(store: CheckpointStore) -> None:
    """Those that have died with their process do not."""
    log = Log()

    def made() -> Agent:
        agent = Agent("work", store=store, ask=None)

        async def fails(context: Context) -> None:
            log.write(f"attempt {context.attempt}")
            await asyncio.sleep(1)
            raise ValueError(context.attempt)

        agent.add_state("fails", fails, retry_policy=RetryPolicy(2, initial_delay=1, jitter=False))
        return agent

    task = started_task(made().run("r"))
    await until_recorded(store, "r", "started", 2)
    await stopped(task)
    with pytest.raises(ValueError, match="4"):
        await made().resume_run("r")
    assert [line.split(maxsplit=1)[1] for line in log.lines] == [f"attempt {number}" for number in (1, 2, 3, 4)]


async def test_a_limit_of_time_of_a_dependency_goes_on_after_a_resume(store: SQLiteCheckpointStore) -> None:
    """It began when the state began to wait."""
    log = Log()

    def made() -> Agent:
        agent = agent_of(goes_to("start", ["slow", "late"]), log.state("slow", None, 100), store=store)
        config = DependencyConfig(DependencyType.TIMEOUT, timeout=50)
        agent.add_state("late", log.state("late"), {"slow": config, "start": DependencyType.REQUIRED})
        return agent

    task = started_task(made().run("r"))
    await until_recorded(store, "r", "started", 2)
    await stopped(task)
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE entries SET time = time - 45")
    task = started_task(made().resume_run("r"))
    await asyncio.sleep(10)
    assert [line.split()[1] for line in log.lines] == ["slow", "slow", "late"]
    await stopped(task)


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("gone")])
async def test_a_part_that_has_failed_before_the_run_heard_of_it(store: CheckpointStore, error: Exception) -> None:
    """The error is the same."""

    def made() -> Agent:
        other = Agent("other", ask=None)

        @other.state
        async def fails(context: Context) -> None:
            raise error

        return agent_of(goes_to("start", (other, "fails")), store=store)

    task = started_task(made().run("r"))
    await until_recorded(store, "r/other.fails/1", "ended")
    await stopped(task)
    with pytest.raises((type(error), WorkflowError)) as caught:
        await made().resume_run("r")
    found = caught.value.__cause__ if isinstance(caught.value, WorkflowError) else caught.value  # it had heard of it
    assert (type(found), found.args) == (type(error), error.args)


async def test_workflows_of_one_name(store: CheckpointStore) -> None:
    """A run is taken up with the one that its states know."""

    def made(tenant: str) -> Agent:
        child = Agent("child", ask=None)

        @child.state
        async def bill(context: Context) -> None:
            await asyncio.sleep(1)
            context.set_state("billed", tenant)

        async def start(context: Context) -> tuple[Agent, str]:
            return child, "bill"

        return agent_of(start, name="parent", store=store)

    task = started_task(made("one").run("r"))
    await until_recorded(store, "r/child.bill/1", "started")
    await stopped(task)
    one, other = made("one"), made("other")
    assert await one.resume_run("r") == {"billed": "one"}
    assert other.status is AgentStatus.IDLE


async def test_workflows_of_one_name_that_no_state_knows(store: CheckpointStore) -> None:
    """Which one is meant cannot be seen, and the error says so."""
    made: dict[str, Agent] = {}

    def child(number: int) -> Agent:
        agent = Agent("child", ask=None)
        agent.add_state("bill", log.state("bill", None, 1))
        made[f"{number}"] = agent
        return agent

    log = Log()
    child(1)

    async def start(context: Context) -> tuple[Agent, str]:
        return made["1"], "bill"

    task = started_task(agent_of(start, store=store).run("r"))
    await until_recorded(store, "r/child.bill/1", "started")
    await stopped(task)
    child(2)
    with pytest.raises(WorkflowError, match="there are 2 workflows 'child' in this process; give them different names"):
        await agent_of(start, store=store).resume_run("r")


async def test_a_second_process_that_is_refused_leaves_the_first_one_its_controls(store: CheckpointStore) -> None:
    """Also if it is the same one."""
    log = Log()
    agent = agent_of(log.state("start", None, 5), store=store)
    task = started_task(agent.run("r"))
    await until_recorded(store, "r", "started")
    with pytest.raises(RunClaimedError):
        await agent.resume_run("r")
    assert agent.status is AgentStatus.RUNNING
    await agent.cancel_all()
    assert agent.status is AgentStatus.CANCELLED
    await asyncio.wait([task])


async def test_a_cancelled_run_leaves_no_part_that_could_be_resumed(store: CheckpointStore) -> None:
    """All of it is cancelled."""
    log = Log()
    other = agent_of(log.state("slow", None, 9), name="other")
    agent = agent_of(goes_to("start", (other, "slow")), store=store)
    task = started_task(agent.run("r"))
    await until_recorded(store, "r/other.slow/1", "started")
    await agent.cancel_all()
    await asyncio.wait([task])
    assert [info.status for info in await store.runs()] == ["cancelled", "cancelled"]


async def test_a_part_of_a_run_with_a_long_id(store: CheckpointStore) -> None:
    """Its own id is one that the store takes."""
    log = Log()
    inner = agent_of(log.state("one"), name="inner")
    outer = agent_of(goes_to("two", (inner, "one")), name="outer")
    await agent_of(goes_to("start", (outer, "two")), store=store).run("r" * 195)
    assert len(await store.runs()) == 3


async def test_a_pause_of_a_state_that_is_recorded_to_begin(store: CheckpointStore) -> None:
    """It begins with the next attempt."""
    log = Log()

    async def x(context: Context) -> str | None:
        log.write(f"x {context.attempt}")
        if context.visit == 2:
            return None
        try:
            await asyncio.sleep(9)
        finally:
            await asyncio.sleep(3)
        return None

    agent = Agent("work", store=store, ask=None)

    @agent.state
    async def again(context: Context) -> str:
        await asyncio.sleep(1)
        agent.cancel_state("x")
        await asyncio.sleep(1)
        return "x"

    agent.add_state("x", x, [])

    task = started_task(agent.run("r"))
    await until_recorded(store, "r", "started", 3)
    await agent.pause()
    await agent.resume()
    await task
    assert [line.split(maxsplit=1)[1] for line in log.lines] == ["x 1", "x 2"]
