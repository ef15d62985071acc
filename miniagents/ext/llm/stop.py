"""Stopping an answer in the middle such that what has come is kept: no cancellation, and no error for its readers."""

import asyncio
import inspect
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any

from miniagents.ext.threads import in_thread

__all__ = ["StopSwitch", "Stopped", "watch_for_stop_signal"]

_logger = logging.getLogger("miniagents")


class Stopped(Exception):
    """The switch was pressed. It does not leave the agents."""


class StopSwitch:
    """Ends what is at work inside of `async with switch:` at once, wherever it waits, with `Stopped`.

    Attributes:
        is_on: Whether it was pressed. It stays so.
    """

    __slots__ = ("_scopes", "is_on")

    def __init__(self) -> None:
        self.is_on = False
        self._scopes: set[asyncio.Timeout] = set()

    def press(self) -> None:
        """Stops what is at work, and all that begins later."""
        self.is_on = True
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time())

    def scope(self) -> "_Scope":
        """What can be stopped: `async with switch.scope(): ...`."""
        return _Scope(self, self._scopes)


class _Scope:
    # A time-out that is set off by hand: it tells its own cancellation from those that others ask for.
    __slots__ = ("_scopes", "_switch", "_timeout")

    def __init__(self, switch: StopSwitch, scopes: set[asyncio.Timeout]) -> None:
        self._switch = switch
        self._scopes = scopes
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        if self._switch.is_on:
            raise Stopped
        await self._timeout.__aenter__()
        self._scopes.add(self._timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._scopes.discard(self._timeout)
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise Stopped from None


async def watch_for_stop_signal(
    function: Callable[[str | None, str | None], Any],
    seconds: float,
    user_id: str | None,
    chat_id: str | None,
    press: Callable[[], None],
) -> None:
    """Asks the user's function again and again whether to stop, until it says so. A call ends before the next begins.

    Args:
        function: The function, sync (it runs in a thread) or async; what it raises is logged, and it is asked again.
        seconds: How long to wait between two calls.
        user_id: Its first argument.
        chat_id: Its second argument.
        press: What to call when it says True.
    """
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))
    while True:
        try:
            if is_async:
                outcome = await function(user_id, chat_id)
            else:
                outcome = await in_thread(function, user_id, chat_id)
                if inspect.isawaitable(outcome):
                    outcome = await outcome
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the conversation has ended
            _logger.exception("the stop signal function failed")
            outcome = False
        if outcome:
            press()
            return
        await asyncio.sleep(seconds)
