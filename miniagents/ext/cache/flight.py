"""Single flight: equal calls that come while one of them is being answered share that run."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar, copy_context
from typing import Any

from miniagents.ext.cache.errors import CacheUnavailableError
from miniagents.ext.cache.lease import Lease
from miniagents.ext.cache.memory import MemoryCache
from miniagents.ext.cache.recording import RecordedReply, record_of
from miniagents.ext.cache.records import Records
from miniagents.interaction import InteractionContext
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise, asks_to_end
from miniagents.usage import remember_payers
from promising.context import PromisingContext
from promising.errors import CircularWaitError
from promising.run import current_owner
from promising.sentinels import END, NO_VALUE

__all__ = ["Flight"]

_flight_at_work: "ContextVar[Flight | None]" = ContextVar("miniagents.cache.flight_at_work", default=None)


class Flight:
    """One run of an agent, which answers all equal calls that are there before it has ended.

    It belongs to none of them, but to the outermost context that they are in, and is cancelled when the last of them
    is. All else it has from the first of them: its context variables, and who pays.

    Args:
        records: Where the reply is recorded.
        key: The key of the calls.
        alias: What the agent is called.
        lease_seconds: How long other processes wait for a sign of life.
        inquire: Calls the agent itself.
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
        self._awaited: list[Flight] = []  # those that calls made by this run have joined
        self._scope = PromisingContext.outermost()
        self._place = (asyncio.get_running_loop(), records.cache._whole_key(key, raw=False))
        self._replies = self._started()
        self._run = self._replies._run
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
        return None if flight is None or flight._replies._buffer.end is not None else flight

    def can_be_joined(self) -> bool:
        """Whether it belongs to the context at work here, and so lasts at least as long as whoever joins it."""
        return self._scope is PromisingContext.outermost()

    async def until_recorded(self) -> None:
        """Waits until the reply has been recorded, or until it is clear that it will not be."""
        await self._replies._wait_for_end()

    async def answer(self, ctx: InteractionContext) -> None:
        """Answers a call. It returns when nothing of the run goes on, so that cancelling the call can end the run.

        Args:
            ctx: The call.

        Raises:
            CircularWaitError: The call is made by this very run, or by one that it waits for.
        """
        origin = _flight_at_work.get()
        if origin is not None:
            self._refuse_ring(origin)
            origin._awaited.append(self)
        self._calls += 1
        try:
            ctx.reply(MessageSequencePromise(self._messages, start_soon=True))
            ctx.finish_early()
            await self._until_over()
        finally:
            if origin is not None:
                origin._awaited.remove(self)
            self._calls -= 1
            if not self._calls:
                self._replies.cancel()
                if self._records.flights.get(self._place) is self:
                    del self._records.flights[self._place]
                await self._until_over()

    async def _messages(self, _: Any) -> AsyncIterator[Any]:
        """The reply for one call. It is not handed on as it is, because it has to end for a call that is cancelled."""
        async for promise in self._replies:
            yield promise if promise._value is not NO_VALUE else _SharedMessage(promise, self)
        if asks_to_end(self._replies):
            yield END

    def is_shared(self) -> bool:
        """Whether there is more than one call that it answers."""
        return self._calls > 1

    async def _until_over(self) -> None:
        if self._run is not None:
            await self._run._wait_until_over()

    def _refuse_ring(self, origin: "Flight") -> None:
        pending: list[Flight] = [self]
        for flight in pending:
            if flight is origin:
                raise CircularWaitError(
                    f"while {self._alias} answers a call, an equal one is made for that, so that both would wait for "
                    "ever; call it with other messages or arguments, or call the agent that is not cached"
                )
            pending.extend(further for further in flight._awaited if further not in pending)

    def _started(self) -> MessageSequencePromise:
        def stream(_: Any) -> AsyncIterator[Any]:
            return self._stream()

        stream.__qualname__ = f"the shared run of {self._alias}"  # what logs and `promising.tree()` call it
        context = copy_context()
        remember_payers(context)
        context.run(current_owner.set, self._scope)
        context.run(_flight_at_work.set, self)
        replies = context.run(lambda: MessageSequencePromise(stream, start_soon=True))
        if replies._context is not None:  # there is no context that could start it
            replies._start_now()
        return replies

    async def _stream(self) -> AsyncIterator[Any]:
        """The work of the run. The stream ends when the reply has been recorded."""
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
        """Whether there can be other processes, and the cache is there to agree with them."""
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


class _SharedMessage(MessagePromise):
    """A message of a run that several calls may share, for one of them.

    Args:
        source: The message of the run.
        flight: The run.
    """

    __slots__ = ("_flight", "_source")

    def __init__(self, source: MessagePromise, flight: Flight) -> None:
        self._source = source
        self._flight = flight
        super().__init__(message_class=source.message_class, start_soon=True)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """See `MessagePromise`."""
        return self._source.metadata

    def cancel(self) -> bool:
        """See `Promise.cancel`. The work itself is stopped only if no other call wants it."""
        stopped = super().cancel()
        return stopped if self._flight.is_shared() else self._source.cancel() or stopped

    async def _streamer(self) -> AsyncIterator[str]:
        async for token in self._source:
            yield token
        self.resolve_as(await self._source)
