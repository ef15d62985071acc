"""Errors that travel as messages: `errors_as_messages=True`."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise, asks_to_end
from promising.promise import StartSoon
from promising.sentinels import END, NO_VALUE

__all__ = ["ErrorMessage", "replies_with_error_messages"]


class ErrorMessage(Message):
    """What an agent that failed replies when errors travel as messages. It reads well for a model: no traceback.

    Attributes:
        text: The kind of the error and what it says.
        error_type: The name of the error's class.
        agent: The alias of the agent that failed.
    """

    error_type: str
    agent: str

    @classmethod
    def of(cls, error: BaseException, agent: str) -> "ErrorMessage":
        """Makes the message for an error.

        Args:
            error: What was raised.
            agent: The alias of the agent that was called.

        Returns:
            The message.
        """
        name = type(error).__name__
        return cls(text=f"{name}: {error}" if str(error) else name, error_type=name, agent=agent)


def replies_with_error_messages(
    inquire: Callable[[], MessageSequencePromise], agent: str, start_soon: StartSoon
) -> MessageSequencePromise:
    """Calls an agent such that no error leaves its reply, wherever in it the error arises.

    What had come of a message that failed in mid-stream stays, marked `interrupted=True`; the `ErrorMessage` follows
    it. `KeyboardInterrupt` and the like, and `EOFError`, which ends a conversation, stay errors.

    Args:
        inquire: Makes the call.
        agent: The alias of the agent.
        start_soon: See `MiniAgent.inquire`.

    Returns:
        The reply; cancelling it cancels the call.
    """
    reported: list[Exception] = []  # the same error may stand in a message and at the end of the reply

    async def streamer(_: Any) -> AsyncIterator[Any]:
        replies = inquire()
        try:
            async for promise in replies:
                if promise._value is not NO_VALUE:  # it is there, and all right
                    yield promise
                else:
                    yield _until_error(promise)
                    yield _error_of(promise, agent, reported)
        except EOFError:
            raise
        except Exception as error:
            if _is_news(error, reported):
                yield ErrorMessage.of(error, agent)
        if asks_to_end(replies):
            yield END

    return MessageSequencePromise(streamer, start_soon=start_soon)


def _until_error(promise: MessagePromise) -> MessagePromise:
    async def streamer(copy: MessagePromise) -> AsyncIterator[str]:
        try:
            async for token in promise:
                yield token
            message = await promise
        except EOFError:
            raise
        except Exception:
            copy.add_metadata(**promise.metadata, interrupted=True)
            copy.fall_back_to_plain_message()
        else:
            copy.resolve_as(message)

    return promise.message_class.promise(streamer)


async def _error_of(promise: MessagePromise, agent: str, reported: list[Exception]) -> AsyncIterator[Message]:
    await promise._wait_for_end()
    failure = promise._current_failure()
    if failure is None:
        try:
            await promise  # its tokens are there, but it may be that no message of its class can be made of them
        except Exception as error:
            if _is_news(error, reported):
                yield ErrorMessage.of(error, agent)
    elif isinstance(failure.error, Exception) and not isinstance(failure.error, EOFError):
        failure.consume()
        if _is_news(failure.error, reported):
            yield ErrorMessage.of(failure.error, agent)


def _is_news(error: Exception, reported: list[Exception]) -> bool:
    if any(error is known for known in reported):
        return False
    reported.append(error)
    return True
