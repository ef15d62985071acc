"""What stores on a disk have in common: a thread for what blocks, and how they wait for what anybody writes."""

import asyncio
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from miniagents.ext.checkpoints.interface import CheckpointStore
from miniagents.ext.checkpoints.waiting import Place, Watch

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

    Args:
        name: The name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0

    async def run(self, job: Callable[..., T], *args: Any) -> T:
        """Does a job in the thread. One that is cancelled before its turn is not done; after that it is."""
        executor = self._executor
        if executor is None or self._process != os.getpid():  # a fork has no threads but its own
            self._process = os.getpid()
            executor = self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)
        return await asyncio.get_running_loop().run_in_executor(executor, job, *args)

    def close(self) -> None:
        """Ends the thread as soon as it has done the jobs so far."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)


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
        self._watches: WeakKeyDictionary[asyncio.AbstractEventLoop, Watch] = WeakKeyDictionary()

    async def _wait(self, run_id: str, after: int, timeout: float | None) -> bool:
        loop = asyncio.get_running_loop()
        watch = self._watches.get(loop)
        if watch is None:
            watch = self._watches[loop] = Watch(self._place, self._look)
        with watch.listening(run_id, after) as listener:  # before the first look, so that nothing is missed
            if await self._last(run_id) > after:
                return True
            try:
                async with asyncio.timeout(timeout):
                    while True:
                        await listener.rung()
                        if await self._last(run_id) > after:
                            return True
            except TimeoutError:
                return False

    @abstractmethod
    async def _last(self, run_id: str) -> int:
        """Gives the number of the last entry of a run, or raises a RunNotFoundError."""

    @abstractmethod
    async def _look(self, waited: Mapping[str, int]) -> Iterable[str]:
        """Gives those runs that have entries beyond a number, or are gone, as far as another process has written."""
