"""Spans of agents, requests and tools."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.llm.anthropic import anthropic_agent
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.otel import instrument, uninstrument
from tests.support.llm_server import Gate, LLMServer, Reply, ToolCall

KEY = "sk-very-secret-key"


class Spans:
    """What was traced, and what is still open."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    @property
    def tree(self) -> list[str]:
        """Each span after that in which it was made."""
        names = {span.context.span_id: span.name for span in self.all if span.context}
        return sorted(f"{names.get(span.parent.span_id) if span.parent else None} > {span.name}" for span in self.all)

    def one(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.all if span.name == name]
        return span

    def attributes(self, name: str) -> dict[str, Any]:
        return dict(self.one(name).attributes or {})


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    instrument(found.provider)
    yield found
    uninstrument()


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer() as server:
        yield server


@pytest.fixture(params=["openai", "anthropic"])
def agent(request: pytest.FixtureRequest, server: LLMServer) -> Any:
    if request.param == "openai":
        return openai_agent.fork(base_url=server.openai_url, api_key=KEY, model="m", alias="A")
    return anthropic_agent.fork(base_url=server.anthropic_url, api_key=KEY, model="m", alias="A")


async def test_a_request(agent: Any, server: LLMServer, spans: Spans) -> None:
    """The span of a request says what was asked of whom, and what came of it."""
    server.script(Reply(("Hel", "lo")))
    async with MiniAgents():
        await agent.inquire("Hi", max_tokens=50, temperature=0.5, chat_id="c1")
    assert spans.tree == ["None > invoke_agent A", "invoke_agent A > chat m"]
    found = spans.attributes("chat m")
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.provider.name"] in ("openai", "anthropic")
    assert (found["gen_ai.request.max_tokens"], found["gen_ai.request.temperature"]) == (50, 0.5)
    assert (found["gen_ai.response.model"], found["gen_ai.response.finish_reasons"]) == ("served-model", ("stop",))
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (7, 5)
    assert (found["server.address"], found["gen_ai.conversation.id"]) == ("127.0.0.1", "c1")
    assert "gen_ai.input.messages" not in found


async def test_parents_of_what_runs_side_by_side(agent: Any, spans: Spans) -> None:
    """Each request belongs to the agent that has made it, however many stream at the same time."""

    @miniagent
    async def both(ctx: InteractionContext) -> None:
        ctx.reply([agent.fork(alias=name, model=name).inquire(ctx.message_promises) for name in ("x", "y")])

    async with MiniAgents():
        await asyncio.gather(*[both.fork(alias=f"B{number}").inquire("Hi") for number in range(2)])
    assert spans.tree == sorted([
        "None > invoke_agent B0", "None > invoke_agent B1",
        "invoke_agent B0 > invoke_agent x", "invoke_agent B0 > invoke_agent y",
        "invoke_agent B1 > invoke_agent x", "invoke_agent B1 > invoke_agent y",
        "invoke_agent x > chat x", "invoke_agent x > chat x", "invoke_agent y > chat y", "invoke_agent y > chat y",
    ])  # fmt: skip


async def test_tools_and_agents_as_tools(agent: Any, server: LLMServer, spans: Spans) -> None:
    """What runs for a call of a tool stands below it, and the span of an agent covers all that it has started."""

    async def weather() -> str:
        """Looks."""
        return "sunny"

    calls = (ToolCall("weather"), ToolCall("inner", ('{"message": "?"}',)))
    server.script(Reply(calls), Reply(("inside",)), Reply(("outside",)))
    async with MiniAgents():
        await agent.inquire("Hi", tools=[weather, agent.fork(alias="inner", model="i")])
    assert spans.tree == sorted([
        "None > invoke_agent A", "invoke_agent A > chat m", "invoke_agent A > chat m",
        "invoke_agent A > execute_tool weather", "invoke_agent A > execute_tool inner",
        "execute_tool inner > invoke_agent inner", "invoke_agent inner > chat i",
    ])  # fmt: skip
    found = spans.attributes("execute_tool weather")
    assert (found["gen_ai.tool.name"], found["gen_ai.tool.description"]) == ("weather", "Looks.")
    assert "gen_ai.tool.call.result" not in found
    outer = spans.one("invoke_agent A")
    assert all((span.end_time or 0) <= (outer.end_time or 0) for span in spans.all)


