"""A conversation of a model with its tools: the model, the tools that it calls, their results, the model again.

This is the chain behind every LLM agent. Each of its links is an agent or the answer of a model, and all that they say
goes into the reply of the agent at once, token by token.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from miniagents.ext.llm.asking import ask
from miniagents.ext.llm.conversation import CANCELLED, cancelled_result
from miniagents.ext.llm.hooks import AfterRequest, Caller, Hooks, ManualStop
from miniagents.ext.llm.llm_common import AssistantMessage, InvalidReplyError, UserMessage
from miniagents.ext.llm.options import Options
from miniagents.ext.llm.parts import ToolCallPart
from miniagents.ext.llm.provider import Call, Provider
from miniagents.ext.llm.stop import StopSwitch, watch_for_stop_signal
from miniagents.ext.llm.structured import ReplyType
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.sequences import MessageSequencePromise

__all__ = ["converse"]

_current_caller: ContextVar[Caller] = ContextVar("miniagents.caller", default=Caller())  # noqa: B039  (it is frozen)

_TOO_MANY_TURNS = "not run: the limit of {} requests in one conversation is reached"


async def converse(ctx: InteractionContext, provider: Provider, options: Options) -> None:
    """Answers a call of an LLM agent.

    Args:
        ctx: The call.
        provider: Who translates.
        options: What the agent was told.
    """
    agent = options.agent_name or ctx.this_agent.alias
    outer = _current_caller.get()
    caller = Caller(
        user_id=outer.user_id if options.user_id is None else options.user_id,
        chat_id=outer.chat_id if options.chat_id is None else options.chat_id,
        agent_name=agent,
    )
    _current_caller.set(caller)  # for the agents that this one calls; the context variables are those of this call
    call = Call(options=options, agent=agent, hooks=Hooks(options.hooks, caller))
    if options.tools:
        from miniagents.ext.tools.tool import as_tools

        call = replace(call, tools=as_tools(options.tools), tool_choice=options.tool_choice)
    if options.reply_type is not None:
        call = replace(call, reply_type=ReplyType(options.reply_type))
    is_limited = options.context is not None and not options.context.is_unlimited
    is_one_request = not (call.tools or call.reply_type or options.hooks or is_limited)
    if is_one_request and options.manual_stop_signal_function is None:
        ctx.reply(ask(provider, ctx.message_promises, call))
        return
    await _Conversation(ctx, provider, call, caller).hold()


class _Conversation:
    def __init__(self, ctx: InteractionContext, provider: Provider, call: Call, caller: Caller) -> None:
        self._ctx = ctx
        self._provider = provider
        self._call = call
        self._caller = caller
        self._options = call.options
        self._hooks = call.hooks
        self._said: list[Message | MessageSequencePromise] = [ctx.message_promises]
        self._repairs = 0
        self._has_overflowed = False  # of which is told once for each message that the agent is sent

    async def hold(self) -> None:
        try:
            async with _watched(self._call.stop, self._options, self._caller):
                for turn in range(1, self._options.max_turns + 1):
                    message = await self._answer()
                    if self._call.stop.is_on:
                        await self._note_stop(message)
                        return
                    if message.tool_calls:
                        if turn == self._options.max_turns:
                            text = _TOO_MANY_TURNS.format(turn)
                            self._fill(message.tool_calls, text, stop_reason="max_turns")
                            return
                        await self._call_tools(message.tool_calls)
                        if self._call.stop.is_on:
                            await self._note_stop_between_turns(len(message.tool_calls))
                            return
                    elif not self._is_to_be_repaired(message):
                        return
        except Exception as error:
            await self._hooks.fire_failure(error)
            raise

    async def _answer(self) -> AssistantMessage:
        began = time.monotonic()
        answer = ask(self._provider, await self._to_be_sent(), self._call)
        self._ctx.reply(answer)
        message = await answer
        assert isinstance(message, AssistantMessage)
        await self._hooks.fire(
            AfterRequest, model=self._options.model, message=message, seconds=time.monotonic() - began
        )
        self._said.append(message)
        if self._call.tool_choice not in (None, "auto", "none"):  # else it would never come to an end
            self._call = replace(self._call, tool_choice=None)
        return message

    async def _to_be_sent(self) -> MessageSequencePromise:
        conversation = MessageSequencePromise.on_messages(list(self._said))
        limits = self._options.context
        if limits is None or limits.is_unlimited:
            return conversation
        from miniagents.ext.llm.context_window import fit

        fitted = await fit(
            await conversation,
            limits,
            system=self._options.system,
            model=self._options.model,
            summarizer=self._options.summarizer,
            hooks=None if self._has_overflowed else self._hooks,
        )
        self._has_overflowed = self._has_overflowed or bool(fitted.dropped)
        return MessageSequencePromise.on_messages(fitted.messages)

    async def _call_tools(self, calls: Sequence[ToolCallPart]) -> None:
        from miniagents.ext.tools.calls import Desk, call_tool

        desk = Desk(
            {tool.name: tool for tool in self._call.tools},
            self._caller,
            self._hooks,
            self._call.stop,
            self._options.approver,
            self._options.max_tool_result_length,
        )
        pending: list[MessageSequencePromise] = []
        for call in calls:
            replies = call_tool.fork(alias=call.name or call_tool.alias).inquire(call=call, desk=desk)
            self._ctx.reply(replies)
            pending.append(replies)
            if not self._options.execute_function_concurrently:
                await replies
        for replies in pending:
            self._said.append(
                (await replies)[-1]
            )  # the result comes last, after what an agent has said on its way to it

    def _fill(self, calls: Sequence[ToolCallPart], text: str, **fields: Any) -> None:
        """Answers calls that are not made, so that the conversation can be sent again."""
        self._ctx.reply([cancelled_result(call, text, agent=self._call.agent, **fields) for call in calls])

    async def _note_stop(self, message: AssistantMessage) -> None:
        self._fill(message.tool_calls, CANCELLED, stop_reason="manual_stop")
        await self._hooks.fire(ManualStop, text=message.text or "")

    async def _note_stop_between_turns(self, calls: int) -> None:
        results = self._said[-calls:]
        if not any(getattr(result, "stop_reason", None) for result in results):  # all of them are complete
            self._ctx.reply(AssistantMessage("", agent=self._call.agent, stop_reason="manual_stop"))
        await self._hooks.fire(ManualStop, text="")

    def _is_to_be_repaired(self, message: AssistantMessage) -> bool:
        """Whether the model has to be asked once more, since its answer is not what it has to be."""
        if self._call.reply_type is None:
            return False
        try:
            self._call.reply_type.validate_json(message.text or "")
        except ValidationError as error:
            problems = _in_words(error)
            if self._repairs == self._options.max_repairs:
                invalid = InvalidReplyError(
                    f"the answer of {self._options.model} is no {self._call.reply_type.name}, after {self._repairs} "
                    f"attempts to have it mended: {problems}"
                )
                invalid.partial_text = message.text or ""
                raise invalid from error
        else:
            return False
        self._repairs += 1
        request = UserMessage(
            f"Your answer does not have the form that is wanted: {problems}\n"
            "Answer once more, with all of it put right.",
            agent=self._call.agent,
        )
        self._ctx.reply(request)
        self._said.append(request)
        return True


@asynccontextmanager
async def _watched(stop: StopSwitch, options: Options, caller: Caller) -> AsyncIterator[None]:
    """Looks out for the stop signal meanwhile. Nobody ever waits for it."""
    if options.manual_stop_signal_function is None:
        yield
        return
    watch = asyncio.create_task(
        watch_for_stop_signal(
            options.manual_stop_signal_function,
            options.check_for_stop_signal_time,
            caller.user_id,
            caller.chat_id,
            stop.press,
        )
    )
    try:
        yield
    finally:
        watch.cancel()


def _in_words(error: ValidationError) -> str:
    """What is wrong, without the answer itself, which the model knows."""
    problems = [
        f"{'.'.join(str(step) for step in problem['loc']) or 'the answer'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return "; ".join(problems[:20])
