"""Dependencies of every kind, for how long they hold, and what happens when they never do."""

import asyncio
from typing import Any

import pytest

from miniagents.ext.workflow import (
    Agent,
    Context,
    DependencyConfig,
    DependencyError,
    DependencyLifecycle,
    DependencyType,
    StateStatus,
)
from miniagents.testing import quiescence
from tests.ext.workflow.helpers import Log, agent_of, goes_to, started_task

REQUIRED, OPTIONAL, PARALLEL, SEQUENTIAL, CONDITIONAL, TIMEOUT, XOR, AND, OR = (
    DependencyType.REQUIRED, DependencyType.OPTIONAL, DependencyType.PARALLEL, DependencyType.SEQUENTIAL,
    DependencyType.CONDITIONAL, DependencyType.TIMEOUT, DependencyType.XOR, DependencyType.AND, DependencyType.OR,
)  # fmt: skip
Config = DependencyConfig


def late(log: Log, agent: Agent, **dependencies: Any) -> Agent:
    """Adds a state of that name, with dependencies."""
    agent.add_state("late", log.state("late"), dependencies=dependencies)
    return agent


def failing(name: str, seconds: float = 0) -> Any:
    async def fail(context: Context) -> None:
        await asyncio.sleep(seconds)
        raise ValueError(name)

    fail.__name__ = name
    return fail


# --- kinds ---


@pytest.mark.parametrize("kind", [REQUIRED, AND])
async def test_required(kind: DependencyType) -> None:
    """The state starts when the other one has completed, and not when a retry of it has failed."""
    log = Log()
    agent = Agent("work", ask=None)

    async def unsteady(context: Context) -> None:
        await asyncio.sleep(1)
        if context.attempt < 3:
            raise ValueError

    from miniagents.ext.workflow import RetryPolicy

    policy = RetryPolicy(max_retries=2, initial_delay=1, exponential_base=1, jitter=False)
    agent.add_state("unsteady", unsteady, retry_policy=policy)
    await late(log, agent, unsteady=kind).run()
    assert log.lines == ["5 late"]


async def test_all_of_several() -> None:
    """With several dependencies the last one decides."""
    log = Log()
    agent = agent_of(goes_to("start", ["a", "b"]), log.state("a", None, 3), log.state("b", None, 2))
    await late(log, agent, a=REQUIRED, b=AND).run()
    assert log.lines[-1] == "3 late"


async def test_optional_waits_for_what_is_at_work() -> None:
    """What runs, or is named, or waits itself, is waited for."""
    log = Log()
    agent = agent_of(goes_to("start", "a"), log.state("a", None, 2))
    agent.add_state("b", log.state("b", None, 2), dependencies={"a": REQUIRED})
    await late(log, agent, start=REQUIRED, a=OPTIONAL, b=OPTIONAL).run()
    assert log.lines == ["0 a", "2 a ends", "2 b", "4 b ends", "4 late"]


async def test_optional_does_not_wait_for_what_nobody_has_named() -> None:
    """What is not in play does not matter."""
    log = Log()
    agent = agent_of(log.state("start", None, 1), log.state("a"))
    await late(log, agent, start=REQUIRED, a=OPTIONAL).run()
    assert log.lines == ["0 start", "1 start ends", "1 late"]


@pytest.mark.parametrize("kind", [OPTIONAL, SEQUENTIAL])
async def test_a_failure_that_is_tolerated(kind: DependencyType) -> None:
    """Where somebody only waits for the end of a state, its failure does not end the run."""
    log = Log()
    agent = agent_of(goes_to("start", ["a", "b"]), failing("a", 1), log.state("b", "end", 2), log.state("end"))
    await late(log, agent, start=REQUIRED, a=kind).run()
    assert log.lines == ["0 b", "1 late", "2 b ends", "2 end"]
    assert agent.state_metadata["a"].status is StateStatus.FAILED


async def test_a_failure_that_another_one_does_not_tolerate() -> None:
    """The error of a state that waits for ever has the failure as its cause."""
    log = Log()
    agent = agent_of(failing("a"))
    agent.add_state("strict", log.state("strict"), dependencies={"a": REQUIRED})
    with pytest.raises(
        DependencyError, match=r"strict waits for ever: a has not completed \(failed: ValueError: a\)"
    ) as caught:
        await late(log, agent, a=SEQUENTIAL).run()
    assert isinstance(caught.value.__cause__, ValueError)
    assert log.lines == ["0 late"]


