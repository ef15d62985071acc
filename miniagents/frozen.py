"""Objects that are immutable all the way down, and known by the hash of their content."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core.core_schema import (
    no_info_after_validator_function,
    tuple_variable_schema,
    wrap_serializer_function_ser_schema,
)

from miniagents.canonical import canonical_json, sha256_hex

__all__ = ["ATOMS", "Frozen", "FrozenDict", "FrozenSetOfNames", "freeze"]

FrozenT = TypeVar("FrozenT", bound="Frozen")

ATOMS = frozenset({str, bool, type(None)})
"""The types whose objects are frozen as they are; looked at before anything else, because most values are of them."""
new_dict: Any = dict.__new__
fill_dict: Any = dict.update
"""With `new_dict`, how to make a `FrozenDict` of what is known to be frozen."""
_LEAVES = ATOMS | {int, float}
_MUTABLE = frozenset({list, dict, set})
_CACHED = "_hash_key"
_HUGE = 10**4300  # Python itself refuses to write, and to read, integers of more digits


class FrozenDict(dict[str, Any]):
    """An immutable dict; it equals the dict of its items. Make a dict of it to change something: `{**frozen, ...}`."""

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> "FrozenDict":
        """Makes one of what a dict can be made of, and freezes that."""
        made: FrozenDict = new_dict(cls)
        fill_dict(made, freeze(dict(*args, **kwargs)))
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        """Does nothing: that of a dict would add items, each time that it is called."""

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

    def __new__(cls, names: Iterable[str] = ()) -> "FrozenSetOfNames":
        """Makes one of the names."""
        made = set.__new__(cls)
        set.update(made, names)
        return made

    def __init__(self, _: Iterable[str] = ()) -> None:
        """Does nothing: that of a set would replace the names, each time that it is called."""


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
    """Makes a value immutable all the way down.

    Lists become tuples, dicts immutable mappings, and objects of subclasses of the plain types what they are at heart.
    Of the time zone of a datetime its offset at that time remains, without `fold`: what is written into the hash.

    Args:
        value: JSON's types, bytes, datetime, date, UUID, Decimal, Enum, Frozen, and lists, tuples and dicts of them.
        path: What the value is called in an error.

    Returns:
        The frozen value.

    Raises:
        TypeError: A part of it is of another type; the message names the path to it.
        ValueError: A part is not a finite number, or an integer of more than 4300 digits, or the nesting is too deep (a
            list that contains itself, for example).
    """
    try:
        return _freeze(value)
    except _Refused as refused:
        raise refused.kind(f"{path}{refused.path}: {refused.reason}") from None
    except RecursionError:
        raise ValueError(f"{path}: it contains itself, or is nested too deeply to be frozen") from None


def _freeze(value: Any) -> Any:
    freeze_kind = _FREEZERS.get(type(value))
    return _freeze_unusual(value) if freeze_kind is None else freeze_kind(value)


def _freeze_unusual(value: Any) -> Any:
    """Subclasses of what is allowed become what they are subclasses of; the rest is refused."""
    if isinstance(value, Frozen):
        return value
    if isinstance(value, Enum):
        return _freeze_member(value)
    for kind, freeze_kind in _FREEZERS.items():
        if isinstance(value, kind):
            return freeze_kind(value)
    if isinstance(value, Mapping):
        return _freeze_dict(value)
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
    frozen: list[Any] = []
    add = frozen.append
    try:
        for item in items:
            add(item if type(item) in ATOMS else _freeze(item))
    except _Refused as refused:
        refused.path = f"[{len(frozen)}]{refused.path}"
        raise
    return tuple(frozen)


def _freeze_dict(items: Mapping[Any, Any]) -> FrozenDict:
    frozen: dict[str, Any] = {}
    for key, item in items.items():
        if type(key) is not str:
            raise _Refused(TypeError, f"the key {key!r:.100} is no string; JSON has string keys only")
        try:
            frozen[key] = item if type(item) in ATOMS else _freeze(item)
        except _Refused as refused:
            refused.path = f".{key}{refused.path}"
            raise
    made: FrozenDict = new_dict(FrozenDict)
    fill_dict(made, frozen)
    return made


def _freeze_int(value: int) -> int:
    if not -_HUGE < value < _HUGE:
        raise _Refused(ValueError, "an integer of more than 4300 digits cannot be written and read; use a string")
    return value if type(value) is int else int.__int__(value)


def _freeze_float(value: float) -> float:
    if not math.isfinite(value):
        raise _Refused(ValueError, f"{value} is not a number that JSON knows; use None or a string")
    return value if type(value) is float else float.__float__(value)


def _freeze_decimal(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise _Refused(ValueError, f"{value} is not a finite number; use None or a string")
    return value if type(value) is Decimal else Decimal(value)


def _freeze_datetime(value: datetime) -> datetime:
    zone = value.tzinfo
    if type(value) is datetime and (zone is None or type(zone) is timezone) and not value.fold:
        return value
    offset = value.utcoffset()
    return datetime(
        value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond,
        None if offset is None else timezone(offset),
    )  # fmt: skip


def _freeze_member(member: Enum) -> Enum:
    """A member is a constant of the program, which is known by its name, or equals its value; so that has to be one."""
    value = member.value
    try:
        hash(value)
    except TypeError:
        raise _Refused(TypeError, f"{member!r} has a value that can be changed; give it one that cannot") from None
    if isinstance(value, (int, float, Decimal)):
        _freeze(value)
    return member


def _as_it_is(value: Any) -> Any:
    return value


_FREEZERS: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    bool: _as_it_is,
    type(None): _as_it_is,
    int: _freeze_int,
    float: _freeze_float,
    dict: _freeze_dict,
    list: _freeze_items,
    tuple: _freeze_items,
    bytes: bytes.__bytes__,
    datetime: _freeze_datetime,
    date: lambda value: value if type(value) is date else date(value.year, value.month, value.day),
    UUID: lambda value: value if type(value) is UUID else UUID(int=value.int),
    Decimal: _freeze_decimal,
    FrozenDict: _as_it_is,
}
"""How values of each type are frozen, subclasses before what they are derived from."""

NO_ITEMS = FrozenDict()


def _freeze_validated(validated: FrozenT) -> FrozenT:
    # Objects that are frozen already come here, too, since pydantic passes them on; but validators of the class may
    # have just set a field of them.
    if type(validated.__pydantic_extra__) is not FrozenDict or not _MUTABLE.isdisjoint(
        map(type, validated.__dict__.values())
    ):
        validated._freeze_in_place()
    return validated


def _let_lists_be_tuples(cls: type, schema: Any, handler: GetCoreSchemaHandler) -> None:
    """Has fields that are declared as lists written as the tuples that they have become, without a warning."""
    pending: list[Any] = [schema]
    seen: set[int] = set()
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending.extend(part)
        elif isinstance(part, dict) and id(part) not in seen:
            seen.add(id(part))
            kind = part.get("type")
            if kind == "definition-ref":
                with suppress(LookupError):  # the class itself is not known yet
                    pending.append(handler.resolve_ref_schema(part))  # pyright: ignore[reportArgumentType]
            elif kind not in ("model", "dataclass") or part.get("cls") is cls:  # others see to theirs
                if kind == "list" and "serialization" not in part:
                    written = tuple_variable_schema(part.get("items_schema"))
                    part["serialization"] = wrap_serializer_function_ser_schema(_write, schema=written)
                pending.extend(part[key] for key in part.keys() - {"default", "metadata"})


def _write(value: Any, write: Any) -> Any:
    # What is a list still is part of a type that other models use, too.
    return list(write(tuple(value))) if isinstance(value, list) else write(value)


class Frozen(BaseModel):
    """A pydantic model whose objects are immutable all the way down, and equal when their content is.

    Declared fields are validated by pydantic, further ones are kept as they are; then all of them are frozen: lists
    become tuples and dicts immutable mappings, whatever was declared. Allowed are JSON's types, bytes, datetime, date,
    UUID, Decimal, Enum and Frozen. Dumps to JSON write the non-JSON types as pydantic does, that is as strings; they
    come back as what they were only in fields that are declared.

    Objects are equal exactly when their hash keys are. What is written differently is different, also where Python says
    that it is equal: `1`, `1.0` and `True`, or `Decimal("1.0")` and `Decimal("1.00")`. Classes and members of enums are
    known by their names.
    Cached properties and private attributes are no content: they are neither frozen nor compared, hashed or dumped.

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
        if self.__dict__ or not type(self).__pydantic_fields__:
            self._refuse_if_made()
        super().__init__(**data)

    # It does what pydantic's own does. Without being told so, pydantic would call it from inside of the validation, and
    # thereby validate twice.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Freezes what comes out of the validation, wherever that is asked for, after all validators of the class."""
        schema: Any = handler(source)
        if schema["type"] != "function-after" or schema["function"].get("function") is not _freeze_validated:
            _let_lists_be_tuples(cls, schema, handler)
            # The schema is changed in place, since fields of the class's own type refer to it.
            validated: Any = {key: part for key, part in schema.items() if key != "ref"}
            reference = schema.get("ref")
            schema.clear()
            schema.update(no_info_after_validator_function(_freeze_validated, validated, ref=reference))
        return schema

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
        return canonical_json(self._content(), type(self).__name__, key_of_nested)

    def iter_nested(self) -> "Iterator[Frozen]":
        """The frozen objects inside this one, each after those inside of it: the order in which to store them.

        An object that is there several times comes once.
        """
        return (inner for inner in _innermost_first(self) if inner is not self)

    def model_copy(self: FrozenT, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> FrozenT:
        """Makes a copy with some fields replaced; they are validated and frozen like those of a new object.

        Args:
            update: The fields to replace.
            deep: Of no importance, since nothing can be changed.

        Returns:
            The copy.
        """
        cls, update = type(self), update or {}
        given = {name: value for name, value in self if name in self.__pydantic_fields_set__}
        # What a factory has made, an identifier for example, is not to be made anew.
        kept = {name: value for name, value in self if name not in given and cls._has_factory(name)}
        made = cls.__new__(cls)
        # Not strictly, as the fields of this object are frozen already: a list has become a tuple.
        cls.__pydantic_validator__.validate_python(
            {**kept, **given, **update}, self_instance=made, strict=False, by_name=True
        )
        made.__pydantic_fields_set__.difference_update(kept.keys() - update.keys())
        return made

    def copy(self: FrozenT, **options: Any) -> FrozenT:
        """See `model_copy`; pydantic's own, of old, would put into the copy what it is given as it is."""
        return self.model_copy(**options)

    @classmethod
    def model_construct(cls: type[FrozenT], _fields_set: set[str] | None = None, **values: Any) -> FrozenT:
        """Makes an object without validation. It is frozen all the same.

        Args:
            _fields_set: See pydantic.
            **values: The fields.

        Returns:
            The object.
        """
        made = super().model_construct(None if _fields_set is None else set(_fields_set), **values)
        made._freeze_in_place()
        return made

    @property
    def model_fields_set(self) -> set[str]:
        """The names of the fields that were given; a set of one's own."""
        return set(self.__pydantic_fields_set__)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other) and not isinstance(other, Frozen):
            return NotImplemented
        return self.hash_key == other.hash_key  # pyright: ignore[reportAttributeAccessIssue]

    def __hash__(self) -> int:
        return hash(self.hash_key)

    def __str__(self) -> str:
        return self.model_dump_json(exclude_unset=True, warnings=False)

    def __repr__(self) -> str:
        try:
            return super().__repr__()
        except RecursionError:  # it stands deep inside of others, which can be shown now
            return f"{type(self).__name__}(...)"

    def __repr_args__(self) -> Any:
        given = self.__pydantic_fields_set__
        return [(name, value) for name, value in self if name in given]

    def __iter__(self) -> Any:
        yield from self._content().items()

    if not TYPE_CHECKING:  # type checkers know already that nothing can be set

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in self.__private_attributes__ and (name.startswith("_") or name in self._taken_names):
                raise AttributeError(f"{type(self).__name__} objects cannot be changed, so {name!r} cannot be set")
            super().__setattr__(name, value)

    def __copy__(self: FrozenT) -> FrozenT:
        return self

    def __deepcopy__(self: FrozenT, memo: dict[int, Any] | None = None) -> FrozenT:
        return self

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        declared = type(self).__pydantic_fields__
        state["__dict__"] = {name: value for name, value in state["__dict__"].items() if name in declared}
        state["__pydantic_fields_set__"] = self.model_fields_set
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self._refuse_if_made()
        super().__setstate__(state)
        self._freeze_in_place()

    def _content(self) -> dict[str, Any]:
        fields, declared = self.__dict__, type(self).__pydantic_fields__
        if fields.keys() != declared.keys():  # the hash key and cached properties are there, too
            fields = {name: value for name, value in fields.items() if name in declared}
        return {**fields, **(self.__pydantic_extra__ or {})}

    @classmethod
    def _has_factory(cls, name: str) -> bool:
        field = cls.__pydantic_fields__.get(name)
        return field is not None and field.default_factory is not None

    @classmethod
    def _check_names(cls, names: Any) -> None:
        if not cls._taken_names.isdisjoint(names):
            taken = ", ".join(sorted(cls._taken_names.intersection(names)))
            raise TypeError(f"{cls.__name__} has methods of the name {taken}; give the field another name")

    def _refuse_if_made(self) -> None:
        try:
            _fields_set_of(self)
        except AttributeError:
            return
        raise TypeError(f"{type(self).__name__} objects cannot be changed: this one is made already")

    def _freeze_in_place(self) -> None:
        name = type(self).__name__
        fields = vars(self)
        fields.pop(_CACHED, None)  # validators may have looked at the hash key of what was not frozen yet
        for key, value in fields.items():
            if type(value) not in ATOMS and key in type(self).__pydantic_fields__:
                fields[key] = freeze(value, f"{name}.{key}")
        extra = self.__pydantic_extra__
        if extra:
            self._check_names(extra)
        object.__setattr__(self, "__pydantic_extra__", freeze(extra, name) if extra else NO_ITEMS)


