"""Flow control: where a run goes on, decided by conditions."""

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from miniagents.ext.graph.conditions import CompiledCondition, compile_condition
from miniagents.ext.task_graph.modules import AgentModule, ModuleType

if TYPE_CHECKING:
    from asyncio import Semaphore

    from miniagents.ext.cache.interface import Cache

__all__ = ["FlowControlConfig", "FlowControlModule", "FlowDecision"]


class FlowDecision(BaseModel):
    """One way to go on.

    Attributes:
        next_node: Where to go.
        condition: When: Lua, or a function of cache and task; always where there is none.
        condition_variables: Keys of the cache that are deleted when this decision is taken, so that it is not taken
            again for the same reason.
        cleanup_on_jump: Whether modules that are generators begin anew in what runs again.
    """

    model_config = ConfigDict(extra="forbid")

    next_node: str
    condition: str | Callable[[Any, Any], bool | Awaitable[bool]] | None = None
    condition_variables: list[str] = Field(default_factory=list)
    cleanup_on_jump: bool = False


class FlowControlConfig(BaseModel):
    """The ways to go on, of which the first whose condition holds is taken.

    Attributes:
        decisions: The decisions, in their order.
        default: Where to go if none of them holds; without it the run just goes on along its dependencies.
        cleanup_on_default: See `FlowDecision.cleanup_on_jump`.
    """

    model_config = ConfigDict(extra="forbid")

    decisions: list[FlowDecision] = Field(default_factory=list)
    default: str | None = None
    cleanup_on_default: bool = True


class FlowControlModule(AgentModule):
    """A module that decides where the run goes on.

    Attributes:
        flow_config: The ways to go on.

    Raises:
        ConditionError: A condition does not compile.
    """

    name = "flow_control"
    type = ModuleType.FLOW_CONTROL
    flow_config: FlowControlConfig = Field(default_factory=FlowControlConfig)

    def model_post_init(self, context: Any) -> None:
        """Compiles the conditions, so that a wrong one is known at once."""
        super().model_post_init(context)
        _ = self._compiled

    @cached_property  # and no attribute of the model, as what is compiled cannot be written down
    def _compiled(self) -> list[CompiledCondition | None]:
        return [
            None
            if decision.condition is None
            else compile_condition(
                decision.condition, where=f"the decision of {self.name!r} for {decision.next_node!r}"
            )
            for decision in self.flow_config.decisions
        ]

    async def process(self, cache: "Cache", semaphore: "Semaphore") -> dict[str, Any]:
        """Decides.

        Args:
            cache: What conditions read.
            semaphore: Not used.

        Returns:
            Beside the status: `decision`, the name of the node or None; `cleanup`; `why`, the condition; and the
            `condition_variables` to delete when the run goes there. Any module can return these.
        """
        config = self.flow_config
        task = await cache.get("task", default=None)
        for decision, condition in zip(config.decisions, self._compiled, strict=True):
            if condition is None or await condition.holds(cache, task):
                why = None if condition is None else condition.source
                return {
                    **_decided(decision.next_node, decision.cleanup_on_jump, why),
                    "condition_variables": decision.condition_variables,
                }
        if config.default is not None:
            return _decided(config.default, config.cleanup_on_default, "default")
        return _decided(None, False, None)


def _decided(target: str | None, cleanup: bool, why: str | None) -> dict[str, Any]:
    return {"status": "success", "result": target, "decision": target, "cleanup": cleanup, "why": why}
