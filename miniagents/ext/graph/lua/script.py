"""Scripts: texts in Lua that have been checked, and can be run."""

import re
from collections.abc import Mapping, Set
from typing import Any

from miniagents.ext.graph.lua.copying import fields_of
from miniagents.ext.graph.lua.errors import LuaProblem, UnfitValue
from miniagents.ext.graph.lua.reading import names_in, tokens_of
from miniagents.ext.graph.lua.sandbox import check_syntax, run, text_of

__all__ = ["MAX_SOURCE", "Script"]

MAX_SOURCE = 20_000
"""How many characters a script may have. It is compiled each time that it runs."""


class Script:
    """A script in Lua: an expression, or a chunk with `return`.

    Args:
        source: The text.

    Attributes:
        keys: The keys of the cache that it may read; names of its local variables may be among them.

    Raises:
        LuaProblem: It does not compile, or reads what there is not.
    """

    __slots__ = ("_code", "_names", "keys")

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise LuaProblem(f"it has {len(source)} characters, of which {MAX_SOURCE} are allowed")
        self._code = _code_of(source)
        tokens = tokens_of(source)
        if not tokens:
            raise LuaProblem("it is empty")
        self._names = names_in(tokens, text_of)
        self.keys = self._names.keys.union(self._names.fields.keys() - {"task"})

    def run(self, cached: Mapping[str, Any], task: Any) -> bool:
        """Runs it.

        Args:
            cached: Values of the cache, those of `keys` among them; what is missing is nil.
            task: The task: a mapping, model or dataclass, or None.

        Returns:
            Whether it has returned something that is neither nil nor false.

        Raises:
            LuaProblem: It has raised an error or reached a limit, or a value has no counterpart in Lua.
        """
        world = {name: _part_of(cached[name], fields) for name, fields in self._names.fields.items() if name in cached}
        if self._names.keys:
            world["cache"] = {key: cached[key] for key in self._names.keys if key in cached}
        if "task" in self._names.fields:
            world["task"] = _part_of(_view_of(task), self._names.fields["task"])
        try:
            return run(self._code, world)
        except LuaProblem as problem:
            missing = self._missing(world)
            if not missing or "with nil" not in str(problem):
                raise
            # When nil is compared Lua does not say what is nil.
            raise LuaProblem(f"{problem}; there is no {', '.join(missing)}") from None

    def _missing(self, world: Mapping[str, Any]) -> list[str]:
        """What the script may read and there is not, for people."""
        found = fields_of(world.get("cache")) or {}
        missing = [f"cache[{key!r}]" for key in self._names.keys if found.get(key) is None]
        for name, fields in self._names.fields.items():
            if world.get(name) is None:
                missing.append(name)
            elif fields:
                found = fields_of(world[name]) or {}
                missing += [f"{name}.{field}" for field in fields if found.get(field) is None]
        return sorted(missing)[:10]


def _code_of(source: str) -> bytes:
    """What Lua is given: `return` before an expression, a chunk as it is."""
    chunk = source.encode("utf-8", "surrogatepass")
    expression = b"return " + chunk
    try:
        check_syntax(expression)
    except LuaProblem as problem:
        if not re.search(r"\breturn\b", source):  # such as `x = 1` where `x == 1` was meant
            raise problem
        check_syntax(chunk)
        return chunk
    return expression


def _view_of(task: Any) -> Mapping[Any, Any] | None:
    """What a script sees as `task`: the fields of the task, and before them what is in its `params`."""
    if task is None:
        return None
    content = fields_of(task)
    if content is None:
        kind = type(task).__qualname__
        raise UnfitValue(f"{kind} objects are no tasks; give a mapping, model or dataclass").within("task")
    params = content.get("params")
    return {**content, **params} if isinstance(params, Mapping) else content


def _part_of(value: Any, wanted: Set[str] | None) -> Any:
    """As much of a value as is read: the rest may be large, or nothing for Lua."""
    content = None if wanted is None else fields_of(value)
    if wanted is None or content is None or any(type(key) is not str for key in content):
        return value
    return {name: content[name] for name in wanted if name in content}
