"""Joining and splitting, token by token."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import Message, MessageSequence, MiniAgents, join_messages, split_messages
from miniagents.testing import Timeline, assert_no_leftovers, quiescence, run_with_virtual_clock
from promising import PromiseCancelledError, StreamAppender
from tests.promising.helpers import error_of, read_until_error, streamer_of


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


async def timed(*tokens: str) -> AsyncIterator[str]:
    """Gives a token each second."""
    for token in tokens:
        await asyncio.sleep(1)
        yield token


@pytest.mark.parametrize("way", ["function", "method"])
async def test_joined_tokens_pass_at_once(way: str) -> None:
    """Each token of a joined message is there at the time of its part, the delimiter with the token behind it."""
    async with MiniAgents():
        parts = [Message.promise(lambda _: timed("a", "b")), "", Message.promise(lambda _: timed("c", "d", "e"))]
        timeline = Timeline()
        if way == "function":
            joined = join_messages(parts, "+")
        else:
            joined = MessageSequence.turn_into_sequence_promise(parts).as_single_promise("+")
        async for token in joined:
            timeline.note(token)
        assert str(await joined) == "ab+cde"
    assert timeline.entries == [(1.0, "a"), (2.0, "b"), (2.0, "+"), (2.0, "c"), (2.0, "d"), (3.0, "e")]


async def test_split_tokens_pass_at_once() -> None:
    """Each token of a part is there at its time; only what may begin a delimiter waits for the next token."""
    async with MiniAgents():
        message = Message.promise(lambda _: timed("a", "b\n", "c", "\n", "\nd", "e"))
        timeline = Timeline()
        async for part in split_messages(message):
            timeline.note("part")
            async for token in part:
                timeline.note(token)
    assert timeline.entries == [
        (1.0, "part"),
        (1.0, "a"),
        (2.0, "b"),
        (3.0, "\nc"),
        (5.0, "part"),
        (5.0, "d"),
        (6.0, "e"),
    ]


async def test_code_streams_inside_of_its_fence() -> None:
    """Inside of a fence nothing has to wait, neither for its end nor for that of an empty line."""
    async with MiniAgents():
        message = Message.promise(lambda _: timed("```py\n", "x = 1\n\n", "y = 2\n", "```", "\n\n", "after"))
        timeline = Timeline()
        async for part in split_messages(message):
            text = "".join([token async for token in part])
            timeline.note(text)
        assert timeline.entries == [(5.0, "```py\nx = 1\n\ny = 2\n```"), (6.0, "after")]
        (first, _) = split_parts = [part async for part in split_messages(message)]
        assert len(split_parts) == 2
        assert len(first.pieces_so_far) >= 3


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("\n\n", []),
        ("\n", ["\n"]),
        (" \n\n ", [" ", " "]),
        ("a\n\n\nb", ["a", "\nb"]),
        ("a\n\n\n\n\nb", ["a", "\nb"]),
        ("```\na\n\nb", ["```\na\n\nb"]),
        ("````\n```\n\n```\n````\n\nx", ["````\n```\n\n```\n````", "x"]),
        ("```\na\n\nb\n~~~\n\nc\n```\n\nd", ["```\na\n\nb\n~~~\n\nc\n```", "d"]),
        ("a\n```\nb\n\nc\n```\nd\n\ne", ["a\n```\nb\n\nc\n```\nd", "e"]),
        ("``\n\na", ["``", "a"]),
        ("```a```\n\nb", ["```a```", "b"]),
        ("```py title=`x`\n\nb", ["```py title=`x`", "b"]),
        ("~~~ `x`\n\nb", ["~~~ `x`\n\nb"]),
        ("```\n\n```\n\n```\n\n```", ["```\n\n```", "```\n\n```"]),
        ("ä\n\nö\N{SNOWMAN}", ["ä", "ö\N{SNOWMAN}"]),
    ],
)
async def test_more_splits(text: str, parts: list[str]) -> None:
    """Fences open and close as in Markdown, and every cut of the tokens gives the same parts."""
    assert await parts_of(text) == parts
    assert await parts_of(in_tokens(*text)) == parts
    for cut in range(len(text)):
        assert await parts_of(in_tokens(text[:cut], text[cut:])) == parts


async def test_the_end_of_a_message_is_the_end_of_a_part() -> None:
    """Neither a delimiter nor a fence goes on in the next message."""
    assert await parts_of(["a\n", "\nb", "", "c\n\nd"]) == ["a\n", "\nb", "c", "d"]
    assert await parts_of(["```\na", "b\n\nc"]) == ["```\na", "b", "c"]


async def test_metadata_of_parts_and_of_the_whole() -> None:
    """Fields that are given are those of each part, and of the joined message."""
    async with MiniAgents():
        assert await split_messages("a\n\nb", role="user") == (Message("a", role="user"), Message("b", role="user"))
        assert await join_messages([Message("a", role="user"), "b"], "", source="x") == Message("ab", source="x")


async def test_join_passes_errors_on() -> None:
    """The joined message ends with the error of its part, after what came before."""
    error = ValueError("broken")
    async with MiniAgents():
        failing = Message.promise(streamer_of(["b", "c"], error))
        joined = join_messages(["a", failing, "never"], "+")
        assert await read_until_error(joined) == (["a", "+", "b", "c"], error)
        assert await error_of(joined) is error


async def test_an_error_inside_of_a_part() -> None:
    """The part that has begun ends with the error, as does the sequence; the parts before are whole."""
    error = ValueError("broken")
    async with MiniAgents():
        parts = split_messages(["x", Message.promise(streamer_of(["a\n\n", "b", "c"], error)), "never"])
        promises, raised = await read_until_error(parts)
        assert raised is error
        assert [str(await promise) for promise in promises[:-1]] == ["x", "a"]
        assert await read_until_error(promises[-1]) == (["b", "c"], error)
        assert await error_of(parts) is error


async def test_nothing_is_left_when_parts_are_cancelled() -> None:
    """Cancelling the split ends the part that is being written; the message that was split goes on."""
    async with assert_no_leftovers(), MiniAgents():
        message = Message.promise(lambda _: timed("a", "b", "c"))
        parts = split_messages(message)
        await asyncio.sleep(1.5)
        (part,) = parts.pieces_so_far
        assert parts.cancel()
        assert isinstance(await error_of(parts), PromiseCancelledError)
        tokens, error = await read_until_error(part)
        assert tokens == ["a"]
        assert isinstance(error, PromiseCancelledError)
        assert str(await message) == "abc"


async def test_splitting_many_readers() -> None:
    """Parts can be read by many, in any order, also the last one first."""
    async with MiniAgents():
        parts = split_messages(in_tokens("a\n", "\nb\n", "\nc"))
        promises = [part async for part in parts]
        assert [str(await part) for part in reversed(promises)] == ["c", "b", "a"]
        assert [[token async for token in part] for part in promises] == [["a"], ["b"], ["c"]]
        assert [str(message) for message in await parts] == ["a", "b", "c"]


async def test_a_long_text_without_any_delimiter() -> None:
    """Long lines, and long runs of what may begin a delimiter, cost time in proportion to their length."""
    for text in ("x" * 200_000, "\n " * 100_000, "`" * 200_000, "```\n" + "\n\n" * 100_000):
        assert "".join(await parts_of(in_tokens(*[text[at : at + 7] for at in range(0, len(text), 7)]))) == text


Line = st.sampled_from(["", "a", "b c", "```", "```py", "``", "~~~", "````", " ```", "x ```y```", "\t~~~"])


@given(st.lists(Line), st.data())
def test_parts_do_not_depend_on_tokens(lines: list[str], data: st.DataObject) -> None:
    """Whatever the chunks in which a text with fences comes: the parts are the same, and joined they are the text."""
    text = "\n".join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    tokens = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    async def check() -> None:
        async with MiniAgents():
            whole = await parts_of(text)
            assert whole == await parts_of(in_tokens(*tokens)) == await parts_of(in_tokens(*text))
            assert all(whole)
            joined = str(await join_messages(split_messages(in_tokens(*tokens))))
            assert joined == "\n\n".join(whole)
            assert joined == str(await join_messages(split_messages(joined)))  # a second time changes nothing
            if "\n\n\n" not in text and not text.startswith("\n\n") and not text.endswith("\n\n"):
                assert joined == text

    run_with_virtual_clock(check())


@given(st.lists(st.text("ab\n `", max_size=6)), st.sampled_from(["", " ", "\n\n", "--"]), st.data())
def test_join_is_join(texts: list[str], delimiter: str, data: st.DataObject) -> None:
    """Whatever the chunks, joined messages are `delimiter.join` of those that are not empty."""
    cuts = [sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3))) for text in texts]
    messages = [
        in_tokens(*[text[start:end] for start, end in zip([0, *cut], [*cut, len(text)], strict=True)])
        for text, cut in zip(texts, cuts, strict=True)
    ]

    async def check() -> None:
        async with MiniAgents():
            joined = join_messages(messages, delimiter)
            expected = delimiter.join(filter(None, texts))
            assert "".join([token async for token in joined]) == str(await joined) == expected
            assert all([token async for token in joined])

    run_with_virtual_clock(check())
