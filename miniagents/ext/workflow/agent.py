"""`Agent`: a workflow of states."""

import asyncio
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakValueDictionary

from miniagents.agents import MiniAgent
from miniagents.ext.checkpoints import NewEntry
from miniagents.ext.graph.graph import Graph
from miniagents.ext.graph.resources import ResourcePool, ResourceRequirements
from miniagents.ext.workflow.branches import possible_successors
from miniagents.ext.workflow.checkpoint import Checkpoint
from miniagents.ext.workflow.context import Reducer
from miniagents.ext.workflow.dependencies import Dependencies, configs_of
from miniagents.ext.workflow.errors import UnknownStateError, WorkflowChangedError, WorkflowError
from miniagents.ext.workflow.journal import Journal
from miniagents.ext.workflow.people import OpenQuestion, open_questions_of
from miniagents.ext.workflow.run import WorkflowRun, node_of
from miniagents.ext.workflow.states import (
    AgentStatus,
    RetryPolicy,
    State,
    StateFunction,
    StateMetadata,
    StateStatus,
)
from miniagents.interaction import InteractionContext
from miniagents.sequences import until_complete
from promising.errors import PromiseCancelledError
from promising.unconsumed import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from miniagents.ext.checkpoints import CheckpointStore
    from miniagents.ext.workflow.context import Context
    from miniagents.message import Message

__all__ = ["Agent", "answer_entry"]

_agents: "WeakValueDictionary[str, Agent]" = WeakValueDictionary()
"""The workflows of this process by their names, to find one that a recorded run has gone on with."""

_CONSOLE = object()


