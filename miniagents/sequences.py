"""Sequences of messages: whatever is sent or replied, as one flat stream of message promises."""

from asyncio import iscoroutine
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Generator, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, Union

from pydantic import BaseModel

from miniagents import persist
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.usage import NO_USAGE, Usage
from promising.appender import StreamAppender
from promising.errors import CircularWaitError
from promising.promise import CoroutinePromise, Promise, StartSoon
from promising.replay import COMPLETE, ReplayBuffer
from promising.sentinels import DEFAULT, END, NO_VALUE, Sentinel
from promising.sequence import AT_END, NOTHING_YET, FlatReader, FlatSequence
from promising.stream import Streamer
from promising.waiters import park

__all__ = ["MessageSequence", "MessageSequencePromise", "MessageType", "flatten_messages"]

MessageType: TypeAlias = Union[
    str,
    Message,
    MessagePromise,
    "MessageSequencePromise",
    Mapping[str, Any],
    Iterable["MessageType"],
    AsyncIterable["MessageType"],
    Awaitable["MessageType"],
    Sentinel,
    None,
]
"""What can be sent or replied: text, messages, dicts of a message's fields, promises of any of these, other agents'
replies, async generators of any of these, and lists of all of them, nested as one likes."""

_Leaf: TypeAlias = Union[MessagePromise, "MessageSequencePromise"]


class MessageSequencePromise(FlatSequence[MessagePromise, tuple[Message, ...]]):
    """The promise of a sequence of messages, such as the reply of an agent.

    Iterate it for the promises of its messages in their order, as soon as each of them is known; await it for a tuple
    of all messages, resolved.

    Args:
        streamer: `async def streamer(promise)` that yields whatever can be sent.
        prefill_messages: Whatever can be sent, if it is there already.
        start_soon: See `StreamedPromise`.
        max_ahead: See `StreamedPromise`; it counts what the streamer yields.

    Example:
        ```python
        replies = agent.inquire("Hello!")
        async for message_promise in replies:
            async for token in message_promise:
                print(token, end="")
        messages = await replies
        ```
    """

    __slots__ = ("_spent",)

    _is_reply = False  # whether it is the reply of an agent, which pays for what it asks for and for nothing else
    _spent: Usage  # what the call has spent that this is the reply of; there when it has spent something

    def __init__(
        self,
        streamer: Streamer[Any] | None = None,
        *,
        prefill_messages: MessageType = NO_VALUE,
        start_soon: StartSoon = DEFAULT,
        max_ahead: int | None = None,
    ) -> None:
        super().__init__(
            streamer,
            flatten=flatten_messages,
            prefill_pieces=NO_VALUE if prefill_messages is NO_VALUE else (prefill_messages,),
            start_soon=start_soon,
            max_ahead=max_ahead,
        )

    def __await__(self) -> Generator[Any, Any, tuple[Message, ...]]:
        if self._value is NO_VALUE and not self._resolve_at_once():
            reader: FlatReader[MessagePromise] = FlatReader(self, wants_all=True)
            messages = []
            while (promise := reader.next_nowait()) is not AT_END:
                if promise is NOTHING_YET:
                    yield from park(reader.parking_lot())
                elif promise._value is NO_VALUE:
                    messages.append((yield from promise.__await__()))
                else:
                    messages.append(promise._value)
            if self._value is NO_VALUE:  # another awaiter may have been faster
                self._value = tuple(messages)
        whole: tuple[Message, ...] = self._value
        return whole

    def _resolve_at_once(self) -> bool:
        """Makes the tuple without any reader where everything is there already, as it mostly is."""
        buffer = self._buffer
        if buffer.end is not COMPLETE:
            return False
        messages: list[Message] = []
        for item in buffer:
            value: Any = item._value
            if value is NO_VALUE:
                return False
            if isinstance(item, MessageSequencePromise):
                messages += value
            else:
                messages.append(value)
        self._value = tuple(messages)
        return True

    async def aresolve_messages(self) -> tuple[Message, ...]:
        """Waits for all messages: the named form of `await sequence`.

        Returns:
            The messages, in order.

        Raises:
            BaseException: The first error that stands among them.
        """
        return await self

    async def usage(self) -> Usage:
        """Waits until the call that this is the reply of has ended, and all that it called, and says what they spent.

        Errors of the calls are not raised here; what was spent until then counts.

        Returns:
            The sum over all requests to models. Of a sequence that is no reply, but holds replies, the sum of theirs.
        """
        await until_complete(self)
        parts: list[_Leaf] = [*_message_promises(self), self]
        for part in parts:
            if part._context is not None:
                part._start_now()
            if part._run is not None:
                await part._run._wait_until_over()
        if self._is_reply or getattr(self, "_spent", None) is not None:
            return getattr(self, "_spent", NO_USAGE)
        spent = NO_USAGE
        for nested in {id(item): item for item in self._buffer if isinstance(item, MessageSequencePromise)}.values():
            spent += await nested.usage()
        return spent

    def as_single_promise(self, delimiter: str = "\n\n", **metadata: Any) -> MessagePromise:
        """Joins the messages into one, which streams while they do. See `join_messages`.

        Args:
            delimiter: What stands between two messages.
            **metadata: Fields of the joined message.

        Returns:
            The promise of the joined message.
        """
        from miniagents.text import join_messages

        return join_messages(self, delimiter=delimiter, **metadata)

    def done(self) -> bool:
        """Whether `await` would return or raise at once: the sequence has ended, and so have all of its messages."""
        if self._value is not NO_VALUE:
            return True
        reader = FlatReader[MessagePromise](self)
        while (promise := reader.next_nowait(raising=False)) is not AT_END:
            if promise is NOTHING_YET or not promise.done():
                return False
            if promise._current_failure() is not None:
                return True
        return True

    @classmethod
    def on_messages(cls, messages: MessageType) -> "MessageSequencePromise":
        """Makes a sequence of what is there already; the short way for `prefill_messages`."""
        buffer = ReplayBuffer[Any]()
        buffer += flatten_messages(messages)
        buffer.end = COMPLETE
        return cls.on(buffer)

    @classmethod
    def on(cls, buffer: ReplayBuffer[Any]) -> "MessageSequencePromise":
        """Makes a sequence that reads what somebody else puts into a buffer."""
        promise = cls.__new__(cls)
        promise._value = NO_VALUE
        promise._context = promise._failure = promise._run = promise._waiters = None
        promise._given_resolver = promise._given_streamer = None
        promise._whole_from_pieces = True
        promise._buffer = buffer
        promise._flatten = flatten_messages
        return promise


