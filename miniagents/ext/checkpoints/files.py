"""Files of JSON that are there as a whole or not at all, locks, and what errors of the system mean."""

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from miniagents.ext.checkpoints.errors import (
    CheckpointStoreError,
    StoreDamagedError,
    StoreFullError,
    StoreLockedError,
    StoreNotWritableError,
    StoreVersionError,
)
from miniagents.ext.checkpoints.interface import FORMAT

try:
    import fcntl
except ImportError:  # there is no such thing outside of POSIX
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "TEMPORARY",
    "clear",
    "compact",
    "has_locks",
    "locked",
    "meaning_of",
    "new_folder",
    "read_json",
    "remove",
    "sync_folder",
    "write_json",
]

TEMPORARY = ".new-"
"""What the names of files and folders begin with that are not complete yet."""

_LOOK_AT_LOCK_EVERY = 0.002
_compact = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode
_readable = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, indent=1).encode


def has_locks() -> bool:
    """Whether files can be locked here."""
    return fcntl is not None


def compact(value: Any) -> bytes:
    """Writes what was read from JSON as it was before people could read it."""
    return _compact(value).encode("utf-8", "surrogatepass")


def write_json(path: Path, content: Mapping[str, Any], *, durable: bool) -> None:
    """Writes a file that is there as a whole or not at all; what was there before is replaced.

    Args:
        path: The file.
        content: What to write, beside the version of the format.
        durable: Whether to wait until the content is on the disk; its name is there when the folder is `sync_folder`ed.
    """
    data = _readable({"format": FORMAT, **content}).encode("utf-8", "surrogatepass") + b"\n"
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Reads what `write_json` has written.

    Raises:
        FileNotFoundError: It is not there.
        StoreDamagedError: It is no such file.
        StoreVersionError: It was written by a newer version.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
        version = content["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise StoreDamagedError(f"the file {path} is damaged: {error}; restore it, or delete the run") from error
    if version != FORMAT:
        raise StoreVersionError(
            f"the file {path} was written by a newer version of miniagents (format {version!r:.100}, known here: "
            f"{FORMAT}); update miniagents"
        )
    found: dict[str, Any] = content
    return found


def new_folder(parent: Path) -> Path:
    """Makes a folder that only its user can see, to be filled and renamed."""
    folder = parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    return folder


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a folder and what is in it, all of it at once."""
    doomed = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    path.rename(doomed)
    clear(doomed)


def clear(path: Path) -> None:
    """Removes what is temporary, as far as that can be done: nobody looks at it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, timeout: float) -> Iterator[int]:
    """Locks a file that is there; the lock goes with the process, however that ends.

    Args:
        path: The file.
        timeout: How many seconds to wait for others.

    Yields:
        The descriptor of the file.

    Raises:
        FileNotFoundError: It is not there, or has been removed in the meantime.
        StoreLockedError: Others keep it locked.
    """
    assert fcntl is not None  # see `has_locks`
    descriptor = os.open(path, os.O_RDWR)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreLockedError(
                        f"another program has kept {path} locked for {timeout:g} s; end that one, or give a longer "
                        "`timeout`"
                    ) from None
            time.sleep(_LOOK_AT_LOCK_EVERY)
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise FileNotFoundError(errno.ENOENT, "it was replaced", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def meaning_of(error: OSError, folder: Path) -> CheckpointStoreError:
    """Says what an error of the system means for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFullError(f"the checkpoints in {folder} cannot be written: the disk is full; make room on it")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreNotWritableError(
            f"the checkpoints in {folder} cannot be used: {error.filename} must not be written or opened; change the "
            "permissions, or give another folder"
        )
    return CheckpointStoreError(f"the checkpoints in {folder} cannot be used: {error}; mend that")
