"""Who waits for entries is told, whoever appends them."""

import asyncio

import pytest

from miniagents.testing.checkpoint_store_conformance.base import Reopen, Store, StoreTests, begin, of, refused
from miniagents.testing.quiescence import quiescence

__all__ = ["WaitingTests"]

_PATIENCE = 20.0
_MANY = 8


class WaitingTests(StoreTests):
    """Tests of `wait`."""

    async def test_what_is_there_is_not_waited_for(self, store: Store) -> None:
        """If there are entries beyond the number, that is said at once."""
        claim = await begin(store)
        await store.append(claim, [of("a", "started"), of("a", "finished")])
        assert await store.wait(claim.run_id, 0) is True
        assert await store.wait(claim.run_id, 1, timeout=0) is True
        assert await store.wait(claim.run_id, 2, timeout=0) is False
        assert await store.wait(claim.run_id, 2, timeout=0.01) is False
        with pytest.raises(ValueError, match="timeout"):
            await store.wait(claim.run_id, 0, timeout=-1)

    @pytest.mark.parametrize("by", ["append", "tell"])
    @pytest.mark.parametrize("elsewhere", [False, True])
    async def test_who_waits_is_told(self, store: Store, reopen: Reopen, by: str, elsewhere: bool) -> None:
        """Whoever waits, here or with another object, is told of an entry, and not of those before it."""
        claim = await begin(store)
        await store.append(claim, [of("a", "started")])
        waiting = await reopen() if elsewhere else store
        first, second = (asyncio.ensure_future(waiting.wait(claim.run_id, after)) for after in (1, 2))
        await _at_rest()
        assert not first.done()
        for future in (first, second):
            assert not second.done()
            if by == "append":
                await store.append(claim, [of("a", "note")])
            else:
                await store.tell(claim.run_id, of("a", "note"))
            async with asyncio.timeout(_PATIENCE):
                assert await future is True

    async def test_other_runs_wake_nobody(self, store: Store) -> None:
        """Entries of another run, and claims and statuses of the same one, are not what is waited for."""
        claim, other = await begin(store), await begin(store)
        waiter = asyncio.ensure_future(store.wait(claim.run_id, 0, timeout=0.2))
        await store.append(other, [of("a", "started")])
        await store.append(claim, [], status="paused")
        await claim.release()
        assert await waiter is False

    async def test_many_wait(self, store: Store, reopen: Reopen) -> None:
        """All who wait are told."""
        claim = await begin(store)
        stores = (store, await reopen())
        waiters = [asyncio.ensure_future(stores[number % 2].wait(claim.run_id, 0)) for number in range(_MANY)]
        await _at_rest()
        await stores[1].tell(claim.run_id, of("", "note"))
        async with asyncio.timeout(_PATIENCE):
            assert await asyncio.gather(*waiters) == [True] * _MANY

    async def test_who_follows_misses_nothing(self, store: Store, reopen: Reopen) -> None:
        """A reader who waits and reads, again and again, gets each entry once, in order."""
        claim, reader = await begin(store), await reopen()

        async def follow() -> list[int]:
            seen: list[int] = []
            while len(seen) < 3 * _MANY:
                assert await reader.wait(claim.run_id, len(seen))
                seen += [entry.sequence for entry in await reader.read(claim.run_id, len(seen))]
            return seen

        following = asyncio.ensure_future(follow())
        for number in range(_MANY):
            await store.append(claim, [of("a", "note"), of("a", "note")])
            await store.tell(claim.run_id, of("", "note"))
            if number % 3 == 0:
                await _at_rest()
        async with asyncio.timeout(_PATIENCE):
            assert await following == list(range(1, 3 * _MANY + 1))

    async def test_a_run_that_is_removed(self, store: Store, reopen: Reopen) -> None:
        """Who waits for a run that is removed does not wait for ever."""
        await store.create("run", workflow="tests")
        waiter = asyncio.ensure_future(store.wait("run", 0))
        await _at_rest()
        await (await reopen()).delete("run")
        with refused("RunNotFoundError"):
            async with asyncio.timeout(_PATIENCE):
                await waiter

    async def test_who_waits_no_more(self, store: Store) -> None:
        """A wait that is cancelled, at whatever moment, harms nobody."""
        claim = await begin(store)
        waiters = [asyncio.ensure_future(store.wait(claim.run_id, 0)) for _ in range(_MANY)]
        for turns, waiter in enumerate(waiters[1:]):
            for _ in range(turns):
                await asyncio.sleep(0)
            waiter.cancel()
        await asyncio.wait(waiters[1:])
        await _at_rest()
        await store.append(claim, [of("a", "started")])
        async with asyncio.timeout(_PATIENCE):
            assert await waiters[0] is True
        assert all(waiter.cancelled() for waiter in waiters[1:])


async def _at_rest() -> None:
    """Lets who is about to wait do so. It may have to ask a thread or a server before: then it is a matter of luck."""
    await asyncio.sleep(0.05)
    await quiescence()
