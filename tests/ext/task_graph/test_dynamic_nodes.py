"""Nodes that are added while a graph runs."""

from collections.abc import Iterable
from typing import Any

import pytest

from miniagents import MiniAgents
from miniagents.ext.cache import Cache
from miniagents.ext.graph import NodeStarted
from miniagents.ext.task_graph import Agent, FlowDecision, Node, TaskStatus
from tests.ext.task_graph.helpers import (
    Does,
    Notes,
    agent_of,
    events_of,
    flow,
    new_task,
    node,
    results,
    run,
    statuses,
    success,
)


def adds(*nodes: Node, name: str = "creator", after: Iterable[str] = (), **options: Any) -> Node:
    """A node that adds others."""
    return node(name, lambda _: success(new_nodes=list(nodes)), after=after, **options)


async def started(agent: Agent) -> list[str]:
    async with MiniAgents():
        return [one.node for one in events_of(await agent.inquire("x", task=new_task()), NodeStarted)]


async def test_new_nodes_follow_their_creator() -> None:
    """Without dependencies they depend on it, and what depends on it waits for them."""
    notes = Notes()
    agent = agent_of(
        adds(node("new", notes.step("new", 5)), node("other", notes.step("other", 3))),
        node("after", notes.step("after"), after=["creator"]),
        node("unrelated", notes.step("unrelated")),
    )
    task = await run(agent)
    assert task.status is TaskStatus.COMPLETE
    assert notes.entries == [(0, "unrelated"), (0, "new"), (0, "other"), (5, "after")]
    assert results(agent)["new"] == "new"
    assert agent.node_results["creator"]["results"] == [success(new_nodes=["new", "other"])]
    assert list(agent.nodes) == ["creator", "after", "unrelated"]  # a run does not change the agent


async def test_chains() -> None:
    """New nodes can depend on each other, in any order; what depends on the creator waits for all of them."""
    notes = Notes()
    agent = agent_of(
        adds(
            node("third", notes.step("third", 1), after=["second"]),
            node("second", notes.step("second", 1), after=["first"]),
            node("first", notes.step("first", 1)),
        ),
        node("after", notes.step("after"), after=["creator"]),
    )
    await run(agent)
    assert notes.names == ["first", "second", "third", "after"]


async def test_dependencies_on_others() -> None:
    """A new node can depend on any node of the graph: one that has finished, one that runs, one that waits."""
    notes = Notes()
    agent = agent_of(
        node("done", notes.step("done", 1)),
        adds(
            node("a", notes.step("a"), after=["done"]),
            node("b", notes.step("b"), after=["slow"]),
            node("c", notes.step("c"), after=["last"]),
            after=["done"],
        ),
        node("slow", notes.step("slow", 10)),
        node("last", notes.step("last", 1), after=["creator", "slow"]),
    )
    await run(agent)
    assert sorted(notes.entries) == [(0, "done"), (0, "slow"), (1, "a"), (10, "b"), (10, "last"), (11, "c")]


async def test_nodes_that_add_nodes() -> None:
    """A new node can add further ones; those after the first creator wait for all."""
    agent = agent_of(adds(adds(adds(node("leaf"), name="c"), name="b"), name="a"), node("after", after=["a"]))
    # "after" waits for what "a" has added, and for what that has added in its turn
    assert await started(agent) == ["a", "b", "c", "leaf", "after"]


@pytest.mark.parametrize(
    ("nodes", "fault"),
    [
        ([node("after")], "GraphDefinitionError: there is a node 'after' already"),
        ([node("x"), node("x")], "GraphDefinitionError: there is a node 'x' already"),
        ([node("x", after=["nowhere"])], "UnknownNodeError: the new node x, which depends on it, names 'nowhere'"),
        ([node("x", after=["y"]), node("y", after=["x"])], "GraphDefinitionError: new nodes wait for each other in a"),
        ([node("x", condition="1 +")], "ConditionError: the condition of the node 'x' cannot be used"),
        (["x"], "TypeError: 'x' is among `new_nodes` and no node; give a list of `Node`"),
    ],
)
async def test_wrong_new_nodes(nodes: list[Any], fault: str) -> None:
    """What cannot be added fails the node that wants it and nothing else; a wrong name gets no better by a retry."""
    creator = Does(work=lambda _: success(new_nodes=nodes))
    agent = agent_of(node("creator", creator), node("after", after=["creator"]), node("other"))
    task = await run(agent)
    assert fault in agent.node_results["creator"]["error"]
    assert creator.runs == (1 if fault.startswith(("GraphDefinition", "UnknownNode")) else 3)
    assert statuses(agent) == {"creator": "error", "after": "skipped", "other": "success"}
    assert task.status is TaskStatus.PARTIAL


