"""Frozen objects: immutable at every depth, equal and addressed by their content."""

import copy
import datetime
import decimal
import enum
import math
import pickle
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import Frozen, Message
from miniagents.ext.plain import from_plain, to_plain
from miniagents.frozen import FrozenDict, freeze

ROOT = Path(__file__).parents[2]


class Color(enum.Enum):
    RED = 1


class Mood(enum.StrEnum):
    GOOD = "good"


class Typed(Frozen):
    numbers: list[int]
    table: dict[str, list[int]] = {"default": [1]}
    inner: Message | None = None


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    | st.binary() | st.uuids() | st.dates() | st.datetimes() | st.decimals(allow_nan=False, allow_infinity=False)
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.builds(lambda v: Message("nested", value=v), inner)
    ),
    max_leaves=10,
)


@given(values)
def test_freezing_again_changes_nothing(value: Any) -> None:
    """What is frozen stays as it is, and equals itself made once more."""
    frozen = freeze(value)
    assert freeze(frozen) == frozen
    first, second = Message("m", value=value), Message("m", value=frozen)
    assert first == second
    assert first.hash_key == second.hash_key
    assert hash(first) == hash(second)


@given(values, values)
def test_equality_is_that_of_the_hash_keys(one: Any, other: Any) -> None:
    """Messages are equal exactly when their hash keys are."""
    first, second = Message("m", value=one), Message("m", value=other)
    assert (first == second) is (first.hash_key == second.hash_key)


@given(values)
def test_copies_are_equal(value: Any) -> None:
    """Pickles, copies and plain data bring back an equal message, with or without its hash key known."""
    message = Message("m", value=value)
    for _ in range(2):
        assert pickle.loads(pickle.dumps(message)) == copy.deepcopy(message) == copy.copy(message) == message
        assert from_plain(to_plain(message)) == message
        assert "_hash_key" not in pickle.dumps(message).decode("latin1")
        assert len(message.hash_key) == 40


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (1, 1.0), (0.0, -0.0), ("1", 1), ([], {}), (None, "null"), (b"x", "x"), ({"$bytes": "eA=="}, b"x"),
     ({"$frozen": Message("a").hash_key}, Message("a")), ({"$$bytes": "eA=="}, {"$bytes": "eA=="}),
     (datetime.date(2026, 1, 1), "2026-01-01"), (Message("a"), {"text": "a"})],
)  # fmt: skip
def test_what_looks_alike_is_told_apart(one: Any, other: Any) -> None:
    """Values of different types never have the same hash key, also where one imitates the notation of the other."""
    assert Message(value=one).hash_key != Message(value=other).hash_key
    assert Message(value=one) != Message(value=other)
    assert Message(value=[one]) != Message(value=[other])


def test_the_class_belongs_to_the_content() -> None:
    """Objects of two classes are never equal."""

    class Other(Message):
        pass

    assert Other("a").hash_key != Message("a").hash_key
    assert Other("a") != Message("a")


PINNED = {
    "1553346a5081c4c885e4ad5d0e3b0486c8db7a9e": Message("\ud83d"),
    "2cee81ff9c097631f391b59db70dd3a72b9f8fae": Message(
        "hi", role="user", items=[1, {"a": [1, 2]}], nested=Message("x")
    ),
    "504f2ce09c3f438ce7ed139f0c727c31fb05585f": Message("x"),
}


@pytest.mark.parametrize("key", PINNED)
def test_hash_keys_are_the_same_for_ever(key: str) -> None:
    """A hash key is an address: it does not change from version to version."""
    assert PINNED[key].hash_key == key


def test_hash_keys_are_the_same_in_every_process() -> None:
    """The seed of Python's own hashes has no influence."""
    code = "from miniagents import Message; print(Message('a', b={'y': 1, 'x': [2.5, None]}, c=Message('d')).hash_key)"
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(keys) == 1


