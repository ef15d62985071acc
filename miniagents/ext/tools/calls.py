"""One call of a tool by a model, as an agent: what the tool says while it works, then the result that the model gets.

Whatever goes wrong with a tool becomes a result that tells the model so; the conversation goes on.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from miniagents.agents import miniagent
from miniagents.ext.llm.conversation import CANCELLED, cancelled_result
from miniagents.ext.llm.hooks import Caller, FunctionCallEnd, FunctionCallError, FunctionCallStart, Hooks
from miniagents.ext.llm.llm_common import ToolResultMessage, role_of
from miniagents.ext.llm.parts import ToolCallPart, parts_of
from miniagents.ext.llm.stop import Stopped, StopSwitch
from miniagents.ext.tools.approval import ApprovalRequest, approve
from miniagents.ext.tools.tool import Tool, ToolError
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise

__all__ = ["Desk", "call_tool"]


@dataclass(frozen=True, slots=True)
class Desk:
    """What the calls of one conversation share.

    Attributes:
        tools: The tools by their names.
        caller: On whose behalf they are called.
        hooks: Who is told of it.
        stop: What may stop them.
        approver: Who is asked before some of them run.
        max_length: How many characters of a result the model gets.
    """

    tools: Mapping[str, Tool]
    caller: Caller
    hooks: Hooks
    stop: StopSwitch
    approver: Any
    max_length: int | None


@miniagent(alias="TOOL")
async def call_tool(ctx: InteractionContext, call: ToolCallPart, desk: Desk) -> None:
    """Calls a tool. It replies with what an agent says that is the tool, then with one `ToolResultMessage`.

    Args:
        ctx: Nothing is sent; what is wanted is in the call.
        call: What the model wants.
        desk: What it needs for that.
    """
    agent = desk.caller.agent_name
    told = {"tool_call_id": call.id, "function_name": call.name, "arguments": call.arguments}
    began = time.monotonic()
    await desk.hooks.fire(FunctionCallStart, **told)
    try:
        async with desk.stop.scope():
            result = await _result(ctx, call, desk)
    except Stopped:
        ctx.reply(cancelled_result(call, CANCELLED, agent=agent, stop_reason="manual_stop"))
        return
    except Exception as error:
        text = _cut(_in_words(error, call), desk.max_length)
        ctx.reply(ToolResultMessage(text, tool_call_id=call.id, tool_name=call.name, is_error=True, agent=agent))
        seconds = time.monotonic() - began
        await desk.hooks.fire(FunctionCallError, **told, error=text, exception=error, seconds=seconds)
        return
    text = _cut("\n\n".join(str(message) for message in result if str(message)), desk.max_length)
    parts = [part for message in result for part in parts_of(message) if part.type == "image"]
    ctx.reply(ToolResultMessage(text, tool_call_id=call.id, tool_name=call.name, agent=agent, parts=parts))
    await desk.hooks.fire(FunctionCallEnd, **told, result=text, seconds=time.monotonic() - began)


async def _result(ctx: InteractionContext, call: ToolCallPart, desk: Desk) -> list[Message]:
    """Runs the tool.

    Returns:
        What of its messages is the result.
    """
    tool = desk.tools.get(call.name)
    if tool is None:
        known = ", ".join(desk.tools) or "none"
        raise ToolError(f"there is no tool {call.name!r}; there are: {known}")
    arguments = tool.parse(call.arguments)
    if tool.requires_approval:
        request = ApprovalRequest(
            **desk.caller.model_dump(), tool_call_id=call.id, tool_name=tool.name, arguments=call.arguments
        )
        await approve(desk.approver, request)
    replies = tool.start(arguments, desk.caller)
    if tool.agent is not None:
        alias = tool.agent.alias
        ctx.reply(MessageSequencePromise(lambda _: _labelled(replies, call, alias)))
    timeout = asyncio.timeout(tool.timeout)
    try:
        async with timeout:
            messages = await replies
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise ToolError(f"it was stopped after {tool.timeout:g} s, because that is its limit") from error
    finally:
        replies.cancel()  # it may be that nobody wants it any more
    own = [message for message in messages if not getattr(message, "inside_tool_call", None)]
    said = [message for message in own if role_of(message) not in ("tool", "system")]
    if any(role_of(message) == "assistant" for message in said):  # then it is an LLM that has said the rest to itself
        said = [message for message in said if role_of(message) == "assistant"]
    return said


async def _labelled(replies: MessageSequencePromise, call: ToolCallPart, agent: str) -> AsyncIterator[MessagePromise]:
    """What an agent says while it works as a tool, marked as such. Errors are left to the result of the call."""
    with suppress(Exception):
        async for promise in replies:
            yield _copy(promise, call, agent)


def _copy(promise: MessagePromise, call: ToolCallPart, agent: str) -> MessagePromise:
    async def streamer(copy: MessagePromise) -> AsyncIterator[str]:
        fields: dict[str, Any] = {}
        try:
            async for token in promise:
                yield token
            await promise
        except Exception:
            fields["interrupted"] = True
        fields |= promise.metadata
        copy.add_metadata(**{**fields, **_labels(fields, call, agent)})
        if "interrupted" in fields:
            copy.fall_back_to_plain_message()

    known = promise.metadata
    return promise.message_class.promise(streamer, **{**known, **_labels(known, call, agent)})


def _labels(known: Mapping[str, Any], call: ToolCallPart, agent: str) -> dict[str, Any]:
    """Who speaks, and inside of which call, as far as that does not stand there already."""
    return {
        "role": known.get("role") or "assistant",
        "agent": known.get("agent") or agent,
        "inside_tool_call": known.get("inside_tool_call") or call.id,
    }


def _in_words(error: Exception, call: ToolCallPart) -> str:
    if isinstance(error, ToolError):
        return f"The tool {call.name} has not run to its end: {error}"
    name = type(error).__name__
    return f"The tool {call.name} has failed: {name}{f': {error}' if str(error) else ''}"


def _cut(text: str, limit: int | None) -> str:
    """Cuts a text in its middle, and says so there."""
    if limit is None or len(text) <= limit:
        return text
    mark = f"\n[... {len(text) - limit} of {len(text)} characters were left out ...]\n"
    kept = max(limit - len(mark), 0)
    return text[: (kept + 1) // 2] + mark + text[len(text) - kept // 2 :]
