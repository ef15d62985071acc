"""Resource pools: who is admitted when, what is given back, and that nobody is forgotten."""

import asyncio
import math
from contextvars import ContextVar
from typing import Any

import pytest

from miniagents.ext.graph.resources import (
    Allocation,
    Priority,
    ResourceError,
    ResourcePool,
    ResourceRequirements,
    ResourceTimeoutError,
    ResourceType,
)
from miniagents.testing import Timeline, quiescence, run_with_virtual_clock

LOW, NORMAL, HIGH, CRITICAL = Priority


def needs(
    cpu: float = 0.0,
    *,
    memory: float = 0.0,
    gpu: float = 0.0,
    io: float = 0.0,
    priority: Priority = NORMAL,
    timeout: float | None = None,
) -> ResourceRequirements:
    return ResourceRequirements(
        cpu_units=cpu,
        memory_mb=memory,
        gpu_units=gpu,
        io_weight=io,
        network_weight=0.0,
        priority=priority,
        timeout=timeout,
    )


def usage(pool: ResourcePool, kind: ResourceType = ResourceType.CPU) -> float:
    return pool.get_usage_stats()[kind].current_usage


def take(pool: ResourcePool, name: str, requirements: ResourceRequirements, **how: Any) -> Allocation:
    allocation = pool.try_acquire(name, requirements, **how)
    assert allocation is not None
    return allocation


class Asking:
    """Requests for a pool that run side by side, and what they have got so far, in order."""

    def __init__(self, pool: ResourcePool) -> None:
        self.pool = pool
        self.got: list[str] = []
        self.allocations: dict[str, Allocation] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, requirements: ResourceRequirements, **how: Any) -> None:
        async def wait() -> None:
            self.allocations[name] = await self.pool.acquire(name, requirements, **how)
            self.got.append(name)

        task = self.tasks[name] = asyncio.create_task(wait())
        task.add_done_callback(lambda _: task.cancelled() or task.exception())  # retrieved: a test may expect it
        await quiescence()

    async def release(self, *names: str) -> None:
        for name in names:
            self.allocations.pop(name).release()
        await quiescence()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await quiescence()

    def error_of(self, name: str) -> BaseException | None:
        return self.tasks[name].exception()


def assert_unused(pool: ResourcePool) -> None:
    assert all(stats.current_usage == 0 for stats in pool.get_usage_stats().values())
    assert pool.get_state_allocations() == {}
    assert pool.get_waiting_states() == {}
    assert not pool._admission.line


# --- requirements ---


def test_what_is_said_without_amounts_fits_into_the_pool_without_amounts() -> None:
    """The defaults of both go together: some work can run side by side."""
    pool = ResourcePool()
    assert sum(pool.try_acquire(str(number), ResourceRequirements()) is not None for number in range(9)) == 4


