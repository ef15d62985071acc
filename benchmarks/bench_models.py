"""Asking a model through an agent, and through the SDK alone; and what 500 conversations at once leave behind."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai

from benchmarks.measure import Row, compare_async
from miniagents import MiniAgents
from miniagents.ext.llm.openai import openai_agent

__all__ = ["rows"]

_REQUESTS = 100
_TOKENS = 50


def rows() -> list[Row]:
    """The rows of the table."""
    with _server() as url:
        return [_one_by_one(url)]


def _one_by_one(url: str) -> Row:
    text = "word " * _TOKENS
    client = openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0)
    agent = openai_agent.fork(base_url=url, api_key="any", model="some-model")

    async def ours() -> None:
        async with MiniAgents():
            for _ in range(_REQUESTS):
                async for message in agent.inquire(text):
                    async for _token in message:
                        pass

    async def bare() -> None:
        for _ in range(_REQUESTS):
            stream: Any = await client.chat.completions.create(
                model="some-model",
                messages=[{"role": "user", "content": text}],
                stream=True,
                stream_options={"include_usage": True},
            )
            async for _event in stream:
                pass

    ratio, mine, other = compare_async(ours, bare, runs=5)
    per_request = 1e3 / _REQUESTS
    return Row(
        f"a streamed answer of {_TOKENS} tokens",
        ratio,
        1.25,
        1.1,
        f"{mine * per_request:.2f} against {other * per_request:.2f} ms of the SDK alone",
    )


@contextmanager
def _server() -> Iterator[str]:
    """A server in a process of its own, whose time does not count."""
    process = subprocess.Popen([sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        gc.collect()


_SERVE = """
import asyncio

from tests.support.llm_server import LLMServer

async def main():
    async with LLMServer() as server:
        print(server.openai_url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
