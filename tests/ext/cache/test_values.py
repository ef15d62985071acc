"""Values as JSON: what comes back, what is refused, what is not trusted."""

import enum
import json
import math
import random
import subprocess
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, SecretStr, field_validator

from miniagents import Frozen, Message
from miniagents.ext.values import UnreadableValueError, decode, encode, is_immutable, register

T = TypeVar("T")
BERLIN = ZoneInfo("Europe/Berlin")


def same(one: Any, another: Any) -> bool:
    """Equal, and of equal types, all the way down."""
    if type(one) is not type(another):
        return False
    if isinstance(one, dict):
        return list(one) == list(another) and all(same(one[key], another[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(another) and all(map(same, one, another))
    if isinstance(one, (set, frozenset)):
        return one == another and sorted(map(type, one), key=str) == sorted(map(type, another), key=str)
    if isinstance(one, BaseModel):
        fields = [dict(each) for each in (one, another)]
        return one == another and one.model_fields_set == another.model_fields_set and same(*fields)
    if isinstance(one, datetime):
        return (one == another and one.tzinfo is another.tzinfo) or repr(one) == repr(another)
    return bool(one == another) and repr(one) == repr(another)


def roundtrip(value: Any) -> Any:
    back = decode(encode(value))
    assert same(back, value)
    assert encode(back) == encode(value)
    return back


def refused(value: Any, error: type[Exception] = TypeError) -> str:
    with pytest.raises(error) as raised:
        encode(value)
    assert type(raised.value) is error
    return str(raised.value)


def unreadable(data: bytes | str) -> str:
    with pytest.raises(UnreadableValueError) as raised:
        decode(data.encode() if isinstance(data, str) else data)
    return str(raised.value)


def name(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# --- plain data ---

TEXTS = st.text(st.characters(exclude_categories=[]), max_size=5) | st.sampled_from(["$", "$class", "$$", "$tuple", ""])
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | st.integers() | FLOATS | TEXTS


@given(
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)),
)
@example({"a": ["$x", {"$class": "x"}]})
def test_plain_data_comes_back(value: Any) -> None:
    """Whatever JSON can hold comes back, also half characters and keys that look special."""
    roundtrip(value)


HASHABLE = st.recursive(
    LEAVES
    | st.binary(max_size=4)
    | st.dates()
    | st.datetimes(timezones=st.none() | st.sampled_from([UTC, BERLIN, ZoneInfo("Asia/Kathmandu")]))
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)


@given(
    st.recursive(
        HASHABLE | st.sets(HASHABLE, max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3) | st.lists(inner).map(tuple)
        ),
    )
)
def test_what_json_has_no_type_for_comes_back(value: Any) -> None:
    """Tuples, sets, bytes, dates, identifiers and decimals come back in any combination."""
    roundtrip(value)


@given(
    st.dictionaries(
        st.text(st.sampled_from("abc$"), min_size=1, max_size=3).filter(lambda text: text != "text"),
        st.recursive(
            LEAVES | st.binary(max_size=3) | st.uuids() | st.dates(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(TEXTS, inner, max_size=3)
                | st.builds(Message, TEXTS, inner=inner)
            ),
        ),
    ),
    st.none() | TEXTS,
)
def test_messages_come_back(metadata: dict[str, Any], text: str | None) -> None:
    """A message comes back equal, with the same hash key, whatever it holds."""
    message = Message(text, **metadata)
    assert roundtrip([message])[0].hash_key == message.hash_key


def test_plain_data_is_plain_json() -> None:
    """What JSON has types for is what JSON writes, without white space, in UTF-8."""
    value = {"a": [1, 2.5, None, True, "é\u2028"], "": {"b": {}}}
    assert encode(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1, [2]), '{"$tuple":[1,[2]]}'),
        ({2, 1}, '{"$set":[1,2]}'),
        (frozenset("ba"), '{"$frozenset":["a","b"]}'),
        (b"\x00\xff", '{"$bytes":"AP8="}'),
        (datetime(2026, 1, 2, 3, 4, 5, 6), '{"$datetime":"2026-01-02T03:04:05.000006"}'),
        (datetime(2026, 1, 2, tzinfo=UTC), '{"$datetime":"2026-01-02T00:00:00+00:00"}'),
        (datetime(2026, 7, 2, tzinfo=BERLIN), '{"$datetime":"2026-07-02T00:00:00+02:00[Europe/Berlin]"}'),
        (time(3, 4, tzinfo=BERLIN), '{"$time":"03:04:00[Europe/Berlin]"}'),
        (date(2026, 1, 2), '{"$date":"2026-01-02"}'),
        (timedelta(-1, 2, 3), '{"$timedelta":"-1 2 3"}'),
        (UUID(int=1), '{"$uuid":"00000000-0000-0000-0000-000000000001"}'),
        (Decimal("1.10"), '{"$decimal":"1.10"}'),
        ({"$a": {"$$b": 1}, "c": 2}, '{"$$a":{"$$$b":1},"c":2}'),
        (
            Message("Hi", seen=[1, {"$x": 2}]),
            '{"$class":"miniagents.message.Message","text":"Hi","seen":[1,{"$$x":2}]}',
        ),
        (Message(), '{"$class":"miniagents.message.Message","$unset":{"text":null}}'),
    ],
)
def test_the_format(value: Any, text: str) -> None:
    """The format is readable, and stays: what was stored by an older version has to be readable."""
    assert encode(value).decode() == text
    assert same(decode(text.encode()), value)


