"""Runs that are taken up from a snapshot, by an agent that knows of nothing else: as in a new process."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.cache import Cache, MemoryCache
from miniagents.ext.checkpoints import (
    FileCheckpointStore,
    RunClaimedError,
    RunNotFoundError,
    SQLiteCheckpointStore,
    StoreDamagedError,
)
from miniagents.ext.graph import GraphFinished
from miniagents.ext.graph.run import current_visit
from miniagents.ext.task_graph import (
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    GraphChangedError,
    ModuleType,
    Node,
    SnapshotError,
    Task,
    TaskStatus,
    TaskTakenOverError,
)
from miniagents.ext.task_graph.recording import taken_up
from miniagents.ext.task_graph.snapshots import read_snapshot
from miniagents.ext.values import UnreadableValueError
from miniagents.testing import quiescence
from tests.ext.task_graph.helpers import (
    agent_of,
    events_of,
    flow,
    new_task,
    node,
    nothing_left,
    results,
    run,
    runs,
    statuses,
    success,
)
from tests.ext.task_graph.snapshot_helpers import data_of, recording_agent, snapshots, take_up, written


def diamond() -> list[Node]:
    return [node("a"), node("b", after=["a"]), node("c", after=["a"]), node("d", after=["b", "c"])]


def after(folder: Path, task: Task, name: str, visit: int = 1) -> Path:
    """The snapshot that says that a node has finished."""
    for snapshot in snapshots(folder, task):
        entry = json.loads((snapshot / "entry.json").read_text())
        if (entry["node"], entry["visit"]) == (name, visit):
            return snapshot
    raise LookupError(name)


def kill_at(last: Path) -> None:
    """Leaves of a task what is there when its process is killed after a snapshot was written."""
    folder = last.parent
    for snapshot in folder.glob("0*_*"):
        if snapshot.name > last.name:
            shutil.rmtree(snapshot)
    run_file = folder / "run.json"
    run_file.write_text(json.dumps({**json.loads(run_file.read_text()), "status": "executing"}))
    (folder / ".lock").write_text("{}")


class Sets(AgentModule):
    """Sets keys of the cache: a module that can be in nodes that are added."""

    values: dict[str, Any] = {}

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> Any:
        await cache.set_many(self.values)
        return success(self.values)


class Adds(AgentModule):
    """Adds nodes."""

    nodes: list[Node]
    runs: int = 0

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> Any:
        self.runs += 1
        return success(new_nodes=self.nodes)


# --- where to begin ---


async def test_what_had_finished_is_not_run_again(tmp_path: Path) -> None:
    """Whichever snapshot it is, what had finished then is not run again, and everything ends as it did."""
    first = recording_agent(tmp_path, *diamond(), snapshots_kept=100)
    task = await run(first)
    for finished, snapshot in enumerate(snapshots(tmp_path, task)[:5]):
        again = recording_agent(tmp_path, *diamond(), snapshots_kept=100)
        found = await take_up(again, snapshot)
        assert sum(runs(again).values()) == 4 - finished
        assert (found.id, found.status, found.result) == (task.id, TaskStatus.COMPLETE, task.result)
        assert again.node_results == first.node_results
        assert again.execution_state == first.execution_state


async def test_ways_to_name_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one snapshot or of a task, as a path or text; or the id of the task, where its snapshots are."""
    task = await run(recording_agent(tmp_path, *diamond()))
    folder = tmp_path / str(task.id)
    monkeypatch.chdir(tmp_path)
    for name in (
        folder,
        str(folder),
        str(task.id),
        task.id,
        folder.relative_to(tmp_path),
        snapshots(tmp_path, task)[-1],
    ):
        again = recording_agent(tmp_path, *diamond())
        assert (await take_up(again, name)).id == task.id
        assert sum(runs(again).values()) == 0
    async with FileCheckpointStore(tmp_path) as store:
        again = agent_of(*diamond(), snapshot_store=store)
        assert (await take_up(again, task.id)).id == task.id


async def test_another_store(tmp_path: Path) -> None:
    """With a `snapshot_store` a task is known by its id."""
    async with SQLiteCheckpointStore(tmp_path / "runs.db") as store:
        task = await run(recording_agent(None, *diamond(), snapshot_store=store))
        again = recording_agent(None, *diamond(), snapshot_store=store)
        assert (await take_up(again, task.id)).result == task.result
        assert sum(runs(again).values()) == 0


