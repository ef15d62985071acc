"""A run of a workflow: a run of a graph whose nodes name each other, and depend on each other in many ways."""

from collections.abc import Awaitable, Iterable, Mapping
from logging import getLogger
from typing import TYPE_CHECKING, Any

from miniagents.agents import MiniAgent, miniagent
from miniagents.ext.checkpoints import Entry, NewEntry
from miniagents.ext.graph.events import DecisionTaken
from miniagents.ext.graph.graph import Graph, Node
from miniagents.ext.graph.policy import NodePolicy
from miniagents.ext.graph.run import GraphRun, Jump, NodeRun, NodeState
from miniagents.ext.graph.visit import Visit
from miniagents.ext.workflow.branches import Branches, Group
from miniagents.ext.workflow.context import REMOVED, Context, SharedState, Writes
from miniagents.ext.workflow.dependencies import DependencyType, look_at
from miniagents.ext.workflow.errors import DependencyError, UnknownStateError, WorkflowCancelledError, WorkflowError
from miniagents.ext.workflow.journal import Journal
from miniagents.ext.workflow.people import OpenQuestion, People
from miniagents.ext.workflow.states import State, StateMetadata, StateStatus
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.sequences import MessageSequencePromise, MessageType

if TYPE_CHECKING:
    from miniagents.ext.workflow.agent import Agent

__all__ = ["StateRun", "VisitData", "WorkflowRun"]

_DONE = ("await_processing", "await_completion")
_GOES_ON_AFTER_FAILURE = (DependencyType.OPTIONAL, DependencyType.SEQUENTIAL)
_LISTENS_EVERY = 0.5
"""How many seconds the wish to end a run may take to be heard, so that listening costs next to nothing."""
_logger = getLogger("miniagents")


class VisitData:
    """What a run knows of a visit beside what the engine does.

    Attributes:
        began: How many commits of shared state there had been when it began.
        attempts_before: How many attempts there were in processes that have died.
        branches: As the member of which groups it runs.
        next: The states that it has named.
        writes: What it has set.
        messages: What a miniagent has replied.
    """

    __slots__ = ("attempts_before", "began", "branches", "messages", "next", "writes")

    def __init__(self, began: int, attempts_before: int, branches: "list[Group | None]") -> None:
        self.began = began
        self.attempts_before = attempts_before
        self.branches = branches
        self.next: list[str] = []
        self.writes: Writes = {}
        self.messages: tuple[Message, ...] = ()


class StateRun(NodeRun):
    """One state in one run.

    Attributes:
        definition: What was said of it.
        metadata: What is known of it, for people.
        branches: As the member of which groups it is to run next; None stands for the run itself.
        waiting_since: Since when it waits for others, in seconds since 1970.
        completions: How often it has completed.
        completed_at: When it completed last.
        used: How often each state that it depends on had completed when it began last.
        met_before: The dependencies of lifecycle ONCE that were met in earlier runs.
        named_by: The messages of the miniagents that have named it.
    """

    __slots__ = (
        "attempts_before", "branches", "completed_at", "completions", "definition", "met_before", "metadata",
        "named_by", "used", "waiting_since",
    )  # fmt: skip

    def __init__(self, node: Node, definition: State, met_before: Iterable[str]) -> None:
        super().__init__(node)
        self.definition = definition
        self.state = NodeState.IDLE
        self.metadata = StateMetadata(definition.name)
        self.branches: list[Group | None] = []
        self.waiting_since = 0.0
        self.completions = 0
        self.completed_at = 0.0
        self.attempts_before: dict[int, int] = {}
        self.used: dict[str, int] = {}
        self.met_before = frozenset(met_before)
        self.named_by: tuple[Message, ...] = ()

    @property
    def configs(self) -> Mapping[str, Any]:
        """Its dependencies."""
        return self.definition.dependencies

    @property
    def is_at_work(self) -> bool:
        """Whether it runs, or is about to."""
        return self.state in (NodeState.RUNNING, NodeState.PENDING)

    @property
    def has_ended(self) -> bool:
        """Whether it has run, and ended in whichever way."""
        return self.state in (NodeState.FINISHED, NodeState.FAILED, NodeState.SKIPPED)

    @property
    def told(self) -> str:
        """How far it has come, in a word."""
        return "nobody has named it" if self.state is NodeState.IDLE else self.metadata.status.value


