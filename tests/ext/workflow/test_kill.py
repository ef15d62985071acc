"""Processes that are killed at random moments: every run ends like an undisturbed one."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from tests.ext.workflow.killed_workflow import UNDISTURBED

ROOT = Path(__file__).parents[3]
KILLS = 100


def test_a_hundred_kills(tmp_path: Path) -> None:
    """Killed a hundred times, runs have the same results, the same errors, and have done each deed once."""
    seed = random.randrange(2**32)
    nursery = subprocess.run(
        [sys.executable, "-m", "tests.ext.workflow.nursery", str(tmp_path), str(seed), str(KILLS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert (nursery.returncode, nursery.stderr) == (0, ""), seed
    runs = [json.loads(line) for line in nursery.stdout.splitlines()]
    assert sum(run["killed"] for run in runs) >= KILLS
    for run in runs:
        result, deeds = UNDISTURBED[run["kind"]]
        assert sorted(run["deeds"]) == sorted(deeds), (seed, run)
        if run["outcome"] != "failed before":
            assert run["outcome"] == result, (seed, run)
            assert run["error"] == ("no luck" if run["kind"] == "fails" else None), (seed, run)
    assert len({run["kind"] for run in runs if run["killed"]}) == 2
