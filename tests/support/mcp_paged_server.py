"""An MCP server on stdio that lists its tools in pages, and whose results and schemas are out of the ordinary."""

import asyncio
import base64

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

OBJECT = {"type": "object", "properties": {}}
TOOLS = (
    types.Tool(name="get.user", input_schema={**OBJECT, "properties": {"user_id": {"type": "string"}}}),
    types.Tool(name="parts", input_schema=OBJECT),
    types.Tool(name="odd", input_schema={**OBJECT, "properties": {"a": {"$ref": "http://127.0.0.1:9/a.json"}}}),
    types.Tool(name="data", input_schema={"type": "object"}),
)


async def list_tools(_: object, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    at = int(params.cursor) if params is not None and params.cursor else 0
    # The last page says that it is followed by itself.
    return types.ListToolsResult(tools=list(TOOLS[at : at + 1]), next_cursor=str(min(at + 1, len(TOOLS))))


async def call_tool(_: object, params: types.CallToolRequestParams) -> types.CallToolResult:
    blob = base64.b64encode(b"12345678").decode()
    if params.name == "parts":
        resource, image, audio = (
            types.TextResourceContents(uri="file:///a.txt", text="of a file"),
            types.BlobResourceContents(uri="file:///a.png", mime_type="image/png", blob=blob),
            types.AudioContent(data=blob, mime_type="audio/wav"),
        )
        return types.CallToolResult(
            content=[
                types.TextContent(text="text"),
                types.EmbeddedResource(resource=resource),
                types.EmbeddedResource(resource=image),
                types.ResourceLink(name="more", uri="file:///b.txt"),
                audio,
            ]
        )
    if params.name == "data":
        return types.CallToolResult(content=[], structured_content={"a": "ü"})
    return types.CallToolResult(content=[types.TextContent(text=str(params.arguments))])


async def main() -> None:
    server = Server("Paged", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())
