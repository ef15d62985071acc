"""Conditions: of the cache and the task, in Lua or in Python."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any

import pytest

from miniagents.ext.cache.memory import MemoryCache
from miniagents.ext.graph import GraphError
from miniagents.ext.graph.conditions import CompiledCondition, Condition, ConditionError, compile_condition
from miniagents.ext.task_graph.tasks import Task, TaskStatus

WHERE = "the condition of node 'executor'"


@pytest.fixture
async def cache() -> AsyncIterator[MemoryCache]:
    async with MemoryCache() as opened:
        yield opened


def compiled(condition: Any) -> CompiledCondition:
    return compile_condition(condition, where=WHERE)


# --- in Lua ---


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("task.ready", True),
        ("task.ready == true", True),
        ("task.input == 'data' and task.type == 'processing'", True),
        ("task.status == 'waiting' and task.error == nil", True),
        ("task.objective:find('data', 1, true) == 9 and #task.id == 36", True),
        ("task.missing", False),
        ("score > 0.5 and #items < 3", True),
        ("score > 0.5 and #items > 3", False),
        ("cache['some:key'].done", True),
        ("missing == nil", True),
        ("for _, item in ipairs(items) do if item == 'b' then return true end end return false", True),
    ],
)
async def test_conditions_see_the_cache_and_the_task(cache: MemoryCache, source: str, expected: bool) -> None:
    """Names are keys of the cache; fields of the task are its params and its own."""
    await cache.set_many({"score": 0.7, "items": ["a", "b"], "some:key": {"done": True}})
    task = Task(type="processing", objective="Process data", params={"input": "data", "ready": True})
    assert await compiled(source).holds(cache, task) is expected


async def test_a_condition_follows_what_changes(cache: MemoryCache) -> None:
    """Each evaluation sees the values that there are then."""
    condition, task = compiled("count == 2 and task.status == 'executing'"), Task(type="t", objective="o")
    seen = []
    for count in range(4):
        await cache.set("count", count)
        if count == 2:
            task.status = TaskStatus.EXECUTING
        seen.append(await condition.holds(cache, task))
    assert seen == [False, False, True, False]


async def test_names_are_looked_up_in_the_present_namespace(cache: MemoryCache) -> None:
    """A key of another namespace is not seen."""
    condition = compiled("ready")
    async with cache.with_prefix("a"):
        await cache.set("ready", True)
        assert await condition.holds(cache, None) is True
    assert await condition.holds(cache, None) is False


class CountingCache(MemoryCache):
    """Counts the round trips."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    async def get_many(self, keys: Iterable[str], raw: bool = False) -> dict[str, Any]:
        self.asked.append(sorted(keys))
        return await super().get_many(keys, raw)


async def test_all_values_come_in_one_round_trip() -> None:
    """A condition asks once for all that it reads, and not at all where it reads the task alone."""
    async with CountingCache() as cache:
        await compiled("a or b and b.c or cache['d:e'] or task.f").holds(cache, {})
        await compiled("task.f").holds(cache, {})
        assert cache.asked == [["a", "b", "d:e"]]


def test_a_condition_tells_what_it_is() -> None:
    """The source, and the keys that it may read."""
    condition = compiled("task.ready and score > cache['the:limit']")
    assert condition.source == "task.ready and score > cache['the:limit']"
    assert condition.names == {"score", "the:limit"}
    assert repr(condition) == f"<{WHERE}: {condition.source}>"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("score >", "cannot be used: line 1: unexpected symbol near <eof>: score >"),
        ("ready = true", "cannot be used: line 1: <eof> expected near '=': ready = true"),
        ("", "cannot be used: it is empty"),
        ("x" * 300 + "(", f"cannot be used: line 1: unexpected symbol near <eof>: {'x' * 200}..."),
        (None, "is None; give a text in Lua, or a function of cache and task"),
        (b"true", "is b'true'; give a text in Lua, or a function of cache and task"),
        (1, "is 1; give a text in Lua, or a function of cache and task"),
    ],
)
def test_what_is_no_condition_is_refused_at_once(condition: Any, message: str) -> None:
    """A condition that cannot work is an error when the graph is built, and the error says where and why."""
    with pytest.raises(ConditionError) as raised:
        compiled(condition)
    assert str(raised.value).startswith(f"{WHERE} {message}")
    assert isinstance(raised.value, GraphError)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("score > 0.5", "line 1: attempt to compare number with nil; there is no score"),
        ("score + 1", "line 1: attempt to perform arithmetic on a nil value (global 'score')"),
        ("while true do end return 1", "it takes more than 200000 steps"),
        ("task.handle", "task.handle: object objects cannot be given to Lua"),
        ("#items.list == 1", "line 1: attempt to get length of a nil value (field 'list')"),
    ],
)
async def test_what_goes_wrong_names_condition_place_and_reason(cache: MemoryCache, source: str, why: str) -> None:
    """An error of an evaluation says which condition it is, where, and what is the matter."""
    await cache.set("items", {"lists": []})
    with pytest.raises(ConditionError) as raised:
        await compiled(source).holds(cache, {"handle": object()})
    message = str(raised.value)
    assert message.startswith(f"{WHERE} failed: {why}")
    assert message.endswith(f": {source}")


