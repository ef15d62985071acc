"""Spans of runs, nodes, modules and retries."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.otel import instrument, uninstrument
from miniagents.ext.task_graph import Agent, AgentModule, ModuleConfig, Node, NonRetryableException
from miniagents.testing import quiescence
from tests.ext.task_graph.helpers import (
    Does,
    Unreliable,
    agent_of,
    flow,
    new_task,
    node,
    nothing_left,
    run,
    success,
)

SECRET = "sk-very-secret"


class Spans:
    """What was traced, and what is still open."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    @property
    def tree(self) -> list[str]:
        """Each span after that in which it was made."""
        names = {span.context.span_id: span.name for span in self.all if span.context}
        return sorted(
            f"{names.get(span.parent.span_id, 'open') if span.parent else None} > {span.name}" for span in self.all
        )

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def attributes(self, name: str) -> dict[str, Any]:
        return dict(self.one(name).attributes or {})


@pytest.fixture
def spans() -> Spans:
    return Spans()


def traced(spans: Spans, *nodes: Node) -> Agent:
    return agent_of(*nodes, name="AGENT", tracer_provider=spans.provider)


async def test_a_run(spans: Spans) -> None:
    """The span of a run says which task it is and how it ended; below it are traced nodes, and below these modules."""
    agent = traced(spans, node("a", "x", "y", trace=True), node("untraced", after=["a"]))
    task = await run(agent, new_task(key=SECRET))
    assert spans.tree == [
        "None > run_task AGENT", "node a > module Does", "node a > module Does", "run_task AGENT > node a"
    ]  # fmt: skip
    assert spans.attributes("run_task AGENT") == {
        "miniagents.task.id": str(task.id), "miniagents.task.type": "test", "miniagents.task.status": "complete"
    }  # fmt: skip
    assert spans.attributes("node a") == {
        "miniagents.node.name": "a", "miniagents.node.visit": 1, "miniagents.node.attempts": 1
    }  # fmt: skip
    assert dict(spans.named("module Does")[0].attributes or {}) == {
        "miniagents.module.name": "Does", "miniagents.module.type": "executor"
    }  # fmt: skip
    assert all(span.status.is_unset for span in spans.all)
    assert SECRET not in "".join(span.to_json() for span in spans.all)


async def test_a_module(spans: Spans) -> None:
    """A module can be traced alone, in the span of the run."""
    await run(traced(spans, node("a", Does(name="one", trace=True), Does(name="other"))))
    assert spans.tree == ["None > run_task AGENT", "run_task AGENT > module one"]


async def test_nothing_is_traced_unless_wanted(spans: Spans) -> None:
    """Without `trace=True` there are no spans at all."""
    await run(traced(spans, node("a")))
    assert spans.all == []


async def test_the_span_of_the_caller(spans: Spans) -> None:
    """Everything is below the span that was the current one where the task was run, which stays that."""
    agent = traced(spans, node("a", trace=True))
    async with MiniAgents():
        with spans.tracer.start_as_current_span("caller") as caller:
            await agent.run_task(new_task())
            assert trace.get_current_span() is caller
            replies = agent.inquire("x")
        await replies
    assert spans.tree.count("caller > run_task AGENT") == 2


