"""Messages apart from what refers to them: what is written comes back, shared as far as it can be."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniagents import Message
from miniagents.ext.checkpoints import StoreDamagedError
from miniagents.ext.checkpoints.objects import Packed, Unpacker, references_in

_texts = st.sampled_from(["a", "b", '{"$ref":"' + "0" * 40 + '"}', "$ref", "\ud83d", ""])
_messages = st.recursive(
    st.builds(Message, _texts),
    lambda inner: st.builds(lambda text, nested: Message(text, nested=nested), _texts, inner),
)
_leaves = st.one_of(st.none(), st.integers(), _texts, _messages)
_values = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.dictionaries(_texts, inner), st.lists(_messages, min_size=20)
    ),
    max_leaves=12,
)


def _objects(packed: Packed) -> dict[str, bytes]:
    return dict(packed.objects(lambda _: False))


@settings(max_examples=60)
@given(_values)
def test_what_is_written_comes_back(value: object) -> None:
    """Whatever the data is, it comes back equal, and so do the messages in it."""
    packed = Packed.of(value)
    assert Unpacker(_objects(packed)).value(packed.data) == value


@settings(max_examples=30)
@given(st.integers(0, 400), st.integers(1, 60), st.randoms(use_true_random=False))
def test_a_conversation_that_has_grown_shares_almost_all(size: int, more: int, chance: random.Random) -> None:
    """Of a longer conversation little is new but its new messages, wherever it begins and ends."""
    said = [Message(f"{chance.random()}") for _ in range(size + more)]
    known = _objects(Packed.of(said[:size]))
    packed = Packed.of(said)
    fresh = dict(packed.objects(known.__contains__))
    assert Unpacker({**known, **fresh}).value(packed.data) == said
    assert len(fresh) <= more + more // 3 + 10
    assert len(packed.data) < 10_000
    window = Packed.of(said[10:])
    assert (
        sum(b'"$refs"' in data or b'"$ref"' in data for _, data in window.objects({**known, **fresh}.__contains__)) < 8
    )


def test_the_same_message_all_over_again() -> None:
    """A conversation of one and the same message is no problem either."""
    said = [Message("again")] * 1_000
    packed = Packed.of(said)
    assert Unpacker(_objects(packed)).value(packed.data) == said
    assert len(packed.data) < 10_000


def test_what_is_known_is_not_written() -> None:
    """Nothing is asked of what is inside of an object that is known."""
    inner, other = Message("inner"), Message("other")
    packed = Packed.of([Message("outer", inner=inner), other])
    outer_key, other_key = references_in(packed.data)
    asked: list[str] = []

    def is_known(key: str) -> bool:
        asked.append(key)
        return key == outer_key

    assert [key for key, _ in packed.objects(is_known)] == [other_key]
    assert sorted(asked) == sorted([outer_key, other_key])


def test_messages_can_change_hands_while_they_are_written() -> None:
    """What was written of a message once is used again, and does not depend on where it was."""
    message = Message("x", nested=Message("y"))
    first, second = Packed.of(message), Packed.of({"other": [message]})
    assert references_in(first.data) == references_in(second.data)
    assert _objects(first) == _objects(second)
    again = Unpacker(_objects(first)).value(first.data)
    assert Packed.of([again]).data == Packed.of([message]).data
    assert again.hash_key == message.hash_key


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_damaged_objects(damage: str) -> None:
    """An object that is missing, or not what was written, is an error that names it; pieces of conversations, too."""
    packed = Packed.of([Message(f"{number}") for number in range(60)])
    whole = _objects(packed)
    for key, data in whole.items():
        objects = {**whole, key: data.replace(b"1", b"2") + b" "}
        if damage == "missing":
            del objects[key]
        with pytest.raises(StoreDamagedError, match=key):
            Unpacker(objects).value(packed.data)
