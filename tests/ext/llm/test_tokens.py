"""Counting tokens."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from miniagents import Message
from miniagents.ext.llm import tokens
from miniagents.ext.llm.llm_common import AssistantMessage, UserMessage
from miniagents.ext.llm.parts import ImagePart, TextPart, ThinkingPart, ToolCallPart
from miniagents.ext.llm.tokens import count_message_tokens, count_text_tokens, count_tokens, load_vocabulary

tiktoken = pytest.importorskip("tiktoken")


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> Iterator[None]:
    tokens._vocabulary_for.cache_clear()
    tokens._vocabulary.cache_clear()
    yield
    tokens._vocabulary_for.cache_clear()
    tokens._vocabulary.cache_clear()


@pytest.fixture
def vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of bytes and one word, in the place of the one that would be downloaded."""
    from tiktoken import registry

    ranks = {bytes([byte]): byte for byte in range(256)} | {b"hello": 256}
    encoding = tiktoken.Encoding("o200k_base", pat_str=r"\w+|\W", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setitem(registry.ENCODINGS, "o200k_base", encoding)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """There is no network: what was to be downloaded."""
    from tiktoken import load, registry

    tried: list[str] = []

    def unreachable(address: str) -> bytes:
        tried.append(address)
        raise OSError("no network")

    monkeypatch.setattr(load, "read_file", unreachable)
    monkeypatch.setattr(registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tried


def join_downloads() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("vocabulary "):
            thread.join()


def test_the_estimate() -> None:
    """A quarter of the characters, rounded up, and a little for each message."""
    assert [count_text_tokens(text) for text in ("", "abcd", "abcde")] == [0, 1, 2]
    assert count_message_tokens(Message("abcd")) == 5
    assert count_tokens(["abcd", UserMessage("abcde")]) == 11


def test_one_message_or_text() -> None:
    """What is no list is one message, not a list of its characters or fields."""
    assert count_tokens("abcde") == count_tokens(UserMessage("abcde")) == count_tokens(["abcde"]) == 6


def test_parts_count() -> None:
    """Calls of tools, thoughts, images and texts among them are sent, too."""
    bare = count_message_tokens(AssistantMessage("hi"))
    call = ToolCallPart(id="1", name="look", arguments='{"at": "it"}')
    assert count_message_tokens(AssistantMessage("hi", parts=[call])) == bare + 4
    assert count_message_tokens(AssistantMessage("hi", parts=[ThinkingPart(text="hmmm")])) == bare + 1
    assert count_message_tokens(AssistantMessage("hi", parts=[ThinkingPart(redacted="x" * 40)])) == bare + 10
    assert count_message_tokens(UserMessage("hi", parts=[ImagePart(url="https://here")])) == bare + 1_500
    assert count_message_tokens(UserMessage(parts=[TextPart(text="abcd"), TextPart(text="abcd")])) == bare + 1


def test_halves_of_characters_count() -> None:
    """Text that is no valid Unicode is counted as it is sent."""
    assert count_text_tokens("\ud83d\ude00" * 4 + "\ud83d") == 2


async def test_without_the_vocabulary(downloads: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """Where the vocabulary cannot be downloaded this is said once, and never tried again."""
    for model in ("gpt-4o", "gpt-4o", None, "nobody-knows"):
        await load_vocabulary(model)
        assert count_text_tokens("abcde", "accurate", model) == 2
    assert len(downloads) == 1
    assert len(caplog.records) == 1
    assert "the vocabulary o200k_base could not be loaded (OSError: no network)" in caplog.text
    assert "estimated from now on" in caplog.text


def test_without_the_vocabulary_and_without_a_loop(downloads: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """Counting alone says the same."""
    assert [count_text_tokens("abcde", "accurate") for _ in range(3)] == [2, 2, 2]
    assert (len(downloads), len(caplog.records)) == (1, 1)


async def test_a_download_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, vocabulary: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The conversation goes on with estimates, until the vocabulary is there."""
    arrived = threading.Event()
    get_encoding = tiktoken.get_encoding

    def slow(name: str) -> object:
        arrived.wait(10)
        return get_encoding(name)

    monkeypatch.setattr(tiktoken, "get_encoding", slow)
    monkeypatch.setattr(tokens, "_PATIENCE", 0.0)
    await load_vocabulary()
    assert count_text_tokens("hello", "accurate") == 2
    assert "could not be loaded within 0 seconds" in caplog.text
    arrived.set()
    join_downloads()
    assert count_text_tokens("hello", "accurate") == 1
    assert len(caplog.records) == 1


async def test_a_download_that_fails_late(
    monkeypatch: pytest.MonkeyPatch, downloads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody waits for any longer fails without a word."""
    may_fail = threading.Event()
    get_encoding = tiktoken.get_encoding

    def slow(name: str) -> object:
        may_fail.wait(10)
        return get_encoding(name)

    monkeypatch.setattr(tiktoken, "get_encoding", slow)
    monkeypatch.setattr(tokens, "_PATIENCE", 0.0)
    await load_vocabulary()
    may_fail.set()
    join_downloads()
    assert (len(downloads), len(caplog.records)) == (1, 1)


async def test_many_at_once(downloads: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """Conversations that begin at the same time load the vocabulary once."""
    await asyncio.gather(*(load_vocabulary() for _ in range(5)))
    assert (len(downloads), len(caplog.records)) == (1, 1)


async def test_loading_leaves_the_loop_alone(monkeypatch: pytest.MonkeyPatch, vocabulary: None) -> None:
    """The vocabulary is loaded in a thread, and once."""
    threads: list[threading.Thread] = []
    get_encoding = tiktoken.get_encoding

    def watched(name: str) -> object:
        threads.append(threading.current_thread())
        return get_encoding(name)

    monkeypatch.setattr(tiktoken, "get_encoding", watched)
    await load_vocabulary()
    await load_vocabulary("gpt-4o")
    assert count_text_tokens("hello", "accurate") == 1
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


def test_with_a_vocabulary(vocabulary: None) -> None:
    """Accurate counting uses the vocabulary of the model, that of newer models for those that nobody knows."""
    assert count_text_tokens("hello", "accurate") == 1
    assert count_text_tokens("hello <|endoftext|>", "accurate", "nobody-knows") == 15
    assert count_message_tokens(UserMessage("hello"), "accurate", "gpt-4o-mini") == 5


def test_the_vocabulary_is_that_of_the_model(monkeypatch: pytest.MonkeyPatch, vocabulary: None) -> None:
    """An older model has its own."""
    from tiktoken import registry

    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("cl100k_base", pat_str=r"\w+|\W", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setitem(registry.ENCODINGS, "cl100k_base", encoding)
    assert count_text_tokens("hello", "accurate", "gpt-4") == 5


def test_a_text_is_counted_once(vocabulary: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text is not cut into tokens again, and of long ones only a digest is kept."""
    counter = tokens._vocabulary_for(None)
    counter.load()
    encoded: list[str] = []
    monkeypatch.setattr(counter, "_encode", lambda text: encoded.append(text) or [1, 2])
    monkeypatch.setattr(tokens, "_MOST_KNOWN", 2)
    for text in ("a", "b" * 1000, "a", "b" * 1000, "c", "a"):
        assert count_text_tokens(text, "accurate") == 2
        assert sum(map(len, counter._known)) < 100
    assert encoded == ["a", "b" * 1000, "c", "a"]


def test_without_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ImportError, match=r'pip install "miniagents\[tokens\]"'):
        count_tokens("hello", "accurate")
    assert count_tokens("hello") == 6


async def test_loading_without_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error reaches who waits for the vocabulary."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ImportError, match=r'pip install "miniagents\[tokens\]"'):
        await load_vocabulary()