def test_frozen_data_comes_back_frozen() -> None:
    """A mapping that was part of a message is one that cannot be changed, and one of one's own can be."""
    message = Message("x", seen={"a": [1, {"b": ()}]})
    found = roundtrip([message.seen, {"a": [1]}])
    with pytest.raises(TypeError):
        found[0]["a"] = 1
    found[1]["a"] = 2


def test_equal_sets_give_equal_bytes_in_every_process() -> None:
    """The order of a set depends on the process; what is written does not."""
    code = "from miniagents.ext.values import encode; print(encode({'a', 'b', 'cc', 'ddd', (1, 'x')}).decode())"
    written = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in "12"
    }
    assert written == {'{"$set":["a","b","cc","ddd",{"$tuple":[1,"x"]}]}\n'}


@pytest.mark.parametrize("zone", [None, BERLIN, UTC])
@pytest.mark.parametrize("fold", [0, 1])
def test_times_that_there_are_twice(fold: int, zone: tzinfo | None) -> None:
    """In the hour that comes twice the second time is told from the first."""
    moment = datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=fold)
    assert roundtrip(moment).utcoffset() == moment.utcoffset()
    assert decode(encode(moment)).fold == decode(encode(moment.timetz())).fold == fold


def test_times_that_a_zone_has_no_longer() -> None:
    """If the rules of a zone have changed since, the moment counts."""
    back = decode(b'{"$datetime":"2026-07-02T12:00:00+05:00[Europe/Berlin]"}')
    assert back == datetime(2026, 7, 2, 7, tzinfo=UTC)
    assert back.tzinfo is BERLIN


def test_offsets_of_pydantic_come_back_as_those_of_python() -> None:
    """What pydantic has read from a text has an offset of a class of its own."""

    class Meeting(BaseModel):
        at: datetime

    meeting = Meeting.model_validate_json('{"at": "2026-01-02T03:04:05+02:00"}')
    assert decode(encode(meeting)) == meeting


# --- what is refused ---


class Text(str):
    pass


