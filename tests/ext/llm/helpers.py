"""What the tests of the providers share."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from miniagents import MessageSequencePromise, MiniAgent, MiniAgents
from miniagents.ext.llm.llm_common import AssistantMessage
from tests.support.llm_server import LLMServer, Reply

KEY = "sk-very-secret-key"
BOTH_WAYS = [True, False]


@dataclass
class Provider:
    """An agent, the server that it asks, and the SDK through which it does so."""

    agent: MiniAgent
    server: LLMServer
    sdk: Any

    @property
    def is_openai(self) -> bool:
        return bool(self.sdk.__name__ == "openai")

    async def ask(self, *replies: Reply, **parameters: Any) -> AssistantMessage:
        """What the agent answers when the server does so: read as a stream and awaited, which has to be the same."""
        self.server.script(*replies)
        async with MiniAgents():
            reply = self.agent.inquire("Hi", **parameters)
            tokens, error = await read_until_error(reply)
            if error is not None:
                raise error
            (message,) = await reply
        assert isinstance(message, AssistantMessage)
        assert "".join(tokens) == message.text
        return message

    async def fail(self, *replies: Reply, **parameters: Any) -> tuple[list[str], BaseException]:
        """The tokens, and the error after them: the same whichever way it is read, and without any secret."""
        self.server.script(*replies)
        async with MiniAgents():
            reply = self.agent.inquire("Hi", **parameters)
            tokens, error = await read_until_error(reply)
            assert (tokens, error) == await read_until_error(reply)
            (awaited,) = await asyncio.gather(reply, return_exceptions=True)
            assert awaited is error
        assert error is not None, f"no error after {tokens}"
        return tokens, error


async def tokens_of(replies: MessageSequencePromise) -> list[str]:
    return [token async for message in replies for token in [t async for t in message]]


async def read_until_error(replies: MessageSequencePromise) -> tuple[list[str], BaseException | None]:
    tokens: list[str] = []
    try:
        async for message in replies:
            async for token in message:
                tokens.append(token)
    except Exception as error:
        return tokens, error
    return tokens, None


def texts(messages: Sequence[Any]) -> list[str]:
    return [str(message) for message in messages]
