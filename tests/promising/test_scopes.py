"""Contexts in contexts, contexts in producers, and contexts that are left in every possible way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

import promising
from miniagents.testing import assert_no_leftovers, quiescence
from promising import FlatSequence, Promise, PromiseCancelledError, PromisingContext, StreamAppender, StreamedPromise
from tests.promising.at_rest import at_rest, forever, outcome, turns
from tests.promising.helpers import VIRTUAL_ONLY, read, resolver_of, streamer_of


async def test_work_starts_at_the_next_switch_of_tasks() -> None:
    """Inside a context work starts soon, not at once, and in the order in which it was made."""
    log: list[int] = []

    def note(number: int) -> Any:
        async def resolver(_: Any) -> None:
            log.append(number)

        return resolver

    async with PromisingContext():
        for number in range(3):
            Promise(note(number))
        assert log == []
        await asyncio.sleep(0)
        assert log == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
async def test_left_by_any_error(error: type[BaseException]) -> None:
    """Whatever error leaves the block is raised as itself, when all that ran has been cancelled and has cleaned up."""
    log: list[str] = []
    raised = error()

    async def resolver(_: Any) -> None:
        try:
            await forever()
        finally:
            await turns(5)
            log.append("cleaned up")

    caught: BaseException | None = None
    async with assert_no_leftovers():
        try:
            async with PromisingContext() as context:
                Promise(resolver)
                context.start_soon(resolver(None))
                StreamedPromise(lambda _: _wait_in_a_generator(log))
                await quiescence()
                raise raised
        except BaseException as left_by:
            caught = left_by
    assert caught is raised
    assert log == ["cleaned up"] * 3


async def _wait_in_a_generator(log: list[str]) -> AsyncIterator[int]:
    try:
        yield 1
        await forever()
    finally:
        log.append("cleaned up")


async def test_an_inner_context_that_is_left_by_an_error_leaves_the_outer_one_alone() -> None:
    """Only what was started in the inner context is cancelled."""
    async with PromisingContext():
        gate = asyncio.Event()

        async def resolver(_: Any) -> str:
            await gate.wait()
            return "outer"

        outer = Promise(resolver)
        with pytest.raises(ValueError, match="inner"):
            async with PromisingContext():
                inner = Promise(resolver)
                await quiescence()
                raise ValueError("inner")
        assert isinstance(await at_rest(inner), PromiseCancelledError)
        gate.set()
        assert await at_rest(outer) == "outer"


async def test_an_outer_context_that_is_left_by_an_error_takes_the_inner_ones_along() -> None:
    """A context that was opened in a producer is cancelled with it, several levels deep."""
    log: list[int] = []

    def level(depth: int) -> Any:
        async def resolver(_: Any) -> None:
            try:
                async with PromisingContext():
                    if depth:
                        Promise(level(depth - 1))
                    await forever()
            finally:
                log.append(depth)

        return resolver

    with pytest.raises(ValueError, match="outer"):
        async with PromisingContext():
            Promise(level(3))
            await quiescence()
            raise ValueError("outer")
    assert log == [0, 1, 2, 3]


async def test_each_context_has_its_own_defaults() -> None:
    """What is made in a nested context follows the options of that context."""
    async with PromisingContext(start_everything_soon_by_default=False, appenders_capture_errors_by_default=True):
        lazy = Promise(resolver_of(1))
        async with PromisingContext():
            eager = Promise(resolver_of(2))
            with pytest.raises(ValueError, match="raised"), StreamAppender[int]():
                raise ValueError("raised")
        with StreamAppender[int]() as appender:
            raise ValueError("captured")
        assert isinstance(await at_rest(StreamedPromise(appender)), ValueError)
        assert (lazy.done(), eager.done()) == (False, True)


async def test_a_time_out_around_a_context() -> None:
    """`asyncio.timeout` cancels what runs in the context, and is a TimeoutError outside of it."""
    log: list[str] = []

    async def resolver(_: Any) -> None:
        try:
            await forever()
        finally:
            log.append("cleaned up")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), PromisingContext():
            Promise(resolver)
    assert log == ["cleaned up"]
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_tasks_of_ones_own_belong_to_nobody_but_what_they_promise_does() -> None:
    """A promise made by a task that the context does not know of is waited for like any other."""
    log: list[str] = []

    async def slow(_: Any) -> None:
        await turns(10)
        log.append("done")

    async def my_task() -> None:
        await turns(2)
        Promise(slow)

    async with PromisingContext():
        task = asyncio.create_task(my_task())
        Promise(slow)
    assert task.done()
    assert log == ["done"] * 2


async def test_start_soon_takes_coroutines_and_promises() -> None:
    """`start_soon` starts a coroutine, or a promise wherever it was made, and gives the promise of its result."""
    outside = Promise(resolver_of("outside"))
    async with PromisingContext(start_everything_soon_by_default=False) as context:
        lazy = Promise(resolver_of("lazy"))
        coroutine = context.start_soon(resolver_of("coroutine")(None))
        assert context.start_soon(lazy) is lazy
        assert context.start_soon(outside) is outside
        await quiescence()
        assert all(promise.done() for promise in (outside, lazy, coroutine))
        assert context.start_soon(outside) is outside
        assert await asyncio.gather(outside, lazy, coroutine) == ["outside", "lazy", "coroutine"]


@pytest.mark.parametrize("after", [0, 1, 2, 5])
async def test_start_soon_can_be_cancelled(after: int) -> None:
    """A coroutine that was handed over is cancelled by its promise, also before its first step."""
    async with assert_no_leftovers(), PromisingContext() as context:
        promise = context.start_soon(forever())
        await turns(after)
        assert promise.cancel() is True
        assert isinstance(await at_rest(promise), PromiseCancelledError)


async def test_a_context_can_be_entered_again_after_an_error() -> None:
    """A context that was left by an error, or with errors unreported, begins afresh."""
    context = PromisingContext()
    for _ in range(3):
        with suppress(ValueError):
            async with context:
                Promise(forever)
                await quiescence()
                raise ValueError
        async with context:
            assert PromisingContext.current() is context
            assert await Promise(resolver_of(1)) == 1
        assert PromisingContext.current() is None


async def test_work_that_clean_up_at_the_exit_starts_is_waited_for() -> None:
    """Nothing that was started in a context outlives it, also what its registered clean-up starts."""
    log: list[str] = []

    async def late() -> None:
        await turns(5)
        log.append("late")

    async with PromisingContext() as context:

        async def clean_up() -> None:
            context.start_soon(late())

        context.call_on_exit(clean_up)
    assert log == ["late"]


async def test_an_interrupt_in_the_clean_up_at_the_exit_does_not_stop_the_others() -> None:
    """Each registered clean-up runs, also where another one raises a KeyboardInterrupt; and none runs twice."""
    log: list[str] = []
    context = PromisingContext()

    async def note() -> None:
        log.append("ran")

    async def interrupted() -> None:
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        async with context:
            context.call_on_exit(note)
            context.call_on_exit(interrupted)
    assert log == ["ran"]
    async with context:
        pass
    assert log == ["ran"]


async def test_the_current_context_is_that_of_the_place() -> None:
    """`current` knows the context in the body, in producers, in what they start, and by class."""

    class Special(PromisingContext):
        pass

    async def resolver(_: Any) -> Any:
        return PromisingContext.current(), Special.current(), await Promise(inner)

    async def inner(_: Any) -> Any:
        return PromisingContext.current()

    assert PromisingContext.current() is None
    async with Special() as special:
        async with PromisingContext() as plain:
            assert (PromisingContext.current(), Special.current()) == (plain, special)
            assert await Promise(resolver) == (plain, special, plain)
        assert PromisingContext.current() is special
        task = asyncio.create_task(inner(None))
        assert await task is special
    assert Special.current() is None


@pytest.mark.asyncio(**VIRTUAL_ONLY)
async def test_only_a_slow_exit_logs(caplog: pytest.LogCaptureFixture) -> None:
    """An exit that takes less than five seconds says nothing; a slow block with a quick exit says nothing either."""
    async with PromisingContext() as context:
        context.start_soon(asyncio.sleep(100))
        await asyncio.sleep(99)
    assert not caplog.records
    async with PromisingContext() as context:
        context.start_soon(asyncio.sleep(5.5))
    assert len(caplog.records) == 1


async def test_detached_work_outlives_its_maker_and_not_the_context() -> None:
    """What is started in `detached()` survives its producer, and is waited for or cancelled by the context."""
    log: list[str] = []

    async def work(_: Any) -> None:
        try:
            await forever()
        finally:
            log.append("cancelled")

    async def maker(_: Any) -> None:
        with promising.detached():
            Promise(work)
            StreamedPromise(lambda _: _wait_in_a_generator(log))
        Promise(work)
        await forever()

    with pytest.raises(ValueError, match="leave"):
        async with PromisingContext():
            promise = Promise(maker)
            await quiescence()
            promise.cancel()
            await quiescence()
            assert log == ["cancelled"]
            raise ValueError("leave")
    assert sorted(log) == ["cancelled", "cancelled", "cleaned up"]


async def test_detached_outside_of_a_context() -> None:
    """Without a context `detached()` changes nothing."""
    with promising.detached():
        promise = Promise(resolver_of(1))
    await quiescence()
    assert not promise.done()
    assert await promise == 1


async def test_outside_of_a_context_what_a_producer_starts_waits_for_its_consumer() -> None:
    """Without a context promises made in a producer start when they are awaited, too, and end with it."""
    log: list[str] = []

    async def child(_: Any) -> str:
        log.append("child")
        return "child"

    async def parent(_: Any) -> str:
        kept, _unused = Promise(child), Promise(child)
        await turns(5)
        assert log == []
        return await kept

    assert await Promise(parent) == "child"
    await quiescence()
    assert log == ["child"]


async def test_a_consumer_that_leaves_outside_of_a_context() -> None:
    """Without a context, too, the producer goes on when its first consumer is cancelled."""
    gate = asyncio.Event()

    async def resolver(_: Any) -> str:
        await gate.wait()
        return "value"

    promise = Promise(resolver)
    leaving = asyncio.create_task(outcome(promise))
    await quiescence()
    leaving.cancel()
    await leaving
    gate.set()
    assert await at_rest(promise) == "value"


async def test_cancelling_outside_of_a_context_cancels_the_tree() -> None:
    """Without a context, too, `cancel` stops a producer and what it has started."""
    log: list[str] = []

    async def child(_: Any) -> None:
        try:
            await forever()
        finally:
            log.append("child")

    async def parent(_: Any) -> None:
        try:
            await Promise(child)
        finally:
            log.append("parent")

    async with assert_no_leftovers():
        promise = Promise(parent)
        consumer = asyncio.create_task(outcome(promise))
        await quiescence()
        assert promise.cancel() is True
        assert isinstance(await at_rest(consumer), PromiseCancelledError)
    assert sorted(log) == ["child", "parent"]


async def test_a_reader_in_the_scope_keeps_its_paused_producer_alive() -> None:
    """Only producers that nobody will read any more end with the context: a slow reader in it gets everything."""
    got: list[int] = []

    async def slow_reader(_: Any) -> None:
        async for piece in StreamedPromise(streamer_of(range(10)), max_ahead=1):
            await turns(10)
            got.append(piece)

    async with PromisingContext():
        lazy = StreamedPromise(streamer_of(range(5)), start_soon=False)
        Promise(slow_reader)

        async def reads_lazy(_: Any) -> None:
            async for piece in lazy:
                await turns(7)
                got.append(piece)

        Promise(reads_lazy)
    assert sorted(got) == sorted([*range(10), *range(5)])


async def test_a_producer_that_was_paused_and_goes_on_is_waited_for() -> None:
    """A producer of which everything has been asked for is at work like any other, though it was paused before."""
    log: list[str] = []

    async def streamer(_: Any) -> AsyncIterator[int]:
        for number in range(5):
            yield number
            await turns(5)
        log.append("ended")

    async with PromisingContext():
        stream = StreamedPromise(streamer, max_ahead=1)
        await quiescence()
        leaving = asyncio.create_task(outcome(stream))
        await turns(3)
        leaving.cancel()
        await leaving
    assert log == ["ended"]
    assert await stream == (0, 1, 2, 3, 4)


async def test_paused_producers_can_clean_up_with_new_work() -> None:
    """A producer that ends because nobody reads it any more can still await others in its `finally`."""
    log: list[Any] = []

    async def streamer(_: Any) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            log.append(await Promise(resolver_of("saved")))

    async with PromisingContext():
        StreamedPromise(streamer, max_ahead=1)
        flat: Any = FlatSequence(streamer, flatten=lambda item: [item], start_soon=False)
        assert await anext(aiter(flat)) == 1
    assert log == ["saved"] * 2


async def test_handlers_of_resolved_promises() -> None:
    """Each handler is called once for each value of a producer, and never for errors or cancelled promises."""
    first: list[Any] = []
    second: list[Any] = []

    async def one(promise: Promise[Any], value: Any) -> None:
        assert await promise == value
        first.append(value)

    async def two(promise: Promise[Any], value: Any) -> None:
        second.append(value)
        if value == "a":
            assert await Promise(resolver_of("from a handler"), start_soon=False) == "from a handler"

    async def fail(_: Any) -> None:
        raise ValueError("handled")

    async with PromisingContext(on_promise_resolved=[one, two]) as context:
        promise = Promise(resolver_of("a"))
        assert await asyncio.gather(promise, promise) == ["a", "a"]
        assert await StreamedPromise(streamer_of("bc"), resolver=resolver_of("whole")) == "whole"
        assert await context.start_soon(resolver_of("work")(None)) == "work"
        assert isinstance(await at_rest(Promise(fail)), ValueError)
        cancelled = Promise(forever)
        await quiescence()
        cancelled.cancel()
    assert sorted(first) == sorted(second) == ["a", "from a handler", "whole", "work"]


async def test_many_levels_of_producers() -> None:
    """A tree of producers is waited for to its leaves, and is cancelled down to its leaves."""
    for cancel in (False, True):
        log: list[int] = []

        def level(depth: int, log: list[int] = log, cancel: bool = cancel) -> Any:
            async def resolver(_: Any) -> None:
                if depth:
                    Promise(level(depth - 1))
                    Promise(level(depth - 1))
                try:
                    await (forever() if cancel else turns(depth))
                finally:
                    log.append(depth)

            return resolver

        async with assert_no_leftovers(), PromisingContext():
            top = Promise(level(7))
            if cancel:
                await quiescence()
                assert top.cancel() is True
        assert [log.count(depth) for depth in range(8)] == [2 ** (7 - depth) for depth in range(8)]


async def test_reading_after_the_context_has_ended() -> None:
    """What was promised in a context stays readable when the context is closed."""
    async with PromisingContext():
        promise, stream = Promise(resolver_of(1)), StreamedPromise(streamer_of([1, 2]))
        never = Promise(resolver_of("lazy"), start_soon=False)
    assert await promise == 1
    assert await stream == (1, 2)
    assert await read(stream) == [1, 2]
    assert await at_rest(never) == "lazy"
