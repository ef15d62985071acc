"""The documented code: as users have it, with nothing but the imports changed, and completed where it leaves gaps."""

import ast
import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit

import pytest

from miniagents.ext.cache import RedisCache
from miniagents.ext.task_graph import AgentModule, Node, TaskStatus
from tests.ext.task_graph.helpers import node, results

DOCUMENTED = Path(__file__).parent / "documented"
IMPORTS = (
    "from typing import Any, Dict, List, Optional\n"
    "from miniagents.ext.cache import Cache, RedisCache\n"
    "from miniagents.ext.task_graph import *\n"
)
RUN_THE_TASK = "# Run the task\n"


class ExecutorModule(AgentModule):
    """What the documents leave to their readers."""

    async def process(self, cache: Any, semaphore: Any) -> dict[str, Any]:
        task = await cache.get("task")
        return {"status": "success", "result": f"executed: {task.objective} {task.params['input']}"}


class Reader:
    """Somebody who runs the documented blocks one after the other, and has a Redis server of their own.

    Attributes:
        names: What is known by now.
    """

    def __init__(self, redis_url: str, prefix: str) -> None:
        address = urlsplit(redis_url)
        here = {"host": address.hostname, "port": address.port, "default_prefix": prefix}
        self.names: dict[str, Any] = {}
        exec(IMPORTS, self.names)
        self.names.update(ExecutorModule=ExecutorModule, RedisCache=lambda **options: RedisCache(**{**options, **here}))

    async def run(self, name: str, part: int | None = None) -> None:
        """Runs a block, or a part of it: 0 for what comes before the task is run, 1 for the rest."""
        code = (DOCUMENTED / f"{name}.txt").read_text()
        if part is not None:
            code = code.split(RUN_THE_TASK)[part]
        compiled = compile(code, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        outcome = eval(compiled, self.names)
        if inspect.isawaitable(outcome):
            await outcome


@pytest.fixture
async def reader(redis_url: str, redis_prefix: str) -> AsyncIterator[Reader]:
    found = Reader(redis_url, redis_prefix)
    yield found
    for cache in [*found.names.values(), getattr(found.names.get("agent"), "cache", None)]:
        if isinstance(cache, RedisCache):
            await cache.close()


async def test_a_task_and_its_graph(reader: Reader) -> None:
    """The documented agent runs its task on a real Redis, when somebody has added the planner that it depends on."""
    await reader.run("task_and_graph", part=0)
    agent, task = reader.names["agent"], reader.names["task"]
    agent.add_node(node("planner", "planned"))
    await reader.run("task_and_graph", part=1)
    assert task.status is TaskStatus.COMPLETE
    assert results(agent) == {
        "planner": "planned",
        "executor": "executed: Process data data",
        "flow_control": "planner",  # the default, since the task has no parameter `ready`
    }
    assert (await agent.cache.get("task")).status is TaskStatus.COMPLETE


async def test_the_gap_is_named(reader: Reader) -> None:
    """As it stands, the documented agent says which node it lacks, and the task is still waiting."""
    await reader.run("task_and_graph", part=0)
    with pytest.raises(ValueError, match=r"executor depends on 'planner'"):
        await reader.run("task_and_graph", part=1)
    assert reader.names["task"].status is TaskStatus.WAITING


async def test_a_task(reader: Reader) -> None:
    """A task is waiting at first, and has an id."""
    await reader.run("task_creation")
    task = reader.names["task"]
    assert (task.type, task.objective, task.params) == ("processing", "Process data", {"input": "data"})
    assert task.status is TaskStatus.WAITING
    await reader.run("task_creation")
    assert reader.names["task"].id != task.id


async def test_the_cache(reader: Reader) -> None:
    """The documented cache works."""
    await reader.run("cache_setup")
    await reader.names["cache"].set("x", 1)
    assert await reader.names["cache"].get("x") == 1


async def test_the_settings_of_a_node(reader: Reader) -> None:
    """The documented settings do what their comments say."""
    await reader.run("node_config")
    config = reader.names["node_config"]
    agent = reader.names["Agent"]()

    async def work(cache: Any) -> dict[str, Any]:
        return {"status": "success", "result": "delivered"}

    made = node("n", work, work)
    agent.add_node(Node(name="n", modules=made.modules, node_config=config))
    await agent.cache.set("data", 1)
    task = await agent.run_task(reader.names["Task"](type="t", objective="o", params={"ready": True}))
    assert (task.status, task.error) == (TaskStatus.COMPLETE, None)
    assert len(agent.node_results["n"]["results"]) == 2


async def test_middleware(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    """The documented middleware sees what the module returns."""
    await reader.run("logging_middleware")
    made = reader.names["node"]
    assert made.config.timeout == 30.0
    agent = reader.names["Agent"]()
    agent.add_node(made)
    await agent.run_task(reader.names["Task"](type="t", objective="o", params={"input": "i"}))
    assert capsys.readouterr().out == "Processing data: {'status': 'success', 'result': 'executed: o i'}\n"


async def test_execution_state(reader: Reader, tmp_path: Path) -> None:
    """The documented ways to look at a run work, and so does going on from a snapshot."""
    names = reader.names
    agent = names["agent"] = names["Agent"](auto_snapshot=True, snapshot_dir=tmp_path)
    agent.add_multiple_nodes(
        [node("a", snapshot=names["SnapshotControl"].ALWAYS), node("specific_node", after=["a"]), node("b")]
    )
    task = await agent.run_task(names["Task"](type="t", objective="o"))
    names["snapshot_dir"] = tmp_path / str(task.id)
    await reader.run("execution_state")
    assert names["full_plan"].nodes == ["a", "b", "specific_node"]
    assert names["partial_plan"].nodes == ["specific_node"]
    assert names["current_plan"] == names["full_plan"]
    assert (names["execution_history"], names["total_iterations"]) == ([], 3)


async def test_a_traced_node(reader: Reader) -> None:
    """The documented node is accepted."""
    await reader.run("traced_node")
    assert reader.names["node"].trace


@pytest.mark.parametrize(
    "block", ["agent_module", "node_config_class", "flow_classes", "middleware_class", "execution_state_class"]
)
async def test_documented_classes(reader: Reader, block: str) -> None:
    """Each documented class has all documented fields, with their defaults, and all documented methods."""
    ours = dict(reader.names)
    reader.names["ExecutionPlan"] = ours["ExecutionPlan"]
    await reader.run(block)
    documented = {
        name: value for name, value in reader.names.items() if isinstance(value, type) and value is not ours.get(name)
    }
    assert documented
    for name, theirs in documented.items():
        fields = ours[name].model_fields
        for field in get_type_hints(theirs, reader.names):
            assert field in fields, f"{name} has no {field}"
            if hasattr(theirs, field):
                assert fields[field].get_default(call_default_factory=True) == getattr(theirs, field), f"{name}.{field}"
        for method in [key for key, value in vars(theirs).items() if inspect.isfunction(value)]:
            given = inspect.signature(getattr(ours[name], method)).parameters
            assert list(given) == list(inspect.signature(vars(theirs)[method]).parameters)
