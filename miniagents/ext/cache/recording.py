"""Recorded replies: made of a reply while it streams, and streamed again in the same pieces."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from miniagents.error_messages import ErrorMessage
from miniagents.frozen import Frozen
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise, asks_to_end
from promising.appender import StreamAppender
from promising.stream import StreamedPromise

__all__ = ["RecordedReply", "record_of"]


class RecordedReply(Frozen):
    """A complete reply.

    Attributes:
        messages: Its messages.
        tokens: The tokens of each of them; None where its text came as one.
    """

    messages: tuple[Message, ...]
    tokens: tuple[tuple[str, ...] | None, ...]

    @cached_property
    def replies(self) -> MessageSequencePromise:
        """The reply once more. It is the same one for all readers, as nothing can be changed in what is complete."""
        return MessageSequencePromise(
            prefill_messages=[
                MessagePromise.of(message) if tokens is None else _streamed_again(message, tokens)
                for message, tokens in zip(self.messages, self.tokens, strict=True)
            ]
        )


async def record_of(replies: MessageSequencePromise) -> RecordedReply | None:
    """Waits until a reply is complete. That is no reading: errors stay with those who consume them.

    Args:
        replies: The reply.

    Returns:
        The record, as soon as the reply is complete, or None as soon as it is clear that it is none to be recorded: it
        has failed, tells of an error, was interrupted, or asks the loop to end.
    """
    if not await _is_complete(replies) or asks_to_end(replies):
        return None
    recorded: list[tuple[Message, tuple[str, ...] | None]] = []
    try:
        async for promise in replies:  # all of them are there
            if not await _has_ended_well(promise):
                return None
            message = await promise
            if _tells_of_error(message):
                return None
            tokens = promise.pieces_so_far
            recorded.append((message, None if tokens == (message.text,) else tokens))
    except Exception:  # no message of its class can be made of its tokens, or the reply contains itself
        return None
    return RecordedReply(
        messages=tuple(message for message, _ in recorded), tokens=tuple(tokens for _, tokens in recorded)
    )


async def _is_complete(replies: MessageSequencePromise) -> bool:
    """Waits until no message can come any more, or until a part has failed."""
    pending = [replies]
    seen: set[int] = set()
    while pending:
        part = pending.pop()
        if id(part._buffer) not in seen:
            seen.add(id(part._buffer))
            if not await _has_ended_well(part):
                return False
            pending.extend(_nested_in(part))
    return True


def _nested_in(sequence: MessageSequencePromise) -> Iterator[MessageSequencePromise]:
    for item in sequence._buffer:
        nested: Any = item
        if isinstance(nested, MessageSequencePromise):
            yield nested


async def _has_ended_well(promise: "StreamedPromise[Any, Any]") -> bool:
    """Waits for the end of a stream, which is made to its end whoever reads it."""
    if promise._context is not None:
        promise._start_now()
    if promise._buffer.pacing is not None:
        promise._buffer.pacing.ask_for_all()
    await promise._wait_for_end()
    return promise._current_failure() is None


def _tells_of_error(message: Message) -> bool:
    return (
        isinstance(message, ErrorMessage)
        or bool(getattr(message, "interrupted", False))
        or bool(getattr(message, "is_error", False))
    )


def _streamed_again(message: Message, tokens: tuple[str, ...]) -> MessagePromise:
    appender = StreamAppender[str]()
    with appender:
        for token in tokens:
            appender.append(token)
    promise = type(message).promise(appender)
    promise.resolve_as(message)
    return promise
