"""Graphs as what they are: agents."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from miniagents import AWAIT, InteractionContext, Message, MiniAgents, achain_loop, miniagent
from miniagents.ext.graph import Graph, GraphEvent, NodeFinished, NodePolicy, current_run
from miniagents.ext.graph.events import result_of
from miniagents.promising.sentinels import END
from miniagents.testing import ScriptedModel, assert_no_leftovers
from promising.errors import PromiseCancelledError
from tests.ext.graph.helpers import Unreliable, forever, repeat, run, says, streams

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


def pipeline(alias: str = "PIPELINE", **options: Any) -> Graph:
    return Graph(alias, **options).add_node("a", repeat).add_node("b", says("B", 1), after=["a"])


# --- forks ---


async def test_a_fork_has_its_own_arguments_and_names() -> None:
    """A fork is a graph with the nodes of the first one; arguments of the fork are those of its calls."""
    graph = pipeline(description="Does it.", max_concurrent=2)
    fork = graph.fork(alias="FORK", progress=False)
    assert isinstance(fork, Graph)
    assert (fork.alias, fork.description, fork.max_concurrent) == ("FORK", "Does it.", 2)
    assert [node.name for node in fork.nodes] == ["a", "b"]
    async with MiniAgents():
        assert await fork.inquire() == (Message("B"),)
        assert len(await fork.inquire(progress=True)) == 7
        assert len(await graph.inquire()) == 7
        assert (await fork.fork(progress=True).inquire())[0].graph == "FORK"  # type: ignore[attr-defined]


async def test_forks_do_not_affect_each_other() -> None:
    """Nodes that are added to a fork, or to what it was made of, are not the other's."""
    graph = pipeline()
    graph.plan()
    fork = graph.fork()
    fork.add_node("c", says("C"), after=["b"])
    graph.add_node("d", says("D"), after=["b"])
    assert (await run(graph)).results == {"d": "D"}
    assert (await run(fork)).results == {"c": "C"}


async def test_errors_as_messages() -> None:
    """For who wants it the error of a run is its last message."""
    graph = Graph("G").add_node("a", Unreliable(9).agent)
    for number, graph_or_fork in enumerate((graph, graph.fork(errors_as_messages=True)), 1):
        outcome = await run(graph_or_fork, errors_as_messages=True) if number == 1 else await run(graph_or_fork)
        assert outcome.error is None
        last = outcome.messages[-1]
        assert (str(last), getattr(last, "agent", None)) == (f"ValueError: call {number}", "G")


# --- readers ---


async def test_a_reply_can_be_read_twice() -> None:
    """Every reader gets everything from the start, whenever it comes, iterating and awaiting."""
    async with MiniAgents():
        replies = pipeline().inquire("x")

        async def read() -> list[Message]:
            return [await promise async for promise in replies]

        first, second, awaited = await asyncio.gather(read(), read(), replies)
        assert first == second == [*awaited] == await read()
        again = await replies
        assert all(one is other for one, other in zip(awaited, again, strict=True))
    assert len(first) == 7


async def test_events_have_no_tokens() -> None:
    """Whoever prints the tokens of a whole reply prints what was said."""
    async with MiniAgents():
        printed = [[token async for token in promise] async for promise in pipeline().inquire("x")]
    assert printed == [[], ["x"], [], [], ["B"], [], []]


async def test_a_run_needs_no_reader() -> None:
    """A run whose reply nobody reads goes to its end before the context is left."""
    ended: list[str] = []

    @miniagent
    async def note(_: InteractionContext) -> None:
        await asyncio.sleep(3)
        ended.append("a")

    async with assert_no_leftovers(), MiniAgents():
        Graph().add_node("a", note).inquire()
    assert ended == ["a"]


async def test_outside_of_any_context() -> None:
    """Without a context a run starts when it is awaited, and does everything all the same."""
    inner = pipeline("INNER")
    graph = Graph().add_node("a", streams("x", "y")).add_node("b", inner, after=["a"])
    graph.add_node("c", Unreliable(1).agent, policy=NodePolicy(attempts=2, backoff=lambda _: 1.0, timeout=5))
    async with assert_no_leftovers():
        assert result_of(await graph.inquire("in")) == [Message("B"), Message("call 2")]
        assert await graph.inquire(progress=False) == (Message("call 3"), Message("B"))
        with pytest.raises(TimeoutError):
            await Graph(timeout=1).add_node("a", forever).inquire()


@pytest.mark.parametrize("start_soon", [True, False])
async def test_lazy_contexts(start_soon: bool) -> None:
    """In a context in which things start when they are read, a run starts then, and its nodes as soon as they can."""
    async with MiniAgents(start_everything_soon_by_default=start_soon):
        replies = pipeline().inquire("x", start_soon=False)
        await asyncio.sleep(100)
        messages = await replies
    ends = [message.time for message in messages if isinstance(message, NodeFinished)]
    assert ends == [0, 1]


async def test_a_lazy_run_can_be_cancelled_before_it_starts() -> None:
    """A run that nobody has read yet is cancelled without having begun."""
    counter = Unreliable(0)
    async with MiniAgents():
        replies = Graph().add_node("a", counter.agent).inquire(start_soon=False)
        assert replies.cancel()
        with pytest.raises(PromiseCancelledError):
            await replies
    assert counter.calls == 0


# --- others ---


