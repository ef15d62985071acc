"""One call of a tool by a model, as an agent: what the tool says while it works, then the result that the model gets.

Whatever goes wrong with a tool becomes a result that tells the model so; the conversation goes on.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from miniagents.agents import miniagent
from miniagents.ext.labelled import LabelledPromise
from miniagents.ext.llm import tracing
from miniagents.ext.llm.conversation import CANCELLED
from miniagents.ext.llm.hooks import Caller, FunctionCallEnd, FunctionCallError, FunctionCallStart, Hooks
from miniagents.ext.llm.llm_common import ToolResultMessage, role_of
from miniagents.ext.llm.parts import ImagePart, ToolCallPart, parts_of
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
    work = _Work(call, desk)

    def result(promise: MessagePromise) -> AsyncIterator[str]:
        return work.result(promise)

    result.__qualname__ = f"the tool {call.name}"  # what logs and `promising.tree()` call it
    promise = ToolResultMessage.promise(
        result,
        start_soon=True,  # it is wanted, whoever reads it
        tool_call_id=call.id,
        tool_name=call.name,
        role="tool",
        agent=desk.caller.agent_name,
    )
    if work.tool is not None and work.tool.agent is not None:
        ctx.reply(MessageSequencePromise(lambda _: work.said_by_agent(promise)))
    ctx.reply(promise)


class _Work:
    """A call of a tool, from the arguments to the result."""

    def __init__(self, call: ToolCallPart, desk: Desk) -> None:
        self.tool = desk.tools.get(call.name)
        self._call = call
        self._desk = desk
        self._replies: asyncio.Future[MessageSequencePromise | None] = asyncio.get_running_loop().create_future()

    async def said_by_agent(self, result: MessagePromise) -> AsyncIterator[MessagePromise]:
        """Streams what an agent says that is the tool, marked as such. Errors are left to the result of the call."""
        if result._context is not None:
            result._start_now()  # it is read after this, and this waits for it
        replies = await asyncio.shield(self._replies)
        if replies is None or self.tool is None or self.tool.agent is None:
            return
        with suppress(Exception):
            async for promise in replies:
                known = promise.metadata
                labels = {
                    "role": known.get("role") or "assistant",
                    "agent": known.get("agent") or self.tool.agent.alias,
                    "inside_tool_call": known.get("inside_tool_call") or self._call.id,
                }
                yield LabelledPromise(promise, labels)

    async def result(self, promise: MessagePromise) -> AsyncIterator[str]:
        """Streams the result. Whatever goes wrong is part of it."""
        call, desk = self._call, self._desk
        told = {"tool_call_id": call.id, "function_name": call.name, "arguments": call.arguments}
        began = time.monotonic()
        shown: list[str] = []
        trace = tracing.trace_tool(call=call, tool=self.tool, caller=desk.caller)
        failure: BaseException | None = None
        try:
            if not desk.stop.is_on:  # else it does not begin
                await desk.hooks.fire(FunctionCallStart, **told)
            async with desk.stop.scope(), aclosing(self._tokens(promise)) as tokens:
                async for token in tokens:
                    shown.append(token)
                    yield token
        except Stopped:
            promise.add_metadata(is_error=True, stop_reason="manual_stop")
            yield f"\n{CANCELLED}" if shown else CANCELLED
        except Exception as error:
            failure = error
            promise.add_metadata(is_error=True)
            text = _cut(_in_words(error, call), desk.max_length)
            shown.append(f"\n{text}" if shown else text)
            yield shown[-1]
            seconds = time.monotonic() - began
            await desk.hooks.fire(FunctionCallError, **told, error="".join(shown), exception=error, seconds=seconds)
        except BaseException as error:
            failure = error
            raise
        else:
            seconds = time.monotonic() - began
            await desk.hooks.fire(FunctionCallEnd, **told, result="".join(shown), seconds=seconds)
        finally:
            trace.end(failure, result="".join(shown))
            if not self._replies.done():
                self._replies.set_result(None)

    async def _tokens(self, promise: MessagePromise) -> AsyncGenerator[str, None]:
        tool, limit = self._checked(), self._desk.max_length
        arguments = tool.parse(self._call.arguments)
        if tool.requires_approval:
            request = ApprovalRequest(
                **self._desk.caller.model_dump(),
                tool_call_id=self._call.id,
                tool_name=tool.name,
                arguments=self._call.arguments,
            )
            await approve(self._desk.approver, request)
        replies = tool.start(arguments, self._desk.caller)
        self._replies.set_result(replies)
        timeout = asyncio.timeout(tool.timeout)
        try:
            async with timeout:
                if tool.agent is None and limit is None:
                    async for token in replies.as_single_promise():
                        yield token
                messages = _result_of(await replies)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise ToolError(f"it was stopped after {tool.timeout:g} s, because that is its limit") from error
        finally:
            replies.cancel()  # it may be that nobody wants it any more
        images = [part for message in messages for part in parts_of(message) if isinstance(part, ImagePart)]
        if images:
            promise.add_metadata(parts=images)
        text = "\n\n".join(str(message) for message in messages if str(message))
        if text and (tool.agent is not None or limit is not None):
            yield _cut(text, limit)

    def _checked(self) -> Tool:
        if self.tool is None:
            known = ", ".join(self._desk.tools) or "none"
            raise ToolError(f"there is no tool {self._call.name!r}; there are: {known}")
        return self.tool


def _result_of(messages: Sequence[Message]) -> list[Message]:
    """What of the messages of a tool is its result."""
    if messages and not getattr(messages[-1], "for_models", True):  # it is a graph
        from miniagents.ext.graph.events import result_of

        messages = result_of(messages)
    said = [
        message
        for message in messages
        if not getattr(message, "inside_tool_call", None) and role_of(message) not in ("tool", "system")
    ]
    answers = [message for message in said if getattr(message, "role", None) == "assistant"]
    return answers or said  # of an LLM that was asked to mend its answer, what it was asked is no result


def _in_words(error: Exception, call: ToolCallPart) -> str:
    try:
        text = str(error)
    except Exception:  # whoever wrote that error made another one in it
        text = ""
    if isinstance(error, ToolError):
        return f"The tool {call.name} has not run to its end: {text}"
    name = type(error).__name__
    return f"The tool {call.name} has failed: {name}{f': {text}' if text else ''}"


def _cut(text: str, limit: int | None) -> str:
    """Cuts a text in its middle, and says so there."""
    if limit is None or len(text) <= limit:
        return text
    mark = f"\n[... {len(text) - limit} of {len(text)} characters were left out ...]\n"
    kept = max(limit - len(mark), 0)
    return text[: (kept + 1) // 2] + mark + text[len(text) - kept // 2 :]
