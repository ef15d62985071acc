"""Cached agents: what is answered from the cache, what it looks like, and what is never recorded."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.error_messages import ErrorMessage
from miniagents.ext.cache import CacheUnavailableError, MemoryCache, cached
from miniagents.ext.llm.budget import Budget
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.tools import tool
from miniagents.testing import quiescence, run_with_virtual_clock
from miniagents.usage import NO_USAGE, Usage, charge
from miniagents.utils import achain_loop
from promising.sentinels import AWAIT, DEFAULT, END
from tests.ext.cache.cached_helpers import RUN_1, Work, first_token_of, number_of, pieces_of
from tests.promising.helpers import error_of
from tests.support.llm_server import Gate, LLMServer, Reply


class Verdict(Message):
    score: float
    reasons: list[Message] = []


@miniagent
async def judge(ctx: InteractionContext) -> None:
    """Replies with all that a reply can hold."""

    async def tokens(promise: Any) -> AsyncIterator[str]:
        for token in ("Not ", "", "gu", "ilty ", "🎈"):
            await asyncio.sleep(0)
            yield token
        promise.add_metadata(usage={"cost": Decimal("0.10")}, reasons=[Message("No proof", weight=2)])

    async def nested() -> AsyncIterator[Any]:
        yield ["one", ("two", {"text": "three", "role": "user"})]

    ctx.reply(Verdict.promise(tokens, score=0.25))
    ctx.reply(nested())
    ctx.reply([Message(), Message(""), Message(about={"tags": ["x"]}), Verdict("", score=1)])


async def test_reply_is_streamed_again_as_it_came() -> None:
    """A hit has the tokens, boundaries, classes, metadata and nested messages of the reply that was recorded."""
    agent = cached(judge)
    async with MiniAgents():
        first, second = agent.inquire("Well?"), agent.inquire("Well?")
        pieces, messages = await pieces_of(first), await second
        assert pieces[:2] == [["Not ", "", "gu", "ilty ", "🎈"], ["one"]]
        assert messages == await judge.inquire("Well?")
        for _ in range(2):
            hit = agent.inquire("Well?")
            assert await pieces_of(hit) == pieces
            assert await hit == messages
            assert list(map(repr, await hit)) == list(map(repr, messages))
            assert list(map(str, await hit)) == list(map(str, messages))
            assert [message.hash_key for message in await hit] == [message.hash_key for message in messages]


async def test_record_is_written_and_read_in_full() -> None:
    """What has been through the encoding of the cache is streamed the same as what was kept as an object."""
    cache = MemoryCache()
    agent = cached(judge, cache=cache)
    async with MiniAgents():
        first = agent.inquire("Well?")
        messages = await first
        (key,) = await cache.keys()
        await cache.set_bytes(key, await cache.get_bytes(key, raw=True), raw=True)
        hit = agent.inquire("Well?")
        assert await pieces_of(hit) == await pieces_of(first)
        assert list(map(repr, await hit)) == list(map(repr, messages))
        assert list(map(str, await hit)) == list(map(str, messages))
        assert [message.hash_key for message in await hit] == [message.hash_key for message in messages]


async def test_miss_streams_live() -> None:
    """The tokens of a run can be read while it is recorded."""
    work = Work()
    async with MiniAgents():
        replies = cached(work.agent).inquire("Hi")
        async for promise in replies:
            reader = aiter(promise)
            assert await anext(reader) == "run 1 "
            work.gate.set()
            assert [token async for token in reader] == ["is ", "done"]
        assert await number_of(replies) == 1


async def test_metadata_is_known_as_early_as_without_a_cache() -> None:
    """What is known of a message while it streams can be read from a miss, too."""
    gate = asyncio.Event()

    @miniagent
    async def model(ctx: InteractionContext) -> None:
        async def tokens(promise: Any) -> AsyncIterator[str]:
            yield "a"
            promise.add_metadata(model="large")
            await gate.wait()
            promise.add_metadata(finish_reason="stop")

        ctx.reply(Verdict.promise(tokens, score=1))

    async with MiniAgents():
        replies = cached(model).inquire("Hi")
        async for promise in replies:
            assert (promise.message_class, promise.metadata["score"]) == (Verdict, 1)
            await quiescence()
            assert promise.metadata["model"] == "large"
            gate.set()
            await promise
            assert (promise.metadata["model"], promise.metadata["finish_reason"]) == ("large", "stop")


async def test_reply_has_been_recorded_when_it_has_ended() -> None:
    """Who has read a reply to its end finds it in the cache, also outside of any context."""
    work, cache = Work(at_once=True), MemoryCache()
    await cached(work.agent, cache=cache).inquire("Hi")
    (key,) = await cache.keys()
    assert key.startswith("miniagents:cached/WORKER/")
    assert await pieces_of(cached(work.agent, cache=cache).inquire("Hi")) == RUN_1


async def test_each_agent_has_a_cache_of_its_own_by_default() -> None:
    """Agents that were given no cache share no records, not even of the same agent."""
    work = Work(at_once=True)
    async with MiniAgents():
        await cached(work.agent).inquire("Hi")
        await cached(work.agent).inquire("Hi")
    assert work.runs == 2


async def test_namespace_of_the_call_counts() -> None:
    """Records are kept and found in the namespace that the call is made in."""
    work, cache = Work(at_once=True), MemoryCache()
    agent = cached(work.agent, cache=cache)
    async with MiniAgents():
        async with cache.with_prefix("a"):
            first = agent.inquire("Hi")
        await first
        await agent.inquire("Hi")
        async with cache.with_prefix("a"):
            assert len(await cache.keys()) == 1
            await agent.inquire("Hi")
            await cache.clear()
            await agent.inquire("Hi")
    assert work.runs == 3


def test_record_is_gone_after_its_time() -> None:
    """With `ttl` a record is used for that many seconds."""

    async def test() -> None:
        work = Work(at_once=True)
        agent = cached(work.agent, ttl=60)
        async with MiniAgents():
            await agent.inquire("Hi")
            await asyncio.sleep(59)
            await agent.inquire("Hi")
            assert work.runs == 1
            await asyncio.sleep(2)
            await agent.inquire("Hi")
            assert work.runs == 2

    run_with_virtual_clock(test())


# --- what is not recorded ---


@miniagent
async def troubled(ctx: InteractionContext, trouble: str, runs: list[int]) -> None:
    """Replies in a way that is not to be recorded."""
    runs.append(1)

    async def broken(_: Any) -> AsyncIterator[str]:
        yield "to"
        raise ValueError("no more")

    async def invalid(_: Any) -> AsyncIterator[str]:
        yield "a verdict without a score"

    ctx.reply("first")
    if trouble == "raises":
        raise ValueError("no more")
    if trouble == "raises in a message":
        ctx.reply([Message.promise(broken), "third"])
    if trouble == "cannot be made":
        ctx.reply(Verdict.promise(invalid))
    if trouble == "raises in a nested reply":
        ctx.reply(troubled.inquire(trouble="raises", runs=[]))
    if trouble == "tells of an error":
        ctx.reply(troubled.inquire(trouble="raises", runs=[], errors_as_messages=True))
    if trouble == "is interrupted":
        ctx.reply(Message("to", interrupted=True))
    if trouble == "holds a failed tool":
        ctx.reply(Message("It failed", is_error=True))
    if trouble == "is cancelled":
        raise asyncio.CancelledError
    if trouble == "ends the loop":
        ctx.reply(END)
    if trouble == "cannot be represented":
        ctx.reply(Message("?", deep=_nested(2_000)))


def _nested(depth: int) -> Message:
    message = Message("innermost")
    for _ in range(depth):
        message = Message(inner=message)
    return message


@pytest.mark.parametrize(
    "trouble",
    [
        "raises",
        "raises in a message",
        "cannot be made",
        "raises in a nested reply",
        "tells of an error",
        "is interrupted",
        "holds a failed tool",
        "is cancelled",
        "ends the loop",
        "cannot be represented",
    ],
)
async def test_what_is_not_recorded(trouble: str) -> None:
    """A reply that is not complete or not well arrives as without a cache, is not recorded, and made anew each time."""
    cache, runs = MemoryCache(), list[int]()
    agent = cached(troubled, cache=cache, ignore=["runs"])
    async with MiniAgents():
        outcomes = []
        for called in (troubled, agent, agent):
            replies = called.inquire(trouble=trouble, runs=runs)
            outcomes.append(await _outcome(replies))
        assert outcomes[0] == outcomes[1] == outcomes[2]
        assert runs == [1, 1, 1]
        assert await cache.keys() == []


async def _outcome(replies: Any) -> tuple[list[list[str]], str]:
    pieces: list[list[str]] = []
    try:
        async for promise in replies:
            pieces.append([])
            async for token in promise:
                pieces[-1].append(token)
            await promise
    except Exception as error:
        return pieces, repr(error)
    return pieces, "complete"


async def test_what_cannot_be_represented_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Who wonders why a reply is never recorded finds the reason in the log."""
    async with MiniAgents():
        await cached(troubled, ignore=["runs"]).inquire(trouble="cannot be represented", runs=[])
    assert "TROUBLED cannot be recorded" in caplog.text


