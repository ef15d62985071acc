"""A process with readers of a mailbox: `python -m tests.support.redis_readers URL PREFIX READERS IMPATIENT`.

It says `ready` when all readers wait, and when its input ends it closes the cache and prints, as JSON, what each reader
has got. The impatient ones among them are cancelled all the time, and begin again.
"""

import asyncio
import json
import random
import sys
from typing import Any

from miniagents.ext.cache import RedisCache

__all__: list[str] = []


async def read_patiently(cache: RedisCache, got: list[Any]) -> None:
    async for message in cache.subscribe("box"):
        got.append(message)


async def read_impatiently(cache: RedisCache, got: list[Any], over: asyncio.Event) -> None:
    while not over.is_set():
        reading = asyncio.create_task(cache.get_message("box"))
        await asyncio.wait([reading], timeout=random.uniform(0, 0.3))
        reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled() and (message := reading.result()) is not None:
            got.append(message)


async def main(url: str, prefix: str, readers: int, impatient: int) -> None:
    cache = RedisCache.from_url(url, prefix)
    over = asyncio.Event()
    got: list[list[Any]] = [[] for _ in range(readers + impatient)]
    reading = [asyncio.create_task(read_patiently(cache, own)) for own in got[:readers]]
    reading += [asyncio.create_task(read_impatiently(cache, own, over)) for own in got[readers:]]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    over.set()
    await cache.close()
    await asyncio.gather(*reading)
    print(json.dumps(got))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
