"""Retries, limits of time, and undoing what was done."""

import asyncio
from typing import Any

import pytest

from miniagents import MiniAgents
from miniagents.ext.checkpoints import CheckpointStore
from miniagents.ext.graph import NodeRetried
from miniagents.ext.workflow import (
    Agent,
    AgentStatus,
    Context,
    DependencyType,
    RetryPolicy,
    StateStatus,
    UnknownStateError,
    WorkflowError,
)
from promising import PromiseCancelledError
from tests.ext.workflow.helpers import Log, agent_of, goes_to, started_task, stopped, until_recorded


def failing(log: Log, name: str, times: int = 1_000, seconds: float = 0, error: Any = ValueError) -> Any:
    async def fail(context: Context) -> None:
        log.write(name)
        await asyncio.sleep(seconds)
        if context.attempt <= times:
            raise error(f"{name} {context.attempt}")

    fail.__name__ = name
    return fail


# --- retries ---


async def test_pauses_grow_up_to_a_limit() -> None:
    """Each pause is so much longer than the one before, but not longer than the longest."""
    log = Log()
    agent = Agent("work", ask=None)
    policy = RetryPolicy(max_retries=5, initial_delay=1, max_delay=9, exponential_base=3, jitter=False)
    agent.add_state("fail", failing(log, "fail", 5), retry_policy=policy)
    await agent.run()
    assert log.lines == ["0 fail", "1 fail", "4 fail", "13 fail", "22 fail", "31 fail"]
    assert (agent.state_metadata["fail"].attempts, agent.state_metadata["fail"].visits) == (6, 1)


def test_jitter_shortens_pauses() -> None:
    """A pause is between half of it and all of it, and not always the same."""
    policy = RetryPolicy(initial_delay=2, exponential_base=2, max_delay=1000)
    delays = {policy.delay(3) for _ in range(100)}
    assert len(delays) > 50
    assert all(4 <= delay <= 8 for delay in delays)
    assert RetryPolicy(max_delay=60, jitter=False).delay(100_000) == 60


async def test_without_a_policy_nothing_is_tried_again() -> None:
    """The first error is the last one; the run raises it as it is, with a note that says where it was."""
    log = Log()
    agent = agent_of(failing(log, "fail"))
    with pytest.raises(ValueError, match="fail 1") as caught:
        await agent.run()
    assert caught.value.__notes__[0] == "in fail, called by work"
    assert (log.lines, agent.status) == (["0 fail"], AgentStatus.FAILED)
    metadata = agent.state_metadata["fail"]
    assert (metadata.status, metadata.error) == (StateStatus.FAILED, "ValueError: fail 1")


async def test_max_retries_alone_and_together_with_a_policy() -> None:
    """`max_retries` is short for a policy, and overrides that of one."""
    log = Log()
    agent = Agent("work", ask=None)
    agent.add_state("fail", failing(log, "fail", 2), max_retries=2)
    assert agent.states["fail"].retry_policy == RetryPolicy(max_retries=2)
    policy = RetryPolicy(max_retries=7, initial_delay=0)
    agent.add_state("other", goes_to("other", None), retry_policy=policy, max_retries=1)
    assert agent.states["other"].retry_policy == RetryPolicy(max_retries=1, initial_delay=0)
    await agent.run()
    assert len(log.lines) == 3


async def test_what_no_retry_would_mend_is_not_tried_again() -> None:
    """Errors of the workflow itself, such as an answer that did not come, are final."""
    calls = []

    async def ask(context: Context) -> None:
        calls.append(1)
        await context.human_in_the_loop("Well?", timeout=1)

    agent = Agent("work", ask=None)
    agent.add_state("ask", ask, max_retries=3)
    with pytest.raises(WorkflowError, match="nobody has answered in time: Well?"):
        await agent.run()
    assert calls == [1]


async def test_each_visit_has_its_retries() -> None:
    """A state that is visited again is tried as often as before."""
    log = Log()
    agent = Agent("work", ask=None)

    async def unsteady(context: Context) -> str | None:
        log.write(f"{context.idempotency_key[-1]} {context.attempt}")
        if context.attempt == 1:
            raise ValueError
        return "unsteady" if context.idempotency_key.endswith("/1") else None

    agent.add_state("unsteady", unsteady, retry_policy=RetryPolicy(max_retries=1, initial_delay=1, jitter=False))
    await agent.run()
    assert log.lines == ["0 1 1", "1 1 2", "1 2 1", "2 2 2"]


