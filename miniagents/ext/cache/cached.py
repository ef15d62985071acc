"""`cached`: an agent that answers equal calls with the recorded reply."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from miniagents.agents import MiniAgent
from miniagents.ext.cache.call_key import CallKeys
from miniagents.ext.cache.flight import Flight
from miniagents.ext.cache.interface import Cache, checked_ttl
from miniagents.ext.cache.memory import MemoryCache
from miniagents.ext.cache.records import Records
from miniagents.interaction import InteractionContext
from miniagents.sequences import MessageSequencePromise

__all__ = ["cached"]


def cached(
    agent: MiniAgent,
    *,
    cache: Cache | None = None,
    ttl: float | None = None,
    version: str = "",
    ignore: Iterable[str] = (),
    lease: float = 5.0,
) -> MiniAgent:
    """Makes an agent that answers a call as it has answered an equal one before, without doing the work again.

    Calls are equal if the agent has the same alias, is defined in the same place and has the same `version`, if the
    arguments of forks and call are the same, and if the messages have the same hash keys. The messages have to be
    complete for that; the reply is still promised at once. What the function of the agent finds elsewhere (variables of
    an enclosing function, files, the time) is no part of the key: make it an argument, or change `version`.

    A reply is recorded when it is complete, and streamed again in the same pieces. Errors, `ErrorMessage`s, results of
    tools with `is_error`, interrupted and cancelled replies and those that hold `END` are not recorded. Nor is one that
    the cache cannot represent; that is logged.

    Equal calls at the same time share one run: inside of one (outermost) context live, token by token; in others, and
    in other processes, once it is recorded. All that share it live get its error; the others try for themselves, one
    after the other. It is cancelled when the last of its calls is. Runs that would wait for each other in a ring are a
    `CircularWaitError`.

    The call that starts a run pays for it: usage and budgets. The others pay nothing.

    While the cache cannot be reached the agent works without; that is logged once.

    Args:
        agent: The agent. It stays as it is.
        cache: Where the replies are recorded, in the namespace of the call; a `MemoryCache` for this agent alone
            otherwise. With a `RedisCache` processes share them.
        ttl: After how many seconds a record is gone; None for never.
        version: What to call the present form of the agent. Change it when the agent has changed.
        ignore: The names of arguments that the reply does not depend on, for example `["api_key", "request_limit"]`.
            They are no part of the key, here and in agents among the arguments.
        lease: How many seconds other processes wait without a sign of life from the one at work before one of them does
            the work in its place.

    Returns:
        The agent. It can be forked, called and handed on like the one it is made of, whose alias, description and
        arguments it has. `ctx.this_agent` inside of the function is the agent without the cache.

    Raises:
        TypeError: `agent` is no agent, or `ignore` is a single name.
        ValueError: `ttl` or `lease` is not positive.

    Example:
        ```python
        translator = cached(openai_agent.fork(system="Translate into Latin."), cache=RedisCache(), ttl=86_400)
        print(await translator.inquire("Good morning"))  # asks the model
        print(await translator.inquire("Good morning"))  # does not
        ```
    """
    if not isinstance(agent, MiniAgent):
        raise TypeError(f"{agent!r:.100} is no agent, so it cannot be cached; make one of it with @miniagent")
    if isinstance(ignore, str):
        raise TypeError(f"ignore is a single name; give a list of names: ignore=[{ignore!r}]")
    if not 0 < lease < float("inf"):
        raise ValueError(f"a lease of {lease!r} s is none; give a positive number of seconds")
    keys = CallKeys(agent, version, ignore)
    records = Records(MemoryCache() if cache is None else cache, checked_ttl(ttl))
    function = agent._function

    async def answer(ctx: InteractionContext, /, **arguments: Any) -> None:
        key = keys.key_of(ctx.this_agent.alias, arguments, await ctx.message_promises)
        while True:
            flight = Flight.of(records, key) if records.flights else None
            if flight is None:
                record = await records.load(key)
                if record is not None:
                    ctx.reply(record.replies)
                    return
                inquire = partial(_inquire, function, ctx.this_agent, ctx.message_promises, arguments)
                flight = Flight.of(records, key) or Flight(records, key, ctx.this_agent.alias, lease, inquire)
            if flight.can_be_joined():
                await flight.answer(ctx)
                return
            await flight.until_recorded()

    answer.__wrapped__ = function  # type: ignore[attr-defined]  # whose arguments these are
    return MiniAgent(
        answer,
        alias=agent.alias,
        description=agent.description,
        arguments=agent._arguments,
        errors_as_messages=agent._errors_as_messages,
        budgets=agent._budgets,
    )


def _inquire(
    function: Any, called: MiniAgent, messages: MessageSequencePromise, arguments: dict[str, Any]
) -> MessageSequencePromise:
    """Calls the agent itself, with the arguments of all forks of the cached one."""
    agent = MiniAgent(function, alias=called.alias, description=called.description, arguments=called._arguments)
    return agent.inquire(messages, start_soon=True, errors_as_messages=False, **arguments)
