"""How a task ends: COMPLETE, PARTIAL, FAILED; stopped by a limit of time, or cancelled."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.cache import Cache, MemoryCache
from miniagents.ext.graph import GraphFinished, NodeFailed
from miniagents.ext.task_graph import Agent, NonRetryableException, Task, TaskStatus, TaskTransitionError
from miniagents.testing import Timeline, quiescence
from tests.ext.task_graph.helpers import (
    Does,
    agent_of,
    events_of,
    new_task,
    node,
    nothing_left,
    run,
    runs,
    statuses,
    success,
)


def fails(name: str, *, after: Any = (), text: str = "no", seconds: float = 0) -> Any:
    return node(name, Does(work=NonRetryableException(text), seconds=seconds), after=after)


# --- the rules ---


async def test_complete() -> None:
    """A task all of whose nodes have succeeded is complete; its result is that of the nodes."""
    agent = agent_of(node("a"), node("b", after=["a"]))
    task = await run(agent)
    assert (task.status, task.error) == (TaskStatus.COMPLETE, None)
    assert task.result == agent.node_results == {
        name: {"status": "success", "results": [success(name)]} for name in "ab"
    }  # fmt: skip


async def test_partial() -> None:
    """A failure stops what depends on it and nothing else; the error says what has failed, and with what."""
    agent = agent_of(
        node("a"),
        fails("b", text="no paper"),
        node("c", after=["b"]),
        node("d", after=["c", "a"]),
        node("e", after=["a"]),
        fails("f", after=["e"], text="no ink"),
    )
    task = await run(agent)
    assert task.status is TaskStatus.PARTIAL
    assert task.error == "b: NonRetryableException: no paper; f: NonRetryableException: no ink"
    assert statuses(agent) == {
        "a": "success", "b": "error", "c": "skipped", "d": "skipped", "e": "success", "f": "error"
    }  # fmt: skip
    assert task.result["b"] == {"status": "error", "results": [], "error": "NonRetryableException: no paper"}


async def test_failed() -> None:
    """Where nothing has succeeded the task has failed."""
    agent = agent_of(fails("a"), node("b", after=["a"]), fails("c"))
    task = await run(agent)
    assert (task.status, task.error) == (
        TaskStatus.FAILED,
        "a: NonRetryableException: no; c: NonRetryableException: no",
    )


async def test_no_nodes() -> None:
    """An agent without nodes has nothing to do, and has done it."""
    assert (await run(Agent())).status is TaskStatus.COMPLETE


async def test_failed_chains() -> None:
    """Each node that has failed is named with those that were skipped for it; others that were skipped are not."""
    cache = MemoryCache()
    agent = agent_of(
        fails("a"),
        node("b", after=["a"]),
        node("c", after=["b"]),
        fails("x"),
        node("both", after=["x", "a"]),
        node("no", condition="false"),
        node("after no", after=["no"]),
        cache=cache,
    )
    await run(agent)
    said = await cache.get_message("agent_output", timeout=0)
    assert said["failed_chains"] == [["a", "b", "c", "both"], ["x"]]


async def test_the_end_is_told() -> None:
    """The last event has the same status, and the last one of each node is what it has come to."""
    agent = agent_of(fails("a"), node("b"), node("c", after=["a"]))
    async with MiniAgents():
        messages = await agent.inquire("x", task=new_task())
    (finished,) = events_of(messages, GraphFinished)
    assert (finished.status, finished.failed, finished.skipped) == ("partial", ("a",), ("c",))
    assert [(one.node, one.error, one.error_type) for one in events_of(messages, NodeFailed)] == [
        ("a", "no", "NonRetryableException")
    ]


async def test_mailboxes() -> None:
    """At the end the output mailbox gets how it has ended, and the error mailbox each node that has failed."""
    cache = MemoryCache()
    options: dict[str, Any] = {"cache": cache, "output_mailbox": "out", "error_mailbox": "err"}
    agent = agent_of(fails("a"), node("b"), **options)
    task = await run(agent)
    assert await cache.get_message("out", timeout=0) == {
        "status": TaskStatus.PARTIAL, "result": task.result, "failed_chains": [["a"]]
    }  # fmt: skip
    assert await cache.get_message("err", timeout=0) == {
        "status": "error", "node": "a", "error": "NonRetryableException: no"
    }  # fmt: skip
    assert [await cache.mailbox_length(name) for name in ("out", "err", "agent_output", "agent_error")] == [0] * 4


async def test_the_default_mailboxes() -> None:
    """A reader waits for the end of a task at "agent_output"."""
    agent = agent_of(node("a", Does(seconds=5)))
    async with MiniAgents():
        waiting = asyncio.ensure_future(agent.cache.get_message("agent_output"))
        await agent.run_task(new_task())
        assert (await waiting)["status"] is TaskStatus.COMPLETE


async def test_a_task_runs_once() -> None:
    """A task that is at work, or over, is refused; it stays what it is."""
    agent = agent_of(node("a", Does(seconds=5)))
    task = new_task()
    async with MiniAgents():
        first = asyncio.ensure_future(agent.run_task(task))
        await quiescence()
        with pytest.raises(TaskTransitionError, match="is executing and cannot become executing"):
            await agent.run_task(task)
        assert await first is task
        assert task.status is TaskStatus.COMPLETE
        with pytest.raises(TaskTransitionError, match="make a new task"):
            await agent.run_task(task)
    assert runs(agent) == {"a": 1}


# --- limits of time ---


@pytest.mark.parametrize("with_success", [False, True])
async def test_timeout(with_success: bool) -> None:
    """What runs when the time is up is stopped and has failed, what waits is skipped, and what has succeeded counts."""
    ended: list[str] = []

    async def slow(_: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(2)  # the clean-up
            ended.append("slow")

    nodes = [node("slow", slow), node("after", after=["slow"]), *([node("fast")] if with_success else [])]
    agent = agent_of(*nodes)
    async with nothing_left(), MiniAgents():
        timeline = Timeline()
        task = await agent.run_task(new_task(), timeout=5)
        assert (timeline.elapsed, ended) == (7, ["slow"])  # when it returns, nothing goes on
    assert task.status is (TaskStatus.PARTIAL if with_success else TaskStatus.FAILED)
    assert task.error == "TimeoutError: TASK_GRAPH took longer than 5 s"
    assert statuses(agent)["slow"] == "error"
    assert statuses(agent)["after"] == "skipped"
    assert (await agent.cache.get("task")).status is task.status
    assert (await agent.cache.get_message("agent_output", timeout=0))["failed_chains"] == [["slow"]]


async def test_a_timeout_that_is_not_reached() -> None:
    """A run that is fast enough is not disturbed, and leaves no timer."""
    task = await run(agent_of(node("a", Does(seconds=4))), timeout=5)
    assert task.status is TaskStatus.COMPLETE
    assert all(timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]


async def test_timeout_while_a_node_waits_to_be_tried_again() -> None:
    """Pauses do not outlast the limit."""
    agent = agent_of(node("a", Does(work=OSError("no"), seconds=1), max_retries=50))
    timeline = Timeline()
    task = await run(agent, timeout=5)
    assert timeline.elapsed == 5
    assert task.status is TaskStatus.FAILED


async def test_outside_of_any_context() -> None:
    """Tasks run in plain asyncio, too: limits of time and cancelling clean up there as well."""
    for seconds, status in ((1, TaskStatus.COMPLETE), (60, TaskStatus.FAILED)):
        async with nothing_left():
            task = await agent_of(node("a", Does(seconds=seconds))).run_task(new_task(), timeout=5)
        assert task.status is status
    task = new_task()
    async with nothing_left():
        running = asyncio.ensure_future(agent_of(node("a", Does(seconds=60))).run_task(task))
        await quiescence()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert task.status is TaskStatus.FAILED


# --- cancelling ---


class Slow:
    """Work that takes a minute, and notes that it was cancelled, down to the agents that it calls."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.agent = miniagent(self._inner, alias="INNER")

    async def _inner(self, ctx: InteractionContext) -> None:
        try:
            ctx.reply("begun")
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1)
            self.ended.append("inner")

    async def __call__(self, _: Any) -> Any:
        return str(await self.agent.inquire())


