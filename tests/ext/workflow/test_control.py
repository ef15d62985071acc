"""Control of a run from outside: limits, pauses, cancelling, and what can be looked at."""

import asyncio
from typing import Any

import pytest

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.workflow import (
    Agent,
    AgentStatus,
    Context,
    DependencyConfig,
    DependencyError,
    DependencyType,
    RetryPolicy,
    StateStatus,
    UnknownStateError,
    WorkflowCancelledError,
    WorkflowError,
)
from miniagents.testing import Timeline, assert_no_leftovers, quiescence
from promising.errors import PromiseCancelledError
from tests.ext.workflow.helpers import Log, agent_of, goes_to, started_task, until_asked


def forever(log: Log, cleanup: float = 0) -> Any:
    async def wait(context: Context) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            log.write("stopped")
            if cleanup:
                await asyncio.sleep(cleanup)
                log.write("cleaned up")

    return wait


# --- limits of time ---


async def test_a_run_that_takes_too_long() -> None:
    """What runs then is stopped, the run ends when it has cleaned up, and the error says how long it was."""
    log = Log()
    timeline = Timeline()
    agent = agent_of(forever(log, cleanup=3), name="slow")
    async with assert_no_leftovers():
        with pytest.raises(TimeoutError, match="slow took longer than 5 s"):
            await agent.run(timeout=5)
    assert timeline.elapsed == 8
    assert log.lines == ["5 stopped", "8 cleaned up"]
    assert (agent.status, agent.state_metadata["wait"].status) == (AgentStatus.FAILED, StateStatus.CANCELLED)


async def test_a_clean_up_that_takes_too_long() -> None:
    """After `cleanup_timeout` it is left alone."""
    log = Log()
    timeline = Timeline()
    agent = agent_of(forever(log, cleanup=30))
    with pytest.raises(TimeoutError):
        await agent.run(timeout=5, cleanup_timeout=2)
    assert timeline.elapsed == 7
    await asyncio.sleep(100)
    assert log.lines == ["5 stopped", "35 cleaned up"]


async def test_a_run_that_is_cancelled_by_its_caller() -> None:
    """Everything stops, and has cleaned up when the wait for the run ends."""
    log = Log()
    agent = agent_of(forever(log, cleanup=3))
    async with assert_no_leftovers():
        task = started_task(agent.run())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert log.lines == ["1 stopped", "4 cleaned up"]
    assert agent.status is AgentStatus.CANCELLED


async def test_wait_for_around_a_run() -> None:
    """`asyncio.wait_for` stops a run like any other work."""
    log = Log()
    agent = agent_of(forever(log))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(agent.run(), 2)
    assert log.lines == ["2 stopped"]


# --- pausing ---


async def test_a_pause_waits_for_what_runs_and_starts_nothing() -> None:
    """The pause begins when the states at work have ended; what they name runs after it."""
    log = Log()
    agent = agent_of(goes_to("start", ["a", "b"]), log.state("a", "c", 1), log.state("b", "c", 3), log.state("c"))
    task = started_task(agent.run())
    await asyncio.sleep(2)
    checkpoint = await agent.pause()
    log.write("paused")
    assert (agent.status, checkpoint.agent_status) == (AgentStatus.PAUSED, AgentStatus.PAUSED)
    assert checkpoint.completed_states == ("a", "b", "start")
    assert agent.priority_queue == ["c"]
    await asyncio.sleep(100)
    await agent.resume()
    assert agent.status is AgentStatus.RUNNING
    await task
    assert log.lines == ["0 a", "0 b", "1 a ends", "3 b ends", "3 paused", "103 c"]
    assert agent.status is AgentStatus.COMPLETED