def test_serialized_form() -> None:
    """The canonical JSON is sorted and compact, has the class first, and refers to nested objects by their keys."""
    inner = Message("inner")
    message = Message("é", b=[True, None], a={"$x": 1.5}, inner=inner, d=decimal.Decimal("1.50"))
    assert message.serialize() == (
        '{"$class":"Message","a":{"$$x":1.5},"b":[true,null],"d":{"$decimal":"1.50"},'
        f'"inner":{{"$frozen":"{inner.hash_key}"}},"text":"é"}}'
    )
    assert list(Message("o", parts=[{"deep": Message("middle", i=inner)}]).iter_nested()) == [
        inner,
        Message("middle", i=inner),
    ]


def test_nothing_can_be_changed() -> None:
    """Every public way to change something raises an error."""
    message = Message("m", table={"a": [1]}, typed=Typed(numbers=[1]))
    table: Any = message.table  # type: ignore[attr-defined]
    for change in (
        lambda: setattr(message, "text", "x"),
        lambda: setattr(message, "new", "x"),
        lambda: delattr(message, "text"),
        lambda: table.__setitem__("a", 1),
        lambda: table.update(b=1),
        lambda: table.pop("a"),
        lambda: table.setdefault("b"),
        lambda: table.clear(),
        lambda: table.popitem(),
        lambda: table.__delitem__("a"),
        lambda: table.__ior__({"b": 1}),
        lambda: table["a"].append(2),
    ):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            change()
    assert message == Message("m", table={"a": [1]}, typed=Typed(numbers=[1]))
    assert table == {"a": (1,)}
    assert isinstance(table, FrozenDict)


def test_declared_fields_are_frozen_too() -> None:
    """Lists and dicts of declared fields, and their defaults, become immutable; dumps do not warn."""
    given = [1, 2]
    typed = Typed(numbers=given, inner={"text": "i"})
    given.append(3)
    assert typed.numbers == (1, 2)
    assert typed.table == {"default": (1,)}
    assert typed.inner == Message("i")
    assert Typed.model_validate_json(typed.model_dump_json()) == typed
    assert typed.model_dump() == {"numbers": (1, 2), "table": {"default": (1,)}, "inner": {"text": "i"}}
    assert typed.model_copy(update={"numbers": [5]}).numbers == (5,)
    with pytest.raises(ValueError, match="numbers"):
        typed.model_copy(update={"numbers": "no"})


looped: list[Any] = []
looped.append(looped)
deep: list[Any] = []
for _ in range(100_000):
    deep = [deep]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"a": [{1}]}, r"value\.a\[0\]: a set has no order"),
        ([{"b": math.nan}], r"value\[0\]\.b: nan"),
        ([math.inf], r"value\[0\]: inf"),
        ({1: 2}, "key 1 is no string"),
        ([object()], r"value\[0\]: object objects"),
        (looped, "contains itself"),
        (deep, "nested too deeply"),
        (decimal.Decimal("NaN"), "not a finite number"),
    ],
    ids=["set", "nan", "inf", "key", "object", "looped", "deep", "decimal"],
)
@pytest.mark.parametrize("how", ["init", "copy", "construct"])
def test_what_cannot_be_frozen(bad: Any, message: str, how: str) -> None:
    """It is refused with the path to it, whichever way it comes."""
    with pytest.raises((TypeError, ValueError), match=message):
        if how == "init":
            Message("m", value=bad)
        elif how == "copy":
            Message("m").model_copy(update={"value": bad})
        else:
            Message.model_construct(value=bad)


def test_names_of_methods_are_no_fields() -> None:
    """A field that would hide a method is refused: given, declared or constructed."""
    for make in (lambda: Message(serialize=1), lambda: Message.model_construct(hash_key=1)):
        with pytest.raises(TypeError, match="has methods of the name"):
            make()
    with pytest.raises((TypeError, ValueError, NameError, UserWarning)):

        class Bad(Message):
            serialize: str  # type: ignore[assignment]


def test_subclasses_of_plain_types() -> None:
    """Strings, numbers and enums of one's own become, or equal, what they are at heart."""

    class Text(str):
        __slots__ = ()

    message = Message(Text("t"), text2=Text("t"), mood=Mood.GOOD, color=Color.RED, id=uuid.UUID(int=1))
    assert type(message.text) is str
    assert type(message.text2) is str  # type: ignore[attr-defined]
    assert message == Message("t", text2="t", mood="good", color=Color.RED, id=uuid.UUID(int=1))
