"""Errors that nobody got are reported when the context closes: each once, and no others."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import promising
from miniagents.testing import quiescence
from promising import FlatSequence, Promise, PromisingContext, StreamAppender, StreamedPromise
from tests.promising.at_rest import at_rest, forever, outcome
from tests.promising.helpers import read, read_until_error, resolver_of, streamer_of


def raising(error: BaseException) -> Any:
    async def resolver(_: Any) -> None:
        raise error

    return resolver


def logged(caplog: pytest.LogCaptureFixture) -> list[BaseException | None]:
    return [record.exc_info[1] for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("consumed_first", [True, False])
async def test_an_error_that_one_consumer_got_is_not_reported(
    consumed_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """When somebody has handled an error, another promise that failed with the same one is no news, early or late."""
    gate = asyncio.Event()
    async with PromisingContext():
        promise = Promise(raising(ValueError("same")))

        async def passes_on(_: Any) -> None:
            await gate.wait()
            await promise

        Promise(passes_on)
        if consumed_first:
            await at_rest(promise)
            gate.set()
            await quiescence()
        else:
            gate.set()
            await quiescence()
            await at_rest(promise)
    assert logged(caplog) == []


@pytest.mark.parametrize(
    "consume",
    [
        lambda promise: asyncio.gather(promise, return_exceptions=True),
        lambda promise: outcome(asyncio.wait_for(promise, 100)),
        lambda promise: outcome(asyncio.shield(promise)),
        lambda promise: asyncio.wait([asyncio.ensure_future(outcome(promise))]),
        lambda promise: read_until_error(promise),
    ],
    ids=["gather", "wait_for", "shield", "wait", "read"],
)
async def test_every_way_of_consuming_counts(consume: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An error that was raised through a tool of asyncio, or to a reader, was raised to somebody."""
    async with PromisingContext():
        await consume(StreamedPromise(streamer_of([1], ValueError("consumed"))))
    assert logged(caplog) == []


async def test_a_reader_that_stops_before_the_error_has_not_got_it(caplog: pytest.LogCaptureFixture) -> None:
    """An error behind the place where the last reader left is reported."""
    error = ValueError("behind")
    async with PromisingContext():
        async for _ in StreamedPromise(streamer_of([1], error)):
            break
    assert logged(caplog) == [error]


async def test_a_consumer_that_was_cancelled_has_not_got_it(caplog: pytest.LogCaptureFixture) -> None:
    """An error whose only consumer left before it came is reported."""
    gate, error = asyncio.Event(), ValueError("missed")

    async def resolver(_: Any) -> None:
        await gate.wait()
        raise error

    async with PromisingContext():
        leaving = asyncio.create_task(outcome(Promise(resolver)))
        await quiescence()
        leaving.cancel()
        await leaving
        gate.set()
    assert logged(caplog) == [error]


async def test_errors_along_a_chain_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """An error that passes through many promises to nobody is one report, an error chained to it another."""
    error = ValueError("chain")

    async def wraps(_: Any) -> None:
        try:
            await last
        except ValueError as cause:
            raise TypeError("wrapped") from cause

    async with PromisingContext():
        last: Promise[Any] = Promise(raising(error))
        for _ in range(10):

            async def link(_: Any, before: Any = last) -> Any:
                return await before

            last = Promise(link)
        Promise(wraps)
    assert [str(one) for one in logged(caplog)] == ["wrapped"]


