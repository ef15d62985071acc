"""A run of a graph: which node may start, which has ended, what follows from that.

The run is a state machine without tasks of its own: each step is a plain function that is called when something has
happened, and costs what the edges of the node cost. Nodes that wait are counters, not tasks.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import ContextVar, copy_context
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

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
)
from miniagents.ext.graph.policy import ConcurrencyLimit, NodePolicy
from miniagents.ext.graph.visit import Visit
from miniagents.ext.labelled import LabelledPromise
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise, MessageType
from promising.promise import CoroutinePromise

if TYPE_CHECKING:
    from miniagents.agents import MiniAgent
    from miniagents.ext.cache.interface import Cache
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


class NodeState(Enum):
    """How far a node has come in a run."""

    IDLE = "idle"
    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    SKIPPED = "skipped"


class Jump(NamedTuple):
    """Where a run goes on, other than along its edges.

    Attributes:
        targets: The nodes to start at once, whatever they depend on.
        why: What the decision rests on, for people.
        value: Whatever the vocabulary wants to know of it.
    """

    targets: tuple[str, ...]
    why: str | None = None
    value: Any = None


class NodeRun:
    """One node in one run.

    Attributes:
        node: What was said of it.
        state: How far it has come.
        after: What it waits for.
        dependents: What waits for it.
        waiting: How many of `after` have not finished.
        visits: How many visits have begun.
        visit: The visit at work.
        last: The last visit that ended well.
        error: What the last visit failed with.
        reason: Why it was skipped.
        failed_node: Of a skipped node the one whose failure it was skipped for; None if it was for another reason.
        creator: The node that has added it while the graph ran.
    """

    __slots__ = (
        "after", "created", "creator", "dependents", "error", "failed_node", "last", "node", "reason", "state", "visit",
        "visits", "waiting",
    )  # fmt: skip

    def __init__(self, node: "Node", creator: "NodeRun | None" = None) -> None:
        self.node = node
        self.state = NodeState.PENDING
        self.after: list[NodeRun] = []
        self.dependents: list[NodeRun] = []
        self.waiting = 0
        self.visits = 0
        self.visit: Visit | None = None
        self.last: Visit | None = None
        self.error: BaseException | None = None
        self.reason: str | None = None
        self.failed_node: NodeRun | None = None
        self.creator = creator
        self.created: list[NodeRun] | None = None

    def __repr__(self) -> str:
        return f"<node {self.node.name}: {self.state.value}>"


_SETTLED = frozenset({NodeState.FINISHED, NodeState.FAILED, NodeState.SKIPPED, NodeState.IDLE})


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
        self._context = copy_context()
        self._end: asyncio.Future[None] = self._loop.create_future()

    @property
    def cache(self) -> "Cache":
        """What conditions read: the graph's, or one of the run's own."""
        return self.graph.cache_for(self)

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
        fresh = {node.name for node in visit.new_nodes or ()}
        if name in fresh or (known is not None and known.creator is not visit.node_run):
            raise GraphDefinitionError(f"there is a node {name!r} already; give the new one another name")
        if visit.new_nodes is None:
            visit.new_nodes = []
        visit.new_nodes.append(Node.of(name, agent, after, policy))

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
        self._set_up(self.graph.plan())
        self.enter(self._begin)
        try:
            async with asyncio.timeout(self.graph.timeout) as limit:
                await self._end
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TimeoutError(f"{self.graph.alias} took longer than {self.graph.timeout:g} s") from error
        finally:
            self._stop_all()
        self.finished()

    def now(self) -> float:
        """Seconds since the start of the run."""
        return self._loop.time() - self._began

    def time(self) -> float:
        """The time in seconds since 1970, by the clock of the event loop."""
        return self._began_at + self.now()

    def crash(self, error: BaseException) -> None:
        """Ends the whole run with an error."""
        if not self._end.done():
            self._end.set_exception(error)

    def halt(self, error: Exception) -> None:
        """Stops what runs, skips what waits, and lets the run end as one that has failed."""
        self._errors.append(error)
        for node_run in list(self.nodes.values()):
            if node_run.state is NodeState.RUNNING:
                self._abandon(node_run)
                node_run.error = error
                node_run.state = NodeState.FAILED
                self._unsettled -= 1
            elif node_run.state is NodeState.PENDING:
                self._skip(node_run, str(error))

    def _set_up(self, nodes: Iterable["Node"]) -> None:
        runs = self.nodes
        for node in nodes:
            runs[node.name] = self.new_node_run(node)
        for node_run in runs.values():
            self._link(node_run)

    def _link(self, node_run: NodeRun) -> None:
        runs = self.nodes
        node_run.after = [runs[name] for name in node_run.node.after]
        node_run.waiting = len(node_run.after)
        for dependency in node_run.after:
            dependency.dependents.append(node_run)
        if node_run.state is NodeState.PENDING:
            self._unsettled += 1

    def _begin(self) -> None:
        self._queue.extend(node for node in self.nodes.values() if node.state is NodeState.PENDING and not node.waiting)

    def _drain(self) -> None:
        """Starts whatever can start now, and looks whether that was all."""
        if self._draining:
            return
        self._draining = True
        queue = self._queue
        try:
            while queue and not self.paused:
                node_run = queue.popleft()
                if node_run.state is NodeState.PENDING:
                    self._start(node_run)
        finally:
            self._draining = False
        if not self._active and not self._end.done():
            if self.paused:
                self.at_rest()
                return
            if self._unsettled:
                self.stuck([node for node in self.nodes.values() if node.state is NodeState.PENDING])
            if not self._unsettled and not self._active and not queue:
                self.all_settled()

    def _start(self, node_run: NodeRun) -> None:
        limit = self.graph.max_starts
        if limit is not None and self._starts >= limit:
            self.halt(
                GraphLimitError(
                    f"{self.graph.alias} has started {limit} nodes, which is its limit; see whether a loop ends, or "
                    f"raise it (the next one would have been {node_run.node.name})"
                )
            )
            return
        most = node_run.node.policy.max_visits
        if most is not None and node_run.visits >= most:
            error = GraphLimitError(f"{node_run.node.name} was visited {most} times, which is its max_visits")
            self._settle_as_failed(node_run, error)
            return
        self._starts += 1
        self._active += 1
        node_run.visits += 1
        node_run.state = NodeState.RUNNING
        visit = node_run.visit = self.new_visit(node_run)
        visit.begin()

    def _stop_all(self) -> None:
        for node_run in self.nodes.values():
            if node_run.visit is not None:
                self.enter(self._abandon, node_run)

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
        node_run.state = NodeState.FINISHED
        self._unsettled -= 1
        if self.progress:
            self.tell(
                NodeFinished,
                node=node_run.node.name,
                visit=visit.number,
                attempt=visit.attempt,
                seconds=self.now() - visit.began,
            )
        if visit.new_nodes:
            self._add_new_nodes(node_run, visit.new_nodes)
        if jump is None:
            self.settled(node_run)
        else:
            self.tell(DecisionTaken, node=node_run.node.name, targets=jump.targets, why=jump.why)
            self.jump(node_run, jump)

    def visit_failed(self, visit: Visit, error: BaseException) -> None:
        """Is told of a visit that has failed for good."""
        node_run = visit.node_run
        self._active -= 1
        node_run.visit = None
        self.tell(
            NodeFailed,
            node=node_run.node.name,
            visit=visit.number,
            attempt=visit.attempt,
            error=str(error),
            error_type=type(error).__name__,
            seconds=self.now() - visit.began,
        )
        self._settle_as_failed(node_run, error, told=True)

    def visit_skipped(self, visit: Visit, reason: str) -> None:
        """Is told of a visit that has found that it should not have begun."""
        node_run = visit.node_run
        self._abandon(node_run)
        node_run.visits -= 1
        self._skip(node_run, reason)
        self.settled(node_run)

    def _settle_as_failed(self, node_run: NodeRun, error: BaseException, *, told: bool = False) -> None:
        node_run.error = error
        node_run.state = NodeState.FAILED
        node_run.failed_node = node_run
        self._unsettled -= 1
        self._errors.append(error)
        if not told:
            name, kind = node_run.node.name, type(error).__name__
            self.tell(
                NodeFailed, node=name, visit=node_run.visits, attempt=0, error=str(error), error_type=kind, seconds=0.0
            )
        self.settled(node_run)

    def _skip(self, node_run: NodeRun, reason: str, failed_node: NodeRun | None = None) -> None:
        node_run.state = NodeState.SKIPPED
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
        for node_run in downstream:
            node_run.waiting = sum(dependency.state is not NodeState.FINISHED for dependency in node_run.after)
        self._queue.extend(targets)
        for node_run in downstream:
            if node_run not in targets:
                self._skip_if_hopeless(node_run)
        if source not in downstream:
            for dependent in source.dependents:
                if dependent.state is NodeState.PENDING and dependent not in downstream:
                    self._skip(dependent, f"{source.node.name} went on with {', '.join(jump.targets)}")
                    self.settled(dependent)

    def repeat_from(self, visit: Visit, target: str, error: BaseException) -> None:
        """Answers the failure of a visit by a jump: from the target on all is done again."""
        node_run = visit.node_run
        self._active -= 1
        node_run.visit = None
        node_run.state = NodeState.FAILED
        self._unsettled -= 1
        self.tell(
            NodeRetried,
            node=node_run.node.name,
            visit=visit.number,
            attempt=visit.attempt,
            error=str(error),
            error_type=type(error).__name__,
            delay=0.0,
        )
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
            for dependent in pending.pop().dependents:
                if dependent not in found:
                    found[dependent] = None
                    pending.append(dependent)
        return found

    def _reset(self, node_run: NodeRun) -> None:
        """Makes a node pending again, stopping its visit if it has one."""
        self._abandon(node_run)
        if node_run.state in _SETTLED:
            self._unsettled += 1
        node_run.state = NodeState.PENDING
        node_run.error = node_run.reason = node_run.failed_node = None

    def _skip_if_hopeless(self, node_run: NodeRun) -> None:
        """Skips a pending node one of whose dependencies was settled without having finished."""
        for dependency in node_run.after:
            if node_run.state is NodeState.PENDING and dependency.state in (NodeState.FAILED, NodeState.SKIPPED):
                self._skip(node_run, _because_of(dependency), dependency.failed_node)
                self.settled(node_run)

    def _add_new_nodes(self, creator: NodeRun, nodes: Iterable["Node"]) -> None:
        waiting = [dependent for dependent in creator.dependents if dependent.state is NodeState.PENDING]
        self._withdraw_created({creator: None})
        added: list[NodeRun] = []
        for node in nodes:
            given = node.after or (creator.node.name,)
            node_run = self.new_node_run(node._replace(after=given), creator)
            self.nodes[node.name] = node_run
            added.append(node_run)
        creator.created = added
        for node_run in added:
            for name in node_run.node.after:
                self.node_named(name, f"the new node {node_run.node.name}, which depends on it,")
            self._link(node_run)
            node_run.waiting -= sum(
                dependency.state is NodeState.FINISHED and dependency is not creator for dependency in node_run.after
            )
        own = {creator, *added}
        for node_run in added:
            if own.issuperset(node_run.after):
                for dependent in waiting:
                    if dependent not in own and dependent not in node_run.dependents:
                        dependent.after.append(node_run)
                        node_run.dependents.append(dependent)
                        dependent.waiting += 1
            if not node_run.waiting:
                self._queue.append(node_run)
            else:
                self._skip_if_hopeless(node_run)

    def _withdraw_created(self, creators: Iterable[NodeRun]) -> list[NodeRun]:
        """Takes out what was added by nodes that will run again: they will add what is needed then."""
        withdrawn: list[NodeRun] = []
        pending = [creator for creator in creators if creator.created]
        while pending:
            creator = pending.pop()
            created, creator.created = creator.created or [], None
            for node_run in created:
                self._abandon(node_run)
                if node_run.state not in _SETTLED:
                    self._unsettled -= 1
                node_run.state = NodeState.IDLE
                del self.nodes[node_run.node.name]
                for dependency in node_run.after:
                    dependency.dependents.remove(node_run)
                for dependent in node_run.dependents:
                    dependent.after.remove(node_run)
                withdrawn.append(node_run)
                if node_run.created:
                    pending.append(node_run)
        return withdrawn

    # --- taking up a run: what happened in another process is set, not done ---

    def restore_settled(
        self,
        node_run: NodeRun,
        state: NodeState,
        *,
        messages: Iterable[Message] = (),
        reason: str | None = None,
        failed_node: NodeRun | None = None,
    ) -> None:
        """Says that a node has settled before.

        Args:
            node_run: The node, which is pending.
            state: FINISHED, FAILED or SKIPPED.
            messages: What it has replied.
            reason: Why it was skipped.
            failed_node: For whose failure.
        """
        node_run.state = state
        node_run.reason = reason
        node_run.failed_node = failed_node
        self._unsettled -= 1
        if state is NodeState.FINISHED:
            node_run.last = visit = self.new_visit(node_run)
            visit.restore(messages)

    def recount(self) -> None:
        """Counts anew what each pending node waits for, after nodes were restored."""
        for node_run in self.nodes.values():
            node_run.waiting = sum(dependency.state is not NodeState.FINISHED for dependency in node_run.after)

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
        return visit.node_run.node.agent.inquire(self.inputs_of(visit.node_run))

    def inputs_of(self, node_run: NodeRun) -> MessageType:
        """What the agent of a node is sent: what those before it have replied, or what the graph was sent."""
        if not node_run.after:
            return self.ctx.message_promises
        inputs = [replies for dependency in node_run.after if (replies := _result_of(dependency)) is not None]
        return inputs[0] if len(inputs) == 1 else inputs

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
        targets = (decided,) if isinstance(decided, str) else tuple(decided)
        for target in targets:
            self.node_named(target, f"the decision of {visit.node_run.node.name}")
        return Jump(targets)

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
        """Is told of a node that has finished, failed or been skipped, and tells those that wait for it."""
        pending = [node_run]
        while pending:
            ended = pending.pop()
            for dependent in ended.dependents:
                if dependent.state is not NodeState.PENDING:
                    continue
                if ended.state is NodeState.FINISHED:
                    dependent.waiting -= 1
                    if not dependent.waiting:
                        self._queue.append(dependent)
                else:
                    self._skip(dependent, _because_of(ended), ended.failed_node)
                    pending.append(dependent)

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
        """Passes on what an agent has replied."""
        if self.progress:
            name = visit.node_run.node.name
            fields = promise._metadata
            label = {"node": f"{name}/{fields['node']}" if fields and "node" in fields else name}
            if type(promise) is EventPromise:
                self.ctx.reply(EventPromise(promise.message_class, {**(fields or {}), **label}))
            else:
                self.ctx.reply(LabelledPromise(promise, label))
        elif not visit.node_run.dependents and type(promise) is not EventPromise:
            self.ctx.reply(promise)

    def finished(self) -> None:
        """Is called when all nodes have settled.

        Raises:
            BaseException: What the first node that failed has failed with, if the graph raises errors.
        """
        states = [node_run.state for node_run in self.nodes.values()]
        status = "complete"
        if self._errors:
            status = "partial" if NodeState.FINISHED in states else "failed"
        if self.progress:
            last = [run for run in self.nodes.values() if not run.dependents and run.state is NodeState.FINISHED]
            self.tell(
                GraphFinished,
                status=status,
                results={run.node.name: run.last.messages for run in last if run.last is not None},
                failed=tuple(run.node.name for run in self.nodes.values() if run.state is NodeState.FAILED),
                skipped=tuple(run.node.name for run in self.nodes.values() if run.state is NodeState.SKIPPED),
                seconds=self.now(),
            )
        if self._errors and self.graph.raise_errors:
            raise self._errors[0]

    # --- how steps are made ---

    def make_current(self, visit: Visit) -> None:
        """Makes it the visit that `current_visit` finds in what is called next."""
        _visit_at_work.set(visit)

    def tell(self, event_class: type[GraphEvent], **fields: Any) -> None:
        """Replies an event, if progress is wanted."""
        if self.progress:
            fields["graph"] = self.graph.alias
            fields["time"] = self.now()
            self.ctx.reply(EventPromise(event_class, fields))

    def enter(self, step: Callable[..., None], *args: Any) -> None:
        """Makes a step from outside: in the context of the run, and with all that follows from it."""
        self._context.run(self._step, step, *args)

    def soon(self, step: Callable[..., None], *args: Any) -> None:
        """Makes a step at the next turn of the event loop."""
        self._loop.call_soon(self._step, step, *args, context=self._context)

    def later(self, delay: float, step: Callable[..., None]) -> asyncio.TimerHandle:
        """Makes a step after some seconds."""
        return self._loop.call_later(delay, self._step, step, context=self._context)

    def when(self, waiter: "asyncio.Future[None]", step: Callable[..., None], *args: Any) -> None:
        """Makes a step when something has happened."""
        waiter.add_done_callback(partial(self._woken, step, args), context=self._context)

    def start(self, work: Coroutine[Any, Any, None]) -> CoroutinePromise[None]:
        """Starts work that belongs to the run."""
        promise: CoroutinePromise[None] = CoroutinePromise(work)
        if promise._context is not None:
            promise._start_now()
        return promise

    def _woken(self, step: Callable[..., None], args: tuple[Any, ...], waiter: "asyncio.Future[None]") -> None:
        if not waiter.cancelled():
            waiter.exception()  # what it says is found again by the step
        self._step(step, *args)

    def _step(self, step: Callable[..., None], *args: Any) -> None:
        try:
            step(*args)
            self._drain()
        except BaseException as error:  # else the run would wait for ever for what was lost
            self.crash(error)


def _because_of(node_run: NodeRun) -> str:
    failed = node_run.state is NodeState.FAILED
    return f"{node_run.node.name}, on which it depends, {'has failed' if failed else 'was skipped'}"


def _result_of(node_run: NodeRun) -> MessageType:
    visit = node_run.last
    if visit is None:
        return None
    replies = visit.replies
    if not visit.node_run.node.has_events:
        return replies
    finished = visit._promises[-1]._metadata if visit._promises else None
    results = (finished or {}).get("results", {})
    return list(results.values())
