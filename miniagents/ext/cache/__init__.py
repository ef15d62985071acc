"""Caches: values by key and mailboxes, in memory by default, in Redis where several processes share them.

* `interface`: `Cache`, what all of them can do; `namespaces`: how keys are made
* `memory`: `MemoryCache`, made of `entries`, `mailboxes` and `deadlines`; `redis_cache`: `RedisCache`
* `errors`: what goes wrong
* `cached`: agents that answer equal calls with the recorded reply; `call_key`: which calls are equal; `records` and
  `recording`: what is kept; `flight` and `lease`: who does the work, in one process and among several

Values are written by `miniagents.ext.values`.
"""

from miniagents.ext.cache.cached import cached
from miniagents.ext.cache.errors import CacheUnavailableError
from miniagents.ext.cache.interface import Cache
from miniagents.ext.cache.memory import MemoryCache
from miniagents.ext.values import register

__all__ = ["Cache", "CacheUnavailableError", "MemoryCache", "cached", "register"]