async def test_parallel() -> None:
    """The state starts when the other one has started."""
    log = Log()
    agent = agent_of(log.state("start", "a", 1), log.state("a", None, 3))
    await late(log, agent, a=PARALLEL).run()
    assert log.lines == ["0 start", "1 start ends", "1 a", "1 late", "4 a ends"]


async def test_sequential_after_a_cancelled_state() -> None:
    """Any end will do."""
    log = Log()
    agent = agent_of(goes_to("start", "a"), log.state("a", None, 100))
    task = started_task(late(log, agent, start=REQUIRED, a=SEQUENTIAL).run())
    await asyncio.sleep(1)
    assert agent.cancel_state("a")
    await task
    assert log.lines == ["0 a", "1 late"]


@pytest.mark.parametrize(("ready", "lines"), [(True, ["2 late"]), (False, ["0 late"])])
async def test_conditional(ready: bool, lines: list[str]) -> None:
    """The other state matters where the condition holds when the state could start."""
    log = Log()

    async def start(context: Context) -> str:
        context.set_state("ready", ready)
        return "a"

    async def a(context: Context) -> None:
        await asyncio.sleep(2)

    config = Config(CONDITIONAL, condition=lambda agent: agent.get_state("ready"))
    await late(log, agent_of(start, a), start=REQUIRED, a=config).run()
    assert log.lines == lines


@pytest.mark.parametrize(("seconds", "line"), [(2, "2 late"), (20, "5 late")])
async def test_timeout(seconds: float, line: str) -> None:
    """The other one is waited for, but not longer than that."""
    log = Log()

    async def slow(context: Context) -> None:
        await asyncio.sleep(seconds)

    agent = late(log, agent_of(slow), slow=Config(TIMEOUT, timeout=5))
    await agent.run()
    assert log.lines == [line]
    assert agent.completed_states == {"slow", "late"}


async def test_a_timeout_dependency_on_what_never_runs() -> None:
    """A run does not end before the time is over, and does not hang."""
    log = Log()
    agent = late(log, agent_of(log.state("start"), goes_to("other", None)), other=Config(TIMEOUT, timeout=5))
    await agent.run()
    assert log.lines == ["0 start", "5 late"]


async def test_or() -> None:
    """The first one will do."""
    log = Log()
    agent = agent_of(goes_to("start", ["a", "b"]), log.state("a", None, 3), log.state("b", None, 1), goes_to("c", None))
    await late(log, agent, a=OR, b=OR, c=OR).run()
    assert log.lines == ["0 a", "0 b", "1 b ends", "1 late", "3 a ends"]


async def test_xor() -> None:
    """Just one has to have completed, and none of the others may be at work."""
    log = Log()
    agent = agent_of(goes_to("start", "a"), log.state("a", None, 1), log.state("b"))
    await late(log, agent, a=XOR, b=XOR).run()
    assert log.lines == ["0 a", "1 a ends", "1 late"]


async def test_xor_of_two_that_completed() -> None:
    """Two are too many, which no wait will change."""
    log = Log()
    agent = agent_of(goes_to("start", ["a", "b"]), log.state("a", None, 1), log.state("b", None, 2))
    with pytest.raises(DependencyError, match="just one of a, b has to have completed, but a, b have"):
        await late(log, agent, a=XOR, b=XOR).run()


async def test_several_kinds_at_once() -> None:
    """Each group counts for itself, and all of them have to be met."""
    log = Log()
    agent = agent_of(goes_to("start", ["a", "b", "c"]))
    for name, seconds in (("a", 1), ("b", 2), ("c", 3)):
        agent.add_state(name, log.state(name, None, seconds))
    agent.add_state("d", log.state("d"))
    await late(log, agent, a=OR, d=OR, b=REQUIRED, c=PARALLEL).run()
    assert [line for line in log.lines if "late" in line] == ["2 late"]


# --- how long a completion counts ---


async def test_always() -> None:
    """To run again, the state needs the other one to have completed again."""
    log = Log()
    agent = agent_of(log.state("first", "second", 1))

    @agent.state
    async def second(context: Context) -> list[str] | None:
        await asyncio.sleep(5)
        return ["first", "late"] if context.idempotency_key.endswith("/1") else None

    await late(log, agent, first=Config(REQUIRED, DependencyLifecycle.ALWAYS)).run()
    assert log.lines == ["0 first", "1 first ends", "1 late", "6 first", "7 first ends", "7 late"]


