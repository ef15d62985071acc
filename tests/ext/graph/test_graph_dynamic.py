"""Graphs that grow while they run."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from miniagents import InteractionContext, MiniAgent, MiniAgents, miniagent
from miniagents.ext.graph import Graph, GraphDefinitionError, NodePolicy, NodeStarted, UnknownNodeError, current_run
from miniagents.ext.graph.resources import ResourceError, ResourcePool, ResourceRequirements
from tests.ext.graph.helpers import Outcome, Unreliable, forever, repeat, run, says

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


def adds(*nodes: tuple[str, MiniAgent, Iterable[str]], seconds: float = 0, text: str = "added") -> MiniAgent:
    """An agent that adds nodes."""

    async def add(ctx: InteractionContext) -> None:
        for name, agent, after in nodes:
            current_run().add_node(name, agent, after=after)
        await asyncio.sleep(seconds)
        ctx.reply(text)

    return miniagent(add, alias="ADDS")


def visits(outcome: Outcome) -> list[str]:
    return [message.node for message in outcome.messages if isinstance(message, NodeStarted)]


async def test_a_new_node_follows_its_creator() -> None:
    """Without dependencies a new node follows the one that added it, and is sent what that said."""
    outcome = await run(Graph().add_node("a", adds(("new", repeat, ()), seconds=2, text="A")))
    assert outcome.results == {"new": "A"}
    assert outcome.told == [
        "a started",
        "a: A",
        "a finished in 2 s",
        "new started",
        "new: A",
        "new finished in 0 s",
    ]


async def test_who_depends_on_the_creator_waits_for_the_new_node() -> None:
    """What depends on the node that adds others waits for these, too, and is sent what they say."""
    graph = Graph().add_node("a", adds(("n1", says("N1", 3), ()), ("n2", repeat, ["n1"]), text="A"))
    graph.add_node("b", repeat, after=["a"]).add_node("c", repeat, after=["b"])
    outcome = await run(graph)
    assert outcome.results == {"c": "A+N1+N1"}
    assert visits(outcome) == ["a", "n1", "n2", "b", "c"]


async def test_new_nodes_may_depend_on_others() -> None:
    """A new node can depend on any node: on one that has finished, runs, or is yet to come."""
    graph = (
        Graph().add_node("done", says("D")).add_node("slow", says("S", 5)).add_node("late", says("L"), after=["slow"])
    )
    new = adds(("n", repeat, ["done", "slow", "late", "a"]), seconds=1, text="A")
    outcome = await run(graph.add_node("a", new).add_node("b", repeat, after=["a"]))
    assert outcome.results == {"n": "D+S+L+A", "b": "A"}


async def test_a_new_node_may_depend_on_who_waits_for_its_creator() -> None:
    """Where a new node comes after a dependent of its creator, that does not wait for it in its turn."""
    graph = (
        Graph().add_node("a", adds(("n", repeat, ["b"]), ("m", repeat, ["n"]))).add_node("b", says("B"), after=["a"])
    )
    outcome = await run(graph)
    assert visits(outcome) == ["a", "b", "n", "m"]
    assert outcome.results == {"m": "B"}


async def test_new_nodes_add_new_nodes() -> None:
    """A chain in which each node adds the next one; who waits for the first waits for all."""

    async def go_on(ctx: InteractionContext, number: int) -> None:
        if number < 50:
            current_run().add_node(f"{number + 1}", miniagent(go_on, number=number + 1))
        ctx.reply(f"{number}")

    graph = Graph().add_node("0", miniagent(go_on, number=0)).add_node("last", repeat, after=["0"])
    outcome = await run(graph)
    assert visits(outcome) == [*map(str, range(51)), "last"]
    assert outcome.results == {"last": "+".join(map(str, range(51)))}


async def test_many_new_nodes() -> None:
    """A node can add thousands at once; the one after it waits for all of them."""
    graph = Graph().add_node("a", adds(*((f"{n}", says("x", n % 7), ()) for n in range(2000)), text="A"))
    graph.add_node("last", says("last"), after=["a"])
    outcome = await run(graph)
    assert outcome.seconds == 6
    assert len(visits(outcome)) == 2002
    assert visits(outcome)[-1] == "last"


async def test_a_new_node_that_fails() -> None:
    """Who waits for the creator is skipped if a new node fails."""
    graph = Graph().add_node("a", adds(("n", Unreliable(1).agent, ()))).add_node("b", repeat, after=["a"])
    outcome = await run(graph)
    assert outcome.summary == ("partial", ("n",), ("b",))
    assert "b skipped: n, on which it depends, has failed" in outcome.told


async def test_nodes_of_a_creator_that_fails_are_not_added() -> None:
    """Nodes are added when their creator has ended well: not those of an attempt that failed."""

    class Adds:
        calls = 0

        async def __call__(self, ctx: InteractionContext) -> None:
            Adds.calls += 1
            current_run().add_node("n", says(f"n of {Adds.calls}"))
            if Adds.calls == 1:
                current_run().add_node("m", says("m"))
                raise ValueError("no")

    policy = NodePolicy(attempts=2, backoff=lambda _: 0.0)
    outcome = await run(Graph().add_node("a", miniagent(Adds), policy=policy))
    assert outcome.results == {"n": "n of 2"}
    Adds.calls = 0
    failed = await run(Graph().add_node("a", miniagent(Adds)))
    assert visits(failed) == ["a"]


ADD_A: Callable[[], MiniAgent] = lambda: adds(("a", repeat, ()))  # noqa: E731
TWICE: Callable[[], MiniAgent] = lambda: adds(("n", repeat, ()), ("n", repeat, ()))  # noqa: E731


@pytest.mark.parametrize("agent", [ADD_A(), TWICE()])
async def test_new_names_are_given_once(agent: MiniAgent) -> None:
    """A new node with a name that there is is refused to the agent that adds it."""
    outcome = await run(Graph().add_node("a", agent).add_node("b", says("B")))
    assert isinstance(outcome.error, GraphDefinitionError)
    assert "already; give the new one another name" in str(outcome.error)
    assert outcome.summary == ("partial", ("a",), ())


async def test_two_nodes_cannot_add_the_same_name() -> None:
    """Of two nodes that add one name at the same time the second one gets the error, and nothing is lost."""
    graph = Graph().add_node("a", adds(("n", says("of a"), ()), seconds=2))
    graph.add_node("b", adds(("n", says("of b"), ()), seconds=1))
    outcome = await run(graph)
    assert outcome.summary == ("partial", ("b",), ())
    assert outcome.results == {"n": "of a"}


async def test_a_name_is_free_again_when_its_creator_has_failed() -> None:
    """What a node wanted to add and did not, for it failed, another one can add."""

    async def fail(_: InteractionContext) -> None:
        current_run().add_node("n", says("of a"))
        raise ValueError("no")

    graph = Graph(raise_errors=False).add_node("a", miniagent(fail)).add_node("wait", says("x", 1))
    graph.add_node("b", adds(("n", says("of b"), ())), after=["wait"])
    assert (await run(graph)).results == {"n": "of b"}


async def test_unknown_dependencies_of_new_nodes() -> None:
    """A new node that depends on nobody's name fails its creator, with the names that there are."""
    outcome = await run(Graph().add_node("a", adds(("n", repeat, ["x"]))).add_node("b", repeat, after=["a"]))
    assert isinstance(outcome.error, UnknownNodeError)
    assert "the new node n, which depends on it, names 'x'" in str(outcome.error)
    assert outcome.summary == ("failed", ("a",), ("b",))