async def test_retries_are_told() -> None:
    """The reply of a run says that an attempt has failed, and with what."""
    agent = Agent("work", ask=None)
    agent.add_state("fail", failing(Log(), "fail", 1), retry_policy=RetryPolicy(1, initial_delay=2, jitter=False))
    async with MiniAgents():
        (told,) = [event for event in await agent.inquire() if isinstance(event, NodeRetried)]
    assert (told.node, told.attempt, told.error, told.delay) == ("fail", 1, "fail 1", 2)


# --- limits of time ---


async def test_an_attempt_takes_too_long() -> None:
    """What takes longer is stopped, and tried again; in the end it is a TimeoutError."""
    log = Log()
    agent = Agent("work", ask=None)

    async def slow(context: Context) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            log.write(f"stopped {context.attempt}")

    policy = RetryPolicy(max_retries=1, initial_delay=1, jitter=False)
    agent.add_state("slow", slow, retry_policy=policy, timeout=3)
    with pytest.raises(TimeoutError, match="slow took longer than 3 s"):
        await agent.run()
    assert log.lines == ["3 stopped 1", "7 stopped 2"]
    assert agent.state_metadata["slow"].status is StateStatus.TIMEOUT


async def test_a_state_that_cancels_itself() -> None:
    """A CancelledError that nobody has asked for is an error like others, and not a hang."""

    async def confused(context: Context) -> None:
        raise asyncio.CancelledError

    with pytest.raises(PromiseCancelledError):
        await agent_of(confused).run()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_ends_the_run_at_once(error: type[BaseException]) -> None:
    """It arrives where the run is awaited; nothing is tried again, nor compensated."""
    log = Log()
    agent = Agent("work", ask=None)
    agent.add_state("fail", failing(log, "fail", error=error), max_retries=3, compensation=log.state("undo"))
    with pytest.raises(error):
        await agent.run()
    assert log.lines == ["0 fail"]


# --- compensation ---


async def test_what_was_done_is_undone_the_last_thing_first() -> None:
    """After a final failure the compensations run one after the other, in reverse order of completion."""
    log = Log()
    agent = Agent("work", ask=None)
    for name, following in (("a", "b"), ("b", "c"), ("c", "fail")):
        agent.add_state(name, log.state(name, following), compensation=log.state(f"undo {name}", None, 1))
    agent.add_state("fail", failing(log, "fail", 10), max_retries=0)
    with pytest.raises(ValueError, match="fail 1"):
        await agent.run()
    assert log.lines == [
        "0 a", "0 b", "0 c", "0 fail", "0 undo c", "1 undo c ends", "1 undo b", "2 undo b ends", "2 undo a",
        "3 undo a ends",
    ]  # fmt: skip
    assert agent.status is AgentStatus.FAILED
    assert agent.completed_states == {"a", "b", "c"}


async def test_the_order_is_that_of_completion() -> None:
    """Of states that ran side by side, what has ended last is undone first."""
    log = Log()
    agent = agent_of(goes_to("start", ["slow", "quick"]))
    agent.add_state("slow", log.state("slow", "fail", 2), compensation=log.state("undo slow"))
    agent.add_state("quick", log.state("quick", "fail", 1), compensation=log.state("undo quick"))
    agent.add_state("fail", failing(log, "fail"))
    with pytest.raises(ValueError):
        await agent.run()
    assert log.lines[-3:] == ["2 fail", "2 undo slow", "2 undo quick"]


@pytest.mark.parametrize("first", ["state", "compensation"])
async def test_compensation_by_name(first: str) -> None:
    """A state called `<state>_compensation` undoes that one, in whichever order they are added."""
    log = Log()
    agent = agent_of(goes_to("start", "pay"))
    states = [("pay", goes_to("pay", "fail")), ("pay_compensation", log.state("refund"))]
    for name, function in states if first == "state" else reversed(states):
        agent.add_state(name, function)
    agent.add_state("fail", failing(log, "fail"))
    with pytest.raises(ValueError):
        await agent.run()
    assert log.lines == ["0 fail", "0 refund"]


async def test_one_compensation_for_several_states() -> None:
    """A compensation that is named by several states runs once."""
    log = Log()
    agent = agent_of(log.state("undo"))
    agent = Agent("work", ask=None)
    agent.add_state("a", goes_to("a", "b"), compensation="undo")
    agent.add_state("b", failing(log, "b"), compensation="undo")
    agent.add_state("undo", log.state("undo"))
    with pytest.raises(ValueError):
        await agent.run()
    assert log.lines == ["0 b", "0 undo"]


