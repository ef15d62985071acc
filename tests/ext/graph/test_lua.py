"""Scripts in Lua: what they read, what they are given, what comes of it."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, computed_field

from miniagents import Message
from miniagents.ext.graph.lua import LuaProblem, Script
from miniagents.ext.graph.lua.copying import MAX_TEXT, MAX_VALUES
from miniagents.ext.graph.lua.script import MAX_SOURCE


def holds(source: str, cached: dict[str, Any] | None = None, task: Any = None) -> bool:
    return Script(source).run(cached or {}, task)


def problem_of(source: str, cached: dict[str, Any] | None = None, task: Any = None) -> str:
    with pytest.raises(LuaProblem) as raised:
        holds(source, cached, task)
    return str(raised.value)


# --- what a script is ---


@pytest.mark.parametrize(
    "source", ["true", "0", "''", "{}", "return 1 < 2", "1, false", "local x = 1 return x", "1 -- no"]
)
def test_what_is_neither_nil_nor_false_is_true(source: str) -> None:
    """A script is an expression or a chunk, and Lua says what is true."""
    assert holds(source) is True


@pytest.mark.parametrize(
    "source", ["false", "nil", "unknown", "1 > 2", "return", "if false then return true end", "nil, 1"]
)
def test_nil_false_and_nothing_are_not_true(source: str) -> None:
    """What returns nil, false or nothing does not hold."""
    assert holds(source) is False


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x >", "line 1: unexpected symbol near <eof>"),
        ("x = 1", "line 1: <eof> expected near '='"),
        ("return (\n1 +\n)", "line 3: unexpected symbol near ')'"),
        ("if x then return 1", "line 1: 'end' expected near <eof>"),
        ("'open", "line 1: unfinished string near <eof>"),
        ("ünit > 1", r"line 1: unexpected symbol near '<\195>'"),
        ("  -- nothing", "it is empty"),
        ("", "it is empty"),
        ("x" * (MAX_SOURCE + 1), f"it has {MAX_SOURCE + 1} characters, of which {MAX_SOURCE} are allowed"),
        ("_ENV.x", "there is no _ENV; read keys by their names, or as cache['key']"),
        ("cache[x]", "`cache` takes a key that is written out, as in cache['some:key'], and nothing else"),
        ("next(cache) == nil", "`cache` takes a key that is written out, as in cache['some:key'], and nothing else"),
        (r"cache['\xff']", r"'\xff' is no text, as keys are"),
    ],
)
def test_what_does_not_compile_says_why(source: str, message: str) -> None:
    """The compiler's message, with the line, or what the script may not do."""
    assert problem_of(source) == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("score + 1 > 0", "line 1: attempt to perform arithmetic on a nil value (global 'score')"),
        ("score > 1", "line 1: attempt to compare number with nil; there is no score"),
        ("task.score > 1", "line 1: attempt to compare number with nil; there is no task.score"),
        ("cache['a:b'] > 1", "line 1: attempt to compare number with nil; there is no cache['a:b']"),
        ("{} > nil", "line 1: attempt to compare nil with table"),
        ("true\nand scores.best", "line 2: attempt to index a nil value (global 'scores')"),
        ("error('no', 0)", "no"),
        ("error({})", "it has raised a value of the type table"),
        ("error()", "it has raised a value of the type nil"),
        ("assert(false)", "line 1: assertion failed!"),
        ("('x'):rep({})", "bad argument #2 to 'rep' (number expected, got table)"),
    ],
)
def test_errors_are_those_of_lua(source: str, message: str) -> None:
    """What goes wrong in a script is said in Lua's words, and what was nil in a comparison is added."""
    assert problem_of(source, task={"params": {"score": None}}) == message


