"""Graphs of agents: who works after whom."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, NamedTuple

from miniagents.agents import MiniAgent, miniagent
from miniagents.ext.forks import of_own_kind
from miniagents.ext.graph.errors import GraphDefinitionError
from miniagents.ext.graph.policy import NodePolicy
from miniagents.interaction import InteractionContext
from promising.sentinels import DEFAULT, Sentinel

if TYPE_CHECKING:
    from miniagents.ext.cache.interface import Cache
    from miniagents.ext.graph.conditions import CompiledCondition
    from miniagents.ext.graph.resources import ResourcePool
    from miniagents.ext.graph.run import GraphRun
    from miniagents.message import Message

__all__ = ["Graph", "Node"]

_DEFAULT_POLICY = NodePolicy()


class Node(NamedTuple):
    """What is said of a node.

    Attributes:
        name: Its name, the only one of that name in its graph.
        agent: Who works.
        after: The names of the nodes that have to finish before.
        policy: How it runs.
        condition: The condition of the policy, compiled.
    """

    name: str
    agent: MiniAgent
    after: tuple[str, ...]
    policy: NodePolicy
    condition: "CompiledCondition | None" = None

    @classmethod
    def of(cls, name: str, agent: MiniAgent, after: Iterable[str], policy: NodePolicy | None) -> "Node":
        """Makes a node, and checks what can be checked of it alone.

        Raises:
            ConditionError: Its condition does not compile.
            TypeError: The agent is none, or the names are one string.
        """
        if not isinstance(agent, MiniAgent):
            raise TypeError(f"the node {name!r} needs an agent, not {agent!r:.100}; decorate a function by @miniagent")
        if isinstance(after, str):
            raise TypeError(f"`after` of the node {name!r} is one string; give a list of names: after=[{after!r}]")
        policy = policy or _DEFAULT_POLICY
        condition = None
        if policy.condition is not None:
            from miniagents.ext.graph.conditions import compile_condition

            condition = compile_condition(policy.condition, where=f"the condition of the node {name!r}")
        return cls(name, agent, tuple(dict.fromkeys(after)), policy, condition)


class Graph(MiniAgent):
    """A graph of agents, which is an agent itself. Each node starts the moment those before it have finished.

    Sent messages go to the nodes that depend on no other; each further node is sent what those before it have replied.
    The reply tells the progress while it is made: events (`NodeStarted`, `NodeFinished` and others, see
    `miniagents.ext.graph.events`) and between them the messages of all nodes, which stream, each with the name of its
    node as `node`. The last one is a `GraphFinished` with the result. With `progress=False` (for a call or a fork) the
    reply is what the last nodes say, as they say it, and nothing else; of a node with several attempts that which has
    succeeded counts.

    When a node has failed, what depends on it is skipped, everything else goes on, and the error is raised at the end.

    Args:
        alias: What it is called.
        description: What it does.
        max_concurrent: How many nodes may run at the same time.
        max_starts: How many visits of nodes a run may begin in all, so that loops end.
        timeout: How many seconds a run may take.
        pool: The resources that nodes share; made when first needed.
        cache: What conditions read; one for each run otherwise.
        raise_errors: Whether a run with a failed node ends with its error.

    Example:
        ```python
        graph = Graph("REPORT")
        graph.add_node("facts", researcher)
        graph.add_node("figures", analyst)
        graph.add_node("draft", writer, after=["facts", "figures"])
        async for message in graph.inquire("Our beer"):
            print(await message)
        ```
    """

    __slots__ = (
        "_cache", "_dependents", "_nodes", "_plan", "_pool", "max_concurrent", "max_starts", "raise_errors", "timeout",
    )  # fmt: skip

    tells_progress = True  # unless it is called with `progress=False`

    def __init__(
        self,
        alias: str = "GRAPH",
        *,
        description: str | None = None,
        max_concurrent: int | None = None,
        max_starts: int | None = None,
        timeout: float | None = None,
        pool: "ResourcePool | None" = None,
        cache: "Cache | None" = None,
        raise_errors: bool = True,
    ) -> None:
        super().__init__(self._work, alias=alias, description=description)
        self.max_concurrent = max_concurrent
        self.max_starts = max_starts
        self.timeout = timeout
        self.raise_errors = raise_errors
        self._pool = pool
        self._cache = cache
        self._nodes: dict[str, Node] = {}
        self._plan: tuple[Node, ...] | None = None
        self._dependents: dict[str, tuple[str, ...]] | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes, in the order in which they were added."""
        return tuple(self._nodes.values())

    @property
    def pool(self) -> "ResourcePool":
        """The resources that nodes share."""
        if self._pool is None:
            from miniagents.ext.graph.resources import ResourcePool

            self._pool = ResourcePool()
        return self._pool

    def add_node(
        self,
        name: str,
        agent: MiniAgent,
        *,
        after: Iterable[str] = (),
        policy: NodePolicy | None = None,
    ) -> "Graph":
        """Adds a node.

        Args:
            name: Its name.
            agent: Its agent; another graph, for example.
            after: The names of the nodes that have to finish before; they may be added later.
            policy: How it runs.

        Returns:
            The graph itself, so that calls can be chained.

        Raises:
            ConditionError: Its condition does not compile.
            GraphDefinitionError: There is a node of that name already.
            ResourceError: It needs more than the pool has.
            TypeError: The agent is none.
        """
        return self.add(Node.of(name, agent, after, policy))

    def add(self, node: Node) -> "Graph":
        """Adds a node that has been made already; see `add_node`."""
        name = node.name
        if name in self._nodes:
            raise GraphDefinitionError(f"{self.alias} has a node {name!r} already; give this one another name")
        if node.policy.resources is not None:
            self.pool.check(node.policy.resources, where=f"the node {name!r}", owner=name)
        self._nodes[name] = node
        self._plan = self._dependents = None
        return self

    def node(
        self, *, name: str | None = None, after: Iterable[str] = (), policy: NodePolicy | None = None
    ) -> Callable[[Callable[..., Any]], MiniAgent]:
        """Makes an agent of a function and adds a node for it: the decorator form of `add_node`.

        Args:
            name: The name of the node; that of the function otherwise.
            after: See `add_node`.
            policy: See `add_node`.

        Returns:
            The decorator.
        """

        def decorate(function: Callable[..., Any]) -> MiniAgent:
            agent = function if isinstance(function, MiniAgent) else miniagent(function)
            self.add_node(name or str(getattr(function, "__name__", agent.alias)), agent, after=after, policy=policy)
            return agent

        return decorate

    def plan(self) -> tuple[Node, ...]:
        """Checks the graph.

        Returns:
            The nodes in an order in which each stands after those that it depends on.

        Raises:
            GraphDefinitionError: A node depends on one that there is not, or there is a ring; it names the nodes.
        """
        if self._plan is None:
            missing = {
                f"{node.name} depends on {name!r}"
                for node in self._nodes.values()
                for name in node.after
                if name not in self._nodes
            }
            if missing:
                raise GraphDefinitionError(
                    f"{self.alias} lacks nodes: {', '.join(sorted(missing))}; add them, or mend the names"
                )
            after = {name: node.after for name, node in self._nodes.items()}
            if not any(after.values()):  # as in workflows, whose states name each other only when they run
                self._plan = tuple(self._nodes.values())
                return self._plan
            try:
                order = tuple(TopologicalSorter(after).static_order())
            except CycleError as error:
                ring = " -> ".join(reversed(error.args[1]))
                raise GraphDefinitionError(
                    f"nodes of {self.alias} wait for each other in a ring: {ring}; take out one dependency (to go "
                    "round in a run, let a node jump back: `NodePolicy(decide=...)`)"
                ) from None
            self._plan = tuple(self._nodes[name] for name in order)
        return self._plan

    @property
    def dependents(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the nodes that depend on a node, by its name; what no node depends on is left out."""
        if self._dependents is None:
            found: dict[str, list[str]] = {}
            for node in self._nodes.values():
                for name in node.after:
                    found.setdefault(name, []).append(node.name)
            self._dependents = {name: tuple(names) for name, names in found.items()}
        return self._dependents

    def fork(
        self,
        *,
        alias: str | None = None,
        description: str | None = None,
        errors_as_messages: bool | Sentinel = DEFAULT,
        budget: AbstractContextManager[Any] | None = None,
        **arguments: Any,
    ) -> "Graph":
        """Makes a graph of the same nodes with some arguments set. Nodes that are added to one are not the other's.

        Args:
            alias: See `MiniAgent.fork`.
            description: See `MiniAgent.fork`.
            errors_as_messages: See `MiniAgent.fork`.
            budget: See `MiniAgent.fork`.
            **arguments: `progress` and `task`, see `inquire`.

        Returns:
            The fork.
        """
        plain = super().fork(
            alias=alias, description=description, errors_as_messages=errors_as_messages, budget=budget, **arguments
        )
        made = of_own_kind(self, plain)
        made._nodes = dict(self._nodes)
        return made

    def to_mermaid(self, events: "Iterable[Message]" = ()) -> str:
        """Draws the graph.

        Args:
            events: What a run has replied, to show states and times; none for the plain graph.

        Returns:
            A Mermaid flowchart.
        """
        from miniagents.ext.graph.mermaid import to_mermaid

        return to_mermaid(self, events)

    def cache_for(self, run: "GraphRun") -> "Cache":
        """The cache that the conditions of a run read."""
        if self._cache is not None:
            return self._cache
        from miniagents.ext.cache import MemoryCache

        return MemoryCache()

    def new_run(self, ctx: InteractionContext, task: Any, progress: bool) -> "GraphRun":
        """Makes a run; a vocabulary that is built on graphs has one of its own."""
        from miniagents.ext.graph.run import GraphRun

        return GraphRun(self, ctx, task=task, progress=progress)

    async def _work(self, ctx: InteractionContext, **options: Any) -> None:  # none of which is a model's business
        await self._run(ctx, **options)

    async def _run(self, ctx: InteractionContext, *, task: Any = None, progress: bool = True) -> None:
        await self.new_run(ctx, task, progress).complete()
