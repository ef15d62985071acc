"""The server itself."""

import asyncio
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

from tests.support.llm_server.anthropic_clouds import VertexWire
from tests.support.llm_server.anthropic_messages import AnthropicWire
from tests.support.llm_server.http import Protocol, wire_of_headers
from tests.support.llm_server.replies import Json, Reply, Request, Responder, echo
from tests.support.llm_server.waiting import PATIENCE, Signal, in_time
from tests.support.llm_server.wire import AwsCredentials, Refusal, Wire


class LLMServer:
    """A server on 127.0.0.1, at a free port. See the module.

    Args:
        api_key: The key, or access token, that requests must have; any, or none, if it is not given.
        aws: The credentials with which requests to Bedrock must be signed; any if they are not given.
        models: The models that there are; any if it is not given.
        default: What answers when the script is at its end.
        strict: Refuse requests that the providers refuse: empty messages, tool calls without results, wrong schemas.
        port: The port.
        keep: Whether requests are kept. Without it many requests need no memory, and cannot be waited for.

    Attributes:
        requests: What it was asked, in order. Requests that it refused are here too.
        count: How many requests came.
        connections: How many connections were opened to it.
        errors: What went wrong in the server itself; the first is raised when it is closed.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        aws: AwsCredentials | None = None,
        models: tuple[str, ...] | None = None,
        default: Responder = echo,
        strict: bool = True,
        port: int = 0,
        keep: bool = True,
    ) -> None:
        self.api_key = api_key
        self.aws = aws
        self.thoughts: defaultdict[str, set[str]] = defaultdict(set)
        self.models = models
        self.default = default
        self.strict = strict
        self.requests: list[Request] = []
        self.count = 0
        self.connections = 0
        self.errors: list[Exception] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self._port = port
        self._keep = keep
        self._script: deque[Reply | Responder] = deque()
        self._arrivals: defaultdict[int, Signal] = defaultdict(Signal)
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None, "the server is not running"
        return f"http://127.0.0.1:{self._port}"

    @property
    def openai_url(self) -> str:
        """What `AsyncOpenAI(base_url=)` and OPENAI_BASE_URL take."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """What `AsyncAnthropic(base_url=)` and ANTHROPIC_BASE_URL take."""
        return self.url

    @property
    def vertex_url(self) -> str:
        """What `AsyncAnthropicVertex(base_url=)` and ANTHROPIC_VERTEX_BASE_URL take."""
        return f"{self.url}/v1"

    @property
    def bedrock_url(self) -> str:
        """What `AsyncAnthropicBedrock(base_url=)` and ANTHROPIC_BEDROCK_BASE_URL take."""
        return self.url

    def script(self, *replies: Reply | Responder) -> None:
        """Says what the next requests are answered: replies, or functions of the request that give one."""
        self._script.extend(replies)

    def assert_all_consumed(self) -> None:
        assert not self._script, f"{len(self._script)} scripted replies were not asked for"

    async def request(self, number: int) -> Request:
        """Waits until a request, counted from 0, has come in."""
        await in_time(self._arrivals[number].wait(), f"request {number} did not come")
        return self.requests[number]

    async def client_disconnected(self, number: int) -> Request:
        """Waits until the client has given up a request, counted from 0, in mid-answer."""
        request = await self.request(number)
        await in_time(request.disconnected.wait(), f"the client did not close the connection of request {number}")
        return request

    def block_until_request(self, number: int) -> Request:
        """The same as `request`, for a thread without an event loop."""
        self._arrivals[number].block()
        return self.requests[number]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Protocol(self), "127.0.0.1", self._port, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0)  # so that each task has begun, and can close its connection
        while self.tasks:
            for task in self.tasks:
                task.cancel()
            await asyncio.wait(self.tasks)
        await self._server.wait_closed()
        if self.errors and kind is None:
            raise self.errors[0]

    @classmethod
    @contextmanager
    def in_thread(cls, *replies: Reply | Responder, **options: Any) -> Iterator[Self]:
        """Runs a server beside code that blocks, or that runs event loops of its own.

        Args:
            *replies: The script.
            **options: What the class takes.

        Yields:
            The server. Signals and gates work from every thread.
        """
        started: Future[tuple[Self, Callable[[], object]]] = Future()

        async def serve() -> None:
            stop = Signal()
            try:
                async with cls(**options) as server:
                    server.script(*replies)
                    started.set_result((server, stop.set))
                    await stop.wait()
            except BaseException as error:
                if not started.done():
                    started.set_exception(error)
                raise

        with ThreadPoolExecutor(1, "llm_server") as pool:
            running = pool.submit(asyncio.run, serve())
            server, stop = started.result(PATIENCE)
            try:
                yield server
            finally:
                stop()
            running.result(PATIENCE)

    # What connections call

    def arrived(self, request: Request) -> None:
        self.count += 1
        if self._keep:
            self.requests.append(request)
            self._arrivals[len(self.requests) - 1].set()

    def check(self, request: Request, wire: type[Wire]) -> None:
        """Refuses what the provider would refuse."""
        wire.check_access(request, self)
        wire.check_shape(request)
        if self.models is not None and request.model not in self.models:
            raise wire.unknown_model(request.model)
        if self.strict:
            wire.check(request, self)

    async def next_reply(self, request: Request) -> Reply:
        reply = self._script.popleft() if self._script else self.default
        if isinstance(reply, Reply):
            return reply
        answer = reply(request)
        return answer if isinstance(answer, Reply) else await answer

    def other(self, request: Request) -> Json:
        """Answers what is no generation: the list of models, the count of tokens."""
        wire = wire_of_headers(request)
        wire.check_access(request, self)
        if request.method == "POST" and (wire is VertexWire or request.path == "/v1/messages/count_tokens"):
            return {"input_tokens": 7}
        if request.method != "GET" or not re.fullmatch("/v1/models(/.+)?", request.path):
            raise Refusal(404, "not_found_error", f"{request.method} {request.path} is not here")
        models = self.models or ("served-model",)
        name = request.path.removeprefix("/v1/models").removeprefix("/")
        if name and name not in models:
            raise wire.unknown_model(name)
        if wire is AnthropicWire:
            entries = [_anthropic_model(model) for model in models]
            ends = {"first_id": models[0], "last_id": models[-1], "has_more": False}
            return entries[models.index(name)] if name else {"data": entries, **ends}
        entries = [{"id": model, "object": "model", "created": 1, "owned_by": "tests"} for model in models]
        return entries[models.index(name)] if name else {"object": "list", "data": entries}


def _anthropic_model(model: str) -> Json:
    return {
        "type": "model",
        "id": model,
        "display_name": model,
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
    }


llm_server_in_thread = LLMServer.in_thread
