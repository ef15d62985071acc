"""A run of a workflow: what it does with each visit of a state."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from miniagents.ext.checkpoints import NewEntry
from miniagents.ext.graph.events import DecisionTaken
from miniagents.ext.graph.graph import Graph
from miniagents.ext.graph.run import Jump, NodeRun, NodeState
from miniagents.ext.graph.visit import Visit
from miniagents.ext.workflow.controlled_run import ControlledRun
from miniagents.ext.workflow.errors import UnknownStateError
from miniagents.ext.workflow.events import WorkflowFinished, result_of
from miniagents.ext.workflow.names import names_in
from miniagents.ext.workflow.recording import failed_entry, finished_entry
from miniagents.ext.workflow.state_run import StateRun, VisitData
from miniagents.ext.workflow.states import StateStatus
from miniagents.interaction import InteractionContext
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise, MessageType

if TYPE_CHECKING:
    from miniagents.ext.workflow.agent import Agent

__all__ = ["WorkflowRun"]


class WorkflowRun(ControlledRun):
    """One run of a workflow.

    Args:
        agent: The workflow.
        graph: Its states as a graph.
        ctx: The call of the agent.
        run_id: The id of the run.
        progress: See `GraphRun`.
        replies_result: Whether the result is replied.
    """

    def __init__(
        self,
        agent: "Agent",
        graph: Graph,
        ctx: InteractionContext,
        *,
        run_id: str,
        progress: bool,
        replies_result: bool = True,
    ) -> None:
        super().__init__(agent, graph, ctx, run_id=run_id, progress=progress)
        self._replies_result = replies_result

    # --- an attempt ---

    def new_visit(self, node_run: NodeRun) -> Visit:
        """See `GraphRun.new_visit`."""
        assert isinstance(node_run, StateRun)
        visit = Visit(self, node_run)
        visit.value = self.take(node_run)
        visit.attempt = node_run.failures_of(visit.number)
        metadata = node_run.metadata
        metadata.visits, metadata.error, metadata.waits_for = node_run.visits, None, ()
        return visit

    def before_attempt(self, visit: Visit) -> Awaitable[object] | None:
        """See `GraphRun.before_attempt`: that it begins is recorded before it does."""
        state, data = visit.node_run, visit.value
        assert isinstance(state, StateRun)
        data.attempt += 1
        state.metadata.attempts = data.attempt
        if data.is_announced:
            data.is_announced = False
            return None
        failed = {"failed": visit.attempt} if visit.attempt else None
        return self.journal.add(NewEntry("started", state.node.name, visit.number, data.attempt, failed))

    def call(self, visit: Visit) -> MessageSequencePromise:
        """See `GraphRun.call`."""
        state, data = visit.node_run, visit.value
        assert isinstance(state, StateRun)
        self.forget_writes(data)
        data.is_called = True
        metadata = state.metadata
        metadata.status, metadata.started_at, metadata.ended_at = StateStatus.RUNNING, self.time(), None
        self.waits.note_started(state.node.name)
        return super().call(visit)

    def inputs_of(self, node_run: NodeRun) -> MessageType:
        """See `GraphRun.inputs_of`: what the miniagent that has named a state has replied, or what the run was sent."""
        assert isinstance(node_run, StateRun)
        return node_run.named_by or self.sent

    def attempt_failed(self, visit: Visit, error: Exception) -> None:
        """See `GraphRun.attempt_failed`."""
        self.attempt_stopped(visit)

    def attempt_stopped(self, visit: Visit) -> None:
        """See `GraphRun.attempt_stopped`: until the next attempt the state waits."""
        self.forget_writes(visit.value)
        visit.value.is_called = False
        visit.node_run.metadata.status = StateStatus.READY  # type: ignore[attr-defined]

    # --- a state that completes ---

    def outcome(self, visit: Visit) -> None:
        """See `GraphRun.outcome`. A state that nobody has added ends the run before anything is recorded."""
        state, data = visit.node_run, visit.value
        assert isinstance(state, StateRun)
        if data.context is None:
            data.messages = visit.messages
            data.returned = getattr(data.messages[-1], "next_state", None) if data.messages else None
        else:
            data.writes = data.context.changes()
        if self.saga.is_undoing:
            return
        if data.writes:
            self.shared.check(data.writes)
        try:
            names = names_in(data.returned, self, state.definition)
        except UnknownStateError as error:
            self.crash(error)
            raise
        data.waits = self.branches.waits_of(data.branches[0], names)

    def before_release(self, visit: Visit, jump: Jump | None) -> Awaitable[object] | None:
        """See `GraphRun.before_release`: what has come of a state is recorded before others see it."""
        data = visit.value
        data.is_ending = True
        entry = finished_entry(visit.node_run.node.name, visit.number, data)
        if self.journal.is_recorded:
            return self.journal.add(entry, *self._announcements(data))
        return self.journal.add(entry)

    def _announcements(self, data: VisitData) -> list[NewEntry]:
        """Records of next states that they begin, where they do so at once: else each would wait for the disk again."""
        entries: list[NewEntry] = []
        if self.paused or self.saga.failed or self.limits:
            return entries
        for name, groups in data.waits.items():
            state = self.nodes[name]
            assert isinstance(state, StateRun)
            visit = state.visits + 1
            begins = not (groups or state.is_at_work or state.configs or state.definition.resources)
            if begins and state.announced != visit:
                state.announced = visit
                entries.append(NewEntry("started", name, visit, state.attempts_of(visit) + 1))
        return entries

    def visit_finished(self, visit: Visit, jump: Jump | None) -> None:
        """See `GraphRun.visit_finished`."""
        state, data = visit.node_run, visit.value
        assert isinstance(state, StateRun)
        self.note_completed(state, data, self.time())
        self.people.close(state.node.name)
        super().visit_finished(visit, None)
        state.last = data.context = None  # what has come of it is in the journal, and there may be many states
        if data.waits and self.progress:
            self.tell(DecisionTaken, node=state.node.name, targets=tuple(data.waits), why=None)
        self.go_on_after(state, data)
        self.waits.note_ended(state.node.name)

    # --- a state that fails ---

    def before_failure(self, visit: Visit, error: Exception) -> Awaitable[object] | None:
        """See `GraphRun.before_failure`."""
        data = visit.value
        data.is_ending = True
        name = visit.node_run.node.name
        return self.journal.add(failed_entry(name, visit.number, data.attempt, error, self.ends_run(name)))

    def visit_failed(self, visit: Visit, error: BaseException) -> None:
        """See `GraphRun.visit_failed`."""
        state, data = visit.node_run, visit.value
        assert isinstance(state, StateRun)
        self.forget_writes(data)
        self.people.close(state.node.name)
        super().visit_failed(visit, error)
        self._errors.remove(error)
        self.note_failed(state, error, data.branches)
        self.waits.note_ended(state.node.name)

    # --- the end ---

    def finished(self) -> None:
        """See `GraphRun.finished`: the result is the shared state."""
        name = self.agent.alias
        if self.progress:
            result = None if self._errors else result_of(name, self.run_id, self.shared.values)
            states = [state.state for state in self.states]
            status = "partial" if NodeState.FINISHED in states else "failed"
            self.tell(
                WorkflowFinished,
                run_id=self.run_id,
                status=status if self._errors else "complete",
                results={} if result is None else {name: (result,)},
                failed=tuple(state.node.name for state in self.states if state.state is NodeState.FAILED),
                skipped=tuple(state.node.name for state in self.states if state.state is NodeState.SKIPPED),
                seconds=self.now(),
            )
        elif self._replies_result and not self._errors:
            self.reply(MessagePromise.of(result_of(name, self.run_id, self.shared.values)))
        if self._errors:
            first, *others = self._errors
            for error in [one for one in others if one is not first]:
                first.add_note(f"what else has failed in {name}: {type(error).__name__}: {error}")
            raise first
