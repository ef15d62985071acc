"""A chat history in a cache, which is in Redis where several machines share it.

Each message has a key of its own, with a position that its writer has taken by counting on. A position at which a load
finds nothing yet is given up by that load; its writer, if it lives, takes another one. So no writer waits for another,
one that was killed holds up nobody, and nothing is ever inserted before what somebody has loaded.
"""

from typing import Any
from uuid import uuid4

from miniagents.ext.cache.interface import Cache
from miniagents.ext.chat_history import ChatHistory, checked_name
from miniagents.ext.values import UnreadableValueError
from miniagents.message import Message

__all__ = ["ChatHistoryRedis"]

_BATCH = 1000  # how many messages are loaded in one round trip; to decode more at once would hold up the loop
_GIVEN_UP = None  # stands at a position in place of a message


class ChatHistoryRedis(ChatHistory):
    """Keeps a chat history in a cache: in Redis with a `RedisCache`. Any number of objects and processes may add to it.

    Messages come back equal: class, role, text and metadata, nested messages included. The history belongs to the
    namespace of the cache in which it is used, and goes with that when it is cleared. Its keys begin with
    `~miniagents/chat_history/`. They do not expire, but a cache that drops what was not used for long (`MemoryCache`
    with `max_entries`, Redis with an eviction policy) drops old messages, too, and they are as safe as what keeps the
    cache: give Redis `appendonly yes`.

    Args:
        cache: Where it is kept. Closing the history does not close it.
        name: Which history it is; each has a name.

    Raises:
        CacheUnavailableError: From recording and loading: the server cannot be reached. A message that was being added
            may be there or not, but not twice.
        UnreadableValueError: From loading: a class of messages is not known in this process; import its module.

    Example:
        ```python
        async with RedisCache("redis.example.com") as cache:
            history = ChatHistoryRedis(cache, f"user {user_id}")
            await adialog_loop(console_user_agent.fork(chat_history=history), openai_agent)
        ```
    """

    def __init__(self, cache: Cache, name: str) -> None:
        self.cache = cache
        self.name = checked_name(name)

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """See `ChatHistory`."""
        messages: list[Message] = []
        length = await self.cache.get(self._key("length"), default=0)
        for first in range(1, length + 1, _BATCH):
            messages += await self._load(range(first, min(first + _BATCH, length + 1)))
        return tuple(messages)

    async def _append(self, message: Message) -> None:
        entry = [uuid4().hex, message]
        lead = 0
        while not await self._put(lead + await self._count_on(1), entry):
            lead = 2 * lead + 1  # where loads do not look yet, so that the slowest writer comes to write, too
        if lead:
            await self._count_on(lead)

    async def _count_on(self, by: int) -> int:
        return await self.cache.increment(self._key("length"), by)

    async def _put(self, position: int, entry: list[Any]) -> bool:
        key = self._key(position)
        if await self.cache.add(key, entry):
            return True
        present = await self.cache.get(key, default=None)
        # It is there if a cache repeats what it has done already, because it lost the connection before it knew.
        return present is not None and present[0] == entry[0]

    async def _load(self, positions: range) -> list[Message]:
        keys = [self._key(position) for position in positions]
        try:
            entries = await self.cache.get_many(keys)
            for key in keys:
                if key not in entries and not await self.cache.add(key, _GIVEN_UP):
                    entries[key] = await self.cache.get(key, default=None)  # its writer was faster
        except UnreadableValueError as error:
            error.add_note(f"in the chat history {self.name!r}")
            raise
        found = (entries.get(key) for key in keys)
        return [entry[1] for entry in found if entry is not None]

    def _key(self, position: int | str) -> str:
        # Whatever the name is, no two of them can make the same key: it ends before the last slash.
        return f"~miniagents/chat_history/{self.name}/{position}"
