"""What is translated: a `Provider` turns conversations into the wire format of one provider, and its events into text.

All that is the same whoever is asked is in `miniagents.ext.llm.asking`.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from miniagents.ext.llm.answer import Answer
from miniagents.ext.llm.endpoint import Endpoint
from miniagents.ext.llm.hooks import Hooks
from miniagents.ext.llm.llm_common import FinishReason
from miniagents.ext.llm.options import Options
from miniagents.ext.llm.stop import StopSwitch
from miniagents.message import Message

if TYPE_CHECKING:
    from miniagents.ext.llm.structured import ReplyType
    from miniagents.ext.tools.tool import Tool

__all__ = ["Call", "Provider", "only_provider_parameters", "with_extra_body"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Call:
    """What a model is asked, beside the conversation.

    Attributes:
        options: What the agent was told.
        agent: The alias of the agent.
        tools: What the model may call.
        tool_choice: See `Options`.
        reply_type: What the answer has to be an object of.
        hooks: Who is told of it.
        stop: What may stop the answer in the middle.
    """

    options: Options
    agent: str
    tools: "Sequence[Tool]" = ()
    tool_choice: Any = None
    reply_type: "ReplyType | None" = None
    hooks: Hooks = field(default_factory=Hooks)
    stop: StopSwitch = field(default_factory=StopSwitch)

    def __repr__(self) -> str:
        return f"<Call of {self.options.model}>"


class Provider(ABC):
    """The translation to and from the wire format of one provider, by means of its SDK.

    Attributes:
        package: The package of the SDK, which is imported at the first call.
        client_class: The name of its client.
        price_list: What genai-prices calls the provider.
        system_name: What OpenTelemetry calls the provider.
        finish_reasons: What the provider's words for the end of an answer mean.
    """

    package: ClassVar[str]
    client_class: ClassVar[str]
    price_list: ClassVar[str]
    system_name: ClassVar[str]
    finish_reasons: ClassVar[Mapping[str, FinishReason]]

    @abstractmethod
    def endpoint(self, options: Options) -> Endpoint:
        """Finds out where to ask, and checks that it can be asked.

        Args:
            options: What the agent was told.

        Returns:
            The endpoint.
        """

    @abstractmethod
    def create_of(self, client: Any) -> Callable[..., Awaitable[Any]]:
        """The method of the SDK's client that asks a model."""

    @abstractmethod
    def request(self, messages: Sequence[Message], call: Call) -> dict[str, Any]:
        """Translates a conversation.

        Args:
            messages: The conversation, in which calls of tools are followed by their results.
            call: What else was asked for.

        Returns:
            Arguments for the method of the SDK, beside or in place of the parameters of the call.
        """

    @abstractmethod
    def read_event(self, event: Any, answer: Answer) -> str:
        """Translates one event of a stream.

        Args:
            event: The event, as the SDK makes it. Servers leave out fields at will; the SDK makes them None.
            answer: Where to note all that has come.

        Returns:
            The text that it adds, often none.
        """

    @abstractmethod
    def read_whole(self, whole: Any, answer: Answer) -> str:
        """Translates an answer that has come at once; see `read_event`."""

    def text_tool(self, call: Call) -> str | None:
        """The name of a tool whose arguments are the text of the answer, where JSON is asked for in this way."""
        del call
        return None

    def parameters(self, options: Options) -> Mapping[str, Any]:
        """The parameters that are sent: all but those that say where to send them to."""
        return options.parameters

    def simpler_request(self, request: dict[str, Any], call: Call, error: Exception) -> dict[str, Any] | None:
        """What to ask of a server that does not know something that we have added to the call.

        Args:
            request: What it has refused.
            call: What was asked for.
            error: How it has refused it.

        Returns:
            The request without the addition, or None if that is not the reason.
        """
        del request, call, error
        return None


def with_extra_body(parameters: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """Sorts parameters: what the SDK does not take goes to the body of the request as it is.

    Args:
        parameters: The keyword arguments of the call.
        known: The names of the parameters that the SDK takes.

    Returns:
        The keyword arguments for the SDK.
    """
    taken = {name: value for name, value in parameters.items() if name in known}
    extra = {name: value for name, value in parameters.items() if name not in known}
    if extra:
        taken["extra_body"] = {**(taken.get("extra_body") or {}), **extra}
    return taken


def only_provider_parameters(parameters: Mapping[str, Any], others: Sequence[str]) -> dict[str, Any]:
    """Leaves out what says where and with what credentials to ask, and is no part of a request.

    Args:
        parameters: The keyword arguments of the call.
        others: The names to leave out.

    Returns:
        What is sent.
    """
    return {name: value for name, value in parameters.items() if name not in others}
