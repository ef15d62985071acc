"""The SQLite history: what is confirmed stays, whoever else writes, and whatever happens to the file or the process."""

import asyncio
import gc
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from miniagents import Message
from miniagents.ext.chat_history_sqlite import ChatHistorySQLite, _create
from miniagents.ext.history_agents import HistoryFileError
from miniagents.ext.values import UnreadableValueError
from miniagents.messages import MessagePromise
from miniagents.testing import quiescence

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[..., ChatHistorySQLite]]:
    """Makes histories that are closed at the end."""
    histories = []

    def make(name: str = "chat", **options: Any) -> ChatHistorySQLite:
        histories.append(ChatHistorySQLite(path, name, **options))
        return histories[-1]

    yield make
    for history in histories:
        history.close()


Opened = Callable[..., ChatHistorySQLite]


async def record(history: ChatHistorySQLite, *texts: str) -> None:
    for text in texts:
        await history.record(MessagePromise.of(Message(text)))


async def texts(history: ChatHistorySQLite) -> list[str]:
    return [str(message) for message in await history.aload_chat_history()]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("chat-history")]


async def test_histories_of_one_file_are_kept_apart(opened: Opened) -> None:
    """Each name is a history of its own; by default it is `chat`."""
    names = ["chat", "Chat", "", "it's; DROP TABLE messages", "😀"]
    for name in names:
        await record(opened(name), f"of {name}")
    for name in names:
        assert await texts(opened(name)) == [f"of {name}"]
    assert await texts(opened()) == ["of chat"]


async def test_the_file_is_made_with_the_first_addition(opened: Opened, path: Path) -> None:
    """Loading finds nothing and leaves nothing."""
    assert await texts(opened()) == []
    assert not path.exists()
    await record(opened(), "one")
    assert path.exists()


@pytest.mark.parametrize("is_there", [False, True])
async def test_the_file_is_private(opened: Opened, path: Path, is_there: bool) -> None:
    """Only its user can read it, also if it was there before, empty, and what is written beside it."""
    if is_there:
        path.touch(0o644)
    history = opened()
    await record(history, "secret")
    for file in [path, path.with_name("chats.db-wal"), path.with_name("chats.db-shm")]:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_file_is_private_from_the_beginning(path: Path) -> None:
    """Nobody else can open it while it is empty, and wait for what is written."""
    _create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_file_that_its_user_has_opened_to_others_stays_so(opened: Opened, path: Path) -> None:
    """The permissions are set once, when the history is made."""
    await record(opened(), "one")
    path.chmod(0o640)
    await record(opened(), "two")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_other_programs_can_read_it(opened: Opened, path: Path) -> None:
    """The messages stand in a table, as JSON."""
    await record(opened(), "one", 'two "quoted" é')
    with sqlite3.connect(path) as reader:
        rows = reader.execute(
            "SELECT json_extract(message, '$.text'), typeof(message) FROM messages WHERE history = 'chat'"
            " ORDER BY position"
        ).fetchall()
    reader.close()
    assert rows == [("one", "text"), ('two "quoted" é', "text")]


async def test_it_can_be_used_in_any_loop_and_thread(opened: Opened) -> None:
    """One object serves several event loops, at the same time."""
    history = opened()
    await record(history, "here")
    await asyncio.gather(*(asyncio.to_thread(asyncio.run, record(history, f"{number}")) for number in range(4)))
    assert sorted(await texts(history)) == ["0", "1", "2", "3", "here"]