async def test_a_pause_does_not_wait_for_people_nor_for_places() -> None:
    """A state that waits for an answer, or has not begun, begins anew after the pause, with the same question."""
    log = Log()
    agent = Agent("work", max_concurrent=1, ask=None)
    agent.add_state("start", goes_to("start", ["ask", "slow", "waits"]))

    @agent.state
    async def ask(context: Context) -> None:
        log.write(f"ask {context.attempt} {context.idempotency_key[-1]}")
        context.set_state("said", await context.human_in_the_loop("Well?"))

    agent.add_state("slow", log.state("slow", None, 2))
    agent.add_state("waits", log.state("waits"))
    task = started_task(agent.run())
    await asyncio.sleep(1)
    await agent.pause()
    log.write("paused")
    assert await until_asked(agent) == ["ask-1-1"]
    await agent.resume()
    await asyncio.sleep(1)
    await agent.answer(None, "ask-1-1", "so so")
    assert await task == {"said": "so so"}
    assert log.lines[:4] == ["0 ask 1 1", "0 slow", "2 slow ends", "2 paused"]
    assert sorted(log.lines[4:]) == ["2 ask 2 1", "2 waits"]


async def test_a_pause_counts_for_parts_of_other_workflows() -> None:
    """What runs in them ends, and nothing starts there, until the pause ends."""
    log = Log()
    other = agent_of(log.state("one", "two", 2), log.state("two"), name="other")
    agent = agent_of(goes_to("start", [(other, "one"), "beside"]), log.state("beside", None, 1))
    task = started_task(agent.run())
    await asyncio.sleep(0.5)
    await agent.pause()
    log.write("paused")
    assert (agent.status, other.status) == (AgentStatus.PAUSED, AgentStatus.PAUSED)
    await asyncio.sleep(5)
    await agent.resume()
    await task
    assert sorted(log.lines[:2]) == ["0 beside", "0 one"]
    assert log.lines[2:] == ["1 beside ends", "2 one ends", "2 paused", "7 two"]


async def test_a_pause_does_not_wait_for_people_in_parts() -> None:
    """They are asked the same again after it."""
    other = Agent("other", ask=None)

    @other.state
    async def ask(context: Context) -> None:
        context.set_state("said", await context.human_in_the_loop("Well?"))

    agent = agent_of(goes_to("start", (other, "ask")))
    task = started_task(agent.run())
    assert await until_asked(other) == ["ask-1-1"]
    await agent.pause()
    await agent.resume()
    await other.answer(None, "ask-1-1", "fine")
    assert await task == {"said": "fine"}


async def test_a_part_that_begins_during_a_pause() -> None:
    """It waits for the end of the pause with all of its states."""
    log = Log()
    other = agent_of(log.state("one"), name="other")
    agent = agent_of(goes_to("start", ["slow", (other, "one")]), log.state("slow", None, 1))

    async def pause() -> None:
        await agent.pause()
        log.write("paused")

    pausing = []

    @agent.state
    async def first(context: Context) -> list[Any]:
        pausing.append(started_task(pause()))
        return ["slow", (other, "one")]

    run = started_task(agent.inquire(start="first").aresolve())
    await asyncio.sleep(3)
    await agent.resume()
    await run
    assert log.lines == ["0 paused", "3 slow", "3 one", "4 slow ends"]


async def test_an_answer_during_a_pause() -> None:
    """It is kept for the state that asks again."""
    agent = Agent("work", ask=None)

    @agent.state
    async def ask(context: Context) -> None:
        context.set_state("said", await context.human_in_the_loop("Well?"))

    task = started_task(agent.run())
    await until_asked(agent)
    await agent.pause()
    await agent.answer(None, "ask-1-1", "yes")
    await agent.resume()
    assert await task == {"said": "yes"}


async def test_pausing_twice_and_going_on_twice() -> None:
    """A second pause is as good as one, and a run can be paused again later."""
    log = Log()
    agent = agent_of(log.state("a", "b", 1), log.state("b", "c", 1), log.state("c"))
    task = started_task(agent.run())
    await quiescence()
    first, second = await asyncio.gather(agent.pause(), agent.pause())
    assert first.completed_states == second.completed_states == ("a",)
    await agent.resume()
    await agent.resume()
    assert (await agent.pause()).completed_states == ("a", "b")
    assert not task.done()
    await agent.resume()
    await task
    assert log.lines == ["0 a", "1 a ends", "1 b", "2 b ends", "2 c"]


