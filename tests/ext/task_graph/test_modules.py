"""Modules: what they can be, what they return, and what surrounds them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.cache import Cache, MemoryCache
from miniagents.ext.graph import Graph
from miniagents.ext.task_graph import (
    Agent,
    AgentModule,
    FlowControlModule,
    FlowDecision,
    Middleware,
    ModuleConfig,
    ModuleType,
    Node,
    NonRetryableException,
    TaskStatus,
)
from miniagents.testing import Timeline
from tests.ext.task_graph.helpers import (
    Does,
    Unreliable,
    agent_of,
    flow,
    new_task,
    node,
    nothing_left,
    results,
    run,
    statuses,
    success,
)


class Counts(AgentModule):
    """A generator that counts, and notes that it was closed."""

    most: int = 10
    closed: int = 0

    async def process(self, cache: Any, semaphore: Any) -> AsyncIterator[dict[str, Any]]:
        try:
            for number in range(1, self.most + 1):
                yield success(number)
        finally:
            await asyncio.sleep(1)
            self.closed += 1


def looping(module: AgentModule, times: int, cleanup: bool = False, **options: Any) -> Agent:
    """An agent whose module is visited some times; the options are those of the node that decides."""

    async def goes_on(cache: Cache, task: Any) -> bool:
        return await cache.increment("rounds") < times

    decision = FlowDecision(next_node="work", condition=goes_on, cleanup_on_jump=cleanup)
    return agent_of(node("work", module), flow("again", decision, after=["work"], **options))


# --- classes ---


def test_defaults() -> None:
    """A module is called like its class; the documented fields have their defaults."""
    module = Does()
    assert (module.name, module.type) == ("Does", ModuleType.EXECUTOR)
    assert (module.dependencies, module.input_mailboxes, module.output_mailbox, module.trace) == ([], [], "", False)
    assert module.config == ModuleConfig()
    assert ModuleConfig() == ModuleConfig(middlewares=[], timeout=None, stop_on_success=False, context={})
    assert [one.value for one in ModuleType] == ["executor", "subgraph", "flow_control"]


def test_defaults_of_subclasses_need_no_annotation() -> None:
    """A subclass gives a field another default as plainly as any class attribute; arguments still count."""

    class Planner(AgentModule):
        name = "planner"
        output_mailbox = "plans"
        rounds: int = 3

    class Careful(Planner):
        name = "careful"
        trace = True

    assert (Planner().name, Planner().output_mailbox, Planner().rounds) == ("planner", "plans", 3)
    assert (Careful().name, Careful().output_mailbox, Careful().trace) == ("careful", "plans", True)
    assert Careful(name="other").name == "other"
    with pytest.raises(ValueError, match="trace"):
        Careful(trace="perhaps so")  # type: ignore[arg-type]
    assert (FlowControlModule().name, FlowControlModule().type) == ("flow_control", ModuleType.FLOW_CONTROL)


async def test_a_module_without_process() -> None:
    """It fails its node, and says what to define."""
    agent = agent_of(node("n", AgentModule(name="empty")))
    task = await run(agent)
    assert task.status is TaskStatus.FAILED
    assert "AgentModule has no `process`; define `async def process(cache, semaphore)`" in (task.error or "")


# --- what they return ---


@pytest.mark.parametrize(
    ("returned", "result"),
    [
        ({"status": "success", "result": 1, "more": 2}, {"status": "success", "result": 1, "more": 2}),
        ({"status": "success"}, {"status": "success"}),
        ({"result": 1}, {"status": "success", "result": 1}),
        ({"a": 1}, {"status": "success", "result": {"a": 1}, "a": 1}),
        ({"status": "waiting for parts"}, {"status": "success", "result": {"status": "waiting for parts"}}),
        ("text", {"status": "success", "result": "text"}),
        (None, {"status": "success", "result": None}),
    ],
)
async def test_results(returned: Any, result: dict[str, Any]) -> None:
    """What is no result with a status is the result of a success."""
    agent = agent_of(node("n", lambda _: returned))
    task = await run(agent)
    assert agent.node_results == {"n": {"status": "success", "results": [result]}}
    assert task.result == agent.node_results


@pytest.mark.parametrize("key", ["result", "error"])
async def test_a_result_that_is_an_error(key: str) -> None:
    """It fails the node like an exception, and is tried again like one."""
    agent = agent_of(node("n", lambda _: {"status": "error", key: "no paper"}))
    task = await run(agent)
    assert task.status is TaskStatus.FAILED
    assert agent.node_results["n"] == {"status": "error", "results": [], "error": "ModuleError: Does: no paper"}
    assert agent.nodes["n"].modules[0].runs == 3  # type: ignore[union-attr]


async def test_process_has_to_be_async() -> None:
    """A sync `process` is an error that says how to define it."""

    class Sync(AgentModule):
        def process(self, cache: Any, semaphore: Any) -> Any:
            return success()

    task = await run(agent_of(node("n", Sync(), retry_on_failure=False)))
    assert "`process` of Sync returned {'status': 'success', 'result': None}; define it as" in (task.error or "")


async def test_what_process_is_given() -> None:
    """The cache of the agent, with the task in it, and a semaphore with as many places as the agent has for tasks."""
    seen: list[Any] = []

    class Looks(AgentModule):
        async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> dict[str, Any]:
            seen.extend([cache, await cache.get("task"), semaphore._value, semaphore])
            return success()

    cache = MemoryCache()
    inner = Node(name="inner", type=ModuleType.SUBGRAPH, nodes=[node("deep", Looks())])
    agent = agent_of(node("n", Looks()), inner, cache=cache, max_concurrent_tasks=7)
    task = await run(agent, new_task(number=5))
    (one, seen_task, places, semaphore), (other, _, _, same) = seen[:4], seen[4:]
    assert one is other is cache
    assert (seen_task.id, seen_task.params, seen_task.status) == (task.id, {"number": 5}, TaskStatus.EXECUTING)
    assert places == 7
    assert same is semaphore


async def test_agents_as_modules() -> None:
    """A miniagent is a module: it is sent what those before have said, and what it says is the result."""

    @miniagent
    async def echo(ctx: InteractionContext) -> None:
        ctx.reply([f"{message}!" for message in await ctx.message_promises])

    agent = agent_of(node("a", "one", "two"), node("b", {"n": [1]}), node("c", echo, after=["a", "b"]), node("d", echo))
    await run(agent)
    (result,) = agent.node_results["c"]["results"]
    assert result["result"] == 'one!\n\ntwo!\n\n{"n":[1]}!'
    assert list(map(str, result["messages"])) == ["one!", "two!", '{"n":[1]}!']
    assert results(agent)["d"] == "do it!"  # the first ones are sent the objective


async def test_an_agent_that_fails() -> None:
    """It fails the node, also where errors travel as messages elsewhere."""

    @miniagent
    async def broken(ctx: InteractionContext) -> None:
        ctx.reply("half")
        raise LookupError("no other half")

    for context in (MiniAgents(), MiniAgents(errors_as_messages=True)):
        async with nothing_left(), context:
            agent = agent_of(node("n", broken))
            assert (await agent.run_task(new_task())).status is TaskStatus.FAILED
            assert agent.node_results["n"]["error"] == "LookupError: no other half"
    agent = agent_of(node("n", broken.fork(errors_as_messages=True)))
    await run(agent)
    assert results(agent) == {"n": "half\n\nLookupError: no other half"}  # its own business


async def test_graphs_as_modules() -> None:
    """The result of a graph or of a task graph is what its last nodes say; events are no messages."""

    def first(ctx: InteractionContext) -> Any:
        ctx.reply("draft")
        return asyncio.sleep(1)

    graph = Graph("G").add_node("first", miniagent(_async(first)))
    graph.add_node("last", miniagent(_async(lambda ctx: ctx.reply("final"))), after=["first"])
    inner = agent_of(node("x", "draft"), node("y", "result", after=["x"]))

    @miniagent
    async def received(ctx: InteractionContext) -> None:
        ctx.reply(repr([str(message) for message in await ctx.message_promises]))

    agent = agent_of(node("graph", graph), node("agent", inner), node("after", received, after=["graph", "agent"]))
    await run(agent)
    assert results(agent) == {"graph": "final", "agent": "result", "after": "['final', 'result']"}


def _async(function: Any) -> Any:
    async def work(ctx: InteractionContext) -> None:
        outcome = function(ctx)
        if outcome is not None:
            await outcome

    return work


async def test_a_task_graph_inside_that_fails() -> None:
    """An agent that fails as a module fails its node, with the error; what no retry can mend is not tried again."""
    broken = Does(work=NonRetryableException("no"))
    inner = agent_of(node("x", broken), node("y"))
    agent = agent_of(node("n", inner))
    task = await run(agent)
    assert agent.node_results["n"]["error"] == "NonRetryableException: no"
    assert task.status is TaskStatus.FAILED
    assert broken.runs == 1


async def test_what_an_agent_inside_does_to_the_cache() -> None:
    """An agent that shares the cache works in a namespace of its own, so that the outer task stays where it is."""
    cache = MemoryCache()
    seen: list[str] = []

    async def look(cache: Cache) -> None:
        seen.append((await cache.get("task")).type)

    inner = agent_of(node("x", look), cache=cache)
    agent = agent_of(node("n", inner), node("after", look, after=["n"]), cache=cache)
    task = await run(agent)
    assert seen == ["inquiry", "test"]
    assert (await cache.get("task")).id == task.id


async def test_subgraphs() -> None:
    """The nodes of a SUBGRAPH work at the same task, beside its modules; their results are that of the node."""

    async def look(cache: Cache) -> str:
        return str((await cache.get("task")).objective)

    inner = Node(
        name="inner",
        type=ModuleType.SUBGRAPH,
        modules=[Does(work="module")],
        nodes=[node("x", look), node("y", "y", after=["x"])],
        dependencies=["a"],
    )
    agent = agent_of(node("a"), inner, node("b", after=["inner"]))
    task = await run(agent)
    assert task.status is TaskStatus.COMPLETE
    own, nested = agent.node_results["inner"]["results"]
    assert own["result"] == "module"
    assert {name: one["results"][0]["result"] for name, one in nested["result"].items()} == {"x": "do it", "y": "y"}


async def test_a_subgraph_with_a_failed_node() -> None:
    """It fails as a whole with an error that names the nodes, and is run again as a whole."""
    once, always = Unreliable(failures=1), Unreliable(failures=9)
    counted = Does()
    inner = Node(
        name="inner",
        type=ModuleType.SUBGRAPH,
        nodes=[node("ok", counted), node("bad", always, max_retries=2), node("once", once, retry_on_failure=False)],
        node_config={"max_retries": 2},  # type: ignore[arg-type]
    )
    agent = agent_of(inner)
    task = await run(agent)
    assert task.error == "inner: NodesFailedError: in inner failed bad: ValueError: run 4"
    assert (counted.runs, always.runs, once.runs) == (2, 4, 2)


async def test_a_subgraph_that_no_retry_can_mend() -> None:
    """What cannot be mended inside of a subgraph is not tried again outside of it."""
    broken = Does(work=NonRetryableException("no"))
    inner = Node(name="inner", type=ModuleType.SUBGRAPH, nodes=[node("x", broken)])
    await run(agent_of(inner))
    assert broken.runs == 1


# --- generators ---


async def test_a_generator_gives_one_result_per_visit() -> None:
    """It goes on at the next visit where it stood, and is closed when the run ends."""
    module = Counts()
    agent = looping(module, times=3)
    await run(agent)
    assert agent.node_results["work"]["results"] == [success(3)]
    assert module.closed == 1


async def test_cleanup_closes_generators() -> None:
    """A jump that cleans up closes those that it leaves behind: they begin anew."""
    module = Counts()
    agent = looping(module, times=3, cleanup=True)
    await run(agent)
    assert agent.node_results["work"]["results"] == [success(1)]
    assert module.closed == 3


async def test_cleanup_closes_what_runs_again_only() -> None:
    """Generators of nodes that the jump does not make run again go on."""
    upstream, downstream = Counts(), Counts()

    async def goes_on(cache: Cache, task: Any) -> bool:
        assert (upstream.closed, downstream.closed) == (0, await cache.increment("rounds") - 1)
        return downstream.closed < 2

    decision = FlowDecision(next_node="b", condition=goes_on, cleanup_on_jump=True)
    agent = agent_of(node("a", upstream), node("b", downstream, after=["a"]), flow("f", decision, after=["b"]))
    await run(agent)
    assert (upstream.closed, downstream.closed) == (1, 3)
    assert results(agent)["b"] == 1


async def test_an_exhausted_generator_begins_anew() -> None:
    """A generator that has no further result is run from its beginning at the visit that finds that out."""
    module = Counts(most=2)
    agent = looping(module, times=3)
    await run(agent)
    assert results(agent)["work"] == 1
    assert module.closed == 2


async def test_a_generator_without_results() -> None:
    """It fails its node."""
    task = await run(agent_of(node("n", Counts(most=0), retry_on_failure=False)))
    assert task.error == "n: ModuleError: Counts is a generator and gave no result; let it yield one"


async def test_a_generator_that_fails() -> None:
    """After an error it begins anew; after a result that is an error it goes on."""

    class Fails(AgentModule):
        begun: int = 0

        async def process(self, cache: Any, semaphore: Any) -> AsyncIterator[dict[str, Any]]:
            self.begun += 1
            if self.begun == 1:
                raise ValueError("at first")
            yield {"status": "error", "error": "not yet"}
            yield success(f"begun {self.begun} times")

    module = Fails()
    agent = agent_of(node("n", module))
    await run(agent)
    assert results(agent) == {"n": "begun 2 times"}


async def test_a_generator_that_takes_too_long() -> None:
    """The time limit holds for each result; the generator is cancelled where it stands, and begins anew."""
    ended: list[str] = []

    class Slow(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> AsyncIterator[dict[str, Any]]:
            try:
                yield success("fast")
                await asyncio.sleep(60)
                yield success("slow")
            except BaseException as error:
                ended.append(type(error).__name__)
                raise

    agent = looping(Slow(config=ModuleConfig(timeout=5)), times=2)
    timeline = Timeline()
    task = await run(agent)
    assert task.status is TaskStatus.COMPLETE
    assert 5 < timeline.elapsed < 6
    assert ended == ["CancelledError", "GeneratorExit"]


class Stubborn(AgentModule):
    """A generator whose clean-up fails."""

    async def process(self, cache: Any, semaphore: Any) -> AsyncIterator[dict[str, Any]]:
        try:
            yield success(1)
        finally:
            raise OSError("the file is gone")


async def test_a_cleanup_that_fails_at_a_jump() -> None:
    """It is a failure of the node that has decided."""
    task = await run(looping(Stubborn(), times=2, cleanup=True, retry_on_failure=False))
    assert task.error == "again: OSError: the file is gone"


async def test_a_cleanup_that_fails_in_the_end() -> None:
    """It is a failure of the node of the generator; all generators are closed all the same."""
    other = Counts()
    agent = agent_of(node("a", Stubborn()), node("b", other))
    task = await run(agent)
    assert task.status is TaskStatus.PARTIAL
    assert (task.error, statuses(agent)) == ("a: OSError: the file is gone", {"a": "error", "b": "success"})
    assert other.closed == 1


# --- several modules ---


async def test_modules_one_after_the_other() -> None:
    """Modules run in their order, and each result is kept."""
    agent = agent_of(node("n", Does(work="a", seconds=2), Does(work="b", seconds=1)))
    timeline = Timeline()
    await run(agent)
    assert timeline.elapsed == 3
    assert [one["result"] for one in agent.node_results["n"]["results"]] == ["a", "b"]


async def test_modules_side_by_side() -> None:
    """With `parallel` they run at the same time; the results stay in the order of the modules."""
    agent = agent_of(node("n", Does(work="a", seconds=2), Does(work="b", seconds=1), parallel=True))
    timeline = Timeline()
    await run(agent)
    assert timeline.elapsed == 2
    assert [one["result"] for one in agent.node_results["n"]["results"]] == ["a", "b"]


@pytest.mark.parametrize("parallel", [False, True])
async def test_a_module_that_fails(parallel: bool) -> None:
    """It fails the node at once: those beside it are cancelled, those after it do not run, none is left."""
    ended: list[str] = []

    async def slow(_: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1)
            ended.append("slow")

    agent = agent_of(node("n", Does(work=OSError("no"), seconds=1), slow, parallel=parallel, retry_on_failure=False))
    timeline = Timeline()
    task = await run(agent)
    assert task.error == "n: OSError: no"
    assert (timeline.elapsed, ended) == ((2, ["slow"]) if parallel else (1, []))


@pytest.mark.parametrize("where", ["node", "module"])
async def test_stop_on_success_one_after_the_other(where: str) -> None:
    """The first success is enough; those before it may fail."""
    config = ModuleConfig(stop_on_success=True)
    options: dict[str, Any] = {"config": config}
    of_module, of_node = (options, {}) if where == "module" else ({}, options)
    modules = [Does(work=work, **of_module) for work in (OSError("no"), "second", "third")]
    agent = agent_of(node("n", *modules, **of_node))
    task = await run(agent)
    assert task.status is TaskStatus.COMPLETE
    assert agent.node_results["n"]["results"] == [success("second")]
    assert [module.runs for module in modules] == [1, 1, 0]


@pytest.mark.parametrize("parallel", [False, True])
async def test_stop_on_success_without_success(parallel: bool) -> None:
    """When all have failed the node has, with the last error and a word on the others."""
    config = ModuleConfig(stop_on_success=True)
    agent = agent_of(
        node("n", Does(work=OSError("first")), Does(work=LookupError("last"), seconds=1), config=config,
             parallel=parallel, retry_on_failure=False)
    )  # fmt: skip
    with pytest.raises(LookupError, match="last") as caught:
        async with MiniAgents():
            await agent.inquire("x")
    assert "before that failed OSError: first" in caught.value.__notes__


class Helped:
    """Work that calls an agent which takes a minute, and some time to clean up."""

    def __init__(self) -> None:
        self.ended = False
        self.agent = miniagent(self._help, alias="HELPER")

    async def _help(self, ctx: InteractionContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(2)
            self.ended = True

    async def __call__(self, _: Any) -> Any:
        return await self.agent.inquire()


async def test_stop_on_success_side_by_side() -> None:
    """The first to succeed wins; the others are cancelled with all that they have started, and have cleaned up."""
    helped = Helped()
    config = ModuleConfig(stop_on_success=True)
    modules = [helped, Does(work=OSError("no")), Does(work="fast", seconds=1), Does(work="late", seconds=2)]
    agent = agent_of(
        node("n", *modules, config=config, parallel=True), node("after", lambda _: helped.ended, after=["n"])
    )
    timeline = Timeline()
    await run(agent)
    assert agent.node_results["n"]["results"] == [success("fast")]
    assert (timeline.elapsed, results(agent)["after"]) == (3, True)


async def test_what_a_tolerated_failure_leaves() -> None:
    """A module that has failed is cancelled with all that it has started before the next one takes its place."""
    helped = Helped()
    slow = Does(work=helped, config=ModuleConfig(timeout=1))
    agent = agent_of(node("n", slow, lambda _: helped.ended, config=ModuleConfig(stop_on_success=True)))
    timeline = Timeline()
    await run(agent)
    assert (timeline.elapsed, results(agent)) == (3, {"n": True})


async def test_what_a_winner_has_started_goes_on() -> None:
    """A module that has replied with what still streams has succeeded when it returns; its stream is not cut."""

    @miniagent
    async def writer(ctx: InteractionContext) -> None:
        await asyncio.sleep(5)
        ctx.reply("written")

    class Starts(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> dict[str, Any]:
            self.reply(writer.inquire())
            return success()

    config = ModuleConfig(stop_on_success=True)
    for parallel in (False, True):
        async with nothing_left(), MiniAgents():
            agent = agent_of(node("n", Starts(), Does(seconds=60), config=config, parallel=parallel))
            assert [str(one) for one in await agent.inquire("x", progress=False)] == ["written"]


# --- what surrounds them ---


class Notes(Middleware):
    word: str
    seen: list[Any] = []

    async def process(self, data: dict[str, Any], cache: Cache) -> dict[str, Any]:
        self.seen.append(data["result"])
        await cache.set(self.word, data["result"])
        return {**data, "result": f"{data['result']} {self.word}"}


async def test_middlewares() -> None:
    """A result passes through those of the module, then those of the node, in order; it is what comes out of them."""
    cache = MemoryCache()
    module = Does(
        work="result", config=ModuleConfig(middlewares=[Notes(word="a"), Notes(word="b")]), output_mailbox="m"
    )
    agent = agent_of(node("n", module, config=ModuleConfig(middlewares=[Notes(word="c")])), cache=cache)
    async with MiniAgents():
        (said,) = await agent.inquire("x", progress=False)
    assert results(agent) == {"n": "result a b c"}
    assert str(said) == "result a b c"
    assert (await cache.get_message("m"))["result"] == "result a b c"
    assert [await cache.get(word) for word in "abc"] == ["result", "result a", "result a b"]


async def test_middlewares_see_errors_and_make_them() -> None:
    """A middleware is given a result that is an error, and can turn it into a success, or the other way round."""

    class Turns(Middleware):
        async def process(self, data: dict[str, Any], cache: Cache) -> dict[str, Any]:
            return {**data, "status": "success" if data["status"] == "error" else "error"}

    config = ModuleConfig(middlewares=[Turns()])
    bad = {"status": "error", "result": "bad"}
    agent = agent_of(node("a", lambda _: bad, config=config), node("b", "good", config=config, retry_on_failure=False))
    task = await run(agent)
    assert (results(agent), task.error) == ({"a": "bad"}, "b: ModuleError: Does: good")


async def test_a_middleware_that_returns_nothing() -> None:
    """That is an error which names it."""

    class Forgets(Middleware):
        async def process(self, data: dict[str, Any], cache: Cache) -> dict[str, Any]:
            return None  # type: ignore[return-value]

    task = await run(agent_of(node("n", config=ModuleConfig(middlewares=[Forgets()]), retry_on_failure=False)))
    assert task.error == "n: TypeError: the middleware Forgets of n returned None; let it return the data"


@pytest.mark.parametrize("where", ["node", "module"])
async def test_timeouts(where: str) -> None:
    """What takes longer than its timeout is cancelled, and tried again as often as anything that fails."""
    config: dict[str, Any] = {"config": ModuleConfig(timeout=5)}
    of_module, of_node = (config, {}) if where == "module" else ({}, config)
    module = Does(seconds=60, **of_module)
    timeline = Timeline()
    agent = agent_of(node("n", module, **of_node))
    task = await run(agent)
    assert module.runs == 3
    assert 15 < timeline.elapsed < 16
    assert task.error == "n: TimeoutError: Does took longer than 5 s, which is its timeout"


async def test_the_timeout_of_a_module_goes_before_that_of_its_node() -> None:
    """The more particular one counts."""
    module = Does(seconds=10, config=ModuleConfig(timeout=20))
    task = await run(agent_of(node("n", module, config=ModuleConfig(timeout=5))))
    assert task.status is TaskStatus.COMPLETE


async def test_the_timeout_of_an_agent() -> None:
    """An agent that takes too long is cancelled with all that it has called."""
    ended: list[str] = []

    @miniagent
    async def inner(ctx: InteractionContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("inner")

    @miniagent
    async def outer(ctx: InteractionContext) -> None:
        ctx.reply(inner.inquire())

    agent = agent_of(node("n", outer, config=ModuleConfig(timeout=5), retry_on_failure=False))
    task = await run(agent)
    assert task.error == "n: TimeoutError: OUTER took longer than 5 s, which is its timeout"
    assert ended == ["inner"]


async def test_a_timeout_error_of_ones_own() -> None:
    """A TimeoutError that a module raises is its own, not that of its limit."""
    module = Does(work=TimeoutError("the server is slow"))
    task = await run(agent_of(node("n", module, config=ModuleConfig(timeout=5), retry_on_failure=False)))
    assert task.error == "n: TimeoutError: the server is slow"


async def test_context() -> None:
    """A module knows the context of its node, and on top of it its own."""

    class Tells(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> dict[str, Any]:
            return success(self.node_context)

    of_module, of_node = ModuleConfig(context={"a": 2, "b": 3}), ModuleConfig(context={"a": 1, "c": 4})
    agent = agent_of(node("n", Tells(config=of_module), config=of_node))
    await run(agent)
    assert results(agent) == {"n": {"a": 2, "b": 3, "c": 4}}
    assert Tells(config=of_module).node_context == {"a": 2, "b": 3}


async def test_replies() -> None:
    """What a module replies streams while it works, and is what those who come after are sent, not its result."""

    class Speaks(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> dict[str, Any]:
            self.reply("early")
            await asyncio.sleep(5)
            self.reply(["late"])
            return success("result")

    @miniagent
    async def received(ctx: InteractionContext) -> None:
        ctx.reply(repr([str(message) for message in await ctx.message_promises]))

    agent = agent_of(node("a", Speaks()), node("b", received, after=["a"]))
    async with MiniAgents():
        timeline = Timeline()
        async for promise in agent.inquire("x"):
            if str(await promise) == "early":
                assert timeline.elapsed == 0
    assert results(agent) == {"a": "result", "b": "['early', 'late']"}
    with pytest.raises(RuntimeError, match="Speaks is not at work"):
        Speaks().reply("nobody hears me")


async def test_a_message_that_says_it_is_of_a_node() -> None:
    """What an agent says of its messages is its own business, also where it happens to be called `node`."""

    @miniagent
    async def speaks(ctx: InteractionContext) -> None:
        async def stream(_: Any) -> AsyncIterator[str]:
            await asyncio.sleep(1)
            yield "mine"

        ctx.reply(Message.promise(stream, node="elsewhere"))

    @miniagent
    async def received(ctx: InteractionContext) -> None:
        ctx.reply(repr([str(message) for message in await ctx.message_promises]))

    graph = Graph("G").add_node("x", speaks)
    agent = agent_of(node("a", speaks, graph), node("b", received, after=["a"]))
    async with MiniAgents():
        await agent.inquire("x")
    assert results(agent)["b"] == "['mine', 'mine']"


@pytest.mark.parametrize("fails", ["raises", "times out"])
async def test_a_failure_does_not_wait_for_what_streams(fails: str) -> None:
    """A module that fails has failed at once, with its own error; what it replied and still streams is cancelled."""
    ended: list[str] = []

    @miniagent
    async def writer(ctx: InteractionContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("writer")

    class Fails(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> Any:
            self.reply(writer.inquire())
            await asyncio.sleep(1 if fails == "raises" else 60)
            raise OSError("no")

    timeline = Timeline()
    agent = agent_of(node("n", Fails(), config=ModuleConfig(timeout=5), retry_on_failure=False))
    task = await run(agent)
    limit = "n: TimeoutError: Fails took longer than 5 s, which is its timeout"
    assert (timeline.elapsed, task.error) == ((1, "n: OSError: no") if fails == "raises" else (5, limit))
    assert ended == ["writer"]


@pytest.mark.parametrize("parallel", [False, True])
async def test_an_agent_whose_failure_is_tolerated(parallel: bool) -> None:
    """An agent that fails where another module succeeds in its place has said what it has said, and is no failure."""

    async def stream(_: Any) -> AsyncIterator[str]:
        yield "half"
        raise OSError("no other half")

    @miniagent
    async def broken(ctx: InteractionContext) -> None:
        ctx.reply(Message.promise(stream))

    config = ModuleConfig(stop_on_success=True)
    agent = agent_of(node("n", broken, Does(work="whole", seconds=1), config=config, parallel=parallel))
    async with MiniAgents():
        assert [str(one) for one in await agent.inquire("x", progress=False)] == ["half", "whole"]


async def test_mailboxes() -> None:
    """The results of a module with an output mailbox are published there; another module can read them."""

    class Reads(AgentModule):
        input_mailboxes = ["results"]

        async def process(self, cache: Cache, semaphore: Any) -> dict[str, Any]:
            return await cache.get_message(self.input_mailboxes[0], timeout=60)

    cache = MemoryCache()
    sends = Does(work=success("sent", extra=1), seconds=5, output_mailbox="results")
    agent = agent_of(node("a", sends), node("b", Reads()), cache=cache)
    await run(agent)
    assert agent.node_results["b"]["results"] == [success("sent", extra=1)]
    assert await cache.mailbox_length("results") == 0
