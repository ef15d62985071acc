"""What is done to a run from outside while it goes on: it is paused, and states are cancelled."""

import asyncio
from collections.abc import Iterable, Iterator

from miniagents.ext.checkpoints import NewEntry
from miniagents.ext.graph.run import NodeState
from miniagents.ext.graph.visit import Visit
from miniagents.ext.workflow.branches import Branch
from miniagents.ext.workflow.scheduled_run import ScheduledRun
from miniagents.ext.workflow.state_run import StateRun, VisitData
from miniagents.ext.workflow.states import AgentStatus, StateStatus

__all__ = ["ControlledRun"]


class ControlledRun(ScheduledRun):
    """What a run of a workflow has to do with those who control it."""

    # --- pauses ---

    def pause(self) -> None:
        """Starts nothing any more. What waits for a person, a place or an attempt is stopped; what runs goes on."""
        self.status = AgentStatus.PAUSED
        self.paused = True
        for state in self.states:
            visit = state.visit
            if visit is None or visit.value.is_ending:
                continue
            if visit in self.people.waiting or not visit.value.is_called:
                self._put_back(state, visit)
        for part in self._parts():
            part.enter(part.pause)

    def go_on(self) -> None:
        """See `RecordedRun.go_on`."""
        super().go_on()
        for part in self._parts():
            part.enter(part.go_on)

    def begin_part(self, part: "ControlledRun", visit: Visit) -> None:
        """Takes note of a run that a visit stands for, before that begins."""
        part.part_of = visit
        visit.value.part = part
        if self.paused:
            part.pause()

    def with_parts(self) -> "Iterator[ControlledRun]":
        """The run, and all others that are parts of it."""
        yield self
        for part in self._parts():
            yield from part.with_parts()

    def _parts(self) -> "list[ControlledRun]":
        """The parts at work."""
        at_work = [state.visit.value.part for state in self.states if state.visit is not None]
        return [part for part in at_work if part is not None]

    def is_resting(self) -> bool:
        """See `GraphRun.is_resting`: parts have to rest, too."""
        return self._active == sum(part.rests for part in self._parts())

    def state_at_work_here(self) -> str | None:
        """The state that is at work in this task, or has called what is; None if it is none of this run."""
        calls = {visit.replies._run: name for name, one in self.nodes.items() if (visit := one.visit) and visit.replies}
        owner = getattr(asyncio.current_task(), "run", None)
        while owner is not None:
            if owner in calls:
                return calls[owner]
            owner = getattr(owner, "_parent", None)
        return None

    def _put_back(self, state: StateRun, visit: Visit) -> None:
        """Stops a visit as if it had not begun. What it has to wait for before its next attempt it waits for on."""
        data: VisitData = visit.value
        pause_left = visit.pause_left
        self._abandon(state)
        self.forget_writes(data)
        state.note_attempt(visit.number, data.attempt + data.is_announced)
        state.failures = (visit.number, visit.attempt - data.is_called)
        state.visits -= 1
        state.branches = data.branches
        state.state = NodeState.PENDING
        state.metadata.status = StateStatus.READY
        if pause_left:
            self.waits.hold(state, pause_left)
        else:
            self._queue.append(state)

    # --- cancelling ---

    def cancel_all(self) -> None:
        """See `RecordedRun.cancel_all`."""
        for part in self._parts():
            part.enter(part.cancel_all)
        super().cancel_all()

    def cancel_state(self, name: str) -> bool:
        """Stops a state, or keeps it from starting.

        Returns:
            Whether it ran or waited.
        """
        if not self.has_begun:
            return False
        state = self.state_named(name, "cancel_state")
        visit = state.visit
        if not state.is_at_work or (visit is not None and visit.value.is_ending):
            return False
        branches, attempt = state.branches, state.attempts_of(state.visits + 1)
        if visit is not None:
            branches, attempt = visit.value.branches, visit.value.attempt
            self.forget_writes(visit.value)
        else:
            state.visits += 1
        again = state.again
        self._withdraw(state, NodeState.SKIPPED, StateStatus.CANCELLED)
        state.again = again
        state.metadata.ended_at = self.time()
        entry = NewEntry("cancelled", name, state.visits, attempt)
        self.write_later(entry, then=lambda: self._note_cancelled(state, attempt, branches))
        return True

    def _start_nothing_more(self) -> None:
        """See `ScheduledRun`. What waits for a person is stopped, or the run could not fail before the answer."""
        super()._start_nothing_more()
        for visit in list(self.people.waiting):
            self.cancel_state(visit.node_run.node.name)

    def note_waiting(self, visit: Visit) -> None:
        """Takes note of a visit that is going to wait for a person."""
        if self.paused or (self.saga.failed and not self.saga.is_undoing):
            self.soon(self._stop_waiting, visit)

    def _stop_waiting(self, visit: Visit) -> None:
        state = visit.node_run
        if state.visit is not visit or visit not in self.people.waiting:
            return
        assert isinstance(state, StateRun)
        if self.paused:
            self._put_back(state, visit)
        else:
            self.cancel_state(state.node.name)

    def _note_cancelled(self, state: StateRun, attempt: int, branches: Iterable[Branch | None]) -> None:
        self.people.close(state.node.name)
        self.end_cancelled(state, attempt, branches)
        self.run_again(state)
        self.waits.note_ended(state.node.name)
