"""`Agent`: what it shows, and that it is an agent like any other."""

import asyncio
from typing import Any

import pytest

from miniagents import AWAIT, END, InteractionContext, MiniAgents, achain_loop, miniagent
from miniagents.ext.cache import Cache, MemoryCache
from miniagents.ext.graph import Graph, GraphDefinitionError, GraphFinished
from miniagents.ext.task_graph import Agent, AgentModule, ExecutionState, NonRetryableException, Task, TaskStatus
from miniagents.testing import ScriptedModel, ScriptedReply, Timeline, quiescence
from tests.ext.task_graph.helpers import (
    Does,
    agent_of,
    flow,
    new_task,
    node,
    nothing_left,
    results,
    run,
    statuses,
    told,
)


def diamond(**options: Any) -> Agent:
    return agent_of(node("a"), node("b", after=["a"]), node("c", after=["a"]), node("d", after=["b", "c"]), **options)


async def words(ctx: InteractionContext) -> list[str]:
    return [str(message) for message in await ctx.message_promises]


# --- what it shows ---


def test_defaults() -> None:
    """The documented arguments have their documented defaults; before the first run there is nothing to see."""
    agent = Agent()
    assert isinstance(agent.cache, MemoryCache)
    assert (agent.max_concurrent_tasks, agent.max_total_iterations, agent.auto_snapshot) == (5, 100, False)
    assert (agent.output_mailbox, agent.error_mailbox) == ("agent_output", "agent_error")
    assert (agent.nodes, agent.graph, agent.node_results, agent.execution_state) == ({}, {}, {}, ExecutionState())
    assert agent.compile_execution_plan().steps == []


