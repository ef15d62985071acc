"""`miniagents graph`: running and drawing graphs, task graphs and workflows that a Python file defines."""

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from miniagents.agents import MiniAgent
from miniagents.context import MiniAgents

__all__ = ["graph_app", "load", "run_or_leave"]

graph_app = typer.Typer(help="Run and draw graphs of agents.", no_args_is_help=True, rich_markup_mode=None)

Target = Annotated[str, typer.Argument(metavar="FILE.py:NAME", help="A Python file, and the graph that it defines.")]


@graph_app.command()
def run(
    target: Target,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What to send it; standard input for -.")] = None,
    progress: Annotated[bool, typer.Option("--progress", help="Show each node while it runs.")] = False,
) -> None:
    """Run a graph. Its result goes to standard output."""
    agent = load(target)
    sent = sys.stdin.read() if text == "-" else text
    run_or_leave(_run(agent, sent, progress))


@graph_app.command()
def draw(target: Target) -> None:
    """Draw a graph as a Mermaid flowchart, on standard output."""
    agent: Any = load(target)
    if not hasattr(agent, "to_mermaid"):
        raise typer.BadParameter(f"{target} is an agent without nodes; give a graph, a task graph or a workflow")
    try:
        typer.echo(agent.to_mermaid(), nl=False)
    except Exception as error:
        leave(error)


async def _run(agent: MiniAgent, text: str | None, progress: bool) -> None:
    from miniagents.ext.graph.events import GraphFinished

    async with MiniAgents():
        if not progress:
            replies = agent.inquire(text, progress=False)
            async for promise in replies:
                async for token in promise:
                    _write(token)
                _write("\n")
            return
        from miniagents.ext.graph.progress import Progress

        messages = await Progress(agent.alias).show(agent.inquire(text))
        finished = messages[-1] if messages else None
        if isinstance(finished, GraphFinished):
            for results in finished.results.values():
                for message in results:
                    _write(f"{message}\n")


def load(target: str) -> Any:
    """Finds what a file defines.

    Args:
        target: `FILE.py:NAME`.

    Returns:
        The agent.

    Raises:
        BadParameter: There is no such file or name, or it is no agent.
    """
    file, _, name = target.rpartition(":")
    path = Path(file)
    if not file or not name:
        raise typer.BadParameter(f"{target!r} names no agent; give FILE.py:NAME")
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.absolute()))  # as if the file itself had been started
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        leave(error)
    agent = getattr(module, name, None)
    if not isinstance(agent, MiniAgent):
        known = [key for key, value in vars(module).items() if isinstance(value, MiniAgent)]
        raise typer.BadParameter(f"{file} defines no agent {name!r}; there are: {', '.join(known) or 'none'}")
    return agent


def run_or_leave(work: Any) -> Any:
    """Runs a coroutine, and leaves with an error in one line, or with 130 after Ctrl+C."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except Exception as error:
        leave(error)


def leave(error: Exception) -> None:
    """Ends the command with an error in one line."""
    from miniagents.ext.console import one_line

    typer.echo(f"miniagents: {one_line(error)}", err=True)
    raise typer.Exit(1) from None


def _write(text: str) -> None:
    sys.stdout.write(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    sys.stdout.flush()
