"""A run of a graph: which node may start, which has ended, what follows from that.

The run is a state machine without tasks of its own: each step is a plain function that is called when something has
happened, and costs what the edges of the node cost. Nodes that wait are counters, not tasks.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from contextvars import ContextVar, copy_context
from functools import partial
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from miniagents import persist
from miniagents.agents import MiniAgent
from miniagents.ext.graph.deadlines import Deadlines
from miniagents.ext.graph.errors import GraphDefinitionError, GraphLimitError, UnknownNodeError
from miniagents.ext.graph.events import (
    DecisionTaken,
    EventPromise,
    GraphEvent,
    GraphFinished,
    NodeFailed,
    NodeFinished,
    NodeRetried,
    NodeSkipped,
    SpokenPromise,
    is_event,
    spoken_in,
)
from miniagents.ext.graph.follower import Follower
from miniagents.ext.graph.inputs import inputs_of
from miniagents.ext.graph.policy import ConcurrencyLimit, NodePolicy
from miniagents.ext.graph.states import (
    FAILED,
    FINISHED,
    IDLE,
    PENDING,
    RUNNING,
    SKIPPED,
    Jump,
    NodeRun,
    NodeState,
)
from miniagents.ext.graph.visit import Visit
from miniagents.ext.labelled import LabelledPromise
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise, MessageType
from promising.errors import as_seen_by_consumers
from promising.promise import CoroutinePromise
from promising.sentinels import DEFAULT

if TYPE_CHECKING:
    from miniagents.ext.cache.interface import Cache
    from miniagents.ext.graph.conditions import CompiledCondition
    from miniagents.ext.graph.graph import Graph, Node
    from miniagents.ext.graph.resources import ResourcePool

__all__ = ["GraphRun", "Jump", "NodeRun", "NodeState", "current_run", "current_visit"]

_visit_at_work: ContextVar[Visit | None] = ContextVar("miniagents.graph.visit", default=None)


def current_visit() -> Visit | None:
    """The visit of the node at work here, or None outside of any graph."""
    return _visit_at_work.get()


def current_run() -> "GraphRun":
    """The run of the graph one of whose nodes is at work here.

    Returns:
        The run: to add nodes, or to look at others' messages.

    Raises:
        RuntimeError: No node of a graph is at work here.
    """
    visit = _visit_at_work.get()
    if visit is None:
        raise RuntimeError("no graph runs here; call `current_run()` from the agent of a node")
    return visit.run


_NOT_YET: dict[Visit, None] = {}
_OTHERS_TO_NAME = 5
_SETTLED = frozenset({FINISHED, FAILED, SKIPPED, IDLE})


class GraphRun:
    """One run of a graph. What a vocabulary wants to be otherwise it overrides; see the section of hooks.

    Args:
        graph: The graph.
        ctx: The call of the graph as an agent.
        task: What conditions see as the task.
        progress: Whether events and the messages of all nodes are replied, or only those of the last nodes.

    Attributes:
        nodes: All nodes by their names.
        cache: What conditions read.
        limits: The limits that hold for all nodes.
        pool: The resources.
        paused: Whether nothing is started for now.
    """

    def __init__(self, graph: "Graph", ctx: InteractionContext, *, task: Any = None, progress: bool = True) -> None:
        self.graph = graph
        self.ctx = ctx
        self.task = task
        self.progress = progress
        self.limits = () if graph.max_concurrent is None else (ConcurrencyLimit(graph.max_concurrent),)
        self.nodes: dict[str, NodeRun] = {}
        self._queue: deque[NodeRun] = deque()
        self._unsettled = 0
        self._active = 0
        self._starts = 0
        self._draining = False
        self.paused = False
        self._errors: list[BaseException] = []
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._began_at = time.time()
        self._woken: list[Follower] = []
        self._to_be_added: dict[str, tuple[Visit, list[Node]]] = {}  # when these visits have ended well
        self._is_settling = False
        self._settling: deque[NodeRun] = deque()
        self._own_cache: Cache | None = None
        self.context = copy_context()
        self._called: list[Visit] = []
        self._deadlines: Deadlines[Visit] = Deadlines(self._loop, self.context, self._late)
        self._end: asyncio.Future[None] = self._loop.create_future()

    @property
    def cache(self) -> "Cache":
        """What conditions read: the graph's, or one of the run's own."""
        if self._own_cache is None:
            self._own_cache = self.graph.cache_for(self)
        return self._own_cache

    @property
    def pool(self) -> "ResourcePool":
        """The resources that nodes share."""
        return self.graph.pool

    # --- what agents of nodes use ---

    def add_node(
        self, name: str, agent: "MiniAgent", *, after: Iterable[str] = (), policy: NodePolicy | None = None
    ) -> None:
        """Adds a node while the graph runs, as soon as the node at work has ended well.

        Args:
            name: Its name.
            agent: Its agent.
            after: What it depends on: nodes of the graph, or ones added together with it; without any the node at work.
                What depends on the node at work waits for the new one, too.
            policy: How it runs.

        Raises:
            GraphDefinitionError: There is a node of that name already.
        """
        from miniagents.ext.graph.graph import Node

        visit = _visit_at_work.get()
        if visit is None or visit.run is not self:
            raise RuntimeError("a node is added by the agent of a node of the same run, while that is at work")
        known = self.nodes.get(name)
        if (known is not None and known.creator is not visit.node_run) or self._is_to_be_added(name):
            raise GraphDefinitionError(f"there is a node {name!r} already; give the new one another name")
        node = Node.of(name, agent, after, policy)
        if node.policy.resources is not None:
            self.pool.check(node.policy.resources, where=f"the node {name!r}")
        if visit.new_nodes is None:
            visit.new_nodes = []
        visit.new_nodes.append(node)
        self._to_be_added[name] = visit, visit.new_nodes

    def _is_to_be_added(self, name: str) -> bool:
        visit, nodes = self._to_be_added.get(name, (None, None))
        return visit is not None and not visit.over and visit.new_nodes is nodes  # else that attempt counts no more

    def messages_of(self, name: str) -> tuple[Message, ...]:
        """What a node has replied in its last visit that ended well; nothing if there was none.

        Raises:
            UnknownNodeError: There is no such node.
        """
        node_run = self.nodes.get(name)
        if node_run is None:
            raise UnknownNodeError(name, "messages_of", self.nodes)
        return node_run.last.messages if node_run.last is not None else ()

    # --- the life of the run ---

    async def complete(self) -> None:
        """Runs the graph to its end.

        Raises:
            BaseException: What the first node that failed has failed with, if the graph raises errors.
        """
        self.graph.plan()
        self._set_up(self.graph.nodes)
        self.enter(self._begin)
        timer = None if self.graph.timeout is None else self.later(self.graph.timeout, self._timed_out)
        try:
            await self._end
        finally:
            if timer is not None:
                timer.cancel()
            self._stop_all()
            self._deadlines.stop()
        self.finished()

    def _timed_out(self) -> None:
        self.halt(TimeoutError(f"{self.graph.alias} took longer than {self.graph.timeout:g} s"))

    def now(self) -> float:
        """Seconds since the start of the run."""
        return self._loop.time() - self._began

    def time(self) -> float:
        """The time in seconds since 1970, by the clock of the event loop."""
        return self._began_at + self.now()

    def crash(self, error: BaseException) -> None:
        """Ends the whole run with an error."""
        if not self._end.done():
            self._end.set_exception(as_seen_by_consumers(error, self.ctx))

    def halt(self, error: Exception) -> None:
        """Stops what runs, skips what waits, and lets the run end as one that has failed."""
        self._errors.append(error)
        for node_run in list(self.nodes.values()):
            visit = node_run.visit
            if node_run.state is RUNNING:
                self._abandon(node_run)
                if visit is None or visit.attempt:
                    self._stopped_by(error, node_run, visit)
                    continue
                node_run.visits -= 1  # it was still waiting for a place
                node_run.state = PENDING
            if node_run.state is PENDING:
                self._skip(node_run, str(error))

    def _stopped_by(self, error: Exception, node_run: NodeRun, visit: Visit | None) -> None:
        node_run.error = error
        node_run.state = FAILED
        node_run.failed_node = node_run
        self._unsettled -= 1
        if visit is not None:
            self._tell_failure(visit, error)

    def _set_up(self, nodes: Iterable["Node"]) -> None:
        dependents = self.graph.dependents
        for node in nodes:
            node_run = self.nodes[node.name] = self.new_node_run(node)
            node_run.dependents = dependents.get(node.name, ())
            node_run.waiting = len(node.after)
            if node_run.state is PENDING:
                self._unsettled += 1

    def _named(self, names: Iterable[str]) -> list[NodeRun]:
        nodes = self.nodes
        return [nodes[name] for name in names]

    def _begin(self) -> None:
        self._queue.extend(node for node in self.nodes.values() if node.state is PENDING and not node.waiting)

    def _drain(self) -> None:
        """Starts whatever can start now, and looks whether that was all."""
        if self._draining:
            return
        self._draining = True
        queue = self._queue
        try:
            while queue and not self.paused:
                node_run = queue.popleft()
                if node_run.state is PENDING:
                    self._start(node_run)
        finally:
            self._draining = False
        if not self._active and not self._end.done():
            if self.paused:
                self.at_rest()
                return
            if self._unsettled:
                self.stuck([node for node in self.nodes.values() if node.state is PENDING])
            if not self._unsettled and not self._active and not queue:
                self.all_settled()

    def _start(self, node_run: NodeRun) -> None:
        most = node_run.node.policy.max_visits
        if most is not None and node_run.visits >= most:
            error = GraphLimitError(f"{node_run.node.name} was visited {most} times, which is its max_visits")
            self._settle_as_failed(node_run, error)
            return
        self._active += 1
        node_run.visits += 1
        node_run.state = RUNNING
        visit = node_run.visit = self.new_visit(node_run)
        visit.begin()

    def may_start(self, visit: Visit) -> bool:
        """Counts a visit whose agent is about to be called; where it is one too many the run is stopped."""
        limit = self.graph.max_starts
        if limit is None or self._starts < limit:
            self._starts += 1
            return True
        self.halt(
            GraphLimitError(
                f"{self.graph.alias} has started {limit} nodes, which is its limit; see whether a loop ends, or raise "
                f"it (the next one would have been {visit.node_run.node.name})"
            )
        )
        return False

    def _stop_all(self) -> None:
        if self._active:
            for node_run in self.nodes.values():
                self._abandon(node_run)

    def _abandon(self, node_run: NodeRun) -> None:
        visit, node_run.visit = node_run.visit, None
        if visit is not None:
            self._active -= 1
            visit.abandon()

    # --- what visits say ---

    def visit_finished(self, visit: Visit, jump: Jump | None) -> None:
        """Is told of a visit that ended well."""
        node_run = visit.node_run
        self._active -= 1
        node_run.visit = None
        node_run.last = visit
        node_run.state = FINISHED
        self._unsettled -= 1
        if self.progress:
            self.tell(
                NodeFinished,
                node=node_run.node.name,
                visit=visit.number,
                attempt=visit.attempt,
                seconds=self._loop.time() - self._began - visit.began,
            )
        elif not node_run.dependents and not visit.is_final:
            for promise in visit.replied:
                self._reply_result(promise)
        if visit.new_nodes:
            self._add_new_nodes(node_run, visit.new_nodes)
        if jump is None:
            self._settle(node_run)
        else:
            self.tell(DecisionTaken, node=node_run.node.name, targets=jump.targets, why=jump.why)
            self.jump(node_run, jump)

    def visit_failed(self, visit: Visit, error: BaseException) -> None:
        """Is told of a visit that has failed for good."""
        node_run = visit.node_run
        self._active -= 1
        node_run.visit = None
        self._tell_failure(visit, error)
        self._settle_as_failed(node_run, error, told=True)

    def _tell_failure(self, visit: Visit, error: BaseException) -> None:
        self.tell(
            NodeFailed,
            node=visit.node_run.node.name,
            visit=visit.number,
            attempt=visit.attempt,
            error=str(error),
            error_type=type(error).__name__,
            seconds=self.now() - visit.began,
        )

    def visit_skipped(self, visit: Visit, reason: str) -> None:
        """Is told of a visit that has found that it should not have begun."""
        node_run = visit.node_run
        self._abandon(node_run)
        node_run.visits -= 1
        self._skip(node_run, reason)
        self._settle(node_run)

    def _settle_as_failed(self, node_run: NodeRun, error: BaseException, *, told: bool = False) -> None:
        node_run.error = error
        node_run.state = FAILED
        node_run.failed_node = node_run
        self._unsettled -= 1
        self._errors.append(error)
        if not told:
            name, kind = node_run.node.name, type(error).__name__
            self.tell(
                NodeFailed, node=name, visit=node_run.visits, attempt=0, error=str(error), error_type=kind, seconds=0.0
            )
        self._settle(node_run)

    def _settle(self, node_run: NodeRun) -> None:
        """Tells of a node that has settled; what follows from that is told after it, so that calls are never nested."""
        if self._is_settling:
            self._settling.append(node_run)
            return
        self._is_settling = True
        self.settled(node_run)
        while self._settling:
            self.settled(self._settling.popleft())
        self._is_settling = False

    def _skip(self, node_run: NodeRun, reason: str, failed_node: NodeRun | None = None) -> None:
        node_run.state = SKIPPED
        node_run.reason = reason
        node_run.failed_node = failed_node
        self._unsettled -= 1
        self.tell(NodeSkipped, node=node_run.node.name, reason=reason)

    # --- jumps, and nodes that come later ---

    def jump(self, source: NodeRun, jump: Jump) -> None:
        """Goes on at the targets: they and all that is downstream of them become pending, the targets start at once.

        What depends on the source and is not downstream of a target is skipped.
        """
        targets = [self.node_named(name, f"the decision of {source.node.name}") for name in jump.targets]
        downstream = self._downstream_of(targets)
        for node_run in self._withdraw_created(downstream):
            downstream.pop(node_run, None)
        for node_run in downstream:
            self._reset(node_run)
        ready = [node_run for node_run in self._queue if node_run not in downstream]
        self._queue.clear()  # in place, since it may be worked off right now
        self._queue.extend(ready)
        if source not in downstream:
            self._pass_over_dependents(source, downstream, f"{source.node.name} went on with {', '.join(jump.targets)}")
        for node_run in downstream:
            node_run.waiting = sum(not dependency.is_met for dependency in self._named(node_run.after))
        self._queue.extend(targets)
        for node_run in downstream:
            if node_run not in targets:
                self._skip_if_hopeless(node_run)

    def _pass_over_dependents(self, source: NodeRun, downstream: Container[NodeRun], reason: str) -> None:
        """Skips what depends on a node that went elsewhere, but for what is downstream of where it went."""
        pending = [(source, reason)]
        while pending:
            passed, reason = pending.pop()
            for dependent in self._named(passed.dependents):
                if dependent.state is PENDING and dependent not in downstream:
                    self._skip(dependent, reason)
                    dependent.passed_over = True
                    pending.append((dependent, _because_of(dependent)))
                    self._settle(dependent)

    def repeat_from(self, visit: Visit, target: str, error: BaseException, delay: float = 0.0) -> None:
        """Answers the failure of a visit by a jump, after a pause: from the target on all is done again."""
        self.tell(
            NodeRetried,
            node=visit.node_run.node.name,
            visit=visit.number,
            attempt=visit.attempt,
            error=str(error),
            error_type=type(error).__name__,
            delay=delay,
        )
        if delay:
            self.later(delay, partial(self._repeat, visit, target))
        else:
            self._repeat(visit, target)

    def _repeat(self, visit: Visit, target: str) -> None:
        node_run = visit.node_run
        if node_run.visit is visit:  # else another jump was faster
            self._active -= 1
            node_run.visit = None
            node_run.state = FAILED
            self._unsettled -= 1
            self.jump(node_run, Jump((target,), "retry"))

    def node_named(self, name: str, where: str) -> NodeRun:
        """Finds a node.

        Raises:
            UnknownNodeError: There is none of that name.
        """
        node_run = self.nodes.get(name)
        if node_run is None:
            raise UnknownNodeError(name, where, self.nodes)
        return node_run

    def _downstream_of(self, targets: Iterable[NodeRun]) -> dict[NodeRun, None]:
        found = dict.fromkeys(targets)
        pending = list(found)
        while pending:
            for dependent in self._named(pending.pop().dependents):
                if dependent not in found:
                    found[dependent] = None
                    pending.append(dependent)
        return found

    def _reset(self, node_run: NodeRun) -> None:
        """Makes a node pending again, stopping its visit if it has one."""
        self._abandon(node_run)
        if node_run.state in _SETTLED:
            self._unsettled += 1
        self._forget_error(node_run)
        node_run.state = PENDING
        node_run.error = node_run.reason = node_run.failed_node = None
        node_run.passed_over = False

    def _forget_error(self, node_run: NodeRun) -> None:
        """Takes back what an earlier visit has failed with: what counts is what the node ends with."""
        if node_run.error is not None:
            self._errors = [error for error in self._errors if error is not node_run.error]

    def _skip_if_hopeless(self, node_run: NodeRun) -> None:
        """Skips a pending node one of whose dependencies was settled without having finished."""
        for dependency in self._named(node_run.after):
            if node_run.state is PENDING and dependency.is_hopeless:
                self._skip(node_run, _because_of(dependency), dependency.failed_node)
                self._settle(node_run)

    def _add_new_nodes(self, creator: NodeRun, nodes: Iterable["Node"]) -> None:
        self._withdraw_created({creator: None})
        waiting = [dependent for dependent in self._named(creator.dependents) if dependent.state is PENDING]
        added: list[NodeRun] = []
        for node in nodes:
            given = node.after or (creator.node.name,)
            node_run = self.nodes[node.name] = self.new_node_run(node._replace(after=given), creator)
            added.append(node_run)
            self._unsettled += 1
        creator.created = added
        self._add_edges((name, node_run.node.name) for node_run in added for name in node_run.after)
        own = {creator.node.name, *(node_run.node.name for node_run in added)}
        elsewhere = self._downstream_of(node_run for node_run in added if not own.issuperset(node_run.after))
        followers = [node_run for node_run in added if node_run not in elsewhere]  # the others may wait for who waits
        self._add_edges((node_run.node.name, one.node.name) for one in waiting for node_run in followers)
        names = [node_run.node.name for node_run in followers]
        for dependent in waiting:
            dependent.after = (*dependent.after, *names)
            dependent.waiting += len(names)
        for node_run in added:
            dependencies = self._named(node_run.after)
            node_run.waiting = sum(not one.is_met or one is creator for one in dependencies)  # who is settled next
            if not node_run.waiting:
                self._queue.append(node_run)
            else:
                self._skip_if_hopeless(node_run)

    def _add_edges(self, edges: Iterable[tuple[str, str]]) -> None:
        """Notes for nodes who depends on them, too: pairs of the name of a node, and of one that depends on it."""
        new: dict[str, list[str]] = {}
        for name, dependent in edges:
            new.setdefault(name, []).append(dependent)
        for name, names in new.items():
            node_run = self.nodes[name]
            node_run.dependents = (*node_run.dependents, *names)

    def check_new_nodes(self, nodes: Iterable["Node"]) -> None:
        """Looks whether nodes can be added.

        Raises:
            GraphDefinitionError: They wait for each other in a ring.
            UnknownNodeError: One depends on a node that there is not.
        """
        after = {node.name: node.after for node in nodes}
        for name, dependencies in after.items():
            for dependency in dependencies:
                if dependency not in after:
                    self.node_named(dependency, f"the new node {name}, which depends on it,")
        try:
            TopologicalSorter(after).prepare()
        except CycleError as error:
            ring = " -> ".join(reversed(error.args[1]))
            raise GraphDefinitionError(f"new nodes wait for each other in a ring: {ring}") from None

    def _withdraw_created(self, creators: Iterable[NodeRun]) -> list[NodeRun]:
        """Takes out what was added by nodes that will run again: they will add what is needed then."""
        withdrawn: list[NodeRun] = []
        pending = [creator for creator in creators if creator.created]
        while pending:
            creator = pending.pop()
            created, creator.created = creator.created or [], None
            for node_run in created:
                self._abandon(node_run)
                self._forget_error(node_run)
                if node_run.state not in _SETTLED:
                    self._skip(node_run, f"{creator.node.name}, which has added it, runs again")
                node_run.state = IDLE
                del self.nodes[node_run.node.name]
                withdrawn.append(node_run)
                if node_run.created:
                    pending.append(node_run)
        gone = {node_run.node.name for node_run in withdrawn}
        for name in {name for node_run in withdrawn for name in node_run.after} - gone:
            node_run = self.nodes[name]
            node_run.dependents = [one for one in node_run.dependents if one not in gone]
        for name in {name for node_run in withdrawn for name in node_run.dependents} - gone:
            node_run = self.nodes[name]
            node_run.after = [one for one in node_run.after if one not in gone]
        return withdrawn

    # --- taking up a run: what happened in another process is set, not done ---

    def restore_node(
        self,
        node_run: NodeRun,
        state: NodeState,
        *,
        visits: int,
        messages: Iterable[Message] | None = None,
        error: BaseException | None = None,
        reason: str | None = None,
        failed_node: NodeRun | None = None,
        passed_over: bool = False,
    ) -> None:
        """Says how far a node had come. When all are restored, `recount`.

        Args:
            node_run: The node, which is pending.
            state: FINISHED, FAILED, SKIPPED or PENDING; or RUNNING, to start it at once whatever it waits for.
            visits: How many visits have begun, without one that was at work.
            messages: What it has replied in its last visit that ended well; None if there was none.
            error: What it has failed with.
            reason: Why it was skipped.
            failed_node: For whose failure.
            passed_over: See `NodeRun`.
        """
        node_run.visits = visits
        node_run.error, node_run.reason, node_run.failed_node = error, reason, failed_node
        node_run.passed_over = passed_over
        if messages is not None:
            node_run.last = visit = Visit(self, node_run)
            visit.restore(messages)
        if error is not None:
            self._errors.append(error)
        if state is RUNNING:
            self._queue.append(node_run)
        elif state is not PENDING:
            node_run.state = state
            self._unsettled -= 1

    def recount(self) -> None:
        """Counts anew what each node waits for, after nodes were restored."""
        for node_run in self.nodes.values():
            node_run.waiting = sum(not dependency.is_met for dependency in self._named(node_run.after))

    # --- hooks: what vocabularies can have otherwise ---

    def new_node_run(self, node: "Node", creator: NodeRun | None = None) -> NodeRun:
        """Makes the state of a node."""
        return NodeRun(node, creator)

    def new_visit(self, node_run: NodeRun) -> Visit:
        """Makes the visit of a node that begins now."""
        return Visit(self, node_run)

    def call(self, visit: Visit) -> MessageSequencePromise:
        """Calls the agent of a node."""
        self.make_current(visit)
        node_run = visit.node_run
        agent = node_run.node.agent
        if type(agent) is MiniAgent and agent._errors_as_messages is DEFAULT:  # as below, and most of them are
            return agent.inquire(self.inputs_of(node_run), errors_as_messages=False)
        quiet = not self.progress and not node_run.dependents  # else the result is in what it tells
        return self.inquire_inside(agent, self.inputs_of(node_run), quiet=quiet)

    def inquire_inside(
        self, agent: "MiniAgent", messages: MessageType, *, quiet: bool | None = None, **arguments: Any
    ) -> MessageSequencePromise:
        """Calls an agent such that the run knows of its errors.

        Args:
            agent: The agent.
            messages: What it is sent.
            quiet: Whether nobody wants to know the progress of an agent that is a graph; as in this run otherwise.
            **arguments: Further arguments of the call.

        Returns:
            The reply.
        """
        if (not self.progress if quiet is None else quiet) and getattr(agent, "tells_progress", False):
            arguments["progress"] = False
        if agent._errors_as_messages is DEFAULT:
            arguments["errors_as_messages"] = False  # whatever the context says: that is meant for errors of the graph
        return agent.inquire(messages, **arguments)

    def condition_holds(self, condition: "CompiledCondition") -> Awaitable[bool]:
        """Evaluates the condition of a node."""
        return condition.holds(self.cache, self.task)

    def inputs_of(self, node_run: NodeRun) -> MessageType:
        """What the agent of a node is sent: what those before it have replied, or what the graph was sent."""
        if not node_run.after:
            return self.ctx.message_promises
        replies: list[MessageSequencePromise] = []
        nodes = self.nodes
        for name in node_run.after:
            dependency = nodes[name]
            visit = dependency.last
            if visit is None or dependency.state is SKIPPED:  # that it was visited earlier does not count
                continue
            assert visit.replies is not None
            replies.append(visit.replies if visit.is_plain else MessageSequencePromise.on_messages(visit.messages))
        return replies[0] if len(replies) == 1 else inputs_of(replies)

    def outcome(self, visit: Visit) -> "Jump | Awaitable[Jump | None] | None":
        """Says where the run goes on after an attempt that has succeeded; an error is one of the attempt."""
        decide = visit.policy.decide
        if decide is None:
            return None
        decided = decide(visit.messages)
        if isinstance(decided, Awaitable):
            return self._jump_decided(visit, decided)
        return self._jump_to(visit, decided)

    async def _jump_decided(self, visit: Visit, decided: Awaitable[Any]) -> Jump | None:
        return self._jump_to(visit, await decided)

    def _jump_to(self, visit: Visit, decided: Any) -> Jump | None:
        if decided is None:
            return None
        name = visit.node_run.node.name
        if isinstance(decided, str):
            decided = (decided,)
        if not isinstance(decided, Sequence) or not all(isinstance(target, str) for target in decided):
            raise TypeError(f"`decide` of {name} returned {decided!r:.100}; return the name of a node, names, or None")
        for target in decided:
            self.node_named(target, f"the decision of {name}")
        return Jump(tuple(dict.fromkeys(decided))) if decided else None

    def before_attempt(self, visit: Visit) -> Awaitable[object] | None:
        """What has to be done before the agent is called; None for nothing."""
        return None

    def before_release(self, visit: Visit, jump: Jump | None) -> Awaitable[object] | None:
        """What has to be done before a node counts as finished; None for nothing."""
        return None

    def before_failure(self, visit: Visit, error: Exception) -> Awaitable[object] | None:
        """What has to be done before a node counts as failed; None for nothing."""
        return None

    def attempt_failed(self, visit: Visit, error: Exception) -> None:
        """Is told of an attempt that will be followed by another one."""

    def settled(self, node_run: NodeRun) -> None:
        """Is told of each node that has finished, failed or been skipped, and tells those that wait for it."""
        nodes = self.nodes
        for name in node_run.dependents:
            dependent = nodes[name]
            if dependent.state is not PENDING:
                continue
            if node_run.state is FINISHED:
                dependent.waiting -= 1
                if not dependent.waiting:
                    self._queue.append(dependent)
            elif not node_run.passed_over:
                self._skip(dependent, _because_of(node_run), node_run.failed_node)
                self._settle(dependent)

    def all_settled(self) -> None:
        """Is told that nothing runs and nothing waits: the run ends here."""
        self._end.set_result(None)

    def at_rest(self) -> None:
        """Is told that nothing runs any more, while the run is paused."""

    def stuck(self, pending: list[NodeRun]) -> None:
        """Is told that nothing runs and these nodes still wait."""
        names = ", ".join(node_run.node.name for node_run in pending[:20])
        self.crash(GraphDefinitionError(f"{names} can never start: what they wait for will not happen"))

    def forward(self, visit: Visit, promise: MessagePromise) -> None:
        """Passes on what an agent has replied, while it does."""
        if self.progress:
            name = visit.node_run.node.name
            self.reply(SpokenPromise(promise, name) if type(promise) is MessagePromise else spoken_in(name, promise))
        elif not visit.node_run.dependents and visit.is_final:
            self._reply_result(promise)

    def _reply_result(self, promise: MessagePromise) -> None:
        if not is_event(promise):
            self.reply(promise if self.graph.raise_errors else LabelledPromise(promise, {}))

    def finished(self) -> None:
        """Is called when all nodes have settled.

        Raises:
            BaseException: What the first node that failed has failed with, if the graph raises errors.
        """
        states = [node_run.state for node_run in self.nodes.values()]
        status = "complete"
        if self._errors:
            status = "partial" if FINISHED in states else "failed"
        if self.progress:
            last = [run for run in self.nodes.values() if not run.dependents and run.state is FINISHED]
            self.tell(
                GraphFinished,
                status=status,
                results={run.node.name: run.last.messages for run in last if run.last is not None},
                failed=tuple(run.node.name for run in self.nodes.values() if run.state is FAILED),
                skipped=tuple(run.node.name for run in self.nodes.values() if run.state is SKIPPED),
                seconds=self.now(),
            )
        if self._errors and self.graph.raise_errors:
            first, *others = self._errors
            for error in others[:_OTHERS_TO_NAME]:
                first.add_note(f"what else has failed in {self.graph.alias}: {type(error).__name__}: {error}")
            if len(others) > _OTHERS_TO_NAME:
                first.add_note(f"and {len(others) - _OTHERS_TO_NAME} more")
            raise first

    # --- how steps are made ---

    def make_current(self, visit: Visit) -> None:
        """Makes it the visit that `current_visit` finds in what is called next."""
        _visit_at_work.set(visit)

    def tell(self, event_class: type[GraphEvent], **fields: Any) -> None:
        """Replies an event, if progress is wanted."""
        if self.progress:
            fields["graph"] = self.graph.alias
            fields["time"] = self._loop.time() - self._began
            self.reply(EventPromise(event_class, fields))

    def reply(self, promise: MessagePromise) -> None:
        """Adds to the reply of the graph."""
        buffer = self.ctx._replies
        if buffer.end is not None or persist.contexts_with_handlers:
            self.ctx.reply(promise)
            return
        buffer.append(promise)  # the same, as fast as it can be
        if buffer.waiters is not None:
            buffer.wake_readers()

    def wake(self, follower: Follower) -> None:
        """Something has come for a visit: it goes on at the next turn of the event loop, together with others."""
        self._woken.append(follower)
        if len(self._woken) == 1:
            self.soon(self._follow_woken)

    def limit_time_of(self, visit: Visit) -> None:
        """Lets the limit of time of an attempt begin, at the end of the step in which its agent was called."""
        self._called.append(visit)
        visit.deadline = _NOT_YET

    def _begin_limits(self) -> None:
        called, self._called = self._called, []
        by_length: dict[float, list[Visit]] = {}
        for visit in called:
            if visit.deadline is not None:
                assert visit.policy.timeout is not None
                by_length.setdefault(visit.policy.timeout, []).append(visit)
        for seconds, visits in by_length.items():
            begun = self._deadlines.begin(visits, seconds)
            for visit in visits:
                visit.deadline = begun

    def _late(self, visits: list[Visit]) -> None:
        def time_out() -> None:
            for visit in visits:
                visit.time_out()

        self.make_step(time_out)

    def _follow_woken(self) -> None:
        woken, self._woken = self._woken, []
        for follower in woken:
            follower.visit.follow(follower)

    def enter(self, step: Callable[..., None], *args: Any) -> None:
        """Makes a step from outside: in the context of the run, and with all that follows from it."""
        self.context.run(self.make_step, step, *args)

    def soon(self, step: Callable[..., None], *args: Any) -> None:
        """Makes a step at the next turn of the event loop."""
        self._loop.call_soon(self.make_step, step, *args, context=self.context)

    def later(self, delay: float, step: Callable[..., None]) -> asyncio.TimerHandle:
        """Makes a step after some seconds."""
        return self._loop.call_later(delay, self.make_step, step, context=self.context)

    def when(self, waiter: "asyncio.Future[None]", step: Callable[..., None], *args: Any) -> None:
        """Makes a step when something has happened."""
        waiter.add_done_callback(lambda _: self.make_step(step, *args), context=self.context)

    def start(self, work: Awaitable[Any]) -> CoroutinePromise[Any]:
        """Starts work that belongs to the run."""
        promise: CoroutinePromise[Any] = CoroutinePromise(work)
        if promise._context is not None:
            promise._start_now()
        return promise

    def make_step(self, step: Callable[..., None], *args: Any) -> None:
        """Makes a step inside of the context of the run, unless that is over."""
        if self._end.done():
            return
        try:
            step(*args)
            self._drain()
            if self._called:
                self._begin_limits()
        except BaseException as error:  # else the run would wait for ever for what was lost
            self.crash(error)


def _because_of(node_run: NodeRun) -> str:
    failed = node_run.state is FAILED
    return f"{node_run.node.name}, on which it depends, {'has failed' if failed else 'was skipped'}"
