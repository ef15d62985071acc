"""Graphs: what they are made of, when their nodes start, and what these are sent."""

import asyncio
from typing import Any

import pytest

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.graph import (
    ConcurrencyLimit,
    Graph,
    GraphDefinitionError,
    GraphEvent,
    GraphFinished,
    NodeFinished,
    NodePolicy,
    NodeStarted,
    UnknownNodeError,
    current_run,
)
from miniagents.testing import Timeline
from tests.ext.graph.helpers import (
    Outcome,
    forever,
    repeat,
    run,
    says,
    silent,
    streams,
    tokens,
)

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


class Presence:
    """Agents that note how many of them are at work at once."""

    def __init__(self, seconds: float = 1) -> None:
        self.inside = self.most = 0
        self.seconds = seconds
        self.agent = miniagent(self._work, alias="PRESENCE")

    async def _work(self, _: InteractionContext) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.inside -= 1


# --- structure ---


def test_names_are_given_once() -> None:
    """A second node of the same name is refused, and the error says which one."""
    graph = Graph("REPORT").add_node("facts", repeat)
    with pytest.raises(GraphDefinitionError, match="REPORT has a node 'facts' already"):
        graph.add_node("facts", repeat)


def test_unknown_dependencies_are_named() -> None:
    """What nodes depend on and is not there is named, all of it, before anything runs."""
    graph = Graph("REPORT").add_node("a", repeat, after=["x", "b"]).add_node("b", repeat, after=["y"])
    with pytest.raises(GraphDefinitionError, match="a depends on 'x', b depends on 'y'"):
        graph.plan()


def test_rings_are_named() -> None:
    """Nodes that wait for each other in a ring are named in its order."""
    graph = Graph().add_node("a", repeat, after=["c"]).add_node("b", repeat, after=["a"])
    graph.add_node("c", repeat, after=["b"]).add_node("d", repeat, after=["c"])
    with pytest.raises(GraphDefinitionError, match="(a -> c -> b -> a|b -> a -> c -> b|c -> b -> a -> c)"):
        graph.plan()
    with pytest.raises(GraphDefinitionError, match="e -> e"):
        Graph().add_node("e", repeat, after=["e"]).plan()


async def test_a_graph_can_grow_between_its_runs() -> None:
    """What was added after a run is part of the next one."""
    graph = Graph().add_node("a", says("A"))
    assert (await run(graph)).results == {"a": "A"}
    graph.add_node("b", repeat, after=["a"])
    assert (await run(graph)).results == {"b": "A"}
    graph.add_node("c", repeat, after=["a"])
    assert (await run(graph)).results == {"b": "A", "c": "A"}


async def test_a_graph_that_cannot_run_fails_when_it_is_called() -> None:
    """Nothing of a graph with a ring is run; its error is raised where the reply is read."""
    graph = Graph().add_node("first", repeat).add_node("a", repeat, after=["b"]).add_node("b", repeat, after=["a"])
    outcome = await run(graph)
    assert isinstance(outcome.error, GraphDefinitionError)
    assert outcome.messages == []


def test_what_is_no_node_is_refused() -> None:
    """An agent that is none, and names that are one string, are errors that say what to write."""

    async def function(_: InteractionContext) -> None: ...

    with pytest.raises(TypeError, match="'a' needs an agent, .*@miniagent"):
        Graph().add_node("a", function)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"after=\['facts'\]"):
        Graph().add_node("a", repeat, after="facts")


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"attempts": 0}, "attempts is 0"),
        ({"max_visits": 0}, "max_visits is 0"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"timeout": float("nan")}, "timeout is nan"),
    ],
)
def test_policies_are_checked(policy: dict[str, Any], said: str) -> None:
    """A policy that makes no sense is refused where it is made."""
    with pytest.raises(ValueError, match=said):
        NodePolicy(**policy)


def test_a_limit_lets_something_run() -> None:
    """A concurrency limit of none is refused."""
    with pytest.raises(ValueError, match="lets nothing run"):
        ConcurrencyLimit(0)


