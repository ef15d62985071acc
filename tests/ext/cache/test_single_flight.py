"""Equal calls at the same time: one run, whatever becomes of the calls that share it."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from typing import Any
from weakref import ref

import pytest

from miniagents import InteractionContext, Message, MessageSequencePromise, MiniAgent, MiniAgents, miniagent
from miniagents.ext.cache import MemoryCache, cached
from miniagents.testing import assert_no_leftovers, quiescence
from miniagents.usage import Usage, charge
from promising import CircularWaitError, PromiseCancelledError, PromisingContext
from tests.ext.cache.cached_helpers import RUN_1, Work, first_token_of, number_of, pieces_of
from tests.promising.helpers import error_of


async def test_a_hundred_equal_calls_share_one_run() -> None:
    """All of them get the whole reply, live, and so does one that comes late; other calls have runs of their own."""
    work = Work()
    agent = cached(work.agent)
    async with assert_no_leftovers(), MiniAgents():
        calls = [agent.inquire("Hi") for _ in range(100)]
        other = agent.inquire("Hi!")
        assert {await first_token_of(call) for call in calls} == {"run 1 "}
        calls.append(agent.inquire("Hi"))
        assert await first_token_of(calls[-1]) == "run 1 "
        assert work.runs == 2
        work.gate.set()
        for number, call in enumerate(calls):
            assert await pieces_of(call) == RUN_1
            if number % 2:
                assert await call == await calls[0]
        assert await number_of(other) == 2
        assert await pieces_of(agent.inquire("Hi")) == RUN_1
        assert work.runs == 2


async def test_followers_do_not_ask_the_cache() -> None:
    """Who joins a run looks nothing up, neither a hundred times at once nor once each."""

    class Counting(MemoryCache):
        asked = 0

        async def get(self, key: str, default: Any = None, raw: bool = False) -> Any:
            self.asked += 1
            return await super().get(key, default, raw)

    work, cache = Work(), Counting()
    agent = cached(work.agent, cache=cache)
    async with MiniAgents():
        for _ in range(10):
            assert await first_token_of(agent.inquire("Hi")) == "run 1 "
        assert cache.asked == 1
        work.gate.set()


async def test_agents_with_the_same_cache_share_runs() -> None:
    """What counts is the key in the cache, not which object was called."""
    work, cache = Work(), MemoryCache()
    async with MiniAgents():
        calls = [cached(work.agent, cache=cache).inquire("Hi") for _ in range(3)]
        await quiescence()
        work.gate.set()
        assert [await pieces_of(call) for call in calls] == [RUN_1] * 3


@pytest.mark.parametrize("leaving", [0, 1])
async def test_call_that_is_cancelled_disturbs_no_other(leaving: int) -> None:
    """Leader and followers can be cancelled alike: the run goes on for the others, and is recorded."""
    work = Work()
    agent = cached(work.agent)
    async with assert_no_leftovers(), MiniAgents():
        calls = [agent.inquire("Hi") for _ in range(3)]
        assert await first_token_of(calls[0]) == "run 1 "
        left = calls.pop(leaving)
        assert left.cancel()
        await quiescence()
        assert work.cancelled == 0
        calls.append(agent.inquire("Hi"))
        work.gate.set()
        assert [await pieces_of(call) for call in calls] == [RUN_1] * 3
        assert isinstance(await error_of(left), PromiseCancelledError)
        assert await pieces_of(agent.inquire("Hi")) == RUN_1


@pytest.mark.parametrize("calls", [1, 2])
async def test_message_that_is_cancelled(calls: int) -> None:
    """Cancelling a message of the only call stops the work on it; with others it ends for that call alone."""
    work = Work()
    agent = cached(work.agent)
    async with assert_no_leftovers(), MiniAgents():
        first, *others = [agent.inquire("Hi") for _ in range(calls)]
        async for promise in first:
            assert await anext(aiter(promise)) == "run 1 "
            assert promise.cancel()
            assert not promise.cancel()
            assert isinstance(await error_of(promise), PromiseCancelledError)
            await quiescence()
            assert work.cancelled == (0 if others else 1)
            work.gate.set()
        for other in others:
            assert await pieces_of(other) == RUN_1
        assert await number_of(agent.inquire("Hi")) == (1 if others else 2)


@pytest.mark.parametrize("moment", ["before its start", "at work"])
async def test_run_is_cancelled_with_the_last_of_its_calls(moment: str) -> None:
    """When nobody wants it any more the run ends, nothing is recorded, and an equal call starts anew."""
    work, cache = Work(), MemoryCache()
    agent = cached(work.agent, cache=cache)
    async with assert_no_leftovers(), MiniAgents():
        calls = [agent.inquire("Hi") for _ in range(3)]
        if moment == "at work":
            await quiescence()
        for call in calls:
            assert call.cancel()
        again = agent.inquire("Hi")  # while the others are still cleaning up
        work.gate.set()
        number = await number_of(again)
        assert number == work.runs == (2 if moment == "at work" else 1)
        assert work.cancelled == number - 1
        for call in calls:
            assert isinstance(await error_of(call), PromiseCancelledError)
        assert len(await cache.keys()) == 1


@pytest.mark.parametrize("ended", ["cancelled", "context closed"])
async def test_clean_up_of_a_run_is_waited_for(ended: str) -> None:
    """A context does not end before a run that was cancelled has cleaned up, not even one inside of the run's own."""
    log: list[str] = []

    @miniagent
    async def slow_to_leave(ctx: InteractionContext) -> None:
        try:
            await asyncio.sleep(3_600)
        finally:
            await asyncio.sleep(0.01)
            log.append("clean")

    async def leave_early() -> None:
        async with MiniAgents():
            replies = cached(slow_to_leave).inquire("Hi")
            await quiescence()
            if ended == "cancelled":
                replies.cancel()
            else:
                raise KeyError("early")

    async with assert_no_leftovers(), MiniAgents():
        outcome = await asyncio.gather(leave_early(), return_exceptions=True)
        assert log == ["clean"]
        assert isinstance(outcome[0], KeyError) is (ended == "context closed")


