"""`Message`: how it is made, shown and validated."""

import pytest
from pydantic import BaseModel, ValidationError

from miniagents import Message


class Rating(Message):
    stars: int
    by: str = "nobody"


def test_text_is_positional_or_a_keyword() -> None:
    """Both forms make equal messages, in subclasses, too."""
    assert Message("a") == Message(text="a")
    assert Rating("a", stars=1) == Rating(text="a", stars=1)
    assert Message().text is None
    assert Message("a", role="user").role == "user"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("message", "shown", "text"),
    [
        (Message("hi"), "Message(text='hi')", "hi"),
        (Message("hi", role="user", n=[1]), "Message(text='hi', role='user', n=(1,))", "hi"),
        (Message(), "Message()", ""),
        (Message(""), "Message(text='')", ""),
        (Message(answer=42), "Message(answer=42)", '{"answer":42}'),
        (Rating("hi", stars=5), "Rating(text='hi', stars=5)", "hi"),
    ],
    ids=repr,
)
def test_how_it_is_shown(message: Message, shown: str, text: str) -> None:
    """`repr` shows what was given, `str` is what a model sees."""
    assert repr(message) == shown
    assert str(message) == text


def test_typed_fields_are_validated() -> None:
    """A wrong value of a declared field is pydantic's error; so is a text that is none."""
    with pytest.raises(ValidationError, match="stars"):
        Rating("a", stars="many")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="text"):
        Message(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message", [Message("a", x=[1, {"y": None}]), Rating("a", stars=1, more=True), Message()], ids=repr
)
def test_json_round_trip(message: Message) -> None:
    """A message is rebuilt from its JSON, also inside of other models."""

    class Holder(BaseModel):
        message: Message
        rating: Rating | None = None

    again = type(message).model_validate_json(message.model_dump_json())
    assert again == message
    assert type(message).model_validate(message) is message
    assert Holder.model_validate_json(Holder(message=Message("in")).model_dump_json()).message == Message("in")
    assert Message.model_json_schema()["properties"].keys() == {"text"}


def test_it_looks_like_any_pydantic_model() -> None:
    """What pydantic keeps of a model is right, although messages are made without its validator."""
    fast, slow = Message("a", b=[1]), Message.model_validate({"text": "a", "b": [1]})
    assert fast.model_fields_set == slow.model_fields_set == {"text", "b"}
    assert fast.model_extra == slow.model_extra == {"b": (1,)}
    assert fast.model_dump(exclude_unset=True) == {"text": "a", "b": (1,)}
    assert Message().model_dump(exclude_unset=True) == {}
    assert fast.model_copy(update={"c": 1}) == Message("a", b=[1], c=1)
    assert dict(fast) == {"text": "a", "b": (1,)}
