"""Markers that stand for "nothing given" and for instructions inside a chain of agents.

A sentinel is compared by identity, prints as its name and survives pickling and copying as itself.
"""

from typing import final

__all__ = ["AWAIT", "CLEAR", "DEFAULT", "END", "NO_VALUE", "Sentinel"]


@final
class Sentinel:
    """A named marker, equal to itself alone.

    Args:
        name: The name under which this module holds the sentinel.
        meaning: One line that says what the marker stands for.
    """

    __slots__ = ("meaning", "name")

    def __init__(self, name: str, meaning: str) -> None:
        self.name = name
        self.meaning = meaning

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str:
        return self.name  # pickle and copy find the one object again under its name

    def __bool__(self) -> bool:
        raise TypeError(f"{self.name} ({self.meaning}) is neither true nor false; compare it with `is {self.name}`")


NO_VALUE = Sentinel("NO_VALUE", "no value was given, since None is a value too")
DEFAULT = Sentinel("DEFAULT", "take what the context says")
AWAIT = Sentinel("AWAIT", "let the work so far finish before the next agent is called")
CLEAR = Sentinel("CLEAR", "drop the messages so far")
END = Sentinel("END", "the loop ends here")
