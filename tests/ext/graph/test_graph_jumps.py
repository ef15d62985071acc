"""Graphs that go another way than along their edges: decisions, loops, conditions, and what is skipped for them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from miniagents import InteractionContext, Message, MiniAgent, MiniAgents, miniagent
from miniagents.ext.cache import MemoryCache
from miniagents.ext.graph import (
    ConcurrencyLimit,
    DecisionTaken,
    Graph,
    GraphLimitError,
    NodePolicy,
    NodeStarted,
    UnknownNodeError,
)
from miniagents.testing import Timeline
from tests.ext.graph.helpers import Outcome, Unreliable, forever, repeat, run, says, streams

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


def deciding(*decisions: Any, **options: Any) -> NodePolicy:
    """The policy of a node that takes one decision after the other, and none in the end."""
    left = iter(decisions)

    def decide(_: tuple[Message, ...]) -> Any:
        decision = next(left, None)
        if isinstance(decision, BaseException):
            raise decision
        return decision

    return NodePolicy(decide=decide, **options)


class Counter:
    """An agent that says how often it was called."""

    def __init__(self, seconds: float = 0) -> None:
        self.calls = 0
        self.agent: MiniAgent = miniagent(self._work, alias="COUNTER")
        self._seconds = seconds

    async def _work(self, ctx: InteractionContext) -> None:
        self.calls += 1
        ctx.reply(f"{self.calls}")
        await asyncio.sleep(self._seconds)


def visits(outcome: Outcome) -> list[str]:
    """The starts of nodes, in order."""
    return [message.node for message in outcome.messages if isinstance(message, NodeStarted)]


# --- decisions ---


async def test_a_loop_goes_round_until_it_is_decided_otherwise() -> None:
    """A node that names one before it makes the run begin there again; None goes on along the edges."""
    counter = Counter()

    def decide(messages: tuple[Message, ...]) -> str | None:
        return "write" if str(messages[-1]) < "3" else None

    graph = Graph().add_node("write", counter.agent)
    graph.add_node("review", repeat, after=["write"], policy=NodePolicy(decide=decide))
    graph.add_node("print", repeat, after=["review"])
    outcome = await run(graph)
    assert visits(outcome) == ["write", "review"] * 3 + ["print"]
    assert outcome.results == {"print": "3"}
    decisions = [message for message in outcome.messages if isinstance(message, DecisionTaken)]
    assert [str(message) for message in decisions] == ["review goes on with write"] * 2
    assert [message.visit for message in outcome.messages if isinstance(message, NodeStarted)] == [1, 1, 2, 2, 3, 3, 1]
    assert "write started (visit 2)" in outcome.told


async def test_a_decision_can_take_its_time() -> None:
    """`decide` may be async; the node has finished when it has decided."""

    async def decide(_: tuple[Message, ...]) -> str:
        await asyncio.sleep(5)
        return "b"

    graph = Graph().add_node("a", says("A"), policy=NodePolicy(decide=decide))
    graph.add_node("b", says("B"), after=["a"]).add_node("c", says("C"), after=["a"])
    outcome = await run(graph)
    assert visits(outcome) == ["a", "b"]
    assert outcome.seconds == 5
    assert outcome.summary == ("complete", (), ("c",))


async def test_a_branch_that_was_not_chosen_is_skipped() -> None:
    """What depends on a node that went elsewhere is skipped, in any depth, and that is no failure."""
    graph = Graph().add_node("a", says("A"), policy=deciding("left"))
    graph.add_node("left", says("left"), after=["a"]).add_node("right", says("right"), after=["a"])
    graph.add_node("far right", repeat, after=["right"])
    outcome = await run(graph)
    assert outcome.summary == ("complete", (), ("right", "far right"))
    assert outcome.results == {"left": "left"}
    assert "right skipped: a went on with left" in outcome.told
    assert "far right skipped: right, on which it depends, was skipped" in outcome.told


async def test_branches_meet_again() -> None:
    """A node where branches meet is downstream of the one that was chosen: it runs, and is sent what that one said."""
    graph = Graph().add_node("a", says("A"), policy=deciding("left"))
    graph.add_node("left", says("left", 1), after=["a"]).add_node("right", says("right"), after=["a"])
    graph.add_node("far right", repeat, after=["right"]).add_node("other", says("other", 2))
    graph.add_node("meet", repeat, after=["left", "far right", "other"])
    outcome = await run(graph)
    assert outcome.summary == ("complete", (), ("right", "far right"))
    assert outcome.results == {"meet": "left+other"}


async def test_a_branch_that_failed_holds_up_where_branches_meet() -> None:
    """Where branches meet the failure of the one that was chosen counts, and so does any other failure."""
    graph = Graph(raise_errors=False).add_node("a", says("A"), policy=deciding("left"))
    graph.add_node("left", Unreliable(1).agent, after=["a"]).add_node("right", says("right"), after=["a"])
    graph.add_node("meet", repeat, after=["left", "right"])
    assert (await run(graph)).summary == ("partial", ("left",), ("right", "meet"))


async def test_both_branches_can_be_chosen() -> None:
    """Several targets start at once, side by side."""
    graph = Graph().add_node("a", says("A"), policy=deciding(["left", "right"]))
    for name in ("left", "right", "middle"):
        graph.add_node(name, says(name, 3), after=["a"])
    graph.add_node("meet", repeat, after=["left", "middle", "right"])
    outcome = await run(graph)
    assert outcome.summary == ("complete", (), ("middle",))
    assert outcome.results == {"meet": "left+right"}
    assert outcome.seconds == 3


async def test_no_target_at_all_means_to_go_on() -> None:
    """An empty list is no decision."""
    graph = Graph().add_node("a", says("A"), policy=deciding([])).add_node("b", repeat, after=["a"])
    outcome = await run(graph)
    assert outcome.results == {"b": "A"}
    assert not any(isinstance(message, DecisionTaken) for message in outcome.messages)


async def test_a_jump_forward_does_not_wait_for_what_lies_between() -> None:
    """The target starts at once whatever it depends on: what is left out is skipped, what runs goes on."""
    graph = Graph().add_node("a", says("A"), policy=deciding("d")).add_node("b", repeat, after=["a"])
    graph.add_node("c", repeat, after=["b"]).add_node("slow", says("slow", 9))
    graph.add_node("d", repeat, after=["c", "slow"]).add_node("e", repeat, after=["d"])
    outcome = await run(graph)
    assert visits(outcome) == ["a", "slow", "d", "e"]
    assert outcome.summary == ("complete", (), ("b", "c"))
    assert [message.time for message in outcome.messages if isinstance(message, NodeStarted)] == [0, 0, 0, 0]
    assert outcome.seconds == 9


async def test_a_jump_elsewhere() -> None:
    """A target that has nothing to do with the node that decides runs again, with all that is downstream of it."""
    counter, follower = Counter(), Counter()
    graph = Graph().add_node("x", counter.agent).add_node("y", follower.agent, after=["x"])
    graph.add_node("a", says("A", 5), policy=deciding("x")).add_node("b", says("B"), after=["a"])
    outcome = await run(graph)
    assert (counter.calls, follower.calls) == (2, 2)
    assert outcome.summary == ("complete", (), ("b",))
    assert outcome.results == {"y": "2"}


async def test_a_node_can_name_itself() -> None:
    """A node that is downstream of itself, by its own decision, runs again."""
    counter = Counter(1)
    graph = Graph().add_node("a", counter.agent, policy=deciding("a", "a")).add_node("b", repeat, after=["a"])
    outcome = await run(graph)
    assert visits(outcome) == ["a", "a", "a", "b"]
    assert outcome.results == {"b": "3"}


async def test_a_decision_that_names_no_node_fails_its_node() -> None:
    """An unknown target is named in the error, with the nodes that there are."""
    graph = Graph().add_node("a", says("A"), policy=deciding("nowhere")).add_node("b", says("B"), after=["a"])
    graph.add_node("c", says("C"))
    outcome = await run(graph)
    assert isinstance(outcome.error, UnknownNodeError)
    assert "the decision of a names 'nowhere'" in str(outcome.error)
    assert "there are: a, b, c" in str(outcome.error)
    assert outcome.summary == ("partial", ("a",), ("b",))


async def test_a_decision_that_fails_is_a_failed_attempt() -> None:
    """An error of `decide` is one of the node, which is tried again if it has attempts left."""
    counter = Counter()
    policy = deciding(ValueError("undecided"), "c", attempts=2, backoff=lambda _: 0.0)
    graph = Graph().add_node("a", counter.agent, policy=policy).add_node("b", repeat, after=["a"])
    graph.add_node("c", repeat, after=["a"])
    outcome = await run(graph)
    assert counter.calls == 2
    assert outcome.results == {"c": "2"}
    failed = await run(Graph().add_node("a", says("A"), policy=deciding(ValueError("undecided"))))
    assert str(failed.error) == "undecided"


async def test_a_decision_of_the_wrong_kind_fails_its_node() -> None:
    """Something that is neither a name nor names is an error that says what it is."""
    outcome = await run(Graph().add_node("a", says("A"), policy=deciding(5)))
    assert isinstance(outcome.error, TypeError)
    assert str(outcome.error) == "`decide` of a returned 5; return the name of a node, names, or None"


# --- what a jump resets ---


async def test_a_jump_stops_what_it_starts_again() -> None:
    """A node that runs when a jump makes it run again is cancelled, and begins anew when it has cleaned up."""
    timeline = Timeline()

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        timeline.note("begins")
        try:
            await asyncio.sleep(10)
            ctx.reply("done")
        except asyncio.CancelledError:
            await asyncio.sleep(3)
            timeline.note("cleaned up")
            raise

    graph = Graph().add_node("x", says("x")).add_node("slow", slow, after=["x"])
    graph.add_node("a", says("A", 2), policy=deciding("x"))
    outcome = await run(graph)
    assert timeline.entries == [(0, "begins"), (5, "cleaned up"), (5, "begins")]
    assert outcome.seconds == 15
    assert outcome.results == {"slow": "done", "a": "A"}
    assert outcome.summary == ("complete", (), ())


async def test_a_jump_that_comes_while_a_jump_still_stops_something() -> None:
    """Two jumps in short sequence to a node that is slow to end: it never runs twice at once, and once in the end."""
    inside = most = calls = 0

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        nonlocal inside, most, calls
        inside, calls = inside + 1, calls + 1
        most = max(most, inside)
        try:
            await asyncio.sleep(20)
            ctx.reply(f"call {calls}")
        except asyncio.CancelledError:
            await asyncio.sleep(5)
            raise
        finally:
            inside -= 1

    graph = Graph().add_node("slow", slow)
    for number in range(1, 5):
        graph.add_node(f"{number}", says("x", number), policy=deciding("slow"))
    outcome = await run(graph)
    assert (most, calls) == (1, 2)
    assert outcome.results["slow"] == "call 2"
    assert outcome.seconds == 1 + 5 + 20


async def test_a_node_that_becomes_ready_in_the_moment_of_a_jump() -> None:
    """A node whose last dependency ends just before a jump makes another one run again waits for that one."""
    graph = Graph().add_node("slow", says("slow", 2)).add_node("x", says("x"))
    graph.add_node("both", repeat, after=["slow", "x"])
    graph.add_node("a", says("A", 2), after=["x"], policy=deciding("x"))
    outcome = await run(graph)
    assert visits(outcome) == ["slow", "x", "a", "x", "both", "a"]


async def test_a_jump_resets_failures_and_skips() -> None:
    """What has failed or was skipped and runs again counts with what it ends with; the error is forgotten."""
    unreliable = Unreliable(1)
    graph = Graph().add_node("x", says("x")).add_node("y", unreliable.agent, after=["x"])
    graph.add_node("z", repeat, after=["y"]).add_node("a", says("A", 5), policy=deciding("x"))
    outcome = await run(graph)
    assert outcome.error is None
    assert outcome.summary == ("complete", (), ())
    assert outcome.results == {"z": "call 2", "a": "A"}


async def test_a_node_keeps_what_failed_elsewhere() -> None:
    """What is downstream of a target and depends on a failure beside that is skipped again."""
    graph = Graph(raise_errors=False).add_node("x", says("x")).add_node("bad", Unreliable(9).agent)
    graph.add_node("y", repeat, after=["x", "bad"]).add_node("a", says("A", 5), policy=deciding("x"))
    outcome = await run(graph)
    assert visits(outcome) == ["x", "bad", "a", "x"]
    assert outcome.summary == ("partial", ("bad",), ("y",))


async def test_a_passed_branch_can_be_taken_later() -> None:
    """A branch that was skipped by one decision is run when a later one names it."""
    graph = Graph().add_node("a", says("A"), policy=deciding("left", "right"))
    graph.add_node("left", says("left", 1), after=["a"], policy=deciding("a"))
    graph.add_node("right", says("right", 1), after=["a"]).add_node("meet", repeat, after=["left", "right"])
    outcome = await run(graph)
    assert visits(outcome) == ["a", "left", "a", "right", "meet"]
    assert outcome.summary == ("complete", (), ("left",))
    assert outcome.results == {"meet": "right"}


async def test_a_jump_while_an_attempt_cleans_up() -> None:
    """A node that was about to be tried again when a jump makes it run again runs once more, and not twice."""
    calls = 0

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            await asyncio.sleep(4)
            ctx.reply(f"call {calls}")
            return
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(10)
            raise

    policy = NodePolicy(timeout=5, attempts=3, backoff=lambda _: 1.0)
    graph = Graph().add_node("slow", slow, policy=policy).add_node("a", says("A", 7), policy=deciding("slow"))
    outcome = await run(graph)
    assert calls == 2
    assert outcome.seconds == 7 + 8 + 4
    assert outcome.results["slow"] == "call 2"


async def test_what_is_held_is_given_back_by_a_jump() -> None:
    """A node that is stopped by a jump while it waits for a place, or has one, keeps none."""
    limit = ConcurrencyLimit(1)
    policy = NodePolicy(concurrency=(limit,))
    graph = Graph().add_node("x", says("x")).add_node("p", streams("p", pause=4), after=["x"], policy=policy)
    graph.add_node("q", streams("q", pause=4), after=["x"], policy=policy)
    graph.add_node("a", says("A", 2), policy=deciding("x"))
    outcome = await run(graph)
    assert outcome.summary == ("complete", (), ())
    assert outcome.seconds == 2 + 4 + 4
    assert limit.enter(lambda: None)


# --- limits of loops ---


async def test_a_node_has_a_most_of_visits() -> None:
    """A node that would be visited more often than it may fails, and what depends on it is skipped."""
    graph = Graph().add_node("a", says("A"), policy=NodePolicy(max_visits=3))
    graph.add_node("b", says("B"), after=["a"], policy=NodePolicy(decide=lambda _: "a"))
    outcome = await run(graph)
    assert visits(outcome) == ["a", "b"] * 3
    assert isinstance(outcome.error, GraphLimitError)
    assert str(outcome.error) == "a was visited 3 times, which is its max_visits"
    assert outcome.summary == ("failed", ("a",), ("b",))


async def test_a_run_has_a_most_of_starts() -> None:
    """A run that goes on and on is ended: what runs is stopped, what waits is skipped, and the error says why."""
    graph = Graph("G", max_starts=7).add_node("a", says("A")).add_node("slow", forever)
    graph.add_node("b", says("B"), after=["a"], policy=NodePolicy(decide=lambda _: "a"))
    graph.add_node("c", says("C"), after=["b"])
    outcome = await run(graph)
    assert isinstance(outcome.error, GraphLimitError)
    assert "G has started 7 nodes, which is its limit" in str(outcome.error)
    assert "the next one would have been a" in str(outcome.error)
    assert len(visits(outcome)) == 7
    assert outcome.summary == ("failed", ("slow",), ("a", "b", "c"))
    assert outcome.states()["slow"] == "NodeFailed"


async def test_what_is_ready_when_a_run_is_ended_does_not_start() -> None:
    """Of nodes that could start at once as many start as may, and the others are skipped."""
    graph = Graph(max_starts=2)
    for number in range(5):
        graph.add_node(f"{number}", says("x", 1))
    outcome = await run(graph)
    assert visits(outcome) == ["0", "1"]
    assert outcome.summary == ("failed", ("0", "1"), ("2", "3", "4"))


async def test_a_run_may_use_all_of_its_starts() -> None:
    """Exactly as many starts as allowed are no error; retries and skipped nodes are no starts."""
    graph = Graph(max_starts=3).add_node("a", Unreliable(1).agent, policy=NodePolicy(attempts=2, backoff=lambda _: 0.0))
    graph.add_node("never", says("x"), policy=NodePolicy(condition=lambda *_: False))
    graph.add_node("b", says("B"), after=["a"], policy=deciding("b"))
    outcome = await run(graph)
    assert outcome.error is None
    assert visits(outcome) == ["a", "b", "b"]


# --- conditions ---


async def test_a_false_condition_skips() -> None:
    """A node whose condition does not hold is skipped, with what depends on it; that is no failure."""
    graph = Graph().add_node("a", says("A", 1)).add_node("b", says("B"), after=["a"], policy=when(lambda *_: False))
    graph.add_node("c", says("C"), after=["b"]).add_node("d", repeat, after=["a"])
    graph.add_node("e", says("E"), after=["c", "d"])
    outcome = await run(graph)
    assert outcome.summary == ("complete", (), ("b", "c", "e"))
    assert outcome.states()["d"] == "NodeFinished"
    assert any(line.startswith("b skipped: its condition does not hold: ") for line in outcome.told)


def when(condition: Callable[..., Any], **options: Any) -> NodePolicy:
    """The policy of a node with a condition."""
    return NodePolicy(condition=condition, **options)


async def test_conditions_are_asked_when_a_node_could_start() -> None:
    """A condition sees the cache as it is when all before the node has finished; it may be async."""

    @miniagent
    async def prepare(_: InteractionContext) -> None:
        await asyncio.sleep(3)
        await cache.set("ready", True)

    async def is_ready(cache: Any, task: Any) -> bool:
        await asyncio.sleep(1)
        return bool(await cache.get("ready", False)) and task == {"kind": "x"}

    cache = MemoryCache()
    graph = Graph(cache=cache).add_node("a", prepare)
    graph.add_node("b", says("B"), after=["a"], policy=when(is_ready))
    graph.add_node("c", says("C"), policy=when(is_ready))
    outcome = await run(graph, task={"kind": "x"})
    assert outcome.results == {"b": "B"}
    assert outcome.seconds == 4
    assert (await run(graph, task="another")).summary == ("complete", (), ("b", "c"))


async def test_conditions_are_asked_anew_at_each_visit() -> None:
    """A loop ends when the condition of a node in it does not hold any more."""
    counter = Counter()
    graph = Graph().add_node("a", counter.agent, policy=when(lambda *_: counter.calls < 3))
    graph.add_node("b", says("B"), after=["a"], policy=NodePolicy(decide=lambda _: "a"))
    outcome = await run(graph)
    assert counter.calls == 3
    assert outcome.error is None
    assert outcome.summary == ("complete", (), ("a", "b"))


async def test_a_condition_that_holds_is_not_asked_again() -> None:
    """Further attempts of a node whose condition has held do not ask it again."""
    asked = 0

    def condition(*_: Any) -> bool:
        nonlocal asked
        asked += 1
        return asked == 1

    graph = Graph().add_node("a", Unreliable(2).agent, policy=when(condition, attempts=3, backoff=lambda _: 0.0))
    assert (await run(graph)).results == {"a": "call 3"}
    assert asked == 1


async def test_a_condition_that_fails_fails_its_node() -> None:
    """An error of a condition is one of the node: it is asked again at the next attempt, and the error says where."""
    asked = 0

    def condition(*_: Any) -> bool:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise LookupError(f"asked {asked}")
        return True

    policy = when(condition, attempts=3, backoff=lambda _: 1.0)
    outcome = await run(Graph().add_node("a", says("A"), policy=policy))
    assert outcome.results == {"a": "A"}
    assert outcome.seconds == 2
    assert outcome.told[:3] == [
        "a failed (LookupError: asked 1) and is tried again in 1 s",
        "a failed (LookupError: asked 2) and is tried again in 1 s",
        "a started",
    ]
    asked = 0
    once = await run(Graph().add_node("a", says("A"), policy=when(condition)).add_node("b", repeat, after=["a"]))
    assert isinstance(once.error, LookupError)
    assert once.error.__notes__[0] == "in the condition of the node 'a'"
    assert once.summary == ("failed", ("a",), ("b",))


async def test_each_run_has_a_cache_of_its_own() -> None:
    """Where the graph was given no cache, what one run sets is not seen by the next."""

    async def first_time(cache: Any, _: Any) -> bool:
        seen = await cache.get("seen", False)
        await cache.set("seen", True)
        return not seen

    graph = Graph().add_node("a", says("A"), policy=when(first_time))
    graph.add_node("b", says("B"), after=["a"], policy=when(first_time))
    for _ in range(2):
        assert (await run(graph)).summary == ("complete", (), ("b",))


async def test_a_run_that_is_cancelled_while_a_condition_is_asked() -> None:
    """Whenever it comes, what a condition waits for is cancelled, and nothing is left unawaited."""

    async def slow(*_: Any) -> bool:
        await asyncio.sleep(5)
        return True

    for turns in range(6):
        async with MiniAgents():
            replies = Graph().add_node("a", says("A"), policy=when(slow)).inquire()
            for _ in range(turns):
                await asyncio.sleep(0)
            assert replies.cancel()
