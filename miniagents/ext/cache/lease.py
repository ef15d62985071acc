"""A lease: which of several processes does the work that all of them want done."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import uuid4

from miniagents.ext.cache.errors import CacheUnavailableError
from miniagents.ext.cache.interface import Cache

__all__ = ["Lease"]

T = TypeVar("T")

_RENEWALS = 3  # for each time that the lease would last without
_SECONDS_OF_NOTICE = 600.0  # how long a waiter is remembered, who may have gone; those that wait look now and then


class Lease:
    """The right to do one piece of work, which whoever has it renews until the work is done.

    Those who wait for it leave the name of a mailbox, and are told there when it is given back. If its owner dies it
    is not renewed, and the next who looks has it.

    Args:
        cache: What the processes share.
        key: What the work is called.
        seconds: How long the lease lasts without being renewed.
    """

    def __init__(self, cache: Cache, key: str, seconds: float) -> None:
        self._cache = cache
        self._key = f"{key}/lease"
        self._seconds = seconds
        self._owner = uuid4().hex
        self._waiters = f"{key}/waiters"
        self._notices = f"{key}/waiters/{self._owner}"
        self._renewal: asyncio.Task[None] | None = None

    async def acquire(self, look: Callable[[], Awaitable[T | None]]) -> T | None:
        """Waits until the lease is ours, or until it is not needed.

        Args:
            look: Looks whether somebody else has done the work.

        Returns:
            What was found; None if the work is ours to do. The lease has to be given back in any case.

        Raises:
            CacheUnavailableError: The cache cannot be reached.
        """
        is_announced = False
        while not await self._cache.add(self._key, self._owner, ttl=self._seconds):
            if is_announced:
                is_announced = not await self._notice()
            else:
                await self._cache.publish_to_mailbox(self._waiters, self._notices, ttl=_SECONDS_OF_NOTICE)
                is_announced = True
            found = await look()
            if found is not None:
                return found
        self._renewal = asyncio.create_task(self._renew())
        return await look()  # it may have been done between the last look and now

    async def _notice(self) -> bool:
        """Waits until the owner says that the lease is free, or until it may have died; whether it has said so."""
        time, seconds = asyncio.get_running_loop().time, self._seconds / 2
        began = time()
        notice = await self._cache.get_message(self._notices, timeout=seconds)
        if notice is None and time() < began + seconds / 2:
            raise CacheUnavailableError("the cache was closed while a call waited for what another process records")
        return notice is not None

    async def release(self) -> None:
        """Gives the lease back if we have it, and wakes those who wait for it, also when it is cancelled meanwhile.

        Raises:
            CacheUnavailableError: The cache cannot be reached, so that the lease is left to expire.
        """
        releasing = asyncio.create_task(self._release())
        try:
            await asyncio.shield(releasing)
        finally:
            await releasing

    async def _release(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])
        # It is not ours any more if renewing it was not possible in time. That it changes hands between these two steps
        # would take another such delay, and would do no more harm than that: the work would be done twice.
        if await self._cache.get(self._key, None) == self._owner:
            await self._cache.delete(self._key)
            while (waiter := await self._cache.get_message(self._waiters, timeout=0)) is not None:
                if waiter != self._notices:  # we have waited, too
                    await self._cache.publish_to_mailbox(waiter, "released", ttl=_SECONDS_OF_NOTICE)

    async def _renew(self) -> None:
        is_ours = True
        while is_ours:
            await asyncio.sleep(self._seconds / _RENEWALS)
            try:
                is_ours = await self._cache.compare_and_set(self._key, self._owner, self._owner, ttl=self._seconds)
            except CacheUnavailableError:
                continue  # it may be there again in time
