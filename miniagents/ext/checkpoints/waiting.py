"""Waiting for entries of runs: by a sign in one process, by a look every 0.2 s where others write to the same place."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context
from weakref import WeakValueDictionary

from miniagents.ext.checkpoints.errors import CheckpointStoreError

__all__ = ["Listener", "Place", "Watch"]

_LOOK_EVERY = 0.2


class Listener:
    """One who waits for entries of a run, in one event loop.

    Args:
        run_id: The run.
        after: The number of the last entry that is known.
    """

    def __init__(self, run_id: str, after: int) -> None:
        self.run_id = run_id
        self.after = after
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Says, from any thread, that there may be entries."""
        with suppress(RuntimeError):  # the loop has been closed, so nobody waits there any more
            self._loop.call_soon_threadsafe(self._rung.set)

    async def rung(self) -> None:
        """Waits until it is said that there may be entries."""
        await self._rung.wait()
        self._rung.clear()


class Place:
    """Where a store keeps its runs, as far as this process is concerned: all stores of the same place share it."""

    _known: "WeakValueDictionary[str, Place]" = WeakValueDictionary()
    _making = threading.Lock()

    def __init__(self) -> None:
        self._listeners: dict[str, dict[Listener, None]] = {}
        self._lock = threading.Lock()

    @classmethod
    def named(cls, name: str) -> "Place":
        """Gives the place of that name, which is the same for all that ask."""
        with cls._making:
            place = cls._known.get(name)
            if place is None:
                place = cls._known[name] = cls()
            return place

    def ring(self, run_id: str) -> None:
        """Says, from any thread, that there are entries of that run."""
        with self._lock:
            listeners = list(self._listeners.get(run_id, ()))
        for listener in listeners:
            listener.ring()

    def add(self, listener: Listener) -> None:
        """Has the listener told from now on."""
        with self._lock:
            self._listeners.setdefault(listener.run_id, {})[listener] = None

    def remove(self, listener: Listener) -> None:
        """Ends what `add` began."""
        with self._lock:
            listeners = self._listeners[listener.run_id]
            del listeners[listener]
            if not listeners:
                del self._listeners[listener.run_id]


class Watch:
    """Looks for what other processes have written, for the listeners of one store and one event loop.

    Args:
        place: Where the store keeps its runs.
        look: Is given runs, and after which number somebody waits for entries of each; gives those that have some.
    """

    is_background = True  # for clocks: this timer alone is no reason to believe that something is going to happen

    def __init__(self, place: Place, look: Callable[[Mapping[str, int]], Awaitable[Iterable[str]]]) -> None:
        self._place = place
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[Listener, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._looked = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nobody listens."""
        return not self._listeners

    @contextmanager
    def listening(self, run_id: str, after: int) -> Iterator[Listener]:
        """Has somebody told of entries of a run, and looks around as long as that is wanted.

        Args:
            run_id: The run.
            after: The number of the last entry that is known.

        Yields:
            What is told.
        """
        listener = Listener(run_id, after)
        self._place.add(listener)
        self._listeners[listener] = None
        if self._timer is None:
            self._looked = time.monotonic()
            self._arm()
        try:
            yield listener
        finally:
            self._place.remove(listener)
            del self._listeners[listener]
            if not self._listeners:
                self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _arm(self) -> None:
        self._timer = self._loop.call_later(_LOOK_EVERY, self._tick, context=Context())

    def _tick(self) -> None:
        # Others write in real time, and the clock of the loop may be a virtual one.
        if time.monotonic() - self._looked < _LOOK_EVERY / 2:
            self._arm()
        else:
            self._task = self._loop.create_task(self._look_around(), context=Context())

    async def _look_around(self) -> None:
        waited: dict[str, int] = {}
        for listener in self._listeners:
            waited[listener.run_id] = min(listener.after, waited.get(listener.run_id, listener.after))
        try:
            found = set(await self._look(waited))
        except CheckpointStoreError:
            found = set(waited)  # they look for themselves, and raise what they find
        for listener in self._listeners:
            if listener.run_id in found:
                listener.ring()
        self._looked = time.monotonic()
        self._task = None
        self._arm()
