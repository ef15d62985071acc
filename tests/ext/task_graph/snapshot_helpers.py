"""What the tests of snapshots share."""

import json
from pathlib import Path
from typing import Any

from miniagents import MiniAgents
from miniagents.ext.task_graph import Agent, Node, Task
from tests.ext.task_graph.helpers import agent_of, nothing_left

__all__ = ["data_of", "recording_agent", "snapshots", "take_up", "written"]


def recording_agent(folder: Any, *nodes: Node, every: str | None = "always", **options: Any) -> Agent:
    """An agent whose snapshots go to a folder; all nodes are written down, unless `every` says otherwise."""
    chosen = [node if every is None else node.model_copy(update={"snapshot": every}) for node in nodes]
    return agent_of(*chosen, auto_snapshot=True, snapshot_dir=folder, **options)


def snapshots(folder: Path, task: Task) -> list[Path]:
    """The folders of the snapshots of a task, in their order."""
    return sorted(path for path in (folder / str(task.id)).iterdir() if path.name[0].isdigit())


def written(folder: Path, task: Task) -> list[str]:
    """The nodes whose ends were written down, in their order."""
    entries = [json.loads((path / "entry.json").read_text()) for path in snapshots(folder, task)]
    return [entry["node"] for entry in entries if entry["node"]]


def data_of(snapshot: Path) -> dict[str, Any]:
    """What a snapshot holds, as people would read it."""
    data: dict[str, Any] = json.loads((snapshot / "entry.json").read_text())["data"]
    return data


async def take_up(agent: Agent, snapshot: Any, **options: Any) -> Task:
    """Goes on from a snapshot, inside of a context, and sees to it that nothing is left."""
    async with nothing_left(), MiniAgents():
        return await agent.run_from_snapshot(snapshot, **options)
