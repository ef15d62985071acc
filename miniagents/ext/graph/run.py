"""A run of a graph, and what vocabularies that are built on graphs can have otherwise in it.

The run is a state machine without tasks of its own: each step is a plain function that is called when something has
happened, and costs what the edges of the node cost. Nodes that wait are counters, not tasks.
"""

from collections.abc import Awaitable, Iterable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from miniagents.agents import MiniAgent
from miniagents.ext.graph.errors import GraphDefinitionError, UnknownNodeError
from miniagents.ext.graph.events import (
    DecisionTaken,
    GraphFinished,
    NodeFinished,
    SpokenPromise,
    is_event,
    spoken_in,
)
from miniagents.ext.graph.inputs import inputs_of
from miniagents.ext.graph.policy import ConcurrencyLimit, NodePolicy
from miniagents.ext.graph.reshaping import Reshaping
from miniagents.ext.graph.states import (
    FAILED,
    FINISHED,
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


_OTHERS_TO_NAME = 5


class GraphRun(Reshaping):
    """One run of a graph. What a vocabulary wants to be otherwise it overrides; see the section of hooks.

    Args:
        graph: The graph.
        ctx: The call of the graph as an agent.
        task: What conditions see as the task.
        progress: Whether events and the messages of all nodes are replied, or only those of the last nodes.

    Attributes:
        cache: What conditions read.
        limits: The limits that hold for all nodes.
        pool: The resources.
    """

    def __init__(self, graph: "Graph", ctx: InteractionContext, *, task: Any = None, progress: bool = True) -> None:
        super().__init__(graph, ctx, progress)
        self.task = task
        self.limits = () if graph.max_concurrent is None else (ConcurrencyLimit(graph.max_concurrent),)
        self._to_be_added: dict[str, tuple[Visit, list[Node]]] = {}  # when these visits have ended well
        self._own_cache: Cache | None = None

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
            self.pool.check(node.policy.resources, where=f"the node {name!r}", owner=name)
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
        self.has_begun = True
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

    def visit_skipped(self, visit: Visit, reason: str) -> None:
        """Is told of a visit that has found that it should not have begun."""
        node_run = visit.node_run
        self._abandon(node_run)
        node_run.visits -= 1
        self._skip(node_run, reason)
        self._settle(node_run)

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

    # --- hooks: what vocabularies can have otherwise; see `Scheduling`, too ---

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

    def attempt_stopped(self, visit: Visit) -> None:
        """Is told of an attempt that was preempted; it does not count as one."""

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

    def make_current(self, visit: Visit) -> None:
        """Makes it the visit that `current_visit` finds in what is called next."""
        _visit_at_work.set(visit)
