"""What is recorded of a visit of a state, and how that is read again."""

import builtins
from typing import Any

from miniagents.ext.checkpoints import Entry, NewEntry
from miniagents.ext.workflow import errors
from miniagents.ext.workflow.errors import WorkflowError
from miniagents.ext.workflow.shared import REMOVED, Writes
from miniagents.ext.workflow.state_run import VisitData

__all__ = ["error_in", "failed_entry", "finished_entry", "read_finished"]


def finished_entry(name: str, visit: int, data: VisitData) -> NewEntry:
    """Makes the entry that says what has come of a state."""
    recorded: dict[str, Any] = {"next": list(data.waits)}
    waits = {named: groups for named, groups in data.waits.items() if groups}
    if waits:
        recorded["waits"] = waits
    if data.writes:
        recorded["set"] = {key: value for key, value in data.writes.items() if value is not REMOVED}
        recorded["removed"] = [key for key, value in data.writes.items() if value is REMOVED]
    if data.messages:
        recorded["messages"] = list(data.messages)
    return NewEntry("finished", name, visit, data.attempt, recorded)


def read_finished(entry: Entry, data: VisitData) -> None:
    """Reads what `finished_entry` has written."""
    recorded = entry.data
    writes: Writes = dict(recorded.get("set", {}))
    writes.update(dict.fromkeys(recorded.get("removed", ()), REMOVED))
    data.writes = writes
    data.waits = {name: recorded.get("waits", {}).get(name, 0) for name in recorded["next"]}
    data.messages = tuple(recorded.get("messages", ()))


def failed_entry(name: str, visit: int, attempt: int, error: BaseException, ends_run: bool) -> NewEntry:
    """Makes the entry that says that a state has failed for good, and whether the run fails with it."""
    data = {"error": str(error), "error_type": type(error).__name__, "ends_run": ends_run}
    return NewEntry("failed", name, visit, attempt, data)


def error_in(entry: Entry) -> Exception:
    """Makes the error that a state has failed with: one of the same class if that is Python's or ours."""
    text, kind = entry.data["error"], entry.data["error_type"]
    cls = getattr(errors, kind, None) or getattr(builtins, kind, None)
    if isinstance(cls, type) and issubclass(cls, Exception):
        try:
            made = cls(text)
        except TypeError:
            pass
        else:
            if str(made) == text:
                return made
    return WorkflowError(f"{kind}: {text}")
