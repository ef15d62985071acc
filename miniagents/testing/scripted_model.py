"""A model for tests that says what its script says."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias

from miniagents.agents import MiniAgent, miniagent
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.messages import MessagePromise

__all__ = ["Request", "ScriptedModel", "ScriptedReply"]


@dataclass(frozen=True)
class ScriptedReply:
    """One reply of a `ScriptedModel`.

    Attributes:
        tokens: What it streams.
        error: What it raises after the tokens, if it is to fail.
        seconds_per_token: How long it takes before each token, on the clock of the loop.
        metadata: Further fields of the message, such as `usage` or `finish_reason`.
    """

    tokens: Sequence[str] = ()
    error: BaseException | None = None
    seconds_per_token: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What a `ScriptedModel` was sent.

    Attributes:
        messages: The messages.
        arguments: The keyword arguments of the call.
    """

    messages: tuple[Message, ...]
    arguments: Mapping[str, Any]


Script: TypeAlias = (
    "str | Sequence[str] | BaseException | ScriptedReply | Callable[[tuple[Message, ...]], str | ScriptedReply]"
)


class ScriptedModel:
    """A deterministic stand-in for a model: an agent that gives the replies of a script, one for each call.

    Use it as a context manager, and the test fails if a part of the script was not asked for.

    Args:
        *script: The replies in their order: a text (streamed word by word), the tokens, an error that is raised before
            the first token, a `ScriptedReply`, or a function from the messages to one of these.
        role: The role of the messages.

    Attributes:
        agent: The agent.
        requests: What it was sent so far.

    Example:
        ```python
        with ScriptedModel("Hello there!", ["How ", "are ", "you?"]) as model:
            assert str((await model.agent.inquire("Hi"))[0]) == "Hello there!"
            await model.agent.inquire("Go on", temperature=0)
            assert model.requests[1].arguments == {"temperature": 0}
        ```
    """

    def __init__(self, *script: Any, role: str = "assistant") -> None:
        self._script = deque(script)
        self._role = role
        self._length = len(script)
        self.requests: list[Request] = []
        self.agent: MiniAgent = miniagent(self._reply, alias="SCRIPTED_MODEL", description="Says what its script says.")

    def add(self, *script: Any) -> "ScriptedModel":
        """Adds replies to the script.

        Args:
            *script: See the class.

        Returns:
            The model itself.
        """
        self._script.extend(script)
        self._length += len(script)
        return self

    def assert_consumed(self) -> None:
        """Checks that every reply of the script was asked for.

        Raises:
            AssertionError: Some were not.
        """
        left = len(self._script)
        assert not left, (
            f"{left} of {self._length} replies of the script were not asked for; the next: {self._script[0]!r}"
        )

    def __enter__(self) -> "ScriptedModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.assert_consumed()

    async def _reply(self, ctx: InteractionContext, **arguments: Any) -> None:
        messages = await ctx.message_promises
        self.requests.append(Request(messages, arguments))
        if not self._script:
            raise AssertionError(
                f"the script has {self._length} replies, and this is call {len(self.requests)} of the model; "
                f"it was sent: {messages!r:.500}"
            )
        scripted = self._script.popleft()
        reply = _as_reply(scripted(messages) if callable(scripted) else scripted)

        async def stream(promise: MessagePromise) -> AsyncIterator[str]:
            for token in reply.tokens:
                await asyncio.sleep(reply.seconds_per_token)
                yield token
            if reply.error is not None:
                raise reply.error
            promise.add_metadata(**reply.metadata)

        ctx.reply(Message.promise(stream, role=self._role))


def _as_reply(scripted: Any) -> ScriptedReply:
    if isinstance(scripted, ScriptedReply):
        return scripted
    if isinstance(scripted, BaseException):
        return ScriptedReply(error=scripted)
    if isinstance(scripted, str):
        return ScriptedReply(tokens=_words(scripted))
    if isinstance(scripted, Iterable):
        return ScriptedReply(tokens=tuple(scripted))
    raise TypeError(f"{scripted!r} is no reply; give a text, a list of tokens, an error, a ScriptedReply or a function")


def _words(text: str) -> tuple[str, ...]:
    return (*[f"{word} " for word in text.split(" ")[:-1]], text.rpartition(" ")[2])