@pytest.mark.parametrize("name", ["cpu_units", "memory_mb", "io_weight", "network_weight", "gpu_units", "timeout"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_amount_that_is_none_is_refused(name: str, value: float) -> None:
    """Negative, infinite and undefined amounts and times are errors that name what was given."""
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        ResourceRequirements(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["total_cpu", "total_memory", "total_io", "total_network", "total_gpu"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "4"])
def test_total_that_is_none_is_refused(name: str, value: Any) -> None:
    """A pool has an amount of each type that is a number."""
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        ResourcePool(**{name: value})


def test_only_types_that_count_are_taken() -> None:
    """`resource_types` says which of the amounts matter."""
    pool = ResourcePool(total_cpu=4.0, total_memory=50.0)
    requirements = ResourceRequirements(memory_mb=1e6, resource_types=ResourceType.CPU | ResourceType.IO)
    take(pool, "work", requirements)
    assert pool.get_state_allocations() == {"work": {ResourceType.CPU: 1.0, ResourceType.IO: 1.0}}
    take(pool, "other", ResourceRequirements(cpu_units=100.0, resource_types=ResourceType.NONE))
    assert usage(pool) == 1.0


@pytest.mark.parametrize(
    ("parts", "part", "total"), [(10, 0.1, 1.0), (3, 1 / 3, 1.0), (3, 2 / 3, 2.0), (3, 0.19, 0.57), (7, 1 / 7, 1.0)]
)
def test_parts_fit_into_the_whole(parts: int, part: float, total: float) -> None:
    """Sums are exact: so many parts fit as one expects, not one more, and nothing is left when all are back."""
    pool = ResourcePool(total_cpu=total)
    taken = [take(pool, "part", needs(part)) for _ in range(parts)]
    assert pool.try_acquire("one more", needs(part)) is None
    for allocation in taken[1::2] + taken[::2]:
        allocation.release()
    assert_unused(pool)


def test_the_smallest_amount_is_not_free_of_charge() -> None:
    """What is smaller than the unit of counting counts as one unit."""
    pool = ResourcePool(total_cpu=1e-6)
    take(pool, "crumb", needs(1e-12))
    assert pool.try_acquire("another crumb", needs(1e-12)) is None


# --- what can never be given ---


def test_more_than_the_pool_has_is_refused_at_once() -> None:
    """The error names who asks, and of each type that there is too little of how much is asked for and there."""
    pool = ResourcePool(total_cpu=4.0, total_gpu=0.0)
    requirements = ResourceRequirements(cpu_units=8.0, gpu_units=0.5)
    with pytest.raises(ResourceError) as raised:
        pool.check(requirements, where="the state 'train'")
    assert str(raised.value) == (
        "the state 'train' asks for gpu 0.5, cpu 8, but the pool has gpu 0, cpu 4; "
        "ask for less, or make the pool larger"
    )
    pool.check(ResourceRequirements(cpu_units=4.0), where="the state 'fits'")
    with pytest.raises(ResourceError, match="'train' asks for gpu 0.5, cpu 8"):
        pool.try_acquire("train", requirements)


async def test_wait_for_more_than_the_pool_has_is_refused_at_once() -> None:
    """Nobody gets in line for what can never be given."""
    pool = ResourcePool(total_cpu=4.0)
    take(pool, "holder", needs(1))
    with pytest.raises(ResourceError, match="cpu 4.5, but the pool has cpu 4"):
        await pool.acquire("train", needs(4.5))
    assert pool.get_waiting_states() == {}


# --- admission ---


async def test_release_admits_who_waits() -> None:
    """A wait ends when there is enough, not before."""
    asking = Asking(ResourcePool(total_cpu=4.0))
    await asking.ask("a", needs(2))
    await asking.ask("b", needs(2))
    await asking.ask("c", needs(3))
    assert asking.got == ["a", "b"]
    await asking.release("a")
    assert asking.got == ["a", "b"]
    await asking.release("b")
    assert asking.got == ["a", "b", "c"]


async def test_one_release_admits_all_that_fit() -> None:
    """As many go on as there is room for, the others wait."""
    asking = Asking(ResourcePool(total_cpu=4.0))
    for name in ("big", "a", "b", "c"):
        await asking.ask(name, needs(4 if name == "big" else 2))
    await asking.release("big")
    assert asking.got == ["big", "a", "b"]


async def test_higher_priority_goes_first_and_equals_in_their_order() -> None:
    """The line is one of priorities, and of arrival within each of them."""
    asking = Asking(ResourcePool(total_cpu=1.0))
    await asking.ask("first", needs(1))
    for number, priority in enumerate([LOW, NORMAL, HIGH, CRITICAL] * 2):
        await asking.ask(f"{priority.name}{number}", needs(1, priority=priority))
    while asking.allocations:
        await asking.release(asking.got[-1])
    assert asking.got == ["first", "CRITICAL3", "CRITICAL7", "HIGH2", "HIGH6", "NORMAL1", "NORMAL5", "LOW0", "LOW4"]


async def test_small_request_does_not_take_what_a_big_one_before_it_lacks() -> None:
    """What becomes free is kept for who comes first, also from those who do not want to wait."""
    asking = Asking(ResourcePool(total_cpu=4.0))
    await asking.ask("a", needs(3))
    await asking.ask("big", needs(4))
    await asking.ask("small", needs(1))
    assert asking.pool.try_acquire("impatient", needs(1)) is None
    await asking.release("a")
    assert asking.got == ["a", "big"]
    await asking.release("big")
    assert asking.got == ["a", "big", "small"]


async def test_urgent_request_that_fits_does_not_wait_behind_a_big_one() -> None:
    """A higher priority may take what one of a lower priority waits for, also without waiting."""
    asking = Asking(ResourcePool(total_cpu=4.0))
    await asking.ask("a", needs(2))
    await asking.ask("big", needs(4))
    await asking.ask("high", needs(1, priority=HIGH))
    assert asking.got == ["a", "high"]
    take(asking.pool, "critical", needs(1, priority=CRITICAL))


async def test_who_waits_for_a_gpu_leaves_the_cpus_to_others() -> None:
    """Others may use what the first in line cannot use yet."""
    asking = Asking(ResourcePool(total_cpu=2.0, total_gpu=1.0))
    await asking.ask("trainer", needs(1, gpu=1))
    await asking.ask("next trainer", needs(2, gpu=1))
    for number in range(3):
        await asking.ask(f"small{number}", needs(1))
        await asking.release(f"small{number}")
    assert asking.got == ["trainer", "small0", "small1", "small2"]


async def test_what_was_secured_once_is_kept() -> None:
    """Two types cannot be taken away in turns, so that both are never free at the same time."""
    asking = Asking(ResourcePool(total_cpu=1.0, total_gpu=1.0))
    await asking.ask("cpu", needs(1))
    await asking.ask("gpu", needs(gpu=1))
    await asking.ask("both", needs(1, gpu=1))
    await asking.ask("next gpu", needs(gpu=1))
    await asking.ask("next cpu", needs(1))
    await asking.release("gpu")
    assert asking.got == ["cpu", "gpu"], "the GPU is kept for the one that needs both"
    await asking.ask("impatient", needs(gpu=1))
    await asking.release("cpu")
    assert asking.got == ["cpu", "gpu", "both"]


async def test_low_priority_is_overtaken_so_many_times_and_not_once_more() -> None:
    """A stream of higher priority does not starve a big request: it goes first after `max_overtakes`."""
    asking = Asking(ResourcePool(total_cpu=2.0, max_overtakes=5))
    await asking.ask("high0", needs(1, priority=HIGH))
    await asking.ask("high1", needs(1, priority=HIGH))
    await asking.ask("low", needs(2, priority=LOW))
    for number in range(2, 12):
        await asking.ask(f"high{number}", needs(1, priority=HIGH))
    for number in range(9):
        if (name := f"high{number}") in asking.allocations:
            await asking.release(name)
    assert asking.got == [*(f"high{number}" for number in range(7)), "low"]
    await asking.release("low")
    assert asking.got[-2:] == ["high7", "high8"]


async def test_crowd_of_low_priority_does_not_block_a_high_one() -> None:
    """However long many have waited, only one of them at a time goes before those of higher priority."""
    asking = Asking(ResourcePool(total_cpu=1.0, max_overtakes=3))
    await asking.ask("first", needs(1))
    for number in range(20):
        await asking.ask(f"low{number}", needs(1, priority=LOW))
    for number in range(9):
        await asking.ask(f"high{number}", needs(1, priority=HIGH))
    for _ in range(12):
        await asking.release(asking.got[-1])
    high, low = [f"high{number}" for number in range(9)], [f"low{number}" for number in range(3)]
    assert asking.got == ["first", *high[:3], low[0], *high[3:6], low[1], *high[6:], low[2]]


async def test_what_does_not_concern_a_request_does_not_overtake_it() -> None:
    """Only what is given of a type that it lacks counts as overtaking."""
    asking = Asking(ResourcePool(total_cpu=1.0, total_gpu=1.0, max_overtakes=1))
    await asking.ask("trainer", needs(gpu=1))
    await asking.ask("low", needs(gpu=1, priority=LOW))
    for number in range(5):
        take(asking.pool, f"cpu{number}", needs(1, priority=HIGH)).release()
    await asking.ask("high", needs(gpu=1, priority=HIGH))
    await asking.release("trainer")
    assert asking.got == ["trainer", "high"]


async def test_who_stands_behind_one_that_is_starved_is_not_starved_with_it() -> None:
    """Also those count that overtake a request before it, because of which it has to wait."""
    asking = Asking(ResourcePool(total_cpu=1.0, total_gpu=1.0, max_overtakes=3))
    await asking.ask("cpu", needs(1))
    await asking.ask("gpu", needs(gpu=1))
    await asking.ask("low", needs(1, priority=LOW))
    await asking.ask("high", needs(1, gpu=1, priority=HIGH))
    await asking.release("gpu")
    await asking.ask("critical0", needs(gpu=1, priority=CRITICAL))
    await asking.release("cpu")
    assert "low" not in asking.got, "both types are kept for the one of high priority"
    for number in range(4):
        await asking.ask(f"critical{number + 1}", needs(gpu=1, priority=CRITICAL))
        await asking.release(f"critical{number}")
    assert asking.got == ["cpu", "gpu", "critical0", "critical1", "critical2", "low", "critical3", "critical4"]


async def test_those_who_do_not_wait_overtake_as_well() -> None:
    """They count, and the request that has become urgent by it goes on at once."""
    asking = Asking(ResourcePool(total_cpu=1.0, total_gpu=2.0, max_overtakes=2))
    await asking.ask("cpu", needs(1))
    await asking.ask("gpu", needs(gpu=1))
    await asking.ask("low", needs(1, priority=LOW))
    await asking.ask("high", needs(1, gpu=2, priority=HIGH))
    await asking.release("gpu")
    take(asking.pool, "critical", needs(gpu=1, priority=CRITICAL))
    await asking.release("cpu")
    assert "low" not in asking.got
    take(asking.pool, "critical, too", needs(gpu=1, priority=CRITICAL))
    await quiescence()
    assert asking.got == ["cpu", "gpu", "low"]


def test_max_overtakes_of_none_is_refused() -> None:
    """With it priorities would mean nothing."""
    with pytest.raises(ValueError, match="max_overtakes is 0"):
        ResourcePool(max_overtakes=0)


# --- release ---


async def test_release_twice_is_as_good_as_once() -> None:
    """What was given back is not given back again."""
    pool = ResourcePool(total_cpu=2.0)
    first, second = take(pool, "first", needs(1)), take(pool, "second", needs(1))
    first.release()
    first.release()
    assert usage(pool) == 1.0
    assert (first.is_held, second.is_held) == (False, True)


async def test_end_of_with_releases_also_after_an_error() -> None:
    """Both kinds of `with` give back what they hold, whatever happens inside."""
    pool = ResourcePool()
    with pytest.raises(LookupError), take(pool, "a", needs(1)):
        raise LookupError
    with pytest.raises(LookupError):
        async with await pool.acquire("b", needs(1)) as allocation:
            assert (allocation.name, allocation.requirements, usage(pool)) == ("b", needs(1), 1.0)
            raise LookupError
    assert_unused(pool)


def test_pool_can_be_used_in_one_event_loop_after_the_other() -> None:
    """Nothing in it belongs to a loop that is closed."""
    pool = ResourcePool(total_cpu=1.0)

    async def main() -> None:
        asking = Asking(pool)
        await asking.ask("a", needs(1))
        await asking.ask("b", needs(1))
        await asking.release("a")
        await asking.release("b")

    asyncio.run(main())
    asyncio.run(main())
    assert_unused(pool)


# --- waits that end otherwise ---


def test_wait_ends_with_an_error_when_its_time_is_over() -> None:
    """The error says what is asked for, what is free, and who holds the rest; nothing is held, and it is in no line."""

    async def main() -> None:
        pool, timeline = ResourcePool(total_cpu=4.0), Timeline()
        holder = take(pool, "holder", needs(3, memory=1))
        take(pool, "bystander", needs(memory=1))
        with pytest.raises(ResourceTimeoutError) as raised:
            await pool.acquire("train", needs(2, memory=1, timeout=300))
        assert timeline.elapsed == 300
        assert str(raised.value) == (
            "'train' asked for memory (MB) 1, cpu 2 and did not get it within 300 s: free is cpu 1; "
            "the rest is held by 'holder'"
        )
        assert isinstance(raised.value, TimeoutError)
        assert pool.get_waiting_states() == {}
        assert usage(pool) == 3.0
        holder.release()

    run_with_virtual_clock(main())


@pytest.mark.parametrize("holders", [1, 7])
def test_wait_without_time_is_an_error_at_once(holders: int) -> None:
    """With `timeout=0` it is now or never; the error does not list a crowd."""

    async def main() -> None:
        pool = ResourcePool(total_cpu=7.0)
        for number in range(holders):
            take(pool, f"holder{number}", needs(7 / holders))
        listed = "'holder0'" if holders == 1 else "'holder0', 'holder1', 'holder2', 'holder3', 'holder4' and 2 more"
        with pytest.raises(ResourceTimeoutError, match=f"free is cpu 0; the rest is held by {listed}$"):
            await pool.acquire("train", needs(1, timeout=0))

    run_with_virtual_clock(main())


def test_wait_for_ones_turn_ends_with_an_error_that_says_so() -> None:
    """Where there is enough, but it is kept for others, the error does not name holders."""

    async def main() -> None:
        asking = Asking(ResourcePool(total_cpu=4.0))
        await asking.ask("a", needs(3))
        await asking.ask("big", needs(4))
        with pytest.raises(ResourceTimeoutError, match="within 1 s: others that wait come first"):
            await asking.pool.acquire("small", needs(1, timeout=1))

    run_with_virtual_clock(main())


def test_those_behind_go_on_when_the_first_gives_up() -> None:
    """What a request has secured is free for others once it is not in line any more."""

    async def main() -> None:
        asking, timeline = Asking(ResourcePool(total_cpu=4.0)), Timeline()
        await asking.ask("a", needs(3))
        await asking.ask("big", needs(4, timeout=10))
        await asking.ask("small", needs(1))
        await asking.tasks["small"]
        assert timeline.elapsed == 10
        assert isinstance(asking.error_of("big"), ResourceTimeoutError)

    run_with_virtual_clock(main())


@pytest.mark.parametrize("release_first", [True, False])
def test_release_at_the_very_moment_of_the_timeout(release_first: bool) -> None:
    """Either it is admitted or it has timed out; in both cases what is released is not lost."""

    async def main() -> None:
        asking, loop = Asking(ResourcePool(total_cpu=1.0)), asyncio.get_running_loop()
        await asking.ask("a", needs(1))
        if release_first:
            loop.call_later(5, asking.allocations["a"].release)
        await asking.ask("b", needs(1, timeout=5))
        if not release_first:
            loop.call_later(5, asking.allocations["a"].release)
        await asyncio.wait(asking.tasks.values())
        assert asking.got == (["a", "b"] if release_first else ["a"])
        if release_first:
            asking.allocations["b"].release()
        assert_unused(asking.pool)

    run_with_virtual_clock(main())


async def test_cancelled_wait_is_out_of_line_at_once() -> None:
    """Before its task has noticed it is not listed, and gets nothing that others could have."""
    asking = Asking(ResourcePool(total_cpu=1.0))
    await asking.ask("a", needs(1))
    await asking.ask("b", needs(1))
    asking.tasks["b"].cancel()
    assert asking.pool.get_waiting_states() == {}
    asking.allocations["a"].release()
    take(asking.pool, "c", needs(1)).release()
    await quiescence()
    assert_unused(asking.pool)


def test_wait_that_is_over_leaves_no_timer() -> None:
    """A long limit does not keep what was admitted long ago."""

    async def main() -> None:
        asking, loop = Asking(ResourcePool(total_cpu=1.0)), asyncio.get_running_loop()
        await asking.ask("a", needs(1))
        await asking.ask("b", needs(1, timeout=1000))
        await asking.ask("c", needs(1, timeout=1000))
        await asking.release("a")
        await asking.cancel("c")
        assert all(timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]

    run_with_virtual_clock(main())


async def test_cancelled_wait_holds_nothing_and_lets_others_go_on() -> None:
    """The first in line is cancelled: those behind it get what it had secured."""
    asking = Asking(ResourcePool(total_cpu=4.0))
    await asking.ask("a", needs(3))
    await asking.ask("big", needs(4))
    await asking.ask("small", needs(1))
    await asking.cancel("big")
    assert asking.got == ["a", "small"]
    await asking.release("a", "small")
    assert_unused(asking.pool)


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("cancel_first", [True, False])
async def test_wait_that_is_cancelled_around_its_admission(turns: int, cancel_first: bool) -> None:
    """At whatever turn, before or after the release: what it does not return goes to the next, once."""
    pool, got = ResourcePool(total_cpu=1.0), []

    async def work(name: str) -> None:
        async with await pool.acquire(name, needs(1)):
            got.append(name)

    holder = take(pool, "holder", needs(1))
    first, second = asyncio.create_task(work("first")), asyncio.create_task(work("second"))
    if cancel_first:
        await quiescence()
        first.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        holder.release()
    else:
        await quiescence()
        holder.release()
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
    await asyncio.wait([first, second])
    assert got[-1:] == ["second"]
    assert first.cancelled() == ("first" not in got)
    assert_unused(pool)


async def test_wait_whose_coroutine_is_closed_holds_nothing() -> None:
    """Not only cancellation ends a wait early: an event loop that goes away closes what still waits."""
    pool = ResourcePool(total_cpu=1.0)
    holder = take(pool, "holder", needs(1))
    wait = pool.acquire("wait", needs(1))
    wait.send(None)
    assert set(pool.get_waiting_states()) == {"wait"}
    wait.close()
    holder.release()
    assert_unused(pool)


def test_wait_that_times_out_and_is_cancelled_at_once() -> None:
    """It is cancelled; no error is left over that nobody has retrieved."""

    async def main() -> None:
        pool, problems, loop = ResourcePool(total_cpu=1.0), [], asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        with take(pool, "holder", needs(1)):
            task = asyncio.create_task(pool.acquire("wait", needs(1, timeout=5)))
            await quiescence()
            loop.call_later(5, task.cancel)
            await asyncio.wait([task])
            assert task.cancelled()
        del task
        await quiescence()
        assert problems == []
        assert_unused(pool)

    run_with_virtual_clock(main())


# --- preemption ---


class Holders:
    """Allocations of a pool that can be asked back, and which of them have been."""

    def __init__(self, pool: ResourcePool) -> None:
        self.pool = pool
        self.asked: list[str] = []
        self.allocations: dict[str, Allocation] = {}

    def hold(self, name: str, requirements: ResourceRequirements) -> None:
        def on_preempt() -> None:
            self.asked.append(name)

        self.allocations[name] = take(self.pool, name, requirements, preemptible=True, on_preempt=on_preempt)

    def release_all_that_were_asked(self) -> None:
        for name in self.asked:
            self.allocations[name].release()


@pytest.fixture
def pool() -> ResourcePool:
    """A pool with preemption."""
    return ResourcePool(total_cpu=4.0, total_memory=100.0, total_gpu=2.0, enable_preemption=True)


@pytest.fixture
def holders(pool: ResourcePool) -> Holders:
    """Those who can be asked to give something back."""
    return Holders(pool)


async def test_preempted_resources_remain_taken_until_they_are_released(pool: ResourcePool, holders: Holders) -> None:
    """Who is asked back is told, once, and decides when; then the request is admitted."""
    asking = Asking(pool)
    holders.hold("low", needs(4, priority=LOW))
    await asking.ask("high", needs(2, priority=HIGH))
    assert (holders.asked, asking.got, usage(pool)) == (["low"], [], 4.0)
    assert holders.allocations["low"].is_preempted
    holders.release_all_that_were_asked()
    await quiescence()
    assert (holders.asked, asking.got, usage(pool)) == (["low"], ["high"], 2.0)


async def test_lowest_priority_is_asked_first_and_no_more_than_necessary(pool: ResourcePool, holders: Holders) -> None:
    """Of equals those that bring most, so that they are few; and the youngest, who lose least."""
    holders.hold("normal", needs(1, priority=NORMAL))
    holders.hold("low, older", needs(1, priority=LOW))
    holders.hold("low, younger", needs(1, priority=LOW))
    holders.hold("memory", needs(memory=100, priority=LOW))
    holders.hold("high", needs(1, priority=HIGH))
    asking = Asking(pool)
    await asking.ask("critical", needs(1, priority=CRITICAL))
    assert holders.asked == ["low, younger"]
    await asking.ask("another", needs(2, priority=CRITICAL))
    assert holders.asked == ["low, younger", "low, older", "normal"]


async def test_one_that_brings_enough_is_asked_rather_than_many(pool: ResourcePool, holders: Holders) -> None:
    """Of the same priority as few as possible lose their work."""
    holders.hold("big", needs(2, priority=LOW))
    holders.hold("small", needs(1, priority=LOW))
    holders.hold("small, too", needs(1, priority=LOW))
    await Asking(pool).ask("high", needs(2, priority=HIGH))
    assert holders.asked == ["big"]


async def test_what_was_released_is_not_counted_on(pool: ResourcePool, holders: Holders) -> None:
    """Neither what could have been asked back, nor what was: it has been given to others by now."""
    holders.hold("there", needs(2, priority=LOW))
    holders.hold("gone", needs(1, priority=LOW))
    take(pool, "fixed", needs(1, priority=HIGH))
    holders.allocations["gone"].release()
    take(pool, "fixed, too", needs(1, priority=HIGH))
    asking = Asking(pool)
    await asking.ask("a", needs(1, priority=HIGH))
    assert holders.asked == ["there"]
    holders.release_all_that_were_asked()
    await quiescence()
    holders.hold("last", needs(1, priority=LOW))
    await asking.ask("b", needs(1, priority=HIGH))
    assert (asking.got, holders.asked) == (["a"], ["there", "last"])


async def test_what_becomes_superfluous_is_not_asked_back(pool: ResourcePool, holders: Holders) -> None:
    """One that was chosen first is spared when a later one brings enough alone."""
    holders.hold("low", needs(1, priority=LOW))
    holders.hold("low, gpu", needs(gpu=1, priority=LOW))
    holders.hold("normal", needs(3, gpu=1, priority=NORMAL))
    await Asking(pool).ask("high", needs(3, gpu=1, priority=HIGH))
    assert holders.asked == ["normal"]


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        ([needs(4, priority=HIGH)], needs(1, priority=HIGH)),
        ([needs(4, priority=CRITICAL)], needs(1, priority=HIGH)),
        ([needs(1, priority=LOW), needs(3, priority=HIGH)], needs(2, priority=HIGH)),
        ([needs(4, priority=LOW), needs(gpu=2, priority=HIGH)], needs(4, gpu=1, priority=HIGH)),
    ],
)
async def test_nobody_is_preempted_in_vain(
    pool: ResourcePool, holders: Holders, held: list[ResourceRequirements], asked: ResourceRequirements
) -> None:
    """Not equals nor higher ones, and lower ones not where it is not enough."""
    for number, requirements in enumerate(held):
        holders.hold(str(number), requirements)
    await Asking(pool).ask("high", asked)
    assert holders.asked == []


