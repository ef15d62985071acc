"""Asking a model: all that is the same whoever is asked. What differs is a `Provider`, which only translates."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, NamedTuple

from miniagents.ext.llm.answer import Answer, explained_error
from miniagents.ext.llm.endpoint import Endpoint, Home
from miniagents.ext.llm.llm_common import (
    AssistantMessage,
    CharacterJoiner,
    FinishReason,
    TruncatedAnswerError,
    valid_text,
)
from miniagents.ext.llm.sdk_clients import borrowed_client, parameters_of, sdk
from miniagents.message import Message
from miniagents.messages import MessagePromise

__all__ = ["Call", "Provider", "with_extra_body"]


class Call(NamedTuple):
    """What a model is asked.

    Attributes:
        model: The name of the model.
        system: An instruction for the whole conversation, in whatever form the provider takes.
        stream: Whether the answer is to come token by token.
        api_key: See `Endpoint.find`.
        base_url: See `Endpoint.find`.
        max_retries: How often the SDK tries again before the first token.
        parameters: Whatever else there is to send.
    """

    model: str
    system: Any
    stream: bool
    api_key: str | None
    base_url: str | None
    max_retries: int
    parameters: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<Call of {self.model}>"  # tools that show local variables would else show the key


class Provider(ABC):
    """The translation to and from the wire format of one provider, by means of its SDK.

    Attributes:
        home: Where the provider is.
        package: The package of the SDK, which is imported at the first call.
        client_class: The name of its client.
        finish_reasons: What the provider's words for the end of an answer mean.
    """

    home: ClassVar[Home]
    package: ClassVar[str]
    client_class: ClassVar[str]
    finish_reasons: ClassVar[Mapping[str, FinishReason]]

    @abstractmethod
    def create_of(self, client: Any) -> Callable[..., Awaitable[Any]]:
        """The method of the SDK's client that asks a model."""

    @abstractmethod
    def request(self, messages: Sequence[Message], call: Call) -> dict[str, Any]:
        """Translates a conversation.

        Args:
            messages: The conversation.
            call: What else was asked for.

        Returns:
            Arguments for the method of the SDK, beside or in place of the parameters of the call.
        """

    @abstractmethod
    def read_event(self, event: Any, answer: Answer) -> str:
        """Translates one event of a stream.

        Args:
            event: The event, as the SDK makes it. Servers leave out fields at will; the SDK makes them None.
            answer: Where to note what is no text.

        Returns:
            The text that it adds, often none.
        """

    @abstractmethod
    def read_whole(self, whole: Any, answer: Answer) -> str:
        """Translates an answer that has come at once; see `read_event`."""

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

    def reply_to(self, conversation: Awaitable[Sequence[Message]], call: Call) -> MessagePromise:
        """Asks the model.

        Args:
            conversation: The promise of what was said so far.
            call: What else to ask for.

        Returns:
            The promise of the answer, which streams. Cancelling it closes the HTTP response.
        """

        async def streamer(promise: MessagePromise) -> AsyncIterator[str]:
            endpoint = Endpoint.find(self.home, call.api_key, call.base_url)
            package = await sdk(self.package)  # first, since the conversation may still be on its way
            messages = await conversation
            answer = Answer(call.model)
            who = f"{self.home.provider}'s {call.model} at {endpoint.place}"
            is_first = True
            try:
                async with aclosing(self._ask(package, endpoint, messages, call, answer, who)) as tokens:
                    async for token in tokens:
                        if is_first:  # for those who look while it streams, or when it has been cancelled
                            promise.add_metadata(**answer.metadata(self.finish_reasons))
                            is_first = False
                        yield token
            except Exception as error:
                explained = explained_error(error, package, answer, who)
                endpoint.clean(error)
                endpoint.clean(explained)
                if explained is error:
                    raise
                raise explained from error
            finally:
                promise.add_metadata(**answer.metadata(self.finish_reasons))

        streamer.__qualname__ = f"{self.home.provider}'s {call.model}"  # what logs and `promising.tree()` call it
        return AssistantMessage.promise(streamer, model=call.model)

    async def _ask(
        self, package: Any, endpoint: Endpoint, messages: Sequence[Message], call: Call, answer: Answer, who: str
    ) -> AsyncGenerator[str, None]:
        client_class = getattr(package, self.client_class)
        async with borrowed_client(client_class, api_key=endpoint.key, base_url=endpoint.url) as client:
            create = self.create_of(client.with_options(max_retries=call.max_retries))
            response = await self._send(create, messages, call)
            answer.has_begun = True
            if not call.stream:
                answer.is_empty = False
                text = valid_text(self.read_whole(response, answer))
                if text:
                    yield text
            else:
                joiner = CharacterJoiner()
                try:
                    async for event in response:
                        answer.is_empty = False
                        text = joiner.feed(self.read_event(event, answer))
                        if text:
                            yield text
                finally:
                    await response.close()
                text = joiner.rest()
                if text:
                    yield text
        if answer.finish_reason is None:
            if answer.is_empty:
                raise TruncatedAnswerError(f"{who} has sent no answer at all; is that the address of such a server?")
            raise TruncatedAnswerError(f"the answer of {who} broke off: it has ended without a finish mark")

    async def _send(self, create: Callable[..., Awaitable[Any]], messages: Sequence[Message], call: Call) -> Any:
        request = {**with_extra_body(call.parameters, parameters_of(create)), **self.request(messages, call)}
        try:
            return await create(model=call.model, stream=call.stream, **request)
        except Exception as error:
            simpler = self.simpler_request(request, call, error)
            if simpler is None:
                raise
        return await create(model=call.model, stream=call.stream, **simpler)


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
