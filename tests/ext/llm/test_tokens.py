"""Counting tokens."""

import pytest

from miniagents import Message
from miniagents.ext.llm import tokens
from miniagents.ext.llm.llm_common import AssistantMessage, UserMessage
from miniagents.ext.llm.parts import ImagePart, ThinkingPart, ToolCallPart
from miniagents.ext.llm.tokens import count_message_tokens, count_text_tokens, count_tokens


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    tokens._encoder.cache_clear()
    tokens._encoder_named.cache_clear()


def test_the_estimate() -> None:
    """A quarter of the characters, rounded up, and a little for each message."""
    assert [count_text_tokens(text) for text in ("", "abcd", "abcde")] == [0, 1, 2]
    assert count_message_tokens(Message("abcd")) == 5
    assert count_tokens(["abcd", UserMessage("abcde")]) == 11


def test_parts_count() -> None:
    """Calls of tools, thoughts and images are sent, too."""
    bare = count_message_tokens(AssistantMessage("hi"))
    call = ToolCallPart(id="1", name="look", arguments='{"at": "it"}')
    assert count_message_tokens(AssistantMessage("hi", parts=[call])) == bare + 4
    assert count_message_tokens(AssistantMessage("hi", parts=[ThinkingPart(text="hmmm")])) == bare + 1
    assert count_message_tokens(UserMessage("hi", parts=[ImagePart(url="https://here")])) > 1000


def test_without_the_vocabulary(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where the vocabulary cannot be loaded this is said once, and the estimate is what remains."""
    import tiktoken

    tries: list[str] = []

    def unreachable(name: str) -> None:
        tries.append(name)
        raise OSError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    for model in ("gpt-4o", "gpt-4o", None, "nobody-knows"):
        assert count_text_tokens("abcde", "accurate", model) == 2
    assert tries == ["o200k_base"]
    assert caplog.text.count("no network") == 1


def test_with_a_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accurate counting uses the vocabulary of the model."""
    import tiktoken
    from tiktoken import registry

    ranks = {bytes([byte]): byte for byte in range(256)} | {b"hello": 256}
    encoding = tiktoken.Encoding("o200k_base", pat_str=r"\w+|\W", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setitem(registry.ENCODINGS, "o200k_base", encoding)
    assert count_text_tokens("hello", "accurate") == 1
    assert count_text_tokens("hello <|endoftext|>", "accurate", "nobody-knows") == 15
