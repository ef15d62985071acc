"""The documented blocks and examples as users have them: imports changed, and what they leave open added."""

import ast
import inspect
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from miniagents.ext import workflow
from miniagents.ext.workflow import (
    Agent,
    AgentStatus,
    Checkpoint,
    Context,
    DependencyType,
    ResourcePool,
    ResourceType,
    StateStatus,
    TypedContextData,
)
from tests.ext.workflow.helpers import started_task, until_asked

DOCUMENTED = Path(__file__).parent / "documented" / "blocks.txt"

States = dict[str, Callable[[Context], Awaitable[Any]]]


async def run_block(name: str, **names: Any) -> dict[str, Any]:
    """Runs a block with all names of the package, and those that it leaves open; gives all that there is then."""
    text = DOCUMENTED.read_text()
    found = re.search(rf"^# === {name}\n(.*?)(?=^# ===|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    lines_before = text[: found.start(1)].count("\n")  # so that the source of its functions can be found
    namespace = {one: getattr(workflow, one) for one in workflow.__all__} | {"json": json, "time": time} | names
    code = compile("\n" * lines_before + found[1], DOCUMENTED, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        await eval(code, namespace)
    else:
        exec(code, namespace)
    return namespace


def workflow_of(names: dict[str, Any], *states: str, **others: Any) -> Agent:
    """A workflow of functions of a block, and of states that only write down that they ran."""
    agent = Agent("documented", ask=None, reducers={"ran": lambda ran, more: ran + more})
    for name in states:
        agent.add_state(name, names[name])
    for name, function in others.items():
        agent.add_state(name, function)
    return agent


def noting(name: str) -> Callable[[Context], Awaitable[None]]:
    async def note(context: Context) -> None:
        context.set_state("ran", [name])

    return note


def all_noting(*names: str) -> States:
    return {name: noting(name) for name in names}


def naming(name: str, following: str) -> Callable[[Context], Awaitable[str]]:
    async def note(context: Context) -> str:
        context.set_state("ran", [name])
        return following

    return note


def setting(following: str, **values: Any) -> Callable[[Context], Awaitable[str]]:
    async def start(context: Context) -> str:
        for key, value in values.items():
            context.set_state(key, value)
        return following

    return start


# --- first steps ---


async def test_quick_start(capsys: pytest.CaptureFixture[str]) -> None:
    """The first example prints its greeting."""
    await run_block("quick_start")
    assert capsys.readouterr().out == "Result: Hello, World!\n"


async def test_state_operations(capsys: pytest.CaptureFixture[str]) -> None:
    """What is set is there, what is removed is not."""
    names = await run_block("basic_state_operations")
    result = await workflow_of(names, "basic_state", **all_noting("next_state")).run()
    assert result == {"scores": [95, 87, 92], "ran": ["next_state"]}
    assert capsys.readouterr().out == "Scores exist\n"


async def test_typed_data() -> None:
    """A typed value is updated field by field."""
    names = await run_block("type_safe_data_handling")
    result = await workflow_of(names, "typed_state", **all_noting("next_state")).run()
    assert result["user"] == names["UserProfile"](name="Alice", age=29, scores=[95.0, 87.5])


async def test_sequential_execution() -> None:
    """Each state names the next one."""
    agent = workflow_of(await run_block("sequential_execution"), "step1", "step2", "step3")
    await agent.run()
    assert agent.completed_states == {"step1", "step2", "step3"}


async def test_parallel_execution() -> None:
    """What all of the parallel states name runs once, after all of them."""
    names = await run_block("parallel_execution")
    parallel = ("process_images", "process_text", "analyze_data")
    agent = workflow_of(names, "start_parallel", **{name: naming(name, "merge_results") for name in parallel})
    agent.add_state("merge_results", names["merge_results"])
    result = await agent.run()
    assert sorted(result["ran"]) == sorted(parallel)
    assert agent.state_metadata["merge_results"].visits == 1


# --- resources ---


async def test_resource_requirements() -> None:
    """A state with resources gets them, from a pool that has them."""
    agent = Agent("documented", resource_pool=ResourcePool(total_gpu=2.0))
    held: list[Any] = []

    async def train_model(context: Context) -> None:
        held.append(agent.resource_pool.get_state_allocations()["train_model"][ResourceType.GPU])

    await run_block("resource_requirements", agent=agent, train_model=train_model)
    await agent.run()
    assert held == [1.0]


async def test_resource_pool_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """A pool of one's own is that of the workflow, and tells what is used."""
    names = await run_block("resource_pool_configuration")
    agent = names["agent"]
    assert agent.resource_pool is names["pool"]
    names = await run_block("resource_usage_monitoring", agent=agent)
    assert capsys.readouterr().out == "CPU Usage: 0.0\nMemory Usage: 0.0\n"
    assert (names["allocations"], names["waiting_states"]) == ({}, {})


# --- dependencies ---


async def test_basic_dependencies() -> None:
    """A state of four kinds of dependencies runs when all of them are met."""
    agent = workflow_of({}, prepare_data=naming("prepare_data", "background_task"))
    agent.add_state("background_task", naming("background_task", "previous_step"))
    agent.add_state("previous_step", noting("previous_step"))
    agent.add_state("validate_data", noting("validate_data"))
    await run_block("basic_dependencies", agent=agent, final_step=noting("final_step"))
    assert (await agent.run())["ran"] == ["prepare_data", "background_task", "previous_step", "final_step"]


async def test_advanced_dependencies() -> None:
    """A dependency with a condition is met when both hold."""
    agent = workflow_of({}, dependency=setting("await_processing", ready=True))
    await run_block("advanced_dependencies", agent=agent, complex_step=noting("complex_step"))
    assert (await agent.run())["ran"] == ["complex_step"]


# --- failures ---


async def test_retry_policies() -> None:
    """A call that fails three times is tried a fourth time."""
    agent = workflow_of({})
    attempts: list[int] = []

    async def make_api_call(context: Context) -> None:
        attempts.append(context.attempt)
        if context.attempt < 4:
            raise ConnectionError("the line is busy")

    await run_block("retry_policies", agent=agent, make_api_call=make_api_call)
    await agent.run()
    assert attempts == [1, 2, 3, 4]


async def test_error_states() -> None:
    """A state goes on with the state for what has come."""
    agent = workflow_of({})
    await run_block("error_states_and_compensation", agent=agent)
    agent.add_state("success_state", noting("success_state"))
    agent.add_state("notification_state", noting("notification_state"))
    assert await agent.run() == {"ran": ["success_state"]}


# --- checkpoints ---


async def test_checkpointing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint goes into a file, and into an agent of another name, which goes on from there."""
    monkeypatch.chdir(tmp_path)
    agent = workflow_of({}, first=setting("wait", value=1), second=noting("second"))

    async def wait(context: Context) -> str:
        assert await context.human_in_the_loop("Go on?", timeout=10, default="yes") == "yes"
        return "second"

    agent.add_state("wait", wait)
    task = started_task(agent.run())
    await until_asked(agent)
    await agent.pause()
    names = await run_block("basic_checkpointing", agent=agent)
    task.cancel()
    restored = names["new_agent"]
    assert restored.completed_states == {"first"}
    restored.add_state("first", setting("wait", value=2))
    restored.add_state("wait", wait)
    restored.add_state("second", noting("second"))
    assert await restored.run() == {"value": 1, "ran": ["second"]}
    read = Checkpoint.from_dict(json.loads((tmp_path / "workflow_state.json").read_text()))
    assert read == names["checkpoint"]
    names = await run_block("automatic_checkpointing", checkpoint=read)
    assert names["checkpoint_data"]["completed"] == ["first"]
    assert names["checkpoint_data"]["status"] is AgentStatus.PAUSED


# --- people ---


@pytest.mark.parametrize(("answer", "following"), [("I approve.", "publish"), ("Reject it", "revise")])
async def test_human_input(answer: str, following: str) -> None:
    """What a person says decides what is next."""
    names = await run_block("basic_human_input")
    agent = workflow_of(names, "review_content", **all_noting("publish", "revise"))
    task = started_task(agent.run())
    assert await until_asked(agent) == ["review_content-1-1"]
    await agent.answer(None, "review_content-1-1", answer)
    assert (await task)["ran"] == [following]


async def test_validated_human_input() -> None:
    """An answer that will not do is asked for again; without any the default counts."""
    names = await run_block("validated_human_input")
    agent = workflow_of(names, "get_user_input", **all_noting("process_score"))
    assert (await agent.run())["user_score"] == 50
    task = started_task(agent.run())
    for answer in ("a lot", "200", "97"):
        await until_asked(agent)
        await agent.answer(None, "get_user_input-1-1", answer)
    assert (await task)["user_score"] == 97


# --- looking at it, and control ---


async def test_monitoring() -> None:
    """The documented figures."""
    agent = workflow_of({}, my_state=noting("my_state"), other=noting("other"))
    names = await run_block("state_status_tracking", agent=agent)
    assert (names["status"], names["state_status"]) == (AgentStatus.IDLE, StateStatus.PENDING)
    await agent.run()
    names = await run_block("state_status_tracking", agent=agent)
    assert (names["status"], names["state_status"]) == (AgentStatus.COMPLETED, StateStatus.COMPLETED)
    assert names["metrics"] == {"completed": 1, "running": 0, "pending": 0}
    assert {status.name for status in AgentStatus} >= {"IDLE", "RUNNING", "PAUSED", "COMPLETED", "FAILED"}
    documented = {"PENDING", "READY", "RUNNING", "COMPLETED", "FAILED", "BLOCKED", "CANCELLED", "TIMEOUT"}
    assert {status.name for status in StateStatus} == documented


async def test_execution_configuration() -> None:
    """A workflow runs twice, with either limit."""
    agent = workflow_of({}, only=noting("only"))
    names = await run_block("execution_configuration", agent=agent)
    assert agent.state_metadata["only"].status is StateStatus.COMPLETED
    assert names["agent"].max_concurrent == 5


async def test_execution_control() -> None:
    """A run is paused, goes on, loses a state, and is cancelled."""
    agent = workflow_of({})

    async def state_name(context: Context) -> None:
        await context.human_in_the_loop("For ever?")

    agent.add_state("begin", setting_parallel("state_name", "other"))
    agent.add_state("state_name", state_name)
    agent.add_state("other", state_name)
    task = started_task(agent.run())
    await until_asked(agent)
    names = await run_block("execution_control", agent=agent)
    assert names["checkpoint"].completed_states == ("begin",)
    with pytest.raises(workflow.WorkflowCancelledError):
        await task
    assert (agent.status, agent.state_metadata["state_name"].status) == (AgentStatus.CANCELLED, StateStatus.CANCELLED)


def setting_parallel(*names: str) -> Callable[[Context], Awaitable[list[str]]]:
    async def start(context: Context) -> list[str]:
        return list(names)

    return start


# --- dynamic workflows ---


async def test_dynamic_states() -> None:
    """States that are made in a loop run side by side, and meet in one that runs once."""
    agent = workflow_of({})

    def split_data(data: list[int], chunk_size: int) -> list[list[int]]:
        return [data[start : start + chunk_size] for start in range(0, len(data), chunk_size)]

    async def process(chunk: list[int]) -> int:
        return sum(chunk)

    async def merge_results(context: Context) -> None:
        context.set_state("total", sum(context.get_state(f"result_{i}") for i in range(3)))

    agent.add_state("start", setting_parallel("process_chunk_0", "process_chunk_1", "process_chunk_2"))
    data = list(range(2500))
    await run_block("dynamic_state_generation", agent=agent, split_data=split_data, large_data=data, process=process)
    agent.add_state("merge_results", merge_results)
    assert (await agent.run())["total"] == sum(data)
    assert agent.state_metadata["merge_results"].visits == 1


@pytest.mark.parametrize(
    ("size", "ran"),
    [(2000, ["process_chunk_1", "process_chunk_2"]), (200, ["sequential_process"]), (2, ["simple_process"])],
)
async def test_conditional_workflows(size: int, ran: list[str]) -> None:
    """The size of the data decides which way a run takes."""
    names = await run_block("conditional_workflows")
    agent = workflow_of(names, begin=setting("route_processing", data=[0] * size))
    agent.add_state("route_processing", names["route_processing"])
    for name in ("process_chunk_1", "process_chunk_2", "sequential_process", "simple_process"):
        agent.add_state(name, noting(name))
    assert (await agent.run())["ran"] == ran


# --- the four examples ---


async def test_example_1() -> None:
    """The text is cleaned, analysed and formatted."""
    names = await run_block("example_1")
    final = names["agent"].get_state("final_result")
    assert final["analysis"] == {"length": 13, "words": 2, "has_punctuation": True}
    assert final["text"] == "Hello  World!"


async def test_example_2() -> None:
    """Quality and entities are looked at side by side."""
    agent = (await run_block("example_2"))["agent"]
    assert (agent.status, len(agent.completed_states)) == (AgentStatus.COMPLETED, 3)


async def test_example_3() -> None:
    """The batch is validated; its reader adds the states that the example only names."""
    names = await run_block("example_3", **await type_names())
    agent = names["agent"]
    agent.add_state("validate_data", names["validate_data"])
    agent.add_state("transform_data", noting("transform_data"))
    assert (await agent.run())["validation_passed"] is True


async def test_example_4() -> None:
    """The metrics of all epochs are there."""
    names = await run_block("example_4", **await type_names())
    agent = workflow_of(names, "prepare_training", "train_model", **all_noting("evaluate_model"))
    result = await agent.run()
    assert result["metrics_epoch_9"].epoch == 9
    assert result["ran"] == ["evaluate_model"]


async def type_names() -> dict[str, Any]:
    """The imports of the second example, which the later ones rely on."""
    names = await run_block("example_2")
    return {"dataclass": names["dataclass"], "List": names["List"]}


# --- further use cases ---


@dataclass
class Article(TypedContextData):
    text: str


async def test_content_management() -> None:
    """`await_completion`, where it is added, is a state like others: it runs once, when all have ended."""
    names = await run_block("content_management_system", Article=Article)
    agent = workflow_of(names, begin=setting("process_article", article=Article("An article")))
    for name in ("process_article", "spell_check", "generate_summary", "create_images", "await_completion"):
        agent.add_state(name, names[name])
    agent.add_state("extract_keywords", naming("extract_keywords", "await_completion"))
    agent.add_state("publish", noting("publish"))
    assert (await agent.run())["ran"] == ["extract_keywords", "publish"]
    assert agent.state_metadata["await_completion"].visits == 1


@dataclass
class ServiceTicket(TypedContextData):
    priority: str
    tags: list[str]


@pytest.mark.parametrize(
    ("ticket", "ran"),
    [
        (ServiceTicket("high", []), "human_review"),
        (ServiceTicket("low", ["bug"]), "technical_review"),
        (ServiceTicket("low", []), "standard_response"),
    ],
)
async def test_customer_service(ticket: ServiceTicket, ran: str) -> None:
    """The ticket decides who answers it."""

    async def generate_priority_response() -> str:
        return "We are on it."

    names = await run_block(
        "customer_service_automation",
        ServiceTicket=ServiceTicket,
        generate_priority_response=generate_priority_response,
    )
    agent = workflow_of(names, begin=setting("handle_ticket", ticket=ticket))
    agent.add_state("handle_ticket", names["handle_ticket"])
    agent.add_state("immediate_response", names["immediate_response"])
    for name in ("human_review", "technical_review", "standard_response"):
        agent.add_state(name, noting(name))
    assert (await agent.run())["ran"] == [ran]


@dataclass
class Dataset(TypedContextData):
    data: list[int]


async def test_data_analysis() -> None:
    """Large data is split, and its chunks are processed side by side."""

    def split_data(data: list[int], parts: int) -> list[list[int]]:
        return [data[number::parts] for number in range(parts)]

    names = await run_block("data_analysis_pipeline", Dataset=Dataset, split_data=split_data, analyze_data=sum)
    data = list(range(20_000))
    agent = workflow_of(names, begin=setting("analyze_dataset", dataset=Dataset(data), chunk_id=1))
    agent.add_state("analyze_dataset", names["analyze_dataset"])
    for name in ("process_chunk_0", "process_chunk_2", "merge_results", "simple_process"):
        agent.add_state(name, noting(name))
    agent.add_state("process_chunk_1", names["process_chunk"])
    assert (await agent.run())["results_1"] == sum(data[1::5])


def test_all_blocks_are_tested() -> None:
    """No block is forgotten."""
    blocks = set(re.findall(r"^# === (\w+)$", DOCUMENTED.read_text(), re.MULTILINE))
    tested = set(re.findall(r'run_block\(\s*"(\w+)"', Path(__file__).read_text()))
    assert blocks == tested


def test_dependency_types() -> None:
    """All documented kinds of dependencies."""
    documented = {"REQUIRED", "OPTIONAL", "PARALLEL", "SEQUENTIAL", "CONDITIONAL", "TIMEOUT", "XOR", "AND", "OR"}
    assert {kind.name for kind in DependencyType} == documented
