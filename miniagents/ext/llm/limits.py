"""Limits for requests at once and per minute."""

import asyncio
from collections import deque
from types import TracebackType
from weakref import WeakKeyDictionary

__all__ = ["RequestLimit"]


class RequestLimit:
    """Holds requests back so that there are not too many at once, or in a minute. All that are given it share it.

    A request counts as running until its answer is complete. In a context with `start_everything_soon_by_default=False`
    an answer that nobody reads to its end is never complete, and holds its place.

    Args:
        concurrent: How many requests run at once.
        per_minute: How many requests begin within any 60 seconds.

    Raises:
        ValueError: A limit is less than 1.

    Example:
        ```python
        limit = RequestLimit(concurrent=8, per_minute=500)
        writer = openai_agent.fork(request_limit=limit)
        editor = openai_agent.fork(request_limit=limit)
        ```
    """

    def __init__(self, concurrent: int | None = None, per_minute: int | None = None) -> None:
        for name, limit in (("concurrent", concurrent), ("per_minute", per_minute)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} is {limit}; a limit is at least 1, or None for no limit")
        self._concurrent = concurrent
        self._per_minute = per_minute
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, _Gate] = WeakKeyDictionary()

    async def __aenter__(self) -> "RequestLimit":
        await self._gate().enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._gate().leave()

    def _gate(self) -> "_Gate":
        loop = asyncio.get_running_loop()
        gate = self._gates.get(loop)
        if gate is None:
            gate = self._gates[loop] = _Gate(self._concurrent, self._per_minute)
        return gate


class _Gate:
    """What a limit is in one event loop."""

    def __init__(self, concurrent: int | None, per_minute: int | None) -> None:
        self._places = None if concurrent is None else asyncio.Semaphore(concurrent)
        self._turn = asyncio.Lock()  # those who wait for a minute to pass do so one after the other
        self._per_minute = per_minute
        self._begun: deque[float] = deque()

    async def enter(self) -> None:
        if self._places is not None:
            await self._places.acquire()
        try:
            if self._per_minute is not None:
                async with self._turn:
                    await self._wait_for_the_minute(self._per_minute)
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        if self._places is not None:
            self._places.release()

    async def _wait_for_the_minute(self, limit: int) -> None:
        time = asyncio.get_running_loop().time
        if len(self._begun) >= limit:
            await asyncio.sleep(self._begun.popleft() + 60.0 - time())
        self._begun.append(time())