async def test_names_and_paths_that_make_no_sense(path: Path) -> None:
    """What cannot be a history is refused at once."""
    with pytest.raises(TypeError, match="the name of a chat history is 5; give a string"):
        ChatHistorySQLite(path, 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use InMemoryChatHistory"):
        ChatHistorySQLite(":memory:")


# --- what cannot be used ---


@pytest.mark.parametrize("use", ["open", "record", "load"])
async def test_no_database(opened: Opened, path: Path, use: str) -> None:
    """A file of another kind is refused with its name, and not touched."""
    path.write_text("# My chat\n" * 100)
    with pytest.raises(HistoryFileError, match=r"chats\.db cannot be used: it is no SQLite database; give another"):
        if use == "open":
            opened().open()
        await (record(opened(), "one") if use == "record" else texts(opened()))
    assert path.read_text() == "# My chat\n" * 100


async def test_the_database_of_another_program(opened: Opened, path: Path) -> None:
    """The database of another program is refused; nothing is added to it, and nothing kept locked."""
    with sqlite3.connect(path, timeout=0) as other:
        other.execute("CREATE TABLE messages (text)")
    before = path.read_bytes()
    with pytest.raises(HistoryFileError, match=r"chats\.db is the database of another program; give") as raised:
        await record(opened(), "one")
    assert path.read_bytes() == before
    with other:
        other.execute("INSERT INTO messages VALUES ('mine')")
    other.close()
    del raised  # which would have kept a connection that is not closed


async def test_a_newer_schema(opened: Opened, path: Path) -> None:
    """A file that was written by a newer version is refused, and not taken for damaged."""
    await record(history := opened(), "one")
    history.close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 2")
    newer.close()
    with pytest.raises(HistoryFileError, match=r"newer version of miniagents \(schema 2, known here: 1\); update"):
        await texts(opened())


async def test_a_damaged_file(opened: Opened, path: Path) -> None:
    """Pages that make no sense are an error, and not fewer messages."""
    await record(history := opened(), *("x" * 1000 for _ in range(50)))
    history.close()
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 8] = b"\xff" * 4096 * 5
    path.write_bytes(data)
    with pytest.raises(HistoryFileError, match=r"chats\.db cannot be used: it is damaged; restore a copy"):
        await texts(opened())


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A path that leads nowhere is an error that says why."""
    history = ChatHistorySQLite(tmp_path / "missing" / "chats.db")
    assert await texts(history) == []
    with pytest.raises(HistoryFileError, match=r"missing/chats\.db cannot be used: no such file or directory; mend"):
        await record(history, "one")
    history.close()


async def test_a_folder_in_place_of_a_file(opened: Opened, path: Path) -> None:
    """A folder is no file."""
    path.mkdir()
    with pytest.raises(HistoryFileError, match="it cannot be opened; see whether it is a file"):
        await record(opened(), "one")


async def test_a_locked_file(opened: Opened, path: Path) -> None:
    """A file that another program keeps locked is an error after the time-out; when it is free, all goes on."""
    history = opened(timeout=0.05)
    await record(history, "one")
    assert history._database is not None
    assert history._database.connection().execute("PRAGMA busy_timeout").fetchone() == (50,)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(HistoryFileError, match="another program keeps it locked; end that one, or give a longer"):
        await record(history, "two")
    assert await texts(history) == ["one"]
    other.close()
    await record(history, "three")
    assert await texts(history) == ["one", "three"]


async def test_a_full_disk(opened: Opened) -> None:
    """Where there is no room an addition fails as a whole, and works again when there is."""
    history = opened()
    await record(history, "one")
    assert history._database is not None
    history._database.connection().execute("PRAGMA max_page_count = 10")  # what SQLite does on a full disk, without one
    with pytest.raises(HistoryFileError, match="there is no room for more; make some on the disk"):
        await record(history, "x" * 100_000)
    assert await texts(history) == ["one"]
    await record(history, "x" * 100_000)
    assert len(await texts(history)) == 2


READ_ONLY = """
import asyncio, os, sys
from pathlib import Path
from miniagents import Message
from miniagents.ext.history_agents import ChatHistorySQLite, HistoryFileError

path = Path(sys.argv[1]) / "chats.db"
if os.geteuid() == 0:  # who may write everywhere
    os.chown(path.parent, 65534, 65534)
    os.setgid(65534)
    os.setuid(65534)

