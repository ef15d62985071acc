"""Graphs in which something goes wrong: retries, limits of time, errors and cancellation at every moment."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.graph import ConcurrencyLimit, Graph, GraphRun, NodeFailed, NodePolicy, NodeRetried
from miniagents.ext.graph.policy import default_backoff
from miniagents.ext.graph.visit import Visit
from miniagents.messages import MessagePromise
from miniagents.testing import Timeline, assert_no_leftovers
from promising.errors import PromiseCancelledError
from tests.ext.graph.helpers import Unreliable, forever, repeat, run, says, streams, tokens

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


def retried(attempts: int, pause: float = 0, **options: Any) -> NodePolicy:
    return NodePolicy(attempts=attempts, backoff=lambda _: pause, **options)


class Stubborn:
    """An agent that, when it is cancelled, goes on for a while before it ends.

    Attributes:
        inside: How many of its calls are at work.
        most: How many of them were at once, at most.
        calls: How many there were.
    """

    def __init__(self, clean_up: float = 5, *, then: str | None = None) -> None:
        self.inside = self.most = self.calls = 0
        self.agent = miniagent(self._work, alias="STUBBORN")
        self._clean_up = clean_up
        self._then = then

    async def _work(self, ctx: InteractionContext) -> None:
        self.calls += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            if self._then is not None and self.calls > 1:
                ctx.reply(self._then)
                return
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await asyncio.sleep(self._clean_up)
        finally:
            self.inside -= 1


# --- retries ---


async def test_a_node_is_tried_again() -> None:
    """A node that fails twice and has three attempts finishes, and the progress says what happened."""
    agent = Unreliable(2)
    outcome = await run(Graph().add_node("a", agent.agent, policy=retried(3, 10)).add_node("b", repeat, after=["a"]))
    assert outcome.results == {"b": "call 3"}
    assert agent.calls == 3
    assert outcome.told == [
        "a started",
        "a failed (ValueError: call 1) and is tried again in 10 s",
        "a failed (ValueError: call 2) and is tried again in 10 s",
        "a: call 3",
        "a finished in 20 s",
        "b started",
        "b: call 3",
        "b finished in 0 s",
    ]
    assert [one.attempt for one in outcome.messages if isinstance(one, NodeRetried)] == [1, 2]


async def test_a_node_without_attempts_left_fails() -> None:
    """The error of the last attempt is that of the node, and of the run."""
    agent = Unreliable(9)
    outcome = await run(Graph("G").add_node("a", agent.agent, policy=retried(3)).add_node("b", repeat, after=["a"]))
    assert agent.calls == 3
    assert outcome.summary == ("failed", ("a",), ("b",))
    assert isinstance(outcome.error, ValueError)
    assert str(outcome.error) == "call 3"
    assert outcome.error.__notes__ == ["in UNRELIABLE, called by G", "in G"]
    (failed,) = [one for one in outcome.messages if isinstance(one, NodeFailed)]
    assert (failed.node, failed.attempt, failed.error, failed.error_type) == ("a", 3, "call 3", "ValueError")


async def test_pauses_are_those_of_the_backoff() -> None:
    """The pause after an attempt is what the back-off says for its number, counted from its failure."""
    agent = Unreliable(3, seconds=1)
    policy = NodePolicy(attempts=4, backoff=lambda attempt: 10.0**attempt)
    outcome = await run(Graph().add_node("a", agent.agent, policy=policy))
    assert outcome.seconds == 4 + 10 + 100 + 1000


def test_the_default_backoff_begins_small_and_grows() -> None:
    """The first pause is under 0.1 s, each further one about twice as long, half a minute is the most."""
    for _ in range(100):
        pauses = [default_backoff(attempt) for attempt in range(1, 30)]
        assert 0.05 <= pauses[0] < 0.1
        assert all(0.05 * 2**n <= pause <= 0.05 * 2**n + 0.025 for n, pause in enumerate(pauses[:9]))
        assert 30 <= max(pauses) <= 30.025


async def test_not_every_error_is_worth_another_attempt() -> None:
    """`retry_if` decides."""
    agent = Unreliable(1)
    policy = retried(3, retry_if=lambda error: "call 1" not in str(error))
    assert str((await run(Graph().add_node("a", agent.agent, policy=policy))).error) == "call 1"
    assert agent.calls == 1


@pytest.mark.parametrize("broken", ["retry_if", "backoff"])
@pytest.mark.parametrize("error", [RuntimeError, StopIteration])
async def test_a_policy_that_fails_fails_its_node(broken: str, error: type[Exception]) -> None:
    """An error of `retry_if` or `backoff` is that of the node, with the one that it was asked about; others go on."""

    def fail(_: Any) -> Any:
        raise error("broken")

    options: dict[str, Any] = {"attempts": 3, broken: fail}
    policy = NodePolicy(**options)
    graph = Graph().add_node("a", Unreliable(1).agent, policy=policy).add_node("b", says("B", 1))
    outcome = await run(graph)
    assert outcome.summary == ("partial", ("a",), ())
    assert isinstance(outcome.error, RuntimeError)
    raised = outcome.error.__cause__ or outcome.error  # an agent cannot raise a StopIteration
    assert (str(raised), str(raised.__context__)) == ("broken", "call 1")


async def test_a_failed_attempt_does_not_count() -> None:
    """What an attempt said before it failed reaches readers of the progress, but neither followers nor the result."""

    class Twice:
        calls = 0

        async def __call__(self, ctx: InteractionContext) -> None:
            Twice.calls += 1
            ctx.reply(f"said {Twice.calls}")
            ctx.reply(tokens(["to", ValueError("cut")] if Twice.calls == 1 else ["token"]))

    graph = Graph().add_node("a", miniagent(Twice), policy=retried(2)).add_node("b", repeat, after=["a"])
    outcome = await run(graph)
    assert outcome.error is None
    assert outcome.results == {"b": "said 2+token"}
    assert outcome.told[1:6] == [
        "a: said 1",
        "a: to",
        "a failed (ValueError: cut) and is tried again in 0 s",
        "a: said 2",
        "a: token",
    ]
    Twice.calls = 0
    alone = await run(Graph().add_node("a", miniagent(Twice), policy=retried(2)), progress=False)
    assert [str(message) for message in alone.messages] == ["said 2", "token"]
    assert alone.error is None


async def test_an_attempt_begins_when_the_one_before_has_cleaned_up() -> None:
    """An agent that takes its time to end is not called again before it has ended."""
    stubborn = Stubborn(clean_up=50, then="done")
    outcome = await run(Graph().add_node("a", stubborn.agent, policy=retried(2, 5, timeout=10)))
    assert (stubborn.calls, stubborn.most) == (2, 1)
    assert outcome.results == {"a": "done"}
    assert outcome.seconds == 10 + 50 + 5


# --- limits of time ---


async def test_an_attempt_has_a_limit_of_time() -> None:
    """What takes longer is cancelled and has failed with an error that says which node, how long, and which attempt."""
    outcome = await run(Graph().add_node("a", forever, policy=retried(2, 1, timeout=10)))
    assert isinstance(outcome.error, TimeoutError)
    assert str(outcome.error) == "a took longer than 10 s (attempt 2)"
    assert outcome.seconds == 21


async def test_the_limit_of_time_is_for_all_that_is_said() -> None:
    """It holds until the last token of what an agent replied, also when the agent itself has ended."""
    outcome = await run(Graph().add_node("a", streams("x", 20, "y"), policy=NodePolicy(timeout=10)))
    assert isinstance(outcome.error, TimeoutError)
    assert outcome.seconds == 10
    assert "a: x" in outcome.told


async def test_the_limit_of_time_does_not_count_the_wait_for_a_place() -> None:
    """Time counts from the call, not from when a node could have been called."""
    policy = NodePolicy(timeout=10)
    graph = (
        Graph(max_concurrent=1).add_node("a", says("A", 9), policy=policy).add_node("b", says("B", 9), policy=policy)
    )
    assert (await run(graph)).summary == ("complete", (), ())


async def test_a_limit_of_time_that_meets_the_end() -> None:
    """Where both come at the same time a node either finishes or is late, once, and the run ends."""
    graph = Graph()
    for number in range(20):
        graph.add_node(f"{number}", says("x", 10), policy=NodePolicy(timeout=10))
        graph.add_node(f"{number}s", streams("a", "b", pause=5), policy=NodePolicy(timeout=10))
    outcome = await run(graph)
    assert outcome.seconds == 10
    ends = [one for one in outcome.messages if type(one).__name__ in ("NodeFinished", "NodeFailed")]
    assert len(ends) == 40


# --- errors ---


async def test_what_does_not_depend_on_a_failure_goes_on() -> None:
    """A node that fails takes with it what depends on it, in any depth, and nothing else."""
    graph = Graph().add_node("bad", Unreliable(1).agent).add_node("good", says("good", 5))
    graph.add_node("b1", repeat, after=["bad"]).add_node("b2", repeat, after=["b1"])
    graph.add_node("both", repeat, after=["bad", "good"]).add_node("g1", repeat, after=["good"])
    outcome = await run(graph)
    assert outcome.summary == ("partial", ("bad",), ("b1", "b2", "both"))
    assert outcome.results == {"g1": "good"}
    assert outcome.told[2:6] == [
        "bad failed: ValueError: call 1",
        "b1 skipped: bad, on which it depends, has failed",
        "both skipped: bad, on which it depends, has failed",
        "b2 skipped: b1, on which it depends, was skipped",
    ]


async def test_the_first_of_several_errors_is_raised() -> None:
    """The run ends with the error that came first, which says what else has failed."""
    graph = Graph("G").add_node("a", Unreliable(1, KeyError, 2).agent).add_node("b", Unreliable(1, ValueError, 1).agent)
    outcome = await run(graph)
    assert isinstance(outcome.error, ValueError)
    assert "what else has failed in G: KeyError: 'call 1'" in outcome.error.__notes__
    many = Graph("G")
    for number in range(20):
        many.add_node(f"{number}", Unreliable(1).agent)
    assert getattr((await run(many)).error, "__notes__", [])[-2:] == ["and 14 more", "in G"]


async def test_a_graph_need_not_raise() -> None:
    """With `raise_errors=False` the reply ends well, with or without progress, and the result says what has failed."""
    graph = Graph(raise_errors=False).add_node("a", streams("x", ValueError("no"))).add_node("b", says("B"))
    outcome = await run(graph)
    assert outcome.error is None
    assert outcome.summary == ("partial", ("a",), ())
    quiet = await run(graph, progress=False)
    assert quiet.error is None
    assert quiet.messages == [Message("x", interrupted=True), Message("B")]


async def test_errors_before_the_first_token() -> None:
    """An agent that raises at once, and one that is no call at all, fail their nodes."""

    @miniagent
    async def broken(_: InteractionContext) -> None:
        raise LookupError("nothing")

    @miniagent
    async def misused(_: InteractionContext, needed: str) -> None: ...

    outcome = await run(Graph().add_node("a", broken).add_node("b", misused).add_node("c", says("C")))
    assert outcome.summary == ("partial", ("a", "b"), ())
    assert isinstance(outcome.error, LookupError)


async def test_errors_that_come_late() -> None:
    """A node whose agent has ended fails when what it has forwarded fails, whichever part of it that is."""

    @miniagent
    async def forwards(ctx: InteractionContext) -> None:
        ctx.reply([slow.inquire(), late.inquire(), "end"])

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        ctx.reply(tokens(["a"] * 10))

    @miniagent
    async def late(ctx: InteractionContext) -> None:
        await asyncio.sleep(5)
        ctx.reply(tokens(["b", ValueError("late")]))

    outcome = await run(Graph().add_node("a", forwards).add_node("b", repeat, after=["a"]))
    assert outcome.summary == ("failed", ("a",), ("b",))
    assert str(outcome.error) == "late"
    assert outcome.seconds == 10


async def test_errors_are_the_graphs_business_whatever_the_context_says() -> None:
    """`errors_as_messages` of the context is for who reads the graph; that of a fork is for the node."""
    graph = Graph("G").add_node("a", Unreliable(1).agent, policy=retried(2)).add_node("b", Unreliable(1).agent)
    graph.add_node("c", repeat, after=["b"])
    graph.add_node("d", Unreliable(1).agent.fork(errors_as_messages=True)).add_node("e", repeat, after=["d"])
    async with MiniAgents(errors_as_messages=True):
        outer = Graph(raise_errors=False).add_node("inner", Graph().add_node("a", Unreliable(1).agent))
        assert (await outer.inquire())[-1].failed == ("inner",)  # type: ignore[attr-defined]
        messages = await graph.inquire(progress=False)
    assert [type(message).__name__ for message in messages] == ["Message", "Message", "ErrorMessage"]
    assert [str(message) for message in messages] == ["call 2", "ValueError: call 1", "ValueError: call 1"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["before", "stream", "decide", "condition"])
async def test_interrupts_end_the_run(error: type[BaseException], where: str) -> None:
    """A KeyboardInterrupt or SystemExit anywhere in a node ends the run at once, and is raised where that is read."""

    async def interrupt(*_: Any) -> bool:
        await asyncio.sleep(1)
        raise error

    agent = {"before": Unreliable(1, error, 1).agent, "stream": streams("x", error())}.get(where, says("x"))
    policy = NodePolicy(
        attempts=3,
        decide=interrupt if where == "decide" else None,  # type: ignore[arg-type]
        condition=interrupt if where == "condition" else None,
    )
    graph = Graph().add_node("a", agent, policy=policy).add_node("b", forever).add_node("c", repeat, after=["a"])
    outcome = await run(graph)
    assert type(outcome.error) is error
    assert outcome.seconds == 1


async def test_an_agent_that_cancels_itself_fails() -> None:
    """A CancelledError that nobody asked for is an error of the node, and no cancellation of the run; no retry."""
    agent = Unreliable(1, asyncio.CancelledError)
    outcome = await run(Graph().add_node("a", agent.agent, policy=retried(3)).add_node("b", says("B", 1)))
    assert isinstance(outcome.error, PromiseCancelledError)
    assert agent.calls == 1
    assert outcome.summary == ("partial", ("a",), ())


async def test_an_error_that_nobody_reads_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A run that has failed and that nobody reads is logged when the context closes, as of any agent; no retries."""
    async with MiniAgents():
        Graph("G").add_node("a", Unreliable(9).agent, policy=retried(2)).inquire()
        Graph("H").add_node("a", Unreliable(1).agent, policy=retried(2)).inquire()
    assert [record.getMessage() for record in caplog.records] == [
        "G failed and nobody awaited or read what it promised: ValueError"
    ]
    caplog.clear()


