"""Five hundred conversations at once, with tools, in rounds; then the same with a server that fails now and then."""

import asyncio
import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from miniagents import MiniAgents
from miniagents.ext.llm.anthropic import anthropic_agent
from miniagents.ext.llm.openai import openai_agent
from tests.support.llm_server import Faults, LLMServer, Reply, Request, ToolCall

CONVERSATIONS = 500
ROUNDS = 10
MESSAGES = 4  # the call of two tools, their results, and the answer


def resident_memory() -> int:
    """How many bytes of this process are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def weather(city: str) -> str:
    """A tool that blocks, so that it runs in a thread."""
    return f"sunny in {city}"


async def population(city: str) -> str:
    """A tool on the event loop."""
    await asyncio.sleep(0)
    return f"many in {city}"


def answer(request: Request) -> Reply:
    """First the model wants to know two things, then it answers."""
    last = request.body["messages"][-1]
    if last["role"] == "tool" or isinstance(last["content"], list):
        return Reply(("It ", "is ", "sunny."))
    rome, oslo = '{"city": "Rome"}', '{"city": "Oslo"}'
    return Reply(("Let me ", "see. ", ToolCall("weather", (rome,)), ToolCall("population", (oslo[:4], oslo[4:]))))


@pytest.fixture(autouse=True)
def _no_garbage() -> Iterator[None]:
    yield
    gc.collect()


async def hold(server: LLMServer, **options: object) -> list[object]:
    """Holds all conversations at once, half of them with either provider, and gives what they came to."""
    options = {"api_key": "any-key", "tools": [weather, population], **options}
    agents = [
        openai_agent.fork(base_url=server.openai_url, **options),
        anthropic_agent.fork(base_url=server.anthropic_url, **options),
    ]
    replies = [agents[number % 2].inquire(f"Conversation {number}") for number in range(CONVERSATIONS)]
    outcomes = await asyncio.gather(*replies, return_exceptions=True)
    return list(outcomes)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc")
@pytest.mark.timeout(240)
async def test_all_conversations_complete_and_nothing_is_left() -> None:
    """Ten rounds of 500 conversations complete, with the same memory after each, and no task is left."""
    with LLMServer.in_thread(default=answer, keep=False) as server:
        memory: list[int] = []
        objects: list[int] = []
        for _ in range(ROUNDS):
            async with MiniAgents() as context:
                outcomes = await hold(server)
                assert [len(outcome) for outcome in outcomes] == [MESSAGES] * CONVERSATIONS
                assert context.usage.requests == 2 * CONVERSATIONS
            assert asyncio.all_tasks() == {asyncio.current_task()}
            del outcomes, context
            gc.collect()
            memory.append(resident_memory())
            objects.append(len(gc.get_objects()))
    print(f"megabytes: {[round(size / 1e6) for size in memory]}, objects: {objects}")
    # The first rounds make what lasts: imports, caches, threads, arenas of the allocator.
    assert max(objects[3:]) < objects[2] * 1.05
    assert max(memory[3:]) < memory[2] * 1.05


@pytest.mark.timeout(240)
async def test_every_conversation_ends_when_the_server_fails_now_and_then() -> None:
    """With 5 % of the requests failing each conversation ends with its messages or an error, and no task is left."""
    faults = Faults(answer, rate=0.05, seed=7)
    with LLMServer.in_thread(default=faults, keep=False) as server:
        async with MiniAgents():
            outcomes = await hold(server, stall_timeout=2.0, max_retries=2)
        assert asyncio.all_tasks() == {asyncio.current_task()}
    kinds = Counter(type(outcome).__name__ for outcome in outcomes)
    assert sum(kinds.values()) == CONVERSATIONS
    assert all(isinstance(outcome, Exception) or len(outcome) == MESSAGES for outcome in outcomes)
    assert kinds["tuple"] > 0.9 * CONVERSATIONS
    assert sum(faults.injected.values()) > 0.03 * CONVERSATIONS
    assert faults.count > 2 * CONVERSATIONS * 0.98