def test_a_plan_has_each_node_after_those_before_it() -> None:
    """The plan orders the nodes, also where they were added in another order."""
    graph = Graph().add_node("c", repeat, after=["b", "a"]).add_node("b", repeat, after=["a"]).add_node("a", repeat)
    assert [node.name for node in graph.plan()] == ["a", "b", "c"]
    assert [node.name for node in graph.nodes] == ["c", "b", "a"]
    graph.add_node("d", repeat, after=["c"])
    assert [node.name for node in graph.plan()] == ["a", "b", "c", "d"]


async def test_functions_become_nodes_by_a_decorator() -> None:
    """`graph.node` makes an agent of a function, and a node of that; the name is the function's unless one is given."""
    graph = Graph()

    @graph.node()
    async def facts(ctx: InteractionContext) -> None:
        ctx.reply("facts")

    @graph.node(name="text", after=["facts"], policy=NodePolicy(timeout=5))
    async def draft(ctx: InteractionContext) -> None:
        ctx.reply("draft")

    assert [(node.name, node.after, node.agent) for node in graph.nodes] == [
        ("facts", (), facts),
        ("text", ("facts",), draft),
    ]
    assert (await run(graph)).results == {"text": "draft"}


async def test_a_graph_without_nodes_is_complete() -> None:
    """There is nothing to do, and that is done."""
    outcome = await run(Graph("EMPTY"))
    assert outcome.summary == ("complete", (), ())


# --- when nodes start ---


async def test_a_node_starts_the_moment_its_own_dependencies_have_finished() -> None:
    """There are no layers: what depends on a fast node does not wait for a slow one beside that."""
    graph = Graph().add_node("slow", says("slow", 10)).add_node("fast", says("fast", 1))
    graph.add_node("after fast", says("x", 2), after=["fast"]).add_node("last", repeat, after=["after fast", "slow"])
    outcome = await run(graph)
    starts = {message.node: message.time for message in outcome.messages if isinstance(message, NodeStarted)}
    assert starts == {"slow": 0, "fast": 0, "after fast": 1, "last": 10}


async def test_a_diamond_of_a_thousand_nodes_takes_its_critical_path() -> None:
    """A thousand nodes between two, each as long as its number: the run takes as long as the longest way through."""
    graph = Graph().add_node("top", says("top", 5))
    for number in range(1000):
        graph.add_node(f"{number}", says("middle", number % 10 + 1), after=["top"])
    graph.add_node("bottom", says("bottom", 3), after=[f"{number}" for number in range(1000)])
    outcome = await run(graph)
    assert outcome.seconds == outcome.finished.seconds == 5 + 10 + 3
    assert outcome.summary == ("complete", (), ())


async def test_chains_beside_each_other_take_the_time_of_the_longest() -> None:
    """Layers are no barriers: of ten chains of different speed each goes on by itself."""
    graph = Graph()
    for chain in range(1, 11):
        for link in range(10):
            graph.add_node(f"{chain}/{link}", says("x", chain), after=[f"{chain}/{link - 1}"] if link else [])
    outcome = await run(graph)
    ends = {message.node: message.time for message in outcome.messages if isinstance(message, NodeFinished)}
    assert ends == {f"{chain}/{link}": chain * (link + 1) for chain in range(1, 11) for link in range(10)}


async def test_an_agent_that_only_forwards_keeps_its_node_at_work() -> None:
    """A node has finished when all that it replied is there, not when its function has returned."""
    graph = Graph().add_node("a", streams("x", "y", "z")).add_node("b", repeat, after=["a"])
    outcome = await run(graph)
    assert outcome.results == {"b": "xyz"}
    assert [message.time for message in outcome.messages if isinstance(message, NodeFinished)] == [3, 3]


# --- what nodes are sent ---


async def test_nodes_are_sent_what_those_before_them_have_replied() -> None:
    """Nodes without dependencies get the messages of the graph, others the replies in the order of `after`."""
    graph = Graph().add_node("a", repeat).add_node("b", says("B", 1)).add_node("c", says("C"))
    graph.add_node("d", repeat, after=["c", "a", "b"]).add_node("e", repeat, after=["d"])
    outcome = await run(graph, ["one", "two"])
    assert outcome.results == {"e": "C+one+two+B"}