class MessageSequence(StreamAppender[Any]):
    """A sequence of messages to write to: an appender that takes whatever can be sent.

    Args:
        *messages: What it starts with.

    Attributes:
        sequence_promise: The reading end.

    Example:
        ```python
        with MessageSequence("first") as sequence:
            sequence.append(["second", agent.inquire("third?")])
        print(await sequence.sequence_promise)
        ```
    """

    __slots__ = ("sequence_promise",)

    def __init__(self, *messages: MessageType) -> None:
        super().__init__()
        self.sequence_promise = MessageSequencePromise.on(self._buffer)
        for message in messages:
            self.append(message)

    def append(self, piece: MessageType) -> "MessageSequence":
        """Adds whatever can be sent.

        Args:
            piece: See `MessageType`.

        Returns:
            The sequence itself, so that calls can be chained.

        Raises:
            StreamClosedError: The sequence has been closed.
            TypeError: It is nothing that can be sent; then nothing of it has been added.
        """
        append_messages(self._buffer, piece)
        return self

    def __call__(self, _promise: Any) -> AsyncIterator[Any]:
        """Reads what is appended: what makes this a streamer."""
        return FlatReader(self.sequence_promise)

    @classmethod
    def turn_into_sequence_promise(cls, messages: MessageType) -> MessageSequencePromise:
        """Makes one flat sequence of whatever can be sent.

        Args:
            messages: See `MessageType`.

        Returns:
            The promise of the sequence: the argument itself, if it is one.
        """
        if isinstance(messages, MessageSequencePromise):
            return messages
        return MessageSequencePromise(prefill_messages=messages)


def append_messages(buffer: ReplayBuffer[Any], messages: MessageType) -> None:
    """Puts whatever can be sent into the buffer of a sequence: all of it, or nothing if a part cannot be sent."""
    if buffer.end is not None:
        buffer.refuse(messages)
    items = flatten_messages(messages)
    for item in items:
        if isinstance(item, MessageSequencePromise) and item._buffer is buffer:
            raise CircularWaitError(f"{item!r} was put into itself, so that it could never end")
    buffer += items
    if buffer.waiters is not None:
        buffer.wake_readers()


def flatten_messages(messages: Any) -> list[_Leaf]:
    """Turns whatever can be sent into message promises and nested sequences, in order and without waiting.

    Args:
        messages: See `MessageType`.

    Returns:
        The items to put into a sequence.

    Raises:
        TypeError: A part of it cannot be sent. The message says where it is and what to send instead.
    """
    if type(messages) is str:
        items: list[_Leaf] = [MessagePromise.of(Message(messages))]
    elif isinstance(messages, (MessagePromise, MessageSequencePromise)):
        items = [messages]
    elif messages is None:
        return []
    else:
        items = list(_flatten_nested(messages))
    if persist.contexts_with_handlers:
        persist.note_entered(items)
    return items


