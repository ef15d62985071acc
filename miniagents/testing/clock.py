"""An event loop whose clock jumps: tests of time that take no time, and say so exactly.

When nothing is ready to run, the clock of the loop jumps to the next timer. So `await asyncio.sleep(3600)` returns at
once, and an hour has passed on the loop's clock. Two things run in real time and are waited for: work in threads
(`asyncio.to_thread`), for which the clock stands still, and open sockets, which get a short moment of real time before
each jump.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

__all__ = ["DeadlockError", "Timeline", "VirtualClockEventLoop", "run_with_virtual_clock"]

T = TypeVar("T")

_SECONDS_FOR_SOCKETS = 0.02
_ROUNDS_OF_BACKGROUND_TIMERS = 3


class DeadlockError(RuntimeError):
    """Nothing will ever happen in the loop again: no callback is ready, no timer is set, no thread or socket is busy.

    On a real clock the program would hang here. The message lists the tasks and what each of them waits for.
    """


class VirtualClockEventLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop with a virtual clock, which begins at 0.

    Example:
        ```python
        with asyncio.Runner(loop_factory=VirtualClockEventLoop) as runner:
            runner.run(main())
        ```
    """

    def __init__(self) -> None:
        self._virtual_now = 0.0
        self._jobs = 0
        self._background_rounds = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """The time on the virtual clock, in seconds since the loop was made."""
        return self._virtual_now

    def run_in_executor(  # type: ignore[override]  # asyncio's own signature needs a TypeVarTuple
        self, executor: Executor | None, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        """See asyncio. The clock stands still until the work is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(self._job_done)
        return future

    async def shutdown_default_executor(self) -> None:
        """See asyncio. It waits for a thread."""
        self._jobs += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._jobs -= 1

    def _job_done(self, _: Any) -> None:
        self._jobs -= 1

    def _before_idling(self, seconds: float | None) -> float | None:
        """Is asked before the loop waits for events.

        Args:
            seconds: How long it would wait on a real clock; None for ever.

        Returns:
            How long to wait in real time.

        Raises:
            DeadlockError: It would wait for ever, in vain.
        """
        if seconds == 0:
            self._background_rounds = 0
            return 0
        if self._jobs:
            return None
        registered = self._selector.get_map()  # type: ignore[attr-defined]
        sockets = len(registered) > 1  # one of them is the loop's own
        if not self._only_background_timers():
            return _SECONDS_FOR_SOCKETS if sockets else 0
        if sockets:
            return None if seconds is None else _SECONDS_FOR_SOCKETS
        if seconds is None or self._background_rounds >= _ROUNDS_OF_BACKGROUND_TIMERS:
            raise DeadlockError(_describe(asyncio.all_tasks(self)))
        self._background_rounds += 1
        return 0

    def _after_idling(self) -> None:
        """Is called when no event has come: time passes."""
        timers = self._scheduled  # type: ignore[attr-defined]
        if timers and not self._jobs:
            # The loop runs timers together that are closer than its resolution; the clock has to show the last of them.
            together = timers[0].when() + self._clock_resolution  # type: ignore[attr-defined]
            self._virtual_now = max(self._virtual_now, *[timer.when() for timer in timers if timer.when() < together])

    def _only_background_timers(self) -> bool:
        """Whether no timer is set but those of watchdogs, which wait for nothing themselves."""
        for timer in self._scheduled:  # type: ignore[attr-defined]
            owner = getattr(timer._callback, "__self__", None)
            if not timer.cancelled() and not getattr(owner, "is_background", False):
                return False
        return True


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that lets virtual time pass in place of waiting."""

    def __init__(self, loop: VirtualClockEventLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(self._loop._before_idling(timeout))
        if not events and timeout != 0:
            self._loop._after_idling()
        return events


class Timeline:
    """Notes what happens when, so that a test can state all of it.

    Example:
        ```python
        timeline = Timeline()
        await asyncio.sleep(2)
        timeline.note("done")
        assert timeline.entries == [(2.0, "done")]
        ```

    Attributes:
        entries: Pairs of the time since the timeline was made, in seconds of the loop's clock, and what was noted.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begin = self._loop.time()
        self.entries: list[tuple[float, Any]] = []

    def note(self, what: Any) -> None:
        """Notes something at the current time.

        Args:
            what: Anything.
        """
        self.entries.append((self.elapsed, what))

    @property
    def elapsed(self) -> float:
        """The seconds since the timeline was made."""
        return self._loop.time() - self._begin


def run_with_virtual_clock(main: Coroutine[Any, Any, T]) -> T:
    """Does what `asyncio.run` does, in a loop with a virtual clock.

    Args:
        main: The coroutine to run.

    Returns:
        What it returns.

    Raises:
        DeadlockError: It would have hung.

    Example:
        ```python
        run_with_virtual_clock(asyncio.sleep(3600))  # returns at once
        ```
    """
    with asyncio.Runner(loop_factory=VirtualClockEventLoop) as runner:
        return runner.run(main)


def _describe(tasks: set[asyncio.Task[Any]]) -> str:
    waiting = "".join(
        f"\n- {task.get_name()}: {task.get_coro()!r}" for task in sorted(tasks, key=asyncio.Task.get_name)
    )
    return f"nothing is left that could wake any of these {len(tasks)} tasks:{waiting}"
