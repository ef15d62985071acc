"""States: which start, what follows which, and where those that run side by side meet again."""

import asyncio
from typing import Any

import pytest

from miniagents import InteractionContext, Message, miniagent
from miniagents.ext.graph.resources import ResourceError
from miniagents.ext.workflow import (
    Agent,
    AgentStatus,
    Context,
    DependencyConfig,
    DependencyLifecycle,
    DependencyType,
    ResourceRequirements,
    RetryPolicy,
    StateStatus,
    UnknownStateError,
    WorkflowError,
)
from tests.ext.workflow.helpers import Log, agent_of, goes_to, started_task


async def parallel(*names: str) -> Any:
    """The state that names others to run side by side."""
    return goes_to("start", list(names))


# --- what starts, and what follows ---


async def test_the_first_state_starts_and_others_when_they_are_named() -> None:
    """Of states without dependencies only the one that was added first starts by itself."""
    log = Log()
    agent = agent_of(log.state("one", "three"), log.state("two"), log.state("three"))
    await agent.run()
    assert log.lines == ["0 one", "0 three"]
    assert agent.completed_states == {"one", "three"}
    assert agent.state_metadata["two"].status is StateStatus.PENDING


async def test_states_with_dependencies_start_by_themselves() -> None:
    """A state that depends on others starts the moment they have completed, though nobody names it."""
    log = Log()
    agent = agent_of(log.state("one", seconds=2))
    agent.add_state("two", log.state("two"), dependencies={"one": DependencyType.REQUIRED})
    agent.add_state("three", log.state("three"), dependencies={"two": DependencyType.REQUIRED})
    await agent.run()
    assert log.lines == ["0 one", "2 one ends", "2 two", "2 three"]


async def test_a_state_that_is_named_before_its_dependencies_are_met_waits_and_runs_once() -> None:
    """Being named does not make a state run twice, if it was to run anyway."""
    log = Log()
    agent = agent_of(goes_to("start", ["slow", "quick"]), log.state("slow", seconds=2), log.state("quick", "late"))
    agent.add_state("late", log.state("late"), dependencies={"slow": DependencyType.REQUIRED})
    await agent.run()
    assert log.lines == ["0 slow", "0 quick", "2 slow ends", "2 late"]


async def test_a_loop_ends_when_a_state_says_so() -> None:
    """A state may name itself, or one before it, as often as it likes."""

    async def count(context: Context) -> str | None:
        number = context.get_state("number", 0) + 1
        context.set_state("number", number)
        return "check" if number < 1000 else None

    agent = agent_of(count, goes_to("check", "count"))
    assert await agent.run() == {"number": 1000}
    assert (agent.state_metadata["count"].visits, agent.state_metadata["check"].visits) == (1000, 999)


async def test_a_state_that_is_named_while_it_runs_runs_again() -> None:
    """Who names a state gets a visit that begins afterwards."""
    log = Log()
    agent = agent_of(goes_to("start", ["slow", "quick"]), log.state("slow", seconds=2), log.state("quick", seconds=1))

    @agent.state(dependencies={"quick": DependencyType.REQUIRED})
    async def again(context: Context) -> str:
        return "slow"

    await agent.run()
    assert log.lines == ["0 slow", "0 quick", "1 quick ends", "2 slow ends", "2 slow", "4 slow ends"]


async def test_a_run_without_states_or_with_one() -> None:
    """Nothing to do is done at once."""
    assert await agent_of().run() == {}
    assert await agent_of(goes_to("only", None)).run() == {}


# --- joins ---


async def test_what_all_of_a_group_name_runs_once_when_all_have_ended() -> None:
    """Parallel states run side by side; the state that they name waits for the slowest."""
    log = Log()
    agent = agent_of(
        await parallel("a", "b", "c"),
        log.state("a", "merge", 1),
        log.state("b", "merge", 3),
        log.state("c", "merge", 2),
        log.state("merge"),
    )
    await agent.run()
    assert log.lines == ["0 a", "0 b", "0 c", "1 a ends", "2 c ends", "3 b ends", "3 merge"]


