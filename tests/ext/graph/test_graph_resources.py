"""Nodes that take resources of a pool: given back after every kind of end, and asked back for what is more urgent."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.graph import Graph, NodeFailed, NodeFinished, NodePolicy, NodeRetried
from miniagents.ext.graph.resources import (
    Priority,
    ResourceError,
    ResourcePool,
    ResourceRequirements,
    ResourceTimeoutError,
)
from miniagents.testing import Timeline, assert_no_leftovers
from tests.ext.graph.helpers import Unreliable, forever, repeat, run, says, streams

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


def takes(cpu: float, priority: Priority = Priority.NORMAL, timeout: float | None = None) -> ResourceRequirements:
    return ResourceRequirements(
        cpu_units=cpu, memory_mb=0, io_weight=0, network_weight=0, priority=priority, timeout=timeout
    )


def is_unused(pool: ResourcePool) -> bool:
    """Whether everything has been given back, and nobody waits."""
    return not any(stats.current_usage for stats in pool.get_usage_stats().values()) and not pool.get_waiting_states()


async def test_nodes_wait_for_resources() -> None:
    """As many nodes run as there are resources for, each of them from the moment at which there are."""
    pool = ResourcePool(total_cpu=4)
    graph = Graph(pool=pool)
    for number in range(6):
        graph.add_node(f"{number}", says("x", 10), policy=NodePolicy(resources=takes(2)))
    outcome = await run(graph)
    assert outcome.seconds == 30
    ends = [message.time for message in outcome.messages if isinstance(message, NodeFinished)]
    assert ends == [10, 10, 20, 20, 30, 30]
    assert is_unused(pool)


async def test_a_node_that_can_never_have_what_it_needs_is_refused() -> None:
    """A graph that asks for more than its pool has cannot be built; where that comes to light later, the node fails."""
    pool = ResourcePool(total_cpu=4, enable_quotas=True)
    with pytest.raises(ResourceError, match="the node 'a' asks for"):
        Graph(pool=pool).add_node("a", repeat, policy=NodePolicy(resources=takes(5)))
    graph = Graph(pool=pool).add_node("a", repeat, policy=NodePolicy(resources=takes(3), attempts=2))
    pool.set_quota("a", 0.5)
    outcome = await run(graph.add_node("b", says("B")))
    assert isinstance(outcome.error, ResourceError)
    assert outcome.summary == ("partial", ("a",), ())


async def test_a_wait_for_resources_can_take_too_long() -> None:
    """The time limit of the requirements is one of the attempt."""
    pool = ResourcePool(total_cpu=1)
    graph = Graph(pool=pool).add_node("a", says("A", 10), policy=NodePolicy(resources=takes(1)))
    policy = NodePolicy(resources=takes(1, timeout=2), attempts=2, backoff=lambda _: 1.0)
    outcome = await run(graph.add_node("b", says("B"), policy=policy))
    assert isinstance(outcome.error, ResourceTimeoutError)
    assert outcome.summary == ("partial", ("b",), ())
    assert [message.time for message in outcome.messages if isinstance(message, (NodeRetried, NodeFailed))] == [2, 5]
    assert is_unused(pool)


async def never(*_: Any) -> bool:
    await asyncio.get_running_loop().create_future()
    return True


ENDS: dict[str, Callable[[], tuple[Any, NodePolicy]]] = {
    "finished": lambda: (says("x", 1), NodePolicy()),
    "failed": lambda: (Unreliable(1, seconds=1).agent, NodePolicy()),
    "interrupted": lambda: (Unreliable(1, KeyboardInterrupt, 1).agent, NodePolicy()),
    "retried": lambda: (Unreliable(2, seconds=1).agent, NodePolicy(attempts=3, backoff=lambda _: 1.0)),
    "late": lambda: (forever, NodePolicy(timeout=1)),
    "late stream": lambda: (streams("x", 100), NodePolicy(timeout=2)),
    "decision failed": lambda: (says("x"), NodePolicy(decide=lambda _: "nowhere")),
    "cancelled": lambda: (forever, NodePolicy()),
    "cancelled stream": lambda: (streams(*"x" * 100), NodePolicy()),
    "cancelled pause": lambda: (Unreliable(1).agent, NodePolicy(attempts=2, backoff=lambda _: 1000.0)),
    "cancelled decision": lambda: (says("x"), NodePolicy(decide=never)),  # type: ignore[arg-type]
    "stopped by a jump": lambda: (forever, NodePolicy(max_visits=1)),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("held", [0, 1])
async def test_resources_are_given_back_after_every_kind_of_end(end: str, held: int) -> None:
    """However a node ends, and also if it never got what it waited for, the pool has everything again."""
    pool = ResourcePool(total_cpu=2)
    agent, policy = ENDS[end]()
    options = {name: getattr(policy, name) for name in NodePolicy.__slots__ if not name.startswith("_")}
    graph = Graph(pool=pool, raise_errors=False).add_node("first", says("x"))
    graph.add_node("a", agent, after=["first"], policy=NodePolicy(**{**options, "resources": takes(2)}))
    graph.add_node("waits", says("x"), after=["first"], policy=NodePolicy(resources=takes(2)))
    if end == "stopped by a jump":
        decide: Any = iter(["first"])
        graph.add_node("j", says("x", 3), policy=NodePolicy(decide=lambda _: next(decide, None)))
    async with assert_no_leftovers(), MiniAgents():
        holding = await pool.acquire("test", takes(held)) if held else None
        replies = graph.inquire()
        task = asyncio.ensure_future(ended(replies))
        await asyncio.sleep(20)
        if holding is not None:
            holding.release()
        await asyncio.sleep(5 if held else 20)
        replies.cancel()
        await task
    assert is_unused(pool)


async def ended(replies: Any) -> None:
    """Waits for the end of a reply, whatever it is."""
    try:
        await replies
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            raise


async def test_a_node_gives_way_to_a_more_urgent_one() -> None:
    """A preemptible node is stopped for one of a higher priority, and begins again after it; that is no attempt."""
    timeline = Timeline()
    pool = ResourcePool(total_cpu=1, enable_preemption=True)

    @miniagent
    async def work(ctx: InteractionContext) -> None:
        timeline.note("begins")
        ctx.reply("begun")
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            timeline.note("gave way")
            raise
        ctx.reply("done")

    graph = Graph(pool=pool)
    graph.add_node("low", work, policy=NodePolicy(resources=takes(1, Priority.LOW), preemptible=True))
    graph.add_node("wait", says("x", 4)).add_node("last", repeat, after=["low"])
    graph.add_node("high", says("H", 5), after=["wait"], policy=NodePolicy(resources=takes(1, Priority.HIGH)))
    outcome = await run(graph)
    assert timeline.entries == [(0, "begins"), (5, "gave way"), (10, "begins")]
    assert outcome.seconds == 20
    assert outcome.results == {"high": "H", "last": "begun+done"}
    assert outcome.told.count("low started") == 1
    assert [line for line in outcome.told if "tried again" in line] == [
        "low failed (Preempted: its resources are needed for a node of a higher priority) and is tried again in 0 s"
    ]
    ends = {message.node: message.attempt for message in outcome.messages if isinstance(message, NodeFinished)}
    assert ends["low"] == 1
    assert is_unused(pool)


async def test_what_was_said_before_giving_way_is_no_result() -> None:
    """Without progress a preemptible node says what it says when it has finished."""
    pool = ResourcePool(total_cpu=1, enable_preemption=True)
    graph = Graph(pool=pool)
    low = NodePolicy(resources=takes(1, Priority.LOW), preemptible=True)
    graph.add_node("low", streams("a", "b", "c"), policy=low).add_node("wait", says("x", 2))
    graph.add_node("high", says("H", 1), after=["wait"], policy=NodePolicy(resources=takes(1, Priority.HIGH)))
    outcome = await run(graph, progress=False)
    assert [str(message) for message in outcome.messages] == ["H", "abc"]
    assert outcome.error is None


async def test_being_asked_back_at_every_moment() -> None:
    """Whenever it is asked for its resources (streaming, failing, pausing, deciding) a node ends as it would have."""

    async def decide(_: Any) -> None:
        await asyncio.sleep(0.5)

    for tenths in range(0, 60, 2):
        pool = ResourcePool(total_cpu=1, enable_preemption=True)
        unreliable = Unreliable(1, seconds=1)
        policy = NodePolicy(
            resources=takes(1, Priority.LOW), preemptible=True, attempts=3, backoff=lambda _: 0.5, decide=decide
        )
        graph = (
            Graph(pool=pool).add_node("low", unreliable.agent, policy=policy).add_node("last", repeat, after=["low"])
        )
        async with assert_no_leftovers(), MiniAgents():
            replies = graph.inquire(progress=False)
            await asyncio.sleep(tenths / 10)
            async with await pool.acquire("test", takes(1, Priority.HIGH)):
                await asyncio.sleep(1)
            assert str((await replies)[0]).startswith("call ")
        assert is_unused(pool)
