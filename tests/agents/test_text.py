"""Joining and splitting, token by token."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import Message, MessageSequence, MiniAgents, join_messages, split_messages
from miniagents.testing import quiescence, run_with_virtual_clock
from promising import StreamAppender


def in_tokens(*tokens: str) -> Any:
    async def stream(_: Any) -> AsyncIterator[str]:
        for token in tokens:
            yield token

    return Message.promise(stream)


async def parts_of(text: Any, delimiter: str = "\n\n") -> list[str]:
    return [str(part) for part in await split_messages(text, delimiter)]


@pytest.mark.parametrize(
    ("messages", "joined"), [([], ""), (["a"], "a"), (["a", "", "b"], "a b"), ([["a"], in_tokens("b", "c")], "a bc")]
)
async def test_join(messages: Any, joined: str) -> None:
    """The texts are joined with the delimiter between them; empty ones are left out."""
    message = await join_messages(messages, " ", role="user")
    assert message == Message(joined, role="user")


async def test_join_streams() -> None:
    """A token passes before the message that it belongs to is complete."""
    async with MiniAgents():
        sequence = MessageSequence("first")
        joined = join_messages(sequence.sequence_promise)
        with StreamAppender[str]() as appender:
            sequence.append(Message.promise(appender))
            await quiescence()
            assert joined.pieces_so_far == ("first",)
            appender.append("sec")
            await quiescence()
            assert joined.pieces_so_far == ("first", "\n\n", "sec")
        sequence.close()
        assert str(await joined) == "first\n\nsec"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a\n\nb", ["a", "b"]),
        ("\n\na\n\n\n\nb\n\n", ["a", "b"]),
        ("", []),
        ("a\nb", ["a\nb"]),
        ("a\n\n```py\nx\n\ny\n```\n\nb", ["a", "```py\nx\n\ny\n```", "b"]),
        ("a\n\n```\nnever\n\nclosed", ["a", "```\nnever\n\nclosed"]),
        ("~~~~\nx\n\n~~~\n\n~~~~\n\nb", ["~~~~\nx\n\n~~~\n\n~~~~", "b"]),
        ("a ```no fence```\n\nb", ["a ```no fence```", "b"]),
        ("```inline``` x\n\nb", ["```inline``` x", "b"]),
    ],
)
async def test_split(text: str, parts: list[str]) -> None:
    """Text is split at the delimiter, fenced code stays whole, empty parts are left out."""
    assert await parts_of(text) == parts


async def test_split_streams() -> None:
    """What cannot be a delimiter passes at once; a part is there before it is complete."""
    async with MiniAgents():
        appender = StreamAppender[str]()
        parts = split_messages(Message.promise(appender))
        appender.append("a\n")
        await quiescence()
        (first,) = parts.pieces_so_far
        assert first.pieces_so_far == ("a",)
        appender.append("b\n\nc")
        await quiescence()
        assert str(await first) == "a\nb"
        assert parts.pieces_so_far[1].pieces_so_far == ("c",)
        appender.close()
        assert [str(part) for part in await parts] == ["a\nb", "c"]


async def test_split_passes_errors_on() -> None:
    """An error in mid-stream ends the part that it is in, and the sequence."""

    async def stream(_: Any) -> AsyncIterator[str]:
        yield "a\n\nb"
        raise ValueError("broken")

    async with MiniAgents():
        parts = split_messages(Message.promise(stream))
        texts = [part async for part in _until_error(parts)]
        assert texts == ["a"]


async def _until_error(parts: Any) -> AsyncIterator[str]:
    with pytest.raises(ValueError, match="broken"):
        async for part in parts:
            yield str(await part)


@pytest.mark.parametrize("delimiter", [" ", "\n", "--", "```"])
async def test_other_delimiters(delimiter: str) -> None:
    """Any text can be the delimiter."""
    assert await parts_of(delimiter.join(["a", "b"]), delimiter) == ["a", "b"]
    with pytest.raises(ValueError, match="empty"):
        split_messages("x", "")


@given(st.lists(st.sampled_from(["a", "\n", "\n\n", "```", "`", "~~~", " ", "```py\n"])), st.data())
def test_the_cut_of_the_tokens_does_not_matter(pieces: list[str], data: st.DataObject) -> None:
    """However a text is cut into tokens, the parts are the same, and joined they are the text without empty parts."""
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    tokens = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    async def check() -> None:
        async with MiniAgents():
            whole = await parts_of(text)
            assert await parts_of(in_tokens(*tokens)) == whole
            assert "\n\n".join(whole).replace("\n", "") == text.replace("\n", "")
            assert all(whole)

    run_with_virtual_clock(check())
