"""What several do at the same time, and what was cancelled: nothing is lost, nothing is half there."""

import asyncio
from typing import Any

from miniagents.message import Message
from miniagents.testing.checkpoint_store_conformance.base import Reopen, Store, StoreTests, begin, of

__all__ = ["CrowdTests"]

_MANY = 10
_CANCELLED = 40


class CrowdTests(StoreTests):
    """Tests of several objects, and of calls that are cancelled."""

    async def test_many_append_and_tell(self, store: Store, reopen: Reopen) -> None:
        """Each entry of many writers is there once, entries of one call stand together, numbers have no gaps."""
        claim, other = await begin(store), await reopen()

        async def append(number: int) -> list[Any]:
            found: list[Any] = await store.append(claim, [of(f"a{number}", kind) for kind in ("started", "finished")])
            return found

        async def tell(number: int) -> list[Any]:
            return [await other.tell(claim.run_id, of(f"t{number}", "note", data=Message(f"note {number}")))]

        groups = await asyncio.gather(*(act(number) for number in range(_MANY) for act in (append, tell)))
        entries = await store.read(claim.run_id)
        assert [entry.sequence for entry in entries] == list(range(1, 3 * _MANY + 1))
        assert sorted(entry for group in groups for entry in group) == entries
        assert all(group[-1].sequence - group[0].sequence == len(group) - 1 for group in groups)
        assert await other.read(claim.run_id) == entries

    async def test_many_runs(self, store: Store, reopen: Reopen) -> None:
        """Runs do not get into each other's way."""
        other = await reopen()

        async def work(number: int) -> list[Any]:
            own = (store, other)[number % 2]
            async with await begin(own, f"run-{number}") as claim:
                for visit in range(3):
                    await own.append(claim, [of("a", "started", visit), of("a", "finished", visit, data=number)])
            found: list[Any] = await own.read(f"run-{number}")
            return found

        for number, entries in enumerate(await asyncio.gather(*(work(number) for number in range(_MANY)))):
            assert [(entry.sequence, entry.visit) for entry in entries] == [(n + 1, n // 2) for n in range(6)]
            assert {entry.data for entry in entries[1::2]} == {number}
        assert len(await store.runs()) == _MANY

    async def test_reading_while_entries_come_and_go(self, store: Store, reopen: Reopen) -> None:
        """Who reads while others append and remove gets what is there at some moment, without gaps."""
        claim, other = await begin(store), await reopen()

        async def write() -> None:
            for number in range(1, 6 * _MANY):
                said = [Message(f"said {number - less}") for less in range(3)]
                await store.append(claim, [of("a", "state", number, data=said), of("a", "note", number)])
                if number % 3 == 0:
                    await store.prune(claim, before=2 * number - 3)

        async with asyncio.TaskGroup() as group:
            writing = group.create_task(write())
            while not writing.done():
                await asyncio.sleep(0)
                entries = await other.read(claim.run_id)
                sequences = [entry.sequence for entry in entries]
                assert not sequences or sequences == list(range(sequences[0], sequences[-1] + 1))
                assert not sequences or sequences[-1] % 2 == 0
                assert all(entry.data[0].text == f"said {entry.visit}" for entry in entries if entry.kind == "state")

    async def test_one_of_many_creates(self, store: Store, reopen: Reopen) -> None:
        """Of many who create a run of the same id at the same time one does."""
        other = await reopen()
        outcomes = await asyncio.gather(
            *((store, other)[number % 2].create("run", workflow=f"w{number}") for number in range(_MANY)),
            return_exceptions=True,
        )
        assert outcomes.count(None) == 1
        assert {type(error).__name__ for error in outcomes if error is not None} == {"RunExistsError"}
        assert (await store.info("run")).workflow == f"w{outcomes.index(None)}"
        assert len(await store.runs()) == 1

    async def test_an_append_that_is_cancelled(self, store: Store, reopen: Reopen) -> None:
        """Of an append that is cancelled, at whatever moment, everything is there or nothing, and others go on."""
        claim = await begin(store)
        confirmed: list[int] = []
        for number in range(_CANCELLED):
            entries = [of("a", "started", number), of("a", "note", number, data=Message(f"{number}"))]
            append = asyncio.ensure_future(store.append(claim, [*entries, of("a", "finished", number)]))
            for _ in range(number % 20):
                await asyncio.sleep(0)
            append.cancel()
            await asyncio.wait([append])
            if not append.cancelled():
                confirmed.append(number)
        (last,) = await store.append(claim, [of("b", "finished")])
        entries = await (await reopen()).read(claim.run_id)
        assert [entry.sequence for entry in entries] == list(range(1, last.sequence + 1))
        visits = [entry.visit for entry in entries[:-1]]
        assert visits == [visit for visit in sorted(set(visits)) for _ in range(3)]
        assert set(confirmed) <= set(visits)
        assert [entry.data for entry in entries[1:-1:3]] == [Message(f"{visit}") for visit in visits[::3]]

    async def test_what_was_cancelled_can_be_done_again(self, store: Store) -> None:
        """After a cancelled append of a result it can be appended again, and is recorded once in any case."""
        claim = await begin(store)
        for number in range(_CANCELLED):
            append = asyncio.ensure_future(store.append(claim, [of("a", "finished", number)]))
            for _ in range(number % 20):
                await asyncio.sleep(0)
            append.cancel()
            await asyncio.wait([append])
            try:
                await store.append(claim, [of("a", "finished", number)])
            except Exception as error:
                assert type(error).__name__ == "RecordedAlreadyError"  # noqa: PT017
                assert error.recorded.visit == number  # type: ignore[attr-defined]  # noqa: PT017
        assert [entry.visit for entry in await store.read(claim.run_id)] == list(range(_CANCELLED))

    async def test_a_claim_that_is_cancelled(self, store: Store, reopen: Reopen) -> None:
        """A claim that is cancelled, at whatever moment, holds nobody up."""
        await store.create("run", workflow="tests")
        for number in range(_CANCELLED):
            claiming = asyncio.ensure_future(store.claim("run", lease=60))
            for _ in range(number % 20):
                await asyncio.sleep(0)
            claiming.cancel()
            await asyncio.wait([claiming])
            if not claiming.cancelled():
                await claiming.result().release()
            await (await (await reopen()).claim("run", lease=60)).release()

    async def test_other_calls_that_are_cancelled(self, store: Store, reopen: Reopen) -> None:
        """Tells, reads and statuses that are cancelled, at whatever moment, leave a run that can be used."""
        for number in range(_CANCELLED):
            run_id = f"run-{number}"
            claim = await begin(store, run_id)
            calls = [
                store.append(claim, [], status="done"),
                store.tell(run_id, of("", "note")),
                store.read(run_id),
                claim.renew(),
                store.prune(claim, before=1),
            ]
            tasks = [asyncio.ensure_future(call) for call in calls]
            for _ in range(number % 20):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() or task.exception() is None for task in tasks)
            tell = await store.tell(run_id, of("", "note"))
            assert [entry.sequence for entry in await store.read(run_id)] == list(range(1, tell.sequence + 1))
