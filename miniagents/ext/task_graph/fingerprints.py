"""What describes the graph of an agent, so that a changed one can be told."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from miniagents.agents import MiniAgent

if TYPE_CHECKING:
    from miniagents.ext.task_graph.nodes import Node

__all__ = ["changes_between", "fingerprint_of"]

Fingerprint = dict[str, dict[str, Any]]

_PARTS = (("after", "the dependencies"), ("modules", "the modules"))


def fingerprint_of(nodes: "Mapping[str, Node]") -> Fingerprint:
    """Describes a graph: its nodes, what they depend on, and which modules they have.

    Args:
        nodes: The nodes by their names.

    Returns:
        Plain data.
    """
    return {
        name: {
            "after": list(node.after),
            "modules": [one.alias if isinstance(one, MiniAgent) else type(one).__name__ for one in node.modules],
            "nodes": fingerprint_of({inner.name: inner for inner in node.nodes}),
        }
        for name, node in nodes.items()
    }


def changes_between(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Says how a graph differs from what it was.

    Args:
        before: Its fingerprint then.
        now: Its fingerprint now.

    Returns:
        A sentence for each difference; the order of nodes is none.
    """
    changes = [f"the node {name!r} is missing" for name in before if name not in now]
    changes += [f"the node {name!r} is new" for name in now if name not in before]
    for name in now:
        if name in before:
            changes += [
                f"{what} of {name!r} were {_listed(before[name][part])} and are {_listed(now[name][part])}"
                for part, what in _PARTS
                if before[name][part] != now[name][part]
            ]
            changes += [
                f"in {name!r} {change}" for change in changes_between(before[name]["nodes"], now[name]["nodes"])
            ]
    return changes


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
