"""Copies of values, so that nobody changes what others have."""

import dataclasses
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import lru_cache
from itertools import chain
from operator import is_
from typing import Any

from pydantic import BaseModel

from miniagents.ext.values import is_immutable
from miniagents.ext.values.atoms import ATOMS
from miniagents.frozen import FrozenDict
from promising.sentinels import NO_VALUE

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
    """Whether a copy is still what it was copied from.

    Not by `==`, which a class may define as it likes, and for which `1` is `True`: what `detached` copies is compared
    part by part, in order, types included, and objects that it does not copy have to be the same objects.

    Args:
        copied: The copy.
        original: What it was copied from.

    Returns:
        Whether nothing in the copy was changed. Sets are compared by `==`, and NaN is the same as NaN.
    """
    return _is_same(copied, original, {})


def _copy(value: Any, known: dict[int, Any]) -> Any:
    made = known.get(id(value))
    if made is not None:
        return made
    copier = _COPIERS.get(type(value))
    if copier is not None:
        return copier(value, known)
    if isinstance(value, BaseModel):
        return _copy_model(value, known)
    if _is_dataclass_object(value):
        there = {name: getattr(value, name) for name in _names_of(value) if hasattr(value, name)}
        return _copy_fields(value, there, known)
    return value


def _copy_list(value: list[Any], known: dict[int, Any]) -> list[Any]:
    made: list[Any] = []
    known[id(value)] = made
    made += [item if type(item) in _PLAIN else _copy(item, known) for item in value]
    return made


def _copy_tuple(value: tuple[Any, ...], known: dict[int, Any]) -> tuple[Any, ...]:
    made = tuple([item if type(item) in _PLAIN else _copy(item, known) for item in value])
    return value if all(map(is_, made, value)) else made


def _copy_deque(value: deque[Any], known: dict[int, Any]) -> deque[Any]:
    made: deque[Any] = deque(maxlen=value.maxlen)
    known[id(value)] = made
    made.extend([_copy(item, known) for item in value])
    return made


def _copy_dict(value: dict[Any, Any], known: dict[int, Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    known[id(value)] = made
    for key, item in value.items():
        made[key] = item if type(item) in _PLAIN else _copy(item, known)
    return made


def _copy_special_dict(value: Any, known: dict[int, Any]) -> Any:
    made = value.copy()  # what is special about it included
    known[id(value)] = made
    _copy_items(made, known)
    return made


def _copy_items(made: dict[Any, Any], known: dict[int, Any]) -> None:
    """Puts copies in the place of the items of a dict that is itself a copy."""
    for key, item in made.items():
        if type(item) not in _PLAIN:
            made[key] = _copy(item, known)


def _copy_fields(value: Any, fields: Mapping[str, Any], known: dict[int, Any]) -> Any:
    if is_immutable(value):
        return value
    made = copy(value)
    known[id(value)] = made
    for name, item in fields.items():
        if type(item) not in _PLAIN:
            object.__setattr__(made, name, _copy(item, known))
    return made


def _copy_model(value: BaseModel, known: dict[int, Any]) -> Any:
    made = _copy_fields(value, value.__dict__, known)
    if made is not value:
        for further in (made.__pydantic_extra__, made.__pydantic_private__):
            if type(further) is dict:  # not those of frozen models
                _copy_items(further, known)
    return made


_Pairs = dict[tuple[int, int], tuple[Any, Any]]
"""What is being compared, or was and is the same, by the ids: so that rings end."""


def _is_same(copied: Any, original: Any, known: _Pairs) -> bool:
    if copied is original:
        return True
    kind = type(copied)
    if kind is not type(original):
        return False
    compare = _COMPARERS.get(kind)
    if compare is not None:
        return compare(copied, original, known)
    parts = _parts(copied)
    return parts is not None and _are_same(copied, original, zip(parts, _parts(original) or (), strict=True), known)


def _are_same(copied: Any, original: Any, parts: Iterable[tuple[Any, Any]], known: _Pairs) -> bool:
    """Compares the parts of two values, of which there are as many in one as in the other."""
    pair = id(copied), id(original)
    if pair not in known:
        known[pair] = copied, original  # they are kept, so that no other object gets such an id
        for part, other in parts:
            if part is not other and not _is_same(part, other, known):
                return False
    return True


def _parts(value: Any) -> list[Any] | None:
    """What a dataclass or model consists of; None for other objects."""
    if isinstance(value, BaseModel):
        fields = [value.__dict__.get(name, NO_VALUE) for name in type(value).__pydantic_fields__]
        return [*fields, value.__pydantic_extra__, value.__pydantic_private__, {*value.__pydantic_fields_set__}]
    if _is_dataclass_object(value):
        return [getattr(value, name, NO_VALUE) for name in _names_of(value)]
    return None


def _is_dataclass_object(value: Any) -> bool:
    return hasattr(type(value), "__dataclass_fields__")


def _names_of(value: Any) -> tuple[str, ...]:
    cls: Any = type(value)
    return _names_in(cls)


@lru_cache(maxsize=1024)
def _names_in(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


def _same_items(copied: Any, original: Any, known: _Pairs) -> bool:
    if len(copied) != len(original):
        return False
    return all(map(is_, copied, original)) or _are_same(copied, original, zip(copied, original, strict=True), known)


def _same_dict(copied: Any, original: Any, known: _Pairs) -> bool:
    if len(copied) != len(original):
        return False
    if all(map(is_, copied, original)) and all(map(is_, copied.values(), original.values())):
        return True
    parts = zip(chain(copied, copied.values()), chain(original, original.values()), strict=True)
    return _are_same(copied, original, parts, known)


def _same_defaultdict(copied: Any, original: Any, known: _Pairs) -> bool:
    return copied.default_factory is original.default_factory and _same_dict(copied, original, known)


def _by_repr(copied: Any, original: Any, _: _Pairs) -> bool:
    """Which is exact: for `==` noon in London is one o'clock in Paris, -0.0 is 0.0, and NaN is not NaN."""
    return repr(copied) == repr(original)


def _by_equality(copied: Any, original: Any, _: _Pairs) -> bool:
    return bool(copied == original)


_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
_COPIERS: dict[type, Callable[[Any, dict[int, Any]], Any]] = {
    list: _copy_list,
    dict: _copy_dict,
    tuple: _copy_tuple,
    deque: _copy_deque,
    set: lambda value, _: set(value),
    bytearray: lambda value, _: bytearray(value),
    **dict.fromkeys((Counter, OrderedDict, defaultdict), _copy_special_dict),
}
_COMPARERS: dict[type, Callable[[Any, Any, _Pairs], bool]] = {
    **dict.fromkeys((*ATOMS, float), _by_repr),
    **dict.fromkeys((str, int, bool, bytes, bytearray, set, frozenset), _by_equality),
    **dict.fromkeys((list, tuple, deque), _same_items),
    **dict.fromkeys((dict, FrozenDict, Counter, OrderedDict), _same_dict),
    defaultdict: _same_defaultdict,
}