# --- what it reads ---


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("a and b.c and d['e'] and f:g(h)", "a b d f h"),
        ("task.a == b", "b"),
        ("a --[[ b ]] and --[==[ c ]] ]==] d -- e\n and f", "a d f"),
        ("'a' .. \"b\\\"c\" .. 'd\\\n e' .. [[ f ]] .. [=[ g ]] ]=] .. h", "h"),
        ("'\\z  \n a' .. '\\\\' .. b", "b"),
        ("0xep1 + 1e5 + 0x.8p-2 + .5e+3 + 3 + a", "a"),
        ("0xe+b", "b"),
        ("a..b", "a b"),
        ("a.b.c..d", "a d"),
        ("a . b", "a"),
        ("a\n.b", "a"),
        ("type(a) == type", "a type"),
        ("type(a) == 'x' and string.len(b) and math['pi']", "a b"),
        ("string == 'x' or next{} or tostring'x'", "string"),
        ("cache['a:b'] == cache.c and cache[ [[d]] ]", "a:b c d"),
        (r"cache['\x61\u{20AC}\065'] and cache['ä']", "a€A ä"),
        ("cache['task'] ~= task", "task"),
        ("local x <const> = a return x", "a const x"),
        ("_x1 and __ and x_2y", "_x1 __ x_2y"),
    ],
)
def test_the_keys_that_a_script_reads(source: str, keys: str) -> None:
    """Names that stand alone, and keys of `cache`; nothing of comments, texts, numbers, fields and the language."""
    assert Script(source).keys == set(keys.split())


PIECES = {
    "name{0}": "name{0}",
    "name{0}.field": "name{0}",
    "name{0}[ [==[ ]] other ]==] ]": "name{0}",
    "(name{0}):method(other{0})": "name{0} other{0}",
    "cache['key:{0}']": "key:{0}",
    "cache[ --[[ 'x' ]] 'key:{0}']": "key:{0}",
    "task.field": "",
    "'other \\' other'": "",
    '"-- other \\\\"': "",
    "[=[ 'other ]] ]=]": "",
    "--[=[ other ]] ]=] 1": "",
    "-- other [[ \n 2": "",
    "0x1e": "",
    "1e3": "",
    "{{ name{0} }}": "name{0}",
    "math.max(1, name{0})": "name{0}",
}


@given(
    st.lists(st.sampled_from(sorted(PIECES)), min_size=1), st.sampled_from([" == ", " .. ", "..", "\n~=\n", " and "])
)
def test_names_are_found_in_whatever_stands_around_them(pieces: list[str], operation: str) -> None:
    """Pieces of Lua in any order read what each of them reads."""
    source = operation.join(f" {piece.format(number)} " for number, piece in enumerate(pieces))
    expected = " ".join(PIECES[piece].format(number) for number, piece in enumerate(pieces))
    assert Script(source).keys == set(expected.split())


def test_names_of_the_language_are_keys_where_they_are_not_called() -> None:
    """A key may have the name of a function, and Lua has the function where no key has the name."""
    assert holds("next == 'a' and type(1) == 'number'", {"next": "a"})
    assert holds("next == nil == false and tostring ~= nil")


# --- what it is given ---


class Color(Enum):
    RED = "red"
    PAIR = (1, 2)


class Size(StrEnum):
    LARGE = "large"


class Place(BaseModel):
    name: str
    distance: float = 1.5

    @computed_field  # type: ignore[prop-decorator]
    @property
    def far(self) -> bool:
        return self.distance > 1


@dataclass
class Box:
    color: Color
    inner: Any = None


class Pair(NamedTuple):
    first: int
    second: int


class Rating(Message):
    stars: int


