"""Budgets."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from miniagents import InteractionContext, MiniAgent, MiniAgents, miniagent
from miniagents.ext.llm.budget import Budget, BudgetExceededError, UnknownPriceError, current_budgets
from tests.ext.llm.helpers import Provider
from tests.support.llm_server import Gate, Reply


@pytest.fixture
def agent(provider: Provider) -> MiniAgent:
    return provider.agent.fork(model="gpt-5.4-mini" if provider.is_openai else "claude-sonnet-5", max_tokens=100)


async def outcomes(*replies: Any) -> list[str]:
    return [type(outcome).__name__ for outcome in await asyncio.gather(*replies, return_exceptions=True)]


@pytest.mark.parametrize("limit", [{"requests": 2}, {"tokens": 150}, {"money": "0.002"}])
async def test_a_request_that_might_be_too_much_is_not_sent(
    agent: MiniAgent, provider: Provider, limit: dict[str, Any]
) -> None:
    """The error says what was spent, and the server is not asked."""
    budget = Budget(**limit)
    async with MiniAgents():
        with pytest.raises(BudgetExceededError, match="was not sent") as caught:
            for _ in range(100):
                await agent.inquire("Hi", budget=budget)
    assert caught.value.budget is budget
    assert caught.value.spent == budget.spent
    assert budget.spent.requests == len(provider.server.requests) > 0


async def test_side_by_side(agent: MiniAgent, provider: Provider) -> None:
    """Requests at the same time cannot overshoot together: each reserves what it may cost."""
    budget = Budget(tokens=250)
    gates = [Gate(), Gate()]
    provider.server.script(*[Reply((gate, "x")) for gate in gates])
    async with MiniAgents():
        replies = [agent.inquire("Hi", budget=budget) for _ in range(5)]
        waiting = asyncio.ensure_future(outcomes(*replies))
        for gate in gates:
            await gate.reached.wait()
            gate.open()
        assert sorted(await waiting) == ["BudgetExceededError"] * 3 + ["tuple"] * 2
        assert budget.spent.total_tokens == 24
        assert await outcomes(agent.inquire("Hi", budget=budget)) == ["tuple"]  # what was not needed was given back


async def test_where_it_holds(agent: MiniAgent) -> None:
    """For a call, a fork, a context and a block, and for all that is called below, in tasks of one's own, too."""

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        await asyncio.create_task(_ask())
        ctx.reply("fine")

    async def _ask() -> None:
        await agent.inquire("Hi")

    async with MiniAgents():
        assert await outcomes(boss.inquire(budget=Budget(requests=0))) == ["BudgetExceededError"]
        assert await outcomes(boss.fork(budget=Budget(requests=0)).inquire()) == ["BudgetExceededError"]
        with Budget(requests=0):
            reply = boss.inquire()
            assert len(current_budgets()) == 1
        assert current_budgets() == ()
        assert await outcomes(reply, boss.inquire()) == ["BudgetExceededError", "tuple"]
    async with MiniAgents(budget=Budget(requests=0)):
        assert await outcomes(boss.inquire()) == ["BudgetExceededError"]
    assert current_budgets() == ()


async def test_budgets_nest(agent: MiniAgent) -> None:
    """A request has to fit into all of them, and is charged to all; one that is given twice is one account."""
    outer, inner = Budget(requests=3), Budget(requests=2)
    async with MiniAgents(budget=outer):
        fork = agent.fork(budget=inner)
        assert await outcomes(fork.inquire("1", budget=inner)) == ["tuple"]
        assert await outcomes(fork.fork(system="x").inquire("2")) == ["tuple"]
        assert await outcomes(fork.inquire("3")) == ["BudgetExceededError"]
        assert await outcomes(agent.inquire("4")) == ["tuple"]
        assert await outcomes(agent.inquire("5")) == ["BudgetExceededError"]
    assert (inner.spent.requests, outer.spent.requests) == (2, 3)


async def test_each_attempt_counts(agent: MiniAgent, provider: Provider) -> None:
    """A request that is tried again is sent again."""
    budget = Budget(requests=2)
    provider.server.script(Reply(status=500, headers={"retry-after-ms": "1"}), Reply(status=500))
    async with MiniAgents():
        with pytest.raises(BudgetExceededError):
            await agent.inquire("Hi", budget=budget, max_retries=5)
    assert budget.spent.requests == 2
    assert budget.spent.total_tokens == 0


async def test_money_needs_a_price(agent: MiniAgent, provider: Provider) -> None:
    """A model without a known price cannot be asked under a limit in money."""
    async with MiniAgents():
        with pytest.raises(UnknownPriceError, match="my-own-model"):
            await agent.inquire("Hi", model="my-own-model", budget=Budget(money=100))
        await agent.inquire("Hi", model="my-own-model", budget=Budget(tokens=1000))
    assert len(provider.server.requests) == 1


async def test_interrupted_answers(agent: MiniAgent, provider: Provider) -> None:
    """What was set aside is given back, and what had come is charged, however an answer ends."""
    budget = Budget(tokens=10_000, money=1)
    gate = Gate()
    provider.server.script(Reply(("word " * 8, gate)), Reply(("word " * 8,), ending="cut"), Reply(status=400))
    async with MiniAgents():
        reply = agent.inquire("Hi", budget=budget)
        async for message in reply:
            async for _ in message:
                break
            break
        reply.cancel()
        await reply.usage()
        spent = budget.spent.total_tokens
        assert 10 <= spent < 100
        assert len(await outcomes(agent.inquire("Hi", budget=budget), agent.inquire("Hi", budget=budget))) == 2
    assert budget._reserved_tokens == 0
    assert budget._reserved_money == 0
    assert budget.spent.requests == 3
    assert budget.spent.cost is not None
    assert budget.spent.cost < Decimal("0.01")


@pytest.mark.parametrize("limits", [{}, {"money": -1}, {"tokens": -5}])
def test_what_is_no_budget(limits: dict[str, Any]) -> None:
    """A budget without a limit, or with a negative one, is refused."""
    with pytest.raises(ValueError, match="limits"):
        Budget(**limits)


def test_what_it_looks_like() -> None:
    """Its limits can be read."""
    assert repr(Budget(money=0.5, requests=3)) == "<Budget money=0.5, requests=3>"