# --- cancellation ---


def busy_graph(limit: ConcurrencyLimit) -> Graph:
    """A graph in which all kinds of things are under way."""

    async def slow_condition(*_: Any) -> bool:
        await asyncio.sleep(0.5)
        return True

    async def slow_decision(_: Any) -> None:
        await asyncio.sleep(0.5)

    policies = [
        NodePolicy(timeout=2),
        NodePolicy(concurrency=(limit,)),
        NodePolicy(condition=slow_condition, concurrency=(limit,)),
        NodePolicy(decide=slow_decision),
        NodePolicy(attempts=3, backoff=lambda _: 0.5, timeout=0.2),
    ]
    agents = [says("x", 0.3), streams("a", "b", pause=0.2), Unreliable(1, seconds=0.1).agent, says("y")]
    graph = Graph(max_concurrent=3, raise_errors=False)
    for number, (policy, agent) in enumerate(itertools.product(policies, agents)):
        after = [f"{other}" for other in (number - 5, number - 7) if other >= 0]
        graph.add_node(f"{number}", agent, after=after, policy=policy)
    inner = Graph("INNER").add_node("x", streams("1", "2")).add_node("y", repeat, after=["x"])
    return graph.add_node("inner", inner).add_node("stubborn", Stubborn(1).agent).add_node("last", repeat, after=["3"])


