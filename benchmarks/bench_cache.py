"""Caches against what somebody would write by hand: redis-py with `json`, a dict, a call of an agent."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis.asyncio

from benchmarks.measure import Row, compare_async
from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.cache import MemoryCache, RedisCache, cached

__all__ = ["rows"]

_OPERATIONS = 1_000
_BULK = 100
_VALUE: dict[str, Any] = {"name": "Ada", "scores": [1, 2, 3], "active": True, "note": "a text of some length " * 4}


def rows() -> list[Row]:
    """The rows of the table."""
    with _server() as port:
        found = [_get_and_set(port), _bulk(port), _mailbox(port)]
    return [*found, _memory(), _cached_agent()]


def _get_and_set(port: int) -> Row:
    async def ours() -> None:
        async with RedisCache(port=port) as cache:
            for number in range(_OPERATIONS):
                await cache.set(f"key{number % 10}", _VALUE)
                await cache.get(f"key{number % 10}")

    async def by_hand() -> None:
        client: Any
        async with redis.asyncio.Redis(port=port) as client:
            for number in range(_OPERATIONS):
                await client.set(f"hand:key{number % 10}", json.dumps(_VALUE))
                json.loads(await client.get(f"hand:key{number % 10}"))

    ratio, mine, other = compare_async(ours, by_hand)
    per_pair = 1e6 / _OPERATIONS
    return Row(
        "RedisCache: set and get",
        ratio,
        1.3,
        1.1,
        f"{mine * per_pair:.0f} against {other * per_pair:.0f} us of redis-py",
    )


def _bulk(port: int) -> Row:
    values = {f"key{number}": _VALUE for number in range(_BULK)}

    async def ours() -> None:
        async with RedisCache(port=port) as cache:
            for _ in range(_OPERATIONS // _BULK):
                await cache.set_many(values)
                await cache.get_many(values)

    async def by_hand() -> None:
        client: Any
        async with redis.asyncio.Redis(port=port) as client:
            for _ in range(_OPERATIONS // _BULK):
                async with client.pipeline(transaction=False) as pipeline:
                    for key, value in values.items():
                        pipeline.set(f"hand:{key}", json.dumps(value))
                    await pipeline.execute()
                for data in await client.mget([f"hand:{key}" for key in values]):
                    json.loads(data)

    ratio, mine, other = compare_async(ours, by_hand)
    per_value = 1e6 / _OPERATIONS
    return Row(
        f"RedisCache: {_BULK} values at once, set and get",
        ratio,
        1.1,
        1.0,
        f"{mine * per_value:.1f} against {other * per_value:.1f} us per value of a pipeline and MGET",
    )


def _mailbox(port: int) -> Row:
    async def ours() -> None:
        async with RedisCache(port=port) as cache:
            for _ in range(_OPERATIONS):
                reader = asyncio.ensure_future(cache.get_message("box", timeout=10))
                await asyncio.sleep(0)
                await cache.publish_to_mailbox("box", _VALUE)
                await reader

    async def by_hand() -> None:
        client: Any
        async with redis.asyncio.Redis(port=port) as client:

            async def read() -> Any:
                _, data = await client.blpop(["hand:box"], timeout=10)
                return json.loads(data)

            for _ in range(_OPERATIONS):
                reader = asyncio.ensure_future(read())
                await asyncio.sleep(0)
                await client.rpush("hand:box", json.dumps(_VALUE))
                await reader

    ratio, mine, other = compare_async(ours, by_hand)
    per_message = 1e6 / _OPERATIONS
    return Row(
        "RedisCache: a message to a waiting reader",
        ratio,
        1.3,
        1.1,
        f"{mine * per_message:.0f} against {other * per_message:.0f} us of RPUSH and BLPOP",
    )


def _memory() -> Row:
    rounds = 100_000
    values = {"key": "a value"}

    async def get(key: str) -> str:
        return values[key]

    async def ours() -> None:
        cache = MemoryCache()
        await cache.set("key", "a value")
        for _ in range(rounds):
            await cache.get("key")

    async def by_hand() -> None:
        for _ in range(rounds):
            await get("key")

    ratio, mine, other = compare_async(ours, by_hand)
    per_get = 1e9 / rounds
    return Row(
        "MemoryCache: get",
        ratio,
        2.0,
        1.5,
        f"{mine * per_get:.0f} against {other * per_get:.0f} ns of a dict and an await",
    )


@miniagent
async def answer(ctx: InteractionContext) -> None:
    """Replies."""
    ctx.reply("answer")


def _cached_agent() -> Row:
    calls = 5_000
    agent = cached(answer)

    async def ours() -> None:
        async with MiniAgents():
            for _ in range(calls):
                await agent.inquire("question")

    async def plain() -> None:
        async with MiniAgents():
            for _ in range(calls):
                await answer.inquire("question")

    ratio, mine, other = compare_async(ours, plain)
    per_call = 1e6 / calls
    return Row(
        "a cached agent that knows the answer",
        ratio,
        1.5,
        1.2,
        f"{mine * per_call:.1f} against {other * per_call:.1f} us of an agent call",
    )


@contextmanager
def _server() -> Iterator[int]:
    from tests.support.redis_server import RedisServer

    server = RedisServer().start()
    try:
        yield server.port
    finally:
        server.close()
