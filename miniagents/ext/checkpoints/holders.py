"""Who holds a claim: which process of which machine, and whether it still lives.

A process is known by its id and the time of its start, as ids are given again; a machine by its name and the number of
its boot, since after a reboot nothing runs any more that ran before. Where the system does not tell these (outside of
Linux), the end of the lease decides more often.
"""

import os
import platform
import secrets
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["NOT_KNOWN", "Holder", "this_boot"]

NOT_KNOWN = "-"
"""Stands for what the system does not tell."""


class Holder(NamedTuple):
    """Who holds a claim.

    Attributes:
        host: The name of the machine.
        machine: What tells this machine, since its boot, from others of that name.
        pid: The id of the process.
        started: When it was started, in units of the system.
        token: What tells the claims of one process apart.
    """

    host: str
    machine: str
    pid: int
    started: str
    token: str

    @classmethod
    def new(cls) -> "Holder":
        """Makes the holder of a new claim of this process."""
        pid = os.getpid()
        return cls(*_this_machine(), pid, _started(pid) or NOT_KNOWN, secrets.token_hex(8))

    @classmethod
    def of_key(cls, key: str) -> "Holder":
        """Reads what `key` has made."""
        host, machine, pid, started, token = key.split(" ")
        return cls(host, machine, int(pid), started, token)

    @property
    def key(self) -> str:
        """The text by which a store knows the holder."""
        return " ".join(map(str, self))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_gone(self) -> bool:
        """Whether it is certain that the process does not live any more."""
        if (self.host, self.machine) != _this_machine() or self.machine == NOT_KNOWN or os.name != "posix":
            return False
        if self.pid == os.getpid():
            return self.started != (_started(self.pid) or NOT_KNOWN)
        started = _started(self.pid)
        if started is None:  # not there, or hidden from this user
            return not _exists(self.pid)
        return started != self.started


def this_boot() -> str:
    """Gives what tells this machine, since it was booted, from others and from itself before; or `NOT_KNOWN`."""
    return _this_machine()[1].partition("/")[0]


@lru_cache(maxsize=1)
def _this_machine() -> tuple[str, str]:
    host = platform.node().replace(" ", "_") or "localhost"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        # In containers process ids are counted anew, and may be those of others outside.
        names = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    except OSError:
        return host, NOT_KNOWN
    return host, f"{boot}/{names}"


def _started(pid: int) -> str | None:
    """When a process was started; None if that cannot be found out, "gone" if it only waits to be buried."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # before it stands its name, in which there can be anything
    return "gone" if fields[0] in "ZXx" else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to somebody else
        pass
    return True
