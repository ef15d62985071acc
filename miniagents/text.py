"""Joining and splitting messages, token by token: nothing waits for a whole message that can pass on its tokens."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequence, MessageSequencePromise, MessageType
from promising.appender import StreamAppender

__all__ = ["join_messages", "split_messages"]


def join_messages(messages: MessageType, delimiter: str = "\n\n", **metadata: Any) -> MessagePromise:
    """Joins messages into one, which streams while they do.

    Args:
        messages: What to join, see `MessageType`. Empty messages are left out.
        delimiter: What stands between two messages.
        **metadata: Fields of the joined message; those of the parts are not taken over.

    Returns:
        The promise of the joined message.

    Example:
        ```python
        joined = join_messages(["Hello", "world"], delimiter=" ")
        assert (await joined).text == "Hello world"
        ```
    """
    sequence = MessageSequence.turn_into_sequence_promise(messages)

    async def streamer(_: MessagePromise) -> AsyncIterator[str]:
        anything_before = False
        async for promise in sequence:
            begins = True
            async for token in promise:
                if token:
                    if begins and anything_before and delimiter:
                        yield delimiter
                    begins = False
                    anything_before = True
                    yield token

    return Message.promise(streamer, **metadata)


def split_messages(messages: MessageType, delimiter: str = "\n\n", **metadata: Any) -> MessageSequencePromise:
    r"""Splits messages at a delimiter. Fenced blocks of code stay whole, also one that is never closed.

    A part streams while it arrives; what may be the beginning of a delimiter is held back until that is certain.

    Args:
        messages: What to split, see `MessageType`. The end of a message ends a part, too.
        delimiter: Where to split. Parts without any text are left out.
        **metadata: Fields of each part; those of the messages are not taken over.

    Returns:
        The promise of the parts.

    Raises:
        ValueError: The delimiter is empty.

    Example:
        ```python
        assert [str(part) for part in await split_messages("Hello\n\nworld")] == ["Hello", "world"]
        ```
    """
    if not delimiter:
        raise ValueError("the delimiter is empty; give the text at which to split")
    sequence = MessageSequence.turn_into_sequence_promise(messages)

    async def streamer(_: MessageSequencePromise) -> AsyncIterator[MessagePromise]:
        async for promise in sequence:
            splitter = _Splitter(delimiter)
            part: StreamAppender[str] | None = None
            try:
                async for token in promise:
                    for text in splitter.feed(token):
                        if text is not None:
                            if part is None:
                                part = StreamAppender[str]()
                                yield Message.promise(part, **metadata)
                            part.append(text)
                        elif part is not None:
                            part.close()
                            part = None
                rest = splitter.rest()
                if rest:
                    if part is None:
                        part = StreamAppender[str]()
                        yield Message.promise(part, **metadata)
                    part.append(rest)
            except BaseException as error:
                if part is not None:
                    part.close(error)
                raise
            if part is not None:
                part.close()

    return MessageSequencePromise(streamer)


_FENCE: Final = re.compile(r"[ \t]*(`{3,}|~{3,})(.*)", re.DOTALL)


_LONGEST_FENCE_LINE: Final = 500  # of a longer line only the beginning is looked at


class _Splitter:
    """Finds delimiters outside fenced code in a text that comes in pieces."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._held = ""  # what has come and may be the beginning of a delimiter
        self._line = ""  # the line so far, before what is held
        self._fence: str | None = None  # what has opened the block of code that we are in

    def feed(self, token: str) -> Iterator[str | None]:
        """Takes a token.

        Yields:
            Text that belongs to the current part, and None where a part ends.
        """
        text = self._held + token
        start = 0  # what is before it has been yielded
        position = 0  # what is before it has been looked at
        while True:
            found = self._next_candidate(text, position)
            self._advance(text[position:found])
            position = found
            if position == len(text):
                break
            if text[position] == "\n":
                self._end_line()
            if not self._in_code():
                if text.startswith(self._delimiter, position):
                    if position > start:
                        yield text[start:position]
                    yield None
                    start = position = position + len(self._delimiter)
                    self._advance(self._delimiter)
                    continue
                if self._delimiter.startswith(text[position:]):
                    break
            self._advance(text[position])
            position += 1
        if position > start:
            yield text[start:position]
        self._held = text[position:]

    def rest(self) -> str:
        """What was held back and turned out to be no delimiter."""
        return self._held

    def _next_candidate(self, text: str, position: int) -> int:
        """Where the next newline or beginning of a delimiter is."""
        places = (text.find("\n", position), text.find(self._delimiter[0], position))
        return min((place for place in places if place >= 0), default=len(text))

    def _advance(self, text: str) -> None:
        _, newline, after = text.rpartition("\n")
        if newline:
            self._line = after
        elif len(self._line) < _LONGEST_FENCE_LINE:
            self._line += after

    def _in_code(self) -> bool:
        return self._fence is not None or _opening(self._line) is not None

    def _end_line(self) -> None:
        if self._fence is None:
            self._fence = _opening(self._line)
        else:
            mark = self._line.strip()
            if mark.startswith(self._fence) and not mark.strip(self._fence[0]):
                self._fence = None
        self._line = ""


def _opening(line: str) -> str | None:
    match = _FENCE.match(line)
    if match is None or (match[1][0] == "`" and "`" in match[2]):
        return None
    return match[1]
