"""A task at work: in a namespace of the cache, from its start to what is published at its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from miniagents.ext.cache import Cache
from miniagents.ext.cache.namespaces import Namespace
from miniagents.ext.task_graph.state import RunState, described
from miniagents.ext.task_graph.tasks import Task
from miniagents.interaction import InteractionContext
from miniagents.sequences import MessageSequencePromise, until_complete
from promising.errors import PromiseCancelledError
from promising.unconsumed import Failure

if TYPE_CHECKING:
    from miniagents.ext.task_graph.agent import Agent
    from miniagents.ext.task_graph.graph import TaskGraph

__all__ = ["until_over", "work_at"]

_TASK_KEY = "task"

_at_work: "WeakKeyDictionary[Cache, dict[Namespace, int]]" = WeakKeyDictionary()
"""How many tasks are at work in each namespace of each cache."""


async def work_at(
    agent: "Agent", graph: "TaskGraph", ctx: InteractionContext, state: RunState, progress: bool, timeout: float | None
) -> None:
    """Works at a task, and replies with the progress.

    Args:
        agent: The agent.
        graph: Its graph.
        ctx: The call of the agent.
        state: The state of the run, whose task is EXECUTING; afterwards it is over.
        progress: Whether the reply tells the progress.
        timeout: After how many seconds the run is stopped.
    """
    tracing = state.tracer.run(agent.alias, state) if graph.is_traced else nullcontext()
    try:
        with tracing:
            async with _namespace_of_its_own(agent.cache, state.task):
                await _run_to_end(agent.cache, graph, ctx, state, progress, timeout)
    finally:
        if not state.is_taken_over:
            await _publish(agent, state)


async def _run_to_end(
    cache: Cache,
    graph: "TaskGraph",
    ctx: InteractionContext,
    state: RunState,
    progress: bool,
    timeout: float | None,
) -> None:
    try:
        await cache.set(_TASK_KEY, state.task)
        messages = ctx.message_promises if state.messages is None else state.messages
        replies = graph.inquire(
            messages, task=state.task, state=state, progress=progress, timeout=timeout, errors_as_messages=False
        )
        ctx.reply(replies)
        await until_over(replies)
    except asyncio.CancelledError:
        state.stopped = PromiseCancelledError("the task was cancelled")
        raise
    except BaseException as error:
        state.stopped = error
        raise
    finally:
        _settle(state)
        if not state.is_taken_over:
            await _give_back(cache, state.task)


async def until_over(replies: MessageSequencePromise) -> None:
    """Waits for the end of a call; if that is cancelled, it cancels the call, and waits until nothing of it goes on.

    Args:
        replies: What the call replies.

    Raises:
        BaseException: What the agent has failed with.
    """
    if replies._context is not None:  # outside of any context things start when they are awaited, as this is now
        replies._start_now()
    run = replies._run
    try:
        await until_complete(replies)
    except asyncio.CancelledError:
        replies.cancel()
        if run is not None:
            await run._wait_until_over()
        raise
    end = replies._buffer.end
    if isinstance(end, Failure):
        end.throw()


def _settle(state: RunState) -> None:
    """Says how the task has ended."""
    task, problems = state.task, state.describe_errors()
    if not problems:
        task.complete(state.node_results)
    elif state.has_success:
        task.partial(state.node_results, problems)
    else:
        task.fail(problems, state.node_results)


async def _give_back(cache: Cache, task: Task) -> None:
    """Leaves the task in the cache as it has ended; what modules have made of its parameters there is what they are."""
    known = await cache.get(_TASK_KEY, default=None)
    if isinstance(known, Task) and known.id == task.id:
        task.params = known.params
    await cache.set(_TASK_KEY, task)


async def _publish(agent: "Agent", state: RunState) -> None:
    task = state.task
    for node, error in state.errors.items():
        said = {"status": "error", "node": node, "error": described(error)}
        await agent.cache.publish_to_mailbox(agent.error_mailbox, said)
    await agent.cache.publish_to_mailbox(
        agent.output_mailbox, {"status": task.status, "result": task.result, "failed_chains": state.failed_chains}
    )


@asynccontextmanager
async def _namespace_of_its_own(cache: Cache, task: Task) -> AsyncIterator[None]:
    """Keeps a task apart from those that are at work in the same namespace already."""
    namespace, at_work = cache.namespace, _at_work.setdefault(cache, {})
    at_work[namespace] = at_work.get(namespace, 0) + 1
    try:
        if at_work[namespace] == 1:
            yield
        else:
            async with cache.with_suffix(str(task.id)):
                yield
    finally:
        at_work[namespace] -= 1
        if not at_work[namespace]:
            del at_work[namespace]
