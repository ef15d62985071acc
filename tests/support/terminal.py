"""A real terminal with a program in it, as a person has it."""

import os
import pty
import re
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Terminal", "environment"]

ROOT = str(Path(__file__).parents[2])


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ANTHROPIC_"))}
    return {**kept, "PYTHONPATH": ROOT, "TERM": "xterm", "PYTHONWARNINGS": "error::ResourceWarning", **variables}


class Terminal:
    """A program in a real terminal.

    Args:
        folder: Where it works.
        command: The program, which is this Python, and its arguments.
        *options: Further arguments.
        **variables: Further environment variables.

    Attributes:
        screen: What has been shown since what was waited for last.
        shown: All that has been shown.
    """

    def __init__(self, folder: Path, command: Sequence[str], *options: str, **variables: str) -> None:
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(folder)
            os.execve(sys.executable, [*command, *options], environment(**variables))
        self.screen = ""
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def expect(self, text: str) -> None:
        """Waits until something new is on the screen."""
        deadline = time.monotonic() + 30
        while text not in self.screen:
            assert time.monotonic() < deadline, f"{text!r} did not appear in {self.screen!r}"
            if select.select([self._terminal], [], [], 0.1)[0]:
                try:
                    data = os.read(self._terminal, 65536)
                except OSError:
                    data = b""
                if not data:
                    raise AssertionError(f"the terminal was closed before {text!r}: {self.screen!r}")
                if b"\x1b[6n" in data:
                    self.type("\x1b[1;1R")  # the line editor asks where the cursor is
                text_of_it = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data.decode("utf-8", "replace"))
                self.screen += text_of_it
                self.shown += text_of_it
        self.screen = self.screen.partition(text)[2]

    def wait(self) -> int:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if select.select([self._terminal], [], [], 0.05)[0]:
                try:
                    if not os.read(self._terminal, 65536):
                        break
                except OSError:
                    break
        _, status = os.waitpid(self._pid, 0)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)