async def test_rings_of_new_nodes() -> None:
    """New nodes that wait for each other fail their creator, and are named."""
    outcome = await run(Graph().add_node("a", adds(("n", repeat, ["m"]), ("m", repeat, ["n"]))))
    assert isinstance(outcome.error, GraphDefinitionError)
    assert "m -> n" in str(outcome.error)
    assert outcome.summary == ("failed", ("a",), ())


async def test_new_nodes_need_no_more_than_there_is() -> None:
    """A new node that asks for more resources than the pool has is refused to the agent that adds it."""

    async def add(_: InteractionContext) -> None:
        current_run().add_node("n", repeat, policy=NodePolicy(resources=ResourceRequirements(cpu_units=9)))

    outcome = await run(Graph(pool=ResourcePool(total_cpu=8)).add_node("a", miniagent(add)))
    assert isinstance(outcome.error, ResourceError)
    assert outcome.summary == ("failed", ("a",), ())


async def test_nodes_are_added_by_nodes() -> None:
    """Whoever is not at work in a node of the run cannot add to it, nor can the node of another run."""
    runs: list[Any] = []

    @miniagent
    async def keep(_: InteractionContext) -> None:
        runs.append(current_run())
        if len(runs) > 1:
            runs[0].add_node("n", repeat)

    assert (await run(Graph().add_node("a", keep))).error is None
    with pytest.raises(RuntimeError, match="is added by the agent of a node of the same run"):
        runs[0].add_node("n", repeat)
    assert isinstance((await run(Graph().add_node("a", keep))).error, RuntimeError)


