"""Frozen objects: hash keys, and the equality that follows them, where values are unusual."""

import datetime
import decimal
import enum
import itertools
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Generic, Literal, TypeVar

import pytest

from miniagents import Frozen, Message
from miniagents.canonical import canonical_json
from miniagents.frozen import freeze

T = TypeVar("T")


class Plain(enum.Enum):
    A = 1
    B = 2


class Flags(enum.Flag, boundary=enum.KEEP):
    A = 1
    B = 2


class Numbers(enum.IntFlag):
    A = 1
    B = 2


class Words(enum.StrEnum):
    A = "a"


class Days(datetime.date, enum.Enum):
    FIRST = (2026, 1, 1)


class Keyed(enum.Enum):
    A = 1

    @property
    def hash_key(self) -> str:
        return Message("a").hash_key


class WithKeyMember(enum.Enum):
    hash_key = 1
    B = 2


class Generically(Frozen, Generic[T]):
    value: T


DIFFERENT: list[Any] = [
    0, -1, False, 0.0, -0.0, 1, 1.0, True, "1", Decimal(1), Decimal("1.0"), Decimal("1.00"), Decimal("1E+2"),
    Decimal(100), Decimal(0), Decimal("-0"), 2**64, float(2**64), 10**4299, b"1", "MQ==", {"$bytes": "MQ=="},
    Plain.A, Plain.B, Flags(0), Flags.A, Flags.A | Flags.B, Flags(8), Flags(16), Flags(9), Keyed.A,
    WithKeyMember.hash_key, WithKeyMember.B, {"$enum": ["Plain", "A"]}, {"$frozen": Message("a").hash_key},
    Message("a"), Message(text="a", b=None), {"text": "a"}, "$", '"$', '\\"$x', {"$": 1}, {"$$": 1}, {'"$': 1},
    {"a": '"$"'}, {}, [], [[]], [{}], None, "null", "", "\x00", "\ud800", "\\ud800",
    datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(2026, 1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
]  # fmt: skip


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"$k": v}], ids=["plain", "list", "$ dict"])
def test_no_two_are_the_same(wrap: Callable[[Any], Any]) -> None:
    """What is written differently has a hash key of its own, and equality says the same."""
    messages = [Message(value=wrap(value)) for value in DIFFERENT]
    assert len({message.hash_key for message in messages}) == len(messages)
    for one, other in itertools.combinations(messages, 2):
        assert one != other


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Numbers.A | Numbers.B, 3),
        (Words.A, "a"),
        (Days.FIRST, datetime.date(2026, 1, 1)),
        (datetime.datetime(2026, 1, 1, fold=1), datetime.datetime(2026, 1, 1)),
        ((1, 2), [1, 2]),
    ],
    ids=repr,
)
def test_the_same(one: Any, other: Any) -> None:
    """What is written in the same way is the same."""
    assert Message(value=one) == Message(value=other)
    assert Message(value=one).hash_key == Message(value=other).hash_key


def test_hash_keys_do_not_depend_on_the_decimal_context() -> None:
    """The way in which exponents are written is a setting."""
    before = Message(value=Decimal("1E+20")).hash_key
    with decimal.localcontext() as context:
        context.capitals = 0
        context.prec = 1
        assert Message(value=Decimal("1E+20")).hash_key == before
        assert Message(value=Decimal("1.2345")).serialize() == (
            '{"$class":"Message","text":null,"value":{"$decimal":"1.2345"}}'
        )


def test_classes_are_known_by_their_names() -> None:
    """Two classes of one name make equal objects, as they have the same hash keys; other names make others."""

    def make() -> Any:
        class Same(Message):
            pass

        class Color(enum.Enum):
            RED = 1

        return Same("a", color=Color.RED)

    one, other = make(), make()
    assert type(one) is not type(other)
    assert one.hash_key == other.hash_key
    assert one == other
    assert {one} == {other}
    assert one != Message("a", color=one.color)
    assert one.__eq__("a") is NotImplemented


def test_names_of_classes_are_escaped() -> None:
    """Those of generic classes may hold anything."""
    made = Generically[Literal['x","value":"y']](value='x","value":"y')
    assert json.loads(made.serialize()) == {"$class": type(made).__name__, "value": 'x","value":"y'}


def test_huge_integers_are_refused() -> None:
    """Python writes integers up to a number of digits."""
    for sign in (1, -1):
        largest = sign * (10**4300 - 1)
        assert str(largest) in Message(value=largest).serialize()
        for value in (largest + sign, [{"a": largest + sign}]):
            with pytest.raises(ValueError, match=r"Message\.value.*: an integer of more than 4300 digits"):
                Message(value=value)


def test_only_frozen_objects_have_a_canonical_form() -> None:
    """An attribute `hash_key` does not make one."""

    class Impostor:
        hash_key = "0" * 40

    with pytest.raises(TypeError, match="Impostor objects cannot be frozen"):
        freeze(Impostor())
    unfrozen = Message()
    object.__setattr__(unfrozen, "__pydantic_extra__", {"value": Impostor()})
    with pytest.raises(TypeError, match="is not frozen, so it has no canonical form"):
        unfrozen.serialize()
    assert canonical_json({}, "X", str) == '{"$class":"X"}'


def test_further_hash_keys_are_the_same_for_ever() -> None:
    """Those of the types that JSON does not know, too."""
    value = [
        Plain.A, Flags.A, Numbers.B, Words.A, Days.FIRST, Decimal("-1.50"), b"\xff", datetime.date(2026, 1, 2),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC), 1e16, {"$x": '"$'},
    ]  # fmt: skip
    assert Message(value=value).hash_key == "505b96372966d249d1dfee073dc79f125597c46e"
