"""The programs that the documentation of miniagents has shown since its beginning, as their users run them."""

import ast
import asyncio
import builtins
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.llm_server import LLMServer, llm_server_in_thread

ROOT = Path(__file__).parents[2]

FIRST_AGENT = """
from miniagents import MiniAgents, miniagent, InteractionContext


@miniagent
async def my_agent(ctx: InteractionContext):
    async for message in ctx.message_promises:
        ctx.reply(f"You said: {message}")


async with MiniAgents():
    reply = await my_agent.inquire("Hello!")
    print(reply)
"""

TWO_AGENTS = """
import asyncio
from miniagents import miniagent, MiniAgents, InteractionContext


@miniagent
async def agent1(ctx: InteractionContext):
    ctx.reply("Hello from Agent 1!")


@miniagent
async def agent2(ctx: InteractionContext):
    message = await ctx.message_promises
    ctx.reply(f"Agent 2 received: {message[0].text}")


async def main():
    async with MiniAgents():
        agent2_replies = agent2.inquire(agent1.inquire())
        print(await agent2_replies)


asyncio.run(main())
"""

SIMPLE_AGENT = """
import asyncio
from miniagents.miniagents import MiniAgents, miniagent, InteractionContext


@miniagent
async def simple_agent(ctx: InteractionContext) -> None:
    print("Agent is running")
    ctx.reply("Hello from the agent!")


async def main() -> None:
    async with MiniAgents():
        await simple_agent.inquire()


if __name__ == "__main__":
    asyncio.run(main())
"""

DEFINE_AND_RUN = """
from miniagents.miniagents import miniagent, InteractionContext


@miniagent
async def my_agent(ctx: InteractionContext) -> None:
    ctx.reply("Hello, I am an agent!")


from miniagents.miniagents import MiniAgents


async def main():
    async with MiniAgents():
        replies = my_agent.inquire()
        async for reply in replies:
            print(await reply)


import asyncio

asyncio.run(main())
"""

USER_AND_ASSISTANT = """
from miniagents.miniagents import MiniAgents, miniagent, InteractionContext
from miniagents.promising.sentinels import AWAIT
from miniagents.utils import achain_loop


@miniagent
async def user_agent(ctx: InteractionContext) -> None:
    async for msg_promise in ctx.message_promises:
        async for token in msg_promise:
            print(token, end="", flush=True)
        print()
    ctx.reply(input("USER: "))


@miniagent
async def assistant_agent(ctx: InteractionContext) -> None:
    async for msg_promise in ctx.message_promises:
        async for token in msg_promise:
            print(token, end="", flush=True)
        print()
    ctx.reply("Hello, how can I assist you?")


async def amain() -> None:
    await achain_loop([user_agent, AWAIT, assistant_agent])


if __name__ == "__main__":
    MiniAgents().run(amain())
"""

AGGREGATOR = """
import asyncio
from miniagents.miniagents import MiniAgents, miniagent, InteractionContext


@miniagent
async def agent1(ctx: InteractionContext) -> None:
    print("Agent 1 is running")
    ctx.reply("Message from Agent 1")


@miniagent
async def agent2(ctx: InteractionContext) -> None:
    print("Agent 2 is running")
    ctx.reply("Message from Agent 2")


@miniagent
async def aggregator_agent(ctx: InteractionContext) -> None:
    ctx.reply([agent1.inquire(), agent2.inquire()])


async def main() -> None:
    async with MiniAgents():
        await aggregator_agent.inquire()


if __name__ == "__main__":
    asyncio.run(main())
"""

CUSTOM_MESSAGE = """
from miniagents.messages import Message


class CustomMessage(Message):
    custom_field: str


message = CustomMessage(text="Hello", custom_field="Custom Value")
print(message.text)
print(message.custom_field)
"""

ROLES = """
from miniagents.ext.llm.llm_common import UserMessage, SystemMessage, AssistantMessage

user_message = UserMessage(text="Hello!")
system_message = SystemMessage(text="System message")
assistant_message = AssistantMessage(text="Assistant message")
"""

