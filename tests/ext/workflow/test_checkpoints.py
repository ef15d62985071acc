"""Checkpoints as objects: what is in them, how they are written and read, and what goes on from them."""

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pydantic import BaseModel

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.checkpoints import CheckpointStore, RunExistsError, SQLiteCheckpointStore
from miniagents.ext.workflow import (
    Agent,
    AgentStatus,
    Checkpoint,
    Context,
    DependencyConfig,
    DependencyLifecycle,
    DependencyType,
    TypedContextData,
    UnknownStateError,
    WorkflowError,
)
from miniagents.testing import quiescence
from tests.ext.workflow.helpers import Log, agent_of, goes_to, started_task, stopped, until_asked


def through_json(checkpoint: Checkpoint) -> Checkpoint:
    read = Checkpoint.from_dict(json.loads(json.dumps(checkpoint.to_dict())))
    assert read == checkpoint
    return read


@dataclass
class Item(TypedContextData):
    name: str
    weight: float


class Order(BaseModel):
    items: list[str]


async def test_a_checkpoint_tells_where_a_run_stands() -> None:
    """Its fields are those of the run at that moment."""
    log = Log()
    agent = agent_of(log.state("a", "b", 1, number=1), log.state("b", None, 1, number=2), name="mine")
    assert agent.create_checkpoint().agent_status is AgentStatus.IDLE
    task = started_task(agent.run(run_id="r"))
    await quiescence()
    checkpoint = await agent.pause()
    assert (checkpoint.run_id, checkpoint.agent_name, checkpoint.agent_status) == ("r", "mine", AgentStatus.PAUSED)
    assert (checkpoint.completed_states, checkpoint.state) == (("a",), {"number": 1})
    assert checkpoint.timestamp > 1.7e9
    await agent.resume()
    await task
    assert checkpoint.state == {"number": 1}
    assert agent.create_checkpoint().completed_states == ("a", "b")


async def test_an_agent_of_another_name_goes_on() -> None:
    """What has completed is not run again, and the states may be added after the checkpoint was restored."""
    log = Log()

    def states(agent: Agent) -> Agent:
        agent.add_state("start", goes_to("start", ["a", "b"]))
        agent.add_state("a", log.state("a", "c", 1, a=1))
        agent.add_state("b", log.state("b", "c", 3, b=2))

        @agent.state
        async def c(context: Context) -> None:
            log.write("c")
            context.set_state("sum", context.get_state("a") + context.get_state("b"))

        return agent

    agent = states(Agent("one", ask=None))
    task = started_task(agent.run())
    await quiescence()
    checkpoint = agent.create_checkpoint()  # while they run
    paused = await agent.pause()
    task.cancel()
    log.lines.clear()
    for source, ran in ((checkpoint, ["3 a", "3 b", "4 a ends", "6 b ends", "6 c"]), (paused, ["6 c"])):
        other = Agent("two", ask=None)
        await other.restore_from_checkpoint(through_json(source))
        assert (other.status, other.run_id) == (AgentStatus.PAUSED, source.run_id)
        assert other.completed_states == set(source.completed_states)
        assert other.get_state("a") == source.state.get("a")
        assert other.create_checkpoint() == source
        states(other)
        assert await other.run() == {"a": 1, "b": 2, "sum": 3}
        assert log.lines == ran
        log.lines.clear()


async def test_resume_goes_on_from_a_restored_checkpoint() -> None:
    """`resume` runs what was restored, as it goes on after a pause."""
    log = Log()
    agent = agent_of(log.state("a", "b", 1), log.state("b"))
    started_task(agent.run())
    await quiescence()
    checkpoint = await agent.pause()
    other = agent_of(log.state("a", "b", 1), log.state("b"))
    await other.restore_from_checkpoint(checkpoint)
    await other.resume()
    assert (other.status, log.lines) == (AgentStatus.COMPLETED, ["0 a", "1 a ends", "1 b"])


