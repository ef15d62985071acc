"""The tools of MCP servers, as tools of agents: processes that are started here, and servers at an address.

The connection lives in a task of its own, from the beginning to the end, because the library that speaks the protocol
wants it so; the calls are made wherever the tools are used.
"""

import asyncio
import base64
import logging
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import parse_qsl, urlsplit

from pydantic_core import to_json

from miniagents.ext.llm.parts import ImagePart
from miniagents.ext.tools.errors import ToolError
from miniagents.ext.tools.given_schema import GivenParameters, checked_schema
from miniagents.ext.tools.tool import Tool

__all__ = ["MCPServerError", "mcp_tools"]

_EXTRA = 'the tools of MCP servers need the package mcp: pip install "miniagents[mcp]"'
_SHORTEST_SECRET = 4  # shorter values would make holes in texts that have nothing to do with them
_LONGEST_NAME = 64


class MCPServerError(Exception):
    """An MCP server could not be started, or could not be reached, or has not said which tools it has."""


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
    start_timeout: float | None = 60.0,
    errlog: TextIO | None = None,
) -> AsyncIterator[tuple[Tool, ...]]:
    """Connects to an MCP server, and gives its tools. Leaving the block ends the process that was started.

    A process is asked to end, and killed where it does not within a few seconds. A server that dies makes its tools
    fail at once; the models that call them are told so.

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
        start_timeout: How many seconds it may take until the tools are known; None for as long as it takes.
        errlog: A file for what the process writes to its standard error; it is thrown away otherwise.

    Yields:
        The tools. The model fills in all parameters that they take: also one that is called `user_id` is what the
        server means by it, and not for whom the agent works.

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
    server = _Server(command, tuple(args), dict(env or {}), cwd, url, dict(headers or {}), errlog)
    connection = _Connection(server)
    try:
        await connection.open(start_timeout)
        yield tuple([
            _as_tool(connection, listed, name, timeout, requires_approval) for listed in connection.listed
        ])  # fmt: skip
    finally:
        await connection.close()


@dataclass(frozen=True, slots=True, repr=False)
class _Server:
    """How to get to a server."""

    command: str | None
    args: tuple[str, ...]
    env: dict[str, str]
    cwd: str | Path | None
    url: str | None
    headers: dict[str, str]
    errlog: TextIO | None

    @property
    def where(self) -> str:
        """The server, for people; without its arguments and headers, and what else of an address may hold keys."""
        if self.url is None:
            return f"{self.command!r}"
        parts = urlsplit(self.url)
        return f"at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def masked(self, error: BaseException) -> str:
        """An error in words, without anything in it that may be secret."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        parts = urlsplit(self.url or "")
        query = [value for _, value in parse_qsl(parts.query)]
        words = [word for value in self.headers.values() for word in (value, *value.split())]
        for secret in (self.url, parts.query, parts.password, *query, *words, *self.env.values()):
            if secret and len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, self.where if secret == self.url else "***")
        return text

    async def transport(self, stack: AsyncExitStack) -> Any:
        """What carries the messages."""
        if self.url is not None:
            from mcp.client.streamable_http import streamable_http_client
            from mcp.shared._httpx_utils import create_mcp_http_client

            http_client = await stack.enter_async_context(create_mcp_http_client(headers=self.headers))
            return streamable_http_client(self.url, http_client=http_client)
        from mcp import StdioServerParameters
        from mcp.client.stdio import stdio_client

        parameters = StdioServerParameters(
            command=self.command or "", args=list(self.args), env=self.env, cwd=self.cwd
        )  # fmt: skip
        if self.errlog is not None:
            return stdio_client(parameters, errlog=self.errlog)
        # What the server writes to its standard error would garble the terminal of whoever chats here.
        silence = stack.enter_context(Path(os.devnull).open("w"))  # noqa: ASYNC230, SIM115
        return stdio_client(parameters, errlog=silence)