async def test_snapshots_that_are_not_there(tmp_path: Path) -> None:
    """The error says what is missing, and what there is."""
    agent = recording_agent(tmp_path, *diamond())
    task = await run(agent)
    with pytest.raises(RunNotFoundError, match="there is no run"):
        await take_up(agent, uuid4())
    with pytest.raises(SnapshotError, match="is no folder"):
        await take_up(agent, tmp_path / "nothing")
    async with FileCheckpointStore(tmp_path) as store:
        with pytest.raises(SnapshotError, match=rf"no snapshot 77 of the task {task.id}.*there are 1, 2, 3, 4, 5, 6"):
            await read_snapshot(store, str(task.id), 77)
        other = str(uuid4())
        await store.create(other, workflow="w", fingerprint=(await store.info(str(task.id))).fingerprint)
    with pytest.raises(SnapshotError, match="there is none; run it as a new task"):
        await take_up(agent, tmp_path / other)


async def test_a_damaged_snapshot(tmp_path: Path) -> None:
    """It is an error for whoever wants the newest; earlier ones can be taken up."""
    agent = recording_agent(tmp_path, *diamond())
    task = await run(agent)
    (snapshots(tmp_path, task)[-1] / "entry.json").write_text("{")
    with pytest.raises(StoreDamagedError, match=r"entry\.json is damaged"):
        await take_up(agent, tmp_path / str(task.id))
    again = recording_agent(tmp_path, *diamond())
    assert (await take_up(again, after(tmp_path, task, "b"))).result == task.result
    assert runs(again) == {"a": 0, "b": 0, "c": 1, "d": 1}


async def test_a_graph_that_has_changed(tmp_path: Path) -> None:
    """It is an error that says how: nodes, dependencies, modules, and the same inside of a subgraph."""

    def subgraph(*inner: Node) -> Node:
        return Node(name="sub", type=ModuleType.SUBGRAPH, nodes=list(inner))

    task = await run(recording_agent(tmp_path, *diamond(), subgraph(node("x"))))
    changed = [
        node("a", Sets()),
        node("b", after=["a"]),
        node("d", after=["b"]),
        node("new"),
        subgraph(node("x"), node("y", after=["x"])),
    ]
    with pytest.raises(GraphChangedError) as caught:
        await take_up(recording_agent(tmp_path, *changed), task.id)
    assert (
        "the node 'c' is missing; the node 'new' is new; the modules of 'a' were Does and are Sets; "
        "the dependencies of 'd' were b, c and are b; in 'sub' the node 'y' is new"
    ) in str(caught.value)


async def test_settings_may_change(tmp_path: Path) -> None:
    """What does not make another graph of it may change: limits, attempts, snapshots, the order of nodes."""
    task = await run(recording_agent(tmp_path, *diamond()))
    again = recording_agent(tmp_path, *reversed(diamond()), every="never", max_concurrent_tasks=1)
    assert (await take_up(again, task.id)).result == task.result


@st.composite
def random_nodes(draw: st.DrawFn) -> Callable[[], list[Node]]:
    """Makes the same graph each time: up to six nodes, which may fail, or not be written down; one may jump back."""
    names = "abcdef"[: draw(st.integers(2, 6))]
    options: list[tuple[str, list[str], str, str, int, str]] = []
    for place, name in enumerate(names):
        before = draw(st.sets(st.sampled_from(names[:place]))) if place else set()
        # What two decisions interrupt depends on which comes first, and so on when a process was killed.
        has_jumped = any(one[2] == "jump" for one in options)
        work = draw(st.sampled_from(["work", "work", "fail"] if has_jumped else ["work", "work", "fail", "jump"]))
        target = draw(st.sampled_from(names[: place + 1]))
        seconds = draw(st.integers(0, 2))
        snapshot = draw(st.sampled_from(["always", "always", "never", "once"]))
        options.append((name, sorted(before), work, target, seconds, snapshot))

    def make(name: str, before: list[str], work: str, target: str, seconds: int, snapshot: str) -> Node:
        async def do(cache: Cache) -> dict[str, Any]:
            visit = current_visit()
            assert visit is not None
            await asyncio.sleep(seconds)
            if work == "fail":
                raise ValueError(f"{name} fails")
            await cache.set(name, name)
            return success(name, decision=target if work == "jump" and visit.number == 1 else None)

        return node(name, do, after=before, max_retries=1, max_visits=20, snapshot=snapshot)

    return lambda: [make(*one) for one in options]