def limits_are_free(limit: ConcurrencyLimit) -> bool:
    """Whether as many places are free as there are."""
    visitors: list[Callable[[], None]] = [lambda: None for _ in range(limit.limit)]
    inside = [limit.enter(visitor) for visitor in visitors]
    for visitor, is_inside in zip(visitors, inside, strict=True):
        limit.leave() if is_inside else limit.forget(visitor)
    return all(inside)


@pytest.mark.parametrize("progress", [True, False])
async def test_a_run_can_be_cancelled_at_every_turn(progress: bool) -> None:
    """Whenever it is cancelled its reader is told, nothing goes on, and what was held is given back."""
    for turns in range(60):
        limit = ConcurrencyLimit(2)
        graph = busy_graph(limit)
        async with assert_no_leftovers(), MiniAgents():
            replies = graph.inquire(progress=progress)
            for _ in range(turns):
                await asyncio.sleep(0)
            assert replies.cancel()
            with pytest.raises(PromiseCancelledError):
                await replies
        assert limits_are_free(limit)


@pytest.mark.parametrize("tenths", range(0, 30, 3))
async def test_a_run_can_be_cancelled_at_any_time(tenths: int) -> None:
    """Whatever is under way when it is cancelled: conditions, decisions, pauses, lines, streams, clean-up."""
    limit = ConcurrencyLimit(2)
    async with assert_no_leftovers(), MiniAgents():
        replies = busy_graph(limit).inquire()
        await asyncio.sleep(tenths / 10)
        assert replies.cancel()
        await asyncio.sleep(0)
    assert limits_are_free(limit)


