"""`anthropic_agent`: the models of Anthropic."""

from typing import Any

from miniagents.agents import miniagent
from miniagents.ext.llm.anthropic_wire import DEFAULT_MAX_TOKENS, AnthropicWire
from miniagents.ext.llm.converse import converse
from miniagents.ext.llm.endpoint import Endpoint, Home
from miniagents.ext.llm.options import Options
from miniagents.interaction import InteractionContext

__all__ = ["DEFAULT_ANTHROPIC_MODEL", "DEFAULT_MAX_TOKENS", "anthropic_agent", "check_anthropic_key"]

DEFAULT_ANTHROPIC_MODEL = "claude-sonnet-5"

_HOME = Home("Anthropic", "https://api.anthropic.com", "anthropic.com", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")


@miniagent
async def anthropic_agent(ctx: InteractionContext, model: str = DEFAULT_ANTHROPIC_MODEL, **options: Any) -> None:
    """Asks a model of Anthropic.

    It replies with an `AssistantMessage`, which streams; with `tools=`, with every message of the conversation between
    the model and its tools. Cancelling it, or the call, closes the HTTP response.

    Args:
        ctx: What is sent: the conversation. System messages become part of `system`; neighbours of one role are joined,
            and messages with nothing in them are left out.
        model: The name of the model.
        **options: See `miniagents.ext.llm.options.Options`. The key is that of the environment variable
            ANTHROPIC_API_KEY, the address that of ANTHROPIC_BASE_URL, where they are not given; a server of one's own
            needs no key. What is none of these options goes to the provider: whatever `messages.create` takes, and
            what it does not know (`temperature`, for example) into the request as it is. `max_tokens` is 4,096.

    Raises:
        MissingKeyError: There is no key.
        BrokenAnswerError: The answer broke off or could not be understood; its tokens stay readable, and are its
            `partial_text`. It is a `TruncatedAnswerError` where the stream has ended without a finish mark.
        ModelTimeoutError: There was no answer in time.
        BudgetExceededError: A budget does not allow the request.
        anthropic.AnthropicError: What the SDK raises, also for an error that the server sends in mid-stream: its status
            is 200 then, its `type` says more.

    Example:
        ```python
        async with MiniAgents():
            async for token in anthropic_agent.inquire("Hi", system="Be brief.").as_single_promise():
                print(token, end="", flush=True)
        ```
    """
    await converse(ctx, _Anthropic(), Options.of({"model": model, **options}))


def check_anthropic_key() -> None:
    """Checks that a call without `api_key=` would find a key, or a server that needs none.

    Raises:
        MissingKeyError: It would not.
    """
    Endpoint.find(_HOME)


class _Anthropic(AnthropicWire):
    client_class = "AsyncAnthropic"
    price_list = "anthropic"
    system_name = "anthropic"

    def endpoint(self, options: Options) -> Endpoint:
        return Endpoint.find(_HOME, options.api_key, options.base_url)
