"""What importing the packages costs, in processes of their own."""

import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Row

__all__ = ["rows"]

_ROOT = Path(__file__).parents[1]
_RUNS = 15
_PYDANTIC = "import pydantic\nclass Model(pydantic.BaseModel):\n    text: str | None = None"


def _cpu_seconds(code: str) -> float:
    measured = f"import time\nstarted = time.process_time()\n{code}\nprint(time.process_time() - started)"
    done = subprocess.run([sys.executable, "-c", measured], cwd=_ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _row(ours: str, yardstick: str, workload: str) -> Row:
    pairs = [(_cpu_seconds(ours), _cpu_seconds(yardstick)) for _ in range(_RUNS + 1)][1:]
    mine, other = statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)
    ratio = statistics.median(mine / other for mine, other in pairs)
    return Row(workload, ratio, 1.3, 1.1, f"{mine * 1e3:.0f} against {other * 1e3:.0f} ms")


def rows() -> list[Row]:
    """Measures."""
    return [
        _row("import promising", "import asyncio", "`import promising`"),
        _row("import miniagents", _PYDANTIC, "`import miniagents`"),
    ]
