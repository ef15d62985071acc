"""People in the loop: who is asked, how, for how long, and what is not asked again after a restart."""

import asyncio
import os
import pty
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.checkpoints import CheckpointStore, NewEntry, SQLiteCheckpointStore
from miniagents.ext.workflow import (
    Agent,
    Context,
    HumanInputError,
    RetryPolicy,
    WorkflowCancelledError,
    WorkflowError,
)
from miniagents.ext.workflow.console import console_asker
from miniagents.testing import Timeline, quiescence
from tests.ext.workflow.helpers import Log, agent_of, goes_to, started_task, stopped, until_asked, until_recorded


def asking(prompt: str = "Well?", **options: Any) -> Callable[[Context], Any]:
    async def ask(context: Context) -> None:
        context.set_state("said", await context.human_in_the_loop(prompt, **options))

    return ask


# --- answers from elsewhere ---


async def test_an_answer_from_elsewhere() -> None:
    """A question has an id, by which it is answered."""
    agent = agent_of(asking(timeout=60))
    task = started_task(agent.run(run_id="r"))
    await quiescence()
    (question,) = await agent.open_questions()
    assert (question.id, question.prompt, question.state) == ("ask-1-1", "Well?", "ask")
    assert question.deadline == pytest.approx(time.time() + 60, abs=20)
    await agent.answer("r", question.id, "fine")
    assert await task == {"said": "fine"}
    assert await agent.open_questions("r") == []


async def test_answers_to_what_nobody_has_asked() -> None:
    """An unknown or answered question is an error that lists those that wait."""
    agent = agent_of(asking("First?"), goes_to("end", None))
    task = started_task(agent.run())
    await quiescence()
    with pytest.raises(WorkflowError, match="no question 'ask-1-2' waits for an answer; there are: ask-1-1"):
        await agent.answer(None, "ask-1-2", "yes")
    await agent.answer(None, "ask-1-1", "yes")
    await task
    with pytest.raises(WorkflowError, match="there are: none"):
        await agent.answer(None, "ask-1-1", "yes")
    with pytest.raises(WorkflowError, match="no store"):
        await agent.open_questions("another run")


async def test_several_questions_at_once() -> None:
    """A state may ask several people at the same time, and several states may ask."""

    async def ask(context: Context) -> None:
        answers = await asyncio.gather(*(context.human_in_the_loop(f"{context.state_name} {one}?") for one in "ab"))
        context.set_state(context.state_name, answers)

    agent = agent_of(goes_to("start", ["left", "right"]))
    agent.add_state("left", ask)
    agent.add_state("right", ask)
    task = started_task(agent.run())
    assert await until_asked(agent) == ["left-1-1", "left-1-2", "right-1-1", "right-1-2"]
    for number, question in enumerate(reversed(await agent.open_questions())):
        await agent.answer(None, question.id, f"{question.prompt} {number}")
    assert await task == {"left": ["left a? 3", "left b? 2"], "right": ["right a? 1", "right b? 0"]}


# --- validators, defaults and deadlines ---


async def test_what_will_not_do_is_asked_again() -> None:
    """A validator may return something, raise what `int` raises, or be async."""

    async def is_small(text: str) -> bool:
        await asyncio.sleep(1)
        return int(text) < 10

    agent = agent_of(asking(validator=is_small))
    task = started_task(agent.run())
    for answer in ("many", "12", "7"):
        await until_asked(agent)
        await agent.answer(None, "ask-1-1", answer)
        await asyncio.sleep(2)
    assert await task == {"said": "7"}
    refused = [entry.data["text"] for entry in agent.create_checkpoint().entries if entry.kind == "refused"]
    assert refused == ["many", "12"]


async def test_a_validator_that_is_broken() -> None:
    """Its error is that of the state."""

    def broken(text: str) -> bool:
        raise RuntimeError("no idea")

    agent = agent_of(asking(validator=broken))
    task = started_task(agent.run())
    await until_asked(agent)
    await agent.answer(None, "ask-1-1", "yes")
    with pytest.raises(RuntimeError, match="no idea"):
        await task


async def test_without_an_answer_in_time_the_default_counts() -> None:
    """It is not validated, and the question is closed."""
    timeline = Timeline()
    agent = agent_of(asking(timeout=5, default="none", validator=str.isdigit))
    assert await agent.run() == {"said": "none"}
    assert (timeline.elapsed, await agent.open_questions()) == (5, [])