async def main():
    history = ChatHistorySQLite(path)
    await history._append(Message("one"))
    history.close()
    path.chmod(0o400)
    if sys.argv[2] == "folder":
        path.parent.chmod(0o500)
    for use in (history.aload_chat_history(), history._append(Message("two"))):
        try:
            print(await use)
        except HistoryFileError as error:
            print(error)
    path.parent.chmod(0o700)
    for file in path.parent.iterdir():
        file.chmod(0o600)
    await history._append(Message("three"))
    print(len(await history.aload_chat_history()))

asyncio.run(main())
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_cannot_be_written(what: str) -> None:
    """A read-only file can be loaded; what cannot be done is an error that says what to change, and works then."""
    with TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, folder, what], cwd=ROOT, capture_output=True, text=True, timeout=30
        )
    assert done.stderr == ""
    loaded, error, after = done.stdout.splitlines()
    assert error.endswith("it cannot be written; change the permissions of file, `-wal`, `-shm` and folder")
    assert loaded == ("(Message(text='one'),)" if what == "file" else error)
    assert after == "2"


async def test_a_file_that_is_taken_away(opened: Opened, path: Path) -> None:
    """Nothing is written into a file that nobody can find any more; closing begins a new one."""
    history = opened()
    await record(history, "one")
    path.rename(path.with_name("elsewhere.db"))
    for _ in range(2):
        with pytest.raises(HistoryFileError, match=r"chats\.db was moved, deleted or replaced while it was in use"):
            await record(history, "two")
    path.with_name("elsewhere.db").rename(path)
    await record(history, "three")
    assert await texts(history) == ["one", "three"]
    path.unlink()
    history.close()
    await record(history, "four")
    assert await texts(history) == ["four"]


async def test_a_class_that_is_not_known(opened: Opened, path: Path) -> None:
    """A message of an unknown class is an error that says where it is, and the others are not lost."""
    history = opened("a b")
    await record(history, "one", "two")
    with sqlite3.connect(path) as writer:
        (stored,) = writer.execute("SELECT message FROM messages WHERE position = 2").fetchone()
        unknown = json.dumps(dict.fromkeys(json.loads(stored), "nowhere.Unknown"))
        writer.execute("UPDATE messages SET message = ? WHERE position = 2", (unknown,))
    with pytest.raises(UnreadableValueError, match=r"nowhere\.Unknown") as raised:
        await texts(history)
    assert raised.value.__notes__ == [f"in the chat history 'a b' of {path}, at position 2"]
    with writer:
        writer.execute("UPDATE messages SET message = ? WHERE position = 2", (stored,))
    writer.close()
    assert await texts(history) == ["one", "two"]


# --- threads, cancellation, closing ---


async def test_the_loop_goes_on_while_the_file_is_locked(opened: Opened, path: Path) -> None:
    """Whoever waits for the file does so in a thread."""
    history = opened()
    await record(history, "one")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.ensure_future(record(history, "two"))
    await quiescence()
    assert not waiting.done()
    other.execute("ROLLBACK")
    other.close()
    await waiting
    assert await texts(history) == ["one", "two"]


async def test_a_cancelled_addition_that_has_not_begun(opened: Opened, path: Path) -> None:
    """An addition that is cancelled before its turn does not take place; the others do, in their order."""
    history = opened()
    await record(history, "one")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    additions = [asyncio.ensure_future(record(history, text)) for text in ("two", "three", "four")]
    await quiescence()
    additions[1].cancel()
    other.execute("ROLLBACK")
    other.close()
    await asyncio.wait(additions)
    assert additions[1].cancelled()
    assert await texts(history) == ["one", "two", "four"]


