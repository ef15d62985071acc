"""What task graphs do with their cache, in memory and in a real Redis."""

import asyncio
from typing import Any

from miniagents import MiniAgents
from miniagents.ext.cache import Cache
from miniagents.ext.task_graph import Agent, FlowDecision, NonRetryableException, TaskStatus
from tests.ext.task_graph.helpers import (
    Does,
    agent_of,
    flow,
    new_task,
    node,
    nothing_left,
    results,
    run,
    statuses,
    success,
)


async def test_a_whole_run(any_cache: Cache) -> None:
    """A loop with conditions, variables, inputs, outputs, new nodes, retries and a failure is the same anywhere."""

    async def write(cache: Cache) -> str:
        return f"draft {await cache.increment('drafts')}"

    async def review(cache: Cache) -> Any:
        task, draft = await cache.get("task"), await cache.get("drafts")
        task.params["good"] = draft == 3
        await cache.set_many({"task": task, "verdict": {"draft": draft}, "rewrite": draft < 3})
        return success(new_nodes=[node("archive", lambda cache: cache.set("archived", draft))])

    attempts = []

    def flaky(_: Any) -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("not yet")

    agent = agent_of(
        node("write", write),
        node("review", review, after=["write"], outputs=["verdict"]),
        flow(
            "again",
            FlowDecision(next_node="write", condition="rewrite", condition_variables=["rewrite"]),
            after=["review"],
        ),
        node(
            "publish",
            flaky,
            after=["again"],
            inputs=["verdict", "archived"],
            condition="task.good and verdict.draft == 3",
        ),
        node("broken", Does(work=NonRetryableException("no"))),
        node("never", after=["broken"]),
        cache=any_cache,
    )
    task = await run(agent, new_task(good=False))
    assert task.status is TaskStatus.PARTIAL
    assert statuses(agent) == {
        "write": "success", "review": "success", "again": "success", "archive": "success", "publish": "success",
        "broken": "error", "never": "skipped",
    }  # fmt: skip
    assert results(agent)["write"] == "draft 3"
    assert len(attempts) == 3
    assert task.params == {"good": True}
    assert await any_cache.get("task") == task
    assert await any_cache.get("rewrite") is False  # which is no decision, and so was not deleted
    assert await any_cache.get_message("agent_error", timeout=0) == {
        "status": "error", "node": "broken", "error": "NonRetryableException: no"
    }  # fmt: skip
    said = await any_cache.get_message("agent_output", timeout=0)
    assert (said["status"], said["failed_chains"]) == (TaskStatus.PARTIAL, [["broken", "never"]])
    assert said["result"]["write"] == task.result["write"]


async def test_tasks_side_by_side(any_cache: Cache) -> None:
    """Of any number of tasks each sees its own, also where they belong to several agents on one cache."""

    async def work(cache: Cache) -> int:
        number = (await cache.get("task")).params["number"]
        await cache.set("mine", number)
        together.append(number)
        if len(together) == 10:
            everybody.set()
        await everybody.wait()
        assert await cache.get("mine") == number
        return int((await cache.get("task")).params["number"])

    together: list[int] = []
    everybody = asyncio.Event()
    agents = [agent_of(node("a", work), cache=any_cache) for _ in range(2)]
    async with nothing_left(), MiniAgents():
        tasks = await asyncio.gather(*[agents[number % 2].run_task(new_task(number=number)) for number in range(10)])
    assert [task.result["a"]["results"][0]["result"] for task in tasks] == list(range(10))
    assert await any_cache.mailbox_length("agent_output") == 10


async def test_modules_that_talk(any_cache: Cache) -> None:
    """Nodes that run side by side can wait for each other's messages."""

    async def asks(cache: Cache) -> Any:
        await cache.publish_to_mailbox("questions", "Why?")
        return await cache.get_message("answers", timeout=30)

    async def answers(cache: Cache) -> None:
        question = await cache.get_message("questions", timeout=30)
        await cache.publish_to_mailbox("answers", f"{question} Because.")

    agent = agent_of(node("asks", asks), node("answers", answers), cache=any_cache)
    await run(agent)
    assert results(agent)["asks"] == "Why? Because."


async def test_stopping(any_cache: Cache) -> None:
    """A task that is stopped or cancelled says so in the cache and in the mailbox."""
    agent = agent_of(node("slow", lambda cache: cache.get_message("nothing")), cache=any_cache)
    stopped = await run(agent, timeout=0.05)
    assert (await any_cache.get("task")).status is stopped.status is TaskStatus.FAILED
    assert (await any_cache.get_message("agent_output", timeout=0))["status"] is TaskStatus.FAILED
    async with nothing_left(), MiniAgents():
        task = new_task()
        running = asyncio.ensure_future(agent.run_task(task))
        while (await any_cache.get("task")).id != task.id:
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert (await any_cache.get("task")).status is task.status is TaskStatus.FAILED


async def test_what_is_in_the_cache_is_there_for_others(any_cache: Cache) -> None:
    """Another agent, later and elsewhere, finds what the first one has left."""
    await run(agent_of(node("a", lambda cache: cache.set("x", [1, 2])), cache=any_cache))
    second: Agent = agent_of(
        node("b", lambda cache: cache.get("x"), inputs=["x"], condition="#x == 2"), cache=any_cache
    )
    await run(second)
    assert results(second) == {"b": [1, 2]}