@pytest.mark.parametrize("how", ["fails", "ends", "is cancelled", "times out"])
async def test_a_pause_of_a_run_that_ends_meanwhile(how: str) -> None:
    """The wait for the pause ends with the run."""

    async def work(context: Context) -> None:
        await asyncio.sleep(2)
        if how == "fails":
            raise ValueError

    agent = agent_of(work)
    task = started_task(agent.run(timeout=1 if how == "times out" else None))
    await quiescence()
    pausing = started_task(agent.pause())
    await quiescence()
    if how == "is cancelled":
        await agent.cancel_all()
    checkpoint = await pausing
    assert checkpoint.completed_states == (("work",) if how == "ends" else ())
    if how in ("ends", "fails"):
        await agent.resume()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], Exception) == (how != "ends")


async def test_a_state_cannot_wait_for_the_pause_of_its_own_run() -> None:
    """It would wait for its own end; the error says so."""
    agent = Agent("work", ask=None)

    @agent.state
    async def work(context: Context) -> None:
        await agent.pause()

    with pytest.raises(WorkflowError, match="work would wait for its own end"):
        await agent.run()


async def test_a_state_of_a_part_cannot_wait_for_the_pause_either() -> None:
    """It would wait for its own end, too; and so would an agent that a state waits for."""
    other = Agent("other", ask=None)

    @miniagent
    async def pauses(ctx: InteractionContext) -> None:
        await agent.pause()

    @other.state
    async def work(context: Context) -> None:
        await context.inquire(pauses)

    agent = agent_of(goes_to("start", (other, "work")))
    with pytest.raises(WorkflowError, match=r"other.work would wait for its own end"):
        await agent.run()


async def test_a_state_asks_for_a_pause() -> None:
    """It does not wait for it."""
    log = Log()
    agent = agent_of(log.state("start"))
    pausing = []

    async def work(context: Context) -> str:
        pausing.append(asyncio.ensure_future(agent.pause()))
        await asyncio.sleep(1)
        return "end"

    agent = agent_of(work, log.state("end"))
    task = started_task(agent.run())
    await asyncio.sleep(2)
    assert agent.status is AgentStatus.PAUSED
    assert (await pausing[0]).completed_states == ("work",)
    await agent.resume()
    await task
    assert log.lines == ["2 end"]


async def test_what_was_ready_before_a_pause_and_is_not_after_it() -> None:
    """Whether a state can start is looked at until it does."""
    log = Log()
    agent = agent_of(goes_to("start", ["a", "b"]), log.state("a", None, 1), log.state("b", None, 3, closed=True))

    def is_open(found: Any) -> bool:
        return not found.get_state("closed")

    config = DependencyConfig(DependencyType.REQUIRED, condition=is_open)
    agent.add_state("late", log.state("late"), dependencies={"a": config})
    task = started_task(agent.run())
    await quiescence()
    pausing = started_task(agent.pause())
    await asyncio.sleep(2)
    assert agent.state_metadata["late"].status is StateStatus.READY
    await pausing
    assert agent.state_metadata["late"].status is StateStatus.BLOCKED
    await agent.resume()
    with pytest.raises(DependencyError, match="the condition of the dependency on a does not hold"):
        await task
    assert "3 late" not in log.lines


@pytest.mark.parametrize("seconds", [0, 2, 7])
async def test_a_pause_during_a_retry(seconds: int) -> None:
    """It does not wait for a state that waits for its next attempt; that goes on to wait, and has one attempt left."""
    log = Log()
    agent = Agent("work", ask=None)

    async def unsteady(context: Context) -> str:
        log.write(f"attempt {context.attempt}")
        raise ValueError

    policy = RetryPolicy(max_retries=1, initial_delay=5, jitter=False)
    agent.add_state("unsteady", unsteady, retry_policy=policy)
    task = started_task(agent.run())
    await asyncio.sleep(1)
    assert agent.state_metadata["unsteady"].status is StateStatus.READY
    assert agent.priority_queue == ["unsteady"]
    await agent.pause()
    log.write("paused")
    await asyncio.sleep(seconds)
    await agent.resume()
    with pytest.raises(ValueError):
        await task
    assert log.lines == ["0 attempt 1", "1 paused", f"{max(5, 1 + seconds)} attempt 2"]


