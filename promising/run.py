"""A run: one producer at work, the task it works in, and all the runs that it started.

A promise is a value that may be there; a run is the work that brings it. They are apart because most promises need no
work (they were made with their value), and because the work often outlives the value: an agent that only forwards is
done at once, while what it started goes on. A run is over when its task and all the runs that it started are over;
until then it can be cancelled as a whole. When it is over the references between it, its task and its promise are
dropped, so that nothing is left for the garbage collector.
"""

import asyncio
from asyncio import get_running_loop
from contextvars import Context, ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from promising.circular import unwatch, watch
from promising.errors import as_seen_by_consumers, explicitly_cancelled, forget_consumer
from promising.waiters import park, wake

if TYPE_CHECKING:
    from promising.appender import StreamAppender
    from promising.context import PromisingContext
    from promising.promise import Promise

__all__ = ["Owner", "Run", "RunTask", "current_owner", "owner_at_work"]

current_owner: "ContextVar[Owner | None]" = ContextVar("promising.current_owner", default=None)
"""Whoever starts something now: the run at work, or the context whose body is at work, or nobody."""

_next_number = count().__next__


class Owner:
    """What can start runs and has to wait for them: a run, or a context."""

    __slots__ = ("__weakref__", "_children", "_over", "_scope")

    _children: "dict[Run, None] | None"  # made with the first child; a dict because it keeps the order
    _over: bool  # nothing that is started now can belong to this owner any more
    _scope: "PromisingContext | None"

    def _successor(self) -> "Owner | None":
        """Who takes over what would belong to this owner, were it not over."""
        raise NotImplementedError


def owner_at_work() -> Owner | None:
    """The owner of what is started now, or the nearest one that is not over yet."""
    owner = current_owner.get()
    while owner is not None and owner._over:
        owner = owner._successor()
    return owner


class RunTask(asyncio.Task[None]):
    """The task of a run, which tells the run when it was cancelled before its first step.

    In that case the event loop never enters the coroutine, so that no code in there could tell anybody.
    """

    __slots__ = ("run",)

    run: "Run"

    def cancel(self, msg: Any | None = None) -> bool:
        """See `asyncio.Task.cancel`."""
        requested = super().cancel(msg)
        if requested and self._awaits_first_step():
            self.run._cancelled_before_start()
        return requested

    def _awaits_first_step(self) -> bool:
        coroutine: Any = self.get_coro()
        return coroutine.cr_frame is not None and not coroutine.cr_suspended and not coroutine.cr_running


