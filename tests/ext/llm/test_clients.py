"""Clients of the SDKs: shared per event loop, key and address, and closed with the context."""

import asyncio
import subprocess
import sys
import textwrap

import pytest

from miniagents import InteractionContext, MiniAgent, MiniAgents, miniagent
from miniagents.ext.llm.anthropic import anthropic_agent
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.llm.sdk_clients import borrowed_client
from tests.ext.llm.helpers import KEY, Provider, texts
from tests.support.llm_server import PATIENCE, Gate, LLMServer, Reply

AGENTS = [openai_agent, anthropic_agent]


def agent_for(agent: MiniAgent, server: LLMServer) -> MiniAgent:
    return agent.fork(base_url=server.openai_url if agent is openai_agent else server.anthropic_url, api_key=KEY)


async def all_connections_closed(server: LLMServer) -> None:
    async with asyncio.timeout(PATIENCE):
        while server.tasks:
            await asyncio.wait(server.tasks)


async def test_ten_parallel_calls_share_a_client(provider: Provider) -> None:
    """Ten calls are all under way before the first of them is answered; ten more use the connections of these."""
    async with MiniAgents():
        for _ in range(2):
            gates = [Gate() for _ in range(10)]
            provider.server.script(*[Reply((gate, "x")) for gate in gates])
            replies = [provider.agent.inquire("Hi") for _ in gates]
            for gate in gates:
                await gate.reached.wait()
            for gate in gates:
                gate.open()
            assert [texts(await reply) for reply in replies] == [["x"]] * 10
        assert provider.server.connections == 10


@pytest.mark.parametrize("stream", [True, False])
async def test_calls_one_after_the_other_use_one_connection(provider: Provider, stream: bool) -> None:
    """Also a streamed answer is read to its very end, so that the connection can be used again."""
    async with MiniAgents():
        for number in range(5):
            await provider.agent.inquire("Hi", stream=stream, max_retries=number)
        assert provider.server.connections == 1


async def test_the_client_lives_as_long_as_the_outermost_context(provider: Provider) -> None:
    """Nested contexts share the client of the outermost one, which closes it."""
    async with MiniAgents():
        async with MiniAgents():
            await provider.agent.inquire("1")
            async with MiniAgents():
                await provider.agent.inquire("2")
        await provider.agent.inquire("3")
        assert (provider.server.connections, len(provider.server.tasks)) == (1, 1)
    await all_connections_closed(provider.server)


async def test_each_context_has_its_own_client(provider: Provider) -> None:
    """A client is closed with its context; the next context, or the same one entered again, makes another."""
    mini_agents = MiniAgents()
    for number in (1, 2):
        async with mini_agents:
            await provider.agent.inquire("Hi")
        await all_connections_closed(provider.server)
        assert provider.server.connections == number


async def test_another_key_is_another_client(provider: Provider) -> None:
    """What is sent with one key never goes through the client of another."""
    async with MiniAgents():
        await provider.agent.inquire("Hi")
        await provider.agent.inquire("Hi", api_key="sk-another-key")
        await provider.agent.inquire("Hi")
    keys = [request.headers["authorization"].split()[-1] for request in provider.server.requests]
    assert keys == [KEY, "sk-another-key", KEY]


async def test_the_environment_is_read_with_each_call(server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key or an address that is set while the context is open is used."""
    async with MiniAgents():
        for key in ("sk-first-key", "sk-second-key"):
            monkeypatch.setenv("OPENAI_API_KEY", key)
            monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
            await openai_agent.inquire("Hi")
    assert [request.headers["authorization"] for request in server.requests] == [
        "Bearer sk-first-key",
        "Bearer sk-second-key",
    ]


async def test_without_a_context(provider: Provider) -> None:
    """Outside a context a call starts when it is awaited, and closes its client itself."""
    for number in (1, 2):
        (message,) = await provider.agent.inquire("one two")
        assert str(message) == "one two "
        await all_connections_closed(provider.server)
        assert provider.server.connections == number


async def test_a_call_from_within_an_agent(provider: Provider) -> None:
    """Agents that call a model in turn use the client of the context around all of them."""

    @miniagent
    async def twice(ctx: InteractionContext) -> None:
        ctx.reply([provider.agent.inquire("1"), await provider.agent.inquire("2")])

    async with MiniAgents():
        assert texts(await twice.inquire()) == ["1 ", "2 "]


async def test_a_call_at_the_exit_of_the_context(provider: Provider) -> None:
    """Clean-up that asks a model once more finds a client, whether the shared one is closed before or after it."""
    async with MiniAgents() as mini_agents:
        answers: list[str] = []

        async def say_goodbye() -> None:
            answers.extend(texts(await provider.agent.inquire("bye")))

        mini_agents.call_on_exit(say_goodbye)
        await provider.agent.inquire("Hi")
        mini_agents.call_on_exit(say_goodbye)
    assert answers == ["bye ", "bye "]
    await all_connections_closed(provider.server)


async def test_a_client_that_cannot_be_made_disturbs_no_other() -> None:
    """A failure to make a client is raised, each time, and nothing is kept of it."""

    def make(**_: object) -> object:
        raise LookupError("no such thing")

    async with MiniAgents():
        for _ in range(2):
            with pytest.raises(LookupError):
                async with borrowed_client(make):
                    pass


@pytest.mark.parametrize("agent", AGENTS)
def test_one_event_loop_after_another(agent: MiniAgent) -> None:
    """An agent belongs to no event loop; the clients do."""
    with LLMServer.in_thread() as server:
        asked = agent_for(agent, server)
        mini_agents = MiniAgents()
        assert [texts(mini_agents.run(asked.inquire("hi"))) for _ in range(2)] == [["hi "]] * 2

        async def without_a_context() -> list[str]:
            return texts(await asked.inquire("hi"))

        assert [asyncio.run(without_a_context()) for _ in range(2)] == [["hi "]] * 2


@pytest.mark.parametrize("agent", AGENTS)
async def test_a_thread_with_an_event_loop_of_its_own(agent: MiniAgent, server: LLMServer) -> None:
    """A tool in a thread may run agents in a loop of its own, though it inherits the context variables of ours."""
    asked = agent_for(agent, server)

    async def inner() -> list[str]:
        async with MiniAgents():
            return texts(await asked.inquire("inner"))

    async with MiniAgents():
        assert texts(await asked.inquire("outer")) == ["outer "]
        assert await asyncio.to_thread(asyncio.run, inner()) == ["inner "]
        assert texts(await asked.inquire("again")) == ["again "]
    assert server.connections == 2


def test_the_sdk_is_imported_in_a_thread_at_the_first_call() -> None:
    """Importing the agents imports no SDK; the first call does so, while the event loop goes on."""
    code = """
        import sys, threading
        importers = {}

        class Spy:
            def find_spec(self, name, path=None, target=None):
                if name in ("openai", "anthropic"):
                    importers[name] = threading.current_thread()

        sys.meta_path.insert(0, Spy())
        from miniagents import MiniAgents
        from miniagents.ext.llm.anthropic import anthropic_agent
        from miniagents.ext.llm.openai import openai_agent
        assert not importers and "httpx2" not in sys.modules

        async def ask(agent):
            try:
                await agent.inquire("Hi", base_url="http://127.0.0.1:9", max_retries=0)
            except Exception as error:
                assert type(error).__name__ == "APIConnectionError", error

        MiniAgents().run(ask(openai_agent))
        MiniAgents().run(ask(anthropic_agent))
        assert set(importers) == {"openai", "anthropic"}
        assert threading.main_thread() not in importers.values()
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