async def test_without_a_default_it_is_an_error() -> None:
    """A state can catch it, and the question is closed then."""

    async def ask(context: Context) -> str:
        try:
            await context.human_in_the_loop("Well?", timeout=5)
        except HumanInputError as error:
            context.set_state("error", str(error))
        return "end"

    agent = agent_of(ask, Log().state("end", None, 1))
    task = started_task(agent.run())
    await asyncio.sleep(5.5)
    assert await agent.open_questions() == []
    assert await task == {"error": "nobody has answered in time: Well?"}


async def test_a_wrong_answer_does_not_prolong_the_wait() -> None:
    """The time counts for the question, however often it is asked."""
    timeline = Timeline()
    agent = agent_of(asking(timeout=5, default="none", validator=str.isdigit))
    task = started_task(agent.run())
    await asyncio.sleep(4)
    await agent.answer(None, "ask-1-1", "what?")
    assert await task == {"said": "none"}
    assert timeline.elapsed == 5


async def test_a_question_of_a_state_that_has_ended_is_closed() -> None:
    """Who does not wait for an answer any more leaves no question behind."""

    async def ask(context: Context) -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(context.human_in_the_loop("Well?"), 3)
        return "end"

    agent = agent_of(ask, Log().state("end", None, 5))
    task = started_task(agent.run())
    await asyncio.sleep(4)
    assert await agent.open_questions() == []
    await task


async def test_a_question_of_a_cancelled_state_is_closed() -> None:
    """Nobody has to answer what nobody waits for."""
    agent = agent_of(goes_to("start", ["ask", "slow"]), asking(), Log().state("slow", None, 5))
    task = started_task(agent.run())
    await until_asked(agent)
    agent.cancel_state("ask")
    assert await until_asked(agent) == []
    await task


async def test_a_retry_does_not_ask_again() -> None:
    """What a person has said counts for all attempts of the visit; a later visit asks anew."""
    asked = []

    @miniagent
    async def person(ctx: InteractionContext) -> None:
        asked.append(str((await ctx.message_promises)[0]))
        ctx.reply(f"answer {len(asked)}")

    async def ask(context: Context) -> str | None:
        answer = await context.human_in_the_loop("Well?")
        if context.attempt == 1:
            raise ValueError
        context.set_state("said", answer)
        return "ask" if context.idempotency_key.endswith("/1") else None

    agent = Agent("work", ask=person)
    agent.add_state("ask", ask, max_retries=1)
    assert await agent.run() == {"said": "answer 2"}
    assert asked == ["Well?", "Well?"]


async def test_another_question_is_no_old_one() -> None:
    """If a retry asks something else, the old answer does not count, and an old question is withdrawn."""

    async def ask(context: Context) -> None:
        if context.attempt == 1:
            await context.human_in_the_loop("Publish draft 1?")
            async with asyncio.timeout(1):
                await context.human_in_the_loop("Where?")
        context.set_state("said", await context.human_in_the_loop("Publish draft 2?"))
        context.set_state("where", await context.human_in_the_loop("When?"))

    agent = Agent("work", ask=None)
    agent.add_state("ask", ask, max_retries=1)
    task = started_task(agent.run())
    for question, prompt, answer in (
        ("ask-1-1", "Publish draft 1?", "yes"),
        ("ask-1-1.2", "Publish draft 2?", "no"),
        ("ask-1-2.2", "When?", "now"),
    ):
        while [one.prompt for one in await agent.open_questions() if one.id == question] != [prompt]:
            await asyncio.sleep(0.1)
        await agent.answer(None, question, answer)
    assert await task == {"said": "no", "where": "now"}


# --- the agent that asks ---


async def test_an_agent_asks() -> None:
    """It is sent the question with its id and state; the last message that it replies is the answer."""
    seen: list[tuple[str, str, str]] = []

    @miniagent
    async def person(ctx: InteractionContext) -> None:
        (message,) = await ctx.message_promises
        seen.append((str(message), message.question_id, message.state))
        ctx.reply(["I was asked this:", message, "200" if len(seen) == 1 else "20"])

    agent = agent_of(asking("How many?", validator=lambda text: int(text) < 100), ask=person)
    assert await agent.run() == {"said": "20"}
    assert seen == [("How many?", "ask-1-1", "ask"), ("'200' will not do. How many?", "ask-1-1", "ask")]


async def test_an_answer_from_elsewhere_is_quicker_than_the_agent() -> None:
    """The first answer counts; the agent is told by being stopped."""
    left = []

    @miniagent
    async def person(ctx: InteractionContext) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            left.append(True)

    agent = agent_of(asking(), ask=person)
    task = started_task(agent.run())
    await until_asked(agent)
    await agent.answer(None, "ask-1-1", "me first")
    assert await task == {"said": "me first"}
    assert left == [True]