async def test_what_some_of_a_group_name_waits_for_those_that_might_name_it() -> None:
    """A state that may or may not name the next one is waited for."""
    log = Log()
    agent = agent_of(await parallel("a", "b"), log.state("a", "merge", 1), log.state("b", None, 3), log.state("merge"))
    await agent.run()
    assert log.lines[-1] == "3 merge"


async def test_a_branch_that_nobody_else_can_come_to_goes_on_at_once() -> None:
    """What is known of the others' next states decides: what only one branch leads to does not wait."""
    log = Log()
    agent = agent_of(await parallel("a", "b"))
    agent.add_state("a", log.state("a", "after_a", 1), next_states=["after_a"])
    agent.add_state("after_a", log.state("after_a"), next_states=[])
    agent.add_state("b", log.state("b", "end", 3), next_states=["end"])
    agent.add_state("end", log.state("end"), next_states=[])
    await agent.run()
    assert log.lines == ["0 a", "0 b", "1 a ends", "1 after_a", "3 b ends", "3 end"]


async def test_next_states_are_read_from_the_source() -> None:
    """Where each `return` names constants, nothing has to be declared."""
    log = Log()
    agent = agent_of(await parallel("a", "b"), log.state("after_a"))

    @agent.state
    async def a(context: Context) -> str:
        await asyncio.sleep(1)
        return "after_a" if context.attempt == 1 else "b"

    @agent.state
    async def b(context: Context) -> list[str] | None:
        def elsewhere() -> str:
            return "after_a"

        await asyncio.sleep(3)
        if context.attempt > 1:
            return ["end", "await_processing"]
        elsewhere()
        return None

    agent.add_state("end", log.state("end"))
    await agent.run()
    assert log.lines == ["1 after_a"]


async def test_branches_meet_several_states_later() -> None:
    """Branches of different lengths meet in the state that both come to, however late."""
    log = Log()
    agent = agent_of(await parallel("a1", "b1"))
    for name, following in (("a1", "a2"), ("a2", "merge"), ("b1", "b2"), ("b2", "b3"), ("b3", "merge")):
        agent.add_state(name, log.state(name, following, 1), next_states=[following])
    agent.add_state("merge", log.state("merge"))
    await agent.run()
    assert log.lines[-1] == "3 merge"
    assert agent.state_metadata["merge"].visits == 1


async def test_groups_nest() -> None:
    """A branch that forks meets itself first, and the other branches then."""
    log = Log()
    agent = agent_of(await parallel("a", "b"))
    agent.add_state("a", log.state("a", ["a1", "a2"]), next_states=["a1", "a2"])
    for name, following, seconds in (("a1", "a_merged", 1), ("a2", "a_merged", 2), ("a_merged", "merge", 1)):
        agent.add_state(name, log.state(name, following, seconds), next_states=[following])
    agent.add_state("b", log.state("b", "merge", 5), next_states=["merge"])
    agent.add_state("merge", log.state("merge", None))
    await agent.run()
    assert [line for line in log.lines if "merge" in line] == ["2 a_merged", "3 a_merged ends", "5 merge"]


async def test_an_inner_group_waits_for_the_outer_one_where_that_names_the_same() -> None:
    """What is named in a group inside of a group, and may be named beside it, runs once when both have ended."""
    log = Log()
    agent = agent_of(await parallel("a", "b"), log.state("merge"))
    agent.add_state("a", log.state("a", ["a1", "a2"]), next_states=["a1", "a2"])
    agent.add_state("a1", log.state("a1", "merge", 1), next_states=["merge"])
    agent.add_state("a2", log.state("a2", None, 2), next_states=[])
    agent.add_state("b", log.state("b", "merge", 3), next_states=["merge"])
    await agent.run()
    assert [line for line in log.lines if "merge" in line] == ["3 merge"]


async def test_a_branch_loops_while_others_run() -> None:
    """A branch may begin the group anew, if what it begins is not at work."""
    rounds: list[str] = []
    agent = agent_of(goes_to("generate", ["check", "extract"]))

    @agent.state(next_states=["generate"])
    async def check(context: Context) -> str | None:
        rounds.append("check")
        await asyncio.sleep(1)
        return "generate" if len(rounds) < 6 else None

    @agent.state(next_states=[])
    async def extract(context: Context) -> None:
        rounds.append("extract")

    await agent.run()
    assert rounds == ["check", "extract"] * 3


