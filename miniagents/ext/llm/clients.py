"""Inference clients: the LLM agents behind methods that take a conversation and return text.

A client is a front door for those who think in requests. Behind it is an agent, `client.agent`, which can be used
wherever agents are.
"""

from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from miniagents.agents import MiniAgent
from miniagents.context import MiniAgents
from miniagents.ext.llm.anthropic import DEFAULT_ANTHROPIC_MODEL, anthropic_agent
from miniagents.ext.llm.bedrock import DEFAULT_BEDROCK_MODEL, bedrock_agent
from miniagents.ext.llm.llm_common import ModelMessage, is_said_by_assistant
from miniagents.ext.llm.openai import DEFAULT_OPENAI_MODEL, openai_agent
from miniagents.ext.llm.plain_messages import message_from_dict
from miniagents.ext.llm.vertex import DEFAULT_VERTEX_MODEL, vertex_agent
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise
from miniagents.usage import NO_USAGE, Usage

__all__ = [
    "AnthropicInferenceClient",
    "BedrockInferenceClient",
    "ChatMessage",
    "ChatRole",
    "InferenceClient",
    "OpenAIInferenceClient",
    "VertexInferenceClient",
]

T = TypeVar("T")

DEFAULT_MAX_TOKENS = 4096
_BETWEEN = "\n\n"  # two texts that the model has said before and after a call of a tool