@settings(max_examples=25)
@given(random_nodes())
async def test_any_graph_from_any_snapshot(nodes: Callable[[], list[Node]]) -> None:
    """It ends as it did."""
    with tempfile.TemporaryDirectory() as folder:
        async with FileCheckpointStore(folder, durable=False) as store:
            agent = agent_of(*nodes(), auto_snapshot=True, snapshot_store=store, snapshots_kept=100)
            task = await run(agent)
            places = snapshots(Path(folder), task)
            for place in places[:-1]:
                again = agent_of(*nodes(), auto_snapshot=True, snapshot_dir=folder, snapshots_kept=100)
                kill_at(places[-1])
                await take_up(again, place)
                assert (statuses(again), results(again)) == (statuses(agent), results(agent))


# --- whose it is ---


async def test_two_take_up_the_same_task(tmp_path: Path) -> None:
    """One does, the other is told so."""
    task = await run(recording_agent(tmp_path, *diamond()))
    at_work, may_end = asyncio.Event(), asyncio.Event()

    async def work(_: Any) -> None:
        at_work.set()
        await may_end.wait()

    one = recording_agent(tmp_path, *diamond()[:-1], node("d", work, after=["b", "c"]))
    another = recording_agent(tmp_path, *diamond())
    async with nothing_left(), MiniAgents():
        running = asyncio.create_task(one.run_from_snapshot(after(tmp_path, task, "c")))
        await at_work.wait()
        with pytest.raises(RunClaimedError, match=str(task.id)):
            await another.run_from_snapshot(task.id)
        may_end.set()
        assert (await running).status is TaskStatus.COMPLETE
    assert sum(runs(another).values()) == 0


async def test_a_task_that_was_taken_over(tmp_path: Path) -> None:
    """Who was at a standstill while another one took up its task stops, and leaves everything else to that one."""
    cache = MemoryCache()
    task = new_task()

    async def lose(_: Any) -> None:
        (tmp_path / str(task.id) / "claim.json").unlink()

    nodes = [
        node("a", lose, snapshot="always"),
        node("b", after=["a"]),
        node("c", lambda _: asyncio.sleep(1)),
        node("d", after=["c"]),
    ]
    agent = recording_agent(tmp_path, *nodes, every=None, cache=cache)
    with pytest.raises(TaskTakenOverError, match="another process is at work at the task"):
        await run(agent, task)
    assert task.status is TaskStatus.FAILED
    assert runs(agent) == {"a": 1, "b": 0, "c": 1, "d": 0}
    assert (await cache["task"]).status is TaskStatus.EXECUTING
    assert await cache.mailbox_length("agent_output") == 0


# --- decisions ---


def loop(decision: FlowDecision) -> list[Node]:
    """Nodes of which `again` may go back to `work`."""
    return [node("work"), flow("again", decision, after=["work"]), node("end", after=["again"])]


async def test_a_decision_that_was_written_is_carried_out(tmp_path: Path) -> None:
    """Where a node had decided, and its decision was not carried out, it is; the node does not decide again."""
    decision = FlowDecision(next_node="work", condition=_up_to(2), condition_variables=["reason"])
    cache = MemoryCache()
    await cache.set("reason", "the first")
    first = recording_agent(tmp_path, *loop(decision), cache=cache)
    task = await run(first)
    assert runs(first)["work"] == 2

    never = FlowDecision(next_node="work", condition=_up_to(1))
    cache = MemoryCache()
    await cache.set("reason", "what the first one did not delete any more")
    again = recording_agent(tmp_path, *loop(never), cache=cache)
    await take_up(again, after(tmp_path, task, "again"))
    assert runs(again) == {"work": 1, "again": 0, "end": 1}
    assert again.execution_state == first.execution_state
    assert not await cache.contains("reason")


def _up_to(visits: int) -> Any:
    def holds(cache: Cache, task: Task) -> bool:
        visit = current_visit()
        assert visit is not None
        return visit.number < visits

    return holds


