"""What an agent says while it works as a tool: its messages as they are, and a word on who speaks."""

from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import suppress
from typing import Any

from miniagents.message import Message
from miniagents.messages import MessagePromise
from promising.replay import COMPLETE, ReplayBuffer
from promising.sentinels import NO_VALUE

__all__ = ["LabelledPromise"]


class LabelledPromise(MessagePromise):
    """The message of another promise with some fields replaced.

    Its tokens are those of the other one, read by reference, so that they are seen in the same turn of the event loop,
    however deep agents are nested. An error of the other one is not raised here; the message ends there, marked
    `interrupted=True`.

    Args:
        source: The other promise.
        labels: The fields.
    """

    __slots__ = ("_labels", "_source")

    # There are many of them, and most are never read: what is the same for all, or asked for late, takes no time here.
    _context = _failure = _run = _waiters = _given_resolver = _given_streamer = _metadata = None
    _whole_from_pieces = True

    def __init__(self, source: MessagePromise, labels: Mapping[str, Any]) -> None:
        self._value = NO_VALUE
        self._source = source
        self._labels = labels

    @property
    def _buffer(self) -> ReplayBuffer[str]:  # type: ignore[override]
        return self._source._buffer

    @property
    def message_class(self) -> type[Message]:
        """See `MessagePromise`."""
        return self._source.message_class if self._value is NO_VALUE else type(self._value)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """See `MessagePromise`."""
        return {**self._source.metadata, **self._labels}

    def cancel(self) -> bool:
        """Stops nothing: the agent that speaks is no work of this promise."""
        return False

    def __aiter__(self) -> AsyncIterator[str]:
        return _QuietReader(aiter(self._source))

    def __await__(self) -> Generator[Any, Any, Message]:
        if self._value is NO_VALUE:
            with suppress(Exception):
                yield from self._source.__await__()
            self._value = self._make_whole()
        message: Message = self._value
        return message

    def _current_failure(self) -> None:
        return None

    def _make_whole(self) -> Message:
        fields = self.metadata
        if self._buffer.end is not COMPLETE:
            fields = {**fields, "interrupted": True}
        resolved = self._source._value
        text = "".join(self._source.pieces_so_far) if resolved is NO_VALUE else resolved.text  # which may be None
        try:
            return self._source.message_class(text=text, **fields)
        except Exception:  # what came of it is not enough for a message of its class
            return Message(text=text, **fields)


class _QuietReader:
    """A reader for whom an error is the end."""

    __slots__ = ("_reader",)

    def __init__(self, reader: AsyncIterator[str]) -> None:
        self._reader = reader

    def __aiter__(self) -> "_QuietReader":
        return self

    async def __anext__(self) -> str:
        try:
            return await self._reader.__anext__()
        except StopAsyncIteration:
            raise
        except Exception:
            raise StopAsyncIteration from None