@pytest.mark.parametrize(
    "where", ["plain", "context", "context in a task", "detached", "task", "wait_for", "appender", "start_soon"]
)
async def test_an_error_that_a_producer_got_and_fails_with(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """A producer that fails with the error of another one has not dealt with it, wherever in it the wait was."""
    error = ValueError("passed on")

    async def in_a_context() -> None:
        async with PromisingContext():
            await Promise(raising(error))

    async def passes_on(_: Any = None) -> None:
        if where == "context":
            await in_a_context()
        elif where == "context in a task":
            await asyncio.gather(in_a_context())
        elif where == "detached":
            with promising.detached():
                await source
        elif where == "task":
            await asyncio.create_task(source.aresolve())
        elif where == "wait_for":
            await asyncio.wait_for(source, 100)
        elif where == "appender":
            with StreamAppender[int]():
                await source
        else:
            await source

    async with PromisingContext() as context:
        source = Promise(raising(error), start_soon=False)
        if where == "start_soon":
            context.start_soon(passes_on())
        else:
            Promise(passes_on)
    assert logged(caplog) == [error]


async def test_contexts_report_their_own(caplog: pytest.LogCaptureFixture) -> None:
    """An inner context reports what failed in it when it closes, and the outer one does not repeat it."""
    inner_error, outer_error = ValueError("inner"), ValueError("outer")
    async with PromisingContext():
        Promise(raising(outer_error))
        async with PromisingContext():
            Promise(raising(inner_error))
        assert logged(caplog) == [inner_error]
    assert logged(caplog) == [inner_error, outer_error]


async def test_cancellations_by_an_error_are_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    """What a context cancels because it is left by an error is not reported; real errors are."""
    lost = ValueError("lost")

    async def waits_for_cancelled(_: Any) -> None:
        await cancelled

    with pytest.raises(KeyError):
        async with PromisingContext():
            cancelled = Promise(forever)
            Promise(waits_for_cancelled)
            StreamedPromise(lambda _: _endless())
            Promise(raising(lost))
            await quiescence()
            raise KeyError
    assert logged(caplog) == [lost]


async def _endless() -> AsyncIterator[int]:
    yield 1
    await forever()


async def test_a_cancellation_that_nobody_asked_for_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A producer that ends with a CancelledError of its own is reported where nobody consumed it."""
    async with PromisingContext():
        Promise(raising(asyncio.CancelledError()))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["streamer", "resolver of a stream", "start_soon", "flatten", "appender"])
async def test_interrupts_that_nobody_consumed(kind: type[BaseException], where: str) -> None:
    """An interrupt of whatever producer is raised as itself at the exit, when all else has ended."""
    log: list[str] = []
    error = kind()

    async def slow(_: Any) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        log.append("ended")

    def flatten(_: Any) -> list[Any]:
        raise error

    with pytest.raises(kind) as caught:
        async with PromisingContext() as context:
            Promise(slow)
            if where == "streamer":
                StreamedPromise(streamer_of([1], error))
            elif where == "resolver of a stream":
                StreamedPromise(streamer_of([1]), resolver=raising(error))
            elif where == "start_soon":
                context.start_soon(raising(error)(None))
            elif where == "flatten":
                FlatSequence(streamer_of([1]), flatten=flatten)
            else:
                StreamAppender[int]().close(error)
    assert caught.value is error
    assert log == ["ended"]


async def test_an_interrupt_of_an_inner_context_is_raised_in_the_outer_one() -> None:
    """An interrupt that nobody consumed travels outwards through the contexts, as any error does."""
    log: list[str] = []

    async def resolver(_: Any) -> None:
        try:
            async with PromisingContext():
                Promise(raising(KeyboardInterrupt()))
        except KeyboardInterrupt:
            log.append("raised at the exit of the inner one")
            raise

    with pytest.raises(KeyboardInterrupt):
        async with PromisingContext():
            Promise(resolver)
    assert log == ["raised at the exit of the inner one"]


async def test_the_loop_survives_interrupts() -> None:
    """After interrupts in producers the loop, the context and the other producers work as before."""
    async with PromisingContext():
        for error in (KeyboardInterrupt(), SystemExit(1), GeneratorExit()):
            for promise in (Promise(raising(error)), StreamedPromise(streamer_of([1], error))):
                caught = await at_rest(promise)
                assert caught is error or type(caught) is RuntimeError
        assert await Promise(resolver_of(1)) == 1
        assert await read(StreamedPromise(streamer_of([1, 2]))) == [1, 2]


async def test_an_error_keeps_what_it_says_about_its_origin() -> None:
    """Raising an error to a consumer that handles another one does not overwrite where the error came from."""

    async def resolver(_: Any) -> None:
        try:
            raise KeyError("origin")
        except KeyError:
            raise ValueError("seen")  # noqa: B904

    async with PromisingContext():
        promise = Promise(resolver)
        try:
            raise IndexError("the consumer's own affair")
        except IndexError:
            error = await outcome(promise)
        assert isinstance(error.__context__, KeyError)
        assert isinstance((await outcome(promise)).__context__, KeyError)


@pytest.mark.parametrize("kind", ["promise", "stream", "nested"])
async def test_a_traceback_does_not_grow_on_any_way(kind: str) -> None:
    """However many consumers an error passes, one after the other or in a chain, its traceback stays short."""

    def length(error: BaseException) -> int:
        count, traceback = 0, error.__traceback__
        while traceback is not None:
            count, traceback = count + 1, traceback.tb_next
        return count

    async with PromisingContext():
        promise: Any
        if kind == "promise":
            promise = Promise(raising(ValueError("x")))
        elif kind == "stream":
            promise = StreamedPromise(streamer_of([1], ValueError("x")))
        else:
            inner: Any = FlatSequence(streamer_of([1], ValueError("x")), flatten=lambda item: [item])
            promise = FlatSequence(flatten=lambda item: [item], prefill_pieces=[inner])
        lengths = [length(await outcome(promise)) for _ in range(50)]
        assert len(set(lengths)) == 1
        if kind != "promise":
            reads = [length((await read_until_error(promise))[1]) for _ in range(50)]  # type: ignore[arg-type]
            assert len(set(reads)) == 1
        assert length(await outcome(promise)) == lengths[0]
