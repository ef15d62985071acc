"""One visit of a node: admission, the call of its agent, further attempts, and what came of it.

All of it happens in callbacks that run one after the other in the context of the run, so that there is nothing to lock
and no task beside that of the agent. What has to be awaited (a condition, a place, a message that still streams) gets
a task for as long as that takes.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from miniagents.ext.graph.events import EventPromise, NodeRetried, NodeStarted
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise
from promising.errors import PromiseCancelledError
from promising.promise import CoroutinePromise
from promising.sentinels import NO_VALUE
from promising.sequence import AT_END, NOTHING_YET, FlatReader
from promising.waiters import park

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from miniagents.ext.graph.policy import ConcurrencyLimit, NodePolicy
    from miniagents.ext.graph.resources import Allocation
    from miniagents.ext.graph.run import GraphRun, Jump, NodeRun

__all__ = ["Visit"]


class Visit:
    """One visit of a node.

    Args:
        run: The run of the graph.
        node_run: The node in this run.

    Attributes:
        number: Which visit of the node in this run, from 1.
        attempt: The number of the attempt at work, or of the last one, from 1.
        replies: What the agent replies in that attempt.
        over: Whether nothing of it counts any more.
        new_nodes: What is to be added to the graph when the visit has ended well.
        value: Whatever the agent wants the run to know, in the vocabularies that are built on graphs.
    """

    __slots__ = (
        "_allocation", "_entered", "_line", "_promises", "_timer", "_work", "attempt", "began", "new_nodes", "node_run",
        "number", "over", "replies", "run", "value",
    )  # fmt: skip

    def __init__(self, run: "GraphRun", node_run: "NodeRun") -> None:
        self.run = run
        self.node_run = node_run
        self.number = node_run.visits
        self.attempt = 0
        self.began = run.now()
        self.replies: MessageSequencePromise | None = None
        self.over = False
        self.new_nodes: list[Any] | None = None
        self.value: Any = None
        self._promises: list[MessagePromise] = []
        self._entered: list[ConcurrencyLimit] | None = None
        self._line: ConcurrencyLimit | None = None  # where it waits for a place
        self._allocation: Allocation | None = None
        self._timer: TimerHandle | None = None
        self._work: CoroutinePromise[None] | None = None

    @property
    def policy(self) -> "NodePolicy":
        """How the node runs."""
        return self.node_run.node.policy

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the agent has replied in its last attempt, when the visit has ended well."""
        return tuple(promise._value for promise in self._promises if type(promise) is not EventPromise)

    # --- admission ---

    def begin(self) -> None:
        """Begins: the agent is called as soon as condition, places and resources allow it."""
        condition = self.node_run.node.condition
        if condition is None:
            self._admit()
        else:
            self._do(condition.holds(self.run.cache, self.run.task), self._condition_known)

    def _condition_known(self, holds: bool) -> None:
        if holds:
            self._admit()
        else:
            self.run.visit_skipped(self, f"its condition does not hold: {self.node_run.node.condition.source}")

    def _admit(self) -> None:
        policy = self.policy
        limits = (*self.run.limits, *policy.concurrency) if policy.concurrency else self.run.limits
        if limits and not self._enter(limits):
            return
        if policy.resources is not None and self._allocation is None:
            pool, name = self.run.pool, self.node_run.node.name
            self._allocation = pool.try_acquire(
                name, policy.resources, preemptible=policy.preemptible, on_preempt=self._preempt
            )
            if self._allocation is None:
                waiting = pool.acquire(name, policy.resources, preemptible=policy.preemptible, on_preempt=self._preempt)
                self._do(waiting, self._allocated)
                return
        self._admitted()

    def _enter(self, limits: "tuple[ConcurrencyLimit, ...]") -> bool:
        """Takes a place in each of the limits, one after the other; False if it has to wait for one."""
        if self._entered is None:
            self._entered = []
        for limit in limits[len(self._entered) :]:
            if not limit.enter(self._place_given):
                self._line = limit
                return False
            self._entered.append(limit)
        return True

    def _place_given(self) -> None:
        assert self._line is not None
        assert self._entered is not None
        self._entered.append(self._line)
        self._line = None
        self.run.soon(self._go_on_entering)

    def _go_on_entering(self) -> None:
        if not self.over:
            self._admit()

    def _allocated(self, allocation: "Allocation") -> None:
        self._allocation = allocation
        self._admitted()

    def _admitted(self) -> None:
        before = self.run.before_attempt(self)
        if before is None:
            self._call()
        else:
            self._do(before, lambda _: self._call())

    def _preempt(self) -> None:
        self.run.soon(self._preempted)

    def _preempted(self) -> None:
        if not self.over and self._allocation is not None:
            self.attempt -= 1  # it was no failure
            self._stop_call(self._admit)

    def restore(self, messages: Iterable[Message]) -> None:
        """Says what the agent has replied in another process."""
        self.over = True
        self.replies = MessageSequencePromise.on_messages(list(messages))
        self._promises = list(self.replies._buffer)

    # --- one attempt ---

    def _call(self) -> None:
        run = self.run
        self.attempt += 1
        if self.attempt == 1 and run.progress:
            run.tell(NodeStarted, node=self.node_run.node.name, visit=self.number)
        self._promises = []
        try:
            self.replies = run.call(self)
        except Exception as error:
            self._attempt_failed(error)
            return
        if self.policy.timeout is not None:
            self._timer = run.later(self.policy.timeout, self._timed_out)
        self._follow(FlatReader(self.replies))

    def _follow(self, reader: FlatReader[MessagePromise]) -> None:
        """Passes on what the agent has replied since, and comes back for more."""
        if self.over or self.replies is None or reader._sequence is None:
            return
        promises, forward = self._promises, self.run.forward
        try:
            while (promise := reader.next_nowait()) is not AT_END:
                if promise is NOTHING_YET:
                    waiter = park(reader.parking_lot())
                    self.run.when(waiter, self._follow_if_current, reader, self.replies)
                    return
                promises.append(promise)
                forward(self, promise)
        except BaseException as error:
            self._attempt_failed(error)
            return
        unresolved = [one for one in promises if one._value is NO_VALUE and type(one) is not EventPromise]
        if unresolved:
            self._do(_all_of(unresolved), self._attempt_succeeded)
        else:
            self._attempt_succeeded(None)

    def _follow_if_current(self, reader: FlatReader[MessagePromise], replies: MessageSequencePromise) -> None:
        if replies is self.replies:
            self._follow(reader)

    def _timed_out(self) -> None:
        self._timer = None
        name, seconds = self.node_run.node.name, self.policy.timeout
        self._attempt_failed(TimeoutError(f"{name} took longer than {seconds:g} s (attempt {self.attempt})"))

    def _attempt_succeeded(self, _: object) -> None:
        self._stop_timer()
        try:
            outcome = self.run.outcome(self)
        except Exception as error:
            self._attempt_failed(error)
            return
        if isinstance(outcome, Awaitable):
            self._do(outcome, self._decided)
        else:
            self._decided(outcome)

    def _decided(self, jump: "Jump | None") -> None:
        before = self.run.before_release(self, jump)
        if before is None:
            self._release(jump)
        else:
            self._do(before, lambda _: self._release(jump))

    def _release(self, jump: "Jump | None") -> None:
        self.over = True
        self._give_back()
        self.run.visit_finished(self, jump)

    def _attempt_failed(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            self.run.crash(error)
            return
        policy = self.policy
        cancelled = isinstance(error, PromiseCancelledError)
        if self.attempt < policy.attempts and not cancelled and policy.retry_if(error):
            delay = policy.backoff(self.attempt)
            self.run.tell(
                NodeRetried,
                node=self.node_run.node.name,
                visit=self.number,
                attempt=self.attempt,
                error=str(error),
                error_type=type(error).__name__,
                delay=delay,
            )
            self.run.attempt_failed(self, error)
            self._stop_call(lambda: self._try_again_after(delay))
            return
        before = self.run.before_failure(self, error)
        self._stop_call(lambda: self._fail(error, before))

    def _fail(self, error: Exception, before: Awaitable[object] | None) -> None:
        if before is None:
            self._failed(error)
        else:
            self._do(before, lambda _: self._failed(error), self._failed)

    def _failed(self, error: BaseException) -> None:
        self.over = True
        self.run.visit_failed(self, error)

    def _try_again_after(self, delay: float) -> None:
        self._timer = self.run.later(delay, self._admit)

    # --- stopping ---

    def abandon(self) -> None:
        """Stops whatever goes on, and counts for nothing any more."""
        self.over = True
        if self._line is not None:
            self._line.forget(self._place_given)
            self._line = None
        self._stop_call(None)

    def _stop_call(self, then: Callable[[], None] | None) -> None:
        """Cancels the call, with all that it has started, and gives back what was held when that has cleaned up."""
        self._stop_timer()
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
        replies, self.replies = self.replies, None
        call = None
        if replies is not None:
            replies.cancel()
            call = replies._run
        if call is None or call._over:
            self._give_back()
            if then is not None:
                then()
        else:
            self._do(call._wait_until_over(), lambda _: self._stopped(then), always=True)

    def _stopped(self, then: Callable[[], None] | None) -> None:
        self._give_back()
        if then is not None and not self.over:
            then()

    def _give_back(self) -> None:
        if self._allocation is not None:
            self._allocation.release()
            self._allocation = None
        if self._entered:
            for limit in self._entered:
                limit.leave()
        self._entered = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- waiting ---

    def _do(
        self,
        work: Awaitable[Any],
        then: Callable[[Any], None],
        otherwise: Callable[[BaseException], None] | None = None,
        *,
        always: bool = False,
    ) -> None:
        """Awaits something in a task, and goes on with its result; an error is one of the attempt.

        Args:
            work: What to await.
            then: Gets the result.
            otherwise: Gets an error.
            always: Whether to go on also when the visit is over by then.
        """

        async def await_it() -> None:
            try:
                result = await work
            except Exception as error:
                step, outcome = otherwise or self._attempt_failed, error
            else:
                step, outcome = then, result
            if self._work is promise:
                self._work = None  # so that what follows does not cancel this very task
            if always or not self.over:
                self.run.enter(step, outcome)

        promise = self.run.start(await_it())
        if not always:
            self._work = promise


async def _all_of(promises: list[MessagePromise]) -> None:
    for promise in promises:
        await promise
