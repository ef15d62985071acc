"""The same objects as in `promising.errors`."""

from promising.errors import (
    AppenderNotClosedError,
    CircularWaitError,
    PromiseCancelledError,
    PromisingError,
    StreamClosedError,
    UnresolvedPromiseError,
    as_seen_by_consumers,
    explicitly_cancelled,
)

__all__ = [
    "AppenderNotClosedError",
    "CircularWaitError",
    "PromiseCancelledError",
    "PromisingError",
    "StreamClosedError",
    "UnresolvedPromiseError",
    "as_seen_by_consumers",
    "explicitly_cancelled",
]
