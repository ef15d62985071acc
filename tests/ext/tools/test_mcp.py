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
from miniagents.ext.tools.mcp import MCPServerError, _Server
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


def paged(**options: Any) -> Any:
    return mcp_tools(command=sys.executable, args=["-m", "tests.support.mcp_paged_server"], cwd=ROOT, **options)


async def test_pages() -> None:
    """All pages of the list are read, and a list without an end is left; names are made such as providers take."""
    async with paged() as tools:
        assert [tool.name for tool in tools] == ["get_user", "parts", "odd", "data"]


async def test_a_parameter_called_user_id() -> None:
    """It is the server's own: the model fills it in, and it is not for whom the agent works."""
    async with paged() as tools:
        assert list(tools[0].parameters["properties"]) == ["user_id"]
        arguments = tools[0].parse('{"user_id": "U42"}')
        (message,) = await tools[0].start(arguments, Caller(user_id="u1", agent_name="A"))
    assert str(message) == "{'user_id': 'U42'}"


async def test_all_that_a_result_can_hold() -> None:
    """Texts and images are passed on, also those of resources; of other data the model is told what it is."""
    async with paged() as tools:
        (message,) = await tools[1].start({}, CALLER)
        assert await result_of(tools, "data") == '{"a":"ü"}'
    assert str(message) == "text\n\nof a file\n\n[more: file:///b.txt]\n\n[audio/wav, 8 bytes, not shown]"
    assert [part.media_type for part in parts_of(message)] == ["image/png"]


async def test_a_schema_that_cannot_be_checked_here() -> None:
    """It is left to the server, and takes no tool from the others; nothing is fetched."""
    async with paged() as tools:
        assert tools[2].parse('{"a": 1}') == {"a": 1}
        assert await result_of(tools, "odd", a=1) == "{'a': 1}"
        assert tools[3].parameters["properties"] == {}


SILENT = "import os, sys; print(os.getpid(), file=sys.stderr, flush=True); sys.stdin.read()"


async def pid_in(path: Path) -> int:
    while not (text := path.read_text()).endswith("\n"):
        await asyncio.to_thread(os.sched_yield)
    return int(text)


async def test_giving_up_on_a_server_that_says_nothing(tmp_path: Path) -> None:
    """Who is cancelled while a server starts takes it with it, though it has not answered."""
    with (tmp_path / "log").open("w+") as log:

        async def work() -> None:
            async with mcp_tools(command=sys.executable, args=["-c", SILENT], errlog=log):
                pass

        task = asyncio.create_task(work())
        process = await pid_in(tmp_path / "log")
        assert is_alive(process)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not is_alive(process)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_server_that_takes_too_long(tmp_path: Path) -> None:
    """There is a limit, the error says which, and the process is gone."""
    with (tmp_path / "log").open("w+") as log:
        with pytest.raises(MCPServerError, match=r"said nothing within 0\.5 s"):
            async with mcp_tools(command=sys.executable, args=["-c", SILENT], errlog=log, start_timeout=0.5):
                pass
        text = (tmp_path / "log").read_text()
    assert not text or not is_alive(int(text))


STUBBORN = """
import runpy, signal, sys, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.argv = ["server", "Numbers"]
try:
    runpy.run_module("tests.support.mcp_server", run_name="__main__")
finally:
    threading.Event().wait()
"""


async def test_a_server_that_will_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ignores the end of its input and the signal to end is killed after a while."""
    monkeypatch.setattr("mcp.client.stdio.PROCESS_TERMINATION_TIMEOUT", 0.1)
    monkeypatch.setattr("mcp.client.stdio.FORCE_KILL_TIMEOUT", 0.1)
    async with mcp_tools(command=sys.executable, args=["-c", STUBBORN], cwd=ROOT) as tools:
        process = int(await result_of(tools, "pid"))
        assert is_alive(process)
    assert not is_alive(process)


async def test_leaving_in_mid_call() -> None:
    """A call that is under way fails when the block is left, later ones do too, and no task is left."""
    async with stdio() as tools:
        call = asyncio.ensure_future(result_of(tools, "hang"))
        await result_of(tools, "add", a=1, b=1)
    with pytest.raises(ToolError, match="Numbers"):
        await call
    with pytest.raises(ToolError, match="is gone"):
        await result_of(tools, "add", a=1, b=1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_http_server_that_dies_in_mid_call() -> None:
    """The call fails at once."""
    with http_server() as (url, process):
        async with mcp_tools(url=url) as tools:
            call = asyncio.ensure_future(result_of(tools, "hang"))
            await result_of(tools, "add", a=1, b=1)
            os.kill(process, signal.SIGKILL)
            with pytest.raises(ToolError, match="Numbers"):
                await call


async def test_calls_from_other_tasks() -> None:
    """Tools can be called from any task, many at once, whichever has opened the connection."""
    async with stdio() as tools:
        calls = [asyncio.create_task(result_of(tools, "add", a=number, b=1)) for number in range(20)]
        assert await asyncio.gather(*calls) == [str(number + 1) for number in range(20)]


def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


async def test_secrets_stay_out_of_errors() -> None:
    """An address with a password and a key in it, and the headers, are not shown, not in a traceback either."""
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url, headers = f"http://me:hidden@127.0.0.1:{port}/mcp?key=hidden", {"Authorization": "Bearer hidden"}
        with pytest.raises(MCPServerError, match=f"127.0.0.1:{port}/mcp could not be reached") as caught:
            async with mcp_tools(url=url, headers=headers):
                pass
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "hidden" not in str(caught.value)


async def test_secrets_that_a_server_repeats() -> None:
    """What it was given to keep to itself is masked where an error of its transport shows it."""
    server = _Server("x", (), {"KEY": "sk-hidden"}, None, None, {"Authorization": "Bearer hidden-too"}, None)
    assert server.masked(OSError("no sk-hidden, no hidden-too")) == "OSError: no ***, no ***"


NOISY = """
import asyncio, sys
from miniagents.ext.tools import mcp_tools

SERVER = "import sys; print('noise', file=sys.stderr); print('noise')"

async def main():
    try:
        async with mcp_tools(command=sys.executable, args=["-c", SERVER]):
            pass
    except Exception as error:
        print(type(error).__name__)

asyncio.run(main())
"""


def test_nothing_is_written_to_the_terminal() -> None:
    """Neither what a server writes to its standard error, nor what the library has to say of lines that are no JSON."""
    done = subprocess.run([sys.executable, "-c", NOISY], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("MCPServerError\n", "")


async def test_other_names_that_clash() -> None:
    """A function of the name of a server's tool is an error that names both, and so is one server twice."""

    def add() -> None: ...

    async with stdio() as tools:
        with pytest.raises(ValueError, match=r"add, that of the MCP server Numbers and tests\."):
            as_tools([tools, add])
        async with stdio() as again:
            with pytest.raises(ValueError, match=r"give one of them another name: mcp_tools\(\.\.\., name=\)"):
                as_tools([tools, again])


async def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "mcp.client.stdio", None)
    with pytest.raises(ImportError, match=r'pip install "miniagents\[mcp\]"'):
        async with stdio():
            pass


def test_heavy_libraries_are_imported_when_used() -> None:
    """Nobody waits for them who has no tools of the kind."""
    program = "import sys, miniagents.ext.tools.tool; print({'griffe', 'jsonschema', 'mcp'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
