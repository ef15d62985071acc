"""A call of a model whose messages are stored under their hash keys, nested ones first."""

import os

from miniagents import Message, MiniAgents
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.offline_model import offline_agent

mini_agents = MiniAgents()
store: dict[str, str] = {}


@mini_agents.on_persist_message
async def persist(message: Message) -> None:
    store[message.hash_key] = message.serialize()


async def main() -> None:
    model = openai_agent if os.environ.get("OPENAI_API_KEY") else offline_agent
    question = Message("echo How are you today?", role="user", asked_about=Message("an earlier message"))
    async for message_promise in model.inquire(question):
        async for token in message_promise:
            print(token, end="", flush=True)
        print()


if __name__ == "__main__":
    mini_agents.run(main())
    print()
    for hash_key, serialized in store.items():
        print(f"{hash_key[:8]}  {serialized:.100}")
