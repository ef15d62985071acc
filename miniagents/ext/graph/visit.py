"""One visit of a node: the call of its agent when it has been admitted, further attempts, and what came of it.

All of it happens in callbacks that run one after the other in the context of the run, so that there is nothing to lock
and no task beside that of the agent. What has to be awaited (a condition, resources, a message that still streams) gets
a task for as long as that takes.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from miniagents.agents import MiniAgent
from miniagents.ext.graph.admission import Admission, Held
from miniagents.ext.graph.events import EventPromise, NodeRetried, NodeStarted, messages_in, result_in
from miniagents.ext.graph.follower import Follower
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise
from promising.errors import PromiseCancelledError
from promising.run import Run
from promising.sentinels import NO_VALUE
from promising.unconsumed import Failure

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from miniagents.ext.graph.graph import Node
    from miniagents.ext.graph.run import GraphRun, Jump, NodeRun

__all__ = ["Visit"]


class Visit(Admission):
    """One visit of a node.

    Args:
        run: The run of the graph.
        node_run: The node in this run.

    Attributes:
        number: Which visit of the node in this run, from 1.
        attempt: The number of the attempt at work, or of the last one, from 1.
        began: When it began, in seconds since the start of the run.
        replies: What the agent replies in that attempt.
        follower: Who reads that, as long as more of it is to come.
        deadline: All whose limit of time has begun with that of the attempt; there as long as it runs.
        is_plain: Whether all that was replied is what others are sent.
        new_nodes: What is to be added to the graph when the visit has ended well.
        value: Whatever the agent wants the run to know, in the vocabularies that are built on graphs.
    """

    __slots__ = (
        "_pause", "_promises", "_started", "attempt", "began", "deadline", "follower", "is_plain", "new_nodes",
        "number", "replies", "value",
    )  # fmt: skip

    def __init__(self, run: "GraphRun", node_run: "NodeRun") -> None:
        super().__init__(run, node_run)
        self.number = node_run.visits
        self.attempt = 0
        self.began = run.now()
        self.replies: MessageSequencePromise | None = None
        self.follower: Follower | None = None
        self.deadline: dict[Visit, None] | None = None
        self.is_plain = True
        self.new_nodes: list[Node] | None = None
        self.value: Any = None
        self._promises: Sequence[MessagePromise] = ()  # what was replied, when all of it has begun
        self._started = False
        self._pause: TimerHandle | None = None  # before the next attempt

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

    @property
    def pause_left(self) -> float:
        """For how many seconds it still waits before its next attempt, after one that has failed."""
        return 0.0 if self._pause is None else max(0.0, self._pause.when() - self.run.loop_time())

    def restore(self, messages: Iterable[Message]) -> None:
        """Says what the agent has replied in another process."""
        self.over = True
        self.replies = MessageSequencePromise.on_messages(list(messages))
        self._promises = self.replies._buffer

    # --- one attempt ---

    def _admitted(self, _: object) -> None:
        run = self.run
        if not self._started and not self.attempt and not run.may_start(self):
            return
        before = run.before_attempt(self)
        if before is None:
            self._call(None)
        else:
            self._do(before, self._call, self._not_admitted)

    def _refused(self, reason: str) -> None:
        self.run.visit_skipped(self, reason)

    def _not_admitted(self, error: BaseException) -> None:
        self.attempt += 1
        self._attempt_failed(error)

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

    # --- what fails ---

    def _attempt_failed(self, error: BaseException) -> None:
        if self.run.is_over:
            return  # it is what has ended the run
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
        self._leave_line()
        if self.replies is not None:
            _pass_over_errors(self.replies)
        self._stop_call(None)

    def _preempt(self) -> None:
        self.run.soon(self._preempted)

    def _preempted(self) -> None:
        if self._allocation is None:
            return  # it has been given back in the meantime
        self._preemptions += 1
        if self.replies is not None:  # else it was about to be called
            self._tell_retry("its resources are needed for a node of a higher priority", "Preempted", 0.0)
            self.attempt -= 1  # it was no failure
            self.run.attempt_stopped(self)
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

    def _stopped(self, held: "Held | None", then: Callable[[], None] | None) -> None:
        self.node_run.leaving = None
        self._give_back(held)
        if then is not None and not self.over:
            self.run.make_step(then)

    def _stop_timers(self) -> None:
        if self.deadline is not None:
            self.deadline.pop(self, None)
            self.deadline = None
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None


async def _all_of(promises: list[MessagePromise]) -> None:
    for promise in promises:
        await promise


def _pass_over_errors(replies: MessageSequencePromise) -> None:
    """Counts errors as consumed that came in the very turn in which somebody has ended the wait for them."""
    failures = [promise._failure for promise in replies._buffer if isinstance(promise, MessagePromise)]
    for failure in (*failures, replies._failure, replies._buffer.end):
        if isinstance(failure, Failure):
            failure.consume()
