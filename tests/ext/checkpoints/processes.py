"""Other processes for the tests of checkpoint stores: what they do, and how they are started and really killed.

They come from a process that has imported everything before, so that each takes some milliseconds to start.
"""

import asyncio
import multiprocessing
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from miniagents import Message
from miniagents.ext.cache import RedisCache
from miniagents.ext.checkpoints import (
    CheckpointStore,
    CheckpointStoreError,
    FileCheckpointStore,
    NewEntry,
    RedisCheckpointStore,
    SQLiteCheckpointStore,
)

__all__ = ["Child", "Place", "append_for_ever", "claim_and_wait", "claim_late", "opened", "running", "tell_later"]

Place = tuple[str, str, str]
"""What kind of store, where, and the prefix of its keys."""

_PATIENCE = 20.0
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[CheckpointStore]:
    """Opens the store of that place."""
    kind, where, prefix = place
    if kind == "sqlite":
        async with SQLiteCheckpointStore(where) as store:
            yield store
    elif kind == "files":
        async with FileCheckpointStore(where) as store:
            yield store
    else:
        async with (
            RedisCache.from_url(where, default_prefix=prefix) as cache,
            RedisCheckpointStore(cache) as redis_store,
        ):
            yield redis_store


class Child:
    """A process that does something with a store, and what is heard of it."""

    def __init__(self, work: Callable[[CheckpointStore, Connection], Awaitable[None]], place: Place) -> None:
        self._connection, other = _context.Pipe()
        self.process = _context.Process(target=_run, args=(work, place, other), daemon=True)
        self.process.start()
        other.close()

    def said(self) -> Any:
        """Waits for what it says next; None if it has ended."""
        assert self._connection.poll(_PATIENCE), "the process says nothing"
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            return None

    def tell(self, what: Any) -> None:
        """Says something to it."""
        self._connection.send(what)

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Ends it as a power failure does, but for the disk."""
        self.process.kill()
        self.process.join(_PATIENCE)

    def close(self) -> None:
        self.kill()
        self._connection.close()
        self.process.close()


@contextmanager
def running(work: Callable[[CheckpointStore, Connection], Awaitable[None]], place: Place) -> Iterator[Child]:
    """Starts a process, and ends it however that is left."""
    child = Child(work, place)
    try:
        yield child
    finally:
        child.close()


def _run(work: Callable[[CheckpointStore, Connection], Awaitable[None]], place: Place, connection: Connection) -> None:
    async def main() -> None:
        async with opened(place) as store:
            await work(store, connection)

    asyncio.run(main())


async def append_for_ever(store: CheckpointStore, connection: Connection) -> None:
    """Appends groups of entries to the run, and says of each when it is confirmed."""
    claim = await store.claim("run", lease=60)
    number = len(await store.read("run"))
    connection.send(number)
    while True:
        size = number % 4 + 1
        group = f"{claim.epoch}-{number}"
        shared, own = Message("shared"), Message(f"own {number}")
        entries = [
            NewEntry("state", f"node-{index}", number, 1, {"group": group, "size": size, "said": [shared, own]})
            for index in range(size)
        ]
        recorded = await store.append(claim, entries, status=f"at {number}")
        number = recorded[-1].sequence
        connection.send(number)


async def claim_and_wait(store: CheckpointStore, connection: Connection) -> None:
    """Claims the run when it is told to, says how that went, and waits."""
    connection.send("ready")
    await asyncio.to_thread(connection.recv)
    try:
        claim = await store.claim("run", lease=60)
    except CheckpointStoreError as error:
        connection.send((type(error).__name__, str(error), os.getpid()))
    else:
        connection.send((None, str(claim.holder), os.getpid()))
        await claim.until_lost()


async def claim_late(store: CheckpointStore, connection: Connection) -> None:
    """Claims the run, and appends to it as soon as it is told to, which may be too late."""
    claim = await store.claim("run", lease=0.5)
    await store.append(claim, [NewEntry("started", "a")])
    connection.send("claimed")
    connection.recv()  # it blocks the event loop: whoever does not live properly loses his claim
    try:
        await store.append(claim, [NewEntry("finished", "a", data="late")], status="done")
    except CheckpointStoreError as error:
        connection.send(type(error).__name__)


async def tell_later(store: CheckpointStore, connection: Connection) -> None:
    """Tells the run something when it is told to."""
    connection.send("ready")
    await asyncio.to_thread(connection.recv)
    connection.send(await store.tell("run", ("answer", "a", 1, 1, Message("yes"))))
