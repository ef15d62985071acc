"""What is recorded of a visit of a state, and how that is read again."""

import builtins
from typing import Any

from miniagents.ext.checkpoints import Entry, NewEntry
from miniagents.ext.workflow import errors
from miniagents.ext.workflow.errors import WorkflowError
from miniagents.ext.workflow.shared import REMOVED, Several, Writes, each_of
from miniagents.ext.workflow.state_run import VisitData

__all__ = ["error_in", "failed_entry", "finished_entry", "read_finished"]


def finished_entry(name: str, visit: int, data: VisitData) -> NewEntry:
    """Makes the entry that says what has come of a state."""
    recorded: dict[str, Any] = {"next": list(data.waits)}
    waits = {named: groups for named, groups in data.waits.items() if groups}
    if waits:
        recorded["waits"] = waits
    if data.writes:
        recorded |= _written(data.writes)
    if data.messages:
        recorded["messages"] = list(data.messages)
    return NewEntry("finished", name, visit, data.attempt, recorded)


def _written(writes: Writes) -> dict[str, Any]:
    values = {key: value for key, value in writes.items() if value is not REMOVED}
    several = [key for key, value in values.items() if isinstance(value, Several)]
    values |= {key: [one for one in values[key] if one is not REMOVED] for key in several}
    removed = [key for key, value in writes.items() if each_of(value)[0] is REMOVED]
    parts = {"set": values, "removed": removed, "several": several}
    return {name: part for name, part in parts.items() if part}


def read_finished(entry: Entry, data: VisitData) -> None:
    """Reads what `finished_entry` has written."""
    recorded = entry.data
    several = recorded.get("several", ())
    writes: Writes = {
        key: Several(value) if key in several else value for key, value in recorded.get("set", {}).items()
    }
    for key in recorded.get("removed", ()):
        writes[key] = Several((REMOVED, *writes[key])) if key in writes else REMOVED
    data.writes = writes
    data.waits = {name: recorded.get("waits", {}).get(name, 0) for name in recorded["next"]}
    data.messages = tuple(recorded.get("messages", ()))


def failed_entry(name: str, visit: int, attempt: int, error: BaseException, ends_run: bool) -> NewEntry:
    """Makes the entry that says that a state has failed for good, and whether the run fails with it."""
    data: dict[str, Any] = {"error": str(error), "error_type": type(error).__name__, "ends_run": ends_run}
    if isinstance(error, KeyError) and all(isinstance(part, str) for part in error.args):
        data["key"] = list(error.args)  # its text is not what it was made of
    return NewEntry("failed", name, visit, attempt, data)


def error_in(entry: Entry) -> Exception:
    """Makes the error that a state has failed with: one of the same class if that is Python's or ours."""
    text, kind = entry.data["error"], entry.data["error_type"]
    cls = getattr(errors, kind, None) or getattr(builtins, kind, None)
    if isinstance(cls, type) and issubclass(cls, Exception):
        try:
            made = cls(*entry.data.get("key", (text,)))
        except TypeError:
            pass
        else:
            if str(made) == text:
                return made
    return WorkflowError(f"{kind}: {text}")
