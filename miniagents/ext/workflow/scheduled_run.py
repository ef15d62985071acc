"""Which states of a run are next: those that were named, those whose dependencies are met, those that undo others."""

from collections.abc import Iterable
from logging import getLogger
from typing import TYPE_CHECKING

from miniagents.ext.checkpoints import NewEntry
from miniagents.ext.graph.graph import Graph, Node
from miniagents.ext.graph.run import NodeRun, NodeState
from miniagents.ext.workflow.branches import Branch, Branches
from miniagents.ext.workflow.dependencies import DependencyType
from miniagents.ext.workflow.errors import DependencyError, UnknownStateError
from miniagents.ext.workflow.parts import is_part
from miniagents.ext.workflow.recorded_run import RecordedRun, do_nothing
from miniagents.ext.workflow.recording import failed_entry
from miniagents.ext.workflow.replay import replay
from miniagents.ext.workflow.saga import Saga
from miniagents.ext.workflow.shared import Writer
from miniagents.ext.workflow.state_run import StateRun, VisitData, Waiting
from miniagents.ext.workflow.states import State, StateMetadata, StateStatus
from miniagents.ext.workflow.view import AgentInRun
from miniagents.ext.workflow.waits import Waits
from miniagents.interaction import InteractionContext

if TYPE_CHECKING:
    from miniagents.ext.workflow.agent import Agent

__all__ = ["ScheduledRun"]

_logger = getLogger("miniagents")
_OF_THE_RUN = (None,)
_GOES_ON_AFTER_FAILURE = (DependencyType.OPTIONAL, DependencyType.SEQUENTIAL)


