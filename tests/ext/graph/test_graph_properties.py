"""Random graphs against a tiny model of what has to come of them."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.graph import (
    ConcurrencyLimit,
    Graph,
    GraphFinished,
    NodeFailed,
    NodeFinished,
    NodePolicy,
    current_run,
)
from miniagents.testing import Timeline, assert_no_leftovers, run_with_virtual_clock
from promising.errors import PromiseCancelledError

pytestmark = pytest.mark.usefixtures("nothing_is_logged")

many = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Spec(NamedTuple):
    """A random node."""

    after: frozenset[int]
    seconds: int
    failures: int
    attempts: int
    condition: bool | None
    streams: bool


@st.composite
def specs(draw: st.DrawFn, most: int = 12) -> list[Spec]:
    """Nodes, each of which depends on some of those before it."""
    nodes: list[Spec] = []
    for number in range(draw(st.integers(1, most))):
        earlier = st.integers(0, number - 1) if number else st.nothing()
        nodes.append(
            Spec(
                after=draw(st.frozensets(earlier, max_size=3)) if number else frozenset(),
                seconds=draw(st.integers(0, 3)),
                failures=draw(st.sampled_from([0, 0, 0, 1, 2])),
                attempts=draw(st.integers(1, 3)),
                condition=draw(st.sampled_from([None, None, None, True, False])),
                streams=draw(st.booleans()),
            )
        )
    return nodes


@dataclass
class Expected:
    """What the rules give."""

    states: list[str] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)


def expected(nodes: list[Spec]) -> Expected:
    """The rules: a node is skipped for what it depends on, or its condition; else it is tried as often as needed."""
    found = Expected()
    for node in nodes:
        begin = max((found.ends[other] for other in node.after), default=0)
        ready = all(found.states[other] == "finished" for other in node.after)
        calls = min(node.failures + 1, node.attempts) if ready and node.condition is not False else 0
        state = "skipped" if not calls else "finished" if node.failures < node.attempts else "failed"
        found.states.append(state)
        found.calls.append(calls)
        found.ends.append(begin + calls * node.seconds)
    return found


class Cast:
    """The agents of a random graph, and what they have seen.

    Attributes:
        calls: How often each was called.
        at_work: Which are at work.
        most: How many were, at most.
    """

    def __init__(self, nodes: list[Spec], limit: ConcurrencyLimit | None = None, **options: Any) -> None:
        self.nodes = nodes
        self.calls = [0] * len(nodes)
        self.at_work: set[int] = set()
        self.most = 0
        self.ended: set[int] = set()
        self.graph = Graph(**options)
        for number, node in enumerate(nodes):
            holds = node.condition
            policy = NodePolicy(
                attempts=node.attempts,
                backoff=lambda _: 0.0,
                condition=None if holds is None else lambda *_, holds=holds: holds,
                concurrency=() if limit is None else (limit,),
            )
            agent = miniagent(self.work, alias=f"N{number}", number=number)
            self.graph.add_node(f"{number}", agent, after=[f"{one}" for one in sorted(node.after)], policy=policy)

    async def work(self, ctx: InteractionContext, number: int) -> None:
        """Works as its node says; the inputs have to be what those before it have said."""
        node = self.nodes[number]
        assert number not in self.at_work
        assert node.after <= self.ended
        self.calls[number] += 1
        self.at_work.add(number)
        self.most = max(self.most, len(self.at_work))
        try:
            said = [str(message) for message in await ctx.message_promises]
            assert said == ([f"by {one}" for one in sorted(node.after)] or ["in"])
            if node.streams:
                ctx.reply(Message.promise(self._stream(node, self.calls[number], number)))
                await asyncio.sleep(node.seconds)
                return
            await asyncio.sleep(node.seconds)
            if self.calls[number] <= node.failures:
                raise ValueError(f"{number} failed")
            ctx.reply(f"by {number}")
            self.ended.add(number)
        finally:
            self.at_work.discard(number)

    def _stream(self, node: Spec, call: int, number: int) -> Any:
        async def stream(_: Any) -> Any:
            yield "by "
            await asyncio.sleep(node.seconds)
            if call <= node.failures:
                raise ValueError(f"{number} failed")
            yield f"{number}"
            self.ended.add(number)

        return stream


@many
@given(specs(), st.booleans())
def test_random_graphs_end_as_the_rules_say(nodes: list[Spec], progress: bool) -> None:
    """Each node ends in the state that the rules give, at the time that they give, run as often as needed."""

    async def main() -> None:
        rules, cast = expected(nodes), Cast(nodes, raise_errors=progress)
        async with assert_no_leftovers(), MiniAgents():
            timeline = Timeline()
            messages, error = await outcome(cast.graph.inquire("in", progress=progress))
            assert timeline.elapsed == max(rules.ends)
        assert cast.calls == rules.calls
        if progress:
            check_progress(rules, messages)
        failed = [f"{number} failed" for number, state in enumerate(rules.states) if state == "failed" and progress]
        assert (error is None) is (not failed)
        assert error is None or str(error) in failed

    run_with_virtual_clock(main())


def check_progress(rules: Expected, messages: list[Message]) -> None:
    last = messages[-1]
    assert isinstance(last, GraphFinished)
    assert last.status == (
        "complete" if "failed" not in rules.states else "partial" if "finished" in rules.states else "failed"
    )
    assert last.failed == tuple(f"{number}" for number, state in enumerate(rules.states) if state == "failed")
    assert last.skipped == tuple(f"{number}" for number, state in enumerate(rules.states) if state == "skipped")
    ends = {message.node: message.time for message in messages if isinstance(message, (NodeFinished, NodeFailed))}
    assert ends == {
        f"{number}": end
        for number, (state, end) in enumerate(zip(rules.states, rules.ends, strict=True))
        if state != "skipped"
    }


async def outcome(replies: Any) -> tuple[list[Message], BaseException | None]:
    messages = []
    try:
        async for promise in replies:
            messages.append(await promise)
    except ValueError as error:
        return messages, error
    return messages, None


@many
@given(specs(), st.integers(1, 3), st.integers(1, 3))
def test_random_graphs_with_limits(nodes: list[Spec], at_once: int, shared: int) -> None:
    """Limits change when nodes run and nothing else, never more run at once, and all places are free in the end."""

    async def main() -> None:
        limit = ConcurrencyLimit(shared)
        rules, cast = expected(nodes), Cast(nodes, limit, max_concurrent=at_once, raise_errors=False)
        async with assert_no_leftovers(), MiniAgents():
            await cast.graph.inquire("in")
        assert cast.calls == rules.calls
        assert cast.most <= min(at_once, shared)
        assert all(limit.enter(lambda: None) for _ in range(shared))

    run_with_virtual_clock(main())


@many
@given(specs(), st.integers(0, 40), st.integers(0, 8))
def test_random_graphs_that_are_cancelled(nodes: list[Spec], tenths: int, turns: int) -> None:
    """Whenever a run is cancelled nothing is left running, and all places are free."""

    async def main() -> None:
        limit = ConcurrencyLimit(2)
        cast = Cast(nodes, limit)
        async with assert_no_leftovers(), MiniAgents():
            replies = cast.graph.inquire("in")
            await asyncio.sleep(tenths / 4)
            for _ in range(turns):
                await asyncio.sleep(0)
            replies.cancel()
            with suppress(ValueError, PromiseCancelledError):
                await replies
        assert not cast.at_work
        assert all(limit.enter(lambda: None) for _ in range(2))

    run_with_virtual_clock(main())


def ancestors(number: int, nodes: list[Spec]) -> set[int]:
    """A node, and all that it depends on."""
    return {number}.union(*(ancestors(other, nodes) for other in nodes[number].after))


def term(number: int, nodes: list[Spec]) -> str:
    """What a node says, as a term of what those before it say."""
    return f"{number}({','.join(term(other, nodes) for other in sorted(nodes[number].after)) or 'in'})"


class Loops:
    """A random graph whose nodes say the terms of what they were sent, and jump.

    Attributes:
        begins: When each node began last, by a clock that counts calls.
    """

    def __init__(self, nodes: list[Spec], jumps: dict[int, list[int]]) -> None:
        self.nodes = nodes
        self.begins: dict[int, int] = {}
        self._clock = count()
        self.graph = Graph(max_starts=len(nodes) * (1 + sum(map(len, jumps.values()))))
        for number, node in enumerate(nodes):
            agent = miniagent(self.work, alias=f"N{number}", number=number)
            policy = NodePolicy(decide=self._decisions(jumps.get(number, [])))
            self.graph.add_node(f"{number}", agent, after=[f"{one}" for one in sorted(node.after)], policy=policy)

    def _decisions(self, targets: list[int]) -> Any:
        left = iter(targets)

        def decide(_: Any) -> str | None:
            target = next(left, None)
            return None if target is None else f"{target}"

        return decide

    async def work(self, ctx: InteractionContext, number: int) -> None:
        self.begins[number] = next(self._clock)
        said = ",".join(str(message) for message in await ctx.message_promises)
        await asyncio.sleep(self.nodes[number].seconds)
        ctx.reply(f"{number}({said})")


@many
@given(specs(), st.data())
def test_random_loops_come_to_the_same(nodes: list[Spec], data: st.DataObject) -> None:
    """However often nodes go back to what they come from: in the end all is as if they had not."""
    last = len(nodes) - 1
    jumps = {
        number: data.draw(st.lists(st.sampled_from(sorted(ancestors(number, nodes))), max_size=3), label=f"{number}")
        for number in {last, last // 2}
    }

    async def main() -> None:
        loops = Loops(nodes, jumps)
        async with assert_no_leftovers(), MiniAgents():
            finished = (await loops.graph.inquire("in"))[-1]
        assert isinstance(finished, GraphFinished)
        assert (finished.status, finished.skipped) == ("complete", ())
        assert {name: "".join(map(str, said)) for name, said in finished.results.items()} == {
            f"{number}": term(number, nodes)
            for number in range(len(nodes))
            if not any(number in node.after for node in nodes)
        }
        for number, node in enumerate(nodes):
            assert all(loops.begins[other] < loops.begins[number] for other in node.after)

    run_with_virtual_clock(main())


@many
@given(specs(), st.data())
def test_random_jumps_come_to_an_end(nodes: list[Spec], data: st.DataObject) -> None:
    """Wherever nodes jump to, each node has finished or was skipped in the end, and nothing hangs."""
    anywhere = st.lists(st.integers(0, len(nodes) - 1), max_size=3)
    jumps = {number: data.draw(anywhere, label=f"{number}") for number in range(0, len(nodes), 3)}

    async def main() -> None:
        loops = Loops(nodes, jumps)
        async with assert_no_leftovers(), MiniAgents():
            finished = (await loops.graph.inquire("in"))[-1]
        assert isinstance(finished, GraphFinished)
        assert (finished.status, finished.failed) == ("complete", ())

    run_with_virtual_clock(main())


@many
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 2))
def test_random_graphs_that_grow(children: list[int], seconds: int) -> None:
    """Nodes that add nodes that add nodes: each of them runs once, and who waits for the first waits for all."""

    async def main() -> None:
        numbers = iter(range(1, len(children)))
        worked: list[int] = []

        async def work(_: InteractionContext, number: int) -> None:
            await asyncio.sleep(seconds)
            for _child in range(children[number]):
                child = next(numbers, None)
                if child is not None:
                    current_run().add_node(f"{child}", miniagent(work, number=child))
            worked.append(number)

        async def end(_: InteractionContext) -> None:
            worked.append(-1)

        graph = Graph().add_node("0", miniagent(work, number=0)).add_node("end", miniagent(end), after=["0"])
        async with assert_no_leftovers(), MiniAgents():
            await graph.inquire()
        assert sorted(worked) == [-1, *range(len(worked) - 1)]
        assert worked[-1] == -1

    run_with_virtual_clock(main())
