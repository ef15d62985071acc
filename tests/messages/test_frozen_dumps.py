"""Frozen objects in pydantic: dumps, schemas, and as fields of other models. Warnings are errors here."""

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from miniagents import Frozen, Message


class Color(Enum):
    RED = "red"


class Row(TypedDict):
    cells: list[int]


class Pair(NamedTuple):
    left: int
    right: list[int]


class Circle(Frozen):
    kind: Literal["circle"] = "circle"
    sizes: list[float] = []


class Square(Frozen):
    kind: Literal["square"] = "square"

    @model_validator(mode="after")
    def _check(self) -> "Square":
        return self


class Rich(Message):
    numbers: list[int] = [1]
    table: dict[str, list[int]] = {"a": [1]}
    matrix: list[list[int]] = [[1], []]
    either: list[int] | str | dict[str, list[float]] | None = None
    mixed: list[list[str] | int] = []
    limited: Annotated[list[int], Field(min_length=1)] = [1]
    pairs: tuple[list[int], ...] = ()
    times: list[datetime] = []
    ids: dict[str, UUID] = {}
    colors: list[Color] = []
    sequence: Sequence[list[int]] = [[1]]
    row: Row | None = None
    pair: Pair | None = None
    shapes: list[Annotated[Circle | Square, Field(discriminator="kind")]] = []
    inner: "Rich | None" = None
    children: list["Rich"] = []
    anything: Any = None


class Mutable(BaseModel):
    numbers: list[int] = [1]


class Holder(BaseModel):
    one: Rich
    many: list[Rich] = []
    named: dict[str, Rich] = {}
    some: Circle | Square | None = None
    mutable: Mutable = Mutable()
    row: Row | None = None


@dataclass
class Held:
    one: Rich
    many: list[Rich]


FIELDS: list[dict[str, Any]] = [
    {},
    {"text": "t"},
    {"numbers": [1, 2], "matrix": [[1, 2], [3]], "pairs": [[1], [2]]},
    {"either": [1]},
    {"either": []},
    {"either": "x"},
    {"either": {"a": [1.5]}},
    {"mixed": [["a"], 3]},
    {"times": [datetime(2026, 1, 1)], "ids": {"a": UUID(int=1)}, "colors": [Color.RED]},
    {"row": {"cells": [1]}, "pair": (1, [2])},
    {"shapes": [Circle(kind="circle", sizes=[1.5]), Square(kind="square")]},
    {"inner": {"numbers": [3]}, "children": [{"children": [{"numbers": [4]}]}]},
    {"anything": [{"a": [1]}], "more": {"b": [2]}},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_round_trips(fields: dict[str, Any]) -> None:
    """Dumps neither raise nor warn, and bring back an equal object."""
    made = Rich(**fields)
    for options in ({}, {"exclude_unset": True}, {"round_trip": True}):
        assert Rich.model_validate(made.model_dump(**options)) == made
        assert Rich.model_validate_json(made.model_dump_json(**options)) == made
        assert Rich.model_validate(made.model_dump(mode="json", **options)) == made
    adapter = TypeAdapter(list[Rich])
    assert adapter.validate_json(adapter.dump_json([made])) == [made]
    assert adapter.validate_python(adapter.dump_python([made])) == [made]
    assert Rich.model_validate(made) is made


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_fields_of_other_models(fields: dict[str, Any]) -> None:
    """The same holds where a foreign model, or a dataclass, has them as fields."""
    made = Rich(**fields)
    holder = Holder(one=made, many=[made], named={"a": made}, some=Circle(sizes=[1]))
    assert holder.one is made
    assert Holder.model_validate(holder.model_dump()) == holder
    assert Holder.model_validate_json(holder.model_dump_json()) == holder
    assert holder.model_copy(deep=True) == holder
    held = Held(made, [made])
    adapter = TypeAdapter(Held)
    assert adapter.validate_json(adapter.dump_json(held)) == held


def test_a_wrong_value_is_still_told() -> None:
    """Only tuples in place of lists are what they should be."""
    with pytest.warns(UserWarning, match="numbers|tuple"):
        Rich.model_construct(numbers="none").model_dump(include={"numbers"})
    assert str(Rich.model_construct(numbers="none")) == '{"numbers":"none"}'


def test_serializers_of_items_are_used() -> None:
    """A list is written item by item, as it was declared."""

    class Shown(Frozen):
        prices: list[Annotated[int, PlainSerializer(lambda price: f"{price} EUR")]]

        total: Annotated[list[int], PlainSerializer(sum)] = [1, 2]

    assert Shown(prices=[1, 2]).model_dump(exclude={"total"}) == {"prices": ("1 EUR", "2 EUR")}
    assert Shown(prices=[1, 2]).model_dump_json() == '{"prices":["1 EUR","2 EUR"],"total":3}'


def test_mutable_models_are_left_alone() -> None:
    """Those of others keep their lists."""

    class Either(Frozen):
        value: Mutable | list[int]
        like_a_schema: dict[str, str] = {"type": "list"}

    class Deferred(Frozen):
        model_config = ConfigDict(defer_build=True)

        row: Row

    class Both(BaseModel):  # builds both at once
        first: Row
        deferred: Deferred
        second: Row

    row: Row = {"cells": [1]}
    assert Both(first=row, deferred={"row": row}, second=row).model_dump() == {  # type: ignore[arg-type]
        "first": row,
        "deferred": {"row": {"cells": (1,)}},
        "second": row,
    }
    assert Either(value=[1]).like_a_schema == {"type": "list"}
    assert "function-wrap" not in str(Mutable.__pydantic_core_schema__)

    assert Either(value=[1]).model_dump(include={"value"}) == {"value": (1,)}
    with pytest.raises(TypeError, match="Mutable is a mutable model"):
        Either(value=Mutable())
    assert Mutable().model_dump() == TypeAdapter(Mutable).dump_python(Mutable()) == {"numbers": [1]}
    dumped = Holder(one=Rich(row={"cells": [1]}), row={"cells": [1]}).model_dump()
    assert (dumped["mutable"], dumped["row"]) == ({"numbers": [1]}, {"cells": [1]})
    assert dumped["one"]["row"] == {"cells": (1,)}


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_schemas(mode: Literal["validation", "serialization"]) -> None:
    """JSON schemas are those of the declared types, wherever the class is used."""
    schema = Rich.model_json_schema(mode=mode)["$defs"]["Rich"]["properties"]
    assert schema["numbers"] == {"default": [1], "items": {"type": "integer"}, "title": "Numbers", "type": "array"}
    assert schema["children"]["items"] == {"$ref": "#/$defs/Rich"}
    assert set(Holder.model_json_schema(mode=mode)["$defs"]) >= {"Rich", "Circle", "Square", "Color"}
    assert TypeAdapter(list[Circle]).json_schema(mode=mode)["items"] == {"$ref": "#/$defs/Circle"}


def test_classes_that_are_built_again() -> None:
    """A class can be derived from, and rebuilt, and is the same as before."""

    class Derived(Rich):
        further: list[str] = []

    made = Derived(further=["a"], numbers=[2], children=[Rich(numbers=[3])])
    before = made.model_dump()
    Derived.model_rebuild(force=True)
    again = Derived(further=["a"], numbers=[2], children=[Rich(numbers=[3])])
    assert again == made
    assert again.model_dump() == before
    assert Derived.model_validate(before) == made