JOIN = """
import miniagents
from miniagents.utils import join_messages


async def main():
    messages = ["Hello", "world"]
    joined_message = join_messages(messages)
    print(await joined_message.aresolve())


miniagents.run(main())
"""

SPLIT = """
import miniagents
from miniagents.utils import split_messages


async def main():
    message = "Hello\\n\\nworld"
    split_message = split_messages(message)
    print(await split_message)


miniagents.run(main())
"""

JOIN_IN_A_CONTEXT = """
from miniagents import MiniAgents
from miniagents.utils import join_messages


async def main():
    async with MiniAgents() as context:
        joined_message = join_messages(["Hello", "World"], delimiter=" ")
        print(await joined_message.aresolve())


MiniAgents().run(main())
"""

SKELETONS = """
from miniagents import MiniAgents, miniagent

async with MiniAgents():
    ...


@miniagent
async def my_agent(ctx, **kwargs):
    ...
"""

OPENAI_WITH_ARGUMENTS = """
from miniagents import MiniAgents
from miniagents.ext.llm.openai import openai_agent
from miniagents.messages import Message

openai_agent = openai_agent.fork(model="gpt-3.5-turbo")


async def main():
    async with MiniAgents():
        replies = openai_agent.inquire(
            Message(text="Hello, how are you?", role="user"),
            system="You are a helpful assistant.",
            max_tokens=50,
            temperature=0.7,
        )
        async for reply in replies:
            print(await reply)


import asyncio

asyncio.run(main())
"""

OPENAI_STREAMING = """
import asyncio
from dotenv import load_dotenv
from miniagents.ext.llm.openai import openai_agent
from miniagents.miniagents import MiniAgents

load_dotenv()

llm_agent = openai_agent.fork(model="gpt-4o-2024-05-13")


async def main() -> None:
    async with MiniAgents():
        reply_sequence = llm_agent.inquire("How are you today?", max_tokens=1000, temperature=0.0)
        async for msg_promise in reply_sequence:
            async for token in msg_promise:
                print(token, end="", flush=True)
            print()


if __name__ == "__main__":
    asyncio.run(main())
"""

OPENAI_ALONE = """
import miniagents as mini_agents
from miniagents.ext.llm.openai import openai_agent

# Running the OpenAI agent
mini_agents.run(openai_agent.inquire("Hello, OpenAI!"))
"""

ANTHROPIC_ALONE = """
import miniagents as mini_agents
from miniagents.ext.llm.anthropic import anthropic_agent

# Running the Anthropic agent
mini_agents.run(anthropic_agent.inquire("Hello, Anthropic!"))
"""

CONSOLE = """
import asyncio
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.misc_agents import console_user_agent
from miniagents.utils import adialog_loop


async def main():
    assistant_agent = openai_agent.fork(model="gpt-3.5-turbo")

    await adialog_loop(console_user_agent, assistant_agent)


asyncio.run(main())
"""

CONSOLE_WITH_HISTORY = """
import logging
from dotenv import load_dotenv
from miniagents.ext.history_agents import ChatHistoryMD
from miniagents.ext.misc_agents import console_user_agent
from miniagents.ext.llm.openai import openai_agent
from miniagents.miniagents import MiniAgents
from miniagents.utils import adialog_loop

load_dotenv()


async def amain() -> None:
    chat_history = ChatHistoryMD("CHAT.md")
    try:
        print()
        await adialog_loop(
            user_agent=console_user_agent.fork(chat_history=chat_history),
            assistant_agent=openai_agent.fork(model="gpt-4o-2024-05-13"),
        )
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    MiniAgents().run(amain())
"""


