"""What a workflow replies at its end. While it runs it replies the events of `miniagents.ext.graph.events`."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from miniagents.ext.graph.events import GraphFinished
from miniagents.message import Message

__all__ = ["WorkflowFinished", "WorkflowResult"]


class WorkflowResult(Message):
    """What a run of a workflow has brought. Its text is the state as JSON.

    Attributes:
        workflow: The name of the workflow.
        run_id: The id of the run.
        state: The shared state at the end as plain data: objects are dicts of their fields.
    """

    workflow: str
    run_id: str
    state: dict[str, Any]

    def __str__(self) -> str:
        if self.text is not None:
            return self.text
        return to_json(self.state).decode()


class WorkflowFinished(GraphFinished):
    """The run has ended: the last message of a workflow that tells its progress.

    Attributes:
        run_id: The id of the run.
    """

    run_id: str

    @property
    def state(self) -> Mapping[str, Any]:
        """The shared state at the end as plain data."""
        (result,) = self.results.get(self.graph) or (None,)
        return result.state if isinstance(result, WorkflowResult) else {}


def result_of(workflow: str, run_id: str, values: Mapping[str, Any]) -> WorkflowResult:
    """Makes the result of a run."""
    plain = to_json(values, fallback=repr, inf_nan_mode="strings", bytes_mode="base64")
    return WorkflowResult(workflow=workflow, run_id=run_id, state=json.loads(plain))