class ChatRole(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL_RESULT = "tool"


class ChatMessage(ModelMessage):
    """A message in the words of inference clients. It can be sent to every agent, too.

    Args:
        text: The text; `content=` is another name for it.
        **fields: See `ModelMessage`; `cache_marker=True` is for prompt caching.

    Example:
        ```python
        ChatMessage(role=ChatRole.USER, content="Hi", cache_marker=True)
        ```
    """

    def __init__(self, text: str | None = None, *, content: str | None = None, **fields: Any) -> None:
        if content is not None:
            if text is not None:
                raise TypeError("a ChatMessage has a text or a content, which are the same, not both")
            text = content
        if isinstance(fields.get("role"), ChatRole):
            fields["role"] = fields["role"].value
        super().__init__(text, **fields)

    @property
    def content(self) -> str:
        """The text."""
        return self.text or ""


class InferenceClient:
    """What all clients can do. Make one of a class for a provider.

    Args:
        agent: The agent that is fronted.

    Attributes:
        agent: The agent, for use wherever agents are.
    """

    def __init__(self, agent: MiniAgent) -> None:
        self.agent = agent
        self._usage = NO_USAGE

    @property
    def usage(self) -> Usage:
        """What all requests of this client have cost so far."""
        return self._usage

    async def get_generation(
        self,
        messages: Iterable[Any],
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float | None = None,
        top_p: float | None = None,
        **options: Any,
    ) -> str:
        """Asks for an answer, and waits for all of it.

        Args:
            messages: The conversation: `ChatMessage`s, other messages, dicts with role and content, or texts.
            max_tokens: How long the answer may be, in tokens.
            temperature: How freely the model chooses; the provider's default otherwise.
            top_p: From how much of the distribution it chooses; likewise.
            **options: See `miniagents.ext.llm.options.Options`.

        Returns:
            The text of the answer.

        Raises:
            Exception: What the agent raises.
        """
        async with MiniAgents():
            reply = self._ask(messages, max_tokens, temperature, top_p, options)
            return str((await self._counted(reply, reply))[-1])

    async def connect_and_listen(
        self,
        messages: Iterable[Any],
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float | None = None,
        top_p: float | None = None,
        **options: Any,
    ) -> AsyncIterator[str]:
        """Asks for an answer, and gives it token by token. Who stops reading stops the answer.

        Args:
            messages: See `get_generation`.
            max_tokens: See `get_generation`.
            temperature: See `get_generation`.
            top_p: See `get_generation`.
            **options: See `get_generation`.

        Yields:
            The tokens.

        Raises:
            Exception: What the agent raises, after the tokens that had come; they are its `partial_text`, too.
        """
        reply = self._ask(messages, max_tokens, temperature, top_p, options)
        answers: list[MessagePromise] = []
        separator = ""
        try:
            async for promise in reply:
                answers.append(promise)
                if not is_said_by_assistant(promise):
                    await promise  # it may have failed
                    continue
                async for token in promise:
                    yield separator + token
                    separator = ""
                separator = _BETWEEN if promise.pieces_so_far else separator
        finally:
            reply.cancel()
            for answer in answers:  # outside of a context they have no agent any more that would end them
                answer.cancel()
            self._usage += await reply.usage()

    async def tool_chain(
        self,
        messages: Iterable[Any],
        tools: Iterable[Any],
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float | None = None,
        top_p: float | None = None,
        max_iterations: int = 25,
        **options: Any,
    ) -> list[Message]:
        """Lets the model call tools until it has an answer.

        Args:
            messages: See `get_generation`.
            tools: Functions, agents, registry entries, `Tool`s; see `miniagents.ext.tools`.
            max_tokens: See `get_generation`; for each request.
            temperature: See `get_generation`.
            top_p: See `get_generation`.
            max_iterations: How many requests there may be.
            **options: See `get_generation`.

        Returns:
            The new messages in order: what the model has said, what it has called and what came of that. What agents
            have said while they worked as tools is left out.

        Raises:
            Exception: What the agent raises.
        """
        options |= {"tools": tuple(tools), "max_turns": max_iterations}
        async with MiniAgents():
            reply = self._ask(messages, max_tokens, temperature, top_p, options)
            made = await self._counted(reply, reply)
        return [message for message in made if not getattr(message, "inside_tool_call", None)]

    def _ask(
        self,
        messages: Iterable[Any],
        max_tokens: int,
        temperature: float | None,
        top_p: float | None,
        options: Mapping[str, Any],
    ) -> MessageSequencePromise:
        chosen = {"temperature": temperature, "top_p": top_p}
        given = {name: value for name, value in chosen.items() if value is not None}
        return self.agent.inquire(
            [_as_message(message) for message in _as_list(messages)],
            **{"max_tokens": max_tokens, **given, **options},
        )

    async def _counted(self, work: Awaitable[T], reply: MessageSequencePromise) -> T:
        try:
            return await work
        except BaseException:
            reply.cancel()
            raise
        finally:
            self._usage += await reply.usage()


class OpenAIInferenceClient(InferenceClient):
    """A client for OpenAI, and for every server that speaks its protocol.

    Args:
        model: The name of the model.
        api_key: The key; the environment variable OPENAI_API_KEY otherwise.
        base_url: The address of the server; OPENAI_BASE_URL, or else OpenAI's otherwise.
        api_url: The same; it may be the address of the very interface (".../v1/chat/completions").
        **options: See `miniagents.ext.llm.options.Options`.

    Example:
        ```python
        client = OpenAIInferenceClient(model="gpt-5.4-mini")
        print(await client.get_generation([ChatMessage(role=ChatRole.USER, content="Hi")]))
        ```
    """

    def __init__(
        self,
        model: str = DEFAULT_OPENAI_MODEL,
        api_key: str | None = None,
        base_url: str | None = None,
        api_url: str | None = None,
        **options: Any,
    ) -> None:
        url = base_url or _without(api_url, "/chat/completions", "/responses")
        super().__init__(openai_agent.fork(model=model, api_key=api_key, base_url=url, **options))


class AnthropicInferenceClient(InferenceClient):
    """A client for Anthropic.

    Args:
        model: The name of the model.
        api_key: The key; the environment variable ANTHROPIC_API_KEY otherwise.
        api_url: The address of the server; ANTHROPIC_BASE_URL, or else Anthropic's otherwise. It may be the address of
            the very interface ("https://api.anthropic.com/v1/messages").
        base_url: The same.
        **options: See `miniagents.ext.llm.options.Options`.
    """

    def __init__(
        self,
        model: str = DEFAULT_ANTHROPIC_MODEL,
        api_key: str | None = None,
        api_url: str | None = None,
        base_url: str | None = None,
        **options: Any,
    ) -> None:
        url = base_url or _without(api_url, "/v1/messages", "/v1")
        super().__init__(anthropic_agent.fork(model=model, api_key=api_key, base_url=url, **options))


class BedrockInferenceClient(InferenceClient):
    """A client for AWS Bedrock.

    Args:
        model: The name of the model.
        region_name: The AWS region; the environment variable AWS_REGION or AWS_DEFAULT_REGION otherwise.
        **options: See `bedrock_agent`.
    """

    def __init__(self, model: str = DEFAULT_BEDROCK_MODEL, region_name: str | None = None, **options: Any) -> None:
        super().__init__(bedrock_agent.fork(model=model, region_name=region_name, **options))


class VertexInferenceClient(InferenceClient):
    """A client for Google Vertex.

    Args:
        model: The name of the model.
        project: The Google Cloud project.
        location: The Google Cloud location; the environment variable CLOUD_ML_REGION otherwise.
        **options: See `vertex_agent`.
    """

    def __init__(
        self,
        model: str = DEFAULT_VERTEX_MODEL,
        project: str | None = None,
        location: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(vertex_agent.fork(model=model, project=project, location=location, **options))


def _as_list(messages: Any) -> list[Any]:
    return [messages] if isinstance(messages, (str, Message, Mapping)) else list(messages)


def _as_message(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    role = given.get("role")
    return message_from_dict({**given, "role": role.value if isinstance(role, ChatRole) else role})


def _without(url: str | None, *endings: str) -> str | None:
    for ending in endings:
        if url is not None and url.rstrip("/").endswith(ending):
            return url.rstrip("/").removesuffix(ending)
    return url