async def test_a_graph_can_be_sent_what_is_not_there_yet() -> None:
    """The nodes see the messages of the graph arrive, token by token."""
    seen: list[tuple[float, str]] = []

    @miniagent
    async def listen(ctx: InteractionContext) -> None:
        timeline = Timeline()
        async for promise in ctx.message_promises:
            async for token in promise:
                seen.append((timeline.elapsed, token))

    await run(Graph().add_node("a", listen).add_node("b", says("x")), tokens(["x", "y"]))
    assert seen == [(1, "x"), (2, "y")]


async def test_nodes_see_what_others_have_said() -> None:
    """`current_run().messages_of` gives the messages of a node that has finished, and nothing of one that has not."""

    @miniagent
    async def look(ctx: InteractionContext) -> None:
        found = current_run()
        ctx.reply([found.messages_of("a"), found.messages_of("later")])
        with pytest.raises(UnknownNodeError, match="'x', which is no node of this graph; there are: a, later, look"):
            found.messages_of("x")

    graph = Graph().add_node("a", says("A")).add_node("look", look, after=["a"]).add_node("later", repeat, after=["a"])
    outcome = await run(graph)
    assert outcome.results["look"] == "A"
    with pytest.raises(RuntimeError, match="no graph runs here"):
        current_run()


# --- progress ---


async def test_progress_is_told_in_order() -> None:
    """The reply is what happens: starts, what is said and by whom, ends with their times, and the result at last."""
    graph = Graph("REPORT").add_node("a", says("A", 2)).add_node("b", says("B", 1), after=["a"])
    outcome = await run(graph)
    assert outcome.told == [
        "a started",
        "a: A",
        "a finished in 2 s",
        "b started",
        "b: B",
        "b finished in 1 s",
    ]
    assert [message.time for message in outcome.messages if isinstance(message, GraphEvent)] == [0, 2, 2, 3, 3]
    assert {message.graph for message in outcome.messages if isinstance(message, GraphEvent)} == {"REPORT"}
    last = outcome.finished
    assert (last.status, last.seconds, last.failed, last.skipped) == ("complete", 3, (), ())
    assert str(last) == "REPORT complete in 3 s"
    assert not any(message.for_models for message in outcome.messages if isinstance(message, GraphEvent))


async def test_tokens_stream_while_nodes_run() -> None:
    """The tokens of all nodes are read while they come, those of nodes side by side at the same time."""
    graph = Graph().add_node("a", streams("1", "2")).add_node("b", streams("3", "4", pause=0.7))
    graph.add_node("c", streams("5"), after=["a", "b"])
    timeline = Timeline()

    async def listen(promise: Any) -> None:
        async for token in promise:
            timeline.note((promise.metadata["node"], token))

    async with MiniAgents():
        listeners = []
        async for promise in graph.inquire():
            if not issubclass(promise.message_class, GraphEvent):
                listeners.append(asyncio.ensure_future(listen(promise)))
        await asyncio.gather(*listeners)
    assert timeline.entries == [
        (0.7, ("b", "3")),
        (1, ("a", "1")),
        (1.4, ("b", "4")),
        (2, ("a", "2")),
        (3, ("c", "5")),
    ]


