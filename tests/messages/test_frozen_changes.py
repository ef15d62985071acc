"""Frozen objects: the ways by which one might be changed that are not plain assignments."""

import contextlib
import datetime
import decimal
import enum
import pickle
import uuid
import warnings
import zoneinfo
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, Self

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, field_validator, model_validator

from miniagents import Frozen, Message
from miniagents.frozen import FrozenDict, FrozenSetOfNames


class Bare(Frozen):
    pass


class Validated(Frozen):
    """Its validators return what is mutable."""

    value: Any = None
    after: Any = None
    others: list["Validated"] = []

    @field_validator("value")
    @classmethod
    def _wrap(cls, value: Any) -> Any:
        return {"given": [value]}

    @model_validator(mode="after")
    def _set(self) -> "Validated":
        object.__setattr__(self, "after", [len(self.hash_key)])
        return self


class Counting(Frozen):
    runs: ClassVar[list[str]] = []

    @model_validator(mode="after")
    def _count(self) -> Self:
        self.runs.append(type(self).__name__)
        return self


class CountingMessage(Counting, Message):
    pass


class Private(Message):
    numbers: list[int] = [1]
    _notes: list[str] = PrivateAttr(default_factory=list)

    @cached_property
    def doubled(self) -> list[int]:
        return [2 * number for number in self.numbers]


class Holder(BaseModel):
    one: Validated
    many: list[Validated] = []


CHANGES: dict[str, Callable[[Any], Any]] = {
    "init": lambda m: m.__init__("other"),
    "init by keyword": lambda m: m.__init__(text="other"),
    "init of the base": lambda m: Frozen.__init__(m, text="other"),
    "setstate": lambda m: m.__setstate__(Message("other").__getstate__()),
    "getstate": lambda m: m.__getstate__()["__dict__"].update(text="other"),
    "getstate, names": lambda m: m.__getstate__()["__pydantic_fields_set__"].clear(),
    "new underscore": lambda m: setattr(m, "_new", 1),
    "dict": lambda m: setattr(m, "__dict__", {"text": "other"}),
    "class": lambda m: setattr(m, "__class__", Private),
    "extra": lambda m: setattr(m, "__pydantic_extra__", {}),
    "model_extra": lambda m: m.model_extra.update(role="other"),
    "model_extra, init": lambda m: m.model_extra.__init__(role="other"),
    "table, init": lambda m: m.table.__init__(a=1),
    "table, or": lambda m: m.table.__ior__({"a": 1}),
    "names": lambda m: m.model_fields_set.add("other"),
    "names, init": lambda m: m.model_fields_set.__init__(["other"]),
    "names, discard": lambda m: m.model_fields_set.discard("role"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize(
    "make",
    [Message, Private, lambda *args, **fields: Message.model_validate({"text": args[0], **fields})],
    ids=["message", "subclass", "validated"],
)
def test_it_is_the_same_after_any_attempt(make: Any, change: Callable[[Any], Any], hashed: bool) -> None:
    """Whether refused or not, an attempt at a change has no effect, on this object and on others."""
    message = make("text", role="user", table={"a": [1]})
    if hashed:
        message.hash_key  # noqa: B018
    with contextlib.suppress(TypeError, ValueError, AttributeError):
        change(message)
    same = make("text", role="user", table={"a": [1]})
    assert (repr(message), message.hash_key, message.serialize()) == (repr(same), same.hash_key, same.serialize())
    assert message.model_fields_set == {"text", "role", "table"}
    assert Message("other").model_fields_set == {"text"}
    assert type(message) is type(same)


def test_init_is_called_once() -> None:
    """A second call is refused, also where there are no declared fields to tell by."""
    for made in (Message("a"), Message(), Message(a=1), Bare(a=1), Bare(), Private("a"), Message.model_construct()):
        before = repr(made)
        with pytest.raises(TypeError, match="made already"):
            made.__init__(b=2)  # type: ignore[misc]
        with pytest.raises(TypeError, match="made already"):
            made.__setstate__(made.__getstate__())
        assert repr(made) == before


def test_shared_names_cannot_be_changed() -> None:
    """All messages with nothing but a text share them."""
    names: Any = FrozenSetOfNames(["a"])
    names.__init__(["b"])
    assert names == {"a"}
    with pytest.raises(TypeError):
        names.add("b")


def test_a_frozen_dict_is_frozen_however_it_is_made() -> None:
    """Its constructor freezes what it is given, and refuses what cannot be frozen."""
    inner = [1]
    table = FrozenDict({"a": inner}, b={"c": inner})
    inner.append(2)
    assert table == {"a": (1,), "b": {"c": (1,)}}
    assert type(pickle.loads(pickle.dumps(table))) is FrozenDict
    assert Message(table=table).table is table  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="no order"):
        FrozenDict(a={1})

    class Lax(FrozenDict):
        __setitem__ = dict.__setitem__

    assert type(Message(table=Lax(a=[1])).table) is FrozenDict  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Validated(value=1),
        lambda: Validated.model_validate({"value": 1}),
        lambda: Validated.model_validate_json('{"value": 1}'),
        lambda: TypeAdapter(Validated).validate_python({"value": 1}),
        lambda: Holder.model_validate({"one": {"value": 1}}).one,
        lambda: Holder.model_validate({"one": {}, "many": [{"value": 1}]}).many[0],
        lambda: Validated.model_validate({"others": [{"others": [{"value": 1}]}]}).others[0].others[0],
    ],
)
def test_what_validators_return_is_frozen(make: Callable[[], Validated]) -> None:
    """It does not matter who has asked for the validation, and at which depth."""
    made = make()
    assert made.value == {"given": (1,)}
    assert type(made.value) is FrozenDict
    assert made.after == (40,)
    assert made.hash_key == pickle.loads(pickle.dumps(made)).hash_key


