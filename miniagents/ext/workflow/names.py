"""What a state has returned, as the names of states."""

from typing import TYPE_CHECKING, Any

from miniagents.ext.workflow.errors import WorkflowError
from miniagents.ext.workflow.parts import name_part, names_part
from miniagents.ext.workflow.states import State

if TYPE_CHECKING:
    from miniagents.ext.workflow.run import WorkflowRun

__all__ = ["names_in"]

_DONE = ("await_processing", "await_completion")


def names_in(returned: Any, run: "WorkflowRun", state: State) -> list[str]:
    """Reads what a state has returned.

    Args:
        returned: That.
        run: The run. For a part of another workflow a state is added to it.
        state: The state.

    Returns:
        The names of the next states.

    Raises:
        UnknownStateError: There is none of that name.
        WorkflowError: It is nothing that a state can return, or not among what it was said to name.
    """
    if returned is None:
        return []
    if isinstance(returned, str) or names_part(returned):
        returned = [returned]
    if not isinstance(returned, (list, tuple)):
        raise WorkflowError(
            f"{state.name} returned {returned!r:.100}; return the name of a state, a list of names, "
            "(agent, name) or None"
        )
    names: list[str] = []
    for one in returned:
        if isinstance(one, str):
            if one in run.nodes or one not in _DONE:
                names.append(_known(one, run, state))
        elif names_part(one):
            names.append(name_part(run, *one))
        else:
            raise WorkflowError(f"{state.name} returned {one!r:.100} among others, which is no name of a state")
    return list(dict.fromkeys(names))


def _known(name: str, run: "WorkflowRun", state: State) -> str:
    run.state_named(name, state.name)
    if state.next_states is not None and name not in state.next_states:
        raise WorkflowError(
            f"{state.name} names {name!r}, which is not among its next_states: "
            f"{', '.join(sorted(state.next_states)) or 'none'}"
        )
    return name
