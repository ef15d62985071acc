"""Workflows: states that name each other, share state and resources, and can be taken up again; on the graph engine.

* `agent`: `Agent`, the workflow, made of `definition` (its states), `monitoring` (looking at it) and `control`
* `states`, `dependencies`: what is said of states; `work`: what they are for the engine; `names`: what they return
* `context`: what a state is given; `shared`: the state that all of them share; `typed`, `copies`: its values
* `run`: how that runs on `miniagents.ext.graph`: `recorded_run`, `scheduled_run`, `controlled_run` and `run`
  build on each other
* `branches`: states side by side, and where they meet again (`successors`); `waits`: states that wait for others
* `journal`, `recording`: what is recorded of a run; `opening`, `replay`: taking it up again; `checkpoint`
* `people`, `questions`, `console`: people in the loop; `saga`: undoing; `parts`: workflows in workflows
* `events`: what a workflow replies; `errors`: what goes wrong
"""

from miniagents.ext.graph.resources import (
    Priority,
    ResourceError,
    ResourcePool,
    ResourceRequirements,
    ResourceTimeoutError,
    ResourceType,
)
from miniagents.ext.workflow.agent import Agent
from miniagents.ext.workflow.checkpoint import Checkpoint
from miniagents.ext.workflow.context import Context
from miniagents.ext.workflow.dependencies import DependencyConfig, DependencyLifecycle, DependencyType
from miniagents.ext.workflow.errors import (
    DependencyError,
    HumanInputError,
    StateConflictError,
    StateTypeError,
    UnknownStateError,
    WorkflowCancelledError,
    WorkflowChangedError,
    WorkflowError,
)
from miniagents.ext.workflow.events import WorkflowFinished, WorkflowResult
from miniagents.ext.workflow.questions import OpenQuestion
from miniagents.ext.workflow.states import AgentStatus, RetryPolicy, StateMetadata, StateResult, StateStatus
from miniagents.ext.workflow.typed import TypedContextData

__all__ = [
    "Agent",
    "AgentStatus",
    "Checkpoint",
    "Context",
    "DependencyConfig",
    "DependencyError",
    "DependencyLifecycle",
    "DependencyType",
    "HumanInputError",
    "OpenQuestion",
    "Priority",
    "ResourceError",
    "ResourcePool",
    "ResourceRequirements",
    "ResourceTimeoutError",
    "ResourceType",
    "RetryPolicy",
    "StateConflictError",
    "StateMetadata",
    "StateResult",
    "StateStatus",
    "StateTypeError",
    "TypedContextData",
    "UnknownStateError",
    "WorkflowCancelledError",
    "WorkflowChangedError",
    "WorkflowError",
    "WorkflowFinished",
    "WorkflowResult",
]
