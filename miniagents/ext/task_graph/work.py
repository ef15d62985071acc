"""What the agent of a node does: it runs the modules of the node, and says what came of them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from miniagents.agents import MiniAgent
from miniagents.ext.graph.events import is_event, result_of
from miniagents.ext.graph.visit import Visit
from miniagents.ext.labelled import LabelledPromise
from miniagents.ext.task_graph.errors import MissingInputError, MissingOutputError, ModuleError
from miniagents.ext.task_graph.modules import AgentModule, AtWork, ModuleConfig, Result, module_at_work
from miniagents.ext.task_graph.nodes import Node
from miniagents.ext.task_graph.outcomes import NodeOutcome, as_result, text_of
from miniagents.ext.task_graph.parallel import ModuleRun, one_by_one, side_by_side
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.messages import MessagePromise
from promising.sentinels import NO_VALUE

if TYPE_CHECKING:
    from miniagents.ext.task_graph.graph import TaskGraph
    from miniagents.ext.task_graph.run import TaskRun

__all__ = ["agent_of"]

_DEFAULT_CONFIG = ModuleConfig()


def agent_of(node: Node, subgraph: "TaskGraph | None") -> MiniAgent:
    """Makes the agent of a node.

    Args:
        node: The node.
        subgraph: The graph of the nodes of which it consists.

    Returns:
        An agent that is called with its visit as `visit`.
    """

    async def work(ctx: InteractionContext, visit: Visit) -> None:
        try:
            await _NodeWork(node, subgraph, ctx, visit).run()
        except Exception as error:
            if not visit.fail_at_once(ctx, error):
                raise

    return MiniAgent(work, alias=node.name)  # `miniagent` would look for what is known here


class _NodeWork:
    """One attempt of a node."""

    def __init__(self, node: Node, subgraph: "TaskGraph | None", ctx: InteractionContext, visit: Visit) -> None:
        self._node = node
        self._modules: list[AgentModule | MiniAgent] = [*node.modules, *([] if subgraph is None else [subgraph])]
        self._subgraph = subgraph
        self._ctx = ctx
        self._visit = visit
        self._run: TaskRun = visit.run  # type: ignore[assignment]
        self._cache = visit.run.cache

    async def run(self) -> None:
        await self._check_inputs()
        stops = self._node.config.stop_on_success
        modules = [
            ModuleRun(partial(self._module, place, module), stops or _config_of(module).stop_on_success)
            for place, module in enumerate(self._modules)
        ]
        results = await (side_by_side if self._node.node_config.parallel else one_by_one)(modules)
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

    # --- one module ---

    async def _module(self, place: int, module: AgentModule | MiniAgent) -> Result:
        name = module.alias if isinstance(module, MiniAgent) else module.name
        at_work = AtWork(self._ctx, self._node.config.context)
        module_at_work.set(at_work)
        with self._span(name, module):
            result = await self._result(place, module, name)
            for middleware in (*_config_of(module).middlewares, *self._node.config.middlewares):
                result = await middleware.process(result, self._cache)
                if not isinstance(result, dict):
                    raise TypeError(
                        f"the middleware {type(middleware).__name__} of {self._node.name} returned {result!r:.100}; "
                        "let it return the data"
                    )
            if result.get("status") == "error":
                raise ModuleError(f"{name}: {result.get('error') or result.get('result')}")
        if isinstance(module, AgentModule):
            if not at_work.has_replied:
                self._say(result)
            if module.output_mailbox:
                await self._cache.publish_to_mailbox(module.output_mailbox, result)
        return result

    def _say(self, result: Result) -> None:
        """Replies a result, since those who come after, and whoever called the agent, would else hear nothing of it."""
        if result.get("result") is not None and "decision" not in result:
            self._ctx.reply(text_of(result["result"]))

    def _span(self, name: str, module: AgentModule | MiniAgent) -> AbstractContextManager[None]:
        if not self._node.trace and not (isinstance(module, AgentModule) and module.trace):
            return nullcontext()
        kind = module.type.value if isinstance(module, AgentModule) else "agent"
        return self._run.state.tracer.module(name, kind)

    async def _result(self, place: int, module: AgentModule | MiniAgent, name: str) -> Result:
        timeout = _config_of(module).timeout
        if timeout is None:
            timeout = self._node.config.timeout
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                if isinstance(module, AgentModule):
                    return as_result(await self._process(place, module))
                if self._subgraph is not None and module is self._subgraph:
                    return await self._result_of_subgraph(self._subgraph)
                return await self._result_of_agent(module)
        except TimeoutError as error:
            if limit.expired():
                raise TimeoutError(f"{name} took longer than {timeout:g} s, which is its timeout") from error
            raise

    async def _result_of_subgraph(self, graph: "TaskGraph") -> Result:
        """Lets the nodes of which this one consists work at the same task."""
        state = self._run.state.of_part()
        await self._reply_of(graph, task=self._run.task, state=state)
        state.raise_if_failed(self._node.name)
        return {"status": "success", "result": state.node_results}

    async def _result_of_agent(self, agent: MiniAgent) -> Result:
        messages = result_of(await self._reply_of(agent))
        return {"status": "success", "result": "\n\n".join(map(str, messages)), "messages": messages}

    async def _reply_of(self, agent: MiniAgent, **arguments: Any) -> tuple[Message, ...]:
        """Calls an agent and passes on what it replies while it does; its errors are raised here, and only here."""
        replies = self._run.inquire_inside(agent, self._ctx.message_promises, **arguments)
        async for promise in replies:
            self._ctx.reply(_without_error(promise))
        return await replies

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


def _config_of(module: AgentModule | MiniAgent) -> ModuleConfig:
    return module.config if isinstance(module, AgentModule) else _DEFAULT_CONFIG


def _without_error(promise: MessagePromise) -> MessagePromise:
    if promise._value is not NO_VALUE or isinstance(promise, LabelledPromise) or is_event(promise):
        return promise  # which cannot fail
    return LabelledPromise(promise, {})
