"""Promises of messages: a message that comes token by token. The message itself is in `miniagents.message`."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeAlias

from miniagents import persist
from miniagents.message import Message
from promising.errors import UnresolvedPromiseError
from promising.promise import StartSoon
from promising.replay import COMPLETE, ReplayBuffer
from promising.sentinels import DEFAULT, NO_VALUE
from promising.stream import StreamedPromise
from promising.unconsumed import Failure

__all__ = ["Message", "MessagePromise", "MessageSequencePromise", "TokenStreamer"]

TokenStreamer: TypeAlias = Callable[[Any], AsyncIterator[str]]
"""`async def streamer(promise)` that yields tokens and may call `promise.add_metadata(...)`; or a
`StreamAppender[str]`."""


class MessagePromise(StreamedPromise[str, Message]):
    """The promise of a message. Iterate it for its tokens, await it for the message. Make one with `Message.promise`.

    Args:
        streamer: Makes the tokens, see `TokenStreamer`.
        message_class: What class the message will have.
        metadata: What is known of the message before its text.
        start_soon: See `StreamedPromise`.
        max_ahead: See `StreamedPromise`.

    Example:
        ```python
        async def stream(promise: MessagePromise) -> AsyncIterator[str]:
            yield "Hello, "
            yield "world"
            promise.add_metadata(usage={"output_tokens": 2})

        promise = Message.promise(stream, role="assistant")
        assert [token async for token in promise] == ["Hello, ", "world"]
        assert (await promise).text == "Hello, world"
        ```
    """

    __slots__ = ("_message_class", "_metadata")

    def __init__(
        self,
        streamer: TokenStreamer | None = None,
        *,
        message_class: type[Message] = Message,
        metadata: Mapping[str, Any] | None = None,
        start_soon: StartSoon = DEFAULT,
        max_ahead: int | None = None,
    ) -> None:
        self._message_class = message_class
        self._metadata: dict[str, Any] | None = dict(metadata) if metadata else None
        super().__init__(streamer, start_soon=start_soon, max_ahead=max_ahead)
        if persist.contexts_with_handlers and self._run is None and self._context is None:
            persist.note_entered(
                (self,)
            )  # it reads what somebody else streams: nothing else will say when it is complete

    @classmethod
    def of(cls, message: Message) -> "MessagePromise":
        """Makes the promise of a message that is there: it is resolved, and its text is its one token.

        Args:
            message: The message.

        Returns:
            The promise.
        """
        promise = cls.__new__(cls)
        promise._value = message
        promise._context = promise._failure = promise._run = promise._waiters = None
        promise._given_resolver = promise._given_streamer = promise._metadata = None
        promise._whole_from_pieces = False
        return promise

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What is known of the message by now, without waiting, its text excepted."""
        if self._value is not NO_VALUE:
            message: Message = self._value
            return {name: value for name, value in message if name != "text"}
        return dict(self._metadata or ())

    @property
    def message_class(self) -> type[Message]:
        """What class the message has or will have."""
        return self._message_class if self._value is NO_VALUE else type(self._value)

    def add_metadata(self, **metadata: Any) -> None:
        """Adds what is known only while the message is streamed, or at its end.

        Args:
            **metadata: Fields of the message to come; they replace earlier ones of the same name.

        Raises:
            RuntimeError: The message has been made already.
        """
        if self._value is not NO_VALUE:
            raise RuntimeError(f"{self!r} has been made; add metadata ({', '.join(metadata)}) before its stream ends")
        self._metadata = {**(self._metadata or {}), **metadata}

    def fall_back_to_plain_message(self) -> None:
        """Lets the message be a plain `Message` if none of its own class can be made of what is known of it."""
        try:
            self._message_class(text="", **(self._metadata or {}))
        except Exception:
            self._message_class = Message

    def __str__(self) -> str:
        if self._value is NO_VALUE and self._buffer.end is COMPLETE:
            self._value = self._make_whole()
        if self._value is NO_VALUE:
            raise UnresolvedPromiseError(
                "the text of this message is not there yet, so it cannot be formatted; write `await` in front of it: "
                f'f"...{{await message}}"  ({self!r})'
            )
        return str(self._value)

    def __getattr__(self, name: str) -> Any:
        # The promise of a message that is there makes a buffer only for whoever reads its tokens, which few do.
        if name == "_buffer" and self._value is not NO_VALUE:
            buffer = self._buffer = ReplayBuffer[str]()
            text = str(self._value)
            if text:
                buffer.append(text)
            buffer.end = COMPLETE
            return buffer
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _has_ended_well(self) -> None:
        if persist.contexts_with_handlers:
            persist.note_complete(self)

    def resolve_as(self, message: Message) -> None:
        """Makes a message that is there the whole of this promise, in place of one made of the tokens.

        Args:
            message: The message; its text is that of the tokens.
        """
        self._value = message

    def _take(self, piece: str) -> None:
        if type(piece) is not str and not isinstance(piece, str):
            raise TypeError(f"the streamer of {self!r} yielded {piece!r:.100}; the tokens of a message are strings")
        buffer = self._buffer  # this is `buffer.add(piece)`, without the call, because it is done for each token
        if buffer.end is not None:
            buffer.refuse(piece)
        buffer.append(piece)
        if buffer.waiters is not None:
            buffer.wake_readers()

    def _make_whole(self) -> Message:
        if self._failure is not None:
            self._failure.throw()
        try:
            return self._message_class(text="".join(self._buffer), **(self._metadata or {}))
        except Exception as error:
            self._failure = Failure(error, None)
            raise


from miniagents.sequences import MessageSequencePromise  # noqa: E402  (documented to live here; needs the names above)
