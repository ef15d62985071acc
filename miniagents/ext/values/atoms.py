"""Types without parts that JSON does not know: how they are written as texts, and read."""

import base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic_core import TzInfo

__all__ = ["ATOMS", "Atom"]

_FOLD = "[fold=1]"


class Atom(NamedTuple):
    """How one type is written and read.

    Attributes:
        tag: The key of the object that stands for it.
        write: Makes the text; raises a TypeError or ValueError where it cannot.
        read: Makes the object of the text, or raises.
    """

    tag: str
    write: Callable[[Any], str]
    read: Callable[[str], Any]


def _write_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _read_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _write_decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise ValueError(f"{value} is not a finite number; give None or a string")
    return str(value)


def _write_timedelta(value: timedelta) -> str:
    return f"{value.days} {value.seconds} {value.microseconds}"


def _read_timedelta(text: str) -> timedelta:
    days, seconds, microseconds = map(int, text.split(" "))
    return timedelta(days, seconds, microseconds)


def _write_time(value: datetime | time) -> str:
    """ISO 8601; the name of a zone, and what else that does not say, stand behind it in brackets, as in RFC 9557."""
    text, zone = value.isoformat(), value.tzinfo
    if type(zone) is ZoneInfo and zone.key:
        text = f"{text}[{zone.key}]"
    elif zone is not None and not isinstance(zone, (timezone, TzInfo)):
        raise TypeError(f"its time zone is a {type(zone).__name__}; give it a `timezone` or `ZoneInfo`")
    return f"{text}{_FOLD}" if value.fold else text


def _read_datetime(text: str) -> datetime:
    text, zone, fold = _parts(text)
    value = datetime.fromisoformat(text)
    if zone is None:
        return value.replace(fold=fold)
    local = value.replace(tzinfo=zone, fold=fold)
    if local.utcoffset() != value.utcoffset():  # the rules of the zone have changed since; the moment counts
        return value.astimezone(zone)
    return local


def _read_time(text: str) -> time:
    text, zone, fold = _parts(text)
    value = time.fromisoformat(text)
    return value.replace(tzinfo=zone or value.tzinfo, fold=fold)


def _parts(text: str) -> tuple[str, ZoneInfo | None, int]:
    fold = text.endswith(_FOLD)
    text, bracket, key = text.removesuffix(_FOLD).partition("[")
    return text, ZoneInfo(key.removesuffix("]")) if bracket else None, int(fold)


ATOMS: dict[type, Atom] = {
    bytes: Atom("$bytes", _write_bytes, _read_bytes),
    datetime: Atom("$datetime", _write_time, _read_datetime),
    date: Atom("$date", date.isoformat, date.fromisoformat),
    time: Atom("$time", _write_time, _read_time),
    timedelta: Atom("$timedelta", _write_timedelta, _read_timedelta),
    UUID: Atom("$uuid", str, UUID),
    Decimal: Atom("$decimal", _write_decimal, Decimal),
}