async def test_what_is_not_preemptible_is_not_asked_back(pool: ResourcePool, holders: Holders) -> None:
    """Neither without `preemptible=True`, nor in a pool without preemption."""
    take(pool, "low", needs(4, priority=LOW), on_preempt=lambda: holders.asked.append("low"))
    await Asking(pool).ask("high", needs(4, priority=HIGH))
    without = Holders(ResourcePool(total_cpu=4.0))
    without.hold("low", needs(4, priority=LOW))
    await Asking(without.pool).ask("high", needs(4, priority=HIGH))
    assert holders.asked == without.asked == []


async def test_preemptible_without_a_way_to_be_told_is_refused(pool: ResourcePool) -> None:
    """Nobody could be asked to give it back."""
    with pytest.raises(ValueError, match="'low' is preemptible, but cannot be told so"):
        pool.try_acquire("low", needs(4), preemptible=True)


async def test_two_requests_are_not_promised_the_same_room(pool: ResourcePool, holders: Holders) -> None:
    """What is on its way back counts, but only once: the second request has others asked for itself, if need be."""
    holders.hold("big", needs(2, priority=LOW))
    holders.hold("small", needs(2, priority=LOW))
    asking = Asking(pool)
    await asking.ask("a", needs(1, priority=HIGH))
    assert len(holders.asked) == 1
    await asking.ask("b", needs(1, priority=HIGH))
    assert len(holders.asked) == 1
    await asking.ask("c", needs(1, priority=HIGH))
    assert len(holders.asked) == 2
    holders.release_all_that_were_asked()
    await quiescence()
    assert asking.got == ["a", "b", "c"]