@pytest.mark.parametrize("trouble", ["raises", "raises in a message", "raises in a nested reply"])
async def test_error_that_nobody_reads_is_logged(caplog: pytest.LogCaptureFixture, trouble: str) -> None:
    """Recording a reply does not count as reading it, so an error that nobody has read is reported once."""
    async with MiniAgents():
        cached(troubled, ignore=["runs"]).inquire(trouble=trouble, runs=[])
    assert caplog.text.count("nobody awaited or read") == 1


async def test_record_that_cannot_be_read_is_replaced() -> None:
    """What stands under the key and is no readable record is taken for none."""
    work, cache = Work(at_once=True), MemoryCache()
    agent = cached(work.agent, cache=cache)
    async with MiniAgents():
        await agent.inquire("Hi")
        (key,) = await cache.keys()
        for number, junk in enumerate((b"\xff", b'{"$class":"nowhere.Unknown"}', b"17"), start=2):
            await cache.set_bytes(key, junk, raw=True)
            assert await number_of(agent.inquire("Hi")) == number
            assert await number_of(agent.inquire("Hi")) == number


# --- as any agent ---


async def test_agent_is_called_as_the_one_it_is_made_of() -> None:
    """Alias, description, arguments of forks and the signature are those of the agent; it can be a tool."""

    @miniagent(alias="poet", description="Writes.")
    async def agent(ctx: InteractionContext, topic: str, style: str = "plain") -> None:
        """Not this one."""
        ctx.reply(f"{topic}, {style}, {ctx.this_agent.alias}, {sorted(ctx.this_agent._arguments)}")

    made = cached(agent.fork(style="free"))
    assert (made.alias, made.description) == ("poet", "Writes.")
    assert tool(made).parameters == tool(agent.fork(style="free")).parameters
    assert list(tool(made).parameters["properties"]) == ["topic"]
    renamed = made.fork(alias="bard", topic="sea")
    async with MiniAgents():
        assert str((await made.inquire(topic="sun"))[0]) == "sun, free, poet, ['style']"
        assert str((await renamed.inquire())[0]) == "sea, free, bard, ['style', 'topic']"
        assert str((await made.inquire(topic="sea"))[0]) == "sea, free, poet, ['style']"


