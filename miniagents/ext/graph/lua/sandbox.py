"""The sandbox: one Lua state for each script and each time that it runs, thrown away afterwards.

`sandbox.lua` says what a script can reach. Here is what Lua itself has to be told: no way to objects of Python, and so
much memory. A script runs in the thread of the event loop, as it takes some 50 microseconds, and a tenth of a second at
the worst.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from miniagents.ext.graph.lua.copying import Copier
from miniagents.ext.graph.lua.errors import LuaProblem

__all__ = ["MAX_MEMORY", "MAX_SECONDS", "MAX_STEPS", "check_syntax", "lua_module", "run", "text_of"]

MAX_STEPS = 200_000
"""How many instructions a script may take, those that look at the limits included; that is some milliseconds."""
MAX_SECONDS = 0.1
"""How much time of the processor may pass meanwhile, in the whole process: single instructions can move megabytes."""
MAX_MEMORY = 4_000_000
"""How many bytes a script may use, beside the values that it was given."""

_VERSIONS = ("lua54", "lua55", "lua53")  # never LuaJIT: it has other hooks, and no limit of memory


def lua_module() -> Any:
    """Imports Lua 5.4, or 5.5 or 5.3 where lupa was built with these alone.

    Raises:
        LuaProblem: There is no lupa.
    """
    for version in _VERSIONS:
        try:
            return import_module(f"lupa.{version}")
        except ImportError:
            continue
    raise LuaProblem('Lua needs the package lupa: pip install "miniagents[lua]"; a Python function works without it')


def check_syntax(code: bytes) -> None:
    """Raises a LuaProblem with the message of the compiler where the code does not compile."""
    lua = lua_module()
    try:
        _new_runtime(lua).compile(code, name="=line", mode="t")
    except lua.LuaError as error:
        raise LuaProblem(_readable(error.args[0])) from None


def text_of(literal: str) -> str:
    """Gives the text that a literal of a script stands for."""
    value: bytes = _new_runtime(lua_module()).eval(literal.encode("utf-8", "surrogatepass"), mode="t")
    try:
        return value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise LuaProblem(f"{literal} is no text, as keys are") from None


def run(code: bytes, world: Mapping[str, Any]) -> bool:
    """Runs a script.

    Args:
        code: The script, as Lua takes it.
        world: The values of the names that it reads.

    Returns:
        Whether it has returned something that is neither nil nor false.

    Raises:
        LuaProblem: It has raised an error or reached a limit, or a value has no counterpart in Lua.
    """
    lua = lua_module()
    runtime = _new_runtime(lua)
    copier = Copier(runtime)
    environment = copier.copy(world)
    holed, sizes = runtime.table_from(copier.holed), runtime.table_from(copier.sizes)
    runtime.set_max_memory(runtime.get_memory_used() + MAX_MEMORY)
    try:
        outcome = runtime.execute(_sandbox(lua), code, environment, holed, sizes, MAX_STEPS, MAX_SECONDS)
    except lua.LuaError as error:
        outcome = None, str(error).encode()
    if isinstance(outcome, bool):
        return outcome
    raise LuaProblem(_readable(outcome[1]))


def _new_runtime(lua: Any) -> Any:
    return lua.LuaRuntime(
        encoding=None,
        attribute_handlers=(_refuse, _refuse),
        register_eval=False,
        register_builtins=False,
        max_memory=0,  # none so far, but it can be set
    )


def _refuse(*_: Any) -> NoReturn:
    raise AttributeError("Lua has no access to Python here")


@cache
def _sandbox(lua: Any) -> bytes:
    """The sandbox, compiled: that takes as long as all the rest of a run."""
    runtime = _new_runtime(lua)
    function = runtime.compile(Path(__file__).with_name("sandbox.lua").read_bytes(), name="=sandbox", mode="t")
    dumped: bytes = runtime.eval("string.dump")(function)
    return dumped


def _readable(problem: bytes) -> str:
    text = problem.decode("utf-8", "replace")
    if "not enough memory" in text:
        return f"it uses more than {MAX_MEMORY} bytes"
    return re.sub(r"^sandbox:\d+: ", "", re.sub(r"^line:", "line ", text[:500]))