async def test_a_branch_that_was_passed_over(tmp_path: Path) -> None:
    """It stays so, and holds up nobody, also when a loop leads there again."""

    def nodes() -> list[Node]:
        return [
            node("begin"),
            flow("choose", "right", after=["begin"]),
            node("left", after=["choose"]),
            node("right", after=["choose"]),
            node("join", after=["left", "right"]),
            flow("again", FlowDecision(next_node="right", condition=_up_to(2)), after=["join"]),
            node("end", after=["again"]),
        ]

    first = recording_agent(tmp_path, *nodes(), snapshots_kept=100)
    task = await run(first)
    assert statuses(first)["left"] == "skipped"
    for snapshot in snapshots(tmp_path, task)[:-1]:
        again = recording_agent(tmp_path, *nodes(), snapshots_kept=100)
        await take_up(again, snapshot)
        assert again.node_results == first.node_results
        assert again.execution_state.total_iterations == first.execution_state.total_iterations


async def test_a_target_that_was_at_work(tmp_path: Path) -> None:
    """Where a decision had led begins the same visit anew at once, whatever it depends on."""

    async def work(_: Any) -> int:
        await asyncio.sleep(2)
        visit = current_visit()
        assert visit is not None
        return visit.number

    def nodes() -> list[Node]:
        return [
            node("broken", ValueError("no"), max_retries=1),
            flow("decide", "target"),
            node("target", work, after=["broken"]),
            node("meanwhile", lambda _: asyncio.sleep(1)),
        ]

    first = recording_agent(tmp_path, *nodes())
    task = await run(first)
    assert results(first)["target"] == 1
    kill_at(after(tmp_path, task, "meanwhile"))
    again = recording_agent(tmp_path, *nodes())
    await take_up(again, tmp_path / str(task.id))
    assert again.node_results == first.node_results
    assert runs(again) == {"broken": 0, "decide": 0, "target": 1, "meanwhile": 0}


async def test_a_visit_that_a_decision_was_about_to_end(tmp_path: Path) -> None:
    """It counts as begun, as it does if the decision is carried out at once."""

    async def work(_: Any) -> int:
        await asyncio.sleep(2)
        visit = current_visit()
        assert visit is not None
        return visit.number

    def nodes() -> list[Node]:
        return [node("target", work), flow("decide", "target")]

    first = recording_agent(tmp_path, *nodes())
    task = await run(first)
    assert results(first)["target"] == 2
    again = recording_agent(tmp_path, *nodes())
    await take_up(again, after(tmp_path, task, "decide"))
    assert again.node_results == first.node_results
    assert again.execution_state == first.execution_state


# --- failures ---


def failing(error: Exception | None) -> list[Node]:
    return [
        node("bad", error or "good", max_retries=1),
        node("after bad", after=["bad"]),
        node("good", lambda _: asyncio.sleep(1)),
        node("end", after=["good"]),
    ]


async def test_failures_of_a_process_that_was_killed(tmp_path: Path) -> None:
    """What had failed for good has failed, and what was skipped for that is skipped: as if nothing had been."""
    first = recording_agent(tmp_path, *failing(ValueError("no")))
    task = await run(first)
    kill_at(after(tmp_path, task, "good"))
    cache = MemoryCache()
    again = recording_agent(tmp_path, *failing(None), cache=cache)
    found = await take_up(again, tmp_path / str(task.id))
    assert (found.status, found.error, found.result) == (task.status, task.error, task.result)
    assert runs(again) == {"bad": 0, "after bad": 0, "good": 0, "end": 1}
    assert await cache.get_message("agent_error", 0) == {"status": "error", "node": "bad", "error": "ValueError: no"}
    assert (await cache.get_message("agent_output", 0))["failed_chains"] == [["bad", "after bad"]]


async def test_a_task_that_had_ended_with_failures(tmp_path: Path) -> None:
    """What had failed is tried again, with what was skipped for that; what had finished is not."""
    task = await run(recording_agent(tmp_path, *failing(ValueError("no"))))
    assert task.status is TaskStatus.PARTIAL
    for expected in (
        {"bad": 1, "after bad": 1, "good": 0, "end": 0},
        {"bad": 0, "after bad": 0, "good": 0, "end": 0},  # by then it has ended well
    ):
        again = recording_agent(tmp_path, *failing(None))
        assert (await take_up(again, tmp_path / str(task.id))).status is TaskStatus.COMPLETE
        assert runs(again) == expected
        assert set(statuses(again).values()) == {"success"}
        assert again.execution_state.execution_index == 4


