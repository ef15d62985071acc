"""Values that states share: which copies count as changed, and what typed values are checked for."""

# mypy: disable-error-code="arg-type,assignment,call-arg,list-item,name-defined"

import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, NewType, Protocol, TypedDict, TypeVar

import pydantic.dataclasses
import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    SkipValidation,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict as ExtensionsTypedDict

from miniagents.ext.workflow import Context, StateTypeError
from miniagents.ext.workflow.copies import detached, is_same
from miniagents.ext.workflow.typed import check_fields, check_type, updated
from miniagents.frozen import Frozen
from tests.ext.workflow.helpers import agent_of

# --- what counts as changed ---


@dataclass(eq=False)
class Incomparable:
    numbers: list[int] = field(default_factory=list)


@dataclass
class Hidden:
    name: str = "Ada"
    notes: list[str] = field(default_factory=list, compare=False)
    left_out: int = field(init=False, repr=False)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    number: int = 0
    _log: list[int] = PrivateAttr(default_factory=list)


class FrozenWithPrivate(Frozen):
    names: list[str] = []
    _seen: int = 0


class Unfriendly:
    """An object that is not copied."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = object.__hash__

    def __deepcopy__(self, _: Any) -> "Unfriendly":
        return Unfriendly()


def ring() -> list[Any]:
    made: list[Any] = [1, {}]
    made[1]["ring"] = made
    made.append((made,))
    return made


UNCHANGED: list[Any] = [
    [], {}, 5, None, "a", (), [1, "a", None, 2.5], {"a": 1}, {"a": {"b": [{"c": (1, [2])}]}},
    [math.nan], {"a": math.nan}, {1, 2}, frozenset({1}), bytearray(b"1"), ring(),
    Incomparable(), [Incomparable([1])], {"a": Incomparable()}, Hidden(notes=["a"]),
    Open(), Open(number=1, more=[1]), FrozenWithPrivate(names=["a"]),
    [Unfriendly()], {"a": Unfriendly()}, deque([Unfriendly(), []]), OrderedDict(a=Unfriendly()),
    Counter("abc"), OrderedDict(a=[1]), defaultdict(list, a=[1]), deque([[1], Incomparable()], maxlen=5),
]  # fmt: skip


@pytest.mark.parametrize("value", UNCHANGED, ids=lambda value: type(value).__name__)
def test_a_copy_that_was_merely_read_is_the_same(value: Any) -> None:
    """Whatever its classes make of `==`."""
    assert is_same(detached(value), value)


def put(key: Any, item: Any) -> Callable[[Any], None]:
    """A change of one item."""
    return lambda value: value.__setitem__(key, item)


def put_field(name: str, item: Any) -> Callable[[Any], None]:
    """A change of one field."""
    return lambda value: setattr(value, name, item)


def reordered(value: Any) -> None:
    value["a"] = value.pop("a")


HERE = timezone(timedelta(hours=1))
CHANGES: list[tuple[Any, Callable[[Any], Any]]] = [
    ([0], put(0, False)),
    ([1], put(0, True)),
    ([1], put(0, 1.0)),
    ([0.0], put(0, -0.0)),
    ([math.nan], put(0, 0.0)),
    ([Decimal("1.0")], put(0, Decimal("1.00"))),
    ([datetime(2026, 1, 1, 12, tzinfo=UTC)], put(0, datetime(2026, 1, 1, 13, tzinfo=HERE))),
    ([(1,)], put(0, (True,))),
    ([(1,)], put(0, [1])),
    ([[1], [2]], lambda value: value.reverse()),
    ({"a": 1, "b": 2}, reordered),
    ({1: "a"}, lambda value: value.__setitem__(True, value.pop(1))),
    ({"a": [0]}, lambda value: value["a"].__setitem__(0, False)),
    ([Unfriendly()], put(0, Unfriendly())),
    (ring(), lambda value: value[1].__setitem__("more", 1)),
    (ring(), put(0, 2)),
    (Incomparable(), lambda value: value.numbers.append(1)),
    (Hidden(), lambda value: value.notes.append("a")),
    (Hidden(), put_field("notes", ["a"])),
    (Hidden(), put_field("left_out", 1)),
    (Open(), put_field("number", False)),
    (Open(), put_field("number", 0)),
    (Open(), put_field("more", 1)),
    (Open(more=[1]), lambda value: value.more.append(2)),
    (Open(), lambda value: value._log.append(1)),
    (Counter(a=1, b=1), reordered),
    (Counter(a=1), put("a", True)),
    (OrderedDict(a=1, b=1), lambda value: value.move_to_end("a")),
    (OrderedDict(a=[0]), lambda value: value["a"].__setitem__(0, False)),
    (defaultdict(int, a=1), lambda value: value["b"]),
    (defaultdict(int), put_field("default_factory", None)),
    (deque([0]), put(0, False)),
    (deque([Unfriendly(), []]), lambda value: value[1].append(1)),
]  # fmt: skip


@pytest.mark.parametrize(("value", "change"), CHANGES, ids=lambda value: type(value).__name__)
def test_a_copy_that_was_changed_is_not_the_same(value: Any, change: Callable[[Any], Any]) -> None:
    """Also where `==` sees no difference; and what it was copied from has not changed."""
    copied = detached(value)
    change(copied)
    assert not is_same(copied, value)
    assert is_same(detached(value), value)


def test_putting_the_same_there_again_is_no_change() -> None:
    """An equal leaf of the same type is the same, whichever object it is."""
    value = [10**30, "some text", 2.5, datetime(2026, 1, 1, tzinfo=UTC), (1, "a"), {"a": Hidden()}]
    copied = detached(value)
    copied[:] = [10**30, "".join(["some ", "text"]), 5 / 2, datetime(2026, 1, 1, tzinfo=UTC), (1, "a"), {"a": Hidden()}]
    assert is_same(copied, value)


def test_what_nobody_can_change_is_not_copied() -> None:
    """Tuples of plain items stay the same objects in the copy of what they are in."""
    value = [(1, ("a",)), (1, [])]
    copied = detached(value)
    assert copied[0] is value[0]
    assert copied[1] is not value[1]


async def test_parallel_readers_of_what_cannot_be_compared() -> None:
    """Reading an object of a class without `==` sets nothing."""

    async def start(context: Context) -> list[str]:
        context.set_state("key", Incomparable([1]))
        return ["left", "right"]

    async def left(context: Context) -> None:
        assert context.get_typed("key", Incomparable).numbers == [1]

    async def right(context: Context) -> None:
        assert context.get_state("key").numbers == [1]

    assert (await agent_of(start, left, right).run())["key"].numbers == [1]


async def test_changes_in_place_that_equality_does_not_see() -> None:
    """The others see them, and those of a failed attempt they do not."""

    async def start(context: Context) -> str:
        context.set_state("flags", [0, 1])
        context.set_state("hidden", Hidden())
        context.set_state("open", Open(more=[]))
        return "change"

    async def change(context: Context) -> None:
        context.get_state("flags")[:] = [False, True]
        context.get_state("hidden").notes.append("a")
        context.get_state("open").more.append(context.attempt)
        if context.attempt == 1:
            raise ValueError

    agent = agent_of(start)
    agent.add_state("change", change, max_retries=1)
    result = await agent.run()
    assert str(result["flags"]) == "[False, True]"
    assert (result["hidden"].notes, result["open"].more) == (["a"], [2])


# --- of which type a value is ---


class Shape(Protocol):
    sides: int


@dataclass
class Inner:
    x: int


@dataclass
class Outer:
    inner: Inner
    more: Any = None
    row: "Row | None" = None
    model: "InnerModel | None" = None


class InnerModel(BaseModel):
    x: int = 0
    many: list[int] = []


class OuterModel(BaseModel):
    inner: InnerModel = InnerModel()
    of_dataclass: list[Inner] = []


@dataclass
class Node:
    number: int
    following: "Node | None" = None


@dataclass
class Local:
    number: int
    friend: "Unknown | None" = None  # noqa: F821
    friends: list["Unknown"] = field(default_factory=list)  # noqa: F821


@dataclass
class OfLocal:
    local: Local
    locals: list[Local] = field(default_factory=list)


ItemT = TypeVar("ItemT")


@dataclass
class Box(Generic[ItemT]):
    item: ItemT
    shape: Shape | None = None


class BoxModel(BaseModel, Generic[ItemT]):
    item: ItemT


@dataclass
class OfBoxes:
    box: Box[int]
    model: BoxModel[int]


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int = Field(0, alias="theNumber")
    other: int = Field(0, alias="number")
    inner: InnerModel = InnerModel()


class Row(TypedDict):
    number: int


class ExtensionsRow(ExtensionsTypedDict):
    number: int


UserId = NewType("UserId", int)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, Any),
        ({"number": 1}, ExtensionsRow),
        ([{"number": 1}], list[ExtensionsRow]),
        (5, UserId),
        (None, None),
        (5, Annotated[int, Field(gt=1)]),
        (Incomparable(), Incomparable | None),
        ({"a": (Incomparable(), None)}, dict[str, tuple[Incomparable | None, ...]]),
        ([Aliased()], Sequence[Aliased | Incomparable]),
        ([Local(1)], list[Local]),
        (Box(5), Box[int]),
    ],
)
def test_types_that_are_no_classes(value: Any, expected: Any) -> None:
    """What pydantic can check is checked."""
    check_type("key", value, expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"number": "1"}, ExtensionsRow),
        ({}, ExtensionsRow),
        ("5", UserId),
        (5, None),
        ({"x": 1}, InnerModel | None),
        ([{"x": 1}], list[InnerModel]),
        ([Inner(1)], list[Local]),
    ],
)
def test_values_of_other_types_that_are_no_classes(value: Any, expected: Any) -> None:
    """The error says what it is instead."""
    with pytest.raises(StateTypeError, match=f"'key' is a {type(value).__name__}, not a "):
        check_type("key", value, expected)


def unchecked(_: Any) -> Any:
    raise RuntimeError("the validator is broken")


@pytest.mark.parametrize(
    "expected",
    ["Forward", list["Forward"], Shape, list[Shape], 5, [int], (int, str), Annotated[Any, AfterValidator(unchecked)]],  # noqa: F821
)
def test_what_is_no_type_to_check_against(expected: Any) -> None:
    """The error says so, whatever pydantic or `isinstance` make of it."""
    with pytest.raises(StateTypeError, match="no type that a value can be checked against; give a class"):
        check_type("key", [1], expected)


# --- fields of other types ---


def assigned(model: Any, **values: Any) -> Any:
    """A model with other fields, which pydantic does not check."""
    for name, value in values.items():
        setattr(model, name, value)
    return model


def appended(model: InnerModel, item: Any) -> InnerModel:
    model.many.append(item)
    return model


WRONG: list[tuple[Any, str]] = [
    (Outer(Inner("a")), "the field 'x' of Inner is a str; it should be int"),
    (Outer(Inner(1), [Inner(1), Inner("a")]), "the field 'x' of Inner"),
    (Outer(Inner(1), {"a": ({"b": Inner("a")},)}), "the field 'x' of Inner"),
    (Outer(Inner(1), deque([InnerModel.model_construct(x="a")])), "the field 'x' of InnerModel"),
    (Outer(Inner(1), model={"x": 1}), "the field 'model' of Outer"),
    (Outer(5), "the field 'inner' of Outer is a int; it should be Inner"),
    (assigned(InnerModel(), x="7"), "the field 'x' of InnerModel is a str; it should be int"),
    (appended(InnerModel(), "7"), "the field 'many' of InnerModel"),
    (OuterModel(inner=assigned(InnerModel(), x="7")), "the field 'x' of InnerModel"),
    (OuterModel.model_construct(of_dataclass=[Inner("a")]), "the field 'x' of Inner"),
    (Node(1, Node(2, Node("3"))), "the field 'number' of Node is a str"),
    (Local("a"), "the field 'number' of Local"),
    (OfLocal(Local("a")), "the field 'number' of Local"),
    (OfLocal(5), "the field 'local' of OfLocal"),
]


@pytest.mark.parametrize(("value", "message"), WRONG)
def test_a_field_of_a_wrong_type_is_found_wherever_it_is(value: Any, message: str) -> None:
    """In objects in fields, in containers of objects, and where it was assigned later."""
    with pytest.raises(StateTypeError, match=f"^'key': {message}"):
        check_fields("key", value)


class Color(Enum):
    RED = "red"


class Lenient(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    absent: int = None
    text: Annotated[int, AfterValidator(str)] = 1
    skipped: SkipValidation[int] = 1
    words: list[str] = []
    anything: Unfriendly = Unfriendly()

    @field_validator("words")
    @classmethod
    def _counted(cls, value: list[str]) -> Any:
        return len(value)


class ByValue(BaseModel):
    model_config = ConfigDict(use_enum_values=True)

    color: Color = Color.RED


def round_trip() -> Node:
    first = Node(1)
    first.following = first
    return first


RIGHT: list[Any] = [
    Local(1, "whoever", [5]),
    OfLocal(Local(1, 5), [Local(1)]),
    Outer(Inner(1), [Inner(2), 5, "a", Unfriendly()], {"number": 1}),
    Box(5),
    Box(Inner(1)),
    OfBoxes(Box(1), BoxModel(item=1)),
    round_trip(),
    OuterModel(of_dataclass=[Inner(1)]),
    Lenient(),
    Lenient(text=5, skipped="a", words=["a"]),
    ByValue(color="red"),
    FrozenWithPrivate(names=["a"]),
    RootModel[list[int]]([1]),
]


@pytest.mark.parametrize("value", RIGHT, ids=lambda value: type(value).__name__)
def test_objects_whose_fields_are_what_they_should_be(value: Any) -> None:
    """So are types that are not known here, defaults, and what a validator of a model has made."""
    check_fields("key", value)


def test_a_class_in_a_function_knows_itself() -> None:
    """Its own name in its annotations stands for it, though no module has it."""

    @dataclass
    class Tree:
        number: int
        children: "list[Tree]" = field(default_factory=list)

    check_fields("key", Tree(1, [Tree(2)]))
    for wrong in (Tree(1, [5]), Tree(1, [Tree("2")])):
        with pytest.raises(StateTypeError, match="of Tree is"):
            check_fields("key", wrong)


# --- other values of some fields ---


class Unusual(BaseModel):
    """Has a constructor of its own and is iterated in its own way."""

    numbers: list[int]

    def __init__(self, *numbers: int) -> None:
        super().__init__(numbers=list(numbers))

    def __iter__(self) -> Any:
        return iter(self.numbers)


class Lax(BaseModel):
    model_config = ConfigDict(strict=False)

    n: int = 0


class PartlyLax(BaseModel):
    strict: int = 0
    lax: int = Field(0, strict=False)
    split: list[str] = []

    @field_validator("split", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value


class Span(BaseModel):
    start: int
    end: int

    @model_validator(mode="after")
    def _is_forward(self) -> "Span":
        if self.start > self.end:
            raise ValueError("it ends before it starts")
        return self


@pydantic.dataclasses.dataclass
class PydanticPoint:
    x: int = 0


def test_fields_with_aliases_are_updated_by_their_names() -> None:
    """Also where the alias of one is the name of another; what was not given stays so."""
    before = Aliased(theNumber=1)
    made = updated("key", before, {"number": 2})
    assert (made.number, made.other, made.model_fields_set) == (2, 0, {"number"})
    assert updated("key", made, {"other": 3}).model_dump() == {
        "number": 2,
        "other": 3,
        "inner": InnerModel().model_dump(),
    }
    assert before.number == 1


def test_models_are_updated_by_their_fields() -> None:
    """Whatever their constructors and iterators make of it, and with all that they have."""
    assert updated("key", Unusual(1, 2), {"numbers": [3]}).numbers == [3]
    assert updated("key", RootModel[list[int]]([1]), {"root": [2]}).root == [2]
    assert updated("key", Open(more=[1]), {"number": 2}).model_dump() == {"number": 2, "more": [1]}
    assert updated("key", Span(start=1, end=2), {"start": 3, "end": 4}) == Span(start=3, end=4)
    assert updated("key", FrozenWithPrivate(names=["a"]), {"names": ("b",)}).names == ("b",)


def test_values_are_converted_where_a_model_wants_that() -> None:
    """By its configuration, by that of a field, or by a validator of it."""
    assert updated("key", Lax(), {"n": "7"}).n == 7
    assert updated("key", PartlyLax(), {"lax": "7", "split": "a,b"}) == PartlyLax(lax=7, split=["a", "b"])


@pytest.mark.parametrize(
    ("value", "changes", "message"),
    [
        (InnerModel(), {"x": "7"}, "the field 'x' of InnerModel is a str; it should be int"),
        (InnerModel(), {"many": ["7"]}, "the field 'many' of InnerModel"),
        (Aliased(), {"number": "7"}, "the field 'number' of Aliased"),
        (Aliased(), {"inner": {"x": 1}}, "the field 'inner' of Aliased"),
        (PartlyLax(), {"strict": "7"}, "the field 'strict' of PartlyLax"),
        (PydanticPoint(), {"x": "7"}, "the field 'x' of PydanticPoint"),
        (Lax(), {"n": "seven"}, ""),
        (Span(start=1, end=2), {"start": 3}, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_models_refuse_values_of_other_types(value: Any, changes: dict[str, Any], message: str) -> None:
    """They do not convert them, as dataclasses do not."""
    with pytest.raises(StateTypeError, match=f"'key' cannot be updated: {message}"):
        updated("key", value, changes)
