"""Promises of messages."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents import Message, MessagePromise, MiniAgents
from miniagents.testing import quiescence
from promising import UnresolvedPromiseError
from tests.promising.helpers import error_of


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