async def test_session() -> None:
    """One completion is enough for the whole run, but not for the next one."""
    log = Log()
    agent = agent_of(log.state("first", "second"))

    @agent.state
    async def second(context: Context) -> str | None:
        await asyncio.sleep(5)
        return "late" if context.idempotency_key.endswith("/1") else None

    late(log, agent, first=Config(REQUIRED, DependencyLifecycle.SESSION))
    for _ in range(2):
        await agent.run()
    assert [line for line in log.lines if "late" in line] == ["0 late", "5 late", "5 late", "10 late"]


async def test_once() -> None:
    """What has completed in an earlier run of the same agent counts."""
    log = Log()
    agent = agent_of()

    @agent.state
    async def start(context: Context) -> str | None:
        return None if agent.met_before else "setup"

    agent.add_state("setup", log.state("setup"))
    late(log, agent, start=REQUIRED, setup=Config(REQUIRED, DependencyLifecycle.ONCE))
    await agent.run()
    await agent.run()
    assert log.lines == ["0 setup", "0 late", "0 late"]


async def test_temporary() -> None:
    """After its time a completion counts no more."""
    log = Log()
    config = Config(REQUIRED, DependencyLifecycle.TEMPORARY, expiry=3)
    for seconds, fresh in ((2, True), (4, False)):
        agent = agent_of(goes_to("first", "slow"), log.state("slow", None, seconds))
        late(log, agent, first=config, slow=REQUIRED)
        if fresh:
            await agent.run()
        else:
            with pytest.raises(
                DependencyError, match="late waits for ever: first has completed, but that does not count"
            ):
                await agent.run()
    assert [line for line in log.lines if "late" in line] == ["2 late"]


async def test_periodic() -> None:
    """What has completed too long ago is run again for who needs it."""
    log = Log()
    agent = agent_of(log.state("refresh", "work", 1))

    @agent.state
    async def work(context: Context) -> list[str] | None:
        await asyncio.sleep(10)
        return ["work", "late"] if context.idempotency_key.endswith("/1") else None

    config = Config(REQUIRED, DependencyLifecycle.PERIODIC, interval=5)
    await late(log, agent, refresh=config).run()
    lines = [line for line in log.lines if not line.startswith("0")]
    assert lines == ["1 refresh ends", "1 late", "11 refresh", "12 refresh ends", "12 late"]


async def test_expiry_of_any_dependency() -> None:
    """`expiry` counts for each lifecycle."""
    log = Log()
    agent = agent_of(goes_to("first", "slow"), log.state("slow", None, 4))
    late(log, agent, first=Config(REQUIRED, expiry=3), slow=REQUIRED)
    with pytest.raises(DependencyError, match="late waits for ever"):
        await agent.run()


# --- conditions ---


async def test_a_condition_is_looked_at_when_a_state_has_ended() -> None:
    """It gets the agent, with the state of this run."""
    log = Log()
    agent = agent_of(goes_to("start", ["first", "count"]), log.state("first"))

    @agent.state
    async def count(context: Context) -> str | None:
        await asyncio.sleep(1)
        number = context.get_state("number", 0) + 1
        context.set_state("number", number)
        return "count" if number < 5 else None

    def enough(found: Any) -> bool:
        assert "first" in found.completed_states
        assert found.state_metadata["first"].visits == 1
        return bool(found.get_state("number", 0) >= 3 and found.alias == "work")

    await late(log, agent, first=Config(REQUIRED, condition=enough)).run()
    assert log.lines == ["0 first", "3 late"]


async def test_a_conditional_dependency_is_looked_at_when_the_others_are_met() -> None:
    """Its condition may be about what the others have brought."""
    log = Log()
    agent = agent_of(goes_to("start", ["a", "b"]), log.state("a", None, 1, quality=5), log.state("b", None, 3))
    config = Config(CONDITIONAL, condition=lambda found: found.get_state("quality") < 7)
    await late(log, agent, b=config, a=REQUIRED).run()
    assert log.lines[-1] == "3 late"