class Odd(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(0)


@dataclass
class Person:
    name: str
    birth: Any = None


class Team(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow")

    members: list[Any] = []
    _note: Any = PrivateAttr(None)


def team_with_note() -> Team:
    team = Team()
    team._note = object()
    return team


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: object(), "value"),
        (lambda: {"users": [1, 2, 3, {"birth": object()}]}, "value.users[3].birth"),
        (lambda: {"a b": [object()]}, "value['a b'][0]"),
        (lambda: ((1, object()),), "value[0][1]"),
        (lambda: [{1: 2}], "value[0]"),
        (lambda: [{"a": {None: 2}}], "value[0].a"),
        (lambda: {Text("a"): 1}, "value"),
        (lambda: [Text("a")], "value[0]"),
        (lambda: [type("Number", (int,), {})(1)], "value[0]"),
        (lambda: [type("Number", (float,), {})(1)], "value[0]"),
        (lambda: {"a": OrderedDict()}, "value.a"),
        (lambda: [namedtuple("Pair", "a b")(1, 2)], "value[0]"),
        (lambda: [type("Set", (set,), {})()], "value[0]"),
        (lambda: [type("Day", (date,), {})(2026, 1, 1)], "value[0]"),
        (lambda: bytearray(b"x"), "value"),
        (lambda: 1j, "value"),
        (lambda: ..., "value"),
        (lambda: print, "value"),
        (lambda: [Person], "value[0]"),
        (lambda: Color, "value"),
        (lambda: [Person("Ada", birth=len)], "value[0].birth"),
        (lambda: Person(["Ada", print]), "value.name[1]"),
        (lambda: Team(members=[Person("Ada"), Person("Bob", object())]), "value.members[1].birth"),
        (lambda: Team(boss=object()), "value.boss"),
        (team_with_note, "value._note"),
        (lambda: {"at": datetime(2026, 1, 1, tzinfo=Odd())}, "value.at"),
        (lambda: [{frozenset([print])}], "value[0]"),
        (lambda: [SecretStr("hush")], "value[0]"),
    ],
)
def test_what_cannot_be_represented(make: Callable[[], Any], path: str) -> None:
    """What would not come back as what it was is refused, with the path to it."""
    message = refused(make())
    assert message.startswith(f"{path}: ")
    assert "hush" not in message


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (math.nan, "value"),
        ([1, {"a": math.inf}], "value[1].a"),
        ((-math.inf,), "value[0]"),
        ({"a": 10**4300}, "value.a"),
        ([-(10**4300)], "value[0]"),
        ([{math.nan}], "value[0]"),
        ([Decimal("nan")], "value[0]"),
        ([Decimal("-Infinity")], "value[0]"),
        (["$", math.nan], "value[1]"),
    ],
)
def test_numbers_that_cannot_be_written(value: Any, path: str) -> None:
    """Numbers that JSON does not know, or that Python would not read again, are refused with the path to them."""
    assert refused(value, ValueError).startswith(f"{path}: ")


def test_the_largest_integer_comes_back() -> None:
    """Of 4300 digits an integer can still be read."""
    roundtrip([10**4300 - 1, -(10**4300) + 1])


def test_promises_are_to_be_awaited() -> None:
    """Who has forgotten to await something is told so."""
    assert "await it" in refused({"reply": Message.promise(text="x")})


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value = None
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: [value],
        lambda value: {"a": value},
        lambda value: {"$a": value},
        lambda value: (value,),
        lambda value: frozenset([value]),
        lambda value: Message("x", inner=value),
        lambda value: Person("Ada", value),
        lambda value: Holder(held=value),
    ],
)
def test_deep_nesting(wrap: Callable[[Any], Any]) -> None:
    """A hundred levels of anything can be written and read; more are refused, and say so."""
    roundtrip(nested(100, wrap))
    assert "nested more than 100 levels deep" in refused(nested(101, wrap), ValueError)


def test_values_that_contain_themselves() -> None:
    """A value that is part of itself is refused, and not written for ever."""
    items: list[Any] = []
    items.append({"a": (items,)})
    message = refused(items, ValueError)
    assert "contains itself" in message
    assert len(message) < 400


# --- enums ---


class Color(enum.Enum):
    RED = (255, 0, 0)
    CRIMSON = (255, 0, 0)  # noqa: PIE796  # an alias
    BLUE = (0, 0, 255)


class Word(enum.StrEnum):
    YES = "yes"


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2
    ALL = 3


class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2


@pytest.mark.parametrize(
    "member",
    [Color.RED, Color.CRIMSON, Word.YES, Level.LOW, Right.READ, Right(0), Right.READ | Right.WRITE, Bits(3), Bits(8)],
)
def test_members_of_enums_come_back(member: enum.Enum) -> None:
    """A member is the member again, not its value; also alone, in sets, in frozen objects, and combined."""
    found = decode(encode(member))
    assert (type(found), found) == (type(member), member)
    assert decode(encode([{member}])) == [{member}]
    inside = decode(encode(Message("x", it=[member]))).it[0]
    assert (type(inside), inside) == (type(member), member)


