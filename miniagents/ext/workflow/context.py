"""`Context`: what a state is given."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from miniagents.agents import MiniAgent
from miniagents.ext.labelled import LabelledPromise
from miniagents.ext.values import is_immutable
from miniagents.ext.workflow.copies import detached, is_same
from miniagents.ext.workflow.errors import StateConflictError, WorkflowError
from miniagents.ext.workflow.shared import REMOVED, Reducer, Several, Writes, each_of
from miniagents.ext.workflow.typed import check_fields, check_type, updated
from miniagents.interaction import InteractionContext
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise, MessageType
from promising.sentinels import NO_VALUE
from promising.sequence import AT_END, NOTHING_YET, FlatReader
from promising.waiters import park

if TYPE_CHECKING:
    from miniagents.ext.checkpoints import CheckpointStore
    from miniagents.ext.graph.visit import Visit
    from miniagents.ext.workflow.run import WorkflowRun
    from miniagents.ext.workflow.state_run import VisitData

__all__ = ["Context"]

T = TypeVar("T")


class Context:
    """What a state is given.

    Attributes:
        run_id: The id of the run.
        state_name: The name of the state.
        visit: How often the state has begun in this run, this time included.
        attempt: The number of this attempt, from 1; attempts that died with their process count.
        idempotency_key: The same for every attempt of this visit, in whichever process, also in a run that goes on
            from a checkpoint of this one, and for nothing else: give it to services so that what a state does is done
            once.

    Example:
        ```python
        async def process(context: Context) -> StateResult:
            text = context.get_state("text")
            reply = context.inquire(summarizer, text)  # its tokens are part of the run's stream
            context.set_state("summary", str((await reply)[-1]))
            return "publish"
        ```
    """

    __slots__ = (
        "__weakref__", "_call", "_is_forgotten", "_is_over", "_questions", "_read", "_run", "_shared", "_visit",
        "_writer", "_writes", "attempt", "idempotency_key", "run_id", "state_name", "visit",
    )  # fmt: skip

    def __init__(self, run: "WorkflowRun", visit: "Visit", call: InteractionContext) -> None:
        data: VisitData = visit.value
        self._run = run
        self._visit = visit
        self._call = call
        self._shared = run.shared
        self._writer = data.writer
        self._writes: Writes = {}
        self._read: dict[str, tuple[Any, Any]] = {}  # copies that were given out, and what they were copied from
        self._questions = 0
        self._is_over = self._is_forgotten = False
        self.run_id = run.run_id
        self.state_name = data.writer.state
        self.attempt = data.attempt
        self.visit = visit.number
        self.idempotency_key = f"{run.key}/{self.state_name}/{visit.number}"

    @property
    def message_promises(self) -> MessageSequencePromise:
        """What the run was sent, or what the miniagent that has named this state has replied."""
        return self._call.message_promises

    # --- the shared state ---

    def set_state(self, key: str, value: Any) -> None:
        """Sets a value. This state sees it at once, the others when this one has completed.

        Args:
            key: The key. With a reducer for it the value is what is put together with what is there; each one, if the
                state sets several.
            value: The value; where runs are recorded, whatever `miniagents.ext.values` can write.

        Raises:
            StateConflictError: A state that runs beside this one has set the key, too, and there is no reducer for it.
            WorkflowError: The state has completed, so that nobody would see the value.
        """
        if not isinstance(key, str):
            raise TypeError(f"the key {key!r:.100} is no string")
        if self._is_over:
            raise WorkflowError(
                f"{self.state_name} sets {key!r} after it has completed, so that nobody would see it; wait for what it "
                "has started"
            )
        if not self._is_forgotten:  # else it cleans up, and what it sets is for nobody
            self._shared.note_write(key, self._writer)
        self._writes[key] = value if key not in self._shared.reducers else self._together(key, value)

    def _together(self, key: str, value: Any) -> Any:
        """What is to be put together with what is there, if that is not the first of it."""
        if key not in self._writes or value is REMOVED:
            return value
        return Several((*each_of(self._writes[key]), value))  # the first of which may be that it was removed

    def get_state(self, key: str, default: Any = None) -> Any:
        """Gives a value. If it is a list or another object that can be changed, it is a copy.

        A copy that was changed counts as set when the state has completed.

        Args:
            key: The key.
            default: What to give where there is none.

        Returns:
            The value.
        """
        if key in self._writes:
            value = self._writes[key]
            if value is REMOVED:
                return default
            return self._shared.seen_with(key, value) if key in self._shared.reducers else value
        if key in self._read:
            return self._read[key][0]
        value = self._shared.values.get(key, NO_VALUE)
        if value is NO_VALUE:
            return default
        if not is_immutable(value):
            original, value = value, detached(value)
            self._read[key] = value, original
            self._shared.lend(key)
        return value

    def has_state(self, key: str) -> bool:
        """Whether there is a value."""
        return self._writes[key] is not REMOVED if key in self._writes else key in self._shared.values

    def remove_state(self, key: str) -> bool:
        """Removes a value.

        Returns:
            Whether there was one.
        """
        there = self.has_state(key)
        if there:
            self.set_state(key, REMOVED)
        return there

    def keys(self) -> list[str]:
        """Gives the keys that there are."""
        return [key for key in dict.fromkeys([*self._shared.values, *self._writes]) if self.has_state(key)]

    # --- typed values ---

    def set_typed(self, key: str, value: Any) -> None:
        """Sets an object of a dataclass or pydantic model.

        Raises:
            StateTypeError: It is none, or a field has another type than it declares.
        """
        check_fields(key, value)
        self.set_state(key, value)

    def get_typed(self, key: str, expected: type[T]) -> T:
        """Gives an object of a type.

        Args:
            key: The key.
            expected: The type.

        Returns:
            The object.

        Raises:
            StateTypeError: It is of another type.
            KeyError: There is none.
        """
        value = self.get_state(key, NO_VALUE)
        if value is NO_VALUE:
            raise KeyError(f"{key!r} is not set; there are: {', '.join(sorted(self.keys())) or 'none'}")
        check_type(key, value, expected)
        typed: T = value
        return typed

    def update_typed(self, key: str, **changes: Any) -> Any:
        """Replaces fields of a typed value.

        Args:
            key: The key.
            **changes: The new values of fields.

        Returns:
            The new object.

        Raises:
            StateTypeError: There is no typed value, or no such field, or a value is of another type.
            KeyError: There is no value.
        """
        made = updated(key, self.get_typed(key, object), changes)
        self.set_typed(key, made)
        return made

    # --- others ---

    def inquire(self, agent: MiniAgent, messages: MessageType = None, **arguments: Any) -> MessageSequencePromise:
        """Calls a miniagent. Its tokens are part of the stream of the run.

        Args:
            agent: The agent.
            messages: What to send.
            **arguments: See `MiniAgent.inquire`.

        Returns:
            The promise of the reply. An error of the agent is raised where this is awaited, and only there.
        """
        replies = agent.inquire(messages, **arguments)
        self._call.reply(_said_in(replies))
        return replies

    async def human_in_the_loop(
        self,
        prompt: str,
        timeout: float | None = None,
        validator: Callable[[str], Any] | None = None,
        default: str | None = None,
    ) -> str:
        """Asks a person and waits for the answer, which may take days and outlive this process.

        The question is part of what is recorded of the run. When the run is resumed, a question that was answered is
        not asked again, as long as the state asks the same, and one that was not goes on waiting, until the same time.

        Meanwhile another state may have the place of this one among the `max_concurrent`. Its resources it keeps.

        Args:
            prompt: What to ask.
            timeout: How many seconds to wait; None for as long as it takes.
            validator: Gets an answer and says whether it will do; one that does not is asked for again. A ValueError,
                such as that of `int(text)`, says no, too.
            default: The answer if there was none in time.

        Returns:
            The answer.

        Raises:
            HumanInputError: There was no answer in time and there is no default, or nobody can be asked.
        """
        self._questions += 1
        return await self._run.people.ask(self, self._questions, prompt, timeout, validator, default)

    # --- for the run ---

    @property
    def store(self) -> "CheckpointStore | None":
        """Where the run is recorded."""
        return self._run.journal.store

    @property
    def reducers(self) -> Mapping[str, Reducer]:
        """How values are put together."""
        return self._shared.reducers

    def begin_part(self, part: "WorkflowRun") -> None:
        """Takes note of the run of another workflow that this state stands for, before it begins."""
        self._run.begin_part(part, self._visit)

    def changes(self) -> Writes:
        """What the state has set, values that it has changed in place included.

        Returns:
            Copies, which nobody else has.

        Raises:
            StateConflictError: It has changed what another state has set, too, or what is put together by a reducer.
        """
        for key, (value, original) in self._read.items():
            if key not in self._writes and not is_same(value, original):
                if key in self._shared.reducers:
                    raise StateConflictError(
                        f"{self.state_name} has changed the value of {key!r} in place; as there is a reducer for it, "
                        "set what is to be put together with what is there"
                    )
                self.set_state(key, value)
        self._is_over = True
        return {
            key: Several(map(detached, value)) if isinstance(value, Several) else detached(value)
            for key, value in self._writes.items()
        }

    def forget(self) -> None:
        """Gives up what the state has set: the attempt has failed."""
        self._is_over, self._is_forgotten = False, True
        self._shared.forget(self.state_name, self._writes)


async def _said_in(replies: MessageSequencePromise) -> AsyncIterator[MessagePromise]:
    """What an agent says, without its error, which is for whoever awaits the reply and not consumed here."""
    reader: FlatReader[MessagePromise] = FlatReader(replies)
    while (promise := reader.next_nowait(raising=False)) is not AT_END:
        if promise is NOTHING_YET:
            await park(reader.parking_lot())
        else:
            yield LabelledPromise(promise, {})
