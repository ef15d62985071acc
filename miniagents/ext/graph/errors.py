"""What goes wrong with graphs.

```
GraphError
├── GraphDefinitionError   a ValueError: the graph cannot run as it was built
├── UnknownNodeError       a LookupError: a jump, or a dependency of a new node, names a node that there is not
└── GraphLimitError        a run was ended because it went on and on
```
"""

from collections.abc import Iterable

__all__ = ["GraphDefinitionError", "GraphError", "GraphLimitError", "UnknownNodeError"]


class GraphError(Exception):
    """What all errors of graphs derive from."""


class GraphDefinitionError(GraphError, ValueError):
    """The graph cannot run as it was built; the message names the nodes."""


class UnknownNodeError(GraphError, LookupError):
    """There is no node of that name. Add it before the run, or mend the name.

    Args:
        wanted: The name.
        where: What names it, for people.
        known: The nodes that there are.
    """

    def __init__(self, wanted: str, where: str, known: Iterable[str]) -> None:
        names = sorted(known)
        listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        super().__init__(f"{where} names {wanted!r}, which is no node of this graph; there are: {listed or 'none'}")
        self.wanted = wanted


class GraphLimitError(GraphError):
    """A limit for visits or starts of nodes was reached. Look whether a loop ends, or raise the limit."""
