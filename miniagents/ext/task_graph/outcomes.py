"""What modules return, and what that means for the run."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from miniagents.ext.task_graph.modules import Result
from miniagents.ext.task_graph.nodes import Node

__all__ = ["NodeOutcome", "as_result", "text_of"]


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """What came of a visit of a node.

    Attributes:
        results: What the modules have returned, in their order.
        new_nodes: Nodes to add to the graph.
        decision: The node to go on with, if flow control has named one.
        cleanup: Whether generators begin anew in what runs again.
        why: The condition that decided.
        condition_variables: Keys of the cache to delete when the run goes there.
    """

    results: list[Result]
    new_nodes: tuple[Node, ...] = ()
    decision: str | None = None
    cleanup: bool = False
    why: str | None = None
    condition_variables: tuple[str, ...] = ()

    @classmethod
    def of(cls, results: Iterable[Result]) -> "NodeOutcome":
        """Reads what the run has to know out of the results. Of several decisions the first one counts.

        Raises:
            TypeError: Something is no node that is to be one.
        """
        plain: list[Result] = []
        new_nodes: list[Node] = []
        deciding: Result = {}
        for result in results:
            nodes = [_checked(node) for node in result.get("new_nodes") or ()]
            new_nodes += nodes
            if result.get("decision") and not deciding:
                deciding = result
            plain.append({**result, "new_nodes": [node.name for node in nodes]} if "new_nodes" in result else result)
        if not deciding:
            return cls(plain, tuple(new_nodes))
        return cls(
            plain,
            tuple(new_nodes),
            decision=deciding["decision"],
            cleanup=bool(deciding.get("cleanup")),
            why=deciding.get("why"),
            condition_variables=tuple(deciding.get("condition_variables") or ()),
        )


def _checked(node: Any) -> Node:
    if not isinstance(node, Node):
        raise TypeError(f"{node!r:.100} is among `new_nodes` and no node; give a list of `Node`")
    return node


def as_result(returned: Any) -> Result:
    """What a module has returned, in the form of a result: anything else is the result of a success."""
    if isinstance(returned, dict) and returned.get("status") in ("success", "error"):
        return returned
    if isinstance(returned, dict) and "status" not in returned:
        return {"status": "success", "result": returned, **returned}
    return {"status": "success", "result": returned}


def text_of(value: Any) -> str:
    """A result as a text for other agents: JSON, where it is none already."""
    return value if isinstance(value, str) else to_json(value, fallback=str).decode()