def run_program(program: str) -> dict[str, Any]:
    """Runs a program as Python and IPython do, with `await` allowed at its top."""
    names: dict[str, Any] = {"__name__": "__main__"}
    outcome = eval(compile(program, "program.py", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.iscoroutine(outcome):
        asyncio.run(outcome)
    return names


@pytest.mark.parametrize(
    ("program", "output"),
    [
        (FIRST_AGENT, "(Message(text='You said: Hello!'),)\n"),
        (TWO_AGENTS, "(Message(text='Agent 2 received: Hello from Agent 1!'),)\n"),
        (SIMPLE_AGENT, "Agent is running\n"),
        (DEFINE_AND_RUN, "Hello, I am an agent!\n"),
        (AGGREGATOR, "Agent 1 is running\nAgent 2 is running\n"),
        (CUSTOM_MESSAGE, "Hello\nCustom Value\n"),
        (ROLES, ""),
        (JOIN, "Hello\n\nworld\n"),
        (SPLIT, "(Message(text='Hello'), Message(text='world'))\n"),
        (JOIN_IN_A_CONTEXT, "Hello World\n"),
        (SKELETONS, ""),
    ],
    ids=lambda value: "",
)
def test_programs(program: str, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They run as they stand, and print what they are said to print."""
    run_program(program)
    assert capsys.readouterr() == (output, "")


def test_roles() -> None:
    """The message classes for models say their roles."""
    names = run_program(ROLES)
    said = [(str(names[f"{role}_message"]), names[f"{role}_message"].role) for role in ("user", "system", "assistant")]
    assert said == [("Hello!", "user"), ("System message", "system"), ("Assistant message", "assistant")]


def test_a_dialog_at_the_prompt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop asks, answers and asks again, until the input ends."""
    lines = iter(["Hi", "Bye"])

    def fake_input(prompt: str) -> str:
        print(prompt, end="")
        try:
            print(line := next(lines))
        except StopIteration:
            print()
            raise EOFError from None
        return line

    monkeypatch.setattr(builtins, "input", fake_input)
    run_program(USER_AND_ASSISTANT)
    answer = "Hello, how can I assist you?"
    expected = f"USER: Hi\nHi\n{answer}\nUSER: Bye\nBye\n{answer}\nUSER: \n"
    assert capsys.readouterr() == (expected, "")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LLMServer]:
    """A server that echoes the last message, and the environment of a user who has keys for it."""
    with llm_server_in_thread() as server:
        for name in ("OPENAI", "ANTHROPIC"):
            monkeypatch.setenv(f"{name}_API_KEY", "key")
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        yield server


@pytest.mark.parametrize(
    ("program", "output", "sent"),
    [
        (OPENAI_WITH_ARGUMENTS, "Hello, how are you?\n", {"model": "gpt-3.5-turbo", "temperature": 0.7}),
        (OPENAI_STREAMING, "How are you today?\n", {"model": "gpt-4o-2024-05-13", "temperature": 0.0}),
        (OPENAI_ALONE, "", {"stream": True}),
        (ANTHROPIC_ALONE, "", {"stream": True}),
    ],
    ids=["arguments", "streaming", "openai", "anthropic"],
)
def test_programs_with_a_model(
    program: str, output: str, sent: dict[str, Any], server: LLMServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """They send what they are given, and print what the model says."""
    run_program(program)
    out, _ = capsys.readouterr()
    assert out.strip() == output.strip()
    (request,) = server.requests
    assert request.body.items() >= sent.items()


@pytest.mark.parametrize("program", [CONSOLE, CONSOLE_WITH_HISTORY], ids=["plain", "history"])
def test_console_chats(program: str, server: LLMServer, tmp_path: Path) -> None:
    """A chat through a pipe answers each line and ends well with its input."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        input="first\nsecond\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=50,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.index("first") < process.stdout.index("second")
    assert [request.body["messages"][-1]["content"] for request in server.requests] == ["first", "second"]
    assert [len(request.body["messages"]) for request in server.requests] == [1, 3]
    if program is CONSOLE_WITH_HISTORY:
        written = (tmp_path / "CHAT.md").read_text()
        assert written.count("first") == written.count("second") == 2
