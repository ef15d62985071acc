"""`Context`: what a state is given, and the state that all of them share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from miniagents.agents import MiniAgent
from miniagents.ext.values import register
from miniagents.ext.workflow.errors import StateConflictError, StateTypeError
from miniagents.interaction import InteractionContext
from miniagents.sequences import MessageSequencePromise, MessageType
from promising.sentinels import NO_VALUE, Sentinel

if TYPE_CHECKING:
    from miniagents.ext.graph.visit import Visit
    from miniagents.ext.workflow.run import WorkflowRun

__all__ = ["Context", "Reducer", "SharedState", "TypedContextData", "Writes"]

T = TypeVar("T")

Reducer = Callable[[Any, Any], Any]
"""Puts two values of one key together: what is there, and what comes."""

REMOVED = Sentinel("REMOVED", "the key is removed")
Writes = dict[str, Any]
"""What a state has set, by key; `REMOVED` for what it has removed."""


class TypedContextData:
    """The base of dataclasses that are kept in a context.

    Example:
        ```python
        @dataclass
        class UserProfile(TypedContextData):
            name: str
            age: int
        ```
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls)


class SharedState:
    """The state that the states of a run share.

    What a state sets is its own until it has completed: then the others see it, all of it at once. So an attempt that
    fails leaves nothing behind, and what was recorded of a run is always the state between two of its steps.

    Args:
        values: What it begins with.
        reducers: How to put together what states that run side by side set for one key.
    """

    def __init__(self, values: Mapping[str, Any], reducers: Mapping[str, Reducer]) -> None:
        self.values = dict(values)
        self._reducers = reducers
        self._clock = 0
        self._committed: dict[str, tuple[int, str]] = {}  # when each key was set last, and by which state
        self._uncommitted: dict[str, str] = {}  # which state at work has set a key

    def now(self) -> int:
        """The number of commits so far."""
        return self._clock

    def note_write(self, key: str, state: str, began: int) -> None:
        """Notes that a state at work sets a key.

        Args:
            key: The key.
            state: The name of the state.
            began: What `now()` was when it began.

        Raises:
            StateConflictError: Another state that runs, or has run, beside it has set the key, too.
        """
        if key in self._reducers:
            return
        other = self._uncommitted.get(key)
        if other is None:
            when, by = self._committed.get(key, (0, ""))
            other = by if when > began else None
        if other is not None and other != state:
            raise StateConflictError(
                f"{state} sets {key!r}, and {other}, which runs beside it, has set it, too; use two keys, or say how "
                f"to put the values together: Agent(..., reducers={{{key!r}: function}})"
            )
        self._uncommitted[key] = state

    def commit(self, state: str, writes: Writes) -> None:
        """Lets everybody see what a state has set."""
        self._clock += 1
        for key, value in writes.items():
            if value is REMOVED:
                self.values.pop(key, None)
            elif key in self._reducers and key in self.values:
                self.values[key] = self._reducers[key](self.values[key], value)
            else:
                self.values[key] = value
            self._committed[key] = (self._clock, state)
        self.forget(state)

    def forget(self, state: str) -> None:
        """Forgets what a state has set and not committed."""
        for key in [key for key, owner in self._uncommitted.items() if owner == state]:
            del self._uncommitted[key]


