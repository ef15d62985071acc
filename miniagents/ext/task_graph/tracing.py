"""Spans of runs, nodes, modules and retries, for the nodes and modules that say `trace=True`.

A span that code runs in is the current one of its task from the beginning of that code to its end, and never longer;
the span of a node, which can have several attempts, each in a task of its own, is handed to them when they are called.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from miniagents.ext.task_graph.visits import TaskVisit

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from miniagents.ext.graph.run import GraphRun, NodeRun
    from miniagents.ext.task_graph.state import RunState

__all__ = ["RunTracer", "TracedVisit", "check_installed"]


def check_installed() -> None:
    """Looks whether tracing is possible.

    Raises:
        ImportError: opentelemetry-api is not installed.
    """
    try:
        import opentelemetry.trace  # noqa: F401
    except ImportError:
        raise ImportError('`trace=True` needs opentelemetry-api: pip install "miniagents[otel]"') from None


class RunTracer:
    """Makes the spans of one run, and imports OpenTelemetry with the first of them.

    Args:
        provider: Where the spans go; the one that is set for the whole process otherwise.
    """

    __slots__ = ("_provider", "_tracer")

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        self._provider = provider
        self._tracer: Tracer | None = None

    def start(self, name: str, attributes: dict[str, Any], parent: "Span | None" = None) -> "Span":
        """Starts a span.

        Args:
            name: What it is called.
            attributes: What is known of it.
            parent: In which other one; the current one otherwise.

        Returns:
            The span, which is not the current one.
        """
        from opentelemetry import trace

        if self._tracer is None:
            self._tracer = trace.get_tracer("miniagents", tracer_provider=self._provider)
        return self._tracer.start_span(
            name, context=None if parent is None else trace.set_span_in_context(parent), attributes=attributes
        )

    @contextmanager
    def run(self, alias: str, state: "RunState") -> Iterator[None]:
        """Surrounds a run, in the task of the agent.

        Args:
            alias: The alias of the agent.
            state: What is known of the run, which has its final status at the end.
        """
        task = state.task
        span = self.start(f"run_task {alias}", {"miniagents.task.id": str(task.id), "miniagents.task.type": task.type})
        with _surrounding(span):
            try:
                yield
            finally:
                span.set_attribute("miniagents.task.status", task.status.value)
                _note(span, state.first_error)

    @contextmanager
    def module(self, name: str, kind: str) -> Iterator[None]:
        """Surrounds one run of a module, in the task that it runs in."""
        with _surrounding(
            self.start(f"module {name}", {"miniagents.module.name": name, "miniagents.module.type": kind})
        ):
            yield


class TracedVisit(TaskVisit):
    """A visit of a node that has a span, with one in it for each further attempt.

    Args:
        run: The run of the graph.
        node_run: The node in this run.
        tracer: Who makes the spans.
    """

    __slots__ = ("_retry_span", "_span", "_tracer")

    def __init__(self, run: "GraphRun", node_run: "NodeRun", tracer: RunTracer) -> None:
        super().__init__(run, node_run)
        self._tracer = tracer
        self._span: Span | None = None
        self._retry_span: Span | None = None

    def attempt_span(self) -> AbstractContextManager[None]:
        """Surrounds the call of the agent, which begins in the span of this attempt."""
        name = self.node_run.node.name
        if self._span is None:
            attributes = {"miniagents.node.name": name, "miniagents.node.visit": self.number}
            self._span = self._tracer.start(f"node {name}", attributes)
        elif self._retry_span is None:
            attributes = {"miniagents.node.name": name, "miniagents.node.attempt": self.attempt}
            self._retry_span = self._tracer.start(f"retry {name}", attributes, self._span)
        return _current(self._retry_span or self._span)

    def attempt_failed(self, error: BaseException) -> None:
        """Notes that an attempt has failed, after which there will be another one."""
        if self._span is not None:
            self._span.add_event(
                "retry", {"error.type": type(error).__qualname__, "miniagents.node.attempt": self.attempt}
            )
        self._end_retry(error)

    def end_span(self, error: BaseException | None = None) -> None:
        """Ends what is open, which may be nothing.

        Args:
            error: What the visit has failed with.
        """
        self._end_retry(error)
        span, self._span = self._span, None
        if span is not None:
            span.set_attribute("miniagents.node.attempts", self.attempt)
            _end(span, error)

    def abandon(self) -> None:
        """See `Visit.abandon`."""
        self.end_span(asyncio.CancelledError())
        super().abandon()

    def _end_retry(self, error: BaseException | None) -> None:
        span, self._retry_span = self._retry_span, None
        if span is not None:
            _end(span, error)


@contextmanager
def _current(span: "Span") -> Iterator[None]:
    from opentelemetry import context, trace

    token = context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def _surrounding(span: "Span") -> Iterator[None]:
    failure: BaseException | None = None
    try:
        with _current(span):
            yield
    except BaseException as error:
        failure = error
        raise
    finally:
        _end(span, failure)


def _end(span: "Span", error: BaseException | None) -> None:
    _note(span, error)
    span.end()


def _note(span: "Span", error: BaseException | None) -> None:
    if error is not None:
        from miniagents.ext.otel import note_failure

        note_failure(span, error)
