"""Objects that are immutable all the way down, and known by the hash of their content."""

import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar, NoReturn, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from miniagents.canonical import canonical_json, sha256_hex

__all__ = ["ATOMS", "Frozen", "FrozenDict", "FrozenSetOfNames", "freeze"]

FrozenT = TypeVar("FrozenT", bound="Frozen")

ATOMS = frozenset({str, int, bool, type(None)})
"""The types whose objects are frozen as they are; looked at before anything else, because most values are of them."""
_IMMUTABLE = (bytes, datetime, date, UUID, Enum)
_CACHED = "_hash_key"


class FrozenDict(dict[str, Any]):
    """An immutable dict; it equals the dict of its items. Make a dict of it to change something: `{**frozen, ...}`."""

    __slots__ = ()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("this mapping is part of a frozen object; make a new one with what you need: {**mapping, ...}")

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted(self.items(), key=lambda item: item[0])))

    def __reduce__(self) -> Any:
        return FrozenDict, (dict(self),)

    def __copy__(self) -> "FrozenDict":
        return self

    def __deepcopy__(self, _: Any) -> "FrozenDict":
        return self


for _mutator in ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"):
    setattr(FrozenDict, _mutator, FrozenDict._refuse)


class FrozenSetOfNames(set[str]):
    """The names of the fields that were given: a set, as pydantic wants it, and shared, as nobody can change it."""

    __slots__ = ()


for _mutator in (
    "__iand__", "__ior__", "__isub__", "__ixor__", "add", "clear", "difference_update", "discard",
    "intersection_update", "pop", "remove", "symmetric_difference_update", "update",
):  # fmt: skip
    setattr(FrozenSetOfNames, _mutator, FrozenDict._refuse)