async def test_errors_can_arrive_as_messages() -> None:
    """`errors_as_messages` works per call, fork and context, and such a reply is not recorded."""
    work = Work(ValueError("no"), at_once=True)
    agent = cached(work.agent)
    for made, asked in ((agent, True), (cached(work.agent.fork(errors_as_messages=True)), DEFAULT)):
        async with MiniAgents():
            *_, message = await made.inquire("Hi", errors_as_messages=asked)
            assert isinstance(message, ErrorMessage)
    async with MiniAgents(errors_as_messages=True):
        assert isinstance((await agent.inquire("Hi"))[-1], ErrorMessage)
        with pytest.raises(ValueError, match="no"):
            await agent.inquire("Hi", errors_as_messages=False)
    work.error = None
    async with MiniAgents():
        assert await number_of(agent.inquire("Hi")) == 5


async def test_error_has_the_notes_of_one_call() -> None:
    """An error that comes out of a cached agent says so once."""
    async with MiniAgents():
        error = await error_of(cached(troubled, ignore=["runs"]).inquire(trouble="raises", runs=[]))
        assert error.__notes__ == ["in TROUBLED"]


async def test_messages_may_come_later() -> None:
    """The key is known when the messages are complete; an error among them is the error of the call."""
    work = Work(at_once=True)
    agent = cached(work.agent)
    async with MiniAgents():
        with agent.initiate_inquiry() as call:
            call.send_message("a")
            await quiescence()
            assert work.runs == 0
            call.send_message("b")
        await call.reply_sequence()
        assert await agent.inquire(["a", "b"]) == await call.reply_sequence()
        assert work.runs == 1
        failing = agent.inquire(troubled.inquire(trouble="raises", runs=[]))
        assert isinstance(await error_of(failing), ValueError)


