"""`CheckpointStoreConformance`: the tests that every checkpoint store passes. It needs pytest and pytest-asyncio.

* `journals`: what is appended comes back, in order; `runs`: what is known of runs, and how they end
* `claims`: one at a time works at a run
* `outcomes`: results are recorded once, and never by an attempt that was given up
* `messages`: messages come back equal, wherever they were
* `waiting`: who waits for entries is told
* `crowds`: what several do at the same time, and what was cancelled
* `base`: what they share
"""

from miniagents.testing.checkpoint_store_conformance.claims import ClaimTests
from miniagents.testing.checkpoint_store_conformance.crowds import CrowdTests
from miniagents.testing.checkpoint_store_conformance.journals import JournalTests
from miniagents.testing.checkpoint_store_conformance.messages import MessageTests
from miniagents.testing.checkpoint_store_conformance.outcomes import OutcomeTests
from miniagents.testing.checkpoint_store_conformance.runs import RunTests
from miniagents.testing.checkpoint_store_conformance.waiting import WaitingTests

__all__ = ["CheckpointStoreConformance"]


class CheckpointStoreConformance(
    JournalTests, RunTests, ClaimTests, OutcomeTests, MessageTests, WaitingTests, CrowdTests
):
    """Tests whether a checkpoint store does what each has to do. Derive from it, and override the fixture `store`.

    Override `reopen`, too: a fixture that gives an async function, which makes another object for what `store` keeps,
    as another process would. Who has none tests one object only.

    Example:
        ```python
        class TestMyStore(CheckpointStoreConformance):
            @pytest_asyncio.fixture
            async def store(self, tmp_path):
                async with MyStore(tmp_path / "runs") as store:
                    yield store

            @pytest_asyncio.fixture
            async def reopen(self, store):
                async with contextlib.AsyncExitStack() as stores:

                    async def another():
                        return await stores.enter_async_context(MyStore(store.path))

                    yield another
        ```
    """