def test_enums_are_written_by_name() -> None:
    """The value of a member can change; what was stored still means the member."""
    assert encode(Word.YES).decode() == json.dumps({"$enum": [name(Word), "YES"]}, separators=(",", ":"))


def test_members_that_are_none_here() -> None:
    """A member that the enum does not have here, or an enum that is none, is named."""
    encode(Color.RED)
    assert "PINK" in unreadable(f'{{"$enum":["{name(Color)}","PINK"]}}')
    assert "no enum" in unreadable(f'{{"$enum":["{name(Message)}","x"]}}')
    unreadable(f'{{"$enum":["{name(Color)}"]}}')
    unreadable(f'{{"$enum":["{name(Color)}",["RED"]]}}')
    unreadable(f'{{"$enum":["{name(Right)}",64]}}')


# --- dataclasses ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Box(Generic[T]):
    content: T
    size: int = field(default=1, compare=False)
    volume: int = field(init=False, default=0)
    kinds: ClassVar[list[str]] = []

    def __post_init__(self) -> None:
        object.__setattr__(self, "volume", self.size**3)


@dataclass
class Doubling:
    x: int
    made: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.x *= 2
        self.helper = object()


@dataclass
class WithInitVar:
    x: int
    scale: InitVar[int]


@dataclass
class WithDefaultInitVar:
    x: int
    scale: InitVar[int] = 1


@dataclass(init=False)
class OwnInit:
    x: int
    y: int = 0

    def __init__(self, x: int) -> None:
        self.x = x
        self.y = -x


@dataclass(init=False)
class NoInit:
    x: int
    y: int = 0


@pydantic.dataclasses.dataclass
class Checked:
    x: int


class DerivedFromPerson(Person):
    pass


def test_dataclasses_come_back() -> None:
    """Nested, frozen, with slots, with fields that are not given: they come back as they were."""
    box = Box(content=[Person("Ada", date(1815, 12, 10)), (1,)], size=3)
    object.__setattr__(box, "volume", 5)
    back = roundtrip(box)
    assert (back.size, back.volume) == (3, 5)


def test_dataclasses_that_change_what_they_are_given() -> None:
    """What `__post_init__` makes of a field is not made of it twice; what else it makes is made."""
    thing = Doubling(2)
    thing.made.append(7)
    back = roundtrip(thing)
    assert back.x == 4
    assert back.helper is not thing.helper


def test_dataclasses_with_constructors_of_their_own() -> None:
    """They are called with the fields that they take, or with none."""
    own, none = OwnInit(1), NoInit()
    own.y = 5
    none.x = 3
    assert (roundtrip(own).y, roundtrip(none).x) == (5, 3)
    roundtrip(WithDefaultInitVar(1))
    roundtrip(Checked(1))
    unset = NoInit()
    assert not hasattr(decode(encode(unset)), "x")


def test_dataclasses_that_cannot_be_made_again() -> None:
    """A class that wants more than its fields is refused when it is written, and not when it is read."""
    assert "'scale'" in refused([WithInitVar(1, 2)])
    assert "decorate it" in refused(DerivedFromPerson("Ada"))


def test_dataclasses_that_have_changed() -> None:
    """A field that is new has its default; one that is missing or gone is named with the class."""
    encode(Person("Ada"))
    assert decode(f'{{"$class":"{name(Person)}","name":"Ada"}}'.encode()) == Person("Ada")
    for data, problem in (("", "'name'"), (',"name":"Ada","age":5', "'age'")):
        message = unreadable(f'{{"$class":"{name(Person)}"{data}}}')
        assert problem in message
        assert name(Person) in message


# --- models ---


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    number: int = Field(alias="No")
    pair: tuple[int, ...] = ()
    at: datetime | None = None
    inner: list["Item"] = []

    @field_validator("number")
    @classmethod
    def _positive(cls, number: int) -> int:
        if number < 0:
            raise ValueError("has to be positive")
        return number


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    a: int = Field(default=1, alias="b")
    stamp: float = Field(default_factory=random.random)
    _count: int = PrivateAttr(default=0)
    _unset: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return 2 * self.a


class Numbers(RootModel[list[int]]):
    pass


class Holder(BaseModel, Generic[T]):
    held: T


