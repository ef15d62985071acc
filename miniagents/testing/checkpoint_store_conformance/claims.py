"""One at a time works at a run, and whoever was slow is told."""

import asyncio
import gc
import time
from contextlib import suppress

import pytest

from miniagents.testing.checkpoint_store_conformance.base import (
    Reopen,
    Store,
    StoreTests,
    begin,
    of,
    refused,
    when_free,
)
from miniagents.testing.quiescence import assert_no_leftovers

__all__ = ["ClaimTests"]

_MANY = 12


class ClaimTests(StoreTests):
    """Tests of `claim`, and of what can be done with a claim."""

    async def test_one_has_the_claim(self, store: Store, reopen: Reopen) -> None:
        """While somebody works at a run nobody else gets it; the error says who that is, and until when."""
        claim = await begin(store)
        for another in (store, await reopen()):
            with refused("RunClaimedError", claim.run_id) as caught:
                await another.claim(claim.run_id)
            assert caught.value.holder == str(claim.holder)
            assert caught.value.run_id == claim.run_id
            assert time.time() - 10 < caught.value.until < time.time() + 60
        await store.append(claim, [of("node", "started")])

    async def test_one_of_many_gets_it(self, store: Store, reopen: Reopen) -> None:
        """Of many who claim a run at the same time one gets it, and the others are told."""
        await store.create("run", workflow="tests")
        other = await reopen()
        outcomes = await asyncio.gather(
            *((store, other)[number % 2].claim("run") for number in range(_MANY)), return_exceptions=True
        )
        claims = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert len(claims) == 1
        assert {type(error).__name__ for error in outcomes if error not in claims} == {"RunClaimedError"}
        await store.append(claims[0], [of("node", "started")])

    async def test_a_released_run_can_be_claimed(self, store: Store, reopen: Reopen) -> None:
        """After the release others get the run, with a higher number; nothing can be appended with the old claim."""
        claim = await begin(store)
        async with claim:
            await store.append(claim, [of("node", "started")])
            assert not claim.is_lost
        assert claim.is_lost
        await claim.until_lost()
        other = await reopen()
        async with await other.claim(claim.run_id) as second:
            assert second.epoch > claim.epoch
            with refused("StaleClaimError", "released"):
                await store.append(claim, [of("node", "finished")])
            with refused("StaleClaimError"):
                await claim.renew()
            await claim.release()
            with refused("RunClaimedError"):
                await store.claim(claim.run_id)
            await other.append(second, [of("node", "finished")])
        assert [entry.kind for entry in await store.read(claim.run_id)] == ["started", "finished"]

    async def test_a_claim_that_nobody_renews_ends(self, store: Store, reopen: Reopen) -> None:
        """Once the lease is over others get the run; from then on the old claim is good for nothing."""
        await store.create("run", workflow="tests")
        old = await store.claim("run", lease=0.05, auto_renew=False)
        await store.append(old, [of("node", "started", attempt=1)])
        other = await reopen()
        new = await when_free(lambda: other.claim("run"))
        assert new.epoch > old.epoch
        waiter = asyncio.ensure_future(old.until_lost())
        with refused("StaleClaimError", "run"):
            await store.append(old, [of("node", "finished", attempt=1), of("node", "note")], status="done")
        await waiter
        assert old.is_lost
        assert not new.is_lost
        await old.release()
        assert (await store.info("run")).claimed_by == str(new.holder)
        assert (await store.info("run")).status == "running"
        await other.append(new, [of("node", "started", attempt=2)])
        assert [(entry.kind, entry.attempt) for entry in await store.read("run")] == [("started", 1), ("started", 2)]

    async def test_an_old_claim_holds_as_long_as_nobody_wants_the_run(self, store: Store) -> None:
        """A lease that is over harms nobody whose run is not claimed by another one; it can begin anew."""
        await store.create("run", workflow="tests")
        claim = await store.claim("run", lease=0.01, auto_renew=False)
        await asyncio.sleep(0.03)
        assert (await store.info("run")).claimed_by is None
        await store.append(claim, [of("node", "started")])
        claim.lease = 60.0
        await claim.renew()
        with refused("RunClaimedError"):
            await store.claim("run")

    async def test_a_claim_is_renewed(self, store: Store, reopen: Reopen) -> None:
        """Whoever lives keeps the run, far beyond the lease, without doing anything."""
        await store.create("run", workflow="tests")
        other = await reopen()
        async with await store.claim("run", lease=1.0) as claim:
            end = time.monotonic() + 1.2
            while time.monotonic() < end:
                with refused("RunClaimedError"):
                    await other.claim("run")
                await asyncio.sleep(0.05)
            await store.append(claim, [of("node", "started")])

    async def test_whoever_was_overtaken_learns_it_when_renewing(self, store: Store, reopen: Reopen) -> None:
        """A claim that another one has taken over is found to be lost without anything being appended."""
        await store.create("run", workflow="tests")
        old = await store.claim("run", lease=0.05, auto_renew=False)
        other = await reopen()
        new = await when_free(lambda: other.claim("run"))
        with refused("StaleClaimError"):
            await old.renew()
        assert old.is_lost
        assert not new.is_lost

    async def test_a_claim_that_is_dropped_is_not_renewed(self, store: Store, reopen: Reopen) -> None:
        """A claim that nobody has any more ends with its lease."""
        await store.create("run", workflow="tests")
        claim = await store.claim("run", lease=0.1)
        del claim
        gc.collect()
        other = await reopen()
        await when_free(lambda: other.claim("run"))

    async def test_nothing_is_left_behind(self, store: Store) -> None:
        """Nothing goes on working when claims are released and waits are over."""
        await store.create("run", workflow="tests")
        async with assert_no_leftovers():
            async with await store.claim("run", lease=0.03) as claim:
                await store.append(claim, [of("node", "started")])
                await asyncio.sleep(0.05)
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await store.wait("run", 5)
            assert await store.wait("run", 5, timeout=0.01) is False

    async def test_closing_releases(self, store: Store, reopen: Reopen) -> None:
        """A store that is closed gives the runs free that were claimed with it."""
        await store.create("run", workflow="tests")
        other = await reopen()
        claim = await other.claim("run")
        if other is not store:
            await other.close()
            assert claim.is_lost
            claim = await store.claim("run")
        assert not claim.is_lost

    @pytest.mark.parametrize("lease", [0, -1.0, float("inf"), float("nan")])
    async def test_what_is_no_lease(self, store: Store, lease: float) -> None:
        """A lease is a positive number of seconds."""
        await store.create("run", workflow="tests")
        with pytest.raises(ValueError, match="lease"):
            await store.claim("run", lease=lease)
