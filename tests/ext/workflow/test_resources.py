"""Resources of states: who waits, in which order, who is stopped for others, and that all is given back."""

import asyncio
from typing import Any

import pytest

from miniagents import MiniAgents
from miniagents.ext.graph import NodeRetried
from miniagents.ext.workflow import (
    Agent,
    Context,
    Priority,
    ResourceError,
    ResourcePool,
    ResourceRequirements,
    ResourceTimeoutError,
    ResourceType,
    StateStatus,
)
from tests.ext.workflow.helpers import Log, goes_to, started_task


def cpus(count: float, priority: Priority = Priority.NORMAL, **options: Any) -> ResourceRequirements:
    return ResourceRequirements(cpu_units=count, resource_types=ResourceType.CPU, priority=priority, **options)


def used(pool: ResourcePool) -> float:
    return pool.get_usage_stats()[ResourceType.CPU].current_usage


async def test_states_share_the_pool() -> None:
    """Not more runs at once than there is; who waits is READY, and in the pool's list."""
    log = Log()
    agent = Agent("work", ResourcePool(total_cpu=2), ask=None)
    agent.add_state("start", goes_to("start", ["a", "b", "c"]))
    for name in ("a", "b", "c"):
        agent.add_state(name, log.state(name, "end", 1), resources=cpus(1))
    agent.add_state("end", log.state("end"))
    task = started_task(agent.run())
    await asyncio.sleep(0.5)
    assert agent._running_states == {"a", "b"}
    assert agent.state_metadata["c"].status is StateStatus.READY
    assert list(agent.resource_pool.get_waiting_states()) == ["c"]
    assert agent.resource_pool.get_state_allocations() == {"a": {ResourceType.CPU: 1}, "b": {ResourceType.CPU: 1}}
    await task
    assert log.lines[-1] == "2 end"
    assert used(agent.resource_pool) == 0


async def test_higher_priorities_go_first() -> None:
    """Among those that wait the priority decides, and the metric shows it."""
    log = Log()
    agent = Agent("work", ResourcePool(total_cpu=1), ask=None)
    agent.add_state("start", goes_to("start", ["first", "low", "high", "normal"]))
    for name, priority in (
        ("first", Priority.LOW), ("low", Priority.LOW), ("high", Priority.HIGH), ("normal", Priority.NORMAL),
    ):  # fmt: skip
        agent.add_state(name, log.state(name, None, 1), resources=cpus(1, priority))
    task = started_task(agent.run())
    await asyncio.sleep(0.5)
    assert agent.priority_queue == ["high", "normal", "low"]
    await task
    assert [line for line in log.lines if "ends" not in line] == ["0 first", "1 high", "2 normal", "3 low"]


async def test_two_workflows_share_a_pool() -> None:
    """A pool of one's own can be given to several agents."""
    log = Log()
    pool = ResourcePool(total_cpu=1)
    agents = [Agent(name, pool, ask=None) for name in ("one", "two")]
    for agent in agents:
        agent.add_state("work", log.state(agent.alias, None, 1), resources=cpus(1))
    await asyncio.gather(*(agent.run() for agent in agents))
    assert log.lines == ["0 one", "1 one ends", "1 two", "2 two ends"]


async def test_preemption() -> None:
    """A preemptible state is stopped for one of a higher priority, and begins anew; that is no failure."""
    log = Log()
    agent = Agent("work", ResourcePool(total_cpu=1, enable_preemption=True), ask=None)
    agent.add_state("start", goes_to("start", ["low", "trigger"]))

    async def low(context: Context) -> None:
        log.write(f"low {context.attempt} {context.idempotency_key[-5:]}")
        context.set_state("low", context.attempt)
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            log.write("stopped")
            raise

    agent.add_state("low", low, resources=cpus(1, Priority.LOW), preemptible=True)
    agent.add_state("trigger", log.state("trigger", "high", 2))
    agent.add_state("high", log.state("high", None, 3), resources=cpus(1, Priority.HIGH))
    async with MiniAgents():
        messages = await agent.inquire()
    assert log.lines == [
        "0 low 1 low/1", "0 trigger", "2 trigger ends", "2 stopped", "2 high", "5 high ends", "5 low 2 low/1",
    ]  # fmt: skip
    assert agent.get_state("low") == 2
    assert [message.error_type for message in messages if isinstance(message, NodeRetried)] == ["Preempted"]
    assert used(agent.resource_pool) == 0


async def test_a_state_is_not_preempted_for_ever() -> None:
    """However many states of a higher priority come, in the end it is left in peace."""
    agent = Agent("work", ResourcePool(total_cpu=1, enable_preemption=True), ask=None)
    agent.add_state("start", goes_to("start", ["low", "trigger"]))
    begun = []

    async def low(context: Context) -> None:
        begun.append(context.attempt)
        await asyncio.sleep(5)
        context.set_state("low", "done")

    async def trigger(context: Context) -> list[str]:
        await asyncio.sleep(2)
        return [] if context.get_state("low") or len(begun) > 20 else ["high", "trigger"]

    agent.add_state("low", low, resources=cpus(1, Priority.LOW), preemptible=True)
    agent.add_state("trigger", trigger)
    agent.add_state("high", goes_to("high", None), resources=cpus(1, Priority.HIGH))
    assert (await agent.run())["low"] == "done"
    assert len(begun) == 9