async def test_who_stands_behind_somebody_who_has_to_wait_preempts_nobody(pool: ResourcePool, holders: Holders) -> None:
    """What would be given back would go to the one before, who could still not be admitted."""
    take(pool, "fixed", needs(1, priority=LOW))
    holders.hold("low", needs(3, priority=LOW))
    asking = Asking(pool)
    await asking.ask("critical", needs(4, priority=CRITICAL))
    await asking.ask("high", needs(3, priority=HIGH))
    assert holders.asked == []
    await asking.cancel("critical")
    assert holders.asked == ["low"]


async def test_nothing_is_asked_back_for_one_who_waits_for_something_else(pool: ResourcePool, holders: Holders) -> None:
    """Its part would have to be made free as well before those behind it could go on, and would lie idle."""
    take(pool, "fixed", needs(gpu=2, priority=LOW))
    holders.hold("a", needs(2, priority=LOW))
    holders.hold("b", needs(2, priority=LOW))
    asking = Asking(pool)
    await asking.ask("critical", needs(2, gpu=1, priority=CRITICAL))
    await asking.ask("high", needs(2, priority=HIGH))
    assert holders.asked == []


async def test_room_for_two_is_made_at_once_and_not_twice(pool: ResourcePool, holders: Holders) -> None:
    """What is asked back for the first, and is more than it needs, counts for the second."""
    take(pool, "fixed", needs(gpu=2, priority=LOW))
    holders.hold("normal", needs(2, priority=NORMAL))
    holders.hold("low", needs(2, priority=LOW))
    asking = Asking(pool)
    await asking.ask("critical", needs(4, gpu=1, priority=CRITICAL))
    await asking.ask("a", needs(1, priority=HIGH))
    await asking.ask("b", needs(1, priority=HIGH))
    assert holders.asked == []
    await asking.cancel("critical")
    assert holders.asked == ["low"]
    holders.release_all_that_were_asked()
    await quiescence()
    assert asking.got == ["a", "b"]


