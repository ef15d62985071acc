"""Flow control: where a run goes on, forwards, backwards and sideways."""

import asyncio
from typing import Any

import pytest

from miniagents import MiniAgents
from miniagents.ext.cache import Cache, MemoryCache
from miniagents.ext.graph import DecisionTaken, GraphFinished, GraphLimitError, NodeRetried
from miniagents.ext.task_graph import (
    Agent,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleType,
    Node,
    TaskStatus,
)
from tests.ext.task_graph.helpers import (
    Does,
    Notes,
    Unreliable,
    agent_of,
    events_of,
    flow,
    new_task,
    node,
    results,
    run,
    runs,
    statuses,
    success,
    told,
)


def first_times(number: int, key: str = "rounds") -> Any:
    """A condition that holds so many times."""

    async def holds(cache: Cache, task: Any) -> bool:
        return await cache.increment(key) <= number

    return holds


async def events(agent: Agent, kind: Any) -> list[Any]:
    async with MiniAgents():
        return events_of(await agent.inquire("x", task=new_task()), kind)


# --- decisions ---


def test_defaults() -> None:
    """The documented classes have the documented defaults."""
    assert FlowDecision(next_node="x") == FlowDecision(
        next_node="x", condition=None, condition_variables=[], cleanup_on_jump=False
    )
    assert FlowControlConfig() == FlowControlConfig(decisions=[], default=None, cleanup_on_default=True)


@pytest.mark.parametrize(
    ("params", "target", "why"),
    [
        ({"a": 1}, "x", "task.a == 1"),
        ({"a": 2}, "y", "task.a == 2"),
        ({"a": 3}, "z", "default"),
        ({"a": 1, "b": 1}, "x", "task.a == 1"),
    ],
)
async def test_the_first_decision_that_holds(params: dict[str, int], target: str, why: str) -> None:
    """Decisions are asked in their order; when none holds, the default counts."""
    decide = flow("f", ("x", "task.a == 1"), ("y", "task.a == 2"), ("y", "task.b == 1"), default="z")
    agent = agent_of(decide, *[node(name, after=["f"]) for name in "xyz"])
    await run(agent, new_task(**params))
    (decided,) = agent.node_results["f"]["results"]
    assert (decided["decision"], decided["why"]) == (target, why)
    assert {name for name, status in statuses(agent).items() if status == "success"} == {"f", target}
    assert "f went on with" in agent.node_results[({"x", "y", "z"} - {target}).pop()]["reason"]


async def test_decisions_are_told() -> None:
    """The progress says who has decided what, and why."""
    agent = agent_of(flow("f", ("x", "task.a == nil")), node("x", after=["f"]))
    async with MiniAgents():
        messages = await agent.inquire("x", task=new_task())
    (taken,) = events_of(messages, DecisionTaken)
    assert (taken.node, taken.targets, taken.why) == ("f", ("x",), "task.a == nil")
    assert "f: x" not in told(messages)  # where to go is nothing that it says to others


async def test_no_decision() -> None:
    """When none holds and there is no default, the run goes on along its dependencies."""
    agent = agent_of(flow("f", ("x", "false")), node("x", after=["f"]), node("y", after=["f"]))
    assert await events(agent, DecisionTaken) == []
    assert set(statuses(agent).values()) == {"success"}


async def test_condition_variables() -> None:
    """They are deleted when their decision is taken, before anything follows it; those of the others stay."""
    cache = MemoryCache()
    await cache.set_many({"again": True, "other": True})
    seen: list[dict[str, Any]] = []

    async def look(cache: Cache) -> None:
        seen.append(await cache.get_many(["again", "other"]))

    first = FlowDecision(next_node="a", condition="not other", condition_variables=["other"])
    second = FlowDecision(next_node="a", condition="again", condition_variables=["again", "unknown"])
    agent = agent_of(node("a", look), flow("f", first, second, after=["a"]), cache=cache)
    await run(agent)
    assert seen == [{"again": True, "other": True}, {"other": True}]


