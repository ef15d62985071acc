"""What a graph tells while it runs: messages of the kinds below, between those of its nodes.

They are made only when somebody looks at them: a run of a hundred thousand nodes whose progress nobody reads should not
pay for it. Models are not shown them.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from miniagents.ext.labelled import LabelledPromise
from miniagents.message import Message
from miniagents.messages import MessagePromise
from promising.replay import COMPLETE, ReplayBuffer
from promising.sentinels import NO_VALUE

__all__ = [
    "DecisionTaken",
    "EventPromise",
    "GraphEvent",
    "GraphFinished",
    "NodeFailed",
    "NodeFinished",
    "NodeRetried",
    "NodeSkipped",
    "NodeStarted",
    "SpokenPromise",
    "is_event",
    "messages_in",
    "result_in",
    "result_of",
    "spoken_in",
]


class GraphEvent(Message):
    """What all events of a graph have in common.

    Attributes:
        graph: The alias of the graph.
        time: Seconds since the start of the run.
    """

    for_models: ClassVar[bool] = False

    graph: str
    time: float

    def _says(self) -> str:
        return type(self).__name__

    def __str__(self) -> str:
        return self._says() if self.text is None else self.text


class NodeStarted(GraphEvent):
    """A visit of a node begins: its agent has been called.

    Attributes:
        node: The name of the node.
        visit: Which visit of it in this run, from 1.
    """

    node: str
    visit: int

    def _says(self) -> str:
        return f"{self.node} started" + (f" (visit {self.visit})" if self.visit > 1 else "")


class NodeRetried(GraphEvent):
    """An attempt has failed, and the node will be tried again. What it said before this event does not count.

    Attributes:
        node: The name of the node.
        visit: Which visit.
        attempt: The number of the attempt that has failed, from 1.
        error: What it failed with.
        error_type: The name of the error's class.
        delay: After how many seconds it is tried again.
    """

    node: str
    visit: int
    attempt: int
    error: str
    error_type: str
    delay: float

    def _says(self) -> str:
        return f"{self.node} failed ({self.error_type}: {self.error}) and is tried again in {self.delay:.2g} s"


class NodeSkipped(GraphEvent):
    """A node will not run.

    Attributes:
        node: The name of the node.
        reason: Why.
    """

    node: str
    reason: str

    def _says(self) -> str:
        return f"{self.node} skipped: {self.reason}"


class NodeFinished(GraphEvent):
    """A visit of a node has ended well.

    Attributes:
        node: The name of the node.
        visit: Which visit.
        attempt: The number of the attempt that has succeeded.
        seconds: How long the visit took, all attempts and pauses included.
    """

    node: str
    visit: int
    attempt: int
    seconds: float

    def _says(self) -> str:
        return f"{self.node} finished in {self.seconds:.3g} s"


class NodeFailed(GraphEvent):
    """A visit of a node has failed for good.

    Attributes:
        node: The name of the node.
        visit: Which visit.
        attempt: The number of the last attempt.
        error: What it failed with.
        error_type: The name of the error's class.
        seconds: How long the visit took.
    """

    node: str
    visit: int
    attempt: int
    error: str
    error_type: str
    seconds: float

    def _says(self) -> str:
        return f"{self.node} failed: {self.error_type}: {self.error}"


class DecisionTaken(GraphEvent):
    """A node has decided where the run goes on.

    Attributes:
        node: The node that has decided.
        targets: The nodes that are next.
        why: What the decision rests on, such as a condition.
    """

    node: str
    targets: tuple[str, ...]
    why: str | None = None

    def _says(self) -> str:
        return f"{self.node} goes on with {', '.join(self.targets)}" + (f" ({self.why})" if self.why else "")


class GraphFinished(GraphEvent):
    """The run has ended: the last message of a graph.

    Attributes:
        status: "complete", "partial" (some nodes have failed) or "failed" (none has finished).
        results: The messages of the nodes on which no other depends, by their names.
        failed: The nodes that have failed.
        skipped: The nodes that were skipped.
        seconds: How long the run took.
    """

    status: str
    results: dict[str, tuple[Message, ...]]
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    seconds: float

    def _says(self) -> str:
        failed = f"; failed: {', '.join(self.failed)}" if self.failed else ""
        skipped = f"; skipped: {', '.join(self.skipped)}" if self.skipped else ""
        return f"{self.graph} {self.status} in {self.seconds:.3g} s{failed}{skipped}"


_NO_TOKENS: ReplayBuffer[str] = ReplayBuffer()
_NO_TOKENS.end = COMPLETE


class EventPromise(MessagePromise):
    """The promise of an event that has happened; the message is made when somebody asks for it.

    Args:
        event_class: The kind of event.
        fields: Its fields.
    """

    __slots__ = ()

    # There are many of them, and most are never read: what is the same for all takes no time here.
    _context = _failure = _run = _waiters = _given_resolver = _given_streamer = None
    _whole_from_pieces = True
    _buffer = _NO_TOKENS

    def __init__(self, event_class: type[GraphEvent], fields: dict[str, Any]) -> None:
        self._value = NO_VALUE
        self._message_class = event_class
        self._metadata = fields  # nobody changes it

    @property
    def event_class(self) -> type[GraphEvent]:
        """The kind of event."""
        return self._message_class  # type: ignore[return-value]

    def __await__(self) -> Generator[Any, Any, Message]:
        if self._value is NO_VALUE:
            self._value = self._message_class(**self._metadata or {})
        message: Message = self._value
        return message
        yield  # it is a generator, which never waits

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _make_whole(self) -> Message:
        return self._message_class(**self._metadata or {})


def spoken_in(node: str, promise: MessagePromise) -> MessagePromise:
    """Says of a message in which node it was said.

    Args:
        node: The name of the node.
        promise: The message, or an event of a graph that is the agent of the node.

    Returns:
        The message with `node`: the names of the nodes from the outermost one on, with slashes between them.
    """
    if type(promise) is EventPromise:
        fields = promise._metadata or {}
        inner = fields.get("node")
        return EventPromise(promise.event_class, {**fields, "node": f"{node}/{inner}" if inner else node})
    if isinstance(promise, LabelledPromise) and (inner := promise.metadata.get("node")):
        node = f"{node}/{inner}"
    return SpokenPromise(promise, node)


class SpokenPromise(LabelledPromise):
    """A message that says in which node it was said."""

    __slots__ = ("_node",)

    def __init__(self, source: MessagePromise, node: str) -> None:
        self._value = NO_VALUE
        self._source = source
        self._node = node

    @property
    def _labels(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {"node": self._node}


def is_event(promise: MessagePromise) -> bool:
    """Whether a message tells the progress of a graph, rather than being said by an agent."""
    return type(promise) is EventPromise or issubclass(promise.message_class, GraphEvent)


def messages_in(promises: Iterable[MessagePromise]) -> tuple[Message, ...]:
    """The messages of promises that are resolved, without the events among them."""
    return tuple(
        one._value for one in promises if type(one) is not EventPromise and not isinstance(one._value, GraphEvent)
    )


def result_in(promises: Sequence[MessagePromise]) -> tuple[Message, ...] | None:
    """The result of a graph in what it has replied; None as long as it has not ended, or if it tells no progress."""
    last = promises[-1] if promises else None
    if last is None or not issubclass(last.message_class, GraphFinished):
        return None
    results = last.metadata.get("results", {})
    return tuple(message for messages in results.values() for message in messages)


def result_of(messages: Sequence[Message]) -> list[Message]:
    """Of what a graph has replied the result, of what any other agent has replied all of it."""
    if messages and isinstance(messages[-1], GraphFinished):
        return [message for result in messages[-1].results.values() for message in result]
    return list(messages)
