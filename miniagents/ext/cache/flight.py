"""Single flight: equal calls that come while one of them is being answered share that run."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import copy_context
from typing import Any

from miniagents.ext.cache.errors import CacheUnavailableError
from miniagents.ext.cache.lease import Lease
from miniagents.ext.cache.memory import MemoryCache
from miniagents.ext.cache.recording import RecordedReply, record_of
from miniagents.ext.cache.records import Records
from miniagents.interaction import InteractionContext
from miniagents.sequences import MessageSequencePromise
from miniagents.usage import remember_payers
from promising.context import PromisingContext
from promising.run import current_owner

__all__ = ["Flight"]


class Flight:
    """One run of an agent, which answers all equal calls that are there before it has ended.

    It belongs to none of them, but to the outermost context that they are in, and is cancelled when the last of them
    is. Everything else it has from the first of them: its context variables, and who pays.

    Args:
        records: Where the reply is recorded.
        key: The key of the calls.
        alias: What the agent is called.
        lease_seconds: How long other processes wait for a sign of life.
        inquire: Calls the agent itself.

    Attributes:
        replies: The reply, which ends when it has been recorded.
    """

    def __init__(
        self,
        records: Records,
        key: str,
        alias: str,
        lease_seconds: float,
        inquire: Callable[[], MessageSequencePromise],
    ) -> None:
        self._records = records
        self._key = key
        self._alias = alias
        self._lease_seconds = lease_seconds
        self._inquire = inquire
        self._calls = 0
        self._scope = PromisingContext.outermost()
        self._place = (asyncio.get_running_loop(), records.cache._whole_key(key, raw=False))
        self.replies = self._started()
        self._run = self.replies._run
        records.flights[self._place] = self

    @staticmethod
    def of(records: Records, key: str) -> "Flight | None":
        """Finds the flight that calls with a key can join or have to wait for.

        Args:
            records: Where its reply will be recorded.
            key: The key.

        Returns:
            The flight, if there is one under way in this event loop.
        """
        flight = records.flights.get((asyncio.get_running_loop(), records.cache._whole_key(key, raw=False)))
        return None if flight is None or flight.replies._buffer.end is not None else flight

    def can_be_joined(self) -> bool:
        """Whether it belongs to the context at work here, and so lasts at least as long as whoever joins it."""
        return self._scope is PromisingContext.outermost()

    async def answer(self, ctx: InteractionContext) -> None:
        """Answers a call. It returns when nothing of the run goes on, so that cancelling the call can end the run.

        Args:
            ctx: The call.
        """
        self._calls += 1
        try:
            ctx.reply(self.replies)
            await self.replies._wait_for_end()
            ctx.finish_early()
            await self._until_over()
        finally:
            self._calls -= 1
            if not self._calls:
                self.replies.cancel()
                if self._records.flights.get(self._place) is self:
                    del self._records.flights[self._place]
                await self._until_over()

    async def _until_over(self) -> None:
        if self._run is not None:
            await self._run._wait_until_over()

    def _started(self) -> MessageSequencePromise:
        def stream(_: Any) -> AsyncIterator[Any]:
            return self._stream()

        stream.__qualname__ = f"the shared run of {self._alias}"  # what logs and `promising.tree()` call it
        context = copy_context()
        remember_payers(context)
        context.run(current_owner.set, self._scope)
        replies = context.run(lambda: MessageSequencePromise(stream, start_soon=True))
        if replies._context is not None:  # there is no context that could start it
            replies._start_now()
        return replies

    async def _stream(self) -> AsyncIterator[Any]:
        lease = Lease(self._records.cache, self._key, self._lease_seconds) if self._others_may_be_at_it() else None
        try:
            recorded = None if lease is None else await self._recorded_elsewhere(lease)
            if recorded is not None:
                yield recorded.replies
                return
            replies = self._inquire()
            yield replies
            record = await record_of(replies)
            if record is not None:
                await self._records.save(self._key, record, self._alias)
        finally:
            if lease is not None:
                await self._give_back(lease)

    def _others_may_be_at_it(self) -> bool:
        return not isinstance(self._records.cache, MemoryCache) and not self._records.outage.is_on

    async def _recorded_elsewhere(self, lease: Lease) -> RecordedReply | None:
        """What another process has recorded; None if the run is for us to do."""
        try:
            return await lease.acquire(lambda: self._records.load(self._key))
        except CacheUnavailableError as error:
            self._records.outage.begin(error)
            return None

    async def _give_back(self, lease: Lease) -> None:
        if not self._records.outage.is_on:
            try:
                await lease.release()
            except CacheUnavailableError as error:
                self._records.outage.begin(error)