# --- cancelling ---


async def test_cancelling_a_state() -> None:
    """It stops, what it would have named does not follow, and the others go on."""
    log = Log()
    agent = agent_of(goes_to("start", ["wait", "b"]), forever(log), log.state("b", "end", 2), log.state("end"))
    task = started_task(agent.run())
    await asyncio.sleep(1)
    assert agent.cancel_state("wait")
    assert not agent.cancel_state("wait")
    assert not agent.cancel_state("end")
    await task
    assert log.lines == ["0 b", "1 stopped", "2 b ends", "2 end"]
    assert agent.state_metadata["wait"].status is StateStatus.CANCELLED
    assert agent.completed_states == {"start", "b", "end"}


async def test_cancelling_a_state_that_waits() -> None:
    """It does not start; who depends on it waits in vain, or not at all."""
    log = Log()
    agent = agent_of(goes_to("start", "slow"), log.state("slow", None, 5))
    agent.add_state("late", log.state("late"), dependencies={"slow": DependencyType.REQUIRED})
    agent.add_state("later", log.state("later"), dependencies={"late": DependencyType.SEQUENTIAL})
    task = started_task(agent.run())
    await asyncio.sleep(1)
    assert agent.cancel_state("late")
    await task
    assert log.lines == ["0 slow", "1 later", "5 slow ends"]


async def test_a_cancelled_state_leaves_nothing() -> None:
    """What it has set is undone, and may be set by others."""
    agent = Agent("work", ask=None)
    agent.add_state("start", goes_to("start", ["a", "b"]))

    @agent.state
    async def a(context: Context) -> None:
        context.set_state("key", "a")
        await asyncio.sleep(1000)

    @agent.state
    async def b(context: Context) -> None:
        await asyncio.sleep(2)
        context.set_state("key", "b")

    task = started_task(agent.run())
    await asyncio.sleep(1)
    agent.cancel_state("a")
    assert await task == {"key": "b"}


async def test_cancelling_in_a_group() -> None:
    """The group ends with the others."""
    log = Log()
    agent = agent_of(goes_to("start", ["wait", "b"]), log.state("b", "end", 1), log.state("end"))
    agent.add_state("wait", forever(log), next_states=["end"])
    task = started_task(agent.run())
    await asyncio.sleep(3)
    agent.cancel_state("wait")
    await task
    assert log.lines == ["0 b", "1 b ends", "3 stopped", "3 end"]


async def test_cancelling_what_there_is_not() -> None:
    """An unknown name is an error for who cancels, and no trouble for the run."""
    log = Log()
    agent = agent_of(log.state("start", None, 5))
    with pytest.raises(WorkflowError, match="does not run"):
        agent.cancel_state("start")
    task = started_task(agent.run())
    await asyncio.sleep(1)
    with pytest.raises(UnknownStateError, match="cancel_state names 'strat', .*there are: start"):
        agent.cancel_state("strat")
    await task


async def test_cancelling_all() -> None:
    """It waits until all has stopped; who has started the run gets an error that says so; nothing is compensated."""
    log = Log()
    agent = Agent("work", ask=None)
    agent.add_state("start", goes_to("start", "wait"), compensation=log.state("undo"))
    agent.add_state("wait", forever(log, cleanup=2))
    task = started_task(agent.run(run_id="r"))
    await asyncio.sleep(1)
    await agent.cancel_all()
    log.write("cancelled")
    with pytest.raises(WorkflowCancelledError, match="the run r of work was cancelled"):
        await task
    assert log.lines == ["1 stopped", "3 cleaned up", "3 cancelled"]
    assert agent.status is AgentStatus.CANCELLED
    with pytest.raises(WorkflowError, match="does not run"):
        await agent.cancel_all()