async def test_retries_are_events(agent: Any, server: LLMServer, spans: Spans) -> None:
    """All attempts are one span."""
    server.script(Reply(status=429, headers={"retry-after": "0"}), Reply(("x",)))
    async with MiniAgents():
        await agent.inquire("Hi")
    events = spans.one("chat m").events
    assert [event.name for event in events] == ["retry", "first token"]
    assert dict(events[0].attributes or {})["error.type"] == "RateLimitError"


async def test_failures(agent: Any, server: LLMServer, spans: Spans) -> None:
    """They are noted on the request and on the agents that they pass, without the key that the server repeats."""

    async def broken() -> str:
        raise LookupError("no such thing")

    server.script(Reply((ToolCall("broken"),)), Reply(status=401, error=("authentication_error", f"bad key {KEY}")))
    async with MiniAgents():
        with pytest.raises(Exception, match="bad key"):
            await agent.inquire("Hi", tools=[broken])
    assert spans.attributes("execute_tool broken")["error.type"] == "LookupError"
    (failed,) = [
        span for span in spans.all if span.name == "chat m" and not span.status.is_ok and span.status.description
    ]
    assert dict(failed.attributes or {})["error.type"] == "AuthenticationError"
    assert not spans.one("invoke_agent A").status.is_ok
    assert KEY not in "".join(span.to_json() for span in spans.all)


async def test_cancelling(agent: Any, server: LLMServer, spans: Spans) -> None:
    """A request that is cancelled has a span that has ended."""
    gate = Gate()
    server.script(Reply(("a", gate)))
    async with MiniAgents():
        reply = agent.inquire("Hi")
        await gate.reached.wait()
        reply.cancel()
    assert spans.tree == ["None > invoke_agent A", "invoke_agent A > chat m"]
    assert spans.attributes("chat m")["error.type"] == "CancelledError"


@pytest.mark.parametrize("word", ["true", "SPAN_ONLY", ""])
async def test_content_only_when_asked_for(
    agent: Any, server: LLMServer, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """The environment says whether messages, arguments and results are in the spans."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", word)
    spans = Spans()
    instrument(spans.provider)

    async def echo(text: str) -> str:
        return text

    try:
        server.script(Reply((ToolCall("echo", ('{"text": "quiet words"}',)),)), Reply(("loud words",)))
        async with MiniAgents():
            await agent.inquire("soft words", tools=[echo], api_key="any-key")
    finally:
        uninstrument()
    everything = "".join(span.to_json() for span in spans.all)
    assert [text in everything for text in ("soft words", "quiet words", "loud words")] == [bool(word)] * 3
    if word:
        last = spans.all[-2].attributes or {}
        assert json.loads(str(last["gen_ai.output.messages"]))[0]["parts"][0]["content"] == "loud words"


async def test_outside_of_a_context(agent: Any, spans: Spans) -> None:
    """A call that starts when it is awaited belongs to the place where it was made."""
    tracer = spans.provider.get_tracer("test")
    with tracer.start_as_current_span("mine"):
        reply = agent.inquire("Hi")
    await reply
    assert spans.tree[0] == "None > mine"
    assert "mine > invoke_agent A" in spans.tree


async def test_off_again(agent: Any, spans: Spans) -> None:
    """After `uninstrument` nothing is traced."""
    uninstrument()
    async with MiniAgents():
        await agent.inquire("Hi")
    assert spans.all == []


def test_nothing_is_imported_without_it() -> None:
    """Agents and models know nothing of OpenTelemetry until it is wanted."""
    code = (
        "import sys, miniagents, miniagents.ext.llm.openai, miniagents.ext.llm.tracing;"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
