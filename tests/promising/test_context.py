"""A context is a scope: it ends when all that it started has ended."""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from typing import Any

import pytest

import promising
from miniagents.testing import assert_no_leftovers, quiescence
from promising import Promise, PromiseCancelledError, PromisingContext, StreamedPromise
from tests.promising.helpers import VIRTUAL_ONLY, error_of, read, resolver_of, streamer_of


async def forever(_: Any = None) -> None:
    await asyncio.get_running_loop().create_future()


async def test_the_exit_waits_for_everything() -> None:
    """Work that nobody awaits, and what it started, has ended when the context has."""
    log: list[int] = []

    async def child(_: Any) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        log.append(2)

    async def parent(_: Any) -> None:
        Promise(child)
        log.append(1)

    async with PromisingContext() as context:
        Promise(parent)
        context.start_soon(asyncio.sleep(0))
    assert log == [1, 2]


async def test_leaving_by_an_error_cancels() -> None:
    """An error that leaves the block cancels what runs, and is raised as itself."""
    log: list[str] = []

    async def resolver(_: Any) -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    with pytest.raises(ValueError, match="leave"):
        async with PromisingContext():
            promise = Promise(resolver)
            await quiescence()
            raise ValueError("leave")
    assert log == ["cleaned up"]
    assert isinstance(await error_of(promise), PromiseCancelledError)


async def test_cancelling_the_exit_again_and_again() -> None:
    """However often the exit is cancelled, it waits for the clean-up, without disturbing it, and then raises that."""
    gate = asyncio.Event()
    log: list[str] = []

    async def resolver(_: Any) -> None:
        try:
            await forever()
        finally:
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    log.append("again")

    async def run() -> None:
        async with PromisingContext():
            Promise(resolver)
            await asyncio.sleep(0)

    async with assert_no_leftovers():
        task = asyncio.create_task(run())
        for _ in range(3):
            await quiescence()
            task.cancel()
        await quiescence()
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert log == []


async def test_contexts_nest() -> None:
    """The inner context waits for its own, the outer one goes on; afterwards work belongs to the outer one again."""
    async with PromisingContext() as outer:
        gate = asyncio.Event()

        async def resolver(_: Any) -> str:
            await gate.wait()
            return "outer"

        promise = Promise(resolver)
        async with PromisingContext() as inner:
            assert PromisingContext.current() is inner
            assert PromisingContext.outermost() is outer
            assert await Promise(resolver_of("inner")) == "inner"
        assert PromisingContext.current() is outer
        assert not promise.done()
        gate.set()
        assert await promise == "outer"
    assert PromisingContext.current() is None


async def test_a_context_inside_a_producer_ends_with_its_cancellation() -> None:
    """Cancelling a producer cancels the context that it has opened."""
    log: list[str] = []

    async def child(_: Any) -> None:
        try:
            await forever()
        finally:
            log.append("child cancelled")

    async def parent(_: Any) -> None:
        async with PromisingContext():
            Promise(child)

    async with PromisingContext():
        promise = Promise(parent)
        await quiescence()
        promise.cancel()
    assert log == ["child cancelled"]


async def test_outside_of_a_context_nothing_runs_in_the_background() -> None:
    """A promise starts with the first await, in the context that is open there."""
    log: list[Any] = []

    async def resolver(_: Any) -> int:
        log.append(PromisingContext.current())
        return 1

    without, inside = Promise(resolver), Promise(resolver)
    stream = StreamedPromise(streamer_of([1, 2]))
    await quiescence()
    assert not log
    assert await without == 1
    assert await read(stream) == [1, 2]
    async with PromisingContext() as context:
        assert await inside == 1
    assert log == [None, context]


@pytest.mark.parametrize("by_default", [True, False])
async def test_lazy_promises_start_with_the_first_await(by_default: bool) -> None:
    """With `start_soon=False`, or in a context that says so, nothing starts before somebody asks."""
    log: list[str] = []

    async def resolver(_: Any) -> int:
        log.append("started")
        return 1

    async with PromisingContext(start_everything_soon_by_default=by_default):
        lazy = Promise(resolver, start_soon=False) if by_default else Promise(resolver)
        await quiescence()
        assert not log
        assert await lazy == 1
        await Promise(resolver, start_soon=True)
    assert log == ["started"] * 2