@pytest.mark.parametrize("behind_the_gate", [True, False])
async def test_error_of_a_run_is_everybodys(behind_the_gate: bool) -> None:
    """Every call gets the error at its place, nothing is recorded, and the next call runs again."""
    work, cache = Work(ValueError("no")), MemoryCache()

    @miniagent
    async def failing(ctx: InteractionContext) -> None:
        if not behind_the_gate:
            await asyncio.sleep(0)
            raise work.error  # type: ignore[misc]
        ctx.reply(work.agent.inquire("Hi"))

    agent = cached(failing, cache=cache)
    async with assert_no_leftovers(), MiniAgents():
        calls = [agent.inquire("Hi") for _ in range(10)]
        await quiescence()
        work.gate.set()
        for call in calls:
            assert await error_of(call) is work.error
            with pytest.raises(ValueError, match="no"):
                await pieces_of(call)
        assert await cache.keys() == []
        work.error = ValueError("another one")
        assert await error_of(agent.inquire("Hi")) is work.error


async def test_reader_that_leaves_ends_nothing() -> None:
    """A run goes on and is recorded though nobody reads it to its end."""
    work = Work()
    agent = cached(work.agent)
    async with MiniAgents():
        replies = agent.inquire("Hi")
        assert await first_token_of(replies) == "run 1 "
        reading = asyncio.ensure_future(pieces_of(replies))
        await quiescence()
        reading.cancel()
        del replies
        gc.collect()
        work.gate.set()
        await quiescence()
        assert await pieces_of(agent.inquire("Hi")) == RUN_1


