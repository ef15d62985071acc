"""What goes wrong with task graphs, beside the errors of graphs in `miniagents.ext.graph.errors`."""

from collections.abc import Mapping

from miniagents.ext.graph.errors import GraphError

__all__ = [
    "GraphChangedError",
    "MissingInputError",
    "MissingOutputError",
    "ModuleError",
    "NodesFailedError",
    "NonRetryableException",
    "RestoredError",
    "SnapshotError",
    "TaskTakenOverError",
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


class NodesFailedError(GraphError):
    """Of the nodes of which a node consists some have failed; the message says which, and with what.

    Args:
        where: The name of the node.
        errors: What the nodes in it have failed with, by their names.
    """

    def __init__(self, where: str, errors: Mapping[str, BaseException]) -> None:
        listed = "; ".join(f"{name}: {type(error).__name__}: {error}" for name, error in errors.items())
        super().__init__(f"in {where} failed {listed}")
        self.errors = dict(errors)


class SnapshotError(GraphError, NonRetryableException):
    """A snapshot cannot be written or read; the message says which part of it, and why."""


class GraphChangedError(GraphError):
    """A run cannot be taken up, because its graph is another one by now; the message says how it differs."""


class TaskTakenOverError(GraphError, NonRetryableException):
    """This process was at a standstill for so long that another one has taken up its task, and goes on with it."""


class RestoredError(GraphError):
    """What a node has failed with in another process: the message is all that is known of it."""


class TaskTransitionError(GraphError, ValueError):
    """A task cannot go from its status to the wanted one. Make a new task to do the same again."""