@pytest.mark.parametrize("kind", ["module", "agent", "parallel", "subgraph", "nested agent"])
async def test_cancelling(kind: str) -> None:
    """Cancelling `run_task` cancels what runs, and waits for it; the task says that it was cancelled."""
    slow = Slow()
    made = {
        "module": lambda: node("n", slow),
        "agent": lambda: node("n", slow.agent),
        "parallel": lambda: node("n", slow, "other", parallel=True),
        "subgraph": lambda: node("n", "x", nodes=[node("deep", slow)], type="subgraph"),
        "nested agent": lambda: node("n", agent_of(node("deep", slow.agent))),
    }[kind]()
    agent, task = agent_of(node("done"), made, node("after", after=["n"])), new_task()
    async with nothing_left(), MiniAgents():
        running = asyncio.ensure_future(agent.run_task(task))
        await quiescence()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert slow.ended == ["inner"]
        assert task.status is TaskStatus.PARTIAL
        assert "the task was cancelled" in (task.error or "")
        assert statuses(agent) == {"done": "success", "n": "cancelled", "after": "cancelled"}
    assert (await agent.cache.get("task")).status is TaskStatus.PARTIAL
    assert (await agent.cache.get_message("agent_output", timeout=0))["status"] is TaskStatus.PARTIAL