async def test_tokens_stream_through_graphs_in_graphs() -> None:
    """Two graphs deep tokens come as early, and say which way they came; so do the events."""
    inner = Graph("INNER").add_node("c", streams("1", "2"))
    middle = Graph("MIDDLE").add_node("b", inner)
    outer = Graph("OUTER").add_node("a", middle).add_node("last", repeat, after=["a"])
    timeline = Timeline()
    async with MiniAgents():
        async for promise in outer.inquire():
            if not issubclass(promise.message_class, GraphEvent):
                async for token in promise:
                    timeline.note((promise.metadata["node"], token))
    assert timeline.entries == [(1, ("a/b/c", "1")), (2, ("a/b/c", "2")), (2, ("last", "12"))]
    outcome = await run(outer)
    assert outcome.told == [
        "a started",
        "a/b started",
        "a/b/c started",
        "a/b/c: 12",
        "a/b/c finished in 2 s",
        "a/b finished in 2 s",
        "a finished in 2 s",
        "last started",
        "last: 12",
        "last finished in 0 s",
    ]
    ends = [message for message in outcome.messages if isinstance(message, GraphFinished)]
    assert [(one.graph, getattr(one, "node", None), str(one)) for one in ends] == [
        ("INNER", "a/b", "INNER complete in 2 s"),
        ("MIDDLE", "a", "MIDDLE complete in 2 s"),
        ("OUTER", None, "OUTER complete in 2 s"),
    ]


async def test_results_are_those_of_the_last_nodes() -> None:
    """The result holds what the nodes have replied on which no other depends: messages with all of their fields."""
    rated = Message("good", stars=5)

    @miniagent
    async def rate(ctx: InteractionContext) -> None:
        ctx.reply([rated, "and more"])

    graph = Graph().add_node("a", says("A")).add_node("rate", rate, after=["a"]).add_node("silent", silent)
    outcome = await run(graph)
    assert outcome.finished.results == {"rate": (rated, Message("and more")), "silent": ()}


async def test_without_progress_the_reply_is_the_result() -> None:
    """With `progress=False` nothing is told and nothing said by nodes on which others depend."""
    graph = Graph().add_node("a", says("A")).add_node("b", says("B", 1), after=["a"]).add_node("c", streams("C"))
    outcome = await run(graph, progress=False)
    assert outcome.messages == [Message("C"), Message("B")]


async def test_without_progress_tokens_stream_all_the_same() -> None:
    """What the last nodes say is read while they say it, also two graphs deep."""
    inner = Graph("INNER").add_node("x", says("x")).add_node("y", streams("1", "2"), after=["x"])
    outer = Graph("OUTER").add_node("a", inner)
    timeline = Timeline()
    async with MiniAgents():
        async for promise in outer.inquire(progress=False):
            async for token in promise:
                timeline.note(token)
    assert timeline.entries == [(1, "1"), (2, "2")]


async def test_a_graph_in_a_graph_gives_its_result() -> None:
    """What follows a graph is sent what its last nodes said, and nothing of how it got there."""
    inner = Graph("INNER").add_node("x", says("x")).add_node("y", repeat, after=["x"]).add_node("z", says("z", 1))
    for agent in (inner, inner.fork(progress=False), inner.fork(errors_as_messages=True)):
        outer = Graph("OUTER").add_node("a", agent).add_node("b", repeat, after=["a"])
        assert (await run(outer)).results == {"b": "x+z"}
        assert [str(message) for message in (await run(outer, progress=False)).messages] == ["x+z"]
        alone = Graph("ALONE").add_node("a", agent)
        assert (await run(alone)).results == {"a": "x z"}
        assert sorted(str(message) for message in (await run(alone, progress=False)).messages) == ["x", "z"]


async def test_events_are_messages_like_others() -> None:
    """Events are immutable, compare by content and say in words what has happened."""
    first, again = (await run(Graph().add_node("a", says("A")))).messages, (await run(Graph().add_node("a", says("A"))))
    assert first == again.messages
    assert first[0] == NodeStarted(graph="GRAPH", time=0.0, node="a", visit=1)
    assert first[0].hash_key == again.messages[0].hash_key


# --- limits ---


async def test_so_many_nodes_run_at_once() -> None:
    """`max_concurrent` holds for all nodes of a run, and uses what it allows."""
    presence = Presence()
    graph = Graph(max_concurrent=3)
    for number in range(10):
        graph.add_node(f"{number}", presence.agent)
    outcome = await run(graph)
    assert presence.most == 3
    assert outcome.seconds == 4


