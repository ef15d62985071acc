"""The errors of the promise layer.

::

    PromisingError
    ├── PromiseCancelledError        the producer was cancelled, by `promise.cancel()` or by anything else
    ├── CircularWaitError            producers wait for each other in a ring
    ├── StreamClosedError            a piece came after the end of its stream      (a RuntimeError too)
    ├── AppenderNotClosedError       an appender was dropped before it was closed
    └── UnresolvedPromiseError       a value was asked for that is not there yet   (a RuntimeError too)

Whatever else a producer raises arrives at its consumers as itself. The exceptions to that rule are in
`as_seen_by_consumers`.
"""

import asyncio

__all__ = [
    "AppenderNotClosedError",
    "CircularWaitError",
    "PromiseCancelledError",
    "PromisingError",
    "StreamClosedError",
    "UnresolvedPromiseError",
    "as_seen_by_consumers",
    "explicitly_cancelled",
    "forget_consumer",
    "has_consumers",
    "note_consumer",
]


class PromisingError(Exception):
    """What all errors of this layer have in common."""


class PromiseCancelledError(PromisingError):
    """The producer of a promise was cancelled, so there is no value.

    This is an ordinary exception and not `asyncio.CancelledError`, so that a consumer never mistakes the end of
    somebody else's work for its own cancellation. Catch it where the loss of that value is acceptable.

    Attributes:
        explicit: Whether somebody asked for it (`promise.cancel()`, or a context that was left early), so that there is
            nothing to report when nobody consumes it.
    """

    explicit: bool = False


class CircularWaitError(PromisingError):
    """Producers wait for each other in a ring, so none of them could ever go on.

    The message names the ring. Break it: start the later call without waiting for it, or hand on its promise instead of
    its value.
    """


class StreamClosedError(PromisingError, RuntimeError):
    """A piece was added to a stream that has ended. Add it before the end, or keep the stream open for longer."""


class AppenderNotClosedError(PromisingError):
    """An appender was dropped before it was closed, so its readers would have waited for ever.

    Use the appender as a context manager (`with appender:`), or call `close()` when the last piece has been appended.
    """


class UnresolvedPromiseError(PromisingError, RuntimeError):
    """The value of a promise was asked for without waiting, before it was there. `await` the promise first."""


_CONSUMERS = "_promising_consumers"


def note_consumer(error: BaseException, consumer: int) -> None:
    """Notes on an error to whom it is being raised.

    It is noted on the error itself, because the same error may come to many promises, and nothing else lasts as long.

    Args:
        error: The error.
        consumer: The number of the run that gets it, -1 for anybody else.
    """
    error.__dict__.setdefault(_CONSUMERS, set()).add(consumer)


def forget_consumer(error: BaseException, consumer: int) -> None:
    """Notes that a consumer has not kept the error for itself, but fails with it in its turn."""
    error.__dict__.get(_CONSUMERS, set()).discard(consumer)


def has_consumers(error: BaseException) -> bool:
    """Whether anybody got the error and dealt with it."""
    return bool(error.__dict__.get(_CONSUMERS))


def explicitly_cancelled(producer: object) -> PromiseCancelledError:
    """Makes the error for the consumers of a promise that somebody cancelled."""
    error = PromiseCancelledError(f"{producer!r} was cancelled")
    error.explicit = True
    return error


def as_seen_by_consumers(error: BaseException, producer: object) -> BaseException:
    """Turns what a producer raised into what its consumers get.

    Args:
        error: What the producer raised.
        producer: What stands for the producer in the message; only its `repr` is used.

    Returns:
        The same object, except where raising it in a consumer would be taken for something else: a `CancelledError`
        would look like the consumer's own cancellation, and `StopIteration`, `StopAsyncIteration` and `GeneratorExit`
        would end the consumer's loop in silence.
    """
    if isinstance(error, asyncio.CancelledError):
        seen: BaseException = PromiseCancelledError(f"{producer!r} was cancelled")
    elif isinstance(error, (StopIteration, StopAsyncIteration, GeneratorExit)):
        seen = RuntimeError(f"{producer!r} raised {type(error).__name__}")
    else:
        return error
    seen.__cause__ = error
    return seen
