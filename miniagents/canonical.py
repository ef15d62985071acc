"""Canonical JSON: the one text that stands for a frozen value, and its hash.

Keys are sorted, there is no white space, and what JSON has no type for is written as an object with one key that begins
with `$`: `{"$datetime":"2026-01-01T00:00:00"}`, and `{"$frozen":"<hash key>"}` for a nested frozen object. A key of the
value itself that begins with `$` is written with one more `$`, so that no plain data can be mistaken for something
else. An enum member that is a string or a number is written, and equals, that string or number.
The same value gives the same text in every process and version of Python.
"""

import base64
import hashlib
import json
import json.encoder
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

__all__ = ["CLASS_KEY", "canonical_json", "canonical_text", "sha256_hex"]

CLASS_KEY = "$class"
"""The key under which the name of a frozen object's class stands, before all others."""


def canonical_json(content: Mapping[str, Any], class_name: str) -> str:
    """Writes the content of a frozen object.

    Args:
        content: The fields by their names; frozen values all the way down.
        class_name: The name of the object's class.

    Returns:
        The text. It may hold lone surrogates if the content does.
    """
    text = _encode(content, tag := _Tagger())
    if '"$' in text and text.count('"$') != tag.count:  # some string of the content begins with $, maybe a key
        text = _encode(_escape(content), _Tagger())
    separator = "" if text == "{}" else ","
    return f'{{"{CLASS_KEY}":"{class_name}"{separator}{text[1:]}'


def canonical_text(text: str, class_name: str) -> str:
    """Writes what has a text and nothing else, faster than `canonical_json({"text": text}, class_name)` does."""
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

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, value: Any) -> Any:
        self.count += 1
        hash_key = getattr(value, "hash_key", None)
        if hash_key is not None:
            return {"$frozen": hash_key}
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
        if isinstance(value, Enum):
            return {"$enum": [type(value).__qualname__, value.name]}
        raise TypeError(f"{value!r:.100} is not frozen, so it has no canonical form")


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