async def test_conditions_of_two_runs_at_once() -> None:
    """The condition of a run does not see the state of another one."""
    log = Log()
    agent = Agent("work", ask=None)
    seconds = iter([1, 3])

    @agent.state
    async def start(context: Context) -> None:
        mine = next(seconds)
        await asyncio.sleep(mine)
        context.set_state("mine", mine)

    agent.add_state(
        "late",
        log.state("late"),
        dependencies={"start": Config(REQUIRED, condition=lambda found: found.get_state("mine") in (1, 3))},
    )
    assert await asyncio.gather(agent.run(), agent.run()) == [{"mine": 1}, {"mine": 3}]
    assert log.lines == ["1 late", "3 late"]


async def test_a_condition_that_fails() -> None:
    """Its error ends the run, and says whose condition it was."""
    agent = agent_of(goes_to("start", None))
    late(Log(), agent, start=Config(REQUIRED, condition=lambda agent: agent.get_state("missing") > 5))
    with pytest.raises(TypeError) as caught:
        await agent.run()
    assert "in the condition of the dependency of late on start" in caught.value.__notes__


async def test_a_condition_that_is_async() -> None:
    """It would always seem to hold; the error says what to give."""

    async def holds(agent: Any) -> bool:
        return True

    agent = agent_of(goes_to("start", None))
    late(Log(), agent, start=Config(REQUIRED, condition=holds))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it is async; give a function"):
        await agent.run()


# --- what is never met ---


async def test_a_dependency_that_is_never_met() -> None:
    """The run ends with an error that says who waits for what, and does not hang."""
    log = Log()
    agent = agent_of(log.state("start"), log.state("other"))
    with pytest.raises(DependencyError, match=r"late waits for ever: other has not completed \(nobody has named it\)"):
        await late(log, agent, start=REQUIRED, other=REQUIRED).run()
    assert log.lines == ["0 start"]
    assert agent.state_metadata["late"].status is StateStatus.FAILED


async def test_a_condition_that_never_holds() -> None:
    """It is named."""
    agent = agent_of(goes_to("start", None))
    with pytest.raises(DependencyError, match="the condition of the dependency on start does not hold"):
        await late(Log(), agent, start=Config(REQUIRED, condition=lambda _: False)).run()


async def test_a_ring_of_dependencies() -> None:
    """All that wait for each other are named."""
    log = Log()
    agent = agent_of(log.state("start"))
    agent.add_state("a", log.state("a"), dependencies={"b": REQUIRED})
    agent.add_state("b", log.state("b"), dependencies={"a": REQUIRED})
    with pytest.raises(DependencyError, match=r"a waits for ever: b .*\. b waits for ever: a"):
        await agent.run()


@pytest.mark.parametrize("kind", [REQUIRED, SEQUENTIAL, PARALLEL])
async def test_a_dependency_that_is_not_met_in_time(kind: DependencyType) -> None:
    """With a timeout the run ends as soon as it is over, and says how long it was; what runs may end."""
    log = Log()
    agent = agent_of(log.state("start", "other", 10), goes_to("other", None))
    with pytest.raises(DependencyError, match=r"late cannot start: other .*, and 5 s have passed"):
        await late(log, agent, other=Config(kind, timeout=5)).run()
    assert log.lines == ["0 start", "10 start ends"]


async def test_who_waits_is_blocked() -> None:
    """While it waits, a state says for what."""
    log = Log()
    agent = late(log, agent_of(log.state("start", None, 10)), start=REQUIRED)
    task = started_task(agent.run())
    await quiescence()
    metadata = agent.state_metadata["late"]
    assert (metadata.status, metadata.waits_for) == (StateStatus.BLOCKED, ("start has not completed (ready)",))
    assert agent.priority_queue == ["late"]
    await task
    assert agent.state_metadata["late"].waits_for == ()


# --- states that cannot start, and others that go on all the same ---


@pytest.mark.parametrize("kind", [DependencyType.SEQUENTIAL, DependencyType.OPTIONAL])
@pytest.mark.parametrize("order", ["forwards", "backwards"])
async def test_what_can_never_start_is_no_reason_to_wait(kind: DependencyType, order: str) -> None:
    """Who goes on after its failure does so."""
    log = Log()
    agent = agent_of(log.state("start"), log.state("unnamed"))
    after: dict[str, dict[str, DependencyType]] = {"stuck": {"unnamed": REQUIRED}, "last": {"stuck": kind}}
    for name in after if order == "forwards" else reversed(after):
        agent.add_state(name, log.state(name), after[name])
    await agent.run()
    assert log.lines == ["0 start", "0 last"]
    assert agent.state_metadata["stuck"].error == (
        "DependencyError: stuck waits for ever: unnamed has not completed (nobody has named it)"
    )