@pytest.mark.parametrize("turns", [*range(40), 60, 80, 100])
async def test_a_context_that_is_left_by_an_error_takes_its_runs_along(turns: int) -> None:
    """A context that closes early cancels the run, waits for its clean-up, and nothing is logged."""
    limit = ConcurrencyLimit(2)
    async with assert_no_leftovers():
        with pytest.raises(LookupError, match="early"):
            async with MiniAgents():
                busy_graph(limit).inquire()
                for _ in range(turns):
                    await asyncio.sleep(0)
                raise LookupError("early")
    assert limits_are_free(limit)


async def test_a_reader_that_leaves_disturbs_nobody() -> None:
    """A reader that was cancelled, and one that breaks off, are no reason to end; another reader gets everything."""
    graph = Graph().add_node("a", says("A", 10)).add_node("b", repeat, after=["a"])
    async with assert_no_leftovers(), MiniAgents():
        replies = graph.inquire()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(replies, 5)
        async for _ in replies:
            break
        assert len(await replies) == 7


async def test_cancelling_cancels_what_nodes_have_called() -> None:
    """The agents that a node has called are cancelled with the run, down to the last one."""
    timeline = Timeline()

    @miniagent
    async def deep(_: InteractionContext) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            timeline.note("cancelled")
            raise

    @miniagent
    async def calls(ctx: InteractionContext) -> None:
        ctx.reply(deep.inquire())

    async with MiniAgents():
        replies = Graph().add_node("a", Graph("INNER").add_node("b", calls)).inquire()
        await asyncio.sleep(3)
        replies.cancel()
    assert timeline.entries == [(3, "cancelled")]


