"""Resource pools under whatever happens to them: never over-allocated, nobody starves, nothing is left over."""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from miniagents.ext.graph.resources import (
    Allocation,
    Priority,
    ResourceError,
    ResourcePool,
    ResourceRequirements,
    ResourceTimeoutError,
    ResourceType,
)
from miniagents.ext.graph.resources.accounts import shortage
from miniagents.testing import quiescence, run_with_virtual_clock

TOTALS = {ResourceType.CPU: 4.0, ResourceType.MEMORY: 100.0, ResourceType.GPU: 2.0}
COUNTED = ResourceType.CPU | ResourceType.MEMORY | ResourceType.GPU
OWNERS = ("x", "y", "z")
LONGEST = 4.0
OVERTAKES = 2


def amounts_with(timeouts: st.SearchStrategy[float | None]) -> st.SearchStrategy[ResourceRequirements]:
    return st.builds(
        ResourceRequirements,
        cpu_units=st.sampled_from([0.0, 0.1, 1 / 3, 0.7, 1.0, 2.0, 4.0]),
        memory_mb=st.sampled_from([0.0, 0.0, 0.3, 33.3, 50.0, 100.0]),
        gpu_units=st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 2.0]),
        priority=st.sampled_from(Priority),
        timeout=timeouts,
        resource_types=st.just(COUNTED),
    )


amounts = amounts_with(st.none())
timed_amounts = amounts_with(st.sampled_from([None, None, None, 0.0, 1.0, 3.0]))
seconds = st.sampled_from([0.0, 1.0, 2.0, LONGEST])


def new_pool(*, preemption: bool = False, quotas: bool = False) -> ResourcePool:
    return ResourcePool(
        4.0, 100.0, 0.0, 0.0, 2.0, enable_preemption=preemption, enable_quotas=quotas, max_overtakes=OVERTAKES
    )


def exact(amount: float) -> Fraction:
    """What was meant: 1/3 and 0.1 are no floats."""
    return Fraction(amount).limit_denominator(1000)


def assert_unused(pool: ResourcePool) -> None:
    assert all(stats.current_usage == 0 for stats in pool.get_usage_stats().values())
    assert pool.get_state_allocations() == {}
    assert pool.get_waiting_states() == {}
    assert not pool._admission.line


# --- whatever happens ---


@dataclass(frozen=True)
class Ask:
    requirements: ResourceRequirements
    owner: str
    preemptible: bool
    reaction: float  # how many seconds it takes to give back what was asked back


@dataclass(frozen=True)
class Act:
    what: str
    which: int


@dataclass(frozen=True)
class SetQuota:
    owner: str
    quota: float | dict[ResourceType, float] | None


happenings = st.lists(
    st.one_of(
        st.builds(Ask, timed_amounts, st.sampled_from(OWNERS), st.booleans(), seconds),
        st.builds(Ask, timed_amounts, st.sampled_from(OWNERS), st.booleans(), seconds),
        st.builds(Act, st.sampled_from(["release", "cancel", "cancel", "fail"]), st.integers(0, 30)),
        st.builds(Act, st.sampled_from(["turn", "rest", "second"]), st.just(0)),
        st.builds(
            SetQuota,
            st.sampled_from(OWNERS),
            st.one_of(
                st.none(),
                st.sampled_from([0.1, 0.25, 0.5, 1.0]),
                st.just({ResourceType.CPU: 1.0}),
                st.just({ResourceType.GPU: 0.0, ResourceType.CPU: 2.0}),
            ),
        ),
    ),
    min_size=5,
    max_size=50,
)


