"""Nodes: when they run, how often, with what, and next to how many others."""

import asyncio
from typing import Any

import pytest

from miniagents import MiniAgents
from miniagents.ext.cache import MemoryCache
from miniagents.ext.graph import ConditionError, GraphDefinitionError, NodeRetried, NodeSkipped
from miniagents.ext.task_graph import (
    Agent,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleType,
    Node,
    NodeConfig,
    NonRetryableException,
    SnapshotControl,
    TaskStatus,
)
from miniagents.testing import Timeline
from tests.ext.task_graph.helpers import (
    Does,
    Notes,
    Unreliable,
    agent_of,
    events_of,
    new_task,
    node,
    results,
    run,
    runs,
    statuses,
    success,
)

# --- the classes ---


def test_defaults() -> None:
    """The documented settings have their documented defaults."""
    made = Node(name="n", modules=[Does()])
    assert (made.type, made.dependencies, made.nodes, made.trace) == (ModuleType.EXECUTOR, [], [], False)
    assert made.snapshot is SnapshotControl.NEVER
    assert [one.value for one in SnapshotControl] == ["never", "once", "always"]
    assert NodeConfig() == NodeConfig(
        parallel=False, condition=None, retry_on_failure=True, max_retries=3, max_visits=5, inputs=[], outputs=[],
        retry_from=None,
    )  # fmt: skip


