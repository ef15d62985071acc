"""Workflows as parts of others: a state may go on with `(other_agent, state)`."""

from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from miniagents.ext.workflow.errors import UnknownStateError
from miniagents.ext.workflow.opening import is_there
from miniagents.ext.workflow.shared import each_of
from miniagents.ext.workflow.states import State
from miniagents.ext.workflow.work import node_of

if TYPE_CHECKING:
    from miniagents.ext.workflow.agent import Agent
    from miniagents.ext.workflow.context import Context
    from miniagents.ext.workflow.run import WorkflowRun

__all__ = ["is_part", "make_known", "name_part", "names_part", "restore_part"]

_agents: "WeakValueDictionary[str, Agent]" = WeakValueDictionary()
"""The workflows of this process by their names, to find one that a recorded run has gone on with."""


def make_known(agent: "Agent") -> None:
    """Has a workflow found by its name."""
    _agents[agent.alias] = agent


def names_part(returned: Any) -> bool:
    """Whether a state has returned `(other_agent, state)`."""
    from miniagents.ext.workflow.agent import Agent

    return isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], Agent)


def is_part(state: State) -> bool:
    """Whether a state stands for another workflow."""
    return isinstance(state.function, _Part)


def name_part(run: "WorkflowRun", other: "Agent", start: str) -> str:
    """Makes a state of another workflow, which begins at one of its states.

    Args:
        run: The run that gets the state.
        other: The other workflow.
        start: Its state.

    Returns:
        What the state is called.

    Raises:
        UnknownStateError: It has no such state.
    """
    name = f"{other.alias}.{start}"
    if name not in run.nodes:
        if start not in other.states:
            raise UnknownStateError(str(start), f"a part, {other.alias}", other.states)
        state = State(name, _Part(other, start), next_states=frozenset())
        run.add_state(state, node_of(state))
    return name


def restore_part(run: "WorkflowRun", name: str) -> None:
    """Makes the state of another workflow that was named in another process, if that is in this one, too."""
    for position in (index for index, character in enumerate(name) if character == "."):
        other, start = _agents.get(name[:position]), name[position + 1 :]
        if other is not None and start in other.states:
            name_part(run, other, start)
            return


class _Part:
    """What a state does that stands for another workflow: runs it from one of its states on, with the same state.

    Args:
        agent: The other workflow.
        start: Its state.
    """

    def __init__(self, agent: "Agent", start: str) -> None:
        self._agent = agent
        self._start = start

    async def __call__(self, context: "Context") -> None:
        store = self._agent.store or context.store
        run_id = context.idempotency_key
        begun: list[WorkflowRun] = []

        def begin(part: "WorkflowRun") -> None:
            begun.append(part)
            context.begin_part(part)

        await context.inquire(
            self._agent,
            run_id=run_id,
            resume=store is not None and await is_there(store, run_id),
            start=self._start,
            values={key: context.get_state(key) for key in context.keys()},  # noqa: SIM118
            reducers=context.reducers,
            store=store,
            on_begin=begin,
            errors_as_messages=False,
        )
        _take_over(context, begun[0])


def _take_over(context: "Context", part: "WorkflowRun") -> None:
    """Sets what a part has set. What is put together by a reducer is put together with what came meanwhile."""
    before, after, given = part.journal.created["values"], part.shared.values, part.shared.given
    for key, value in given.items():
        for one in each_of(value):
            context.set_state(key, one)
    for key, value in after.items():
        if key not in given and (key not in before or _differ(before[key], value)):
            context.set_state(key, value)
    for key in before.keys() - after.keys():
        context.remove_state(key)


def _differ(before: Any, now: Any) -> bool:
    if before is now:
        return False
    try:
        return type(before) is not type(now) or bool(before != now)
    except Exception:  # they cannot be compared
        return True
