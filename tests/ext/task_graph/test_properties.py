"""Whatever the graph and whatever fails in it: it ends as the rules say, and each node runs as often as they say."""

import asyncio
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from miniagents import MiniAgents
from miniagents.ext.cache import Cache
from miniagents.ext.graph import GraphFinished, NodeRetried
from miniagents.ext.task_graph import Agent, FlowDecision, Node, NonRetryableException, TaskStatus
from miniagents.testing import run_with_virtual_clock
from tests.ext.task_graph.helpers import Does, agent_of, events_of, flow, new_task, node, nothing_left


class Plan:
    """What is to become of a node.

    Attributes:
        after: What it depends on.
        failures: How often its module fails before it succeeds.
        is_hopeless: Whether it fails such that no retry can mend it.
        max_retries: How often it is tried.
        condition: Whether its condition holds.
        seconds: How long its module takes.
    """

    def __init__(self, after: list[str], draw: Any) -> None:
        self.after = after
        self.failures = draw(st.sampled_from([0, 0, 0, 1, 2, 5]))
        self.is_hopeless = draw(st.sampled_from([False, False, False, True]))
        self.max_retries = draw(st.integers(1, 3))
        self.condition = draw(st.sampled_from([True, True, True, False]))
        self.seconds = draw(st.sampled_from([0, 0, 1, 2]))

    @property
    def runs(self) -> int:
        """How often its module is run, if it is reached."""
        if self.failures and self.is_hopeless:
            return 1
        return min(self.failures + 1, self.max_retries)

    @property
    def succeeds(self) -> bool:
        return self.failures < (1 if self.is_hopeless else self.max_retries)

    def __repr__(self) -> str:
        return str(vars(self))


@st.composite
def plans(draw: Any, most: int = 12) -> dict[str, Plan]:
    """Random graphs without rings, in an order of their own."""
    names = [f"n{number}" for number in range(draw(st.integers(1, most)))]
    made = {
        name: Plan(draw(st.lists(st.sampled_from(names[:place]), unique=True, max_size=3)) if place else [], draw)
        for place, name in enumerate(names)
    }
    return {name: made[name] for name in draw(st.permutations(names))}


def agent_for(plans: Mapping[str, Plan], **options: Any) -> Agent:
    return agent_of(*[node_for(name, plan) for name, plan in plans.items()], **options)


def node_for(name: str, plan: Plan) -> Node:
    left = [plan.failures]

    def work(_: Cache) -> None:
        if left[0]:
            left[0] -= 1
            raise NonRetryableException(name) if plan.is_hopeless else OSError(name)

    return node(
        name, Does(work=work, seconds=plan.seconds), after=plan.after, max_retries=plan.max_retries,
        condition=None if plan.condition else lambda cache, task: False,
    )  # fmt: skip


def expected(plans: Mapping[str, Plan]) -> dict[str, str]:
    """The status of each node by the rules."""
    found: dict[str, str] = {}
    while len(found) < len(plans):
        for name, plan in plans.items():
            if name not in found and all(one in found for one in plan.after):
                reached = all(found[one] == "success" for one in plan.after)
                if not reached or not plan.condition:
                    found[name] = "skipped"
                else:
                    found[name] = "success" if plan.succeeds else "error"
    return found


def chains(plans: Mapping[str, Plan], statuses: Mapping[str, str]) -> set[str]:
    """The nodes that were skipped for a failure, directly or not, whatever else they were skipped for."""
    found: set[str] = set()
    for _ in plans:
        found |= {
            name
            for name, plan in plans.items()
            if statuses[name] == "skipped" and any(statuses[one] == "error" or one in found for one in plan.after)
        }
    return found


