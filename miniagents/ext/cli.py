"""The command line."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from miniagents.agents import MiniAgent
from miniagents.context import MiniAgents
from miniagents.ext.cli_graph import graph_app
from miniagents.ext.cli_workflow import workflow_app

__all__ = ["app", "main"]

app = typer.Typer(
    name="miniagents",
    help="Agents that stream to each other. Start with: miniagents chat",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(graph_app, name="graph")
app.add_typer(workflow_app, name="workflow")

_PROVIDERS = "openai:NAME, anthropic:NAME, bedrock:NAME, vertex:NAME or offline"


class _Choice(NamedTuple):
    agent: MiniAgent
    line: str  # what the first line of the chat says


class _UsageError(Exception):
    """The command was not given as it should be."""


def main() -> None:
    """Runs the command that the process was started with."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        from miniagents import __version__

        typer.echo(f"miniagents {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Agents that stream to each other. Start with: miniagents chat."""


@app.command()
def chat(
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help=f"{_PROVIDERS}. By default the provider whose key is set, else offline."),
    ] = None,
    history: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the chat is kept, and taken up again at the next start.")
    ] = Path("CHAT.md"),
    no_history: Annotated[bool, typer.Option("--no-history", help="Keep nothing, and begin anew.")] = False,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="An instruction for the model.")] = None,
    context: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many of the last messages the model is sent.")
    ] = 200,
) -> None:
    """Chat with a model in this terminal, or through a pipe: echo hi | miniagents chat.

    OPENAI_API_KEY or ANTHROPIC_API_KEY (in the environment, or in a file .env in the current folder) choose the
    provider; OPENAI_BASE_URL points to a server of your own. With none of them an offline model answers.

    In the chat, Enter sends and Alt+Enter breaks the line. Ctrl+C stops an answer, or leaves. /help says more.
    """
    from dotenv import load_dotenv

    from miniagents.ext.console import one_line

    load_dotenv(Path.cwd() / ".env")
    try:
        choice = _choose(model)
    except _UsageError as error:
        typer.echo(f"miniagents: {error}", err=True)
        raise typer.Exit(2) from None
    except Exception as error:
        typer.echo(f"miniagents: {one_line(error)}", err=True)
        raise typer.Exit(1) from None
    code = 0
    try:
        code = asyncio.run(_chat(choice, None if no_history else history, system, context))
    except (KeyboardInterrupt, EOFError):
        pass  # the person left
    except Exception as error:
        typer.echo(f"miniagents: {_hide_keys(one_line(error))}", err=True)
        code = 1
    raise typer.Exit(code)


async def _chat(choice: _Choice, history_file: Path | None, system: str | None, context_messages: int) -> int:
    from miniagents.ext.chat_history import ChatHistory, InMemoryChatHistory
    from miniagents.ext.chat_history_md import ChatHistoryMD
    from miniagents.ext.console_user_agent import console_user_agent
    from miniagents.loops import adialog_loop

    history: ChatHistory = InMemoryChatHistory()
    greeting = choice.line
    if history_file is not None:
        kept = ChatHistoryMD(history_file)
        kept.open()
        before = len(await kept.aload_chat_history())
        greeting += f" History: {history_file}" + (f", {before} messages so far." if before else ".")
        history = kept
    in_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    print(f"{greeting} /help says more." if in_terminal else greeting, file=sys.stdout if in_terminal else sys.stderr)
    code = 0
    task = asyncio.current_task()

    def stop(number: int) -> None:
        nonlocal code
        code = 128 + number
        if task is not None:
            task.cancel()

    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        async with MiniAgents():
            await adialog_loop(
                console_user_agent.fork(chat_history=history, context_messages=context_messages),
                choice.agent if system is None else choice.agent.fork(system=system),
            )
    except asyncio.CancelledError:
        if code == 0:
            raise
    if in_terminal:
        print()
    return code


def _choose(model: str | None) -> _Choice:
    provider, _, name = (model or _default_provider()).partition(":")
    if provider == "offline" and not name:
        from miniagents.ext.offline_model import offline_agent

        why = "" if model else " No OPENAI_API_KEY, ANTHROPIC_API_KEY or OPENAI_BASE_URL is set."
        paced = offline_agent.fork(seconds_per_token=0.01 if sys.stdout.isatty() else 0.0)  # to be seen streaming
        return _Choice(paced, f"This is the offline model; ask it for help.{why}")
    if (model and not name) or provider not in ("openai", "anthropic", "bedrock", "vertex"):
        raise _UsageError(f"there is no model {model!r}; --model takes {_PROVIDERS}")
    if provider == "openai":
        from miniagents.ext.llm.openai import DEFAULT_OPENAI_MODEL, check_openai_key, openai_agent

        check_openai_key()
        name = name or DEFAULT_OPENAI_MODEL
        return _Choice(openai_agent.fork(model=name), f"This is {name} of OpenAI, or of the server at OPENAI_BASE_URL.")
    if provider == "bedrock":
        from miniagents.ext.llm.bedrock import bedrock_agent

        return _Choice(bedrock_agent.fork(model=name), f"This is {name} of AWS Bedrock.")
    if provider == "vertex":
        from miniagents.ext.llm.vertex import vertex_agent

        return _Choice(vertex_agent.fork(model=name), f"This is {name} of Google Vertex.")
    from miniagents.ext.llm.anthropic import DEFAULT_ANTHROPIC_MODEL, anthropic_agent, check_anthropic_key

    check_anthropic_key()
    name = name or DEFAULT_ANTHROPIC_MODEL
    return _Choice(anthropic_agent.fork(model=name), f"This is {name} of Anthropic.")


def _default_provider() -> str:
    if os.environ.get("OPENAI_API_KEY"):
        return "openai"
    if os.environ.get("ANTHROPIC_API_KEY"):
        return "anthropic"
    return "openai" if os.environ.get("OPENAI_BASE_URL") else "offline"


def _hide_keys(text: str) -> str:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        key = os.environ.get(variable)
        if key:
            text = text.replace(key, f"${variable}")
    return text