async def test_what_comes_back_in_parts_is_kept_for_the_request(pool: ResourcePool, holders: Holders) -> None:
    """Nobody behind it takes one part while the other is still on its way, or it would have been for nothing."""
    holders.hold("cpu", needs(4, priority=LOW))
    holders.hold("gpu", needs(gpu=2, priority=LOW))
    asking = Asking(pool)
    await asking.ask("high", needs(4, gpu=2, priority=HIGH))
    assert sorted(holders.asked) == ["cpu", "gpu"]
    holders.allocations["cpu"].release()
    await asking.ask("normal", needs(1, priority=NORMAL))
    assert asking.got == []
    holders.allocations["gpu"].release()
    await quiescence()
    assert asking.got == ["high"]


async def test_one_request_preempts_once(pool: ResourcePool, holders: Holders) -> None:
    """When a still higher one takes what was given back, no others are asked; nor does that one ask for more."""
    holders.hold("a", needs(2, priority=LOW))
    holders.hold("b", needs(2, priority=LOW))
    asking = Asking(pool)
    await asking.ask("high", needs(2, priority=HIGH))
    await asking.ask("critical", needs(2, priority=CRITICAL))
    holders.release_all_that_were_asked()
    await quiescence()
    assert (holders.asked, asking.got) == (["b"], ["critical"])


