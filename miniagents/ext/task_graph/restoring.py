"""Taking up a run: what happened in another process is set, and what was decided there is carried out."""

from collections import deque
from typing import TYPE_CHECKING, Any

from miniagents.ext.graph.run import Jump, NodeRun, NodeState
from miniagents.ext.task_graph.errors import RestoredError
from miniagents.ext.task_graph.plans import ExecutionPlan, ExecutionStep
from miniagents.ext.task_graph.snapshots import NodeRecord, RunSnapshot

if TYPE_CHECKING:
    from miniagents.ext.cache import Cache
    from miniagents.ext.task_graph.run import TaskRun

__all__ = ["carry_out_jumps", "restore_cache", "restore_nodes"]


async def restore_cache(cache: "Cache", found: RunSnapshot) -> None:
    """Sets the keys that were there, and leaves others as they are.

    Args:
        cache: The cache, in the namespace of the run.
        found: Where the run stood.
    """
    await cache.set_many(found.cache)
    for key, content in found.raw.items():
        await cache.set_bytes(key, content)
    await cache.delete_many(key for jump in found.jumps.values() for key in jump["delete"])


def restore_nodes(run: "TaskRun", found: RunSnapshot) -> None:
    """Brings the nodes of a run that has just been set up to where they stood.

    Args:
        run: The run.
        found: Where it stood.
    """
    _restore_new_nodes(run, found)
    for name, record in found.nodes.items():
        _restore_node(run, run.nodes[name], record)
    run.recount()
    execution = run.state.execution
    if found.plans:
        *before, present = [_plan_of(steps) for steps in found.plans]
        execution.execution_history, execution.current_plan = before, present
    execution.execution_index = found.counts["settled"]
    execution.total_iterations = run._starts = found.counts["begun"]


def carry_out_jumps(run: "TaskRun", found: RunSnapshot) -> None:
    """Carries out what was decided.

    Args:
        run: The run, whose nodes are restored.
        found: Where it stood.
    """
    for source, jump in found.jumps.items():
        run.jump(run.nodes[source], Jump(tuple(jump["targets"]), jump["why"], jump["cleanup"]))


def _restore_new_nodes(run: "TaskRun", found: RunSnapshot) -> None:
    creators = deque(name for name in found.nodes if name in run.nodes)
    while creators:
        name = creators.popleft()
        created = found.nodes[name].get("created", {})
        if created:
            run.restore_new_nodes(name, created.values())
            creators += [one for one in created if one in found.nodes]


def _restore_node(run: "TaskRun", node_run: NodeRun, record: NodeRecord) -> None:
    name, state = node_run.node.name, NodeState(record["state"])
    if "failures" in record:
        run.state.failures[name] = record["failures"]
    result: dict[str, Any] | None = record.get("result")
    if result is not None:
        run.state.node_results[name] = result
    error: RestoredError | None = None
    failed_node = run.nodes.get(record.get("failed_node", ""))
    if state is NodeState.FAILED:
        error, failed_node = RestoredError((result or {}).get("error", "it has failed")), node_run
    run.restore_node(
        node_run,
        state,
        visits=record["visits"],
        messages=record.get("messages"),
        error=error,
        reason=record.get("reason"),
        failed_node=failed_node,
        passed_over=record.get("passed_over", False),
    )


def _plan_of(steps: list[list[str]]) -> ExecutionPlan:
    return ExecutionPlan(steps=[ExecutionStep(nodes=nodes) for nodes in steps])
