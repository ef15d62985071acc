"""Loops in which agents answer each other: `achain_loop` and `adialog_loop`."""

from collections.abc import Iterable
from contextlib import suppress
from typing import TypeAlias, TypeVar

from miniagents.agents import MiniAgent
from miniagents.context import MiniAgents
from miniagents.message import Message
from miniagents.sequences import MessageSequence, MessageSequencePromise, MessageType, asks_to_end
from promising.sentinels import AWAIT, CLEAR, Sentinel
from promising.unconsumed import Failure

__all__ = ["achain_loop", "adialog_loop"]

T = TypeVar("T")

Link: TypeAlias = MiniAgent | Sentinel

_ENDINGS = (EOFError, KeyboardInterrupt)


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
    """One call of the chain: what the agent was given, and what it replies."""

    __slots__ = ("given", "replies")

    def __init__(self, given: MessageSequencePromise, replies: MessageSequencePromise) -> None:
        self.given = given
        self.replies = replies

    def has_ended(self) -> bool:
        return self.replies._buffer.end is not None

    def ends_the_loop(self) -> bool:
        """Whether the agent itself has ended the loop, as opposed to whoever it forwards."""
        end = self.replies._buffer.end
        return (isinstance(end, Failure) and isinstance(end.error, _ENDINGS)) or asks_to_end(self.replies)


class _Chain:
    def __init__(self, chain: list[Link], initial_input: MessageType) -> None:
        self._chain = chain
        self._messages = MessageSequence.turn_into_sequence_promise(initial_input)
        self._calls: list[_Call] = []  # those that may still end the loop, in the order in which they were made

    async def run(self) -> tuple[Message, ...]:
        while True:
            for link in self._chain:
                if isinstance(link, MiniAgent):
                    replies = link.inquire(self._messages)
                    self._calls.append(_Call(self._messages, replies))
                    self._messages = replies
                elif link is CLEAR:
                    self._messages = MessageSequence.turn_into_sequence_promise(None)
                else:
                    ending = await self._wait_for_messages()
                    if ending is not None:
                        return await _what_has_come(ending.given)

    async def _wait_for_messages(self) -> _Call | None:
        """Lets the messages so far arrive.

        Returns:
            The call that has ended the loop, if one has.
        """
        try:
            self._messages = MessageSequence.turn_into_sequence_promise(await self._messages)
        except _ENDINGS:
            found = self._find_ending() or self._calls[-1]
            for call in self._calls:
                call.replies.cancel()
            return found
        ending = self._find_ending()
        self._calls = [call for call in self._calls if not call.has_ended()]
        return ending

    def _find_ending(self) -> _Call | None:
        for call in self._calls:
            if call.ends_the_loop():
                end = call.replies._buffer.end
                if isinstance(end, Failure):
                    end.consume()
                return call
        return None


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