@pytest.mark.parametrize("kind", [Counting, CountingMessage])
def test_validators_run_once(kind: type[Counting]) -> None:
    """They do so whichever way the object is made."""
    for make in (kind, lambda: kind.model_validate({}), lambda: kind.model_validate_json("{}")):
        Counting.runs.clear()
        make()
        assert Counting.runs == [kind.__name__]


def test_further_fields_are_frozen_by_all_constructors() -> None:
    """Lists in fields that nobody has declared become tuples, too."""
    names = {"a"}
    constructed = Message.model_construct(names, a=[1])
    names.add("b")
    assert constructed.model_fields_set == {"a"}
    for made in (
        constructed,
        Message.model_validate({"a": [1]}),
        Message.model_validate_json('{"a": [1]}'),
        Message().model_copy(update={"a": [1]}),
        Message().copy(update={"a": [1]}),
        Bare(a=[1]),
        Private.model_validate({"text": None, "a": [1]}),
    ):
        assert made.a == (1,)  # type: ignore[union-attr]
        assert type(made.model_extra) is FrozenDict
    for names_of_methods in ({"copy": 1}, {"hash_key": 1}):
        with pytest.raises(TypeError, match="has methods of the name"):
            Message.model_validate(names_of_methods)
        with pytest.raises(TypeError, match="has methods of the name"):
            Frozen(**names_of_methods)


def test_an_old_pickle_is_frozen() -> None:
    """Unpickling freezes what it finds."""
    made = Private.__new__(Private)
    state = {**Private("a", more=1).__getstate__()}
    made.__setstate__({**state, "__dict__": {"text": "a", "numbers": [5]}, "__pydantic_extra__": {"more": [1]}})
    assert made == Private("a", numbers=[5], more=[1])
    assert made.numbers == (5,)
    assert type(made.model_extra) is FrozenDict


def test_what_is_no_content() -> None:
    """Cached properties and private attributes have no influence on anything, before or after the first look."""
    one, other = Private("a"), Private("a")
    assert one.doubled == [2]
    one._notes.append("x")
    assert one.hash_key == other.hash_key
    assert dict(one) == dict(other) == {"text": "a", "numbers": (1,)}
    assert one.model_dump() == other.model_dump()
    assert one.model_copy(update={"numbers": [2]}).doubled == [4]
    with pytest.raises(AttributeError):
        one.doubled = [7]
    assert Message("a", _hash_key="b") != Message("a")
    assert Message("a", _hash_key="b").model_copy()._hash_key == "b"  # type: ignore[attr-defined]


