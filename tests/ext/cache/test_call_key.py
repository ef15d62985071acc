"""Which calls of a cached agent are equal."""

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from miniagents import InteractionContext, Message, MiniAgent, MiniAgents, miniagent
from miniagents.ext.cache import MemoryCache, cached
from miniagents.ext.llm.context_window import ContextLimits
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.tools import tool
from miniagents.ext.values import encode


@miniagent(alias="AGENT")
async def agent(ctx: InteractionContext, **arguments: Any) -> None:
    """Replies with how often it has worked."""
    _runs.append(1)
    ctx.reply(str(len(_runs)))


@miniagent(alias="AGENT")
async def other_agent(ctx: InteractionContext, **arguments: Any) -> None:
    """Is called the same."""
    _runs.append(1)
    ctx.reply(str(len(_runs)))


_runs: list[int] = []


async def are_equal(*calls: tuple[MiniAgent, Any, dict[str, Any]]) -> bool:
    """Whether the second call is answered like the first one, without a run."""
    async with MiniAgents():
        first, second = [str((await called.inquire(messages, **arguments))[0]) for called, messages, arguments in calls]
    return first == second


MESSAGES = [
    None,
    "Hi",
    "Hi!",
    ["Hi", "Hi"],
    ["HiHi"],
    Message("Hi", role="user"),
    Message("Hi", role="system"),
    Message("Hi", about=Message("a")),
    Message("Hi", about=Message("b")),
    "",
]


@pytest.mark.parametrize("left", range(len(MESSAGES)))
@pytest.mark.parametrize("right", range(len(MESSAGES)))
async def test_messages_count(left: int, right: int) -> None:
    """Calls are equal exactly when the messages are, in their number, content and order."""
    made = cached(agent)
    assert await are_equal((made, MESSAGES[left], {}), (made, MESSAGES[right], {})) is (left == right)


def search(query: str) -> str:
    """Searches."""
    return query


def calculate(query: str, precision: int = 2) -> str:
    """Calculates."""
    return query


def made_in(name: str) -> Any:
    def local(query: str, default: str = name) -> str:
        return query

    return local


class Answer(BaseModel):
    text: str


def other_answer() -> type[BaseModel]:
    class Answer(BaseModel):
        text: str
        score: float

    Answer.__qualname__ = "Answer"
    return Answer


@dataclass
class Settings:
    level: int
    names: list[str]


@dataclass
class OtherSettings:
    level: int
    names: list[str]


tool_of_search = tool(search)
ARGUMENTS: list[Any] = [
    None,
    True,
    1,
    1.0,
    "1",
    [1],
    [[1]],
    {"a": 1},
    {"$a": 1},
    {"a": {"b": 1}},
    Message("1"),
    Message("2"),
    search,
    calculate,
    made_in("a"),
    made_in("b"),
    [search],
    {"on_start": search},
    functools.partial(search, "a"),
    functools.partial(search, "b"),
    functools.partial(search, query="b"),
    Answer,
    other_answer(),
    Answer(text="a"),
    Answer(text="b"),
    list[Answer],
    list[int],
    Answer | None,
    Literal["a"],
    Settings(1, ["a"]),
    Settings(1, ["b"]),
    OtherSettings(1, ["a"]),
    ContextLimits(max_context_length=1),
    agent,
    other_agent,
    agent.fork(alias="OTHER"),
    agent.fork(description="Other."),
    agent.fork(level=1),
    agent.fork(tools=[search]),
    tool_of_search,
    tool(calculate),
    tool(search, description="Finds."),
    tool(agent, name="a"),
    tool(other_agent, name="a"),
]


