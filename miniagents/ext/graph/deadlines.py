"""Limits of time for very many things at once, nearly all of which end long before."""

from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from contextvars import Context
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """One timer of the event loop for all limits of the same length, in place of one for each.

    Those that have the same length are late in the order in which they have begun, so that only the first of them has
    to be watched. To begin and to end one costs an entry in a dict.

    Args:
        loop: The event loop.
        context: The context variables to be told in.
        when_late: Is told of those that are late.
    """

    def __init__(self, loop: AbstractEventLoop, context: Context, when_late: Callable[[list[T]], None]) -> None:
        self._loop = loop
        self._context = context
        self._when_late = when_late
        self._lines: dict[float, deque[tuple[float, dict[T, None]]]] = {}  # by their length, the first one first
        self._timers: dict[float, TimerHandle] = {}

    def begin(self, these: Iterable[T], seconds: float) -> dict[T, None]:
        """Begins limits.

        Args:
            these: For what.
            seconds: How long they may take from now on.

        Returns:
            All of them. Whatever is taken out of it has ended in time.
        """
        line = self._lines.get(seconds)
        if line is None:
            line = self._lines[seconds] = deque()
        while line and not line[0][1]:
            line.popleft()
        begun = dict.fromkeys(these)
        line.append((self._loop.time() + seconds, begun))
        if seconds not in self._timers:
            self._watch(seconds, line[0][0])
        return begun

    def stop(self) -> None:
        """Ends all of them."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._lines.clear()

    def _watch(self, seconds: float, time: float) -> None:
        self._timers[seconds] = self._loop.call_at(time, self._look, seconds, context=self._context)

    def _look(self, seconds: float) -> None:
        del self._timers[seconds]
        line, now = self._lines[seconds], self._loop.time()
        late: list[T] = []
        while line:
            time, begun = line[0]
            if begun and time > now:
                self._watch(seconds, time)
                break
            late.extend(begun)
            begun.clear()
            line.popleft()
        if late:
            self._when_late(late)
