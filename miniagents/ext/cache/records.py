"""The records of one cache, for agents that neither fail nor wait when it cannot be reached."""

import logging
from asyncio import AbstractEventLoop
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from miniagents.ext.cache.deadlines import now
from miniagents.ext.cache.errors import CacheUnavailableError
from miniagents.ext.cache.interface import Cache
from miniagents.ext.cache.recording import RecordedReply
from miniagents.ext.values import UnreadableValueError

if TYPE_CHECKING:
    from miniagents.ext.cache.flight import Flight

__all__ = ["Outage", "Records"]

_SECONDS_BETWEEN_ATTEMPTS = 10.0

_logger = logging.getLogger("miniagents")


class Outage:
    """Whether a cache cannot be reached at present.

    The first failure is logged. After that the cache is left alone, but for one attempt every few seconds, because each
    attempt may take long to fail.

    Attributes:
        is_on: Whether the last attempt has failed.
    """

    __slots__ = ("_next_attempt", "is_on")

    def __init__(self) -> None:
        self.is_on = False
        self._next_attempt = 0.0

    def lets_try(self) -> bool:
        """Whether to ask the cache now. During an outage the others are told not to, until the outcome is known."""
        if self.is_on:
            if now() < self._next_attempt:
                return False
            self._next_attempt = now() + _SECONDS_BETWEEN_ATTEMPTS
        return True

    def begin(self, error: CacheUnavailableError) -> None:
        """Notes that the cache has not been reached."""
        if not self.is_on:
            _logger.warning("agents work without their cache until it can be reached again: %s", error)
        self.is_on = True
        self._next_attempt = now() + _SECONDS_BETWEEN_ATTEMPTS

    def end(self) -> None:
        """Notes that the cache has been reached."""
        self.is_on = False


class _Shared:
    """What all that record in one cache share in this process."""

    __slots__ = ("flights", "outage")

    def __init__(self) -> None:
        self.flights: dict[tuple[AbstractEventLoop, str], Flight] = {}
        self.outage = Outage()


_shared: "WeakKeyDictionary[Cache, _Shared]" = WeakKeyDictionary()


class Records:
    """The records of one agent in one cache.

    Args:
        cache: Where they are.
        ttl: How many seconds they live; None for ever.

    Attributes:
        flights: The runs that are to become records of that cache, of all agents, by event loop and whole key.
        outage: Whether the cache can be reached.
    """

    __slots__ = ("_ttl", "cache", "flights", "outage")

    def __init__(self, cache: Cache, ttl: float | None) -> None:
        shared = _shared.setdefault(cache, _Shared())
        self.cache = cache
        self.flights = shared.flights
        self.outage = shared.outage
        self._ttl = ttl

    async def load(self, key: str) -> RecordedReply | None:
        """Looks for a record.

        Args:
            key: Its key.

        Returns:
            The record; None where there is none, where it cannot be read, and where the cache cannot be reached.
        """
        outage = self.outage
        if outage.is_on and not outage.lets_try():
            return None
        try:
            found = await self.cache.get(key, None)
        except UnreadableValueError:
            found = None
        except CacheUnavailableError as error:
            outage.begin(error)
            return None
        if outage.is_on:
            outage.end()
        return found if type(found) is RecordedReply else None

    async def save(self, key: str, record: RecordedReply, alias: str) -> None:
        """Keeps a record, if that is possible.

        Args:
            key: Its key.
            record: The record.
            alias: What the agent is called, to tell people of a record that cannot be written.
        """
        if not self.outage.lets_try():
            return
        try:
            await self.cache.set(key, record, ttl=self._ttl)
        except CacheUnavailableError as error:
            self.outage.begin(error)
        except (TypeError, ValueError, RecursionError) as error:
            _logger.warning("a reply of %s cannot be recorded, so it is made anew each time: %s", alias, error)
