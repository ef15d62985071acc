"""A connection on which a reader waits for messages. What happens when it is lost is for `redis_mailboxes` to say."""

import asyncio

from miniagents.ext.cache.namespaces import RESERVED
from miniagents.ext.cache.redis_connection import FAILURES, Line, Server
from miniagents.ext.cache.redis_scripts import packed

__all__ = ["Reader"]

_HAND_KEPT = 3600.0
"""For how many seconds the server keeps a hand; a reader whose process has died leaves it behind."""


class Reader(Line):
    """A connection that waits for messages, one at a time.

    Args:
        server: The server.

    Attributes:
        hand: The key of what is being moved to this reader: an empty string, so that the list is there and has a time
            to live, and at most one message behind it.
        id: What the server calls the connection.
    """

    __slots__ = ("_expires", "_owed", "hand", "id")

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.hand = f"{RESERVED}hand/".encode() + self.name
        self.id = b""
        self._owed = False
        self._expires = 0.0

    async def open(self) -> None:
        """Connects, and makes the hand."""
        kept = b"%d" % int(_HAND_KEPT * 1000)
        made = [packed(b"RPUSH", self.hand, b""), packed(b"PEXPIRE", self.hand, kept), packed(b"CLIENT", b"ID")]
        *_, number = await self.ask_all(made)
        self.id = b"%d" % number
        self._expires = asyncio.get_running_loop().time() + _HAND_KEPT / 2

    async def is_ready(self) -> bool:
        """Whether it can be used once more: its hand is known to be empty, and will be kept long enough."""
        if asyncio.get_running_loop().time() > self._expires:
            self.hang_up()
            return False
        if self._owed:
            self._owed = False
            try:
                async with asyncio.timeout(self._server.timeout / 4):
                    await self.connection.read_response()
            except FAILURES:
                self.hang_up()
                return False
        return True

    async def move(self, mailbox: bytes, wait: float) -> bytes | None:
        """Has a message moved into the hand; None where there is none for so many seconds, or the server was nudged."""
        if wait:
            command = packed(b"BLMOVE", mailbox, self.hand, b"LEFT", b"RIGHT", b"%.3f" % max(wait, 0.001))
        else:
            command = packed(b"LMOVE", mailbox, self.hand, b"LEFT", b"RIGHT")
        message: bytes | None = await self.ask(command)
        return message

    def empty_hand(self) -> None:
        """Tells the server that the message has arrived. The reply is read before the next use."""
        self._say(packed(b"LTRIM", self.hand, b"0", b"-2"))
        self._owed = True

    def forget_hand(self) -> None:
        """Tells the server that there will be no next use."""
        self._say(packed(b"UNLINK", self.hand))

    def _say(self, command: bytes) -> None:
        # What redis-py offers is async; a cancellation in between would leave it open whether this has been said.
        writer = self.connection._writer
        if writer is not None:
            writer.write(command)
