"""The lines to a Redis server in one event loop: how they are shared, and how an operation insists on its answer.

Every operation may be repeated here: it changes nothing, or the same again, or it carries an id. So what may have
reached the server when the connection was lost is simply asked again.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from redis.exceptions import ResponseError

from miniagents.ext.cache.errors import CacheUnavailableError
from miniagents.ext.cache.redis_connection import FAILURES, Line, Server, may_pass
from miniagents.ext.cache.redis_scripts import Script

__all__ = ["Debt", "Lines", "Places", "pause_after"]

T = TypeVar("T")
Debt = tuple[Script, Sequence[bytes], Sequence[bytes]]
"""A script with its keys and arguments, which may run any number of times."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
_FAREWELL = 1.0
"""How many seconds closing waits for the server."""
_BLAMED_ON_THE_DATA = ("WRONGTYPE", "not an integer", "would overflow")


class Places:
    """Keeps too many from doing something at the same time.

    Args:
        server: What they do it with, for the error.
        number: How many places there are.
    """

    def __init__(self, server: Server, number: int) -> None:
        self._server = server
        self._number = number
        self._free = asyncio.Semaphore(number)

    async def take(self, deadline: float) -> None:
        """Takes a place.

        Args:
            deadline: Until when to wait for one, in the time of the event loop.

        Raises:
            CacheUnavailableError: None got free in time.
        """
        if not self._free.locked():
            await self._free.acquire()  # comes back at once
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._free.acquire()
                return
        raise self._server.unavailable(f"has kept {self._number} operations busy all the time")

    def release(self) -> None:
        """Gives a place back."""
        self._free.release()


class Lines:
    """What operations use to talk to the server.

    Args:
        server: The server.
        size: How many operations run at the same time; the others wait for their turn.

    Attributes:
        server: As given.
        size: As given.
        debts: What could not be done while the server was away. It is done with the next operation.
        closed: Whether `close` was called. What goes on then comes to its end.
    """

    def __init__(self, server: Server, size: int) -> None:
        self.server = server
        self.size = size
        self.debts: list[Debt] = []
        self.closed = False
        self._idle: list[Line] = []
        self._places = Places(server, size)

    async def run(self, work: Callable[[Line], Awaitable[T]], within: float | None = None) -> T:
        """Does something with a line, again where the connection is lost.

        Args:
            work: Gets the line.
            within: How many seconds there are, the time for a place included.

        Returns:
            What the work returns.

        Raises:
            CacheUnavailableError: The server was not there in time, or refuses.
            ResponseError: The server refuses because of what is stored there.
        """
        deadline = asyncio.get_running_loop().time() + (self.server.timeout if within is None else within)
        await self._places.take(deadline)
        line = self._idle.pop() if self._idle else Line(self.server)
        line.number += 1

        async def attempt() -> T:
            if self.debts:
                await self._pay(line)
            return await work(line)

        try:
            return await self.insist(attempt, deadline)
        finally:
            self._places.release()
            self._put_back(line)

    async def insist(self, attempt: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Tries something until it succeeds or the time is over, with pauses that grow.

        Args:
            attempt: What to try.
            deadline: Until when, in the time of the event loop.

        Returns:
            What the attempt returns that succeeds.
        """
        time = asyncio.get_running_loop().time
        failures = 0
        while True:
            # One attempt does not get all the time there is: a connection may be dead while the server is not.
            try:
                async with asyncio.timeout_at(min(deadline, time() + self.server.timeout / 2)):
                    return await attempt()
            except FAILURES as error:
                failure: Exception = error
            if not may_pass(failure):
                raise self._refusal(failure)
            pause = pause_after(failures)
            failures += 1
            if time() + pause >= deadline:
                why = f"could not be used within {self.server.timeout:g} s (does it run there?)"
                raise self.server.unavailable(why, failure)
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def apart(self) -> AsyncIterator[Line]:
        """Lends a line that counts for nobody: it can be kept while others are used.

        Yields:
            The line.
        """
        line = self._idle.pop() if self._idle else Line(self.server)
        try:
            yield line
        finally:
            self._put_back(line)

    async def pay_debts(self, within: float | None = None) -> None:
        """Does what could not be done before."""
        await self.run(_nothing, within)

    async def close(self) -> None:
        """Closes the lines, and pays the debts if the server is there."""
        self.closed = True
        if self.debts:
            with suppress(CacheUnavailableError):
                await self.pay_debts(_FAREWELL)
        idle, self._idle = self._idle, []
        await asyncio.gather(*(line.close(_FAREWELL) for line in idle))

    def abandon(self) -> None:
        """Lets the lines of an event loop go that has ended without `close`."""
        for line in self._idle:
            line.abandon()

    def _put_back(self, line: Line) -> None:
        if self.closed or len(self._idle) >= self.size:
            line.hang_up()
        else:
            self._idle.append(line)

    async def _pay(self, line: Line) -> None:
        debts, self.debts = self.debts, []
        try:
            while debts:
                await line.run(*debts[0])
                del debts[0]
        except ResponseError:
            pass  # it is refused now; that is no reason to refuse what is asked
        finally:
            self.debts += debts

    def _refusal(self, error: Exception) -> Exception:
        if isinstance(error, ResponseError) and any(words in str(error) for words in _BLAMED_ON_THE_DATA):
            return error
        return self.server.unavailable("refuses", error)


async def _nothing(line: Line) -> None:
    pass


def pause_after(failures: int) -> float:
    """How long to wait before the next attempt.

    Args:
        failures: How many attempts have failed before the last one.

    Returns:
        Some seconds. None at all at first: a connection that was lost while it was idle shows that only in use.
    """
    return random.uniform(0.5, 1.0) * min(_FIRST_PAUSE * 2.0**failures, _LONGEST_PAUSE) if failures else 0.0