async def test_a_task_that_is_at_work_again(tmp_path: Path) -> None:
    """It has not ended any more: if it is killed, what has failed by then is not tried once more."""
    task = await run(recording_agent(tmp_path, *failing(ValueError("no"))))
    async with FileCheckpointStore(tmp_path) as store:

        async def look(cache: Cache) -> str:
            return (await store.info(str(task.id))).status

        again = recording_agent(tmp_path, *failing(ValueError("still no"))[:-1], node("end", look, after=["good"]))
        await take_up(again, after(tmp_path, task, "good"))
        assert results(again)["end"] == "executing"


async def test_a_task_that_had_ended_in_time_out(tmp_path: Path) -> None:
    """It goes on where it stood."""

    def nodes(seconds: float) -> list[Node]:
        return [
            node("quick"),
            node("slow", lambda _: asyncio.sleep(seconds), after=["quick"]),
            node("end", after=["slow"]),
        ]

    task = await run(recording_agent(tmp_path, *nodes(100)), timeout=10)
    assert task.status is TaskStatus.PARTIAL
    again = recording_agent(tmp_path, *nodes(1))
    assert (await take_up(again, tmp_path / str(task.id), timeout=10)).status is TaskStatus.COMPLETE
    assert runs(again) == {"quick": 0, "slow": 1, "end": 1}


async def test_a_task_that_was_cancelled(tmp_path: Path) -> None:
    """It goes on where it stood."""
    at_work = asyncio.Event()

    async def hang(_: Any) -> None:
        at_work.set()
        await asyncio.Event().wait()

    agent = recording_agent(tmp_path, node("a"), node("b", hang, after=["a"]))
    task = new_task()
    async with nothing_left(), MiniAgents():
        running = asyncio.create_task(agent.run_task(task))
        await at_work.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    again = recording_agent(tmp_path, node("a"), node("b", after=["a"]))
    assert (await take_up(again, task.id)).status is TaskStatus.COMPLETE
    assert runs(again) == {"a": 0, "b": 1}


async def test_repeating_from_an_earlier_node(tmp_path: Path) -> None:
    """How often a node has failed is known after a restart: it is not tried more often than it says."""

    def nodes() -> list[Node]:
        return [
            node("draft"),
            node("verify", ValueError("no"), after=["draft"], retry_from="draft", max_retries=3),
        ]

    first = recording_agent(tmp_path, *nodes())
    task = await run(first)
    assert runs(first) == {"draft": 3, "verify": 3}
    last = after(tmp_path, task, "draft", 3)
    assert data_of(last)["nodes"]["verify"]["failures"] == 2
    kill_at(last)
    again = recording_agent(tmp_path, *nodes())
    await take_up(again, tmp_path / str(task.id))
    assert runs(again) == {"draft": 0, "verify": 1}
    assert again.node_results == first.node_results


# --- limits ---


async def test_visits_and_iterations_are_counted_on(tmp_path: Path) -> None:
    """The limits hold for all processes together."""

    def nodes(rounds: int, **limits: Any) -> list[Node]:
        decision = FlowDecision(next_node="work", condition=_up_to(rounds))
        return [node("work", **limits), flow("again", decision, after=["work"], max_visits=100)]

    first = recording_agent(tmp_path, *nodes(4, max_visits=100), snapshots_kept=100)
    task = await run(first)
    assert first.execution_state.total_iterations == 8
    place = after(tmp_path, task, "again", 2)

    again = recording_agent(tmp_path, *nodes(4, max_visits=3), snapshots_kept=100)
    await take_up(again, place)
    assert "work was visited 3 times" in again.node_results["work"]["error"]
    assert runs(again)["work"] == 1

    again = recording_agent(tmp_path, *nodes(4, max_visits=100), max_total_iterations=7, snapshots_kept=100)
    found = await take_up(again, place)
    assert "has started 7 nodes" in (found.error or "")
    assert again.execution_state.total_iterations == 7

    again = recording_agent(tmp_path, *nodes(4, max_visits=100), max_total_iterations=8)
    await take_up(again, place)
    assert again.execution_state.total_iterations == 8


