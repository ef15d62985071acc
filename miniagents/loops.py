"""Loops in which agents answer each other: `achain_loop` and `adialog_loop`."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from miniagents.agents import MiniAgent
from miniagents.context import MiniAgents
from miniagents.message import Message
from miniagents.sequences import MessageSequence, MessageSequencePromise, MessageType, asks_to_end, until_complete
from promising.sentinels import AWAIT, CLEAR, Sentinel
from promising.unconsumed import Failure

__all__ = ["achain_loop", "adialog_loop"]

T = TypeVar("T")

Link: TypeAlias = MiniAgent | Sentinel

_ENDINGS = (EOFError, KeyboardInterrupt)
_TURNS_TO_READ = 10


async def achain_loop(agents: Iterable[Link], initial_input: MessageType = None) -> tuple[Message, ...]:
    """Calls agents one after the other, each with the reply of the one before, round and round.

    The loop ends when an agent replies `END`, or raises `EOFError` (the input has ended) or `KeyboardInterrupt` (Ctrl+C
    at a prompt). Other errors are raised where they are consumed: by an agent that reads them, or by the loop at
    `AWAIT`. Without a `MiniAgents` context one is opened.

    Args:
        agents: The agents in their order, and between them the sentinels `AWAIT` (let the messages so far arrive
            completely before the next agent is called) and `CLEAR` (drop the messages so far). There has to be an
            `AWAIT`, or calls would be made without end before the first of them had started.
        initial_input: What the first agent is sent.

    Returns:
        The messages that the agent which ended the loop had been given.

    Raises:
        TypeError: Something is neither an agent nor one of the two sentinels.
        ValueError: There is no agent or no `AWAIT`.

    Example:
        ```python
        await achain_loop([user_agent, AWAIT, assistant_agent])
        ```
    """
    chain = _checked(agents)
    if MiniAgents.current() is None:
        async with MiniAgents():
            return await _Chain(chain, initial_input).run()
    return await _Chain(chain, initial_input).run()


async def adialog_loop(
    user_agent: MiniAgent, assistant_agent: MiniAgent, initial_input: MessageType = None
) -> tuple[Message, ...]:
    """Lets a user and an assistant talk: `achain_loop([user_agent, AWAIT, assistant_agent])`.

    The user is shown the assistant's answer while it streams; the assistant is called when the user's message is there.

    Args:
        user_agent: Shows what it is sent and replies with what the user says.
        assistant_agent: Answers.
        initial_input: What the user agent is sent first.

    Returns:
        See `achain_loop`.
    """
    return await achain_loop([user_agent, AWAIT, assistant_agent], initial_input)


class _Call:
    """One call of the chain: what the agent was given, what it replies, and the watch over its end."""

    __slots__ = ("given", "replies", "watch")

    def __init__(self, given: MessageSequencePromise, replies: MessageSequencePromise) -> None:
        self.given = given
        self.replies = replies
        self.watch = asyncio.create_task(self._ends_the_loop())

    def ends_the_loop(self) -> bool:
        """Whether the agent itself has ended the loop by now, as opposed to whoever it forwards."""
        end = self.replies._buffer.end
        return (isinstance(end, Failure) and isinstance(end.error, _ENDINGS)) or asks_to_end(self.replies)

    async def _ends_the_loop(self) -> bool:
        if self.replies._context is not None:
            self.replies._start_now()
        await self.replies._wait_for_end()
        if not self.ends_the_loop():
            await until_complete(self.replies)
        return self.ends_the_loop()

    def stop(self) -> None:
        """Ends the watch, and the call where it is still at work."""
        if not self.watch.done():
            self.watch.cancel()
            self.replies.cancel()


class _Chain:
    def __init__(self, chain: list[Link], initial_input: MessageType) -> None:
        self._chain = chain
        self._messages = MessageSequence.turn_into_sequence_promise(initial_input)
        self._calls: list[_Call] = []  # those that may still end the loop, in the order in which they were made

    async def run(self) -> tuple[Message, ...]:
        try:
            while True:
                for link in self._chain:
                    if isinstance(link, MiniAgent):
                        replies = link.inquire(self._messages)
                        self._calls.append(_Call(self._messages, replies))
                        self._messages = replies
                    elif link is CLEAR:
                        self._messages = MessageSequence.turn_into_sequence_promise(None)
                    elif await self._work_so_far():
                        return await self._end()
        finally:
            for call in self._calls:
                call.stop()

    async def _work_so_far(self) -> bool:
        """Lets the work so far finish, and the messages so far arrive.

        Returns:
            Whether the loop has ended, which may be before that.
        """
        arrival = asyncio.create_task(_arrived(self._messages))
        pending: set[asyncio.Task[Any]] = {arrival, *[call.watch for call in self._calls]}
        try:
            while pending:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if any(call.watch.done() and call.watch.result() for call in self._calls):
                    return True
                if arrival.done() and isinstance(arrival.result(), Failure):
                    break
        finally:
            arrival.cancel()
        messages = arrival.result()
        if isinstance(messages, Failure):
            if isinstance(messages.error, _ENDINGS):
                return True
            messages.throw()
        self._calls.clear()
        self._messages = MessageSequence.turn_into_sequence_promise(messages)
        return False

    async def _end(self) -> tuple[Message, ...]:
        """Finds out who has ended the loop.

        Returns:
            What that agent had been given.
        """
        ending = next((call for call in self._calls if call.ends_the_loop()), None)
        if ending is None:  # somebody whom the last agent has forwarded, or what the loop began with
            return await _what_has_come(self._calls[-1].given) if self._calls else ()
        end = ending.replies._buffer.end
        if isinstance(end, Failure):
            end.consume()
        await until_complete(ending.replies)
        for _ in range(_TURNS_TO_READ):  # whoever reads the last words beside us gets them before all is stopped
            await asyncio.sleep(0)
        return await _what_has_come(ending.given)


async def _arrived(messages: MessageSequencePromise) -> tuple[Message, ...] | Failure:
    """Waits for messages. What they fail with is returned, since a task must not raise an interrupt."""
    try:
        return await messages
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return Failure(error, None)


async def _what_has_come(messages: MessageSequencePromise) -> tuple[Message, ...]:
    """The messages, or if an error stands among them, those before it."""
    arrived: list[Message] = []
    with suppress(Exception, KeyboardInterrupt):  # whoever ended the loop has seen it
        async for promise in messages:
            arrived += [await promise]
    return tuple(arrived)


def _checked(agents: Iterable[Link]) -> list[Link]:
    chain = list(agents)
    for link in chain:
        if not isinstance(link, MiniAgent) and link is not AWAIT and link is not CLEAR:
            raise TypeError(f"{link!r} in the chain is neither an agent (made by @miniagent) nor AWAIT nor CLEAR")
    if not any(isinstance(link, MiniAgent) for link in chain):
        raise ValueError("the chain has no agent")
    if AWAIT not in chain:
        raise ValueError(
            "the chain has no AWAIT, so calls would be made without end before the first of them had started; put "
            "AWAIT where the loop should wait, usually after the agent that asks a person"
        )
    return chain
