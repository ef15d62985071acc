"""The offline model, and the small agents."""

from pathlib import Path

import pytest

from miniagents import Message, MiniAgents
from miniagents.ext.history_agents import InMemoryChatHistory
from miniagents.ext.llm.llm_common import AssistantMessage, UserMessage
from miniagents.ext.misc_agents import echo_agent, file_agent
from miniagents.ext.offline_model import offline_agent


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("help", "I am the offline model"),
        ("echo a  b", "a  b"),
        ("stream", "through 10 agents"),
        ("parallel tea", "Realist: tea will be documented later."),
        ("error", "ErrorMessage(text='ValueError: something was wrong'"),
        ("message x", Message("x", role="user").hash_key),
        ("what?", "You said: what?"),
    ],
)
async def test_the_offline_model_answers(asked: str, expected: str) -> None:
    """It gives the same answer each time, streams it in many tokens, and says what a model says of its answers."""
    async with MiniAgents():
        conversation = [UserMessage("before"), AssistantMessage("x"), UserMessage(asked)]
        first, second = offline_agent.inquire(conversation), offline_agent.inquire(conversation)
        (message,) = await first
        assert await second == (message,)
        assert expected in str(message)
        async for promise in first:
            tokens = [token async for token in promise]
    assert "".join(tokens) == str(message)
    assert len(tokens) > 1 or len(str(message)) <= 4
    assert isinstance(message, AssistantMessage)
    assert message.model == "offline"


async def test_the_echo_agent() -> None:
    """It replies with what it is sent."""
    async with MiniAgents():
        assert await echo_agent.inquire(["a", Message("b", x=1)]) == (Message("a"), Message("b", x=1))


async def test_the_file_agent(tmp_path: Path) -> None:
    """It writes what it is sent to a file, in folders that it makes, and passes it on."""
    path = tmp_path / "new" / "file.txt"
    async with MiniAgents():
        assert await file_agent.inquire(["a", "é\r\n"], file=path) == (Message("a"), Message("é\r\n"))
    assert path.read_bytes() == "a\n\né\r\n".encode()


async def test_a_history_in_memory() -> None:
    """The logging agent keeps what it passes on, also what has come of a message that fails."""

    async def stream(_: object):  # type: ignore[no-untyped-def]
        yield "par"
        yield "tial"
        raise ValueError("broken")

    history = InMemoryChatHistory()
    async with MiniAgents():
        await history.logging_agent.inquire([UserMessage("a"), "b"])
        replies = history.logging_agent.inquire(AssistantMessage.promise(stream, model="m"))
        with pytest.raises(ValueError, match="broken"):
            await replies
    assert await history.aload_chat_history() == (
        UserMessage("a"),
        Message("b"),
        AssistantMessage("partial", model="m", interrupted=True),
    )
