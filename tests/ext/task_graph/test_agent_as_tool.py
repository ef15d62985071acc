"""A task graph as the tool of a model."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents import MiniAgents
from miniagents.ext.graph import Graph
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.task_graph import Agent, NonRetryableException
from miniagents.ext.tools import tool
from miniagents.testing import assert_no_leftovers
from tests.ext.task_graph.helpers import Does, agent_of, node
from tests.ext.tools.helpers import call_of, calling, results_sent, saying, soon
from tests.support.llm_server import LLMServer


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer() as server:
        yield server
        server.assert_all_consumed()


def research(*more: Any) -> Agent:
    return agent_of(
        node("look", "a draft"), node("write", "the answer", after=["look"]), *more,
        name="RESEARCH", description="Finds things out.",
    )  # fmt: skip


@pytest.mark.parametrize("agent", [research(), research().fork(progress=False), Graph("RESEARCH", description="")])
def test_what_a_model_is_told(agent: Any) -> None:
    """It takes one message: how it is configured is no business of a model."""
    made = tool(agent)
    assert made.name == "research"
    assert list(made.parameters["properties"]) == ["message"]
    assert made.parameters["additionalProperties"] is False


async def test_the_result(server: LLMServer) -> None:
    """The model gets the result of the last nodes; whoever reads sees the progress, and what the nodes say."""
    server.script(calling(call_of("research", message="Why?")), saying("Because."))
    agent = research()
    async with assert_no_leftovers(), MiniAgents():
        model = openai_agent.fork(base_url=server.openai_url, api_key="k", model="m", tools=[agent])
        heard = [str(await promise) async for promise in model.inquire("Hi")]
    assert results_sent(server.requests[1]) == ["the answer"]
    assert heard.index("look started") < heard.index("a draft")
    assert heard[-2:] == ["the answer", "Because."]
    assert (await agent.cache.get("task")).objective == "Why?"


async def test_a_failure(server: LLMServer) -> None:
    """The model is told what has gone wrong."""
    server.script(calling(call_of("research", message="Why?")), saying("I see."))
    agent = research(node("bad", Does(work=NonRetryableException("no library"))))
    async with MiniAgents():
        await openai_agent.fork(base_url=server.openai_url, api_key="k", model="m", tools=[agent]).inquire("Hi")
    assert results_sent(server.requests[1]) == ["The tool research has failed: NonRetryableException: no library"]


async def test_cancelling(server: LLMServer) -> None:
    """Cancelling the conversation cancels the task."""
    server.script(calling(call_of("research", message="Why?")))
    began, ended = asyncio.Event(), asyncio.Event()

    async def work(_: Any) -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async with assert_no_leftovers(), MiniAgents():
        model = openai_agent.fork(
            base_url=server.openai_url, api_key="k", model="m", tools=[research(node("slow", work))]
        )
        replies = model.inquire("Hi")
        await soon(began.wait())
        replies.cancel()
        await soon(ended.wait())