def _flatten_nested(messages: Any) -> Iterator[_Leaf]:
    path: list[tuple[int, Iterator[Any]]] = [(0, iter((messages,)))]
    open_lists: set[int] = set()
    while path:
        identity, rest = path[-1]
        try:
            item = next(rest)
        except StopIteration:
            path.pop()
            open_lists.discard(identity)
            continue
        leaf = _as_leaf(item)
        if leaf is not None:
            yield leaf
        elif item is not None:
            if id(item) in open_lists:
                raise TypeError("a list of messages contains itself; put the messages into a new list")
            open_lists.add(id(item))
            path.append((id(item), iter(item)))


def _as_leaf(item: Any) -> _Leaf | None:
    """The item to put into a sequence, or None for what has to be iterated in its turn."""
    if isinstance(item, str):
        return MessagePromise.of(Message(str(item)))
    if isinstance(item, (MessagePromise, MessageSequencePromise)):
        return item
    if isinstance(item, Message):
        return MessagePromise.of(item)
    if isinstance(item, Mapping):
        return MessagePromise.of(Message(**item))
    if item is END:
        return END_OF_LOOP
    if isinstance(item, BaseModel):
        raise TypeError(_NOT_SENDABLE.format(item, "Derive its class from `Message`, or put it into a field of one."))
    if isinstance(item, MessageSequence):
        return item.sequence_promise
    if isinstance(item, StreamAppender):
        raise TypeError(_NOT_SENDABLE.format(item, "Make a message of it first: `Message.promise(appender)`."))
    if isinstance(item, AsyncIterable) and not isinstance(item, Promise):
        return MessageSequencePromise(lambda _: aiter(item))
    if isinstance(item, Awaitable):
        awaited = CoroutinePromise(item) if iscoroutine(item) else item
        return MessageSequencePromise(lambda _: _after(awaited))
    if item is None or (isinstance(item, Iterable) and not isinstance(item, (bytes, bytearray, Sentinel))):
        return None
    raise TypeError(_NOT_SENDABLE.format(item, _hint(item)))


async def _after(awaitable: Awaitable[Any]) -> AsyncIterator[Any]:
    yield await awaitable


def _hint(item: Any) -> str:
    if isinstance(item, BaseException):
        return "To fail with it, `raise` it."
    if hasattr(item, "inquire"):
        return "Call the agent and send its reply: `agent.inquire(...)`."
    if isinstance(item, (bytes, bytearray)):
        return "Decode it, or put it into a field of a message: `Message(data=...)`."
    return "Send text, messages, dicts of a message's fields, promises of these, agents' replies, or lists of all that."


class _EndOfLoop(MessageSequencePromise):
    """What `END` becomes in a sequence: readers find nothing in it, loops find that they end here."""

    __slots__ = ()


def asks_to_end(sequence: MessageSequencePromise) -> bool:
    """Whether `END` stands anywhere in what has come of a sequence so far."""
    pending: list[ReplayBuffer[Any]] = [sequence._buffer]
    seen: set[int] = set()
    while pending:
        buffer = pending.pop()
        if id(buffer) not in seen:
            seen.add(id(buffer))
            for item in buffer:
                if item is END_OF_LOOP:
                    return True
                if isinstance(item, MessageSequencePromise):
                    pending.append(item._buffer)
    return False


async def until_complete(sequence: MessageSequencePromise) -> None:
    """Waits until nothing can come any more, not in nested sequences either. It is no consumer of any error."""
    pending = [sequence]
    seen: set[int] = set()
    while pending:
        part = pending.pop()
        if id(part) not in seen:
            seen.add(id(part))
            if part._context is not None:
                part._start_now()
            await part._wait_for_end()
            items: list[_Leaf] = [*part._buffer]
            pending.extend(item for item in items if isinstance(item, MessageSequencePromise))


def _message_promises(sequence: MessageSequencePromise) -> Iterator[MessagePromise]:
    """All message promises that have come by now, whether there is an error among them or not."""
    reader = FlatReader[MessagePromise](sequence)
    while (promise := reader.next_nowait(raising=False)) is not AT_END and promise is not NOTHING_YET:
        yield promise


END_OF_LOOP = _EndOfLoop(prefill_messages=())

_NOT_SENDABLE = "{!r:.100} cannot be sent as a message. {}"
