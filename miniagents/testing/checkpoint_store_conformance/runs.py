"""What is known of runs: they are created once, listed, and removed."""

import time

import pytest

from miniagents.message import Message
from miniagents.testing.checkpoint_store_conformance.base import (
    Reopen,
    Store,
    StoreTests,
    begin,
    of,
    refused,
    when_free,
)

__all__ = ["RunTests"]


class RunTests(StoreTests):
    """Tests of `create`, `info`, `runs` and `delete`."""

    async def test_what_is_known_of_a_run(self, store: Store, reopen: Reopen) -> None:
        """A run is known by its id, with what it was created with and its status; and whether somebody works at it."""
        before = time.time()
        await store.create("run", workflow="report", fingerprint={"nodes": ["a"], "versions": (1, 2)})
        info = await (await reopen()).info("run")
        assert info[:4] == ("run", "report", {"nodes": ["a"], "versions": (1, 2)}, "running")
        assert before - 1 <= info.created <= info.updated <= time.time() + 1
        assert info.claimed_by is None
        claim = await store.claim("run")
        await store.append(claim, [of("a", "started")], status="waiting")
        later = await (await reopen()).info("run")
        assert later[:5] == (*info[:3], "waiting", info.created)
        assert later.updated >= info.updated
        assert later.claimed_by == str(claim.holder)
        await store.append(claim, [of("a", "finished")])
        assert (await store.info("run")).status == "waiting"
        await claim.release()
        assert (await store.info("run")).claimed_by is None

    async def test_a_run_is_created_once(self, store: Store, reopen: Reopen) -> None:
        """A second run of the same id is refused, and changes nothing of the first."""
        await store.create("run", workflow="first", status="new")
        for another in (store, await reopen()):
            with refused("RunExistsError", "run"):
                await another.create("run", workflow="second")
        info = await store.info("run")
        assert (info.workflow, info.status) == ("first", "new")
        assert len(await store.runs()) == 1

    async def test_runs_that_are_not_there(self, store: Store) -> None:
        """Whatever is asked of a run that nobody has created says that there is none."""
        for ask in (store.info, store.read, store.claim):
            with refused("RunNotFoundError", "nobody"):
                await ask("nobody")
        with refused("RunNotFoundError"):
            await store.tell("nobody", of("", "note"))
        with refused("RunNotFoundError"):
            await store.wait("nobody", 0)
        assert await store.delete("nobody") is False
        assert await store.runs() == []

    @pytest.mark.parametrize(
        "run_id",
        ["a/b", "..", ".", "a b", "Ä", "日本", "x" * 200, "日" * 200, ".hidden", "a:b*?", "%2E", "\n", "a%2Fb"],
    )
    async def test_any_id_of_a_run(self, store: Store, reopen: Reopen, run_id: str) -> None:
        """Runs may have any id, and are not mistaken for each other."""
        await store.create("a", workflow="other")
        claim = await begin(store, run_id)
        await store.append(claim, [of("node", "started")])
        other = await reopen()
        assert len(await other.read(run_id)) == 1
        assert (await other.info(run_id)).run_id == run_id
        assert {run.run_id for run in await other.runs()} == {"a", run_id}
        assert await other.read("a") == []

    @pytest.mark.parametrize("run_id", ["", "x" * 201, "a\x00", "\ud83d"])
    async def test_what_is_no_id(self, store: Store, run_id: str) -> None:
        """Ids that are empty, endless or half are refused."""
        with pytest.raises(ValueError, match="id of a run"):
            await store.create(run_id, workflow="tests")
        with pytest.raises(TypeError):
            await store.create(1, workflow="tests")

    async def test_listing(self, store: Store, reopen: Reopen) -> None:
        """Runs are listed by workflow and status, the newest first."""
        for number in range(6):
            await store.create(f"run-{number}", workflow="even" if number % 2 == 0 else "odd", status="new")
        claim = await store.claim("run-2")
        await store.append(claim, [], status="done")
        other = await reopen()
        assert [run.run_id for run in await other.runs()] == [f"run-{number}" for number in (5, 4, 3, 2, 1, 0)]
        assert [run.run_id for run in await other.runs(workflow="even")] == ["run-4", "run-2", "run-0"]
        assert [run.run_id for run in await other.runs(status="new", workflow="even")] == ["run-4", "run-0"]
        assert [run.run_id for run in await other.runs(limit=2)] == ["run-5", "run-4"]
        assert [run.run_id for run in await other.runs(status="done", limit=None)] == ["run-2"]
        assert [bool(run.claimed_by) for run in await other.runs(workflow="even")] == [False, True, False]
        assert await other.runs(workflow="none") == []
        with pytest.raises(ValueError, match="runs"):
            await other.runs(limit=0)

    async def test_removing_a_run(self, store: Store, reopen: Reopen) -> None:
        """A removed run is gone, with all that was its own; another one of its id begins anew."""
        shared, own = Message("shared"), Message("own")
        claim, other_claim = await begin(store, "run"), await begin(store, "other")
        await store.append(claim, [of("node", "finished", data=[shared, own])], status="done")
        await store.append(other_claim, [of("node", "finished", data=[shared])])
        await claim.release()
        assert await (await reopen()).delete("run") is True
        with refused("RunNotFoundError"):
            await store.read("run")
        assert [run.run_id for run in await store.runs()] == ["other"]
        assert (await store.read("other"))[0].data == [shared]
        claim = await begin(store, "run")
        assert (await store.info("run")).status == "running"
        assert await store.read("run") == []
        await store.append(claim, [of("node", "finished", data=[own, shared])])
        assert (await (await reopen()).read("run"))[0].data == [own, shared]

    async def test_a_run_at_work_is_not_removed(self, store: Store, reopen: Reopen) -> None:
        """A run at which somebody works cannot be removed."""
        claim = await begin(store)
        with refused("RunClaimedError"):
            await (await reopen()).delete(claim.run_id)
        await store.append(claim, [of("node", "started")])

    @pytest.mark.parametrize("comes_again", [False, True])
    async def test_a_claim_of_a_run_that_was_removed(self, store: Store, reopen: Reopen, comes_again: bool) -> None:
        """Nothing can be appended with the claim of a run that was removed, nor to a new run of the same id."""
        await store.create("run", workflow="tests")
        claim = await store.claim("run", lease=0.05, auto_renew=False)
        await store.append(claim, [of("node", "started")])
        other = await reopen()
        await when_free(lambda: other.delete("run"))
        if comes_again:
            await begin(other, "run")
        with refused("StaleClaimError" if comes_again else "RunNotFoundError", "run"):
            await store.append(claim, [of("node", "finished")])
        assert claim.is_lost
        await claim.release()
        if comes_again:
            assert await other.read("run") == []