async def test_context_variables_are_those_of_the_place_where_the_promise_was_made() -> None:
    """Also a promise that starts later, elsewhere, sees the variables as they were."""
    variable = contextvars.ContextVar("variable", default="unset")

    async def resolver(_: Any) -> str:
        return variable.get()

    variable.set("made here")
    outside = Promise(resolver)
    async with PromisingContext():
        eager, lazy = Promise(resolver), Promise(resolver, start_soon=False)
        variable.set("changed")
        assert [await eager, await lazy, await outside] == ["made here"] * 3


async def test_lazy_work_of_a_producer_that_is_over_belongs_to_the_context() -> None:
    """A promise that outlives its maker can still be started, and is waited for."""
    log: list[str] = []

    async def late(_: Any) -> str:
        await asyncio.sleep(0)
        log.append("done")
        return "late"

    async def maker(_: Any) -> Promise[str]:
        return Promise(late, start_soon=False)

    async with PromisingContext():
        lazy = await Promise(maker)
        await quiescence()
        task = asyncio.create_task(error_of(lazy))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
    assert log == ["done"]


async def test_runs_that_only_wait_for_a_reader_end_with_the_context() -> None:
    """Producers that are paused because nobody reads do not keep the context open."""
    log: list[str] = []

    async def streamer(_: Any) -> AsyncIterator[int]:
        try:
            for number in range(100):
                yield number
        finally:
            log.append("closed")

    async def parent(_: Any) -> int:
        stream = StreamedPromise(streamer, max_ahead=1)
        return await anext(aiter(stream))

    async with PromisingContext():
        StreamedPromise(streamer, max_ahead=2)
        lazy = StreamedPromise(streamer, start_soon=False)
        assert await anext(aiter(lazy)) == 0
        assert await Promise(parent) == 0
    assert log == ["closed"] * 3


async def test_entering_again() -> None:
    """A context can be used again when it has ended, and not before."""
    context = PromisingContext()
    for _ in range(2):
        async with context:
            assert await Promise(resolver_of(1)) == 1
            with pytest.raises(RuntimeError, match="open already"):
                await context.__aenter__()


async def test_start_soon_needs_an_open_context() -> None:
    """A context that is not open refuses work with a clear error."""
    with pytest.raises(RuntimeError, match="not open"):
        PromisingContext().start_soon(asyncio.sleep(0))


async def test_clean_up_at_the_exit() -> None:
    """Registered clean-up runs after all work, in reverse order, and one that fails does not stop the others."""
    log: list[Any] = []

    async def note(what: Any) -> None:
        log.append(what)
        if what == 2:
            raise ValueError("logged")

    async with PromisingContext() as context:
        context.call_on_exit(lambda: note(1))
        context.call_on_exit(lambda: note(2))
        context.start_soon(note("work"))
    assert log == ["work", 2, 1]


@pytest.mark.asyncio(**VIRTUAL_ONLY)
async def test_a_slow_exit_says_what_it_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    """An exit that takes more than five seconds logs the tree of what runs."""

    async def slow_writer(_: Any) -> None:
        await asyncio.sleep(6)

    async with PromisingContext():
        Promise(slow_writer)
    assert "slow_writer: at work" in caplog.text


async def test_tree() -> None:
    """`tree()` shows who runs and who waits for whom."""
    async with PromisingContext():
        blocker = Promise(forever)

        async def waiter(_: Any) -> None:
            await blocker

        promise = Promise(waiter)
        await quiescence()
        lines = promising.tree().splitlines()
        assert lines[1:] == ["├─ forever: at work", f"└─ {waiter.__qualname__}: waits for forever"]
        blocker.cancel()
        await error_of(promise)
    assert "Nothing runs" in promising.tree()
