"""`Message`: what agents send each other, immutable and known by the hash of its content."""

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from miniagents.canonical import canonical_json, canonical_text
from miniagents.frozen import (
    ATOMS,
    NO_ITEMS,
    Frozen,
    FrozenDict,
    FrozenSetOfNames,
    fill_dict,
    freeze,
    key_of_nested,
    new_dict,
)
from promising.promise import StartSoon
from promising.sentinels import DEFAULT

if TYPE_CHECKING:
    from miniagents.messages import MessagePromise, TokenStreamer

__all__ = ["Message"]

MessageT = TypeVar("MessageT", bound="Message")

_NO_FIELDS = FrozenSetOfNames()
_TEXT_ONLY = FrozenSetOfNames({"text"})  # shared by all messages that are text and nothing else, which most of them are


class Message(Frozen):
    """A message: a text, and whatever else there is to say about it.

    Subclasses add fields that pydantic validates. See `Frozen` for what fields can hold.

    Args:
        text: The text.
        **metadata: Further fields.

    Example:
        ```python
        message = Message("Hello", role="user")
        assert str(message) == message.text == "Hello"
        assert message == Message(role="user", text="Hello")

        class Rating(Message):
            stars: int

        print(Rating("Well done", stars=5))
        ```
    """

    text: str | None = Field(default=None, kw_only=False)  # for type checkers: it may be positional in subclasses, too

    def __init__(self, text: str | None = None, **metadata: Any) -> None:
        if type(self) is not Message or (text is not None and type(text) is not str):
            if text is not None:
                metadata["text"] = str.__str__(text) if isinstance(text, str) else text
            super().__init__(**metadata)
            return
        # The same outcome as above, without pydantic's validator: it has nothing to validate here, and this is done for
        # each reply of each agent.
        fields = self.__dict__
        if fields:
            self._refuse_if_made()
        fields["text"] = text  # pyright: ignore[reportIndexIssue]  # an object's is a dict, whatever it says
        if metadata:
            if not self._taken_names.isdisjoint(metadata):
                self._check_names(metadata)
            for name, value in metadata.items():
                if type(value) not in ATOMS:
                    metadata[name] = freeze(value, f"Message.{name}")
            extra = new_dict(FrozenDict)
            fill_dict(extra, metadata)
            _set(self, "__pydantic_extra__", extra)
            _set(self, "__pydantic_fields_set__", {*extra} if text is None else {"text", *extra})
        else:
            _set(self, "__pydantic_extra__", NO_ITEMS)
            _set(self, "__pydantic_fields_set__", _NO_FIELDS if text is None else _TEXT_ONLY)
        _set(self, "__pydantic_private__", None)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # see `Frozen`

    @classmethod
    def promise(
        cls: type[MessageT],
        streamer: "TokenStreamer | None" = None,
        *,
        start_soon: StartSoon = DEFAULT,
        **metadata: Any,
    ) -> "MessagePromise":
        """Makes the promise of a message of this class, which is streamed.

        Args:
            streamer: `async def streamer(promise)` that yields tokens and may call `promise.add_metadata(...)` for what
                is known only at the end; or a `StreamAppender[str]`.
            start_soon: False to start with the first read.
            **metadata: The other fields.

        Returns:
            The promise: iterate it for the tokens, await it for the message. Without a streamer the promise is
            resolved, and `text` may be among the metadata.
        """
        from miniagents.messages import MessagePromise

        if streamer is not None and "text" in metadata:
            raise TypeError("the text of a message comes from its streamer; give a text or a streamer, not both")
        if streamer is None:
            return MessagePromise.of(cls(**metadata))
        return MessagePromise(streamer, message_class=cls, metadata=metadata, start_soon=start_soon)

    def serialize(self) -> str:
        """See `Frozen.serialize`."""
        if type(self) is Message:
            text, extra = self.text, self.__pydantic_extra__
            if extra:
                return canonical_json({"text": text, **extra}, "Message", key_of_nested)
            if text is not None:
                return canonical_text(text, "Message")
        return super().serialize()

    def __str__(self) -> str:
        if self.text is not None:
            return self.text
        return super().__str__() if self.__pydantic_fields_set__ else ""


_set = object.__setattr__