@pytest.mark.parametrize(
    ("value", "source"),
    [
        (None, "value == nil"),
        (True, "value == true"),
        (3, "value == 3 and math.type(value) == 'integer'"),
        (3.0, "value == 3 and math.type(value) == 'float'"),
        (2**63 - 1, "value == math.maxinteger"),
        (-(2**63), "value == math.mininteger"),
        (2**63, "value == 9223372036854775808 and math.type(value) == 'float'"),
        (10**400, "value == math.huge"),
        (-(10**400), "value == -math.huge"),
        (float("nan"), "value ~= value"),
        (Decimal("0.1"), "value == 0.1"),
        (Decimal("sNaN"), "value ~= value"),
        ("größer", "value == 'größer' and #value == 8 and utf8.len(value) == 6"),
        ("\ud800", "value == '\ud800'"),
        ("\ud800\0", r"value == '\xed\xa0\x80\0'"),
        (b"\xff\0", r"value == '\xff\0'"),
        (bytearray(b"ab"), "value == 'ab'"),
        (Color.RED, "value == 'red'"),
        (Color.PAIR, "value[2] == 2"),
        (Size.LARGE, "value == 'large'"),
        (UUID(int=1), "value == '00000000-0000-0000-0000-000000000001'"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "value == '2026-01-02T03:00:00+00:00'"),
        (date(2026, 1, 2), "value > '2026-01-01'"),
        (timedelta(minutes=1), "value == 60"),
        ([], "#value == 0 and type(value) == 'table'"),
        ([1, "b", [3]], "#value == 3 and value[1] == 1 and value[3][1] == 3"),
        ((1, 2), "#value == 2"),
        ([None, 1, None], "#value == 3 and value[2] == 1 and select('#', table.unpack(value)) == 3"),
        (Pair(1, 2), "value[2] == 2"),
        ({"a": {"b": [1]}}, "value.a.b[1] == 1"),
        ({True: "y", 1.5: "z", Size.LARGE: "l"}, "value[true] == 'y' and value[1.5] == 'z' and value.large == 'l'"),
        ({Color.RED: 1}, "value.red == 1"),
        ({2: "two", Color.RED: 1}, "value.red == 1 and value[2] == 'two'"),
        (Place(name="here"), "value.name == 'here' and value.distance == 1.5 and value.far"),
        (
            Box(Color.RED, Box(Color.PAIR)),
            "value.color == 'red' and value.inner.color[1] == 1 and value.inner.inner == nil",
        ),
        (Message("Hello", role="user"), "value.text == 'Hello' and value.role == 'user'"),
        (Rating("Well done", stars=5), "value.stars > 4"),
        (Message("Hello", tags=["a", "b"]), "#value.tags == 2"),
    ],
)
def test_values_become_those_of_lua(value: Any, source: str) -> None:
    """Each kind of value has its counterpart in Lua."""
    assert holds(source, {"value": value})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, "value: set objects cannot be given to Lua"),
        ({"a": [1, {"b:c": object()}]}, "value.a[2]['b:c']: object objects cannot be given to Lua"),
        (Box(Color.RED, len), "value.inner: builtin_function_or_method objects cannot be given to Lua"),
        (Box, "value: type objects cannot be given to Lua"),
        ({None: 1}, "value[None]: Lua has no such keys; use texts or numbers"),
        ({float("nan"): 1}, "value[nan]: Lua has no such keys"),
        ({(1, 2): 1}, "value[(1, 2)]: Lua has no such keys"),
        ([0] * MAX_VALUES, f"value[{MAX_VALUES - 1}]: more than {MAX_VALUES} values are too many; keep the little"),
        (["x" * MAX_TEXT + "x"], f"value[1]: more than {MAX_TEXT} bytes of text are too much"),
    ],
)
def test_what_has_no_counterpart_is_an_error_with_the_path(value: Any, message: str) -> None:
    """What Lua cannot be given is named, with the way to it as Lua would write it."""
    assert problem_of("value == 1", {"value": value}).startswith(message)


def test_a_cycle_is_an_error() -> None:
    """A value that contains itself is an error after a bounded time, once or twice."""
    narrow: list[Any] = []
    narrow.append(narrow)
    wide: dict[str, Any] = {}
    wide |= {"a": wide, "b": wide}
    assert "are too deep; is there a cycle?" in problem_of("value", {"value": narrow})
    assert "are too deep; is there a cycle?" in problem_of("value", {"value": wide})


def test_the_same_value_twice_is_two_copies() -> None:
    """A value that occurs twice is no cycle, and its copies are apart."""
    twice = [1]
    assert holds("value[1][1] = 2 return value[2][1] == 1", {"value": [twice, twice]})


def test_only_what_is_read_is_copied() -> None:
    """Fields that a script does not read may be what Lua cannot be given."""
    cached = {"value": {"good": 1, "bad": object()}}
    assert holds("value.good == 1 and value['good'] == 1", cached)
    assert "value.bad: object" in problem_of("value.bad == 1", cached)
    assert "value.bad: object" in problem_of("local all = value return all.good == 1", cached)
    assert holds("value", {"value": 1, "other": object()})


