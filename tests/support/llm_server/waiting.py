"""What tests wait for, in whichever thread or event loop they run."""

import asyncio
import threading
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 10.0
"""For how many seconds a test waits for the server or the client before it fails."""


class Signal:
    """An event that any thread sets, and that threads and event loops wait for."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._waiters: set[asyncio.Future[None]] = set()

    def set(self) -> None:
        with self._lock:
            self._event.set()
            waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            with suppress(RuntimeError):  # its event loop is closed
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._event.is_set():
                return
            self._waiters.add(waiter)
        try:
            await waiter
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    def block(self, seconds: float = PATIENCE) -> None:
        """Waits in a thread without an event loop."""
        if not self._event.wait(seconds):
            raise TimeoutError(f"nothing happened in {seconds:g} s")


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


class Gate:
    """Where the server stops until the test opens the gate.

    Attributes:
        reached: Is set when the server has come to the gate, and has sent all that stands before it.
    """

    def __init__(self) -> None:
        self.reached = Signal()
        self._opened = Signal()

    def open(self) -> None:
        self._opened.set()

    async def pass_through(self) -> None:
        self.reached.set()
        await self._opened.wait()


class Delay(Gate):
    """For manual trials only: a gate that opens by itself."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def pass_through(self) -> None:
        await asyncio.sleep(self._seconds)


async def in_time(waiting: Awaitable[T], otherwise: str) -> T:
    try:
        return await asyncio.wait_for(waiting, PATIENCE)
    except TimeoutError:
        raise AssertionError(f"{otherwise} within {PATIENCE:g} s") from None