async def test_a_graph_in_a_chain() -> None:
    """A graph stands in `achain_loop` as any other agent: it is sent what was said before, and its result goes on."""
    heard: list[str] = []
    said = iter(["one", "two"])

    @miniagent
    async def user(ctx: InteractionContext) -> None:
        heard.extend(str(message) for message in await ctx.message_promises)
        ctx.reply(next(said, None) or END)

    graph = Graph().add_node("a", repeat).add_node("b", repeat, after=["a"])
    await achain_loop([user, AWAIT, graph.fork(progress=False)])
    assert heard == ["one", "two"]


async def test_a_model_sees_what_was_said_and_no_events() -> None:
    """A model that is sent the reply of a graph is to be shown messages, not events: these say so of themselves."""
    with ScriptedModel("summary") as model:
        graph = Graph().add_node("a", says("A"))
        async with MiniAgents():
            await model.agent.inquire(graph.inquire())
        kinds = [isinstance(message, GraphEvent) for message in model.requests[0].messages]
        shown = [getattr(message, "for_models", True) for message in model.requests[0].messages]
    assert kinds == [True, False, True, True]
    assert shown == [False, True, False, False]


async def test_models_in_nodes() -> None:
    """Agents of models are nodes: their answers stream, with all that is known of them."""
    with ScriptedModel(["The ", "facts"], ["The ", "text"]) as model:
        graph = (
            Graph().add_node("facts", model.agent).add_node("text", model.agent.fork(temperature=0), after=["facts"])
        )
        outcome = await run(graph, "Beer")
        assert [[str(message) for message in request.messages] for request in model.requests] == [
            ["Beer"],
            ["The facts"],
        ]
        assert model.requests[1].arguments == {"temperature": 0}
    assert outcome.finished.results == {"text": (Message("The text", role="assistant"),)}
    assert outcome.messages[1] == Message("The facts", role="assistant", node="facts")


async def test_one_agent_in_many_nodes_and_graphs() -> None:
    """Agents, and graphs, can be nodes as often as one likes; runs of one graph do not know of each other."""
    inner = pipeline("INNER")
    graph = Graph()
    for number in range(5):
        graph.add_node(f"{number}", inner, after=[f"{number - 1}"] if number else [])
    async with MiniAgents():
        runs = [graph.inquire(f"{number}") for number in range(5)]
        for replies in runs:
            assert result_of(await replies) == [Message("B")]
            last = (await replies)[-1]
            assert last.seconds == 5  # type: ignore[attr-defined]


async def test_a_graph_that_is_called_by_its_own_node() -> None:
    """A graph may call itself, as long as that ends."""

    @miniagent
    async def recurse(ctx: InteractionContext) -> None:
        depth = int(str((await ctx.message_promises)[0]))
        ctx.reply(graph.inquire(f"{depth - 1}", progress=False) if depth else "bottom")

    graph = Graph().add_node("a", recurse)
    assert (await run(graph, "3")).results == {"a": "bottom"}


async def test_what_an_agent_forwards_of_a_graph() -> None:
    """An agent that forwards the reply of a graph is an agent that says all that: events and messages."""

    @miniagent
    async def forwards(ctx: InteractionContext) -> None:
        ctx.reply([pipeline("INNER").inquire("x"), "end"])

    outcome = await run(Graph().add_node("a", forwards).add_node("b", repeat, after=["a"]))
    assert outcome.finished.results["b"][0].text == (
        "a started+x+a finished in 0 s+b started+B+b finished in 1 s+INNER complete in 1 s+end"
    )
    assert outcome.told[1:3] == ["a/a started", "a/a: x"]


async def test_the_context_is_told_of_all_messages() -> None:
    """Handlers of the context get what was said, with and without the name of its node, and the events."""
    got: list[Message] = []

    async def store(message: Message) -> None:
        got.append(message)

    async with MiniAgents(on_persist_message=store):
        messages = await pipeline().inquire("x")
    assert {*map(str, messages)} <= {*map(str, got)}
    assert Message("B") in got
    assert Message("B", node="b") in got


async def test_nodes_know_the_run_through_others() -> None:
    """`current_run()` is the run of the node also in agents that the node has called, and tasks that it has made."""
    seen: list[Any] = []

    @miniagent
    async def look(_: InteractionContext) -> None:
        seen.append(current_run())

    @miniagent
    async def calls(ctx: InteractionContext) -> None:
        ctx.reply(look.inquire())
        await asyncio.create_task(in_a_task())
        seen.append(current_run())

    async def in_a_task() -> None:
        seen.append(current_run())

    await run(Graph().add_node("a", calls).add_node("b", says("B")))
    assert len(seen) == 3
    assert len({*seen}) == 1


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_real_event_loops(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Graphs work on the clocks of asyncio and of uvloop: limits of time, pauses, lines, and cancellation."""

    async def main() -> None:
        policy = NodePolicy(timeout=0.02, attempts=2, backoff=lambda _: 0.001)
        graph = Graph(max_concurrent=2, raise_errors=False).add_node("slow", forever, policy=policy)
        graph.add_node("a", streams("x", "y", pause=0.002), policy=policy).add_node("b", repeat, after=["a"])
        graph.add_node("c", Unreliable(1).agent, policy=policy).add_node("d", repeat, after=["slow"])
        outcome = await run(graph)
        assert outcome.summary == ("partial", ("slow",), ("d",))
        assert outcome.results == {"b": "xy", "c": "call 2"}
        assert 0.04 < outcome.seconds < 10
        async with assert_no_leftovers(), MiniAgents():
            replies = graph.inquire()
            await asyncio.sleep(0.005)
            assert replies.cancel()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
