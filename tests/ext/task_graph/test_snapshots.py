"""Snapshots as they are written: which, where, what is in them, and what happens when they cannot be."""

import asyncio
import json
import shutil
import stat
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.cache import MemoryCache
from miniagents.ext.cache.namespaces import Namespace
from miniagents.ext.checkpoints import (
    CheckpointStoreError,
    Claim,
    Entry,
    FileCheckpointStore,
    SQLiteCheckpointStore,
    StoreFullError,
)
from miniagents.ext.checkpoints.entries import EntryLike
from miniagents.ext.graph.run import current_visit
from miniagents.ext.task_graph import AgentModule, FlowDecision, Node, SnapshotControl, TaskStatus
from miniagents.testing import quiescence
from tests.ext.checkpoints.disks import little_room
from tests.ext.task_graph.helpers import Does, agent_of, flow, new_task, node, results, run, runs, statuses, success
from tests.ext.task_graph.snapshot_helpers import data_of, recording_agent, snapshots, take_up, written


class Waits(FileCheckpointStore):
    """A store that writes the ends of some nodes when it is told to, or fails to."""

    def __init__(self, folder: Path, *waiting: str) -> None:
        super().__init__(folder)
        self.waiting = set(waiting)
        self.is_asked = asyncio.Event()
        self.may_write = asyncio.Event()
        self.fails: CheckpointStoreError | None = None

    async def append(self, claim: Claim, entries: Iterable[EntryLike], *, status: str | None = None) -> list[Entry]:
        entries = list(entries)
        if any(entry[1] in self.waiting for entry in entries):
            self.is_asked.set()
            await self.may_write.wait()
            if self.fails:
                raise self.fails
        return await super().append(claim, entries, status=status)


# --- which, and where ---


async def test_none_are_written_unless_that_is_wanted(tmp_path: Path) -> None:
    """Without `auto_snapshot` nothing is written, whatever the nodes say."""
    agent = agent_of(node("a", snapshot="always"), snapshot_dir=tmp_path / "root")
    await run(agent)
    assert list(tmp_path.iterdir()) == []


async def test_where_they_are(tmp_path: Path) -> None:
    """Each is a folder of JSON in that of its task, named by number and node, and private to its user."""
    agent = recording_agent(tmp_path / "root", node("plan"), node("do it", after=["plan"]))
    task = await run(agent)
    names = [path.name for path in snapshots(tmp_path / "root", task)]
    assert [name.lstrip("0") for name in names] == ["1_run", "2_plan", "3_do-it", "4_run"]
    for path in (tmp_path / "root").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        if path.suffix == ".json":
            assert json.loads(path.read_text())["format"] == 1
        assert not path.name.startswith(".new")


async def test_where_they_are_unless_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the agent says counts more than what the environment says, and that more than the user's state folder."""
    monkeypatch.setenv("MINIAGENTS_STATE", str(tmp_path / "state"))
    for variable, expected in (
        (None, tmp_path / "state" / "snapshots"),
        ("MINIAGENTS_SNAPSHOT", tmp_path / "ours"),
        ("ASIMOV_SNAPSHOT", tmp_path / "documented"),
    ):
        if variable is not None:
            monkeypatch.setenv(variable, str(expected))
        task = await run(recording_agent(None, node("a")))
        assert written(expected, task) == ["a"]
    task = await run(recording_agent(tmp_path / "own", node("a")))
    assert written(tmp_path / "own", task) == ["a"]


async def test_never_once_and_always(tmp_path: Path) -> None:
    """In a loop the end of a node is written never, at its first visit, or at each."""
    again = flow("again", FlowDecision(next_node="never", condition=_twice), after=["always"])
    agent = recording_agent(
        tmp_path,
        node("never", snapshot="never"),
        node("once", after=["never"], snapshot="once"),
        node("always", after=["once"], snapshot="always"),
        again,
        every=None,
    )
    task = await run(agent)
    assert runs(agent)["always"] == 3
    assert written(tmp_path, task) == ["once", "always", "always", "always"]


async def _twice(cache: Any, _: Any) -> bool:
    return bool(await cache.increment("rounds") <= 2)


async def test_nodes_can_be_given_the_enum(tmp_path: Path) -> None:
    """`SnapshotControl` says the same as its values."""
    assert Node(name="a", modules=[Does()], snapshot=SnapshotControl.ONCE) == node("a", Does(), snapshot="once")


