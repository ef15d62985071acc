"""The parking lot: where consumers wait until a promise or a stream has something new for them.

Each waiting consumer gets a future of its own, made when it has to wait and not before. One future for all of them
would be cheaper, but cancelling a task cancels the future that it waits for, and a consumer that leaves must not
disturb the others. That is also why nobody has to take a left waiter out: it is done, so waking passes it over.
"""

from asyncio import Future, get_running_loop
from typing import TypeAlias

__all__ = ["Waiters", "park", "wake"]

Waiters: TypeAlias = list[Future[None]]

_COMPACT_FROM = 16


def park(waiters: Waiters) -> "Future[None]":
    """Adds a waiter for the caller, who has to await it at once and to look again afterwards.

    Args:
        waiters: The lot. It is compacted in place at each power of two, so that a consumer that gives up and comes back
            for ever (a loop around `asyncio.wait_for`, say) does not fill it.

    Returns:
        The future to await. Its result says nothing; it may also raise, when waiting turned out to be pointless.
    """
    waiter: Future[None] = Future(loop=get_running_loop())
    waiters.append(waiter)
    count = len(waiters)
    if count >= _COMPACT_FROM and count & (count - 1) == 0:
        waiters[:] = [waiter for waiter in waiters if not waiter.done()]
    return waiter


def wake(waiters: Waiters) -> None:
    """Wakes everybody who waits in a lot that has been taken out of use."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