def test_scripts_get_copies() -> None:
    """What a script writes, nobody sees."""
    value = {"list": [1, 2], "text": "x"}
    assert holds("value.list[1] = 5 value.text = nil score = 1 return value.list[1] == 5", {"value": value})
    assert value == {"list": [1, 2], "text": "x"}


def test_the_params_of_a_task_come_before_its_fields() -> None:
    """`task.x` is in the params, or else a field; all of them where the task is looked at as a whole."""
    task = {"status": Size.LARGE, "type": "field", "params": {"ready": True, "type": "param", "none": None}}
    assert holds("task.ready and task.type == 'param' and task.status == 'large' and task.params.ready", task=task)
    assert holds(
        "local names = {} for name in pairs(task) do names[name] = 1 end return names.ready and names.status", task=task
    )
    assert holds("task.none == nil and task.unknown == nil", task=task)


@pytest.mark.parametrize("params", [None, [1], Place(name="here")])
def test_params_that_are_no_mapping_are_a_field(params: Any) -> None:
    """A task whose params are something else has fields alone."""
    assert holds("task.name == nil and task.type == 't'", task={"type": "t", "params": params})


def test_a_task_may_be_missing() -> None:
    """Without a task `task` is nil; what is no task is an error where the script reads it."""
    assert holds("task == nil")
    assert (
        problem_of("task.x", task=object()) == "task: object objects are no tasks; give a mapping, model or dataclass"
    )
    assert holds("1", task=object())


# --- what Lua computes is what Python computes ---

OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "~=": operator.ne,
}
INTEGER_OPERATIONS = {"//": operator.floordiv, "%": operator.mod}
Expression = tuple[str, Callable[[list[Any]], Any]]


def combined(operations: dict[str, Callable[[Any, Any], Any]], parts: st.SearchStrategy[Expression]) -> Any:
    def build(name: str, left: Expression, right: Expression) -> Expression:
        operation = operations[name]
        return f"({left[0]} {name} {right[0]})", lambda values: operation(left[1](values), right[1](values))

    return st.builds(build, st.sampled_from(sorted(operations)), parts, parts)


def variable(index: int) -> Expression:
    return f"v[{index + 1}]", lambda values: values[index]


VARIABLES = st.integers(0, 3).map(variable)
SUMS = st.recursive(VARIABLES, lambda parts: combined(OPERATIONS, parts), max_leaves=4)
WHOLE = st.one_of(SUMS, combined(INTEGER_OPERATIONS, VARIABLES))
LOGIC = {"and": lambda left, right: left and right, "or": lambda left, right: left or right}


def conditions(numbers: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    return st.recursive(combined(COMPARISONS, numbers), lambda parts: combined(LOGIC, parts), max_leaves=4)


@given(conditions(WHOLE), st.lists(st.integers(-10_000, 10_000).filter(bool), min_size=4, max_size=4))
def test_integers_are_computed_as_in_python(condition: Expression, values: list[int]) -> None:
    """A condition over integers holds in Lua where it holds in Python."""
    source, expected = condition
    assert holds(source, {"v": values}) is expected(values)


@given(
    conditions(SUMS),
    st.lists(st.one_of(st.floats(allow_nan=True), st.integers(-10_000, 10_000)), min_size=4, max_size=4),
)
def test_floats_are_computed_as_in_python(condition: Expression, values: list[float]) -> None:
    """A condition over floats and integers holds in Lua where it holds in Python, infinite ones and NaN among them."""
    source, expected = condition
    assert holds(source, {"v": values}) is expected(values)


@given(conditions(VARIABLES), st.lists(st.text(max_size=3), min_size=4, max_size=4))
def test_texts_are_compared_as_in_python(condition: Expression, values: list[str]) -> None:
    """Texts are in the order of their code points."""
    source, expected = condition
    assert holds(source, {"v": values}) is expected(values)


@given(conditions(VARIABLES), st.lists(st.integers(-(2**63), 2**63 - 1) | st.floats(), min_size=4, max_size=4))
def test_large_integers_and_floats_are_compared_exactly(condition: Expression, values: list[float]) -> None:
    """A float and an integer of 64 bits are compared by their values, without rounding."""
    source, expected = condition
    assert holds(source, {"v": values}) is expected(values)
