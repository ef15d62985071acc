"""Messages apart from what refers to them, so that each is stored once, however often it recurs.

In what is written a message is replaced by the hash of how it is written itself, `{"$ref": "<hash>"}`; so are the
messages inside of it. Where many of them stand in a row, as in a conversation, pieces of that row become objects of
their own, `{"$refs": "<hash>"}`, and again pieces of many of these. Where a piece ends depends on what is in it.
Therefore a conversation that has grown by a message shares all but its last pieces with the one before, and what is
written for each entry hardly grows, however long the conversation is.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from miniagents.ext.checkpoints.errors import StoreDamagedError
from miniagents.ext.values import decode, encode
from miniagents.message import Message

__all__ = ["Packed", "Unpacker", "key_of_data", "references_in"]

_DIGITS = 40
# Among what a message remembers of itself, as its hash key. Not after reading it: its class may have changed since it
# was written, so that it would be written otherwise now.
_OWN_KEY = "_checkpoint_key"
_SHORTEST_ROW, _SHORTEST_PIECE, _LONGEST_PIECE = 8, 3, 64
_LAST_DIGITS = b"048c"  # a quarter of all, so that a piece has about 6 parts: with that the least is written

_KEY = rb"[0-9a-f]{%d}" % _DIGITS
# In strings quotation marks are escaped, and keys of the user's that begin with $ have one more: nothing else looks so.
_ANY_REFERENCE = re.compile(rb'\{"\$refs?":"(%s)"\}' % _KEY)
_PIECE = re.compile(rb'\{"\$refs":"(%s)"\}' % _KEY)
_ROW = re.compile(rb'\{"\$ref":"%s"\}(?:,\{"\$ref":"%s"\}){%d,}' % (_KEY, _KEY, _SHORTEST_ROW - 1))


class Packed:
    """A written value, and the objects that it refers to.

    Attributes:
        data: The value as JSON, with references in place of messages.
    """

    __slots__ = ("_sources", "data")

    def __init__(self, data: bytes, sources: dict[str, Message | bytes]) -> None:
        self.data = data
        self._sources = sources

    @classmethod
    def of(cls, value: Any) -> "Packed":
        """Writes a value.

        Args:
            value: What `miniagents.ext.values` can write.

        Returns:
            The written value. What can be changed in the value is written now, messages when they are asked for.

        Raises:
            TypeError: A part of it cannot be represented.
            ValueError: See `miniagents.ext.values.encode`.
        """
        sources: dict[str, Message | bytes] = {}
        if value is None:  # as with most entries that say that something begins
            return cls(b"null", sources)

        def refer(model: Any) -> str | None:
            return _noted(model, sources) if isinstance(model, Message) else None

        return cls(_fold(encode(value, refer=refer), sources), sources)

    def object(self, key: str) -> bytes:
        """Gives an object that the value, or an object that was asked for before, refers to.

        Args:
            key: Its hash.

        Returns:
            The object as JSON.
        """
        source = self._sources[key]
        return _written(source, self._sources) if isinstance(source, Message) else source

    def objects(self, is_known: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Gives the objects that have to be stored with the value: those that are not known, and what is in them.

        Args:
            is_known: Whether an object, and with it all that is in it, is stored already.

        Yields:
            The hash and the JSON of each object, once.
        """
        seen: set[str] = set()
        pending = references_in(self.data)
        while pending:
            key = pending.pop()
            if key not in seen:
                seen.add(key)
                if not is_known(key):
                    data = self.object(key)
                    yield key, data
                    pending.extend(references_in(data))