async def test_agent_can_end_a_loop() -> None:
    """A cached agent can stand in a chain, and end it by `END`, each time."""

    @miniagent
    async def user(ctx: InteractionContext) -> None:
        ctx.reply("b" if await ctx.message_promises else "a")

    @miniagent
    async def assistant(ctx: InteractionContext) -> None:
        (message,) = await ctx.message_promises
        ctx.reply("Go on" if str(message) == "a" else END)

    made = cached(assistant)
    for _ in range(2):
        assert list(map(str, await achain_loop([user, AWAIT, made]))) == ["b"]


async def test_persist_handlers_get_what_is_replied() -> None:
    """Messages of a hit are handed to the handlers of the context, as those of a miss are."""
    work = Work(at_once=True)
    agent = cached(work.agent)
    for _ in range(2):
        mini_agents, persisted = MiniAgents(), list[str]()

        @mini_agents.on_persist_message
        async def persist(message: Message, persisted: list[str] = persisted) -> None:
            persisted.append(str(message))

        async with mini_agents:
            await agent.inquire("Hi")
        assert sorted(persisted) == ["Hi", "run 1 is done"]


async def test_lazy_context() -> None:
    """Where nothing starts before it is read, a cached agent does not, either."""
    work = Work(at_once=True)
    agent = cached(work.agent)
    async with MiniAgents(start_everything_soon_by_default=False):
        agent.inquire("unread")
        replies = agent.inquire("Hi")
        await quiescence()
        assert work.runs == 0
        assert await pieces_of(replies) == RUN_1
        assert await pieces_of(agent.inquire("Hi")) == RUN_1
        assert await first_token_of(agent.inquire("Ho")) == "run 2 "  # who reads no further than that
        await quiescence()
        assert await pieces_of(agent.inquire("Ho")) == [["run 2 ", "is ", "done"]]
    assert work.runs == 2


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"agent": lambda ctx: None}, "make one of it with @miniagent"),
        ({"ignore": "key"}, r"ignore=\['key'\]"),
        ({"ttl": 0}, "time to live of 0 s"),
        ({"lease": 0}, "lease of 0 s"),
    ],
)
def test_wrong_use(wrong: dict[str, Any], hint: str) -> None:
    """What cannot be meant is refused where the agent is made, with a hint."""
    with pytest.raises((TypeError, ValueError), match=hint):
        cached(**{"agent": judge, **wrong})


# --- what it costs ---


@miniagent
async def paid(ctx: InteractionContext) -> None:
    """Spends something."""
    charge(Usage(input_tokens=5, cost=Decimal("0.5")))
    await asyncio.sleep(0)
    ctx.reply("paid for")


