"""Loops of agents."""

import asyncio
from typing import Any

import pytest

from miniagents import AWAIT, CLEAR, END, InteractionContext, Message, MiniAgents, miniagent
from miniagents.testing import ScriptedModel, ScriptedReply, Timeline, assert_no_leftovers, quiescence
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


def ends_with(ending: Any, *before: Any) -> Any:
    """An agent that replies some messages, then ends the loop."""

    @miniagent
    async def ender(ctx: InteractionContext) -> None:
        await ctx.message_promises
        ctx.reply(before)
        if isinstance(ending, BaseException):
            raise ending
        ctx.reply(ending)

    return ender


ENDINGS = pytest.mark.parametrize("ending", [END, EOFError(), KeyboardInterrupt()], ids=repr)


@ENDINGS
async def test_an_assistant_can_end_the_dialog(ending: Any) -> None:
    """The loop ends when the assistant does; nobody has to say anything more for that."""

    @miniagent
    async def patient(ctx: InteractionContext) -> None:
        shown = [str(message) for message in await ctx.message_promises]
        if shown:
            await asyncio.sleep(1_000)  # nobody is at the keyboard any more
        ctx.reply("question")

    timeline = Timeline()
    assert await adialog_loop(patient, ends_with(ending, "good bye")) == (Message("question"),)
    assert timeline.elapsed < 1_000


@ENDINGS
async def test_an_end_is_seen_beside_an_agent_that_waits(ending: Any) -> None:
    """An agent ends the loop also while the next one, which does not listen, is busy."""
    calls: list[int] = []

    @miniagent
    async def deaf(ctx: InteractionContext) -> None:
        calls.append(len(calls))
        await asyncio.sleep(1 if len(calls) == 1 else 1_000)
        ctx.reply("talk")

    timeline = Timeline()
    assert await achain_loop([deaf, AWAIT, ends_with(ending)]) == (Message("talk"),)
    assert timeline.elapsed < 1_000


@ENDINGS
async def test_the_ending_agent_need_not_be_the_one_before_await(ending: Any) -> None:
    """What is returned is what the ending agent had been given, not what the others of the chain had."""
    first = ends_with(ending, "last words")

    @miniagent
    async def relay(ctx: InteractionContext) -> None:
        ctx.reply(ctx.message_promises)

    assert await achain_loop([first, relay, AWAIT], "hello") == (Message("hello"),)
    assert await achain_loop([relay, first, relay, relay, AWAIT], ["a", "b"]) == (Message("a"), Message("b"))


@ENDINGS
async def test_an_end_is_an_end_where_errors_are_messages(ending: Any) -> None:
    """A context in which errors travel as messages changes nothing about the ends of a loop."""
    user_agent, shown = user("one", "two", ending, *["never said"] * 10, EOFError())
    async with MiniAgents(errors_as_messages=True):
        assert await adialog_loop(user_agent, assistant) == (Message("re: two"),)
    assert shown == [[], ["re: one"], ["re: two"]]


async def test_errors_as_messages_are_shown_to_the_next_agent() -> None:
    """Where errors travel as messages the dialog goes on, and the next agent reads what went wrong."""

    @miniagent
    async def broken(ctx: InteractionContext) -> None:
        raise ValueError("no model")

    user_agent, shown = user("one", END)
    async with MiniAgents(errors_as_messages=True):
        await adialog_loop(user_agent, broken)
    assert shown == [[], ["ValueError: no model"]]


@pytest.mark.timeout(5)
async def test_await_waits_for_work_whose_messages_were_dropped() -> None:
    """AWAIT lets the agents before it finish also behind CLEAR, and lets the event loop breathe."""
    calls: list[str] = []

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        calls.append("slow starts")
        await asyncio.sleep(3)
        calls.append("slow ends")
        ctx.reply("dropped")

    @miniagent
    async def last(ctx: InteractionContext) -> None:
        calls.append(f"last is sent {len(await ctx.message_promises)}")
        ctx.reply(END)

    assert await achain_loop([slow, CLEAR, AWAIT, last, AWAIT]) == ()
    assert calls == ["slow starts", "slow ends", "last is sent 0"]