async def test_an_error_of_the_cache_comes_as_it_is(cache: MemoryCache) -> None:
    """What the cache raises arrives with a note that says for what it was read."""
    await cache.set_bytes("broken", b"no value")
    with pytest.raises(Exception, match="no value") as raised:
        await compiled("broken").holds(cache, None)
    assert not isinstance(raised.value, ConditionError)
    assert raised.value.__notes__ == [f"in {WHERE}"]


async def test_without_lupa_functions_work_and_texts_say_what_is_missing(
    cache: MemoryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra a text is refused when the graph is built, with the way to install it."""
    for version in ("lua53", "lua54", "lua55"):
        monkeypatch.setitem(sys.modules, f"lupa.{version}", None)
    with pytest.raises(ConditionError) as raised:
        compiled("true")
    assert 'pip install "miniagents[lua]"; a Python function works without it' in str(raised.value)
    assert await compiled(lambda cache, task: True).holds(cache, None)


def test_lua_is_loaded_by_the_first_text_only() -> None:
    """Graphs without conditions in Lua do not pay for it."""
    script = """
import sys
from miniagents.ext.graph.conditions import compile_condition
compile_condition(lambda cache, task: True, where="here")
assert not any(name.startswith("lupa") for name in sys.modules)
compile_condition("true", where="here")
assert "lupa.lua54" in sys.modules and "lupa.luajit21" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


# --- in Python ---


def sync_condition(cache: Any, task: Any) -> bool:
    return bool(task["ready"])


async def async_condition(cache: MemoryCache, task: Any) -> bool:
    return bool(await cache.get("score") > task["least"])


class ObjectCondition:
    def __call__(self, cache: Any, task: Any) -> list[int]:
        return [1] if task["ready"] else []


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        (sync_condition, "sync_condition"),
        (async_condition, "async_condition"),
        (ObjectCondition(), "ObjectCondition"),
        (partial(lambda ready, cache, task: task[ready], "ready"), "partial"),
        (lambda cache, task: task["ready"], "<lambda>"),
    ],
)
async def test_a_function_gets_cache_and_task(cache: MemoryCache, condition: Condition, name: str) -> None:
    """A function is sync or async, and its result counts as true or not."""
    await cache.set("score", 0.7)
    function = compiled(condition)
    assert await function.holds(cache, {"ready": 1, "least": 0.5}) is True
    assert await function.holds(cache, {"ready": 0, "least": 0.9}) is False
    assert function.source == name
    assert function.names == frozenset()


async def failing(cache: Any, task: Any) -> bool:
    raise LookupError("nothing there")


def failing_at_once(cache: Any, task: Any) -> bool:
    raise LookupError("nothing there")


@pytest.mark.parametrize("function", [failing, failing_at_once])
async def test_an_error_of_a_function_comes_as_it_is(cache: MemoryCache, function: Callable[..., Any]) -> None:
    """What a function raises arrives as itself, with a note that says where."""
    with pytest.raises(LookupError, match="nothing there") as raised:
        await compiled(function).holds(cache, None)
    assert raised.value.__notes__ == [f"in {WHERE}"]


async def test_a_cancelled_condition_is_cancelled(cache: MemoryCache) -> None:
    """Cancelling reaches the function, and nothing else comes of it."""
    ended = []

    async def waiting(cache: Any, task: Any) -> bool:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return True

    evaluation = asyncio.create_task(compiled(waiting).holds(cache, None))
    await asyncio.sleep(0)
    evaluation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await evaluation
    assert ended == [True]