@pytest.mark.parametrize("left", range(len(ARGUMENTS)))
async def test_arguments_count(left: int) -> None:
    """Whatever differs between two arguments makes two calls of it."""
    for right in range(len(ARGUMENTS)):
        made = cached(agent)
        calls = [(made, "Hi", {"argument": ARGUMENTS[number]}) for number in (left, right)]
        assert await are_equal(*calls) is (left == right), (ARGUMENTS[left], ARGUMENTS[right])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"a": 1, "b": [1, {"x": 2, "y": 3}]}, {"b": (1, {"y": 3, "x": 2}), "a": 1}),
        ({"a": Message("x", y=[1])}, {"a": Message("x", y=(1,))}),
        ({"a": made_in("x")}, {"a": made_in("x")}),
        ({"a": Settings(1, ["x"])}, {"a": Settings(1, ["x"])}),
        ({"a": tool(search)}, {"a": tool(search)}),
        ({"a": agent.fork(x=1)}, {"a": agent.fork(x=1)}),
        ({"a": agent.fork(x=1)}, {"a": cached(agent.fork(x=1))}),
    ],
)
async def test_equal_arguments(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Arguments are compared by content, whatever the order in which they were given."""
    made = cached(agent)
    assert await are_equal((made, "Hi", left), (made, "Hi", right))


async def test_arguments_of_forks_and_calls_are_the_same_to_it() -> None:
    """Where an argument was set is of no importance, and a call's replaces a fork's."""
    cache = MemoryCache()
    made = cached(agent, cache=cache)
    assert await are_equal((made.fork(x=1, y=2), "Hi", {}), (made, "Hi", {"y": 2, "x": 1}))
    assert await are_equal((made.fork(x=1), "Hi", {}), (cached(agent.fork(x=1), cache=cache), "Hi", {}))
    assert await are_equal((made.fork(x=1), "Hi", {"x": 5}), (made, "Hi", {"x": 5}))
    assert not await are_equal((made.fork(x=1), "Hi", {}), (made.fork(x=2), "Hi", {}))
    assert not await are_equal((made, "Hi", {}), (made, "Hi", {"x": None}))


async def test_agents_share_no_records() -> None:
    """In one cache agents are told apart by their alias, by where they are defined, and by `version`."""
    cache = MemoryCache()
    made = cached(agent, cache=cache)
    assert await are_equal((made, "Hi", {}), (cached(agent, cache=cache), "Hi", {}))
    for other in (
        cached(other_agent, cache=cache),
        cached(agent.fork(alias="OTHER"), cache=cache),
        made.fork(alias="ANOTHER"),
        cached(agent, cache=cache, version="2"),
    ):
        assert not await are_equal((made, "Hi", {}), (other, "Hi", {}))
        assert await are_equal((other, "Hi", {}), (other, "Hi", {}))


async def test_change_of_a_mutable_argument_counts() -> None:
    """The key is made of what an argument is when the agent is called."""
    names = ["a"]
    made = cached(agent).fork(names=names, settings=Settings(1, names))
    async with MiniAgents():
        first = await made.inquire("Hi")
        names.append("b")
        assert await made.inquire("Hi") != first


async def test_ignored_arguments() -> None:
    """What is ignored may be anything and is no part of the key, in agents among the arguments either."""
    made = cached(agent, ignore=["client", "api_key"])
    left = {"client": object(), "api_key": "a", "summarizer": openai_agent.fork(api_key="a", client=object())}
    right = {"client": object(), "api_key": "b", "summarizer": openai_agent.fork(api_key="b", client=object())}
    assert await are_equal((made, "Hi", left), (made, "Hi", right))
    assert await are_equal((made, "Hi", {"api_key": "a"}), (made, "Hi", {}))
    assert not await are_equal((made, "Hi", left), (made, "Hi", {}))


async def test_secrets_are_not_stored() -> None:
    """No argument can be read in what is stored, keys and records, whether it is part of the key or not."""
    cache = MemoryCache()
    async with MiniAgents():
        await cached(agent, cache=cache).inquire("Hi", api_key="sk-secret", system="the system prompt")
        stored = str(await cache.get_all()) + str([encode(value) for value in (await cache.get_all()).values()])
    assert "AGENT" in stored
    assert "secret" not in stored
    assert "system" not in stored


def closure() -> Any:
    return lambda query: query


def with_variable(prefix: str) -> Any:
    def local(query: str) -> str:
        return prefix + query

    return local


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "object objects cannot be frozen"),
        ({"a": [1, object()]}, r"x\.a\[1\]: object objects"),
        ({1, 2}, "a set has no order"),
        ({1: 2}, "the key 1 is no string"),
        (math.nan, "not a number"),
        (closure(), "there can be many functions .*<lambda>"),
        (with_variable("a"), "there can be many functions .*local"),
        ([].append, "objects cannot be frozen"),
        (Settings(1, [object()]), r"x\.names\[0\]"),  # type: ignore[list-item]
        (Settings(1, [{1: 2}]), r"x\.names\[0\]: the key 1 is no string"),  # type: ignore[list-item]
        (Settings(1, [math.inf]), r"x\.names\[0\]: inf"),  # type: ignore[list-item]
        (agent.fork(client=object()), r"x\.client: object objects"),
    ],
)
async def test_what_cannot_be_part_of_a_key(value: Any, reason: str) -> None:
    """The error names the agent, the argument and the part of it, and says how to mend the call."""
    with pytest.raises(TypeError, match=rf"AGENT cannot be cached.* argument x .*{reason}.*ignore=\['x'\]"):
        await cached(agent).inquire("Hi", x=value)


async def test_argument_that_contains_itself() -> None:
    """A list without end is an error as well."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match="nested too deeply"):
        await cached(agent).inquire("Hi", x=endless)


async def test_error_says_nothing_of_the_value() -> None:
    """What cannot be part of a key may be secret all the same."""
    secret = {"api_key": "sk-secret", "client": object()}
    with pytest.raises(TypeError) as caught:
        await cached(agent).inquire("Hi", x=secret)
    assert "secret" not in str(caught.value)
