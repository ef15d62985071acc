"""Pictures of graphs, and of what became of them."""

import pytest

from miniagents import Message
from miniagents.ext.graph import Graph, NodePolicy
from miniagents.ext.graph.mermaid import flowchart
from tests.ext.graph.helpers import Unreliable, repeat, run, says

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


def test_a_plain_graph() -> None:
    """Nodes in the order in which they were added, an arrow for each dependency."""
    graph = Graph().add_node("facts", repeat).add_node("figures", repeat)
    graph.add_node("draft", repeat, after=["facts", "figures"])
    assert graph.to_mermaid() == (
        'flowchart TD\n    n0["facts"]\n    n1["figures"]\n    n2["draft"]\n    n0 --> n2\n    n1 --> n2\n'
    )


def test_an_empty_graph() -> None:
    """There is nothing in it, and that is a picture, too."""
    assert Graph().to_mermaid() == "flowchart TD\n"


async def test_states_and_times_of_a_run() -> None:
    """With the reply of a run each node shows its state, time, visits and retries, and jumps are dotted arrows."""
    decisions = iter(["a"])
    policy = NodePolicy(attempts=2, backoff=lambda _: 1.0)
    graph = Graph(raise_errors=False).add_node("a", says("A", 2)).add_node("b", Unreliable(1).agent, policy=policy)
    graph.add_node("c", says("C"), after=["a"], policy=NodePolicy(decide=lambda _: next(decisions, None)))
    graph.add_node("bad", Unreliable(1).agent).add_node("left", repeat, after=["bad"])
    assert graph.to_mermaid((await run(graph)).messages) == (
        "flowchart TD\n"
        '    n0["a<br/>visit 2<br/>2 s"]:::finished\n'
        '    n1["b<br/>1 s<br/>1 retry"]:::finished\n'
        '    n2["c<br/>visit 2<br/>0 s"]:::finished\n'
        '    n3["bad<br/>ValueError, 0 s"]:::failed\n'
        '    n4["left"]:::skipped\n'
        "    n0 --> n2\n"
        "    n3 --> n4\n"
        "    n2 -.-> n0\n"
        "    classDef finished fill:#dcfce7,stroke:#16a34a\n"
        "    classDef failed fill:#fee2e2,stroke:#dc2626\n"
        "    classDef skipped fill:#f3f4f6,stroke:#9ca3af,stroke-dasharray:4\n"
    )


async def test_a_run_that_goes_on() -> None:
    """Of the first part of a reply what runs is shown as running."""
    graph = Graph().add_node("a", says("A", 2)).add_node("b", says("B"), after=["a"])
    drawn = graph.to_mermaid((await run(graph)).messages[:1])
    assert 'n0["a"]:::running' in drawn
    assert 'n1["b"]\n' in drawn


async def test_a_graph_in_a_graph_is_one_node() -> None:
    """What happens inside of a node is not drawn beside it, and does not change how it is drawn."""
    inner = Graph("INNER", raise_errors=False).add_node("x", says("x", 3)).add_node("bad", Unreliable(1).agent)
    graph = Graph().add_node("a", inner)
    drawn = graph.to_mermaid((await run(graph)).messages)
    assert drawn.splitlines()[1:] == [
        '    n0["a<br/>3 s"]:::finished',
        "    classDef finished fill:#dcfce7,stroke:#16a34a",
    ]


async def test_nodes_that_were_added_in_the_run() -> None:
    """A node that is not in the graph but in its run is drawn, too."""
    from tests.ext.graph.test_graph_dynamic import adds

    graph = Graph().add_node("a", adds(("new", says("N", 1), ())))
    assert 'n1["new<br/>1 s"]:::finished' in graph.to_mermaid((await run(graph)).messages)


@pytest.mark.parametrize("name", ['say "hi"', "<b>", "a[b]{c}(d)", "x & y; z", "1\n2", "a|b`c`", "end", "#"])
def test_names_cannot_break_a_picture(name: str) -> None:
    """Whatever stands in a name is text in the picture, and nothing of Mermaid's own."""
    (_, line, *rest) = Graph().add_node(name, repeat).to_mermaid().splitlines()
    assert rest == []
    label = line.removeprefix('    n0["').removesuffix('"]')
    assert not set(label) & set('"<>&[]{}()|`')
    unescaped = label
    for character in set(name):
        unescaped = unescaped.replace(f"#{ord(character)};", character)
    assert unescaped == name


def test_a_flowchart_of_ones_own() -> None:
    """Nodes, edges, arrows and direction can be given; edges to what there is not, or that are there, are left out."""
    edges = [("a", "b", "-->"), ("a", "b", "-->"), ("b", "x", "-->"), ("b", "a", "==>")]
    assert flowchart(["a", "b", "a"], edges, [Message("no event")], direction="LR") == (
        'flowchart LR\n    n0["a"]\n    n1["b"]\n    n0 --> n1\n    n1 ==> n0\n'
    )