async def test_once_is_once_for_all_processes(tmp_path: Path) -> None:
    """What wanted to be written once, and was, is not written again after a restart."""

    def nodes() -> list[Node]:
        decision = FlowDecision(next_node="once", condition=_up_to(3))
        return [
            node("once", snapshot="once"),
            flow("again", decision, after=["once"], snapshot="always"),
        ]

    task = await run(recording_agent(tmp_path, *nodes(), every=None))
    assert written(tmp_path, task) == ["once", "again", "again", "again"]
    await take_up(recording_agent(tmp_path, *nodes(), every=None), after(tmp_path, task, "again", 1))
    assert written(tmp_path, task) == ["once", "again", "again", "again", "again", "again"]


# --- messages, nodes that were added, the cache ---


async def test_agents_get_the_same_messages(tmp_path: Path) -> None:
    """An agent is sent what it would have been sent: by nodes that had finished, and at the beginning by the caller."""
    heard: list[str] = []

    @miniagent
    async def root(ctx: InteractionContext) -> None:
        heard.append(" ".join(map(str, await ctx.message_promises)))
        ctx.reply(["one", "two"])

    @miniagent
    async def leaf(ctx: InteractionContext) -> None:
        heard.append(" ".join(map(str, await ctx.message_promises)))
        ctx.reply("three")

    def nodes() -> list[Node]:
        return [node("root", root), node("result", 7), node("leaf", leaf, after=["root", "result"])]

    agent = recording_agent(tmp_path, *nodes())
    async with MiniAgents():
        await agent.inquire(["go", "on"])
    assert heard == ["go on", "one two 7"]
    (folder,) = tmp_path.iterdir()
    for snapshot, expected in ((1, ["go on", "one two 7"]), (3, ["one two 7"])):
        heard.clear()
        again = recording_agent(tmp_path, *nodes())
        await take_up(again, next(folder.glob(f"*{snapshot}_*")))
        assert heard == expected
        assert results(again)["leaf"] == "three"


async def test_what_is_told_at_the_end(tmp_path: Path) -> None:
    """The progress of a run that was taken up ends with all results and failures."""

    @miniagent
    async def speaker(ctx: InteractionContext) -> None:
        ctx.reply("said before")

    task = await run(recording_agent(tmp_path, node("a", speaker), *failing(ValueError("no"))))
    kill_at(after(tmp_path, task, "good"))
    again = recording_agent(tmp_path, node("a", speaker), *failing(None))
    async with MiniAgents(), taken_up(again, task.id) as state:
        replies = await again.inquire(state=state)
    (end,) = events_of(replies, GraphFinished)
    assert (end.status, end.failed, end.skipped) == ("partial", ("bad",), ("after bad",))
    assert [str(one) for one in end.results["a"]] == ["said before"]


def adding(*added: Node) -> list[Node]:
    return [node("add", Adds(nodes=list(added))), node("end", after=["add"])]


async def test_nodes_that_were_added(tmp_path: Path) -> None:
    """They are known after a restart: finished or not, those that others of them have added, and flow control."""
    inner = node("inner", Sets(values={"inner": 1}), after=["outer"], snapshot="always")
    back = FlowControlModule(
        flow_config=FlowControlConfig(decisions=[FlowDecision(next_node="outer", condition="n < 2")])
    )
    added = [
        node("outer", Sets(values={"outer": 1}), snapshot="always"),
        node("adds too", Adds(nodes=[inner]), after=["outer"], snapshot="always"),
        node("decides", back, after=["outer"], condition="n == 2", snapshot="always"),
    ]
    cache = MemoryCache()
    await cache.set("n", 2)
    first = recording_agent(tmp_path, *adding(*added), cache=cache, snapshots_kept=100)
    task = await run(first)
    assert set(statuses(first)) == {"add", "end", "outer", "adds too", "decides", "inner"}
    for finished, snapshot in enumerate(snapshots(tmp_path, task)[:-1]):
        again = recording_agent(tmp_path, *adding(*added), snapshots_kept=100)
        await take_up(again, snapshot)
        assert again.node_results == first.node_results
        assert len(written(tmp_path, task)) == 6 + 6 - finished
        kill_at(snapshots(tmp_path, task)[7])