async def test_who_has_released_by_itself_is_not_told(pool: ResourcePool, holders: Holders) -> None:
    """The call comes a turn later; what is not held any more by then needs no giving back."""
    holders.hold("low", needs(4, priority=LOW))
    task = asyncio.create_task(pool.acquire("high", needs(2, priority=HIGH)))
    asyncio.get_running_loop().call_soon(holders.allocations["low"].release)
    (await task).release()
    assert holders.asked == []
    assert_unused(pool)


async def test_on_preempt_runs_in_the_context_of_the_holder(pool: ResourcePool) -> None:
    """What it finds in context variables is the holder's, not that of the request."""
    variable, seen = ContextVar[str]("variable"), []
    variable.set("of the holder")
    take(pool, "low", needs(4, priority=LOW), preemptible=True, on_preempt=lambda: seen.append(variable.get()))
    variable.set("of the request")
    await Asking(pool).ask("high", needs(1, priority=HIGH))
    assert seen == ["of the holder"]


async def test_error_of_on_preempt_does_not_reach_the_request(pool: ResourcePool, holders: Holders) -> None:
    """It is reported to the event loop; the others are told all the same, and the request waits on."""
    problems: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["exception"]))

    def fail() -> None:
        raise LookupError("lost")

    low = take(pool, "low", needs(2, priority=LOW), preemptible=True, on_preempt=fail)
    holders.hold("other", needs(2, priority=LOW))
    asking = Asking(pool)
    await asking.ask("high", needs(4, priority=HIGH))
    assert [type(problem) for problem in problems] == [LookupError]
    assert holders.asked == ["other"]
    low.release()
    await asking.ask("normal", needs(2, priority=NORMAL))
    holders.release_all_that_were_asked()
    await quiescence()
    assert asking.got == ["high"]


async def test_who_was_overtaken_too_often_is_not_preempted_afterwards() -> None:
    """It would have waited for nothing: the next one of a higher priority would send it away again."""
    pool = ResourcePool(total_cpu=1.0, enable_preemption=True, max_overtakes=2)
    asking, asked = Asking(pool), []
    await asking.ask("high0", needs(1, priority=HIGH))
    await asking.ask("low", needs(1, priority=LOW), preemptible=True, on_preempt=lambda: asked.append("low"))
    for number in (1, 2, 3):
        await asking.ask(f"high{number}", needs(1, priority=HIGH))
    for number in range(3):
        await asking.release(f"high{number}")
    assert asking.got == ["high0", "high1", "high2", "low"]
    assert not asked
    assert not asking.allocations["low"].preemptible


async def test_request_that_is_cancelled_leaves_what_it_has_asked_back_to_others(
    pool: ResourcePool, holders: Holders
) -> None:
    """Who was told gives back what it has, and those who wait get it; nothing is lost."""
    holders.hold("low", needs(4, priority=LOW))
    asking = Asking(pool)
    await asking.ask("high", needs(4, priority=HIGH))
    await asking.ask("normal", needs(2, priority=NORMAL))
    await asking.cancel("high")
    assert (holders.asked, asking.got) == (["low"], [])
    holders.release_all_that_were_asked()
    await quiescence()
    assert asking.got == ["normal"]
    await asking.release("normal")
    assert_unused(pool)


def test_wait_without_time_preempts_nobody() -> None:
    """It would be gone before anything is given back."""

    async def main() -> None:
        pool = ResourcePool(enable_preemption=True)
        holders = Holders(pool)
        holders.hold("low", needs(4, priority=LOW))
        with pytest.raises(ResourceTimeoutError):
            await pool.acquire("high", needs(1, priority=HIGH, timeout=0))
        await quiescence()
        assert holders.asked == []

    run_with_virtual_clock(main())


# --- quotas ---


@pytest.mark.parametrize("quota", [0.5, {ResourceType.CPU: 2.0}, {ResourceType.CPU: 2, ResourceType.GPU: 0}])
async def test_name_holds_no_more_than_its_quota(quota: Any) -> None:
    """Whether it is a share or amounts: what is more waits until the owner itself gives something back."""
    asking = Asking(ResourcePool(total_cpu=4.0, enable_quotas=True, quotas={"a": quota}))
    first, second = take(asking.pool, "a", needs(1)), take(asking.pool, "a", needs(1))
    assert asking.pool.try_acquire("a", needs(1)) is None
    await asking.ask("a", needs(1))
    other = take(asking.pool, "b", needs(2))
    other.release()
    assert asking.got == []
    first.release()
    await quiescence()
    assert asking.got == ["a"]
    second.release()
    await asking.release("a")
    assert_unused(asking.pool)