@pytest.mark.parametrize("context", ["MiniAgents", "lazy", "none"])
async def test_reply_is_made_to_its_end_whoever_reads(context: str) -> None:
    """What would wait for readers by itself, lazy messages and bounded sequences, is made and recorded all the same."""

    async def tokens(_: Any) -> AsyncIterator[str]:
        yield "a"
        yield "b"

    async def messages(_: Any) -> AsyncIterator[Any]:
        for number in range(10):
            yield str(number)

    @miniagent
    async def reticent(ctx: InteractionContext) -> None:
        ctx.reply([Message.promise(tokens, start_soon=False) for _ in range(2)])
        ctx.reply(MessageSequencePromise(messages, max_ahead=1))

    cache = MemoryCache()
    agent = cached(reticent, cache=cache)
    scope = MiniAgents(start_everything_soon_by_default=context != "lazy") if context != "none" else nullcontext()
    async with scope:
        assert await first_token_of(agent.inquire("Hi")) == "a"
        await quiescence()
        assert len(await cache.keys()) == 1
        assert len(await agent.inquire("Hi")) == 12


async def test_agent_that_works_on_after_its_reply() -> None:
    """The reply ends when it is complete; what the agent does then is still cancelled with the call, and paid by it."""
    gate, log = asyncio.Event(), list[str]()

    @miniagent
    async def early(ctx: InteractionContext) -> None:
        ctx.reply("done")
        ctx.finish_early()
        try:
            await gate.wait()
            charge(Usage(input_tokens=7))
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    agent = cached(early)
    async with assert_no_leftovers(), MiniAgents():
        replies = agent.inquire("Hi")
        assert str((await replies)[0]) == "done"
        assert str((await agent.inquire("Hi"))[0]) == "done"  # recorded already
        usage = asyncio.ensure_future(replies.usage())
        await quiescence()
        assert not usage.done()
        gate.set()
        assert (await usage).input_tokens == 7
        gate.clear()
        again = agent.inquire("Ho")
        await again
        assert again.cancel()
        await quiescence()
        assert log == ["cancelled"]


async def test_failed_run_is_not_joined() -> None:
    """Once it is clear that a reply has failed, an equal call starts anew, also while the agent still works."""
    gate, errors = asyncio.Event(), [ValueError("one"), ValueError("two")]

    @miniagent
    async def half_broken(ctx: InteractionContext) -> None:
        error = errors.pop(0)

        async def broken(_: Any) -> AsyncIterator[str]:
            yield "to"
            raise error

        ctx.reply(Message.promise(broken))
        ctx.finish_early()
        await gate.wait()

    agent = cached(half_broken)
    async with assert_no_leftovers(), MiniAgents():
        for expected in ("one", "two"):
            assert str(await error_of(agent.inquire("Hi"))) == expected
            await quiescence()
        gate.set()


@pytest.mark.parametrize("way", ["awaits", "forwards", "ignores"])
@pytest.mark.parametrize("length", [1, 2, 5])
async def test_agents_that_ask_each_other_the_same(length: int, way: str) -> None:
    """A ring of runs that wait for each other is an error and does not hang."""
    agents: list[MiniAgent] = []

    async def ask_next(ctx: InteractionContext, number: int) -> None:
        replies = agents[(number + 1) % length].inquire(ctx.message_promises)
        if way == "awaits":
            await replies
        elif way == "forwards":
            ctx.reply(replies)
        else:
            with suppress(CircularWaitError):
                await replies
            ctx.reply("all the same")

    for number in range(length):
        agents.append(cached(miniagent(ask_next, alias=f"AGENT{number}", number=number)))
    async with assert_no_leftovers(), MiniAgents():
        for _ in range(2):
            replies = agents[0].inquire("Hi")
            if way == "ignores":
                assert await replies == (Message("all the same"),)
            else:
                assert isinstance(await error_of(replies), CircularWaitError)


# --- several contexts, loops ---


async def test_calls_inside_of_one_context_share_live() -> None:
    """Contexts inside of one that stays open share a run live, which outlives the context of its leader."""
    work = Work()
    agent = cached(work.agent)
    async with MiniAgents():
        left = MiniAgents()
        await left.__aenter__()
        leader = agent.inquire("Hi")
        assert await first_token_of(leader) == "run 1 "

        async def follow() -> list[list[str]]:
            async with MiniAgents():
                replies = agent.inquire("Hi")
                assert await first_token_of(replies) == "run 1 "
                return await pieces_of(replies)

        following = asyncio.ensure_future(follow())
        await quiescence()
        await left.__aexit__(KeyError, KeyError("early"), None)
        assert isinstance(await error_of(leader), PromiseCancelledError)
        work.gate.set()
        assert await following == RUN_1