async def test_condition_variables_stay_until_the_node_has_finished() -> None:
    """A node that fails after it has decided decides the same when it is tried again."""
    cache = MemoryCache()
    await cache.set("again", True)
    decide = FlowControlModule(
        flow_config=FlowControlConfig(
            decisions=[FlowDecision(next_node="b", condition="again", condition_variables=["again"])]
        )
    )
    agent = agent_of(node("f", decide, Unreliable(failures=1)), node("b"), node("c", after=["f"]), cache=cache)
    await run(agent)
    assert statuses(agent) == {"f": "success", "b": "success", "c": "skipped"}


async def test_an_unknown_target() -> None:
    """It is an error at the jump that names it and what there is, which no retry can mend."""
    decision = FlowDecision(next_node="nowhere", condition="go", condition_variables=["go"])
    cache = MemoryCache()
    await cache.set("go", True)
    agent = agent_of(flow("f", decision), node("a"), node("b", after=["f"]), cache=cache)
    async with MiniAgents():
        messages = await agent.inquire("x", task=(task := new_task()))
    assert events_of(messages, NodeRetried) == []
    assert task.error == (
        "f: UnknownNodeError: the decision of f names 'nowhere', which is no node of this graph; there are: a, b, f"
    )
    assert statuses(agent) == {"f": "error", "a": "success", "b": "skipped"}


async def test_an_unknown_target_that_is_not_chosen() -> None:
    """Where nobody goes nobody gets lost."""
    agent = agent_of(flow("f", ("nowhere", "false")), node("a", after=["f"]))
    assert (await run(agent)).status is TaskStatus.COMPLETE


async def test_any_module_can_decide() -> None:
    """What counts is the result; the first decision of several modules."""
    agent = agent_of(
        node("f", lambda _: success("because"), lambda _: success(decision="b"), lambda _: success(decision="c")),
        *[node(name, after=["f"]) for name in "abc"],
    )
    await run(agent)
    assert statuses(agent) == {"f": "success", "a": "skipped", "b": "success", "c": "skipped"}


async def test_a_condition_that_fails() -> None:
    """It fails the node of the flow, with the decision that it belongs to."""
    agent = agent_of(flow("f", ("a", "no.such.thing"), retry_on_failure=False), node("a", after=["f"]))
    task = await run(agent)
    assert "f: ConditionError: the decision of 'flow_control' for 'a' failed: " in (task.error or "")


async def test_a_condition_sees_what_modules_have_made_of_the_task() -> None:
    """The task is taken from the cache, as conditions of nodes do."""

    async def set_up(cache: Cache) -> None:
        task = await cache.get("task")
        task.params["ready"] = True
        await cache.set("task", task)

    agent = agent_of(
        node("a", set_up),
        flow("f", ("b", "task.ready == true"), after=["a"]),
        *[node(name, after=["f"]) for name in "bc"],
    )
    await run(agent)
    assert statuses(agent)["c"] == "skipped"


# --- jumps ---


async def test_back() -> None:
    """The target and all downstream of it run again; their results are those of the last visit."""
    notes = Notes()
    agent = agent_of(
        node("a", notes.step("a")),
        node("b", notes.step("b"), after=["a"]),
        node("side", notes.step("side"), after=["b"]),
        flow("f", ("b", first_times(2)), after=["b"]),
        node("end", notes.step("end"), after=["f", "side"]),
    )
    task = await run(agent)
    assert task.status is TaskStatus.COMPLETE
    assert [notes.names.count(name) for name in ("a", "b", "side", "end")] == [1, 3, 3, 1]
    assert notes.names[-1] == "end"


