"""The command `workflow`: what it says of runs, of their questions, and of what cannot be done."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from miniagents.ext.checkpoints import NewEntry, SQLiteCheckpointStore
from miniagents.ext.cli import app
from miniagents.ext.cli_graph import load
from miniagents.ext.workflow.questions import OpenQuestion, answer_entry, open_questions_of, pending_answers_of
from tests.support.terminal import Terminal, environment

COMMAND = [sys.executable, "-m", "miniagents"]
ABOUT_A_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"

FLOWS = """
from miniagents import Message
from miniagents.ext.checkpoints import FileCheckpointStore, SQLiteCheckpointStore
from miniagents.ext.workflow import Agent

class Note(Message):
    pages: int

agent = Agent("review", ask=None)
own = Agent("own", store=SQLiteCheckpointStore("own.db"))
files = Agent("files", store=FileCheckpointStore("files"))
noted = Agent("noted", ask=None)
outer = Agent("outer", ask=None)
pair = Agent("pair", ask=None)

@agent.state
async def draft(context):
    context.set_state("text", "A text")
    return "review"

@agent.state
async def review(context):
    said = await context.human_in_the_loop("Publish it?", validator=lambda answer: answer in ("yes", "no"))
    context.set_state("said", said)

async def nothing(context):
    pass

own.add_state("nothing", nothing)
files.add_state("nothing", nothing)

@noted.state
async def note(context):
    context.set_state("note", Note("Long.", pages=900))
    return "ask"

@noted.state
async def ask(context):
    await context.human_in_the_loop("Keep it?")

@outer.state
async def begin(context):
    return agent, "review"

@pair.state
async def both(context):
    return ["left", "right"]

@pair.state
async def left(context):
    await context.human_in_the_loop("Left?", timeout=3600)