async def test_states_that_wait_for_each_other_and_need_not() -> None:
    """One of them begins."""
    log = Log()
    agent = agent_of(log.state("start"))
    agent.add_state("a", log.state("a"), {"b": DependencyType.OPTIONAL})
    agent.add_state("b", log.state("b"), {"a": DependencyType.OPTIONAL})
    await agent.run()
    assert sorted(log.lines) == ["0 b", "0 start"]
    assert "a waits for ever: b is still at work" in str(agent.state_metadata["a"].error)


async def test_a_branch_that_ends_with_a_state_that_cannot_start() -> None:
    """The others do not wait for it."""
    log = Log()
    agent = agent_of(
        goes_to("start", ["a", "b"]), log.state("a", "merge"), log.state("merge"), log.state("slow", None, 9)
    )
    agent.add_state("b", log.state("b", "merge"), {"slow": Config(REQUIRED, timeout=2)})
    agent.add_state("c", log.state("c"), {"b": DependencyType.OPTIONAL})
    await agent.run()
    assert sorted(log.lines) == ["0 a", "2 c", "2 merge"]


async def test_a_condition_that_fails_is_a_failure_of_the_state() -> None:
    """What was done is undone."""
    log = Log()
    agent = agent_of(log.state("start"), log.state("start_compensation"))
    agent.add_state("late", log.state("late"), {"start": Config(REQUIRED, condition=lambda agent: 1 / 0 > 1)})
    with pytest.raises(ZeroDivisionError):
        await agent.run()
    assert log.lines == ["0 start", "0 start_compensation"]


@pytest.mark.parametrize("kind", [DependencyType.OR, DependencyType.XOR])
async def test_alternatives_that_take_too_long(kind: DependencyType) -> None:
    """When none of them is waited for any longer it is an error."""
    log = Log()
    agent = agent_of(goes_to("start", ["a", "b"]), log.state("a", None, 9), log.state("b", None, 9))
    agent.add_state("late", log.state("late"), {"a": Config(kind, timeout=1), "b": Config(kind, timeout=2)})
    with pytest.raises(DependencyError, match=r"late cannot start: .*, and 2 s have passed"):
        await agent.run()


async def test_a_state_has_started_when_it_has_a_place() -> None:
    """Who runs beside it does not begin before."""
    log = Log()
    agent = agent_of(goes_to("start", ["first", "second"]), log.state("first", None, 2), max_concurrent=1)
    agent.add_state("second", log.state("second", None, 2))
    agent.add_state("beside", log.state("beside"), {"second": DependencyType.PARALLEL})
    await agent.run()
    assert log.lines == ["0 first", "2 first ends", "2 second", "4 second ends", "4 beside"]


async def test_names_alone_are_required() -> None:
    """A list of names will do; with an empty one a state starts at once."""
    log = Log()
    agent = agent_of(log.state("one", None, 1))
    agent.add_state("two", log.state("two", None, 2), [])
    agent.add_state("both", log.state("both"), ["one", "two"])
    await agent.run()
    assert log.lines == ["0 one", "0 two", "1 one ends", "2 two ends", "2 both"]


async def test_states_that_nobody_can_come_to_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """A `return` that was forgotten looks like success otherwise; where more may be named nothing is said."""
    await agent_of(goes_to("start", None), _ends, name="one").run()
    assert not caplog.records  # what `start` returns is no constant

    await agent_of(_ends, _is_named, name="two").run()
    (record,) = caplog.records
    assert record.getMessage().startswith("two: no state returns _is_named, and it does not start by itself; return")


async def _ends(context: Context) -> None:
    pass


async def _is_named(context: Context) -> str:
    return "_ends"


async def test_a_part_that_begins_elsewhere_is_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    """What comes before that is for other runs."""
    other = agent_of(_ends, _is_named, name="other")

    async def start(context: Context) -> Any:
        return other, "_is_named"

    await agent_of(start).run()
    assert not caplog.records
