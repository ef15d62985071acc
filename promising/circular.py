"""Who waits for whom: the search for rings of waits, and the picture of all that runs.

Nothing is recorded while the work goes on. A slow timer looks at the runs of a loop, at the futures that their tasks
are suspended in, and at the parking lots in which those futures stand; that is enough to see who waits directly for
whom.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator
from contextvars import Context
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from promising.errors import CircularWaitError

if TYPE_CHECKING:
    from promising.context import PromisingContext
    from promising.replay import ReplayBuffer
    from promising.run import Owner, Run
    from promising.waiters import Waiters

__all__ = ["Watch", "tree", "tree_of", "unwatch", "watch"]

_INTERVAL_SECONDS = 0.4
_SHARE_OF_CPU = 0.01

_logger = logging.getLogger("promising")


class _Wait(NamedTuple):
    """What a future in a parking lot stands for."""

    run: "Run"  # who will bring what is waited for
    appendable: bool  # whether others could bring it, too
    waiter: "asyncio.Future[None]"


class _Waits:
    """Who is suspended directly in an await or a read of what a run brings, at one moment.

    Args:
        owners: Where to look for runs.
    """

    def __init__(self, owners: "Iterable[Owner]") -> None:
        runs = list(_runs(owners))
        self._lots: dict[asyncio.Future[Any], _Wait] = {}
        for run in runs:
            for waiters, appendable in _parking_lots(run):
                for waiter in waiters:
                    self._lots[waiter] = _Wait(run, appendable, waiter)
        self.of_runs: dict[Run, _Wait] = {}
        for run in runs:
            wait = self.of_task(run._task)
            if wait is not None and not wait.waiter.done():
                self.of_runs[run] = wait

    def of_task(self, task: "asyncio.Task[Any] | None") -> _Wait | None:
        """What the task waits for, if it does so directly."""
        future = _suspended_in(task)
        return None if future is None else self._lots.get(future)

    def blocks(self, task: "asyncio.Task[Any]", members: "set[Run]") -> bool:
        """Whether the task waits for one of the members, directly or through other tasks."""
        seen: set[int] = set()
        current: asyncio.Task[Any] | None = task
        while current is not None and id(current) not in seen:
            seen.add(id(current))
            wait = self.of_task(current)
            if wait is None:
                future = _suspended_in(current)
                current = future if isinstance(future, asyncio.Task) else None
            elif wait.run in members:
                return True
            else:
                current = wait.run._task
        return False


class Watch:
    """Looks for rings among the runs of one event loop, as long as there are any.

    Args:
        loop: The loop.
    """

    is_background = True  # for clocks: this timer alone is no reason to believe that something is going to happen

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.owners: dict[Owner, None] = {}
        self._loop = loop
        self._warned: set[frozenset[int]] = set()
        self._timer = self._in(_INTERVAL_SECONDS)

    def look(self) -> None:
        """Breaks each ring of waits at its youngest run, or warns where it is not sure that it is one."""
        started = perf_counter()
        found = _Waits(self.owners)
        waits = found.of_runs
        for ring in _rings(waits):
            if not any(waits[run].appendable for run in ring) or not _others_could_append(ring, found, self._loop):
                youngest = max(ring, key=lambda run: run._number)
                waits[youngest].waiter.set_exception(CircularWaitError(_describe(ring)))
            else:
                numbers = frozenset(run._number for run in ring)
                if numbers not in self._warned:
                    self._warned.add(numbers)
                    _logger.warning("%s Only something else could still end this wait.", _describe(ring))
        pause = max(_INTERVAL_SECONDS, (perf_counter() - started) / _SHARE_OF_CPU)
        self._timer = self._in(pause)

    def _in(self, seconds: float) -> asyncio.TimerHandle:
        # With no context variables: those of whoever happened to come first would be kept alive by the timer.
        return self._loop.call_later(seconds, self.look, context=Context())

    def stop(self) -> None:
        """Takes the timer back."""
        self._timer.cancel()


_watches: dict[asyncio.AbstractEventLoop, Watch] = {}


def watch(owner: "Owner", loop: asyncio.AbstractEventLoop) -> None:
    """Includes what the owner starts in the search for rings."""
    found = _watches.get(loop)
    if found is None:
        for closed in [other for other in _watches if other.is_closed()]:
            del _watches[closed]
        found = _watches[loop] = Watch(loop)
    found.owners[owner] = None


def unwatch(owner: "Owner") -> None:
    """Ends what `watch` began."""
    for loop, found in list(_watches.items()):
        if found.owners.pop(owner, owner) is None and not found.owners:
            found.stop()
            del _watches[loop]


def tree() -> str:
    """Draws all that runs in this event loop, and who waits for whom.

    Returns:
        A text with one line for each context and each producer; a hint where nothing runs.

    Example:
        ```python
        print(promising.tree())
        # <MiniAgents open, 1 runs>
        # └─ EDITOR: waits for WRITER
        #    └─ WRITER: at work
        ```
    """
    found = _watches.get(asyncio.get_running_loop())
    return tree_of(found.owners) if found is not None else "Nothing runs in this event loop."


def tree_of(owners: "Iterable[Owner]") -> str:
    """Draws what the owners have started, see `tree`."""
    owners = list(owners)
    waits = _Waits(owners).of_runs
    lines: list[str] = []
    for root in owners:
        pending: list[tuple[Owner, str, str]] = [(root, "", "")]
        while pending:
            owner, head, indent = pending.pop()
            lines.append(f"{head}{_status(owner, waits)}")
            children = list(owner._children or ())
            for position, child in enumerate(reversed(children)):
                last = position == 0
                pending.append((child, f"{indent}{'└─ ' if last else '├─ '}", f"{indent}{'   ' if last else '│  '}"))
    return "\n".join(lines)


def _status(owner: "Owner", waits: "dict[Run, _Wait]") -> str:
    if not hasattr(owner, "_task"):
        return repr(owner)
    run: Run = owner  # type: ignore[assignment]
    if run._task is None:
        return "a producer that has ended, and what it started"
    if run in waits:
        return f"{run!r}: waits for {waits[run].run!r}"
    if run._scope is not None and run in run._scope.paused:
        return f"{run!r}: paused until somebody reads more"
    return f"{run!r}: at work"


def _runs(owners: "Iterable[Owner]") -> "Iterator[Run]":
    pending: list[Owner] = list(owners)
    seen: set[int] = set()
    while pending:
        owner = pending.pop()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        if hasattr(owner, "_task"):
            yield owner  # type: ignore[misc]
        pending.extend(owner._children or ())


def _parking_lots(run: "Run") -> "Iterator[tuple[Waiters, bool]]":
    """Where consumers wait for what this run brings."""
    promise: Any = run._promise
    if promise is not None and promise._waiters:
        yield promise._waiters, False
    buffers: list[ReplayBuffer[Any]] = [appender._buffer for appender in list(run._appenders or ())]
    streamed = getattr(promise, "_buffer", None)
    if streamed is not None:
        buffers.append(streamed)
    for buffer in buffers:
        for waiters in (buffer.waiters, buffer.end_waiters):
            if waiters:
                yield waiters, buffer.appendable


def _suspended_in(task: "asyncio.Task[Any] | None") -> "asyncio.Future[Any] | None":
    return None if task is None else getattr(task, "_fut_waiter", None)


def _rings(waits: "dict[Run, _Wait]") -> "Iterator[list[Run]]":
    """The cycles of a graph in which each run waits for at most one other."""
    seen: set[Run] = set()
    for start in waits:
        path: dict[Run, None] = {}
        run = start
        while run in waits and run not in seen and run not in path:
            path[run] = None
            run = waits[run].run
        if run in path:
            members = list(path)
            yield members[members.index(run) :]
        seen.update(path)


def _others_could_append(ring: "list[Run]", waits: _Waits, loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a task outside the ring could still bring what one of its members waits for."""
    members = set(ring)
    for task in asyncio.all_tasks(loop):
        run: Run | None = getattr(task, "run", None)
        suspect = not _hosts_a_context(task, ring) if run is None else run not in members and _started_by(run, members)
        if suspect and not waits.blocks(task, members):
            return True
    return False


def _started_by(run: "Run", members: "set[Run]") -> bool:
    owner: Owner | None = run
    while owner is not None:
        if owner in members:
            return True
        owner = getattr(owner, "_parent", None)
    return False


def _hosts_a_context(task: "asyncio.Task[Any]", ring: "list[Run]") -> bool:
    """Whether the task only opened the context in which the ring has come about."""
    for run in ring:
        scope: PromisingContext | None = run._scope
        while scope is not None:
            if scope.host is task:
                return True
            scope = scope._outer._scope if scope._outer is not None else None
    return False


def _describe(ring: "list[Run]") -> str:
    names = " waits for ".join(repr(run) for run in [*ring, ring[0]])
    return (
        f"{len(ring)} producer(s) wait for each other in a ring: {names}. None of them can go on. Start the later call "
        "without waiting for it, or hand on its promise instead of its value."
    )