@pair.state
async def right(context):
    await context.human_in_the_loop("Right?")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands work, and where the user's state is, too."""
    (tmp_path / "flows.py").write_text(FLOWS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIAGENTS_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def store(folder: Path) -> SQLiteCheckpointStore:
    """The store of the user."""
    return SQLiteCheckpointStore()


def workflow(*arguments: str, stdin: str | None = None) -> Result:
    """Does a command here, without a terminal."""
    return CliRunner().invoke(app, ["workflow", *arguments], input=stdin)


@contextmanager
def at_work(folder: Path, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """A command that goes on in a process of its own, without a terminal."""
    process = subprocess.Popen(
        [*COMMAND, "workflow", *arguments],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        process.communicate()
    finally:
        process.kill()
        process.communicate()


def said_by(process: "subprocess.Popen[str]", last: str) -> str:
    """What a process has said up to a line."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if last in line:
            break
    return "".join(lines)


def interrupt(run_id: str, name: str = "agent", questions: int = 1) -> None:
    """Begins a run, and leaves it when it has asked."""

    async def work() -> None:
        async with SQLiteCheckpointStore() as store:
            agent = load(f"flows.py:{name}")
            agent.store = store
            run = asyncio.ensure_future(agent.run(run_id))
            while len(await agent.open_questions(run_id) if agent.run_id else []) < questions:
                await asyncio.sleep(0)
            run.cancel()
            await asyncio.wait([run])

    asyncio.run(work())


def question(name: str, deadline: float | None = None) -> NewEntry:
    return NewEntry("question", name, data={"id": name, "prompt": "?", "deadline": deadline, "state": name})


# --- a run that waits ---


def test_a_run_without_a_terminal_says_what_it_asks(folder: Path) -> None:
    """The question and how to answer it stand on standard error, again when an answer was refused."""
    question = "review asks (review-1-1): Publish it?\n"
    how = "answer with: miniagents workflow answer r1 review-1-1\n"
    with at_work(folder, "run", "flows.py:agent", "--run-id", "r1") as process:
        assert said_by(process, "answer with").endswith(question + how)
        assert workflow("answer", "r1", "maybe").exit_code == 0
        assert said_by(process, "answer with").endswith(f"'maybe' will not do. {question}{how}")
        done = workflow("answer", "r1", "yes")
        assert "The run is at work" in done.stderr
        assert process.communicate()[0] == "text = 'A text'\nsaid = 'yes'\n"


def test_a_resumed_run_says_what_it_still_asks(folder: Path) -> None:
    """A question that was asked by an earlier process is told again, with the store that is not the user's own."""
    interrupt("r 1")
    runs = str(folder / "runs.db")
    (folder / "state" / "checkpoints.db").rename(runs)
    with at_work(folder, "resume", "flows.py:agent", "r 1", "--store", "runs.db") as process:
        said = said_by(process, "answer with")
        assert said.splitlines()[0] == f"run r 1, recorded in {runs}"
        assert said.endswith(f"answer with: miniagents workflow answer 'r 1' review-1-1 --store {runs}\n")
        workflow("cancel", "r 1", "--store", runs)


def test_a_resumed_run_says_what_has_come_of_an_answer(folder: Path) -> None:
    """A question that has an answer is told only when that will not do."""
    interrupt("r1")
    workflow("answer", "r1", "maybe")
    with at_work(folder, "resume", "flows.py:agent", "r1") as process:
        said = said_by(process, "answer with")
        assert "\n'maybe' will not do. review asks (review-1-1): Publish it?\nanswer with" in said
        assert said.count("asks") == 1
        workflow("answer", "r1", "yes")


def test_a_part_of_a_run_says_what_it_asks(folder: Path) -> None:
    """Another workflow that a run has gone on with is a run, too; what it asks is shown and answered by either name."""
    with at_work(folder, "run", "flows.py:outer", "--run-id", "r1") as process:
        assert "answer r1/review.review/1 review-1-1\n" in said_by(process, "answer with")
        assert "\nopen question review-1-1 of r1/review.review/1: Publish it?\n" in workflow("show", "r1").stdout
        workflow("answer", "r1", "no")
        assert process.communicate()[0] == "said = 'no'\n"


def test_the_deadline_of_a_question_is_told(folder: Path) -> None:
    """Where one of two questions has a deadline, that stands with how to answer it."""
    with at_work(folder, "run", "flows.py:pair", "--run-id", "r1") as process:
        said = said_by(process, " answer ") + said_by(process, " answer ")
        assert re.search(f"answer, until {ABOUT_A_TIME}, with: miniagents workflow answer r1 left-1-1\n", said)
        assert "answer with: miniagents workflow answer r1 right-1-1\n" in said
        workflow("cancel", "r1")


def test_a_question_stands_above_the_live_table(folder: Path) -> None:
    """A workflow that nobody is asked for in the terminal says there how to answer it, and the table goes on below."""
    terminal = Terminal(folder, COMMAND, "workflow", "run", "flows.py:agent", "--run-id", "r1")
    terminal.expect("run r1, recorded in")
    terminal.expect("review asks (review-1-1): Publish it?")
    terminal.expect("answer with: miniagents workflow answer r1 review-1-1")
    assert workflow("answer", "r1", "no").exit_code == 0
    terminal.expect("review complete")
    terminal.expect("said = 'no'")
    assert terminal.wait() == 0
    assert re.search(r"[\r\n]run r1, recorded", terminal.shown)  # on a line of its own


# --- answers ---


def test_an_answer_that_was_not_taken_up_is_shown_as_such(folder: Path) -> None:
    """It counts when the run is resumed; a further one mends it, and is told to do so."""
    interrupt("r1")
    assert "\nopen question review-1-1: Publish it?\n" in workflow("show", "r1").stdout
    assert "counts as soon as the run is resumed" in workflow("answer", "r1", "review-1-1", "maybe").stderr
    shown = workflow("show", "r1").stdout
    assert "open question" not in shown
    assert shown.endswith(
        "\nquestion review-1-1: Publish it?\n  answered 'maybe', which counts when the run is resumed\n"
    )
    further = workflow("answer", "r1", "yes").stderr
    assert "a further answer to review-1-1; it counts if 'maybe' will not do" in further
    assert "answered 'maybe', or if that will not do 'yes', which" in workflow("show", "r1").stdout
    assert workflow("resume", "flows.py:agent", "r1").stdout == "text = 'A text'\nsaid = 'yes'\n"


def test_a_single_argument_is_the_answer_to_the_only_question(folder: Path) -> None:
    """If it names the question, the answer is asked for; where several are open, it has to name one."""
    interrupt("r1")
    assert "answered 'no'" in workflow("answer", "r1", "review-1-1", stdin="no\n").stderr
    interrupt("r2", "pair", questions=2)
    done = workflow("answer", "r2", "yes")
    assert done.exit_code == 1
    assert "there are: left-1-1, right-1-1; give `miniagents workflow answer RUN QUESTION TEXT`" in done.stderr
    assert workflow("answer", "r2", "left-1-1", "yes").exit_code == 0
    assert "right-1-1 is answered 'yes'" in workflow("answer", "r2", "yes").stderr  # the one that has no answer yet


def test_what_cannot_be_answered(folder: Path) -> None:
    """A run that asks nothing, a question that is over, a deadline that has passed, a person who says nothing."""
    interrupt("r1")
    assert "no answer was given" in workflow("answer", "r1", stdin="").stderr
    workflow("cancel", "r1")
    done = workflow("answer", "r1", "yes")
    assert (done.exit_code, done.stderr) == (
        1,
        "miniagents: no question of r1 waits for an answer; see `miniagents workflow show r1`\n",
    )

    async def ask_in_the_past() -> None:
        async with SQLiteCheckpointStore() as store:
            await store.create("r2", workflow="review")
            async with await store.claim("r2") as claim:
                await store.append(
                    claim,
                    [
                        question("a-1-1"),
                        NewEntry("answered", "a", data={"id": "a-1-1", "text": "yes"}),
                        question("b-1-1", 1e9),
                    ],
                )

    asyncio.run(ask_in_the_past())
    assert re.search(
        f"b-1-1 waited for an answer until {ABOUT_A_TIME}, and no more", workflow("answer", "r2", "yes").stderr
    )
    assert (
        "no question 'a-1-1' of r2 waits for an answer; there are: b-1-1;" in workflow("answer", "r2", "a-1-1").stderr
    )
    assert " interrupted " in workflow("list").stdout


async def test_answers_that_wait_to_be_taken_up(store: SQLiteCheckpointStore) -> None:
    """What was refused, came too late, or belongs to a question that was withdrawn does not wait."""
    bad, good = answer_entry("a", "bad"), answer_entry("a", "good")
    async with store:
        await store.create("r1", workflow="review")
        async with await store.claim("r1") as claim:
            refused = NewEntry("refused", "a", data={"id": "a", "text": "bad", "answer": bad.attempt})
            late = answer_entry("b", "late")
            withdrawn = [question("c"), answer_entry("c", "1"), NewEntry("withdrawn", "c", data={"id": "c"})]
            await store.append(
                claim, [question("a"), bad, good, refused, question("b", 1e9), late, *withdrawn, question("c")]
            )
        entries = await store.read("r1")
    assert pending_answers_of(entries) == {"a": ["good"]}
    assert open_questions_of(entries)[1] == OpenQuestion("b", "?", 1e9, "b")


# --- what is told of runs ---


def test_entries_of_the_whole_run_have_no_attempts(folder: Path) -> None:
    """Numbers that tell one answer from another are not shown as attempts, nor as what was refused."""
    interrupt("r1")
    for text in ("maybe", "yes"):
        workflow("answer", "r1", text)
    workflow("resume", "flows.py:agent", "r1")
    shown = workflow("show", "r1").stdout
    assert re.search(r"s +answer +id='review-1-1'", shown)
    assert re.search(r"s +refused +review +1 +2 +id='review-1-1', text='maybe' *\n", shown)
    assert not re.search(r"\d{9}", shown)


def test_a_list_tells_what_has_become_of_runs(folder: Path) -> None:
    """A run that nobody works at is interrupted, or waits for an answer, and can be listed as such."""
    interrupt("r1")
    interrupt("r2")
    workflow("answer", "r2", "yes")
    workflow("run", "flows.py:own", "--run-id", "r3", "--store", "state/checkpoints.db")
    interrupt("r4", "noted")  # this process can read what is in it
    with at_work(folder, "run", "flows.py:agent", "--run-id", "r5") as process:
        said_by(process, "answer with")
        assert statuses() == {
            "r1": "waits for an answer",
            "r2": "interrupted",
            "r3": "completed",
            "r4": "waits for an answer",
            "r5": "running",
        }
        assert statuses("--status", "running") == {"r5": "running"}
        assert statuses("--status", "interrupted", "--workflow", "review") == {"r2": "interrupted"}
        workflow("cancel", "r5")
    assert "waits for an answer" in workflow("show", "r1").stdout


def statuses(*options: str) -> dict[str, str]:
    rows = workflow("list", *options).stdout.splitlines()[1:]
    return {row.split()[0]: re.split(r"  +", row)[2] for row in rows}


def test_values_of_classes_that_a_command_does_not_know(folder: Path) -> None:
    """They are in the file of the workflow, which only `run` and `resume` load; the others do without."""
    interrupt("r1")
    interrupt("r2", "noted")

    def elsewhere(*arguments: str) -> str:
        done = subprocess.run(
            [*COMMAND, "workflow", *arguments],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0
        return done.stdout

    listed = elsewhere("list")
    assert re.search(r"r2 +noted +waits for an answer", listed)
    assert re.search(r"r1 +review +waits for an answer", listed)
    assert "open question ask-1-1: Keep it?" in elsewhere("show", "r2")
    elsewhere("answer", "r2", "yes")
    assert workflow("resume", "flows.py:noted", "r2").exit_code == 0


def test_cancelling_reaches_the_parts_of_a_run(folder: Path) -> None:
    """Nothing of it waits for an answer any more."""
    interrupt("r1", "outer")
    assert workflow("list").stdout.count("waits for an answer") == 2
    assert workflow("cancel", "r1").exit_code == 0
    assert workflow("list").stdout.count("cancelled") == 2


@pytest.mark.parametrize(
    "arguments", [("show", "nope"), ("answer", "nope", "yes"), ("cancel", "nope"), ("resume", "flows.py:agent", "nope")]
)
def test_an_unknown_run(folder: Path, arguments: tuple[str, ...]) -> None:
    """The error says where it was looked for, and which command lists those that are there."""
    place = folder / "state" / "checkpoints.db"
    done = workflow(*arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"miniagents: there is no run nope in {place}; see `miniagents workflow list`\n"
    place = folder / "runs.db"
    said = f"in {place}; see `miniagents workflow list --store {place}`\n"
    assert workflow(*arguments, "--store", "runs.db").stderr.endswith(said)


def test_where_a_run_is_recorded_is_told(folder: Path) -> None:
    """It is the store of the workflow, if that has one, as far as it is not overruled."""
    assert f"run r1, recorded in {folder / 'own.db'}\n" in workflow("run", "flows.py:own", "--run-id", "r1").stderr
    done = workflow("run", "flows.py:own", "--store", "runs.db")
    assert re.search(rf"^run \w{{32}}, recorded in {folder / 'runs.db'}\n", done.stderr)
    assert "recorded in <FileCheckpointStore files>" in workflow("run", "flows.py:files").stderr
    assert "see `store.runs()`" in workflow("resume", "flows.py:files", "nope").stderr  # no command lists these
    again = workflow("run", "flows.py:own", "--run-id", "r1")
    assert again.exit_code == 1
    assert again.stderr.startswith("miniagents: RunExistsError")  # and nothing of a run that has not begun


# --- beginning and ending ---


def test_cancelling_says_what_comes_of_it(folder: Path) -> None:
    """A run that is at work is told, another one is over, and what has ended cannot be cancelled."""
    with at_work(folder, "run", "flows.py:agent", "--run-id", "r1") as process:
        said_by(process, "answer with")
        done = workflow("cancel", "r1")
        assert (done.exit_code, done.stderr) == (0, "r1 is at work, and is told to end.\n")
        process.communicate()
        assert process.returncode == 1
    interrupt("r2")
    done = workflow("cancel", "r2")
    assert (done.exit_code, done.stderr) == (0, "r2 is cancelled, and cannot be resumed any more.\n")
    for run_id in ("r1", "r2"):
        done = workflow("cancel", run_id)
        assert (done.exit_code, done.stderr) == (1, f"miniagents: {run_id} has ended already: it is cancelled\n")


def test_values_to_begin_with(folder: Path) -> None:
    """What is no JSON is text; what sets nothing is refused before anything runs."""
    settings = ("topic=beer", "pages=3", 'tags=["a", null]', "formula=a=b", "empty=", "x=1", "x=2")
    done = workflow("run", "flows.py:own", *(part for setting in settings for part in ("--set", setting)))
    assert done.stdout.splitlines() == [
        "topic = 'beer'",
        "pages = 3",
        "tags = ['a', None]",
        "formula = 'a=b'",
        "empty = ''",
        "x = 2",
    ]
    for wrong in ("topic", "=3"):
        done = workflow("run", "flows.py:own", "--set", wrong)
        assert (done.exit_code, "give --set KEY=VALUE" in done.stderr) == (2, True)
