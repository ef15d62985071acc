"""What states are for the graph engine: nodes whose agents call the functions."""

import inspect
from typing import Any

from miniagents.agents import MiniAgent, miniagent
from miniagents.ext.graph.graph import Node
from miniagents.ext.graph.policy import NodePolicy
from miniagents.ext.graph.visit import Visit
from miniagents.ext.workflow.context import Context
from miniagents.ext.workflow.errors import WorkflowError
from miniagents.ext.workflow.states import State, StateFunction
from miniagents.interaction import InteractionContext

__all__ = ["check_function", "node_of"]


def check_function(name: str, function: Any) -> None:
    """Makes sure that something can be a state.

    Raises:
        TypeError: It cannot, or would block the event loop.
    """
    if not callable(function) or isinstance(function, type):
        raise TypeError(
            f"the state {name!r} needs an async function of a context, or a miniagent, not {function!r:.100}"
        )
    plain = inspect.unwrap(function)
    if inspect.isfunction(plain) and plain.__name__ != "<lambda>" and not inspect.iscoroutinefunction(plain):
        raise TypeError(f"the state {name!r} is not async; write `async def {plain.__name__}(context): ...`")


def node_of(state: State) -> Node:
    """Says what was said of a state in the words of the engine.

    Raises:
        ValueError: Its timeout is none.
    """
    policy = NodePolicy(
        attempts=state.retry_policy.max_retries + 1,
        backoff=state.retry_policy.delay,
        retry_if=_is_worth_a_retry,
        timeout=state.timeout,
        resources=state.resources,
        preemptible=state.preemptible,
    )
    agent = state.function if isinstance(state.function, MiniAgent) else _agent_of(state.name, state.function)
    return Node(state.name, agent, (), policy)


def _agent_of(name: str, function: StateFunction) -> MiniAgent:
    async def work(ctx: InteractionContext, visit: Visit) -> None:
        data = visit.value
        data.context = context = Context(visit.run, visit, ctx)  # type: ignore[arg-type]
        data.returned = await function(context)

    return miniagent(work, alias=name)


def _is_worth_a_retry(error: BaseException) -> bool:
    return not isinstance(error, WorkflowError)