async def test_nodes_that_were_added_and_are_gone(tmp_path: Path) -> None:
    """A loop that leads back to who has added nodes makes them anew; the old ones do not come back."""

    class AddsOther(AgentModule):
        async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> Any:
            visit = current_visit()
            assert visit is not None
            return success(new_nodes=[node(f"added {visit.number}", Sets(), snapshot="always")])

    def nodes() -> list[Node]:
        return [
            node("add", AddsOther()),
            flow("again", FlowDecision(next_node="add", condition=_up_to(2)), after=["add"]),
        ]

    first = recording_agent(tmp_path, *nodes(), snapshots_kept=100)
    task = await run(first)
    assert set(statuses(first)) == {"add", "again", "added 2"}
    for snapshot in snapshots(tmp_path, task)[:-1]:
        again = recording_agent(tmp_path, *nodes(), snapshots_kept=100)
        await take_up(again, snapshot)
        assert again.node_results == first.node_results


async def test_nodes_that_are_added_anew_under_the_same_name(tmp_path: Path) -> None:
    """What counts is what the new one has come to."""

    class AddsAgain(AgentModule):
        async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> Any:
            visit = current_visit()
            assert visit is not None
            return success(new_nodes=[node("added", Sets(values={"visit": visit.number}))])

    def nodes() -> list[Node]:
        again = FlowDecision(next_node="add", condition=_up_to(2))
        return [node("add", AddsAgain()), flow("again", again, after=["add"], snapshot="always")]

    cache = MemoryCache()
    await cache.set("large", "x" * 10_000)  # so that only changes are written
    first = recording_agent(tmp_path, *nodes(), every=None, cache=cache)
    task = await run(first)
    assert results(first)["added"] == {"visit": 2}
    again = recording_agent(tmp_path, *nodes(), every=None)
    await take_up(again, after(tmp_path, task, "again", 2))
    assert again.node_results == first.node_results


async def test_a_class_that_is_not_known(tmp_path: Path) -> None:
    """A node that was added cannot be made without the class of its module; the error says what to import."""
    task = await run(recording_agent(tmp_path, *adding(node("added", Sets()))))
    entry = after(tmp_path, task, "add") / "entry.json"
    entry.write_text(entry.read_text().replace("Sets", "Gone"))
    with pytest.raises(UnreadableValueError, match=r"no class '.*Gone' is known in this process; import the module"):
        await take_up(recording_agent(tmp_path, *adding()), task.id)


async def test_the_cache(tmp_path: Path, any_cache: Cache) -> None:
    """Keys that were there are set; others, and those that were excluded, are left as they are."""

    async def first(cache: Cache) -> None:
        await cache.set_many({"a": 1, "b": "::%", "secret": "hunter2"})
        await cache.set_bytes("raw", b"\xff\x00")
        await cache.delete("gone")

    async def second(cache: Cache) -> dict[str, Any]:
        return success(await cache.get_many(["a", "b", "secret", "gone", "new"]), raw=await cache.get_bytes("raw"))

    await any_cache.set("gone", 1)
    nodes = [node("first", first), node("second", second, after=["first"])]
    task = await run(recording_agent(tmp_path, *nodes, cache=any_cache, snapshot_exclude=["secret"]))
    await any_cache.set_many({"a": 2, "new": 3, "secret": "*******"})
    await any_cache.delete_many(["b", "raw"])
    again = recording_agent(tmp_path, *nodes, cache=any_cache, snapshot_exclude=["secret"])
    await take_up(again, after(tmp_path, task, "first"))
    (result,) = again.node_results["second"]["results"]
    assert result["result"] == {"a": 1, "b": "::%", "secret": "*******", "new": 3}
    assert result["raw"] == b"\xff\x00"
    assert runs(again)["first"] == 1


async def test_another_namespace(tmp_path: Path) -> None:
    """The keys of a task are found again where it works now, whatever prefix and suffix there are."""

    async def work(cache: Cache) -> None:
        task = await cache["task"]
        await cache.set("mine", task.params["name"])

    def nodes() -> list[Node]:
        return [node("work", work), node("look", lambda cache: cache.get("mine"), after=["work"])]

    agent = recording_agent(tmp_path, *nodes(), cache=MemoryCache(default_prefix="x"))
    tasks = [new_task(name="one"), new_task(name="two")]
    async with MiniAgents():
        await asyncio.gather(*map(agent.run_task, tasks))
    for task in tasks:
        again = recording_agent(tmp_path, *nodes(), cache=MemoryCache(default_prefix="a:b"))
        await take_up(again, after(tmp_path, task, "work"))
        assert results(again)["look"] == task.params["name"]


