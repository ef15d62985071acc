"""Messages of all kinds, for tests of what keeps or sends messages."""

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from miniagents.error_messages import ErrorMessage
from miniagents.frozen import Frozen
from miniagents.message import Message

__all__ = ["SAMPLE_MESSAGES", "QuotingMessage", "RatedMessage", "SamplePlace", "SampleTone"]


class SampleTone(Enum):
    """How something is said; its members are neither strings nor numbers."""

    CALM = "calm"
    LOUD = "loud"


class SamplePlace(Frozen):
    """A frozen object that is no message."""

    name: str
    visited: list[date] = []
    near: "SamplePlace | None" = None


class RatedMessage(Message):
    """A message with a field that has to be given, and one that may be."""

    stars: int
    tone: SampleTone | None = None


class QuotingMessage(Message):
    """A message with messages inside."""

    quoted: Message
    answers: list[Message] = []


_METADATA: dict[str, Any] = {
    "none": None,
    "booleans": [True, False],
    "integers": [0, 1, -1, 2**70],
    "floats": [0.1, -0.0, 1.0, 1e300, 5e-324],
    "strings": ["", "\u2028", "$text", "\x00", '"quoted"', "back\\slash"],
    "lists": [[], [[1, [2]], "three"]],
    "mappings": [{}, {"": 1, "a.b/c:d": {"e": [{}]}, "text": "no text of the message"}],
    "keys_that_look_special": [{"$class": "Message"}, {"$datetime": "x"}, {"$tuple": [1]}, {"$$x": 1, "$": 2}],
    "bytes": [b"", bytes(range(256))],
    "dates": [date(2026, 1, 2), datetime(2026, 1, 2, 3, 4, 5, 678)],
    "dates_with_zone": [
        datetime(2026, 1, 2, tzinfo=timezone.utc),  # noqa: UP017
        datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
    ],
    "uuids": UUID(int=2**100 + 1),
    "decimals": [Decimal("1.0"), Decimal("1.00"), Decimal("-1E+20")],
    "frozen": SamplePlace(name="Rome", visited=[date(2026, 1, 2)], near=SamplePlace(name="Ostia")),
    "messages": [Message("inside"), {"deeper": [RatedMessage("deep", stars=1)]}],
}

SAMPLE_MESSAGES: dict[str, Message] = {
    "text": Message("Hello, world"),
    "empty_text": Message(""),
    "no_text": Message(role="user"),
    "nothing_at_all": Message(),
    "role": Message("Hello", role="assistant", model="m (odd)"),
    "unicode": Message("é€😀 שלום \u202e\u2028\u2029\x85 e\u0301", role="použivatel"),
    "control_characters": Message("\x00\x01\x1b[31m\x7f\ufeff\uffff"),
    "ends_of_lines": Message("\n\r\n\rlines\r\r\n\n"),
    "markup": Message("# Title\n\n## user\n\n```\n<!-- comment -->\n```\n\n---\n{'json': [}\n$1 %s {0} \\"),
    "own_class": RatedMessage("Well done", stars=5),
    "own_class_with_all_fields": RatedMessage("Well done", stars=5, tone=SampleTone.LOUD),
    "quoting": QuotingMessage("So?", quoted=Message("Why?"), answers=[RatedMessage("Because", stars=1), Message("No")]),
    "quoting_a_quotation": QuotingMessage(quoted=QuotingMessage("b", quoted=QuotingMessage("a", quoted=Message()))),
    "error_message": ErrorMessage.of(ValueError("no more ink"), "WRITER"),
    **{f"metadata_{kind}": Message("with metadata", value=value) for kind, value in _METADATA.items()},
    "all_metadata": RatedMessage("with metadata", stars=0, **_METADATA),
    "enum_in_metadata": Message("calm", value=[SampleTone.CALM]),
}
"""By their names; `enum_in_metadata` is the one whose type is declared nowhere, and not written into the value."""
