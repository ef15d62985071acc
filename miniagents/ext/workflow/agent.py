"""`Agent`: a workflow of states."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from miniagents.agents import MiniAgent
from miniagents.ext.forks import of_own_kind
from miniagents.ext.graph.graph import Graph, Node
from miniagents.ext.graph.resources import ResourcePool
from miniagents.ext.workflow.control import Controlled
from miniagents.ext.workflow.errors import UnknownStateError
from miniagents.ext.workflow.opening import Given, is_there, opened
from miniagents.ext.workflow.parts import make_known
from miniagents.ext.workflow.run import WorkflowRun
from miniagents.ext.workflow.shared import Reducer
from miniagents.ext.workflow.states import AgentStatus, State
from miniagents.interaction import InteractionContext
from miniagents.sequences import until_complete
from promising.sentinels import DEFAULT, Sentinel
from promising.unconsumed import Failure

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import CheckpointStore
    from miniagents.ext.workflow.checkpoint import Checkpoint

__all__ = ["Agent"]

_CONSOLE = object()


class Agent(Controlled):
    """A workflow: states, each of which names the next ones. It is an agent itself; its reply tells the progress.

    The state that was added first starts, and so does each one that has dependencies, as soon as they are met; the
    others when a state names them. Where several states run side by side and name one next state, that runs once, when
    all of them have ended. With a store each step is recorded, so that a run can be resumed in another process.

    `inquire` takes the arguments of `run`, too. What it replies are the events of `miniagents.ext.graph.events` and
    what its states say, and at the end a `WorkflowFinished` with the state; with `progress=False` what its states say,
    and at the end a `WorkflowResult`.

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

    __slots__ = ("_runs", "ask", "checkpoint_interval", "max_concurrent", "met_before", "reducers")

    tells_progress = True  # see `Graph`

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
        if max_concurrent is not None and max_concurrent < 1:
            raise ValueError(f"max_concurrent is {max_concurrent!r}, which lets nothing run; give at least 1, or None")
        if store is None and checkpoint_interval is not None:
            from miniagents.ext.checkpoints import SQLiteCheckpointStore

            store = SQLiteCheckpointStore()
        self.max_concurrent = max_concurrent
        self.checkpoint_interval = checkpoint_interval
        self.store = store
        self.reducers: Mapping[str, Reducer] = dict(reducers or {})
        self.ask: MiniAgent | None = _person_at_console() if ask is _CONSOLE else ask
        self.states = {}
        self.compensations = set()
        self.met_before: frozenset[str] = frozenset()
        self._nodes = {}
        self._pool = resource_pool
        self._run = None
        self._runs: set[WorkflowRun] = set()
        self._restored = None
        make_known(self)

    # --- runs ---

    async def run(
        self,
        run_id: str | None = None,
        timeout: float | None = None,
        cleanup_timeout: float | None = None,
        *,
        values: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Runs the workflow to its end; where a checkpoint was restored, from there.

        Args:
            run_id: The id of the run; made up otherwise.
            timeout: How many seconds it may take. What runs then is stopped; with a store the run can be resumed.
            cleanup_timeout: How many seconds what was stopped may take to clean up, before it is left alone; None for
                as many as it takes.
            values: The shared state at the beginning, unless a checkpoint was restored.

        Returns:
            The shared state at the end.

        Raises:
            BaseException: What a state has failed with, after all retries and compensation.
            TimeoutError: It took too long.
            WorkflowError: States depend on each other in a way that cannot end, or name states that there are not.
            RunExistsError: There is a recorded run of that id already.
        """
        return await self._run_to_end(run_id=run_id, timeout=timeout, cleanup_timeout=cleanup_timeout, values=values)

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

    async def resume(self) -> None:
        """Goes on after `pause`; after `restore_from_checkpoint` it runs the workflow to its end.

        Raises:
            WorkflowError: Nothing was paused.
        """
        if self._restored is not None:
            await self.run()
        else:
            self._end_pause()

    async def _run_to_end(self, **arguments: Any) -> dict[str, Any]:
        result: dict[str, Any] = {}
        arguments = {name: value for name, value in arguments.items() if value is not None}  # a fork may have others
        replies = self.inquire(progress=False, result=result, errors_as_messages=False, **arguments)
        try:
            await until_complete(replies)
        except asyncio.CancelledError:
            replies.cancel()
            if replies._run is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(arguments.get("cleanup_timeout")):
                        await replies._run._wait_until_over()
            raise
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
        cleanup_timeout: float | None = None,
        progress: bool = True,
        start: str | None = None,
        values: Mapping[str, Any] | None = None,
        reducers: Mapping[str, Reducer] | None = None,
        store: "CheckpointStore | None" = None,
        key: str | None = None,
        result: dict[str, Any] | None = None,
        on_begin: Callable[[WorkflowRun], None] | None = None,
    ) -> None:
        restored, before = None if resume else self._restored, self._run
        self._restored = None
        store = store or self.store
        given = Given(ctx.message_promises, values or {}, start, self.met_before, restored, key)
        if run_id is None:
            run_id = await _new_id(restored, store)
        run = self._new_run(ctx, run_id, timeout, progress=progress, replies_result=result is None and on_begin is None)
        if on_begin is None or not self._runs:  # a part of a run of the same workflow does not hide that
            self._run = run
        self._runs.add(run)
        try:
            if store is not None and not resume and restored is None:
                await run.until_sent()
            async with opened(self, store, run_id, given, resume=resume) as journal:
                run.begin_with(journal, reducers or {})
                if on_begin is not None:
                    on_begin(run)
                await run.complete_and_clean_up(cleanup_timeout, self.checkpoint_interval)
        except BaseException as error:
            is_cancelled = run.was_cancelled or isinstance(error, asyncio.CancelledError)
            run.status = AgentStatus.CANCELLED if is_cancelled else AgentStatus.FAILED
            if not run.has_begun and self._run is run and before in self._runs:
                self._run = before  # which goes on
            if not run.has_begun or (store is None and isinstance(error, UnknownStateError)):
                self._restored = self._restored or restored  # for when that is mended
            raise
        else:
            run.status = AgentStatus.COMPLETED
        finally:
            run.note_over()
            self._runs.discard(run)
            self.met_before |= set(run.completed)
        if result is not None:
            result.update(run.shared.copied())

    def fork(
        self,
        *,
        alias: str | None = None,
        description: str | None = None,
        errors_as_messages: bool | Sentinel = DEFAULT,
        budget: AbstractContextManager[Any] | None = None,
        **arguments: Any,
    ) -> "Agent":
        """Makes a workflow of the same states with some arguments set. States added to one are not the other's.

        Args:
            alias: See `MiniAgent.fork`. Runs are recorded under this name.
            description: See `MiniAgent.fork`.
            errors_as_messages: See `MiniAgent.fork`.
            budget: See `MiniAgent.fork`.
            **arguments: Of `run`, and `progress`.

        Returns:
            The fork, which knows nothing of the runs so far.
        """
        plain = super().fork(
            alias=alias, description=description, errors_as_messages=errors_as_messages, budget=budget, **arguments
        )
        made = of_own_kind(self, plain)
        made.states, made._nodes, made.compensations = dict(self.states), dict(self._nodes), set(self.compensations)
        made._runs, made._run, made._restored, made.met_before = set(), None, None, frozenset()
        if alias is not None:
            make_known(made)
        return made

    def _new_run(
        self, ctx: InteractionContext, run_id: str, timeout: float | None, *, progress: bool, replies_result: bool
    ) -> WorkflowRun:
        graph = Graph(self.alias, max_concurrent=self.max_concurrent, timeout=timeout, pool=self.resource_pool)
        for node in self._nodes.values():
            graph.add(node)
        return WorkflowRun(self, graph, ctx, run_id=run_id, progress=progress, replies_result=replies_result)

    def _add(self, state: State, node: Node) -> None:
        for run in self._runs:
            run.check_dependencies(state)
        super()._add(state, node)
        for run in list(self._runs):
            run.definitions.update(self.states)  # others may be undone by this one
            run.add_state(self.states[state.name], node)


async def _new_id(restored: "Checkpoint | None", store: "CheckpointStore | None") -> str:
    """The id of a run for which none was given: that of the checkpoint, unless this run is recorded already."""
    if restored is None:
        return uuid4().hex
    if store is not None and await is_there(store, restored.run_id):
        return f"{restored.run_id[:150]}-{uuid4().hex[:8]}"
    return restored.run_id


def _person_at_console() -> MiniAgent | None:
    from miniagents.ext.workflow.console import person_at_console

    return person_at_console()