async def test_values_come_back_as_what_they_were() -> None:
    """Dataclasses, models, messages, tuples, sets and bytes go through JSON."""
    values: dict[str, Any] = {
        "item": Item("hat", 0.5),
        "order": Order(items=["hat"]),
        "message": Message("Hi", role="user"),
        "nested": {"pair": (1, {2, 3}), "raw": b"\x00"},
    }

    async def start(context: Context) -> str:
        for key, value in values.items():
            context.set_state(key, value)
        return "ask"

    async def ask(context: Context) -> None:
        await context.human_in_the_loop("Well?")
        context.remove_state("order")

    agent = agent_of(start, ask)
    started_task(agent.run())
    await until_asked(agent)
    read = through_json(await agent.pause())
    assert read.state == values
    other = agent_of(start, ask)
    await other.restore_from_checkpoint(read)
    task = started_task(other.run())
    (question,) = await until_asked(other)
    await other.answer(None, question, "ok")
    del values["order"]
    assert await task == values


async def test_what_cannot_be_written() -> None:
    """A run without a store may share anything; a checkpoint of it says where what cannot be written is."""

    class Client:
        pass

    async def start(context: Context) -> None:
        context.set_state("client", {"http": Client()})

    agent = agent_of(start)
    await agent.run()
    with pytest.raises(TypeError, match=r"value\.state\.client\.http: Client objects cannot be represented"):
        agent.create_checkpoint().to_dict()


@pytest.mark.parametrize("wrong", [None, {}, [], "text", {"checkpoint": {}, "format": 99}])
def test_what_is_no_checkpoint(wrong: Any) -> None:
    """The error says what to give."""
    with pytest.raises(WorkflowError, match=r"no checkpoint|format 99"):
        Checkpoint.from_dict(wrong)


async def test_a_checkpoint_of_other_states() -> None:
    """If a state of the journal is missing, the error says which, and nothing is run."""
    log = Log()
    agent = agent_of(log.state("a", "b"), log.state("b"))
    await agent.run()
    other = agent_of(log.state("a"))
    await other.restore_from_checkpoint(agent.create_checkpoint())
    with pytest.raises(UnknownStateError, match="the journal of the run names 'b', .*there are: a"):
        await other.run()
    assert log.lines == ["0 a", "0 b"]


async def test_a_run_that_has_failed_goes_on_with_what_has_failed() -> None:
    """Unless it was compensated, the checkpoint of a failed run can be gone on from, when the cause is mended."""
    log = Log()
    broken = True

    async def work(context: Context) -> str:
        log.write(f"attempt {context.attempt}")
        if broken:
            raise ValueError("broken")
        return "end"

    def made() -> Agent:
        return agent_of(log.state("a", "work"), work, log.state("end"))

    agent = made()
    with pytest.raises(ValueError):
        await agent.run()
    checkpoint = through_json(agent.create_checkpoint())
    broken = False
    other = made()
    await other.restore_from_checkpoint(checkpoint)
    await other.run()
    assert log.lines == ["0 a", "0 attempt 1", "0 attempt 2", "0 end"]


async def test_a_run_that_was_compensated_has_failed_for_good() -> None:
    """What was undone is not gone on with: the restored run ends with the same error, and undoes nothing again."""
    log = Log()

    async def work(context: Context) -> None:
        log.write("work")
        raise ValueError("broken")

    def made() -> Agent:
        agent = Agent("work", ask=None)
        agent.add_state("a", log.state("a", "work"), compensation=log.state("undo"))
        agent.add_state("work", work)
        return agent

    agent = made()
    with pytest.raises(ValueError):
        await agent.run()
    other = made()
    await other.restore_from_checkpoint(through_json(agent.create_checkpoint()))
    with pytest.raises(ValueError, match="broken"):
        await other.run()
    assert log.lines == ["0 a", "0 work", "0 undo"]


