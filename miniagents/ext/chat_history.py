"""Chat histories: agents that remember what they are sent."""

from abc import ABC, abstractmethod
from asyncio import CancelledError
from functools import cached_property

from miniagents.agents import MiniAgent, miniagent
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.messages import MessagePromise

__all__ = ["ChatHistory", "InMemoryChatHistory"]


class ChatHistory(ABC):
    """Remembers messages in their order. A subclass says where: it overrides `_append` and `aload_chat_history`.

    Example:
        ```python
        history = InMemoryChatHistory()
        await history.logging_agent.inquire(["Hello", assistant.inquire("Hello")])  # replies with both, and keeps them
        print(await history.aload_chat_history())
        ```
    """

    @cached_property
    def logging_agent(self) -> MiniAgent:
        """An agent that replies with what it is sent, token by token, and records each message when it is complete."""
        return miniagent(self._log, alias="LOGGING_AGENT", description="Records what it is sent, and passes it on.")

    @abstractmethod
    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Loads the messages so far.

        Returns:
            The messages, oldest first.
        """

    @abstractmethod
    async def _append(self, message: Message) -> None:
        """Adds a message at the end."""

    async def record(self, promise: MessagePromise) -> Message:
        """Waits for a message and adds it. Of one that fails or is cancelled, what has come is added, marked as such.

        Args:
            promise: The message.

        Returns:
            What has been added.

        Raises:
            BaseException: What the message failed with, after the addition.
        """
        try:
            message = await promise
        except (Exception, KeyboardInterrupt, CancelledError):
            await self.record_interrupted(promise)
            raise
        await self._append(message)
        return message

    async def record_interrupted(self, promise: MessagePromise) -> None:
        """Adds what has come of a message that will not be complete, marked `interrupted=True`, if anything has.

        Args:
            promise: The message.
        """
        text = "".join(promise.pieces_so_far)
        if text:
            await self._append(promise.message_class(text=text, **{**promise.metadata, "interrupted": True}))

    async def _log(self, ctx: InteractionContext) -> None:
        ctx.reply(ctx.message_promises)
        async for promise in ctx.message_promises:
            await self.record(promise)


class InMemoryChatHistory(ChatHistory):
    """A chat history that lasts as long as its object.

    Args:
        *messages: What it begins with.
    """

    def __init__(self, *messages: Message) -> None:
        self._messages = list(messages)

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """See `ChatHistory`."""
        return tuple(self._messages)

    async def _append(self, message: Message) -> None:
        self._messages.append(message)
