"""What can be looked at while a workflow runs, and afterwards."""

from typing import TYPE_CHECKING, Any

from miniagents.ext.workflow.copies import detached
from miniagents.ext.workflow.definition import Definition
from miniagents.ext.workflow.states import AgentStatus, State, StateMetadata, StateStatus

if TYPE_CHECKING:
    from miniagents.ext.workflow.checkpoint import Checkpoint
    from miniagents.ext.workflow.run import WorkflowRun

__all__ = ["Monitored"]


class Monitored(Definition):
    """A workflow and its present run, or its last one. See `Agent`.

    Where several runs go on at the same time, it is the one that began last.
    """

    __slots__ = ("_restored", "_run")

    _run: "WorkflowRun | None"
    _restored: "Checkpoint | None"

    @property
    def status(self) -> AgentStatus:
        """How far the run has come. IDLE before the first one, PAUSED where a checkpoint was restored."""
        if self._restored is not None:
            return AgentStatus.PAUSED
        return AgentStatus.IDLE if self._run is None else self._run.status

    @property
    def run_id(self) -> str | None:
        """The id of the run; None before the first one."""
        if self._restored is not None:
            return self._restored.run_id
        return None if self._run is None else self._run.run_id

    @property
    def state_metadata(self) -> dict[str, StateMetadata]:
        """What is known of each state."""
        known = {} if self._run is None else self._run.state_metadata
        return {name: StateMetadata(name) for name in self.states} | known

    @property
    def completed_states(self) -> set[str]:
        """The states that have completed."""
        if self._restored is not None:
            return set(self._restored.completed_states)
        return set() if self._run is None else set(self._run.completed)

    @property
    def _running_states(self) -> set[str]:
        return {name for name, one in self.state_metadata.items() if one.status is StateStatus.RUNNING}

    @property
    def priority_queue(self) -> list[str]:
        """The states that wait: for others, a place, or resources; those of high priority first."""
        waiting = [
            name for name, one in self.state_metadata.items() if one.status in (StateStatus.READY, StateStatus.BLOCKED)
        ]
        return sorted(waiting, key=lambda name: -_priority(self.states.get(name)))

    def get_state(self, key: str, default: Any = None) -> Any:
        """Gives a value of the shared state. If it can be changed it is a copy."""
        run = self._run
        values = self._restored.state if self._restored is not None else {} if run is None else run.shared.values
        return detached(values[key]) if key in values else default


def _priority(state: State | None) -> int:
    return 0 if state is None or state.resources is None else int(state.resources.priority)
