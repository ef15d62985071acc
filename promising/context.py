"""The scope of a piece of work: nothing that was started in it outlives it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from promising.circular import tree_of, unwatch, watch
from promising.promise import CoroutinePromise, Promise
from promising.run import Owner, Run, current_owner, owner_at_work
from promising.unconsumed import UnconsumedErrors

__all__ = ["PromiseResolvedHandler", "PromisingContext", "detached"]

T = TypeVar("T")
ContextT = TypeVar("ContextT", bound="PromisingContext")

PromiseResolvedHandler: TypeAlias = Callable[[Promise[Any], Any], Awaitable[Any]]
"""`async def handler(promise, value)`."""

_SLOW_EXIT_SECONDS = 5.0
_logger = logging.getLogger("promising")


class PromisingContext(Owner):
    """Inside `async with PromisingContext()` promises start soon, and leaving the block waits for all of them.

    Leaving the block by an error, or cancelling the task that leaves it, cancels what runs and still waits for its
    clean-up. Errors that were raised to no consumer are logged once at the end; a `KeyboardInterrupt` or `SystemExit`
    among them is raised. Contexts nest. One context belongs to one event loop; it can be entered again when it has
    ended.

    Args:
        start_everything_soon_by_default: Whether a promise starts at the next switch of tasks, or at its first read.
        appenders_capture_errors_by_default: See `StreamAppender`.
        on_promise_resolved: A handler, or several: `async def handler(promise, value)` is started for each promise
            whose producer has brought a value, and has ended when the context has. It is not called for promises that
            were made with their value.

    Example:
        ```python
        async with PromisingContext() as context:
            pages = [context.start_soon(fetch(url)) for url in urls]
            print(await pages[0])
        # here all pages have been fetched
        ```
    """

    def __init__(
        self,
        *,
        start_everything_soon_by_default: bool = True,
        appenders_capture_errors_by_default: bool = False,
        on_promise_resolved: PromiseResolvedHandler | Iterable[PromiseResolvedHandler] = (),
    ) -> None:
        self.start_everything_soon_by_default = start_everything_soon_by_default
        self.appenders_capture_errors_by_default = appenders_capture_errors_by_default
        handlers = (on_promise_resolved,) if callable(on_promise_resolved) else on_promise_resolved
        self.promise_resolved_handlers: list[PromiseResolvedHandler] = list(handlers)
        self.observes_resolutions = bool(self.promise_resolved_handlers)
        self.unconsumed = UnconsumedErrors()
        self.loop: asyncio.AbstractEventLoop | None = None  # there while the context is open
        self.host: asyncio.Task[Any] | None = None  # the task that has entered it
        self.paused: set[Run] = set()  # runs that wait until somebody reads more of their stream
        self.exit_waiter: asyncio.Future[None] | None = None
        self._exit_callbacks: list[Callable[[], Awaitable[Any]]] = []
        self._outer: Owner | None = None
        self._children = None
        self._over = True
        self._scope = None  # itself while it is open; not longer, since a ring of references is left to the collector

    # --- what a user uses ---

    @classmethod
    def current(cls: type[ContextT]) -> "ContextT | None":
        """The innermost open context of this class here, or None outside of any."""
        owner = owner_at_work()
        scope = owner._scope if owner is not None else None
        while scope is not None and not isinstance(scope, cls):
            owner = scope._successor()
            scope = owner._scope if owner is not None else None
        return scope

    @classmethod
    def outermost(cls) -> "PromisingContext | None":
        """The outermost open context of the event loop at work here, of whatever class, or None outside of any."""
        loop = asyncio.get_running_loop()
        found: PromisingContext | None = None
        owner = owner_at_work()
        while owner is not None and owner._scope is not None:
            if owner._scope.loop is loop:  # a thread with a loop of its own inherits the contexts of its starter
                found = owner._scope
            owner = owner._scope._outer
        return found

    def start_soon(self, work: Coroutine[Any, Any, T] | Promise[T]) -> Promise[T]:
        """Starts work that the context knows of: it waits for its end, cancels it with the rest and reports its errors.

        Args:
            work: A coroutine, or a promise that has not started yet (one that has is left as it is).

        Returns:
            The promise of the result; `cancel()` stops the work.

        Raises:
            RuntimeError: The context is not open, or this is another thread than that of its event loop.
        """
        if self.loop is None:
            if asyncio.iscoroutine(work):
                work.close()
            raise RuntimeError(f"{self!r} is not open, so that nothing can be started in it; use `async with`")
        if not isinstance(work, Promise):
            work = CoroutinePromise(work, start_soon=False)
        if work._context is not None:
            try:
                work._start_now(self)
            except BaseException:
                if isinstance(work, CoroutinePromise):
                    work._close()
                raise
        return work

    def call_on_exit(self, callback: Callable[[], Awaitable[Any]]) -> None:
        """Registers clean-up: it runs when all that was started in the context has ended, the latest registered first.

        Args:
            callback: An async function. What it raises is logged, so that the others still run.

        Raises:
            RuntimeError: The context is not open.
        """
        if self.loop is None:
            raise RuntimeError(f"{self!r} is not open, so that it has no exit to wait for; use `async with`")
        self._exit_callbacks.append(callback)

    async def __aenter__(self: ContextT) -> ContextT:
        if self.loop is not None:
            raise RuntimeError(f"{self!r} is open already; make another one to nest")
        self.loop = asyncio.get_running_loop()
        self.host = asyncio.current_task()
        self._outer = owner_at_work()
        self._over = False
        self._scope = self
        current_owner.set(self)
        watch(self, self.loop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if current_owner.get() is self:  # a fixture may leave the context elsewhere than it entered it
            current_owner.set(self._outer)
        if error is not None:
            self._cancel_all()
        assert self.loop is not None
        slow = self.loop.call_later(_SLOW_EXIT_SECONDS, self._log_what_runs)
        interruption: BaseException | None = None
        try:
            while self._children or self._exit_callbacks:
                interruption = await self._wait_for_runs(self.loop) or interruption
                if self._exit_callbacks:
                    interruption = await self._call_back(self._exit_callbacks.pop()) or interruption
        finally:
            slow.cancel()
            unwatch(self)
            self._over = True
            self._scope = None
            self.exit_waiter = self.loop = self.host = None
        fatal = self.unconsumed.report()
        if fatal is not None:
            raise fatal
        if interruption is not None:
            raise interruption

    async def _wait_for_runs(self, loop: asyncio.AbstractEventLoop) -> BaseException | None:
        """Waits until all that was started has ended, cleaning up again whenever the wait itself is cancelled.

        Returns:
            The last cancellation of the wait, to be raised when all is clean.
        """
        interruption: asyncio.CancelledError | None = None
        while self._children:
            self._cancel_if_all_are_paused()
            self.exit_waiter = loop.create_future()
            try:
                await self.exit_waiter
            except asyncio.CancelledError as cancelled:
                interruption = cancelled
                self._cancel_all()
        self.exit_waiter = None
        return interruption

    async def _call_back(self, callback: Callable[[], Awaitable[Any]]) -> BaseException | None:
        """Runs registered clean-up.

        Returns:
            What interrupted it, to be raised when all is clean.
        """
        try:
            await callback()
        except Exception:
            _logger.exception("a clean-up at the exit of %r failed", self)
        except BaseException as interruption:
            return interruption
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self.loop is None else 'open'}, {len(self._children or ())} runs>"

    # --- what its runs use ---

    def look_whether_all_ended(self) -> None:
        """Is called by each run that ends, or is paused, while the context waits for its end."""
        waiter = self.exit_waiter
        if waiter is not None and not waiter.done() and (not self._children or self.paused):
            waiter.set_result(None)

    def note_paused(self, run: Run) -> None:
        """Notes a run that goes on only when somebody reads more."""
        self.paused.add(run)
        self.look_whether_all_ended()

    def note_resolved(self, promise: Promise[Any], value: Any) -> None:
        """Is called for each promise whose producer has brought a value, if `observes_resolutions` is true."""
        for handler in self.promise_resolved_handlers:
            self.start_soon(_HandlerPromise(handler(promise, value), start_soon=False))

    def _successor(self) -> Owner | None:
        return self._outer

    def _cancel_all(self) -> None:
        for run in list(self._children or ()):
            run._cancel()

    def _cancel_if_all_are_paused(self) -> None:
        pending = list(self._children or ()) if self.paused else []
        if not pending:
            return
        while pending:
            run = pending.pop()
            if run._task is not None and run not in self.paused:
                return
            pending.extend(run._children or ())
        for run in list(self.paused):  # directly, since what a clean-up has started is left alone otherwise
            run._cancel()
            if run in self.paused and run._task is not None:
                run._task.cancel()

    def _log_what_runs(self) -> None:
        _logger.warning("%r has been waiting for its end for %g s. %s", self, _SLOW_EXIT_SECONDS, tree_of([self]))


class _HandlerPromise(CoroutinePromise[T]):
    """The promise of the end of a handler, for which no handler is called in its turn."""

    __slots__ = ()

    def _note_resolved(self, value: T) -> None:
        pass


@contextmanager
def detached() -> Iterator[None]:
    """What is started inside belongs to the context and not to the producer at work.

    So it goes on when that producer is cancelled. Outside a context nothing changes.

    Example:
        ```python
        with detached():
            audit = logger_agent.inquire(message)  # still runs when the agent that calls it is cancelled
        ```
    """
    owner = owner_at_work()
    before = current_owner.get()
    current_owner.set(owner._scope if owner is not None else None)
    try:
        yield
    finally:
        current_owner.set(before)