async def test_any_store_will_do(tmp_path: Path) -> None:
    """With a `snapshot_store` they go there, and nothing goes elsewhere."""
    async with SQLiteCheckpointStore(tmp_path / "runs.db") as store:
        agent = agent_of(node("a", snapshot="always"), auto_snapshot=True, snapshot_store=store)
        task = await run(agent)
        assert [entry.node for entry in await store.read(str(task.id))] == ["", "a", ""]
        info = await store.info(str(task.id))
        assert (info.status, info.claimed_by) == ("complete", None)


async def test_the_status_of_a_task_is_known(tmp_path: Path) -> None:
    """The store says how a task has ended, and that one is at work."""
    at_work, may_end = asyncio.Event(), asyncio.Event()

    async def work(_: Any) -> None:
        at_work.set()
        await may_end.wait()

    agent = recording_agent(tmp_path, node("a", work), node("b", ValueError("no"), max_retries=1))
    task = new_task()
    async with FileCheckpointStore(tmp_path) as store, MiniAgents():
        running = asyncio.create_task(agent.run_task(task))
        await at_work.wait()
        assert (await store.info(str(task.id))).status == "executing"
        assert (await store.info(str(task.id))).claimed_by is not None
        may_end.set()
        await running
        assert (await store.info(str(task.id))).status == "partial"


# --- when ---


async def test_nothing_follows_before_a_snapshot_is_durable(tmp_path: Path) -> None:
    """A node counts as finished when its end is written; what depends on it waits for that, and nobody else."""
    store = Waits(tmp_path, "a")
    agent = agent_of(
        node("a", snapshot="always"),
        node("b", after=["a"]),
        node("c"),
        node("d", after=["c"]),
        auto_snapshot=True,
        snapshot_store=store,
    )
    async with store, MiniAgents():
        running = asyncio.create_task(agent.run_task(new_task()))
        await store.is_asked.wait()
        await quiescence()
        assert runs(agent) == {"a": 1, "b": 0, "c": 1, "d": 1}
        store.may_write.set()
        await running
        assert runs(agent)["b"] == 1


async def test_nodes_that_finish_at_the_same_moment(tmp_path: Path) -> None:
    """Each has its snapshot; the last one knows of all of them."""
    names = [f"n{number}" for number in range(20)]
    task = await run(recording_agent(tmp_path, *map(node, names), max_concurrent_tasks=20, snapshots_kept=100))
    assert sorted(written(tmp_path, task)) == sorted(names)
    agent = recording_agent(tmp_path, *map(node, names))
    await take_up(agent, snapshots(tmp_path, task)[-2])
    assert set(runs(agent).values()) == {0}
    assert results(agent) == {name: name for name in names}


async def test_a_decision_is_written_with_what_it_deletes(tmp_path: Path) -> None:
    """No snapshot of another node says that the variable is gone, and the decision still to be taken."""
    store = Waits(tmp_path, "decide")
    cache = MemoryCache()
    await cache.set("again", True)
    jump = FlowDecision(next_node="target", condition="again == true", condition_variables=["again"])
    agent = agent_of(
        flow("decide", jump, snapshot="always"),
        node("target", after=["decide"]),
        node("other", lambda _: asyncio.sleep(1), snapshot="always"),
        auto_snapshot=True,
        snapshot_store=store,
        cache=cache,
    )
    async with store, MiniAgents():
        task = new_task()
        running = asyncio.create_task(agent.run_task(task))
        await store.is_asked.wait()
        await quiescence()
        assert await cache.contains("again")
        store.may_write.set()
        await running
        assert not await cache.contains("again")
    for snapshot in snapshots(tmp_path, task):
        data = data_of(snapshot)
        if "again" in data["deleted"]:
            assert data["jumps"]["decide"]["delete"] == ["again"]
            break
    else:
        pytest.fail("that it was deleted is written nowhere")


class SlowToLook(MemoryCache):
    """A cache that takes two seconds to say what is in it."""

    async def _scan(self, namespace: Namespace) -> AsyncIterator[list[str]]:
        await asyncio.sleep(2)
        async for keys in super()._scan(namespace):
            yield keys


