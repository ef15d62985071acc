"""Values as JSON, and back as what they were: plain data, messages, models, dataclasses, enums.

What JSON has no type for is written as an object with one key that begins with `$`, as in `miniagents.canonical`.
Reading finds classes by name among those that are known here; it imports and runs nothing that the data names.
"""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel

from miniagents.frozen import Frozen

__all__ = ["UnreadableValueError", "decode", "encode", "is_immutable", "register"]

ClassT = TypeVar("ClassT", bound=type[Any])


class UnreadableValueError(Exception):
    """What should be read is no value, or one of a class that is not known in this process."""


def encode(value: Any) -> bytes:
    """Writes a value as JSON."""
    return json.dumps(_plain(value, "value"), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(
        "utf-8", "surrogatepass"
    )


def decode(data: bytes) -> Any:
    """Reads what `encode` has written."""
    try:
        return _value(json.loads(data.decode("utf-8", "surrogatepass")))
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableValueError(f"what is stored is no value: {error}") from error


def register(cls: ClassT) -> ClassT:
    """Makes a dataclass or an enum known."""
    _registered[_name_of(cls)] = cls
    return cls


def is_immutable(value: Any) -> bool:
    """Whether nothing in a value can be changed."""
    return type(value) in _IMMUTABLE or isinstance(value, (Frozen, Enum))


def _plain(value: Any, path: str) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if type(value) is dict:
        return {"$" + key if key.startswith("$") else key: _plain(item, f"{path}.{key}") for key, item in value.items()}
    if type(value) is tuple:
        return {"$tuple": _plain(list(value), path)}
    if type(value) in _WRITERS:
        tag, write = _WRITERS[type(value)]
        return {tag: write(value)}
    if isinstance(value, Enum):
        register(type(value))
        return {"$enum": [_name_of(type(value)), value.name]}
    if isinstance(value, BaseModel):
        content = dict(value)
    elif is_dataclass(value) and not isinstance(value, type):
        register(type(value))
        content = {field.name: getattr(value, field.name) for field in fields(value)}
    else:
        raise TypeError(f"{path}: {type(value).__name__} objects cannot be represented")
    return {"$class": _name_of(type(value)), **_plain(content, path)}


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if "$class" in plain:
        content = {key: _value(item) for key, item in plain.items() if key != "$class"}
        return _class_named(plain["$class"])(**content)
    if "$enum" in plain:
        return _class_named(plain["$enum"][0])[plain["$enum"][1]]
    if len(plain) == 1:
        (key, item), *_ = plain.items()
        if key in _READERS:
            return _READERS[key](item)
    return {key.removeprefix("$"): _value(item) for key, item in plain.items()}


def _name_of(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _class_named(name: str) -> Any:
    known = {**{_name_of(model): model for model in _subclasses(BaseModel)}, **_registered}
    if name not in known:
        raise UnreadableValueError(f"the class {name} is not known here; import the module that defines it")
    return known[name]


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for derived in base.__subclasses__():
        yield derived
        yield from _subclasses(derived)


_registered: dict[str, type[Any]] = {}

_WRITERS: dict[type, tuple[str, Callable[[Any], str]]] = {
    datetime: ("$datetime", datetime.isoformat),
    date: ("$date", date.isoformat),
    UUID: ("$uuid", str),
    Decimal: ("$decimal", str),
    bytes: ("$bytes", lambda value: base64.b64encode(value).decode("ascii")),
}

_IMMUTABLE = frozenset({*_WRITERS, str, int, float, bool, type(None)})

_READERS: dict[str, Callable[[Any], Any]] = {
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$uuid": UUID,
    "$decimal": Decimal,
    "$bytes": base64.b64decode,
    "$tuple": lambda items: tuple(_value(items)),
}
