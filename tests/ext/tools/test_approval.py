"""Asking before a tool runs: functions, agents, nobody, and a person at a real terminal."""

import asyncio
import functools
import os
import pty
import re
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.tools import ApprovalRequest, ToolRefusedError, tool
from tests.ext.llm.helpers import KEY, Provider
from tests.ext.tools.helpers import (
    Cast,
    Running,
    agent_called,
    call_of,
    calling,
    resolved,
    results_sent,
    saying,
    soon,
)
from tests.support.llm_server import PATIENCE

ROOT = Path(__file__).parents[3]


class Shredder:
    """A tool that wants an approval, and notes what it is told to do."""

    def __init__(self) -> None:
        self.shredded: list[str] = []
        self.tool = tool(self._shred, name="shred", requires_approval=True)

    async def _shred(self, paper: str) -> str:
        """Shreds a paper."""
        self.shredded.append(paper)
        return f"shredded {paper}"


@pytest.fixture
def shredder() -> Shredder:
    return Shredder()


async def shred(provider: Provider, shredder: Shredder, approver: Any, **options: Any) -> tuple[Any, list[Any]]:
    """The result of one call that wants an approval, and the error events; the run goes on in any case."""
    events: list[Any] = []
    provider.server.script(calling(call_of("shred", paper="A")), saying("Well."))
    async with MiniAgents():
        agent = provider.agent.fork(approver=approver, hooks={"on_function_call_error": events.append})
        _, result, answer = await soon(resolved(agent.inquire("Hi", tools=[shredder.tool], **options)))
    assert str(answer) == "Well."
    assert results_sent(provider.server.requests[1]) == [str(result)]
    return result, events


async def refused(provider: Provider, shredder: Shredder, approver: Any, **options: Any) -> str:
    result, (event,) = await shred(provider, shredder, approver, **options)
    assert shredder.shredded == []
    assert result.is_error
    assert isinstance(event.exception, ToolRefusedError)
    return str(result)


async def approved(provider: Provider, shredder: Shredder, approver: Any, **options: Any) -> None:
    result, events = await shred(provider, shredder, approver, **options)
    assert (str(result), result.is_error) == ("shredded A", False)
    assert (shredder.shredded, events) == (["A"], [])


class Deciding:
    """An object that decides, asynchronously."""

    async def __call__(self, _: ApprovalRequest) -> bool:
        return True


async def decide(outcome: Any, _: ApprovalRequest) -> Any:
    return outcome


def decide_at_once(outcome: Any, _: ApprovalRequest) -> Any:
    return outcome


@pytest.mark.parametrize(
    "approver",
    [
        functools.partial(decide, True),
        functools.partial(decide_at_once, True),
        lambda request: decide(True, request),
        Deciding(),
    ],
    ids=["async", "sync", "returns something to await", "object"],
)
async def test_approved_by_a_function(provider: Provider, shredder: Shredder, approver: Any) -> None:
    """The tool runs where the approver says True, whatever kind of function that is."""
    await approved(provider, shredder, approver)


@pytest.mark.parametrize("decision", [decide, decide_at_once], ids=["async", "sync"])
@pytest.mark.parametrize("outcome", [False, None, "", 0, "on no account"], ids=repr)
async def test_refused_by_a_function(provider: Provider, shredder: Shredder, decision: Any, outcome: Any) -> None:
    """Anything but True is a refusal: a result that says so, with the reason if there is one."""
    text = await refused(provider, shredder, functools.partial(decision, outcome))
    assert "not approved" in text
    if isinstance(outcome, str):
        assert outcome in text


async def test_a_blocking_approver_runs_in_a_thread(openai_provider: Provider, shredder: Shredder) -> None:
    """A sync approver may block: the event loop goes on."""
    asked, decided = threading.Event(), threading.Event()

    def approver(_: ApprovalRequest) -> bool:
        asked.set()
        return decided.wait(5)

    openai_provider.server.script(calling(call_of("shred", paper="A")), saying("Well."))
    async with MiniAgents():
        replies = openai_provider.agent.inquire("Hi", tools=[shredder.tool], approver=approver)
        await asyncio.to_thread(asked.wait, 10)
        assert shredder.shredded == []
        decided.set()
        await soon(replies)
    assert shredder.shredded == ["A"]


async def test_what_is_asked(provider: Provider, shredder: Shredder) -> None:
    """The request says who wants to run what, with which arguments, for whom; it cannot be changed."""
    asked: list[ApprovalRequest] = []

    async def approver(request: ApprovalRequest) -> bool:
        asked.append(request)
        return True

    await approved(provider, shredder, approver, user_id="u1", chat_id="c1", agent_name="Boss")
    (request,) = asked
    assert (request.user_id, request.chat_id, request.agent_name) == ("u1", "c1", "Boss")
    assert (request.tool_name, request.arguments) == ("shred", '{"paper": "A"}')
    assert request.tool_call_id
    assert "Boss" in str(request)
    assert "shred" in str(request)
    with pytest.raises(ValidationError):
        request.arguments = "{}"  # type: ignore[misc]


