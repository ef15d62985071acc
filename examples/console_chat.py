"""A chat in the console, kept in memory. With a key it talks to a provider, without one to the offline model."""

import os

from miniagents import MiniAgents
from miniagents.ext.history_agents import InMemoryChatHistory
from miniagents.ext.llm.anthropic import anthropic_agent
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.misc_agents import console_user_agent
from miniagents.ext.offline_model import offline_agent
from miniagents.utils import adialog_loop


async def main() -> None:
    assistant_agent = offline_agent
    if os.environ.get("OPENAI_API_KEY"):
        assistant_agent = openai_agent
    elif os.environ.get("ANTHROPIC_API_KEY"):
        assistant_agent = anthropic_agent
    await adialog_loop(
        user_agent=console_user_agent.fork(chat_history=InMemoryChatHistory()),
        assistant_agent=assistant_agent.fork(system="You are a friendly guide."),
    )


if __name__ == "__main__":
    MiniAgents().run(main())
