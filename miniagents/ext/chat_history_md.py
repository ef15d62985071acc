r"""A chat history in a Markdown file that a person can read and edit.

A message in the file::

    <!-- miniagents {"class":"AssistantMessage"} -->
    ## assistant (gpt-5.4-mini)

    The text, as it is.

    <!-- /miniagents -->

The first comment names the class and holds whatever else is known of the message as JSON; the heading says the role and
the model. Everything between the heading and the end mark is text. If a line of it looks like one of the two marks, it
gets a backslash (`<!-- \/miniagents -->`), which is taken off again. A message without an end mark was torn when the
process that wrote it was killed: it is left out, and taken away by the next addition.

A person may also just write a heading, `## user`, `## assistant` or `## system`, and some text below it. What stands
before the first message is ignored.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from miniagents.ext.chat_history import ChatHistory, HistoryFileError
from miniagents.ext.llm.llm_common import AssistantMessage, SystemMessage, UserMessage, wire_text
from miniagents.ext.plain import from_plain, message_class_named, to_plain
from miniagents.message import Message

try:
    import fcntl
except ImportError:  # on Windows: two chats are not kept apart there
    fcntl = None  # type: ignore[assignment]

__all__ = ["ChatHistoryMD", "HistoryFileError"]

_START = re.compile(r"<!-- miniagents (\{.*\}) -->[ \t]*\r?$", re.MULTILINE)
_END = re.compile(r"^<!-- /miniagents -->[ \t]*\r?$", re.MULTILINE)
_HEADING = re.compile(r"## ([^\s()]+)(?: \(([^()\r\n]+)\))?[ \t]*\r?\n")
_HAND_WRITTEN = re.compile(
    r"## +(user|assistant|system)(?: +\(([^()\r\n]+)\))?[ \t]*\r?$", re.IGNORECASE | re.MULTILINE
)
_LOOKS_LIKE_A_MARK = re.compile(r"^<!-- (\\*)(?=/?miniagents )", re.MULTILINE)
_START_BEGINS = "<!-- miniagents "
_NO_ROLE = "message"
_HAND_WRITTEN_CLASSES: dict[str, type[Message]] = {
    "user": UserMessage,
    "assistant": AssistantMessage,
    "system": SystemMessage,
}


class ChatHistoryMD(ChatHistory):
    """Keeps a chat history in a Markdown file, see the module for its format.

    Messages come back equal: class, role, model, text and metadata. Half a character (a lone surrogate) comes back as
    U+FFFD. The file is private to its user. One object at a time writes to it, from its first addition until `close()`
    or the end of the process.

    Args:
        path: The file. It is made with the first addition.

    Raises:
        HistoryFileError: The file cannot be read or written, or another chat is writing to it.

    Example:
        ```python
        history = ChatHistoryMD("CHAT.md")
        await adialog_loop(console_user_agent.fork(chat_history=history), openai_agent)
        ```
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: int | None = None

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """See `ChatHistory`."""
        return tuple(message for message, _ in _parse(self._read()))

    async def _append(self, message: Message) -> None:
        block = _format(message)
        self.open()
        assert self._file is not None
        data = block.encode("utf-8")
        while data:
            data = data[os.write(self._file, data) :]

    def open(self) -> None:
        """Takes the file for writing, and takes away what a killed process has left half written at its end.

        Raises:
            HistoryFileError: It cannot be written, or another chat is writing to it.
        """
        if self._file is not None:
            return
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise HistoryFileError(_reason(self.path, "written", error)) from error
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.fchmod(file, 0o600)
            text = self._read()
            complete = text[: _end_of_complete(text)]
            if complete != text:
                os.ftruncate(file, len(complete.encode("utf-8")))
            if complete and not complete.endswith("\n"):
                os.write(file, b"\n\n")
        except BlockingIOError as error:
            os.close(file)
            raise HistoryFileError(
                f"{self.path} is in use by another chat; end that one, or give this one another file"
            ) from error
        except BaseException:
            os.close(file)
            raise
        self._file = file

    def close(self) -> None:
        """Gives the file free for others."""
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.close()

    def _read(self) -> str:
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                return file.read()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise HistoryFileError(_reason(self.path, "read", error)) from error


def _reason(path: Path, what: str, error: OSError | UnicodeDecodeError) -> str:
    why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else (error.strerror or str(error)).lower()
    return f"the chat history {path} cannot be {what}: {why}; mend that, or give another file"


