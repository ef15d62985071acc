"""Workflows: states that name each other, share state and resources, and can be taken up again; on the graph engine.

* `agent`: `Agent`, the workflow; `states`, `dependencies`: what it consists of
* `context`: what a state is given, and what all states share
* `run`: how that runs on `miniagents.ext.graph`; `branches`: states side by side, and where they meet again
* `journal`, `checkpoint`: what is recorded of a run; `people`: questions and their answers
* `errors`: what goes wrong
"""

from miniagents.ext.graph.resources import (
    Priority,
    ResourcePool,
    ResourceRequirements,
    ResourceType,
)
from miniagents.ext.workflow.agent import Agent
from miniagents.ext.workflow.checkpoint import Checkpoint
from miniagents.ext.workflow.context import Context, TypedContextData
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
from miniagents.ext.workflow.people import OpenQuestion
from miniagents.ext.workflow.states import AgentStatus, RetryPolicy, StateMetadata, StateResult, StateStatus

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
    "ResourcePool",
    "ResourceRequirements",
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
]
