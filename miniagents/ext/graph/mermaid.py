"""Graphs as Mermaid flowcharts, with the states and times of a run where one is given."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from miniagents.ext.graph.events import (
    DecisionTaken,
    GraphEvent,
    NodeFailed,
    NodeFinished,
    NodeRetried,
    NodeSkipped,
    NodeStarted,
)
from miniagents.message import Message

if TYPE_CHECKING:
    from miniagents.ext.graph.graph import Graph

__all__ = ["flowchart", "to_mermaid"]

_STYLES = {
    "running": "fill:#dbeafe,stroke:#2563eb",
    "finished": "fill:#dcfce7,stroke:#16a34a",
    "failed": "fill:#fee2e2,stroke:#dc2626",
    "skipped": "fill:#f3f4f6,stroke:#9ca3af,stroke-dasharray:4",
}


def to_mermaid(graph: "Graph", events: Iterable[Message] = ()) -> str:
    """Draws a graph.

    Args:
        graph: The graph.
        events: What a run has replied; other messages among them are passed over.

    Returns:
        A Mermaid flowchart: solid arrows for dependencies, dotted ones for jumps that were taken.
    """
    edges = [(before, node.name, "-->") for node in graph.nodes for before in node.after]
    return flowchart([node.name for node in graph.nodes], edges, events)


def flowchart(
    names: Iterable[str], edges: Iterable[tuple[str, str, str]], events: Iterable[Message] = (), direction: str = "TD"
) -> str:
    """Draws nodes and edges.

    Args:
        names: The nodes, in order.
        edges: From where, to where, and the arrow in Mermaid's words.
        events: What a run has replied.
        direction: Mermaid's direction, such as "TD" or "LR".

    Returns:
        A Mermaid flowchart.
    """
    states, notes, jumps = _read(events)
    own = list(names)
    own += [name for name in states if name.partition("/")[0] not in own]  # added in the run; not nodes inside of nodes
    ids = {name: f"n{number}" for number, name in enumerate(dict.fromkeys(own))}
    lines = [f"flowchart {direction}"]
    for name, identifier in ids.items():
        label = "<br/>".join([_escaped(name), *map(_escaped, notes.get(name, ()))])
        state = states.get(name)
        lines.append(f'    {identifier}["{label}"]' + (f":::{state}" if state in _STYLES else ""))
    for before, after, arrow in dict.fromkeys([*edges, *((a, b, "-.->") for a, b in jumps)]):
        if before in ids and after in ids:
            lines.append(f"    {ids[before]} {arrow} {ids[after]}")
    used = {states.get(name) for name in ids}
    lines += [f"    classDef {state} {_STYLES[state]}" for state in _STYLES if state in used]
    return "\n".join(lines) + "\n"


def _read(events: Iterable[Message]) -> tuple[dict[str, str], dict[str, list[str]], list[tuple[str, str]]]:
    """The last state of each node, what to note beside its name, and the jumps."""
    states: dict[str, str] = {}
    notes: dict[str, list[str]] = {}
    retries: dict[str, int] = {}
    jumps: list[tuple[str, str]] = []
    for event in events:
        if not isinstance(event, GraphEvent):
            continue
        if isinstance(event, NodeStarted):
            states[event.node] = "running"
            notes[event.node] = [f"visit {event.visit}"] if event.visit > 1 else []
        elif isinstance(event, NodeRetried):
            retries[event.node] = retries.get(event.node, 0) + 1
        elif isinstance(event, NodeFinished):
            states[event.node] = "finished"
            notes.setdefault(event.node, []).append(f"{event.seconds:.3g} s")
        elif isinstance(event, NodeFailed):
            states[event.node] = "failed"
            notes.setdefault(event.node, []).append(f"{event.error_type}, {event.seconds:.3g} s")
        elif isinstance(event, NodeSkipped):
            states[event.node] = "skipped"
        elif isinstance(event, DecisionTaken):
            jumps += [(event.node, target) for target in event.targets]
    for name, count in retries.items():
        notes.setdefault(name, []).append(f"{count} {'retry' if count == 1 else 'retries'}")
    return states, notes, jumps


def _escaped(text: str) -> str:
    return re.sub(r'["<>&#;\r\n`|\[\]{}()]', lambda found: f"#{ord(found[0])};", text)
