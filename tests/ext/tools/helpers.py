"""What the tests of tools share."""

import asyncio
import json
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

from miniagents import Message, MessageSequencePromise
from tests.ext.llm.helpers import Provider
from tests.support.llm_server import PATIENCE, Reply, Request, ToolCall
from tests.support.llm_server.waiting import in_time

T = TypeVar("T")


def calling(*calls: ToolCall | str, text: str = "") -> Reply:
    """An answer that calls tools; those of which there is only a name, without arguments."""
    pieces: list[Any] = [text] if text else []
    return Reply((*pieces, *(ToolCall(call) if isinstance(call, str) else call for call in calls)))


def call_of(name: str, /, **arguments: Any) -> ToolCall:
    return ToolCall(name, (json.dumps(arguments),))


def saying(text: str) -> Reply:
    return Reply((text,))


async def soon(waiting: Awaitable[T], what: str = "what the test waits for did not happen") -> T:
    return await in_time(waiting, what)


def roles(messages: Iterable[Any]) -> list[str]:
    return [message.role for message in messages]


def said(messages: Iterable[Message]) -> list[tuple[str, str | None, str]]:
    """Role, agent and text of messages."""
    return [(message.role, message.agent, str(message)) for message in messages]  # type: ignore[attr-defined]


async def resolved(replies: MessageSequencePromise) -> tuple[Any, ...]:
    """The messages: read token by token and awaited, which has to come to the same."""
    read: list[str] = []
    async for promise in replies:
        read.append("".join([token async for token in promise]))
    messages = await replies
    assert read == [message.text or "" for message in messages]
    return messages


def results_sent(request: Request) -> list[str]:
    """The results of tools at the end of what a model was sent, in the words of either protocol."""
    messages = request.body["messages"]
    if isinstance(messages[-1]["content"], list) and messages[-1]["role"] == "user":
        blocks = [block for block in messages[-1]["content"] if block["type"] == "tool_result"]
        return [_text(block.get("content")) for block in blocks]
    found: list[str] = []
    for message in reversed(messages):
        if message["role"] != "tool":
            break
        found.insert(0, message["content"])
    return found


def calls_sent(request: Request) -> list[tuple[str, Any]]:
    """Names and arguments of all calls of tools in what a model was sent."""
    found: list[tuple[str, Any]] = []
    for message in request.body["messages"]:
        for call in message.get("tool_calls") or ():
            found.append((call["function"]["name"], json.loads(call["function"]["arguments"])))
        if isinstance(message["content"], list):
            found += [(block["name"], block["input"]) for block in message["content"] if block["type"] == "tool_use"]
    return found


def all_sent(request: Request) -> str:
    return json.dumps(request.body)


def speaker_of(request: Request) -> str:
    """The system prompt of a request, by which the server knows agents apart."""
    system = request.body.get("system")
    if system is None:
        first = request.body["messages"][0]
        system = first["content"] if first["role"] == "system" else ""
    return _text(system)


class Cast:
    """Answers each agent from a script of its own: `server.default = Cast(OUTER=[...], INNER=[...])`.

    Attributes:
        asked: What each of them was asked.
    """

    def __init__(self, **scripts: list[Reply]) -> None:
        self._scripts = scripts
        self.asked: dict[str, list[Request]] = {name: [] for name in scripts}

    def __call__(self, request: Request) -> Reply:
        speaker = speaker_of(request)
        self.asked[speaker].append(request)
        assert self._scripts[speaker], f"nothing is left for {speaker} to say"
        return self._scripts[speaker].pop(0)

    def assert_all_said(self) -> None:
        assert not any(self._scripts.values()), self._scripts


def agent_called(provider: Provider, name: str, **options: Any) -> Any:
    """An LLM agent that a `Cast` knows."""
    return provider.agent.fork(alias=name, system=name, description=f"{name} knows it.", **options)


class Follower:
    """Reads a reply as it comes, and notes who says what: agent, role, and token.

    Attributes:
        heard: What was said so far.
        error: What the reply has ended with, if it was no good end.
    """

    def __init__(self, replies: MessageSequencePromise) -> None:
        self.heard: list[tuple[Any, Any, str]] = []
        self.error: BaseException | None = None
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._follow(replies))

    async def _follow(self, replies: MessageSequencePromise) -> None:
        try:
            async for promise in replies:
                async for token in promise:
                    known = promise.metadata
                    self.heard.append((known.get("agent"), known.get("role"), token))
                    self._news.set()
        except Exception as error:
            self.error = error
        finally:
            self._news.set()

    async def hears(self, agent: str, role: str, token: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while (agent, role, token) not in self.heard:
                assert not self._task.done(), f"the reply has ended: {self.heard}, {self.error!r}"
                self._news.clear()
                await self._news.wait()

    async def ends(self) -> "Follower":
        await soon(self._task, "the reply did not end")
        return self


class Running:
    """A tool that works until it is told to end, and notes what becomes of it.

    Attributes:
        began: Is set when it is called.
        may_end: Is what it waits for.
        ended: Is set when it has ended, however that was.
        was_cancelled: Whether it was cancelled.
    """

    def __init__(self, name: str = "work", result: str = "done") -> None:
        self.__name__ = name
        self._result = result
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.ended = asyncio.Event()
        self.was_cancelled = False

    async def __call__(self) -> str:
        self.began.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        finally:
            self.ended.set()
        return self._result


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(block.get("text", "") for block in content)
    return content or ""
