"""Many limits of time with few timers."""

import asyncio
from contextvars import copy_context
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from miniagents.ext.graph.deadlines import Deadlines
from miniagents.testing import Timeline, run_with_virtual_clock


def deadlines_with(timeline: Timeline) -> Deadlines[Any]:
    def note(late: list[Any]) -> None:
        for one in late:
            timeline.note(one)

    return Deadlines(asyncio.get_running_loop(), copy_context(), note)


async def test_each_is_late_at_its_time() -> None:
    """Whatever their lengths and beginnings, each is told of exactly then; those at the same time in their order."""
    timeline = Timeline()
    deadlines = deadlines_with(timeline)
    for second in range(3):
        deadlines.begin([f"a{second}", f"b{second}"], 5)
        deadlines.begin([f"c{second}"], 2.5)
        await asyncio.sleep(1)
    await asyncio.sleep(100)
    assert timeline.entries == [
        (2.5, "c0"), (3.5, "c1"), (4.5, "c2"),
        (5, "a0"), (5, "b0"), (6, "a1"), (6, "b1"), (7, "a2"), (7, "b2"),
    ]  # fmt: skip


async def test_what_has_ended_is_not_late() -> None:
    """One that ends in time is not told of, also if it was the first in its line."""
    timeline = Timeline()
    deadlines = deadlines_with(timeline)
    first = deadlines.begin("ab", 5)
    await asyncio.sleep(1)
    second = deadlines.begin("cd", 5)
    await asyncio.sleep(1)
    third = deadlines.begin("ef", 5)
    del first["a"], second["c"], second["d"], third["f"]
    await asyncio.sleep(100)
    assert timeline.entries == [(5, "b"), (7, "e")]


async def test_a_line_can_be_used_again() -> None:
    """When all of a length have ended or were late the next one is watched like the first."""
    timeline = Timeline()
    deadlines = deadlines_with(timeline)
    deadlines.begin("a", 5).clear()
    await asyncio.sleep(20)
    deadlines.begin("b", 5)
    await asyncio.sleep(20)
    deadlines.begin("c", 5)
    await asyncio.sleep(20)
    assert timeline.entries == [(25, "b"), (45, "c")]


async def test_what_has_ended_is_not_kept() -> None:
    """However many limits have ended in time, nothing of them is left but the last ones."""
    deadlines = deadlines_with(Timeline())
    for number in range(1000):
        deadlines.begin([number], 5).clear()
    assert sum(map(len, deadlines._lines.values())) == 1
    deadlines.stop()


async def test_nothing_is_late_when_all_was_stopped() -> None:
    """After `stop` nobody is told of anything, and no timer is left."""
    timeline = Timeline()
    deadlines = deadlines_with(timeline)
    deadlines.begin("a", 5)
    deadlines.begin("b", 7)
    deadlines.stop()
    await asyncio.sleep(20)
    assert timeline.entries == []


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1, 2, 3]), st.integers(0, 5)), max_size=20))
def test_they_are_as_good_as_timers(limits: list[tuple[int, int, int]]) -> None:
    """Limits that begin and end at any time are late exactly where timers of their own would be."""

    async def main() -> None:
        timeline = Timeline()
        deadlines = deadlines_with(timeline)
        loop = asyncio.get_running_loop()
        for number, (begins, seconds, lasts) in enumerate(limits):

            def begin(number: int = number, seconds: int = seconds, lasts: int = lasts) -> None:
                loop.call_later(lasts + 0.5, deadlines.begin([number], seconds).clear)

            loop.call_later(begins, begin)
        await asyncio.sleep(20)
        assert sorted(timeline.entries) == sorted(
            (begins + seconds, number)
            for number, (begins, seconds, lasts) in enumerate(limits)
            if seconds <= lasts + 0.5
        )

    run_with_virtual_clock(main())