async def test_forwards() -> None:
    """A target starts at once, whatever it depends on; what was to come in between is skipped."""
    notes = Notes()
    agent = agent_of(
        node("slow", notes.step("slow", 10)),
        flow("f", "target"),
        node("between", notes.step("between"), after=["f"]),
        node("target", notes.step("target"), after=["between", "slow"]),
        node("after", notes.step("after"), after=["target"]),
    )
    await run(agent)
    assert notes.entries == [(0, "slow"), (0, "target"), (0, "after")]
    assert statuses(agent)["between"] == "skipped"


async def test_sideways() -> None:
    """A jump to another branch leaves one's own, with all that is downstream of it; the other one runs again."""
    agent = agent_of(
        node("other"),
        node("after other", after=["other"]),
        node("begin", Does(seconds=5)),
        flow("f", "other", after=["begin"]),
        node("mine", after=["f"]),
        node("after mine", after=["mine"]),
    )
    task = await run(agent)
    assert task.status is TaskStatus.COMPLETE
    assert runs(agent) == {
        "other": 2, "after other": 2, "begin": 1, "f": 0, "mine": 0, "after mine": 0
    }  # fmt: skip
    assert statuses(agent)["after mine"] == "skipped"


async def test_where_branches_meet() -> None:
    """What two branches lead to runs when the one that was left is left, with what the other one has said."""
    agent = agent_of(
        flow("f", ("left", "true")),
        node("left", after=["f"]),
        node("right", after=["f"]),
        node("both", after=["left", "right"]),
    )
    await run(agent)
    assert statuses(agent) == {"f": "success", "left": "success", "right": "skipped", "both": "success"}


async def test_a_jump_to_what_runs() -> None:
    """What the jump makes run again is stopped first, where it still runs."""
    ended: list[str] = []

    async def work(_: Any) -> None:
        try:
            await asyncio.sleep(10)
            ended.append("finished")
        except asyncio.CancelledError:
            await asyncio.sleep(3)  # the clean-up
            ended.append("stopped")
            raise

    agent = agent_of(node("a", work), node("b", Does(seconds=5)), flow("f", ("a", first_times(1)), after=["b"]))
    await run(agent)
    assert ended == ["stopped", "finished"]


async def test_a_jump_repairs_a_failure() -> None:
    """A node that has failed and is visited again counts for what it has come to in the end, as do those after it."""
    module = Unreliable(failures=1)
    agent = agent_of(
        node("a", module, retry_on_failure=False),
        node("b", after=["a"]),
        node("wait", Does(seconds=5)),
        flow("f", ("a", first_times(1)), after=["wait"]),
    )
    (finished,) = await events(agent, GraphFinished)
    assert (finished.status, finished.failed) == ("complete", ())
    assert statuses(agent) == {"a": "success", "b": "success", "wait": "success", "f": "success"}
    assert (await agent.cache.get("task")).status is TaskStatus.COMPLETE


async def test_a_jump_in_a_subgraph() -> None:
    """Flow control works among the nodes of a subgraph as it does outside."""
    counted = Does()
    inner = Node(
        name="inner",
        type=ModuleType.SUBGRAPH,
        nodes=[node("x", counted), flow("f", ("x", first_times(2)), after=["x"])],
    )
    await run(agent_of(inner))
    assert counted.runs == 3


# --- loops end ---


async def test_max_visits() -> None:
    """A node that is visited too often fails; the error says so."""
    agent = agent_of(
        node("a", max_visits=3), flow("f", "a", after=["a"], max_visits=99), node("b", after=["a"]), node("c")
    )
    task = await run(agent)
    assert runs(agent)["a"] == 3
    assert task.error == "a: GraphLimitError: a was visited 3 times, which is its max_visits"
    assert statuses(agent) == {"a": "error", "f": "skipped", "b": "skipped", "c": "success"}
    assert task.status is TaskStatus.PARTIAL


async def test_the_default_of_max_visits() -> None:
    """A loop without an end ends after five visits."""
    agent = agent_of(node("a"), flow("f", "a", after=["a"]))
    task = await run(agent)
    assert (runs(agent)["a"], task.status) == (5, TaskStatus.FAILED)