class Run(Owner):
    """One producer at work for a promise.

    Args:
        promise: What the run has to settle. `promise._produce()` is the work.
    """

    __slots__ = ("_appenders", "_cancelled", "_end_waiters", "_number", "_parent", "_promise", "_task")

    _appenders: "WeakSet[StreamAppender[Any]] | None"  # the streams that this run has to close if it fails
    _cancelled: bool  # it has been told to end, and is left to clean up
    _end_waiters: "list[Any] | None"  # those who wait until the run is over, with all that it started
    _number: int  # runs are numbered in the order in which they start

    def __init__(self, promise: "Promise[Any]") -> None:
        self._promise: Promise[Any] | None = promise
        self._task: RunTask | None = None
        self._parent: Owner | None = None
        self._children = None
        self._appenders = None
        self._end_waiters = None
        self._cancelled = self._over = False

    def __repr__(self) -> str:
        task = self._task
        return "a producer that has ended" if task is None else task.get_name()

    def _start(self, owner: Owner | None, name: str, context: Context | None = None) -> None:
        """Makes the task, which takes its first step at the next switch of tasks.

        Args:
            owner: Who waits for the run and cancels it along with its own.
            name: The name of the task, for people.
            context: The context variables to work with; None for those of the caller.

        Raises:
            RuntimeError: There is no running event loop here, or it is not the one of the owner.
        """
        try:
            loop = get_running_loop()
        except RuntimeError:
            raise RuntimeError(_NO_LOOP.format(name)) from None
        self._number = _next_number()
        if owner is None:
            self._scope = None
            watch(self, loop)
        else:
            scope = self._scope = owner._scope
            if scope is not None and scope.loop is not loop:
                raise RuntimeError(_OTHER_LOOP.format(name))
            self._parent = owner
            if owner._children is None:
                owner._children = {self: None}
            else:
                owner._children[self] = None
        self._task = task = RunTask(self._main(), loop=loop, name=name, context=context)
        task.run = self

    async def _main(self) -> None:
        """The coroutine of the task. Nothing that the producer raises leaves it: it goes to the consumers."""
        current_owner.set(self)
        try:
            assert self._promise is not None
            await self._promise._produce()
        except BaseException as error:  # whatever is not caught here would end the event loop, or nobody's wait
            self._failed(error)
        finally:
            self._task_over()

    def _failed(self, error: BaseException) -> None:
        seen = as_seen_by_consumers(error, self)
        self._close_appenders(seen)
        forget_consumer(error, self._number)
        promise = self._promise
        settled_now = promise is not None and promise._fail(seen, self._scope)
        if (
            not settled_now
            and self._scope is not None
            and not isinstance(error, (asyncio.CancelledError, GeneratorExit))
        ):
            # The promise was cancelled before, so an error of the clean-up has no consumer that it could go to.
            self._scope.unconsumed.add(seen, repr(self))

    def _close_appenders(self, error: BaseException) -> None:
        """Ends the streams that this run has opened and not closed, so that their readers do not wait for ever."""
        for appender in list(self._appenders or ()):
            appender.close(error)

    def _cancelled_before_start(self) -> None:
        if self._task is not None:
            if self._promise is not None:
                self._promise._settle_as_cancelled(explicitly_cancelled(self))
            self._task_over()

    def _task_over(self) -> None:
        """Ends the run if nothing that it started is left, and with it the runs above that waited for just this."""
        self._task = None
        run = self
        while run._task is None and not run._children:
            run._over = True
            if run._end_waiters is not None:
                wake(run._end_waiters)
            promise = run._promise
            if promise is not None:
                promise._run = run._promise = None
            owner = run._parent
            if owner is None:
                unwatch(run)
                break
            assert owner._children is not None
            del owner._children[run]
            if not isinstance(owner, Run):
                break
            run = owner
        scope = self._scope
        if scope is not None and scope.exit_waiter is not None:
            scope.look_whether_all_ended()

    async def _wait_until_over(self) -> None:
        """Waits until nothing that this run has started goes on."""
        while not self._over:
            if self._end_waiters is None:
                self._end_waiters = []
            await park(self._end_waiters)

    def _cancel(self) -> bool:
        """Cancels this run and all that it started, whatever of them still goes on.

        What has been cancelled before is left to clean up, and so is what it has started for that.

        Returns:
            Whether anything was stopped.
        """
        stopped = False
        pending: list[Run] = [self]
        while pending:
            run = pending.pop()
            if run._cancelled:
                continue
            run._cancelled = True
            if run._children:
                pending.extend(run._children)
            stopped |= run._stop()
        return stopped

    def _stop(self) -> bool:
        """Settles the promise, so that its consumers go on at once, and cancels the task."""
        task = self._task
        if task is None:
            return False
        cancelled = explicitly_cancelled(self)
        if self._promise is not None:
            self._promise._settle_as_cancelled(cancelled)
        self._close_appenders(cancelled)
        task.cancel()
        return True

    def _successor(self) -> Owner | None:
        return self._parent


_NO_LOOP = (
    "{} cannot be started here: this thread has no running event loop. Promises belong to the loop of their context; "
    "from another thread, hand the work over with `loop.call_soon_threadsafe(...)` or "
    "`asyncio.run_coroutine_threadsafe(...)`."
)
_OTHER_LOOP = (
    "{} cannot be started here: its context belongs to another event loop. Hand the work over with "
    "`loop.call_soon_threadsafe(...)` of that loop, or open a context on this one."
)
