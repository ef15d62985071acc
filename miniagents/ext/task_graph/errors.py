"""What goes wrong with task graphs, beside the errors of graphs in `miniagents.ext.graph.errors`."""

from miniagents.ext.graph.errors import GraphError

__all__ = [
    "GraphChangedError",
    "MissingInputError",
    "MissingOutputError",
    "ModuleError",
    "NonRetryableException",
    "SnapshotError",
    "TaskTransitionError",
]


class NonRetryableException(Exception):
    """Raise it, or something derived from it, in a module whose failure no retry can mend."""


class ModuleError(GraphError):
    """A module has returned `{"status": "error", ...}`; the message is what it gave as result or error."""


class MissingInputError(GraphError, NonRetryableException):
    """A node was about to run without one of its declared inputs; the message names it. Set that key in the cache."""


class MissingOutputError(GraphError):
    """A node has not delivered one of its declared outputs, neither as a key of the cache nor of its result."""


class SnapshotError(GraphError, NonRetryableException):
    """A snapshot cannot be written or read; the message says which part of it, and why."""


class GraphChangedError(GraphError):
    """A run cannot be taken up, because its graph is another one by now; the message says how it differs."""


class TaskTransitionError(GraphError, ValueError):
    """A task cannot go from its status to the wanted one. Make a new task to do the same again."""