@pytest.mark.parametrize("done", ["await_processing", "await_completion", None, []])
async def test_a_branch_is_done(done: Any) -> None:
    """The documented names, where nobody has added them, end a branch, and so does naming nothing."""
    log = Log()
    agent = agent_of(await parallel("a", "b"), log.state("a", done, 1), log.state("b", "end"), log.state("end"))
    await agent.run()
    assert log.lines == ["0 a", "0 b", "1 a ends", "1 end"]


async def test_a_documented_name_that_was_added_is_a_state() -> None:
    """`await_processing` is the state of that name, if there is one."""
    log = Log()
    agent = agent_of(goes_to("start", "await_processing"), log.state("await_processing"))
    await agent.run()
    assert log.lines == ["0 await_processing"]


async def test_ten_thousand_parallel_states() -> None:
    """Very many states meet again in a time that grows with their number, and not with its square."""
    count = 10_000
    agent = agent_of(goes_to("start", [f"state{number}" for number in range(count)]), reducers={"sum": int.__add__})

    async def one(context: Context) -> str:
        context.set_state("sum", 1)
        context.set_state(context.state_name, 1)
        return "end"

    async def end(context: Context) -> None:
        context.set_state("at_end", context.get_state("sum"))

    for number in range(count):
        agent.add_state(f"state{number}", one)
    agent.add_state("end", end)
    began = asyncio.get_running_loop().time()
    assert (await agent.run())["at_end"] == count
    assert asyncio.get_running_loop().time() == began


async def test_very_many_branches_that_go_on_alone() -> None:
    """Whether others can come to a state is not looked for branch by branch."""
    count = 2000
    agent = agent_of(goes_to("start", [f"first{number}" for number in range(count)]))
    for number in range(count):
        agent.add_state(f"first{number}", goes_to("go", f"second{number}"), next_states=[f"second{number}"])
        agent.add_state(f"second{number}", goes_to("go", None), next_states=[])
    await agent.run()
    assert len(agent.completed_states) == 2 * count + 1


# --- names ---


async def test_an_unknown_name_lists_the_known_states() -> None:
    """A state that names one that nobody has added ends the run with an error that says what there is."""
    agent = agent_of(goes_to("start", "finsh"), goes_to("finish", None))
    with pytest.raises(UnknownStateError, match=r"start names 'finsh', .*there are: finish, start") as caught:
        await agent.run()
    assert caught.value.wanted == "finsh"
    assert agent.status is AgentStatus.FAILED


async def test_an_unknown_dependency_is_an_error_before_anything_runs() -> None:
    """Dependencies may be added later, but not after the run has begun."""
    log = Log()
    agent = agent_of(log.state("start"))
    agent.add_state("late", log.state("late"), dependencies={"other": DependencyType.REQUIRED})
    with pytest.raises(UnknownStateError, match="the dependencies of late names 'other'"):
        await agent.run()
    assert log.lines == []
    agent.add_state("other", log.state("other"))
    agent.add_state("x", log.state("x", "other"), dependencies={"start": DependencyType.REQUIRED})
    await agent.run()
    assert log.lines == ["0 start", "0 x", "0 other", "0 late"]


@pytest.mark.parametrize("returned", [42, {"next": "end"}, [42], [["end"]], b"end", True])
async def test_a_state_returns_nothing_else(returned: Any) -> None:
    """Whatever is no name, list, part or None is refused, and shown."""
    with pytest.raises(WorkflowError, match="start returned"):
        await agent_of(goes_to("start", returned), goes_to("end", None)).run()


async def test_a_state_keeps_to_its_next_states() -> None:
    """What is declared holds, as the others rely on it."""
    agent = agent_of(goes_to("end", None))
    agent.add_state("first", goes_to("first", "end"), dependencies={"end": DependencyType.REQUIRED}, next_states=["b"])
    with pytest.raises(WorkflowError, match="first names 'end', which is not among its next_states: b"):
        await agent.run()


# --- adding states ---


