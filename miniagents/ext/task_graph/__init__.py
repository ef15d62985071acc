"""Task graphs: nodes of modules that work at tasks, with flow control, retries and snapshots, on the graph engine.

* `agent`: `Agent`, which runs tasks; `tasks`: the tasks
* `nodes`, `modules`, `flow`: of what an agent is made
* `inquiry`, `graph`, `run`, `state`: how a task runs on `miniagents.ext.graph`; `plans`: what a run does, as data
* `work`, `parallel`, `outcomes`: how a node runs its modules; `tracing`: spans of all that
* `snapshots`: where a run stands, as data; `recorder`, `changes`: writing that down; `restoring`: taking a run up again
* `recording`, `fingerprints`: where snapshots are, whose a run is, and whether its graph is what it was
* `errors`: what goes wrong
"""

from miniagents.ext.graph.conditions import ConditionError
from miniagents.ext.graph.errors import GraphDefinitionError, GraphError, GraphLimitError, UnknownNodeError
from miniagents.ext.task_graph.agent import Agent
from miniagents.ext.task_graph.errors import (
    GraphChangedError,
    MissingInputError,
    MissingOutputError,
    ModuleError,
    NodesFailedError,
    NonRetryableException,
    RestoredError,
    SnapshotError,
    TaskTakenOverError,
    TaskTransitionError,
)
from miniagents.ext.task_graph.flow import FlowControlConfig, FlowControlModule, FlowDecision
from miniagents.ext.task_graph.modules import AgentModule, Middleware, ModuleConfig, ModuleType
from miniagents.ext.task_graph.nodes import Node, NodeConfig, SnapshotControl
from miniagents.ext.task_graph.plans import ExecutionPlan, ExecutionState, ExecutionStep
from miniagents.ext.task_graph.tasks import Task, TaskStatus

__all__ = [
    "Agent",
    "AgentModule",
    "ConditionError",
    "ExecutionPlan",
    "ExecutionState",
    "ExecutionStep",
    "FlowControlConfig",
    "FlowControlModule",
    "FlowDecision",
    "GraphChangedError",
    "GraphDefinitionError",
    "GraphError",
    "GraphLimitError",
    "Middleware",
    "MissingInputError",
    "MissingOutputError",
    "ModuleConfig",
    "ModuleError",
    "ModuleType",
    "Node",
    "NodeConfig",
    "NodesFailedError",
    "NonRetryableException",
    "RestoredError",
    "SnapshotControl",
    "SnapshotError",
    "Task",
    "TaskStatus",
    "TaskTakenOverError",
    "TaskTransitionError",
    "UnknownNodeError",
]