@pytest.mark.parametrize("answer", ["yes", "Yes.", "OK!", " y\n"])
async def test_approved_by_an_agent(provider: Provider, shredder: Shredder, answer: str) -> None:
    """An agent approves by a yes; it is sent what is wanted as a text."""
    asked: list[str] = []

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        asked.append(str(await ctx.message_promises.as_single_promise()))
        ctx.reply(answer)

    await approved(provider, shredder, approver)
    assert "shred" in asked[0]
    assert '{"paper": "A"}' in asked[0]


@pytest.mark.parametrize("answer", ["no", "Yes, but only on Mondays", "yesterday", ""])
async def test_refused_by_an_agent(provider: Provider, shredder: Shredder, answer: str) -> None:
    """An agent refuses by whatever else it says, and that is the reason."""

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        ctx.reply(answer)

    assert answer in await refused(provider, shredder, approver)


async def test_an_llm_decides(provider: Provider, shredder: Shredder) -> None:
    """An LLM agent can be the approver; what that costs is charged to the agent that asks."""
    provider.server.default = cast = Cast(
        OUTER=[calling(call_of("shred", paper="A")), saying("Well.")], GUARD=[saying("No: it is the only copy.")]
    )
    async with MiniAgents():
        agent = agent_called(provider, "OUTER", approver=agent_called(provider, "GUARD"))
        replies = agent.inquire("Hi", tools=[shredder.tool])
        _, result, _ = await soon(resolved(replies))
        assert (await replies.usage()).requests == 3
    assert "it is the only copy" in str(result)
    assert shredder.shredded == []
    cast.assert_all_said()


async def test_an_llm_looks_things_up_before_it_decides(provider: Provider, shredder: Shredder) -> None:
    """Of an approver that has tools of its own the last word decides."""

    async def copies() -> str:
        return "no, there are copies"

    provider.server.default = cast = Cast(
        OUTER=[calling(call_of("shred", paper="A")), saying("Well.")],
        GUARD=[calling("copies", text="Let me look."), saying("Yes.")],
    )
    async with MiniAgents():
        agent = agent_called(provider, "OUTER", approver=agent_called(provider, "GUARD", tools=[copies]))
        await soon(resolved(agent.inquire("Hi", tools=[shredder.tool])))
    assert shredder.shredded == ["A"]
    cast.assert_all_said()


async def test_nobody_to_ask(provider: Provider, shredder: Shredder) -> None:
    """Without an approver and without a terminal the tool is refused."""
    assert "nobody to ask" in await refused(provider, shredder, None)


async def test_an_approver_that_fails(provider: Provider, shredder: Shredder) -> None:
    """When the approver fails, the tool does not run; the model is told, and the run goes on."""

    async def approver(_: ApprovalRequest) -> bool:
        raise ConnectionError("the office is closed")

    result, (event,) = await shred(provider, shredder, approver)
    assert shredder.shredded == []
    assert result.is_error
    assert "the office is closed" in str(result)
    assert isinstance(event.exception, ConnectionError)


async def test_only_where_it_is_wanted(provider: Provider, shredder: Shredder) -> None:
    """Tools that want no approval run unasked; nor is anybody asked for calls that cannot be made."""
    asked: list[str] = []

    async def harmless() -> str:
        return "done"

    async def approver(request: ApprovalRequest) -> bool:
        asked.append(request.tool_name)
        return False

    turn = calling("harmless", call_of("shred", paper=7), call_of("shred", paper="B"))
    provider.server.script(turn, saying("Well."))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", tools=[harmless, shredder.tool], approver=approver)
        messages = await soon(resolved(replies))
    assert [message.is_error for message in messages[1:4]] == [False, True, True]
    assert asked == ["shred"]


async def test_a_registry_entry_wants_an_approval(provider: Provider) -> None:
    """`requires_approval` in an entry of a registry is the same."""
    runs: list[str] = []
    entry = {
        "name": "shred",
        "function_schema": {"name": "shred", "parameters": {"type": "object", "properties": {}}},
        "func": lambda: runs.append("ran"),
        "requires_approval": True,
    }
    provider.server.script(calling("shred"), saying("Well."))
    async with MiniAgents():
        _, result, _ = await soon(
            resolved(provider.agent.inquire("Hi", tools=[entry], approver=functools.partial(decide, False)))
        )
    assert (result.is_error, runs) == (True, [])


async def test_an_agent_wants_an_approval(provider: Provider) -> None:
    """An agent as a tool is not asked anything before it is approved."""
    called: list[str] = []

    @miniagent
    async def dangerous(ctx: InteractionContext) -> None:
        called.append("called")
        ctx.reply("done")

    provider.server.script(calling(call_of("dangerous", message="Go")), saying("Well."))
    async with MiniAgents():
        replies = provider.agent.inquire(
            "Hi", tools=[tool(dangerous, requires_approval=True)], approver=functools.partial(decide, "no")
        )
        _, result, _ = await soon(resolved(replies))
    assert (result.is_error, called) == (True, [])


