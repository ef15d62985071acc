"""Limits of time for very many things at once, nearly all of which end long before."""

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Hashable
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
        when_late: Is told of each that is late.
    """

    def __init__(self, loop: AbstractEventLoop, context: Context, when_late: Callable[[list[T]], None]) -> None:
        self._loop = loop
        self._context = context
        self._when_late = when_late
        self._lines: dict[float, dict[T, float]] = {}  # by the length: when each is late, in this order
        self._timers: dict[float, TimerHandle] = {}

    def begin(self, one: T, seconds: float) -> None:
        """Begins a limit.

        Args:
            one: For what.
            seconds: How long it may take from now on.
        """
        line = self._lines.get(seconds)
        if line is None:
            line = self._lines[seconds] = {}
        line[one] = self._loop.time() + seconds
        if seconds not in self._timers:
            self._watch(seconds, line[one])

    def end(self, one: T, seconds: float) -> None:
        """Ends a limit; nothing happens if it is over.

        Args:
            one: For what.
            seconds: Its length.
        """
        line = self._lines.get(seconds)
        if line is not None:
            line.pop(one, None)

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
        for one, time in line.items():
            if time > now:
                self._watch(seconds, time)
                break
            late.append(one)
        for one in late:
            del line[one]
        if late:
            self._when_late(late)