async def test_group_shares_a_quota() -> None:
    """What is taken under different names counts for the quota of their group, and not for those of the names."""
    pool = ResourcePool(enable_quotas=True, quotas={"reports": {ResourceType.CPU: 2.0}, "a": {ResourceType.CPU: 0.5}})
    take(pool, "a", needs(1), group="reports")
    take(pool, "b", needs(1), group="reports")
    assert pool.try_acquire("c", needs(1), group="reports") is None
    take(pool, "c", needs(1))
    assert pool.get_state_allocations().keys() == {"a", "b", "c"}


async def test_who_waits_for_its_own_quota_holds_up_nobody_else() -> None:
    """Others go on, whatever their priority; and it keeps nothing of the pool for itself."""
    asking = Asking(ResourcePool(total_cpu=4.0, enable_quotas=True, quotas={"greedy": 0.5}))
    await asking.ask("greedy", needs(2))
    await asking.ask("greedy", needs(2, priority=CRITICAL))
    await asking.ask("modest", needs(1, priority=LOW))
    await asking.ask("other", needs(1, priority=LOW))
    assert asking.got == ["greedy", "modest", "other"]


async def test_big_request_of_an_owner_is_not_starved_by_its_own_small_ones() -> None:
    """The rules of the line hold within a quota, too."""
    quotas = {"owner": {ResourceType.CPU: 2.0}}
    asking = Asking(ResourcePool(total_cpu=8.0, total_gpu=1.0, enable_quotas=True, quotas=quotas, max_overtakes=2))
    take(asking.pool, "gpu", needs(gpu=1))
    await asking.ask("older, of no quota", needs(gpu=1))
    for number in range(2):
        await asking.ask(f"s{number}", needs(1, priority=HIGH), group="owner")
    await asking.ask("big", needs(2, priority=LOW), group="owner")
    for number in range(2, 6):
        await asking.ask(f"s{number}", needs(1, priority=HIGH), group="owner")
    for number in range(4):
        await asking.release(f"s{number}")
    assert asking.got == ["s0", "s1", "s2", "s3", "big"]


async def test_who_waits_for_its_own_quota_does_not_make_others_wait_for_their_turn_to_age() -> None:
    """Each quota has an oldest request of its own, which goes first after `max_overtakes`."""
    quotas = {"owner": {ResourceType.CPU: 1.0}}
    asking = Asking(ResourcePool(total_cpu=2.0, enable_quotas=True, quotas=quotas, max_overtakes=2))
    await asking.ask("a", needs(1), group="owner")
    await asking.ask("older, for its quota", needs(1), group="owner")
    await asking.ask("high0", needs(1, priority=HIGH))
    await asking.ask("low", needs(1, priority=LOW))
    for number in range(4):
        await asking.ask(f"high{number + 1}", needs(1, priority=HIGH))
        if f"high{number}" in asking.allocations:
            await asking.release(f"high{number}")
    assert asking.got == ["a", "high0", "high1", "high2", "low"]


async def test_what_was_secured_of_a_quota_once_is_kept() -> None:
    """Two types of a quota cannot be taken away in turns either."""
    quotas = {"owner": {ResourceType.CPU: 1.0, ResourceType.GPU: 1.0}}
    asking = Asking(ResourcePool(total_cpu=9.0, total_gpu=9.0, enable_quotas=True, quotas=quotas))
    await asking.ask("cpu", needs(1), group="owner")
    await asking.ask("gpu", needs(gpu=1), group="owner")
    await asking.ask("both", needs(1, gpu=1), group="owner")
    await asking.ask("next gpu", needs(gpu=1), group="owner")
    await asking.release("gpu")
    assert asking.got == ["cpu", "gpu"]
    await asking.ask("another gpu", needs(gpu=1), group="owner")
    await asking.release("cpu")
    assert asking.got == ["cpu", "gpu", "both"]


async def test_more_than_a_quota_is_refused_at_once() -> None:
    """The error names the quota, how much it allows and how much is asked for."""
    pool = ResourcePool(total_cpu=4.0, enable_quotas=True, quotas={"reports": 0.25})
    error = "'train' asks for cpu 2, but the quota of 'reports' allows cpu 1; ask for less, or make the quota larger"
    with pytest.raises(ResourceError, match=error):
        pool.check(needs(2), where="'train'", owner="reports")
    with pytest.raises(ResourceError, match=error):
        pool.try_acquire("train", needs(2), group="reports")
    with pytest.raises(ResourceError, match=error):
        await pool.acquire("train", needs(2), group="reports")


async def test_quota_that_becomes_larger_admits_who_waits() -> None:
    """Or that is taken away: nobody has to ask again."""
    asking = Asking(ResourcePool(total_cpu=4.0, enable_quotas=True, quotas={"a": 0.25}))
    for _ in range(3):
        await asking.ask("a", needs(1))
    assert asking.got == ["a"]
    asking.pool.set_quota("a", 0.5)
    await quiescence()
    assert asking.got == ["a", "a"]
    asking.pool.set_quota("a", None)
    await quiescence()
    assert asking.got == ["a", "a", "a"]


async def test_quota_that_becomes_smaller_takes_nothing_away() -> None:
    """What is held is kept, nothing is added until it is below the quota, and what can never be given is an error."""
    asking = Asking(ResourcePool(total_cpu=4.0, enable_quotas=True))
    await asking.ask("a", needs(3), group="owner")
    await asking.ask("big", needs(2), group="owner")
    await asking.ask("small", needs(1), group="owner")
    asking.pool.set_quota("owner", {ResourceType.CPU: 1.0})
    await quiescence()
    assert isinstance(error := asking.error_of("big"), ResourceError)
    assert "the quota of 'owner' allows cpu 1" in str(error)
    assert (asking.got, usage(asking.pool)) == (["a"], 3.0)
    await asking.release("a")
    assert asking.got == ["a", "small"]
    await asking.release("small")
    assert_unused(asking.pool)


