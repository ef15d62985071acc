"""A workflow as the conditions of one of its runs see it."""

from typing import TYPE_CHECKING, Any

from miniagents.ext.workflow.copies import detached
from miniagents.ext.workflow.states import StateMetadata

if TYPE_CHECKING:
    from miniagents.ext.workflow.run import WorkflowRun

__all__ = ["AgentInRun"]


class AgentInRun:
    """A workflow with the state of one run, and of no other one that goes on at the same time.

    Args:
        run: The run.
    """

    def __init__(self, run: "WorkflowRun") -> None:
        self._run = run

    def get_state(self, key: str, default: Any = None) -> Any:
        """See `Agent.get_state`."""
        values = self._run.shared.values
        return detached(values[key]) if key in values else default

    @property
    def completed_states(self) -> set[str]:
        """See `Agent.completed_states`."""
        return set(self._run.completed)

    @property
    def state_metadata(self) -> dict[str, StateMetadata]:
        """See `Agent.state_metadata`."""
        return self._run.state_metadata

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run.agent, name)
