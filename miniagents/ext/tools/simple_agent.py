"""`AsyncOpenAISimpleAgent`: an OpenAI model with tools and production controls behind one method."""

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from miniagents.context import MiniAgents
from miniagents.ext.llm.budget import BudgetExceededError
from miniagents.ext.llm.context_window import ContextLimits
from miniagents.ext.llm.conversation import sendable
from miniagents.ext.llm.hooks import Hooks, HooksArgument
from miniagents.ext.llm.llm_common import UserMessage, assistant_tokens, role_of
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.llm.plain_messages import message_from_dict, message_to_dict
from miniagents.ext.tools.tool import as_tools
from miniagents.message import Message
from miniagents.sequences import MessageSequencePromise
from miniagents.usage import Usage

__all__ = ["AsyncOpenAISimpleAgent", "MessageStream"]

History = Iterable[Mapping[str, Any] | Message]


class AsyncOpenAISimpleAgent:
    """An agent that answers messages, calls tools for that, and says in plain data what it did.

    It is a front door for `openai_agent`: the agent behind it is `simple_agent.agent`.

    Args:
        agent_name: What the agent is called.
        user_id: For whom it works; every tool that takes it and every hook gets it.
        chat_id: In which conversation; likewise.
        agent_description: What it does, for those who use it as a tool.
        model: The name of the model.
        api_key: The key; the environment variable OPENAI_API_KEY otherwise.
        base_url: The address of the server; OPENAI_BASE_URL, or else OpenAI's otherwise.
        system_prompt: The instruction for every conversation.
        tool_registry: The tools: entries `{"name": ..., "function_schema": ..., "func": ...}`, functions, agents.
        execute_function_concurrently: Whether the calls of one turn run at the same time.
        max_turns: How many requests one message may take.
        context_handling_method: "simple" to estimate tokens, "accurate" to count them.
        max_context_length: How many tokens of the conversation are sent.
        max_token_per_message: How many tokens of each message.
        max_messages_in_context: How many messages.
        dropping_strategy: "simple", or "summary_dropping" to have summarised what is not sent.
        prompt_when_context_overflow: What the model is told when something is not sent.
        prompt_when_message_is_dropped: What stands in the place of that.
        keep_function_calls_in_context: Whether calls of tools in earlier turns are sent.
        manual_stop_signal_function: A function of a user id and a chat id that returns True when the agent is to stop.
        check_for_stop_signal_time: How many seconds there are between two calls of that function.
        hooks: Functions by the names of the hooks, see `miniagents.ext.llm.hooks`.
        approver: Who is asked before a tool runs that wants an approval.
        budget: A limit for what all messages together may spend.
        max_retries: How often a request is tried again that failed for a reason that may pass.
        timeout: How many seconds a request may take.
        model_parameters: What else goes to the model: `{"temperature": 0.2}`.

    Raises:
        ValueError: A name, an id or a limit is none; there is no such hook.

    Example:
        ```python
        agent = AsyncOpenAISimpleAgent(agent_name="Helper", user_id="u1", chat_id="c1", tool_registry=[get_weather])
        response = await agent.send_message("What is the weather in Tokyo?")
        print(response["output"])
        response = await agent.send_message("And in Rome?", history=response["history"]["simplified"])
        ```
    """

    def __init__(
        self,
        *,
        agent_name: str,
        user_id: str,
        chat_id: str,
        agent_description: str | None = None,
        model: str = "gpt-5.4-mini",
        api_key: str | None = None,
        base_url: str | None = None,
        system_prompt: str | None = None,
        tool_registry: Iterable[Any] = (),
        execute_function_concurrently: bool = False,
        max_turns: int = 25,
        context_handling_method: str = "simple",
        max_context_length: int | None = None,
        max_token_per_message: int | None = None,
        max_messages_in_context: int | None = None,
        dropping_strategy: str = "simple",
        prompt_when_context_overflow: str | None = None,
        prompt_when_message_is_dropped: str | None = None,
        keep_function_calls_in_context: bool = True,
        manual_stop_signal_function: Callable[[str, str], Any] | None = None,
        check_for_stop_signal_time: float = 1.0,
        hooks: HooksArgument = None,
        approver: Any = None,
        budget: AbstractContextManager[Any] | None = None,
        max_retries: int = 4,
        timeout: float = 600.0,
        model_parameters: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value in (("agent_name", agent_name), ("user_id", user_id), ("chat_id", chat_id)):
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} is {value!r}; it is compulsory, and a text that is not empty")
        Hooks(hooks)  # what is wrong with them is said at once
        self.agent_name = agent_name
        limits = ContextLimits(
            context_handling_method=context_handling_method,
            max_context_length=max_context_length,
            max_token_per_message=max_token_per_message,
            max_messages_in_context=max_messages_in_context,
            dropping_strategy=dropping_strategy,
            prompt_when_context_overflow=prompt_when_context_overflow,
            prompt_when_message_is_dropped=prompt_when_message_is_dropped,
            keep_function_calls_in_context=keep_function_calls_in_context,
        )
        connection: dict[str, Any] = {"model": model, "api_key": api_key, "base_url": base_url, "timeout": timeout}
        plain = openai_agent.fork(alias=agent_name, budget=budget, max_retries=max_retries, **connection)
        self.agent = plain.fork(
            description=agent_description,
            system=system_prompt,
            tools=as_tools(tool_registry),
            execute_function_concurrently=execute_function_concurrently,
            max_turns=max_turns,
            context=limits,
            summarizer=plain.fork(alias=f"{agent_name}_SUMMARIZER"),
            manual_stop_signal_function=manual_stop_signal_function,
            check_for_stop_signal_time=check_for_stop_signal_time,
            hooks=hooks,
            approver=approver,
            user_id=user_id,
            chat_id=chat_id,
            agent_name=agent_name,
            **(model_parameters or {}),
        )

    async def send_message(
        self, text: str, history: History | None = None, debug_print: bool = False
    ) -> dict[str, Any]:
        """Answers a message.

        Args:
            text: The message.
            history: What was said before: messages, or plain data such as `history` of an earlier response.
            debug_print: Whether to print what happens meanwhile.

        Returns:
            Plain data that can be written as JSON: `output`, the text of the answer; `stop_reason`: "completed",
            "max_turns", "manual_stop", "budget_exceeded", "length" or "content_filter"; `history`, with `messages` (all
            of them) and `simplified` (texts only); `usage`, the sum over all requests; `agent_name` and `timestamp`.

        Raises:
            Exception: What the agent has failed with, after the hook `on_error`.
        """
        async with MiniAgents():
            return await self.stream_message(text, history, debug_print)

    def stream_message(self, text: str, history: History | None = None, debug_print: bool = False) -> "MessageStream":
        """Answers a message token by token.

        Args:
            text: See `send_message`.
            history: See `send_message`.
            debug_print: See `send_message`.

        Returns:
            What gives the tokens of the answer by `async for`, and by `await` the response.
        """
        before = [_as_message(message) for message in history or ()]
        sent = [*before, UserMessage(text)]
        return MessageStream(self.agent_name, sent, self.agent.inquire(list(sent)), debug_print)


