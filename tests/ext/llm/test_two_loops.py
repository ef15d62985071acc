"""Clients belong to an event loop; agents do not."""

import asyncio

from miniagents import MiniAgents
from miniagents.ext.llm.openai import openai_agent
from tests.support.llm_server import llm_server_in_thread


def test_two_runs_in_two_loops() -> None:
    """The same agent works in one event loop after another."""
    with llm_server_in_thread() as server:
        agent = openai_agent.fork(base_url=server.openai_url)
        assert [str(MiniAgents().run(agent.inquire("hi"))[0]) for _ in range(2)] == ["hi ", "hi "]
        assert asyncio.run(_await(agent.inquire("hi"))) == "hi "


async def _await(replies: object) -> str:
    (message,) = await replies  # type: ignore[misc]
    return str(message)
