"""The parts of messages that are more than text: images, thoughts, and calls of tools.

What a model has said, or is told, is the `text` of a message; what else belongs to the message are its `parts`. They
are the same for all providers, each of which translates them to and from its wire format.
"""

import base64
import mimetypes
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from miniagents.frozen import Frozen
from miniagents.message import Message

__all__ = [
    "ImagePart",
    "Part",
    "TextPart",
    "ThinkingPart",
    "ToolCallPart",
    "ordered_parts",
    "parts_of",
    "tool_calls_of",
]


class TextPart(Frozen):
    """A text between other parts. It is needed only where the order matters; all else is in the `text` of the message.

    Attributes:
        text: The text.
    """

    type: Literal["text"] = "text"
    text: str


class ImagePart(Frozen):
    """An image: its bytes together with their media type, or an address.

    Attributes:
        data: The bytes.
        media_type: What the bytes are, "image/png" for example.
        url: The address of the image, in place of bytes.

    Raises:
        ValueError: There are both bytes and an address, or neither, or bytes of no known type.

    Example:
        ```python
        UserMessage("What is on these?", parts=[ImagePart.from_file("cat.png"), ImagePart(url="https://..../dog.jpg")])
        ```
    """

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    type: Literal["image"] = "image"
    data: bytes | None = None
    media_type: str | None = None
    url: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.data is None) is (self.url is None):
            raise ValueError("an image has either `data=`, with its `media_type=`, or a `url=`")
        if self.data is not None and not self.media_type:
            raise ValueError('the bytes of an image need their media type: `media_type="image/png"`')
        return self

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Makes an image of an address.

        Args:
            url: The address. Of one that holds the image itself ("data:image/png;base64,...") the bytes are taken.

        Returns:
            The image.
        """
        kind, comma, data = url.partition(",")
        if not (comma and kind.startswith("data:") and kind.endswith(";base64")):
            return cls(url=url)
        return cls(data=base64.b64decode(data), media_type=kind.removeprefix("data:").removesuffix(";base64"))

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Reads an image.

        Args:
            path: Its file; the name says the type.

        Returns:
            The image.
        """
        return cls(data=Path(path).read_bytes(), media_type=mimetypes.guess_type(str(path))[0])


class ThinkingPart(Frozen):
    """What a model has said to itself before its answer.

    Attributes:
        text: The thoughts, or a summary of them, as far as the provider shows them.
        signature: What the provider needs to recognise its thoughts when they are sent back.
        redacted: Thoughts that the provider shows in encrypted form only.
        id: What the provider calls them.
        provider: Whose signature it is; to others the thoughts are sent without.
    """

    type: Literal["thinking"] = "thinking"
    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    id: str | None = None
    provider: str | None = None


class ToolCallPart(Frozen):
    """A model's wish to have a tool called.

    Attributes:
        id: Which call it is; the result has the same as its `tool_call_id`.
        name: The tool.
        arguments: The arguments as the model has written them: JSON, if all is well.
    """

    type: Literal["tool_call"] = "tool_call"
    id: str
    name: str
    arguments: str = "{}"


Part: TypeAlias = Annotated[TextPart | ImagePart | ThinkingPart | ToolCallPart, Field(discriminator="type")]
"""What a message can consist of, its text apart."""

_KNOWN = (TextPart, ImagePart, ThinkingPart, ToolCallPart)


def parts_of(message: Message) -> tuple[Any, ...]:
    """The parts of a message as they were given, without its text.

    Args:
        message: Any message, also one whose class declares no parts.

    Returns:
        Its parts.
    """
    return tuple(part for part in getattr(message, "parts", None) or () if isinstance(part, _KNOWN))


def ordered_parts(message: Message) -> tuple[Any, ...]:
    """All parts of a message in the order in which a model is to see them, its text among them.

    Args:
        message: Any message.

    Returns:
        Its parts. Where none of them is text, the text of the message stands after the thoughts and before the rest.
    """
    parts = parts_of(message)
    if any(isinstance(part, TextPart) for part in parts):
        return parts
    text = str(message) if message.text is not None or not parts else ""
    if not text:
        return parts
    if not parts:
        return (TextPart(text=text),)
    thoughts = [part for part in parts if isinstance(part, ThinkingPart)]
    return (*thoughts, TextPart(text=text), *(part for part in parts if not isinstance(part, ThinkingPart)))


def tool_calls_of(message: Message) -> tuple[ToolCallPart, ...]:
    """The calls of tools that a model has asked for in a message.

    Args:
        message: Any message.

    Returns:
        The calls, in order.
    """
    return tuple(part for part in parts_of(message) if isinstance(part, ToolCallPart))
