"""Results are recorded once, and what comes late changes nothing."""

from typing import Any

import pytest

from miniagents.testing.checkpoint_store_conformance.base import Reopen, Store, StoreTests, begin, of, refused

__all__ = ["OutcomeTests"]

_RECORDED: dict[str, tuple[list[Any], Any, int]] = {
    "started_twice": ([of("a", "started")], of("a", "started", data="other"), 1),
    "finished_twice": ([of("a", "started"), of("a", "finished")], of("a", "finished", data="other"), 2),
    "failed_twice": ([of("a", "failed")], of("a", "failed"), 1),
    "failed_then_finished": ([of("a", "started"), of("a", "failed")], of("a", "finished"), 2),
    "finished_then_failed": ([of("a", "finished")], of("a", "failed"), 1),
    "ended_then_started": ([of("a", "failed")], of("a", "started"), 1),
    "finished_then_tried_again": ([of("a", "started"), of("a", "finished")], of("a", "started", attempt=2), 2),
    "finished_by_a_later_attempt": ([of("a", "finished", attempt=1)], of("a", "finished", attempt=3), 1),
    "the_run_itself": ([of("", "finished")], of("", "failed"), 1),
}
_STALE: dict[str, tuple[list[Any], Any]] = {
    "finished": ([of("a", "started"), of("a", "started", attempt=2)], of("a", "finished")),
    "failed": ([of("a", "started", attempt=2)], of("a", "failed", attempt=1)),
    "started": ([of("a", "started", attempt=3)], of("a", "started", attempt=2)),
    "another_kind": ([of("a", "started", attempt=2)], of("a", "question", attempt=1)),
    "after_the_end": ([of("a", "started", attempt=2), of("a", "finished", attempt=2)], of("a", "finished", attempt=1)),
}


class OutcomeTests(StoreTests):
    """Tests of what `append` refuses."""

    @pytest.mark.parametrize("name", _RECORDED)
    async def test_what_is_recorded_once(self, store: Store, reopen: Reopen, name: str) -> None:
        """What is recorded already is not recorded again; the error has the entry. It is so for later claims, too."""
        before, entry, sequence = _RECORDED[name]
        claim = await begin(store)
        recorded = await store.append(claim, before)
        with refused("RecordedAlreadyError", claim.run_id) as caught:
            await store.append(claim, [entry], status="done")
        assert caught.value.recorded == recorded[sequence - 1]
        await claim.release()
        other = await reopen()
        async with await other.claim(claim.run_id) as later:
            with refused("RecordedAlreadyError") as caught:
                await other.append(later, [entry])
            assert caught.value.recorded == recorded[sequence - 1]
        assert await store.read(claim.run_id) == recorded
        assert (await store.info(claim.run_id)).status == "running"

    @pytest.mark.parametrize("name", _STALE)
    async def test_what_comes_from_an_old_attempt(self, store: Store, reopen: Reopen, name: str) -> None:
        """What an attempt brings after a newer one has started is refused, for later claims, too."""
        before, entry = _STALE[name]
        claim = await begin(store)
        recorded = await store.append(claim, before)
        with refused("StaleAttemptError", "a"):
            await store.append(claim, [entry])
        await claim.release()
        other = await reopen()
        async with await other.claim(claim.run_id) as later:
            with refused("StaleAttemptError"):
                await other.append(later, [entry])
        assert await store.read(claim.run_id) == recorded

    async def test_attempts_visits_and_nodes_are_told_apart(self, store: Store) -> None:
        """Further attempts, other visits and other nodes are recorded; other kinds of entries as often as wanted."""
        claim = await begin(store)
        entries = [
            *(of("a", "started"), of("a", "question", data=1), of("a", "question", data=2), of("a", "failed")),
            *(of("a", "started", attempt=2), of("a", "finished", attempt=2), of("a", "note", attempt=2)),
            *(of("a", "started", visit=2), of("a", "finished", visit=2)),
            *(of("b", "started"), of("b", "started", attempt=5), of("b", "failed", attempt=5)),
            *(of("", "started"), of("", "finished")),
        ]
        await store.append(claim, entries[:5])
        await store.append(claim, entries[5:])
        assert [tuple(entry)[1:6] for entry in await store.read(claim.run_id)] == entries

    async def test_all_or_none(self, store: Store, reopen: Reopen) -> None:
        """If one of several entries is refused none is appended, wherever it stands, and the others can be later."""
        claim = await begin(store)
        await store.append(claim, [of("a", "started", attempt=2)])
        for refusable in (of("a", "finished", attempt=1), of("a", "started", attempt=2)):
            for entries in ([refusable, of("b", "started")], [of("b", "started"), of("b", "finished"), refusable]):
                with refused("CheckpointStoreError"):
                    await store.append(claim, entries, status="done")
        with refused("RecordedAlreadyError"):
            await store.append(claim, [of("b", "started"), of("b", "finished"), of("b", "finished")])
        assert len(await (await reopen()).read(claim.run_id)) == 1
        await store.append(claim, [of("b", "started"), of("b", "finished")])
        assert len(await store.read(claim.run_id)) == 3

    @pytest.mark.parametrize("kind", ["started", "finished", "failed"])
    async def test_who_does_not_work_at_the_run_tells_no_outcome(self, store: Store, kind: str) -> None:
        """What has become of a visit is recorded with a claim only."""
        claim = await begin(store)
        with pytest.raises(ValueError, match=kind):
            await store.tell(claim.run_id, of("a", kind))
        assert await store.read(claim.run_id) == []
