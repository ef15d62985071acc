"""What states are for the graph engine: nodes whose agents call the functions."""

import inspect
from typing import TYPE_CHECKING, Any

from miniagents.agents import MiniAgent
from miniagents.ext.graph.graph import Node
from miniagents.ext.graph.policy import NodePolicy
from miniagents.ext.graph.run import current_visit
from miniagents.ext.workflow.context import Context
from miniagents.ext.workflow.errors import WorkflowError
from miniagents.ext.workflow.states import State
from miniagents.interaction import InteractionContext

if TYPE_CHECKING:
    from miniagents.ext.workflow.state_run import VisitData

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
    agent = state.function if isinstance(state.function, MiniAgent) else MiniAgent(_work, alias=state.name)
    if state.is_plain:
        return Node(state.name, agent, (), _PLAIN)
    policy = NodePolicy(
        attempts=state.retry_policy.max_retries + 1,
        backoff=state.retry_policy.delay,
        retry_if=_is_worth_a_retry,
        timeout=state.timeout,
        resources=state.resources,
        preemptible=state.preemptible,
    )
    return Node(state.name, agent, (), policy)


async def _work(ctx: InteractionContext) -> None:
    """What the agent of each state that is a function does."""
    visit = current_visit()
    assert visit is not None
    data: VisitData = visit.value
    data.context = context = Context(visit.run, visit, ctx)  # type: ignore[arg-type]
    data.returned = await visit.node_run.definition.function(context)  # type: ignore[attr-defined]


def _is_worth_a_retry(error: BaseException) -> bool:
    return not isinstance(error, WorkflowError)


_PLAIN = NodePolicy()  # that of most states, of which there may be many