async def test_max_total_iterations() -> None:
    """A run begins so many visits, and then it is stopped: what runs fails, what waits is skipped."""
    agent = agent_of(
        node("a", max_visits=99),
        flow("f", "a", after=["a"], max_visits=99),
        node("slow", Does(seconds=60)),
        node("after", after=["f"]),
        max_total_iterations=10,
    )
    task = await run(agent)
    assert runs(agent)["a"] == 5
    assert agent.execution_state.total_iterations == 10
    assert (task.error or "").startswith("GraphLimitError: TASK_GRAPH has started 10 nodes, which is its limit")
    assert task.status is TaskStatus.PARTIAL
    assert statuses(agent)["slow"] == "error"
    assert statuses(agent)["after"] == "skipped"


async def test_max_total_iterations_of_an_inquiry() -> None:
    """The limit is what the inquiry fails with, also where no node was at work when it was reached."""
    agent = agent_of(node("a", max_visits=99), flow("f", "a", after=["a"], max_visits=99), max_total_iterations=10)
    async with MiniAgents():
        with pytest.raises(GraphLimitError, match="has started 10 nodes"):
            await agent.inquire("x")


async def test_the_default_of_max_total_iterations() -> None:
    """Without another limit it is a hundred; a hundred nodes are fine, and one more is not."""
    assert (await run(agent_of(*[node(f"n{number}") for number in range(100)]))).status is TaskStatus.COMPLETE
    assert (await run(agent_of(*[node(f"n{number}") for number in range(101)]))).status is TaskStatus.PARTIAL


async def test_skipped_nodes_are_no_iterations() -> None:
    """A node whose condition does not hold has not begun."""
    agent = agent_of(*[node(f"n{number}", condition="false") for number in range(9)], node("a"), max_total_iterations=1)
    task = await run(agent)
    assert (task.status, agent.execution_state.total_iterations) == (TaskStatus.COMPLETE, 1)


async def test_loops_in_subgraphs_end() -> None:
    """The limit holds for the nodes of a subgraph, too."""
    inner = Node(
        name="inner",
        type=ModuleType.SUBGRAPH,
        nodes=[node("x", max_visits=99), flow("f", "x", after=["x"], max_visits=99)],
        node_config={"retry_on_failure": False},  # type: ignore[arg-type]
    )
    task = await run(agent_of(inner, max_total_iterations=10))
    assert "inner: GraphLimitError: TASK_GRAPH/inner has started 10 nodes" in (task.error or "")


# --- execution state ---


async def test_execution_state() -> None:
    """The plan of the run is followed by one for each jump; those before are kept."""
    agent = agent_of(node("a"), node("b", after=["a"]), flow("f", ("b", first_times(2)), after=["b"]), node("c"))
    await run(agent)
    state = agent.execution_state
    assert [[step.nodes for step in plan.steps] for plan in state.execution_history] == [
        [["a", "c"], ["b"], ["f"]],
        [["b"], ["f"]],
    ]
    assert [step.nodes for step in state.current_plan.steps] == [["b"], ["f"]]
    assert (state.execution_index, state.total_iterations) == (2, 8)


async def test_the_documented_loop() -> None:
    """An agent reviews what it writes until it is good enough."""

    async def write(cache: Cache) -> str:
        return f"draft {await cache.increment('drafts')}"

    async def review(cache: Cache) -> None:
        if await cache.get("drafts") < 3:
            await cache.set("rewrite", True)

    decision = FlowDecision(next_node="write", condition="rewrite", condition_variables=["rewrite"])
    agent = agent_of(
        node("write", write),
        node("review", review, after=["write"]),
        flow("again", decision, after=["review"]),
        node("publish", after=["again"]),
    )
    task = await run(agent)
    assert task.status is TaskStatus.COMPLETE
    assert results(agent)["write"] == "draft 3"
    assert runs(agent)["publish"] == 1