async def test_a_context_waits_for_nodes_that_do_not_want_to_end() -> None:
    """A node that swallows its cancellation keeps its place until it has ended, and the context waits for that."""
    limit = ConcurrencyLimit(1)
    stubborn = Stubborn(clean_up=4)
    began = asyncio.get_running_loop().time()
    async with MiniAgents():
        replies = Graph().add_node("a", stubborn.agent, policy=NodePolicy(concurrency=(limit,))).inquire()
        await asyncio.sleep(1)
        replies.cancel()
        with pytest.raises(PromiseCancelledError):
            await replies
        await asyncio.sleep(1)
        assert not limits_are_free(limit)
    assert asyncio.get_running_loop().time() - began == 5
    assert limits_are_free(limit)
    assert stubborn.inside == 0


async def test_cancelling_a_retry_that_waits_for_the_attempt_before() -> None:
    """A run that is cancelled while an attempt cleans up gives its place back when that has ended, and not before."""
    limit = ConcurrencyLimit(1)
    stubborn = Stubborn(clean_up=8)
    async with MiniAgents():
        policy = retried(3, timeout=5, concurrency=(limit,))
        replies = Graph().add_node("a", stubborn.agent, policy=policy).inquire()
        await asyncio.sleep(8)
        replies.cancel()
        await asyncio.sleep(2)
        assert stubborn.inside == 1
        assert not limits_are_free(limit)
    assert stubborn.calls == 1
    assert limits_are_free(limit)


