"""Values of all kinds."""

from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel

from miniagents.frozen import Frozen
from miniagents.message import Message

__all__ = ["SAMPLE_VALUES", "SamplePerson"]


class SampleColor(Enum):
    """Members that are neither strings nor numbers."""

    RED = (255, 0, 0)
    BLUE = (0, 0, 255)


class SampleLevel(IntEnum):
    """Members that are numbers."""

    LOW = 1


class SampleRight(Flag):
    """Members that can be combined."""

    READ = 1
    WRITE = 2


@dataclass
class SamplePoint:
    """A dataclass with a field that is not given."""

    x: int
    tags: tuple[str, ...] = ()
    norm: int = field(init=False)

    def __post_init__(self) -> None:
        """Computes it."""
        self.norm = abs(self.x)


class SamplePerson(BaseModel):
    """A model that can be changed, with others inside."""

    name: str
    born: date | None = None
    friends: list["SamplePerson"] = []


class SampleFact(Frozen):
    """A frozen model that is no message."""

    claim: str
    sources: list[str] = []


SAMPLE_VALUES: Final[dict[str, Any]] = {
    "none": None,
    "booleans": [True, False],
    "integers": [0, 1, -1, 2**63, -(10**50)],
    "floats": [0.1, -0.0, 1.0, 1e300, 5e-324],
    "strings": ["", "a", "\x00", "\u2028", "é€😀", '"quoted"', "back\\slash", "$text", "\ud83d", "\ud83d\ude00"],
    "lists": [[], [[1, [2]], "three"]],
    "dicts": {"": 1, "a.b/c:d": {"e": [{}]}},
    "order": {"b": 1, "a": 2},
    "keys_that_look_special": [{"$class": "x"}, {"$uuid": "x"}, {"$tuple": [1]}, {"$$x": 1, "$": 2}, {"a": 1, "$b": 2}],
    "tuples": (1, (2, [3, (4,)]), ()),
    "sets": [{1, "2", (3,)}, set(), frozenset({b"4"})],
    "bytes": [b"", bytes(range(256))],
    "dates": [date(2026, 1, 2), datetime(2026, 1, 2, 3, 4, 5, 678), time(3, 4), timedelta(-1, 2, 3)],
    "dates_with_zone": datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
    "uuid": UUID(int=2**100 + 1),
    "decimals": [Decimal("1.10"), Decimal("-1E+20")],
    "enums": [SampleColor.RED, SampleLevel.LOW, SampleRight.READ, SampleRight.READ | SampleRight.WRITE],
    "dataclass": SamplePoint(-3, tags=("a",)),
    "model": SamplePerson(name="Ada", born=date(1815, 12, 10), friends=[SamplePerson(name="Charles")]),
    "frozen": SampleFact.model_validate(
        {"claim": "It rains", "sources": ["window"], "seen": (1, {"at": [SampleColor.BLUE]})}
    ),
    "all_together": {"points": [SamplePoint(1)], "said": (Message("Hi", role="user"), {SampleLevel.LOW: 1}.popitem())},
}