def test_wrong_nodes() -> None:
    """What cannot be a node is refused when it is made, with a word on how to mend it."""
    with pytest.raises(ValueError, match="the node 'n' has nothing to do; give it modules, or nodes"):
        Node(name="n")
    with pytest.raises(ValueError, match="its type is ModuleType.SUBGRAPH then"):
        Node(name="n", nodes=[node("x")])
    with pytest.raises(ValueError, match="name"):
        Node(name="", modules=[Does()])
    for wrong in ({"max_retries": 0}, {"max_visits": 0}, {"retries": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            NodeConfig(**wrong)  # type: ignore[arg-type]


# --- order ---


async def test_a_node_starts_when_its_own_dependencies_are_met() -> None:
    """There are no layers: a node waits for nothing but what it depends on itself."""
    notes = Notes()
    agent = agent_of(
        node("slow", notes.step("slow", 10)),
        node("fast", notes.step("fast", 1)),
        node("after fast", notes.step("after fast", 1), after=["fast"]),
        node("after both", notes.step("after both"), after=["slow", "fast"]),
    )
    await run(agent)
    assert notes.entries == [(0, "slow"), (0, "fast"), (1, "after fast"), (10, "after both")]


async def test_dependencies_of_modules() -> None:
    """What a module depends on its node depends on, too."""
    notes = Notes()
    agent = agent_of(
        node("b", Does(work=notes.step("b"), dependencies=["a", "c"]), after=["a"]),
        node("a", notes.step("a", 1)),
        node("c", notes.step("c", 2)),
    )
    assert agent.graph == {"b": ["a", "c"], "a": [], "c": []}
    await run(agent)
    assert notes.names == ["a", "c", "b"]


async def test_a_diamond_takes_its_critical_path() -> None:
    """A thousand nodes side by side take the time of the slowest."""
    middle = [node(f"m{number}", Does(seconds=number % 7 + 1), after=["begin"]) for number in range(1000)]
    agent = agent_of(
        node("begin", Does(seconds=1)),
        *middle,
        node("end", after=[one.name for one in middle]),
        max_concurrent_tasks=2000,
        max_total_iterations=2000,
    )
    timeline = Timeline()
    task = await run(agent)
    assert task.status is TaskStatus.COMPLETE
    assert timeline.elapsed == 8


async def test_max_concurrent_tasks() -> None:
    """So many nodes work at once, and no more, in a subgraph as well."""
    at_work: list[int] = [0]

    async def work(_: Any) -> int:
        at_work[0] += 1
        assert at_work[0] <= 2
        await asyncio.sleep(1)
        at_work[0] -= 1
        return at_work[0]

    nodes = [node(f"n{number}", work) for number in range(10)]
    timeline = Timeline()
    await run(agent_of(*nodes, max_concurrent_tasks=2))
    assert timeline.elapsed == 5
    inner = Node(name="inner", type=ModuleType.SUBGRAPH, nodes=nodes)
    await run(agent_of(inner, max_concurrent_tasks=2))
    assert timeline.elapsed == 10


# --- what is wrong with a graph ---


def test_unknown_dependencies() -> None:
    """A dependency can be added later; as long as it is missing nothing runs, and the error names it."""
    agent = agent_of(node("a", after=["b"]))
    with pytest.raises(GraphDefinitionError, match="a depends on 'b'"):
        agent.compile_execution_plan()
    agent.add_node(node("b"))
    assert agent.compile_execution_plan().nodes == ["b", "a"]


async def test_a_graph_with_a_fault_does_not_begin() -> None:
    """Nothing of it runs, and the task is still waiting."""
    module = Does()
    agent = agent_of(node("a", module), node("b", after=["c"]))
    task = new_task()
    with pytest.raises(GraphDefinitionError, match="b depends on 'c'"):
        await run(agent, task)
    assert (task.status, module.runs) == (TaskStatus.WAITING, 0)


def test_duplicate_names() -> None:
    """Two nodes of one name are refused, and then none of those that were to be added is."""
    agent = agent_of(node("a"))
    for names in (["b", "a"], ["b", "b"]):
        with pytest.raises(GraphDefinitionError, match="there is a node '[ab]' already; give one of the two another"):
            agent.add_multiple_nodes([node(name) for name in names])
        assert list(agent.nodes) == ["a"]


def test_rings() -> None:
    """Nodes that wait for each other are refused when the last of them is added, and named in order."""
    agent = agent_of(node("a", after=["c"]), node("b", after=["a"]), node("other"))
    with pytest.raises(GraphDefinitionError, match=r"in a ring: (a -> c -> b -> a|b -> a -> c -> b|c -> b -> a -> c)"):
        agent.add_node(node("c", after=["b"]))
    with pytest.raises(GraphDefinitionError, match="in a ring: d -> d"):
        agent.add_node(node("d", after=["d"]))
    with pytest.raises(GraphDefinitionError, match=r"in a ring: (x -> y -> x|y -> x -> y)"):
        agent.add_multiple_nodes([node("x", after=["y"]), node("y", after=["x"])])
    agent.add_node(node("c"))
    assert list(agent.nodes) == ["a", "b", "other", "c"]


def test_faults_of_subgraphs() -> None:
    """The nodes of a subgraph are checked when it is added."""
    for nodes, fault in (
        ([node("x", after=["y"])], "x depends on 'y'"),
        ([node("x"), node("x")], "'x' already"),
        ([node("x", condition="1 +")], "the condition of the node 'x'"),
    ):
        inner = Node(name="inner", type=ModuleType.SUBGRAPH, nodes=nodes)
        with pytest.raises((GraphDefinitionError, ConditionError), match=fault):
            Agent().add_node(inner)


def test_conditions_are_compiled_when_the_graph_is_built() -> None:
    """A condition that does not compile is refused, with its text and where it stands; nothing is added."""
    agent = Agent()
    with pytest.raises(ConditionError, match=r"the condition of the node 'n' cannot be used: .*: task.ready =="):
        agent.add_multiple_nodes([node("a"), node("n", condition="task.ready ==")])
    assert agent.nodes == {}
    with pytest.raises(ConditionError, match="the decision of 'flow_control' for 'x'"):
        FlowControlModule(
            flow_config=FlowControlConfig(decisions=[FlowDecision(next_node="x", condition="return return")])
        )


@pytest.mark.parametrize(("target", "fault"), [("x", "'x', which is no node"), ("other", "does not come before it")])
async def test_a_wrong_retry_from(target: str, fault: str) -> None:
    """A node can only be repeated from one that comes before it."""
    agent = agent_of(node("a"), node("b", after=["a"], retry_from=target), node("other"))
    with pytest.raises(GraphDefinitionError, match=fault):
        await run(agent)


# --- conditions ---


@pytest.mark.parametrize("condition", ["task.ready == true", "ready", 'cache["a:b"] == 3', lambda cache, task: True])
async def test_a_condition_that_holds(condition: Any) -> None:
    """A condition sees the task and the values of the cache."""
    cache = MemoryCache()
    await cache.set_many({"ready": True, "a:b": 3})
    agent = agent_of(node("n", condition=condition), cache=cache)
    await run(agent, new_task(ready=True))
    assert statuses(agent) == {"n": "success"}


async def test_callable_conditions() -> None:
    """A function, sync or async, is given the cache and the task."""
    cache = MemoryCache()
    await cache.set("x", 1)

    async def holds(cache: Any, task: Any) -> bool:
        return bool(await cache.get("x") == task.params["x"])

    agent = agent_of(
        node("yes", condition=holds), node("no", condition=lambda cache, task: task.params["x"] == 2), cache=cache
    )
    await run(agent, new_task(x=1))
    assert statuses(agent) == {"yes": "success", "no": "skipped"}


async def test_a_condition_that_does_not_hold() -> None:
    """The node and what depends on it are skipped; that is no failure, and everything else goes on."""
    agent = agent_of(
        node("a"), node("no", after=["a"], condition="task.ready"), node("b", after=["no"]), node("c", after=["a"])
    )
    task = await run(agent)
    assert (task.status, task.error) == (TaskStatus.COMPLETE, None)
    assert statuses(agent) == {"a": "success", "no": "skipped", "b": "skipped", "c": "success"}
    assert agent.node_results["no"]["reason"] == "its condition does not hold: task.ready"
    assert "no" in agent.node_results["b"]["reason"]
    assert runs(agent)["no"] == 0


async def test_everything_is_skipped() -> None:
    """A task all of whose nodes were skipped by conditions is complete: nothing has failed."""
    task = await run(agent_of(node("a", condition="false"), node("b", after=["a"])))
    assert task.status is TaskStatus.COMPLETE


async def test_a_condition_is_evaluated_when_the_node_could_start() -> None:
    """It sees what the nodes before have left in the cache, the task included."""

    async def set_up(cache: Any) -> None:
        task = await cache.get("task")
        task.params["ready"] = True
        await cache.set("task", task)

    agent = agent_of(node("a", set_up), node("b", after=["a"], condition="task.ready == true"))
    task = await run(agent)
    assert statuses(agent) == {"a": "success", "b": "success"}
    assert task.params == {"ready": True}  # what modules make of the parameters is not lost
    assert (await agent.cache.get("task")) == task


async def test_a_condition_that_fails() -> None:
    """It fails its node, with an error that says where; what does not depend on it goes on."""

    def broken(cache: Any, task: Any) -> bool:
        raise LookupError("no such thing")

    agent = agent_of(node("a", condition="nothing.at.all"), node("b", condition=broken), node("c"))
    task = await run(agent)
    assert task.status is TaskStatus.PARTIAL
    assert agent.node_results["a"]["error"].startswith("ConditionError: the condition of the node 'a' failed: ")
    assert agent.node_results["b"]["error"] == "LookupError: no such thing"
    assert statuses(agent)["c"] == "success"


async def test_a_condition_that_never_ends() -> None:
    """It is an error after a bounded time."""
    agent = agent_of(node("a", condition="while true do end return 1", retry_on_failure=False))
    task = await run(agent)
    assert "ConditionError" in (task.error or "")


# --- inputs and outputs ---


async def test_inputs() -> None:
    """A node finds its declared inputs in the cache, whatever their values are."""
    agent = agent_of(
        node("a", lambda cache: cache.set_many({"x": None, "y": 0})), node("b", after=["a"], inputs=["x", "y"])
    )
    assert (await run(agent)).status is TaskStatus.COMPLETE


async def test_a_missing_input() -> None:
    """The node fails with an error that says which, without running and without being tried again."""
    agent = agent_of(node("a"), node("b", after=["a"], inputs=["x", "task", "y"]))
    async with MiniAgents():
        messages = await agent.inquire("x", task=new_task())
    assert agent.node_results["b"]["error"].startswith("MissingInputError: b needs 'x', 'y' in the cache")
    assert runs(agent)["b"] == 0
    assert not events_of(messages, NodeRetried)


async def test_outputs() -> None:
    """A declared output is a key of the cache, or of what one of the modules has returned."""
    agent = agent_of(
        node("n", lambda cache: cache.set("x", None), lambda _: success(y=1), lambda _: {"z": None},
             outputs=["x", "y", "z", "result"])
    )  # fmt: skip
    assert (await run(agent)).status is TaskStatus.COMPLETE


async def test_a_missing_output() -> None:
    """A node that does not deliver what it has promised fails with an error that says what, and is tried again."""
    agent = agent_of(node("n", lambda _: success(y=1), outputs=["x", "y"]), node("after", after=["n"]))
    task = await run(agent)
    assert agent.node_results["n"]["error"].startswith("MissingOutputError: n has not delivered 'x', neither as")
    assert (task.status, runs(agent)) == (TaskStatus.FAILED, {"n": 3, "after": 0})


# --- retries ---


@pytest.mark.parametrize(
    ("options", "times"),
    [({}, 3), ({"max_retries": 5}, 5), ({"max_retries": 1}, 1), ({"retry_on_failure": False, "max_retries": 5}, 1)],
)
async def test_how_often_it_is_tried(options: dict[str, Any], times: int) -> None:
    """`max_retries` is how often a node is tried in all; without `retry_on_failure` once."""
    agent = agent_of(node("n", Does(work=OSError("no")), **options))
    task = await run(agent)
    assert (task.status, runs(agent)) == (TaskStatus.FAILED, {"n": times})


async def test_a_retry_that_succeeds() -> None:
    """What counts is how the node has ended; the pauses begin under a tenth of a second, and grow."""
    agent = agent_of(node("n", Unreliable(failures=3), max_retries=4))
    async with MiniAgents():
        messages = await agent.inquire("x")
    retried = events_of(messages, NodeRetried)
    assert [(one.attempt, one.error, one.error_type) for one in retried] == [
        (number, f"run {number}", "ValueError") for number in (1, 2, 3)
    ]
    assert 0 < retried[0].delay < 0.1 < retried[2].delay < 1
    assert results(agent) == {"n": "run 4"}


async def test_a_subclass_of_non_retryable() -> None:
    """A NonRetryableException, or what derives from it, ends the attempts."""

    class NoMoney(NonRetryableException):
        pass

    agent = agent_of(node("n", Does(work=NoMoney("spent"))))
    task = await run(agent)
    assert (task.error, runs(agent)) == ("n: NoMoney: spent", {"n": 1})


async def test_retry_from() -> None:
    """With `retry_from` what comes before is done again, too, after a pause."""
    module = Unreliable(failures=2)
    agent = agent_of(
        node("a"), node("b", after=["a"]), node("side", after=["b"]), node("c", module, after=["b"], retry_from="b")
    )
    async with MiniAgents():
        messages = await agent.inquire("x")
    assert runs(agent) == {"a": 1, "b": 3, "side": 3, "c": 3}
    assert results(agent)["c"] == "run 3"
    retried = events_of(messages, NodeRetried)
    assert [(one.node, one.error) for one in retried] == [("c", "run 1"), ("c", "run 2")]
    assert 0 < retried[0].delay < 0.1 < retried[1].delay
    assert [len(plan.nodes) for plan in agent.execution_state.execution_history] == [4, 3]


async def test_retry_from_has_an_end() -> None:
    """After `max_retries` runs the node has failed, after a NonRetryableException at once; it can be its own target."""
    hopeless = Does(work=NonRetryableException("no"))
    agent = agent_of(
        node("a"),
        node("b", Does(work=OSError("no")), after=["a"], retry_from="a"),
        node("x"),
        node("y", hopeless, after=["x"], retry_from="x"),
        node("z", Does(work=OSError("no")), retry_from="z", max_retries=2),
    )
    task = await run(agent)
    assert runs(agent) == {"a": 3, "b": 3, "x": 1, "y": 1, "z": 2}
    assert task.status is TaskStatus.PARTIAL


async def test_retry_from_counts_anew_after_a_success() -> None:
    """A node that has succeeded in between has all of its attempts again when flow control brings the run back."""
    outcomes = iter([OSError("1"), OSError("2"), "ok", OSError("3"), OSError("4"), "ok again"])

    def work(_: Any) -> str:
        outcome = next(outcomes)
        if isinstance(outcome, OSError):
            raise outcome
        return str(outcome)

    async def once(cache: Any, task: Any) -> bool:
        return bool(await cache.increment("rounds") == 1)

    decide = FlowControlModule(flow_config=FlowControlConfig(decisions=[FlowDecision(next_node="a", condition=once)]))
    agent = agent_of(
        node("a", max_visits=9),
        node("b", work, after=["a"], retry_from="a", max_visits=9),
        node("f", decide, after=["b"]),
    )
    task = await run(agent)
    assert (task.status, results(agent)["b"]) == (TaskStatus.COMPLETE, "ok again")


async def test_a_jump_while_a_repetition_waits() -> None:
    """A decision that makes a node run again is not disturbed by the repetition that was about to come."""
    module = Unreliable(failures=1)

    async def once(cache: Any, task: Any) -> bool:
        return bool(await cache.increment("rounds") == 1)

    decide = FlowControlModule(flow_config=FlowControlConfig(decisions=[FlowDecision(next_node="a", condition=once)]))
    agent = agent_of(node("a"), node("b", module, after=["a"], retry_from="a"), node("f", decide, after=["a"]))
    task = await run(agent)
    assert task.status is TaskStatus.COMPLETE
    assert (module.runs, runs(agent)["a"]) == (2, 2)


async def test_skipped_nodes_are_told() -> None:
    """The progress names each node that is skipped, and why."""
    agent = agent_of(node("a", Does(work=OSError("no")), retry_on_failure=False), node("b", after=["a"]))
    async with MiniAgents():
        messages = await agent.inquire("x", task=new_task())
    (skipped,) = events_of(messages, NodeSkipped)
    assert (skipped.node, skipped.reason) == ("b", "a, on which it depends, has failed")