class WorkflowRun(GraphRun):
    """One run of a workflow.

    Args:
        agent: The workflow.
        graph: Its states as a graph.
        ctx: The call of the agent.
        run_id: The id of the run.
        journal: What has happened in it so far, and where the rest is recorded.
        values: The shared state to begin with.
        start: The state to begin with; the first one otherwise.
        progress: See `GraphRun`.
    """

    def __init__(
        self,
        agent: "Agent",
        graph: Graph,
        ctx: InteractionContext,
        *,
        run_id: str,
        journal: Journal,
        values: Mapping[str, Any],
        start: str | None,
        progress: bool,
    ) -> None:
        super().__init__(graph, ctx, progress=progress)
        self.agent = agent
        self.run_id = run_id
        self.journal = journal
        self.shared = SharedState(values, agent.reducers)
        self.people = People(self, agent.ask)
        self.branches = Branches(self.request, self._successors_of)
        self.completed: list[str] = []  # in the order of completion, each state once for each visit
        self.failed_state: StateRun | None = None
        self.cancelled = False
        self.view = _AgentInRun(agent, self)
        self._first = start
        self._watchers: dict[str, list[StateRun]] = {}
        self._conditional: list[StateRun] = []
        self._compensations: list[str] | None = None  # what is still to be compensated, once the run has failed
        self._compensated: set[str] = set()
        self._timers = 0

    # --- the life of the run ---

    async def complete(self) -> None:
        """See `GraphRun.complete`. How the run has ended is recorded, unless it can be taken up again."""
        watch = None if self.journal.store is None else self.start(self._listen())
        try:
            await super().complete()
        except WorkflowCancelledError:
            await self._record_end("cancelled")
            raise
        except Exception:
            if self.failed_state is not None:
                await self._record_end("failed")
            raise
        else:
            await self._record_end("completed")
        finally:
            if watch is not None:
                watch.cancel()

    async def _record_end(self, status: str) -> None:
        if not any(entry.kind == "ended" for entry in self.journal.entries):
            await self.journal.write(NewEntry("ended", data={"status": status}), status=status)

    async def _listen(self) -> None:
        """Takes what others have to say: answers, and the wish to end."""
        while True:
            for entry in await self.journal.news():
                if entry.kind == "answer":
                    self.people.tell(entry.data["id"], entry.data["text"])
                else:
                    self.enter(self.cancel_all)
            await self.people.until_asked(_LISTENS_EVERY)

    def _begin(self) -> None:
        for state in self._states():
            for name in state.configs:
                self.state_named(name, f"the dependencies of {state.node.name}")
                self._watchers.setdefault(name, []).append(state)
            if any(config.condition is not None for config in state.configs.values()):
                self._conditional.append(state)
        states = self._states()
        if states:
            first = self._first or next(name for name in self.nodes if name not in self.agent.compensations)
            self.request(self.state_named(first, "the start of the run").node.name, None)
        if self._first is None:
            for state in states:
                if state.configs and state.definition.name not in self.agent.compensations:
                    self.request(state.node.name, None)
        self._replay(self.journal.entries)
        for state in states:
            self._consider(state)

    def _states(self) -> list[StateRun]:
        return list(self.nodes.values())  # type: ignore[arg-type]

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

    def request(self, name: str, branch: Group | None) -> None:
        """Has a state run: now, as soon as its dependencies are met, or again when it has ended.

        Args:
            name: The state.
            branch: As the member of which group.
        """
        if self.failed_state is not None and self._compensations is None:
            return
        state = self.state_named(name, "a state")
        state.branches.append(branch)
        if state.state is NodeState.RUNNING or state.state is NodeState.PENDING:
            return
        self._make_pending(state)

    def _make_pending(self, state: StateRun) -> None:
        state.state = NodeState.PENDING
        state.waiting_since = self.time()
        self._unsettled += 1
        self._consider(state)

    def _consider(self, state: StateRun) -> None:
        """Looks whether a state that waits can start."""
        if state.state is not NodeState.PENDING:
            return
        if not state.configs:
            state.metadata.status = StateStatus.READY
            self._queue.append(state)
            return
        look = look_at(state, self.nodes, self.view, self.time())  # type: ignore[arg-type]
        state.metadata.waits_for = tuple(look.unmet)
        if look.overdue is not None:
            self._give_up(state, DependencyError(f"{state.node.name} cannot start: {look.overdue}"))
            return
        for name in look.run_again:
            self.request(name, None)
        if look.unmet:
            state.metadata.status = StateStatus.BLOCKED
            if look.look_again_in is not None:
                self._timers += 1
                self.later(look.look_again_in, lambda: self._look_again(state))
        else:
            state.metadata.status = StateStatus.READY
            self._queue.append(state)

    def _look_again(self, state: StateRun) -> None:
        self._timers -= 1
        self._consider(state)

    def _give_up(self, state: StateRun, error: Exception) -> None:
        state.metadata.status = StateStatus.FAILED
        state.metadata.error = str(error)
        self._errors.append(error)
        state.error = error
        state.state = NodeState.FAILED
        self._unsettled -= 1
        self._fail_run(state)

    # --- what an agent asks for ---

    def pause(self) -> None:
        """Starts nothing any more. What runs goes on, but for states that wait for a person."""
        self.paused = True
        for visit in list(self.people.waiting):
            self._put_back(visit)

    def go_on(self) -> None:
        """Ends a pause."""
        self.paused = False

    def cancel_state(self, name: str) -> bool:
        """Stops a state, or keeps it from starting.

        Returns:
            Whether it ran or waited.
        """
        state = self.state_named(name, "cancel_state")
        if not state.is_at_work:
            return False
        branches = state.visit.value.branches if state.visit is not None else state.branches
        state.branches = []
        self._abandon(state)
        self.shared.forget(name)
        state.state = NodeState.SKIPPED
        state.metadata.status = StateStatus.CANCELLED
        state.metadata.ended_at = self.time()
        self._unsettled -= 1
        self.settled(state)
        for branch in branches:
            self.branches.go_on(branch, name, [])
        return True

    def cancel_all(self) -> None:
        """Ends the run."""
        self.cancelled = True
        for state in self._states():
            if state.is_at_work:
                state.metadata.status = StateStatus.CANCELLED
        self.crash(WorkflowCancelledError(f"the run {self.run_id} of {self.agent.alias} was cancelled"))

    def log_open_question(self, question: OpenQuestion) -> None:
        """Says that a question waits, where nobody is there to be asked."""
        _logger.info("%s waits for an answer to %r: %s", self.run_id, question.id, question.prompt)

    def _put_back(self, visit: Visit) -> None:
        """Stops a visit as if it had not begun."""
        state: StateRun = visit.node_run  # type: ignore[assignment]
        self._abandon(state)
        self.shared.forget(state.node.name)
        state.visits -= 1
        state.branches = [*visit.value.branches, *state.branches]
        state.state = NodeState.PENDING
        state.metadata.status = StateStatus.READY
        self._queue.append(state)

    # --- hooks of the engine ---

    def new_node_run(self, node: Node, creator: NodeRun | None = None) -> StateRun:
        """See `GraphRun.new_node_run`."""
        definition = self.agent.states[node.name]
        return StateRun(node, definition, self.agent.met_before.intersection(definition.dependencies))

    def new_visit(self, node_run: NodeRun) -> Visit:
        """See `GraphRun.new_visit`."""
        assert isinstance(node_run, StateRun)
        visit = Visit(self, node_run)
        visit.value = self._take(node_run)
        metadata = node_run.metadata
        metadata.status, metadata.started_at, metadata.ended_at = StateStatus.RUNNING, self.time(), None
        metadata.visits, metadata.error, metadata.waits_for = node_run.visits, None, ()
        return visit

    def _take(self, state: StateRun) -> VisitData:
        """Begins a visit: what the state was asked to do is done by it."""
        branches = state.branches or [None]
        state.branches = []
        state.used = {name: self.nodes[name].completions for name in state.configs}  # type: ignore[attr-defined]
        return VisitData(self.shared.now(), state.attempts_before.get(state.visits, 0), branches)

    def _start(self, node_run: NodeRun) -> None:
        super()._start(node_run)
        for watcher in self._watchers.get(node_run.node.name, ()):
            if watcher.configs[node_run.node.name].type is DependencyType.PARALLEL:
                self._consider(watcher)

    def before_attempt(self, visit: Visit) -> Awaitable[object] | None:
        """See `GraphRun.before_attempt`. The attempt is recorded while it begins; it does not wait for that."""
        attempt = visit.value.attempts_before + visit.attempt + 1
        visit.node_run.metadata.attempts = attempt  # type: ignore[attr-defined]
        if self.journal.store is not None:
            self.start(self.journal.write(NewEntry("started", visit.node_run.node.name, visit.number, attempt)))
        return None

    def call(self, visit: Visit) -> MessageSequencePromise:
        """See `GraphRun.call`."""
        self.make_current(visit)
        visit.value.writes = {}
        self.shared.forget(visit.node_run.node.name)
        return visit.node_run.node.agent.inquire(self.inputs_of(visit.node_run), visit=visit)

    def inputs_of(self, node_run: NodeRun) -> MessageType:
        """See `GraphRun.inputs_of`: what the miniagent that has named a state has replied, or what the run was sent."""
        assert isinstance(node_run, StateRun)
        return node_run.named_by or self.ctx.message_promises

    def outcome(self, visit: Visit) -> None:
        """See `GraphRun.outcome`. A state that nobody has added ends the run before anything is recorded."""
        try:
            visit.value.next = self._names_of(visit.value.next, visit.node_run.node.name)
        except WorkflowError as error:
            self.crash(error)
            raise

    def _names_of(self, returned: Any, where: str) -> list[str]:
        """What a state has returned, as the names of states."""
        from miniagents.ext.workflow.agent import Agent

        if returned is None:
            return []
        if isinstance(returned, str) or (
            isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], Agent)
        ):
            returned = [returned]
        if not isinstance(returned, (list, tuple)):
            raise WorkflowError(
                f"{where} returned {returned!r:.100}; return the name of a state, a list, (agent, name) or None"
            )
        names = []
        for one in returned:
            if isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], Agent):
                names.append(self._part(*one))
            elif not isinstance(one, str):
                raise WorkflowError(f"{where} returned {one!r:.100} among others, which is no name of a state")
            elif one in self.nodes or one not in _DONE:
                names.append(self.state_named(one, where).node.name)
        return list(dict.fromkeys(names))

    def _part(self, other: "Agent", start: str) -> str:
        """Makes a state of another workflow, which begins at one of its states."""
        name = f"{other.alias}.{start}"
        if name not in self.nodes:
            if start not in other.states:
                raise UnknownStateError(start, f"a state, of {other.alias}", other.states)
            self.add_state(State(name, other.as_part(start)))
        return name

    def add_state(self, definition: State) -> None:
        """Adds a state while the run goes on."""
        self.agent.states[definition.name] = definition
        node = node_of(definition)
        state = self.nodes[definition.name] = self.new_node_run(node)
        for name in state.configs:
            self._watchers.setdefault(name, []).append(state)

    def before_release(self, visit: Visit, jump: Jump | None) -> Awaitable[object] | None:
        """See `GraphRun.before_release`: what has come of a state is recorded before others see it."""
        name, data = visit.node_run.node.name, visit.value
        removed = [key for key, value in data.writes.items() if value is REMOVED]
        recorded: dict[str, Any] = {"next": data.next}
        if data.writes:
            recorded["set"] = {key: value for key, value in data.writes.items() if value is not REMOVED}
        if removed:
            recorded["removed"] = removed
        if data.messages:
            recorded["messages"] = list(data.messages)
        entry = NewEntry("finished", name, visit.number, data.attempts_before + visit.attempt, recorded)
        if self.journal.store is not None:
            return self.journal.write(entry)
        self.journal.keep([entry])
        return None

    def visit_finished(self, visit: Visit, jump: Jump | None) -> None:
        """See `GraphRun.visit_finished`."""
        state, data = visit.node_run, visit.value
        assert isinstance(state, StateRun)
        state.metadata.status, state.metadata.ended_at = StateStatus.COMPLETED, self.time()
        self._note_completed(state, data)
        super().visit_finished(visit, None)
        if data.next:
            self.tell(DecisionTaken, node=state.node.name, targets=tuple(data.next), why=None)
        self._go_on_after(state, data)

    def _note_completed(self, state: StateRun, data: VisitData) -> None:
        self.shared.commit(state.node.name, data.writes)
        state.completions += 1
        state.completed_at = self.time()
        if self._compensations is None:
            self.completed.append(state.node.name)
        else:
            self._compensated.add(state.node.name)

    def _go_on_after(self, state: StateRun, data: VisitData) -> None:
        if data.messages:
            for name in data.next:
                self.state_named(name, state.node.name).named_by = data.messages
        first, *others = data.branches
        self.branches.go_on(first, state.node.name, data.next if self._compensations is None else [])
        for branch in others:
            self.branches.go_on(branch, state.node.name, [])
        if state.branches and state.state is not NodeState.PENDING:  # it was named again while it ran
            self._make_pending(state)

    def before_failure(self, visit: Visit, error: Exception) -> Awaitable[object] | None:
        """See `GraphRun.before_failure`."""
        if self._end.done() or self.journal.store is None:
            return None
        attempt = visit.value.attempts_before + visit.attempt
        data = {"error": str(error), "error_type": type(error).__name__}
        return self.journal.write(NewEntry("failed", visit.node_run.node.name, visit.number, attempt, data))

    def visit_failed(self, visit: Visit, error: BaseException) -> None:
        """See `GraphRun.visit_failed`."""
        state, data = visit.node_run, visit.value
        assert isinstance(state, StateRun)
        self.shared.forget(state.node.name)
        super().visit_failed(visit, error)
        self._note_failed(state, error, data)

    def _note_failed(self, state: StateRun, error: BaseException, data: VisitData) -> None:
        status = StateStatus.TIMEOUT if isinstance(error, TimeoutError) else StateStatus.FAILED
        state.metadata.status, state.metadata.ended_at = status, self.time()
        state.metadata.error = f"{type(error).__name__}: {error}"
        if self._compensations is not None:
            self._compensated.add(state.node.name)
            self._errors.remove(error)
            self._errors[0].add_note(f"the compensation {state.node.name} has failed, too: {error}")
        elif any(watcher.configs[state.node.name].type in _GOES_ON_AFTER_FAILURE for watcher in self._watching(state)):
            self._errors.remove(error)
            for branch in data.branches:
                self.branches.go_on(branch, state.node.name, [])
        else:
            self._fail_run(state)

    def _watching(self, state: StateRun) -> list[StateRun]:
        return self._watchers.get(state.node.name, [])

    def _fail_run(self, state: StateRun) -> None:
        """Starts nothing any more; when what runs has ended, what was done is compensated."""
        self.failed_state = state
        for other in self._states():
            if other.state is NodeState.PENDING:
                other.state = NodeState.IDLE
                other.branches = []
                other.metadata.status = StateStatus.PENDING
                self._unsettled -= 1

    def settled(self, node_run: NodeRun) -> None:
        """See `GraphRun.settled`: those that wait for it look whether they can start."""
        for watcher in dict.fromkeys([*self._watchers.get(node_run.node.name, ()), *self._conditional]):
            self._consider(watcher)

    def stuck(self, pending: list[NodeRun]) -> None:
        """See `GraphRun.stuck`."""
        if self._timers:
            return
        reasons = [
            f"{one.node.name} waits for ever: {'; '.join(one.metadata.waits_for)}"
            for one in pending
            if isinstance(one, StateRun)
        ]
        state: StateRun = pending[0]  # type: ignore[assignment]
        self._give_up(state, DependencyError(". ".join(reasons)))

    def all_settled(self) -> None:
        """See `GraphRun.all_settled`: a run that has failed is compensated first."""
        if self.failed_state is None:
            super().all_settled()
            return
        if self._compensations is None:
            self._compensations = self._to_compensate()
        while self._compensations:
            name = self._compensations.pop(0)
            if name not in self._compensated:
                self.request(name, None)
                self._drain()
                return
        super().all_settled()

    def _to_compensate(self) -> list[str]:
        """The compensation of the state that has failed, then those of completed states, the last one first."""
        assert self.failed_state is not None
        states = dict.fromkeys([self.failed_state.node.name, *reversed(self.completed)])
        found = [self.agent.states[name].compensation for name in states if name in self.agent.states]
        return [name for name in found if name is not None]

    def at_rest(self) -> None:
        """See `GraphRun.at_rest`."""
        self.agent.note_at_rest()

    def _successors_of(self, name: str) -> frozenset[str] | None:
        return self.agent.states[name].successors

    # --- taking up a run ---

    def _replay(self, entries: Iterable[Entry]) -> None:
        """Brings a run to where its journal says that it stood: the same steps, without the work."""
        for entry in list(entries):
            if entry.kind in ("question", "answered", "refused", "answer"):
                self.people.restore(entry)
                continue
            if entry.kind not in ("started", "finished", "failed"):
                continue
            if entry.node not in self.nodes and "." in entry.node:
                self._restore_part(entry.node)
            state = self.state_named(entry.node, "the journal of the run")
            state.metadata.attempts = entry.attempt
            state.attempts_before[entry.visit] = max(entry.attempt, state.attempts_before.get(entry.visit, 0))
            if entry.kind != "started":
                self._replay_end(state, entry)

    def _replay_end(self, state: StateRun, entry: Entry) -> None:
        if self.failed_state is not None and self._compensations is None and entry.node in self.agent.compensations:
            self._compensations = self._to_compensate()
        state.visits = state.metadata.visits = entry.visit
        state.metadata.ended_at = entry.time
        data = self._take(state)
        if state.state is NodeState.PENDING:
            self._unsettled -= 1
        if entry.kind == "failed":
            state.state = NodeState.FAILED
            state.error = error = WorkflowError(f"{entry.data['error_type']}: {entry.data['error']}")
            self._errors.append(error)
            self._note_failed(state, error, data)
            return
        state.state = NodeState.FINISHED
        state.metadata.status = StateStatus.COMPLETED
        data.next = list(entry.data["next"])
        data.writes = {**entry.data.get("set", {}), **dict.fromkeys(entry.data.get("removed", ()), REMOVED)}
        data.messages = tuple(entry.data.get("messages", ()))
        for name in data.next:
            if name not in self.nodes:
                self._restore_part(name)
        self._note_completed(state, data)
        state.completed_at = entry.time
        self._go_on_after(state, data)

    def _restore_part(self, name: str) -> None:
        """Finds the state of another workflow that had been named; its agent has to exist in this process."""
        other, _, start = name.rpartition(".")
        part = self.agent.find_part(other)
        if part is None:
            raise UnknownStateError(name, "the journal of the run", self.nodes)
        self._part(part, start)


