"""Every history of ours passes the tests that users can run against theirs."""

import asyncio
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from miniagents import Message, MessagePromise, MiniAgents
from miniagents.ext.cache import MemoryCache, RedisCache
from miniagents.ext.history_agents import (
    ChatHistory,
    ChatHistoryMD,
    ChatHistoryRedis,
    ChatHistorySQLite,
    HistoryFileError,
    InMemoryChatHistory,
)
from miniagents.testing import ChatHistoryConformance

ROOT = Path(__file__).parents[2]

Reopen = Callable[[], Awaitable[ChatHistory]]


class TestInMemory(ChatHistoryConformance):
    @pytest.fixture
    async def history(self) -> ChatHistory:
        return InMemoryChatHistory()


class TestMarkdown(ChatHistoryConformance):
    keeps_lone_surrogates = False
    keeps_undeclared_enums = False
    many_writers = False

    @pytest.fixture
    async def history(self, tmp_path: Path) -> AsyncIterator[ChatHistory]:
        history = ChatHistoryMD(tmp_path / "chat.md")
        yield history
        history.close()

    @pytest.fixture
    async def reopen(self, history: ChatHistoryMD) -> AsyncIterator[Reopen]:
        opened = [history]

        async def another() -> ChatHistory:
            opened[-1].close()
            opened.append(ChatHistoryMD(history.path))
            return opened[-1]

        yield another
        opened[-1].close()


class TestSQLite(ChatHistoryConformance):
    @pytest.fixture
    async def history(self, tmp_path: Path) -> AsyncIterator[ChatHistory]:
        history = ChatHistorySQLite(tmp_path / "chats.db")
        yield history
        history.close()

    @pytest.fixture
    async def reopen(self, history: ChatHistorySQLite) -> AsyncIterator[Reopen]:
        opened: list[ChatHistorySQLite] = []

        async def another() -> ChatHistory:
            opened.append(ChatHistorySQLite(history.path))
            return opened[-1]

        yield another
        for each in opened:
            each.close()


class TestRedisOnMemoryCache(ChatHistoryConformance):
    @pytest.fixture
    async def history(self) -> AsyncIterator[ChatHistory]:
        async with MemoryCache() as cache:
            yield ChatHistoryRedis(cache, "chat")

    @pytest.fixture
    async def reopen(self, history: ChatHistoryRedis) -> Reopen:
        async def another() -> ChatHistory:
            return ChatHistoryRedis(history.cache, "chat")

        return another


class TestRedis(ChatHistoryConformance):
    @pytest.fixture
    async def history(self, redis_cache: RedisCache) -> ChatHistory:
        return ChatHistoryRedis(redis_cache, "chat")

    @pytest.fixture
    async def reopen(self, redis_url: str, redis_prefix: str) -> AsyncIterator[Reopen]:
        async with AsyncExitStack() as caches:

            async def another() -> ChatHistory:
                cache = RedisCache.from_url(redis_url, default_prefix=redis_prefix)
                return ChatHistoryRedis(await caches.enter_async_context(cache), "chat")

            yield another


async def test_a_history_that_fails_says_so_at_once() -> None:
    """What cannot be recorded ends the reply of the logging agent, and not only when all messages have come."""

    class FullHistory(InMemoryChatHistory):
        async def _append(self, message: Message) -> None:
            raise HistoryFileError("there is no room")

    async def without_end(_: MessagePromise) -> AsyncIterator[str]:
        yield "and"
        await asyncio.Event().wait()

    endless = Message.promise(without_end)
    async with MiniAgents():
        with pytest.raises(HistoryFileError, match="there is no room"):
            async for _ in FullHistory().logging_agent.inquire(["one", endless]):
                pass
        endless.cancel()


PROJECT = """
import pytest_asyncio
from miniagents.ext.history_agents import InMemoryChatHistory
from miniagents.testing import ChatHistoryConformance

class TestGood(ChatHistoryConformance):
    @pytest_asyncio.fixture
    async def history(self):
        return InMemoryChatHistory()

class Unordered(InMemoryChatHistory):
    async def _append(self, message):
        self._messages.insert(len(self._messages) // 2, message)

class Deaf(InMemoryChatHistory):
    async def record_interrupted(self, promise):
        pass

class Plain(InMemoryChatHistory):
    async def _append(self, message):
        await super()._append(type(message).model_construct(text=message.text))

class TestUnordered(TestGood):
    @pytest_asyncio.fixture
    async def history(self):
        return Unordered()

class TestDeaf(TestGood):
    @pytest_asyncio.fixture
    async def history(self):
        return Deaf()

class TestPlain(TestGood):
    @pytest_asyncio.fixture
    async def history(self):
        return Plain()

class TestForgotten(ChatHistoryConformance):
    pass
"""


def test_the_suite_in_a_project_of_its_own(tmp_path: Path) -> None:
    """Users run the suite with pytest and pytest-asyncio alone; it finds what is wrong, and says what is missing."""
    (tmp_path / "test_mine.py").write_text(PROJECT)
    options = [
        "-q",
        "-rA",
        "-W",
        "error",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome, name in re.findall(r"^(PASSED|FAILED|ERROR) test_mine\.py::Test(\w+)::", done.stdout, re.MULTILINE):
        outcomes[name][outcome] += 1
    assert set(outcomes["Good"]) == {"PASSED"}
    assert outcomes["Unordered"]["FAILED"] > 3
    assert outcomes["Deaf"]["FAILED"] > 3
    assert outcomes["Plain"]["FAILED"] > 10
    assert set(outcomes["Forgotten"]) == {"ERROR"}
    assert "override the fixture `history` in TestForgotten" in done.stdout
