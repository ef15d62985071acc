"""Which failures of a request may pass, and how long to wait before it is tried again."""

import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from miniagents.ext.llm.llm_common import ModelTimeoutError, TruncatedAnswerError

__all__ = ["MAX_WAITING_SECONDS", "is_transient", "retry_after", "with_retries", "without_retries"]

T = TypeVar("T")

MAX_WAITING_SECONDS = 60.0
"""How long is waited in all between the attempts of one request."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 16.0

_logger = logging.getLogger("miniagents")
_retries_allowed: ContextVar[bool] = ContextVar("miniagents.retries_allowed", default=True)

_TRANSIENT_TYPES = ("overloaded", "rate_limit", "server_error", "api_error", "timeout", "throttling", "unavailable",
                    "internal", "modelstreamerror")  # fmt: skip


@contextmanager
def without_retries() -> Iterator[None]:
    """Requests of what is called inside are not tried again: somebody else takes over when they fail."""
    before = _retries_allowed.get()
    _retries_allowed.set(False)
    try:
        yield
    finally:
        _retries_allowed.set(before)


async def with_retries(
    attempt: Callable[[], Awaitable[T]],
    *,
    max_retries: int,
    package: Any,
    who: str,
    on_retry: Callable[[BaseException, float], None],
) -> T:
    """Does something again, with pauses that grow, as long as it fails for reasons that may pass.

    Args:
        attempt: What to do.
        max_retries: How often to do it again.
        package: The SDK, whose errors are known.
        who: Who is asked, for the log.
        on_retry: Is told of each failure after which it is tried again, and of the pause in seconds.

    Returns:
        What the first attempt returns that succeeds.

    Raises:
        Exception: What the last attempt has failed with.
    """
    from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

    def wait(state: RetryCallState) -> float:
        assert state.outcome is not None
        asked_for = retry_after(state.outcome.exception())
        if asked_for is not None:
            return asked_for
        backoff: float = min(_FIRST_WAIT * 2 ** (state.attempt_number - 1), _LONGEST_WAIT)
        return backoff * random.uniform(0.75, 1.0)

    def is_enough(state: RetryCallState) -> bool:
        return state.attempt_number > retries or state.idle_for + state.upcoming_sleep > MAX_WAITING_SECONDS

    def tell(state: RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert error is not None
        _logger.info("%s failed (%s); it is tried again in %.1f s", who, type(error).__name__, state.upcoming_sleep)
        on_retry(error, state.upcoming_sleep)

    retries = max_retries if _retries_allowed.get() else 0
    retrying = AsyncRetrying(
        retry=retry_if_exception(lambda error: is_transient(error, package)),
        stop=is_enough,
        wait=wait,
        before_sleep=tell,
        reraise=True,
    )
    return await retrying(attempt)


def is_transient(error: BaseException, package: Any) -> bool:
    """Whether the same request may succeed a little later.

    Args:
        error: What it has failed with.
        package: The SDK that was used.

    Returns:
        True for rate limits, errors of the server, time-outs and lost connections.
    """
    if isinstance(error, (TruncatedAnswerError, ModelTimeoutError, package.APIConnectionError)):
        return True
    headers = _headers(error)
    if headers.get("x-should-retry") in ("true", "false"):
        return bool(headers["x-should-retry"] == "true")
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and status != 200:
        return status in (408, 409, 429) or status >= 500
    if isinstance(error, package.APIError):  # an event of the stream, which has a type at most
        kind = f"{getattr(error, 'type', None)} {getattr(error, 'code', None)}".lower()
        return any(word in kind for word in _TRANSIENT_TYPES)
    return _is_of_transport(error)


def retry_after(error: BaseException | None) -> float | None:
    """How long a server asks to wait before the request is tried again.

    Args:
        error: Its answer, as the error of the SDK.

    Returns:
        Seconds, at least 0; None where it does not say.
    """
    headers = _headers(error)
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / divisor
        except (KeyError, ValueError):
            continue
        if not math.isnan(seconds):
            return max(seconds, 0.0)
    try:
        return max(parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time(), 0.0)
    except (KeyError, ValueError):
        return None


def _headers(error: BaseException | None) -> Any:
    return getattr(getattr(error, "response", None), "headers", None) or {}


def _is_of_transport(error: BaseException) -> bool:
    import httpx2

    return isinstance(error, httpx2.TransportError)
