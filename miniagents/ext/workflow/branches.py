"""Branches: states that run side by side, and where they come together again.

When a state names several next states, each of them begins a branch, and all of them are a group. A branch that names a
state which no other branch of its group can come to goes on with it at once. What other branches may name, too, waits
for the end of all of them, and then runs once. Groups nest: a branch that forks is a group inside of its group, and
what it names may have to wait for outer groups as well.

Which groups a name has to wait for is decided when it is named, and recorded, so that a run that is taken up again goes
on in the same way, also if the source by which it was decided is another one by then.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

__all__ = ["Branch", "Branches", "Group", "are_beside"]

Reach = frozenset[str] | None
"""The states that a branch can come to; None where that is not known."""


class Branch:
    """One of several states that run side by side, with what follows it.

    Args:
        group: All of them.
        entry: The state that it begins with.
    """

    __slots__ = ("entry", "group", "reach")

    def __init__(self, group: "Group", entry: str) -> None:
        self.group = group
        self.entry = entry
        self.reach: Reach = frozenset()  # as it was counted


class Group:
    """States that one state has started side by side.

    Args:
        outer: The branch that has forked here; None for the run itself.
        entries: The states.

    Attributes:
        branches: Those that have not ended.
        named: What follows when all have ended: how many groups, from this one outwards, each state waits for.
    """

    __slots__ = ("_counts", "_unknown", "branches", "named", "outer")

    def __init__(self, outer: Branch | None, entries: Iterable[str]) -> None:
        self.outer = outer
        self.branches: dict[Branch, None] = {Branch(self, entry): None for entry in entries}
        self.named: dict[str, int] = {}
        self._counts: Counter[str] | None = None  # how many branches can come to a state; made when first needed
        self._unknown = 0  # how many can come nobody knows where

    def others_can_come_to(self, name: str, branch: Branch, reach_of: Callable[[str], Reach]) -> bool:
        """Whether a branch other than this one can come to a state."""
        if len(self.branches) == 1:
            return False
        if self._counts is None:
            self._count(reach_of)
        assert self._counts is not None
        if branch.reach is None:
            return self._unknown > 1 or self._counts[name] > 0
        return self._unknown > 0 or self._counts[name] > (name in branch.reach)

    def _count(self, reach_of: Callable[[str], Reach]) -> None:
        self._counts = Counter()
        for branch in self.branches:
            branch.reach = reach_of(branch.entry)
            if branch.reach is None:
                self._unknown += 1
            else:
                self._counts.update(branch.reach)

    def remove(self, branch: Branch) -> None:
        """Takes out a branch that has ended."""
        del self.branches[branch]
        if self._counts is not None:
            if branch.reach is None:
                self._unknown -= 1
            else:
                self._counts.subtract(branch.reach)


class Branches:
    """Says which state follows which, for all branches of a run.

    Args:
        start: Starts a state in a branch; None stands for the run itself.
        successors: Gives the states that a state can name; None where that is not known.
    """

    def __init__(
        self, start: Callable[[str, Branch | None], None], successors: Callable[[str], frozenset[str] | None]
    ) -> None:
        self._start = start
        self._successors = successors
        self._reach: dict[str, Reach] = {}

    def forget(self) -> None:
        """Has it found out anew which states can be come to, as there are others now."""
        self._reach.clear()

    def waits_of(self, branch: Branch | None, names: Iterable[str]) -> dict[str, int]:
        """Decides how many groups the states that a branch names have to wait for.

        Args:
            branch: The branch.
            names: The states.

        Returns:
            For each state the number of groups, from that of the branch outwards, that have to end before; 0 for none.
        """
        waits = dict.fromkeys(names, 0)
        depth = 0
        while branch is not None:
            group = branch.group
            for name in waits:
                if name in group.named:
                    waits[name] = max(waits[name], depth + group.named[name])
                elif group.others_can_come_to(name, branch, self._reach_of):
                    waits[name] = depth + 1
            depth += 1
            branch = group.outer
        return waits

    def go_on(self, branch: Branch | None, waits: Mapping[str, int]) -> None:
        """Goes on after a state of a branch has ended.

        Args:
            branch: The branch.
            waits: The states that were named, and for how many groups each of them waits.
        """
        while True:
            now = [name for name, groups in waits.items() if groups <= 0]
            if branch is not None:
                named = branch.group.named
                for name, groups in waits.items():
                    if groups > 0:
                        named[name] = max(groups, named.get(name, 0))
            if len(now) > 1:
                for inner in list(Group(branch, now).branches):
                    self._start(inner.entry, inner)
                return
            if now:
                self._start(now[0], branch)
                return
            if branch is None:
                return
            group = branch.group
            group.remove(branch)
            if group.branches:
                return
            branch, waits = group.outer, {name: groups - 1 for name, groups in group.named.items()}

    def _reach_of(self, entry: str) -> Reach:
        if entry not in self._reach:
            self._reach[entry] = self._find_reach(entry)
        return self._reach[entry]

    def _find_reach(self, entry: str) -> Reach:
        pending, found = [entry], {entry}
        while pending:
            following = self._successors(pending.pop())
            if following is None:
                return None
            pending += following - found
            found |= following
        return frozenset(found)


def are_beside(one: Branch | None, other: Branch | None) -> bool:
    """Whether two branches are, or are inside of, different branches of one group."""
    branch_of: dict[Group, Branch] = {}
    while one is not None:
        branch_of[one.group] = one
        one = one.group.outer
    while other is not None:
        found = branch_of.get(other.group)
        if found is not None:
            return found is not other
        other = other.group.outer
    return False