async def test_a_run_that_ends_by_its_limit_of_time_waits_for_nobody() -> None:
    """The reader gets the end at once; the context waits for the clean-up."""
    stubborn = Stubborn(clean_up=4)
    graph = Graph("G", timeout=5).add_node("a", stubborn.agent)
    timeline = Timeline()
    async with MiniAgents():
        with pytest.raises(TimeoutError):
            await graph.inquire()
        timeline.note("read")
    timeline.note("left")
    assert timeline.entries == [(5, "read"), (9, "left")]


# --- errors of the engine itself ---


class BrokenRun(GraphRun):
    """A run one of whose hooks fails.

    Attributes:
        broken: Which hook.
        error: What it raises.
    """

    broken = ""
    error: BaseException = RuntimeError("broken engine")

    def fail_if(self, hook: str) -> None:
        if hook == self.broken:
            raise self.error

    def new_visit(self, node_run: Any) -> Visit:
        self.fail_if("new_visit")
        return super().new_visit(node_run)

    def forward(self, visit: Visit, promise: MessagePromise) -> None:
        self.fail_if("forward")
        super().forward(visit, promise)

    def call(self, visit: Visit) -> Any:
        self.fail_if("call")
        return super().call(visit)

    def outcome(self, visit: Visit) -> Any:
        self.fail_if("outcome")
        return super().outcome(visit)

    def before_attempt(self, visit: Visit) -> Any:
        self.fail_if("before_attempt")
        return self._fail_later("before_attempt, later")

    def before_release(self, visit: Visit, jump: Any) -> Any:
        self.fail_if("before_release")
        return self._fail_later("before_release, later")

    def before_failure(self, visit: Visit, error: Exception) -> Any:
        self.fail_if("before_failure")
        return self._fail_later("before_failure, later")

    def attempt_failed(self, visit: Visit, error: Exception) -> None:
        self.fail_if("attempt_failed")

    def settled(self, node_run: Any) -> None:
        self.fail_if("settled")
        super().settled(node_run)

    def visit_finished(self, visit: Visit, jump: Any) -> None:
        self.fail_if("visit_finished")
        super().visit_finished(visit, jump)

    def all_settled(self) -> None:
        self.fail_if("all_settled")
        super().all_settled()

    def finished(self) -> None:
        self.fail_if("finished")
        super().finished()

    async def _fail_later(self, hook: str) -> None:
        await asyncio.sleep(1)
        self.fail_if(hook)


class BrokenGraph(Graph):
    """A graph with broken runs."""

    broken: str
    error: BaseException

    def new_run(self, ctx: InteractionContext, task: Any, progress: bool) -> GraphRun:
        made = BrokenRun(self, ctx, task=task, progress=progress)
        made.broken, made.error = self.broken, self.error
        return made