async def test_who_gets_a_quota_while_it_waits_holds_up_nobody_else() -> None:
    """As if it had had the quota when it came."""
    asking = Asking(ResourcePool(total_cpu=2.0, enable_quotas=True))
    for name in ("a", "b", "a", "c"):
        await asking.ask(name, needs(1))
    asking.pool.set_quota("a", 0.5)
    await asking.release("b")
    assert asking.got == ["a", "b", "c"]


async def test_order_of_arrival_outlives_a_change_of_quotas() -> None:
    """Who gets a quota, or loses it, does not lose its place in line."""
    asking = Asking(ResourcePool(total_cpu=1.0, enable_quotas=True))
    for name in ("holder", "a", "b", "c"):
        await asking.ask(name, needs(1))
    asking.pool.set_quota("a", 1.0)
    asking.pool.set_quota("b", 1.0)
    asking.pool.set_quota("a", None)
    for name in ("holder", "a", "b", "c"):
        await asking.release(name)
    assert asking.got == ["holder", "a", "b", "c"]


async def test_wait_for_a_quota_ends_with_an_error_that_says_so() -> None:
    """Not the pool is too small, and others are not to blame; unless they are."""
    asking = Asking(ResourcePool(total_cpu=4.0, enable_quotas=True, quotas={"a": 0.25}))
    with take(asking.pool, "a", needs(1)), pytest.raises(ResourceTimeoutError, match="its quota is used up"):
        await asking.pool.acquire("a", needs(1, timeout=0))
    take(asking.pool, "b", needs(1))
    await asking.ask("big", needs(4))
    with pytest.raises(ResourceTimeoutError, match="others that wait come first"):
        await asking.pool.acquire("a", needs(1, timeout=0))


async def test_requests_that_only_their_quota_holds_back_preempt_nobody(holders: Holders) -> None:
    """Room in the pool would not help them."""
    pool = holders.pool = ResourcePool(enable_preemption=True, enable_quotas=True, quotas={"a": {ResourceType.CPU: 1}})
    holders.hold("low", needs(3, priority=LOW))
    asking = Asking(pool)
    await asking.ask("a", needs(1, priority=HIGH))
    await asking.ask("a", needs(1, priority=HIGH))
    assert (asking.got, holders.asked) == (["a"], [])


async def test_two_requests_that_do_not_fit_into_their_quota_together_preempt_for_one(holders: Holders) -> None:
    """The second one could not use what would be given back for it."""
    pool = holders.pool = ResourcePool(enable_preemption=True, enable_quotas=True, quotas={"a": {ResourceType.CPU: 1}})
    for number in range(4):
        holders.hold(f"low{number}", needs(1, priority=LOW))
    asking = Asking(pool)
    await asking.ask("x", needs(1, priority=HIGH), group="a")
    await asking.ask("y", needs(1, priority=HIGH), group="a")
    assert len(holders.asked) == 1


@pytest.mark.parametrize(
    "quota", [0, -0.5, 1.5, math.nan, {ResourceType.CPU: -1}, {ResourceType.ALL: 1}, {ResourceType.NONE: 1}]
)
def test_quota_that_is_none_is_refused(quota: Any) -> None:
    """It is a share, or amounts of single types."""
    with pytest.raises(ValueError, match="the quota of 'a'"):
        ResourcePool(enable_quotas=True, quotas={"a": quota})


def test_share_is_what_one_expects() -> None:
    """29 of 100 are a share of 0.29, which as a float is a bit less."""
    pool = ResourcePool(total_memory=100.0, enable_quotas=True, quotas={"a": 0.29})
    take(pool, "a", needs(memory=29))
    assert pool.try_acquire("a", needs(memory=1e-6)) is None


def test_quotas_have_to_be_enabled() -> None:
    """Quotas that nobody would keep are an error, not a wish."""
    with pytest.raises(ValueError, match="enable_quotas=True"):
        ResourcePool(quotas={"a": 0.5})


# --- looking at it ---


async def test_usage_tells_what_is_taken_now_and_was_at_most() -> None:
    """By single type; what is free, and which part is taken, follow from it."""
    pool = ResourcePool(total_cpu=4.0, total_gpu=0.0)
    with take(pool, "a", needs(2.5, memory=512)), take(pool, "b", needs(0.5)):
        pass
    with take(pool, "a", needs(1)):
        stats = pool.get_usage_stats()
    assert set(stats) == set(ResourceType)
    cpu = stats[ResourceType.CPU]
    assert (cpu.total, cpu.current_usage, cpu.peak_usage, cpu.available, cpu.utilization) == (4.0, 1.0, 3.0, 3.0, 0.25)
    assert stats[ResourceType.MEMORY].peak_usage == 512.0
    assert stats[ResourceType.GPU].utilization == 0.0


def test_lists_tell_who_holds_and_who_waits() -> None:
    """By name: sums of what is held; what is waited for, for how long, and what there is too little of."""

    async def main() -> None:
        asking = Asking(ResourcePool(total_cpu=4.0))
        pool = asking.pool
        take(pool, "a", needs(1, memory=10))
        take(pool, "a", needs(2))
        wanted = needs(3, memory=5)
        await asking.ask("b", wanted)
        await asyncio.sleep(5)
        await asking.ask("c", needs(1, io=1))
        await asking.ask("b", needs(0.5))
        assert pool.get_state_allocations() == {"a": {ResourceType.MEMORY: 10.0, ResourceType.CPU: 3.0}}
        waiting = pool.get_waiting_states()
        assert list(waiting) == ["b", "c"]
        assert waiting["b"] == ("b", wanted, 5.0, ResourceType.CPU)
        assert waiting["c"].short_of == ResourceType.NONE
        assert repr(pool) == ("<ResourcePool of memory (MB) 4096, cpu 4, network 100, io 100: 2 allocations>")
        assert repr(take(pool, "d", needs())) == "<Allocation of d: held>"

    run_with_virtual_clock(main())