async def test_nodes_are_added_from_inner_agents_too() -> None:
    """An agent that a node has called adds to the run of that node; inside a graph in a graph it is the inner one."""

    @miniagent
    async def calls(ctx: InteractionContext) -> None:
        ctx.reply(adds(("n", says("N"), ())).inquire())

    inner = Graph("INNER").add_node("b", calls)
    outcome = await run(Graph("OUTER").add_node("a", inner))
    assert outcome.results == {"a": "N"}
    assert "a/n: N" in outcome.told


async def test_runs_do_not_share_what_they_add() -> None:
    """What one run adds is not there in the graph, nor in another run."""
    graph = Graph().add_node("a", adds(("n", says("N"), ())))
    for _ in range(2):
        assert (await run(graph)).results == {"n": "N"}
    assert [node.name for node in graph.nodes] == ["a"]


# --- jumps ---


async def test_new_nodes_are_withdrawn_when_their_creator_runs_again() -> None:
    """A creator in a loop adds anew at each visit: what it had added before is gone, and can have the same names."""
    calls = 0

    async def add(ctx: InteractionContext) -> None:
        nonlocal calls
        calls += 1
        for number in range(calls % 3):
            current_run().add_node(f"n{number}", says(f"{calls}.{number}"))
        ctx.reply(f"{calls}")

    graph = Graph().add_node("a", miniagent(add)).add_node("b", repeat, after=["a"])
    graph.add_node("c", repeat, after=["b"], policy=NodePolicy(decide=lambda _: "a" if calls < 4 else None))
    outcome = await run(graph)
    assert visits(outcome) == ["a", "n0", "b", "c", "a", "n0", "n1", "b", "c", "a", "b", "c", "a", "n0", "b", "c"]
    assert outcome.results == {"c": "4+4.0"}
    assert outcome.summary == ("complete", (), ())


async def test_new_nodes_that_run_when_they_are_withdrawn() -> None:
    """A new node that runs when a jump makes its creator run again is cancelled, with those that it has added."""
    stopped: list[str] = []

    async def wait(ctx: InteractionContext, name: str) -> None:
        try:
            await asyncio.sleep(10)
            ctx.reply(name)
        except asyncio.CancelledError:
            stopped.append(name)
            raise

    async def add(_: InteractionContext) -> None:
        current_run().add_node("n", adds(("m", miniagent(wait, name="m"), ())))
        current_run().add_node("k", miniagent(wait, name="k"))

    graph = Graph().add_node("a", miniagent(add)).add_node("b", repeat, after=["a"])
    decisions: Any = iter(["a"])
    graph.add_node("j", says("J", 5), policy=NodePolicy(decide=lambda _: next(decisions, None)))
    outcome = await run(graph)
    assert sorted(stopped) == ["k", "m"]
    assert outcome.seconds == 15
    assert outcome.summary == ("complete", (), ())
    assert sorted(line for line in outcome.told if "skipped" in line) == [
        "k skipped: a, which has added it, runs again",
        "m skipped: n, which has added it, runs again",
    ]


async def test_new_nodes_of_a_node_that_goes_elsewhere_are_skipped() -> None:
    """A node that adds some and jumps skips them, as everything else that depends on it."""
    policy = NodePolicy(decide=lambda _: "c")
    graph = Graph().add_node("a", adds(("n", repeat, ())), policy=policy).add_node("b", repeat, after=["a"])
    outcome = await run(graph.add_node("c", says("C"), after=["a"]))
    assert visits(outcome) == ["a", "c"]
    assert outcome.summary == ("complete", (), ("b", "n"))


async def test_a_jump_can_lead_to_a_new_node() -> None:
    """A node may go on with a node that it, or another one, has added."""
    graph = Graph().add_node("a", adds(("n", says("N"), ())), policy=NodePolicy(decide=lambda _: None))
    decisions: Any = iter(["n"])
    policy = NodePolicy(decide=lambda _: next(decisions, None))
    outcome = await run(graph.add_node("b", says("B", 1), policy=policy))
    assert visits(outcome) == ["a", "b", "n", "n"]
    assert outcome.summary == ("complete", (), ())


async def test_a_graph_that_grows_can_be_cancelled_at_every_turn() -> None:
    """Whenever it is cancelled, nothing of what was added goes on."""
    for turns in range(40):
        graph = (
            Graph().add_node("a", adds(("n", adds(("m", forever, ())), ()), ("k", repeat, ()))).add_node("b", repeat)
        )
        async with MiniAgents():
            replies = graph.inquire()
            for _ in range(turns):
                await asyncio.sleep(0)
            assert replies.cancel()
