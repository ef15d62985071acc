"""Going another way than along the edges, and nodes that are added while the graph runs."""

from collections.abc import Container, Iterable
from functools import partial
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from miniagents.ext.graph.errors import GraphDefinitionError
from miniagents.ext.graph.events import NodeRetried
from miniagents.ext.graph.scheduling import Scheduling, because_of
from miniagents.ext.graph.states import FAILED, FINISHED, IDLE, PENDING, SKIPPED, Jump, NodeRun

if TYPE_CHECKING:
    from miniagents.ext.graph.graph import Node
    from miniagents.ext.graph.visit import Visit

__all__ = ["Reshaping"]

_SETTLED = frozenset({FINISHED, FAILED, SKIPPED, IDLE})


class Reshaping(Scheduling):
    """The part of a run that changes what is still to be done."""

    # --- jumps ---

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
                    pending.append((dependent, because_of(dependent)))
                    self._settle(dependent)

    def repeat_from(self, visit: "Visit", target: str, error: BaseException, delay: float = 0.0) -> None:
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

    def _repeat(self, visit: "Visit", target: str) -> None:
        node_run = visit.node_run
        if node_run.visit is visit:  # else another jump was faster
            self._active -= 1
            node_run.visit = None
            node_run.state = FAILED
            self._unsettled -= 1
            self.jump(node_run, Jump((target,), "retry"))

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
                self._skip(node_run, because_of(dependency), dependency.failed_node)
                self._settle(node_run)

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

    # --- nodes that come later ---

    def _add_new_nodes(self, creator: NodeRun, nodes: Iterable["Node"]) -> None:
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