async def test_agents_inside(spans: Spans) -> None:
    """What a module calls is below its span, and so is what a generator calls at each of its visits."""

    @miniagent
    async def inner(ctx: InteractionContext, name: str) -> None:
        with spans.tracer.start_as_current_span(name):
            await asyncio.sleep(1)

    class Calls(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> AsyncIterator[Any]:
            await inner.inquire(name="first visit")
            yield success()
            await inner.inquire(name="second visit")
            yield success()

    async def once(cache: Any, task: Any) -> bool:
        return bool(await cache.increment("n") == 1)

    again = flow("again", ("b", once), after=["b"])
    await run(traced(spans, node("a", inner.fork(name="agent"), trace=True), node("b", Calls(), trace=True), again))
    assert spans.tree == sorted([
        "None > run_task AGENT", "run_task AGENT > node a", "node a > module INNER", "module INNER > agent",
        "run_task AGENT > node b", "node b > module Calls", "module Calls > first visit",
        "run_task AGENT > node b", "node b > module Calls", "module Calls > second visit",
    ])  # fmt: skip
    assert [dict(span.attributes or {})["miniagents.node.visit"] for span in spans.named("node b")] == [1, 2]


async def test_parents_of_what_runs_side_by_side(spans: Spans) -> None:
    """However many nodes, modules and tasks run at the same time, each span has the right parent."""

    def work(name: str) -> Any:
        async def working(_: Any) -> None:
            await asyncio.sleep(1)
            with spans.tracer.start_as_current_span(f"in {name}"):
                await asyncio.sleep(1)

        return Does(name=name, work=working)

    agent = traced(spans, *[node(n, work(f"{n}1"), work(f"{n}2"), parallel=True, trace=True) for n in "abc"])
    async with nothing_left(), MiniAgents():
        for name in ("T1", "T2"):
            with spans.tracer.start_as_current_span(name):
                agent.inquire("x")
    tasks = ["T1 > run_task AGENT", "T2 > run_task AGENT", "None > T1", "None > T2"]
    nodes = [f"run_task AGENT > node {n}" for n in "abc"]
    modules = [f"node {n} > module {n}{i}" for n in "abc" for i in "12"]
    inside = [f"module {n}{i} > in {n}{i}" for n in "abc" for i in "12"]
    assert spans.tree == sorted([*tasks, *nodes * 2, *modules * 2, *inside * 2])
    of_trace: dict[Any, set[str]] = {}
    for span in spans.all:
        of_trace.setdefault(span.context.trace_id if span.context else None, set()).add(span.name)
    assert sorted(map(len, of_trace.values())) == [1 + 1 + 3 + 6 + 6] * 2


async def test_retries(spans: Spans) -> None:
    """A further attempt has a span of its own in that of the node, on which the failures stand as events."""
    await run(traced(spans, node("a", Unreliable(failures=2), trace=True)))
    assert spans.tree == sorted([
        "None > run_task AGENT", "run_task AGENT > node a", "node a > module Unreliable",
        "node a > retry a", "retry a > module Unreliable", "node a > retry a", "retry a > module Unreliable",
    ])  # fmt: skip
    whole = spans.one("node a")
    assert [(event.name, dict(event.attributes or {})) for event in whole.events] == [
        ("retry", {"error.type": "ValueError", "miniagents.node.attempt": number}) for number in (1, 2)
    ]
    assert spans.attributes("node a")["miniagents.node.attempts"] == 3
    assert whole.status.is_unset  # it has succeeded in the end
    failed, succeeded = spans.named("retry a")
    assert (failed.status.description, dict(failed.attributes or {})["miniagents.node.attempt"]) == ("run 2", 2)
    assert succeeded.status.is_unset
    assert [span.status.is_ok or span.status.is_unset for span in spans.named("module Unreliable")] == [
        False, False, True
    ]  # fmt: skip


async def test_repetitions(spans: Spans) -> None:
    """With `retry_from` each visit has its span; that which has failed says so."""
    await run(traced(spans, node("a"), node("b", Unreliable(failures=1), after=["a"], retry_from="a", trace=True)))
    first, second = spans.named("node b")
    assert (first.status.description, second.status.is_unset) == ("run 1", True)


async def test_failures(spans: Spans) -> None:
    """An error is noted on the module, the node and the run, by its kind and its text, and without a traceback."""
    error = NonRetryableException("no paper")
    await run(traced(spans, node("a", Does(work=error), trace=True), node("b", after=["a"], trace=True), node("c")))
    for name in ("module Does", "node a", "run_task AGENT"):
        assert spans.one(name).status.description == "no paper"
        assert spans.attributes(name)["error.type"] == "NonRetryableException"
        assert spans.one(name).events == ()
    assert spans.attributes("run_task AGENT")["miniagents.task.status"] == "partial"
    assert spans.named("node b") == []


async def test_results_that_are_errors(spans: Spans) -> None:
    """A module that returns an error, or takes too long, has failed."""
    bad = Does(name="bad", work={"status": "error", "result": "no"})
    slow = Does(name="slow", seconds=9, config=ModuleConfig(timeout=1))
    nodes = [node(one.name, one, trace=True, retry_on_failure=False) for one in (bad, slow)]
    await run(traced(spans, *nodes))
    assert spans.attributes("module bad")["error.type"] == "ModuleError"
    assert spans.attributes("module slow")["error.type"] == "TimeoutError"


@pytest.mark.parametrize("how", ["cancelled", "timeout", "jump"])
async def test_what_is_stopped(spans: Spans, how: str) -> None:
    """Every span ends, whatever stops the run, the node or the module."""

    async def once(cache: Any, task: Any) -> bool:
        return how == "jump" and await cache.increment("n") == 1

    agent = traced(
        spans, node("a", Does(seconds=60), trace=True), node("b", Does(seconds=5)), flow("f", ("a", once), after=["b"])
    )
    async with nothing_left(), MiniAgents():
        running = asyncio.ensure_future(agent.run_task(new_task(), timeout=10 if how == "timeout" else None))
        await quiescence()
        if how == "cancelled":
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert spans.tree.count("run_task AGENT > node a") == (2 if how == "jump" else 1)
    assert [span.name for span in spans.all if span.end_time is None] == []
    first = spans.named("node a")[0]
    assert (first.attributes or {})["error.type"] == "CancelledError"
    assert (spans.named("module Does")[0].attributes or {})["error.type"] == "CancelledError"
    outcome = {"cancelled": "CancelledError", "timeout": "TimeoutError", "jump": None}[how]
    assert spans.attributes("run_task AGENT").get("error.type") == outcome


async def test_subgraphs(spans: Spans) -> None:
    """A run is traced for a node that is deep inside as well, which is below whatever is traced on the way there."""
    deep = Node(name="deep", type="subgraph", nodes=[node("x", trace=True)])  # type: ignore[arg-type]
    await run(traced(spans, deep))
    assert spans.tree == ["None > run_task AGENT", "node x > module Does", "run_task AGENT > node x"]


async def test_new_nodes(spans: Spans) -> None:
    """A node that is added while the graph runs is traced if it wants that, though the run itself is not."""
    agent = traced(spans, node("a", lambda _: success(new_nodes=[node("new", trace=True)])))
    with spans.tracer.start_as_current_span("caller"):
        await run(agent)
    assert spans.tree == ["None > caller", "caller > node new", "node new > module Does"]


@pytest.fixture
def instrumented(spans: Spans) -> Iterator[None]:
    instrument(spans.provider)
    yield
    uninstrument()


@pytest.mark.usefixtures("instrumented")
async def test_beside_the_spans_of_agents(spans: Spans) -> None:
    """Where all agents are traced, the calls of them stand between those of nodes and modules."""
    await run(traced(spans, node("a", Unreliable(), trace=True)))
    assert spans.tree == sorted([
        "None > invoke_agent AGENT", "invoke_agent AGENT > run_task AGENT", "run_task AGENT > invoke_agent AGENT",
        "invoke_agent AGENT > node a",
        "node a > invoke_agent a", "invoke_agent a > module Unreliable",
        "node a > retry a", "retry a > invoke_agent a", "invoke_agent a > module Unreliable",
    ])  # fmt: skip


async def test_the_provider_of_the_process(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of its own an agent uses that which is set for the process."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    await run(agent_of(node("a", trace=True)))
    assert "run_task TASK_GRAPH > node a" in spans.tree


# --- without OpenTelemetry ---


@pytest.fixture
def without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)


@pytest.mark.usefixtures("without_opentelemetry")
def test_a_missing_package() -> None:
    """It is an error when the node is added, which says what to install; whatever is not traced works."""
    agent = Agent()
    inner = Node(name="n", type="subgraph", nodes=[node("x", Does(trace=True))])  # type: ignore[arg-type]
    for wrong in (node("n", trace=True), node("n", Does(trace=True)), inner):
        with pytest.raises(ImportError, match=r'pip install "miniagents\[otel\]"'):
            agent.add_node(wrong)
    assert agent.nodes == {}
    agent.add_node(node("n"))


@pytest.mark.usefixtures("without_opentelemetry")
async def test_a_missing_package_for_a_new_node() -> None:
    """For a node that is added while the graph runs it is an error of the one that adds it."""
    task = await run(
        agent_of(node("a", lambda _: success(new_nodes=[node("new", trace=True)]), retry_on_failure=False))
    )
    assert 'pip install "miniagents[otel]"' in (task.error or "")


def test_nothing_is_imported_without_it() -> None:
    """Task graphs know nothing of OpenTelemetry until a node is to be traced."""
    code = (
        "import asyncio, sys\n"
        "from miniagents.ext.task_graph import *\n"
        "class M(AgentModule):\n"
        "    async def process(self, cache, semaphore): return 1\n"
        "agent = Agent()\n"
        "agent.add_node(Node(name='a', modules=[M()]))\n"
        "asyncio.run(agent.run_task(Task(type='t', objective='o')))\n"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry', 'openai', 'redis', 'lupa'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
