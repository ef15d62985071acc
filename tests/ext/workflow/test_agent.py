"""A workflow as an agent among others: its events, its result, and what it is sent."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.graph import DecisionTaken, Graph, NodeFailed, NodeFinished, NodeStarted
from miniagents.ext.workflow import (
    Agent,
    Context,
    DependencyType,
    TypedContextData,
    WorkflowFinished,
    WorkflowResult,
)
from miniagents.testing import assert_no_leftovers
from tests.ext.workflow.helpers import Log, agent_of, goes_to


@dataclass
class Item(TypedContextData):
    name: str
    price: float


@miniagent
async def repeat(ctx: InteractionContext) -> None:
    ctx.reply("+".join(str(message) for message in await ctx.message_promises))


def shop() -> Agent:
    agent = Agent("shop", ask=None)

    @agent.state
    async def start(context: Context) -> list[str]:
        context.set_state("asked", str(await context.message_promises.as_single_promise()))
        return ["look", "speak"]

    @agent.state
    async def look(context: Context) -> None:
        await asyncio.sleep(2)
        context.set_typed("item", Item("hat", float("inf")))
        context.set_state("raw", {"pair": (1, {2}), "bytes": b"x", "object": object})

    @agent.state
    async def speak(context: Context) -> None:
        await context.inquire(repeat, ["one", "two"])

    return agent


async def test_progress_and_result() -> None:
    """The reply tells what happens when it happens, what is said, and at the end the state as plain data."""
    async with MiniAgents():
        messages = await shop().inquire("A hat, please", run_id="r")
    told = [(type(one).__name__, getattr(one, "node", None)) for one in messages]
    assert told == [
        ("NodeStarted", "start"), ("NodeFinished", "start"), ("DecisionTaken", "start"), ("NodeStarted", "look"),
        ("NodeStarted", "speak"), ("Message", "speak"), ("NodeFinished", "speak"), ("NodeFinished", "look"),
        ("WorkflowFinished", None),
    ]  # fmt: skip
    assert isinstance(messages[2], DecisionTaken)
    assert messages[2].targets == ("look", "speak")
    assert str(messages[5]) == "one+two"
    last = messages[-1]
    assert isinstance(last, WorkflowFinished)
    assert (last.status, last.run_id, last.graph, last.seconds) == ("complete", "r", "shop", 2)
    assert last.state["asked"] == "A hat, please"
    assert last.state["item"] == {"name": "hat", "price": "Infinity"}
    assert last.state["raw"]["pair"] == (1, (2,))
    assert str(last) == "shop complete in 2 s"


async def test_events_come_while_the_run_goes_on() -> None:
    """Nobody has to wait for the end to see what happens."""
    loop = asyncio.get_running_loop()
    log = Log()
    agent = agent_of(log.state("a", "b", 1), log.state("b", None, 1))
    seen = []
    async with MiniAgents():
        began = loop.time()
        async for promise in agent.inquire():
            message = await promise
            if isinstance(message, NodeStarted | NodeFinished):
                seen.append((loop.time() - began, type(message).__name__, message.node, message.time))
    assert seen == [
        (0, "NodeStarted", "a", 0),
        (1, "NodeFinished", "a", 1),
        (1, "NodeStarted", "b", 1),
        (2, "NodeFinished", "b", 2),
    ]


async def test_without_progress() -> None:
    """What the states say, and the result, as JSON for those who can read nothing else."""
    async with MiniAgents():
        said, result = await shop().inquire("Hi", progress=False, run_id="r")
    assert str(said) == "one+two"
    assert isinstance(result, WorkflowResult)
    assert (result.workflow, result.run_id, result.state["asked"]) == ("shop", "r", "Hi")
    assert str(result).startswith('{"asked":"Hi",')


async def test_a_workflow_in_a_chain() -> None:
    """The next agent gets what it has said, and its result."""
    seen: list[Any] = []

    @miniagent
    async def reader(ctx: InteractionContext) -> None:
        seen.extend(await ctx.message_promises)
        ctx.reply("read")

    agent = agent_of(Log().state("start", key=5), name="flow")
    async with MiniAgents():
        replies = await reader.inquire(agent.inquire("Begin"))
    assert [str(message) for message in replies] == ["read"]
    assert seen[-1].state == {"key": 5}


async def test_a_workflow_in_a_graph() -> None:
    """As a node it tells its progress as part of that of the graph, and its result goes to the next node."""
    graph = Graph("outer")
    graph.add_node("flow", agent_of(Log().state("start", key=5), name="inner"))
    graph.add_node("next", repeat, after=["flow"])
    async with MiniAgents():
        messages = await graph.inquire("Hi")
    assert [one.node for one in messages if isinstance(one, NodeStarted)] == ["flow", "flow/start", "next"]
    assert messages[-1].results["next"][0].text == '{"key":5}'


async def test_a_graph_in_a_workflow() -> None:
    """A graph is a state like any miniagent; its result is what it has replied."""
    graph = Graph("inner")
    graph.add_node("one", repeat)
    agent = Agent("flow", ask=None)
    agent.add_state("graph", graph)
    async with MiniAgents():
        messages = await agent.inquire("Hi")
    assert [one.node for one in messages if isinstance(one, NodeFinished)] == ["graph/one", "graph"]


async def test_a_workflow_as_a_state_of_another() -> None:
    """It runs with a state of its own, and its result is a message."""
    inner = agent_of(Log().state("start", inner=1), name="inner")
    agent = Agent("flow", ask=None)
    agent.add_state("inner", inner)
    agent.add_state("look", goes_to("look", None), dependencies={"inner": DependencyType.REQUIRED})
    assert await agent.run() == {}
    assert inner.get_state("inner") == 1


async def test_what_failed_attempts_said_is_told_but_does_not_count() -> None:
    """Without progress only what the last attempt has said is part of the reply."""

    async def speak(context: Context) -> None:
        await context.inquire(repeat, f"attempt {context.attempt}")
        if context.attempt == 1:
            raise ValueError

    agent = Agent("work", ask=None)
    agent.add_state("speak", speak, max_retries=1)
    async with MiniAgents():
        said = await agent.inquire(progress=False)
    assert [str(message) for message in said[:-1]] == ["attempt 2"]


async def test_errors_are_in_the_reply() -> None:
    """A failure is told, and raised where the reply is read; what came before can be read."""

    async def fail(context: Context) -> None:
        raise ValueError("boom")

    agent = agent_of(goes_to("start", "fail"), fail)
    seen: list[Message] = []
    async with MiniAgents():
        with pytest.raises(ValueError, match="boom"):
            async for promise in agent.inquire():
                seen.append(await promise)
    (failure,) = [one for one in seen if isinstance(one, NodeFailed)]
    assert (failure.node, failure.error, failure.error_type) == ("fail", "boom", "ValueError")
    last = seen[-1]
    assert isinstance(last, WorkflowFinished)
    assert (last.status, last.failed, last.state) == ("partial", ("fail",), {})
    async with MiniAgents():
        (*_, message) = await agent.inquire(errors_as_messages=True)
    assert "boom" in str(message)


async def test_cancelling_the_reply_cancels_the_run() -> None:
    """Down to what its states are doing."""
    log = Log()

    async def forever(context: Context) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            log.write("stopped")

    async with assert_no_leftovers(), MiniAgents():
        replies = agent_of(forever).inquire()
        await asyncio.sleep(1)
        assert replies.cancel()
    assert log.lines == ["1 stopped"]


async def test_a_reader_that_leaves_does_not_stop_the_run() -> None:
    """The run goes on to its end, as any agent does."""
    log = Log()
    async with MiniAgents():
        async for _ in agent_of(log.state("a", "b", 1), log.state("b", None, 1)).inquire():
            break
    assert log.lines[-1] == "2 b ends"


async def test_forks_set_arguments() -> None:
    """A fork is the same workflow with some arguments of `inquire` set."""
    agent = agent_of(Log().state("start", None, 5)).fork(timeout=2, progress=False)
    async with MiniAgents():
        with pytest.raises(TimeoutError):
            await agent.inquire()
