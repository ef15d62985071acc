"""Copies of Python's values for Lua. No object of Python is ever in Lua, so nothing there can reach into it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from miniagents.ext.graph.lua.errors import UnfitValue
from promising.sentinels import NO_VALUE

__all__ = ["MAX_TEXT", "MAX_VALUES", "Copier", "fields_of"]

MAX_VALUES = 100_000
MAX_TEXT = 4_000_000
_MAX_DEPTH = 100
_ADVICE = "keep the little that the condition needs apart from it, or give a Python function as the condition"


class Copier:
    """Copies values into one Lua state.

    Lua is not protected meanwhile: a key that is NaN, or a limit of memory, would end the process. So the state has no
    such limit yet, and keys are looked at and values counted here.

    Args:
        runtime: The state, a `LuaRuntime` whose texts are bytes.

    Attributes:
        holed: The lists that have None in them, for which Lua has to be told how long they are.
        sizes: How long they are.
    """

    def __init__(self, runtime: Any) -> None:
        self.holed: list[Any] = []
        self.sizes: list[int] = []
        self._make_table = runtime.table_from
        self._values_left = MAX_VALUES
        self._text_left = MAX_TEXT

    def copy(self, value: Any, depth: int = 0) -> Any:
        """Copies a value.

        Args:
            value: None, a boolean, number, text, bytes, enum member, UUID, date or time; or a mapping, list, tuple,
                model or dataclass of these. Integers of more than 64 bits become floats, as they do in Lua.
            depth: How many values it is nested in.

        Returns:
            What a `LuaRuntime` takes for it.

        Raises:
            UnfitValue: A part of it has no counterpart in Lua, or it is too large or nested too deeply.
        """
        self._values_left -= 1
        if self._values_left < 0:
            raise UnfitValue(f"more than {MAX_VALUES} values are too many; {_ADVICE}")
        if isinstance(value, Enum):
            value = value.value
        if (atom := self._atom(value)) is not NO_VALUE:
            return atom
        if depth == _MAX_DEPTH:
            raise UnfitValue(f"values within values to a depth of {_MAX_DEPTH} are too deep; is there a cycle?")
        if isinstance(value, (list, tuple)):
            return self._list(value, depth + 1)
        if (content := fields_of(value)) is not None:
            return self._table(content, depth + 1)
        raise UnfitValue(f"{type(value).__qualname__} objects cannot be given to Lua; {_ADVICE}")

    def _list(self, items: Iterable[Any], depth: int) -> Any:
        copies = []
        for item in items:
            try:
                copies.append(self.copy(item, depth))
            except UnfitValue as error:
                raise error.within(len(copies) + 1) from None
        table = self._make_table(copies)
        if any(item is None for item in copies):
            self.holed.append(table)
            self.sizes.append(len(copies))
        return table

    def _table(self, content: Mapping[Any, Any], depth: int) -> Any:
        copies = {}
        for key, value in content.items():
            try:
                copies[self._key(key)] = self.copy(value, depth)
            except UnfitValue as error:
                raise error.within(key) from None
        return self._make_table(copies)

    def _key(self, key: Any) -> Any:
        atom = self._atom(key)
        if atom is NO_VALUE or atom is None or atom != atom:
            raise UnfitValue("Lua has no such keys; use texts or numbers")
        return atom

    def _atom(self, value: Any) -> Any:
        """What stands for a value without parts; NO_VALUE where it has parts."""
        kind = type(value)
        if kind is str:
            return self._text(value.encode("utf-8", "surrogatepass"))
        if value is None or kind is bool or kind is float:
            return value
        if isinstance(value, Enum):  # before texts and numbers, which it can be too
            return self._atom(value.value)
        if isinstance(value, (int, float, Decimal)):
            return _number(value)
        if isinstance(value, str):
            return self._text(str.encode(value, "utf-8", "surrogatepass"))
        if isinstance(value, (bytes, bytearray)):
            return self._text(bytes(value))
        if isinstance(value, (date, time)):
            return self._text(value.isoformat().encode())
        if isinstance(value, timedelta):
            return value.total_seconds()
        return self._text(str(value).encode()) if isinstance(value, UUID) else NO_VALUE

    def _text(self, text: bytes) -> bytes:
        self._text_left -= len(text)
        if self._text_left < 0:
            raise UnfitValue(f"more than {MAX_TEXT} bytes of text are too much; {_ADVICE}")
        return text


def fields_of(value: Any) -> Mapping[Any, Any] | None:
    """Gives what a mapping, model or dataclass consists of; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        return {**dict(value), **{name: getattr(value, name) for name in type(value).model_computed_fields}}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return None


def _number(value: int | float | Decimal) -> int | float:
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return int(value)
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except ValueError:  # a Decimal that signals whenever it is used
        return math.nan
