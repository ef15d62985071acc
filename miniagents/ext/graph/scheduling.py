"""Which node may start, which has settled, and what follows from that for those that depend on it."""

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from miniagents.ext.graph.errors import GraphDefinitionError, GraphLimitError, UnknownNodeError
from miniagents.ext.graph.events import NodeFailed, NodeSkipped
from miniagents.ext.graph.states import FAILED, FINISHED, PENDING, RUNNING, SKIPPED, NodeRun
from miniagents.ext.graph.steps import Steps
from miniagents.interaction import InteractionContext

if TYPE_CHECKING:
    from miniagents.ext.graph.graph import Graph, Node
    from miniagents.ext.graph.visit import Visit

__all__ = ["Scheduling", "because_of"]


class Scheduling(Steps):
    """The nodes of a run, and what they wait for. To settle a node costs what its edges cost.

    Args:
        graph: The graph.
        ctx: The call of the graph as an agent.
        progress: Whether events are replied.

    Attributes:
        nodes: All nodes by their names.
        has_begun: Whether its nodes are set up.
        paused: Whether nothing is started for now.
    """

    def __init__(self, graph: "Graph", ctx: InteractionContext, progress: bool) -> None:
        super().__init__(graph, ctx, progress)
        self.nodes: dict[str, NodeRun] = {}
        self.has_begun = False
        self.paused = False
        self._queue: deque[NodeRun] = deque()  # what may start, as soon as this step is made
        self._unsettled = 0
        self._active = 0  # how many visits there are
        self._starts = 0  # how many of them have called their agent, all in all
        self._draining = False
        self._is_settling = False
        self._settling: deque[NodeRun] = deque()
        self._errors: list[BaseException] = []

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

    def node_named(self, name: str, where: str) -> NodeRun:
        """Finds a node.

        Raises:
            UnknownNodeError: There is none of that name.
        """
        node_run = self.nodes.get(name)
        if node_run is None:
            raise UnknownNodeError(name, where, self.nodes)
        return node_run

    def _begin(self) -> None:
        self._queue.extend(node for node in self.nodes.values() if node.state is PENDING and not node.waiting)

    def _drain(self) -> None:
        """Starts whatever can start now, and looks whether that was all."""
        if self._draining or not self.has_begun:
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
        if self._end.done():
            return
        if self.paused:
            if self.is_resting():
                self.at_rest()
        elif not self._active:
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

    def may_start(self, visit: "Visit") -> bool:
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

    def _stopped_by(self, error: Exception, node_run: NodeRun, visit: "Visit | None") -> None:
        node_run.error = error
        node_run.state = FAILED
        node_run.failed_node = node_run
        self._unsettled -= 1
        if visit is not None:
            self._tell_failure(visit, error)

    def _stop_all(self) -> None:
        if self._active:
            for node_run in self.nodes.values():
                self._abandon(node_run)

    def _abandon(self, node_run: NodeRun) -> None:
        visit, node_run.visit = node_run.visit, None
        if visit is not None:
            self._active -= 1
            visit.abandon()

    # --- nodes that settle ---

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

    def _tell_failure(self, visit: "Visit", error: BaseException) -> None:
        self.tell(
            NodeFailed,
            node=visit.node_run.node.name,
            visit=visit.number,
            attempt=visit.attempt,
            error=str(error),
            error_type=type(error).__name__,
            seconds=self.now() - visit.began,
        )

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

    # --- hooks: what vocabularies can have otherwise ---

    def new_visit(self, node_run: NodeRun) -> "Visit":
        """Makes the visit of a node that begins now."""
        raise NotImplementedError

    def new_node_run(self, node: "Node", creator: NodeRun | None = None) -> NodeRun:
        """Makes the state of a node."""
        return NodeRun(node, creator)

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
                self._skip(dependent, because_of(node_run), node_run.failed_node)
                self._settle(dependent)

    def all_settled(self) -> None:
        """Is told that nothing runs and nothing waits: the run ends here."""
        self._end.set_result(None)

    def is_resting(self) -> bool:
        """Whether nothing runs for whose end a pause has to wait."""
        return not self._active

    def at_rest(self) -> None:
        """Is told that nothing runs any more, while the run is paused."""

    def stuck(self, pending: list[NodeRun]) -> None:
        """Is told that nothing runs and these nodes still wait."""
        names = ", ".join(node_run.node.name for node_run in pending[:20])
        self.crash(GraphDefinitionError(f"{names} can never start: what they wait for will not happen"))


def because_of(node_run: NodeRun) -> str:
    """Says why a node is skipped that depends on one that has not finished."""
    failed = node_run.state is FAILED
    return f"{node_run.node.name}, on which it depends, {'has failed' if failed else 'was skipped'}"
