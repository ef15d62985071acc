"""Conditions: whether a node runs, or a decision is taken. A text in Lua, or a function."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeAlias

from miniagents.ext.graph.errors import GraphError

if TYPE_CHECKING:
    from miniagents.ext.cache.interface import Cache

__all__ = ["CompiledCondition", "Condition", "ConditionError", "compile_condition"]

Condition: TypeAlias = "str | Callable[[Cache, Any], bool | Awaitable[bool]]"
"""A text in Lua, or a function of the cache and the task; see `compile_condition`."""


class ConditionError(GraphError):
    """A condition does not compile, or could not be evaluated. The message says which one, where, and why."""


class CompiledCondition(ABC):
    """A condition that has been checked, see `compile_condition`.

    Attributes:
        source: Its text, or the qualified name of the function.
        names: The keys of the cache that a text in Lua may read; names of its local variables may be among them. Empty
            for functions.
    """

    __slots__ = ("_where", "names", "source")

    def __init__(self, source: str, names: frozenset[str], where: str) -> None:
        self.source = source
        self.names = names
        self._where = where

    async def holds(self, cache: "Cache", task: Any) -> bool:
        """Evaluates it.

        Args:
            cache: The cache, in whose present namespace names are looked up.
            task: The task.

        Returns:
            Whether it is true: for Lua, anything but `nil` and `false`; for a function, what is true in Python.

        Raises:
            ConditionError: Lua has raised an error or reached a limit, or a value has no counterpart in Lua.
            Exception: What the function, or the cache, has raised, with a note that says where.
        """
        try:
            return await self._evaluate(cache, task)
        except ConditionError:
            raise
        except Exception as error:
            error.add_note(f"in {self._where}")
            raise

    @abstractmethod
    async def _evaluate(self, cache: "Cache", task: Any) -> bool:
        """Evaluates it; `holds` tells where, if it fails."""

    def __repr__(self) -> str:
        return f"<{self._where}: {self.source}>"


def compile_condition(condition: Condition, *, where: str) -> CompiledCondition:
    """Checks a condition, and makes it ready to be evaluated any number of times.

    A text is Lua: an expression, or a chunk with `return`; only nil and false are not true. Names in it are keys of the
    cache, and nil where there is no such key; `cache["some:key"]` reads a key that is no name. `task.x` is `x` in the
    `params` of the task, or else its field. All values are copies: mappings, models and dataclasses are tables, lists
    are tables from 1 on, enum members are their values, dates and UUIDs are texts, None is nil.

    It runs in a sandbox, in a state of its own each time: without io, os, require, load, debug, coroutines, pcall,
    metatables and patterns (`find` looks for plain text), and with limits for its steps and its memory.

    Args:
        condition: A text in Lua, or a function of the cache and the task, sync or async, whose result is taken as true
            or not.
        where: What it belongs to, for error messages: "the condition of node 'executor'".

    Returns:
        The compiled condition.

    Raises:
        ConditionError: The text does not compile, or there is no lupa to compile it; or it is neither a text nor a
            function.

    Example:
        ```python
        ready = compile_condition("task.ready == true and #items < 3", where="the condition of node 'executor'")
        if await ready.holds(cache, task):
            ...
        ```
    """
    if isinstance(condition, str):
        return _LuaCondition(condition, where)
    if callable(condition):
        return _FunctionCondition(condition, where)
    raise ConditionError(f"{where} is {condition!r:.100}; give a text in Lua, or a function of cache and task")


class _FunctionCondition(CompiledCondition):
    __slots__ = ("_function",)

    def __init__(self, function: Callable[["Cache", Any], Any], where: str) -> None:
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        super().__init__(name, frozenset(), where)
        self._function = function

    async def _evaluate(self, cache: "Cache", task: Any) -> bool:
        outcome = self._function(cache, task)
        return bool(await outcome if isawaitable(outcome) else outcome)


class _LuaCondition(CompiledCondition):
    __slots__ = ("_script",)

    def __init__(self, source: str, where: str) -> None:
        from miniagents.ext.graph.lua import LuaProblem, Script

        try:
            self._script = Script(source)
        except LuaProblem as problem:
            raise ConditionError(f"{where} cannot be used: {problem}{_quoted(source)}") from None
        super().__init__(source, self._script.keys, where)

    async def _evaluate(self, cache: "Cache", task: Any) -> bool:
        from miniagents.ext.graph.lua import LuaProblem

        cached = await cache.get_many(self.names) if self.names else {}
        try:
            return self._script.run(cached, task)
        except LuaProblem as problem:
            raise ConditionError(f"{self._where} failed: {problem}{_quoted(self.source)}") from None


def _quoted(source: str) -> str:
    return f": {source}" if len(source) <= 200 else f": {source[:200]}..."
