"""Whatever the documentation shows runs, and prints what it says."""

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.llm_server import llm_server_in_thread

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n<!-- output -->\n\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    code: str
    output: str | None
    file: str
    line: int


def blocks() -> Iterator[Block]:
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        text = path.read_text()
        for match in BLOCK.finditer(text):
            yield Block(match[1], match[2], path.name, text[: match.start()].count("\n") + 2)


@pytest.mark.parametrize("block", list(blocks()), ids=lambda block: f"{block.file}:{block.line}")
def test_block(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python block runs as it stands, against a local server where it calls a model, and prints what is shown."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code = compile(
        "\n" * (block.line - 1) + block.code,
        block.file,
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    printed = io.StringIO()
    with llm_server_in_thread() as server, contextlib.redirect_stdout(printed):
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        namespace = {"__name__": "__main__"}
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, namespace))
        else:
            exec(code, namespace)
    if block.output is not None:
        assert printed.getvalue() == block.output


EXAMPLES = {
    "console_chat.py": ("help\n", "I am the offline model"),
    "persisted_messages.py": ("", "How are you today?"),
    "three_in_parallel.py": ("", "Charles: the gears are too small."),
    "chain_of_two.py": ("", "the judge was given 126"),
    "relay_of_ten.py": ("", "(the story is not finished) Once upon"),
}


def test_every_example_is_tested() -> None:
    """There is no example that nobody runs."""
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("with_key", [False, True], ids=["offline", "with_key"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, with_key: bool, tmp_path: Path) -> None:
    """An example runs in a process of its own, without a key, and with one."""
    stdin, expected = EXAMPLES[name]
    with llm_server_in_thread() as server:
        variables = {"OPENAI_BASE_URL": server.openai_url, "OPENAI_API_KEY": "key"} if with_key else {}
        done = subprocess.run(
            [sys.executable, "-W", "error", str(ROOT / "examples" / name)],
            input=stdin, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
            capture_output=True, text=True, timeout=50,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if not (with_key and name == "console_chat.py"):
        assert expected in done.stdout
