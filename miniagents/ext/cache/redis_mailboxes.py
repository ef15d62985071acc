"""Taking messages out of mailboxes in Redis, so that each arrives once, whatever happens meanwhile.

A reader waits on a connection of its own. The server moves a message from the mailbox into the *hand* of the reader, a
list under a reserved key, and replies with it; when it is here the hand is emptied, without waiting for that. If the
reply does not come, because the connection is lost or the reader is cancelled, `SETTLE` says what the hand holds and
closes it for good, so that a wait of which the server still knows comes to nothing.
"""

import asyncio
import math
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from miniagents.ext.cache.errors import CacheUnavailableError
from miniagents.ext.cache.redis_connection import FAILURES, may_pass
from miniagents.ext.cache.redis_lines import Debt, Lines, Places, pause_after
from miniagents.ext.cache.redis_reader import Reader
from miniagents.ext.cache.redis_scripts import SETTLE, packed

__all__ = ["Mailboxes"]

_CLEAN_UP = 2.0
"""For how many seconds at most a cancelled reader tries to give back what it has taken."""


class Mailboxes:
    """Reads mailboxes in one event loop.

    Args:
        lines: What is used beside the connections that wait.

    Attributes:
        closed: Whether `close` was called. Nobody waits any more then.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._clean_up = min(_CLEAN_UP, lines.server.timeout / 2)
        self.closed = False
        self._idle: list[Reader] = []
        self._waiting: dict[Reader, asyncio.Future[None]] = {}
        self._looks = Places(lines.server, lines.size)  # only those who wait need a connection each
        self._nudges: set[asyncio.Task[None]] = set()

    async def take(self, mailbox: bytes, timeout: float | None) -> bytes | None:
        """Takes the oldest message.

        Args:
            mailbox: The key of the mailbox.
            timeout: How long to wait, in seconds; 0 not to wait, None for ever.

        Returns:
            The message; None where there is none in time, or when `close` is called.

        Raises:
            CacheUnavailableError: The server has been away for too long. Nothing is lost by that.
        """
        time, patience = asyncio.get_running_loop().time, self._lines.server.timeout
        until = math.inf if timeout is None else time() + timeout
        interruptions = 0
        while True:
            # In slices, so that a server is missed which is gone without a word.
            wait = 0.0 if self.closed else min(max(until - time(), 0.0), patience / 2)
            deadline = time() + wait + patience
            try:
                message = await (self._take if wait else self._look)(mailbox, wait, deadline)
            except _InterruptedError as error:
                if self.closed and wait:
                    return None
                if time() > until + patience:
                    raise self._lines.server.unavailable("loses every connection", error.__cause__) from None
                # Whether there is a message is not known: it is asked again, also when the time is over.
                await asyncio.sleep(pause_after(interruptions))
                interruptions += 1
                continue
            interruptions = 0
            if message is not None or self.closed or time() >= until:
                return message

    async def close(self) -> None:
        """Wakes those who wait, and closes the connections."""
        self.closed = True
        if self._waiting:
            for reader in self._waiting:
                reader.hang_up()
            await asyncio.wait(list(self._waiting.values()), timeout=self._clean_up)
        idle, self._idle = self._idle, []
        for reader in idle:
            reader.forget_hand()
        await asyncio.gather(*self._nudges, *(reader.close(self._clean_up) for reader in idle))

    def abandon(self) -> None:
        """Lets the connections of an event loop go that has ended without `close`."""
        for reader in self._idle:
            reader.abandon()

    async def _look(self, mailbox: bytes, wait: float, deadline: float) -> bytes | None:
        await self._looks.take(deadline)
        try:
            return await self._take(mailbox, wait, deadline)
        finally:
            self._looks.release()

    async def _take(self, mailbox: bytes, wait: float, deadline: float) -> bytes | None:
        loop = asyncio.get_running_loop()
        if self._lines.debts:  # what is waited for may be in the hand of somebody who could not give it back
            await self._lines.pay_debts(deadline - loop.time())
        reader = await self._open_reader(deadline)
        if self.closed and wait:
            self._put_back(reader)
            return None
        left = self._waiting[reader] = loop.create_future()
        try:
            return await self._moved(reader, mailbox, wait, deadline)
        except CacheUnavailableError:
            if self.closed and wait:
                return None
            raise
        finally:
            del self._waiting[reader]
            left.set_result(None)

    async def _open_reader(self, deadline: float) -> Reader:
        while self._idle:
            reader = self._idle.pop()
            if await reader.is_ready():
                return reader
        reader = Reader(self._lines.server)
        try:
            await self._lines.insist(reader.open, deadline)
        except BaseException:
            reader.hang_up()
            raise
        return reader

    async def _moved(self, reader: Reader, mailbox: bytes, wait: float, deadline: float) -> bytes | None:
        try:
            message = await self._move(reader, mailbox, wait, deadline)
        except FAILURES as error:
            reader.hang_up()
            failure: Exception = error
        except asyncio.CancelledError:
            await _to_its_end(self._give_back(reader, mailbox))
            raise
        else:
            # There is no `await` from the message being here to its being given out: nothing can come in between.
            if message is not None:
                reader.empty_hand()
            self._put_back(reader)
            return message
        if not may_pass(failure):
            raise self._lines.server.unavailable("refuses", failure)
        return await self._settled(reader, mailbox, deadline, failure)

    async def _move(self, reader: Reader, mailbox: bytes, wait: float, deadline: float) -> bytes | None:
        loop = asyncio.get_running_loop()
        nudge = loop.call_later(wait, self._nudge, reader) if wait else None
        try:
            async with asyncio.timeout_at(min(loop.time() + wait + self._lines.server.timeout / 2, deadline)):
                return await reader.move(mailbox, wait)
        finally:
            if nudge is not None:
                nudge.cancel()

    async def _settled(self, reader: Reader, mailbox: bytes, deadline: float, failure: Exception) -> bytes:
        """Gives what was moved before the connection was lost."""
        within = deadline - asyncio.get_running_loop().time()
        script, keys, arguments = self._settling(reader, mailbox, b"keep")
        try:
            moved: bytes = await self._lines.run(lambda line: line.run(script, keys, arguments), within)
        except asyncio.CancelledError:
            await _to_its_end(self._give_back(reader, mailbox))
            raise
        except CacheUnavailableError:
            self._lines.debts.append(self._settling(reader, mailbox, b"return"))
            raise
        if not moved:
            self._drop_idle()  # they have probably been lost, too
            raise _InterruptedError from failure
        return moved

    async def _give_back(self, reader: Reader, mailbox: bytes) -> None:
        debt = self._settling(reader, mailbox, b"return")
        try:
            await self._lines.run(lambda line: line.run(*debt), self._clean_up)
        except BaseException as error:
            self._lines.debts.append(debt)
            if not isinstance(error, CacheUnavailableError):
                raise

    def _settling(self, reader: Reader, mailbox: bytes, what: bytes) -> Debt:
        return SETTLE, [reader.hand, mailbox], [what, self._lines.server.kept_ms]

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for reader in idle:
            reader.hang_up()

    def _put_back(self, reader: Reader) -> None:
        if self.closed or len(self._idle) >= self._lines.size:
            reader.forget_hand()
            reader.hang_up()
        else:
            self._idle.append(reader)

    def _nudge(self, reader: Reader) -> None:
        # The server looks ten times a second only for waits that are over, unless it is told of one.
        task = asyncio.get_running_loop().create_task(self._unblock(reader))
        self._nudges.add(task)
        task.add_done_callback(self._nudges.discard)

    async def _unblock(self, reader: Reader) -> None:
        with suppress(CacheUnavailableError):  # the server will notice by itself
            await self._lines.run(lambda line: line.ask(packed(b"CLIENT", b"UNBLOCK", reader.id)))


class _InterruptedError(Exception):
    """The connection was lost before anything was moved."""


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Waits for something that must not be left half done, however often this task is cancelled meanwhile."""
    task = asyncio.get_running_loop().create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
