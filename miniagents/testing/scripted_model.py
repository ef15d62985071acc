"""A model for tests that says what its script says."""

import asyncio
import inspect
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias

from miniagents.agents import MiniAgent, miniagent
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.messages import MessagePromise

__all__ = ["Request", "ScriptedModel", "ScriptedReply"]

_WORD = re.compile(r"\S*\s+|\S+")


@dataclass(frozen=True)
class ScriptedReply:
    """One reply of a `ScriptedModel`.

    Attributes:
        tokens: What it streams: a text, which is streamed word by word, or the tokens themselves.
        error: What it raises after these tokens, if it is to fail; without tokens it fails before the first one.
        seconds_per_token: How long it takes before each token, in seconds on the clock of the loop; or a list with one
            number for each token.
        metadata: Further fields of the message, such as `usage` or `finish_reason`. They are known when all tokens have
            been streamed, as with a real model; a failed message does not get them.

    Raises:
        TypeError: There is something else than text among the tokens, or the error is none.
        ValueError: There is not one number of seconds for each token.

    Example:
        `ScriptedReply(["Hel", "lo"], error=ConnectionError("cut"), seconds_per_token=0.5)`
    """

    tokens: str | Sequence[str] = ()
    error: BaseException | None = None
    seconds_per_token: float | Sequence[float] = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens = tuple(_WORD.findall(self.tokens)) if isinstance(self.tokens, str) else tuple(self.tokens)
        for token in tokens:
            if not isinstance(token, str):
                raise TypeError(f"the token {token!r} is no text; the tokens of a message are strings")
        if self.error is not None and not isinstance(self.error, BaseException):
            raise TypeError(f"the error {self.error!r} is none; give an instance, such as `TimeoutError('too slow')`")
        pauses = self.seconds_per_token
        if not isinstance(pauses, (int, float)) and len(pauses) != len(tokens):
            raise ValueError(f"{len(pauses)} numbers of seconds were given for {len(tokens)} tokens; give one for each")
        object.__setattr__(self, "tokens", tokens)

    def schedule(self) -> list[tuple[float, str]]:
        """What is streamed, and when.

        Returns:
            For each token how many seconds pass before it, and the token.
        """
        pauses = self.seconds_per_token
        if isinstance(pauses, (int, float)):
            pauses = [pauses] * len(self.tokens)
        return list(zip(pauses, self.tokens, strict=True))


@dataclass(frozen=True)
class Request:
    """What a `ScriptedModel` was sent.

    Attributes:
        messages: The messages.
        arguments: The keyword arguments of the call, those of forks included.
    """

    messages: tuple[Message, ...]
    arguments: Mapping[str, Any]


ReplyFunction: TypeAlias = Callable[[tuple[Message, ...]], Any]
"""`def reply(messages)`, async or not, which returns any other part of a script."""

Scripted: TypeAlias = str | Sequence[str] | BaseException | ScriptedReply | ReplyFunction
"""What a script can be made of."""


class ScriptedModel:
    """A deterministic stand-in for a model: an agent that gives the replies of a script, one for each call.

    A call takes the next reply when all of its messages have arrived, as a real request is sent then. Forks share the
    script. Use the model as a context manager, and the test fails if a part of the script was not asked for, or more
    than there is.

    Args:
        *script: The replies in their order: a text (streamed word by word), a list of tokens, an error that is raised
            before the first token, a `ScriptedReply`, or a function from the messages to one of these.
        role: The role of the messages.

    Attributes:
        agent: The agent.
        requests: What it was sent so far.

    Raises:
        TypeError: There is something in the script that is no reply.

    Example:
        ```python
        with ScriptedModel("Hello there!", ["How ", "are ", "you?"]) as model:
            assert str((await model.agent.inquire("Hi"))[0]) == "Hello there!"
            await model.agent.inquire("Go on", temperature=0)
            assert model.requests[1].arguments == {"temperature": 0}
        ```
    """

    def __init__(self, *script: Scripted, role: str = "assistant") -> None:
        self._role = role
        self._length = 0
        self._script: deque[ScriptedReply | ReplyFunction] = deque()
        self.requests: list[Request] = []
        self.agent: MiniAgent = miniagent(self._reply, alias="SCRIPTED_MODEL", description="Says what its script says.")
        self.add(*script)

    def add(self, *script: Scripted) -> "ScriptedModel":
        """Adds replies to the script.

        Args:
            *script: See the class.

        Returns:
            The model itself, so that calls can be chained.

        Raises:
            TypeError: Something is no reply; then nothing has been added.
        """
        replies = [_as_reply(scripted) for scripted in script]
        self._script.extend(replies)
        self._length += len(replies)
        return self

    def assert_consumed(self) -> None:
        """Checks that every reply of the script was asked for, and no more.

        Raises:
            AssertionError: Some were not, or there were more calls than replies.
        """
        if self._script:
            raise AssertionError(
                f"{len(self._script)} of {_count(self._length)} in the script were not asked for; "
                f"the next one: {self._script[0]!r:.500}"
            )
        if len(self.requests) > self._length:
            raise AssertionError(self._beyond_the_script(self._length))

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
            raise AssertionError(self._beyond_the_script(len(self.requests) - 1))
        reply = self._script.popleft()
        while not isinstance(reply, ScriptedReply):
            returned = reply(messages)
            reply = _as_reply(await returned if isinstance(returned, Awaitable) else returned)
        played: ScriptedReply = reply

        async def stream(promise: MessagePromise) -> AsyncIterator[str]:
            for seconds, token in played.schedule():
                await asyncio.sleep(seconds)
                yield token
            if played.error is not None:
                raise played.error
            promise.add_metadata(**played.metadata)

        ctx.reply(Message.promise(stream, role=self._role))

    def _beyond_the_script(self, number: int) -> str:
        return (
            f"the script has {_count(self._length)}, and this is call {number + 1} of the model. Add a reply to the "
            f"script, or find out who makes this call; it was sent {self.requests[number].messages!r:.500}"
        )


def _count(replies: int) -> str:
    return f"{replies} {'reply' if replies == 1 else 'replies'}"


def _as_reply(scripted: Any) -> ScriptedReply | ReplyFunction:
    if isinstance(scripted, ScriptedReply):
        return scripted
    if isinstance(scripted, BaseException):
        return ScriptedReply(error=scripted)
    if isinstance(scripted, str) or (
        isinstance(scripted, Iterable) and not isinstance(scripted, (bytes, Mapping, Message, set, frozenset))
    ):
        return ScriptedReply(tokens=scripted)  # type: ignore[arg-type]  # it is made a tuple of
    if callable(scripted) and not inspect.isclass(scripted) and not isinstance(scripted, MiniAgent):
        function: ReplyFunction = scripted
        return function
    raise TypeError(
        f"{scripted!r:.200} is no reply; give a text, a list of tokens, an error, a ScriptedReply (for metadata and "
        "timing), or a function from the messages to one of these"
    )
