"""Making messages, and their hash keys."""

import hashlib
import json
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from benchmarks.measure import Row, compare
from miniagents import Message

__all__ = ["rows"]

_COUNT = 5_000

_FIELDS: dict[str, Any] = {
    "role": "user",
    "number": 1,
    "ratio": 2.5,
    "flag": True,
    "nothing": None,
    "name": "some name",
    "items": [1, 2, 3, "four"],
    "table": {"key": "value", "list": [1, 2]},
    "other": "more text",
}


class ByHand:
    """A class with slots whose values are checked and frozen by hand."""

    __slots__ = ("flag", "inner", "items", "name", "nothing", "number", "other", "ratio", "role", "table", "text")

    def __init__(self, text: str | None = None, **fields: Any) -> None:
        object.__setattr__(self, "text", text)
        for name, value in fields.items():
            object.__setattr__(self, name, freeze_by_hand(value))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


def freeze_by_hand(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float, bool, ByHand)):
        return value
    if isinstance(value, list):
        return tuple([freeze_by_hand(item) for item in value])
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(key)
        return MappingProxyType({key: freeze_by_hand(item) for key, item in value.items()})
    raise TypeError(value)


def _repeat(function: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(_COUNT):
            function()

    return run


def _hash_keys() -> tuple[float, float, float]:
    plain = {**_FIELDS, "text": "the text", "inner": {"text": "inner"}}
    fresh: list[Message] = []

    def ours() -> None:
        for message in fresh:
            message.hash_key  # noqa: B018  # it is made with the first look

    def by_hand() -> None:
        for _ in range(_COUNT):
            data = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
            hashlib.sha256(data).hexdigest()

    ratios = []
    for _ in range(8):
        fresh[:] = [Message("the text", inner=Message("inner"), **_FIELDS) for _ in range(_COUNT)]
        ratios.append(compare(ours, by_hand, runs=1, warm_up=0))
    return sorted(ratios[1:])[3]


def rows() -> list[Row]:
    """Measures."""
    made, mine, other = compare(
        _repeat(lambda: Message("the text", inner=Message("inner"), **_FIELDS)),
        _repeat(lambda: ByHand("the text", inner=ByHand("inner"), **_FIELDS)),
    )
    hashed, mine_hashed, other_hashed = _hash_keys()
    micro = 1e6 / _COUNT
    return [
        Row(
            "create a message with 10 fields, nested",
            made,
            1.5,
            1.3,
            f"{mine * micro:.1f} against {other * micro:.1f} us",
        ),
        Row(
            "its hash key, first time",
            hashed,
            1.0,
            0.8,
            f"{mine_hashed * micro:.1f} against {other_hashed * micro:.1f} us",
        ),
    ]