async def test_cancelling_the_reply() -> None:
    """Cancelling the promise of an inquiry cancels the run; the task that was given says so."""
    slow, task = Slow(), new_task()
    agent = agent_of(node("n", slow))
    async with nothing_left(), MiniAgents():
        replies = agent.inquire("x", task=task)
        await quiescence()
        assert replies.cancel()
    assert slow.ended == ["inner"]
    assert task.status is TaskStatus.FAILED


@pytest.mark.parametrize("turns", range(30))
async def test_cancelling_at_any_moment(turns: int) -> None:
    """Whenever it is cancelled, nothing goes on, nothing hangs, and the task is over or has not begun."""

    async def decide(cache: Cache) -> dict[str, Any]:
        return success(decision="b" if await cache.increment("n") == 1 else None)

    agent = agent_of(
        node("a"),
        node("b", after=["a"]),
        node("f", decide, after=["b"]),
        node("c", "x", "y", after=["b"], parallel=True, outputs=["result"], inputs=["task"]),
    )
    task = new_task()
    async with nothing_left(), MiniAgents():
        running = asyncio.ensure_future(agent.run_task(task))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        try:
            await running
        except asyncio.CancelledError:
            assert task.is_over or task.status is TaskStatus.WAITING
        else:
            assert task.status is TaskStatus.COMPLETE


async def test_a_context_that_closes_early() -> None:
    """Leaving the context by an error cancels the run like anything else in it."""
    slow, task = Slow(), new_task()
    agent = agent_of(node("n", slow))

    async def leave() -> None:
        async with MiniAgents():
            agent.inquire("x", task=task)
            await quiescence()
            raise LookupError

    async with nothing_left():
        with pytest.raises(LookupError):
            await leave()
    assert slow.ended == ["inner"]
    assert task.status is TaskStatus.FAILED


# --- what ends everything ---


async def test_keyboard_interrupt() -> None:
    """It is no failure of a node: it ends the run and is raised where the task is run."""
    for parallel in (False, True):
        agent, task = (
            agent_of(node("n", Does(work=KeyboardInterrupt()), Does(seconds=60), parallel=parallel)),
            new_task(),
        )
        async with nothing_left(), MiniAgents():
            with pytest.raises(KeyboardInterrupt):
                await agent.run_task(task)
        assert (task.status, runs(agent)) == (TaskStatus.FAILED, {"n": 1})


async def test_a_cache_that_cannot_be_reached() -> None:
    """An error of the cache before the run begins is raised, and the task has failed with it."""

    class Gone(MemoryCache):
        async def set(self, key: str, value: Any, raw: bool = False, ttl: float | None = None) -> None:
            raise ConnectionError("the server is gone")

    task = Task(type="t", objective="o")
    with pytest.raises(ConnectionError, match="the server is gone"):
        await run(agent_of(node("a"), cache=Gone()), task)
    assert (task.status, task.error) == (TaskStatus.FAILED, "ConnectionError: the server is gone")


async def test_snapshots_that_cannot_be_written(tmp_path: Path) -> None:
    """What keeps a run from beginning is raised, and the task has failed with it."""
    (tmp_path / "file").write_text("no folder")
    task = new_task()
    with pytest.raises(Exception, match="file"):
        await run(agent_of(node("a"), auto_snapshot=True, snapshot_dir=tmp_path / "file"), task)
    assert task.status is TaskStatus.FAILED
    assert "file" in (task.error or "")


async def test_errors_that_are_no_messages() -> None:
    """In a context in which errors travel as messages `run_task` works the same, and still raises what it raises."""
    async with MiniAgents(errors_as_messages=True):
        agent = agent_of(fails("a"), node("b"))
        assert (await agent.run_task(new_task())).status is TaskStatus.PARTIAL
        with pytest.raises(ValueError, match="depends on 'nowhere'"):
            await agent_of(node("a", after=["nowhere"])).run_task(new_task())
