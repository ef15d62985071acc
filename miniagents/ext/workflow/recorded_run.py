"""The life of a run: it is recorded, listens to what others have to say, and ends."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from logging import getLogger
from typing import TYPE_CHECKING, Any

from miniagents.ext.checkpoints import NewEntry
from miniagents.ext.checkpoints.errors import CheckpointStoreError, StoreLockedError, StoreUnavailableError
from miniagents.ext.graph.graph import Graph
from miniagents.ext.graph.run import GraphRun
from miniagents.ext.workflow.errors import WorkflowCancelledError, WorkflowError
from miniagents.ext.workflow.journal import Journal
from miniagents.ext.workflow.people import People
from miniagents.ext.workflow.shared import Reducer, SharedState
from miniagents.ext.workflow.states import AgentStatus
from miniagents.interaction import InteractionContext
from miniagents.sequences import MessageType

if TYPE_CHECKING:
    from miniagents.ext.graph.visit import Visit
    from miniagents.ext.workflow.agent import Agent

__all__ = ["RecordedRun"]

_LISTENS_EVERY = 0.5
"""How many seconds the wish to end a run may take to be heard, so that listening costs next to nothing."""
_logger = getLogger("miniagents")


class RecordedRun(GraphRun):
    """What a run of a workflow has to do with its journal, and with those who are not part of it.

    Args:
        agent: The workflow.
        graph: Its states as a graph.
        ctx: The call of the agent.
        run_id: The id of the run.
        progress: See `GraphRun`.

    Attributes:
        status: How far it has come.
        journal: What has happened in it so far, and where the rest is recorded.
        shared: The state that its states share.
        people: Its questions.
        key: What the idempotency keys of its states begin with.
        sent: The messages that it was sent.
        was_cancelled: Whether somebody has wished to end it.
        replayed_at: When the entry was recorded that is being replayed, in seconds since 1970; None if none is.
        part_of: The visit that stands for this run, if it is a part of another one.
    """

    def __init__(self, agent: "Agent", graph: Graph, ctx: InteractionContext, *, run_id: str, progress: bool) -> None:
        super().__init__(graph, ctx, progress=progress)
        self.agent = agent
        self.run_id = run_id
        self.status = AgentStatus.RUNNING
        self.journal = Journal()
        self.shared = SharedState({}, agent.reducers)
        self.people = People(self, agent.ask)  # type: ignore[arg-type]
        self.key = run_id
        self.sent: MessageType = ctx.message_promises
        self.part_of: Visit | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._rest: asyncio.Future[None] = self._loop.create_future()
        self._is_ending = False
        self.was_cancelled = False
        self.replayed_at: float | None = None

    def begin_with(self, journal: Journal, outer: Mapping[str, Reducer]) -> None:
        """Says what has happened in the run so far; before it is run.

        Args:
            journal: That.
            outer: The reducers of the run that this one is a part of.
        """
        self.journal = journal
        journal.on_failure = self.crash
        created = journal.created
        self.key = created.get("key", self.run_id)
        self.sent = created.get("messages") or self.ctx.message_promises
        self.shared = SharedState(created.get("values", {}), {**self.agent.reducers, **outer}, outer.keys())

    async def until_sent(self) -> None:
        """Waits until all is there that the run was sent, or the run has been ended before."""
        if self.ctx.message_promises.done():
            return
        sent = asyncio.ensure_future(self.ctx.message_promises.aresolve_messages())
        try:
            either: list[asyncio.Future[Any]] = [sent, self._end]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sent.cancel()
            await asyncio.gather(sent, return_exceptions=True)
        if self._end.done():
            await self._end

    async def complete_and_clean_up(self, cleanup_timeout: float | None, checkpoint_interval: float | None) -> None:
        """Runs to the end, and waits for the clean-up of what was stopped.

        Args:
            cleanup_timeout: How many seconds the clean-up may take, before it is left alone; None for as many as it
                takes.
            checkpoint_interval: After how many seconds it is recorded that the run goes on; None for never.
        """
        beside = []
        if self.journal.is_recorded:
            beside += [self.start(self._listen()), self.start(self._watch_claim())]
        if checkpoint_interval is not None:
            beside.append(self.start(self._beat(checkpoint_interval)))
        try:
            await self.complete()
        except (WorkflowCancelledError, asyncio.CancelledError):
            if self.was_cancelled and self.journal.ended is None:
                await self._record_cancelled()
            raise
        finally:
            for work in beside:
                if not work.cancel() and work._failure is not None:
                    work._failure.consume()  # it was cancelled together with the run
            self.at_rest()
            with suppress(TimeoutError):
                async with asyncio.timeout(cleanup_timeout):
                    await self._until_clean()
            await self.journal.flush()

    async def _until_clean(self) -> None:
        for node_run in self.nodes.values():
            if node_run.leaving is not None:
                await node_run.leaving._wait_until_over()

    def halt(self, error: Exception) -> None:
        """See `GraphRun.halt`: what was stopped has not failed, so that the run can be taken up again."""
        if self._errors:
            error.__cause__ = self._errors[0]  # it was being compensated
        self.crash(error)

    # --- recording ---

    def write_later(
        self, *entries: NewEntry, status: str | None = None, then: Callable[[], None] | None = None
    ) -> None:
        """Adds entries to the journal while the run goes on.

        Args:
            *entries: The entries.
            status: The new status of the run, if it has one.
            then: The step to make when they are durable; until then the run does not end.
        """
        writing = self.journal.add(*entries, status=status)
        if then is None:
            return
        if writing is None:
            then()
        else:
            self._active += 1
            self.when(writing, self._written, writing, then)

    def _written(self, writing: "asyncio.Future[None]", then: Callable[[], None]) -> None:
        self._active -= 1
        error = writing.exception()
        if error is not None:
            raise error
        then()

    # --- the end ---

    def end(self, status: str) -> None:
        """Records how the run has ended, and ends it then."""
        if self._is_ending:
            return
        self._is_ending = True
        if self.journal.ended is not None:
            self._end.set_result(None)
            return
        entry = NewEntry("ended", data={"status": status})
        self.write_later(entry, status=status, then=lambda: self._end.set_result(None))

    async def _record_cancelled(self) -> None:
        writing = self.journal.add(NewEntry("ended", data={"status": "cancelled"}), status="cancelled")
        if writing is not None:
            await writing

    def cancel_all(self) -> None:
        """Ends the run."""
        self.was_cancelled = True
        self.crash(WorkflowCancelledError(f"the run {self.run_id} of {self.agent.alias} was cancelled"))

    # --- pauses ---

    @property
    def rests(self) -> bool:
        """Whether it is paused, and nothing in it runs any more."""
        return self.paused and self._rest.done() and not self.is_over

    def at_rest(self) -> None:
        """See `GraphRun.at_rest`; also where the run has ended."""
        if not self._rest.done():
            self._rest.set_result(None)
            if self.part_of is not None:
                self.part_of.run.soon(do_nothing)  # it may be at rest itself now

    async def until_at_rest(self) -> None:
        """Waits until nothing runs any more, because the run was paused, or has ended."""
        await asyncio.shield(self._rest)

    def go_on(self) -> None:
        """Ends a pause."""
        self.status = AgentStatus.RUNNING
        self.paused = False
        if not self._rest.done():
            self._rest.set_exception(WorkflowError(f"{self.agent.alias} was resumed before it had come to rest"))
            self._rest.exception()  # it is known to who has resumed it
        self._rest = self._loop.create_future()

    def note_over(self) -> None:
        """Takes note that nothing of the run goes on any more."""
        self.at_rest()
        if not self._over.done():
            self._over.set_result(None)

    async def until_over(self) -> None:
        """Waits until nothing of the run goes on any more."""
        await asyncio.shield(self._over)

    # --- beside the run ---

    async def _listen(self) -> None:
        """Takes what others have to say: answers, and the wish to end."""
        try:
            while True:
                try:
                    news = await self.journal.news()
                except (StoreLockedError, StoreUnavailableError) as error:
                    _logger.warning("%s does not hear what others say for now: %s", self.run_id, error)
                    await asyncio.sleep(1)
                    continue
                for entry in news:
                    if entry.kind == "answer":
                        self.people.tell(entry.data["id"], entry.data["text"], entry.attempt, entry.time)
                    else:
                        self.enter(self.cancel_all)
                await self.people.until_asked(_LISTENS_EVERY)
        except CheckpointStoreError as error:
            self.crash(error)

    async def _watch_claim(self) -> None:
        error = await self.journal.until_claim_lost()
        self.crash(error)

    async def _beat(self, interval: float) -> None:
        """Records every so often that the run goes on."""
        number = 0
        while True:
            await asyncio.sleep(interval)
            number += 1
            running = [node_run.node.name for node_run in self.nodes.values() if node_run.visit is not None]
            self.journal.add(NewEntry("checkpoint", visit=number, data={"running": running}))


def do_nothing() -> None:
    """A step that is made for what follows from each step."""
