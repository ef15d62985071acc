"""The commands `graph` and `workflow`: in pipes, and in a real terminal."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.terminal import Terminal, environment

COMMAND = [sys.executable, "-m", "miniagents"]
PATIENCE = 40.0

GRAPHS = """
from miniagents import miniagent
from miniagents.ext.graph import Graph, NodePolicy

@miniagent
async def say(ctx, word="?"):
    ctx.reply(f"{word} {await ctx.message_promises.as_single_promise()}".strip())

@miniagent
async def fail(ctx):
    raise ValueError("no more ink")

graph = Graph("DEMO")
graph.add_node("one", say.fork(word="one"))
graph.add_node("two", say.fork(word="two"), after=["one"])
broken = Graph("BROKEN")
broken.add_node("bad", fail)
broken.add_node("never", say, after=["bad"])
ring = Graph("RING")
ring.add_node("a", say, after=["b"])
ring.add_node("b", say, after=["a"])
"""

WORKFLOW = """
from miniagents.ext.workflow import Agent

agent = Agent("review")

@agent.state
async def draft(context):
    context.set_state("text", "A text")
    return "review"

@agent.state
async def review(context):
    said = await context.human_in_the_loop("Publish it?", validator=lambda answer: answer in ("yes", "no"))
    context.set_state("said", said)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "graphs.py").write_text(GRAPHS)
    (tmp_path / "flows.py").write_text(WORKFLOW)
    return tmp_path


def command(folder: Path, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, cwd=folder, env=environment(), capture_output=True, text=True, timeout=50
    )


def soon(folder: Path, wanted: str, *arguments: str) -> str:
    """Repeats a command until its output has what is wanted."""
    until = time.monotonic() + PATIENCE
    while True:
        done = command(folder, *arguments)
        if wanted in done.stdout:
            return done.stdout
        assert time.monotonic() < until, done


def test_a_graph_runs_in_a_pipe(folder: Path) -> None:
    """What the last nodes say goes to standard output, and with --progress the events to standard error."""
    done = command(folder, "graph", "run", "graphs.py:graph", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, "two one hello\n", "")
    done = command(folder, "graph", "run", "graphs.py:graph", "-", "--progress", stdin="hi")
    assert (done.returncode, done.stdout) == (0, "two one hi\n")
    events = re.sub(r"\d[\d.e-]* s", "0 s", done.stderr).splitlines()
    assert events == [
        "one started",
        "one finished in 0 s",
        "two started",
        "two finished in 0 s",
        "DEMO complete in 0 s",
    ]


def test_a_graph_that_fails(folder: Path) -> None:
    """The error is one line, and the exit code is 1."""
    for options in ((), ("--progress",)):
        done = command(folder, "graph", "run", "graphs.py:broken", *options)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines()[-1] == "miniagents: ValueError: no more ink"
    assert "wait for each other in a ring" in command(folder, "graph", "run", "graphs.py:ring").stderr


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("graphs.py:nothing", 2, "there are: say, fail, graph, broken, ring"),
        ("nowhere.py:graph", 2, "there is no file nowhere.py"),
        ("graphs.py", 2, "give FILE.py:NAME"),
        ("graphs.py:say", 2, "an agent without nodes"),
    ],
)
def test_what_cannot_be_drawn(folder: Path, target: str, code: int, message: str) -> None:
    """What is wrong is said, and what there is instead."""
    done = command(folder, "graph", "draw", target)
    said = re.sub(r"\s*[│|]?\s*\n\s*[│|]?\s*", " ", done.stderr)
    assert done.returncode == code
    assert message in said


def test_graphs_and_workflows_are_drawn(folder: Path) -> None:
    """A Mermaid flowchart goes to standard output."""
    drawn = command(folder, "graph", "draw", "graphs.py:graph").stdout
    assert drawn == 'flowchart TD\n    n0["one"]\n    n1["two"]\n    n0 --> n1\n'
    assert "n0 -.-> n1" in command(folder, "graph", "draw", "flows.py:agent").stdout


def test_a_workflow_is_answered_from_elsewhere(folder: Path) -> None:
    """A run waits for its answer, says what it asks, refuses what will not do, and goes on with what will."""
    store = ("--store", str(folder / "runs.db"))
    running = subprocess.Popen(
        [*COMMAND, "workflow", "run", "flows.py:agent", "--run-id", "r1", *store],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        shown = soon(folder, "open question", "workflow", "show", "r1", *store)
        assert "open question review-1-1: Publish it?" in shown
        wrong = command(folder, "workflow", "answer", "r1", "review-1-2", "yes", *store)
        assert (wrong.returncode, wrong.stderr.count("review-1-1")) == (1, 1)
        assert command(folder, "workflow", "answer", "r1", "review-1-1", "maybe", *store).returncode == 0
        soon(folder, "refused", "workflow", "show", "r1", *store)
        assert command(folder, "workflow", "answer", "r1", *store, stdin="yes\n").returncode == 0
        out, _ = running.communicate(timeout=PATIENCE)
    finally:
        running.kill()
        running.wait()
    assert (running.returncode, out) == (0, "text = 'A text'\nsaid = 'yes'\n")
    listed = command(folder, "workflow", "list", "--status", "completed", *store).stdout
    assert re.search(r"r1 +review +completed", listed)


def test_a_killed_workflow_is_resumed_and_another_cancelled(folder: Path) -> None:
    """An answer to a run that nobody works at is kept until it is resumed; a cancelled run is not resumed."""
    store = ("--store", str(folder / "runs.db"))
    for run_id in ("r1", "r2"):
        running = subprocess.Popen(
            [*COMMAND, "workflow", "run", "flows.py:agent", "--run-id", run_id, *store],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        soon(folder, "open question", "workflow", "show", run_id, *store)
        if run_id == "r1":
            running.send_signal(signal.SIGKILL)
        else:
            assert command(folder, "workflow", "cancel", run_id, *store).returncode == 0
        running.wait(timeout=PATIENCE)
    assert running.returncode == 1
    assert "counts as soon as" in command(folder, "workflow", "answer", "r1", "review-1-1", "no", *store).stderr
    done = command(folder, "workflow", "resume", "flows.py:agent", "r1", *store)
    assert (done.returncode, done.stdout) == (0, "text = 'A text'\nsaid = 'no'\n")
    done = command(folder, "workflow", "resume", "flows.py:agent", "r2", *store)
    assert (done.returncode, "cancelled" in done.stderr) == (1, True)


def test_the_live_table_and_a_question_share_a_terminal(folder: Path) -> None:
    """The table makes room for the question, comes back afterwards, and the result stands below it."""
    terminal = Terminal(folder, COMMAND, "workflow", "run", "flows.py:agent", "--store", "runs.db")
    terminal.expect("Publish it?")
    assert re.search(r"draft +.*finished", terminal.shown)
    terminal.type("maybe\r")
    terminal.expect("'maybe' will not do. Publish it?")
    terminal.type("yes\r")
    terminal.expect("review complete")
    terminal.expect("said = 'yes'")
    assert terminal.wait() == 0


def test_the_live_table_of_a_graph(folder: Path) -> None:
    """Each node has a line with its state, and the result stands below."""
    terminal = Terminal(folder, COMMAND, "graph", "run", "graphs.py:graph", "hello", "--progress")
    terminal.expect("DEMO complete")
    terminal.expect("two one hello")
    assert terminal.wait() == 0
    assert re.search(r"one +.*finished.* +1 ", terminal.shown)