async def test_the_agent_is_stopped_with_the_question() -> None:
    """Nobody is asked any more when the time is over, or the run has ended."""
    left = []

    @miniagent
    async def person(ctx: InteractionContext) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            left.append(asyncio.get_running_loop().time())

    timeline = Timeline()
    agent = agent_of(asking(timeout=5, default="none"), ask=person)
    assert await agent.run() == {"said": "none"}
    agent = agent_of(asking(), ask=person)
    task = started_task(agent.run())
    await until_asked(agent)
    await agent.cancel_all()
    with pytest.raises(WorkflowCancelledError):
        await task
    assert (len(left), timeline.elapsed) == (2, 5)


@pytest.mark.parametrize(("error", "raised"), [(ValueError, ValueError), (EOFError, HumanInputError)])
async def test_an_agent_that_fails(error: type[Exception], raised: type[Exception]) -> None:
    """Its error is that of the state; the end of the input means that nobody can be asked."""

    @miniagent
    async def person(ctx: InteractionContext) -> None:
        raise error("gone")

    async with MiniAgents(errors_as_messages=True):
        with pytest.raises(raised, match="gone"):
            await agent_of(asking(), ask=person).run()


# --- the console ---


def test_the_console_is_asked_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the person at the terminal is asked; without a terminal answers have to come from elsewhere."""
    assert Agent("work").ask is None
    leader, follower = pty.openpty()
    with os.fdopen(leader), os.fdopen(follower) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert Agent("work").ask is console_asker
        assert Agent("work", ask=None).ask is None


@contextmanager
def typed(text: str) -> Iterator[None]:
    """Standard input has that text, and is at its end then."""
    kept = os.dup(0)
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    os.dup2(reading, 0)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(reading)


async def test_questions_at_the_console_come_one_after_the_other(
    in_real_time: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line is read for each question, in the order in which they were asked."""
    agent = agent_of(goes_to("start", ["a", "b"]), ask=console_asker)
    for name in ("a", "b"):
        agent.add_state(name, asking_as(name))
    with typed("one\ntwo\n"):
        assert await agent.run() == {"a": "one", "b": "two"}
    assert capsys.readouterr().out == "a?\nb?\n"


def asking_as(name: str) -> Callable[[Context], Any]:
    async def ask(context: Context) -> None:
        context.set_state(name, await context.human_in_the_loop(f"{name}?"))

    return ask


async def test_a_console_that_is_closed(in_real_time: None) -> None:
    """Nobody can be asked there; the error says so."""
    with typed(""), pytest.raises(HumanInputError, match="nobody can be asked any more"):
        await agent_of(asking(), ask=console_asker).run()


# --- across restarts ---


async def stopped_while_asking(agent: Agent, run_id: str = "r") -> None:
    """Runs until somebody is asked, and stops then, as a process would that is killed."""
    assert agent.store is not None
    task = started_task(agent.run(run_id=run_id))
    await until_recorded(agent.store, run_id, "question")
    await stopped(task)


async def test_the_answer_is_given_while_nobody_works(any_store: CheckpointStore) -> None:
    """A run that is resumed days later takes up the answer that has come meanwhile."""
    log = Log()

    def made() -> Agent:
        return agent_of(log.state("start", "ask"), asking(validator=str.isdigit), store=any_store)

    await stopped_while_asking(made())
    anybody = Agent("somebody else", store=any_store, ask=None)
    (question,) = await anybody.open_questions("r")
    await anybody.answer("r", question.id, "no number")
    await anybody.answer("r", question.id, "5")
    assert await made().resume_run("r") == {"said": "5"}
    assert log.lines == ["0 start"]
    assert await anybody.open_questions("r") == []
    assert [entry.data["text"] for entry in await any_store.read("r") if entry.kind == "refused"] == ["no number"]


async def test_an_answer_that_was_refused_is_not_taken_again(store: CheckpointStore) -> None:
    """After a restart the question still waits, also if it was refused before."""
    agent = agent_of(asking(validator=str.isdigit), store=store)
    task = started_task(agent.run(run_id="r"))
    await until_recorded(store, "r", "question")
    await agent.answer("r", "ask-1-1", "no number")
    await until_recorded(store, "r", "refused")
    await stopped(task)
    agent = agent_of(asking(validator=str.isdigit), store=store)
    task = started_task(agent.resume_run("r"))
    await asyncio.sleep(5)
    assert not task.done()
    await agent.answer("r", "ask-1-1", "5")
    assert await task == {"said": "5"}


