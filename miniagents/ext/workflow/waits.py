"""Which states wait for which others, and when it is time to look whether they can start."""

from typing import TYPE_CHECKING

from miniagents.ext.graph.run import NodeState
from miniagents.ext.workflow.dependencies import DependencyType, look_at
from miniagents.ext.workflow.errors import DependencyError
from miniagents.ext.workflow.states import StateStatus

if TYPE_CHECKING:
    from miniagents.ext.workflow.run import WorkflowRun
    from miniagents.ext.workflow.state_run import StateRun

__all__ = ["Waits"]


class Waits:
    """The waits of one run.

    Args:
        run: The run.
    """

    def __init__(self, run: "WorkflowRun") -> None:
        self._run = run
        self._watchers: dict[str, list[StateRun]] = {}
        self._conditional: list[StateRun] = []
        self._timers = 0

    @property
    def has_timers(self) -> bool:
        """Whether some state can start just because time passes."""
        return self._timers > 0

    def watch(self, state: "StateRun") -> None:
        """Has a state looked at whenever one that it depends on has ended.

        Raises:
            UnknownStateError: It depends on a state that there is not.
        """
        for name in state.configs:
            self._run.state_named(name, f"the dependencies of {state.node.name}")
            self._watchers.setdefault(name, []).append(state)
        if any(config.condition is not None for config in state.configs.values()):
            self._conditional.append(state)

    def watchers_of(self, name: str) -> "list[StateRun]":
        """The states that depend on a state."""
        return self._watchers.get(name, [])

    def note_started(self, name: str) -> None:
        """Looks at the states for which the beginning of a state may matter."""
        for watcher in self._watchers.get(name, ()):
            if watcher.configs[name].type is DependencyType.PARALLEL:
                self.consider(watcher)

    def note_ended(self, name: str) -> None:
        """Looks at the states for which the end of a state may matter."""
        if name in self._watchers or self._conditional:
            for watcher in dict.fromkeys([*self._watchers.get(name, ()), *self._conditional]):
                self.consider(watcher)

    def consider(self, state: "StateRun") -> None:
        """Looks whether a state that waits can start."""
        if state.state is not NodeState.PENDING:
            return
        if state.timer is not None and state.metadata.status is StateStatus.READY:
            return  # it is held
        self.forget(state)
        run, metadata = self._run, state.metadata
        if state.configs:
            try:
                look = look_at(state, run.nodes, run.view, run.time())  # type: ignore[arg-type]
            except Exception as error:  # of a condition
                run.give_up(state, error)
                return
            metadata.waits_for = tuple(look.unmet)
            if look.overdue is not None:
                run.give_up(state, DependencyError(f"{state.node.name} cannot start: {look.overdue}"))
                return
            if look.unmet:
                metadata.status = StateStatus.BLOCKED
                for name in look.run_again:
                    run.request(name, None)
                if look.look_again_in is not None:
                    self._timers += 1
                    state.timer = run.later(look.look_again_in, lambda: self._look_again(state))
                return
        metadata.status = StateStatus.READY
        run.enqueue(state)

    def hold(self, state: "StateRun", seconds: float) -> None:
        """Has a state start after some seconds."""
        self._timers += 1
        state.timer = self._run.later(seconds, lambda: self._release(state))

    def _release(self, state: "StateRun") -> None:
        state.timer = None
        self._timers -= 1
        self._run.enqueue(state)

    def _look_again(self, state: "StateRun") -> None:
        state.timer = None
        self._timers -= 1
        self.consider(state)

    def forget(self, state: "StateRun") -> None:
        """Does not look at a state when time has passed."""
        if state.timer is not None:
            state.timer.cancel()
            state.timer = None
            self._timers -= 1
