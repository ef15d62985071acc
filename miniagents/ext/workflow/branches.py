"""Branches: states that run side by side, and where they come together again.

When a state names several next states, each of them begins a branch, and all of them are a group. A branch that names a
state which no other branch of its group can come to goes on with it at once. What other branches may name, too, waits
for the end of all of them, and then runs once. If several states have waited, those that others of them come to wait
for these, too. Groups nest: a branch that forks is a group inside of its group, and what it names may have to wait for
outer groups as well.

Where it cannot be seen what a state of a branch may name, that branch may come to anything, so that the others wait for
it. That does not count for states that several branches come to: what follows there follows when they have met.

Which groups a name has to wait for is decided when it is named, and recorded, so that a run that is taken up again goes
on in the same way, also if the source by which it was decided is another one by then.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Branch", "Branches", "Group", "are_beside"]

_NOTHING: frozenset[str] = frozenset()
Successors = Callable[[str], frozenset[str] | None]
"""Gives the states that a state can name; None where that is not known."""


class Branch:
    """One of several states that run side by side, with what follows it.

    Args:
        group: All of them.
        entry: The state that it begins with.

    Attributes:
        reach: The states that it can come to after that, as far as that is known.
        is_unknown: Whether it may come to others, too.
    """

    __slots__ = ("entry", "group", "is_unknown", "reach")

    def __init__(self, group: "Group", entry: str) -> None:
        self.group = group
        self.entry = entry
        self.reach = _NOTHING
        self.is_unknown = False

    def can_come_to(self, name: str) -> bool:
        """Whether it is known that it can come to a state."""
        return name == self.entry or name in self.reach


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
        self._unknown = 0  # how many may come to others than that

    def others_can_come_to(self, name: str, branch: Branch, successors: Successors) -> bool:
        """Whether a branch other than this one can come to a state."""
        if self._counts is None:
            if len(self.branches) == 1:
                return False
            self._count(successors)
        assert self._counts is not None
        return self._unknown > branch.is_unknown or self._counts[name] > branch.can_come_to(name)

    def _count(self, successors: Successors) -> None:
        counts: Counter[str] = Counter()
        self._counts = counts
        everything = _Reach(successors, {})
        for branch in self.branches:
            branch.reach, _ = everything.of(branch.entry)
            counts.update(branch.reach)
            counts[branch.entry] += branch.entry not in branch.reach
        until_others = _Reach(successors, counts)
        for branch in self.branches:
            _, branch.is_unknown = until_others.of(branch.entry)
            self._unknown += branch.is_unknown

    def remove(self, branch: Branch, *, is_postponed: bool) -> None:
        """Takes out a branch that has ended.

        Args:
            branch: The branch.
            is_postponed: Whether what it has named follows later, so that it can still come to what it could come to.
        """
        del self.branches[branch]
        if self._counts is not None and not is_postponed:
            self._counts.subtract(branch.reach)
            self._counts[branch.entry] -= branch.entry not in branch.reach
            self._unknown -= branch.is_unknown


class Branches:
    """Says which state follows which, for all branches of a run.

    Args:
        start: Starts a state in a branch; None stands for the run itself.
        successors: Gives the states that a state can name; None where that is not known.
    """

    def __init__(self, start: Callable[[str, Branch | None], None], successors: Successors) -> None:
        self._start = start
        self._successors = successors

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
                elif group.others_can_come_to(name, branch, self._successors):
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
        has_group_ended = False
        while True:
            now = [name for name, groups in waits.items() if groups <= 0]
            if branch is not None:
                named = branch.group.named
                for name, groups in waits.items():
                    if groups > 0:
                        named[name] = max(groups, named.get(name, 0))
            if len(now) > 1:
                later = self._behind_others(now) if has_group_ended else []
                begun = Group(branch, [name for name in now if name not in later])
                begun.named = dict.fromkeys(later, 1)
                for inner in list(begun.branches):
                    self._start(inner.entry, inner)
                return
            if now:
                self._start(now[0], branch)
                return
            if branch is None:
                return
            group = branch.group
            group.remove(branch, is_postponed=bool(waits))
            if group.branches:
                return
            has_group_ended = True
            branch, waits = group.outer, {name: groups - 1 for name, groups in group.named.items()}

    def _behind_others(self, names: Sequence[str]) -> list[str]:
        """Finds the states that others of them may come to, and that do not come to these: they run after them."""
        reach = _Reach(self._successors, {})
        known = {name: reach.of(name) for name in names}

        def is_behind(name: str, other: str) -> bool:
            (before, is_unknown), (after, is_unknown_after) = known[other], known[name]
            return other not in after and (name in before or (is_unknown and not is_unknown_after))

        return [name for name in names if any(is_behind(name, other) for other in names if other != name)]


class _Reach:
    """Finds what branches can come to.

    Args:
        successors: What states can name.
        counts: How many branches can come to a state. Behind those to which several can come nothing is looked for.
    """

    def __init__(self, successors: Successors, counts: Mapping[str, int]) -> None:
        self._successors = successors
        self._counts = counts
        self._known: dict[frozenset[str], tuple[frozenset[str], bool]] = {}

    def of(self, entry: str) -> tuple[frozenset[str], bool]:
        """Gives the states that follow the one that a branch begins with, and whether there may be others."""
        following = self._successors(entry)
        if following is None:
            return _NOTHING, True
        if following not in self._known:  # many states that are alike have the same ones
            self._known[following] = self._behind(following)
        return self._known[following]

    def _behind(self, following: frozenset[str]) -> tuple[frozenset[str], bool]:
        pending, found, is_unknown = list(following), set(following), False
        while pending:
            state = pending.pop()
            if self._counts.get(state, 0) > 1:
                continue
            further = self._successors(state)
            if further is None:
                is_unknown = True
            else:
                pending += further - found
                found |= further
        return frozenset(found), is_unknown


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
