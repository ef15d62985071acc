"""Calling the functions that are tools, and what becomes of the results."""

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from pydantic_core import to_json

from miniagents.ext.llm.llm_common import UserMessage
from miniagents.ext.llm.parts import ImagePart
from miniagents.ext.threads import in_thread
from miniagents.ext.tools.documentation import plain_function
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise

__all__ = ["as_text", "outcome_of"]

_PROMISES = (MessagePromise, MessageSequencePromise)


async def outcome_of(function: Callable[..., Any], arguments: dict[str, Any]) -> AsyncIterator[Any]:
    """Calls a function: where it is async here, where it is not in a thread.

    Args:
        function: Whatever can be called.
        arguments: Its arguments by name.

    Yields:
        What it returns, once, as something that can be sent: text and messages as they are, an async generator as a
        message that streams, images as parts of a message, all else as JSON ("null" where it returns nothing), or where
        it is no data as its text.
    """
    # Only what says itself that it is async is called on the event loop: what wraps an async function may block it.
    plain = plain_function(function)
    if not inspect.isroutine(plain):
        plain = type(plain).__call__
    if inspect.isasyncgenfunction(plain):
        outcome = function(**arguments)
    elif inspect.iscoroutinefunction(plain):
        outcome = await function(**arguments)
    else:
        outcome = await in_thread(function, **arguments)
        if inspect.isawaitable(outcome) and not isinstance(outcome, _PROMISES):
            outcome = await outcome
    if isinstance(outcome, AsyncIterable) and not isinstance(outcome, _PROMISES):
        yield Message.promise(functools.partial(_tokens, outcome))
        return
    if inspect.isgenerator(outcome):
        outcome = await in_thread(_collected, outcome)
    yield _sendable(outcome)


def as_text(value: Any) -> str:
    """Puts a value into words for a model.

    Args:
        value: Anything.

    Returns:
        Text as it is; JSON of data; and of what is no data its `str`.
    """
    if isinstance(value, str):
        return str.__str__(value)  # of an enum of strings, the string
    try:
        return to_json(value).decode()
    except Exception:  # it is something of which nothing but its text is known
        return str(value)


async def _tokens(pieces: AsyncIterable[Any], _: MessagePromise) -> AsyncIterator[str]:
    if not isinstance(pieces, AsyncGenerator):
        async for piece in pieces:
            yield as_text(piece)
        return
    async with aclosing(pieces):
        async for piece in pieces:
            yield as_text(piece)


def _collected(pieces: Any) -> Any:
    found = list(pieces)
    return "".join(found) if found and all(isinstance(piece, str) for piece in found) else found


def _sendable(outcome: Any) -> Any:
    if isinstance(outcome, (Message, *_PROMISES)):
        return outcome
    if isinstance(outcome, ImagePart):
        return UserMessage(parts=[outcome])
    if isinstance(outcome, (list, tuple)) and any(isinstance(item, ImagePart) for item in outcome):
        texts = [as_text(item) for item in outcome if not isinstance(item, ImagePart)]
        return UserMessage("\n\n".join(texts) or None, parts=[item for item in outcome if isinstance(item, ImagePart)])
    return as_text(outcome)
