"""Canonical JSON: the one text that stands for a frozen value, and its hash.

Keys are sorted, there is no white space, and what JSON has no type for is written as an object with one key that begins
with `$`: `{"$datetime":"2026-01-01T00:00:00"}`, and `{"$frozen":"<hash key>"}` for a nested frozen object. A key of the
value itself that begins with `$` is written with one more `$`, so that no plain data can be mistaken for something
else. An enum member that is a string or a number is written, and equals, that string or number; others are written with
the names of their class and of their own. Of a datetime its offset to UTC is written, without the name of a time zone,
and of a Decimal all digits, trailing zeros included.
The same value gives the same text in every process and version of Python.
"""

import base64
import hashlib
import json
import json.encoder
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

__all__ = ["CLASS_KEY", "canonical_json", "canonical_text", "sha256_hex"]

CLASS_KEY = "$class"
"""The key under which the name of a frozen object's class stands, before all others."""


def canonical_json(content: Mapping[str, Any], class_name: str, key_of: Callable[[Any], str]) -> str:
    """Writes the content of a frozen object.

    Args:
        content: The fields by their names; frozen values all the way down.
        class_name: The name of the object's class.
        key_of: Gives the hash key of a nested frozen object, and refuses what is none.

    Returns:
        The text. It may hold lone surrogates if the content does.
    """
    text = _encode(content, tag := _Tagger(key_of))
    if '"$' in text and text.count('"$') != tag.count:  # some string of the content begins with $, maybe a key
        text = _encode(_escape(content), _Tagger(key_of))
    separator = "" if text == "{}" else ","
    return f'{{"{CLASS_KEY}":{_quote(class_name)}{separator}{text[1:]}'


def canonical_text(text: str, class_name: str) -> str:
    """Writes what has a text and nothing else, faster than `canonical_json`; the name of the class has to be plain."""
    return f'{{"{CLASS_KEY}":"{class_name}","text":{_quote(text)}}}'


def sha256_hex(text: str) -> str:
    """Hashes a text.

    Args:
        text: The text; lone surrogates are allowed.

    Returns:
        The sha256 of its UTF-8, in 64 hexadecimal digits.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class _Tagger:
    """Writes what JSON has no type for, and counts how often it had to."""

    __slots__ = ("count", "key_of")

    def __init__(self, key_of: Callable[[Any], str]) -> None:
        self.count = 0
        self.key_of = key_of

    def __call__(self, value: Any) -> Any:
        self.count += 1
        for kind, (tag, write) in _WRITERS.items():
            if isinstance(value, kind):
                return {tag: write(value)}
        if isinstance(value, Enum):
            return {"$enum": [type(value).__qualname__, value.value if value.name is None else value.name]}
        return {"$frozen": self.key_of(value)}


_WRITERS: dict[type, tuple[str, Callable[[Any], str]]] = {
    datetime: ("$datetime", datetime.isoformat),
    date: ("$date", date.isoformat),
    UUID: ("$uuid", str),
    Decimal: ("$decimal", lambda value: str(value).upper()),  # whether it is 1E+2 or 1e+2 depends on the context
    bytes: ("$bytes", lambda value: base64.b64encode(value).decode("ascii")),
}


def _escape(value: Any) -> Any:
    if isinstance(value, dict):
        return {"$" + key if key.startswith("$") else key: _escape(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_escape(item) for item in value]
    return value


_quote = json.encoder.encode_basestring
_c_make_encoder: Any = getattr(json.encoder, "c_make_encoder", None)


def _encode(value: Any, tag: _Tagger) -> str:
    if _c_make_encoder is None:
        return json.JSONEncoder(
            default=tag, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
        ).encode(value)
    # What `JSONEncoder.encode` does, without what it does for other settings than these.
    encode = _c_make_encoder(None, tag, _quote, None, ":", ",", True, False, False)
    return "".join(encode(value, 0))
