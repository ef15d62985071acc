"""Agents and their context under their documented names."""

from miniagents.agents import AgentCall, MiniAgent, miniagent
from miniagents.context import MiniAgents
from miniagents.interaction import InteractionContext
from miniagents.sequences import MessageSequence, MessageSequencePromise

__all__ = [
    "AgentCall",
    "InteractionContext",
    "MessageSequence",
    "MessageSequencePromise",
    "MiniAgent",
    "MiniAgents",
    "miniagent",
]
