"""The promise of a value: its state, its value, who waits for it. It holds no task; the work is a `Run`."""

from asyncio import iscoroutine
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from promising.errors import PromiseCancelledError, explicitly_cancelled
from promising.run import Owner, Run, current_owner, owner_at_work
from promising.sentinels import DEFAULT, NO_VALUE, Sentinel
from promising.unconsumed import Failure
from promising.waiters import Waiters, park, wake

if TYPE_CHECKING:
    from promising.context import PromisingContext

__all__ = ["CoroutinePromise", "Promise", "Resolver", "StartSoon", "check_callable"]

T = TypeVar("T")

Resolver: TypeAlias = Callable[[Any], Awaitable[T]]
"""What makes the value: an async function that is given the promise, and returns or raises."""

StartSoon: TypeAlias = bool | Sentinel


class Promise(Generic[T]):
    """The promise of a value that an async function makes, once, whoever asks for it and however often.

    Inside a context the work starts at the next switch of tasks, elsewhere with the first `await`. It runs in a task of
    its own with the context variables of the place where the promise was made. Any number of consumers can wait, one
    that is cancelled disturbs nobody. A promise is an awaitable and no future: `asyncio.gather`, `wait_for`, `shield`
    and `as_completed` take it as it is; give `asyncio.ensure_future(promise)` to `asyncio.wait`.

    Args:
        resolver: `async def resolver(promise) -> value`. A subclass may define `async def _resolver(self)` instead.
        prefill_result: The value, if it is there already.
        start_soon: False to start with the first `await` also inside a context.

    Raises:
        TypeError: Neither or both of a resolver and a value were given, or the resolver cannot be called.

    Example:
        ```python
        async def fetch(promise: Promise[str]) -> str:
            return "value"

        promise = Promise(fetch)
        assert await promise == await promise == "value"  # fetched once
        ```
    """

    __slots__ = ("__weakref__", "_context", "_failure", "_given_resolver", "_run", "_value", "_waiters")

    _context: Context | None  # there as long as the work waits for somebody to ask for it
    _failure: Failure | None
    _run: Run | None  # there from the start of the work until all of it is over
    _waiters: Waiters | None

    def __init__(
        self,
        resolver: "Resolver[T] | None" = None,
        *,
        prefill_result: T | Sentinel = NO_VALUE,
        start_soon: StartSoon = DEFAULT,
    ) -> None:
        self._value: Any = prefill_result
        self._context = self._failure = self._run = self._waiters = None
        self._given_resolver = resolver
        has_method = type(self)._resolver is not Promise._resolver
        has_resolver = has_method or resolver is not None
        if has_resolver is (prefill_result is not NO_VALUE) or (has_method and resolver is not None):
            raise TypeError(_ONE_OF_TWO.format(type(self).__name__))
        if has_resolver:
            check_callable(resolver, "resolver")
            self._start_soon_or_later(start_soon)

    # --- what a consumer uses ---

    def __await__(self) -> Generator[Any, Any, T]:
        while not self._settled:
            if self._context is not None:
                self._start_now()
            if self._waiters is None:
                self._waiters = []
            yield from park(self._waiters)
        if self._failure is not None:
            self._failure.throw()
        value: T = self._value
        return value

    async def aresolve(self) -> T:
        """Waits for the value: the named form of `await promise`.

        Returns:
            The value.

        Raises:
            PromiseCancelledError: The producer was cancelled.
            BaseException: Whatever the producer raised.
        """
        return await self

    def done(self) -> bool:
        """Whether `await` would return or raise at once."""
        return self._settled

    def cancel(self) -> bool:
        """Cancels the work and all that it started, also where the promise itself has its value already.

        Consumers get a `PromiseCancelledError` at once; the context waits for the clean-up of what was cancelled. What
        was streamed stays readable, and what the producer had merely received or forwarded is not touched.

        Returns:
            True if anything was stopped.
        """
        if self._run is not None:
            return self._run._cancel()
        if not self._can_fail():
            return False
        return self._settle_as_cancelled(explicitly_cancelled(self))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._label()}: {self._state()}>"

    # --- the state ---

    @property
    def _settled(self) -> bool:
        return self._value is not NO_VALUE or self._failure is not None

    def _state(self) -> Literal["pending", "resolved", "failed", "cancelled"]:
        failure = self._current_failure()
        if failure is not None:
            return "cancelled" if isinstance(failure.error, PromiseCancelledError) else "failed"
        return "resolved" if self.done() else "pending"

    def _current_failure(self) -> Failure | None:
        return self._failure

    def _label(self) -> str:
        """What the work is called, for people."""
        producer = self._given_resolver
        return getattr(producer, "__qualname__", None) or type(self).__qualname__

    # --- the work ---

    async def _resolver(self) -> T:
        """Makes the value. Override it in a subclass, or give a resolver to the constructor."""
        assert self._given_resolver is not None
        return await self._given_resolver(self)

    async def _produce(self) -> None:
        """Does the work inside the task of the run; what it raises is the outcome, too."""
        self._resolve(await self._resolver())

    def _start_soon_or_later(self, start_soon: StartSoon) -> None:
        owner = current_owner.get()
        if owner is not None and owner._over:
            owner = owner_at_work()
        scope = owner._scope if owner is not None else None
        if scope is None or not (scope.start_everything_soon_by_default if start_soon is DEFAULT else start_soon):
            self._context = copy_context()
        else:
            self._start(owner, None)

    @staticmethod
    def _is_to_be_lazy(start_soon: StartSoon) -> bool:
        """Whether the producer is to make only what is asked for: it, or the context that is open here, was told so."""
        if start_soon is DEFAULT:
            owner = owner_at_work()
            scope = owner._scope if owner is not None else None
            return scope is not None and not scope.start_everything_soon_by_default
        return not start_soon

    def _start_now(self, owner: Owner | None = None) -> None:
        """Starts work that was put off, for the run that made the promise or else for the context at work here."""
        context = self._context
        assert context is not None
        if owner is None:
            owner = context.run(owner_at_work)
            if owner is None:
                here = owner_at_work()
                owner = here._scope if here is not None else None
        self._context = None
        try:
            self._start(owner, context)
        except BaseException:
            self._context = context  # it has not started, so that the right place can still start it
            raise

    def _start(self, owner: Owner | None, context: Context | None) -> None:
        run = Run(self)
        run._start(owner, self._label(), context)
        self._run = run

    # --- the outcome ---

    def _resolve(self, value: T) -> None:
        if value is NO_VALUE:
            raise TypeError(
                f"{self!r} was resolved with NO_VALUE, which stands for no value at all; return None instead"
            )
        if not self._settled:
            self._value = value
            self._wake()
            self._note_resolved(value)

    def _note_resolved(self, value: T) -> None:
        scope = self._run._scope if self._run is not None else None
        if scope is not None and scope.observes_resolutions:
            scope.note_resolved(self, value)

    def _fail(self, error: BaseException, scope: "PromisingContext | None") -> bool:
        """Settles the promise with an error, unless it is settled.

        Returns:
            Whether it was this error that settled it.
        """
        if not self._can_fail():
            return False
        if scope is not None:
            scope.unconsumed.add(error, repr(self._run))
        self._settle(Failure(error, None if scope is None else scope.unconsumed))
        return True

    def _can_fail(self) -> bool:
        return not self._settled

    def _settle(self, failure: Failure) -> None:
        self._failure = failure
        self._wake()

    def _settle_as_cancelled(self, cancelled: PromiseCancelledError) -> bool:
        self._context = None
        return self._fail(cancelled, None)

    def _wake(self) -> None:
        self._given_resolver = None
        if self._waiters is not None:
            waiters, self._waiters = self._waiters, None
            wake(waiters)


