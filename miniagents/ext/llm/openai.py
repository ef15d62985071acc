"""`openai_agent`: the models of OpenAI, and of every server that speaks its protocol."""

from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from miniagents.agents import miniagent
from miniagents.ext.llm.converse import converse
from miniagents.ext.llm.endpoint import Endpoint, Home
from miniagents.ext.llm.openai_chat import OpenAIChat
from miniagents.ext.llm.options import Options
from miniagents.ext.llm.provider import Provider
from miniagents.interaction import InteractionContext

__all__ = ["DEFAULT_OPENAI_MODEL", "check_openai_key", "openai_agent"]

DEFAULT_OPENAI_MODEL = "gpt-5.4-mini"

_HOME = Home("OpenAI", "https://api.openai.com/v1", "openai.com", "OPENAI_API_KEY", "OPENAI_BASE_URL")


@miniagent
async def openai_agent(
    ctx: InteractionContext, model: str = DEFAULT_OPENAI_MODEL, api: str = "chat", **options: Any
) -> None:
    """Asks a model of OpenAI, or of a server that speaks its protocol.

    It replies with an `AssistantMessage`, which streams; with `tools=`, with every message of the conversation between
    the model and its tools. Cancelling it, or the call, closes the HTTP response.

    Args:
        ctx: What is sent: the conversation. The role of a message is its `role`, "user" where it has none.
        model: The name of the model.
        api: Through which of OpenAI's interfaces to ask: "chat" for chat completions, which most other servers know,
            too, or "responses".
        **options: See `miniagents.ext.llm.options.Options`. The key is that of the environment variable OPENAI_API_KEY,
            the address that of OPENAI_BASE_URL, where they are not given; a server of one's own needs no key. What is
            none of these options goes to the provider: whatever `create` of the interface takes, and what it does not
            know into the request as it is. Of several choices (`n=`) the first is the answer.

    Raises:
        MissingKeyError: There is no key.
        BrokenAnswerError: The answer broke off or could not be understood; its tokens stay readable, and are its
            `partial_text`. It is a `TruncatedAnswerError` where the stream has ended without a finish mark.
        ModelTimeoutError: There was no answer in time.
        BudgetExceededError: A budget does not allow the request.
        openai.OpenAIError: What the SDK raises, also for an error that the server sends in mid-stream.

    Example:
        ```python
        async with MiniAgents():
            async for token in openai_agent.inquire("Hi", system="Be brief.", temperature=0.5).as_single_promise():
                print(token, end="", flush=True)
        ```
    """
    await converse(ctx, _provider(api), Options.of({"model": model, **options}))


def check_openai_key() -> None:
    """Checks that a call without `api_key=` would find a key, or a server that needs none.

    Raises:
        MissingKeyError: It would not.
    """
    Endpoint.find(_HOME)


@cache
def _provider(api: str) -> Provider:
    if api == "chat":
        return _OpenAI()
    if api != "responses":
        raise ValueError(f'api is {api!r}; it is "chat" or "responses"')
    from miniagents.ext.llm.openai_responses import OpenAIResponses

    class _OpenAIResponses(OpenAIResponses):
        def endpoint(self, options: Options) -> Endpoint:
            return Endpoint.find(_HOME, options.api_key, options.base_url)

    return _OpenAIResponses()


class _OpenAI(OpenAIChat):
    def parameters(self, options: Options) -> Mapping[str, Any]:
        # The newer models of OpenAI refuse the old name, and many other servers do not know the new one.
        found = dict(options.parameters)
        if "max_tokens" in found and urlsplit(self.endpoint(options).url).hostname == urlsplit(_HOME.url).hostname:
            found["max_completion_tokens"] = found.pop("max_tokens")
        return found

    def endpoint(self, options: Options) -> Endpoint:
        return Endpoint.find(_HOME, options.api_key, options.base_url)