async def test_what_has_failed_is_undone_too() -> None:
    """A state that has failed may have done half of its work; its compensation is the first one."""
    log = Log()
    agent = Agent("work", ask=None)
    agent.add_state("a", goes_to("a", ["b", "c"]), compensation=log.state("undo a"))
    agent.add_state("b", failing(log, "b", seconds=1), compensation=log.state("undo b"))
    agent.add_state("c", failing(log, "c", seconds=2), compensation=log.state("undo c"))
    with pytest.raises(ValueError, match="b 1") as caught:
        await agent.run()
    assert log.lines == ["0 b", "0 c", "2 undo c", "2 undo b", "2 undo a"]
    assert any("what else has failed in work: ValueError: c 1" in note for note in caught.value.__notes__)


async def test_what_runs_may_end_and_nothing_new_starts() -> None:
    """A failure lets the states beside it end; what they name does not follow; they are undone, too."""
    log = Log()
    agent = agent_of(goes_to("start", ["fail", "slow"]), failing(log, "fail"), log.state("next"))
    agent.add_state("slow", log.state("slow", "next", 2), compensation=log.state("undo"), next_states=["next"])
    agent.add_state("late", log.state("late"), dependencies={"slow": DependencyType.REQUIRED})
    with pytest.raises(ValueError):
        await agent.run()
    assert log.lines == ["0 fail", "0 slow", "2 slow ends", "2 undo"]


async def test_without_a_failure_nothing_is_undone() -> None:
    """Compensations are no states that start by themselves."""
    log = Log()
    agent = Agent("work", ask=None)
    agent.add_state("a_compensation", log.state("undo"), dependencies={"a": DependencyType.REQUIRED})
    agent.add_state("a", log.state("a"))
    await agent.run()
    assert log.lines == ["0 a"]


async def test_a_compensation_sees_the_state_and_what_it_names_does_not_follow() -> None:
    """It is given what was set, and may set something itself."""
    agent = agent_of(goes_to("never", None))
    agent = Agent("work", ask=None)

    async def pay(context: Context) -> str:
        context.set_state("receipt", 42)
        return "fail"

    async def refund(context: Context) -> str:
        context.set_state("refunded", context.get_state("receipt"))
        return "nowhere"

    agent.add_state("pay", pay, compensation=refund)
    agent.add_state("fail", failing(Log(), "fail"))
    with pytest.raises(ValueError):
        await agent.run()
    assert agent.get_state("refunded") == 42


async def test_a_compensation_that_fails() -> None:
    """The others run in any case; the error of the run stays what it was, and says so."""
    log = Log()
    agent = Agent("work", ask=None)
    agent.add_state("a", goes_to("a", "b"), compensation=log.state("undo a"))
    agent.add_state("b", goes_to("b", "fail"), compensation=failing(log, "undo b"))
    agent.add_state("fail", failing(log, "fail"))
    with pytest.raises(ValueError, match="fail 1") as caught:
        await agent.run()
    assert log.lines == ["0 fail", "0 undo b", "0 undo a"]
    assert any("the compensation b_compensation has failed, too" in note for note in caught.value.__notes__)


async def test_a_compensation_with_retries() -> None:
    """A compensation is a state, with what states have."""
    log = Log()
    agent = Agent("work", ask=None)
    agent.add_state("a", failing(log, "a"))
    policy = RetryPolicy(max_retries=2, initial_delay=1, exponential_base=1, jitter=False)
    agent.add_state("a_compensation", failing(log, "undo", 2), retry_policy=policy)
    with pytest.raises(ValueError, match="a 1") as caught:
        await agent.run()
    assert log.lines == ["0 a", "0 undo", "1 undo", "2 undo"]
    assert not any("compensation" in note for note in caught.value.__notes__)


async def test_a_tolerated_failure_is_not_compensated() -> None:
    """Where the run goes on, nothing is undone."""
    log = Log()
    agent = agent_of()
    agent.add_state("a", failing(log, "a"), compensation=log.state("undo"))
    agent.add_state("b", log.state("b"), dependencies={"a": DependencyType.SEQUENTIAL})
    await agent.run()
    assert log.lines == ["0 a", "0 b"]


async def test_a_compensation_that_is_cancelled_is_over() -> None:
    """It does not begin again; the others follow, and the error says so."""
    log = Log()
    agent = agent_of(log.state("a", "b"), log.state("b", "fails"), name="work")
    agent.add_state("a_compensation", log.state("a_compensation"))
    agent.add_state("b_compensation", log.state("b_compensation", None, 5))

    @agent.state
    async def fails(context: Context) -> None:
        raise ValueError("no")

    task = started_task(agent.run())
    await asyncio.sleep(1)
    assert agent.cancel_state("b_compensation")
    with pytest.raises(ValueError) as caught:
        await task
    assert log.lines == ["0 a", "0 b", "0 b_compensation", "1 a_compensation"]
    assert "the compensation b_compensation was cancelled" in caught.value.__notes__


