"""What a run is going to do, and has done, as data."""

from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter

from pydantic import BaseModel, Field

__all__ = ["ExecutionPlan", "ExecutionState", "ExecutionStep", "compile_plan"]


class ExecutionStep(BaseModel):
    """Nodes that can run side by side.

    Attributes:
        nodes: Their names.
    """

    nodes: list[str]


class ExecutionPlan(BaseModel):
    """Which nodes follow which. It is a picture: a node starts when its own dependencies are met, not with its step.

    Attributes:
        steps: The steps, in their order.
    """

    steps: list[ExecutionStep] = Field(default_factory=list)

    @property
    def nodes(self) -> list[str]:
        """The names of all nodes, in order."""
        return [name for step in self.steps for name in step.nodes]


class ExecutionState(BaseModel):
    """How far a run has come.

    Attributes:
        execution_index: How many nodes of the current plan have been dealt with.
        current_plan: What the run follows since its start or its last jump.
        execution_history: The plans before.
        total_iterations: How many visits of nodes have begun.
    """

    execution_index: int = 0
    current_plan: ExecutionPlan = Field(default_factory=ExecutionPlan)
    execution_history: list[ExecutionPlan] = Field(default_factory=list)
    total_iterations: int = 0

    def follow(self, plan: ExecutionPlan) -> None:
        """Goes on with another plan."""
        if self.current_plan.steps:
            self.execution_history.append(self.current_plan)
        self.current_plan = plan
        self.execution_index = 0


def compile_plan(after: Mapping[str, Iterable[str]]) -> ExecutionPlan:
    """Makes a plan.

    Args:
        after: The dependencies of each node; those that are no nodes of the plan count as met.

    Returns:
        The plan, with each node in the earliest step that it can be in.
    """
    sorter = TopologicalSorter({name: [one for one in before if one in after] for name, before in after.items()})
    sorter.prepare()
    steps: list[ExecutionStep] = []
    while sorter.is_active():
        ready = sorter.get_ready()
        steps.append(ExecutionStep(nodes=list(ready)))
        sorter.done(*ready)
    return ExecutionPlan(steps=steps)
