"""What can be done with a workflow while it runs: pausing, cancelling, checkpoints, answers."""

from typing import TYPE_CHECKING

from miniagents.ext.checkpoints import Entry
from miniagents.ext.workflow.checkpoint import Checkpoint
from miniagents.ext.workflow.errors import UnknownStateError, WorkflowError
from miniagents.ext.workflow.monitoring import Monitored
from miniagents.ext.workflow.questions import OpenQuestion, answer_entry, open_questions_in
from miniagents.ext.workflow.states import AgentStatus
from miniagents.sequences import MessageSequencePromise

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import CheckpointStore
    from miniagents.ext.workflow.run import WorkflowRun

__all__ = ["Controlled"]


class Controlled(Monitored):
    """A workflow that can be controlled. See `Agent`."""

    __slots__ = ("store",)

    store: "CheckpointStore | None"

    async def pause(self) -> Checkpoint:
        """Starts no state any more, and waits for the end of those that run.

        States that wait for a person, a place, resources, or their next attempt are stopped, and begin anew after the
        pause. It does not count as an attempt that has failed.

        Returns:
            Where the run stands.

        Raises:
            WorkflowError: Nothing runs, or one of the states that run has called this.
        """
        run = self._at_work("pause")
        state = run.state_at_work_here()
        if state is not None:
            raise WorkflowError(
                f"{state} would wait for its own end; pause from outside of the run, or do not wait in the state: "
                "asyncio.ensure_future(agent.pause())"
            )
        run.enter(run.pause)
        await run.until_at_rest()
        return self.create_checkpoint()

    def _end_pause(self) -> None:
        run = self._at_work("resume")
        run.enter(run.go_on)

    def cancel_state(self, name: str) -> bool:
        """Stops a state that runs, or keeps one that waits from starting. What it would have named does not follow.

        Args:
            name: The state.

        Returns:
            Whether it ran or waited.

        Raises:
            UnknownStateError: There is no such state.
            WorkflowError: Nothing runs.
        """
        run = self._at_work("cancel")
        if name not in run.definitions:
            raise UnknownStateError(name, "cancel_state", run.definitions)
        cancelled: list[bool] = []
        run.enter(lambda: cancelled.append(run.cancel_state(name)))
        return bool(cancelled and cancelled[0])

    async def cancel_all(self) -> None:
        """Ends the run, and waits for that. Who has started it gets a `WorkflowCancelledError`.

        A run that was cancelled cannot be resumed. Nothing is compensated.

        Raises:
            WorkflowError: Nothing runs.
        """
        run = self._at_work("cancel")
        run.enter(run.cancel_all)
        await run.until_over()

    def _at_work(self, what: str) -> "WorkflowRun":
        if self._run is None or self.status not in (AgentStatus.RUNNING, AgentStatus.PAUSED):
            raise WorkflowError(f"{self.alias} does not run, so that there is nothing to {what}")
        return self._run

    # --- checkpoints ---

    def create_checkpoint(self) -> Checkpoint:
        """Says where the present run stands, or the last one; what runs just now counts as not begun.

        Returns:
            The checkpoint.

        Raises:
            WorkflowError: The run has hardly begun, so that something would be lost that it was sent, or given.
        """
        if self._restored is not None:
            return self._restored
        run = self._run
        if run is not None and not run.has_begun and run.status is AgentStatus.RUNNING:
            raise WorkflowError(
                f"a run of {self.alias} is about to begin, and it is not known yet with what; wait for it"
            )
        entries = [] if run is None else run.journal.entries
        if run is not None and not run.journal.is_recorded:
            entries = [entry if entry.kind != "created" else _with_messages(entry, run) for entry in entries]
        return Checkpoint(
            run_id=self.run_id or "",
            agent_name=self.alias,
            agent_status=self.status,
            completed_states=tuple(sorted(self.completed_states)),
            state=run.shared.copied() if run else {},
            entries=tuple(entries),
        )

    async def restore_from_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Has the next `run` go on from a checkpoint. The states may be added afterwards.

        The checkpoint of a run that has failed, and was not compensated, goes on with what has failed.

        Args:
            checkpoint: The checkpoint, maybe of an agent of another name.
        """
        self._restored = checkpoint

    # --- people ---

    async def open_questions(self, run_id: str | None = None) -> list[OpenQuestion]:
        """Lists the questions of a run that wait for their answers, those of parts of it included.

        Args:
            run_id: The run; the present one otherwise.

        Returns:
            The questions, each with id, prompt and deadline.

        Raises:
            WorkflowError: It is another run, and there is no store to find it in.
        """
        run = self._unrecorded_run(run_id)
        if run is not None:
            return [question for one in run.with_parts() for question in one.people.open.values()]
        if run_id is None and self.run_id is None:
            return []
        return await open_questions_in(self._store(), run_id or self.run_id or "")

    async def answer(self, run_id: str | None, question_id: str, text: str) -> None:
        """Answers a question, from any process.

        Args:
            run_id: The run; None for the present one.
            question_id: The id of the question.
            text: The answer. One that will not do is asked for again. A further one, before a process has taken up the
                first, counts if the first will not do.

        Raises:
            WorkflowError: No such question waits for an answer.
        """
        questions = await self.open_questions(run_id)
        question = next((question for question in questions if question.id == question_id), None)
        if question is None:
            listed = ", ".join(one.id for one in questions) or "none"
            raise WorkflowError(f"no question {question_id!r} waits for an answer; there are: {listed}")
        entry = answer_entry(question_id, text)
        run = self._unrecorded_run(run_id)
        asking = [] if run is None else [one for one in run.with_parts() if one.run_id == question.run_id]
        if not asking:
            await self._store().tell(question.run_id, entry)
        elif asking[0].journal.store is not None:  # a part has a store though the run has none
            await asking[0].journal.store.tell(question.run_id, entry)
        else:
            asking[0].journal.add(entry)
            asking[0].people.tell(question_id, text, entry.attempt, asking[0].time())

    def _unrecorded_run(self, run_id: str | None) -> "WorkflowRun | None":
        """The run of that id, if this process alone knows of it."""
        run = self._run
        if run is None or self.store is not None or run.journal.is_recorded or run_id not in (None, run.run_id):
            return None
        return run

    def _store(self) -> "CheckpointStore":
        run_store = None if self._run is None else self._run.journal.store
        store = self.store or run_store
        if store is None:
            raise WorkflowError(f"{self.alias} has no store, so that nothing is known of other runs; give it one")
        return store


def _with_messages(created: Entry, run: "WorkflowRun") -> Entry:
    """The entry that a run was created, with the messages that it was sent; without a store it says nothing of them."""
    sent = run.sent
    if not isinstance(sent, MessageSequencePromise):
        return created
    if not sent.done():
        raise WorkflowError(
            f"what {run.agent.alias} was sent is not complete, so that a checkpoint would lack it; make one later"
        )
    messages = [promise._value for promise in sent.pieces_so_far]
    return created._replace(data={**created.data, "messages": messages}) if messages else created
