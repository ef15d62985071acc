"""What a workflow consists of: its states."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from miniagents.agents import MiniAgent
from miniagents.ext.graph.graph import Node
from miniagents.ext.graph.resources import ResourcePool, ResourceRequirements
from miniagents.ext.workflow.dependencies import Dependencies, configs_of
from miniagents.ext.workflow.errors import WorkflowChangedError, WorkflowError
from miniagents.ext.workflow.states import NO_RETRIES, RetryPolicy, State, StateFunction
from miniagents.ext.workflow.work import check_function, node_of

if TYPE_CHECKING:
    from miniagents.message import Message

__all__ = ["Definition"]

_SUFFIX = "_compensation"


class Definition(MiniAgent):
    """The states of a workflow. See `Agent`."""

    __slots__ = ("_nodes", "_pool", "compensations", "states")

    states: dict[str, State]
    compensations: set[str]
    _nodes: dict[str, Node]
    _pool: ResourcePool | None

    def add_state(
        self,
        name: str,
        fn: StateFunction,
        dependencies: "Dependencies | Iterable[str] | None" = None,
        resources: ResourceRequirements | None = None,
        retry_policy: RetryPolicy | None = None,
        max_retries: int | None = None,
        *,
        compensation: StateFunction | str | None = None,
        preemptible: bool = False,
        timeout: float | None = None,
        next_states: Iterable[str] | None = None,
    ) -> None:
        """Adds a state; also while the workflow runs.

        Args:
            name: Its name.
            fn: An async function of a `Context` that returns the next state, a list of states to run side by side,
                `(other_agent, state)`, or None; or a miniagent, whose last message may have a field `next_state`.
            dependencies: On which other states it depends; these may be added later. A list of names stands for
                REQUIRED ones. The state starts as soon as all are met: with an empty list at once.
            resources: What it takes of the resource pool while it runs.
            retry_policy: How often it is tried again after a failure; not at all otherwise.
            max_retries: Short for a policy of so many retries.
            compensation: What undoes it when the run has failed, or the name of the state that does. A state that is
                called `<name>_compensation` does so, too.
            preemptible: Whether it may be stopped, and started again later, for a state of a higher priority.
            timeout: How many seconds one attempt may take.
            next_states: All states that it can name, where that cannot be seen in its source: then what runs beside it
                need not wait for it. See `miniagents.ext.workflow.branches`.

        Raises:
            WorkflowError: There is a state of that name already.
            ResourceError: It needs more than the pool has.
            TypeError: It is nothing that can run.
            ValueError: A number is out of range.
        """
        if name in self.states:
            raise WorkflowError(f"{self.alias} has a state {name!r} already; give this one another name")
        check_function(name, fn)
        if resources is not None:
            self.resource_pool.check(resources, where=f"the state {name!r}", owner=name)
        if retry_policy is None:
            retry_policy = RetryPolicy(max_retries=max_retries) if max_retries else NO_RETRIES
        elif max_retries is not None:
            retry_policy = replace(retry_policy, max_retries=max_retries)
        is_named = compensation is None or isinstance(compensation, str)
        if not is_named:
            check_function(f"{name}{_SUFFIX}", compensation)
            if f"{name}{_SUFFIX}" in self.states:
                raise WorkflowError(
                    f"{self.alias} has a state {name}{_SUFFIX!r} already, which undoes {name!r}; give no other one"
                )
        state = State(
            name=name,
            function=fn,
            dependencies=configs_of(dependencies, f"the state {name!r}"),
            starts=dependencies is not None,
            resources=resources,
            retry_policy=retry_policy,
            compensation=compensation if is_named else f"{name}{_SUFFIX}",  # type: ignore[arg-type]
            preemptible=preemptible,
            timeout=timeout,
            next_states=None if next_states is None else frozenset(next_states),
        )
        self._add(state, node_of(state))
        if not is_named:
            self.add_state(f"{name}{_SUFFIX}", compensation)  # type: ignore[arg-type]

    def state(
        self,
        name: str | StateFunction | None = None,
        dependencies: "Dependencies | Iterable[str] | None" = None,
        **options: Any,
    ) -> Any:
        """Adds a function as a state: the decorator form of `add_state`.

        Args:
            name: The name; that of the function otherwise. Or the function itself: `@agent.state`.
            dependencies: See `add_state`.
            **options: See `add_state`.

        Returns:
            The decorator, which gives the function back.
        """
        if isinstance(name, MiniAgent) or callable(name):
            return self.state()(name)

        def decorate(function: StateFunction) -> StateFunction:
            own = function.alias if isinstance(function, MiniAgent) else getattr(function, "__name__", "")
            self.add_state(name or own, function, dependencies, **options)
            return function

        return decorate

    def _add(self, state: State, node: Node) -> None:
        """Adds a state, and knows which states undo others, in whichever order they are added."""
        undone = state.name.removesuffix(_SUFFIX)
        if undone != state.name:
            self.compensations.add(state.name)
            if undone in self.states and self.states[undone].compensation is None:
                self.states[undone] = replace(self.states[undone], compensation=state.name)
        if state.compensation is None and f"{state.name}{_SUFFIX}" in self.states:
            state = replace(state, compensation=f"{state.name}{_SUFFIX}")
        if state.compensation is not None:
            self.compensations.add(state.compensation)
        self.states[state.name] = state
        self._nodes[state.name] = node

    @property
    def resource_pool(self) -> ResourcePool:
        """What states with `resources` share."""
        if self._pool is None:
            self._pool = ResourcePool()
        return self._pool

    def to_mermaid(self, events: "Iterable[Message]" = ()) -> str:
        """Draws the workflow: solid arrows for dependencies, dotted ones for the states that a state can name.

        Args:
            events: What a run has replied, to show states and times; none for the plain workflow.

        Returns:
            A Mermaid flowchart.
        """
        from miniagents.ext.graph.mermaid import flowchart

        edges = [(other, name, "-->") for name, state in self.states.items() for other in state.dependencies]
        edges += [
            (name, other, "-.->")
            for name, state in self.states.items()
            for other in sorted(state.successors or ())
            if other in self.states
        ]
        return flowchart(self.states, edges, events)

    # --- whether it is still the same ---

    def fingerprint(self) -> dict[str, Any]:
        """What a recorded run depends on, to see later whether the workflow has changed."""
        first = next((name for name in self.states if name not in self.compensations), None)
        states: dict[str, dict[str, list[str]]] = {}
        for name, state in self.states.items():
            states[name] = said = {}
            if state.dependencies:
                said["dependencies"] = [
                    f"{other} ({config.described()})" for other, config in state.dependencies.items()
                ]
            if state.compensation is not None:
                said["compensations"] = [state.compensation]
        return {"first": first, "states": states}

    def check_unchanged(self, before: Mapping[str, Any], expected: Collection[str], run_id: str) -> None:
        """Makes sure that a run can go on.

        Args:
            before: The fingerprint of when it began.
            expected: The states that it has lacked, or that were added while it ran.
            run_id: Its id.

        Raises:
            WorkflowChangedError: It cannot; it says what has changed.
        """
        now = self.fingerprint()
        states, known = now["states"], before["states"]
        changes = [f"the state {name!r} is missing" for name in known if name not in states]
        changes += [
            f"the state {name!r} is new"
            for name in states
            if name not in known and name.removesuffix(_SUFFIX) not in expected
        ]
        if before["first"] != now["first"]:
            changes.append(f"the first state was {before['first']!r} and is {now['first']!r}")
        for name in known.keys() & states.keys():
            changes += [
                f"the {what} of {name!r} were {known[name].get(what, 'none')} and are {states[name].get(what, 'none')}"
                for what in ("dependencies", "compensations")
                if states[name].get(what) != known[name].get(what)
            ]
        if changes:
            raise WorkflowChangedError(
                f"the run {run_id} cannot be resumed, since {self.alias} has changed: {'; '.join(changes)}. Resume it "
                "with the workflow as it was, or start a new run"
            )
