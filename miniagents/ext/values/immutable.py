"""Which values nobody can change, so that they need no copy."""

from enum import Enum
from typing import Any

from miniagents.ext.values.atoms import ATOMS
from miniagents.frozen import Frozen, FrozenDict

__all__ = ["is_immutable"]

_IMMUTABLE = frozenset({*ATOMS, str, int, float, bool, type(None)})


def is_immutable(value: Any) -> bool:
    """Whether nothing in a value can be changed, so that it may be shared.

    Args:
        value: A value that can be written.

    Returns:
        True for strings, numbers and the like, for enums and messages, and for tuples and frozen sets of these.
    """
    kind = type(value)
    if kind in _IMMUTABLE:
        return True
    if kind is tuple or kind is frozenset:
        return all(map(is_immutable, value))
    if kind is FrozenDict:
        return all(map(is_immutable, value.values()))
    if isinstance(value, Frozen):
        return not kind.__private_attributes__  # they are no content, and may be changed
    return isinstance(value, Enum)
