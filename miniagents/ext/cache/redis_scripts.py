"""What is said to a Redis server: how keys and commands are written, and the Lua that makes several steps one.

A script that changes something may reach the server twice, when the reply to the first was lost. So each carries an
operation id, the name of a line (see `redis_connection`) and how many-th operation of that line it is, and the server
keeps the result of the last one for a while: the second gets it and changes nothing. A line does one thing at a time;
one key per line is enough.
"""

import re
from collections.abc import Sequence
from hashlib import sha1
from typing import Final

from miniagents.ext.cache.namespaces import Namespace

__all__ = [
    "ADD",
    "INCREMENT",
    "PUSH",
    "REPLACE",
    "SETTLE",
    "Script",
    "key_bytes",
    "key_of",
    "milliseconds",
    "packed",
    "pattern_of",
]

_LONGEST_MS = 10**15  # Redis adds the time of day, and has 64 bits for the sum


def packed(*words: bytes) -> bytes:
    """Writes a command in the protocol of Redis.

    Args:
        *words: The command and its arguments.

    Returns:
        The bytes to send.
    """
    return b"".join([b"*%d\r\n" % len(words), *[b"$%d\r\n%b\r\n" % (len(word), word) for word in words]])


def key_bytes(key: str) -> bytes:
    """The bytes that a whole key is for the server."""
    return key.encode("utf-8", "surrogatepass")


def key_of(data: bytes) -> str | None:
    """The whole key that is stored as these bytes; None where no key is."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None


def pattern_of(namespace: Namespace) -> bytes:
    """A pattern that all keys of a namespace match, and few others."""
    return key_bytes("*".join(re.sub(r"([\\*?\[\]])", r"\\\1", end) for end in (namespace.head, namespace.tail)))


def milliseconds(seconds: float) -> bytes:
    """A time to live in words of the server."""
    return b"%d" % min(max(1, round(seconds * 1000)), _LONGEST_MS)


class Script:
    """Lua that the server runs in one go, known to it by its digest.

    Attributes:
        text: The Lua.
    """

    def __init__(self, text: str) -> None:
        self.text: Final = text.strip().encode()
        self._digest: Final = sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def by_digest(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> bytes:
        """The command that runs it where the server knows it already."""
        return packed(b"EVALSHA", self._digest, b"%d" % len(keys), *keys, *arguments)

    def in_full(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> bytes:
        """The command that makes it known and runs it."""
        return packed(b"EVAL", self.text, b"%d" % len(keys), *keys, *arguments)


def _once(steps: str) -> Script:
    """A script that has its effect once.

    KEYS[1] is where the results of the line are kept, for ARGV[2] ms, ARGV[1] the number of the operation. A lower
    number than the one that is kept belongs to an operation that was given up: nobody waits for its answer.
    """
    return Script(f"""
local kept = redis.call('GET', KEYS[1])
if kept then
  local number, result = string.match(kept, '^(%d+) (.*)$')
  if tonumber(number) >= tonumber(ARGV[1]) then return result end
end
local result
{steps.strip()}
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. result, 'PX', ARGV[2])
return result
""")


ADD = _once("""
if ARGV[4] then
  result = redis.call('SET', KEYS[2], ARGV[3], 'NX', 'PX', ARGV[4]) and '1' or '0'
else
  result = redis.call('SET', KEYS[2], ARGV[3], 'NX') and '1' or '0'
end
""")
"""Stores ARGV[3] at KEYS[2], for ARGV[4] ms, if there is nothing; gives 1 if it did, else 0."""

REPLACE = _once("""
result = '0'
if redis.call('GET', KEYS[2]) == ARGV[3] then
  if ARGV[5] then
    redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
  else
    redis.call('SET', KEYS[2], ARGV[4])
  end
  result = '1'
end
""")
"""Stores ARGV[4] at KEYS[2], for ARGV[5] ms, if ARGV[3] is there; gives 1 if it did, else 0."""

INCREMENT = _once("""
redis.call('INCRBY', KEYS[2], ARGV[3])
result = redis.call('GET', KEYS[2])
""")
"""Adds ARGV[3] to the integer at KEYS[2] and gives the sum as digits: numbers of Lua have 53 bits."""

PUSH = _once("""
redis.call('RPUSH', KEYS[2], ARGV[3])
if ARGV[4] then
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
else
  redis.call('PERSIST', KEYS[2])
end
result = ''
""")
"""Puts ARGV[3] at the end of the mailbox KEYS[2], which is gone after ARGV[4] ms."""

SETTLE = Script("""
local moved
if redis.call('TYPE', KEYS[1]).ok == 'list' then
  moved = redis.call('LINDEX', KEYS[1], -1)
else
  moved = redis.call('GET', KEYS[1]) or ''
end
if ARGV[1] == 'return' and moved ~= '' then
  redis.call('LPUSH', KEYS[2], moved)
  moved = ''
end
redis.call('SET', KEYS[1], moved, 'PX', ARGV[2])
return moved
""")
"""Ends a wait of which nobody knows what has become: gives what it has moved from the mailbox KEYS[2] into the hand
KEYS[1], or, where ARGV[1] is `return`, puts that back at the head of the mailbox. Run again, it says the same.

In place of the list there is a string afterwards, for ARGV[2] ms: a wait that the server still knows of, or learns of
only now, cannot move anything into that.
"""
