"""`openai_agent`: the models of OpenAI, and of every server that speaks its protocol."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar

from miniagents.agents import miniagent
from miniagents.ext.llm.answer import Answer
from miniagents.ext.llm.endpoint import Endpoint, Home
from miniagents.ext.llm.llm_common import FinishReason, instruction_of, role_of, wire_text
from miniagents.ext.llm.provider import Call, Provider
from miniagents.interaction import InteractionContext
from miniagents.message import Message

__all__ = ["DEFAULT_OPENAI_MODEL", "check_openai_key", "openai_agent"]

DEFAULT_OPENAI_MODEL = "gpt-5.4-mini"

_HOME = Home("OpenAI", "https://api.openai.com/v1", "openai.com", "OPENAI_API_KEY", "OPENAI_BASE_URL")


@miniagent
async def openai_agent(
    ctx: InteractionContext,
    model: str = DEFAULT_OPENAI_MODEL,
    system: Any = None,
    stream: bool = True,
    api_key: str | None = None,
    base_url: str | None = None,
    max_retries: int = 2,
    **parameters: Any,
) -> None:
    """Asks a model of OpenAI, or of a server that speaks its protocol.

    It replies with one `AssistantMessage`, which streams. Cancelling it, or the call, closes the HTTP response.

    Args:
        ctx: What is sent: the conversation. The role of a message is its `role`, "user" where it has none.
        model: The name of the model.
        system: An instruction that is put before the conversation: text, a message, or OpenAI's content parts.
        stream: Whether to have the answer token by token, or at once.
        api_key: The key; the environment variable OPENAI_API_KEY otherwise.
        base_url: The address of the server; OPENAI_BASE_URL, or else OpenAI's otherwise. A server of one's own needs
            no key.
        max_retries: How often the SDK tries again before the first token.
        **parameters: Whatever `chat.completions.create` takes; what it does not know goes into the request as it is.
            Of several choices (`n=`) the first is the answer.

    Raises:
        MissingKeyError: There is no key.
        BrokenAnswerError: The answer broke off or could not be understood; its tokens stay readable. It is a
            `TruncatedAnswerError` where the stream has ended without a finish mark.
        openai.OpenAIError: What the SDK raises, also for an error that the server sends in mid-stream.

    Example:
        ```python
        async with MiniAgents():
            async for token in openai_agent.inquire("Hi", system="Be brief.", temperature=0.5).as_single_promise():
                print(token, end="", flush=True)
        ```
    """
    call = Call(model, system, stream, api_key, base_url, max_retries, parameters)
    ctx.reply(_OpenAI().reply_to(ctx.message_promises, call))


def check_openai_key() -> None:
    """Checks that a call without `api_key=` would find a key, or a server that needs none.

    Raises:
        MissingKeyError: It would not.
    """
    Endpoint.find(_HOME)


class _OpenAI(Provider):
    """Chat completions."""

    home = _HOME
    package = "openai"
    client_class = "AsyncOpenAI"
    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {
        "stop": "stop",
        "length": "length",
        "max_tokens": "length",  # so say some of those that speak OpenAI's protocol
        "model_length": "length",
        "tool_calls": "tool_calls",
        "function_call": "tool_calls",
        "content_filter": "content_filter",
    }

    def create_of(self, client: Any) -> Callable[..., Awaitable[Any]]:
        """See `Provider`."""
        create: Callable[..., Awaitable[Any]] = client.chat.completions.create
        return create

    def request(self, messages: Sequence[Message], call: Call) -> dict[str, Any]:
        """See `Provider`."""
        system = instruction_of(call.system)
        turns = [] if system is None else [{"role": "system", "content": system}]
        turns += [{"role": role_of(message), "content": wire_text(message)} for message in messages]
        request: dict[str, Any] = {"messages": turns}
        options = call.parameters.get("stream_options", {})
        if call.stream and options is not None:
            request["stream_options"] = {"include_usage": True, **options}
        return request

    def simpler_request(self, request: dict[str, Any], call: Call, error: Exception) -> dict[str, Any] | None:
        """Leaves out `stream_options`: there are servers that refuse what they do not know."""
        refused = getattr(error, "status_code", None) in (400, 422) and "stream_options" in str(error)
        if not refused or not call.stream or "stream_options" in call.parameters:
            return None
        return {name: value for name, value in request.items() if name != "stream_options"}

    def read_event(self, event: Any, answer: Answer) -> str:
        """See `Provider`."""
        self._note(event, answer)
        for choice in event.choices or ():
            if not choice.index:  # None where the server leaves it out; others were asked for by `n=`
                answer.finish_reason = choice.finish_reason or answer.finish_reason
                return self._read(choice.delta, answer)
        return ""

    def read_whole(self, whole: Any, answer: Answer) -> str:
        """See `Provider`."""
        self._note(whole, answer)
        if not whole.choices:
            raise ValueError(f"it has no choices, but an error: {getattr(whole, 'error', None)!r:.200}")
        choice = whole.choices[0]
        answer.finish_reason = choice.finish_reason or None
        return self._read(choice.message, answer)

    def _note(self, event: Any, answer: Answer) -> None:
        answer.model = event.model or answer.model
        if event.usage:
            answer.count(event.usage.prompt_tokens, event.usage.completion_tokens)

    def _read(self, part: Any, answer: Answer) -> str:
        """The text of a delta or of a message, which have the same fields."""
        if part is None:
            return ""
        # OpenAI shows no reasoning here; those that do have two names for it.
        thought = getattr(part, "reasoning_content", None) or getattr(part, "reasoning", None)
        if isinstance(thought, str):
            answer.reasoning.append(thought)
        return part.content or part.refusal or ""
