"""One visit of a node: admission, the call of its agent, further attempts, and what came of it.

All of it happens in callbacks that run one after the other in the context of the run, so that there is nothing to lock
and no task beside that of the agent. What has to be awaited (a condition, resources, a message that still streams) gets
a task for as long as that takes.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from miniagents.agents import MiniAgent
from miniagents.ext.graph.events import EventPromise, NodeRetried, NodeStarted, messages_in, result_in
from miniagents.ext.graph.follower import Follower
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise
from promising.errors import PromiseCancelledError
from promising.promise import Promise
from promising.run import Run
from promising.sentinels import NO_VALUE
from promising.waiters import park

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from miniagents.ext.graph.graph import Node
    from miniagents.ext.graph.policy import ConcurrencyLimit
    from miniagents.ext.graph.resources import Allocation
    from miniagents.ext.graph.run import GraphRun, Jump, NodeRun

__all__ = ["Visit"]


class Visit:
    """One visit of a node.

    Args:
        run: The run of the graph.
        node_run: The node in this run.

    Attributes:
        policy: How the node runs.
        number: Which visit of the node in this run, from 1.
        attempt: The number of the attempt at work, or of the last one, from 1.
        began: When it began, in seconds since the start of the run.
        replies: What the agent replies in that attempt.
        follower: Who reads that, as long as more of it is to come.
        deadline: All whose limit of time has begun with that of the attempt; there as long as it runs.
        over: Whether nothing of it counts any more.
        is_plain: Whether all that was replied is what others are sent.
        new_nodes: What is to be added to the graph when the visit has ended well.
        value: Whatever the agent wants the run to know, in the vocabularies that are built on graphs.
    """

    __slots__ = (
        "_admissible", "_allocation", "_inside", "_limits", "_line", "_pause", "_promises", "_started",
        "_work", "attempt", "began", "deadline", "follower", "is_plain", "new_nodes", "node_run", "number", "over",
        "policy", "replies", "run", "value",
    )  # fmt: skip

    def __init__(self, run: "GraphRun", node_run: "NodeRun") -> None:
        self.run = run
        self.node_run = node_run
        self.policy = node_run.node.policy
        self.number = node_run.visits
        self.attempt = 0
        self.began = run._loop.time() - run._began
        self.replies: MessageSequencePromise | None = None
        self.follower: Follower | None = None
        self.deadline: dict[Visit, None] | None = None
        self.over = False
        self.is_plain = True
        self.new_nodes: list[Node] | None = None
        self.value: Any = None
        self._promises: Sequence[MessagePromise] = ()  # what was replied, when all of it has begun
        self._admissible = node_run.node.condition is None
        self._started = False
        self._limits: tuple[ConcurrencyLimit, ...] = ()
        self._inside = 0  # how many of the limits it has a place in
        self._line: ConcurrencyLimit | None = None  # where it waits for a place
        self._allocation: Allocation | None = None
        self._pause: TimerHandle | None = None  # before the next attempt
        self._work: Promise[Any] | None = None  # what has to be awaited before it goes on

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the agent has replied in its last attempt, when the visit has ended well; of a graph its result."""
        result = result_in(self._promises) if self.has_events else None
        return messages_in(self._promises) if result is None else result

    @property
    def has_events(self) -> bool:
        """Whether what is replied is what a graph replies, with events in it."""
        agent = self.node_run.node.agent
        return type(agent) is not MiniAgent and getattr(agent, "tells_progress", False)

    @property
    def is_final(self) -> bool:
        """Whether what is being replied cannot be followed by another attempt."""
        policy = self.policy
        return policy.attempts == 1 and not policy.preemptible

    @property
    def replied(self) -> tuple[MessagePromise, ...]:
        """What the agent has replied in its last attempt, events of graphs included."""
        return tuple(self._promises)

    def restore(self, messages: Iterable[Message]) -> None:
        """Says what the agent has replied in another process."""
        self.over = True
        self.replies = MessageSequencePromise.on_messages(list(messages))
        self._promises = self.replies._buffer

    # --- admission ---

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
            self.run.visit_skipped(self, f"its condition does not hold: {condition.source}")

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
                name, policy.resources, preemptible=policy.preemptible, on_preempt=self._preempt
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
            self.node_run.node.name, policy.resources, preemptible=policy.preemptible, on_preempt=self._preempt
        )

    def _admitted(self, _: object) -> None:
        run = self.run
        if not self._started and not self.attempt and not run.may_start(self):
            return
        before = run.before_attempt(self)
        if before is None:
            self._call(None)
        else:
            self._do(before, self._call, self._not_admitted)

    def _not_admitted(self, error: BaseException) -> None:
        self.attempt += 1
        self._attempt_failed(error)

    # --- one attempt ---

    def _call(self, _: object) -> None:
        run, policy = self.run, self.policy
        self.attempt += 1
        if not self._started:
            self._started = True
            if run.progress:
                run.tell(NodeStarted, node=self.node_run.node.name, visit=self.number)
        self.new_nodes = None
        try:
            replies = self.replies = run.call(self)
        except Exception as error:
            self._attempt_failed(error)
            return
        if policy.timeout is not None:
            run.limit_time_of(self)
        self.follower = follower = Follower(replies, self)
        if not follower.waits_from_the_start():
            self.follow(follower)

    def follow(self, follower: Follower) -> None:
        """Passes on what the agent has replied since, and comes back for more.

        Args:
            follower: Of which attempt; nothing happens if that has been stopped.
        """
        if follower is not self.follower:
            return
        found = follower.read()
        forward = self.run.forward
        for promise in found:
            forward(self, promise)
        if follower.error is not None:
            self._attempt_failed(follower.error)
            return
        if not follower.has_ended:
            return
        self.follower = None
        self._promises = follower.read_so_far
        self.is_plain = not self.has_events
        unresolved = self.unresolved()
        if unresolved:
            self._do(_all_of(unresolved), self._attempt_succeeded)
        else:
            self._attempt_succeeded(None)

    def unresolved(self) -> list[MessagePromise]:
        """Which messages are still to be waited for, when all have begun."""
        if not self.is_plain and result_in(self._promises) is not None:
            return []  # the graph has waited for what counts
        return [one for one in self._promises if one._value is NO_VALUE and type(one) is not EventPromise]

    def fail_at_once(self, call: Run, error: Exception) -> bool:
        """Ends an attempt with what its agent has failed with, though of what that has replied some may still stream.

        Args:
            call: The call of the agent.
            error: The error.

        Returns:
            Whether it was the attempt at work, which has taken the error, so that nobody else has to.
        """
        if self.over or self.replies is None or self.replies._run is not call:
            return False
        self.run.enter(self._attempt_failed, error)
        return True

    def time_out(self) -> None:
        """Is told that the attempt has taken too long."""
        if self.deadline is None:
            return  # it was stopped by what came of another one that was late, too
        self.deadline = None
        name, seconds = self.node_run.node.name, self.policy.timeout
        self._attempt_failed(TimeoutError(f"{name} took longer than {seconds:g} s (attempt {self.attempt})"))

    def _attempt_succeeded(self, _: object) -> None:
        if self.deadline is not None:
            self._stop_timers()
        if self._limits or self._allocation is not None:
            self._give_back(self._take_out())
        try:
            outcome = self.run.outcome(self)
        except Exception as error:
            self._attempt_failed(error)
            return
        if outcome is not None and isinstance(outcome, Awaitable):
            self._do(outcome, self._decided)
        else:
            self._decided(outcome)

    def _decided(self, jump: "Jump | None") -> None:
        if self.new_nodes:
            try:
                self.run.check_new_nodes(self.new_nodes)
            except Exception as error:
                self._attempt_failed(error)
                return
        before = self.run.before_release(self, jump)
        if before is None:
            self._release(jump)
        else:
            self._do(before, lambda _: self._release(jump))

    def _release(self, jump: "Jump | None") -> None:
        self.over = True
        self.run.visit_finished(self, jump)

    def _attempt_failed(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            self.run.crash(error)
            return
        delay: float | None = None
        try:
            if self._is_worth_a_retry(error):
                delay = max(0.0, float(self.policy.backoff(self.attempt)))
        except Exception as other:
            other.__context__ = error
            error = other
        if delay is None:
            self._stop_call(partial(self._fail, error))
            return
        self._tell_retry(str(error), type(error).__name__, delay)
        self.run.attempt_failed(self, error)
        self._stop_call(partial(self._try_again_after, delay))

    def _is_worth_a_retry(self, error: Exception) -> bool:
        policy = self.policy
        return (
            self.attempt < policy.attempts
            and not isinstance(error, PromiseCancelledError)
            and bool(policy.retry_if(error))
        )

    def _tell_retry(self, error: str, error_type: str, delay: float) -> None:
        self.run.tell(
            NodeRetried,
            node=self.node_run.node.name,
            visit=self.number,
            attempt=self.attempt,
            error=error,
            error_type=error_type,
            delay=delay,
        )

    def _try_again_after(self, delay: float) -> None:
        self._pause = self.run.later(delay, self._begin_attempt)

    def _fail(self, error: Exception) -> None:
        before = self.run.before_failure(self, error)
        if before is None:
            self._failed(error)
        else:
            self._do(before, lambda _: self._failed(error), self._failed)

    def _failed(self, error: BaseException) -> None:
        self.over = True
        self.run.visit_failed(self, error)

    # --- stopping ---

    def abandon(self) -> None:
        """Stops whatever goes on, and counts for nothing any more."""
        self.over = True
        if self._line is not None:
            self._line.forget(self._place_given)
            self._line = None
        self._stop_call(None)

    def _preempt(self) -> None:
        self.run.soon(self._preempted)

    def _preempted(self) -> None:
        if self.over or self._allocation is None:
            return
        if self.replies is not None:  # else it was about to be called
            self._tell_retry("its resources are needed for a node of a higher priority", "Preempted", 0.0)
            self.attempt -= 1  # it was no failure
        self._stop_call(self._begin_attempt)

    def _stop_call(self, then: Callable[[], None] | None) -> None:
        """Cancels the call, with all that it has started, and gives back what is held when that has cleaned up.

        Args:
            then: How to go on after that, unless the visit has been abandoned; None if it is.
        """
        self._stop_timers()
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
        replies, self.replies = self.replies, None
        self.follower = None
        held = self._take_out()
        call = None
        if replies is not None:
            replies.cancel()
            call = replies._run
        if call is None or call._over:
            self._give_back(held)
            if then is not None:
                then()
        else:
            self.node_run.leaving = call
            self._when_over(call, partial(self._stopped, held, then), always=True)

    def _stopped(self, held: "_Held | None", then: Callable[[], None] | None) -> None:
        self.node_run.leaving = None
        self._give_back(held)
        if then is not None and not self.over:
            self.run.make_step(then)

    def _take_out(self) -> "_Held | None":
        """What is held now is held by the visit no more; whoever gets it has to give it back."""
        if not self._inside and self._allocation is None:
            return None
        held = (self._limits[: self._inside], self._allocation)
        self._inside, self._allocation = 0, None
        return held

    def _give_back(self, held: "_Held | None") -> None:
        if held is not None:
            limits, allocation = held
            if allocation is not None:
                allocation.release()
            for limit in limits:
                limit.leave()

    def _stop_timers(self) -> None:
        if self.deadline is not None:
            self.deadline.pop(self, None)
            self.deadline = None
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    # --- waiting ---

    def _do(
        self,
        work: Awaitable[Any],
        then: Callable[[Any], None],
        otherwise: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Awaits something in a task, and goes on with its result; an error is one of the attempt.

        Args:
            work: What to await.
            then: Gets the result.
            otherwise: Gets an error instead.
        """
        promise = self._work = self.run.start(work)
        if promise._waiters is None:
            promise._waiters = []
        self.run.when(park(promise._waiters), self._done, promise, then, otherwise or self._attempt_failed)

    def _done(
        self, promise: Promise[Any], then: Callable[[Any], None], otherwise: Callable[[BaseException], None]
    ) -> None:
        if promise is not self._work:
            return  # it was stopped, and whatever came of it
        self._work = None
        failure = promise._failure
        if failure is None:
            then(promise._value)
        else:
            failure.consume()
            otherwise(failure.error)

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


_Held: TypeAlias = tuple[tuple["ConcurrencyLimit", ...], "Allocation | None"]


async def _all_of(promises: list[MessagePromise]) -> None:
    for promise in promises:
        await promise