async def test_several_are_taken_up_at_once(tmp_path: Path) -> None:
    """Tasks that are taken up by one agent at the same time do not see each other's keys."""

    async def work(cache: Cache) -> None:
        await cache.set("mine", (await cache["task"]).params["name"])

    async def look(cache: Cache) -> Any:
        await quiescence()
        return await cache.get("mine")

    agent = recording_agent(tmp_path, node("work", work), node("look", look, after=["work"]))
    tasks = [new_task(name=str(number)) for number in range(3)]
    async with MiniAgents():
        for task in tasks:
            await agent.run_task(task)
        places = [after(tmp_path, task, "work") for task in tasks]
        found = await asyncio.gather(*map(agent.run_from_snapshot, places))
    assert [one.result["look"]["results"][0]["result"] for one in found] == ["0", "1", "2"]


async def test_generators_begin_anew(tmp_path: Path) -> None:
    """A generator of an earlier process is gone: its module begins with its first result."""

    class Counts(AgentModule):
        async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> Any:
            for number in range(1, 10):
                yield success(number)

    def nodes() -> list[Node]:
        return [
            node("count", Counts()),
            flow("again", FlowDecision(next_node="count", condition=_up_to(3)), after=["count"]),
        ]

    first = recording_agent(tmp_path, *nodes())
    task = await run(first)
    assert results(first)["count"] == 3
    again = recording_agent(tmp_path, *nodes())
    await take_up(again, after(tmp_path, task, "again", 1))
    assert results(again)["count"] == 2


async def test_a_subgraph_counts_as_one_node(tmp_path: Path) -> None:
    """It has finished or it has not: what is in it has no snapshots, and runs again with it."""
    inner = [node("x"), node("y", after=["x"], snapshot="always")]

    def nodes() -> list[Node]:
        return [
            Node(name="sub", type=ModuleType.SUBGRAPH, nodes=inner),
            node("end", after=["sub"]),
        ]

    first = recording_agent(tmp_path, *nodes())
    task = await run(first)
    assert written(tmp_path, task) == ["sub", "end"]
    again = recording_agent(tmp_path, *nodes())
    await take_up(again, after(tmp_path, task, "sub"))
    assert inner[0].modules[0].runs == 1  # type: ignore[union-attr]
    assert again.node_results == first.node_results


async def test_the_task_as_modules_have_changed_it(tmp_path: Path) -> None:
    """What modules have made of the parameters of the task is what it was."""

    async def change(cache: Cache) -> None:
        task = await cache["task"]
        task.params["ready"] = True
        await cache.set("task", task)

    def nodes() -> list[Node]:
        return [node("change", change), node("end", after=["change"], condition="task.ready == true")]

    task = await run(recording_agent(tmp_path, *nodes()))
    again = recording_agent(tmp_path, *nodes())
    found = await take_up(again, after(tmp_path, task, "change"))
    assert statuses(again) == {"change": "success", "end": "success"}
    assert found.params == {"ready": True}


async def test_a_snapshot_of_a_snapshot(tmp_path: Path) -> None:
    """A run that was taken up at an earlier point, and stopped at once, goes on from there and not from later."""

    def nodes() -> list[Node]:
        return [node(name, after=before) for name, before in (("a", []), ("b", ["a"]), ("c", ["b"]))]

    task = await run(recording_agent(tmp_path, *nodes()))

    async def hang(_: Any) -> None:
        at_work.set()
        await asyncio.Event().wait()

    at_work = asyncio.Event()
    agent = recording_agent(tmp_path, node("a"), node("b", hang, after=["a"]), node("c", after=["b"]))
    async with nothing_left(), MiniAgents():
        running = asyncio.create_task(agent.run_from_snapshot(after(tmp_path, task, "a")))
        await at_work.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    again = recording_agent(tmp_path, *nodes())
    await take_up(again, tmp_path / str(task.id))
    assert runs(again) == {"a": 0, "b": 1, "c": 1}