async def test_a_compensation_that_there_is_not() -> None:
    """It is an error before anything runs."""
    log = Log()
    agent = Agent("work", ask=None)
    agent.add_state("start", log.state("start"), compensation="undo")
    with pytest.raises(UnknownStateError, match="the compensation of start names 'undo'"):
        await agent.run()
    assert log.lines == []


async def test_a_compensation_that_there_is_not_of_a_state_that_came_later() -> None:
    """The error that the run has failed with says so, and the others are undone."""
    log = Log()
    agent = agent_of(log.state("start_compensation"))

    @agent.state
    async def start(context: Context) -> str:
        if "fails" not in agent.states:
            agent.add_state("fails", fails, compensation="undo")
        return "fails"

    async def fails(context: Context) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError) as caught:
        await agent.run()
    assert log.lines == ["0 start_compensation"]
    assert "the compensation undo is missing; add a state of that name" in caught.value.__notes__


@pytest.mark.parametrize("how", ["returns", "reducer"])
async def test_what_goes_wrong_after_a_state_is_a_failure_of_the_state(how: str) -> None:
    """What was done is undone."""
    log = Log()

    def fail(there: Any, more: Any) -> Any:
        raise KeyError("no")

    agent = agent_of(log.state("start", "bad"), log.state("start_compensation"), reducers={"key": fail})

    @agent.state
    async def bad(context: Context) -> Any:
        context.set_state("key", 1)
        return 5 if how == "returns" else None

    with pytest.raises(WorkflowError if how == "returns" else KeyError):
        await agent.run(values={} if how == "returns" else {"key": 0})
    assert log.lines == ["0 start", "0 start_compensation"]


async def test_after_a_failure_nothing_begins_any_more() -> None:
    """Not even what waits for a place already; what has begun goes on to its end."""
    log = Log()
    agent = agent_of(goes_to("start", ["slow", "fails", "waits"]), log.state("slow", None, 3), log.state("waits"),
                     max_concurrent=2)  # fmt: skip

    @agent.state
    async def fails(context: Context) -> None:
        await asyncio.sleep(1)
        raise ValueError("no")

    with pytest.raises(ValueError):
        await agent.run()
    assert log.lines == ["0 slow", "3 slow ends"]
    assert agent.state_metadata["waits"].status is StateStatus.PENDING


async def test_a_part_fails_with_its_own_error_whatever_the_context_says() -> None:
    """Errors are no messages there."""
    other = Agent("other", ask=None)

    @other.state
    async def fails(context: Context) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        async with MiniAgents(errors_as_messages=True):
            await agent_of(goes_to("start", (other, "fails"))).run()


async def test_what_a_part_has_done_is_undone_by_the_state_of_that_name() -> None:
    """`<workflow>.<state>_compensation` of the outer workflow."""
    log = Log()
    other = agent_of(log.state("pay"), name="other")
    agent = agent_of(goes_to("start", [(other, "pay"), "fails"]))

    @agent.state
    async def fails(context: Context) -> None:
        await asyncio.sleep(1)
        raise ValueError("no")

    agent.add_state("other.pay_compensation", log.state("refund"))
    with pytest.raises(ValueError):
        await agent.run()
    assert log.lines == ["0 pay", "1 refund"]


@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize("seconds", [1, 3])
async def test_a_failed_run_waits_for_nobody(seconds: float, is_resumed: bool, store: CheckpointStore) -> None:
    """What waits for a person when another state has failed, or comes to that later, is stopped, and undone."""
    log = Log()

    def made() -> Agent:
        agent = agent_of(goes_to("start", ["asks", "fails"]), log.state("asks_compensation"), store=store)

        @agent.state
        async def asks(context: Context) -> None:
            await asyncio.sleep(2)
            await context.human_in_the_loop("Well?")

        @agent.state
        async def fails(context: Context) -> None:
            await asyncio.sleep(seconds)
            raise ValueError("no")

        return agent

    agent = made()
    task = started_task(agent.run("r"))
    if is_resumed:
        await until_recorded(store, "r", "failed")
        await stopped(task)
        agent = made()
        task = started_task(agent.resume_run("r"))
    with pytest.raises((ValueError, WorkflowError), match="no"):
        await task
    assert [line.split()[1] for line in log.lines] == ["asks_compensation"]
    assert await agent.open_questions("r") == []
