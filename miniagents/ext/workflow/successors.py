"""Which states a state can name, as far as its source says so."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["possible_successors"]

_known: "WeakKeyDictionary[CodeType, frozenset[str] | None]" = WeakKeyDictionary()


def possible_successors(function: Callable[..., Any]) -> frozenset[str] | None:
    """Reads out of the source of a state which states it can name.

    Args:
        function: The function of the state.

    Returns:
        The names, if each of its `return`s gives constants only; None where that cannot be seen.
    """
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or hasattr(function, "__wrapped__"):  # a wrapper may return something else
        return None
    if code not in _known:  # functions that are made in a loop share their code
        _known[code] = _read(function)
    return _known[code]


def _read(function: Callable[..., Any]) -> frozenset[str] | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    definition = tree.body[0]
    if not isinstance(definition, ast.AsyncFunctionDef) or definition.name != function.__name__:
        return None
    names: set[str] = set()
    pending: list[ast.AST] = list(definition.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            continue  # what is returned in there is not what the state returns
        if isinstance(node, ast.Return) and node.value is not None:
            named = _constants(node.value)
            if named is None:
                return None
            names |= named
        pending.extend(ast.iter_child_nodes(node))
    return frozenset(names)


def _constants(value: ast.expr) -> set[str] | None:
    if isinstance(value, ast.Constant):
        return {value.value} if isinstance(value.value, str) else set()
    if isinstance(value, (ast.List, ast.Tuple)):
        return _all_of(value.elts)
    if isinstance(value, ast.IfExp):
        return _all_of([value.body, value.orelse])
    return None


def _all_of(values: list[ast.expr]) -> set[str] | None:
    names: set[str] = set()
    for value in values:
        found = _constants(value)
        if found is None:
            return None
        names |= found
    return names