async def test_nothing_counts_as_finished_while_it_is_looked_where_the_run_stands(tmp_path: Path) -> None:
    """What is in the cache is not the work of nodes that began later than the snapshot says."""
    agent = recording_agent(
        tmp_path,
        node("a", snapshot="always"),
        node("b", lambda _: asyncio.sleep(1)),
        node("after b", lambda cache: cache.set("follows", True), after=["b"]),
        every=None,
        cache=SlowToLook(),
    )
    task = await run(agent)
    _, of_a, of_end = map(data_of, snapshots(tmp_path, task))
    assert "follows" not in of_a["cache"]
    assert "follows" in of_end["cache"]


async def test_a_run_that_is_repeated_while_it_is_looked_where_it_stands(tmp_path: Path) -> None:
    """If a node that begins again has put something into the cache, the snapshot knows that it has begun."""

    async def draft(cache: Any) -> None:
        visit = current_visit()
        assert visit is not None
        await cache.set("draft", visit.number)

    async def verify(_: Any) -> None:
        await asyncio.sleep(1)
        raise ValueError("no")

    agent = recording_agent(
        tmp_path,
        node("a", snapshot="always"),
        node("draft", draft),
        node("verify", verify, after=["draft"], retry_from="draft", max_retries=2),
        every=None,
        cache=SlowToLook(),
    )
    task = await run(agent)
    _, of_a, _ = map(data_of, snapshots(tmp_path, task))
    assert of_a["cache"]["draft"] == 2
    record = of_a["nodes"]["draft"]
    assert (record["state"], record["visits"]) == ("running", 1)


async def test_a_decision_that_is_not_written(tmp_path: Path) -> None:
    """Its variables are deleted as well."""
    cache = MemoryCache()
    await cache.set("again", True)
    jump = FlowDecision(next_node="work", condition="again == true", condition_variables=["again"])
    agent = recording_agent(tmp_path, node("work"), flow("decide", jump, after=["work"]), every=None, cache=cache)
    await run(agent)
    assert runs(agent)["work"] == 2
    assert not await cache.contains("again")


class SlowToDelete(MemoryCache):
    """A cache that takes two seconds to delete something."""

    async def _remove(self, keys: Sequence[str]) -> int:
        await asyncio.sleep(2)
        return await super()._remove(keys)


async def test_a_snapshot_while_a_decision_is_taken_that_is_not_written(tmp_path: Path) -> None:
    """It knows that the decision was taken, if its variables are gone."""
    cache = SlowToDelete()
    await cache.set("again", True)
    jump = FlowDecision(next_node="work", condition="again == true", condition_variables=["again"])
    agent = recording_agent(
        tmp_path,
        node("work"),
        flow("decide", jump, after=["work"]),
        node("other", lambda _: asyncio.sleep(1), snapshot="always"),
        every=None,
        cache=cache,
    )
    task = await run(agent)
    _, of_other, _ = map(data_of, snapshots(tmp_path, task))
    assert "again" in of_other["deleted"]
    assert of_other["nodes"]["decide"]["state"] == "finished"


# --- what cannot be written ---


async def test_a_full_disk() -> None:
    """It fails the node, with an error that names node and place; the node is not run again, others go on."""
    with little_room() as (folder, make_room):
        agent = recording_agent(folder, node("big", "x" * 2_000_000), node("small"), node("after", after=["big"]))
        task = await run(agent)
        assert task.status is TaskStatus.PARTIAL
        assert statuses(agent) == {"big": "error", "small": "success", "after": "skipped"}
        error = agent.node_results["big"]["error"]
        assert "the end of 'big' cannot be written down" in error
        assert str(folder) in error
        assert "disk is full" in error
        assert runs(agent)["big"] == 1
        make_room()
        task = await run(agent)
        assert task.status is TaskStatus.COMPLETE


async def test_what_cannot_be_written_at_first_is_written_later(tmp_path: Path) -> None:
    """After an error nobody relies on what may not have been written: the next snapshot holds everything."""
    store = Waits(tmp_path, "b")
    agent = agent_of(
        node("a", snapshot="always"),
        node("b", after=["a"], snapshot="always"),
        node("c", lambda _: asyncio.sleep(1), after=["a"], snapshot="always"),
        auto_snapshot=True,
        snapshot_store=store,
    )
    store.fails = StoreFullError("no room")
    store.may_write.set()
    async with store:
        task = await run(agent)
        assert statuses(agent) == {"a": "success", "b": "error", "c": "success"}
    assert written(tmp_path, task) == ["a", "c"]
    data = data_of(snapshots(tmp_path, task)[2])
    assert data["full"]
    assert {name: record["state"] for name, record in data["nodes"].items()} == {
        "a": "finished",
        "b": "failed",
        "c": "finished",
    }