def test_defaults_are_frozen() -> None:
    """What stands in a class as a default is copied, and frozen, for each object."""
    assert Private().numbers == Private("a").numbers == (1,)
    assert Private.model_fields["numbers"].default == [1]


class Bytes(bytes):
    note = "hidden"
    hash_key = "0" * 40


class Moment(datetime.datetime):
    pass


class Day(datetime.date):
    pass


class Amount(decimal.Decimal):
    pass


class Id(uuid.UUID):
    pass


class Whole(int):
    def __int__(self) -> int:
        return 7


class Real(float):
    def __float__(self) -> float:
        return 7.0


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Bytes(b"x"), b"x"),
        (Moment(2026, 1, 2, 3, 4, 5, 6), datetime.datetime(2026, 1, 2, 3, 4, 5, 6)),
        (Day(2026, 1, 2), datetime.date(2026, 1, 2)),
        (Amount("1.50"), decimal.Decimal("1.50")),
        (Id(int=5), uuid.UUID(int=5)),
        (Whole(5), 5),
        (Real(1.5), 1.5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_subclasses_become_plain(value: Any, plain: Any) -> None:
    """Their objects could be changed, or behave in ways of their own."""
    message: Any = Message(value=value, inside=[value])
    assert type(message.value) is type(message.inside[0]) is type(plain)
    assert message.value == plain
    assert message == Message(value=plain, inside=[plain])


class ListValued(enum.Enum):
    ONE = [1]


class TupleEnum(tuple, enum.Enum):  # type: ignore[type-arg]
    ONE = (1, [2])


class NanEnum(float, enum.Enum):
    NAN = float("nan")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (ListValued.ONE, r"Message\.value\[0\]: .* has a value that can be changed"),
        (TupleEnum.ONE, r"Message\.value\[0\]: .* has a value that can be changed"),
        (NanEnum.NAN, r"Message\.value\[0\]: nan is not a number"),
    ],
    ids=str,
)
def test_enums_with_mutable_values_are_refused(member: enum.Enum, message: str) -> None:
    """A member stands for its value, and dumps write that."""
    with pytest.raises((TypeError, ValueError), match=message):
        Message(value=[member])


def test_a_time_zone_becomes_its_offset() -> None:
    """What is no content does not remain: the rules of the zone, which may change, and `fold`."""

    class Zone(datetime.tzinfo):
        hours: int | None = 1

        def utcoffset(self, _: Any) -> datetime.timedelta | None:
            return None if self.hours is None else datetime.timedelta(hours=self.hours)

        def dst(self, _: Any) -> None:
            return None

    assert Message(at=datetime.datetime(2026, 1, 1, fold=1)).at.fold == 0  # type: ignore[attr-defined]
    zone = Zone()
    message: Any = Message(at=datetime.datetime(2026, 1, 1, tzinfo=zone))
    zone.hours = 5
    assert message.at == datetime.datetime.fromisoformat("2026-01-01T00:00:00+01:00")
    assert type(message.at.tzinfo) is datetime.timezone
    zone.hours = None
    assert Message(at=datetime.datetime(2026, 1, 1, tzinfo=zone)) == Message(at=datetime.datetime(2026, 1, 1))
    try:
        berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("there are no time zones here")
    for fold, offset in ((0, 2), (1, 1)):
        ambiguous: Any = Message(at=datetime.datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold))
        assert ambiguous.at.utcoffset() == datetime.timedelta(hours=offset)
        assert ambiguous.at.fold == 0
        assert Message.model_validate({"at": ambiguous.at}) == ambiguous


def test_copies_keep_what_is_not_replaced() -> None:
    """Also fields with an alias, of strict classes, and what factories have made."""

    class Strict(Frozen):
        model_config = ConfigDict(strict=True)

        numbers: list[int] = Field(alias="given")
        id: uuid.UUID = Field(default_factory=uuid.uuid4)

    made = Strict(given=[1])
    copied = made.model_copy(update={"label": [2]})
    assert (copied.numbers, copied.id, copied.label) == ((1,), made.id, (2,))  # type: ignore[attr-defined]
    assert copied.model_fields_set == {"numbers", "label"}
    assert made.model_copy(update={"numbers": [3], "id": uuid.UUID(int=1)}).model_fields_set == {"numbers", "id"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made.copy() == made
