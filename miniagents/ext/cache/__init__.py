"""Caches: values by key and mailboxes, in memory by default, in Redis where several processes share them.

* `interface`: `Cache`, what all of them can do; `namespaces`: how keys are made
* `memory`: `MemoryCache`, made of `entries`, `mailboxes` and `deadlines`
* `redis_cache`: `RedisCache`; `redis_address` and `redis_connection`: how the server is reached; `redis_lines`: how
  operations share connections and insist on answers; `redis_mailboxes` and `redis_reader`: how messages arrive once;
  `redis_scripts`: what the server is told
* `errors`: what goes wrong
* `cached`: agents that answer equal calls with the recorded reply; `call_key`: which calls are equal; `records` and
  `recording`: what is kept; `flight` and `lease`: who does the work, in one process and among several

Values are written by `miniagents.ext.values`.
"""

from typing import TYPE_CHECKING, Any

from miniagents.ext.cache.cached import cached
from miniagents.ext.cache.errors import CacheUnavailableError
from miniagents.ext.cache.interface import Cache
from miniagents.ext.cache.memory import MemoryCache
from miniagents.ext.values import register

if TYPE_CHECKING:
    from miniagents.ext.cache.redis_cache import RedisCache

__all__ = ["Cache", "CacheUnavailableError", "MemoryCache", "RedisCache", "cached", "register"]


def __getattr__(name: str) -> Any:
    if name == "RedisCache":  # redis-py is imported by those who use it
        from miniagents.ext.cache.redis_cache import RedisCache

        return RedisCache
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