class Own(BaseModel):
    x: int

    def __init__(self, **data: Any) -> None:
        if "x" in data:
            raise TypeError("give y")
        super().__init__(x=data["y"])


class Point(Frozen):
    xs: list[int]
    pair: tuple[int, ...] = (1,)
    color: Color = Color.RED
    by: "Point | None" = None
    _cache: list[int] = PrivateAttr(default_factory=list)


class Rating(Message):
    stars: int = Field(alias="value")


def test_models_come_back() -> None:
    """They are made of the names of their fields, whatever their aliases are, strict and frozen as they may be."""
    item = Item(No=1, pair=(1, 2), inner=[Item(No=2, at=datetime(2026, 1, 1))])
    assert roundtrip({"items": [item]})["items"][0].inner[0].at == datetime(2026, 1, 1)
    roundtrip(Numbers([1, 2]))
    roundtrip(Rating.model_validate({"text": "good", "value": 5}))
    roundtrip(Own(y=1))


def test_what_validation_would_lose() -> None:
    """Which fields were set, further fields, private attributes and what a factory has made are restored."""
    thing = Open.model_validate({"c": (1, 2), "$d": 1})
    thing._count = 5
    back = roundtrip(thing)
    assert back.stamp == thing.stamp
    assert back.model_fields_set == {"c", "$d"}
    assert back._count == 5
    assert not hasattr(back, "_unset")
    assert roundtrip(Open()).model_extra == {}


def test_a_further_field_with_the_name_of_a_declared_one() -> None:
    """It can be there beside the declared one if that has an alias, and cannot be written beside it."""
    assert "name of a declared one" in refused(Open(b=1, a=2))  # type: ignore[call-arg]


def test_frozen_objects_come_back() -> None:
    """Equal, with the same hash key, of the same class, frozen; with tuples where they have tuples."""
    point = Point(xs=[1, 2], by=Point(xs=[]), more={"a": [b"x", Color.BLUE]})
    point._cache.append(1)
    back = roundtrip(point)
    assert back.hash_key == point.hash_key
    assert back.by.xs == ()
    assert back._cache == []


def test_models_are_validated() -> None:
    """What is not valid is not read, and the message does not tell the secrets in it."""
    message = unreadable(f'{{"$class":"{name(Item)}","number":-4711,"more":"hush"}}')
    assert name(Item) in message
    assert "number" in message
    assert "positive" in message
    assert "hush" not in message
    assert "4711" not in message
    assert "number" in unreadable(f'{{"$class":"{name(Item)}"}}')


def test_generic_models_come_back() -> None:
    """Also parametrized ones, whose arguments are known classes."""
    roundtrip(Holder(held=(1,)))
    back = roundtrip([Holder[int](held=1), Holder[Holder[Item]](held=Holder[Item](held=Item(No=1)))])
    assert type(back[0]) is Holder[int]
    roundtrip(Holder[list[int] | None](held=[1]))
    assert name(Holder) in encode(Holder[int](held=1)).decode()


def test_generic_models_that_nobody_has_parametrized_here() -> None:
    """They are made of the model and of arguments that are known, and of nothing else."""
    code = """
import pydantic
from typing import Generic, TypeVar
from miniagents.ext.values import UnreadableValueError, decode
T = TypeVar("T")
S = TypeVar("S")
class Pair(pydantic.BaseModel, Generic[S, T]):
    one: S
    two: T
class Leaf(pydantic.BaseModel):
    x: int
leaf, day = '{"$class":"__main__.Leaf","x":1}', '{"$date":"2026-01-01"}'
pair = decode(f'{{"$class":"__main__.Pair[__main__.Leaf, datetime.date]","one":{leaf},"two":{day}}}'.encode())
assert type(pair).__pydantic_generic_metadata__["args"][0] is Leaf
for name in ("Pair[os.system, int]", "Pair[int]", "Leaf[int]", "Pair[int, int", "Pair[]", "Nobody[int]"):
    try:
        decode(f'{{"$class":"__main__.{name}","one":1,"two":2}}'.encode())
    except UnreadableValueError as error:
        assert "no class '" in str(error)
    else:
        raise AssertionError(name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- classes by their names ---


def test_classes_that_are_not_known() -> None:
    """The error names the class and says what to do."""
    message = unreadable('{"a":[{"$class":"some.module.Thing","x":1}]}')
    assert "some.module.Thing" in message
    assert "import the module" in message
    assert "register" in message
    assert "some.Enum" in unreadable('{"$enum":["some.Enum","X"]}')


def test_reading_imports_nothing(tmp_path: Path) -> None:
    """A module that the data names is not imported, also where it could be; once it has been, its values are read."""
    tmp_path.joinpath("shapes.py").write_text(
        "from dataclasses import dataclass\nfrom miniagents import Message\n"
        "from miniagents.ext.values import register\n"
        "class Note(Message):\n    stars: int\n"
        "@register\n@dataclass\nclass Circle:\n    radius: int\n"
    )
    code = """
