"""Chat histories: agents that remember what they are sent."""

from abc import ABC, abstractmethod
from asyncio import CancelledError
from functools import cached_property

from miniagents.agents import MiniAgent, miniagent
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.messages import MessagePromise

__all__ = ["ChatHistory", "HistoryFileError", "InMemoryChatHistory"]


class HistoryFileError(Exception):
    """The file of a chat history cannot be used; the message says why and what to do."""


class ChatHistory(ABC):
    """Remembers messages in their order. A subclass says where: it overrides `_append` and `aload_chat_history`.

    A history is only ever added to: what is loaded is the beginning of whatever is loaded later. An addition that is
    cancelled has taken place as a whole or not at all. See `docs/histories.md`, and test a history of your own with
    `miniagents.testing.ChatHistoryConformance`.

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

    def open(self) -> None:  # noqa: B027  (there is nothing to open in most)
        """Makes sure that messages can be added, where that may fail. Additions do it, too, if nobody has before.

        Raises:
            HistoryFileError: They cannot.
        """

    def close(self) -> None:  # noqa: B027
        """Gives back what the history holds open, if anything. A later use opens it again."""

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

        Where its class demands what would have been known at its end, a plain `Message` is added.

        Args:
            promise: The message.
        """
        text = "".join(promise.pieces_so_far)
        if text:
            fields = {**promise.metadata, "text": text, "interrupted": True}
            try:
                message = promise.message_class(**fields)
            except ValueError:
                message = Message(**fields)
            await self._append(message)

    async def _log(self, ctx: InteractionContext) -> None:
        ctx.reply(ctx.message_promises)
        first_failure: Exception | None = None
        async for promise in ctx.message_promises:
            try:
                await self.record(promise)
            except Exception as error:
                if error is not await _error_of(promise):
                    raise  # it is the history that has failed
                first_failure = first_failure or error  # those who read the reply get the messages behind it, too
        if first_failure is not None:
            raise first_failure


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


async def _error_of(promise: MessagePromise) -> Exception | None:
    try:
        await promise
    except Exception as error:
        return error
    return None


def checked_name(name: str) -> str:
    """Gives the name of a history as it is, or raises a TypeError if it is none."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a chat history is {name!r:.100}; give a string")
    return name
