"""`RedisCheckpointStore`: runs in a cache, which processes of many machines share if it is a `RedisCache`."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress

from miniagents.ext.cache.interface import Cache
from miniagents.ext.checkpoints.claims import Claim, refuse_if_held
from miniagents.ext.checkpoints.entries import Draft
from miniagents.ext.checkpoints.errors import RunExistsError, RunNotFoundError, StoreUnavailableError
from miniagents.ext.checkpoints.holders import Holder
from miniagents.ext.checkpoints.interface import CheckpointStore, Receipt, StoredJournal, StoredRun
from miniagents.ext.checkpoints.redis_claimed import ClaimedRun
from miniagents.ext.checkpoints.redis_log import BehindError, Record, RunLog, RunState, forgotten
from miniagents.ext.checkpoints.redis_records import (
    as_data,
    as_text,
    check_claim,
    entries_record,
    lease_key,
    not_found,
    read_journal,
    receipts_of,
    until,
)
from miniagents.ext.checkpoints.redis_shelf import Shelf

__all__ = ["RedisCheckpointStore"]

_KNOWN_FOR = 3_600.0  # much shorter than what is removed from a log leaves a trace
_LISTEN_FOR = 5.0
_AT_ONCE = 500


class RedisCheckpointStore(CheckpointStore):
    """Keeps runs in a cache. With a `RedisCache` processes of many machines can share them.

    What was appended is as durable as the server is: let it write to its disk (`appendonly yes`, and `appendfsync
    always` to survive power failures), and let it evict nothing (`maxmemory-policy noeviction`). A `MemoryCache` keeps
    runs for tests, and has to be `MemoryCache(max_entries=None)` to keep all of them.

    Messages are stored once for each run; what is told from outside has its own. All keys begin with the default prefix
    of the cache and `/checkpoints/`; so they are in no namespace, and no `clear` removes them. The cache is not closed
    with the store.

    Args:
        cache: The cache.
        name: What the keys begin with in place of "checkpoints", for stores that know nothing of each other.

    Attributes:
        cache: The cache.

    Raises:
        StoreUnavailableError: From all methods: the server cannot be reached.
        StoreDamagedError: The cache has forgotten a part of a run.

    Example:
        ```python
        async with RedisCache("localhost") as cache:
            store = RedisCheckpointStore(cache)
            print(await store.runs(status="waiting"))
        ```
    """

    def __init__(self, cache: Cache, *, name: str = "checkpoints") -> None:
        super().__init__()
        self.cache = cache
        self._shelf = Shelf(cache, name)

    def __repr__(self) -> str:
        return f"<RedisCheckpointStore in {self.cache!r}>"

    async def _close(self) -> None:
        """Nothing is held."""

    # --- runs ---

    async def _create(self, run_id: str, workflow: str, fingerprint: bytes, status: str) -> None:
        shelf, now = self._shelf, time.time()
        number = await shelf.increment("count")
        state = RunState(run_id, workflow, as_text(fingerprint), status, now, now, number)
        await shelf.set_many({f"{number}/head": RunLog.head_of(state), f"list/{number}": run_id})
        while not await shelf.add(f"run/{run_id}", number):
            if not await self._remove_if_deleted(run_id):
                await shelf.delete_many([f"{number}/head", f"list/{number}"])
                raise RunExistsError(f"there is a run {run_id} in the cache already; resume it, or give another id")

    async def _remove_if_deleted(self, run_id: str) -> bool:
        """Goes on where somebody was interrupted who has deleted a run; says whether it is gone."""
        try:
            log = await RunLog.opened(self._shelf, run_id)
        except RunNotFoundError:
            return True
        if log.state.is_deleted:
            await self._remove(log)
        return log.state.is_deleted

    async def _info(self, run_id: str) -> StoredRun:
        (run,) = await self._stored([(await self._log(run_id)).state])
        return run

    async def _runs(self, workflow: str | None, status: str | None, limit: int | None) -> Sequence[StoredRun]:
        found: list[RunState] = []
        newest = await self._shelf.get("count", 0)
        while newest > 0 and (limit is None or len(found) < limit):
            numbers = range(newest, max(0, newest - _AT_ONCE), -1)
            newest -= len(numbers)
            found += [state for state in await self._states(numbers, workflow) if status in (None, state.status)]
        return await self._stored(found[:limit])

    async def _states(self, numbers: Iterable[int], workflow: str | None) -> list[RunState]:
        """What is known of those runs that are there, of the ones that once had these numbers."""
        run_ids = await self._shelf.get_many([f"list/{number}" for number in numbers])
        listed = [(number, run_id) for number, run_id in zip(numbers, run_ids, strict=True) if run_id is not None]
        owners = await self._shelf.get_many([f"run/{run_id}" for _, run_id in listed])
        own = [number for (number, _), owner in zip(listed, owners, strict=True) if number == owner]
        heads = await self._shelf.get_many([f"{number}/head" for number in own])
        logs = [RunLog(self._shelf, head) for head in heads if head and workflow in (None, head["workflow"])]
        are_there = await asyncio.gather(*(log.is_there() for log in logs))
        return [log.state for log, is_there in zip(logs, are_there, strict=True) if is_there]

    async def _stored(self, states: Sequence[RunState]) -> list[StoredRun]:
        leases = await self._shelf.get_many([lease_key(state) for state in states])
        return [
            StoredRun(
                state.run_id,
                state.workflow,
                as_data(state.fingerprint),
                state.status,
                state.created,
                state.updated,
                state.holder,
                until(lease),
            )
            for state, lease in zip(states, leases, strict=True)
        ]

    async def _delete(self, run_id: str) -> bool:
        try:
            log = await self._log(run_id)
            await self._commit_if_free(log, lambda _: {"what": "deletion"})
            await log.write_head()  # so that this is known, even if not all of the rest is done
        except RunNotFoundError:
            return False
        await self._notify(log)
        await self._remove(log)
        return True

    async def _remove(self, log: RunLog) -> None:
        await log.remove()
        run_id, number = log.state.run_id, log.state.number
        await self._shelf.delete_many([f"run/{run_id}", f"list/{number}", log.key("head"), log.key("listeners")])

    async def _log(self, run_id: str) -> RunLog:
        log = await RunLog.opened(self._shelf, run_id)
        if log.state.is_deleted:
            raise not_found(run_id)
        return log

    # --- claims ---

    async def _claim(self, run_id: str, holder: Holder, lease: float) -> int:
        log = await self._log(run_id)
        await self._sign_lease(log, holder, lease)  # before the claim, which would be void without it
        try:
            record = await self._commit_if_free(
                log, lambda state: {"what": "claim", "epoch": state.epoch + 1, "holder": holder.key}
            )
        except BaseException:
            await self._end_lease(log, holder)
            raise
        epoch: int = record["epoch"]
        return epoch

    async def _commit_if_free(self, log: RunLog, make: Callable[[RunState], Record]) -> Record:
        """Adds a record to the log of a run that nobody holds.

        Raises:
            RunClaimedError: Somebody holds it.
            RunNotFoundError: It has been deleted.
        """
        while True:
            last = log.state.epoch, log.state.holder
            refuse_if_held(log.state.run_id, log.state.holder, until(await self._shelf.get(lease_key(log.state))))

            def make_if_free(state: RunState, _: object, last: tuple[int, str | None] = last) -> Record:
                if state.is_deleted:
                    raise not_found(state.run_id)
                if (state.epoch, state.holder) != last:
                    raise _ClaimedMeanwhileError
                return make(state)

            try:
                return await log.commit(make_if_free)
            except _ClaimedMeanwhileError:
                continue

    async def _renew(self, claim: Claim) -> None:
        async with self._use(claim) as run:
            await run.follow()
            await self._sign_lease(run.log, claim.holder, claim.lease)

    async def _release(self, claim: Claim) -> None:
        async with self._use(claim) as run:
            await run.release()
            await self._end_lease(run.log, claim.holder)

    async def _sign_lease(self, log: RunLog, holder: Holder, lease: float) -> None:
        # The server lets it expire, so the clocks of different machines do not matter.
        await self._shelf.set(log.key(f"lease/{holder.token}"), time.time() + lease, ttl=lease)

    async def _end_lease(self, log: RunLog, holder: Holder) -> None:
        await self._shelf.delete_many([log.key(f"lease/{holder.token}")])

    @asynccontextmanager
    async def _use(self, claim: Claim) -> AsyncIterator[ClaimedRun]:
        """Gives what whoever has claimed a run works with, to one after the other."""
        known: ClaimedRun | None = claim.of_store
        if known is None or time.time() - known.used > _KNOWN_FOR:
            log = await self._log(claim.run_id)
            if claim.of_store is known:  # nobody else has been faster
                claim.of_store = ClaimedRun(self._shelf, log, claim)
        run: ClaimedRun = claim.of_store
        async with run.log.lock:
            try:
                yield run
            except BehindError:
                check_claim((await self._log(claim.run_id)).state, claim)
                raise forgotten(claim.run_id) from None
            run.used = time.time()

    # --- entries ---

    async def _append(self, claim: Claim, drafts: Sequence[Draft], status: str | None) -> Sequence[Receipt]:
        async with self._use(claim) as run:
            receipts = await run.append(drafts, status)
        await self._notify(run.log)
        return receipts

    async def _prune(self, claim: Claim, before: int) -> None:
        async with self._use(claim) as run:
            await run.prune(before)

    async def _tell(self, run_id: str, draft: Draft) -> Receipt:
        # The objects are in the record, as only who holds the run knows which ones are stored and needed.
        inline = {key: as_text(data) for key, data in draft.packed.objects(lambda _: False)}

        def make(state: RunState, _: object) -> Record:
            if state.is_deleted:
                raise not_found(run_id)
            return {**entries_record([draft], state, 0, None), "inline": inline}

        log = await self._log(run_id)
        (receipt,) = receipts_of(await log.commit(make))
        await self._notify(log)
        return receipt

    async def _read(self, run_id: str, after: int, limit: int | None) -> StoredJournal:
        for _ in range(3):
            try:
                return await read_journal(self._shelf, await self._log(run_id), after, limit)
            except BehindError:  # somebody has removed old entries in the meantime
                continue
        raise forgotten(run_id)

    # --- waiting ---

    async def _wait(self, run_id: str, after: int, timeout: float | None) -> bool:
        log = await self._log(run_id)
        if log.state.last > after or timeout == 0:
            return log.state.last > after
        listener = secrets.token_hex(8)
        try:
            async with asyncio.timeout(timeout):
                while log.state.last <= after:
                    await self._listen(log, listener, time.time() + 2 * _LISTEN_FOR)
                    await log.follow()
                    if log.state.is_deleted:
                        raise not_found(run_id)
                    if log.state.last <= after:
                        # Not for longer, as whoever has appended may have died before he could say so.
                        await self._shelf.take(log.key(f"news/{listener}"), _LISTEN_FOR)
        except TimeoutError:
            return False
        except BehindError:
            await self._log(run_id)  # it has been deleted, or old entries were removed: then there are new ones
            return True
        finally:
            await self._listen(log, listener, 0.0)
        return True

    async def _listen(self, log: RunLog, listener: str, end: float) -> None:
        """Has a listener told of news until some time; by then it says so again, or is no more."""

        def change(listeners: dict[str, float]) -> dict[str, float]:
            others = {name: known for name, known in listeners.items() if known > time.time() and name != listener}
            return {**others, listener: end} if end else others

        await self._shelf.update(log.key("listeners"), change, default={}, ttl=4 * _LISTEN_FOR)

    async def _notify(self, log: RunLog) -> None:
        with suppress(StoreUnavailableError):  # what they wait for is there, and they will look for it themselves
            for listener in await self._shelf.get(log.key("listeners"), {}):
                await self._shelf.publish(log.key(f"news/{listener}"), ttl=4 * _LISTEN_FOR)


class _ClaimedMeanwhileError(Exception):
    """Somebody else has claimed the run, or released it, since it was looked at."""
