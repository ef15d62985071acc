"""Wrong use that would else be silent is refused where it happens."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from promising import FlatSequence, Promise, PromisingContext, StreamAppender, StreamedPromise
from tests.promising.at_rest import at_rest
from tests.promising.helpers import read_until_error, resolver_of, streamer_of


class WithResolver(Promise[Any]):
    async def _resolver(self) -> str:
        return "method"


class WithStreamer(StreamedPromise[Any, Any]):
    async def _streamer(self) -> AsyncIterator[str]:
        yield "method"


@pytest.mark.parametrize(
    "make",
    [
        lambda: WithResolver(resolver_of("given")),
        lambda: WithResolver(prefill_result="given"),
        lambda: WithStreamer(streamer_of(["given"])),
        lambda: WithStreamer(prefill_pieces=["given"]),
    ],
    ids=["resolver and method", "result and method", "streamer and method", "pieces and method"],
)
def test_a_method_and_an_argument_for_the_same(make: Any) -> None:
    """Whoever defines the producer as a method cannot give another one: neither of them is silently ignored."""
    with pytest.raises(TypeError, match="exactly one"):
        make()


@pytest.mark.parametrize("nothing", [None, 1, "text", [1]], ids=repr)
async def test_a_streamer_that_returns_something_else(nothing: Any) -> None:
    """Whatever a streamer returns that is no async iterator, the reader gets an error that names it and the mend."""
    async with PromisingContext():
        for stream in (
            StreamedPromise(lambda _: nothing),
            StreamedPromise(lambda _: nothing, start_soon=False),
            FlatSequence(lambda _: nothing, flatten=lambda item: [item]),
        ):
            pieces, error = await at_rest(read_until_error(stream))
            assert pieces == []
            assert isinstance(error, TypeError)
            assert repr(nothing) in str(error)
            assert "async def" in str(error)


async def test_a_coroutine_in_place_of_a_resolver() -> None:
    """A coroutine given as the resolver is refused with the advice to give the function."""
    coroutine = resolver_of(1)(None)
    with pytest.raises(TypeError, match="Give the async function itself"):
        Promise(coroutine)  # type: ignore[arg-type]
    coroutine.close()


async def test_errors_of_construction_start_nothing() -> None:
    """A promise that could not be made leaves no task behind."""
    async with PromisingContext():
        before = asyncio.all_tasks()
        for make in (
            lambda: Promise(resolver_of(1), prefill_result=1),
            lambda: StreamedPromise(streamer_of([1]), prefill_pieces=[1]),
            lambda: StreamedPromise(streamer_of([1]), resolver=resolver_of(1), prefill_result=1),
            lambda: StreamedPromise(streamer_of([1]), max_ahead=0),
            lambda: StreamedPromise(streamer_of([1]), max_ahead=-1),
            lambda: StreamedPromise(StreamAppender[int](), max_ahead=1),
        ):
            with pytest.raises((TypeError, ValueError)):
                make()
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("flatten", [None, 1, [1]], ids=repr)
def test_a_flatten_that_cannot_be_called(flatten: Any) -> None:
    """A flat sequence needs a function that flattens, and says so when it is made."""
    with pytest.raises(TypeError, match="flatten"):
        FlatSequence(streamer_of([1]), flatten=flatten)


def test_none_is_a_value() -> None:
    """None can be promised: it is not taken for "nothing given"."""
    assert Promise(prefill_result=None).done()
    assert asyncio.run(_await(Promise(prefill_result=None))) is None
    assert asyncio.run(_await(Promise(resolver_of(None)))) is None
    assert asyncio.run(_await(StreamedPromise(streamer_of([None]), prefill_result=None))) is None


async def _await(promise: Promise[Any]) -> Any:
    return await promise


async def test_appending_to_a_closed_stream_names_the_piece() -> None:
    """The error of a late append shows what was appended and how the stream had ended, in one short line."""
    appender = StreamAppender[str]()
    appender.close()
    with pytest.raises(RuntimeError, match="'late'"):
        appender.append("late")
    with pytest.raises(RuntimeError) as caught:
        appender.append("x" * 10_000)
    assert len(str(caught.value)) < 500