async def test_a_new_node_that_fails() -> None:
    """What waits for it is skipped, as with any other; the chain names it."""
    agent = agent_of(
        adds(node("new", Does(work=OSError("no")), retry_on_failure=False)), node("after", after=["creator"])
    )
    async with MiniAgents():
        task = await agent.run_task(new_task())
    assert statuses(agent) == {"creator": "success", "new": "error", "after": "skipped"}
    assert task.status is TaskStatus.PARTIAL
    assert (await agent.cache.get_message("agent_output"))["failed_chains"] == [["new", "after"]]


async def test_only_what_succeeds_adds() -> None:
    """An attempt that fails adds nothing; the next one can add the same nodes."""

    async def work(cache: Cache) -> Any:
        late = {"ready": True} if await cache.increment("n") > 1 else {}
        return success(new_nodes=[node("new")], **late)

    agent = agent_of(node("creator", work, outputs=["ready"]))
    assert (await run(agent)).status is TaskStatus.COMPLETE
    assert await started(agent) == ["creator", "new"]


async def test_again_in_a_second_visit() -> None:
    """When the creator runs again, what it had added is withdrawn, and what it adds now counts."""

    async def work(cache: Cache) -> Any:
        number = await cache.increment("n")
        return success(new_nodes=[node("same", f"visit {number}"), node(f"only in visit {number}")])

    async def once(cache: Cache, task: Any) -> bool:
        return await cache.get("n") < 2

    agent = agent_of(
        node("creator", work), flow("again", FlowDecision(next_node="creator", condition=once), after=["creator"])
    )
    task = await run(agent)
    assert task.status is TaskStatus.COMPLETE
    assert results(agent)["same"] == "visit 2"
    assert set(statuses(agent)) == {"creator", "again", "same", "only in visit 2"}


async def test_what_a_withdrawn_node_has_failed_with() -> None:
    """It counts no more when its creator has run again and done without it."""

    async def work(cache: Cache) -> Any:
        bad = node("bad", Does(work=OSError("no")), retry_on_failure=False)
        return success(new_nodes=[bad] if await cache.increment("n") == 1 else [])

    async def once(cache: Cache, task: Any) -> bool:
        return await cache.get("n") < 2

    agent = agent_of(
        node("creator", work),
        node("wait", Does(seconds=5)),
        flow("again", FlowDecision(next_node="creator", condition=once), after=["wait"]),
    )
    task = await run(agent)
    assert (task.status, task.error) == (TaskStatus.COMPLETE, None)


async def test_a_new_node_can_decide() -> None:
    """Flow control works in new nodes, and can go to new nodes."""
    decide = flow("decide", "target")
    agent = agent_of(adds(decide, node("target", after=["decide"]), node("other", after=["decide"])))
    await run(agent)
    assert statuses(agent) == {"creator": "success", "decide": "success", "target": "success", "other": "skipped"}


async def test_new_nodes_in_a_subgraph() -> None:
    """They are nodes of the subgraph."""
    inner = Node(name="inner", type="subgraph", nodes=[adds(node("new"))])  # type: ignore[arg-type]
    agent = agent_of(inner, node("new"))  # another one of that name
    await run(agent)
    (result,) = agent.node_results["inner"]["results"]
    assert result["result"]["new"]["status"] == "success"


async def test_new_nodes_are_iterations() -> None:
    """A graph that grows and grows ends."""

    def grow(number: int) -> Node:
        return node(f"n{number}", lambda _: success(new_nodes=[grow(number + 1)]))

    task = await run(agent_of(grow(0), max_total_iterations=20))
    assert task.status is TaskStatus.PARTIAL
    assert "has started 20 nodes" in (task.error or "")
