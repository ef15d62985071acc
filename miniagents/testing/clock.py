"""An event loop whose clock jumps: tests of time that take no time, and say so exactly.

When nothing is ready to run, the clock of the loop jumps to the next timer. So `await asyncio.sleep(3600)` returns at
once, and an hour has passed on the loop's clock. What runs in real time is treated by these rules:

* The clock stands still while a job of `asyncio.to_thread` or `run_in_executor` is under way, a cancelled one included,
  and inside `with loop.hold_clock():`, which is for whatever else a test wants to wait for, threads above all.
* Before each jump open sockets and pipes and running subprocesses get a moment of real time: `seconds_for_sockets`.
* Where no timer is set they are waited for as long as it takes; where there are none either, it is a `DeadlockError`.

With pytest-asyncio (1.4 or newer) all tests run in this loop if `conftest.py` says so:

```python
from miniagents.testing import VirtualClockEventLoop

def pytest_asyncio_loop_factories(config, item):
    return {"virtual": VirtualClockEventLoop}
```
"""

import asyncio
import itertools
import math
import selectors
from collections.abc import Coroutine, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakSet

__all__ = ["DeadlockError", "Timeline", "VirtualClockEventLoop", "run_with_virtual_clock"]

T = TypeVar("T")

_ROUNDS_OF_BACKGROUND_TIMERS = 3
_TASKS_TO_NAME = 20

_numbers = itertools.count()


class DeadlockError(RuntimeError):
    """Nothing will ever happen in the loop again: no callback is ready, no timer is set, no thread or socket is busy.

    On a real clock the program would hang here. It is raised by `run`, not in a task; the loop can still be used and
    closed. The message lists the tasks and where each of them waits.
    """


class VirtualClockEventLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop with a virtual clock, which begins at 0.

    Timers that are set for the same time run in the order in which they were set.

    Args:
        seconds_for_sockets: How long, in real seconds, a jump waits for open sockets, pipes and subprocesses.

    Example:
        `with asyncio.Runner(loop_factory=VirtualClockEventLoop) as runner: runner.run(main())`
    """

    def __init__(self, *, seconds_for_sockets: float = 0.02) -> None:
        self._virtual_now = 0.0
        self._seconds_for_sockets = seconds_for_sockets
        self._holds: set[object] = set()
        self._processes: WeakSet[asyncio.SubprocessTransport] = WeakSet()
        self._background_rounds = 0
        super().__init__(_JumpingSelector(self))
        self._clock_resolution = math.ulp(0.0)

    def time(self) -> float:
        """The time on the virtual clock, in seconds since the loop was made."""
        return self._virtual_now

    @contextmanager
    def hold_clock(self) -> Iterator[None]:
        """Makes the clock stand still, so that no timer runs before something has come from outside.

        Example:
            `with loop.hold_clock(): answer = await answer_of_a_thread`
        """
        self._holds.add(hold := object())
        try:
            yield
        finally:
            self._holds.discard(hold)

    # The signatures are looser than asyncio's own, which need a TypeVarTuple.
    def call_at(self, when: float, callback: Any, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        """See asyncio."""
        return super().call_at(_Moment(when), callback, *args, **kwargs)

    def run_in_executor(self, executor: Executor | None, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """See asyncio. The clock stands still until the work is done."""
        self._check_closed()  # type: ignore[attr-defined]
        if executor is None:
            self._check_default_executor()  # type: ignore[attr-defined]
            if self._default_executor is None:  # type: ignore[attr-defined]
                self.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
        job = (executor or self._default_executor).submit(func, *args)  # type: ignore[attr-defined]
        future = asyncio.wrap_future(job, loop=self)
        self._holds.add(future)

        def release(_: Future[Any]) -> None:  # in the thread that did the work
            with suppress(RuntimeError):  # the loop was closed in the meantime
                self.call_soon_threadsafe(self._holds.discard, future)

        # The end of the thread alone will not do: its result may still be on the way. Nor will that of the future: a
        # cancelled one is done before its thread.
        future.add_done_callback(lambda _: job.add_done_callback(release))
        return future

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """See asyncio. It waits for a thread."""
        with self.hold_clock():
            await super().shutdown_default_executor(*args, **kwargs)

    async def _make_subprocess_transport(self, *args: Any, **kwargs: Any) -> Any:
        with self.hold_clock():
            transport = await super()._make_subprocess_transport(*args, **kwargs)  # type: ignore[misc]
        self._processes.add(transport)
        return transport

    def _before_idling(self, seconds: float | None) -> float | None:
        """Turns how long the loop would wait on a real clock (None: for ever) into how long it has to, in real time."""
        if seconds == 0:
            self._background_rounds = 0
            return 0
        if self._holds:
            return None
        sockets = len(self._selector.get_map()) > 1  # type: ignore[attr-defined]  # one of them is the loop's own
        outside = sockets or any(process.get_returncode() is None for process in self._processes)
        if not self._only_background_timers():
            self._background_rounds = 0
            return self._seconds_for_sockets if outside else 0
        if outside:
            return None if self._next_time() is None else self._seconds_for_sockets
        if self._next_time() is None or self._background_rounds >= _ROUNDS_OF_BACKGROUND_TIMERS:
            raise DeadlockError(_describe(asyncio.all_tasks(self)))
        self._background_rounds += 1
        return 0

    def _after_idling(self) -> None:
        """Is called when no event has come: time passes."""
        if not self._holds and (when := self._next_time()) is not None:
            self._virtual_now = when
            # The loop runs what is due before now plus this: exactly the timers of this moment, however late it is.
            self._clock_resolution = math.ulp(self._virtual_now)

    def _next_time(self) -> float | None:
        timers = self._scheduled  # type: ignore[attr-defined]
        return float(timers[0].when()) if timers and timers[0].when() < math.inf else None

    def _only_background_timers(self) -> bool:
        """Whether no timer is set but those of watchdogs, which wait for nothing themselves."""
        timers = self._scheduled  # type: ignore[attr-defined]
        owners = (getattr(t._callback, "__self__", None) for t in timers if not t.cancelled() and t.when() < math.inf)
        return all(getattr(owner, "is_background", False) for owner in owners)


class _Moment(float):
    """The time of a timer: of two equal ones that comes first which was set first, which a heap alone does not do."""

    def __init__(self, _: float) -> None:
        self.number = next(_numbers)

    def __lt__(self, other: float) -> bool:
        if isinstance(other, _Moment) and self == other:
            return self.number < other.number
        return super().__lt__(other)


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
        After `await asyncio.sleep(2)` and `timeline.note("done")`, `timeline.entries == [(2.0, "done")]`.

    Attributes:
        entries: Pairs of the seconds since the timeline was made, on the loop's clock, and what was noted.
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
        `run_with_virtual_clock(asyncio.sleep(3600))` returns at once.
    """
    with asyncio.Runner(loop_factory=VirtualClockEventLoop) as runner:
        return runner.run(main)


def _describe(tasks: set[asyncio.Task[Any]]) -> str:
    lines = sorted(f"{task.get_name()}: {_place(task)}" for task in tasks)
    if len(lines) > _TASKS_TO_NAME:
        lines[_TASKS_TO_NAME:] = [f"and {len(lines) - _TASKS_TO_NAME} more"]
    return "\n- ".join((f"nothing is left that could wake any of these {len(tasks)} tasks:", *lines))


def _place(task: asyncio.Task[Any]) -> str:
    """Where a task waits: the coroutines that await each other, the outermost first."""
    steps = []
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        steps.append(f"{awaited.__qualname__} ({frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno})")
        awaited = awaited.cr_await
    return " > ".join(steps) or repr(task.get_coro())