@pytest.mark.parametrize("ending", ["well", "with an error", "by leaving early"])
async def test_calls_in_contexts_of_their_own_wait_for_the_record(ending: str) -> None:
    """A call does not rely on a run of another context, which may close: it waits, and takes over without a record."""
    work = Work(ValueError("no") if ending == "with an error" else None)
    agent = cached(work.agent)

    async def call(number: int) -> list[list[str]]:
        async with MiniAgents():
            replies = agent.inquire("Hi")
            if number == 0 and ending == "by leaving early":
                await first_token_of(replies)
                raise KeyError("early")
            return await pieces_of(replies)

    async with assert_no_leftovers():
        first, *others = [asyncio.ensure_future(call(number)) for number in range(4)]
        await quiescence()
        work.gate.set()
        if ending == "with an error":
            error = await error_of(first)  # type: ignore[arg-type]
            assert isinstance(error, ValueError)
            work.error = None
        elif ending == "by leaving early":
            assert isinstance(await error_of(first), KeyError)  # type: ignore[arg-type]
        else:
            assert await first == RUN_1
        taken_over = [["run 2 ", "is ", "done"]]
        assert {str(await other) for other in others} == {str(RUN_1 if ending == "well" else taken_over)}
        assert work.runs == (1 if ending == "well" else 2)


async def test_calls_outside_of_any_context_share_a_run() -> None:
    """Also where there is no context equal calls share a run, and cancelling the last of them ends it."""
    work = Work()
    agent = cached(work.agent)
    async with assert_no_leftovers():
        calls = [agent.inquire("Hi") for _ in range(2)]
        readers = [asyncio.ensure_future(pieces_of(call)) for call in calls]
        await quiescence()
        assert work.runs == 1
        calls[0].cancel()
        work.gate.set()
        assert await readers[1] == RUN_1
        await asyncio.gather(*readers, return_exceptions=True)
        work.gate.clear()
        lonely = agent.inquire("Ho")
        reader = asyncio.ensure_future(pieces_of(lonely))
        await quiescence()
        assert lonely.cancel()
        with pytest.raises(PromiseCancelledError):
            await reader
        await quiescence()
        assert work.cancelled == 1


async def test_context_of_promises_alone_will_do() -> None:
    """The outermost context need not be one of agents."""
    work = Work(at_once=True)
    async with PromisingContext():
        assert await pieces_of(cached(work.agent).inquire("Hi")) == RUN_1


def test_record_serves_one_event_loop_after_the_other() -> None:
    """A record that was made in one loop is read in others."""
    work = Work(at_once=True)
    agent = cached(work.agent)
    for _ in range(3):
        assert MiniAgents().run(_pieces(agent)) == RUN_1
    assert work.runs == 1


async def _pieces(agent: MiniAgent) -> list[list[str]]:
    return await pieces_of(agent.inquire("Hi"))


async def test_nothing_is_kept_of_a_run() -> None:
    """What was only needed for a run is freed with it, and the cache with the agent."""
    work, cache = Work(at_once=True), MemoryCache()
    agent = cached(work.agent, cache=cache)
    async with MiniAgents():
        for number in range(10):
            await agent.inquire(str(number))
        await quiescence()
        gc.collect()
        gone = ref(cache)
        assert not [one for one in gc.get_objects() if type(one).__name__ == "Flight"]
        del agent, cache
        gc.collect()
        assert gone() is None


def test_loops_in_threads_do_not_share_runs() -> None:
    """Each event loop has runs of its own, since promises belong to their loop."""
    outcomes: list[Any] = []
    both_at_work = threading.Barrier(2)

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        await asyncio.to_thread(both_at_work.wait, 10)
        ctx.reply(Message("ok"))

    made = cached(agent)
    threads = [threading.Thread(target=lambda: outcomes.append(MiniAgents().run(made.inquire("Hi")))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert outcomes == [(Message("ok"),)] * 2
