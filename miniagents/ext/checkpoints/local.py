"""What stores on a disk have in common: a thread for what blocks, and how they wait for what anybody writes."""

import asyncio
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from miniagents.ext.checkpoints.interface import CheckpointStore
from miniagents.ext.checkpoints.waiting import Listener, Place, Watch

__all__ = ["LocalStore", "Worker", "state_folder"]

T = TypeVar("T")


def state_folder() -> Path:
    """Gives the folder for what outlives a process: `$MINIAGENTS_STATE`, or `miniagents` where the user's state is."""
    own = os.environ.get("MINIAGENTS_STATE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "miniagents"


class Worker:
    """A thread in which jobs are done one after the other, in the order in which they were given.

    It is a third faster than a `ThreadPoolExecutor` of one thread, which is what an append waits for beside the disk.

    Args:
        name: The name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] | None = None
        self._process = 0

    async def run(self, job: Callable[..., T], *args: Any) -> T:
        """Does a job in the thread. One that is cancelled before its turn is not done; after that it is."""
        jobs = self._jobs
        if jobs is None or self._process != os.getpid():  # a fork has no threads but its own
            self._process = os.getpid()
            jobs = self._jobs = SimpleQueue()
            Thread(target=_work, args=(jobs,), name=self._name, daemon=True).start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        jobs.put(_Job(loop, future, job, args))
        with getattr(loop, "hold_clock", nullcontext)():  # a virtual clock stands still meanwhile
            return await future

    def close(self) -> None:
        """Ends the thread as soon as it has done the jobs so far."""
        jobs, self._jobs = self._jobs, None
        if jobs is not None:
            jobs.put(None)


class _Job(NamedTuple):
    """What is to be done in the thread, and who waits for it."""

    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    job: Callable[..., Any]
    args: tuple[Any, ...]


def _work(jobs: "SimpleQueue[_Job | None]") -> None:
    while (job := jobs.get()) is not None:
        if not job.future.cancelled():
            _do(job)
        del job  # nothing is kept alive by a thread that waits


def _do(job: _Job) -> None:
    result: Any = None
    error: BaseException | None = None
    try:
        result = job.job(*job.args)
    except StopIteration as raised:  # no future takes it, so that whoever waits would do so for ever
        error = RuntimeError(f"{raised!r} was raised in a thread")
    except BaseException as raised:
        error = raised
    with suppress(RuntimeError):  # the loop has been closed, so nobody waits there any more
        job.loop.call_soon_threadsafe(_settle, job.future, result, error)


def _settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class LocalStore(CheckpointStore):
    """A store on a disk, which several processes of one machine may use.

    Args:
        place: What names the file or folder, so that all stores of this process that use it know of each other.
        worker: The thread in which it is used.
    """

    def __init__(self, place: str, worker: Worker) -> None:
        super().__init__()
        self._place = Place.named(place)
        self._worker = worker
        self._watches: dict[asyncio.AbstractEventLoop, Watch] = {}

    async def _wait(self, run_id: str, after: int, timeout: float | None) -> bool:
        loop = asyncio.get_running_loop()
        watch = self._watches.get(loop)
        if watch is None:
            watch = self._watches[loop] = Watch(self._place, self._look)
        try:
            with watch.listening(run_id, after) as listener:  # before the first look, so that nothing is missed
                return await self._wait_listening(listener, timeout)
        finally:
            if watch.is_idle:
                self._watches.pop(loop, None)

    async def _wait_listening(self, listener: Listener, timeout: float | None) -> bool:
        if await self._last(listener.run_id) > listener.after:
            return True
        try:
            async with asyncio.timeout(timeout):
                while True:
                    await listener.rung()
                    if await self._last(listener.run_id) > listener.after:
                        return True
        except TimeoutError:
            return False

    @abstractmethod
    async def _last(self, run_id: str) -> int:
        """Gives the number of the last entry of a run, or raises a RunNotFoundError."""

    @abstractmethod
    async def _look(self, waited: Mapping[str, int]) -> Iterable[str]:
        """Gives those runs that have entries beyond a number, or are gone, as far as another process has written."""
