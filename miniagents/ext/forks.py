"""Forks of agents that are more than agents: graphs and workflows."""

from copy import copy
from typing import TypeVar

from miniagents.agents import MiniAgent

__all__ = ["of_own_kind"]

AgentT = TypeVar("AgentT", bound=MiniAgent)


def of_own_kind(agent: AgentT, plain: MiniAgent) -> AgentT:
    """Makes a copy of an agent that is called, and has the arguments, as a plain fork of it.

    Args:
        agent: The agent, which works in its method `_work`.
        plain: What `MiniAgent.fork` has made of it.

    Returns:
        The copy. What else is in it is that of the agent.
    """
    made = copy(agent)
    for name in MiniAgent.__slots__:
        if name not in ("__weakref__", "_function"):
            setattr(made, name, getattr(plain, name))
    made._function = made._work  # type: ignore[attr-defined]
    return made
