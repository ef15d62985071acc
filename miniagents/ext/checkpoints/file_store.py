"""`FileCheckpointStore`: runs as folders of JSON files that people can read."""

import errno
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from miniagents.ext.checkpoints.claims import Claim, refuse_if_held
from miniagents.ext.checkpoints.entries import Draft
from miniagents.ext.checkpoints.errors import (
    CheckpointStoreError,
    RunExistsError,
    RunNotFoundError,
    StaleClaimError,
)
from miniagents.ext.checkpoints.file_journal import Journal
from miniagents.ext.checkpoints.file_writing import JournalWriter, begin_journal, writing
from miniagents.ext.checkpoints.files import (
    TEMPORARY,
    clear,
    compact,
    has_locks,
    locked,
    meaning_of,
    new_folder,
    read_json,
    sync_folder,
    write_json,
)
from miniagents.ext.checkpoints.holders import Holder
from miniagents.ext.checkpoints.interface import Receipt, StoredJournal, StoredRun
from miniagents.ext.checkpoints.local import LocalStore, Worker
from miniagents.ext.checkpoints.outcomes import Outcomes

__all__ = ["FileCheckpointStore"]

T = TypeVar("T")

_DELETED = f"{TEMPORARY}deleted-"
_LONGEST_FOLDER = 200