async def test_closing_finishes_what_is_being_written(opened: Opened) -> None:
    """What has been handed over before `close` is written."""
    history = opened()
    additions = [asyncio.ensure_future(record(history, f"{number}")) for number in range(5)]
    await quiescence()
    history.close()
    await asyncio.gather(*additions)
    assert await texts(history) == ["0", "1", "2", "3", "4"]


async def test_what_is_not_closed_leaves_nothing(path: Path) -> None:
    """A history that nobody holds any more gives back its thread and its file."""
    history = ChatHistorySQLite(path)
    await record(history, "one")
    (thread,) = threads()
    del history
    gc.collect()
    await asyncio.to_thread(thread.join, 10)
    assert not threads()


# --- many processes ---


async def test_the_first_additions_at_the_same_moment(tmp_path: Path) -> None:
    """However many make the file at once, it is made once, and nobody fails."""

    async def first_addition(path: Path, start: threading.Barrier) -> None:
        history = ChatHistorySQLite(path)
        start.wait()
        await record(history, "one")
        history.close()

    with ThreadPoolExecutor(8) as pool:
        for number in range(30):
            path, start = tmp_path / f"{number}.db", threading.Barrier(8)
            additions = [pool.submit(asyncio.run, first_addition(path, start)) for _ in range(8)]
            await asyncio.gather(*map(asyncio.wrap_future, additions))
            history = ChatHistorySQLite(path)
            assert await texts(history) == ["one"] * 8
            history.close()


FORK = """
import asyncio, os, sys
from miniagents import Message
from miniagents.ext.history_agents import ChatHistorySQLite

history = ChatHistorySQLite(sys.argv[1])
asyncio.run(history._append(Message("parent")))
child = os.fork()
if child == 0 and sys.argv[2] == "close":
    history.close()
asyncio.run(history._append(Message("child" if child == 0 else "parent")))
if child:
    assert os.waitpid(child, 0)[1] == 0
    print(sorted(map(str, asyncio.run(history.aload_chat_history()))))
"""


@pytest.mark.parametrize("first", ["close", "append"])
def test_a_history_that_was_open_before_a_fork(path: Path, first: str) -> None:
    """Both sides of a fork can go on with the same object, or close it."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(path), first], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("['child', 'parent', 'parent']\n", "")


WRITERS = """
import asyncio, os, sys
from miniagents import Message
from miniagents.ext.history_agents import ChatHistorySQLite

async def write(writer):
    history = ChatHistorySQLite(sys.argv[1])
    for number in range(10**9):
        await history._append(Message(f"{number} " * (number % 50 * 40), writer=writer, number=number))
        os.write(1, f"{writer} {number}\\n".encode())

for writer in range(int(sys.argv[2])):
    if os.fork() == 0:
        os.write(1, f"{writer} pid {os.getpid()}\\n".encode())
        asyncio.run(write(writer))
for _ in range(int(sys.argv[2])):
    os.wait()
"""


async def test_killed_while_writing(opened: Opened, path: Path) -> None:
    """Of processes that are killed at any moment everything that was confirmed is there, whole, and nothing else."""
    count = 8
    writers = subprocess.Popen(
        [sys.executable, "-c", WRITERS, str(path), str(count)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert writers.stdout is not None
    processes, confirmed = {}, dict.fromkeys(range(count), -1)
    for line in writers.stdout:
        writer, _, said = line.partition(" ")
        if said.startswith("pid"):
            processes[int(writer)] = int(said.split()[1])
            continue
        confirmed[int(writer)] = int(said)
        if int(said) == 10 + 7 * int(writer):
            os.kill(processes[int(writer)], signal.SIGKILL)
    assert writers.wait() == 0
    writers.stdout.close()
    loaded: list[Any] = list(await opened().aload_chat_history())
    for number, last in confirmed.items():
        assert last >= 10
        written = [message.number for message in loaded if message.writer == number]
        assert written in ([*range(last + 1)], [*range(last + 2)])
    assert all(message.text == f"{message.number} " * (message.number % 50 * 40) for message in loaded)
