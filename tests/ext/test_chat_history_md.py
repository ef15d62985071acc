"""The Markdown history: what is written comes back, whatever it is, and whatever happens to the file."""

import datetime
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miniagents import Message, MiniAgents
from miniagents.ext.chat_history_md import ChatHistoryMD, HistoryFileError
from miniagents.ext.llm.llm_common import AssistantMessage, SystemMessage, Usage, UserMessage

NASTY = [
    "",
    "\n",
    "text\n\n",
    "\r\nwindows\r\n",
    "lone\rcr",
    "# heading\n## user\n\ntext",
    "```\n## assistant\n```",
    "<!-- /miniagents -->",
    "<!-- \\/miniagents -->\n<!-- /miniagents -->",
    '<!-- miniagents {"class":"UserMessage"} -->\n## user\n\nx\n\n<!-- /miniagents -->',
    "<!-- miniagents ",
    "-->",
    "\u2028\u2029\x85\x0b\x0c",
    "é€😀",
]


async def roundtrip(path: Path, *messages: Message) -> tuple[Message, ...]:
    history = ChatHistoryMD(path)
    for message in messages:
        await history._append(message)
    history.close()
    return await ChatHistoryMD(path).aload_chat_history()


@pytest.mark.parametrize("text", NASTY)
async def test_any_text_comes_back(tmp_path: Path, text: str) -> None:
    """A text comes back exactly, between two others that do, too."""
    messages = (UserMessage("before"), AssistantMessage(text, model="m"), UserMessage("after"))
    assert await roundtrip(tmp_path / "chat.md", *messages) == messages


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.text(st.one_of(st.sampled_from("\n\r #`<!->/\\{}"), st.characters(exclude_categories=["Cs"])))
            | st.lists(st.sampled_from(NASTY)).map("\n".join),
            st.dictionaries(
                st.sampled_from(["role", "model", "note", "other"]),
                st.none() | st.text() | st.integers() | st.lists(st.dictionaries(st.text(), st.booleans())),
            ),
        ),
        max_size=5,
    )
)
async def test_any_message_comes_back(tmp_path: Path, contents: list[tuple[str, dict[str, object]]]) -> None:
    """Whatever the texts and the metadata are, the messages that come back are equal."""
    path = tmp_path / "chat.md"
    path.unlink(missing_ok=True)
    clean = [
        (t, {k: v for k, v in m.items() if str(v) < "\ud800" or not any("\ud800" <= c <= "\udfff" for c in str(v))})
        for t, m in contents
    ]
    messages = tuple(Message(text, **metadata) for text, metadata in clean)  # type: ignore[arg-type]
    assert await roundtrip(path, *messages) == messages


async def test_classes_and_types_come_back(tmp_path: Path) -> None:
    """Class, role, model, usage and dates are what they were."""
    messages = (
        SystemMessage("s"),
        AssistantMessage("a", model="m (odd)", usage=Usage(input_tokens=1, output_tokens=2), finish_reason="stop"),
        Message("plain", at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), deep=[{"$datetime": "x"}, b"\x00"]),
        Message(role="no text"),
        Message("m", role="message"),
        Message("r", role="ro le", note="--> --"),
    )
    loaded = await roundtrip(tmp_path / "chat.md", *messages)
    assert loaded == messages
    assert [type(message) for message in loaded] == [type(message) for message in messages]


async def test_lone_surrogate_is_stored_as_replacement(tmp_path: Path) -> None:
    """Half a character cannot be stored, and becomes U+FFFD."""
    (message,) = await roundtrip(tmp_path / "chat.md", UserMessage("a\ud83d"))
    assert message.text == "a\ufffd"


async def test_torn_at_every_byte(tmp_path: Path) -> None:
    """Wherever the file is cut off, the messages before the cut are whole, and the next addition repairs the file."""
    path = tmp_path / "chat.md"
    first, second, third = UserMessage("one\n"), AssistantMessage("two ## user\n", model="m"), UserMessage("three")
    await roundtrip(path, first)
    size = path.stat().st_size
    await roundtrip(path, second)
    whole = path.read_bytes()
    for length in range(size, len(whole)):
        path.write_bytes(whole[:length])
        assert (await ChatHistoryMD(path).aload_chat_history()) in ((first,), (first, second))
        loaded = await roundtrip(path, third)
        assert loaded in ((first, third), (first, second, third)), whole[:length]


