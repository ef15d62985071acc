"""What has to be there before the agent of a node is called: its condition, places and resources."""

from asyncio import Future, Lock, get_running_loop
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from promising.promise import Promise
from promising.run import Run
from promising.waiters import park

if TYPE_CHECKING:
    from miniagents.ext.graph.policy import ConcurrencyLimit, NodePolicy
    from miniagents.ext.graph.resources import Allocation
    from miniagents.ext.graph.run import GraphRun
    from miniagents.ext.graph.states import NodeRun

__all__ = ["Admission", "Held"]

_MOST_PREEMPTIONS = 8
"""How often one visit is stopped for others at most, so that it ends some day, however many of them come."""

Held: TypeAlias = "tuple[tuple[ConcurrencyLimit, ...], Allocation | None]"
"""Places and resources, which somebody has to give back."""


class Admission:
    """The part of a visit that waits.

    Args:
        run: The run of the graph.
        node_run: The node in this run.

    Attributes:
        policy: How the node runs.
        over: Whether nothing of it counts any more.
    """

    __slots__ = (
        "_admissible", "_allocation", "_entry", "_inside", "_limits", "_line", "_preemptions", "_work", "node_run",
        "over", "policy", "run",
    )  # fmt: skip

    def __init__(self, run: "GraphRun", node_run: "NodeRun") -> None:
        self.run = run
        self.node_run = node_run
        self.policy: NodePolicy = node_run.node.policy
        self.over = False
        self._admissible = node_run.node.condition is None
        self._limits: tuple[ConcurrencyLimit, ...] = ()
        self._inside = 0  # how many of the limits it has a place in
        self._line: ConcurrencyLimit | None = None  # where it waits for a place
        self._allocation: Allocation | None = None
        self._preemptions = 0
        self._entry: Lock | None = None  # there when the agent has left its places once
        self._work: Future[Any] | Promise[Any] | None = None  # what has to be awaited before it goes on

    def begin(self) -> None:
        """Begins: the agent is called as soon as condition, places and resources allow it."""
        leaving = self.node_run.leaving
        if leaving is not None and not leaving._over:
            self._when_over(leaving, self._begin_attempt)
        else:
            self._begin_attempt()

    def _begin_attempt(self) -> None:
        if self._admissible:
            self._admit()
        else:
            condition = self.node_run.node.condition
            assert condition is not None
            self._do(self.run.condition_holds(condition), self._condition_known, self._not_admitted)

    def _condition_known(self, holds: bool) -> None:
        if holds:
            self._admissible = True
            self._admit()
        else:
            condition = self.node_run.node.condition
            assert condition is not None
            self._refused(f"its condition does not hold: {condition.source}")

    def _admit(self) -> None:
        policy = self.policy
        self._limits = policy.concurrency + self.run.limits
        if self._limits and not self._enter():
            return
        if policy.resources is None:
            self._admitted(None)
            return
        name, pool = self.node_run.node.name, self.run.pool
        try:
            self._allocation = pool.try_acquire(
                name, policy.resources, preemptible=self._is_preemptible, on_preempt=self._preempt
            )
        except Exception as error:  # it is more than there will ever be
            self._not_admitted(error)
            return
        if self._allocation is None:
            self._do(self._acquire(), self._admitted, self._not_admitted)
        else:
            self._admitted(None)

    def _enter(self) -> bool:
        """Takes a place in each of the limits, one after the other; False if it has to wait for one."""
        for limit in self._limits[self._inside :]:
            if not limit.enter(self._place_given):
                self._line = limit
                return False
            self._inside += 1
        return True

    def _place_given(self) -> None:
        self._line = None
        self._inside += 1
        self.run.soon(self._go_on_entering)

    def _go_on_entering(self) -> None:
        if not self.over:
            self._admit()

    async def _acquire(self) -> None:
        policy = self.policy
        assert policy.resources is not None
        self._allocation = await self.run.pool.acquire(
            self.node_run.node.name, policy.resources, preemptible=self._is_preemptible, on_preempt=self._preempt
        )

    @property
    def _is_preemptible(self) -> bool:
        return self.policy.preemptible and self._preemptions < _MOST_PREEMPTIONS

    def _preempt(self) -> None:
        """Is told that the resources are needed elsewhere."""
        raise NotImplementedError

    def _admitted(self, _: object) -> None:
        """Is told that everything is there."""
        raise NotImplementedError

    def _refused(self, reason: str) -> None:
        """Is told that the agent is not to be called."""
        raise NotImplementedError

    def _not_admitted(self, error: BaseException) -> None:
        """Is told that something could not be had."""
        raise NotImplementedError

    def _attempt_failed(self, error: BaseException) -> None:
        """Is told that something has failed that was waited for in an attempt."""
        raise NotImplementedError

    # --- places while the agent waits for something that may take days ---

    def step_out(self) -> None:
        """Leaves its places to others, but keeps its resources, until it steps in again."""
        inside, self._inside = self._limits[: self._inside], 0
        for limit in inside:
            limit.leave()

    async def step_in(self) -> None:
        """Takes its places again, one after the other, as soon as it is its turn."""
        if self._entry is None:
            self._entry = Lock()
        async with self._entry:  # the agent may do several things side by side
            while not self.over and self._inside < len(self._limits):
                await _place_in(self._limits[self._inside])
                self._inside += 1

    # --- giving back ---

    def _take_out(self) -> "Held | None":
        """What is held now is held by the visit no more; whoever gets it has to give it back."""
        if not self._inside and self._allocation is None:
            return None
        held = (self._limits[: self._inside], self._allocation)
        self._inside, self._allocation = 0, None
        return held

    def _give_back(self, held: "Held | None") -> None:
        if held is not None:
            limits, allocation = held
            if allocation is not None:
                allocation.release()
            for limit in limits:
                limit.leave()

    def _leave_line(self) -> None:
        """Waits for no place any more."""
        if self._line is not None:
            self._line.forget(self._place_given)
            self._line = None

    # --- waiting ---

    def _do(
        self,
        work: Awaitable[Any],
        then: Callable[[Any], None],
        otherwise: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Waits for something, and goes on with its result; an error is one of the attempt.

        Args:
            work: What to wait for: a future, or what is awaited in a task.
            then: Gets the result.
            otherwise: Gets an error instead.
        """
        if otherwise is None:
            otherwise = self._attempt_failed
        if isinstance(work, Future):
            self._work = work
            self.run.when(work, self._done, work, then, otherwise)
            return
        promise = self._work = self.run.start(work)
        if promise._waiters is None:
            promise._waiters = []
        self.run.when(park(promise._waiters), self._done, promise, then, otherwise)

    def _done(
        self,
        work: "Future[Any] | Promise[Any]",
        then: Callable[[Any], None],
        otherwise: Callable[[BaseException], None],
    ) -> None:
        if work is not self._work:
            return  # it was stopped, and whatever came of it
        self._work = None
        error = work.exception() if isinstance(work, Future) else _error_of(work)
        if error is not None:
            otherwise(error)
        else:
            then(work.result() if isinstance(work, Future) else work._value)

    def _when_over(self, call: Run, then: Callable[[], None], *, always: bool = False) -> None:
        """Goes on when a call has ended with all that it has started."""
        if call._end_waiters is None:
            call._end_waiters = []
        waiter = park(call._end_waiters)
        if always:
            waiter.add_done_callback(lambda _: then(), context=self.run.context)
        else:
            self.run.when(waiter, self._unless_over, then)

    def _unless_over(self, then: Callable[[], None]) -> None:
        if not self.over:
            then()


async def _place_in(limit: "ConcurrencyLimit") -> None:
    """Waits for a place. If that is cancelled none is taken, also in the very moment in which it is given."""
    turn: Future[None] = get_running_loop().create_future()

    def take() -> None:
        if turn.done():
            limit.leave()
        else:
            turn.set_result(None)

    if limit.enter(take):
        return
    try:
        await turn
    except BaseException:
        limit.forget(take)
        if not turn.cancelled():
            limit.leave()
        raise


def _error_of(promise: Promise[Any]) -> BaseException | None:
    failure = promise._failure
    if failure is None:
        return None
    failure.consume()
    return failure.error