def _format(message: Message) -> str:
    given = {*message.model_fields_set, "role"} - {"text"}  # what was not given will be what it is by default
    fields = {name: to_plain(value) for name, value in message if name in given}
    role, model = fields.get("role"), fields.get("model")
    heading = f"## {_NO_ROLE}"
    if isinstance(role, str) and role != _NO_ROLE and re.fullmatch(r"[^\s()]+", role):
        heading = f"## {role}"
        del fields["role"]
    if isinstance(model, str) and re.fullmatch(r"[^()\s](?:[^()\r\n]*[^()\s])?", model):
        heading += f" ({model})"
        del fields["model"]
    if message.text is None:
        fields["text"] = None
    # In a comment "--" is not allowed; in JSON it can only stand inside a string.
    comment = json.dumps({"class": type(message).__name__, **fields}, separators=(",", ":")).replace("--", "-\\u002d")
    text = "" if message.text is None else _LOOKS_LIKE_A_MARK.sub(r"<!-- \\\1", _valid(message.text))
    return f"{_START_BEGINS}{comment} -->\n{_valid(heading)}\n\n{text}\n\n<!-- /miniagents -->\n\n"


def _valid(text: str) -> str:
    return wire_text(Message(text))


def _parse(text: str) -> Iterator[tuple[Message, int]]:
    """Finds the messages.

    Yields:
        A message, and where it ends.
    """
    position = 0
    while True:
        start = _next_line_match(_START, text, position)
        written = _next_line_match(_HAND_WRITTEN, text, position)
        if written is not None and (start is None or written.start() < start.start()):
            position = start.start() if start is not None else len(text)
            following = _next_line_match(_HAND_WRITTEN, text, written.end())
            if following is not None and following.start() < position:
                position = following.start()
            message = _hand_written(written, text[written.end() : position])
            if message is not None:
                yield message, position
            continue
        if start is None:
            return
        heading = _HEADING.match(text, start.end() + 1)
        next_start = _next_line_match(_START, text, start.end())
        end = _END.search(text, heading.end() - 1 if heading else start.end())
        if end is None or heading is None or (next_start is not None and next_start.start() < end.start()):
            position = len(text) if next_start is None else next_start.start()  # a torn message
            continue
        position = end.end()
        yield _framed(start[1], heading, text[heading.end() : end.start()]), min(position + 1, len(text))


def _next_line_match(pattern: "re.Pattern[str]", text: str, position: int) -> "re.Match[str] | None":
    """The next match that begins a line."""
    for match in pattern.finditer(text, position):
        if match.start() == 0 or text[match.start() - 1] == "\n":
            return match
    return None


def _framed(comment: str, heading: "re.Match[str]", body: str) -> Message:
    newline = "\r\n" if body.startswith("\r\n") else "\n"  # an editor may have changed all ends of lines
    body = body.removeprefix(newline)
    body = body.removesuffix(newline * 2) if body.endswith(newline * 2) else body.removesuffix(newline)
    fields: dict[str, Any] = {"text": re.sub(r"^<!-- \\(?=\\*/?miniagents )", "<!-- ", body, flags=re.MULTILINE)}
    try:
        loaded = json.loads(comment)
    except ValueError:
        loaded = {}
    class_name = str(loaded.pop("class", "Message"))
    if heading[1] != _NO_ROLE:
        fields["role"] = heading[1]
    if heading[2] is not None:
        fields["model"] = heading[2]
    fields.update({name: from_plain(value) for name, value in loaded.items()})
    try:
        return message_class_named(class_name)(**fields)
    except (TypeError, ValueError):  # a person has edited it, or the class has other fields by now
        return Message(**fields)


def _hand_written(heading: "re.Match[str]", body: str) -> Message | None:
    text = _without_torn_tail(body).strip("\r\n")
    if not text.strip():
        return None
    fields: dict[str, Any] = {} if heading[2] is None else {"model": heading[2]}
    return _HAND_WRITTEN_CLASSES[heading[1].lower()](text=text, **fields)


def _without_torn_tail(text: str) -> str:
    """Takes off the beginning of a start mark that was torn."""
    before, _, last = text.rpartition("\n")
    return before if last and (_START_BEGINS.startswith(last) or last.startswith(_START_BEGINS)) else text


def _end_of_complete(text: str) -> int:
    """Where the file would end if nothing had been torn: behind the last message, or what a person wrote at the end."""
    torn = None
    position = 0
    while (start := _next_line_match(_START, text, position)) is not None:
        end = _END.search(text, start.end())
        if end is None:
            torn = start.start()
            break
        position = end.end()
    if torn is not None:
        return torn
    kept = len(_without_torn_tail(text))
    return kept if kept == len(text) else kept + 1  # the newline before what is taken off stays