async def test_a_run_that_was_cancelled_or_timed_out_goes_on() -> None:
    """Whoever restores a checkpoint wants it to go on."""
    log = Log()
    for how in ("cancelled", "timed out"):
        agent = agent_of(log.state("a", "b", 1), log.state("b", "c", 3), log.state("c"))
        task = started_task(agent.run(timeout=2 if how == "timed out" else None))
        await quiescence()
        await agent.pause()
        await agent.resume()
        await quiescence()
        if how == "cancelled":
            await agent.cancel_all()
        with pytest.raises((WorkflowError, TimeoutError)):
            await task
        log.lines.clear()
        await agent.restore_from_checkpoint(agent.create_checkpoint())
        await agent.run()
        assert [line.partition(" ")[2] for line in log.lines] == ["b", "b ends", "c"]


async def test_a_completed_run_is_not_run_again() -> None:
    """Its checkpoint just gives the result."""
    log = Log()
    agent = agent_of(log.state("a", key=1))
    await agent.run()
    await agent.restore_from_checkpoint(agent.create_checkpoint())
    assert await agent.run() == {"key": 1}
    assert log.lines == ["0 a"]


async def test_a_checkpoint_goes_into_a_store(store: CheckpointStore) -> None:
    """It is recorded from its beginning on; where there is the run already it is another one, with the same keys."""
    log = Log()
    keys = []

    async def b(context: Context) -> None:
        keys.append(context.idempotency_key)
        log.write("b")

    agent = agent_of(log.state("a", "b", 1, key=1), b)
    started_task(agent.run(run_id="r"))
    await quiescence()
    checkpoint = await agent.pause()
    other = agent_of(log.state("a", "b", 1, key=1), b, store=store)
    await other.restore_from_checkpoint(checkpoint)
    assert await other.run() == {"key": 1}
    assert log.lines == ["0 a", "1 a ends", "1 b"]
    assert [entry.kind for entry in await store.read("r")][:3] == ["created", "started", "finished"]
    await other.restore_from_checkpoint(checkpoint)
    with pytest.raises(RunExistsError, match="give another id"):
        await other.run(run_id="r")
    assert await other.run(run_id="r2") == {"key": 1}  # it is not forgotten
    await other.restore_from_checkpoint(checkpoint)
    assert await other.run() == {"key": 1}
    assert str(other.run_id).startswith("r-")
    assert keys == ["r/b/1"] * 3


async def test_a_question_is_part_of_a_checkpoint() -> None:
    """It goes on waiting in the restored run, until the same time."""

    async def ask(context: Context) -> None:
        context.set_state("said", await context.human_in_the_loop("Well?", timeout=100, default="nothing"))

    agent = agent_of(ask)
    started_task(agent.run())
    (first,) = await until_asked(agent)
    (question,) = await agent.open_questions()
    checkpoint = through_json(await agent.pause())
    other = agent_of(ask, name="other")
    await other.restore_from_checkpoint(checkpoint)
    task = started_task(other.run())
    assert await until_asked(other) == [first]
    assert (await other.open_questions())[0].deadline == question.deadline
    await other.answer(None, first, "well")
    assert await task == {"said": "well"}


async def test_a_question_of_a_state_that_has_ended_is_not_asked_by_a_restored_run() -> None:
    """What nobody waited for any more does not wait for an answer afterwards."""

    async def ask(context: Context) -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(context.human_in_the_loop("Well?"), 1)
        return "end"

    log = Log()
    agent = agent_of(ask, log.state("end", None, 5))
    task = started_task(agent.run())
    await asyncio.sleep(2)
    checkpoint = through_json(agent.create_checkpoint())
    task.cancel()
    other = agent_of(ask, log.state("end", None, 5))
    await other.restore_from_checkpoint(checkpoint)
    task = started_task(other.run())
    assert await until_asked(other) == []
    await task


