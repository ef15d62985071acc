"""Errors on their way from producers to consumers, and the account of those that never arrived."""

import asyncio
import logging
from types import TracebackType
from typing import Any, NoReturn

from promising.errors import PromiseCancelledError, has_consumers, note_consumer
from promising.run import Run, current_owner

__all__ = ["Failure", "UnconsumedErrors"]

_OURS = ("promising.", "miniagents.interaction")
_logger = logging.getLogger("promising")


class UnconsumedErrors:
    """The errors of one context that have been raised to nobody so far.

    They are told apart by identity: an error that passes through ten promises is one error, and it counts as consumed
    when one consumer of any of them got it and did not fail with it in its turn.
    """

    __slots__ = ("_errors",)

    def __init__(self) -> None:
        self._errors: dict[int, tuple[BaseException, str]] = {}

    def add(self, error: BaseException, producer: str) -> None:
        """Notes an error that `producer` has raised, unless somebody has asked for it, or has dealt with it before."""
        if not (isinstance(error, PromiseCancelledError) and error.explicit) and not has_consumers(error):
            self._errors[id(error)] = (error, producer)

    def discard(self, error: BaseException) -> None:
        """Notes that the error is being raised to a consumer."""
        self._errors.pop(id(error), None)

    def report(self) -> BaseException | None:
        """Logs each error once and forgets it.

        Returns:
            The first `KeyboardInterrupt` or `SystemExit` among them. It is not logged: the context has to raise it.
        """
        fatal: BaseException | None = None
        for error, producer in self._errors.values():
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                fatal = fatal or error
            else:
                _logger.error(
                    "%s failed and nobody awaited or read what it promised: %s",
                    producer,
                    type(error).__name__,
                    exc_info=(type(error), error, _without_our_frames(error.__traceback__)),
                )
        self._errors.clear()
        return fatal


class Failure:
    """An error that stands where a value was expected, to be raised to each consumer.

    Args:
        error: What is raised.
        unconsumed: The account to strike it from when it is raised, if there is one.
    """

    __slots__ = ("_context", "_traceback", "_unconsumed", "error")

    def __init__(self, error: BaseException, unconsumed: UnconsumedErrors | None) -> None:
        self.error = error
        self._context = error.__context__
        self._traceback = _without_our_frames(error.__traceback__)
        self._unconsumed = unconsumed

    def throw(self) -> NoReturn:
        """Raises the error with the traceback of its origin, which would else grow with each consumer."""
        self.consume()
        try:
            raise self.error.with_traceback(self._traceback)
        finally:  # what the consumer happens to be handling has nothing to do with the error
            self.error.__context__ = self._context

    def consume(self) -> None:
        """Counts the error as consumed by whoever is at work here, who may look at it without having it raised."""
        note_consumer(self.error, _consumer_at_work())
        if self._unconsumed is not None:
            self._unconsumed.discard(self.error)


def _consumer_at_work() -> int:
    """The number of the run that an error is being raised in, in whatever task or inner context of it; -1 for none."""
    try:
        run = getattr(asyncio.current_task(), "run", None)
    except RuntimeError:  # what is settled can be read anywhere
        run = None
    owner: Any = run if run is not None else current_owner.get()
    while owner is not None and not isinstance(owner, Run):
        owner = owner._outer  # a context, which somebody has opened inside of something else
    return -1 if owner is None else owner._number


def _without_our_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Drops the leading frames of this package: they tell a user nothing, and they refer to the promise that failed."""
    while traceback is not None and traceback.tb_next is not None:
        if not traceback.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
            break
        traceback = traceback.tb_next
    return traceback
