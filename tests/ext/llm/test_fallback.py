"""The next model takes over."""

import logging

import pytest

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.llm.anthropic import anthropic_agent
from miniagents.ext.llm.budget import Budget, BudgetExceededError
from miniagents.ext.llm.fallback import fallback_agent
from miniagents.ext.llm.openai import openai_agent
from tests.ext.llm.helpers import KEY, read_until_error
from tests.support.llm_server import LLMServer, Reply, StreamError


@pytest.fixture
def agents(server: LLMServer) -> list:
    first = openai_agent.fork(base_url=server.openai_url, api_key=KEY, model="first")
    return [first, anthropic_agent.fork(base_url=server.anthropic_url, api_key=KEY, model="second")]


def asked(server: LLMServer) -> list[str]:
    return [request.body["model"] for request in server.requests]


@pytest.mark.parametrize(
    "failure",
    [Reply(status=500), Reply(status=401), Reply((StreamError(),)), Reply(ending="silent"), Reply(finish=None)],
)
async def test_a_failure_before_the_first_token(agents: list, server: LLMServer, failure: Reply) -> None:
    """The next one answers, and the first is not asked twice."""
    server.script(failure, Reply(("from ", "two")))
    async with MiniAgents():
        replies = fallback_agent(agents).inquire("Hi")
        assert await read_until_error(replies) == (["from ", "two"], None)
    assert asked(server) == ["first", "second"]


async def test_a_failure_after_the_first_token(agents: list, server: LLMServer) -> None:
    """What has been seen is not said again by another: the stream ends with the error."""
    server.script(Reply(("a", "b"), ending="cut"))
    async with MiniAgents():
        tokens, error = await read_until_error(fallback_agent(agents).inquire("Hi"))
    assert tokens == ["a", "b"]
    assert error is not None
    assert asked(server) == ["first"]


async def test_only_the_last_retries(agents: list, server: LLMServer, caplog: pytest.LogCaptureFixture) -> None:
    """The others make place at once; what they have failed with is in the log."""
    again = {"retry-after-ms": "1"}
    server.script(Reply(status=500), Reply(status=529, headers=again), Reply(("fine",)))
    with caplog.at_level(logging.WARNING):
        async with MiniAgents():
            await fallback_agent(agents).inquire("Hi")
    assert asked(server) == ["first", "second", "second"]
    assert "OPENAI_AGENT has failed" in caplog.text
    assert KEY not in caplog.text


async def test_when_all_fail(agents: list, server: LLMServer) -> None:
    """The error is that of the last."""
    server.script(Reply(status=500), Reply(status=400))
    async with MiniAgents():
        with pytest.raises(Exception, match="400"):
            await fallback_agent(agents).inquire("Hi")


async def test_budgets_hold_for_all(agents: list, server: LLMServer) -> None:
    """A budget that is exceeded is no reason to ask somebody else."""
    async with MiniAgents():
        with pytest.raises(BudgetExceededError):
            await fallback_agent(agents).inquire("Hi", budget=Budget(requests=0))
    assert asked(server) == []


async def test_any_agents(server: LLMServer) -> None:
    """Agents of every kind can stand in the chain, arguments of the call go to all of them."""

    @miniagent
    async def broken(ctx: InteractionContext, word: str) -> None:
        raise LookupError

    @miniagent
    async def fine(ctx: InteractionContext, word: str) -> None:
        ctx.reply(word)

    async with MiniAgents():
        assert [str(message) for message in await fallback_agent([broken, fine]).inquire(word="hi")] == ["hi"]
        assert await fallback_agent([fine]).inquire(word="") is not None
    with pytest.raises(ValueError, match="no agent"):
        fallback_agent([])