HOOKS = [
    "new_visit", "forward", "call", "outcome", "before_attempt", "before_attempt, later", "before_release",
    "before_release, later", "before_failure", "before_failure, later", "attempt_failed", "settled", "visit_finished",
    "all_settled", "finished",
]  # fmt: skip


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "error", [RuntimeError("broken engine"), KeyboardInterrupt("broken engine"), StopIteration("broken engine")]
)
async def test_an_error_of_the_engine_ends_the_run(
    hook: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever fails in the engine, or in what is built on it: the run ends with an error, and never hangs."""
    graph = BrokenGraph()
    graph.broken, graph.error = hook, error
    graph.add_node("a", Unreliable(1).agent, policy=retried(2)).add_node("b", repeat, after=["a"])
    graph.add_node("c", Unreliable(1).agent).add_node("d", says("D", 3))
    outcome = await asyncio.wait_for(run(graph), 1000)
    assert outcome.error is not None
    seen = [str(outcome.error), str(outcome.error.__cause__), *getattr(outcome.error, "__notes__", ())]
    assert any("broken engine" in one or "raised StopIteration" in one for one in seen), seen
    caplog.clear()  # nobody was there any more to take what another node has failed with at the same time


async def test_nodes_that_are_late_in_the_same_moment() -> None:
    """Where the failure of one that is late ends the run, another one that is late too was stopped, and not late."""
    failed: list[str] = []

    class Strict(GraphRun):
        def visit_failed(self, visit: Visit, error: BaseException) -> None:
            failed.append(visit.node_run.node.name)
            super().visit_failed(visit, error)
            self.halt(RuntimeError("one is enough"))

    class StrictGraph(Graph):
        def new_run(self, ctx: InteractionContext, task: Any, progress: bool) -> GraphRun:
            return Strict(self, ctx, task=task, progress=progress)

    async with MiniAgents():
        endless = tokens([1000, "x"])  # which is nobody's call, so that there is nothing to stop

        @miniagent
        async def forward(ctx: InteractionContext) -> None:
            ctx.reply(endless)

        policy = NodePolicy(timeout=5)
        outcome = await run(StrictGraph().add_node("a", forward, policy=policy).add_node("b", forward, policy=policy))
        assert failed == ["a"]
        assert isinstance(outcome.error, TimeoutError)
        assert "b failed: RuntimeError: one is enough" in outcome.told
        (await anext(aiter(endless))).cancel()


async def test_nothing_is_called_after_the_end() -> None:
    """When a run has ended by an error, what would have happened in the same moment does not happen any more."""
    called: list[str] = []

    class Crashing(GraphRun):
        def call(self, visit: Visit) -> Any:
            called.append(f"{visit.node_run.node.name} {visit.attempt}")
            if visit.attempt == 2:
                raise KeyboardInterrupt
            return super().call(visit)

    class CrashingGraph(Graph):
        def new_run(self, ctx: InteractionContext, task: Any, progress: bool) -> GraphRun:
            return Crashing(self, ctx, task=task, progress=progress)

    graph = CrashingGraph()
    for name in "abc":
        graph.add_node(name, Unreliable(9).agent, policy=retried(3, 5))
    assert isinstance((await run(graph)).error, KeyboardInterrupt)
    assert called == ["a 1", "b 1", "c 1", "a 2"]


async def test_a_run_that_is_cancelled_tells_nobody_of_failures() -> None:
    """What a cancelled run leaves behind has not failed: hooks that write failures down are not called."""
    told: list[str] = []

    class Recording(GraphRun):
        def before_failure(self, visit: Visit, error: Exception) -> None:
            told.append(visit.node_run.node.name)

        def visit_failed(self, visit: Visit, error: BaseException) -> None:
            told.append(visit.node_run.node.name)

    class RecordedGraph(Graph):
        def new_run(self, ctx: InteractionContext, task: Any, progress: bool) -> GraphRun:
            return Recording(self, ctx, task=task, progress=progress)

    for progress in (True, False):
        async with MiniAgents():
            graph = RecordedGraph().add_node("a", forever).add_node("b", streams("x", "y")).add_node("c", repeat)
            replies = graph.inquire(tokens(["x", "y"]), progress=progress)
            await asyncio.sleep(0.5)
            replies.cancel()
    assert told == []


async def test_nobody_waits_for_what_never_comes() -> None:
    """Nodes that were left waiting by whoever drives the run are named in the error that ends it."""

    class Forgetful(GraphRun):
        def settled(self, node_run: Any) -> None:
            """Tells nobody."""

    class ForgetfulGraph(Graph):
        def new_run(self, ctx: InteractionContext, task: Any, progress: bool) -> GraphRun:
            return Forgetful(self, ctx, task=task, progress=progress)

    outcome = await run(ForgetfulGraph().add_node("a", says("A")).add_node("b", repeat, after=["a"]))
    assert "b can never start" in str(outcome.error)
