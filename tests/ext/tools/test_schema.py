"""Schemas of tools: those made of functions, and those that were given; and arguments that do not fit them."""

import functools
from collections.abc import Callable
from datetime import date
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from miniagents.ext.tools import Tool, ToolArgumentsError, tool

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class City(BaseModel):
    """Any city."""

    title: str
    color: Color = Color.RED


class Node(BaseModel):
    value: int
    children: list["Node"] = []


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


def properties_of(function: Any) -> dict[str, Any]:
    found: dict[str, Any] = tool(function, name="it").parameters["properties"]
    return found


def given(schema: Any, function: Callable[..., Any] = lambda **_: None) -> Tool:
    return tool(function, name="it", parameters=schema)


def test_a_definition_that_is_used_once_stands_in_its_place() -> None:
    """A model need not look up anything, and what is said of the parameter itself is kept."""

    def visit(city: Annotated[City, Field(description="Where to.")]) -> None: ...

    assert tool(visit).parameters == {
        "type": "object",
        "properties": {
            "city": {
                "type": "object",
                "description": "Where to.",
                "properties": {
                    "title": {"type": "string"},
                    "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                },
                "required": ["title"],
            }
        },
        "required": ["city"],
        "additionalProperties": False,
    }


def test_a_definition_that_is_used_twice_is_kept() -> None:
    """Schemas do not grow by repetition; enums, which are short, are repeated."""

    def visit(start: City, end: City, a: Color, b: Color) -> None: ...

    schema = tool(visit).parameters
    assert list(schema["$defs"]) == ["City"]
    assert schema["properties"]["end"] == {"$ref": "#/$defs/City"}
    assert schema["properties"]["a"] == schema["properties"]["b"] == {"type": "string", "enum": ["red", "blue"]}


def test_a_type_that_contains_itself() -> None:
    """It stays a definition."""

    def walk(node: Node) -> None: ...

    schema = tool(walk).parameters
    assert schema["properties"]["node"] == {"$ref": "#/$defs/Node"}
    assert schema["$defs"]["Node"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}


def test_types_that_a_discriminator_names() -> None:
    """They stay where it says that they are."""

    def pet(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> None: ...

    schema = tool(pet).parameters
    assert sorted(schema["$defs"]) == ["Cat", "Dog"]
    assert schema["properties"]["pet"]["discriminator"]["mapping"]["cat"] == "#/$defs/Cat"


def test_titles() -> None:
    """Those that pydantic makes of names are left out; parameters, fields and data of that name are not."""

    def name_it(title: str, extra: dict[str, str] = {"title": "x"}) -> None: ...  # noqa: B006

    assert properties_of(name_it) == {
        "title": {"type": "string"},
        "extra": {"type": "object", "additionalProperties": {"type": "string"}, "default": {"title": "x"}},
    }


def test_what_a_partial_function_has_set_is_shown_to_nobody() -> None:
    """It may be a key: it stands neither in the schema nor can a model replace it."""

    def call(x: int, key: str, **more: Any) -> str:
        """Calls.

        Args:
            x: How often.
            key: A secret.
            **more: The rest.
        """
        return f"{x} {key} {more}"

    made = tool(functools.partial(call, key="sk-secret"))
    assert made.description == "Calls."
    assert made.parameters["properties"] == {"x": {"type": "integer", "description": "How often."}}
    assert "sk-secret" not in f"{made!r} {made.parameters}"
    with pytest.raises(ToolArgumentsError, match="leave out key"):
        made.parse('{"x": 1, "key": "mine"}')


def test_a_default_that_is_no_data() -> None:
    """It is left out of the schema, without a warning that would show it."""

    def find(x: int, client=object()) -> None: ...  # type: ignore[no-untyped-def]  # noqa: B008

    assert properties_of(find) == {"x": {"type": "integer"}, "client": {}}


def test_a_field_as_default() -> None:
    """`limit: int = Field(5, ...)` is a default like another, and reaches the function, which has no other."""

    def find(
        limit: int = Field(5, le=9, description="How many."),
        tags: list[str] = Field(default_factory=list),  # noqa: B008
    ) -> None:
        """Finds.

        Args:
            limit: What the field says is closer.
            tags: Any.
        """

    limit = {"type": "integer", "default": 5, "maximum": 9, "description": "How many."}
    assert properties_of(find)["limit"] == limit
    assert properties_of(find)["tags"]["description"] == "Any."
    assert tool(find).parse("{}") == {"limit": 5, "tags": []}
    with pytest.raises(ToolArgumentsError, match="limit: Input should be less than"):
        tool(find).parse('{"limit": 10}')


def test_a_field_as_default_may_be_required() -> None:
    """A field without a default has to be given."""

    def find(limit: int = Field(description="How many.")) -> None: ...

    assert tool(find).parameters["required"] == ["limit"]


def test_none_as_default() -> None:
    """`city: str = None` takes null: many write it, and models that are to give all write null."""

    def find(city: str = None, size: Annotated[int, Field(ge=1)] = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    assert tool(find).parse('{"city": null, "size": null}') == {"city": None, "size": None}
    with pytest.raises(ToolArgumentsError, match="size"):
        tool(find).parse('{"size": 0}')


def test_names_that_differ_by_an_underscore() -> None:
    """Each parameter is its own."""

    def find(x: int, _x: int, x_: int, model_config: int) -> None: ...

    arguments = '{"x": 1, "_x": 2, "x_": 3, "model_config": 4}'
    assert tool(find).parse(arguments) == {"x": 1, "_x": 2, "x_": 3, "model_config": 4}


def test_a_type_that_is_unknown_at_run_time() -> None:
    """It takes anything; the other parameters keep their types."""

    def find(a: "Unknown", b: "int") -> None: ...

    assert properties_of(find) == {"a": {}, "b": {"type": "integer"}}


def test_strict_models() -> None:
    """They take dates as text, since JSON has no other."""

    class Day(BaseModel):
        model_config = ConfigDict(strict=True)
        on: date

    def plan(day: Day) -> None: ...

    assert tool(plan).parse('{"day": {"on": "2026-01-02"}}') == {"day": Day(on=date(2026, 1, 2))}


def test_positions() -> None:
    """A parameter that cannot be given by name is refused when the tool is made."""

    def find(x: int, /) -> None: ...

    with pytest.raises(TypeError, match="takes x by position only"):
        tool(find)


def test_no_signature() -> None:
    """A function without a signature that can be read is refused when the tool is made."""
    with pytest.raises(TypeError, match="signature of the tool min cannot be read"):
        tool(min)


def test_the_documentation_of_objects() -> None:
    """That of what is called is closer than that of the class; that of base classes says nothing of it."""

    class Finder:
        """A finder."""

        def __call__(self, x: int) -> None:
            """Finds.

            Keyword Args:
                x: Where.
            """

    class Silent(Finder):
        def __call__(self, x: int) -> None: ...

    made = tool(Finder())
    assert (made.name, made.description) == ("Finder", "Finds.")
    assert made.parameters["properties"]["x"]["description"] == "Where."
    assert tool(Silent()).description == ""


def test_a_given_schema_is_copied() -> None:
    """Nobody can change it afterwards, and any mapping will do."""
    inner = {"a": {"type": "integer"}}
    made = given(MappingProxyType({"type": "object", "properties": MappingProxyType(inner)}))
    inner["a"] = {"type": "string"}
    assert made.parameters == {"type": "object", "properties": {"a": {"type": "integer"}}}


def test_a_given_schema_without_properties() -> None:
    """It gets an empty list of them, since providers want one."""
    assert given({}).parameters == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "string"}, "are the schema of a string"),
        ({"type": "object", "properties": {"a": {"type": "nonsense"}}}, "no JSON schema"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:9/a.json"}}}, "refer to http://127.0.0.1:9/a.json"),
        ({"properties": {"a": {"$ref": "#/$defs/a"}}}, "refer to #/\\$defs/a"),
        (["a"], "no dict"),
    ],
)
def test_schemas_that_are_none(schema: Any, says: str) -> None:
    """What is wrong with a schema is said when the tool is made; nothing is ever fetched from a server."""
    with pytest.raises((TypeError, ValueError), match=says):
        given(schema)


