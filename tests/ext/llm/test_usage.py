"""What answers have cost, and who pays."""

import asyncio
from decimal import Decimal
from typing import Any

from miniagents import InteractionContext, MiniAgent, MiniAgents, miniagent
from miniagents.ext.llm.prices import price_of
from miniagents.usage import NO_USAGE, Usage, charge
from tests.ext.llm.helpers import BOTH_WAYS, Provider
from tests.support.llm_server import Gate, Reply

import pytest  # isort: skip


@miniagent
async def asking(ctx: InteractionContext, model: MiniAgent, times: int = 1) -> None:
    for _ in range(times):
        await model.inquire("Hi")
    ctx.reply("done")


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_figures_of_an_answer(provider: Provider, stream: bool) -> None:
    """Tokens sent, made, cached and thought, and what they cost."""
    if provider.is_openai:
        details = {
            "prompt_tokens_details": {"cached_tokens": 400},
            "completion_tokens_details": {"reasoning_tokens": 9},
        }
        usage: dict[str, Any] = {"prompt_tokens": 1000, "completion_tokens": 100, **details}
        model, price = "gpt-5.4-mini", price_of_openai
    else:
        usage = {"input_tokens": 600, "cache_read_input_tokens": 400, "output_tokens": 100}
        usage["output_tokens_details"] = {"thinking_tokens": 9}
        model, price = "claude-sonnet-5", price_of_anthropic
    message = await provider.ask(Reply(("x",), usage=usage), stream=stream, model=model)
    found = message.usage
    assert found is not None
    assert (found.input_tokens, found.output_tokens, found.cached_tokens, found.reasoning_tokens) == (1000, 100, 400, 9)
    assert message.cost == found.cost == price()
    assert found.requests == 1


def price_of_openai() -> Decimal | None:
    return price_of(
        Usage(input_tokens=1000, output_tokens=100, cached_tokens=400), "openai", "http://x", "gpt-5.4-mini"
    )


def price_of_anthropic() -> Decimal | None:
    usage = Usage(input_tokens=1000, output_tokens=100, cached_tokens=400)
    return price_of(usage, "anthropic", "http://x", "claude-sonnet-5")


def test_prices() -> None:
    """Tokens from the cache are cheaper; the price of a model that nobody knows is None."""
    full = price_of(Usage(input_tokens=1000), "openai", "https://api.openai.com/v1", "gpt-5.4-mini")
    cached = price_of(Usage(input_tokens=1000, cached_tokens=1000), "openai", "http://here", "gpt-5.4-mini")
    assert full is not None
    assert cached is not None
    assert 0 < cached < full
    assert price_of(Usage(input_tokens=1000), "openai", "http://here", "my-own-model") is None
    assert price_of(Usage(input_tokens=1000), "openai", "http://here", "my-own-model", "gpt-5.4-mini") == full


async def test_the_sum_of_a_call_tree(provider: Provider) -> None:
    """What agents below an agent spend is charged to it, to those above it, and to the context."""
    model = provider.agent.fork(model="gpt-5.4-mini" if provider.is_openai else "claude-sonnet-5")

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        ctx.reply([asking.inquire(model=model, times=2), model.inquire("Hi")])

    async with MiniAgents() as context:
        reply, other = boss.inquire(), asking.inquire(model=model)
        usage = await reply.usage()
        assert (usage.requests, usage.input_tokens, usage.output_tokens) == (3, 21, 15)
        assert usage.cost is not None
        assert (await other.usage()).requests == 1
    assert context.usage.requests == 4


async def test_what_was_received_is_not_charged(provider: Provider) -> None:
    """An agent that passes on what somebody else has asked for has spent nothing."""

    @miniagent
    async def passing(ctx: InteractionContext) -> None:
        ctx.reply(ctx.message_promises)

    async with MiniAgents():
        answer = provider.agent.inquire("Hi")
        assert await passing.inquire(answer).usage() == NO_USAGE
        assert (await answer.usage()).requests == 1


async def test_outside_of_a_context(provider: Provider) -> None:
    """An answer that is read after the end of the agent that asked for it is charged to it all the same."""

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        ctx.reply(provider.agent.inquire("Hi"))

    reply = boss.inquire()
    assert (await reply.usage()).requests == 1


async def test_lazy_contexts(provider: Provider) -> None:
    """So it is where nothing starts before it is read."""
    async with MiniAgents(start_everything_soon_by_default=False):
        reply = asking.inquire(model=provider.agent)
        assert (await reply.usage()).requests == 1


async def test_failed_and_cancelled_answers(provider: Provider) -> None:
    """What had come of them counts; a request that was refused has cost nothing."""
    gate = Gate()
    provider.server.script(Reply(status=400), Reply(("word " * 10, gate)), Reply(("x",), ending="cut"))
    async with MiniAgents():
        assert await provider.agent.inquire("Hi").usage() == NO_USAGE
        reply = provider.agent.inquire("Hi")
        await gate.reached.wait()
        while not (await anext(aiter(reply))).pieces_so_far:
            await asyncio.sleep(0)
        reply.cancel()
        usage = await reply.usage()
        assert usage.requests == 1
        assert usage.output_tokens >= 10
        assert (await provider.agent.inquire("Hi").usage()).requests == 1


def test_sums() -> None:
    """A sum with something whose price is not known has no price; nothing changes nothing."""
    one = Usage(input_tokens=1, cost=Decimal("0.5"))
    assert (one + one).cost == Decimal("1.0")
    assert (one + Usage(input_tokens=1)).cost is None
    assert one + NO_USAGE == NO_USAGE + one == one


async def test_models_of_ones_own() -> None:
    """Whoever asks a model in another way charges it with `charge`."""

    @miniagent
    async def own(ctx: InteractionContext) -> None:
        charge(Usage(input_tokens=5, cost=Decimal(1)))

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        await own.inquire()

    async with MiniAgents():
        assert (await boss.inquire().usage()).cost == 1