class CoroutinePromise(Promise[T]):
    """The promise of what a coroutine returns, which is closed properly if it is cancelled before it has begun.

    Args:
        coroutine: The coroutine, or anything else to await.
        start_soon: See `Promise`.
    """

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Awaitable[T], *, start_soon: StartSoon = DEFAULT) -> None:
        self._coroutine: Awaitable[T] | None = coroutine
        try:
            super().__init__(start_soon=start_soon)
        except BaseException:
            self._close()
            raise

    async def _resolver(self) -> T:
        coroutine, self._coroutine = self._coroutine, None
        assert coroutine is not None
        return await coroutine

    def _label(self) -> str:
        return getattr(self._coroutine, "__qualname__", None) or super()._label()

    def _settle_as_cancelled(self, cancelled: PromiseCancelledError) -> bool:
        self._close()
        return super()._settle_as_cancelled(cancelled)

    def _close(self) -> None:
        """Says that the coroutine will not be awaited, which Python would else complain of."""
        if iscoroutine(self._coroutine):
            self._coroutine.close()


def check_callable(function: object, what: str) -> None:
    """Raises a TypeError that says what to give instead, if `function` is neither None nor callable."""
    if function is not None and not callable(function):
        raise TypeError(
            f"the {what} is {function!r}, which cannot be called. Give the async function itself, not the result of "
            f"calling it."
        )


_ONE_OF_TWO = (
    "{} needs exactly one of `resolver` (or a `_resolver` method of a subclass), which makes the value, and "
    "`prefill_result`, which is the value."
)
