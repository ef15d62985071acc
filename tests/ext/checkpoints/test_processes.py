"""Checkpoints of several processes, some of which are really killed."""

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest

from miniagents import Message
from miniagents.ext.checkpoints import CheckpointStore, Entry, NewEntry, RunClaimedError
from tests.ext.checkpoints.processes import (
    Place,
    append_for_ever,
    claim_and_wait,
    claim_late,
    opened,
    running,
    tell_later,
)

_KILLS = 8


@pytest.fixture(params=["sqlite", "files", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "redis":
        return "redis", request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix")
    return request.param, str(tmp_path / "runs"), ""


async def test_whoever_is_killed_has_lost_nothing(place: Place) -> None:
    """After kill -9 at any moment all that was confirmed is there, no group is half there, and others go on at once."""
    async with opened(place) as store:
        await store.create("run", workflow="tests")
        for kill in range(_KILLS):
            with running(append_for_ever, place) as child:
                confirmed = child.said()
                for _ in range(random.randint(1, 6)):
                    confirmed = child.said()
                time.sleep(random.random() * 0.01)
                child.kill()
                while (more := child.said()) is not None:
                    confirmed = more
            entries = await store.read("run")
            assert len(entries) >= confirmed
            _check(entries)
            if kill % 2:
                async with await store.claim("run") as claim:  # although the lease was for a minute
                    (told,) = await store.append(claim, [NewEntry("state", "parent", data={"group": kill, "size": 1})])
                assert told.sequence == len(entries) + 1
            assert (await store.info("run")).status == await _status(store)


def _check(entries: list[Entry]) -> None:
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
    start = 0
    while start < len(entries):
        size = entries[start].data["size"]
        group = entries[start : start + size]
        assert len(group) == size
        assert {entry.data["group"] for entry in group} == {group[0].data["group"]}
        if "said" in group[0].data:
            assert all(entry.data["said"] == [Message("shared"), Message(f"own {start}")] for entry in group)
        start += size


async def _status(store: CheckpointStore) -> str:
    groups = [entry for entry in await store.read("run") if "said" in entry.data]
    return f"at {groups[-1].sequence - groups[-1].data['size']}"


async def test_two_processes_claim_a_run(place: Place) -> None:
    """Of two processes that claim a run at once one gets it, and the other is told which; if it dies, others get it."""
    async with opened(place) as store:
        await store.create("run", workflow="tests")
        with running(claim_and_wait, place) as first, running(claim_and_wait, place) as second:
            children = (first, second)
            assert [child.said() for child in children] == ["ready", "ready"]
            for child in children:
                child.tell("now")
            outcomes = {child: child.said() for child in children}
            winner, loser = sorted(children, key=lambda child: outcomes[child][0] is not None)
            assert outcomes[winner][0] is None
            error, message, _ = outcomes[loser]
            assert error == "RunClaimedError"
            assert f"process {outcomes[winner][2]} " in message
            assert (await store.info("run")).claimed_by == outcomes[winner][1]
            with pytest.raises(RunClaimedError):
                await store.claim("run")
            winner.kill()
            assert (await store.info("run")).claimed_by is None
            async with await store.claim("run") as claim:
                assert claim.epoch == 2


async def test_a_process_that_was_held_for_too_long(place: Place) -> None:
    """A process that hangs for longer than its lease loses the run, and changes nothing when it goes on."""
    async with opened(place) as store:
        await store.create("run", workflow="tests")
        with running(claim_late, place) as child:
            assert child.said() == "claimed"
            child.signal(signal.SIGSTOP)
            claim = await _claim_when_free(store)
            child.signal(signal.SIGCONT)
            await store.append(claim, [NewEntry("started", "a", attempt=2)])
            child.tell("go on")
            assert child.said() == "StaleClaimError"
            await store.append(claim, [NewEntry("finished", "a", attempt=2)])
            assert [(entry.kind, entry.attempt) for entry in await store.read("run")] == [
                ("started", 1),
                ("started", 2),
                ("finished", 2),
            ]
            assert (await store.info("run")).status == "running"


async def _claim_when_free(store: CheckpointStore):  # type: ignore[no-untyped-def]
    async with asyncio.timeout(20):
        while True:
            try:
                return await store.claim("run")
            except RunClaimedError:
                await asyncio.sleep(0.02)


async def test_an_answer_from_another_process(place: Place) -> None:
    """Whoever waits is told of what another process has said."""
    async with opened(place) as store:
        await store.create("run", workflow="tests")
        async with await store.claim("run") as claim:
            await store.append(claim, [NewEntry("question", "a")])
            with running(tell_later, place) as child:
                assert child.said() == "ready"
                waiter = asyncio.ensure_future(store.wait("run", 1))
                await asyncio.sleep(0.05)
                assert not waiter.done()
                child.tell("now")
                answer = child.said()
                async with asyncio.timeout(20):
                    assert await waiter is True
                assert await store.read("run", 1) == [answer]
