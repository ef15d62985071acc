"""How a run makes its steps, and says what has happened in them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from miniagents import persist
from miniagents.ext.graph.deadlines import Deadlines
from miniagents.ext.graph.events import EventPromise, GraphEvent
from miniagents.interaction import InteractionContext
from miniagents.messages import MessagePromise
from promising.errors import as_seen_by_consumers
from promising.promise import CoroutinePromise

if TYPE_CHECKING:
    from miniagents.ext.graph.follower import Follower
    from miniagents.ext.graph.graph import Graph
    from miniagents.ext.graph.visit import Visit

__all__ = ["Steps"]

_NOT_YET: "dict[Visit, None]" = {}  # stands for a limit of time that begins at the end of this step


class Steps:
    """What makes the steps of a run. Each is a plain function that is called when something has happened.

    Args:
        graph: The graph.
        ctx: The call of the graph as an agent.
        progress: Whether events are replied.

    Attributes:
        context: The context variables in which all steps are made.
    """

    def __init__(self, graph: "Graph", ctx: InteractionContext, progress: bool) -> None:
        self.graph = graph
        self.ctx = ctx
        self.progress = progress
        self.context = copy_context()
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._began_at = time.time()
        self._woken: list[Follower] = []
        self._called: list[Visit] = []  # in this step, with a limit of time
        self._deadlines: Deadlines[Visit] = Deadlines(self._loop, self.context, self._late)
        self._end: asyncio.Future[None] = self._loop.create_future()

    def _drain(self) -> None:
        """Does what follows from a step."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether it is known how the run ends, so that no step is made any more."""
        return self._end.done()

    def now(self) -> float:
        """Seconds since the start of the run."""
        return self._loop.time() - self._began

    def loop_time(self) -> float:
        """The time by the clock of the event loop, in seconds since whenever."""
        return self._loop.time()

    def time(self) -> float:
        """The time in seconds since 1970, by the clock of the event loop."""
        return self._began_at + self.now()

    def crash(self, error: BaseException) -> None:
        """Ends the whole run with an error."""
        if not self._end.done():
            self._end.set_exception(as_seen_by_consumers(error, self.ctx))

    def tell(self, event_class: type[GraphEvent], **fields: Any) -> None:
        """Replies an event, if progress is wanted."""
        if self.progress:
            fields["graph"] = self.graph.alias
            fields["time"] = self._loop.time() - self._began
            self.reply(EventPromise(event_class, fields))

    def reply(self, promise: MessagePromise) -> None:
        """Adds to the reply of the graph."""
        buffer = self.ctx._replies
        if buffer.end is not None or persist.contexts_with_handlers:
            self.ctx.reply(promise)
            return
        buffer.append(promise)  # the same, as fast as it can be
        if buffer.waiters is not None:
            buffer.wake_readers()

    def wake(self, follower: "Follower") -> None:
        """Something has come for a visit: it goes on at the next turn of the event loop, together with others."""
        self._woken.append(follower)
        if len(self._woken) == 1:
            self.soon(self._follow_woken)

    def limit_time_of(self, visit: "Visit") -> None:
        """Lets the limit of time of an attempt begin, at the end of the step in which its agent was called."""
        self._called.append(visit)
        visit.deadline = _NOT_YET

    def _begin_limits(self) -> None:
        called, self._called = self._called, []
        by_length: dict[float, list[Visit]] = {}
        for visit in called:
            if visit.deadline is not None:
                assert visit.policy.timeout is not None
                by_length.setdefault(visit.policy.timeout, []).append(visit)
        for seconds, visits in by_length.items():
            begun = self._deadlines.begin(visits, seconds)
            for visit in visits:
                visit.deadline = begun

    def _late(self, visits: "list[Visit]") -> None:
        def time_out() -> None:
            for visit in visits:
                visit.time_out()

        self.make_step(time_out)

    def _follow_woken(self) -> None:
        woken, self._woken = self._woken, []
        for follower in woken:
            follower.visit.follow(follower)

    def enter(self, step: Callable[..., None], *args: Any) -> None:
        """Makes a step from outside: in the context of the run, and with all that follows from it."""
        self.context.run(self.make_step, step, *args)

    def soon(self, step: Callable[..., None], *args: Any) -> None:
        """Makes a step at the next turn of the event loop."""
        self._loop.call_soon(self.make_step, step, *args, context=self.context)

    def later(self, delay: float, step: Callable[..., None]) -> asyncio.TimerHandle:
        """Makes a step after some seconds."""
        return self._loop.call_later(delay, self.make_step, step, context=self.context)

    def when(self, waiter: "asyncio.Future[None]", step: Callable[..., None], *args: Any) -> None:
        """Makes a step when something has happened."""
        waiter.add_done_callback(lambda _: self.make_step(step, *args), context=self.context)

    def start(self, work: Awaitable[Any]) -> CoroutinePromise[Any]:
        """Starts work that belongs to the run."""
        promise: CoroutinePromise[Any] = CoroutinePromise(work)
        if promise._context is not None:
            promise._start_now()
        return promise

    def make_step(self, step: Callable[..., None], *args: Any) -> None:
        """Makes a step inside of the context of the run, unless that is over."""
        if self._end.done():
            return
        try:
            step(*args)
            self._drain()
            if self._called:
                self._begin_limits()
        except BaseException as error:  # else the run would wait for ever for what was lost
            self.crash(error)
