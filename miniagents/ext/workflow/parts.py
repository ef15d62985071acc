"""Workflows as parts of others: a state may go on with `(other_agent, state)`."""

import gc
import inspect
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from miniagents.ext.workflow.copies import is_same
from miniagents.ext.workflow.errors import UnknownStateError, WorkflowError
from miniagents.ext.workflow.opening import failure_in, is_there, part_run_id
from miniagents.ext.workflow.shared import each_of
from miniagents.ext.workflow.states import State
from miniagents.ext.workflow.work import node_of

if TYPE_CHECKING:
    from miniagents.ext.workflow.agent import Agent
    from miniagents.ext.workflow.context import Context
    from miniagents.ext.workflow.run import WorkflowRun

__all__ = ["is_part", "make_known", "name_part", "names_part", "restore_part"]

_agents: "defaultdict[str, WeakSet[Agent]]" = defaultdict(WeakSet)
"""The workflows of this process by their names, to find one that a recorded run has gone on with."""


def make_known(agent: "Agent") -> None:
    """Has a workflow found by its name."""
    _agents[agent.alias].add(agent)


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
        undoes = f"{name}_compensation"
        compensation = undoes if undoes in run.definitions else None
        state = State(name, _Part(other, start), compensation=compensation, next_states=frozenset())
        run.add_state(state, node_of(state))
    return name


def restore_part(run: "WorkflowRun", name: str) -> None:
    """Makes the state of another workflow that was named in another process, if that is in this one, too.

    Raises:
        WorkflowError: There are several workflows of that name, and it cannot be seen which one is meant.
    """
    named = _agents_in(definition.function for definition in run.agent.states.values())
    for position in (index for index, character in enumerate(name) if character == "."):
        alias, start = name[:position], name[position + 1 :]
        other = _only_one(named, alias, start) or _only_one(_known(alias), alias, start)
        if other is not None:
            name_part(run, other, start)
            return


def _known(alias: str) -> "list[Agent]":
    found = list(_agents.get(alias, ()))
    if len(found) > 1:  # some may be there only because the collector has not come by
        del found
        gc.collect()
        found = list(_agents.get(alias, ()))
    return found


def _only_one(agents: "Iterable[Agent]", alias: str, start: str) -> "Agent | None":
    found = {id(agent): agent for agent in agents if agent.alias == alias and start in agent.states}
    if len(found) > 1:
        raise WorkflowError(
            f"a run has gone on with {alias}.{start}, and there are {len(found)} workflows {alias!r} in this process; "
            "give them different names"
        )
    return next(iter(found.values()), None)


def _agents_in(functions: "Iterable[Any]") -> "list[Agent]":
    """The workflows that functions know: those in their closures, and the globals that they name."""
    from miniagents.ext.workflow.agent import Agent

    found: list[Any] = []
    for function in functions:
        plain = inspect.unwrap(function) if callable(function) else function
        code = getattr(plain, "__code__", None)
        if code is not None:
            found += [plain.__globals__.get(name) for name in code.co_names]
            for cell in plain.__closure__ or ():
                with suppress(ValueError):  # it is empty as yet
                    found.append(cell.cell_contents)
    found += [one for several in found if isinstance(several, (list, tuple)) for one in several]
    return [one for one in found if isinstance(one, Agent)]


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
        run_id = part_run_id(context.run_id, context.state_name, context.visit)
        is_resumed = store is not None and await is_there(store, run_id)
        if store is not None and is_resumed:
            failure = failure_in(await store.read(run_id))
            if failure is not None:  # and the process has died before the run heard of it
                raise failure
        begun: list[WorkflowRun] = []

        def begin(part: "WorkflowRun") -> None:
            begun.append(part)
            context.begin_part(part)

        await context.inquire(
            self._agent,
            run_id=run_id,
            resume=is_resumed,
            key=context.idempotency_key,
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
        if key not in given and (key not in before or not is_same(value, before[key])):
            context.set_state(key, value)
    for key in before.keys() - after.keys():
        context.remove_state(key)
