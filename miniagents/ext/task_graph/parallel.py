"""The modules of one node: one after the other or side by side, until one succeeds where that is enough."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from miniagents.ext.task_graph.modules import Result
from promising.promise import CoroutinePromise

__all__ = ["ModuleRun", "one_by_one", "side_by_side"]


Work: TypeAlias = Callable[[], Awaitable[Result]]


class ModuleRun(NamedTuple):
    """A module that is about to run.

    Attributes:
        work: What it does.
        is_enough: Whether nothing further has to run when it has succeeded.
    """

    work: Work
    is_enough: bool


class _Outcome(NamedTuple):
    place: int
    result: Result | None
    error: BaseException | None


async def one_by_one(modules: Sequence[ModuleRun]) -> list[Result]:
    """Runs modules one after the other.

    Args:
        modules: The modules.

    Returns:
        The results of those that have succeeded.

    Raises:
        Exception: What the first has failed with whose success is not enough, or else the last if none has succeeded.
    """
    results: list[Result] = []
    failures: list[Exception] = []
    for module in modules:
        if not module.is_enough:
            results.append(await module.work())
            continue
        try:
            results.append(await _by_itself(module.work))
            break
        except Exception as error:
            failures.append(error)
    return _unless_all_failed(results, failures)


async def side_by_side(modules: Sequence[ModuleRun]) -> list[Result]:
    """Runs modules at the same time; those that are still at work when all is decided are cancelled.

    Args:
        modules: The modules.

    Returns:
        The results of those that have succeeded, in the order of the modules.

    Raises:
        Exception: See `one_by_one`.
    """
    ended: asyncio.Queue[_Outcome] = asyncio.Queue()
    promises = [_started(_told(place, module.work, ended)) for place, module in enumerate(modules)]
    results: dict[int, Result] = {}
    failures: list[Exception] = []
    try:
        for _ in modules:
            place, result, error = await ended.get()
            if result is not None:
                results[place] = result
                if modules[place].is_enough:
                    break
            elif isinstance(error, Exception) and modules[place].is_enough:
                failures.append(error)
            elif error is not None:
                raise error
    finally:  # what one that has succeeded has started goes on
        await _stop(promise for place, promise in enumerate(promises) if place not in results)
    return _unless_all_failed([results[place] for place in sorted(results)], failures)


async def _by_itself(work: Work) -> Result:
    """Does some work such that, if it fails, nothing is left of what it has started."""
    promise: CoroutinePromise[Result] = _started(_awaited(work))
    try:
        return await promise
    except BaseException:
        await _stop([promise])
        raise


async def _awaited(work: Work) -> Result:
    return await work()


async def _told(place: int, work: Work, ended: "asyncio.Queue[_Outcome]") -> None:
    try:
        ended.put_nowait(_Outcome(place, await work(), None))
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        ended.put_nowait(_Outcome(place, None, error))


def _started(work: Coroutine[Any, Any, Any]) -> CoroutinePromise[Any]:
    promise = CoroutinePromise(work)
    if promise._context is not None:  # outside of any context
        promise._start_now()
    return promise


async def _stop(promises: Iterable[CoroutinePromise[Any]]) -> None:
    """Cancels all, and waits until they have cleaned up."""
    stopped = [(promise, promise._run) for promise in promises]
    for promise, _ in stopped:
        promise.cancel()
    for _, run in stopped:
        if run is not None:
            await run._wait_until_over()


def _unless_all_failed(results: list[Result], failures: list[Exception]) -> list[Result]:
    if failures and not results:
        *others, last = failures
        for error in others:
            last.add_note(f"before that failed {type(error).__name__}: {error}")
        raise last
    return results
