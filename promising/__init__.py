"""Promises of values and of streams, for asyncio.

The layer below agents: it knows nothing of messages, and needs nothing but the standard library.

* `promise`: a value that a producer brings, once, for any number of consumers
* `stream`, `readers`, `replay`: a whole that comes piece by piece, read from the start by anybody at any time
* `appender`: streams that are written to; `sequence`: streams of streams that read as one; `pacing`: bounded streams
* `run`: a producer at work and all that it has started; `context`: the scope that waits for all of them
* `waiters`: where consumers wait; `circular`: who waits for whom, and rings of that
* `unconsumed`: errors on their way to consumers; `errors`, `sentinels`
"""

from promising.appender import StreamAppender
from promising.circular import tree
from promising.context import PromiseResolvedHandler, PromisingContext, detached
from promising.errors import (
    AppenderNotClosedError,
    CircularWaitError,
    PromiseCancelledError,
    PromisingError,
    StreamClosedError,
    UnresolvedPromiseError,
)
from promising.promise import Promise, Resolver
from promising.sentinels import AWAIT, CLEAR, DEFAULT, END, NO_VALUE, Sentinel
from promising.sequence import FlatSequence
from promising.stream import StreamedPromise, Streamer

__all__ = [
    "AWAIT",
    "CLEAR",
    "DEFAULT",
    "END",
    "NO_VALUE",
    "AppenderNotClosedError",
    "CircularWaitError",
    "FlatSequence",
    "Promise",
    "PromiseCancelledError",
    "PromiseResolvedHandler",
    "PromisingContext",
    "PromisingError",
    "Resolver",
    "Sentinel",
    "StreamAppender",
    "StreamClosedError",
    "StreamedPromise",
    "Streamer",
    "UnresolvedPromiseError",
    "detached",
    "tree",
]