class ScheduledRun(RecordedRun):
    """What a run of a workflow has to do with the order of its states.

    Args:
        agent: See `RecordedRun`, as for the others.
        graph: Its states as a graph.
        ctx: The call of the agent.
        run_id: The id of the run.
        progress: See `GraphRun`.

    Attributes:
        completed: The states that have completed, in this order, each once for each visit.
        branches: Which state follows which.
        waits: Which states wait for which others.
        saga: What happens when a state has failed.
        view: What conditions see.
    """

    def __init__(self, agent: "Agent", graph: Graph, ctx: InteractionContext, *, run_id: str, progress: bool) -> None:
        super().__init__(agent, graph, ctx, run_id=run_id, progress=progress)
        self.definitions = dict(agent.states)
        self.completed: list[str] = []
        self.branches = Branches(self.request, self._successors_of)
        self.waits = Waits(self)  # type: ignore[arg-type]
        self.saga = Saga(self.definitions)
        self.view = AgentInRun(self)  # type: ignore[arg-type]
        self._is_beginning = True
        self._added_early: list[str] = []

    # --- states ---

    @property
    def states(self) -> list[StateRun]:
        """All states."""
        return list(self.nodes.values())  # type: ignore[arg-type]

    @property
    def state_metadata(self) -> dict[str, StateMetadata]:
        """What is known of each state."""
        return {state.node.name: state.metadata for state in self.states}

    def state_named(self, name: str, where: str) -> StateRun:
        """Finds a state.

        Raises:
            UnknownStateError: There is none of that name.
        """
        state = self.nodes.get(name)
        if state is None:
            raise UnknownStateError(name, where, self.nodes)
        assert isinstance(state, StateRun)
        return state

    def new_node_run(self, node: Node, creator: NodeRun | None = None) -> StateRun:
        """See `GraphRun.new_node_run`."""
        definition = self.definitions[node.name]
        met_before = self.journal.created.get("met_before", ()) if definition.dependencies else ()
        return StateRun(node, definition, met_before)

    def check_dependencies(self, definition: State) -> None:
        """Makes sure that a state can be added while the run goes on.

        Raises:
            UnknownStateError: It depends on a state that there is not.
        """
        for name in definition.dependencies:
            if name not in self.definitions:
                raise UnknownStateError(name, f"the dependencies of {definition.name}", self.definitions)

    def add_state(self, definition: State, node: Node) -> None:
        """Adds a state while the run goes on, or is about to begin."""
        self.definitions[definition.name] = definition
        if not self.has_begun:
            self.graph.add(node)
            self._added_early.append(definition.name)
            return
        state = self.nodes[definition.name] = self.new_node_run(node)
        self.waits.watch(state)
        if not is_part(definition):
            self.journal.add(NewEntry("added", data={"state": definition.name}))
        if definition.starts and definition.name not in self.agent.compensations:
            self.enter(self.request, definition.name, None)

    def _successors_of(self, name: str) -> frozenset[str] | None:
        definition = self.definitions.get(name)
        return frozenset() if definition is None else definition.successors

    # --- the beginning ---

    def _begin(self) -> None:
        for name in self._added_early:
            self.journal.add(NewEntry("added", data={"state": name}))
        states = self.states
        for state in states:
            self.waits.watch(state)
            compensation = state.definition.compensation
            if compensation is not None:
                self.state_named(compensation, f"the compensation of {state.node.name}")
        entries = self.journal.entries
        self.replayed_at = entries[0].time if len(entries) > 1 else None  # what waits has done so since then
        start = self.journal.created.get("start")
        for name in self._first_of(states) if start is None else [start]:
            self.request(self.state_named(name, "the start of the run").node.name, None)
        replay(self, entries)  # type: ignore[arg-type]
        self._is_beginning = False
        for state in self.states:
            self.waits.consider(state)

    def _first_of(self, states: Iterable[StateRun]) -> list[str]:
        """The state that was added first, and those that start as soon as their dependencies are met."""
        names = [state.node.name for state in states if state.node.name not in self.agent.compensations]
        return names[:1] + [name for name in names[1:] if self.definitions[name].starts]

    # --- what is next ---

    def request(self, name: str, branch: Branch | None) -> None:
        """Has a state run: as soon as it can, or once more if it runs already.

        Args:
            name: The state.
            branch: In which branch.
        """
        if self.saga.failed and not self.saga.is_undoing:
            return
        state = self.state_named(name, "a state")
        if not state.is_at_work:
            state.branches = _with(state.branches, branch)
            self._make_pending(state)
        elif state.has_begun:
            state.again = _with(state.again, branch)
        else:
            waits = state if state.visit is None else state.visit.value
            waits.branches = _with(waits.branches, branch)

    def _make_pending(self, state: StateRun) -> None:
        state.state = NodeState.PENDING
        if state.configs:
            state.waiting_since = self.time() if self.replayed_at is None else self.replayed_at
        self._unsettled += 1
        if not self._is_beginning:
            self.waits.consider(state)

    def enqueue(self, state: StateRun) -> None:
        """Has a state start with the next step, unless the run is paused."""
        self._queue.append(state)

    def _start(self, node_run: NodeRun) -> None:
        assert isinstance(node_run, StateRun)
        if node_run.metadata.status is StateStatus.BLOCKED:
            return  # it was to start, but was put off since
        super()._start(node_run)

    def take(self, state: StateRun) -> VisitData:
        """Begins a visit: what the state was asked to do is done by it."""
        branches, state.branches = state.branches or _OF_THE_RUN, ()
        if state.configs:
            state.used = {name: self.nodes[name].completions for name in state.configs}  # type: ignore[attr-defined]
        writer = Writer(state.node.name, branches[0], self.shared.commits)
        data = VisitData(writer, branches, state.attempts_of(state.visits))
        data.is_announced, state.announced = state.announced == state.visits, 0
        return data

    # --- what follows ---

    def note_settled(self) -> None:
        """Takes note that a state that was pending is it no more."""
        self._unsettled -= 1

    def note_completed(self, state: StateRun, data: VisitData, when: float) -> None:
        """Takes note of a state that has completed: others see what it has set."""
        self.shared.commit(data.writer, data.writes)
        state.metadata.status, state.metadata.ended_at = StateStatus.COMPLETED, when
        state.completions += 1
        state.completed_at = when
        if self.saga.is_undoing:
            self.saga.note_done(state.node.name)
        else:
            self.completed.append(state.node.name)

    def go_on_after(self, state: StateRun, data: VisitData) -> None:
        """Goes on with what a state that has completed has named."""
        if data.messages:
            for name in data.waits:
                self.state_named(name, state.node.name).named_by = data.messages
        self.branches.go_on(data.branches[0], data.waits)
        self.end_branches(data.branches[1:])
        if state.again:
            self.run_again(state)

    def end_branches(self, branches: Iterable[Branch | None]) -> None:
        """Goes on where branches have ended."""
        for branch in branches:
            self.branches.go_on(branch, {})

    def end_cancelled(self, state: StateRun, attempt: int, branches: Iterable[Branch | None]) -> None:
        """Goes on after a state that was cancelled in an attempt, or before the first one."""
        if self.saga.is_undoing:
            self.saga.note_done(state.node.name)
            self._errors[0].add_note(f"the compensation {state.node.name} was cancelled")
        elif self.saga.failed and attempt:  # who knows what it has done
            self.saga.fail(state.node.name)
        self.end_branches(branches)

    def run_again(self, state: StateRun) -> None:
        """Runs a state once more, if that was asked for while it ran."""
        if state.again and not state.is_at_work:
            state.branches, state.again = state.again, ()
            self._make_pending(state)

    # --- failures ---

    def ends_run(self, name: str) -> bool:
        """Whether the run fails with a state that fails now."""
        return not (self.saga.is_undoing or self.is_tolerated(name))

    def is_tolerated(self, name: str) -> bool:
        """Whether the run goes on when a state has failed."""
        return not self.saga.is_undoing and any(
            watcher.configs[name].type in _GOES_ON_AFTER_FAILURE for watcher in self.waits.watchers_of(name)
        )

    def note_failed(self, state: StateRun, error: BaseException, branches: Iterable[Branch | None]) -> None:
        """Takes note of a state that has failed for good."""
        name, metadata = state.node.name, state.metadata
        metadata.status = StateStatus.TIMEOUT if isinstance(error, TimeoutError) else StateStatus.FAILED
        metadata.ended_at = self.time()
        metadata.error = f"{type(error).__name__}: {error}"
        if self.saga.is_undoing:
            self.saga.note_done(name)
            self._errors[0].add_note(f"the compensation {name} has failed, too: {type(error).__name__}: {error}")
        elif self.is_tolerated(name):
            self.end_branches(branches)
            self.run_again(state)
        else:
            self._errors.append(error)
            self.saga.fail(name)
            self._start_nothing_more()

    def _start_nothing_more(self) -> None:
        """Takes out of play what has not begun. What has begun goes on to its end, in this process or in another."""
        for other in self.states:
            if other.is_at_work and not other.has_begun:
                other.visits -= other.visit is not None
                self._withdraw(other, NodeState.IDLE, StateStatus.PENDING)

    def _withdraw(self, state: StateRun, settled: NodeState, status: StateStatus) -> None:
        """Takes a state out of play that waits or runs."""
        self._abandon(state)
        self.waits.forget(state)
        state.state = settled
        state.branches, state.again = (), ()
        state.metadata.status = status
        self._unsettled -= 1

    def give_up(self, state: StateRun, error: Exception) -> None:
        """Lets a state fail that cannot start."""
        branches, again = state.branches, state.again
        self._withdraw(state, NodeState.FAILED, StateStatus.FAILED)
        state.again = again
        state.visits += 1
        state.error = error
        name, attempt = state.node.name, state.attempts_of(state.visits)
        self.journal.add(failed_entry(name, state.visits, attempt, error, self.ends_run(name)))
        self.note_failed(state, error, branches)
        self.waits.note_ended(name)

    def stuck(self, pending: list[NodeRun]) -> None:
        """See `GraphRun.stuck`."""
        if self.waits.has_timers:
            return
        waiting = [state for state in pending if isinstance(state, StateRun)]
        # What waits for others that wait may still be able to run when it is known what becomes of these.
        first = next((one for one in waiting if not self._waits_for_any_of(one, waiting)), waiting[0])
        told = [first] if self.is_tolerated(first.node.name) else [first, *(one for one in waiting if one is not first)]
        reasons = [f"{one.node.name} waits for ever: {'; '.join(one.metadata.waits_for)}" for one in told]
        error = DependencyError(". ".join(reasons))
        error.__cause__ = next((state.error for state in self.states if state.error is not None), None)
        self.give_up(first, error)
        self.soon(do_nothing)  # what can start now does so

    def _waits_for_any_of(self, state: StateRun, others: Iterable[StateRun]) -> bool:
        return any(other is not state and other.node.name in state.configs for other in others)

    def settled(self, node_run: NodeRun) -> None:
        """See `GraphRun.settled`. Those that wait look when it is known what follows."""

    def all_settled(self) -> None:
        """See `GraphRun.all_settled`: a run that has failed is compensated first."""
        if not self.saga.failed:
            self._warn_of_unnamed()
            self.end("completed")
            return
        self.saga.begin(self.completed)
        compensation = self.saga.next()
        while compensation is not None and compensation not in self.nodes:  # it was named by a state that came later
            self._errors[0].add_note(f"the compensation {compensation} is missing; add a state of that name")
            self.saga.note_done(compensation)
            compensation = self.saga.next()
        if compensation is None:
            self.end("failed")
        else:
            self.request(compensation, None)
            self._drain()

    def _warn_of_unnamed(self) -> None:
        """Warns of states to which nobody can come: mostly a `return` was forgotten, and it would look like success."""
        unnamed = {
            state.node.name
            for state in self.states
            if state.state is NodeState.IDLE and not state.visits and state.node.name not in self.agent.compensations
        }
        if unnamed and self.journal.created.get("start") is None:  # else much of it is there for other runs
            for definition in list(self.definitions.values()):
                if definition.successors is None:
                    return
                unnamed -= definition.successors
            if not unnamed:
                return
            _logger.warning(
                "%s: no state returns %s, and it does not start by itself; return its name from a state, or give it "
                "`dependencies`",
                self.agent.alias,
                ", ".join(sorted(unnamed)),
            )

    def forget_writes(self, data: VisitData) -> None:
        """Forgets what an attempt has set that has come to nothing."""
        if data.context is not None:
            data.context.forget()

    def crash(self, error: BaseException) -> None:
        """See `GraphRun.crash`."""
        if not self.is_over and isinstance(error, UnknownStateError):  # it may be added, and the run be taken up again
            self.journal.add(NewEntry("lacks", data={"state": error.wanted}))
        super().crash(error)

    def note_over(self) -> None:
        """See `RecordedRun.note_over`: nothing is at work any more."""
        super().note_over()
        for state in self.states:
            if state.metadata.status in (StateStatus.RUNNING, StateStatus.READY, StateStatus.BLOCKED):
                state.metadata.status, state.metadata.ended_at = StateStatus.CANCELLED, self.time()


def _with(branches: Waiting, branch: Branch | None) -> Waiting:
    """Adds a branch. What a state was asked for in a branch replaces that it starts by itself."""
    if branch is None and branches:
        return branches
    return (branch,) if branches == _OF_THE_RUN else (*branches, branch)
