"""Asking a person, or whoever decides, before a tool runs that was declared with `requires_approval=True`."""

import asyncio
import inspect
import sys
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict

from miniagents.agents import MiniAgent
from miniagents.ext.threads import in_thread
from miniagents.ext.tools.tool import ToolError
from miniagents.message import Message

__all__ = ["ApprovalRequest", "ToolRefusedError", "approve", "console_approver"]

_YES = ("y", "yes", "ok", "okay", "true", "approve", "approved", "allow", "allowed")


class ToolRefusedError(ToolError):
    """A call of a tool was not approved."""


class ApprovalRequest(BaseModel):
    """What an approver is asked.

    Attributes:
        user_id: For whom the tool is to run, if the agent was told.
        chat_id: In which conversation, if the agent was told.
        agent_name: The agent that wants it.
        tool_call_id: Which call it is.
        tool_name: The tool.
        arguments: Its arguments, as the model has written them: JSON.
    """

    model_config = ConfigDict(frozen=True)

    user_id: str | None = None
    chat_id: str | None = None
    agent_name: str
    tool_call_id: str
    tool_name: str
    arguments: str

    def __str__(self) -> str:
        return f"{self.agent_name} wants to run {self.tool_name} with {self.arguments}"


async def approve(approver: Any, request: ApprovalRequest) -> None:
    """Asks whether a tool may run.

    Args:
        approver: A function, sync (it runs in a thread) or async, of the request, which returns True or False, or a
            text that says why not; or an agent, which is sent the request as a text and replies "yes" or anything else.
            None for the user at the terminal.
        request: What is wanted.

    Raises:
        ToolRefusedError: It may not.
    """
    if approver is None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise ToolRefusedError("it needs an approval, and there is nobody to ask: the agent has no approver")
        approver = console_approver
    if isinstance(approver, MiniAgent):
        replies = await approver.inquire(f"{request}. May it? (yes or no)")
        said = [str(message) for message in replies if _is_answer(message)]
        text = said[-1].strip() if said else ""  # what it says before, while it looks things up, decides nothing
        answer: Any = text.rstrip(".!").lower() in _YES or text
    elif inspect.iscoroutinefunction(approver) or inspect.iscoroutinefunction(getattr(approver, "__call__", None)):
        answer = await approver(request)
    else:
        answer = await in_thread(approver, request)
        if inspect.isawaitable(answer):
            answer = await answer
    if answer is not True:
        reason = f": {answer}" if isinstance(answer, str) and answer else ""
        raise ToolRefusedError(f"it was not approved{reason}")


def _is_answer(message: Message) -> bool:
    return getattr(message, "role", "assistant") == "assistant" and not getattr(message, "inside_tool_call", None)


async def console_approver(request: ApprovalRequest) -> bool | str:
    """Asks the user at the terminal, one question at a time.

    Args:
        request: What is wanted.

    Returns:
        True for yes; False, or what the user has written instead.
    """
    from prompt_toolkit import PromptSession

    loop = asyncio.get_running_loop()
    lock = _locks.setdefault(loop, asyncio.Lock())  # two prompts at once would garble each other
    async with lock:
        try:
            answer: str = await PromptSession[str]().prompt_async(f"{request}. May it? [y/N] ")
        except EOFError:  # Ctrl+D
            return False
    return answer.strip().lower() in _YES or answer.strip()


_locks: "WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]" = WeakKeyDictionary()
