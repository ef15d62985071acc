"""Writing values: what can be, how, and where in a value the part is that cannot.

A value is written in one go where nothing in it needs attention, which is seen from the types of what containers hold,
without looking at each item. Only if that fails, or a string begins with `$`, it is gone through item by item.
"""

import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum, Flag
from typing import Any

from pydantic import BaseModel

from miniagents.canonical import CLASS_KEY
from miniagents.ext.values.atoms import ATOMS
from miniagents.ext.values.classes import fields_to_call_with, name_of, note
from miniagents.frozen import Frozen, FrozenDict

__all__ = ["PRIVATE_KEY", "REFERENCE_KEY", "UNSET_KEY", "encode"]

UNSET_KEY = "$unset"
"""The key under which those fields of a model stand that nobody has set."""
PRIVATE_KEY = "$private"
"""The key under which the private attributes of a model stand."""
REFERENCE_KEY = "$ref"
"""The key under which the name of what is kept elsewhere stands."""

_LEAVES: frozenset[type] = frozenset({str, bool, int, float, type(None)})
_STRINGS = frozenset({str})
_MAX_DEPTH = 100
_HUGE = 10**4300  # Python itself refuses to write, and to read, integers of more digits
_LONGEST_PATH = 200


def encode(value: Any, *, refer: Callable[[BaseModel], str | None] | None = None) -> bytes:
    """Writes a value as JSON, in UTF-8.

    Args:
        value: None, a bool, int, float, str, list, tuple, dict with string keys, set, frozenset, bytes, datetime, date,
            time, timedelta, UUID or Decimal; an enum member; a pydantic model, which may be a `Message` or any other
            `Frozen`; a dataclass; and whatever is made of these. Objects of subclasses of the plain types are none of
            them.
        refer: Is asked for each model in the value. If it gives a name, that is written in its place, and the model is
            to be kept elsewhere; see `decode`. None means to write the model itself.

    Returns:
        The JSON. Equal values give equal bytes if their dicts have the same order.

    Raises:
        TypeError: A part of the value cannot be represented; the message names the path to it.
        ValueError: A number is not finite or has more than 4300 digits, or the value contains itself, or is nested
            more than 100 levels deep.

    Example:
        ```python
        assert encode({"at": date(2026, 1, 1)}) == b'{"at":{"$date":"2026-01-01"}}'
        ```
    """
    try:
        text = _in_one_go(value, refer)
        if text is None:
            text = _dumps(_Writer(True, refer).write(value, 0))
    except _Refused as refused:
        path = refused.path if len(refused.path) <= _LONGEST_PATH else f"{refused.path[:_LONGEST_PATH]}..."
        raise refused.kind(f"value{path}: {refused.reason}") from None
    except RecursionError:
        raise ValueError("value: it contains itself, or is nested too deeply to be written from here") from None
    return text.encode("utf-8", "surrogatepass")


def _in_one_go(value: Any, refer: Callable[[BaseModel], str | None] | None) -> str | None:
    writer = _Writer(False, refer)
    try:
        text = _dumps(writer.write(value, 0))
    except ValueError:  # a number that cannot be written
        return None
    return text if text.count('"$') == writer.tags else None


_dumps = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode


