"""A graph of 30 nodes with all that can happen in one, whose processes are killed by tests.

There are loops by flow control, attempts that fail, a part that is repeated from an earlier node, nodes that are added
while it runs (and added anew, when a loop comes back), nodes that fail, that are skipped and that are passed over, a
subgraph, and agents that are told what those before them have said. Every node notes in a file that it was started.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

from miniagents import InteractionContext, miniagent
from miniagents.ext.cache import Cache
from miniagents.ext.checkpoints import CheckpointStore
from miniagents.ext.graph.run import current_visit
from miniagents.ext.task_graph import (
    Agent,
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleType,
    Node,
    NodeConfig,
    NonRetryableException,
    SnapshotControl,
)

__all__ = ["STARTS", "graph_agent"]

STARTS = "STARTS_FILE"
"""The name of the environment variable with the path of the file of starts."""


def note_start() -> int:
    """Notes that a node is started, in a file to which all processes append. Gives the number of its visit."""
    visit = current_visit()
    assert visit is not None
    file = os.open(Path(os.environ[STARTS]), os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(file, f"{visit.node_run.node.name} {visit.number}\n".encode())
    os.close(file)
    return visit.number


class Step(AgentModule):
    """Sets some keys, and reads others."""

    sets: dict[str, Any] = {}
    reads: list[str] = []
    pauses: int = 1

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> dict[str, Any]:
        visit = note_start()
        for _ in range(self.pauses):
            await asyncio.sleep(0)
        await cache.set_many(self.sets)
        return {"status": "success", "result": f"{self.name} {visit}", "read": await cache.get_many(self.reads)}


class Flaky(Step):
    """Fails at its first attempt, each time."""

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> dict[str, Any]:
        visit = current_visit()
        assert visit is not None
        if visit.attempt == 1:
            note_start()
            raise ValueError("at first this fails")
        return await super().process(cache, semaphore)


class Broken(AgentModule):
    """Fails for good."""

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> None:
        note_start()
        raise NonRetryableException("this does not work")


class Counts(AgentModule):
    """Counts its visits. Who is killed before it has finished runs again: so it sets the number, and adds nothing."""

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> Any:
        visit = note_start()
        await cache.set("count", visit)
        return visit


class Asks(AgentModule):
    """Wants to be asked again, once."""

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> Any:
        visit = note_start()
        if visit == 1:
            await cache.set("again", True)
        return visit


class Drafts(AgentModule):
    """Is better each time."""

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> Any:
        visit = note_start()
        await cache.set("draft", visit)
        return visit


class Verifies(AgentModule):
    """Takes the second draft only."""

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> Any:
        note_start()
        draft = await cache.get("draft")
        if draft < 2:
            raise ValueError(f"draft {draft} is not good enough")
        return draft


class Plans(AgentModule):
    """Adds three nodes, two of them in a row, one of which adds another."""

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> dict[str, Any]:
        visit = note_start()
        await cache.set("plans", visit)
        first, second, third = (f"planned {visit} {letter}" for letter in "abc")
        return {
            "status": "success",
            "result": visit,
            "new_nodes": [
                node(first, Step(name=first, sets={first: visit})),
                node(second, Step(name=second, reads=[first]), after=[first], condition="plans > 0"),
                node(third, Extends(name=third)),
            ],
        }


class Extends(AgentModule):
    """Adds a node."""

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> dict[str, Any]:
        note_start()
        inner = f"{self.name}, extended"
        return {"status": "success", "result": inner, "new_nodes": [node(inner, Step(name=inner, pauses=3))]}


class Decides(FlowControlModule):
    """Flow control that notes that it was started."""

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> dict[str, Any]:
        note_start()
        return await super().process(cache, semaphore)


@miniagent
async def speaker(ctx: InteractionContext) -> None:
    note_start()
    ctx.reply("the speaker has heard: ")
    ctx.reply(ctx.message_promises)


@miniagent
async def listener(ctx: InteractionContext) -> None:
    note_start()
    ctx.reply([f"<{message}>" for message in await ctx.message_promises])


def node(name: str, *modules: Any, after: Any = (), **config: Any) -> Node:
    return Node(
        name=name,
        modules=list(modules) or [Step(name=name)],
        dependencies=list(after),
        node_config=NodeConfig(**config),
        snapshot=SnapshotControl.ALWAYS,
    )


def flow(name: str, target: str, condition: str, after: str, *variables: str) -> Node:
    decision = FlowDecision(next_node=target, condition=condition, condition_variables=list(variables))
    return node(name, Decides(flow_config=FlowControlConfig(decisions=[decision])), after=[after])


def nodes() -> list[Node]:
    """The 30 nodes."""
    workers = [f"worker {number}" for number in range(1, 6)]
    inner = [node("inner 1", Step(name="inner 1", sets={"inner": 1})), node("inner 2", after=["inner 1"])]
    subgraph = Node(
        name="subgraph",
        type=ModuleType.SUBGRAPH,
        nodes=inner,
        dependencies=["verify"],
        snapshot=SnapshotControl.ALWAYS,
    )
    return [
        node("start", Step(name="start", sets={"count": 0, "draft": 0, "plans": 0, "enough": 2})),
        *(
            node(name, Step(name=name, sets={name: name}, pauses=place), after=["start"])
            for place, name in enumerate(workers)
        ),
        node("gather", Step(name="gather", reads=workers), after=workers),
        node("flaky", Flaky(name="flaky", sets={"flaky": True}), after=["start"]),
        node("count", Counts(), after=["start"]),
        flow("counted", "count", "count < enough", "count"),
        node("after counting", after=["counted"]),
        node("ask", Asks(), after=["flaky"]),
        flow("asked", "ask", "again == true", "ask", "again"),
        node("after asking", after=["asked"]),
        node("draft", Drafts(), after=["start"]),
        node("verify", Verifies(), after=["draft"], retry_from="draft", max_retries=5),
        node("plan", Plans(), after=["gather"]),
        flow("planned", "plan", "plans < 2", "plan"),
        node("after planning", after=["planned"]),
        flow("choose", "right", "count == 2", "after counting"),
        node("left", after=["choose"]),
        node("right", after=["choose"]),
        node("join", after=["left", "right"]),
        node("broken", Broken(), after=["worker 1"]),
        node("after broken", after=["broken"]),
        node("never", after=["start"], condition="count == 100"),
        subgraph,
        node("speaker", speaker, after=["worker 2"]),
        node("listener", listener, after=["speaker", "worker 3"]),
        node(
            "end",
            Step(name="end", reads=["count", "draft", "plans", "again", "flaky", "inner"]),
            after=["join", "after asking", "after planning", "subgraph", "listener"],
        ),
    ]


def graph_agent(cache: Cache, store: CheckpointStore | None, **options: Any) -> Agent:
    """The agent, with snapshots if there is a store."""
    agent = Agent(cache, 10, auto_snapshot=store is not None, snapshot_store=store, **options)
    agent.add_multiple_nodes(nodes())
    assert len(agent.nodes) == 30
    return agent