Frozen._taken_names = frozenset(dir(Frozen))
_fields_set_of: Any = BaseModel.__dict__["__pydantic_fields_set__"].__get__


def key_of_nested(frozen: Any) -> str:
    """The hash key of an object inside of another, without recursion: the objects may be nested without end."""
    if not isinstance(frozen, Frozen):
        raise TypeError(f"{frozen!r:.100} is not frozen, so it has no canonical form")
    if _CACHED not in frozen.__dict__ and not _LEAVES.issuperset(map(type, frozen._content().values())):
        for inner in _innermost_first(frozen, unhashed_only=True):
            inner.hash_key  # noqa: B018  # it is kept
    return frozen.hash_key


def _innermost_first(frozen: Frozen, *, unhashed_only: bool = False) -> Iterator[Frozen]:
    pending: list[Any] = [frozen]
    opened: set[int] = set()
    while pending:
        value = pending.pop()
        if type(value) is _Closing:
            yield value.frozen
        elif isinstance(value, tuple):
            pending.extend(reversed(value))
        elif isinstance(value, dict):
            pending.extend(reversed(value.values()))
        elif (
            type(value) not in _LEAVES
            and isinstance(value, Frozen)
            and id(value) not in opened
            and not (unhashed_only and _CACHED in value.__dict__)
        ):
            opened.add(id(value))
            pending.append(_Closing(value))
            pending.extend(reversed(value._content().values()))


class _Closing:
    """Stands for a frozen object whose content has been walked through."""

    __slots__ = ("frozen",)

    def __init__(self, frozen: Frozen) -> None:
        self.frozen = frozen