async def test_a_limit_is_shared_between_runs() -> None:
    """One limit object lets so many nodes run in all, in whatever run they are, first come first served."""
    presence, limit = Presence(), ConcurrencyLimit(2)
    graph = Graph()
    for number in range(4):
        graph.add_node(f"{number}", presence.agent, policy=NodePolicy(concurrency=(limit,)))
    async with MiniAgents():
        first, second = graph.inquire(), graph.inquire()
        assert Outcome([*await first], None, 0).finished.seconds == 2
        assert Outcome([*await second], None, 0).finished.seconds == 4
    assert presence.most == 2


async def test_limits_in_another_order_do_not_block_each_other() -> None:
    """Nodes that name the same limits in different order cannot wait for each other for ever."""
    one, other = ConcurrencyLimit(1), ConcurrencyLimit(1)
    presence = Presence()
    graph = Graph(max_concurrent=3)
    for number in range(6):
        limits = (one, other, one) if number % 2 else (other, one)
        graph.add_node(f"{number}", presence.agent, policy=NodePolicy(concurrency=limits))
    outcome = await run(graph)
    assert outcome.summary[0] == "complete"
    assert presence.most == 1
    assert outcome.seconds == 6


async def test_who_waits_for_a_narrow_limit_takes_no_place_from_others() -> None:
    """Nodes in the line of one limit do not count among those that run at once."""
    narrow = ConcurrencyLimit(1)
    graph = Graph(max_concurrent=2)
    for number in range(3):
        graph.add_node(f"narrow {number}", says("x", 2), policy=NodePolicy(concurrency=(narrow,)))
    for number in range(6):
        graph.add_node(f"free {number}", says("x", 1))
    outcome = await run(graph)
    starts = {message.node: message.time for message in outcome.messages if isinstance(message, NodeStarted)}
    assert [starts[f"free {number}"] for number in range(6)] == [0, 1, 2, 2, 3, 3]


async def test_limits_are_free_after_every_kind_of_end() -> None:
    """A place is given back by nodes that finish, fail, run out of time, or are cancelled while they wait or run."""
    limit = ConcurrencyLimit(1)

    @miniagent
    async def fail(_: InteractionContext) -> None:
        raise ValueError("no")

    policy = NodePolicy(concurrency=(limit,), timeout=10)
    graph = Graph().add_node("fails", fail, policy=policy).add_node("finishes", says("x", 1), policy=policy)
    graph.add_node("times out", forever, policy=policy).add_node("is cancelled", forever, policy=policy)
    graph.add_node("waits", forever, policy=policy)
    async with MiniAgents():
        replies = graph.inquire()
        await asyncio.sleep(15)
        replies.cancel()
    after = Graph().add_node("a", says("A", 1), policy=policy)
    assert (await run(after)).seconds == 1


async def test_many_that_wait_leave_a_line_quickly() -> None:
    """Cancelling a run whose nodes all stand in one line does not search the line for each of them."""
    graph = Graph(max_concurrent=1)
    for number in range(20_000):
        graph.add_node(f"{number}", forever)
    async with MiniAgents():
        replies = graph.inquire(progress=False)
        await asyncio.sleep(1)
        assert replies.cancel()


async def test_a_run_has_a_limit_of_time() -> None:
    """What runs when the time of a graph is over is cancelled and has failed, what waits is skipped."""
    graph = Graph("REPORT", timeout=5).add_node("a", says("A", 1)).add_node("b", forever)
    graph.add_node("c", repeat, after=["b"])
    outcome = await run(graph)
    assert isinstance(outcome.error, TimeoutError)
    assert str(outcome.error) == "REPORT took longer than 5 s"
    assert outcome.seconds == 5
    assert outcome.summary == ("partial", ("b",), ("c",))
    assert "b failed: TimeoutError: REPORT took longer than 5 s" in outcome.told


async def test_a_run_within_its_time_leaves_no_timer() -> None:
    """The limit of time of a run that has ended does nothing any more."""
    loop = asyncio.get_running_loop()
    outcome = await run(Graph(timeout=100).add_node("a", says("A", 1), policy=NodePolicy(timeout=50)))
    assert outcome.error is None
    assert not [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
