"""What the tests of checkpoint stores share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, in memory where that can be had: for tests that write thousands of files."""
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared_memory, ignore_cleanup_errors=True) as name:
        yield Path(name)