@pytest.mark.timeout(5)
async def test_a_loop_that_clears_everything_can_be_cancelled() -> None:
    """Also a chain of nothing but dropped messages lets its agents run, and can be cancelled."""
    calls: list[int] = []

    @miniagent
    async def counter(ctx: InteractionContext) -> None:
        calls.append(len(calls))
        if len(calls) == 10:
            ctx.reply(END)

    assert await asyncio.wait_for(achain_loop([counter, CLEAR, AWAIT]), 5) == ()
    assert len(calls) >= 10


async def test_await_makes_the_next_agent_wait() -> None:
    """Without AWAIT the next agent is called at once, behind it only when the messages are complete."""
    timeline = Timeline()

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        timeline.note("slow")
        ctx.reply("begun")
        await asyncio.sleep(2)
        ctx.reply("done")

    @miniagent
    async def quick(ctx: InteractionContext) -> None:
        timeline.note("quick")
        ctx.reply(ctx.message_promises)

    @miniagent
    async def last(ctx: InteractionContext) -> None:
        timeline.note("last")
        ctx.reply(END)

    assert await achain_loop([slow, quick, AWAIT, last, AWAIT]) == (Message("begun"), Message("done"))
    assert timeline.entries == [(0.0, "slow"), (0.0, "quick"), (2.0, "last")]


@pytest.mark.parametrize("error", [ValueError("no input"), EOFError(), KeyboardInterrupt()], ids=repr)
async def test_the_first_messages_can_fail(error: BaseException) -> None:
    """What the loop begins with can fail: an end of the input ends it before it has begun, other errors are raised."""

    async def fail() -> str:
        raise error

    if isinstance(error, ValueError):
        with pytest.raises(ValueError, match="no input"):
            await achain_loop([AWAIT, assistant], fail())
    else:
        assert await achain_loop([AWAIT, assistant], fail()) == ()


async def test_an_error_that_an_agent_handles() -> None:
    """An agent that reads the error of the one before can go on."""

    @miniagent
    async def broken(ctx: InteractionContext) -> None:
        raise ValueError("broken")

    @miniagent
    async def handler(ctx: InteractionContext) -> None:
        try:
            await ctx.message_promises
        except ValueError as error:
            ctx.reply([f"handled {error}", END])

    assert await achain_loop([broken, handler, AWAIT], "x") == ()


async def test_a_loop_inside_of_an_agent() -> None:
    """An agent can run a loop of its own; its end is not that of the loop outside."""
    user_agent, shown = user("q1", "q2", END)

    @miniagent
    async def discussion(ctx: InteractionContext) -> None:
        inner_user, _ = user("a", END)
        ctx.reply(await adialog_loop(inner_user, assistant, ctx.message_promises))

    assert await adialog_loop(user_agent, discussion) == (Message("re: a"),)
    assert shown == [[], ["re: a"], ["re: a"]]


@pytest.mark.parametrize("opened", [True, False])
async def test_cancelling_the_caller_cancels_the_agents(opened: bool) -> None:
    """The cancellation arrives as such, and a context that the loop has opened ends with its agents."""
    log: list[str] = []

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        try:
            await asyncio.sleep(100)
            ctx.reply("x")
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async def loop() -> None:
        await achain_loop([slow, AWAIT])

    async def main() -> None:
        if opened:
            async with MiniAgents():
                await loop()
        else:
            await loop()

    async with assert_no_leftovers():
        task = asyncio.create_task(main())
        await quiescence()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert log == ["cancelled"]


async def test_a_streaming_answer_is_shown_while_it_comes() -> None:
    """The user agent is called while the assistant still speaks, and sees each token when it is there."""
    timeline = Timeline()
    says = iter(["hi", END])

    @miniagent
    async def watcher(ctx: InteractionContext) -> None:
        async for message in ctx.message_promises:
            async for token in message:
                timeline.note(token)
        ctx.reply(next(says))

    with ScriptedModel(ScriptedReply("one two three", seconds_per_token=1)) as model:
        (answer,) = await adialog_loop(watcher, model.agent)
    assert timeline.entries == [(1.0, "one "), (2.0, "two "), (3.0, "three")]
    assert str(answer) == "one two three"
