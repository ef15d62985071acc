"""What goes wrong with checkpoints: what the rules of a journal refuse, and what ails the place where it is kept."""

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miniagents.ext.checkpoints.entries import Entry

__all__ = [
    "CheckpointStoreError",
    "RecordedAlreadyError",
    "RunClaimedError",
    "RunExistsError",
    "RunNotFoundError",
    "StaleAttemptError",
    "StaleClaimError",
    "StoreDamagedError",
    "StoreFullError",
    "StoreLockedError",
    "StoreNotWritableError",
    "StoreUnavailableError",
    "StoreVersionError",
]


class CheckpointStoreError(Exception):
    """What all errors of checkpoint stores are derived from."""


# --- what the rules refuse ---


class RunExistsError(CheckpointStoreError):
    """There is a run of that id already: resume it, or give the new one another id."""


class RunNotFoundError(CheckpointStoreError):
    """There is no run of that id, or it has been deleted."""


class RunClaimedError(CheckpointStoreError):
    """Another one works at the run, here or in another process.

    Attributes:
        run_id: The run.
        holder: Who works at it, for people.
        until: Until when, in unix seconds; whoever holds a claim renews it before.
    """

    def __init__(self, run_id: str, holder: str, until: float) -> None:
        moment = datetime.fromtimestamp(until).astimezone().isoformat(sep=" ", timespec="seconds")
        super().__init__(
            f"the run {run_id} is claimed by {holder} until {moment}, and longer as long as that is at work; wait for "
            "it, or end it"
        )
        self.run_id = run_id
        self.holder = holder
        self.until = until


class StaleClaimError(CheckpointStoreError):
    """The claim does not hold any more: another one has claimed the run since, or it was released. Nothing was written.

    Stop working at the run: whoever has claimed it goes on with what was appended so far.
    """


class StaleAttemptError(CheckpointStoreError):
    """A newer attempt of the same visit has started, so what an older one brings is of no importance any more."""


class RecordedAlreadyError(CheckpointStoreError):
    """What comes of a visit or an attempt is recorded once, and was.

    Attributes:
        sequence: The number of the recorded entry.
        recorded: The entry itself.
    """

    def __init__(self, message: str, sequence: int) -> None:
        super().__init__(message)
        self.sequence = sequence
        self.recorded: Entry | None = None


# --- what ails the place ---


class StoreFullError(CheckpointStoreError):
    """There is no room. What was appended before can be read; as soon as there is room, appending goes on."""


class StoreLockedError(CheckpointStoreError):
    """Another program keeps the store locked for longer than the time limit. End that, or give a longer `timeout`."""


class StoreNotWritableError(CheckpointStoreError):
    """The file or folder must not be written, or not be opened: mend its permissions, or give another one."""


class StoreVersionError(CheckpointStoreError):
    """The store was written by a newer version of miniagents than this one, or by another program."""


class StoreUnavailableError(CheckpointStoreError):
    """The server could not be reached. An append that fails so may have been carried out or not."""


class StoreDamagedError(CheckpointStoreError):
    """What is stored is damaged.

    Attributes:
        readable: From `read`: the entries before the damage.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.readable: list[Entry] = []