async def test_a_state_cancels_its_own_run() -> None:
    """It is stopped like the others."""
    agent = Agent("work", ask=None)
    agent.add_state("start", goes_to("start", ["wait", "cancel"]))
    log = Log()
    agent.add_state("wait", forever(log))

    @agent.state
    async def cancel(context: Context) -> None:
        await agent.cancel_all()
        log.write("not reached")

    with pytest.raises(WorkflowCancelledError):
        await agent.run()
    assert log.lines == ["0 stopped"]


async def test_cancelling_a_paused_run() -> None:
    """A run need not go on to be ended."""
    log = Log()
    agent = agent_of(log.state("start", "end", 1), log.state("end"))
    task = started_task(agent.run())
    await quiescence()
    await agent.pause()
    await agent.cancel_all()
    with pytest.raises(WorkflowCancelledError):
        await task
    assert log.lines == ["0 start", "1 start ends"]


# --- limits for parallel states ---


async def test_max_concurrent() -> None:
    """Not more than so many states run at once; those that wait are READY."""
    log = Log()
    names = ["a", "b", "c", "d", "e"]
    agent = agent_of(goes_to("start", names), *[log.state(name, "end", 1) for name in names], max_concurrent=2)
    agent.add_state("end", log.state("end"))
    task = started_task(agent.run())
    await asyncio.sleep(0.5)
    assert agent._running_states == {"a", "b"}
    assert agent.priority_queue == ["c", "d", "e"]
    assert agent.state_metadata["c"].status is StateStatus.READY
    await task
    assert log.lines[-1] == "3 end"
    assert [line for line in log.lines if line.endswith("ends")] == [
        "1 a ends", "1 b ends", "2 c ends", "2 d ends", "3 e ends",
    ]  # fmt: skip


async def test_who_waits_for_a_person_leaves_its_place() -> None:
    """Others may have it meanwhile; with the answer it is taken again, when there is one."""
    log = Log()
    agent = agent_of(goes_to("start", ["ask", "a", "b"]), log.state("a", None, 2), log.state("b", None, 2),
                     max_concurrent=1)  # fmt: skip

    @agent.state
    async def ask(context: Context) -> None:
        log.write(f"{await context.human_in_the_loop('Well?')}!")
        await asyncio.sleep(1)
        log.write("asked")

    task = started_task(agent.run())
    await asyncio.sleep(1)
    await agent.answer(None, "ask-1-1", "yes")
    await task
    assert log.lines == ["0 a", "2 a ends", "2 b", "4 b ends", "4 yes!", "5 asked"]


