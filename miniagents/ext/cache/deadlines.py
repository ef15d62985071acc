"""When what is to go, without a timer for each of them."""

import asyncio
import heapq
import time
from collections.abc import Callable, Iterator

__all__ = ["Deadlines", "now"]

_FEW = 64


class Deadlines:
    """The times at which keys expire.

    A key that has been removed, or that lives longer now, may still be among them: whoever is told that a key is due
    looks whether it is.

    Args:
        holds: Whether a key is still to go at that time.
        count: How many keys there are that are to go at some time, or more.
    """

    __slots__ = ("_count", "_heap", "_holds")

    def __init__(self, holds: Callable[[str, float], bool], count: Callable[[], int]) -> None:
        self._holds = holds
        self._count = count
        self._heap: list[tuple[float, str]] = []

    def add(self, key: str, when: float) -> None:
        """Notes that a key is to go at a time."""
        heapq.heappush(self._heap, (when, key))
        if len(self._heap) > 2 * self._count() + _FEW:  # a key that is set again and again leaves one behind each time
            self._heap = [item for item in set(self._heap) if self._holds(item[1], item[0])]
            heapq.heapify(self._heap)

    def due(self) -> Iterator[str]:
        """Gives the keys that are to go by now, each time of each once."""
        if self._heap:
            time = now()
            while self._heap and self._heap[0][0] <= time:
                when, key = heapq.heappop(self._heap)
                if self._holds(key, when):
                    yield key


def now() -> float:
    """The time in seconds, by the clock of the running loop (which may be a virtual one) where there is one."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return time.monotonic()
    return loop.time()
