"""What the tests of graphs share."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from miniagents import InteractionContext, Message, MessageSequencePromise, MiniAgent, MiniAgents, miniagent
from miniagents.ext.graph import Graph, GraphEvent, GraphFinished
from miniagents.testing import assert_no_leftovers


def says(text: str, seconds: float = 0) -> MiniAgent:
    """An agent that says something after a while."""

    async def say(ctx: InteractionContext) -> None:
        if seconds:
            await asyncio.sleep(seconds)
        ctx.reply(text)

    return miniagent(say, alias=f"SAYS {text}")


@miniagent
async def repeat(ctx: InteractionContext) -> None:
    """Repeats what it was sent, in one message."""
    ctx.reply("+".join(str(message) for message in await ctx.message_promises))


@miniagent
async def silent(_: InteractionContext) -> None:
    """Says nothing."""


@miniagent
async def forever(_: InteractionContext) -> None:
    """Waits for ever."""
    await asyncio.get_running_loop().create_future()


class Unreliable:
    """An agent that fails a number of times before it says something.

    Attributes:
        calls: How often it was called.
        agent: The agent.
    """

    def __init__(self, failures: int, error: type[BaseException] = ValueError, seconds: float = 0) -> None:
        self.calls = 0
        self.agent = miniagent(self._work, alias="UNRELIABLE")
        self._failures = failures
        self._error = error
        self._seconds = seconds

    async def _work(self, ctx: InteractionContext) -> None:
        self.calls += 1
        call = self.calls
        if self._seconds:
            await asyncio.sleep(self._seconds)
        if call <= self._failures:
            raise self._error(f"call {call}")
        ctx.reply(f"call {call}")


def tokens(pieces: Iterable[Any], pause: float = 1) -> MessageSequencePromise:
    """A message that streams; an error among the pieces is raised, a number is an additional pause."""

    async def stream(_: Any) -> AsyncIterator[str]:
        for piece in pieces:
            if isinstance(piece, BaseException):
                raise piece
            await asyncio.sleep(pause if isinstance(piece, str) else piece)
            if isinstance(piece, str):
                yield piece

    return MessageSequencePromise(prefill_messages=Message.promise(stream))


def streams(*pieces: Any, pause: float = 1) -> MiniAgent:
    """An agent that has ended when its message begins to stream."""

    async def work(ctx: InteractionContext) -> None:
        ctx.reply(tokens(pieces, pause))

    return miniagent(work, alias="STREAMS")


def decides(*decisions: Any, seconds: float = 0) -> tuple[MiniAgent, Any]:
    """An agent, and what it decides in its visits."""
    left = iter(decisions)

    def decide(_: tuple[Message, ...]) -> Any:
        return next(left, None)

    return says("decided", seconds), decide


def told(messages: Iterable[Message]) -> list[str]:
    """Events and messages in words."""
    return [
        str(message) if isinstance(message, GraphEvent) else f"{getattr(message, 'node', '')}: {message}"
        for message in messages
        if not isinstance(message, GraphFinished)
    ]


class Outcome:
    """What came of a run.

    Attributes:
        messages: What the graph replied before its error, if it had one.
        error: The error.
        seconds: How long it took.
    """

    def __init__(self, messages: list[Message], error: BaseException | None, seconds: float) -> None:
        self.messages = messages
        self.error = error
        self.seconds = seconds

    @property
    def told(self) -> list[str]:
        return told(self.messages)

    @property
    def finished(self) -> GraphFinished:
        last = self.messages[-1]
        assert isinstance(last, GraphFinished), last
        return last

    @property
    def results(self) -> dict[str, str]:
        return {name: " ".join(map(str, messages)) for name, messages in self.finished.results.items()}

    @property
    def summary(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """The status, and which nodes have failed and were skipped."""
        return self.finished.status, self.finished.failed, self.finished.skipped

    def states(self) -> dict[str, str]:
        """The last that was told of each node."""
        found: dict[str, str] = {}
        for message in self.messages:
            if isinstance(message, GraphEvent) and message is not self.messages[-1]:
                found[str(message.model_dump()["node"])] = type(message).__name__
        return found


async def run(graph: Graph, messages: Any = "in", **options: Any) -> Outcome:
    """Runs a graph to its end, and sees to it that nothing is left."""
    began = asyncio.get_running_loop().time()
    found: list[Message] = []
    error: BaseException | None = None
    async with assert_no_leftovers(), MiniAgents():
        try:
            async for promise in graph.inquire(messages, **options):
                found.append(await promise)
        except BaseException as caught:
            error = caught
        seconds = asyncio.get_running_loop().time() - began
    return Outcome(found, error, seconds)
