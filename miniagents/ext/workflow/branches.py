"""Branches: states that run side by side, and where they come together again.

When a state names several next states, these are the members of a group. A member that names a next state which no
other member can come to goes on with it at once, as the same branch. What several members name, or may name, waits for
the end of all of them, and then runs once. Groups nest: a branch that forks is a group inside of its group.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Branches", "Group", "possible_successors"]


class Group:
    """States that one state has started side by side, and what follows them.

    Args:
        outer: The group of which this one is a branch; None for the run itself.
        members: The states at work in it.
    """

    __slots__ = ("members", "named", "outer")

    def __init__(self, outer: "Group | None", members: Iterable[str]) -> None:
        self.outer = outer
        self.members: list[str | Group] = list(members)
        self.named: dict[str, None] = {}

    def states(self) -> list[str]:
        """The states at work in this group, those in groups inside of it included."""
        found: list[str] = []
        for member in self.members:
            found += member.states() if isinstance(member, Group) else [member]
        return found


class Branches:
    """Says which state follows which, for all branches of a run.

    Args:
        start: Starts a state as a member of a group.
        successors: Gives the states that a state can name; None where that is not known.
    """

    def __init__(
        self, start: Callable[[str, Group | None], None], successors: Callable[[str], frozenset[str] | None]
    ) -> None:
        self._start = start
        self._successors = successors

    def go_on(self, group: Group | None, member: "str | Group", names: list[str]) -> None:
        """Says that a member of a group has ended, and what it goes on with.

        Args:
            group: The group; None for the run itself.
            member: The member.
            names: The states that it has named.
        """
        if not names:
            self._end(group, member)
        elif len(names) > 1:
            inner = Group(group, names)
            if group is not None:
                group.members[group.members.index(member)] = inner
            for name in names:
                self._start(name, inner)
        elif group is None:
            self._start(names[0], None)
        elif self._is_alone_with(group, member, names[0]):
            group.members[group.members.index(member)] = names[0]
            self._start(names[0], group)
        else:
            group.named.setdefault(names[0])
            self._end(group, member)

    def _end(self, group: Group | None, member: "str | Group") -> None:
        if group is None:
            return
        group.members.remove(member)
        if not group.members:
            self.go_on(group.outer, group, list(group.named))

    def _is_alone_with(self, group: Group, member: "str | Group", name: str) -> bool:
        """Whether no other member can come to a state."""
        if name in group.named:
            return False
        others = [other for other in group.members if other is not member]
        states = [state for other in others for state in (other.states() if isinstance(other, Group) else [other])]
        return all(not self._can_reach(state, name) for state in states)

    def _can_reach(self, state: str, name: str) -> bool:
        pending, seen = [state], {state}
        while pending:
            following = self._successors(pending.pop())
            if following is None or name in following:
                return True
            pending += following - seen
            seen |= following
        return name == state


def possible_successors(function: Callable[..., Any]) -> frozenset[str] | None:
    """Reads out of the source of a state which states it can name.

    Args:
        function: The function of the state.

    Returns:
        The names, if each of its `return`s gives constants only; None where that cannot be seen.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    definition = tree.body[0]
    if not isinstance(definition, ast.AsyncFunctionDef) or definition.name != getattr(function, "__name__", ""):
        return None
    names: set[str] = set()
    pending: list[ast.AST] = list(definition.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            continue  # what is returned in there is not what the state returns
        if isinstance(node, ast.Return) and node.value is not None:
            named = _constants(node.value)
            if named is None:
                return None
            names |= named
        pending.extend(ast.iter_child_nodes(node))
    return frozenset(names)


def _constants(value: ast.expr) -> set[str] | None:
    if isinstance(value, ast.Constant):
        return {value.value} if isinstance(value.value, str) else set()
    if isinstance(value, (ast.List, ast.Tuple)):
        parts = [_constants(part) for part in value.elts]
        return None if None in parts else set().union(*(part for part in parts if part is not None))
    if isinstance(value, ast.IfExp):
        first, second = _constants(value.body), _constants(value.orelse)
        return None if first is None or second is None else first | second
    return None