@pytest.mark.parametrize("turns", [None, 0, 1, 2, 3, 4, 5])
async def test_who_is_stopped_while_waiting_for_a_person_or_its_place_holds_none(turns: int | None) -> None:
    """Whatever comes afterwards gets it, also if the stop comes in the very turn in which the place is given."""
    log = Log()
    agent = agent_of(goes_to("start", ["ask", "a"]), log.state("b", None, 1), max_concurrent=1)

    def stop(turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(stop, turns - 1)
        else:
            agent.cancel_state("ask")

    @agent.state
    async def a(context: Context) -> str:
        await asyncio.sleep(2)
        if turns is not None:
            stop(turns)
        return "b"

    @agent.state
    async def ask(context: Context) -> None:
        log.write(f"{await context.human_in_the_loop('Well?')}!")
        await asyncio.sleep(1)

    task = started_task(agent.run())
    await asyncio.sleep(1)
    if turns is None:
        agent.cancel_state("ask")
    else:
        await agent.answer(None, "ask-1-1", "yes")
    await task
    assert log.lines in (["2 b", "3 b ends"], ["2 yes!", "2 b", "3 b ends"])


# --- looking at it ---


async def test_the_status_of_a_workflow() -> None:
    """Idle, running, completed; failed and cancelled are seen elsewhere."""
    agent = agent_of(Log().state("start", None, 1))
    assert (agent.status, agent.run_id, agent.completed_states) == (AgentStatus.IDLE, None, set())
    assert agent.get_state("key", 5) == 5
    task = started_task(agent.run(run_id="r"))
    await quiescence()
    assert (agent.status, agent.run_id, agent._running_states) == (AgentStatus.RUNNING, "r", {"start"})
    await task
    assert (agent.status, agent._running_states, agent.priority_queue) == (AgentStatus.COMPLETED, set(), [])


async def test_what_is_known_of_a_state() -> None:
    """When it began and ended, how often it was tried and visited, and what it failed with."""
    agent = Agent("work", ask=None)

    @agent.state(retry_policy=RetryPolicy(max_retries=1, initial_delay=3, jitter=False))
    async def work(context: Context) -> str | None:
        await asyncio.sleep(2)
        if context.attempt == 1:
            raise ValueError("no luck")
        return "work" if context.idempotency_key.endswith("/1") else None

    assert agent.state_metadata["work"].duration is None
    await agent.run()
    known = agent.state_metadata["work"]
    assert (known.name, known.visits, known.attempts, known.error) == ("work", 2, 2, None)
    assert known.duration == pytest.approx(2, abs=0.01)
    assert known.started_at is not None
    assert known.ended_at == pytest.approx(known.started_at + 2, abs=0.01)


# --- several runs of one object ---


async def test_two_runs_at_the_same_time_do_not_mix() -> None:
    """Each run has its own state; the agent shows the one that began last, however they end."""
    agent = Agent("work", ask=None)

    @agent.state
    async def start(context: Context) -> list[str]:
        context.set_state("id", context.run_id)
        await asyncio.sleep({"first": 3, "second": 1}[context.run_id])
        return ["a", "b"]

    async def check(context: Context) -> str:
        assert context.get_state("id") == context.run_id
        await asyncio.sleep(1)
        if context.run_id == "first":
            raise ValueError("only the first one fails")
        return "end"

    agent.add_state("a", check)
    agent.add_state("b", goes_to("b", "end"))
    agent.add_state("end", goes_to("end", None))
    first, second = started_task(agent.run(run_id="first")), started_task(agent.run(run_id="second"))
    await quiescence()
    assert agent.run_id == "second"
    assert await second == {"id": "second"}
    assert (agent.status, agent.completed_states) == (AgentStatus.COMPLETED, {"start", "a", "b", "end"})
    with pytest.raises(ValueError, match="only the first"):
        await first
    assert (agent.status, agent.run_id) == (AgentStatus.COMPLETED, "second")
    assert agent.get_state("id") == "second"


async def test_runs_in_a_context_and_without_one() -> None:
    """A run belongs to the `MiniAgents` context where there is one, and errors are raised whatever that says."""

    async def fail(context: Context) -> None:
        raise ValueError("boom")

    async with MiniAgents(errors_as_messages=True):
        with pytest.raises(ValueError, match="boom"):
            await agent_of(fail).run()
    async with assert_no_leftovers(), MiniAgents():
        log = Log()
        started_task(agent_of(log.state("a", "b", 1), log.state("b", None, 1)).run())
        await quiescence()
    assert log.lines == ["0 a", "1 a ends", "1 b", "2 b ends"]


# --- before the first step, and after the last one ---


async def _until_announced(agent: Agent) -> None:
    while agent.run_id is None:
        await asyncio.sleep(0)


async def test_a_pause_before_the_first_step(store: Any) -> None:
    """The run begins after it, with all of its states."""
    log = Log()
    agent = agent_of(log.state("start", "end"), log.state("end"), store=store)
    task = started_task(agent.run(values={"given": 1}))
    await _until_announced(agent)
    checkpoint = await agent.pause()
    assert (checkpoint.state, log.lines) == ({"given": 1}, [])
    await agent.resume()
    assert await task == {"given": 1}
    assert [line.split()[1] for line in log.lines] == ["start", "end"]


async def test_a_pause_and_its_end_before_the_first_step(store: Any) -> None:
    """That is no end of the run."""
    log = Log()
    agent = agent_of(log.state("start"), store=store)
    task = started_task(agent.run())
    await _until_announced(agent)
    pausing = started_task(agent.pause())
    await asyncio.sleep(0)
    await agent.resume()
    await task
    assert isinstance((await asyncio.gather(pausing, return_exceptions=True))[0], WorkflowError)
    assert len(log.lines) == 1


async def test_states_that_are_added_before_the_first_step(store: Any) -> None:
    """They are none of the first, but for those that start by themselves; and they are expected when it is resumed."""
    log = Log()
    agent = agent_of(log.state("start", "named"), store=store)
    task = started_task(agent.run("r"))
    await _until_announced(agent)
    agent.add_state("named", log.state("named"))
    agent.add_state("after", log.state("after"), ["start"])
    assert not agent.cancel_state("named")
    with pytest.raises(UnknownStateError):
        agent.add_state("never", log.state("never"), ["nothing"])
    await task
    assert sorted(line.split()[1] for line in log.lines) == ["after", "named", "start"]
    assert await agent.resume_run("r") == {}


async def test_cancelling_all_before_the_first_step(store: Any) -> None:
    """The run ends as a cancelled one, and nothing of it has run."""
    log = Log()
    agent = agent_of(log.state("start"), store=store)
    task = started_task(agent.run("r"))
    await _until_announced(agent)
    await agent.cancel_all()
    with pytest.raises(WorkflowCancelledError):
        await task
    assert (agent.status, log.lines) == (AgentStatus.CANCELLED, [])
    assert all(info.status == "cancelled" for info in await store.runs())


async def test_who_pauses_learns_that_the_run_was_resumed_meanwhile() -> None:
    """It does not wait for ever."""
    log = Log()
    agent = agent_of(log.state("slow", None, 2))
    task = started_task(agent.run())
    await asyncio.sleep(1)
    pausing = started_task(agent.pause())
    await asyncio.sleep(0)
    await agent.resume()
    with pytest.raises(WorkflowError, match="was resumed before it had come to rest"):
        await pausing
    await task


async def test_a_state_that_is_refused_while_the_workflow_runs_leaves_nothing() -> None:
    """Later runs know nothing of it."""
    agent = Agent("work", ask=None)

    @agent.state
    async def start(context: Context) -> None:
        if "late" not in agent.states:
            with pytest.raises(UnknownStateError):
                agent.add_state("late", start, ["nothing"])

    await agent.run()
    await agent.run()
    assert list(agent.states) == ["start"]


async def test_after_a_cancelled_run_nothing_is_at_work() -> None:
    """Its states are CANCELLED, too, however it was cancelled."""
    log = Log()
    other = agent_of(forever(log), name="other")
    agent = agent_of(goes_to("start", (other, "wait")))
    task = started_task(agent.run())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert other.state_metadata["wait"].status is StateStatus.CANCELLED
    assert agent.state_metadata["other.wait"].status is StateStatus.CANCELLED
    assert agent._running_states == other._running_states == set()


async def test_a_state_that_says_that_it_was_cancelled_has_failed() -> None:
    """The run has not been cancelled by anybody."""
    agent = Agent("work", ask=None)

    @agent.state
    async def start(context: Context) -> None:
        raise asyncio.CancelledError

    with pytest.raises(PromiseCancelledError):
        await agent.run()
    assert agent.status is AgentStatus.FAILED


async def test_a_part_that_was_cancelled_is_a_state_that_has_failed(store: Any) -> None:
    """The run that it is a part of ends once, as a failed one."""
    log = Log()
    other = agent_of(forever(log), name="other")
    agent = agent_of(goes_to("start", (other, "wait")), store=store)
    task = started_task(agent.run("r"))
    while not other._running_states:
        await asyncio.sleep(0.01)
    await other.cancel_all()
    with pytest.raises(WorkflowCancelledError):
        await task
    assert agent.status is AgentStatus.FAILED
    assert [entry.data for entry in await store.read("r") if entry.kind == "ended"] == [{"status": "failed"}]


async def test_a_part_of_the_same_workflow_does_not_hide_the_run() -> None:
    """What is said of the workflow is said of the run that goes on."""
    agent = Agent("work", ask=None)

    @agent.state
    async def start(context: Context) -> list[Any]:
        return ["slow", (agent, "quick")]

    async def slow(context: Context) -> None:
        await asyncio.sleep(2)

    async def quick(context: Context) -> None:
        pass

    agent.add_state("slow", slow)
    agent.add_state("quick", quick)
    task = started_task(agent.run())
    await asyncio.sleep(1)
    assert (agent.status, agent._running_states) == (AgentStatus.RUNNING, {"slow"})
    await task


async def test_what_a_run_gives_is_nobody_elses() -> None:
    """To change it changes neither the checkpoint nor what the workflow says."""
    agent = agent_of(goes_to("start", None))
    result = await agent.run(values={"items": [1]})
    result["items"].append(2)
    agent.get_state("items").append(3)
    checkpoint = agent.create_checkpoint()
    checkpoint.state["items"].append(4)
    assert agent.get_state("items") == [1]
    assert agent.create_checkpoint().entries[0].data["values"] == {"items": [1]}


async def test_a_fork_is_a_workflow() -> None:
    """It has the same states, and runs of its own; as a node of a graph it gives its result, as a workflow does."""
    log = Log()
    agent = agent_of(log.state("start"))
    fork = agent.fork(alias="forked", values={"given": 1})
    assert await fork.inquire(progress=False).as_single_promise()
    assert await fork.run() == {"given": 1}
    assert (agent.status, fork.status, fork.alias) == (AgentStatus.IDLE, AgentStatus.COMPLETED, "forked")
    fork.add_state("more", log.state("more"))
    assert list(agent.states) == ["start"]


async def test_what_waits_for_its_next_attempt_after_a_pause_is_not_hurried_by_others() -> None:
    """The end of a state that it depends on changes nothing."""
    log = Log()
    agent = agent_of(log.state("start", None, 2))

    async def fails(context: Context) -> None:
        log.write(f"attempt {context.attempt}")
        raise ValueError

    policy = RetryPolicy(1, initial_delay=5, jitter=False)
    agent.add_state("fails", fails, {"start": DependencyType.PARALLEL}, retry_policy=policy)
    task = started_task(agent.run())
    await asyncio.sleep(1)
    run = agent._run
    assert run is not None
    run.enter(run.pause)
    run.enter(run.go_on)
    with pytest.raises(ValueError):
        await task
    assert [line for line in log.lines if "attempt" in line] == ["0 attempt 1", "5 attempt 2"]


async def test_a_checkpoint_of_a_run_that_is_about_to_begin(store: Any) -> None:
    """It would lack what the run is given, so that it is refused."""
    log = Log()
    agent = agent_of(log.state("start"), store=store)
    task = started_task(agent.run(values={"given": 1}))
    await _until_announced(agent)
    with pytest.raises(WorkflowError, match="about to begin"):
        agent.create_checkpoint()
    assert await task == {"given": 1}


async def test_cancelling_does_not_wait_for_messages(store: Any) -> None:
    """A run that waits for what it is sent is ended at once."""

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        await asyncio.sleep(100)

    async with MiniAgents():
        log = Log()
        agent = agent_of(log.state("start"), store=store)
        sent = slow.inquire()
        task = started_task(agent.inquire(sent).aresolve())
        await asyncio.sleep(1)
        await agent.cancel_all()
        log.write("cancelled")
        sent.cancel()
        await asyncio.wait([task])
    assert (log.lines, agent.status) == (["1 cancelled"], AgentStatus.CANCELLED)


async def test_a_fork_knows_nothing_of_earlier_runs() -> None:
    """What had completed in them does not count for it."""
    log = Log()
    agent = agent_of(log.state("start"))
    await agent.run()
    assert agent.fork().met_before == frozenset()
