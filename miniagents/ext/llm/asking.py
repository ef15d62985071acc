"""Asking a model: one request, from the conversation to the last token, whoever is asked."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, nullcontext
from typing import Any

from miniagents.ext.llm import budget, tracing
from miniagents.ext.llm.answer import Answer, explained_error
from miniagents.ext.llm.conversation import sendable
from miniagents.ext.llm.hooks import BeforeRequest
from miniagents.ext.llm.llm_common import (
    AssistantMessage,
    CharacterJoiner,
    ModelTimeoutError,
    TruncatedAnswerError,
    Usage,
    valid_text,
)
from miniagents.ext.llm.prices import price_of
from miniagents.ext.llm.provider import Call, Provider, with_extra_body
from miniagents.ext.llm.retries import with_retries
from miniagents.ext.llm.sdk_clients import borrowed_client, parameters_of, sdk
from miniagents.ext.llm.stop import Stopped
from miniagents.ext.llm.structured import AnswerPromise
from miniagents.message import Message
from miniagents.usage import charge, payers

__all__ = ["ask"]

_EXPECTED_TOKENS = 4096  # what a request may be answered with that does not limit it
_CONNECT_SECONDS = 5.0
_CHARACTERS_PER_TOKEN = 4


def ask(provider: Provider, conversation: Awaitable[Sequence[Message]], call: Call) -> AnswerPromise:
    """Asks a model.

    Args:
        provider: Who translates.
        conversation: The promise of what was said so far.
        call: What else to ask for.

    Returns:
        The promise of the answer, which streams. Cancelling it closes the HTTP response.
    """
    accounts = payers()  # the answer may be asked for when the agent itself has ended

    async def streamer(promise: AnswerPromise) -> AsyncIterator[str]:
        request = _Request(provider, call, accounts)
        async with aclosing(request.tokens(promise, conversation)) as tokens:
            async for token in tokens:
                yield token

    streamer.__qualname__ = f"{call.agent}'s {call.options.model}"  # what logs and `promising.tree()` call it
    promise = AnswerPromise(
        streamer,
        message_class=AssistantMessage,
        metadata={"role": "assistant", "agent": call.agent, "model": call.options.model},
    )
    promise._reply_type = call.reply_type
    return promise


class _Request:
    def __init__(self, provider: Provider, call: Call, accounts: Any) -> None:
        self._accounts = accounts
        self._provider = provider
        self._call = call
        self._options = call.options
        self._answer = Answer(call.options.model)
        self._usage: Usage | None = None
        self._shown = 0  # how many characters of the answer have been shown
        self._trace = tracing.NO_TRACE

    async def tokens(
        self, promise: AnswerPromise, conversation: Awaitable[Sequence[Message]]
    ) -> AsyncGenerator[str, None]:
        is_asked = False
        failure: BaseException | None = None
        try:
            async with self._call.stop.scope():
                self._endpoint = self._provider.endpoint(self._options)
                self._package = await sdk(self._provider.package)  # while the conversation may still be on its way
                self._messages = sendable(await conversation)
                self._who = f"{self._endpoint.provider}'s {self._options.model} at {self._endpoint.place}"
                await self._call.hooks.fire(BeforeRequest, model=self._options.model, messages=tuple(self._messages))
                is_asked = True
                self._trace = tracing.trace_chat(
                    call=self._call, provider=self._provider, endpoint=self._endpoint, messages=self._messages
                )
                tokens, token = await with_retries(
                    self._begun,
                    max_retries=self._options.max_retries,
                    package=self._package,
                    who=self._who,
                    on_retry=self._note_retry,
                )
                async with aclosing(tokens):
                    if token is not None:
                        self._trace.event("first token")
                        promise.add_metadata(**self._metadata())  # for those who look while it streams
                        yield token
                        async for token in tokens:
                            yield token
        except Stopped:
            promise.add_metadata(stop_reason="manual_stop", interrupted=True)
        except Exception as error:
            if not is_asked:
                await self._call.hooks.fire_failure(error)
                raise
            explained: Any = explained_error(error, self._package, self._answer, self._who)
            self._endpoint.clean(error)
            self._endpoint.clean(explained)
            explained.partial_text = "".join(promise.pieces_so_far)
            failure = explained
            await self._call.hooks.fire_failure(explained)  # before anybody gets it
            if explained is error:
                raise
            raise explained from error
        except BaseException as error:
            failure = error
            raise
        finally:
            fields = self._metadata()
            promise.add_metadata(**fields)
            self._trace.end(failure, fields=fields, usage=self._usage, text="".join(promise.pieces_so_far))

    async def _begun(self) -> "tuple[AsyncGenerator[str, None], str | None]":
        """Makes one attempt.

        Returns:
            The answer, and its first token, before which nobody has seen anything of it; None if it has no text.
        """
        timeout = asyncio.timeout(None)
        tokens = self._attempt(timeout)
        try:
            async with timeout:
                return tokens, await anext(tokens, None)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise self._late() from error

    async def _attempt(self, timeout: asyncio.Timeout) -> AsyncGenerator[str, None]:
        call, options = self._call, self._options
        self._answer = answer = Answer(options.model, self._provider.text_tool(call))
        self._shown = 0
        async with options.request_limit or nullcontext():
            self._deadline = asyncio.get_running_loop().time() + options.timeout  # it does not count while it waits
            timeout.reschedule(self._deadline)
            client_class = getattr(self._package, self._provider.client_class)
            async with borrowed_client(client_class, **self._client_options()) as client:
                stall = (options.stall_timeout if options.stream else None) or options.timeout
                patience = self._package.Timeout(stall, connect=min(_CONNECT_SECONDS, stall))
                create = self._provider.create_of(client.with_options(max_retries=0, timeout=patience))
                parameters = with_extra_body(self._provider.parameters(options), parameters_of(create))
                request = {**parameters, **self._provider.request(self._messages, call)}
                reservation = self._reserve(request)
                try:
                    response = await self._send(create, request)
                    answer.has_begun = True
                    if options.stream:
                        async with aclosing(self._streamed(response)) as tokens:
                            async for token in tokens:
                                yield token
                    else:
                        answer.is_empty = False
                        text = valid_text(self._provider.read_whole(response, answer))
                        if text:
                            yield text
                finally:
                    self._account(reservation)
        if answer.finish_reason is None:
            if answer.is_empty:
                raise TruncatedAnswerError(
                    f"{self._who} has sent no answer at all; is that the address of such a server?"
                )
            raise TruncatedAnswerError(f"the answer of {self._who} broke off: it has ended without a finish mark")

    async def _streamed(self, response: Any) -> AsyncGenerator[str, None]:
        answer, read_event = self._answer, self._provider.read_event
        now = asyncio.get_running_loop().time
        joiner = CharacterJoiner()
        try:
            async for event in response:
                answer.is_empty = False
                text = joiner.feed(read_event(event, answer))
                if text:
                    self._shown += len(text)
                    yield text
                if now() > self._deadline:
                    raise self._late()
        finally:
            await response.close()
        text = joiner.rest()
        if text:
            yield text

    async def _send(self, create: Callable[..., Awaitable[Any]], request: dict[str, Any]) -> Any:
        model, stream = self._options.model, self._options.stream
        try:
            return await create(model=model, stream=stream, **request)
        except Exception as error:
            simpler = self._provider.simpler_request(request, self._call, error)
            if simpler is None:
                raise
        return await create(model=model, stream=stream, **simpler)

    def _client_options(self) -> dict[str, Any]:
        options = dict(self._endpoint.arguments)
        if self._options.http_client is not None:
            options["http_client"] = self._options.http_client
        elif self._options.proxy is not None:
            options["proxy"] = self._options.proxy
        if tracing.tracer is not None and self._provider.package == "anthropic":
            options["open_telemetry"] = False  # its own spans would double ours
        return options

    def _late(self) -> ModelTimeoutError:
        return ModelTimeoutError(
            f"{self._who} has not answered in {self._options.timeout:g} s; allow more by `timeout=`, or less of an "
            "answer by `max_tokens=`"
        )

    def _note_retry(self, error: BaseException, seconds: float) -> None:
        """Is told of each attempt that has failed and is followed by another."""
        self._trace.event("retry", **{"error.type": type(error).__qualname__, "retry.pause_seconds": seconds})

    # --- what it costs ---

    def _reserve(self, request: dict[str, Any]) -> "budget.Reservation | None":
        if not budget.current_budgets():
            return None
        longest = next((request[name] for name in _LIMITS if isinstance(request.get(name), int)), _EXPECTED_TOKENS)
        expected = Usage(input_tokens=self._expected_input(request), output_tokens=longest)
        return budget.reserve(expected.total_tokens, self._price(expected), self._options.model)

    def _expected_input(self, request: dict[str, Any]) -> int:
        return _characters(request) // _CHARACTERS_PER_TOKEN + 1

    def _price(self, usage: Usage) -> Any:
        return price_of(
            usage, self._provider.price_list, self._endpoint.url, self._options.model, str(self._answer.model)
        )

    def _account(self, reservation: "budget.Reservation | None") -> None:
        """Charges what the attempt has cost. Of an answer that broke off it is an estimate."""
        answer = self._answer
        if not answer.has_begun:
            if reservation is not None:
                reservation.settle(None)
            return
        counts: dict[str, Any] = dict(answer.counts)
        if answer.finish_reason is None:
            counts["output_tokens"] = max(counts.get("output_tokens", 0), self._shown // _CHARACTERS_PER_TOKEN)
        usage = Usage(**counts)
        known = bool(answer.counts)
        self._usage = usage.model_copy(update={"cost": self._price(usage) if known else None})
        charge(self._usage, self._accounts)
        if reservation is not None:
            if "input_tokens" not in counts:
                counts["input_tokens"] = self._expected_input(
                    {"messages": [str(message) for message in self._messages]}
                )
            counts.setdefault("output_tokens", self._shown // _CHARACTERS_PER_TOKEN)
            usage = Usage(**counts)
            reservation.settle(usage.model_copy(update={"cost": self._price(usage)}))

    def _metadata(self) -> dict[str, Any]:
        found = self._answer.metadata(self._provider.finish_reasons)
        if self._usage is not None and "usage" in found:
            found["usage"] = self._usage
        return found


_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_IMAGE_CHARACTERS = 6000  # about 1,500 tokens


def _characters(value: Any) -> int:
    """How long a request is, as far as a model has to read it."""
    if isinstance(value, str):
        return _IMAGE_CHARACTERS if value.startswith("data:") or len(value) > 1_000_000 else len(value)
    if isinstance(value, dict):
        if value.get("type") == "base64":
            return _IMAGE_CHARACTERS
        return sum(len(name) + _characters(item) for name, item in value.items() if isinstance(name, str))
    if isinstance(value, (list, tuple)):
        return sum(_characters(item) for item in value)
    return 0