async def test_what_could_not_be_written_once_is_written_at_the_next_visit(tmp_path: Path) -> None:
    """A node that wants to be written once, and could not be, still wants that."""
    store = Waits(tmp_path, "once")
    store.fails = StoreFullError("no room")
    store.may_write.set()

    def make_room(cache: Any, _: Any) -> bool:
        store.waiting.clear()
        return True

    agent = agent_of(
        node("once", snapshot="once"),
        node("wait", lambda _: asyncio.sleep(1)),
        flow("decide", FlowDecision(next_node="once", condition=make_room), after=["wait"]),
        auto_snapshot=True,
        snapshot_store=store,
    )
    async with store:
        task = await run(agent)
    assert statuses(agent) == {"once": "success", "wait": "success", "decide": "success"}
    assert written(tmp_path, task) == ["once"]


async def test_a_result_that_cannot_be_written(tmp_path: Path) -> None:
    """The error says of which node, and where in its result; the node is not run again."""
    agent = recording_agent(tmp_path, node("bad", success({"lock": asyncio.Lock()})), node("good", after=["bad"]))
    await run(agent)
    assert statuses(agent) == {"bad": "error", "good": "skipped"}
    error = agent.node_results["bad"]["error"]
    assert error.startswith("SnapshotError: the end of 'bad' cannot be written down: ")
    assert "nodes.bad.result.results[0].result.lock: Lock objects cannot be represented" in error
    assert runs(agent)["bad"] == 1


async def test_what_another_node_did_that_cannot_be_written(tmp_path: Path) -> None:
    """A node that is not written down itself is named where it keeps another one from being written."""
    made = node("made", condition=lambda cache, task: True)
    nodes = [node("bad", success(new_nodes=[made]), snapshot="never"), node("good", after=["bad"], snapshot="always")]
    agent = recording_agent(tmp_path, *nodes, every=None)
    await run(agent)
    assert statuses(agent) == {"bad": "success", "made": "success", "good": "error"}
    assert "the end of 'good'" in agent.node_results["good"]["error"]
    assert "nodes.bad.created.made" in agent.node_results["good"]["error"]


