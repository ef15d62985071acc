"""The tools of MCP servers, as tools of agents: processes that are started here, and servers at an address.

The connection lives in a task of its own, from the beginning to the end, because the library that speaks the protocol
wants it so; the calls are made wherever the tools are used.
"""

import asyncio
import base64
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from miniagents.ext.llm.parts import ImagePart
from miniagents.ext.tools.tool import Tool, ToolError, tool

__all__ = ["MCPServerError", "mcp_tools"]

_EXTRA = 'the tools of MCP servers need the package mcp: pip install "miniagents[mcp]"'


class MCPServerError(Exception):
    """An MCP server could not be started, or could not be reached."""


@asynccontextmanager
async def mcp_tools(
    *,
    command: str | None = None,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    url: str | None = None,
    headers: Mapping[str, str] | None = None,
    name: str | None = None,
    timeout: float | None = None,
    requires_approval: bool = False,
) -> AsyncIterator[tuple[Tool, ...]]:
    """Connects to an MCP server, and gives its tools. Leaving the block ends the process that was started.

    A server that dies makes its tools fail at once; the models that call them are told so.

    Args:
        command: The program to start, which speaks the protocol through its standard input and output.
        args: Its arguments.
        env: Environment variables for it, beside those that every process needs.
        cwd: The folder that it works in.
        url: The address of a server that speaks the protocol through streamable HTTP, in place of a program.
        headers: Headers for its requests: `{"Authorization": "Bearer ..."}`.
        name: What to call the server. With a name, that of each of its tools begins with it: "files_read". Without, two
            servers that have tools of one name get the names that they have given themselves as prefixes of these.
        timeout: How many seconds each call may take.
        requires_approval: Whether somebody is asked before a tool runs.

    Yields:
        The tools.

    Raises:
        MCPServerError: The server could not be started or reached, or speaks something else.
        TypeError: Not exactly one of command and address.
        ImportError: The package `mcp` is not installed.

    Example:
        ```python
        async with mcp_tools(command="uvx", args=["mcp-server-time"]) as tools:
            print(await openai_agent.inquire("What time is it in Tokyo?", tools=tools))
        ```
    """
    if (command is None) is (url is None):
        raise TypeError("mcp_tools takes either `command=`, with its `args=`, or `url=`")
    connection = _Connection(command, args, env, cwd, url, headers)
    await connection.open()
    try:
        yield tuple([
            _as_tool(connection, listed, name, timeout, requires_approval) for listed in connection.listed
        ])  # fmt: skip
    finally:
        await connection.close()


