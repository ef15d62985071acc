"""An MCP server: `python -m tests.support.mcp_server NAME [PORT]`, through stdio or, at a port, through HTTP."""

import asyncio
import base64
import os
import sys

from mcp.server import MCPServer
from mcp.server.mcpserver import Image
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer(sys.argv[1])


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def fail() -> str:
    """Fails."""
    raise ToolError("no more ink")


@server.tool()
def pid() -> int:
    """Says which process this is."""
    return os.getpid()


@server.tool()
async def hang() -> str:
    """Never ends."""
    await asyncio.Event().wait()
    return "never"


@server.tool()
def picture() -> Image:
    """Gives an image."""
    return Image(data=base64.b64decode("iVBORw0KGgo="), format="png")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        server.run()
