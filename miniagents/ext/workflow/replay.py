"""Taking up a run: it is brought to where its journal says that it stood, by the same steps, without the work."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from miniagents.ext.checkpoints import Entry
from miniagents.ext.graph.run import NodeState
from miniagents.ext.workflow.errors import WorkflowCancelledError
from miniagents.ext.workflow.parts import restore_part
from miniagents.ext.workflow.recording import error_in, read_finished
from miniagents.ext.workflow.state_run import StateRun, VisitData
from miniagents.ext.workflow.states import StateStatus

if TYPE_CHECKING:
    from miniagents.ext.workflow.run import WorkflowRun

__all__ = ["replay"]

_OF_QUESTIONS = frozenset({"question", "answered", "refused", "withdrawn", "answer"})
_OF_STATES = frozenset({"started", "finished", "failed", "cancelled"})


def replay(run: "WorkflowRun", entries: Iterable[Entry]) -> None:
    """Brings a run to where its journal says that it stood.

    Args:
        run: The run, which has just been set up.
        entries: Its journal.

    Raises:
        UnknownStateError: The journal names a state that there is not any more.
        WorkflowCancelledError: Somebody has wished to end the run while nobody worked at it.
    """
    for entry in list(entries):
        run.replayed_at = entry.time
        if entry.kind in _OF_QUESTIONS:
            run.people.restore(entry)
        elif entry.kind in _OF_STATES:
            _replay(run, _state_of(run, entry.node), entry)
        elif entry.kind == "cancel" and run.journal.ended is None:
            run.was_cancelled = True
            raise WorkflowCancelledError(f"the run {run.run_id} of {run.agent.alias} was cancelled")
    run.replayed_at = None


def _state_of(run: "WorkflowRun", name: str) -> StateRun:
    if name not in run.nodes:
        restore_part(run, name)
    return run.state_named(name, "the journal of the run")


def _replay(run: "WorkflowRun", state: StateRun, entry: Entry) -> None:
    if entry.kind == "started":
        state.note_attempt(entry.visit, entry.attempt)
        state.failures = (entry.visit, (entry.data or {}).get("failed", 0))
        state.metadata.attempts = entry.attempt
        return
    if run.saga.failed and state.node.name in run.agent.compensations:
        run.saga.begin(run.completed)
    was_pending = state.state is NodeState.PENDING
    state.visits = state.metadata.visits = entry.visit
    state.metadata.ended_at = entry.time
    data = run.take(state)
    if was_pending:
        run.note_settled()
    if entry.kind == "finished":
        _replay_finished(run, state, entry, data)
    elif entry.kind == "cancelled":
        state.state = NodeState.SKIPPED
        state.metadata.status = StateStatus.CANCELLED
        run.end_cancelled(state, entry.attempt, data.branches)
        run.run_again(state)
    else:
        state.state = NodeState.FAILED
        state.error = error_in(entry)
        run.note_failed(state, state.error, data.branches)
    run.people.close(state.node.name)


def _replay_finished(run: "WorkflowRun", state: StateRun, entry: Entry, data: VisitData) -> None:
    state.state = NodeState.FINISHED
    read_finished(entry, data)
    for name in data.waits:
        _state_of(run, name)
    run.note_completed(state, data, entry.time)
    run.go_on_after(state, data)
