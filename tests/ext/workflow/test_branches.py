"""Branches by themselves: whatever is forked meets again, in whichever order states end."""

import random
from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents.ext.workflow.branches import Branch, Branches, Group, are_beside


class Plan(NamedTuple):
    """A workflow: what each state names."""

    following: dict[str, list[str]]
    joins: dict[str, list[str]]
    """For each state in which branches meet the last states of these."""


def plan_of(shape: list[object]) -> Plan:
    """Makes a workflow: a shape is a sequence of states (None) and of forks (lists of shapes), which meet again."""
    following: dict[str, list[str]] = {}
    joins: dict[str, list[str]] = {}
    count = 0

    def name() -> str:
        nonlocal count
        count += 1
        following[f"s{count}"] = []
        return f"s{count}"

    def build(parts: list[object], last: str) -> str:
        for part in parts:
            if isinstance(part, list):
                ends = []
                for branch in part:
                    first = name()
                    following[last].append(first)
                    ends.append(build(branch, first))
                last = name()
                joins[last] = ends
                for end in ends:
                    following[end].append(last)
            else:
                following[last].append(made := name())
                last = made
        return last

    build(shape, name())
    return Plan(following, joins)


shapes = st.recursive(
    st.lists(st.none(), max_size=3),
    lambda inner: st.lists(st.none() | st.lists(inner, min_size=2, max_size=3), max_size=3),
    max_leaves=15,
)


@given(shapes, st.randoms(use_true_random=False), st.booleans())
def test_each_fork_meets_again_once(shape: list[object], chance: random.Random, knows: bool) -> None:
    """Each state of a workflow that forks and joins runs once, and a join after all of its branches.

    If it cannot be seen what states name, that holds for branches of the same length; here it is enough that it ends.
    """
    plan = plan_of(shape)
    at_work: list[tuple[str, Branch | None]] = []
    branches = Branches(
        lambda name, branch: at_work.append((name, branch)),
        lambda name: frozenset(plan.following[name]) if knows else None,
    )
    at_work.append(("s1", None))
    ended: list[str] = []
    while at_work:
        name, branch = at_work.pop(chance.randrange(len(at_work)))
        if knows:
            assert set(plan.joins.get(name, ())) <= set(ended)
        ended.append(name)
        branches.go_on(branch, branches.waits_of(branch, plan.following[name]))
    if knows:
        assert Counter(ended) == Counter(dict.fromkeys(plan.following, 1))
    else:
        assert set(ended) == set(plan.following)


@pytest.mark.parametrize("knows", [True, False])
def test_a_branch_that_is_inside_of_very_many_others(knows: bool) -> None:
    """Ten thousand nested forks are no deep recursion."""
    depth = 10_000
    running: dict[str, Branch | None] = {"fork0": None}
    branches = Branches(running.__setitem__, lambda name: frozenset({"end"}) if knows else None)
    for number in range(depth):
        branch = running.pop(f"fork{number}")
        branches.go_on(branch, {f"leaf{number}": 0, f"fork{number + 1}": 0})
    branches.go_on(running.pop(f"fork{depth}"), {})
    for number in range(depth):
        branches.go_on(running.pop(f"leaf{number}"), {})
    assert running == {}


def test_who_is_beside_whom() -> None:
    """Branches of one group are beside each other, and so is all that is inside of them."""
    outer = Group(None, ["a", "b"])
    a, b = outer.branches
    inner_a, inner_b = (list(Group(branch, ["x", "y"]).branches) for branch in (a, b))
    assert are_beside(a, b)
    assert are_beside(inner_a[0], b)
    assert are_beside(inner_a[0], inner_b[1])
    assert are_beside(*inner_a)
    for one, other in ((a, a), (inner_a[0], a), (a, inner_a[1]), (None, a), (a, None), (None, None)):
        assert not are_beside(one, other)