class _Refused(Exception):
    """Why a value cannot be frozen; the path to it grows on the way out."""

    def __init__(self, kind: type[Exception], reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.path = ""


def freeze(value: Any, path: str = "value") -> Any:
    """Makes a value immutable all the way down: lists become tuples, dicts immutable mappings.

    Args:
        value: JSON's types, bytes, datetime, date, UUID, Decimal, Enum, Frozen, and lists, tuples and dicts of them.
        path: What the value is called in an error.

    Returns:
        The frozen value; the very same object where it was frozen already.

    Raises:
        TypeError: A part of it is of another type; the message names the path to it.
        ValueError: A part is not a finite number, or the nesting is too deep (a list that contains itself, for
            example).
    """
    try:
        return _freeze(value)
    except _Refused as refused:
        raise refused.kind(f"{path}{refused.path}: {refused.reason}") from None
    except RecursionError:
        raise ValueError(f"{path}: it contains itself, or is nested too deeply to be frozen") from None


def _freeze(value: Any) -> Any:
    kind = type(value)
    if kind in ATOMS or kind is FrozenDict:
        return value
    if kind is dict:
        return _freeze_dict(value)
    if kind is list or kind is tuple:
        return _freeze_items(value)
    if kind is float:
        if not math.isfinite(value):
            raise _Refused(ValueError, f"{value} is not a number that JSON knows; use None or a string")
        return value
    if isinstance(value, (*_IMMUTABLE, Frozen)):
        return value
    return _freeze_unusual(value)


def _freeze_unusual(value: Any) -> Any:
    """Subclasses of what is allowed become what they are subclasses of; the rest is refused."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _freeze(float(value))
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise _Refused(ValueError, f"{value} is not a finite number; use None or a string")
        return value
    if isinstance(value, Mapping):
        return _freeze_dict(value)
    if isinstance(value, (list, tuple)):
        return _freeze_items(value)
    if isinstance(value, (set, frozenset)):
        raise _Refused(TypeError, f"a {type(value).__name__} has no order, so it cannot be hashed; use a list")
    if isinstance(value, BaseModel):
        raise _Refused(TypeError, f"{type(value).__name__} is a mutable model; derive it from Frozen, or dump it")
    raise _Refused(
        TypeError,
        f"{type(value).__name__} objects cannot be frozen; use JSON's types, bytes, datetime, date, UUID, Decimal, "
        "Enum, or a class derived from Frozen",
    )


def _freeze_items(items: Any) -> tuple[Any, ...]:
    try:
        return tuple([item if type(item) in ATOMS else _freeze(item) for item in items])
    except _Refused:
        for position, item in enumerate(items):  # once more, to find out where it was
            _freeze_part(item, f"[{position}]")
        raise


def _freeze_dict(items: Mapping[Any, Any]) -> FrozenDict:
    for key in items:
        if type(key) is not str:
            raise _Refused(TypeError, f"the key {key!r:.100} is no string; JSON has string keys only")
    try:
        return FrozenDict({key: item if type(item) in ATOMS else _freeze(item) for key, item in items.items()})
    except _Refused:
        for key, item in items.items():
            _freeze_part(item, f".{key}")
        raise


def _freeze_part(item: Any, step: str) -> None:
    try:
        _freeze(item)
    except _Refused as refused:
        refused.path = step + refused.path
        raise


class Frozen(BaseModel):
    """A pydantic model whose objects are immutable all the way down, and equal when their content is.

    Declared fields are validated by pydantic, further ones are kept as they are; then all of them are frozen: lists
    become tuples and dicts immutable mappings, whatever was declared. Allowed are JSON's types, bytes, datetime, date,
    UUID, Decimal, Enum and Frozen. Dumps to JSON write the non-JSON types as pydantic does, that is as strings; they
    come back as what they were only in fields that are declared.

    Attributes:
        hash_key_digits: How many hexadecimal digits of the sha256 make a hash key.

    Raises:
        TypeError: A value cannot be frozen, or a field has the name of a method.
        ValueError: A number is not finite; a declared field is not valid (pydantic's ValidationError).

    Example:
        ```python
        class Point(Frozen):
            xs: list[int]

        point = Point(xs=[1, 2], label="a")
        assert point.xs == (1, 2) and point == Point(label="a", xs=(1, 2))
        ```
    """

    model_config = ConfigDict(frozen=True, extra="allow", arbitrary_types_allowed=True)

    hash_key_digits: ClassVar[int] = 40
    _taken_names: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, **data: Any) -> None:
        self._check_names(data)
        super().__init__(**data)
        self._freeze_in_place()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Notes which names are taken by methods, and refuses a declared field that takes one of them."""
        super().__pydantic_init_subclass__(**kwargs)
        for name in cls.model_fields:
            if any(callable(getattr(base, name, None)) for base in cls.__mro__[1:] if base is not object):
                raise TypeError(f"the field {name!r} of {cls.__name__} has the name of a method; give it another name")
        type.__setattr__(cls, "_taken_names", frozenset(dir(cls)) - cls.model_fields.keys())

    @property
    def hash_key(self) -> str:
        """The address of this object: the first digits of the sha256 of its canonical JSON, class name included."""
        cached = self.__dict__.get(_CACHED)
        if cached is None:
            cached = sha256_hex(self.serialize())[: self.hash_key_digits]
            vars(self)[_CACHED] = cached
        key: str = cached
        return key

    def serialize(self) -> str:
        """Writes the object as canonical JSON, in which nested frozen objects are replaced by their hash keys.

        Returns:
            The text whose hash is `hash_key`; see `miniagents.canonical`.
        """
        return canonical_json(self._content(), type(self).__name__)

    def iter_nested(self) -> "Iterator[Frozen]":
        """The frozen objects inside this one, each after those inside of it: the order in which to store them."""
        for value in (*self.__dict__.values(), *(self.__pydantic_extra__ or {}).values()):
            if type(value) not in ATOMS:
                yield from _nested_in(value)

    def model_copy(self: FrozenT, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> FrozenT:
        """Makes a copy with some fields replaced; they are validated and frozen like those of a new object.

        Args:
            update: The fields to replace.
            deep: Of no importance, since nothing can be changed.

        Returns:
            The copy.
        """
        given = {name: value for name, value in self if name in self.model_fields_set}
        return type(self)(**{**given, **(update or {})})

    @classmethod
    def model_construct(cls: type[FrozenT], _fields_set: set[str] | None = None, **values: Any) -> FrozenT:
        """Makes an object without validation. It is frozen all the same.

        Args:
            _fields_set: See pydantic.
            **values: The fields.

        Returns:
            The object.
        """
        cls._check_names(values)
        made = super().model_construct(_fields_set, **values)
        made._freeze_in_place()
        return made

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """See pydantic. A tuple in a field that was declared as a list is no reason for a warning here."""
        return super().model_dump(**{"warnings": False, **options})

    def model_dump_json(self, **options: Any) -> str:
        """See pydantic. A tuple in a field that was declared as a list is no reason for a warning here."""
        return super().model_dump_json(**{"warnings": False, **options})

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other) or not isinstance(other, Frozen):
            return NotImplemented
        return self.hash_key == other.hash_key

    def __hash__(self) -> int:
        return hash(self.hash_key)

    def __str__(self) -> str:
        return self.model_dump_json(exclude_unset=True)

    def __repr_args__(self) -> Any:
        given = self.model_fields_set
        return [(name, value) for name, value in self if name in given]

    def __copy__(self: FrozenT) -> FrozenT:
        return self

    def __deepcopy__(self: FrozenT, memo: dict[int, Any] | None = None) -> FrozenT:
        return self

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        if _CACHED in state["__dict__"]:
            state["__dict__"] = {name: value for name, value in state["__dict__"].items() if name != _CACHED}
        return state

    def _content(self) -> dict[str, Any]:
        content = {**self.__dict__, **(self.__pydantic_extra__ or {})}
        content.pop(_CACHED, None)
        return content

    @classmethod
    def _check_names(cls, names: Any) -> None:
        if not cls._taken_names.isdisjoint(names):
            taken = ", ".join(sorted(cls._taken_names.intersection(names)))
            raise TypeError(f"{cls.__name__} has methods of the name {taken}; give the field another name")

    def _freeze_in_place(self) -> None:
        name = type(self).__name__
        fields = vars(self)
        for key, value in fields.items():
            if type(value) not in ATOMS:
                fields[key] = freeze(value, f"{name}.{key}")
        extra = self.__pydantic_extra__
        if type(extra) is not FrozenDict:
            object.__setattr__(self, "__pydantic_extra__", freeze(extra or {}, name))


def _nested_in(value: Any) -> Iterator[Frozen]:
    if isinstance(value, Frozen):
        yield from value.iter_nested()
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _nested_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _nested_in(item)
