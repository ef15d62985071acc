"""What the tests of task graphs share."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any

from miniagents import Message, MiniAgent, MiniAgents
from miniagents.ext.graph import GraphEvent
from miniagents.ext.task_graph import (
    Agent,
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleType,
    Node,
    NodeConfig,
    Task,
)
from miniagents.testing import assert_no_leftovers


class Does(AgentModule):
    """A module that does what a function of the cache does, or takes some time, and notes that it was run."""

    work: Any = None
    seconds: float = 0
    runs: int = 0

    async def process(self, cache: Any, semaphore: Any) -> Any:
        self.runs += 1
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if isinstance(self.work, BaseException):
            raise self.work
        outcome = self.work(cache) if callable(self.work) else self.work
        return await outcome if isawaitable(outcome) else outcome


class Unreliable(AgentModule):
    """A module that fails a number of times before it succeeds."""

    failures: int = 1
    error: type[Exception] = ValueError
    runs: int = 0

    async def process(self, cache: Any, semaphore: Any) -> Any:
        self.runs += 1
        if self.runs <= self.failures:
            raise self.error(f"run {self.runs}")
        return {"status": "success", "result": f"run {self.runs}"}


def success(value: Any = None, **more: Any) -> dict[str, Any]:
    return {"status": "success", "result": value, **more}


def node(name: str, *work: Any, after: Iterable[str] = (), **options: Any) -> Node:
    """A node; work that is neither a module nor an agent becomes a `Does`. Options of `NodeConfig` go there."""
    modules = [one if isinstance(one, (AgentModule, MiniAgent)) else Does(work=one) for one in work or (name,)]
    config = {key: options.pop(key) for key in list(options) if key in NodeConfig.model_fields}
    return Node(name=name, modules=modules, dependencies=list(after), node_config=NodeConfig(**config), **options)


def flow(
    name: str,
    *decisions: FlowDecision | tuple[str, Any] | str,
    default: str | None = None,
    after: Iterable[str] = (),
    **options: Any,
) -> Node:
    """A node of flow control. A decision can be the name of a node, or such a name and a condition."""
    made = [
        one
        if isinstance(one, FlowDecision)
        else FlowDecision(next_node=one)
        if isinstance(one, str)
        else FlowDecision(next_node=one[0], condition=one[1])
        for one in decisions
    ]
    cleanup = options.pop("cleanup_on_default", True)
    config = FlowControlConfig(decisions=made, default=default, cleanup_on_default=cleanup)
    return node(name, FlowControlModule(flow_config=config), after=after, type=ModuleType.FLOW_CONTROL, **options)


def agent_of(*nodes: Node, **options: Any) -> Agent:
    agent = Agent(**options)
    agent.add_multiple_nodes(nodes)
    return agent


def new_task(**params: Any) -> Task:
    return Task(type="test", objective="do it", params=params)


async def run(agent: Agent, task: Task | None = None, timeout: float | None = None) -> Task:
    """Runs a task to its end, inside of a context, and sees to it that nothing is left."""
    async with nothing_left(), MiniAgents():
        return await agent.run_task(task or new_task(), timeout)


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    async with assert_no_leftovers():
        yield


def statuses(agent: Agent) -> dict[str, str]:
    return {name: one["status"] for name, one in agent.node_results.items()}


def results(agent: Agent) -> dict[str, Any]:
    """The result of the only module of each node that has succeeded."""
    return {name: one["results"][0]["result"] for name, one in agent.node_results.items() if one["status"] == "success"}


def runs(agent: Agent) -> dict[str, int]:
    """How often the first module of each node has run."""
    return {name: getattr(one.modules[0], "runs", 0) for name, one in agent.nodes.items() if one.modules}


def told(messages: Iterable[Message]) -> list[str]:
    """Events, and messages with the nodes that have said them, in words."""
    return [str(one) if isinstance(one, GraphEvent) else f"{getattr(one, 'node', '')}: {one}" for one in messages]


def events_of(messages: Iterable[Message], kind: type[GraphEvent]) -> list[Any]:
    return [one for one in messages if isinstance(one, kind)]


class Notes:
    """Notes when what happens, on the clock of the loop."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, str]] = []

    def step(self, name: str, seconds: float = 0) -> Callable[[Any], Any]:
        """Work that is noted at its beginning and takes some time."""

        async def work(_: Any) -> str:
            self.entries.append((asyncio.get_running_loop().time(), name))
            await asyncio.sleep(seconds)
            return name

        return work

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.entries]
