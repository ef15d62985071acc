"""How the ratios are taken: both sides in one process, in alternation, by CPU time, medians of several runs."""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Row", "compare", "compare_async", "show"]


@dataclass
class Row:
    """One line of the table.

    Attributes:
        workload: What is done.
        ratio: Our cost divided by the yardstick's.
        goal: What the ratio should be at most.
        stretch: What it would be at best.
        detail: The absolute figures.
    """

    workload: str
    ratio: float
    goal: float
    stretch: float
    detail: str = ""

    @property
    def verdict(self) -> str:
        """Which of the two marks was reached."""
        return "stretch" if self.ratio <= self.stretch else "goal" if self.ratio <= self.goal else "missed"


def compare(
    ours: Callable[[], Any], yardstick: Callable[[], Any], *, runs: int = 7, warm_up: int = 1
) -> tuple[float, float, float]:
    """Measures two functions in alternation.

    Args:
        ours: The work as users of the framework would write it.
        yardstick: The same work without the framework.
        runs: How often each of them runs.
        warm_up: How many runs before that do not count.

    Returns:
        The median of the ratios of neighbouring runs, and the median CPU seconds of either side.
    """
    pairs = [(_cpu_seconds(ours), _cpu_seconds(yardstick)) for _ in range(runs + warm_up)][warm_up:]
    return (
        statistics.median(mine / other for mine, other in pairs),
        statistics.median(mine for mine, _ in pairs),
        statistics.median(other for _, other in pairs),
    )


def compare_async(
    ours: Callable[[], Awaitable[Any]],
    yardstick: Callable[[], Awaitable[Any]],
    *,
    runs: int = 7,
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> tuple[float, float, float]:
    """Measures two async functions in alternation in one event loop, see `compare`."""
    with asyncio.Runner(loop_factory=new_loop) as runner:

        async def run(function: Callable[[], Awaitable[Any]]) -> None:
            await function()

        return compare(lambda: runner.run(run(ours)), lambda: runner.run(run(yardstick)), runs=runs)


def show(rows: list[Row]) -> str:
    """Formats rows as a Markdown table."""
    lines = ["| workload | measured | goal | stretch | reached | detail |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.workload} | {row.ratio:.3g}x | {row.goal:g}x | {row.stretch:g}x | {row.verdict} | {row.detail} |"
        for row in rows
    ]
    return "\n".join(lines)


def _cpu_seconds(function: Callable[[], Any]) -> float:
    gc.collect()
    started = time.process_time()
    function()
    return time.process_time() - started