async def test_the_deadline_is_kept(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is resumed waits for what is left of the time; what came too late does not count."""
    options = {"timeout": 100, "default": "none"}
    for run_id in ("early", "late", "never"):
        await stopped_while_asking(agent_of(asking(**options), store=store), run_id)
    real = time.time
    anybody = Agent("somebody else", store=store, ask=None)
    await anybody.answer("early", "ask-1-1", "in time")
    monkeypatch.setattr("time.time", lambda: real() + 60)
    timeline = Timeline()
    assert await agent_of(asking(**options), store=store).resume_run("never") == {"said": "none"}
    assert timeline.elapsed == pytest.approx(40, abs=2)
    monkeypatch.setattr("time.time", lambda: real() + 200)
    await anybody.answer("late", "ask-1-1", "too late")
    timeline = Timeline()
    assert await agent_of(asking(**options), store=store).resume_run("early") == {"said": "in time"}
    assert await agent_of(asking(**options), store=store).resume_run("late") == {"said": "none"}
    assert timeline.elapsed < 2


async def test_a_question_that_was_answered_is_not_asked_again(store: CheckpointStore) -> None:
    """The answer is part of what is recorded, also when the state has not ended by then."""
    asked = []

    @miniagent
    async def person(ctx: InteractionContext) -> None:
        asked.append(str((await ctx.message_promises)[0]))
        ctx.reply("yes")

    async def ask(context: Context) -> None:
        answer = await context.human_in_the_loop("First?")
        if context.attempt == 1:
            await asyncio.sleep(1000)
        context.set_state("said", [answer, await context.human_in_the_loop("Second?")])

    task = started_task(agent_of(ask, store=store, ask=person).run(run_id="r"))
    await until_recorded(store, "r", "answered")
    await stopped(task)
    assert await agent_of(ask, store=store, ask=person).resume_run("r") == {"said": ["yes", "yes"]}
    assert asked == ["First?", "Second?"]


async def test_the_wish_to_cancel_is_heard(store: CheckpointStore, in_real_time: None) -> None:
    """It ends a run that is at work, and one that is resumed later."""
    task = started_task(agent_of(asking(), store=store).run(run_id="at work"))
    await until_recorded(store, "at work", "question")
    await store.tell("at work", NewEntry("cancel"))
    with pytest.raises(WorkflowCancelledError):
        await task
    await stopped_while_asking(agent_of(asking(), store=store), "later")
    await store.tell("later", NewEntry("cancel"))
    with pytest.raises(WorkflowCancelledError):
        await agent_of(asking(), store=store).resume_run("later")
    for run_id in ("at work", "later"):
        assert (await store.info(run_id)).status == "cancelled"
        with pytest.raises(WorkflowError, match="was cancelled, so that it cannot be resumed"):
            await agent_of(asking(), store=store).resume_run(run_id)


async def test_a_store_of_another_process(store: SQLiteCheckpointStore, in_real_time: None) -> None:
    """An answer that another object writes to the same file is heard."""
    task = started_task(agent_of(asking(), store=store).run(run_id="r"))
    async with SQLiteCheckpointStore(store.path) as other:
        anybody = Agent("somebody else", store=other, ask=None)
        await until_recorded(other, "r", "question")
        await anybody.answer("r", "ask-1-1", "from there")
    assert await task == {"said": "from there"}


async def test_an_end_of_input_leaves_a_recorded_run_to_be_resumed(store: CheckpointStore) -> None:
    """It has not failed, and the question is still open."""

    @miniagent
    async def closed(ctx: InteractionContext) -> None:
        raise EOFError

    async def ask(context: Context) -> None:
        context.set_state("said", await context.human_in_the_loop("Well?"))

    with pytest.raises(HumanInputError, match=r"nobody can be asked any more: Well\?"):
        await agent_of(ask, ask=closed, store=store).run("r")
    assert (await store.info("r")).status == "running"
    agent = agent_of(ask, store=store)
    await agent.answer("r", "ask-1-1", "fine")
    assert await agent.resume_run("r") == {"said": "fine"}


async def test_an_agent_that_is_always_wrong_does_not_spin() -> None:
    """The pauses between its answers grow."""
    asked = []

    @miniagent
    async def wrong(ctx: InteractionContext) -> None:
        asked.append(1)
        ctx.reply("no number")

    async def ask(context: Context) -> None:
        context.set_state(
            "said", await context.human_in_the_loop("Well?", validator=str.isdigit, timeout=30, default="0")
        )

    assert await agent_of(ask, ask=wrong).run() == {"said": "0"}
    assert len(asked) < 20


@pytest.mark.parametrize("is_recorded", [False, True])
async def test_the_questions_of_parts_are_questions_of_the_run(is_recorded: bool, store: CheckpointStore) -> None:
    """They are listed with it, each with the run that asks, and answered by it."""

    async def ask(context: Context) -> None:
        context.set_state("said", await context.human_in_the_loop("Well?"))

    inner = agent_of(ask, name="inner")
    outer = agent_of(goes_to("start", (inner, "ask")), name="outer")
    agent = agent_of(goes_to("begin", (outer, "start")), store=store if is_recorded else None)
    task = started_task(agent.run("r"))
    if is_recorded:
        await until_recorded(store, "r/outer.start/1/inner.ask/1", "question")
    else:
        await quiescence()
    (question,) = await agent.open_questions("r")
    assert (question.id, question.run_id) == ("ask-1-1", "r/outer.start/1/inner.ask/1")
    await agent.answer("r", question.id, "fine")
    assert await task == {"said": "fine"}
    assert await agent.open_questions("r") == []


# --- places, pauses and retries around questions ---


async def _asks_beside_others(log: Log, *prompts: str, **options: Any) -> Agent:
    """A workflow with one place, in which a state asks, and another one has the place for two seconds."""
    agent = agent_of(goes_to("start", ["asks", "busy"]), log.state("busy", None, 2), max_concurrent=1)

    async def asks(context: Context) -> None:
        context.set_state("said", await asyncio.gather(*map(context.human_in_the_loop, prompts)))

    agent.add_state("asks", asks, **options)
    return agent


async def _answer_all(agent: Agent) -> None:
    for question in await agent.open_questions():
        await agent.answer(None, question.id, question.prompt.lower())


async def test_two_questions_of_a_state_take_one_place() -> None:
    """When both are answered while another state has the place, the state goes on when that has ended."""
    agent = await _asks_beside_others(Log(), "A", "B")
    task = started_task(agent.run())
    await asyncio.sleep(1)
    await _answer_all(agent)
    assert await task == {"said": ["a", "b"]}


async def test_an_answer_is_kept_for_the_next_attempt() -> None:
    """The first one took too long, because it had to wait for its place with the answer."""
    policy = RetryPolicy(1, initial_delay=2, jitter=False)
    agent = await _asks_beside_others(Log(), "A", timeout=1.5, retry_policy=policy)
    task = started_task(agent.run())
    await asyncio.sleep(1)
    await _answer_all(agent)
    assert await task == {"said": ["a"]}


async def test_a_pause_does_not_wait_for_who_waits_for_its_place_with_an_answer() -> None:
    """It begins anew after the pause, and has the answer."""
    log = Log()
    part = agent_of(log.state("one", "two", 2), log.state("two"), name="part")
    agent = agent_of(goes_to("start", ["asks", (part, "one")]), max_concurrent=1)

    @agent.state
    async def asks(context: Context) -> None:
        context.set_state("said", await context.human_in_the_loop("A"))

    task = started_task(agent.run())
    await asyncio.sleep(1)
    await _answer_all(agent)
    await agent.pause()
    assert log.lines == ["0 one", "2 one ends"]
    await agent.resume()
    assert await task == {"said": "a"}


async def test_a_state_that_asks_during_a_pause_does_not_hold_it_up() -> None:
    """It is asked again after the pause."""
    agent = Agent("work", ask=None)

    @agent.state
    async def asks(context: Context) -> None:
        await asyncio.sleep(2)
        context.set_state("said", await context.human_in_the_loop("A"))

    task = started_task(agent.run())
    await asyncio.sleep(1)
    await agent.pause()
    await agent.resume()
    await asyncio.sleep(3)
    await _answer_all(agent)
    assert await task == {"said": "a"}


async def test_an_answer_that_was_being_looked_at_is_looked_at_again() -> None:
    """A pause in between does not lose it."""
    agent = Agent("work", ask=None)

    async def slowly(answer: str) -> bool:
        await asyncio.sleep(2)
        return True

    @agent.state
    async def asks(context: Context) -> None:
        context.set_state("said", await context.human_in_the_loop("A", validator=slowly))

    task = started_task(agent.run())
    await quiescence()
    await _answer_all(agent)
    await asyncio.sleep(1)
    await agent.pause()
    await agent.resume()
    assert await task == {"said": "a"}