async def test_what_cannot_be_written_and_need_not_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where no node is to be written any more, it is no error of the task; the log says what is missing."""
    made = node("made", condition=lambda cache, task: True)
    agent = recording_agent(tmp_path, node("a", success(new_nodes=[made])), every=None)
    task = await run(agent)
    assert task.status is TaskStatus.COMPLETE
    assert "the end of the task cannot be written down" in caplog.text


@miniagent
async def _an_agent(ctx: InteractionContext) -> None:
    ctx.reply("Hi")


@pytest.mark.parametrize(
    ("made", "where"),
    [
        (node("made", condition=lambda cache, task: True), "nodes.a.created.made.node_config.condition: function"),
        (node("made", _an_agent), "nodes.a.created.made.modules[0]: MiniAgent"),
        (node("made", Does(work=lambda _: 1)), "nodes.a.created.made.modules[0].work: function"),
    ],
)
async def test_new_nodes_that_cannot_be_written(tmp_path: Path, made: Node, where: str) -> None:
    """A closure in a node that was added while the graph ran is an error that names it."""
    agent = recording_agent(tmp_path, node("a", success(new_nodes=[made])))
    await run(agent)
    assert statuses(agent) == {"a": "error"}
    assert where in agent.node_results["a"]["error"]
    assert "conditions in Lua" in agent.node_results["a"]["error"]
    plain = agent_of(node("a", success(new_nodes=[made])))
    await run(plain)
    assert statuses(plain) == {"a": "success", "made": "success"}


async def test_a_task_that_cannot_begin(tmp_path: Path) -> None:
    """If not even the beginning can be written, nothing is run and the task has failed."""
    (tmp_path / "file").write_text("")
    agent = recording_agent(tmp_path / "file", node("a"))
    task = new_task()
    with pytest.raises(CheckpointStoreError, match="file"):
        await run(agent, task)
    assert task.status is TaskStatus.FAILED
    assert runs(agent) == {"a": 0}


# --- what is in them ---


async def test_excluded_keys(tmp_path: Path) -> None:
    """They are in no file, in whatever namespace the task works."""
    cache = MemoryCache(default_prefix="app")
    await cache.set("password", "hunter2")

    async def work(cache: Any) -> None:
        await cache.set("token", "hunter2")
        await cache.set("known", "for all")

    agent = recording_agent(tmp_path, node("a", work), cache=cache, snapshot_exclude=["password", "token"])
    async with MiniAgents():
        tasks = [new_task(), new_task()]
        await asyncio.gather(*map(agent.run_task, tasks))  # the second one works in a namespace of its own
    text = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "for all" in text
    assert "hunter2" not in text


async def test_only_what_has_changed_is_written(tmp_path: Path) -> None:
    """A snapshot holds what is new: nodes, keys that were set, and keys that were deleted."""
    cache = MemoryCache()
    await cache.set("large", "x" * 10_000)

    async def first(cache: Any) -> None:
        await cache.set_many({"a": 1, "b": 2})

    async def second(cache: Any) -> None:
        await cache.set("b", 3)
        await cache.delete("a")

    agent = recording_agent(tmp_path, node("first", first), node("second", second, after=["first"]), cache=cache)
    task = await run(agent)
    begun, before, after, _ = map(data_of, snapshots(tmp_path, task))
    assert [begun["full"], before["full"], after["full"]] == [True, False, False]
    assert begun["cache"].keys() == {"large", "task"}
    assert before["cache"] == {"a": 1, "b": 2}
    assert list(after["nodes"]) == ["second"]
    assert (after["cache"], after["deleted"]) == ({"b": 3}, ["a"])


async def test_how_snapshots_grow(tmp_path: Path) -> None:
    """What is written grows like the graph: ten times the nodes are ten times the bytes, with each node written."""

    class Counts(FileCheckpointStore):
        bytes = 0

        async def append(self, *args: Any, **kwargs: Any) -> list[Entry]:
            recorded = await super().append(*args, **kwargs)
            for entry in recorded:
                for path in self.folder.glob(f"*/{entry.sequence:08}_*/entry.json"):
                    self.bytes += path.stat().st_size
            return recorded

    async def bytes_for(count: int) -> int:
        names = [f"n{number}" for number in range(count)]
        nodes = [
            node(name, lambda cache, name=name: cache.set(name, "x" * 100), after=names[number - 1 : number])
            for number, name in enumerate(names)
        ]
        async with Counts(tmp_path / str(count), durable=False) as store:
            agent = agent_of(
                *(one.model_copy(update={"snapshot": "always"}) for one in nodes),
                auto_snapshot=True,
                snapshot_store=store,
                max_total_iterations=count,
            )
            assert (await run(agent)).status is TaskStatus.COMPLETE
            return store.bytes

    small, large = await bytes_for(30), await bytes_for(300)
    assert large < 12 * small


async def test_old_ones_are_removed(tmp_path: Path) -> None:
    """Some of the newest are kept at least, and those that are kept can all be taken up."""
    names = [f"n{number}" for number in range(40)]

    def nodes() -> list[Node]:
        return [node(name, name * 20, after=names[number - 1 : number]) for number, name in enumerate(names)]

    task = await run(recording_agent(tmp_path, *nodes(), snapshots_kept=5))
    kept = snapshots(tmp_path, task)
    assert 5 <= len(kept) < 30
    assert data_of(kept[0])["full"]
    for snapshot in kept[:-1]:
        agent = recording_agent(tmp_path / "copy", *nodes())
        finished = int(snapshot.name.partition("_")[0]) - 1
        _copy(snapshot, tmp_path / "copy")
        await take_up(agent, tmp_path / "copy" / str(task.id) / snapshot.name)
        assert list(runs(agent).values()) == [0] * finished + [1] * (len(names) - finished)


def _copy(snapshot: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(snapshot.parent, folder / snapshot.parent.name)


class Yields(AgentModule):
    """A generator that numbers its results."""

    async def process(self, cache: Any, semaphore: Any) -> Any:
        number = 0
        while True:
            number += 1
            yield success(number)


async def test_generators_at_work_are_warned_of(tmp_path: Path) -> None:
    """A snapshot says which generators would begin anew."""
    task = await run(recording_agent(tmp_path, node("a", Yields()), node("b", after=["a"])))
    for snapshot in snapshots(tmp_path, task)[1:]:
        (warning,) = data_of(snapshot)["warnings"]
        assert "generator of a" in warning
        assert "begins anew" in warning
