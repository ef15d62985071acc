"""Mailboxes in memory: messages in their order, each for one reader, readers in theirs.

A message stays in its mailbox until its reader runs and takes it. What a message that arrives does is to wake the
reader that has waited longest, and to count as promised; a reader that is cancelled after that, and before it runs,
passes the promise on. So there is no moment in which a message is nowhere.
"""

import asyncio
from asyncio import Future
from collections import OrderedDict, deque

from miniagents.ext.cache.deadlines import Deadlines, now

__all__ = ["Mailbox", "Mailboxes"]


class Mailboxes:
    """Mailboxes by name. One is there as long as it has messages or readers. Not thread-safe."""

    def __init__(self) -> None:
        self._boxes: dict[str, Mailbox] = {}
        self._deadlines = Deadlines(self._goes_at, self._boxes.__len__)
        self._closed = False

    def push(self, name: str, data: bytes, ttl: float | None) -> None:
        """Puts a message at the end of a mailbox, which will be gone after so many seconds without a further one."""
        for due in self._deadlines.due():
            self._existing(due)
        box = self._existing(name)
        if box is None:
            box = self._boxes[name] = Mailbox()
        box.expires = None if ttl is None else now() + ttl
        if box.expires is not None:
            self._deadlines.add(name, box.expires)
        box.put(data)

    async def pop(self, name: str, timeout: float | None) -> bytes | None:
        """Takes the oldest message, or None where there is none within the timeout, or before they are closed."""
        if self._closed:
            await asyncio.sleep(0)  # whoever asks again and again leaves time for others
            timeout = 0
        box = self._existing(name)
        if box is None:
            if timeout == 0:
                return None
            box = self._boxes[name] = Mailbox()
        try:
            return await box.take(timeout)
        finally:
            if not box.is_needed() and self._boxes.get(name) is box:
                del self._boxes[name]

    def peek(self, name: str) -> bytes | None:
        """Gives the oldest message."""
        box = self._existing(name)
        return None if box is None else box.peek()

    def length(self, name: str) -> int:
        """Gives the number of messages."""
        box = self._existing(name)
        return 0 if box is None else len(box)

    def close(self) -> None:
        """Sends all readers away, now and later."""
        self._closed = True
        for box in self._boxes.values():
            box.send_readers_away()

    def _existing(self, name: str) -> "Mailbox | None":
        box = self._boxes.get(name)
        if box is not None and box.expires is not None and box.expires <= now():
            box.expire()
            if not box.is_needed():
                del self._boxes[name]
                return None
        return box

    def _goes_at(self, name: str, when: float) -> bool:
        box = self._boxes.get(name)
        return box is not None and box.expires == when


class Mailbox:
    """One mailbox.

    Attributes:
        expires: When its messages are gone, or None.
    """

    __slots__ = ("_messages", "_promised", "_readers", "expires")

    def __init__(self) -> None:
        self.expires: float | None = None
        self._messages: deque[bytes] = deque()  # the first ones are promised to readers that have been woken
        self._promised = 0
        self._readers: OrderedDict[Future[bool], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._messages) - self._promised

    def is_needed(self) -> bool:
        """Whether there is a message, promised or not, or somebody who waits for one."""
        return bool(self._messages or self._readers)

    def put(self, data: bytes) -> None:
        """Puts a message at the end."""
        self._messages.append(data)
        self._wake_readers()

    async def take(self, timeout: float | None) -> bytes | None:
        """Takes the oldest message that is not promised, or waits for a promise."""
        if len(self):
            data = self._messages[self._promised]
            del self._messages[self._promised]
            return data
        if timeout == 0 or not await self._promise(timeout):
            return None
        self._promised -= 1
        return self._messages.popleft()

    def peek(self) -> bytes | None:
        """Gives the oldest message that is not promised."""
        return self._messages[self._promised] if len(self) else None

    def expire(self) -> None:
        """Drops all messages but those that have been promised in time."""
        self.expires = None
        while len(self):
            self._messages.pop()

    def send_readers_away(self) -> None:
        """Tells all readers that wait that no message will come."""
        while self._readers:
            _settle(self._readers.popitem(last=False)[0], False)

    async def _promise(self, timeout: float | None) -> bool:
        """Waits until a message is promised to the caller, who has to take it at once; False if none is in time."""
        loop = asyncio.get_running_loop()
        reader: Future[bool] = loop.create_future()
        self._readers[reader] = None
        timer = None if timeout is None else loop.call_later(timeout, _settle, reader, False)
        try:
            return await reader
        except BaseException:
            if reader.done() and not reader.cancelled() and reader.result():
                self._promised -= 1
                self._wake_readers()
            raise
        finally:
            self._readers.pop(reader, None)
            if timer is not None:
                timer.cancel()

    def _wake_readers(self) -> None:
        while self._readers and len(self):
            if _settle(self._readers.popitem(last=False)[0], True):
                self._promised += 1


def _settle(reader: "Future[bool]", promised: bool) -> bool:
    """Tells a reader how its waiting has ended, if it does wait still, and says whether it does."""
    if reader.done() or reader.get_loop().is_closed():
        return False
    reader.set_result(promised)
    return True
