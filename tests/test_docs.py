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
from typing import Any, NamedTuple

import pytest

from tests.support.llm_server import llm_server_in_thread

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(
    r"^(?P<continues><!-- test: continues -->\n\n?)?```python\n(?P<code>.*?)^```\n"
    r"(?:\n<!-- output -->\n\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    code: str
    output: str | None
    file: str
    line: int
    before: "Block | None"


def blocks_of(text: str, file: str) -> Iterator[Block]:
    block = None
    for match in BLOCK.finditer(text):
        before = block if match["continues"] else None
        block = Block(match["code"], match["output"], file, text[: match.start("code")].count("\n") + 1, before)
        yield block


def blocks() -> Iterator[Block]:
    for path in DOCUMENTS:
        yield from blocks_of(path.read_text(), path.relative_to(ROOT).as_posix())


def run(block: Block, namespace: dict[str, Any]) -> str:
    """Runs a block, after those that it continues, and gives what it printed itself."""
    if block.before:
        run(block.before, namespace)
    code = compile(
        "\n" * (block.line - 1) + block.code,
        block.file,
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, namespace))
        else:
            exec(code, namespace)
    return printed.getvalue()


@pytest.mark.parametrize("block", list(blocks()), ids=lambda block: f"{block.file}:{block.line}")
def test_block(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python block runs as it stands, against a local server where it calls a model, and prints what is shown."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with llm_server_in_thread() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        printed = run(block, {"__name__": "__main__"})
    if block.output is not None:
        assert printed == block.output


def test_a_block_can_continue_the_one_before() -> None:
    """A marked block knows the names of the block before, and only its own output counts."""
    text = "```python\nx = 1\nprint(x)\n```\n\n<!-- test: continues -->\n```python\nprint(x + 1)\n```\n"
    first, second = blocks_of(text, "text")
    assert (first.line, second.line) == (2, 8)
    assert run(second, {}) == "2\n"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_block_is_overlooked(path: Path) -> None:
    """Whatever looks like a Python block, a shown output or a mark is recognised as one, and so is checked."""
    text = path.read_text()
    found = list(blocks_of(text, path.name))
    assert len(found) == len(re.findall(r"^ *(?:```|~~~) *py", text, re.MULTILINE))
    assert sum(block.output is not None for block in found) == text.count("\n<!-- output -->\n")
    assert sum(block.before is not None for block in found) == text.count("\n<!-- test: continues -->\n")


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
