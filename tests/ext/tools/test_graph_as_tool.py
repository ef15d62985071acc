"""Graphs as tools of models: asked with one message, heard while they run, answered with their result."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.graph import Graph, GraphEvent
from miniagents.ext.tools import tool
from tests.ext.llm.helpers import Provider
from tests.ext.tools.helpers import Cast, agent_called, call_of, calling, resolved, results_sent, saying, soon


@miniagent
async def find(ctx: InteractionContext) -> None:
    ctx.reply(f"facts about {(await ctx.message_promises)[0]}")


@miniagent
async def write(ctx: InteractionContext) -> None:
    ctx.reply(f"A text with {(await ctx.message_promises)[0]}")


def report() -> Graph:
    graph = Graph("REPORT", description="Writes a report.")
    return graph.add_node("facts", find).add_node("draft", write, after=["facts"])


async def test_a_model_calls_a_graph(provider: Provider) -> None:
    """The model sees one parameter, the message; the result is what the last nodes say, and not how they got there."""
    for graph in (report(), report().fork(progress=False)):
        made = tool(graph)
        assert (made.name, made.description) == ("report", "Writes a report.")
        assert list(made.parameters["properties"]) == ["message"]
        cast = provider.server.default = Cast(OUTER=[calling(call_of("report", message="beer")), saying("Done.")])
        async with MiniAgents():
            messages = await soon(resolved(agent_called(provider, "OUTER").inquire("Hi", tools=[graph])))
        assert results_sent(cast.asked["OUTER"][-1]) == ["A text with facts about beer"]
        assert str(messages[-1]) == "Done."


async def test_what_a_graph_says_as_a_tool_is_heard_at_once(provider: Provider) -> None:
    """The tokens of its nodes, and its events, are in the reply of the model while the graph runs."""
    gate = asyncio.Event()

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        async def stream(_: Any) -> AsyncIterator[str]:
            yield "slow "
            await gate.wait()
            yield "facts"

        ctx.reply(Message.promise(stream))

    graph = Graph("REPORT").add_node("facts", slow).add_node("draft", write, after=["facts"])
    provider.server.default = Cast(OUTER=[calling(call_of("report", message="beer")), saying("Done.")])
    async with MiniAgents():
        replies = agent_called(provider, "OUTER").inquire("Hi", tools=[graph])
        heard = asyncio.Event()

        async def listen() -> None:
            async for promise in replies:
                async for token in promise:
                    if token == "slow ":
                        assert promise.metadata["node"] == "facts"
                        heard.set()

        listener = asyncio.ensure_future(listen())
        await soon(heard.wait())
        gate.set()
        await soon(listener)
        messages = await replies
    inside = [message for message in messages if getattr(message, "inside_tool_call", None)]
    assert next(str(message) for message in inside if isinstance(message, GraphEvent)) == "facts started"
    assert str(messages[-1]) == "Done."
