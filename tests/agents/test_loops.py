"""Loops of agents."""

import asyncio
from typing import Any

import pytest

from miniagents import AWAIT, CLEAR, END, InteractionContext, Message, MiniAgents, miniagent
from miniagents.utils import achain_loop, adialog_loop
from promising import DEFAULT


@miniagent
async def assistant(ctx: InteractionContext) -> None:
    """Answers."""
    for message in await ctx.message_promises:
        ctx.reply(f"re: {message}")


def user(*says: Any) -> Any:
    """An agent that says one thing after the other, and raises what is an error."""
    script = iter(says)
    shown: list[list[str]] = []

    @miniagent
    async def user_agent(ctx: InteractionContext) -> None:
        shown.append([str(message) for message in await ctx.message_promises])
        said = next(script)
        if isinstance(said, BaseException):
            raise said
        ctx.reply(said)

    return user_agent, shown


@pytest.mark.parametrize("ending", [END, EOFError(), KeyboardInterrupt(), ["bye", END]], ids=repr)
async def test_a_dialog_and_its_ends(ending: Any) -> None:
    """The dialog ends when the user says so; what the user had been given is returned."""
    user_agent, shown = user("one", "two", ending)
    assert await adialog_loop(user_agent, assistant, "welcome") == (Message("re: two"),)
    assert shown == [["welcome"], ["re: one"], ["re: two"]]


async def test_the_context_is_the_callers_or_a_new_one() -> None:
    """A loop opens a context only where none is open."""
    contexts: list[Any] = []

    @miniagent
    async def looker(ctx: InteractionContext) -> None:
        contexts.append(MiniAgents.current())
        ctx.reply(END)

    await achain_loop([looker, AWAIT])
    async with MiniAgents() as mine:
        await achain_loop([looker, AWAIT])
    assert contexts[0] is not None
    assert contexts[0] is not mine
    assert contexts[1] is mine


async def test_clear_drops_the_messages() -> None:
    """Behind CLEAR an agent is sent nothing."""
    user_agent, shown = user("one", END)
    await achain_loop([user_agent, AWAIT, assistant, CLEAR])
    assert shown == [[], []]


@pytest.mark.parametrize("error", [EOFError(), KeyboardInterrupt()], ids=repr)
async def test_an_agent_that_ignores_its_input_cannot_spin(error: BaseException) -> None:
    """The loop notices the end of every agent, also where the next one does not read what it is sent."""

    @miniagent
    async def deaf(ctx: InteractionContext) -> None:
        ctx.reply("talk")

    @miniagent
    async def leaving(ctx: InteractionContext) -> None:
        await ctx.message_promises
        raise error

    assert await achain_loop([deaf, AWAIT, leaving]) == (Message("talk"),)


async def test_other_errors_are_raised() -> None:
    """An error that is no way to end a conversation leaves the loop."""
    user_agent, _ = user(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await adialog_loop(user_agent, assistant)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ([assistant], "no AWAIT"),
        ([AWAIT], "no agent"),
        ([assistant, DEFAULT, AWAIT], "neither an agent"),
        ([assistant, AWAIT, "agent"], "neither an agent"),
    ],
)
async def test_chains_that_make_no_sense(chain: list[Any], message: str) -> None:
    """They are refused before anything is called, with what to do."""
    with pytest.raises((TypeError, ValueError), match=message):
        await achain_loop(chain)


async def test_cancelling_the_caller() -> None:
    """The cancellation of whoever runs the loop is no way to end it quietly."""

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        await asyncio.sleep(100)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(achain_loop([slow, AWAIT]), 1)