class _AgentInRun:
    """A workflow as the conditions of one of its runs see it: with the state of that run, and not of any other."""

    def __init__(self, agent: "Agent", run: WorkflowRun) -> None:
        self._agent = agent
        self._run = run

    def get_state(self, key: str, default: Any = None) -> Any:
        return self._run.shared.values.get(key, default)

    @property
    def completed_states(self) -> set[str]:
        return set(self._run.completed)

    @property
    def state_metadata(self) -> dict[str, StateMetadata]:
        return {name: state.metadata for name, state in self._run.nodes.items()}  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)


def node_of(state: State) -> Node:
    """Says what was said of a state in the words of the engine."""
    policy = NodePolicy(
        attempts=state.retry_policy.max_retries + 1,
        backoff=state.retry_policy.delay,
        retry_if=_is_worth_a_retry,
        timeout=state.timeout,
        resources=state.resources,
        preemptible=state.preemptible,
    )
    return Node.of(state.name, agent_of(state), (), policy)


def agent_of(state: State) -> MiniAgent:
    """Makes the agent of a state, which is called with its visit."""
    function = state.function

    async def work(ctx: InteractionContext, visit: Visit) -> None:
        context = Context(visit.run, visit, ctx)  # type: ignore[arg-type]
        visit.value.writes = context.writes
        if isinstance(function, MiniAgent):
            replies = function.inquire(ctx.message_promises)
            ctx.reply(replies)
            visit.value.messages = messages = await replies
            visit.value.next = getattr(messages[-1], "next_state", None) if messages else None
        else:
            visit.value.next = await function(context)

    return miniagent(work, alias=state.name)


def _is_worth_a_retry(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, WorkflowError)