@dataclass
class World:
    """A pool, those who use it, and books of their own of what they hold."""

    pool: ResourcePool
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    ends: list[asyncio.Event] = field(default_factory=list)
    holding: dict[Allocation, Ask] = field(default_factory=dict)
    allowed: dict[str, dict[ResourceType, Fraction]] = field(default_factory=dict)
    failing: set[int] = field(default_factory=set)

    def start(self, ask: Ask) -> None:
        number = len(self.tasks)
        self.ends.append(asyncio.Event())
        self.tasks.append(asyncio.create_task(self.use(number, ask)))

    async def use(self, number: int, ask: Ask) -> None:
        loop, end = asyncio.get_running_loop(), self.ends[number]

        def on_preempt() -> None:
            assert ask.preemptible
            loop.call_later(ask.reaction, end.set)

        async with await self.pool.acquire(
            f"work{number}", ask.requirements, preemptible=ask.preemptible, on_preempt=on_preempt, group=ask.owner
        ) as allocation:
            self.holding[allocation] = ask
            try:
                self.check()
                await end.wait()
                if number in self.failing:
                    raise LookupError
            finally:
                del self.holding[allocation]

    def happen(self, happening: Ask | Act | SetQuota) -> None:
        match happening:
            case Ask():
                self.start(happening)
            case Act("release", which) if self.ends:
                self.ends[which % len(self.ends)].set()
            case Act("fail", which) if self.ends:
                self.failing.add(which % len(self.ends))
                self.ends[which % len(self.ends)].set()
            case Act("cancel", which) if self.tasks:
                self.tasks[which % len(self.tasks)].cancel()
            case SetQuota(owner, quota):
                self.set_quota(owner, quota)

    def set_quota(self, owner: str, quota: float | dict[ResourceType, float] | None) -> None:
        """What is held already may be more than a quota that is lowered; it may not become more."""
        held = self.held_by(owner)
        self.pool.set_quota(owner, quota)
        if quota is None:
            self.allowed.pop(owner, None)
            return
        limits = quota if isinstance(quota, dict) else {kind: total * quota for kind, total in TOTALS.items()}
        self.allowed[owner] = {kind: max(exact(limits.get(kind, total)), held[kind]) for kind, total in TOTALS.items()}

    def held_by(self, owner: str | None) -> dict[ResourceType, Fraction]:
        """What is held according to the pool's list of allocations."""
        held = [one.requirements for one in self.pool._admission.held if owner in (None, one.owner)]
        return {
            ResourceType.CPU: sum((exact(one.cpu_units) for one in held), Fraction()),
            ResourceType.MEMORY: sum((exact(one.memory_mb) for one in held), Fraction()),
            ResourceType.GPU: sum((exact(one.gpu_units) for one in held), Fraction()),
        }

    def check(self) -> None:
        """What holds at any time."""
        held, stats = self.held_by(None), self.pool.get_usage_stats()
        for kind, total in TOTALS.items():
            assert held[kind] <= total
            assert abs(stats[kind].current_usage - float(held[kind])) < 1e-4
        for owner, allowed in self.allowed.items():
            of_owner = self.held_by(owner)
            for kind, most in allowed.items():
                assert of_owner[kind] <= most

    def check_at_rest(self) -> None:
        """What holds when nothing moves: books agree, and the first in line really has to wait."""
        self.check()
        assert set(self.pool._admission.held) == set(self.holding)
        waiting = sum(not task.done() for task in self.tasks) - len(self.holding)
        line = list(self.pool._admission.line)
        assert len(line) == waiting
        quotas = set()
        for request in line:
            may_be_first = request.quota is None or request.quota not in quotas
            quotas.add(request.quota)
            if may_be_first and (request.quota is None or shortage(request.quota.free, request.needs) is None):
                assert shortage(self.pool._account.free, request.needs) is not None
                break

    async def end(self) -> None:
        """Everybody who holds something ends; then everybody who waits gets it."""
        for end in self.ends:
            end.set()
        for task in self.tasks:
            with suppress(ResourceError, asyncio.CancelledError, LookupError):
                await task