async def test_who_starts_a_run_pays() -> None:
    """The call that starts the run is charged, and those above it; followers and hits are not."""

    @miniagent
    async def boss(ctx: InteractionContext, agent: Any) -> None:
        ctx.reply(agent.inquire("Hi"))

    agent = cached(paid)
    async with MiniAgents() as outer, MiniAgents() as context:
        leader, follower = boss.inquire(agent=agent), boss.inquire(agent=agent)
        spent = Usage(input_tokens=5, cost=Decimal("0.5"))
        assert await leader.usage() == spent
        assert await follower.usage() == NO_USAGE
        assert await agent.inquire("Hi").usage() == NO_USAGE
        assert context.usage == outer.usage == spent


def weather(city: str) -> str:
    """Looks up the weather."""
    return f"Sunny in {city}"


@pytest.mark.parametrize("what", ["message", "call"])
async def test_model_is_asked_once(what: str) -> None:
    """A hit sends no request; cancelling the only call, or its message, closes the response of the model."""
    gate = Gate()
    async with LLMServer() as server, MiniAgents():
        server.script(Reply(("a", "b")), Reply(("first", gate, "second")))
        agent = cached(openai_agent.fork(base_url=server.openai_url, api_key="sk-some-key", tools=[weather]))
        first = agent.inquire("Hi")
        assert await pieces_of(first) == await pieces_of(agent.inquire("Hi")) == [["a", "b"]]
        assert (await first.usage()).requests == len(server.requests) == 1
        replies = agent.inquire("Ho")
        async for promise in replies:
            assert await anext(aiter(promise)) == "first"
            await gate.reached.wait()
            assert (promise if what == "message" else replies).cancel()
            await server.client_disconnected(1)
            break


async def test_run_is_limited_by_the_budgets_of_who_starts_it() -> None:
    """The budgets of the call, of forks and of the context around it hold in the run, and a hit needs none."""
    seen = []

    @miniagent
    async def spender(ctx: InteractionContext) -> None:
        from miniagents.ext.llm.budget import current_budgets

        seen.append([budget.name for budget in current_budgets()])
        ctx.reply("ok")

    agent = cached(spender.fork(budget=Budget(requests=1, name="inner"))).fork(budget=Budget(requests=1, name="outer"))
    async with MiniAgents(budget=Budget(requests=1, name="context")):
        await agent.inquire("Hi", budget=Budget(requests=1, name="call"))
        await agent.inquire("Hi", budget=Budget(requests=1, name="second"))
    assert seen == [["context", "inner", "outer", "call"]]


# --- a cache that cannot be reached ---


class Unreliable(MemoryCache):
    """A cache that is sometimes away, which takes a while to find out."""

    is_away = True
    attempts = 0

    async def _look(self) -> None:
        self.attempts += 1
        if self.is_away:
            await asyncio.sleep(1)
            raise CacheUnavailableError("nothing at 127.0.0.1:1")

    async def get(self, key: str, default: Any = None, raw: bool = False) -> Any:
        await self._look()
        return await super().get(key, default, raw)

    async def set(self, key: str, value: Any, raw: bool = False, ttl: float | None = None) -> None:
        await self._look()
        await super().set(key, value, raw, ttl)


def test_agent_works_without_its_cache(caplog: pytest.LogCaptureFixture) -> None:
    """While the cache is away calls are answered without it and do not wait for it, and one of them looks now and then.

    Each outage is told once.
    """

    async def test() -> None:
        work, cache = Work(at_once=True), Unreliable()
        agent = cached(work.agent, cache=cache)

        async def number() -> int:
            return await number_of(agent.inquire("Hi"))

        async with MiniAgents():
            assert [await number() for _ in range(5)] == [1, 2, 3, 4, 5]
            assert cache.attempts == 1
            assert await asyncio.gather(*[number() for _ in range(3)]) == [6, 6, 6]  # one run is shared all the same
            await asyncio.sleep(11)
            assert await asyncio.gather(*[number() for _ in range(3)]) == [8, 7, 7]  # one of them has looked
            assert cache.attempts == 2
            cache.is_away = False
            assert await number() == 9
            await asyncio.sleep(11)
            assert await number() == await number() == await number() == 10
            cache.is_away = True
            assert await number() == 11

    run_with_virtual_clock(test())
    assert caplog.text.count("without their cache") == 2
    assert "127.0.0.1:1" in caplog.text
