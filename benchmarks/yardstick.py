"""What somebody would write by hand on plain asyncio: a list that several readers follow, each with a waiter."""

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedList(Generic[T]):
    """An append-only list; readers are async generators, the cheapest readers that Python has."""

    __slots__ = ("_closed", "_items", "_waiters")

    def __init__(self) -> None:
        self._items: list[T] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._closed = False

    def append(self, item: T) -> None:
        self._items.append(item)
        if self._waiters:
            self._wake()

    def close(self) -> None:
        self._closed = True
        self._wake()

    async def read(self) -> AsyncIterator[T]:
        position = 0
        items = self._items
        while True:
            while position < len(items):
                yield items[position]
                position += 1
            if self._closed:
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
