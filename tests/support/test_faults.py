"""Answers that fail at a given rate, and as many of them at once as there are."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.support.llm_server import Faults, Gate, LLMServer, Reply, Request, echo

USER: list[Any] = [{"role": "user", "content": "one two three four"}]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


async def outcome(client: Any, *, stream: bool = True) -> tuple[list[str], str]:
    """The tokens of a chat completion, and what ended it."""
    tokens: list[str] = []
    try:
        answer = await client.chat.completions.create(model="m", messages=USER, stream=stream)
        if not stream:
            return [answer.choices[0].message.content], str(answer.choices[0].finish_reason)
        finish = None
        async for chunk in answer:
            tokens += filter(None, [chunk.choices[0].delta.content])
            finish = chunk.choices[0].finish_reason
    except Exception as error:
        return tokens, type(error).__name__
    return tokens, str(finish)


HALF = ["one ", "two "]


@pytest.mark.parametrize(
    ("kind", "streamed", "whole"),
    [
        ("429", ([], "RateLimitError"), ([], "RateLimitError")),
        ("500", ([], "InternalServerError"), ([], "InternalServerError")),
        ("529", ([], "InternalServerError"), ([], "InternalServerError")),
        ("cut", (HALF, "APIConnectionError"), ([], "APIConnectionError")),
        ("reset", (HALF, "APIConnectionError"), ([], "APIConnectionError")),
        ("silent", ([], "APIConnectionError"), ([], "APIConnectionError")),
        ("malformed", (HALF, "JSONDecodeError"), ([], "JSONDecodeError")),
        ("error", (HALF, "APIError"), (["one two "], "stop")),
        ("truncated", (HALF, "None"), (["one two "], "None")),
    ],
)
async def test_each_fault(kind: str, streamed: tuple[list[str], str], whole: tuple[list[str], str]) -> None:
    """A fault is half of an answer and a failure, or a failure at once."""
    async with (
        LLMServer(default=Faults(rate=1, kinds=(kind,))) as server,
        openai.AsyncOpenAI(base_url=server.openai_url, api_key="k", max_retries=0) as client,
    ):
        assert await outcome(client) == streamed
        assert await outcome(client, stream=False) == whole


async def test_an_answer_that_stalls() -> None:
    """After its half nothing comes until the client gives up."""
    async with (
        LLMServer(default=Faults(rate=1, kinds=("stalled",))) as server,
        openai.AsyncOpenAI(base_url=server.openai_url, api_key="k", max_retries=0) as client,
    ):
        timeout = httpx2.Timeout(60, read=0.05)
        assert await outcome(client.with_options(timeout=timeout)) == (HALF, "APITimeoutError")
        await server.client_disconnected(0)


async def test_a_rate_limit_is_over_at_once() -> None:
    """The clients' own retries wait as they are told, and have their answer in the end."""
    faults = Faults(rate=0.5, seed=35, kinds=("429",), retry_after="0.001")
    assert [faults.fault(number) for number in range(3)] == ["429", "429", None]
    async with (
        LLMServer(default=faults) as server,
        anthropic.AsyncAnthropic(base_url=server.anthropic_url, api_key="k", max_retries=2) as client,
    ):
        assert await client.messages.create(model="m", messages=USER, max_tokens=1)
    assert (server.count, faults.count, faults.injected) == (3, 3, {"429": 2})


def test_faults_are_decided_by_seed_and_number() -> None:
    """The same seed fails the same requests in the same way, at about the rate; another seed fails others."""

    def faults(seed: int, rate: float = 0.05) -> list[str | None]:
        faults = Faults(rate=rate, seed=seed)
        return [faults.fault(number) for number in range(5000)]

    assert faults(1) == faults(1) != faults(2)
    failed = [kind for kind in faults(1) if kind]
    assert 0.04 < len(failed) / 5000 < 0.06
    assert len(set(failed)) == 10
    assert set(faults(1, rate=0)) == {None}


async def test_responders_may_wait() -> None:
    """Answers of async responders are broken like others; without a fault they are left alone."""

    async def later(request: Request) -> Reply:
        return Reply(("a", "b"))

    request = Request("POST", "/v1/messages", {}, {}, {}, 1)
    broken = Faults(later, rate=1, kinds=("cut",))(request)
    whole = Faults(later, rate=0)(request)
    assert isinstance(broken, Awaitable)
    assert isinstance(whole, Awaitable)
    assert await broken == Reply(("a",), ending="cut")
    assert await whole == Reply(("a", "b"))


async def test_500_conversations_at_once() -> None:
    """500 connections are open at the same time to one server in one thread, each in mid-answer."""
    gates = [Gate() for _ in range(500)]
    replies = [Reply(("a", gate, "b")) for gate in gates]
    with LLMServer.in_thread(*replies, keep=False) as server:
        limits = httpx2.Limits(max_connections=None)
        async with (
            httpx2.AsyncClient(limits=limits, timeout=60) as http,
            openai.AsyncOpenAI(base_url=server.openai_url, api_key="k", max_retries=0, http_client=http) as client,
        ):
            talking = [asyncio.create_task(outcome(client)) for _ in gates]
            for gate in gates:
                await gate.reached.wait()
            for gate in gates:
                gate.open()
            assert await asyncio.gather(*talking) == [(["a", "b"], "stop")] * 500
        assert (server.connections, server.count, server.requests) == (500, 500, [])


async def test_many_conversations_with_faults() -> None:
    """Under faults every request ends, and the server is whole after it."""
    faults = Faults(echo, rate=0.3, seed=3, kinds=("429", "500", "cut", "reset", "silent", "malformed", "truncated"))
    with LLMServer.in_thread(default=faults, keep=False) as server:
        async with openai.AsyncOpenAI(base_url=server.openai_url, api_key="k", max_retries=0) as client:
            outcomes = await asyncio.gather(*(outcome(client) for _ in range(200)))
    whole = [tokens for tokens, end in outcomes if end == "stop"]
    assert whole == [["one ", "two ", "three ", "four "]] * (200 - faults.injected.total())
    assert 40 <= faults.injected.total() <= 80