import sys
from miniagents.ext.values import UnreadableValueError, decode, encode
data = b'[{"$class":"shapes.Note","text":"x","stars":5},{"$class":"shapes.Circle","radius":2}]'
try:
    decode(data)
except UnreadableValueError as error:
    assert "shapes.Note" in str(error)
else:
    raise AssertionError
assert "shapes" not in sys.modules
import shapes
note, circle = decode(data)
assert note == shapes.Note("x", stars=5) and circle == shapes.Circle(2)
assert encode([note, circle]) == data
"""
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": f"{tmp_path}:."}, check=True)


def test_registered_names() -> None:
    """A class that is registered with a name is written with it, and still read under its own."""

    @register(name="test_values.Renamed")
    @dataclass
    class Renamed:
        x: int

    assert encode(Renamed(1)) == b'{"$class":"test_values.Renamed","x":1}'
    roundtrip(Renamed(1))
    assert decode(json.dumps({"$class": name(Renamed), "x": 1}).encode()) == Renamed(1)

    class Model(BaseModel):
        kind: ClassVar[int] = 1

    assert register(Model, name="test_values.Model") is Model
    roundtrip([Model()])
    assert b'"test_values.Model"' in encode(Model())
    with pytest.raises(ValueError, match=r"test_values\.Renamed"):
        register(Model, name="test_values.Renamed")
    with pytest.raises(TypeError):
        register("Model")  # type: ignore[call-overload]


def test_registered_without_a_name() -> None:
    """Without a name, and with or without parentheses, a class is known under its own."""

    @register
    class Kind(enum.Enum):
        ONE = 1

    @register()
    @dataclass
    class Thing:
        kind: Any

    data = f'{{"$class":"{name(Thing)}","kind":{{"$enum":["{name(Kind)}","ONE"]}}}}'
    assert decode(data.encode()) == Thing(Kind.ONE)


def define_model() -> Any:
    class Inner(BaseModel):
        x: int = 1

    return Inner


def define_frozen() -> Any:
    class Base(Frozen):
        pass

    class Inner(Base):
        x: int = 1

    return Inner


def define_dataclass() -> Any:
    @register
    @dataclass
    class Inner:
        x: int = 1

    return Inner


@pytest.mark.parametrize("define", [define_model, define_frozen, define_dataclass])
def test_of_classes_with_one_name_the_last_counts(define: Callable[[], Any]) -> None:
    """A class that is defined anew takes the place of the old one, whoever has been read or written before."""
    first = define()
    data = encode(first(x=2))
    assert type(decode(data)) is first
    second = define()
    assert type(decode(data)) is second
    assert encode(first(x=2)) == data
    assert type(decode(data)) is second


def test_an_enum_that_is_defined_anew() -> None:
    """Without `register` an enum is known by its last member that was written."""

    def define() -> Any:
        class Inner(enum.Enum):
            ONE = 1

        return Inner

    first, second = define(), define()
    data = encode(first.ONE)
    assert decode(data) is first.ONE
    assert encode(second.ONE) == data
    assert decode(data) is second.ONE


def test_modules_that_are_loaded_again(tmp_path: Path) -> None:
    """After a reload values are of the new classes, though the old ones are still there."""
    tmp_path.joinpath("shapes.py").write_text(
        "from dataclasses import dataclass\nfrom pydantic import BaseModel\n"
        "from miniagents.ext.values import register\n"
        "class Base(BaseModel):\n    pass\nclass Square(Base):\n    side: int\n"
        "@register\n@dataclass\nclass Circle:\n    radius: int\n"
    )
    code = """