@given(happenings, st.booleans())
@settings(max_examples=300)
def test_whatever_happens(happened: list[Ask | Act | SetQuota], preemption: bool) -> None:
    """Never is more given than there is or a quota allows, never is one forgotten who could go on; at last all is free.

    Whatever order requests, releases, failures, cancellations, timeouts, preemptions and changes of quotas come in.
    """

    async def main() -> None:
        world = World(new_pool(preemption=preemption, quotas=True))
        for happening in happened:
            if isinstance(happening, Act) and happening.what == "turn":
                await asyncio.sleep(0)
            elif isinstance(happening, Act) and happening.what == "rest":
                await quiescence()
                world.check_at_rest()
            elif isinstance(happening, Act) and happening.what == "second":
                await asyncio.sleep(1)
            else:
                world.happen(happening)
            world.check()
        await quiescence()
        world.check_at_rest()
        await world.end()
        assert_unused(world.pool)

    run_with_virtual_clock(main())


# --- nobody starves ---


@given(st.lists(amounts, max_size=8), amounts, st.data())
@settings(max_examples=150)
def test_the_oldest_is_admitted_within_a_bound(
    held: list[ResourceRequirements], wanted: ResourceRequirements, data: st.DataObject
) -> None:
    """However many of whatever priority keep coming: see the proof in `waiting_line`.

    Between two overtakes the oldest request and those before it secure at most three types, one after the other, each
    of which is free after the longest use; so it is urgent after a bounded time, and then secures its own three types.
    """
    bound = LONGEST * (len(TOTALS) + 1) * (OVERTAKES + 2)
    stream = st.lists(st.tuples(amounts, seconds, st.sampled_from([0.0, 0.5, 1.0])), min_size=3, max_size=12)
    newcomers = data.draw(stream)

    async def main() -> None:
        pool, loop = new_pool(), asyncio.get_running_loop()

        async def use(requirements: ResourceRequirements, time: float) -> None:
            async with await pool.acquire("other", requirements):
                await asyncio.sleep(time)

        tasks = []
        for requirements in held:
            if (allocation := pool.try_acquire("holder", requirements)) is not None:
                loop.call_later(LONGEST, allocation.release)
        oldest = asyncio.create_task(pool.acquire("oldest", wanted))
        await quiescence()
        while not oldest.done() and loop.time() <= bound:
            for requirements, time, pause in newcomers:
                tasks.append(asyncio.create_task(use(requirements, time)))
                await asyncio.sleep(pause)
            await asyncio.sleep(0.5)
        assert oldest.done()
        oldest.result().release()
        await asyncio.gather(*tasks)
        await asyncio.sleep(LONGEST)
        assert_unused(pool)

    run_with_virtual_clock(main())


@given(st.lists(st.tuples(amounts, seconds), min_size=1, max_size=25), st.booleans())
@settings(max_examples=150)
def test_all_are_admitted_when_each_ends(work: list[tuple[ResourceRequirements, float]], quotas: bool) -> None:
    """It takes at most as long as if one came after the other: there is no moment in which nobody goes on."""

    async def main() -> None:
        pool = new_pool(quotas=quotas)
        if quotas:
            pool.set_quota("work", {ResourceType.CPU: 4.0, ResourceType.GPU: 2.0})

        async def use(requirements: ResourceRequirements, time: float) -> None:
            async with await pool.acquire("work", requirements):
                await asyncio.sleep(time)

        await asyncio.gather(*(use(*one) for one in work))
        assert asyncio.get_running_loop().time() <= sum(time for _, time in work)
        assert_unused(pool)

    run_with_virtual_clock(main())


# --- preemption ---