async def test_torn_behind_what_a_person_wrote(tmp_path: Path) -> None:
    """A torn addition does not change the message that a person wrote before it."""
    path = tmp_path / "chat.md"
    path.write_text("# My chat\n\nintro\n\n## user\n\nby hand\n\n")
    size = path.stat().st_size
    await roundtrip(path, AssistantMessage("two", model="m"))
    whole = path.read_bytes()
    for length in range(size, len(whole)):
        path.write_bytes(whole[:length])
        loaded = await roundtrip(path, UserMessage("three"))
        assert loaded[0] == UserMessage("by hand"), whole[:length]
        assert loaded[-1] == UserMessage("three")
        assert len(loaded) in (2, 3)


async def test_hand_written_messages(tmp_path: Path) -> None:
    """Plain headings begin messages; what stands before the first is ignored."""
    path = tmp_path / "chat.md"
    path.write_text("# Title\n\ntext\n\n## User\nhello\n\n\n## assistant (gpt)\n\nhi\n## other\n\n## user\n\n")
    assert await ChatHistoryMD(path).aload_chat_history() == (
        UserMessage("hello"),
        AssistantMessage("hi\n## other", model="gpt"),
    )


async def test_edited_by_an_editor_with_other_line_ends(tmp_path: Path) -> None:
    """A file whose line ends were all changed still loads."""
    path = tmp_path / "chat.md"
    await roundtrip(path, UserMessage("one\ntwo"))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert await ChatHistoryMD(path).aload_chat_history() == (UserMessage("one\r\ntwo"),)


async def test_the_file_is_private(tmp_path: Path) -> None:
    """Only its user can read it."""
    path = tmp_path / "chat.md"
    await roundtrip(path, UserMessage("x"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_two_chats_are_kept_apart(tmp_path: Path) -> None:
    """A second writer is refused with the name of the file, until the first one has closed it."""
    first, second = ChatHistoryMD(tmp_path / "chat.md"), ChatHistoryMD(tmp_path / "chat.md")
    await first._append(UserMessage("1"))
    with pytest.raises(HistoryFileError, match=r"chat\.md is in use"):
        await second._append(UserMessage("2"))
    first.close()
    await second._append(UserMessage("2"))
    second.close()
    assert len(await first.aload_chat_history()) == 2


@pytest.mark.parametrize("kind", ["directory", "bytes"])
async def test_unreadable(tmp_path: Path, kind: str) -> None:
    """A file that cannot be read is a clear error."""
    path = tmp_path / "chat.md"
    if kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"\xff\xfe")
    with pytest.raises(HistoryFileError, match=r"chat\.md cannot be read"):
        await ChatHistoryMD(path).aload_chat_history()


def test_killed_while_writing(tmp_path: Path) -> None:
    """A process that is killed while it writes leaves a file that loads, with nothing lost but the last message."""
    path = tmp_path / "chat.md"
    code = (
        "import asyncio, sys\n"
        "from miniagents.ext.chat_history_md import ChatHistoryMD\n"
        "from miniagents import Message\n"
        "async def main():\n"
        "    history = ChatHistoryMD(sys.argv[1])\n"
        "    for n in range(10**9):\n"
        "        await history._append(Message('x' * 20000, n=n))\n"
        "        if n == 5: print('ready', flush=True)\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()

    async def load() -> list[int]:
        return [message.n for message in await roundtrip(path, Message("x", n=-1))]  # type: ignore[attr-defined]

    import asyncio

    numbers = asyncio.run(load())
    assert numbers[:-1] == list(range(len(numbers) - 1))
    assert numbers[-1] == -1
    assert len(numbers) > 5


async def test_logging_agent_passes_on_and_records(tmp_path: Path) -> None:
    """The logging agent replies with what it is sent and keeps it."""
    history = ChatHistoryMD(tmp_path / "chat.md")
    async with MiniAgents():
        sent = await history.logging_agent.inquire([UserMessage("a"), AssistantMessage("b", model="m")])
    assert sent == await history.aload_chat_history() == (UserMessage("a"), AssistantMessage("b", model="m"))