class Agent(MiniAgent):
    """A workflow: states, each of which names the next ones. It is an agent itself; its reply tells the progress.

    The state that was added first starts, and so does each one that has dependencies, as soon as they are met; the
    others when a state names them. Where several states run side by side and name one next state, that runs once, when
    all of them have ended. With a store each step is recorded, so that a run can be resumed in another process.

    Args:
        name: What the workflow is called, the same in every process that resumes a run.
        resource_pool: What states with `resources` share; one of the default size otherwise.
        max_concurrent: How many states run at once.
        checkpoint_interval: After how many seconds it is recorded that a run goes on, beside each step.
        store: Where runs are recorded; with a `checkpoint_interval` the default SQLite file, else nowhere.
        reducers: For keys that states which run side by side may set: how to put two values together.
        ask: The agent that asks people; the console where there is one. None if answers come by `answer` alone.
        description: What the workflow does.

    Example:
        ```python
        agent = Agent("hello")
        agent.add_state("greet", greet)
        agent.add_state("publish", publish)
        await agent.run()
        ```
    """

    __slots__ = (
        "_claimed", "_pool", "_rest", "_restored", "_run", "ask", "checkpoint_interval", "compensations",
        "max_concurrent", "met_before", "reducers", "run_id", "states", "status", "store",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        resource_pool: ResourcePool | None = None,
        max_concurrent: int | None = None,
        checkpoint_interval: float | None = None,
        store: "CheckpointStore | None" = None,
        *,
        reducers: Mapping[str, Reducer] | None = None,
        ask: Any = _CONSOLE,
        description: str | None = None,
    ) -> None:
        super().__init__(self._work, alias=name, description=description)
        if checkpoint_interval is not None and not checkpoint_interval > 0:
            raise ValueError(f"checkpoint_interval is {checkpoint_interval!r} s; give a positive number, or None")
        if store is None and checkpoint_interval is not None:
            from miniagents.ext.checkpoints import SQLiteCheckpointStore

            store = SQLiteCheckpointStore()
        self.max_concurrent = max_concurrent
        self.checkpoint_interval = checkpoint_interval
        self.store = store
        self.reducers: Mapping[str, Reducer] = dict(reducers or {})
        self.ask: MiniAgent | None = _console_agent() if ask is _CONSOLE else ask
        self.states: dict[str, State] = {}
        self.compensations: set[str] = set()
        self.met_before: frozenset[str] = frozenset()
        self.status = AgentStatus.IDLE
        self.run_id: str | None = None
        self._pool = resource_pool
        self._run: WorkflowRun | None = None
        self._restored: Checkpoint | None = None
        self._rest: asyncio.Future[None] | None = None
        _agents[name] = self

    # --- states ---

    def add_state(
        self,
        name: str,
        fn: StateFunction,
        dependencies: Dependencies | None = None,
        resources: ResourceRequirements | None = None,
        retry_policy: RetryPolicy | None = None,
        max_retries: int | None = None,
        *,
        compensation: StateFunction | str | None = None,
        preemptible: bool = False,
        timeout: float | None = None,
        next_states: "Iterable[str] | None" = None,
    ) -> None:
        """Adds a state; also while the workflow runs.

        Args:
            name: Its name.
            fn: An async function of a `Context` that returns the next state, a list of states to run side by side,
                `(other_agent, state)`, or None; or a miniagent, whose last message may have a field `next_state`.
            dependencies: On which other states it depends; these may be added later.
            resources: What it takes of the resource pool while it runs.
            retry_policy: How often it is tried again after a failure; not at all otherwise.
            max_retries: Short for a policy of so many retries.
            compensation: What undoes it when the run has failed, or the name of the state that does. A state that is
                called `<name>_compensation` does so, too.
            preemptible: Whether it may be stopped, and started again later, for a state of a higher priority.
            timeout: How many seconds one attempt may take.
            next_states: All states that it can name, where that cannot be seen in its source: then what runs beside it
                need not wait for it. See `miniagents.ext.workflow.branches`.

        Raises:
            WorkflowError: There is a state of that name already.
            ResourceError: It needs more than the pool has.
            TypeError: It is nothing that can run.
        """
        if name in self.states:
            raise WorkflowError(f"{self.alias} has a state {name!r} already; give this one another name")
        if not callable(fn) or isinstance(fn, type):
            raise TypeError(f"the state {name!r} needs an async function of a context, or a miniagent, not {fn!r:.100}")
        if resources is not None:
            self.resource_pool.check(resources, where=f"the state {name!r}")
        policy = retry_policy or RetryPolicy(max_retries=0)
        if max_retries is not None:
            policy = RetryPolicy(max_retries=max_retries) if retry_policy is None else _with(policy, max_retries)
        successors = None if isinstance(fn, MiniAgent) else possible_successors(fn)
        own = f"{name}_compensation"
        state = State(
            name=name,
            function=fn,
            dependencies=configs_of(dependencies, f"the state {name!r}"),
            resources=resources,
            retry_policy=policy,
            compensation=compensation if isinstance(compensation, str) or compensation is None else own,
            preemptible=preemptible,
            timeout=timeout,
            successors=successors if next_states is None else frozenset(next_states),
        )
        self._note_compensations(state)
        if compensation is not None and not isinstance(compensation, str):
            self.add_state(own, compensation)
        if self._run is not None and self.status in (AgentStatus.RUNNING, AgentStatus.PAUSED):
            self._run.add_state(state)

    def state(
        self, name: str | StateFunction | None = None, dependencies: Dependencies | None = None, **options: Any
    ) -> Any:
        """Adds a function as a state: the decorator form of `add_state`.

        Args:
            name: The name; that of the function otherwise. Or the function itself: `@agent.state`.
            dependencies: See `add_state`.
            **options: See `add_state`.

        Returns:
            The decorator, which gives the function back.
        """
        if isinstance(name, MiniAgent) or callable(name):
            return self.state()(name)

        def decorate(function: StateFunction) -> StateFunction:
            self.add_state(str(name or getattr(function, "__name__", "")), function, dependencies, **options)
            return function

        return decorate

    def _note_compensations(self, state: State) -> None:
        """Knows which states undo others, in whichever order they are added."""
        undone = state.name.removesuffix("_compensation")
        if undone != state.name:
            self.compensations.add(state.name)
            if undone in self.states and self.states[undone].compensation is None:
                self.states[undone] = _with(self.states[undone], compensation=state.name)
        own = f"{state.name}_compensation"
        if state.compensation is None and own in self.states:
            state = _with(state, compensation=own)
        if state.compensation is not None:
            self.compensations.add(state.compensation)
        self.states[state.name] = state

    @property
    def resource_pool(self) -> ResourcePool:
        """What states with `resources` share."""
        if self._pool is None:
            self._pool = ResourcePool()
        return self._pool

    def to_mermaid(self, events: "Iterable[Message]" = ()) -> str:
        """Draws the workflow: solid arrows for dependencies, dotted ones for the states that a state can name.

        Args:
            events: What a run has replied, to show states and times; none for the plain workflow.

        Returns:
            A Mermaid flowchart.
        """
        from miniagents.ext.graph.mermaid import flowchart

        edges = [(other, name, "-->") for name, state in self.states.items() for other in state.dependencies]
        edges += [
            (name, other, "-.->")
            for name, state in self.states.items()
            for other in sorted(state.successors or ())
            if other in self.states
        ]
        return flowchart(self.states, edges, events)

    # --- runs ---

    async def run(
        self, run_id: str | None = None, timeout: float | None = None, cleanup_timeout: float | None = None
    ) -> dict[str, Any]:
        """Runs the workflow to its end; where a checkpoint was restored, from there.

        Args:
            run_id: The id of the run; made up otherwise.
            timeout: How many seconds it may take. What runs then is stopped; with a store the run can be resumed.
            cleanup_timeout: How many seconds what was stopped may take to clean up, before it is left alone; None for
                as many as it takes.

        Returns:
            The shared state at the end.

        Raises:
            BaseException: What a state has failed with, after all retries and compensation.
            TimeoutError: It took too long.
            WorkflowError: States depend on each other in a way that cannot end, or name states that there are not.
        """
        return await self._run_to_end(run_id=run_id, timeout=timeout, cleanup_timeout=cleanup_timeout)

    async def resume_run(
        self, run_id: str, timeout: float | None = None, cleanup_timeout: float | None = None
    ) -> dict[str, Any]:
        """Goes on with a run that was recorded, where it stood: completed states are not run again.

        Args:
            run_id: The id of the run.
            timeout: See `run`.
            cleanup_timeout: See `run`.

        Returns:
            The shared state at the end. If the run has completed before, just that.

        Raises:
            RunClaimedError: Another process is at work at it.
            RunNotFoundError: There is no such run.
            WorkflowChangedError: The workflow is another one by now; it says how it differs.
            WorkflowError: The run has failed, or was cancelled, before.
        """
        return await self._run_to_end(run_id=run_id, timeout=timeout, cleanup_timeout=cleanup_timeout, resume=True)

    async def _run_to_end(self, *, cleanup_timeout: float | None, **arguments: Any) -> dict[str, Any]:
        result: dict[str, Any] = {}
        replies = self.inquire(progress=False, result=result, **arguments)
        try:
            await until_complete(replies)
        except asyncio.CancelledError:
            replies.cancel()
            raise
        finally:
            if replies._run is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(cleanup_timeout):
                        await replies._run._wait_until_over()
        end = replies._buffer.end
        if isinstance(end, Failure):
            end.throw()
        return result

    async def _work(
        self,
        ctx: InteractionContext,
        *,
        run_id: str | None = None,
        resume: bool = False,
        timeout: float | None = None,
        progress: bool = True,
        start: str | None = None,
        values: Mapping[str, Any] | None = None,
        result: dict[str, Any] | None = None,
    ) -> None:
        restored, self._restored = self._restored, None
        if restored is not None and run_id is None and not resume:
            run_id = restored.run_id
        run_id = self.run_id = run_id or uuid4().hex
        given = dict(values or (restored.initial if restored is not None else {}))
        self.status = AgentStatus.RUNNING
        try:
            if self.store is None:
                if resume:
                    raise WorkflowError(f"{self.alias} has no store, so that nothing is known of runs; give it one")
                journal = Journal(entries=restored.entries if restored is not None else ())
                await self._run_with(ctx, run_id, journal, given, start, timeout, progress, result)
            else:
                await self._run_recorded(ctx, run_id, resume, restored, given, start, timeout, progress, result)
        except (asyncio.CancelledError, PromiseCancelledError):
            self.status = AgentStatus.CANCELLED
            raise
        except BaseException:
            cancelled = self._run is not None and self._run.cancelled
            self.status = AgentStatus.CANCELLED if cancelled else AgentStatus.FAILED
            raise
        else:
            self.status = AgentStatus.COMPLETED

    async def _run_recorded(
        self,
        ctx: InteractionContext,
        run_id: str,
        resume: bool,
        restored: Checkpoint | None,
        given: dict[str, Any],
        start: str | None,
        timeout: float | None,
        progress: bool,
        result: dict[str, Any] | None,
    ) -> None:
        store = self.store
        assert store is not None
        if not resume:
            await store.create(run_id, workflow=self.alias, fingerprint=self._fingerprint())
        else:
            self._check_unchanged((await store.info(run_id)).fingerprint, run_id)
        async with await store.claim(run_id) as claim:
            entries = await store.read(run_id)
            journal = Journal(store, claim, entries)
            if not entries:
                await journal.write(NewEntry("created", data={"values": given, "start": start}))
                if restored is not None:
                    await journal.write(*(NewEntry(*entry[1:6]) for entry in restored.entries))
            created = journal.created
            ended = next((entry.data["status"] for entry in journal.entries if entry.kind == "ended"), None)
            if ended not in (None, "completed"):
                raise WorkflowError(f"the run {run_id} has {ended}, so that it cannot be resumed; start a new one")
            await self._run_with(
                ctx,
                run_id,
                journal,
                created.get("values", given),
                created.get("start", start),
                timeout,
                progress,
                result,
            )

    async def _run_with(
        self,
        ctx: InteractionContext,
        run_id: str,
        journal: Journal,
        values: Mapping[str, Any],
        start: str | None,
        timeout: float | None,
        progress: bool,
        result: dict[str, Any] | None,
    ) -> None:
        graph = Graph(self.alias, max_concurrent=self.max_concurrent, timeout=timeout, pool=self.resource_pool)
        for state in self.states.values():
            graph.add(node_of(state))
        run = self._run = WorkflowRun(
            self, graph, ctx, run_id=run_id, journal=journal, values=values, start=start, progress=progress
        )
        beat = None if self.checkpoint_interval is None else run.start(self._beat(run, self.checkpoint_interval))
        try:
            await run.complete()
        finally:
            if beat is not None:
                beat.cancel()
            self.met_before |= {name for name, state in run.nodes.items() if state.completions}  # type: ignore[attr-defined]
        if result is not None:
            result.update(run.shared.values)

    async def _beat(self, run: WorkflowRun, interval: float) -> None:
        """Records every so often that a run goes on."""
        number = 0
        while True:
            await asyncio.sleep(interval)
            number += 1
            data = {"running": sorted(self._running_states), "completed": sorted(self.completed_states)}
            await run.journal.write(NewEntry("checkpoint", visit=number, attempt=len(run.journal.entries), data=data))

    # --- control ---

    async def pause(self) -> Checkpoint:
        """Starts no state any more, and waits for the end of those that run. One that waits for a person is stopped.

        Returns:
            Where the run stands.

        Raises:
            WorkflowError: Nothing runs.
        """
        run = self._at_work("pause")
        self.status = AgentStatus.PAUSED
        self._rest = asyncio.get_running_loop().create_future()
        run.enter(run.pause)
        await self._rest
        return self.create_checkpoint()

    async def resume(self) -> None:
        """Goes on after `pause`; after `restore_from_checkpoint` it runs the workflow to its end.

        Raises:
            WorkflowError: Nothing was paused.
        """
        if self._restored is not None:
            await self.run()
            return
        run = self._at_work("resume")
        self.status = AgentStatus.RUNNING
        run.enter(run.go_on)

    def cancel_state(self, name: str) -> bool:
        """Stops a state that runs, or keeps one that waits from starting.

        Args:
            name: The state.

        Returns:
            Whether it ran or waited.
        """
        run = self._at_work("cancel")
        cancelled: list[bool] = []
        run.enter(lambda: cancelled.append(run.cancel_state(name)))
        return cancelled[0]

    async def cancel_all(self) -> None:
        """Ends the run. Whoever waits for it gets a `WorkflowCancelledError`; with a store it cannot be resumed."""
        run = self._at_work("cancel")
        run.enter(run.cancel_all)

    def note_at_rest(self) -> None:
        """Is told that nothing runs any more, while the workflow is paused."""
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)

    def _at_work(self, what: str) -> WorkflowRun:
        if self._run is None or self.status not in (AgentStatus.RUNNING, AgentStatus.PAUSED):
            raise WorkflowError(f"{self.alias} does not run, so that there is nothing to {what}")
        return self._run

    # --- checkpoints ---

    def create_checkpoint(self) -> Checkpoint:
        """Says where the present run stands, or the last one; what runs just now counts as not begun.

        Returns:
            The checkpoint.
        """
        run = self._run
        created = run.journal.created if run else {}
        return Checkpoint(
            run_id=self.run_id or "",
            agent_name=self.alias,
            agent_status=self.status,
            completed_states=tuple(sorted(self.completed_states)),
            state=dict(run.shared.values) if run else {},
            entries=tuple(entry for entry in run.journal.entries if entry.kind != "created") if run else (),
            initial=dict(created.get("values", {})),
        )

    async def restore_from_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Has the next `run` go on from a checkpoint. The states may be added afterwards.

        Args:
            checkpoint: The checkpoint, maybe of an agent of another name.
        """
        self._restored = checkpoint
        self.run_id = checkpoint.run_id
        self.status = AgentStatus.PAUSED

    def _fingerprint(self) -> dict[str, list[str]]:
        return {
            name: [f"{other} {config.described()}" for other, config in sorted(state.dependencies.items())]
            for name, state in self.states.items()
            if "." not in name
        }

    def _check_unchanged(self, before: Any, run_id: str) -> None:
        now = self._fingerprint()
        changes = [f"the state {name!r} is missing" for name in before if name not in now]
        changes += [f"the state {name!r} is new" for name in now if name not in before]
        changes += [
            f"the dependencies of {name!r} were [{', '.join(before[name])}] and are [{', '.join(now[name])}]"
            for name in now
            if name in before and before[name] != now[name]
        ]
        if changes:
            raise WorkflowChangedError(
                f"the run {run_id} cannot be resumed, since {self.alias} has changed: {'; '.join(changes)}. Resume it "
                "with the workflow as it was, or start a new run"
            )

    # --- people ---

    async def open_questions(self, run_id: str | None = None) -> list[OpenQuestion]:
        """Lists the questions of a run that wait for their answers.

        Args:
            run_id: The run; the present one otherwise.

        Returns:
            The questions, each with id, prompt and deadline.
        """
        if self._run is not None and run_id in (None, self._run.run_id) and self.store is None:
            return list(self._run.people.open.values())
        if self.store is None:
            raise WorkflowError(f"{self.alias} has no store, so that nothing is known of other runs; give it one")
        return open_questions_of(await self.store.read(run_id or self.run_id or ""))

    async def answer(self, run_id: str | None, question_id: str, text: str) -> None:
        """Answers a question, from any process.

        Args:
            run_id: The run; None for the present one.
            question_id: The id of the question.
            text: The answer. One that will not do is asked for again.

        Raises:
            WorkflowError: There is no such question, or it was answered.
        """
        questions = await self.open_questions(run_id)
        if all(question.id != question_id for question in questions):
            listed = ", ".join(question.id for question in questions) or "none"
            raise WorkflowError(f"no question {question_id!r} waits for an answer; there are: {listed}")
        if self.store is None:
            assert self._run is not None
            self._run.people.tell(question_id, text)
        else:
            await self.store.tell(run_id or self.run_id or "", answer_entry(question_id, text))

    # --- what can be looked at ---

    @property
    def state_metadata(self) -> dict[str, StateMetadata]:
        """What is known of each state in the present run, or the last one."""
        known = {} if self._run is None else {name: one.metadata for name, one in self._run.nodes.items()}  # type: ignore[attr-defined]
        return {name: known.get(name) or StateMetadata(name) for name in self.states}

    @property
    def completed_states(self) -> set[str]:
        """The states that have completed."""
        return set() if self._run is None else set(self._run.completed)

    @property
    def _running_states(self) -> set[str]:
        return {name for name, one in self.state_metadata.items() if one.status is StateStatus.RUNNING}

    @property
    def priority_queue(self) -> list[str]:
        """The states that wait: for others, a place, or resources; those of high priority first."""
        waiting = [
            name for name, one in self.state_metadata.items() if one.status in (StateStatus.READY, StateStatus.BLOCKED)
        ]
        return sorted(waiting, key=lambda name: -_priority(self.states[name]))

    def get_state(self, key: str, default: Any = None) -> Any:
        """Gives a value of the shared state of the present run, or the last one."""
        return default if self._run is None else self._run.shared.values.get(key, default)

    # --- workflows as parts of others ---

    def as_part(self, start: str) -> StateFunction:
        """Makes a state of another workflow, which runs this one from one of its states on with the same shared state.

        Args:
            start: The state to begin with.

        Returns:
            The function of the state.
        """

        async def run_part(context: "Context") -> None:
            part_id = context.idempotency_key
            values = {key: context.get_state(key) for key in context.keys()}  # noqa: SIM118
            result: dict[str, Any] = {}
            arguments: dict[str, Any] = {"run_id": part_id, "start": start, "values": values, "result": result}
            if self.store is not None:
                arguments["resume"] = await _exists(self.store, part_id)
            await context.inquire(self, **arguments)
            for key, value in result.items():
                if key not in values or values[key] is not value:
                    context.set_state(key, value)
            for key in values.keys() - result.keys():
                context.remove_state(key)

        if start not in self.states:
            raise UnknownStateError(start, "a part", self.states)
        return run_part

    @staticmethod
    def find_part(name: str) -> "Agent | None":
        """Finds a workflow of this process by its name."""
        return _agents.get(name)


def _with(thing: Any, max_retries: int | None = None, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(thing, **changes) if max_retries is None else replace(thing, max_retries=max_retries, **changes)


def answer_entry(question_id: str, text: str) -> NewEntry:
    """Makes the entry of a journal that answers a question."""
    return NewEntry("answer", visit=1, attempt=uuid4().int >> 66, data={"id": question_id, "text": text})


async def _exists(store: "CheckpointStore", run_id: str) -> bool:
    from miniagents.ext.checkpoints.errors import RunNotFoundError

    try:
        await store.info(run_id)
    except RunNotFoundError:
        return False
    return True


def _priority(state: State) -> int:
    return 0 if state.resources is None else int(state.resources.priority)


def _console_agent() -> MiniAgent | None:
    """The console, where there is a person at it."""
    if sys.stdin is None or not sys.stdin.isatty():
        return None
    from miniagents.ext.console_user_agent import console_user_agent

    return console_user_agent
