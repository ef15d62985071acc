"""What a journal consists of: its entries, and what is said of the run as a whole."""

from typing import Any, NamedTuple, TypeAlias

from miniagents.ext.checkpoints.objects import Packed

__all__ = ["Draft", "Entry", "EntryLike", "NewEntry", "RunInfo", "checked_text", "draft_of"]

_LONGEST_NAME = 200
_64_BITS = 2**63


class NewEntry(NamedTuple):
    """What is to be appended to the journal of a run. A plain tuple of the same five items will do, too.

    Attributes:
        kind: What it says. Of these three the store knows the meaning: "started", "finished" and "failed", see
            `CheckpointStore.append`; all others ("question", "answer", "state", ...) are the user's own.
        node: Which node or state it is about; empty for the run as a whole.
        visit: Which visit of the node, where it is visited several times.
        attempt: Which attempt of that visit.
        data: Whatever `miniagents.ext.values` can write. Messages in it, at any depth, are stored once.

    Example:
        `NewEntry("finished", "write", visit=1, attempt=2, data={"reply": messages})`
    """

    kind: str
    node: str = ""
    visit: int = 1
    attempt: int = 1
    data: Any = None


EntryLike: TypeAlias = NewEntry | tuple[str, str, int, int, Any]


class Entry(NamedTuple):
    """An entry of the journal of a run. It never changes.

    Attributes:
        sequence: Its number in the journal of its run: 1, 2, 3 and so on, without gaps.
        kind: See `NewEntry`, as for the following.
        node: The node or state.
        visit: The visit of the node.
        attempt: The attempt of the visit.
        data: The data.
        time: When it was recorded, in unix seconds.
    """

    sequence: int
    kind: str
    node: str
    visit: int
    attempt: int
    data: Any
    time: float


class RunInfo(NamedTuple):
    """What is known of a run without reading its journal.

    Attributes:
        run_id: Its id.
        workflow: The name of what runs.
        fingerprint: What describes the graph or workflow, so that a changed one can be told.
        status: Its status, as it was given last.
        created: When it was created, in unix seconds.
        updated: When its newest entry or status was recorded, in unix seconds.
        claimed_by: Who works at it now, for people; None for nobody.
    """

    run_id: str
    workflow: str
    fingerprint: Any
    status: str
    created: float
    updated: float
    claimed_by: str | None


class Draft(NamedTuple):
    """An entry that is ready to be stored: checked, its data written, and its messages apart.

    Attributes:
        kind: See `NewEntry`, as for the following.
        node: The node or state.
        visit: The visit of the node.
        attempt: The attempt of the visit.
        packed: The written data, and the objects that it refers to.
    """

    kind: str
    node: str
    visit: int
    attempt: int
    packed: Packed


def draft_of(entry: EntryLike) -> Draft:
    """Checks an entry and writes its data.

    Args:
        entry: The entry, or a tuple of its items.

    Returns:
        What a store stores; later changes of the data do not change it.

    Raises:
        TypeError: It is no entry, or a part of its data cannot be represented.
        ValueError: A number is out of range, or a name is empty or too long.
    """
    if not isinstance(entry, tuple) or len(entry) != 5:
        raise TypeError(f"{entry!r:.100} is no entry; give a NewEntry")
    kind, node, visit, attempt, data = entry
    checked_text("the kind of an entry", kind)
    checked_text("the node of an entry", node, may_be_empty=True)
    for name, number in (("visit", visit), ("attempt", attempt)):
        if type(number) is not int:
            raise TypeError(f"the {name} of an entry is {number!r:.100}; give an integer")
        if not 0 <= number < _64_BITS:
            raise ValueError(f"the {name} of an entry is {number}; give one of 0, 1, 2 and so on")
    try:
        return Draft(kind, node, visit, attempt, Packed.of(data))
    except (TypeError, ValueError) as error:
        error.add_note(f"in the data of the entry {kind!r} of {node or 'the run'!r}")
        raise


def checked_text(what: str, text: Any, *, may_be_empty: bool = False) -> str:
    """Gives a name as it is, or raises an error that says what is wrong with it.

    Args:
        what: What it is, for the error.
        text: The name.
        may_be_empty: Whether it may be empty.

    Returns:
        The name.

    Raises:
        TypeError: It is no string.
        ValueError: It is empty, too long, or has half a character or a NUL in it.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} is {text!r:.100}; give a string")
    if not text and not may_be_empty:
        raise ValueError(f"{what} is empty; give it a name")
    if len(text) > _LONGEST_NAME:
        raise ValueError(f"{what} has {len(text)} characters, {text!r:.40}...; give one of {_LONGEST_NAME} at most")
    if "\0" in text or not (text.isascii() or _is_whole(text)):
        raise ValueError(f"{what} is {text!r}, with a NUL or half a character in it; give another one")
    return text


def _is_whole(text: str) -> bool:
    """Whether no half characters (lone surrogates) are in it."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