class _Refused(Exception):
    """Why a value cannot be written; the path to it grows on the way out."""

    def __init__(self, kind: type[Exception], reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.path = ""


class _Writer:
    """Turns values into what the JSON encoder can write.

    Args:
        careful: Whether to look at each leaf, and to mark keys that begin with `$`.
        refer: See `encode`.

    Attributes:
        tags: How many keys that begin with `$` have been made.
    """

    __slots__ = ("careful", "in_frozen", "refer", "tags")

    def __init__(self, careful: bool, refer: Callable[[BaseModel], str | None] | None) -> None:
        self.careful = careful
        self.refer = refer
        self.tags = 0
        self.in_frozen = False  # all sequences in there are tuples, and all dicts are frozen

    def write(self, value: Any, depth: int) -> Any:
        """Turns a value, which is at that depth, into plain data."""
        write = _WRITERS.get(type(value))
        return self._write_object(value, depth) if write is None else write(self, value, depth)

    def write_leaf(self, value: Any, _: int) -> Any:
        """Numbers have to be finite, and not too long."""
        if self.careful:
            if type(value) is float and not math.isfinite(value):
                raise _Refused(ValueError, f"{value} is not a number that JSON knows; give None or a string")
            if type(value) is int and not -_HUGE < value < _HUGE:
                raise _Refused(ValueError, "an integer of more than 4300 digits cannot be read again; give a string")
        return value

    def write_list(self, value: Iterable[Any], depth: int) -> Any:
        """Writes the items, unless all of them can stay as they are."""
        _check_depth(depth)
        careful = self.careful
        if not careful and _LEAVES.issuperset(map(type, value)):
            return value
        written: list[Any] = []
        try:
            for item in value:
                plain = item if type(item) in _LEAVES and not careful else self.write(item, depth + 1)
                written.append(plain)
        except _Refused as refused:
            refused.path = f"[{len(written)}]{refused.path}"
            raise
        return written

    def write_dict(self, value: Mapping[Any, Any], depth: int) -> Any:
        """Writes the items, unless all of them can stay as they are."""
        _check_depth(depth)
        careful = self.careful
        if not careful and _LEAVES.issuperset(map(type, value.values())) and _STRINGS.issuperset(map(type, value)):
            return value
        written: dict[str, Any] = {}
        for key, item in value.items():
            if type(key) is not str:
                raise _Refused(TypeError, f"the key {key!r:.100} is no plain string, as keys of JSON are")
            if careful and key.startswith("$"):
                key = f"${key}"
            try:
                written[key] = item if type(item) in _LEAVES and not careful else self.write(item, depth + 1)
            except _Refused as refused:
                refused.path = f".{key}{refused.path}" if key.isidentifier() else f"[{key!r:.100}]{refused.path}"
                raise
        return written

    def write_tuple(self, value: tuple[Any, ...], depth: int) -> Any:
        """Writes a tuple, which in frozen objects is all that a list can be."""
        items = self.write_list(value, depth)
        return items if self.in_frozen else self._tagged("$tuple", items)

    def write_set(self, value: Iterable[Any], depth: int) -> Any:
        """Writes a set, sorted."""
        _check_depth(depth)
        items = [self.write(item, depth + 1) for item in value]
        return self._tagged("$set" if type(value) is set else "$frozenset", sorted(items, key=_dumps))

    def write_frozen_dict(self, value: Mapping[str, Any], depth: int) -> Any:
        """Writes a dict that is, or was, part of a frozen object."""
        if self.in_frozen:
            return self.write_dict(value, depth)
        return self._tagged("$frozendict", self._in_frozen(value, depth))

    def write_atom(self, value: Any, _: int) -> Any:
        """Writes what has no parts."""
        atom = ATOMS[type(value)]
        try:
            return self._tagged(atom.tag, atom.write(value))
        except (TypeError, ValueError) as error:
            raise _Refused(type(error), str(error)) from None

    def _write_object(self, value: Any, depth: int) -> Any:
        if isinstance(value, BaseModel):
            return self._write_model(value, depth)
        if isinstance(value, Enum):
            return self._write_member(value)
        if is_dataclass(value) and not isinstance(value, type):
            return self._write_dataclass(value, depth)
        raise _refusal(value)

    def _write_model(self, model: BaseModel, depth: int) -> Any:
        name = None if self.refer is None else self.refer(model)
        if name is not None:
            return self._tagged(REFERENCE_KEY, name)
        cls, given = type(model), model.__pydantic_fields_set__
        content = {name: item for name, item in model.__dict__.items() if name in cls.__pydantic_fields__}
        extra = model.__pydantic_extra__
        if extra:
            if not content.keys().isdisjoint(extra):
                raise _Refused(TypeError, f"a further field of this {cls.__name__} has the name of a declared one")
            content.update(extra)
        unset = {name: content.pop(name) for name in [*content] if name not in given}
        if isinstance(model, Frozen):
            write, private = self._in_frozen, None
        else:
            write, private = self.write_dict, model.__pydantic_private__
        written = write(content, depth)
        parts = {tag: write(part, depth) for tag, part in ((UNSET_KEY, unset), (PRIVATE_KEY, private)) if part}
        return self._of_class(cls, written, parts)

    def _in_frozen(self, value: Mapping[Any, Any], depth: int) -> Any:
        before, self.in_frozen = self.in_frozen, True
        try:
            return self.write_dict(value, depth)
        finally:
            self.in_frozen = before

    def _write_dataclass(self, value: Any, depth: int) -> Any:
        cls: Any = type(value)
        try:
            fields_to_call_with(cls)
        except TypeError as error:
            raise _Refused(TypeError, str(error)) from None
        note(cls)
        content = {field.name: getattr(value, field.name) for field in fields(cls) if hasattr(value, field.name)}
        return self._of_class(cls, self.write_dict(content, depth), {})

    def _write_member(self, member: Enum) -> Any:
        cls = type(member)
        note(cls)
        if member.name in cls.__members__:
            return self._tagged("$enum", [name_of(cls), member.name])
        if isinstance(member, Flag):  # a combination
            return self._tagged("$enum", [name_of(cls), member.value])
        raise _Refused(TypeError, f"{member!r} is not among the members of its class")

    def _of_class(self, cls: type[Any], content: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
        self.tags += 1 + len(parts)
        return {CLASS_KEY: name_of(cls), **content, **parts}

    def _tagged(self, tag: str, content: Any) -> dict[str, Any]:
        self.tags += 1
        return {tag: content}


_WRITERS: dict[type, Callable[[_Writer, Any, int], Any]] = {
    **dict.fromkeys(_LEAVES, _Writer.write_leaf),
    **dict.fromkeys(ATOMS, _Writer.write_atom),
    list: _Writer.write_list,
    tuple: _Writer.write_tuple,
    dict: _Writer.write_dict,
    set: _Writer.write_set,
    frozenset: _Writer.write_set,
    FrozenDict: _Writer.write_frozen_dict,
}


def _check_depth(depth: int) -> None:
    if depth >= _MAX_DEPTH:
        raise _Refused(ValueError, f"the value is nested more than {_MAX_DEPTH} levels deep, or contains itself")


def _refusal(value: Any) -> _Refused:
    cls = type(value)
    for kind in _WRITERS:
        if isinstance(value, kind):
            return _Refused(
                TypeError,
                f"{cls.__name__} is derived from {kind.__name__} and would come back as a plain one; "
                f"give a {kind.__name__}, or a dataclass",
            )
    mend = "give plain data, a message, a pydantic model, a dataclass or an enum"
    if inspect.isawaitable(value):
        mend = "await it"
    return _Refused(TypeError, f"{cls.__name__} objects cannot be represented; {mend}")