class MessageStream:
    """The answer to a message, while it comes. It can be read as often as one likes.

    Example:
        ```python
        stream = agent.stream_message("What is the weather in Tokyo?")
        async for token in stream:
            print(token, end="", flush=True)
        response = await stream
        ```
    """

    def __init__(
        self, agent_name: str, sent: list[Message], replies: MessageSequencePromise, debug_print: bool
    ) -> None:
        self._agent_name = agent_name
        self._sent = sent
        self._replies = replies
        self._debug_print = debug_print

    def __aiter__(self) -> AsyncGenerator[str, None]:
        return assistant_tokens(self._replies)

    def __await__(self) -> Generator[Any, Any, dict[str, Any]]:
        return self._response().__await__()

    def cancel(self) -> bool:
        """Stops the answer, and the tools that run for it.

        Returns:
            Whether there was anything to stop.
        """
        return self._replies.cancel()

    async def _response(self) -> dict[str, Any]:
        made: list[Message] = []
        stop_reason: str | None = None
        try:
            async for promise in self._replies:
                message = await promise
                if not getattr(message, "inside_tool_call", None):
                    made.append(message)
                if self._debug_print:
                    print(_shown(message), flush=True)
        except BudgetExceededError:
            stop_reason = "budget_exceeded"
        messages = sendable([*self._sent, *made])
        answers = [message for message in made if role_of(message) == "assistant"]
        return {
            "stop_reason": stop_reason or _stop_reason(made),
            "history": {
                "messages": [message_to_dict(message) for message in messages],
                "simplified": [
                    {"role": role_of(message), "content": str(message)}
                    for message in messages
                    if role_of(message) in ("user", "assistant") and str(message)
                ],
            },
            "agent_name": self._agent_name,
            "timestamp": datetime.now().isoformat(),
            "output": str(answers[-1]) if answers else "",
            "usage": _usage(await self._replies.usage()),
        }


def _stop_reason(made: list[Message]) -> str:
    for message in reversed(made):
        reason = getattr(message, "stop_reason", None)
        if reason is not None:
            return str(reason)
        finish = getattr(message, "finish_reason", None)
        if finish is not None:
            return str(finish) if finish in ("length", "content_filter") else "completed"
    return "completed"


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "completion_tokens": usage.output_tokens,
        "prompt_tokens": usage.input_tokens,
        "total_tokens": usage.total_tokens,
        "completion_tokens_details": {
            "accepted_prediction_tokens": 0,  # what nothing here asks for is there for those who read all fields
            "audio_tokens": 0,
            "reasoning_tokens": usage.reasoning_tokens,
            "rejected_prediction_tokens": 0,
        },
        "prompt_tokens_details": {
            "audio_tokens": 0,
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "requests": usage.requests,
        "cost": None if usage.cost is None else float(usage.cost),
    }


def _as_message(given: Mapping[str, Any] | Message) -> Message:
    return given if isinstance(given, Message) else message_from_dict(given)


def _shown(message: Message) -> str:
    speaker = getattr(message, "agent", None) or role_of(message)
    calls = [f"{call.name}({call.arguments})" for call in getattr(message, "tool_calls", ())]
    what = " ".join([*([f"calls {', '.join(calls)}"] if calls else []), str(message)])
    return f"[{datetime.now():%H:%M:%S}] {speaker} ({role_of(message)}): {what}"