class _Connection:
    """A connection to a server, held open by a task."""

    def __init__(
        self,
        command: str | None,
        args: Sequence[str],
        env: Mapping[str, str] | None,
        cwd: str | Path | None,
        url: str | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        self._command, self._args, self._env, self._cwd = command, args, env, cwd
        self._url, self._headers = url, headers
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: Any = None
        self.listed: list[Any] = []
        self.server = ""

    async def open(self) -> None:
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(opened), name=f"MCP server {self._where()}")
        try:
            await asyncio.shield(opened)
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the connection and the process, also when this is cancelled."""
        task, self._client = self._task, None
        self._leave.set()
        interruption: asyncio.CancelledError | None = None
        while task is not None and not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as cancelled:
                interruption = cancelled
        if interruption is not None:
            raise interruption

    async def call(self, name: str, arguments: dict[str, Any], timeout: float | None) -> Any:
        """Calls a tool.

        Raises:
            ToolError: The tool has failed, or the server is gone.
        """
        from mcp.shared.exceptions import MCPError

        client, task = self._client, self._task
        if client is None or task is None or task.done():
            raise ToolError(f"its server ({self.server}) is gone")
        call = asyncio.ensure_future(client.call_tool(name, arguments, read_timeout_seconds=timeout))
        try:
            await asyncio.wait({call, task}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise ToolError(f"its server ({self.server}) has ended meanwhile")
            result = call.result()
        except (MCPError, OSError) as error:
            raise ToolError(f"its server ({self.server}) says: {error or type(error).__name__}") from error
        except Exception as error:
            if isinstance(error, ToolError):
                raise
            raise ToolError(
                f"its server ({self.server}) could not be asked ({type(error).__name__}: {error})"
            ) from error
        finally:
            call.cancel()
        outcome = [_content(part) for part in result.content]
        if result.is_error:
            raise ToolError("\n\n".join(part for part in outcome if isinstance(part, str)) or "it has failed")
        if not outcome and result.structured_content is not None:
            outcome = [to_json(result.structured_content).decode()]
        images = any(isinstance(part, ImagePart) for part in outcome)
        return outcome if images else "\n\n".join(str(part) for part in outcome)

    async def _hold(self, opened: "asyncio.Future[None]") -> None:
        try:
            async with AsyncExitStack() as stack:
                try:
                    await self._connect(stack)
                except ImportError:
                    raise ImportError(_EXTRA) from None
                except Exception as error:
                    raise MCPServerError(
                        f"the MCP server {self._where()} could not be reached ({_reason(error)}); does it start, and "
                        "does it speak the protocol?"
                    ) from error
                opened.set_result(None)
                await self._leave.wait()
        except Exception as error:
            if not opened.done():
                opened.set_exception(error)  # what comes later is seen by those who call the tools

    async def _connect(self, stack: AsyncExitStack) -> None:
        from mcp import Client, StdioServerParameters
        from mcp.client.stdio import stdio_client
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared._httpx_utils import create_mcp_http_client

        transport: Any
        if self._command is not None:
            parameters = StdioServerParameters(
                command=self._command, args=list(self._args), env=dict(self._env or {}), cwd=self._cwd
            )
            # What the server writes to its standard error would garble the terminal of whoever chats here.
            silence = stack.enter_context(Path(os.devnull).open("w"))  # noqa: ASYNC230, SIM115
            transport = stdio_client(parameters, errlog=silence)
        else:
            assert self._url is not None
            http_client = await stack.enter_async_context(create_mcp_http_client(headers=dict(self._headers or {})))
            transport = streamable_http_client(self._url, http_client=http_client)
        client = await stack.enter_async_context(Client(transport))
        page = await client.list_tools()
        self.listed = list(page.tools)
        while page.next_cursor:
            page = await client.list_tools(cursor=page.next_cursor)
            self.listed += page.tools
        self.server = getattr(client.server_info, "name", "") or self._where()
        self._client = client

    def _where(self) -> str:
        """The server, for people; not its arguments or headers, which may hold keys."""
        return f"at {self._url.partition('?')[0]}" if self._url else f"{self._command!r}"


def _as_tool(connection: _Connection, listed: Any, name: str | None, timeout: float | None, approval: bool) -> Tool:
    async def run(**arguments: Any) -> Any:
        return await connection.call(listed.name, arguments, timeout)

    own = re.sub("[^a-zA-Z0-9_-]+", "_", listed.name)
    prefix = re.sub("[^a-zA-Z0-9_-]+", "_", name or connection.server)
    made = tool(
        run,
        name=(f"{prefix}_{own}" if name else own)[:64],
        description=listed.description or listed.title or "",
        parameters=listed.input_schema,
        timeout=timeout,
        requires_approval=approval,
    )
    run.clash_name = f"{prefix}_{own}"[:64]  # type: ignore[attr-defined]  # see `as_tools`
    return made


def _content(part: Any) -> Any:
    if part.type == "text":
        return part.text
    if part.type == "image":
        return ImagePart(data=base64.b64decode(part.data), media_type=part.mime_type)
    text = getattr(getattr(part, "resource", None), "text", None)
    return text if isinstance(text, str) else to_json(part, exclude_none=True).decode()


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