class Unpacker:
    """Reads written values, with one object for each message, however many refer to it.

    Args:
        objects: The objects by their hashes, as JSON, with all that they refer to.
    """

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self._objects = objects
        self._messages: dict[str, Any] = {}
        self._pieces: dict[bytes, bytes] = {}

    def value(self, data: bytes) -> Any:
        """Reads a value.

        Args:
            data: The value, as it was written.

        Returns:
            The value.

        Raises:
            StoreDamagedError: An object is missing, or is not what was written.
            UnreadableValueError: It is no value, or one of a class that is not known here.
        """
        data = self._expanded(data)
        self._make_messages(data)
        return decode(data, resolve=self._messages.__getitem__)

    def _expanded(self, data: bytes) -> bytes:
        return _PIECE.sub(self._piece, data) if b'"$refs"' in data else data

    def _piece(self, match: "re.Match[bytes]") -> bytes:
        key = match[1]
        if key not in self._pieces:
            self._pieces[key] = self._expanded(self._object(key.decode())[1:-1])
        return self._pieces[key]

    def _make_messages(self, data: bytes) -> None:
        """Makes the messages that are referred to, the inner ones first: they may be nested without end."""
        messages, pending = self._messages, references_in(data)
        while pending:
            key = pending[-1]
            if key in messages:
                pending.pop()
                continue
            written = self._expanded(self._object(key))
            inner = [other for other in references_in(written) if other not in messages]
            if inner:
                pending.extend(inner)
                continue
            pending.pop()
            messages[key] = decode(written, resolve=messages.__getitem__)

    def _object(self, key: str) -> bytes:
        data = self._objects.get(key)
        if data is None:
            raise StoreDamagedError(f"the object {key}, a message or a part of a conversation, is missing in the store")
        if key_of_data(data) != key:
            raise StoreDamagedError(f"the object {key}, a message or a part of a conversation, has been changed")
        return data


def references_in(data: bytes) -> list[str]:
    """Gives the hashes of the objects that a written value or object refers to, itself and not through others."""
    return [key.decode() for key in _ANY_REFERENCE.findall(data)] if b'"$ref' in data else []


def key_of_data(data: bytes) -> str:
    """Gives the hash under which an object is stored."""
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def _noted(message: Message, sources: dict[str, Message | bytes]) -> str:
    """Gives the hash of a message, and takes it into the sources."""
    own = vars(message)
    if _OWN_KEY not in own:
        for part in message.iter_nested():
            if isinstance(part, Message) and _OWN_KEY not in vars(part):
                _hash(part)
        _hash(message)
    key: str = own[_OWN_KEY]
    sources[key] = message
    return key


def _hash(message: Message) -> None:
    vars(message)[_OWN_KEY] = key_of_data(_written(message, {}))


def _written(message: Message, sources: dict[str, Message | bytes]) -> bytes:
    def refer(model: Any) -> str | None:
        return _noted(model, sources) if isinstance(model, Message) and model is not message else None

    return _fold(encode(message, refer=refer), sources)


def _fold(data: bytes, sources: dict[str, Message | bytes]) -> bytes:
    """Replaces pieces of long rows of references by references to objects of their own, which become sources."""

    def shorter(row: "re.Match[bytes]") -> bytes:
        references = row[0].split(b",")
        rest: list[bytes] = []
        while len(references) >= _SHORTEST_ROW:  # pieces of messages, then pieces of such pieces
            references, uncut = _cut(references, sources)
            rest[:0] = uncut
        return b",".join(references + rest)

    return _ROW.sub(shorter, data) if b'"$ref"' in data else data


def _cut(references: Iterable[bytes], sources: dict[str, Message | bytes]) -> tuple[list[bytes], list[bytes]]:
    """Makes objects of pieces, and gives the references to these, and what is left."""
    pieces: list[bytes] = []
    piece: list[bytes] = []
    for reference in references:
        piece.append(reference)
        # The hash decides, so that the same messages make the same pieces wherever they stand.
        ends = len(piece) >= _SHORTEST_PIECE and reference[-3:-2] in _LAST_DIGITS
        if ends or len(piece) == _LONGEST_PIECE:
            data = b"[%s]" % b",".join(piece)
            sources[key := key_of_data(data)] = data
            pieces.append(b'{"$refs":"%s"}' % key.encode())
            piece = []
    return pieces, piece
