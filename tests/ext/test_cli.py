"""The command line: in pipes, with signals, and in a real terminal."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from miniagents import __version__
from tests.support.llm_server import Gate, Reply, llm_server_in_thread
from tests.support.terminal import Terminal, environment

ROOT = str(Path(__file__).parents[2])
COMMAND = [sys.executable, "-m", "miniagents", "chat"]


def chat(folder: Path, stdin: str, *options: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *options],
        input=stdin,
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_pipe(tmp_path: Path) -> None:
    """Each line that is not blank is a message; only answers go to standard output; the end of input is a clean end."""
    done = chat(tmp_path, "echo one\n\n   \necho two", "--model", "offline")
    assert (done.returncode, done.stdout) == (0, "one\ntwo\n")
    assert "offline model" in done.stderr.splitlines()[0]
    history = (tmp_path / "CHAT.md").read_text()
    assert re.findall(r"^## (\w+)", history, re.MULTILINE) == ["user", "assistant"] * 2


def test_history_is_taken_up_again(tmp_path: Path) -> None:
    """The next start goes on with the history; with --no-history, and with another file, it does not."""
    with llm_server_in_thread() as server:
        for _ in range(2):
            assert chat(tmp_path, "hi", OPENAI_BASE_URL=server.openai_url).returncode == 0
        done = chat(tmp_path, "hi", "--no-history", "--system", "Be kind.", OPENAI_BASE_URL=server.openai_url)
        assert done.stdout == "hi \n"
        chat(tmp_path, "hi", "--context", "2", OPENAI_BASE_URL=server.openai_url)
        sent = [[turn["content"] for turn in request.body["messages"]] for request in server.requests]
    assert sent == [["hi"], ["hi", "hi ", "hi"], ["Be kind.", "hi"], ["hi ", "hi"]]


def test_keys_choose_the_provider(tmp_path: Path) -> None:
    """OpenAI comes before Anthropic, the environment before `.env`, and `--model` before all of them."""
    with llm_server_in_thread() as server:
        urls = {"OPENAI_BASE_URL": server.openai_url, "ANTHROPIC_BASE_URL": server.url}
        (tmp_path / ".env").write_text(f"ANTHROPIC_API_KEY=from-file\nANTHROPIC_BASE_URL={server.url}\n")
        chat(tmp_path, "hi")
        chat(tmp_path, "hi", ANTHROPIC_API_KEY="from-environment", ANTHROPIC_BASE_URL=server.url)
        chat(tmp_path, "hi", OPENAI_API_KEY="key", **urls)
        chat(tmp_path, "hi", "--model", "anthropic:some-model", OPENAI_API_KEY="key", **urls)
        headers = [request.headers for request in server.requests]
        keys = [(sent.get("x-api-key") or sent["authorization"]).removeprefix("Bearer ") for sent in headers]
        assert keys == ["from-file", "from-environment", "key", "from-file"]
        assert server.requests[-1].body["model"] == "some-model"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--model", "openai:x"], 1, "OPENAI_API_KEY"),
        (["--model", "anthropic:x"], 1, "ANTHROPIC_API_KEY"),
        (["--model", "nonsense"], 2, "--model takes"),
        (["--model", "openai"], 2, "--model takes"),
        (["--history", "folder"], 1, "folder cannot be"),
        (["--history", "binary"], 1, "not UTF-8"),
        (["--context", "0"], 2, "--context"),
    ],
)
def test_clear_errors(tmp_path: Path, options: list[str], code: int, message: str) -> None:
    """What is wrong is said on standard error, with a code that says so, too."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    done = chat(tmp_path, "hi", *options)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_of_the_model(tmp_path: Path) -> None:
    """A refused connection and a wrong model name are one line and exit code 1; the question is kept."""
    refused = chat(tmp_path, "hi", OPENAI_BASE_URL="http://127.0.0.1:9/v1", OPENAI_API_KEY="sk-secret")
    with llm_server_in_thread(Reply(status=404, error=("model_not_found", "no such model, sk-secret"))) as server:
        wrong = chat(
            tmp_path, "hi", "--model", "openai:x", OPENAI_BASE_URL=server.openai_url, OPENAI_API_KEY="sk-secret"
        )
    for done in (refused, wrong):
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 2
        assert "sk-secret" not in done.stderr
    assert "no such model" in wrong.stderr
    assert (tmp_path / "CHAT.md").read_text().count("## user") == 2


