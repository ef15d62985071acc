"""Servers and agents that ask them."""

import gc
from collections.abc import AsyncIterator, Iterator

import anthropic
import openai
import pytest

from miniagents.ext.llm.anthropic import anthropic_agent
from miniagents.ext.llm.openai import openai_agent
from tests.ext.llm.helpers import KEY, Provider
from tests.support.llm_server import LLMServer


@pytest.fixture(autouse=True, scope="module")
def nothing_left_open() -> Iterator[None]:
    """Connections and clients that were left open warn when they are collected, and warnings are errors."""
    yield
    gc.collect()


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer() as server:
        yield server
        server.assert_all_consumed()


@pytest.fixture(params=["openai", "anthropic"])
def provider(request: pytest.FixtureRequest, server: LLMServer) -> Provider:
    provider: Provider = request.getfixturevalue(f"{request.param}_provider")
    return provider


@pytest.fixture
def openai_provider(server: LLMServer) -> Provider:
    agent = openai_agent.fork(base_url=server.openai_url, api_key=KEY, max_retries=0, model="some-model")
    return Provider(agent, server, openai)


@pytest.fixture
def anthropic_provider(server: LLMServer) -> Provider:
    agent = anthropic_agent.fork(base_url=server.anthropic_url, api_key=KEY, max_retries=0, model="some-model")
    return Provider(agent, server, anthropic)
