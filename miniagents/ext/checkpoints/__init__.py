"""Checkpoints: runs of graphs and workflows as journals that outlive their process.

* `interface`: `CheckpointStore`, what all stores can do
* `entries`: what a journal consists of; `outcomes`: results are recorded once; `errors`: what goes wrong
* `objects`: messages are stored once, however often they recur
* `claims`: of all processes that would work at a run one does; `holders`: which one that is, and whether it lives
* `sqlite_store`: `SQLiteCheckpointStore`, on `sqlite_database`
* `file_store`: `FileCheckpointStore`, made of `file_journal`, `file_writing` and `files`
* `redis_store`: `RedisCheckpointStore`, made of `redis_log`, `redis_records`, `redis_claimed` and `redis_shelf`
* `local`, `waiting`: what stores on a disk have in common

The data of entries is written by `miniagents.ext.values`.
"""

from miniagents.ext.checkpoints.claims import Claim
from miniagents.ext.checkpoints.entries import Entry, NewEntry, RunInfo
from miniagents.ext.checkpoints.errors import (
    CheckpointStoreError,
    RecordedAlreadyError,
    RunClaimedError,
    RunExistsError,
    RunNotFoundError,
    StaleAttemptError,
    StaleClaimError,
    StoreDamagedError,
    StoreFullError,
    StoreLockedError,
    StoreNotWritableError,
    StoreUnavailableError,
    StoreVersionError,
)
from miniagents.ext.checkpoints.file_store import FileCheckpointStore
from miniagents.ext.checkpoints.interface import CheckpointStore
from miniagents.ext.checkpoints.redis_store import RedisCheckpointStore
from miniagents.ext.checkpoints.sqlite_store import SQLiteCheckpointStore

__all__ = [
    "CheckpointStore",
    "CheckpointStoreError",
    "Claim",
    "Entry",
    "FileCheckpointStore",
    "NewEntry",
    "RecordedAlreadyError",
    "RedisCheckpointStore",
    "RunClaimedError",
    "RunExistsError",
    "RunInfo",
    "RunNotFoundError",
    "SQLiteCheckpointStore",
    "StaleAttemptError",
    "StaleClaimError",
    "StoreDamagedError",
    "StoreFullError",
    "StoreLockedError",
    "StoreNotWritableError",
    "StoreUnavailableError",
    "StoreVersionError",
]
