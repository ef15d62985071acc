"""Promises of messages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from miniagents import Message, MessagePromise, MessageSequence, MiniAgents
from miniagents.testing import quiescence
from promising import StreamAppender, StreamClosedError, UnresolvedPromiseError
from tests.promising.helpers import error_of, read, read_until_error


class Rating(Message):
    stars: int


async def stream(promise: MessagePromise) -> AsyncIterator[str]:
    """Streams two tokens and adds what is known at the end."""
    yield "Well "
    promise.add_metadata(usage={"tokens": 2})
    yield "done"


async def test_a_streamed_message() -> None:
    """Its tokens make the text, the rest is metadata, known early and late."""
    async with MiniAgents():
        promise = Rating.promise(stream, stars=5)
        assert promise.metadata == {"stars": 5}
        assert promise.message_class is Rating
        assert [token async for token in promise] == ["Well ", "done"]
        message = await promise
        assert message == Rating(text="Well done", stars=5, usage={"tokens": 2})
        assert await promise is message
        assert promise.metadata == {"stars": 5, "usage": {"tokens": 2}}
        with pytest.raises(RuntimeError, match="before its stream ends"):
            promise.add_metadata(late=1)


async def test_the_promise_of_a_message_that_is_there() -> None:
    """Its text is its one token; it is resolved at once."""
    promise = Message.promise(text="Hi", role="user")
    assert promise.done()
    assert [token async for token in promise] == ["Hi"]
    assert promise.pieces_so_far == ("Hi",)
    assert await promise == Message("Hi", role="user")
    assert [token async for token in Message.promise()] == []


async def test_f_strings_cannot_lie() -> None:
    """The text of a message that is not there yet is a clear error, that of one that is is its text."""
    async with MiniAgents():
        promise = Message.promise(stream)
        with pytest.raises(UnresolvedPromiseError, match="await"):
            f"{promise}"
        assert "pending" in repr(promise)
        await promise
        assert f"{promise}" == "Well done"


@pytest.mark.parametrize("start_soon", [True, False])
async def test_start_soon(start_soon: bool) -> None:
    """A message can be streamed at once or when somebody reads it."""
    async with MiniAgents():
        promise = Message.promise(stream, start_soon=start_soon)
        await quiescence()
        assert promise.done() is start_soon
        await promise


async def test_what_is_no_token() -> None:
    """A streamer that yields something else than text fails with a clear error."""

    async def numbers(_: Any) -> AsyncIterator[Any]:
        yield 1

    async with MiniAgents():
        error = await error_of(Message.promise(numbers))
    assert isinstance(error, TypeError)
    assert "strings" in str(error)


async def test_fields_that_are_not_valid() -> None:
    """If the message cannot be made of its fields, every awaiter gets the same error; the tokens stay readable."""
    async with MiniAgents():
        promise = Rating.promise(stream, stars="many")
        first, second = await error_of(promise), await error_of(promise)
        assert first is second
        assert [token async for token in promise] == ["Well ", "done"]


async def failing_stream(_: Any) -> AsyncIterator[str]:
    """Streams one token and fails."""
    yield "so far"
    raise ValueError("broken")


async def test_tokens_and_message_for_many_readers() -> None:
    """Any number of readers, early and late, get the same tokens and the same message object."""
    async with MiniAgents():
        promise = Message.promise(stream)
        readers = [read(promise) for _ in range(3)]
        awaiters = [promise.aresolve() for _ in range(3)]
        outcome = await asyncio.gather(*readers, *awaiters)
        assert outcome[:3] == [["Well ", "done"]] * 3
        assert len({id(message) for message in (*outcome[3:], await promise)}) == 1
        assert await read(promise) == ["Well ", "done"]
        assert promise.pieces_so_far == ("Well ", "done")


async def test_a_streamed_message_outside_of_any_context() -> None:
    """It starts when it is read, and works as inside of one."""
    assert await read(Message.promise(stream)) == ["Well ", "done"]
    assert str(await Message.promise(stream)) == "Well done"


async def test_late_metadata() -> None:
    """Metadata of the streamer replaces what was given before; what was told last wins."""

    async def late(promise: MessagePromise) -> AsyncIterator[str]:
        promise.add_metadata(model="first", usage={"tokens": 0})
        yield "x"
        promise.add_metadata(model="second")
        promise.add_metadata(usage={"tokens": 1}, finish_reason="stop")

    async with MiniAgents():
        promise = Message.promise(late, model="asked for", role="assistant")
        expected = {"model": "second", "role": "assistant", "usage": {"tokens": 1}, "finish_reason": "stop"}
        assert await promise == Message("x", **expected)
        assert promise.metadata == expected


async def test_metadata_cannot_be_changed_from_outside() -> None:
    """The metadata that a promise shows is a copy: changing it changes neither the promise nor the message."""
    async with MiniAgents():
        promise = Message.promise(stream, role="user")
        for _ in range(2):
            shown: Any = promise.metadata
            with suppress(TypeError):
                shown["role"] = "changed"
            assert promise.metadata["role"] == "user"
            assert (await promise).role == "user"  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["streamer", "prefilled", "appender"])
async def test_metadata_after_the_end(how: str) -> None:
    """When the message has been made, it cannot get more metadata; the error says when to add it."""
    async with MiniAgents():
        if how == "appender":
            with StreamAppender[str]() as appender:
                promise = Message.promise(appender)
                promise.add_metadata(early=1)
                appender.append("x")
        else:
            promise = Message.promise(stream) if how == "streamer" else Message.promise(text="x")
        await promise
        with pytest.raises(RuntimeError, match="before"):
            promise.add_metadata(late=1)


async def test_metadata_that_cannot_be_frozen() -> None:
    """A set among the late metadata is the error of the message, and says where it is."""

    async def wrong(promise: MessagePromise) -> AsyncIterator[str]:
        yield "x"
        promise.add_metadata(found={1, 2})

    async with MiniAgents():
        promise = Message.promise(wrong)
        error = await error_of(promise)
        assert await error_of(promise) is error
        assert await read(promise) == ["x"]
    assert "found" in str(error)
    assert "set" in str(error)


async def test_a_text_beside_a_streamer() -> None:
    """A message has its text from its streamer alone: both of them is an error at once."""
    with pytest.raises(TypeError, match=r"text.*stream|stream.*text"):
        Message.promise(stream, text="x")


async def test_an_appender_feeds_a_message() -> None:
    """Tokens that are appended can be read at once; the message is there when the appender is closed."""
    async with MiniAgents():
        appender = StreamAppender[str]()
        promise = Message.promise(appender, role="user")
        for count, token in enumerate(["a", "", "b"], 1):
            appender.append(token)
            assert promise.pieces_so_far == ("a", "", "b")[:count]
            assert not promise.done()
        with pytest.raises(UnresolvedPromiseError):
            str(promise)
        appender.close()
        assert promise.done()
        assert str(promise) == "ab"
        assert await promise == Message("ab", role="user")
        with pytest.raises(StreamClosedError):
            appender.append("c")


async def test_a_message_made_of_the_tokens_of_another() -> None:
    """A promise can stream what another one streams, under other metadata, and disturbs it in no way."""
    async with MiniAgents():
        source = Message.promise(stream, role="assistant")
        copy = Rating.promise(source, stars=5)
        assert await read_both(copy) == (["Well ", "done"], Rating("Well done", stars=5))
        assert copy.cancel() is False
        assert str(await source) == "Well done"


@pytest.mark.parametrize("form", ["{}", "{!s}", "{!s:>3}"])
async def test_every_way_to_format(form: str) -> None:
    """A message that is not there can be formatted in no way, and one that is, in every way."""
    async with MiniAgents():
        promise = Message.promise(stream)
        with pytest.raises(UnresolvedPromiseError, match="await"):
            form.format(promise)
        with pytest.raises(UnresolvedPromiseError):
            "%s" % promise  # noqa: UP031
        await read(promise)
        assert form.format(promise) == "Well done"
        assert "%s" % promise == "Well done"  # noqa: UP031


async def test_formatting_what_has_failed() -> None:
    """The text of a message that has failed, or was cancelled, is an error, too, and never an empty text."""
    async with MiniAgents():
        failed = Message.promise(failing_stream)
        await error_of(failed)
        cancelled = Message.promise(failing_stream)
        cancelled.cancel()
        for promise in (failed, cancelled):
            with pytest.raises((UnresolvedPromiseError, ValueError)):
                f"{promise}"


async def test_repr_is_safe() -> None:
    """`repr` never fails and says the state, whatever it is, without starting anything."""
    async with MiniAgents():
        lazy = Message.promise(stream, start_soon=False)
        assert "pending" in repr(lazy)
        await quiescence()
        assert lazy.pieces_so_far == ()
        failed, cancelled, invalid = (
            Message.promise(failing_stream),
            Message.promise(stream),
            Rating.promise(stream, stars="x"),
        )
        cancelled.cancel()
        for promise in (failed, cancelled, invalid):
            await error_of(promise)
        states = [repr(promise) for promise in (lazy, failed, cancelled, invalid, Message.promise(text="x"))]
        for state, word in zip(states, ["pending", "failed", "cancelled", "failed", "resolved"], strict=True):
            assert word in state
        assert f"{failed!r}" == states[1]
        await lazy


async def test_the_error_stands_at_its_place() -> None:
    """Every reader gets the tokens before the error, then the same error, then the end."""
    async with MiniAgents():
        promise = Message.promise(failing_stream)
        first = await read_until_error(promise)
        assert first == await read_until_error(promise)
        assert first == (["so far"], await error_of(promise))


@pytest.mark.parametrize("wrong", [lambda: "x", None, 5, "text"])
async def test_what_is_no_streamer(wrong: Any) -> None:
    """Something that cannot be called is refused at once, a function that yields nothing when it is read."""
    if wrong is None:
        assert (await Message.promise(wrong)).text is None
    elif callable(wrong):
        async with MiniAgents():
            assert isinstance(await error_of(Message.promise(lambda _: wrong())), TypeError)
    else:
        with pytest.raises(TypeError, match="streamer"):
            Message.promise(wrong)


@pytest.mark.parametrize("message", [Message("text"), Rating("text", stars=5), Message(role="x"), Message()], ids=repr)
async def test_a_prefilled_message_streams_what_a_model_sees(message: Message) -> None:
    """Its tokens make `str(message)`; nothing at all if that is empty."""
    async with MiniAgents():
        (promise,) = [promise async for promise in MessageSequence.turn_into_sequence_promise(message)]
    assert promise.done()
    assert await promise is message
    assert "".join(await read(promise)) == str(message) == str(promise)
    assert all(await read(promise))
    assert promise.cancel() is False


async def test_start_soon_false_is_lazy() -> None:
    """Such a stream starts with its first reader, makes what is asked for, and goes on when it is awaited."""
    made: list[str] = []

    async def counting(_: Any) -> AsyncIterator[str]:
        for token in "abc":
            made.append(token)
            yield token

    async with MiniAgents():
        promise = Message.promise(counting, start_soon=False)
        await quiescence()
        assert made == []
        reader = aiter(promise)
        assert await anext(reader) == "a"
        await quiescence()
        assert made in (["a"], ["a", "b"])
        assert str(await promise) == "abc"
        assert made == ["a", "b", "c"]


async def read_both(promise: MessagePromise) -> tuple[list[str], Message]:
    tokens, message = await asyncio.gather(read(promise), promise)
    return tokens, message
