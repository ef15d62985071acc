"""How far a producer may run ahead of its readers.

Only streams that were asked to be bounded (`max_ahead=`) or lazy (`start_soon=False`) have a pacing; it costs the
others nothing.
"""

import math
from asyncio import Future, get_running_loop

from promising.run import Run, current_owner

__all__ = ["Pacing"]


class Pacing:
    """The demand of the readers of one stream, and the producer that waits for it.

    Args:
        max_ahead: How many pieces more than the furthest reader has asked for may be produced; 0 for none.
    """

    __slots__ = ("_demand", "_max_ahead", "_paused")

    def __init__(self, max_ahead: int) -> None:
        self._max_ahead = max_ahead
        self._demand: float = 0
        self._paused: Future[None] | None = None

    def ask_for(self, count: float) -> None:
        """A reader wants the first `count` pieces."""
        if count > self._demand:
            self._demand = count
            if self._paused is not None and not self._paused.done():
                self._paused.set_result(None)

    def ask_for_all(self) -> None:
        """Somebody awaits the whole."""
        self.ask_for(math.inf)

    async def pause(self, produced: int) -> None:
        """Returns when one piece more than `produced` is wanted.

        A run that is paused here is known to its context: when all the others have ended, nobody is left to read.
        """
        while produced >= self._demand + self._max_ahead:
            self._paused = get_running_loop().create_future()
            run = current_owner.get()
            scope = run._scope if run is not None else None
            if scope is not None and isinstance(run, Run):
                scope.note_paused(run)
            try:
                await self._paused
            finally:
                self._paused = None
                if scope is not None:
                    scope.paused.discard(run)
