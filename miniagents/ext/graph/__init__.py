"""Graphs of agents: each node starts the moment those before it have finished.

* `graph`: `Graph`, which is an agent itself; `policy`: how a node runs
* `run`: a run, as a state machine without tasks of its own, in layers: `steps`, `scheduling`, `reshaping`; `states`:
  how far each node has come
* `visit`: one visit of a node; `admission`: what it waits for; `inputs`, `follower`: what its agent is sent, and what
  it replies; `deadlines`: limits of time
* `events`: what a run tells while it goes on; `errors`
* `conditions`, `lua`: when a node runs at all; `resources`: what nodes share
* `mermaid`: pictures
"""

from miniagents.ext.graph.conditions import ConditionError
from miniagents.ext.graph.errors import GraphDefinitionError, GraphError, GraphLimitError, UnknownNodeError
from miniagents.ext.graph.events import (
    DecisionTaken,
    GraphEvent,
    GraphFinished,
    NodeFailed,
    NodeFinished,
    NodeRetried,
    NodeSkipped,
    NodeStarted,
)
from miniagents.ext.graph.graph import Graph, Node
from miniagents.ext.graph.policy import ConcurrencyLimit, NodePolicy
from miniagents.ext.graph.run import GraphRun, NodeState, current_run

__all__ = [
    "ConcurrencyLimit",
    "ConditionError",
    "DecisionTaken",
    "Graph",
    "GraphDefinitionError",
    "GraphError",
    "GraphEvent",
    "GraphFinished",
    "GraphLimitError",
    "GraphRun",
    "Node",
    "NodeFailed",
    "NodeFinished",
    "NodePolicy",
    "NodeRetried",
    "NodeSkipped",
    "NodeStarted",
    "NodeState",
    "UnknownNodeError",
    "current_run",
]