class FileCheckpointStore(LocalStore):
    """Keeps each run in a folder of JSON files that people can read; any number of processes of one machine may use it.

    An entry is `<folder>/<run id>/<number>_<node>/entry.json`. Messages are stored once for each run, in
    `<folder>/<run id>/objects/`; `{"$ref": name}` in an entry stands for one. A run is a folder that can be copied and
    moved as a whole. All files and folders are private to their user. Files are slower than SQLite: each entry waits
    for the disk three times.

    Args:
        folder: The folder, which is made if it is not there.
        durable: Whether what was appended survives a power failure. Without it entries are lost only then, and not if
            the process dies.
        timeout: How many seconds to wait for others who write to the same run.

    Raises:
        CheckpointStoreError: From whatever reads or writes: others keep a run locked (StoreLockedError), a file is
            damaged (StoreDamagedError), must not be written (StoreNotWritableError) or was written by a newer version
            (StoreVersionError), or the disk is full (StoreFullError). Or this system has no locks: only POSIX has.

    Example:
        ```python
        async with FileCheckpointStore("runs") as store:
            await store.create("run-1", workflow="report")
        print(Path("runs/run-1/run.json").read_text())
        ```
    """

    def __init__(self, folder: str | os.PathLike[str], *, durable: bool = True, timeout: float = 10.0) -> None:
        if not has_locks():
            raise CheckpointStoreError("files cannot be locked on this system; use SQLiteCheckpointStore")
        self.folder = Path(folder)
        self._durable = durable
        self._timeout = timeout
        super().__init__(f"files:{os.path.realpath(self.folder)}", Worker("checkpoints"))

    def __repr__(self) -> str:
        return f"<FileCheckpointStore {self.folder}>"

    async def _close(self) -> None:
        self._worker.close()

    async def _do(self, job: Callable[..., T], *args: Any) -> T:
        """Does a job in the thread; errors of the system become ones of the store."""

        def guarded() -> T:
            try:
                return job(*args)
            except OSError as error:
                raise meaning_of(error, self.folder) from error

        return await self._worker.run(guarded)

    def _journal(self, run_id: str) -> Journal:
        name = quote(run_id, safe=" ")
        if name.startswith("."):
            name = f"%2E{name[1:]}"
        if len(name) > _LONGEST_FOLDER:
            name = f"{name[: _LONGEST_FOLDER - 65]}-{hashlib.sha256(run_id.encode()).hexdigest()}"
        return Journal(self.folder / name)

    def _with_writer(self, run_id: str, use: Callable[[JournalWriter], T]) -> T:
        try:
            with writing(self._journal(run_id), self._timeout, durable=self._durable) as writer:
                return use(writer)
        except FileNotFoundError:
            self._refuse_if_missing(run_id)
            raise

    def _refuse_if_missing(self, run_id: str) -> None:
        if not self._journal(run_id).lock.exists():
            raise RunNotFoundError(
                f"there is no run {run_id} in {self.folder}; see `store.runs()` for those that are"
            ) from None

    # --- runs ---

    async def _create(self, run_id: str, workflow: str, fingerprint: bytes, status: str) -> None:
        await self._do(self._create_now, run_id, workflow, fingerprint, status)

    def _create_now(self, run_id: str, workflow: str, fingerprint: bytes, status: str) -> None:
        now = time.time()
        run = {
            "run_id": run_id,
            "workflow": workflow,
            "fingerprint": json.loads(fingerprint),
            "status": status,
            "created": now,
            "updated": now,
        }
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = new_folder(self.folder)
        try:
            begin_journal(temporary, run, durable=self._durable)
            temporary.rename(self._journal(run_id).folder)
        except OSError as error:
            clear(temporary)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise RunExistsError(
                    f"there is a run {run_id} in {self.folder} already; resume it, or give another id"
                ) from None
            raise
        if self._durable:
            sync_folder(self.folder)

    async def _info(self, run_id: str) -> StoredRun:
        return await self._do(self._info_now, run_id)

    def _info_now(self, run_id: str) -> StoredRun:
        journal = self._journal(run_id)
        try:
            if not journal.tail().is_clean:
                self._with_writer(run_id, lambda _: None)  # whoever writes is waited for, and what is left is mended
            tail, run = journal.tail(), read_json(journal.folder / "run.json")
            claim = _claim_in(journal)
        except FileNotFoundError:
            self._refuse_if_missing(run_id)
            raise
        return StoredRun(
            run["run_id"],
            run["workflow"],
            compact(run["fingerprint"]),
            run["status"],
            run["created"],
            max(run["updated"], tail.time),
            claim["holder"],
            claim["until"],
        )

    async def _runs(self, workflow: str | None, status: str | None, limit: int | None) -> Sequence[StoredRun]:
        return await self._do(self._runs_now, workflow, status, limit)

    def _runs_now(self, workflow: str | None, status: str | None, limit: int | None) -> list[StoredRun]:
        created: dict[str, float] = {}
        for path in self.folder.glob("[!.]*/run.json"):
            with suppress(FileNotFoundError):  # it has just been deleted
                run = read_json(path)
                if workflow in (None, run["workflow"]):
                    created[run["run_id"]] = run["created"]
        found: list[StoredRun] = []
        for run_id in sorted(created, key=lambda run_id: created[run_id], reverse=True):
            with suppress(RunNotFoundError):
                info = self._info_now(run_id)
                if status in (None, info.status):
                    found.append(info)
            if len(found) == limit:
                break
        return found

    async def _prune(self, claim: Claim, before: int) -> None:
        def pruned(writer: JournalWriter) -> None:
            _check_claim(writer.journal, claim)
            writer.prune(min(before, writer.tail.last) - 1)

        await self._do(self._with_writer, claim.run_id, pruned)

    async def _delete(self, run_id: str) -> bool:
        return await self._do(self._delete_now, run_id)

    def _delete_now(self, run_id: str) -> bool:
        journal = self._journal(run_id)
        try:
            with locked(journal.lock, self._timeout):
                claim = _claim_in(journal)
                refuse_if_held(run_id, claim["holder"], claim["until"])
                journal.folder.rename(self.folder / f"{_DELETED}{secrets.token_hex(8)}")
        except FileNotFoundError:
            return False
        if self._durable:
            sync_folder(self.folder)
        for path in self.folder.glob(f"{_DELETED}*"):  # and what others did not come to remove any more
            clear(path)
        self._place.ring(run_id)
        return True

    # --- claims ---

    async def _claim(self, run_id: str, holder: Holder, lease: float) -> int:
        def claimed(writer: JournalWriter) -> int:
            previous = _claim_in(writer.journal)
            refuse_if_held(run_id, previous["holder"], previous["until"])
            epoch: int = previous["epoch"] + 1
            self._write_claim(writer, epoch, holder.key, time.time() + lease)
            return epoch

        return await self._do(self._with_writer, run_id, claimed)

    async def _renew(self, claim: Claim) -> None:
        def renewed(writer: JournalWriter) -> None:
            _check_claim(writer.journal, claim)
            self._write_claim(writer, claim.epoch, claim.holder.key, time.time() + claim.lease, durable=False)

        await self._do(self._with_writer, claim.run_id, renewed)

    async def _release(self, claim: Claim) -> None:
        def released(writer: JournalWriter) -> None:
            _check_claim(writer.journal, claim)
            self._write_claim(writer, claim.epoch, None, 0.0)

        await self._do(self._with_writer, claim.run_id, released)

    def _write_claim(
        self, writer: JournalWriter, epoch: int, holder: str | None, until: float, *, durable: bool = True
    ) -> None:
        path = writer.journal.folder / "claim.json"
        write_json(path, {"epoch": epoch, "holder": holder, "until": until}, durable=durable and self._durable)
        if durable and self._durable:
            sync_folder(writer.journal.folder)

    # --- entries ---

    async def _append(self, claim: Claim, drafts: Sequence[Draft], status: str | None) -> Sequence[Receipt]:
        def appended(writer: JournalWriter) -> Sequence[Receipt]:
            _check_claim(writer.journal, claim)
            if claim.outcomes is None or writer.has_mended:
                claim.outcomes = Outcomes(claim.run_id, (row[:5] for row in writer.journal.read(0, None).rows))
            claim.outcomes.take(drafts, writer.tail.last + 1)
            try:
                return writer.append(drafts, status)
            except BaseException:
                claim.forget_outcomes()
                raise

        receipts: Sequence[Receipt] = await self._do(self._with_writer, claim.run_id, appended)
        self._place.ring(claim.run_id)
        return receipts

    async def _tell(self, run_id: str, draft: Draft) -> Receipt:
        receipts: list[Receipt] = await self._do(self._with_writer, run_id, lambda writer: writer.append([draft], None))
        self._place.ring(run_id)
        return receipts[0]

    async def _read(self, run_id: str, after: int, limit: int | None) -> StoredJournal:
        return await self._do(self._read_now, run_id, after, limit)

    def _read_now(self, run_id: str, after: int, limit: int | None) -> StoredJournal:
        journal = self._journal(run_id)
        try:
            found = journal.read(after, limit)
            if found.damage is None:
                return found
        except FileNotFoundError:
            pass
        # Somebody was writing while the files were looked at, or they are damaged indeed.
        try:
            with locked(journal.lock, self._timeout):
                return journal.read(after, limit)
        except FileNotFoundError:
            self._refuse_if_missing(run_id)
            raise

    # --- waiting ---

    async def _last(self, run_id: str) -> int:
        return await self._do(self._last_now, run_id)

    def _last_now(self, run_id: str) -> int:
        try:
            tail = self._journal(run_id).tail()
        except FileNotFoundError:
            self._refuse_if_missing(run_id)
            raise
        return tail.last if tail.is_clean else self._with_writer(run_id, lambda writer: writer.tail.last)

    async def _look(self, waited: Mapping[str, int]) -> Iterable[str]:
        return await self._do(lambda: [run_id for run_id, after in waited.items() if self._has_news(run_id, after)])

    def _has_news(self, run_id: str, after: int) -> bool:
        try:
            tail = self._journal(run_id).tail()
        except FileNotFoundError:
            return True
        return tail.last > after or not tail.is_clean


def _claim_in(journal: Journal) -> dict[str, Any]:
    try:
        return read_json(journal.folder / "claim.json")
    except FileNotFoundError:
        return {"epoch": 0, "holder": None, "until": 0.0}


def _check_claim(journal: Journal, claim: Claim) -> None:
    last = _claim_in(journal)
    if (last["epoch"], last["holder"]) != (claim.epoch, claim.holder.key):
        raise StaleClaimError(
            f"the run {claim.run_id} has been claimed by another one since (claim {claim.epoch}, now {last['epoch']}); "
            "stop working at it"
        )