async def test_the_decorator() -> None:
    """A function becomes a state with or without arguments, under its own name or another, and stays what it is."""
    agent = Agent("work", ask=None)

    @agent.state
    async def one(context: Context) -> str:
        return "second"

    @agent.state("second", max_retries=2)
    async def two(context: Context) -> str:
        return "SPEAK"

    @miniagent
    async def speak(ctx: InteractionContext) -> None:
        ctx.reply("Hi")

    assert agent.state(speak) is speak
    assert list(agent.states) == ["one", "second", "SPEAK"]
    assert agent.states["second"].retry_policy.max_retries == 2
    assert agent.states["one"].function is one
    await agent.run()
    assert agent.completed_states == {"one", "second", "SPEAK"}


async def test_what_can_be_no_state() -> None:
    """A state is checked when it is added."""
    agent = Agent("work", ask=None)

    def blocking(context: Context) -> None:
        pass

    async def fine(context: Context) -> None:
        pass

    agent.add_state("there", fine)
    for wrong in ("there", None, 42, Context):
        with pytest.raises(TypeError, match="the state 'new' needs an async function"):
            agent.add_state("new", wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not async; write `async def blocking"):
        agent.add_state("new", blocking)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'new_compensation' needs"):
        agent.add_state("new", fine, compensation=42)  # type: ignore[arg-type]
    with pytest.raises(WorkflowError, match="a state 'there' already"):
        agent.add_state("there", fine)
    with pytest.raises(ResourceError, match="the state 'new' asks for gpu 1"):
        agent.add_state("new", fine, resources=ResourceRequirements(gpu_units=1))
    with pytest.raises(TypeError, match="give a DependencyType or -Config"):
        agent.add_state("new", fine, dependencies={"there": "required"})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="no mapping"):
        agent.add_state("new", fine, dependencies="there")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        agent.add_state("new", fine, timeout=0)
    with pytest.raises(ValueError, match="no policy"):
        agent.add_state("new", fine, max_retries=-1)
    assert list(agent.states) == ["there"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"lifecycle": DependencyLifecycle.PERIODIC},
        {"lifecycle": DependencyLifecycle.TEMPORARY},
        {"type": DependencyType.TIMEOUT},
        {"type": DependencyType.CONDITIONAL},
        {"timeout": 0},
        {"expiry": -1},
        {"interval": float("nan")},
    ],
)
def test_dependencies_that_make_no_sense(wrong: dict[str, Any]) -> None:
    """A configuration that lacks what it needs says so when it is made."""
    with pytest.raises(ValueError, match=r"needs|positive"):
        DependencyConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"max_retries": -1}, {"initial_delay": -1}, {"max_delay": -1}, {"exponential_base": 0.5}]
)
def test_policies_that_make_no_sense(wrong: dict[str, Any]) -> None:
    """A policy that cannot be followed says so when it is made."""
    with pytest.raises(ValueError, match="no policy"):
        RetryPolicy(**wrong)


@pytest.mark.parametrize("wrong", [{"max_concurrent": 0}, {"checkpoint_interval": 0}, {"checkpoint_interval": -1}])
def test_workflows_that_make_no_sense(wrong: dict[str, Any]) -> None:
    """A limit that lets nothing run is refused."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Agent("work", **wrong)


async def test_states_are_added_while_the_workflow_runs() -> None:
    """A state may add states, which then can be named, or start when what they depend on has completed."""
    log = Log()
    agent = Agent("work", ask=None)

    @agent.state
    async def start(context: Context) -> list[str]:
        for number in range(3):
            agent.add_state(f"chunk{number}", log.state(f"chunk{number}", "merge", number + 1))
        agent.add_state("merge", log.state("merge"))
        agent.add_state("after", log.state("after"), dependencies={"merge": DependencyType.REQUIRED})
        with pytest.raises(UnknownStateError):
            agent.add_state("wrong", log.state("wrong"), dependencies={"nowhere": DependencyType.REQUIRED})
        return [f"chunk{number}" for number in range(3)]

    await agent.run()
    assert log.lines[-3:] == ["3 chunk2 ends", "3 merge", "3 after"]
    assert "wrong" not in agent.states


# --- miniagents as states ---


async def test_a_miniagent_is_a_state() -> None:
    """It gets what the one before it has replied, and its last message may name the next state."""

    @miniagent
    async def writer(ctx: InteractionContext) -> None:
        text = " ".join([str(message) for message in await ctx.message_promises])
        ctx.reply(Message(f"<{text}>", next_state="editor"))

    @miniagent
    async def editor(ctx: InteractionContext) -> None:
        ctx.reply(Message(f"[{await ctx.message_promises.as_single_promise()}]", next_state=["publish", "archive"]))

    agent = Agent("work", ask=None)
    agent.add_state("writer", writer)
    agent.add_state("editor", editor)
    seen: dict[str, str] = {}

    @agent.state
    async def publish(context: Context) -> None:
        seen["publish"] = str((await context.message_promises)[0])

    @agent.state
    async def archive(context: Context) -> None:
        seen["archive"] = str((await context.message_promises)[0])

    replies = await agent.inquire(["Hello", "you"], progress=False)
    assert [str(message) for message in replies[:2]] == ["<Hello you>", "[<Hello you>]"]
    assert seen == {"publish": "[<Hello you>]", "archive": "[<Hello you>]"}


# --- parts of other workflows ---


async def test_a_part_of_another_workflow() -> None:
    """`(other_agent, state)` runs the other one from that state on, with the same shared state."""
    log = Log()
    other = Agent("other", ask=None)

    @other.state
    async def never(context: Context) -> None:
        raise AssertionError

    @other.state
    async def double(context: Context) -> str:
        context.set_state("number", context.get_state("number") * 2)
        context.remove_state("unwanted")
        return "log"

    other.add_state("log", log.state("log", seconds=2))
    agent = Agent("work", ask=None)

    @agent.state
    async def start(context: Context) -> list[Any]:
        context.set_state("number", 21)
        context.set_state("unwanted", 1)
        return [(other, "double"), "beside"]

    agent.add_state("beside", log.state("beside", seconds=1))
    agent.add_state("after", log.state("after"), dependencies={"beside": DependencyType.REQUIRED})
    assert await agent.run() == {"number": 42}
    assert log.lines == ["0 beside", "0 log", "1 beside ends", "1 after", "2 log ends"]
    assert list(agent.states) == ["start", "beside", "after"]
    assert agent.state_metadata["other.double"].status is StateStatus.COMPLETED


async def test_a_part_that_there_is_not() -> None:
    """An unknown state of another workflow is an error that lists the states of that."""
    other = agent_of(goes_to("here", None), name="other")
    agent = agent_of(goes_to("start", (other, "there")))
    with pytest.raises(UnknownStateError, match="a part, other names 'there', .*there are: here"):
        await agent.run()


async def test_a_part_that_fails_fails_the_run() -> None:
    """The error of a part is that of the run."""

    async def fail(context: Context) -> None:
        raise ValueError("boom")

    other = agent_of(fail, name="other")
    with pytest.raises(ValueError, match="boom") as caught:
        await agent_of(goes_to("start", (other, "fail"))).run()
    assert any("in fail, called by other" in note for note in caught.value.__notes__)


async def test_two_agents_of_one_name_are_two_parts() -> None:
    """Which workflow is meant is said by the object, in each run anew."""
    for number in (1, 2):
        other = Agent("other", ask=None)
        other.add_state("set", Log().state("set", number=number))
        agent = agent_of(goes_to("start", (other, "set")))
        assert await agent.run() == {"number": number}


# --- drawing ---


def test_mermaid() -> None:
    """Solid arrows for dependencies, dotted ones for what a state can name."""
    agent = Agent("work", ask=None)

    @agent.state
    async def one(context: Context) -> str:
        return "two"

    agent.add_state("two", goes_to("two", None))
    agent.add_state("three", goes_to("three", None), dependencies={"one": DependencyType.REQUIRED})
    lines = agent.to_mermaid().splitlines()
    assert [line.strip() for line in lines if "-->" in line or "-.->" in line] == ["n0 --> n2", "n0 -.-> n1"]


async def test_a_second_run_begins_anew() -> None:
    """Nothing of a run is left for the next one."""

    async def count(context: Context) -> None:
        context.set_state("number", context.get_state("number", 0) + 1)

    agent = agent_of(count)
    assert [await agent.run(), await agent.run()] == [{"number": 1}, {"number": 1}]
    first = started_task(agent.run(run_id="first"))
    assert await agent.run(run_id="second") == {"number": 1}
    assert await first == {"number": 1}


# --- where branches meet ---


async def test_what_another_one_comes_to_waits_for_it() -> None:
    """When a group ends with several states, those that others of them lead to run after these, once."""
    log = Log()
    agent = Agent("work", ask=None)

    def add(name: str, function: Any) -> None:
        agent.add_state(name, function)

    async def start(context: Context) -> list[str]:
        return ["a", "b", "c"]

    async def to_first(context: Context) -> str:
        return "first"

    async def to_second(context: Context) -> str:
        return "second"

    async def first(context: Context) -> str:
        log.write("first")
        await asyncio.sleep(1)
        return "second"

    async def second(context: Context) -> None:
        log.write("second")

    for name, function in {"start": start, "a": to_first, "b": to_first, "c": to_second}.items():
        add(name, function)
    add("first", first)
    add("second", second)
    await agent.run()
    assert log.lines == ["0 first", "1 second"]


async def test_forks_that_overlap() -> None:
    """What several of the states come to that follow runs once, when all of them have ended."""
    log = Log()
    agent = Agent("work", ask=None)

    @agent.state
    async def start(context: Context) -> list[str]:
        return ["a", "b"]

    @agent.state
    async def a(context: Context) -> list[str]:
        return ["x", "y"]

    @agent.state
    async def b(context: Context) -> list[str]:
        return ["y", "z"]

    def add(name: str, seconds: float) -> None:
        async def work(context: Context) -> str:
            log.write(name)
            await asyncio.sleep(seconds)
            return "end"

        agent.add_state(name, work)

    for seconds, name in enumerate("xyz"):
        add(name, seconds)
    agent.add_state("end", log.state("end"))
    await agent.run()
    assert sorted(log.lines) == ["0 x", "0 z", "2 y", "3 end"]


async def test_a_branch_that_goes_back_to_the_fork() -> None:
    """What follows all branches runs once, also if one of them goes round again."""
    log = Log()
    agent = Agent("work", ask=None)
    rounds = []

    @agent.state
    async def start(context: Context) -> list[str]:
        rounds.append(1)
        return ["a", "b"]

    @agent.state
    async def a(context: Context) -> str:
        return "start" if len(rounds) < 3 else "join"

    @agent.state
    async def b(context: Context) -> str:
        return "join"

    agent.add_state("join", log.state("join"))
    await agent.run()
    assert (len(rounds), log.lines) == (3, ["0 join"])


async def test_a_state_with_dependencies_that_a_branch_names_belongs_to_the_branch() -> None:
    """What follows its group waits for the others, and runs once."""
    log = Log()
    agent = Agent("work", ask=None)

    @agent.state
    async def start(context: Context) -> list[str]:
        return ["a", "b"]

    @agent.state
    async def a(context: Context) -> str:
        await asyncio.sleep(1)
        return "merge"

    @agent.state(dependencies=["start"])
    async def b(context: Context) -> str:
        return "merge"

    agent.add_state("merge", log.state("merge"))
    await agent.run()
    assert log.lines == ["1 merge"]


@pytest.mark.parametrize("seconds", [(1, 2), (2, 1)])
async def test_branches_of_which_nothing_can_be_seen(seconds: tuple[int, int]) -> None:
    """What one of them comes to in two steps, and the other in one, runs once, when both have ended."""
    log = Log()
    agent = agent_of(
        goes_to("start", ["a", "b"]),
        log.state("a", "a2", seconds[0]),
        log.state("b", "join", seconds[1]),
        log.state("a2", "join", 5),
    )

    @agent.state
    async def join(context: Context) -> None:
        log.write("join")

    await agent.run()
    assert [line.split()[1] for line in log.lines].count("join") == 1
    assert log.lines[-1].endswith("join")