@dataclass(slots=True, eq=False)
class _Connection:
    """A connection to a server, held open by a task."""

    server: _Server
    listed: list[Any] = field(default_factory=list)
    name: str = ""
    _leave: asyncio.Event = field(default_factory=asyncio.Event)
    _opened: "asyncio.Future[None] | None" = None
    _task: "asyncio.Task[None] | None" = None
    _client: Any = None
    _calls: "set[asyncio.Task[Any]]" = field(default_factory=set)

    async def open(self, limit: float | None) -> None:
        """Connects, and asks for the tools."""
        self._opened = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(self._opened, limit), name=f"MCP server {self.server.where}")
        # The task may be cancelled by others, too, at the end of the loop for example.
        await asyncio.wait({self._opened, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not self._opened.done():
            raise MCPServerError(f"the connection to the MCP server {self.server.where} was cancelled")
        self._opened.result()

    async def close(self) -> None:
        """Ends the connection and the process, also when this is cancelled."""
        task, opened, self._client = self._task, self._opened, None
        if task is None or opened is None:
            return
        self._leave.set()
        if not opened.done():
            task.cancel()  # it may be waiting for a server that says nothing
        interruption: asyncio.CancelledError | None = None
        while pending := [one for one in (task, *self._calls) if not one.done()]:
            try:
                await asyncio.wait(pending)
            except asyncio.CancelledError as cancelled:
                interruption = cancelled
        if interruption is not None:
            raise interruption

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        """Calls a tool.

        Returns:
            Its text, or a list of its texts and images.

        Raises:
            ToolError: The tool has failed, or the server is gone.
        """
        client, task = self._client, self._task
        if client is None or task is None or task.done():
            raise ToolError(f"its server ({self.name}) is gone")
        call: asyncio.Task[Any] = asyncio.ensure_future(client.call_tool(tool, arguments))
        self._calls.add(call)
        call.add_done_callback(self._has_ended)
        try:
            await asyncio.wait({call, task}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done() or call.cancelled():
                raise ToolError(f"its server ({self.name}) has ended meanwhile")
            error = call.exception()
        finally:
            call.cancel()  # the server is told; nobody waits for that, since it may not listen
        if error is not None:
            raise ToolError(f"its server ({self.name}) could not do it ({self.server.masked(error)})")
        return _outcome(call.result())

    def _has_ended(self, call: "asyncio.Task[Any]") -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # of a call that nobody waits for any more it is no news

    async def _hold(self, opened: "asyncio.Future[None]", limit: float | None) -> None:
        timeout = asyncio.timeout(limit)
        try:
            async with AsyncExitStack() as stack:
                async with timeout:
                    await self._connect(stack)
                opened.set_result(None)
                await self._leave.wait()
        except ImportError as error:
            _fail(opened, ImportError(_EXTRA) if (error.name or "").partition(".")[0] == "mcp" else error)
        except TimeoutError as error:
            reason = f"said nothing within {limit:g} s" if timeout.expired() else self._unreachable(error)
            _fail(opened, MCPServerError(f"the MCP server {self.server.where} {reason}"))
        except Exception as error:
            # Not `from error`: what is below it shows addresses and headers.
            _fail(opened, MCPServerError(f"the MCP server {self.server.where} {self._unreachable(error)}"))

    def _unreachable(self, error: Exception) -> str:
        hint = (
            "" if self.server.url is not None or self.server.errlog is not None else " (errlog= shows what it writes)"
        )
        return (
            f"could not be reached ({self.server.masked(error)}); does it start, and does it speak the protocol?{hint}"
        )

    async def _connect(self, stack: AsyncExitStack) -> None:
        from mcp import Client

        for logger in _LOGGERS:
            if not logger.handlers:  # without any, errors would go to the terminal; those of the program get them still
                logger.addHandler(logging.NullHandler())
        client = await stack.enter_async_context(Client(await self.server.transport(stack)))
        page = await client.list_tools()
        self.listed = list(page.tools)
        cursors: set[str] = set()
        while page.next_cursor and page.next_cursor not in cursors:
            cursors.add(page.next_cursor)
            page = await client.list_tools(cursor=page.next_cursor)
            self.listed += page.tools
        self.name = getattr(client.server_info, "name", "") or self.server.where
        self._client = client


def _fail(opened: "asyncio.Future[None]", error: Exception) -> None:
    if not opened.done():
        opened.set_exception(error)  # what comes later is seen by those who call the tools


def _as_tool(connection: _Connection, listed: Any, name: str | None, timeout: float | None, approval: bool) -> Tool:
    async def run(**arguments: Any) -> Any:
        return await connection.call(listed.name, arguments)

    own = _valid_name(listed.name)
    called = (f"{_valid_name(name)}_{own}" if name else own)[:_LONGEST_NAME]
    run.__qualname__ = called
    schema, validate = dict(listed.input_schema), _as_they_are
    try:
        parameters = GivenParameters(checked_schema(schema, called, without=()), takes_others=True, ignored=())
        schema, validate = parameters.schema, parameters.validate
    except ValueError:  # the server has to check the arguments in any case, and may read its schema otherwise
        schema.setdefault("properties", {})
    return Tool(
        name=called,
        description=listed.description or listed.title or "",
        parameters=schema,
        run=run,
        validate=validate,
        server=name or connection.name,
        timeout=timeout,
        requires_approval=approval,
    )


def _as_they_are(arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments


def _valid_name(text: str) -> str:
    return re.sub("[^a-zA-Z0-9_-]+", "_", text)


def _outcome(result: Any) -> Any:
    parts = [_content(part) for part in result.content]
    texts = [part for part in parts if isinstance(part, str)]
    if result.is_error:
        raise ToolError("\n\n".join(texts) or "it has failed")
    if not parts and result.structured_content is not None:
        return to_json(result.structured_content).decode()
    return parts if len(texts) < len(parts) else "\n\n".join(texts)


def _content(part: Any) -> Any:
    """A part of a result as a text or an image. Of other data only what it is: a model could not make use of it."""
    if part.type == "text":
        return part.text
    if part.type == "resource_link":
        return f"[{part.title or part.name}: {part.uri}]"
    resource = getattr(part, "resource", part)
    if isinstance(text := getattr(resource, "text", None), str):
        return text
    data = str(getattr(resource, "data", None) or getattr(resource, "blob", None) or "")
    media_type = resource.mime_type or "data"
    if media_type.startswith("image/"):
        return ImagePart(data=base64.b64decode(data), media_type=media_type)
    return f"[{media_type}, {len(data.rstrip('=')) * 3 // 4} bytes, not shown]"


_LOGGERS = (logging.getLogger("mcp"), logging.getLogger("client"))  # the latter is that of `mcp.client.session`
