"""Frozen values as plain JSON data, and back, with their types.

What JSON has no type for is written as an object with one key that begins with `$`, as in `miniagents.canonical`,
except that nested frozen objects are written out. Reading makes objects of classes that exist in this process only; it
imports nothing that the data names.
"""

import base64
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from miniagents.canonical import CLASS_KEY
from miniagents.frozen import Frozen
from miniagents.message import Message

__all__ = ["from_plain", "message_class_named", "to_plain"]


def to_plain(value: Any) -> Any:
    """Turns a frozen value into plain data.

    Args:
        value: What a field of a `Frozen` can hold.

    Returns:
        Dicts, lists, strings, numbers, booleans and None.
    """
    if isinstance(value, Frozen):
        return {CLASS_KEY: type(value).__name__, **{name: to_plain(item) for name, item in value}}
    if isinstance(value, dict):
        return {f"${key}" if key.startswith("$") else key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, date):
        return {"$date": value.isoformat()}
    if isinstance(value, UUID):
        return {"$uuid": str(value)}
    if isinstance(value, Decimal):
        return {"$decimal": str(value)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    return value


def from_plain(plain: Any) -> Any:
    """Turns plain data back into the value.

    Args:
        plain: What `to_plain` has made.

    Returns:
        The value, with lists in place of tuples. Objects of classes that are not known here come back as dicts, those
        of unknown message classes as `Message`. Members of enums come back as their values, except in fields that
        declare them.
    """
    if isinstance(plain, list):
        return [from_plain(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    name = plain.get(CLASS_KEY)
    if isinstance(name, str):
        fields = {_unescape(key): from_plain(item) for key, item in plain.items() if key != CLASS_KEY}
        found = _class_named(name, Frozen)
        return fields if found is None else found(**fields)
    if len(plain) == 1:
        (key, item), *_ = plain.items()
        if key in _READERS and isinstance(item, str):
            return _READERS[key](item)
    return {_unescape(key): from_plain(item) for key, item in plain.items()}


def message_class_named(name: str) -> type[Message]:
    """Finds a class of messages.

    Args:
        name: Its name.

    Returns:
        The class of that name that was defined last in this process; `Message` where there is none.
    """
    found = _class_named(name, Message)
    return Message if found is None else found


def _class_named(name: str, base: type[Any]) -> Any:
    matching = [known for known in _subclasses(base) if known.__name__ == name]
    return matching[-1] if matching else None


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    yield base
    for derived in base.__subclasses__():
        yield from _subclasses(derived)


def _unescape(key: str) -> str:
    return key[1:] if key.startswith("$$") else key


_READERS: dict[str, Any] = {
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$uuid": UUID,
    "$decimal": Decimal,
    "$bytes": base64.b64decode,
}