@given(plans(), st.integers(1, 6))
def test_random_failures(plans: dict[str, Plan], places: int) -> None:
    """Statuses, runs, chains and events of a random graph are what the rules say, however many nodes run at once."""

    async def check() -> None:
        agent, task = agent_for(plans, max_concurrent_tasks=places), new_task()
        async with nothing_left(), MiniAgents():
            messages = await agent.inquire("x", task=task)
        wanted = expected(plans)
        assert {name: one["status"] for name, one in agent.node_results.items()} == wanted
        for name, plan in plans.items():
            runs = plan.runs if wanted[name] != "skipped" else 0
            assert agent.nodes[name].modules[0].runs == runs  # type: ignore[union-attr]
            retries = [one for one in events_of(messages, NodeRetried) if one.node == name]
            assert len(retries) == max(0, runs - 1)
        failed = {name for name, status in wanted.items() if status == "error"}
        status = TaskStatus.COMPLETE
        if failed:
            status = TaskStatus.PARTIAL if "success" in wanted.values() else TaskStatus.FAILED
        assert task.status is status
        assert (task.error is None) is (not failed)
        (finished,) = events_of(messages, GraphFinished)
        assert (finished.status, set(finished.failed)) == (status.value, failed)
        said = await agent.cache.get_message("agent_output", timeout=0)
        assert {chain[0] for chain in said["failed_chains"]} == failed
        skipped = [name for chain in said["failed_chains"] for name in chain[1:]]
        assert len(skipped) == len(set(skipped))
        assert set(skipped) <= chains(plans, wanted)

    run_with_virtual_clock(check())


@settings(max_examples=60)
@given(plans(most=6), st.integers(0, 3), st.data())
def test_random_loops(plans: dict[str, Plan], rounds: int, data: st.DataObject) -> None:
    """A random graph in which flow control goes back some times: what is downstream of the target runs each time."""
    sound = {name: plan for name, plan in plans.items() if plan.succeeds and plan.condition}
    known = {name: [one for one in plan.after if one in sound] for name, plan in sound.items()}
    if not known:
        return
    target = data.draw(st.sampled_from(sorted(known)))
    flow_after = data.draw(st.lists(st.sampled_from(sorted(known)), unique=True, min_size=1))

    async def goes_on(cache: Cache, task: Any) -> bool:
        return await cache.increment("rounds") <= rounds

    async def check() -> None:
        decision = FlowDecision(next_node=target, condition=goes_on)
        agent = agent_of(
            *[node(name, Does(seconds=sound[name].seconds), after=known[name]) for name in known],
            flow("f", decision, after=flow_after),
        )
        async with nothing_left(), MiniAgents():
            task = await agent.run_task(new_task())
        downstream, upstream = {target}, set(flow_after)
        for _ in known:
            downstream |= {name for name in known if not downstream.isdisjoint(known[name])}
            upstream |= {one for name in upstream for one in known[name]}
        loops = not downstream.isdisjoint(flow_after)  # else flow control is not reached again, and decides once
        most = 1 + (rounds if loops else min(rounds, 1))
        assert task.status is TaskStatus.COMPLETE
        for name in known:
            runs = agent.nodes[name].modules[0].runs  # type: ignore[union-attr]
            if name not in downstream:
                assert runs == 1
            elif loops and name in upstream:
                assert runs == most
            else:
                assert 1 <= runs <= most  # as often as it has begun by the time of the decisions

    run_with_virtual_clock(check())


@settings(max_examples=60)
@given(plans(), st.floats(0, 8), st.booleans())
def test_stopped_at_any_time(plans: dict[str, Plan], seconds: float, cancelled: bool) -> None:
    """A random graph that is stopped at a random moment leaves nothing behind, and says what had succeeded by then."""

    async def check() -> None:
        agent, task = agent_for(plans), new_task()
        async with nothing_left(), MiniAgents():
            running = asyncio.ensure_future(agent.run_task(task, timeout=None if cancelled else seconds))
            if cancelled:
                await asyncio.sleep(seconds)
                running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert task.is_over
        found = {name: one["status"] for name, one in agent.node_results.items()}
        assert set(found) in (set(plans), set())  # nothing if it had not begun
        wanted = expected(plans)
        for name, status in found.items():
            assert status == wanted[name] or status in ("error", "cancelled", "skipped")
        if task.status is TaskStatus.COMPLETE:
            assert found == wanted
        if task.status is not TaskStatus.COMPLETE:
            assert (task.status is TaskStatus.PARTIAL) is ("success" in found.values())

    run_with_virtual_clock(check())
