"""Tools of MCP servers, which are real processes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from miniagents import MiniAgents
from miniagents.ext.llm.hooks import Caller
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.llm.parts import ImagePart, parts_of
from miniagents.ext.tools import Tool, ToolArgumentsError, ToolError, as_tools, mcp_tools
from miniagents.ext.tools.mcp import MCPServerError
from tests.support.llm_server import LLMServer, Reply, ToolCall

ROOT = Path(__file__).parents[3]
CALLER = Caller(agent_name="TEST")


def stdio(server: str = "Numbers", **options: Any) -> Any:
    return mcp_tools(command=sys.executable, args=["-m", "tests.support.mcp_server", server], cwd=ROOT, **options)


async def result_of(tools: tuple[Tool, ...], name: str, **arguments: Any) -> str:
    (found,) = [tool for tool in tools if tool.name == name]
    (message,) = await found.start(arguments, CALLER)
    return str(message)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def http_server() -> Iterator[tuple[str, int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.mcp_server", "Numbers", str(port)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        while "running on" not in (line := process.stderr.readline()).lower():
            assert line, "the server has not started"
        yield f"http://127.0.0.1:{port}/mcp", process.pid
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


async def test_tools_of_a_process() -> None:
    """The tools have the names, descriptions and schemas of the server, and the process ends with the block."""
    async with stdio() as tools:
        assert [tool.name for tool in tools] == ["add", "fail", "pid", "hang", "picture"]
        add = tools[0]
        assert add.description == "Adds two numbers."
        assert add.parameters["required"] == ["a", "b"]
        assert await result_of(tools, "add", a=2, b=3) == "5"
        process = int(await result_of(tools, "pid"))
        assert is_alive(process)
    assert not is_alive(process)


async def test_tools_of_an_address() -> None:
    """A server that speaks streamable HTTP is asked at its address."""
    with http_server() as (url, _):
        async with mcp_tools(url=url) as tools:
            assert await result_of(tools, "add", a=2, b=3) == "5"


async def test_arguments_are_checked_here() -> None:
    """Arguments that do not fit the schema of the server are refused before it is asked."""
    async with stdio() as tools:
        with pytest.raises(ToolArgumentsError, match="b"):
            tools[0].parse('{"a": 1}')


async def test_an_error_of_the_tool() -> None:
    """What a tool fails with arrives as text for the model."""
    async with stdio() as tools:
        with pytest.raises(ToolError, match="no more ink"):
            await result_of(tools, "fail")


async def test_images() -> None:
    """An image in a result is a part of the message."""
    async with stdio() as tools:
        (message,) = await tools[4].start({}, CALLER)
    (image,) = parts_of(message)
    assert isinstance(image, ImagePart)
    assert (image.media_type, image.data) == ("image/png", b"\x89PNG\r\n\x1a\n")


async def test_a_server_that_dies_in_mid_call() -> None:
    """The call fails at once, and so do later ones; nothing hangs, and the block can be left."""
    async with stdio() as tools:
        process = int(await result_of(tools, "pid"))
        call = asyncio.ensure_future(result_of(tools, "hang"))
        await result_of(tools, "add", a=1, b=1)  # by now the call before is under way
        os.kill(process, signal.SIGKILL)
        with pytest.raises(ToolError, match="Numbers"):
            await call
        with pytest.raises(ToolError, match="Numbers"):
            await result_of(tools, "add", a=1, b=1)


async def test_an_http_server_that_dies() -> None:
    """Calls of its tools fail, and the block can be left."""
    with http_server() as (url, process):
        async with mcp_tools(url=url) as tools:
            os.kill(process, signal.SIGKILL)
            with pytest.raises(ToolError):
                await result_of(tools, "add", a=1, b=1)


async def test_cancelling_a_call() -> None:
    """A call that is cancelled leaves the connection to the others."""
    async with stdio() as tools, MiniAgents():
        replies = tools[3].start({}, CALLER)
        await result_of(tools, "add", a=1, b=1)
        replies.cancel()
        assert await result_of(tools, "add", a=1, b=1) == "2"


async def test_leaving_by_an_error_ends_the_process() -> None:
    """The process ends however the block is left."""
    process = 0
    with pytest.raises(ZeroDivisionError):
        async with stdio() as tools:
            process = int(await result_of(tools, "pid"))
            raise ZeroDivisionError
    assert not is_alive(process)


async def test_cancelling_the_block_ends_the_process() -> None:
    """A task that is cancelled inside of the block takes the process with it."""
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        async with stdio() as tools:
            started.set_result(int(await result_of(tools, "pid")))
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    process = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(process)


async def test_names_that_clash_are_prefixed() -> None:
    """Tools of one name get the names of their servers in front; with `name=` they have it always."""
    async with stdio("First") as first, stdio("Second") as second, stdio("Third", name="x") as third:
        names = [tool.name for tool in as_tools([first, second, third])]
    assert names[:5] == ["First_add", "First_fail", "First_pid", "First_hang", "First_picture"]
    assert names[5] == "Second_add"
    assert names[10] == "x_add"


@pytest.mark.parametrize("command", ["no-such-program", sys.executable])
async def test_what_is_no_server(command: str) -> None:
    """A program that cannot be started, or is no server, is an error that names it."""
    with pytest.raises(MCPServerError, match=Path(command).name):
        async with mcp_tools(command=command, args=["-c", "print('hello')"]):
            pass


async def test_nobody_at_the_address() -> None:
    """An address where nobody answers is an error that names it, and shows no secret in it."""
    with pytest.raises(MCPServerError, match="127.0.0.1:9/mcp") as caught:
        async with mcp_tools(url="http://127.0.0.1:9/mcp?key=secret", headers={"Authorization": "Bearer secret"}):
            pass
    assert "secret" not in str(caught.value)


async def test_a_command_or_an_address() -> None:
    """Both, or neither, is refused."""
    with pytest.raises(TypeError, match="either"):
        async with mcp_tools():
            pass


async def test_a_model_calls_them() -> None:
    """An agent uses the tools of a server like others."""
    async with LLMServer() as server, stdio() as tools, MiniAgents():
        server.script(Reply((ToolCall("add", ('{"a": 2, "b": 3}',)),)), Reply(("five",)))
        agent = openai_agent.fork(base_url=server.openai_url, api_key="any-key", tools=tools)
        assert [str(message) for message in await agent.inquire("2 + 3?")] == ["", "5", "five"]
