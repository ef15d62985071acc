"""Checkpoints: where a run stands, as one object that can be written to a file."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

from miniagents.ext.checkpoints import Entry
from miniagents.ext.values import decode, encode
from miniagents.ext.workflow.errors import WorkflowError
from miniagents.ext.workflow.states import AgentStatus

__all__ = ["Checkpoint"]

_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands: what it would go on from.

    Attributes:
        run_id: The id of the run.
        agent_name: The name of the workflow.
        agent_status: Its status.
        completed_states: The states that have completed.
        state: The shared state.
        entries: The journal of the run, from which all of it is restored.
        timestamp: When it was made, in seconds since 1970.
    """

    run_id: str
    agent_name: str
    agent_status: AgentStatus
    completed_states: tuple[str, ...]
    state: dict[str, Any]
    entries: tuple[Entry, ...]
    timestamp: float = field(default_factory=time.time)

    def to_dict(self) -> dict[str, Any]:
        """Writes it as data that `json.dump` takes.

        Returns:
            The data.

        Raises:
            TypeError: A value of the state cannot be represented; the message names the path to it.
        """
        content = {
            "run_id": self.run_id,
            "agent_name": self.agent_name,
            "agent_status": self.agent_status.value,
            "completed_states": list(self.completed_states),
            "state": self.state,
            "entries": [list(entry) for entry in self.entries],
            "timestamp": self.timestamp,
        }
        return {"format": _FORMAT, "checkpoint": json.loads(encode(content))}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Checkpoint":
        """Reads what `to_dict` has written.

        Raises:
            WorkflowError: It is no checkpoint, or one of a newer version.
        """
        if not isinstance(data, dict) or "checkpoint" not in data:
            raise WorkflowError("this is no checkpoint of a workflow; give what `Checkpoint.to_dict` has made")
        if data.get("format") != _FORMAT:
            raise WorkflowError(f"this checkpoint has the format {data.get('format')!r}; this version reads {_FORMAT}")
        content = decode(json.dumps(data["checkpoint"]).encode())
        return cls(
            run_id=content["run_id"],
            agent_name=content["agent_name"],
            agent_status=AgentStatus(content["agent_status"]),
            completed_states=tuple(content["completed_states"]),
            state=content["state"],
            entries=tuple(Entry(*entry) for entry in content["entries"]),
            timestamp=content["timestamp"],
        )
