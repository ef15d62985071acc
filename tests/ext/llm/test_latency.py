"""How soon a token is seen."""

import asyncio
from typing import Any

import pytest

from miniagents import InteractionContext, MessageSequencePromise, MiniAgent, MiniAgents, miniagent
from miniagents.ext.llm.anthropic_wire import AnthropicWire
from miniagents.ext.llm.openai_chat import OpenAIChat
from tests.ext.llm.helpers import Provider
from tests.support.llm_server import Gate, Reply


@miniagent
async def forwarder(ctx: InteractionContext, inner: MiniAgent) -> None:
    ctx.reply(inner.inquire(ctx.message_promises))


class Turns:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.number = 0
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self.number += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


async def turns_per_token(replies: MessageSequencePromise, arrivals: list[int], turns: Turns) -> list[int]:
    seen = []
    async for message in replies:
        async for _ in message:
            seen.append(turns.number)
    turns.stop()
    return [shown - arrived for shown, arrived in zip(seen, arrivals, strict=True)]


@pytest.mark.parametrize("depth", [0, 1, 10, 100])
async def test_a_token_is_seen_one_turn_after_it_came(
    provider: Provider, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the arrival of a token and its reader is one turn of the loop, through any number of agents."""
    wire: Any = OpenAIChat if provider.is_openai else AnthropicWire
    arrivals: list[int] = []
    read_event = wire.read_event

    def noting(self: Any, event: Any, answer: Any) -> Any:
        text = read_event(self, event, answer)
        if text:
            arrivals.append(turns.number)
        return text

    monkeypatch.setattr(wire, "read_event", noting)
    gates = [Gate() for _ in range(5)]
    provider.server.script(Reply([piece for gate in gates for piece in (gate, "token ")]))
    agent = provider.agent
    for _ in range(depth):
        agent = forwarder.fork(inner=agent)
    async with MiniAgents():
        turns = Turns()
        reading = asyncio.create_task(turns_per_token(agent.inquire("Hi"), arrivals, turns))
        for gate in gates:
            await gate.reached.wait()
            gate.open()
        assert max(await reading) <= 1
    assert len(arrivals) == 5
