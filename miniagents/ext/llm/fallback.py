"""`fallback_agent`: the next model takes over when one fails before anybody has seen anything of its answer."""

import logging
from collections.abc import Iterable
from typing import Any

from miniagents.agents import MiniAgent, miniagent
from miniagents.ext.llm.budget import BudgetExceededError, UnknownPriceError
from miniagents.ext.llm.retries import without_retries
from miniagents.interaction import InteractionContext
from miniagents.sequences import MessageSequencePromise
from promising.errors import PromiseCancelledError

__all__ = ["fallback_agent"]

_logger = logging.getLogger("miniagents")


def fallback_agent(agents: Iterable[MiniAgent], *, alias: str = "FALLBACK_AGENT") -> MiniAgent:
    """Makes an agent that asks others in turn, until one of them begins to answer.

    An answer that fails later, when a part of it has been seen, fails: nothing is said twice. Only the last agent tries
    again what may pass; the others make place at once. A budget that is exceeded holds for all, so it ends the attempt.

    Args:
        agents: The agents, usually LLM agents, the preferred one first.
        alias: What the agent is called.

    Returns:
        The agent. It takes no arguments of its own; those of the call go to all.

    Raises:
        ValueError: There are no agents.

    Example:
        ```python
        agent = fallback_agent([openai_agent, anthropic_agent.fork(model="claude-haiku-4-5")])
        print(await agent.inquire("Hi"))
        ```
    """
    chain = tuple(agents)
    if not chain:
        raise ValueError("there is no agent to ask")

    @miniagent(alias=alias, description=chain[0].description)
    async def ask_in_turn(ctx: InteractionContext, **arguments: Any) -> None:
        for agent in chain[:-1]:
            with without_retries():
                replies = agent.inquire(ctx.message_promises, errors_as_messages=False, **arguments)
            try:
                await _first_token(replies)
            except (BudgetExceededError, UnknownPriceError, PromiseCancelledError):
                raise
            except Exception as error:
                _logger.warning("%s has failed, and the next agent is asked: %r", agent.alias, error)
            else:
                ctx.reply(replies)
                return
        ctx.reply(chain[-1].inquire(ctx.message_promises, errors_as_messages=False, **arguments))

    return ask_in_turn


async def _first_token(replies: MessageSequencePromise) -> None:
    """Waits until the first token can be seen, or until it is clear that there will be none."""
    async for message in replies:
        async for _ in message:
            return
        await message
        return
