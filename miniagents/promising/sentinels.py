"""The same objects as in `promising.sentinels`."""

from promising.sentinels import (
    AWAIT,
    CLEAR,
    DEFAULT,
    END,
    NO_VALUE,
    Sentinel,
)

__all__ = [
    "AWAIT",
    "CLEAR",
    "DEFAULT",
    "END",
    "NO_VALUE",
    "Sentinel",
]