async def test_reducers_give_the_same_after_a_restart() -> None:
    """The order of completion is part of the checkpoint."""
    log = Log()

    def made() -> Agent:
        agent = agent_of(goes_to("start", ["a", "b", "c"]), reducers={"log": lambda there, more: f"{there}{more}"})
        for name, seconds in (("a", 3), ("b", 1), ("c", 2)):
            agent.add_state(name, log.state(name, "end", seconds, log=name))
        agent.add_state("end", log.state("end"))
        return agent

    agent = made()
    started_task(agent.run())
    await quiescence()
    checkpoint = through_json(await agent.pause())
    assert checkpoint.state == {"log": "bca"}
    other = made()
    await other.restore_from_checkpoint(checkpoint)
    assert await other.run() == {"log": "bca"}


async def test_checkpoint_interval(state_folder: Any) -> None:
    """It is recorded every so often that the run goes on, in the default store if no other one is given."""
    log = Log()
    agent = agent_of(log.state("a", None, 9), checkpoint_interval=2)
    await agent.run(run_id="r")
    async with SQLiteCheckpointStore() as default:
        entries = await default.read("r")
    assert (state_folder / "checkpoints.db").exists()
    beats = [entry.data for entry in entries if entry.kind == "checkpoint"]
    assert beats == [{"running": ["a"]}] * 4
    assert agent.store is not None
    await agent.store.close()


async def test_the_messages_that_a_run_was_sent_are_part_of_a_checkpoint() -> None:
    """Also without a store; while they still arrive there is none."""
    log = Log()

    async def read(context: Context) -> str:
        context.set_state("read", [str(message) for message in await context.message_promises])
        return "end"

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        ctx.reply("beer")
        await asyncio.sleep(5)

    async with MiniAgents():
        agent = agent_of(log.state("start", "read", 9), read, log.state("end"))
        agent.inquire(slow.inquire())
        await asyncio.sleep(1)
        with pytest.raises(WorkflowError, match="what work was sent is not complete"):
            agent.create_checkpoint()
        await asyncio.sleep(5)
        checkpoint = Checkpoint.from_dict(json.loads(json.dumps(agent.create_checkpoint().to_dict())))
        await agent.cancel_all()
    other = agent_of(log.state("start", "read", 9), read, log.state("end"))
    await other.restore_from_checkpoint(checkpoint)
    assert (await other.run())["read"] == ["beer"]


async def test_a_restored_run_knows_when_things_have_happened(any_store: CheckpointStore) -> None:
    """What has completed long ago does not count as fresh."""
    log = Log()

    def made(**options: Any) -> Agent:
        agent = agent_of(goes_to("start", ["fetch", "wait"]), log.state("fetch"), log.state("wait", None, 5), **options)
        periodic = DependencyConfig(lifecycle=DependencyLifecycle.PERIODIC, interval=60)
        agent.add_state("use", log.state("use"), {"fetch": periodic, "wait": DependencyType.REQUIRED})
        return agent

    agent = made()
    task = started_task(agent.run("r"))
    await asyncio.sleep(1)
    checkpoint = agent.create_checkpoint()
    await stopped(task)
    earlier = tuple(entry._replace(time=entry.time - 100) for entry in checkpoint.entries)
    other = made(store=any_store)
    await other.restore_from_checkpoint(replace(checkpoint, entries=earlier))
    await other.run()
    assert [line.split()[1] for line in log.lines if "ends" not in line] == ["fetch", "wait", "wait", "fetch", "use"]


async def test_a_checkpoint_is_there_until_it_was_taken_up() -> None:
    """A state that was forgotten can be added, and the run goes on."""
    log = Log()
    agent = agent_of(log.state("a", "b"), log.state("b"))
    started_task(agent.run())
    await quiescence()
    checkpoint = agent.create_checkpoint()
    other = agent_of(log.state("a", "b"))
    await other.restore_from_checkpoint(checkpoint)
    with pytest.raises(UnknownStateError):
        await other.run()
    other.add_state("b", log.state("b"))
    await other.run()
    assert log.lines.count("0 a") == 1
