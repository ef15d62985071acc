"""Tools: functions, agents and servers that models can call, and an agent with all the controls around that."""

from typing import TYPE_CHECKING, Any

from miniagents.ext.llm.hooks import (
    AfterRequest,
    BeforeRequest,
    BudgetExceeded,
    Caller,
    ContextOverflow,
    ErrorEvent,
    Event,
    FunctionCallEnd,
    FunctionCallError,
    FunctionCallStart,
    ManualStop,
)
from miniagents.ext.tools.approval import ApprovalRequest, ToolRefusedError, console_approver
from miniagents.ext.tools.tool import Tool, ToolArgumentsError, ToolError, as_tool, as_tools, tool

if TYPE_CHECKING:
    from miniagents.ext.tools.mcp import mcp_tools
    from miniagents.ext.tools.simple_agent import AsyncOpenAISimpleAgent

__all__ = [
    "AfterRequest",
    "ApprovalRequest",
    "AsyncOpenAISimpleAgent",
    "BeforeRequest",
    "BudgetExceeded",
    "Caller",
    "ContextOverflow",
    "ErrorEvent",
    "Event",
    "FunctionCallEnd",
    "FunctionCallError",
    "FunctionCallStart",
    "ManualStop",
    "Tool",
    "ToolArgumentsError",
    "ToolError",
    "ToolRefusedError",
    "as_tool",
    "as_tools",
    "console_approver",
    "mcp_tools",
    "tool",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncOpenAISimpleAgent":  # the agents import the tools
        from miniagents.ext.tools.simple_agent import AsyncOpenAISimpleAgent

        return AsyncOpenAISimpleAgent
    if name == "mcp_tools":
        from miniagents.ext.tools.mcp import mcp_tools

        return mcp_tools
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
