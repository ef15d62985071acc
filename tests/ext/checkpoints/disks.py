"""Disks that are full, and folders that must not be written, for the tests of checkpoint stores."""

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["little_room", "open_to_all"]


@contextmanager
def little_room() -> Iterator[tuple[Path, Callable[[], object]]]:
    """A folder with room for less than a megabyte, and what makes more: a small disk, or if there is none a limit."""
    folder = tempfile.mkdtemp()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if os.getuid() == 0 and subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode == 0:
        try:
            yield Path(folder), lambda: subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
    else:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
        try:
            yield Path(folder), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    shutil.rmtree(folder)


@contextmanager
def open_to_all() -> Iterator[Path]:
    """A folder into which other users can look, unlike those of pytest."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
