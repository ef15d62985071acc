"""What the agent of a node does: it runs the modules of the node, and says what came of them."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from miniagents.agents import MiniAgent, miniagent
from miniagents.ext.graph.events import GraphFinished
from miniagents.ext.graph.visit import Visit
from miniagents.ext.task_graph.errors import MissingInputError, MissingOutputError, ModuleError
from miniagents.ext.task_graph.modules import AgentModule, Result, call_at_work
from miniagents.ext.task_graph.nodes import Node
from miniagents.interaction import InteractionContext
from miniagents.message import Message

if TYPE_CHECKING:
    from miniagents.ext.task_graph.run import TaskRun

__all__ = ["NodeOutcome", "agent_of"]


class NodeOutcome(BaseModel):
    """What came of a visit of a node.

    Attributes:
        results: What the modules have returned, in their order.
        decision: The node to go on with, if flow control has named one.
        cleanup: Whether generators begin anew in what runs again.
        why: The condition that decided.
        new_nodes: Nodes to add to the graph.
    """

    results: list[Result]
    decision: str | None = None
    cleanup: bool = False
    why: str | None = None
    new_nodes: list[Node] = Field(default_factory=list)

    @classmethod
    def of(cls, results: list[Result]) -> "NodeOutcome":
        """Reads what the run has to know out of the results."""
        deciding = next((one for one in results if one.get("decision")), {})
        new_nodes = [node for one in results for node in one.get("new_nodes", ())]
        return cls(
            results=[_without_definitions(one) for one in results],
            decision=deciding.get("decision"),
            cleanup=bool(deciding.get("cleanup")),
            why=deciding.get("why"),
            new_nodes=new_nodes,
        )


def agent_of(node: Node, subgraph: MiniAgent | None) -> MiniAgent:
    """Makes the agent of a node.

    Args:
        node: The node.
        subgraph: The graph of the nodes of which it consists.

    Returns:
        An agent that is called with its visit as `visit`.
    """
    modules: list[AgentModule | MiniAgent] = [*node.modules, *([] if subgraph is None else [subgraph])]

    async def work(ctx: InteractionContext, visit: Visit) -> None:
        call_at_work.set(ctx)
        await _NodeWork(node, modules, ctx, visit).run()

    return miniagent(work, alias=node.name)


class _NodeWork:
    """One attempt of a node."""

    def __init__(
        self, node: Node, modules: list[AgentModule | MiniAgent], ctx: InteractionContext, visit: Visit
    ) -> None:
        self._node = node
        self._modules = modules
        self._ctx = ctx
        self._visit = visit
        self._run: TaskRun = visit.run  # type: ignore[assignment]
        self._cache = visit.run.cache

    async def run(self) -> None:
        await self._check_inputs()
        works = [self._module(place, module) for place, module in enumerate(self._modules)]
        side_by_side = self._node.node_config.parallel and len(works) > 1
        stop = self._node.config.stop_on_success
        results = await (_side_by_side(works, stop) if side_by_side else _one_by_one(works, stop))
        await self._check_outputs(results)
        outcome = self._visit.value = NodeOutcome.of(results)
        for node in outcome.new_nodes:
            self._run.add_task_node(node)

    async def _check_inputs(self) -> None:
        wanted = self._node.node_config.inputs
        if wanted:
            found = await self._cache.get_many(wanted)
            missing = [name for name in wanted if name not in found]
            if missing:
                raise MissingInputError(
                    f"{self._node.name} needs {', '.join(map(repr, missing))} in the cache, where that is missing; let "
                    "a node before it set it, or set it before the task is run"
                )

    async def _check_outputs(self, results: list[Result]) -> None:
        missing = [name for name in self._node.node_config.outputs if not any(name in one for one in results)]
        if missing:
            found = await self._cache.get_many(missing)
            missing = [name for name in missing if name not in found]
        if missing:
            raise MissingOutputError(
                f"{self._node.name} has not delivered {', '.join(map(repr, missing))}, neither as a key of the cache "
                "nor as one of what its modules returned"
            )

    async def _module(self, place: int, module: AgentModule | MiniAgent) -> Result:
        name = module.alias if isinstance(module, MiniAgent) else module.name
        timeout = module.config.timeout if isinstance(module, AgentModule) else None
        timeout = self._node.config.timeout if timeout is None else timeout
        with self._run.tracer.module(self._node, module):
            try:
                async with asyncio.timeout(timeout) as limit:
                    if isinstance(module, MiniAgent):
                        result = await self._agent(module)
                    else:
                        result = _as_result(await self._process(place, module))
            except TimeoutError as error:
                if limit.expired():
                    raise TimeoutError(f"{name} took longer than {timeout:g} s, which is its timeout") from error
                raise
            for middleware in self._middlewares(module):
                result = await middleware.process(result, self._cache)
            if result.get("status") == "error":
                raise ModuleError(f"{name}: {result.get('error') or result.get('result')}")
        if isinstance(module, AgentModule) and module.output_mailbox:
            await self._cache.publish_to_mailbox(module.output_mailbox, result)
        return result

    def _middlewares(self, module: AgentModule | MiniAgent) -> list[Any]:
        own = module.config.middlewares if isinstance(module, AgentModule) else []
        return [*own, *self._node.config.middlewares]

    async def _agent(self, agent: MiniAgent) -> Result:
        from miniagents.ext.task_graph.run import TaskGraph

        ctx = self._ctx
        if isinstance(agent, TaskGraph):  # the nodes of which this one consists work at the same task
            state = self._run.state.of_part(self._node.name)
            replies = agent.inquire(ctx.message_promises, task=self._run.task, state=state)
            ctx.reply(replies)
            await replies
            state.raise_if_failed(self._node.name)
            return {"status": "success", "result": state.node_results}
        replies = agent.inquire(ctx.message_promises)
        ctx.reply(replies)
        messages = _of_result(await replies)
        return {"status": "success", "result": "\n\n".join(map(str, messages)), "messages": list(messages)}

    async def _process(self, place: int, module: AgentModule) -> Any:
        generators, key = self._run.generators, (self._node.name, place)
        generator = generators.pop(key, None)
        if generator is not None:
            try:
                return await self._next(generator, key)
            except StopAsyncIteration:
                pass  # it had given its last result at the visit before, so it begins anew
        produced = module.process(self._cache, self._run.semaphore)
        if isinstance(produced, AsyncGenerator):
            try:
                return await self._next(produced, key)
            except StopAsyncIteration:
                raise ModuleError(f"{module.name} is a generator and gave no result; let it yield one") from None
        if not isawaitable(produced):
            raise TypeError(
                f"`process` of {module.name} returned {produced!r:.100}; define it as `async def process(cache, "
                "semaphore)` that returns, or yields, its results"
            )
        return await produced

    async def _next(self, generator: AsyncGenerator[Any, None], key: tuple[str, int]) -> Any:
        """The next result of a generator, which is kept for the next visit only if it can go on."""
        result = await anext(generator)
        self._run.generators[key] = generator
        return result


def _without_definitions(result: Result) -> Result:
    """A result in which new nodes are names, so that it does not hold what the graph knows anyway."""
    if "new_nodes" not in result:
        return result
    return {**result, "new_nodes": [node.name for node in result["new_nodes"]]}


def _as_result(returned: Any) -> Result:
    """What a module has returned, in the form of a result: anything else is the result of a success."""
    if isinstance(returned, dict) and returned.get("status") in ("success", "error"):
        return returned
    if isinstance(returned, dict) and "status" not in returned:
        return {"status": "success", "result": returned, **returned}
    return {"status": "success", "result": returned}


def _of_result(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Of the reply of a graph its results, of other agents all that they say."""
    if messages and isinstance(messages[-1], GraphFinished):
        return tuple(message for result in messages[-1].results.values() for message in result)
    return messages


async def _one_by_one(works: list[Coroutine[Any, Any, Result]], stop_on_success: bool) -> list[Result]:
    results: list[Result] = []
    errors: list[Exception] = []
    try:
        while works:
            try:
                results.append(await works.pop(0))
            except Exception as error:
                if not stop_on_success or not works:
                    raise
                errors.append(error)
            else:
                if stop_on_success:
                    break
    finally:
        for work in works:
            work.close()
    return results


async def _side_by_side(works: list[Coroutine[Any, Any, Result]], stop_on_success: bool) -> list[Result]:
    """Runs all at once; whatever is left when that is decided is cancelled, and has ended."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        if not stop_on_success:
            return list(await asyncio.gather(*tasks))
        for ended in asyncio.as_completed(tasks):
            try:
                return [await ended]
            except Exception as error:
                last = error
        raise last
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