def test_nodes_and_graph() -> None:
    """The nodes by name, and their dependencies: copies, which change nothing."""
    agent = diamond()
    assert agent.graph == {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
    assert list(agent.nodes) == ["a", "b", "c", "d"]
    agent.graph["a"].append("d")
    assert agent.graph["a"] == []


def test_plans() -> None:
    """A plan has each node in the earliest step that it can be in; one from a node has what is downstream of it."""
    agent = diamond()
    agent.add_multiple_nodes([node("x"), node("e", after=["a", "d"])])
    assert [step.nodes for step in agent.compile_execution_plan().steps] == [["a", "x"], ["b", "c"], ["d"], ["e"]]
    assert [step.nodes for step in agent.compile_execution_plan_from("b").steps] == [["b"], ["d"], ["e"]]
    with pytest.raises(GraphDefinitionError, match="there is no node 'y'; there are: a, b, c, d, e, x"):
        agent.compile_execution_plan_from("y")


def test_mermaid() -> None:
    """It can be drawn, like any graph."""
    assert "n0 --> n1" in diamond().to_mermaid()


async def test_a_picture_of_a_run() -> None:
    """What a run has replied shows in the picture."""
    agent = agent_of(node("a"), node("no", condition="false"))
    async with MiniAgents():
        messages = await agent.inquire("x")
    assert 'n1["no"]:::skipped' in agent.to_mermaid(messages)


async def test_many_nodes_one_by_one() -> None:
    """Adding nodes one after the other costs the same as adding them together."""
    agent = Agent(max_total_iterations=3000)
    for number in range(2000):
        agent.add_node(node(f"n{number}", after=[f"n{number - 1}"] if number else []))
    assert len(agent.compile_execution_plan().steps) == 2000
    assert (await run(agent)).status is TaskStatus.COMPLETE


async def test_the_state_of_a_run_at_work() -> None:
    """Results and plans can be looked at while a run goes on."""
    agent = agent_of(node("a"), node("b", Does(seconds=5), after=["a"]))
    async with MiniAgents():
        agent.inquire("x")
        await quiescence()
        assert (statuses(agent), agent.execution_state.execution_index) == ({"a": "success"}, 1)


# --- tasks ---


async def test_several_tasks_at_once() -> None:
    """Each has its own state, its own task in the cache, and its own keys; `node_results` are those of the last one."""

    async def work(cache: Cache) -> str:
        number = (await cache.get("task")).params["number"]
        await cache.set("mine", number)
        await asyncio.sleep(number)
        assert await cache.get("mine") == number
        return str((await cache.get("task")).params["number"])

    agent = agent_of(node("a", work), flow("f", ("a", "mine == 3 and task.number == 4"), after=["a"]))
    tasks = [new_task(number=number) for number in (3, 1, 2)]
    async with nothing_left(), MiniAgents():
        timeline = Timeline()
        done = await asyncio.gather(*[agent.run_task(task) for task in tasks])
        assert timeline.elapsed == 3
    assert [task.result["a"]["results"][0]["result"] for task in done] == ["3", "1", "2"]
    assert agent.node_results == done[-1].result
    assert (await agent.cache.get("task")).id == tasks[0].id  # the first one, as that was alone when it began
    assert await agent.cache.mailbox_length("agent_output") == 3


async def test_one_task_after_the_other() -> None:
    """They work in the same namespace; nothing of the first one's state is left in the second."""
    agent = agent_of(node("a", lambda cache: cache.increment("n")), node("b", condition="n == 1", after=["a"]))
    await run(agent)
    assert statuses(agent) == {"a": "success", "b": "success"}
    second = await run(agent)
    assert statuses(agent) == {"a": "success", "b": "skipped"}
    assert (await agent.cache.get("task")).id == second.id


async def test_namespaces() -> None:
    """A task works in the namespace that is entered where it is run."""
    agent = agent_of(node("a", lambda cache: cache.set("x", 1)))
    async with MiniAgents(), agent.cache.with_prefix("mine"):
        await agent.run_task(new_task())
        assert sorted(await agent.cache.keys()) == ["mine:task", "mine:x"]


# --- an agent ---


async def test_an_inquiry() -> None:
    """It makes a task of what it is sent, tells the progress, and ends with the result."""
    agent = diamond(name="WORKER")
    async with MiniAgents():
        messages = await agent.inquire(["one", "two"])
    task = await agent.cache.get("task")
    assert (task.type, task.objective, task.status) == ("inquiry", "one\n\ntwo", TaskStatus.COMPLETE)
    assert told(messages)[:2] == ["a started", "a: a"]
    assert {"b started", "b: b", "c started", "c: c"} < set(told(messages))
    finished = messages[-1]
    assert isinstance(finished, GraphFinished)
    assert (finished.graph, finished.status, list(finished.results)) == ("WORKER", "complete", ["d"])
    assert [str(one) for one in finished.results["d"]] == ["d"]


async def test_an_inquiry_with_a_task() -> None:
    """A task that is given is worked at; how it ends it says itself."""
    agent, task = agent_of(node("a", Does(work=NonRetryableException("no")))), new_task()
    async with MiniAgents():
        messages = await agent.inquire("x", task=task)
    assert (task.status, messages[-1].status) == (TaskStatus.FAILED, "failed")  # type: ignore[attr-defined]


async def test_an_inquiry_that_fails() -> None:
    """Where nobody has the task, the error is raised at the end of the reply, after everything else."""
    agent = agent_of(node("a", Does(work=NonRetryableException("no"))), node("b", Does(seconds=5)))
    read = []
    async with MiniAgents():
        with pytest.raises(NonRetryableException, match="no"):
            async for promise in agent.inquire("x"):
                read.append(await promise)
        with pytest.raises(NonRetryableException):
            await agent.inquire("x", progress=False)
        with pytest.raises(TimeoutError, match="took longer than 1 s"):
            await agent_of(node("a", Does(seconds=5))).inquire("x", timeout=1)
        error = (await agent.inquire("x", progress=False, errors_as_messages=True))[-1]
    assert read[-1].status == "partial"
    assert "b finished in 5 s" in map(str, read)
    assert str(error) == "NonRetryableException: no"


async def test_without_progress() -> None:
    """The reply is what the last nodes say: what their modules have replied, or else their results."""

    class Speaks(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> Any:
            self.reply("said")

    agent = agent_of(
        node("first"),
        node("text", "text", after=["first"]),
        node("data", {"n": [1, None]}, after=["first"]),
        node("speaks", Speaks(), after=["first"]),
        node("nothing", lambda _: None, after=["first"]),
        flow("flow", after=["first"]),
    )
    async with MiniAgents():
        assert sorted(str(one) for one in await agent.inquire("x", progress=False)) == [
            "said",
            "text",
            '{"n":[1,null]}',
        ]


@pytest.mark.parametrize("kind", ["agent", "reply", "subgraph", "task graph", "graph"])
async def test_tokens_of_inner_agents(kind: str) -> None:
    """What an agent says inside is seen token by token while it says it, with the node that it belongs to."""
    reply = ScriptedReply(["slow", "ly"], seconds_per_token=1)
    with ScriptedModel(reply) as model:

        class Replies(AgentModule):
            async def process(self, cache: Any, semaphore: Any) -> Any:
                self.reply(model.agent.inquire())

        agent = {
            "agent": lambda: agent_of(node("n", model.agent)),
            "reply": lambda: agent_of(node("n", Replies())),
            "subgraph": lambda: agent_of(node("n", "x", nodes=[node("deep", model.agent)], type="subgraph")),
            "task graph": lambda: agent_of(node("n", agent_of(node("deep", model.agent)))),
            "graph": lambda: agent_of(node("n", Graph("G").add_node("deep", model.agent))),
        }[kind]()
        heard = []
        async with MiniAgents():
            timeline = Timeline()
            async for promise in agent.inquire("x"):
                async for token in promise:
                    timeline.note(token)
                heard.append(await promise)
    assert [entry for entry in timeline.entries if entry[1] != "x"] == [(1, "slow"), (2, "ly")]
    spoken = "n" if kind in ("agent", "reply") else "n/deep"
    assert f"{spoken}: slowly" in told(heard)
    assert [str(one) for one in heard[-1].results["n"]][-1] == "slowly"


async def test_progress_of_graphs_inside() -> None:
    """The nodes of a graph inside are told with the path to them; what led to its result is no message of the node."""
    inner = agent_of(node("x", "draft"), node("y", "final", after=["x"]), name="INNER")

    @miniagent
    async def received(ctx: InteractionContext) -> None:
        ctx.reply(repr(await words(ctx)))

    agent = agent_of(node("n", "own words", inner), node("after", received, after=["n"]))
    async with MiniAgents():
        messages = await agent.inquire("x")
    assert {"n: own words", "n/x started", "n/x: draft", "n/y: final"} < set(told(messages))
    assert results(agent)["after"] == "['own words', 'final']"


async def test_in_a_chain() -> None:
    """Without progress its result is what the next agent of a chain is sent."""

    @miniagent
    async def user(ctx: InteractionContext) -> None:
        heard = await words(ctx)
        ctx.reply(END if heard == ["d"] else "do it")

    async with nothing_left():
        last = await achain_loop([user, AWAIT, diamond().fork(progress=False), AWAIT])
    assert [str(message) for message in last] == ["d"]


async def test_in_a_graph() -> None:
    """It is a node of a plain graph; a failed task is a failed node."""
    graph = Graph("G").add_node("ok", diamond())

    @graph.node(after=["ok"])
    async def after(ctx: InteractionContext) -> None:
        ctx.reply(repr(await words(ctx)))

    async with MiniAgents():
        assert [str(one) for one in (await graph.inquire("x"))[-1].results["after"]] == ["['d']"]  # type: ignore[attr-defined]
        graph.add_node("bad", agent_of(node("a", Does(work=NonRetryableException("no")))))
        with pytest.raises(NonRetryableException):
            await graph.inquire("x")


async def test_forks() -> None:
    """A fork has the same nodes, settings and cache, and its own arguments; nodes added to one are not the other's."""
    agent = diamond(max_concurrent_tasks=7)
    fork = agent.fork(alias="OTHER", description="Works.", progress=False)
    assert isinstance(fork, Agent)
    assert (fork.alias, fork.description, fork.max_concurrent_tasks) == ("OTHER", "Works.", 7)
    assert fork.cache is agent.cache
    fork.add_node(node("e", after=["d"]))
    agent.add_node(node("f"))
    async with MiniAgents():
        assert [str(one) for one in await fork.inquire("x")] == ["e"]
    assert (list(fork.nodes), list(agent.nodes)) == (["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "f"])
    assert agent.node_results == {}  # a run of the fork is none of the agent
    assert (await run(fork)).status is TaskStatus.COMPLETE
    assert fork.fork().node_results == {}
    limited = agent.fork(timeout=1)
    limited.add_node(node("slow", Does(seconds=60)))
    async with MiniAgents():
        with pytest.raises(TimeoutError, match="took longer than 1 s"):
            await limited.inquire("x")


async def test_a_fork_with_a_fault() -> None:
    """A graph that is not complete yet can be forked."""
    fork = agent_of(node("a", after=["b"])).fork()
    fork.add_node(node("b"))
    assert (await run(fork)).status is TaskStatus.COMPLETE


async def test_messages_of_the_task() -> None:
    """The first nodes are sent the objective when a task is run, and the messages themselves when it is an inquiry."""

    @miniagent
    async def received(ctx: InteractionContext) -> None:
        ctx.reply(repr(await words(ctx)))

    agent = agent_of(node("a", received))
    await run(agent, Task(type="t", objective="the objective"))
    assert results(agent) == {"a": "['the objective']"}
    async with MiniAgents():
        await agent.inquire(["one", "two"])
    assert results(agent) == {"a": "['one', 'two']"}


async def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What a run knows of was consumed: failures of nodes are in the task, not in the log."""

    @miniagent
    async def broken(ctx: InteractionContext) -> None:
        ctx.reply("half")
        raise LookupError("no")

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        ctx.reply(broken.inquire())
        await asyncio.sleep(60)

    agent = agent_of(
        node("a", broken),
        node("b", broken, broken, parallel=True),
        node("c", Does(work=OSError("no"))),
        node("d", slow),
    )
    await run(agent, timeout=5)
    assert not caplog.records, caplog.text