class Context:
    """What a state is given.

    Attributes:
        attempt: The number of this attempt, from 1; attempts that died with their process count.
        idempotency_key: The same for every attempt of this visit, in whichever process, and for nothing else: give it
            to services so that what a state does is done once.
        run_id: The id of the run.

    Example:
        ```python
        async def process(context: Context) -> StateResult:
            text = context.get_state("text")
            reply = context.inquire(summarizer, text)  # its tokens are part of the run's stream
            context.set_state("summary", str((await reply)[-1]))
            return "publish"
        ```
    """

    def __init__(self, run: "WorkflowRun", visit: "Visit", call: InteractionContext) -> None:
        self._run = run
        self._visit = visit
        self._call = call
        self._shared = run.shared
        self._began = visit.value.began
        self.writes: Writes = {}
        self.attempt = visit.value.attempts_before + visit.attempt
        self.run_id = run.run_id
        self.idempotency_key = f"{run.run_id}/{self.state_name}/{visit.number}"
        self.questions = 0

    @property
    def state_name(self) -> str:
        """The name of the state."""
        return self._visit.node_run.node.name

    # --- the shared state ---

    def set_state(self, key: str, value: Any) -> None:
        """Sets a value. This state sees it at once, the others when this one has completed.

        Args:
            key: The key.
            value: The value; where runs are recorded, whatever `miniagents.ext.values` can write.

        Raises:
            StateConflictError: A state that runs beside this one has set the key, too, and there is no reducer for it.
        """
        self._shared.note_write(key, self.state_name, self._began)
        self.writes[key] = value

    def get_state(self, key: str, default: Any = None) -> Any:
        """Gives a value.

        Args:
            key: The key.
            default: What to give where there is none.

        Returns:
            The value.
        """
        if key in self.writes:
            value = self.writes[key]
            if value is REMOVED:
                return default
            reducer = self._shared._reducers.get(key)
            return (
                value if reducer is None or key not in self._shared.values else reducer(self._shared.values[key], value)
            )
        return self._shared.values.get(key, default)

    def has_state(self, key: str) -> bool:
        """Whether there is a value."""
        return self.writes[key] is not REMOVED if key in self.writes else key in self._shared.values

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
        return [key for key in dict.fromkeys([*self._shared.values, *self.writes]) if self.has_state(key)]

    # --- typed values ---

    def set_typed(self, key: str, value: Any) -> None:
        """Sets an object of a dataclass or pydantic model.

        Raises:
            StateTypeError: It is none.
        """
        if isinstance(value, type) or not (dataclasses.is_dataclass(value) or isinstance(value, BaseModel)):
            raise StateTypeError(
                f"{key!r} is set to {value!r:.100}, which is no object of a dataclass or pydantic model; decorate its "
                "class by @dataclass, or use set_state"
            )
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
        if not isinstance(value, expected):
            raise StateTypeError(f"{key!r} is a {type(value).__name__}, not a {expected.__name__}")
        return value

    def update_typed(self, key: str, **changes: Any) -> Any:
        """Replaces fields of a typed value.

        Args:
            key: The key.
            **changes: The new values of fields.

        Returns:
            The new object.

        Raises:
            StateTypeError: There is no typed value, or no such field, or a value does not fit (pydantic).
        """
        value = self.get_typed(key, object)
        is_model = isinstance(value, BaseModel)
        if not is_model and not dataclasses.is_dataclass(value):
            raise StateTypeError(f"{key!r} is a {type(value).__name__}, which has no fields to update; use set_state")
        known = type(value).model_fields if is_model else {one.name for one in dataclasses.fields(value)}  # type: ignore[attr-defined,arg-type]
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise StateTypeError(f"{type(value).__name__} has no field {', '.join(unknown)}; it has {', '.join(known)}")
        try:
            if is_model:
                made = type(value).model_validate({**dict(value), **changes})  # type: ignore[attr-defined,call-overload]
            else:
                made = dataclasses.replace(value, **changes)  # type: ignore[type-var]
        except (TypeError, ValueError) as error:
            raise StateTypeError(f"{key!r} cannot be updated: {error}") from error
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
            The promise of the reply.
        """
        replies = agent.inquire(messages, **arguments)
        self._call.reply(replies)
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
        not asked again, and one that was not goes on waiting, until the same time.

        Args:
            prompt: What to ask.
            timeout: How many seconds to wait; None for as long as it takes.
            validator: Gets an answer and says whether it will do; one that does not is asked for again.
            default: The answer if there was none in time.

        Returns:
            The answer.

        Raises:
            HumanInputError: There was no answer in time and there is no default, or nobody can be asked.
        """
        number = self.questions = self.questions + 1
        return await self._run.people.ask(self, number, prompt, timeout, validator, default)