@given(
    st.lists(st.tuples(amounts, st.booleans(), st.sampled_from([1.0, 2.0, LONGEST])), min_size=1, max_size=12),
    st.lists(amounts, min_size=1, max_size=4),
)
@settings(max_examples=300)
def test_nobody_is_preempted_for_nothing(
    held: list[tuple[ResourceRequirements, bool, float]], asked: list[ResourceRequirements]
) -> None:
    """When those who were asked have released, in whatever order, the requests for which they were asked are in.

    All of them have lower priorities than a request that was let in, and none could have been spared.
    """

    async def main() -> None:
        pool, loop = new_pool(preemption=True), asyncio.get_running_loop()
        victims: list[ResourceRequirements] = []

        def hold(requirements: ResourceRequirements, preemptible: bool, reaction: float) -> None:
            def on_preempt() -> None:
                assert preemptible
                assert allocation is not None
                assert allocation.requirements is requirements
                victims.append(requirements)
                loop.call_later(reaction, allocation.release)

            allocation = pool.try_acquire("holder", requirements, preemptible=preemptible, on_preempt=on_preempt)

        for one in held:
            hold(*one)
        tasks = [
            asyncio.create_task(pool.acquire("asking", requirements))
            for requirements in sorted(asked, key=lambda one: -one.priority)  # none comes before those that preempt
        ]
        await quiescence()
        preempting = [request.allocation for request in pool._admission.line if request.has_preempted]
        assert bool(preempting) == bool(victims)
        free = pool._account.free.copy()
        waited = [request.needs for request in pool._admission.line if request.allocation in preempting]
        await asyncio.sleep(LONGEST)
        await quiescence()
        assert all(allocation.is_held for allocation in preempting)
        for victim in victims:
            assert any(victim.priority < allocation.requirements.priority for allocation in preempting)
        if len(preempting) == 1:
            for victim in victims:
                given = free.copy()
                for other in victims:
                    for index, units in other._needs if other is not victim else ():
                        given[index] += units
                assert shortage(given, waited[0]) is not None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for allocation in list(pool._admission.held):
            allocation.release()
        assert_unused(pool)

    run_with_virtual_clock(main())


# --- cancellation at each turn ---


@given(st.lists(amounts, min_size=2, max_size=6), st.data())
@settings(max_examples=150)
def test_cancellation_at_any_turn(asked: list[ResourceRequirements], data: st.DataObject) -> None:
    """Also in the very turn in which a request is admitted or times out: what it does not use goes to the others."""
    victim = data.draw(st.integers(0, len(asked) - 1))
    turns, before = data.draw(st.integers(0, 5)), data.draw(st.booleans())

    async def main() -> None:
        pool, ended = new_pool(), []
        everything = pool.try_acquire("all", ResourceRequirements(4, 100, 0, 0, 2))
        assert everything is not None

        async def use(number: int, requirements: ResourceRequirements) -> None:
            async with await pool.acquire("work", requirements):
                await asyncio.sleep(1)
            ended.append(number)

        tasks = [asyncio.create_task(use(number, requirements)) for number, requirements in enumerate(asked)]
        await quiescence()
        if before:
            tasks[victim].cancel()
        else:
            everything.release()
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[victim].cancel()
        everything.release()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        assert set(range(len(asked))) - set(ended) <= {victim}
        assert_unused(pool)

    run_with_virtual_clock(main())


def test_timeouts_are_kept_in_a_crowd() -> None:
    """A thousand wait, each with a limit: each gives up on time, whatever its place, and the others are served."""

    async def main() -> None:
        pool, loop = new_pool(), asyncio.get_running_loop()
        holder = pool.try_acquire("holder", ResourceRequirements(4, 0, 0, 0, 0))
        assert holder is not None
        given_up: Counter[float] = Counter()

        async def use(number: int) -> None:
            requirements = ResourceRequirements(1, 0, 0, 0, 0, Priority(number % 4), 1 + number % 10)
            try:
                async with await pool.acquire("work", requirements):
                    pass
            except ResourceTimeoutError:
                given_up[loop.time()] += 1

        tasks = [asyncio.create_task(use(number)) for number in range(1000)]
        loop.call_later(5.5, holder.release)
        await asyncio.gather(*tasks)
        assert given_up == dict.fromkeys([1.0, 2.0, 3.0, 4.0, 5.0], 100)
        assert loop.time() == 5.5
        assert_unused(pool)

    run_with_virtual_clock(main())