async def test_more_than_its_quota_is_refused_when_a_state_is_added() -> None:
    """As more than the pool has is."""
    pool = ResourcePool(total_cpu=4, enable_quotas=True, quotas={"work": 0.5})
    with pytest.raises(ResourceError, match="the quota of 'work' allows cpu 2"):
        Agent("agent", pool, ask=None).add_state("work", goes_to("work", None), resources=cpus(3))


async def test_a_preempted_state_is_recorded(store: Any) -> None:
    """Each attempt has its entry, and one outcome."""
    log = Log()
    agent = Agent("work", ResourcePool(total_cpu=1, enable_preemption=True), store=store, ask=None)
    agent.add_state("start", goes_to("start", ["low", "trigger"]))
    low = log.state("low", None, 5)
    agent.add_state("low", low, resources=cpus(1, Priority.LOW), preemptible=True, next_states=[])
    agent.add_state("trigger", log.state("trigger", "high", 2))
    agent.add_state("high", log.state("high", None, 3), resources=cpus(1, Priority.HIGH))
    await agent.run(run_id="r")
    entries = [(one.kind, one.attempt) for one in await store.read("r") if one.node == "low"]
    assert entries == [("started", 1), ("started", 2), ("finished", 2)]


async def test_what_is_not_preemptible_is_not_stopped() -> None:
    """Who has not been declared so runs to its end."""
    log = Log()
    agent = Agent("work", ResourcePool(total_cpu=1, enable_preemption=True), ask=None)
    agent.add_state("start", goes_to("start", ["low", "trigger"]))
    agent.add_state("low", log.state("low", None, 5), resources=cpus(1, Priority.LOW), next_states=[])
    agent.add_state("trigger", log.state("trigger", "high", 2))
    agent.add_state("high", log.state("high"), resources=cpus(1, Priority.HIGH))
    await agent.run()
    assert log.lines[-2:] == ["5 low ends", "5 high"]


async def test_resources_that_do_not_come_in_time() -> None:
    """`timeout` limits the wait for resources; the state fails then."""
    log = Log()
    agent = Agent("work", ResourcePool(total_cpu=1), ask=None)
    agent.add_state("start", goes_to("start", ["a", "b"]))
    agent.add_state("a", log.state("a", None, 10), resources=cpus(1))
    agent.add_state("b", log.state("b"), resources=cpus(1, timeout=3))
    with pytest.raises(ResourceTimeoutError, match="b"):
        await agent.run()
    assert log.lines == ["0 a", "10 a ends"]
    assert used(agent.resource_pool) == 0


@pytest.mark.parametrize("how", ["fails", "times out", "is cancelled", "is stopped", "is paused"])
async def test_everything_is_given_back(how: str) -> None:
    """However a state or a run ends, the pool is as it was."""
    pool = ResourcePool(total_cpu=1)
    agent = Agent("work", pool, ask=None)
    agent.add_state("start", goes_to("start", ["a", "b", "c"]))

    async def work(context: Context) -> None:
        await asyncio.sleep(5)
        if how == "fails":
            raise ValueError

    for name in ("a", "b", "c"):
        agent.add_state(name, work, resources=cpus(1), timeout=2 if how == "times out" else None)
    task = started_task(agent.run())
    await asyncio.sleep(1)
    assert used(pool) == 1
    if how == "is cancelled":
        for name in ("b", "a", "c"):
            assert agent.cancel_state(name)
        await task
    elif how == "is stopped":
        task.cancel()
    elif how == "is paused":
        await agent.pause()
        assert (used(pool), pool.get_waiting_states()) == (0, {})
        await agent.resume()
    await asyncio.gather(task, return_exceptions=True)
    assert (used(pool), pool.get_waiting_states(), pool.get_state_allocations()) == (0, {}, {})


async def test_a_retry_does_not_hold_resources_meanwhile() -> None:
    """Between two attempts others can have them."""
    from miniagents.ext.workflow import RetryPolicy

    log = Log()
    agent = Agent("work", ResourcePool(total_cpu=1), ask=None)
    agent.add_state("start", goes_to("start", ["a", "b"]))

    async def unsteady(context: Context) -> None:
        log.write(f"attempt {context.attempt}")
        if context.attempt == 1:
            raise ValueError

    policy = RetryPolicy(max_retries=1, initial_delay=5, jitter=False)
    agent.add_state("a", unsteady, resources=cpus(1), retry_policy=policy)
    agent.add_state("b", log.state("b", None, 2), resources=cpus(1))
    await agent.run()
    assert log.lines == ["0 attempt 1", "0 b", "2 b ends", "5 attempt 2"]


async def test_without_a_pool_there_is_one() -> None:
    """A workflow makes a pool when it needs one."""
    agent = Agent("work", ask=None)
    agent.add_state("a", Log().state("a"), resources=ResourceRequirements())
    await agent.run()
    assert used(agent.resource_pool) == 0