def test_version_and_help() -> None:
    """`--version` and `--help` answer without importing an SDK."""
    code = "import sys; from miniagents.ext.cli import main\ntry: main()\nfinally: assert 'openai' not in sys.modules"
    for option, expected in (("--version", __version__), ("--help", "chat")):
        done = subprocess.run(
            [sys.executable, "-c", code, option], cwd=ROOT, capture_output=True, text=True, timeout=50
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert expected in done.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda value: str(value)
)
def test_signals_in_mid_answer(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """A signal ends the chat, and what had been said by then is kept."""
    with llm_server_in_thread(Reply(("part ", Gate(), "never"))) as server:
        process = subprocess.Popen(
            COMMAND, cwd=tmp_path, env=environment(OPENAI_BASE_URL=server.openai_url), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"hi\n")
        process.stdin.flush()
        assert process.stdout.read(5) == b"part "
        process.send_signal(number)
        assert process.wait(30) == code
        process.stdin.close()
        process.stdout.close()
    history = (tmp_path / "CHAT.md").read_text()
    assert '"interrupted":true' in history
    assert "part" in history


@contextmanager
def paused_server(gate: Gate, *more: Reply) -> Iterator[str]:
    with llm_server_in_thread(Reply(("par", "tial ", gate, "never")), *more) as server:
        yield server.openai_url


def test_terminal_keys(tmp_path: Path) -> None:
    """Enter sends, Alt+Enter breaks the line, a paste is one message, commands are not sent, Ctrl+D leaves."""
    terminal = Terminal(tmp_path, COMMAND, "--model", "offline")
    terminal.expect("offline model")
    terminal.expect("you> ")
    terminal.type("echo one\x1b\rtwo\r")
    terminal.expect("agent> one")
    terminal.expect("you> ")
    terminal.type("\x1b[200~echo three\nfour\n\nfive\x1b[201~")
    terminal.type("\r")
    terminal.expect("agent> three")
    terminal.expect("five")
    terminal.expect("you> ")
    terminal.type("/help\r")
    terminal.expect("Alt+Enter breaks the line")
    terminal.expect("you> ")
    terminal.type("\x04")
    assert terminal.wait() == 0
    history = (tmp_path / "CHAT.md").read_text()
    assert "echo one\ntwo\n" in history
    assert "echo three\nfour\n\nfive\n" in history
    assert history.count("## user") == 2


def test_terminal_interrupts(tmp_path: Path) -> None:
    """Ctrl+C in mid-answer stops the answer and keeps what was said; the chat goes on; Ctrl+C at the prompt leaves."""
    with paused_server(Gate()) as url:
        terminal = Terminal(tmp_path, COMMAND, OPENAI_BASE_URL=url)
        terminal.expect("you> ")
        terminal.type("hi\r")
        terminal.expect("partial")
        terminal.type("\x03")
        terminal.expect("(interrupted)")
        terminal.expect("you> ")
        terminal.type("again\r")
        terminal.expect("agent> again")
        terminal.expect("you> ")
        terminal.type("\x03")
        assert terminal.wait() == 0
    history = (tmp_path / "CHAT.md").read_text()
    assert '"interrupted":true' in history
    assert "partial" in history


def test_terminal_errors(tmp_path: Path) -> None:
    """An error of the model is one line on the screen, and the chat goes on."""
    with llm_server_in_thread(Reply(status=400, error=("bad", "not like this"))) as server:
        terminal = Terminal(tmp_path, COMMAND, OPENAI_BASE_URL=server.openai_url)
        terminal.expect("you> ")
        terminal.type("hi\r")
        terminal.expect("not like this")
        terminal.expect("you> ")
        terminal.type("fine\r")
        terminal.expect("agent> fine")
        terminal.expect("you> ")
        terminal.type("/exit\r")
        assert terminal.wait() == 0
