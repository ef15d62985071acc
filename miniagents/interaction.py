"""One call of an agent: what it was sent, what it replies, and the run that does it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import Context
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from miniagents import persist
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise, MessageType, append_messages
from promising.errors import PromiseCancelledError, StreamClosedError
from promising.promise import CoroutinePromise
from promising.replay import ReplayBuffer
from promising.run import Owner, Run, current_owner
from promising.unconsumed import Failure

if TYPE_CHECKING:
    from miniagents.agents import MiniAgent

__all__ = ["InteractionContext", "Replies", "set_call_observer"]

T = TypeVar("T")

_observe_call: "Callable[[InteractionContext], Callable[[BaseException], None]] | None" = None


def set_call_observer(observer: "Callable[[InteractionContext], Callable[[BaseException], None]] | None") -> None:
    """Says who is told of all calls of agents from now on.

    Args:
        observer: Is called at the beginning of each call, in its task, and returns what is called with the error if the
            agent fails. None for nobody.
    """
    global _observe_call
    _observe_call = observer


class InteractionContext(Run):
    """What an agent function is given: the messages to read, and the means to reply.

    Attributes:
        this_agent: The agent that is called, with the arguments of its forks.
        message_promises: What it was sent: iterate it for message promises, await it for messages.

    Example:
        ```python
        @miniagent
        async def shout(ctx: InteractionContext) -> None:
            async for message_promise in ctx.message_promises:
                ctx.reply(str(await message_promise).upper())
        ```
    """

    __slots__ = ("_arguments", "_awaited", "_replies", "message_promises", "this_agent")

    def __init__(
        self, this_agent: "MiniAgent", message_promises: MessageSequencePromise, arguments: Mapping[str, Any]
    ) -> None:
        self._task = self._parent = self._children = self._appenders = self._end_waiters = self._promise = None
        self._cancelled = self._over = False
        self.this_agent = this_agent
        self.message_promises = message_promises
        self._arguments = arguments
        self._replies: ReplayBuffer[Any] = ReplayBuffer(appendable=True)
        self._awaited: list[Awaitable[Any]] | None = None

    def reply(self, messages: MessageType) -> None:
        """Adds to the reply. Readers see it at once; nothing is waited for.

        Args:
            messages: Text, messages, dicts, promises, other agents' replies, async generators, or nested lists of
                these; see `MessageType`. `END` asks the loop that called the agent to end.

        Raises:
            StreamClosedError: The agent has ended, or said `finish_early()`. To reply from work that goes on, call
                `ctx.wait_for(work)` before the agent ends.
            PromiseCancelledError: The call was cancelled.
            TypeError: It is nothing that can be sent; then nothing of it has been added.
        """
        if self._replies.end is not None:
            self._refuse(messages)
        if type(messages) is str and not persist.contexts_with_handlers:
            self._replies.add(MessagePromise.of(Message(messages)))  # the most frequent case, as fast as it can be
        else:
            append_messages(self._replies, messages)

    def finish_early(self) -> None:
        """Ends the reply now, though the agent goes on working. A second call changes nothing."""
        self._replies.finish()

    def wait_for(self, work: Awaitable[T]) -> Awaitable[T]:
        """Keeps the reply open until the work has ended, also after the agent function has returned.

        Args:
            work: A coroutine, which is started, or a task, future or promise, which is only waited for. If it fails,
                its error ends the reply.

        Returns:
            What to await for the result, for those who want it.

        Raises:
            StreamClosedError: The reply has ended already.
            TypeError: It cannot be awaited.
        """
        if self._replies.end is not None:
            if isinstance(work, Coroutine):
                work.close()
            self._refuse(work)
        if not isawaitable(work):
            raise TypeError(
                f"{work!r:.100} cannot be waited for; give a coroutine, a task, a future or a promise to await"
            )
        if isinstance(work, Coroutine):
            work = CoroutinePromise(work, start_soon=True)
            if work._context is not None:  # outside of any context things start when they are awaited, as this is to be
                work._start_now()
        if self._awaited is None:
            self._awaited = []
        self._awaited.append(work)
        return work

    def __repr__(self) -> str:
        return self.this_agent.alias

    def _refuse(self, late: object) -> NoReturn:
        end = self._replies.end
        if isinstance(end, Failure) and isinstance(end.error, PromiseCancelledError):
            end.throw()
        raise StreamClosedError(
            f"{late!r:.100} came after the end of the reply of {self!r}; reply before the agent ends, or keep the "
            "reply open for work that goes on: `ctx.wait_for(work)`"
        )

    async def _main(self) -> None:
        # The same as `Run._main` with the work in it: one coroutine less for each call.
        current_owner.set(self)
        note_failure = None if _observe_call is None else _observe_call(self)
        try:
            if self._arguments:
                await self.this_agent._function(self, **self._arguments)
            else:
                await self.this_agent._function(self)
            while self._awaited:
                awaited, self._awaited = self._awaited, None
                await _all_of(awaited)
            self._replies.finish()
        except BaseException as error:
            if isinstance(error, Exception):
                error.add_note(self._where())
            if note_failure is not None:
                note_failure(error)
            self._failed(error)
        finally:
            self._task_over()

    def _where(self) -> str:
        caller = self._parent
        while isinstance(caller, Run) and not isinstance(caller, InteractionContext):
            caller = caller._parent
        called_by = f", called by {caller!r}" if isinstance(caller, InteractionContext) else ""
        return f"in {self!r}{called_by}"


class Replies(MessageSequencePromise):
    """The promise of an agent's reply. The agent works in an `InteractionContext`, which is the run of this promise."""

    __slots__ = ("_interaction",)

    _is_reply = True
    _interaction: InteractionContext | None  # there until the call starts

    def _label(self) -> str:
        if self._interaction is not None:
            return self._interaction.this_agent.alias
        return repr(self._run) if self._run is not None else "an agent"

    def _start(self, owner: Owner | None, context: Context | None) -> None:
        interaction = self._interaction
        assert interaction is not None
        interaction._start(owner, interaction.this_agent.alias, context)
        interaction._promise = self
        if context is not None and persist.contexts_with_handlers:  # what was sent before the context was open
            persist.note_entered((interaction.message_promises,))
        self._run = interaction
        self._interaction = None


async def _all_of(awaited: list[Awaitable[Any]]) -> None:
    """Waits until all have ended, or raises as soon as one of them has failed."""
    waits = {asyncio.ensure_future(_error_of(one)) for one in awaited}
    pending = waits
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                error = wait.result()
                if error is not None:
                    raise error
    finally:
        for wait in waits:
            wait.cancel()


async def _error_of(awaitable: Awaitable[Any]) -> BaseException | None:
    """Waits, and returns the error, because a task that raises an interrupt would end the event loop."""
    try:
        await awaitable
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return error
    return None