async def test_the_limit_of_a_tool_does_not_hold_for_the_approver(provider: Provider, shredder: Shredder) -> None:
    """People take their time: the `timeout` of the tool begins when it runs."""
    asked = Running("asked")

    async def approver(_: ApprovalRequest) -> bool:
        await asked()
        return True

    async def thing() -> str:
        return "done"

    provider.server.script(calling("thing"), saying("Well."))
    async with MiniAgents():
        tools = [tool(thing, timeout=0.01, requires_approval=True)]
        replies = provider.agent.inquire("Hi", tools=tools, approver=approver)
        await soon(asked.began.wait())
        with pytest.raises(TimeoutError):  # longer than the tool may take
            await asyncio.wait_for(replies, 0.05)
        assert not asked.ended.is_set()
        asked.may_end.set()
        _, result, _ = await soon(replies)
    assert str(result) == "done"


# --- at a terminal ---


class Terminal:
    """A process in a real terminal, which the event loop reads."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self.screen = ""
        self._news = asyncio.Event()
        self._is_closed = False

    def read(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:
            data = b""
        if not data:
            self._is_closed = True
            asyncio.get_running_loop().remove_reader(self._descriptor)
        if b"\x1b[6n" in data:
            self.type("\x1b[1;1R")  # the line editor asks where the cursor is
        self.screen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data.decode("utf-8", "replace"))
        self._news.set()

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    async def expect(self, text: str) -> str:
        """Waits until a text is on the screen, and gives what stood before it."""
        async with asyncio.timeout(3 * PATIENCE):
            while text not in self.screen:
                assert not self._is_closed, f"the terminal was closed before {text!r}: {self.screen!r}"
                self._news.clear()
                await self._news.wait()
        before, _, self.screen = self.screen.partition(text)
        return before


PROGRAM = """
    import asyncio, sys
    from miniagents import MiniAgents
    from miniagents.ext.llm.openai import openai_agent
    from miniagents.ext.tools import tool

    @tool(requires_approval=True)
    async def shred(paper: str) -> str:
        return f"shredded {paper}"

    async def main():
        agent = openai_agent.fork(alias="BOSS", model="m", base_url=sys.argv[1], api_key=sys.argv[2], tools=[shred])
        async with MiniAgents():
            for message in await agent.inquire("Hi"):
                print(f"<{message.role}: {message}>", flush=True)

    asyncio.run(main())
"""


@asynccontextmanager
async def terminal(provider: Provider) -> AsyncIterator[Terminal]:
    """Runs an agent that shreds what the server tells it to in a terminal, with nobody but the user to ask."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ANTHROPIC_"))}
    arguments = [sys.executable, "-c", textwrap.dedent(PROGRAM), provider.server.openai_url, KEY]
    pid, descriptor = pty.fork()
    if pid == 0:
        os.execve(sys.executable, arguments, {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm"})
    screen = Terminal(pid, descriptor)
    asyncio.get_running_loop().add_reader(descriptor, screen.read)
    try:
        yield screen
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)  # hangs the process up
        await asyncio.to_thread(os.waitpid, pid, 0)


@pytest.mark.parametrize(
    ("typed", "result"),
    [
        ("y\r", "shredded A"),
        ("YES\r", "shredded A"),
        ("n\r", "not approved"),
        ("\r", "not approved"),
        ("only tomorrow\r", "not approved: only tomorrow"),
        ("\x04", "not approved"),
    ],
    ids=["y", "yes", "n", "enter", "reason", "Ctrl+D"],
)
async def test_the_user_is_asked(openai_provider: Provider, typed: str, result: str) -> None:
    """Without an approver the user at the terminal is asked, and sees what is wanted; only a yes is one."""
    openai_provider.server.script(calling(call_of("shred", paper="A")), saying("Well."))
    async with terminal(openai_provider) as screen:
        asked = await screen.expect("[y/N]")
        assert "BOSS wants to run shred" in asked
        assert '{"paper": "A"}' in asked
        screen.type(typed)
        await screen.expect("<tool: ")
        shown = await screen.expect("<assistant: Well.>")
    assert result in " ".join(shown.split())


async def test_one_question_at_a_time(openai_provider: Provider) -> None:
    """Of two tools that want to run at the same time the second is asked about when the first has its answer."""
    turn = calling(call_of("shred", paper="A"), call_of("shred", paper="B"))
    openai_provider.server.script(turn, saying("Well."))
    async with terminal(openai_provider) as screen:
        asked = await screen.expect("[y/N]")
        assert '"A"' in asked
        assert '"B"' not in asked + screen.screen
        screen.type("y\r")
        await screen.expect('"B"')
        await screen.expect("[y/N]")
        screen.type("no\r")
        shown = await screen.expect("<assistant: Well.>")
    assert "shredded A" in shown
    assert "not approved" in shown
    assert "shredded B" not in shown


async def test_ctrl_c_at_the_question(openai_provider: Provider) -> None:
    """Ctrl+C at the question ends the program, and the tool does not run."""
    openai_provider.server.script(calling(call_of("shred", paper="A")))
    async with terminal(openai_provider) as screen:
        await screen.expect("[y/N]")
        screen.type("\x03")
        await screen.expect("KeyboardInterrupt")
    assert len(openai_provider.server.requests) == 1
