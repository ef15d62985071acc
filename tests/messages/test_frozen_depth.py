"""Frozen objects that are nested deeply, or many times."""

import time
from typing import Any

import pytest

from miniagents import Frozen, Message
from miniagents.frozen import freeze

DEPTH = 100_000


class Link(Frozen):
    inner: "Link | None" = None
    others: list[Any] = []


def _chain(kind: type[Frozen], depth: int = DEPTH) -> Any:
    made = kind()
    for number in range(depth):
        made = kind(inner=made) if number % 2 else kind(inner=None, others=[{"a": (made,)}])
    return made


@pytest.mark.parametrize("kind", [Message, Link])
def test_chains_without_end(kind: type[Frozen]) -> None:
    """Hash keys, equality and the walk through what is inside need no recursion."""
    one, other = _chain(kind), _chain(kind)
    assert one == other
    assert hash(one) == hash(other)
    nested = list(one.iter_nested())
    assert len(nested) == DEPTH
    assert nested[0] == kind()
    assert nested[-1].hash_key in one.serialize()
    assert _chain(kind).serialize() == one.serialize()
    assert one.model_copy(update={"label": 1}) != one


@pytest.mark.parametrize("kind", [Message, Link])
def test_chains_are_shown_in_part(kind: type[Frozen]) -> None:
    """`repr` is cut off; dumps say what is wrong."""
    made = _chain(kind)
    shown = repr(made)
    assert len(shown) < 100_000
    assert shown.count(f"{kind.__name__}(...)") == 1
    with pytest.raises(ValueError, match="depth"):
        made.model_dump_json()
    with pytest.raises(ValueError, match="depth"):
        str(made)
    assert str(Message("text", inner=made)) == "text"


def test_hashing_while_growing_takes_linear_time() -> None:
    """The hash key of each step is made from the one before."""
    made = Message("0")
    start = time.process_time()
    for _ in range(10_000):
        made = Message("1", inner=[Message("2", inner=made)])
        made.hash_key  # noqa: B018
    assert time.process_time() - start < 10


def test_an_object_that_is_there_many_times_comes_once() -> None:
    """Otherwise a few dozen objects, each in the next one twice, would come billions of times."""
    made = Message("0")
    for number in range(1, 60):
        made = Message(str(number), left=made, right=[made])
    assert [str(inner) for inner in made.iter_nested()] == [str(number) for number in range(59)]
    assert len(made.hash_key) == 40


def test_the_order_of_what_is_inside() -> None:
    """Objects come in the order of the fields, each after those inside of it."""
    a, b, c = Message("a"), Message("b"), Message("c")
    outer = Message("o", first=[a, {"x": b}], second=Message("s", parts=(c, a)), third=b)
    assert [str(inner) for inner in outer.iter_nested()] == ["a", "b", "c", "s"]


@pytest.mark.parametrize("depth", [18, 100, 300])
@pytest.mark.parametrize("bad", [{1}, float("nan"), {1: 2}], ids=["set", "nan", "key"])
def test_the_path_to_what_is_refused(bad: Any, depth: int) -> None:
    """It is found at once, at whichever depth."""
    value, path = bad, ""
    for number in range(depth):
        value, path = ([None, value], f"[1]{path}") if number % 2 else ({"a": 1, "b": value}, f".b{path}")
    start = time.process_time()
    with pytest.raises((TypeError, ValueError)) as caught:
        freeze(value, "it")
    assert str(caught.value).startswith(f"it{path}: ")
    assert time.process_time() - start < 1