import importlib
import shapes
from miniagents.ext.values import decode, encode
old = [shapes.Square(side=1), shapes.Circle(2)]
data = encode(old)
assert decode(data) == old
importlib.reload(shapes)
assert decode(data) == [shapes.Square(side=1), shapes.Circle(2)]
assert encode(old) == data
assert decode(data) == [shapes.Square(side=1), shapes.Circle(2)]
"""
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": f"{tmp_path}:."}, check=True)


# --- what is not trusted ---


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"{",
        b"[1,]",
        b"NaN",
        b"[Infinity]",
        b'["$",-Infinity]',
        b"[" * 100_000,
        b'["$' + b'",[' * 100_000,
        b"1" * 5000,
        b'{"$":1}',
        b'{"$x":1}',
        b'{"a":1,"$b":2}',
        b'{"$tuple":"abc"}',
        b'{"$tuple":[1],"a":2}',
        b'{"$set":[[1]]}',
        b'{"$frozendict":[1]}',
        b'{"$frozendict":{"a":{"$set":[1]}}}',
        b'{"$uuid":"x"}',
        b'{"$uuid":1}',
        b'{"$bytes":"?"}',
        b'{"$bytes":{"$bytes":""}}',
        b'{"$datetime":"yesterday"}',
        b'{"$datetime":"2026-01-01T00:00:00[Nowhere/Else]"}',
        b'{"$datetime":"2026-01-01T00:00:00[../../etc/passwd]"}',
        b'{"$timedelta":"1"}',
        b'{"$timedelta":"999999999999 0 0"}',
        b'{"$decimal":"one"}',
        b'{"$class":1}',
        b'{"$class":["builtins.print"]}',
        b'{"$class":"builtins.print"}',
        b'{"$class":"builtins.int"}',
        b'{"$class":"os.system","command":"ls"}',
        b'{"$class":"miniagents.message.Message","$unset":1}',
        b'{"$class":"miniagents.message.Message","text":5}',
        b'{"$class":"miniagents.message.Message","serialize":5}',
        b'{"$class":"miniagents.message.Message[int]","text":"x"}',
        b'{"$enum":"RED"}',
        b'{"$enum":[1,2,3]}',
        b'{"$private":{}}',
    ],
)
def test_what_is_no_value(data: bytes) -> None:
    """Whatever is stored there: what is no value is an `UnreadableValueError`."""
    unreadable(data)


SEEDS = [
    encode([Message("x", a=[1, {"$b": (2,)}]), Person("Ada", date(2026, 1, 1)), {1, Color.RED}, b"x", UUID(int=1)]),
    encode({"a": Item(No=1, inner=[Item(No=2)]), "b": Decimal(1), "$c": Right.READ, "d": Holder[int](held=1)}),
]


@settings(max_examples=300)
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_values(data: bytes, draw: st.DataObject) -> None:
    """A value that was damaged anywhere is read as another one or is unreadable; nothing else happens."""
    start = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(start, min(len(data), start + 12)))
    put = draw.draw(st.sampled_from([b"", b'"', b"{}", b"[]", b"1", b"$", b",", b"null", b'"$class":', data[::-1][:9]]))
    with suppress(UnreadableValueError):
        decode(data[:start] + put + data[end:])


# --- what needs no copy ---


@pytest.mark.parametrize(
    ("value", "immutable"),
    [
        *[(value, True) for value in (None, True, 1, 1.5, "x", b"x", date(2026, 1, 1), UUID(int=1), Decimal(1))],
        *[(value, True) for value in (Color.RED, Word.YES, Message("x", a=[{}]), Message("x", a={"b": 1}).a, ())],
        *[(value, True) for value in ((1, (Message("x"),)), frozenset([Color.RED]))],
        *[(value, False) for value in ([], {}, set(), ([],), (1, {}), Person("Ada"), Box(content=1), Item(No=1))],
        (Point(xs=[1]), False),
        (bytearray(), False),
    ],
)
def test_what_can_be_shared(value: Any, immutable: bool) -> None:
    """Values are shared only if nothing in them can be changed, private attributes included."""
    assert is_immutable(value) is immutable