def test_references_inside_of_a_given_schema() -> None:
    """They are followed."""
    made = given({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "integer"}}})
    with pytest.raises(ToolArgumentsError, match="a: 'x' is not of type 'integer'"):
        made.parse('{"a": "x"}')


def test_older_schemas() -> None:
    """A schema is read by the draft that it says it is of."""
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object"}
    made = given({**old, "properties": {"a": {"type": "integer", "minimum": 5, "exclusiveMinimum": True}}})
    with pytest.raises(ToolArgumentsError, match="a: 5 is less than or equal to the minimum"):
        made.parse('{"a": 5}')


def test_alternatives() -> None:
    """The error is about the one that was meant."""
    made = given({
        "properties": {"a": {"anyOf": [{"type": "object", "required": ["b"]}, {"type": "string"}]}},
    })  # fmt: skip
    with pytest.raises(ToolArgumentsError, match=r"a: 'b' is a required property"):
        made.parse('{"a": {}}')


def test_errors_are_short() -> None:
    """A model is not told at length what it has written itself."""
    made = given({"properties": {"a": {"type": "integer"}}})
    with pytest.raises(ToolArgumentsError) as caught:
        made.parse('{"a": "' + "x" * 10_000 + '"}')
    assert len(str(caught.value)) < 500


def test_parameters_that_the_schema_does_not_name() -> None:
    """A model cannot fill in what it was not told of, unless the schema or the function says that it may."""

    def closed(a: int, debug: bool = False) -> None: ...

    def opened(**arguments: Any) -> None: ...

    schema = {"properties": {"a": {"type": "integer"}}}
    with pytest.raises(ToolArgumentsError, match="debug: there is no such argument"):
        given(schema, closed).parse('{"a": 1, "debug": true}')
    assert given(schema, opened).parse('{"b": 1}') == {"b": 1}
    assert given({**schema, "additionalProperties": True}, closed).parse('{"debug": true}') == {"debug": True}


def test_who_calls_is_in_no_given_schema() -> None:
    """It is taken out of it, and what a model writes for it is ignored."""
    wanted = {"type": "object", "properties": {"user_id": {"type": "string"}, "a": {}}, "required": ["user_id", "a"]}
    made = given(wanted)
    assert made.parameters == {"type": "object", "properties": {"a": {}}, "required": ["a"]}
    assert made.parse('{"a": 1, "user_id": "root"}') == {"a": 1}


def test_another_schema_for_a_tool() -> None:
    """Arguments are checked by the new one."""

    def find(a: int) -> None: ...

    made = tool(tool(find), parameters={"properties": {"b": {"type": "string"}}})
    assert made.parse('{"b": "x"}') == {"b": "x"}
    with pytest.raises(ToolArgumentsError, match="a: there is no such argument"):
        made.parse('{"a": 1}')
