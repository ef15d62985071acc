"""Copies of values, so that nobody changes what others have."""

import dataclasses
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from typing import Any

from pydantic import BaseModel

from miniagents.ext.values import is_immutable

__all__ = ["detached", "is_same"]


def detached(value: Any) -> Any:
    """Copies what is data: containers, dataclasses and pydantic models, and what is in them.

    Args:
        value: Anything.

    Returns:
        The copy; the value itself where nobody can change it. Other objects, such as clients or files, stay the same.
    """
    return value if is_immutable(value) else _copy(value, {})


def is_same(copied: Any, original: Any) -> bool:
    """Whether a copy is still what it was copied from."""
    if copied is original:
        return True
    try:
        return bool(copied == original)
    except Exception:  # objects of others, which cannot be compared; nothing says that they were changed
        return True


def _copy(value: Any, known: dict[int, Any]) -> Any:
    made = known.get(id(value))
    if made is not None:
        return made
    copier = _COPIERS.get(type(value))
    if copier is not None:
        return copier(value, known)
    if isinstance(value, BaseModel):
        return _copy_fields(value, value.__dict__, known)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return _copy_fields(value, {name: getattr(value, name) for name in names if hasattr(value, name)}, known)
    return value


def _copy_list(value: list[Any], known: dict[int, Any]) -> list[Any]:
    made: list[Any] = []
    known[id(value)] = made
    made += [item if type(item) in _PLAIN else _copy(item, known) for item in value]
    return made


def _copy_dict(value: dict[Any, Any], known: dict[int, Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    known[id(value)] = made
    for key, item in value.items():
        made[key] = item if type(item) in _PLAIN else _copy(item, known)
    return made


def _copy_fields(value: Any, fields: Mapping[str, Any], known: dict[int, Any]) -> Any:
    if is_immutable(value):
        return value
    made = copy(value)
    known[id(value)] = made
    for name, item in fields.items():
        if type(item) not in _PLAIN:
            object.__setattr__(made, name, _copy(item, known))
    return made


def _copy_all(value: Any, _: dict[int, Any]) -> Any:
    try:
        return deepcopy(value)
    except Exception:  # something in it cannot be copied
        return value


_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
_COPIERS: dict[type, Callable[[Any, dict[int, Any]], Any]] = {
    list: _copy_list,
    dict: _copy_dict,
    tuple: lambda value, known: tuple([_copy(item, known) for item in value]),
    set: lambda value, _: set(value),
    bytearray: lambda value, _: bytearray(value),
    **dict.fromkeys((Counter, OrderedDict, defaultdict, deque), _copy_all),
}
