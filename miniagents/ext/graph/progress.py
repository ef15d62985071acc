"""The progress of a run in the terminal: a table that lives while the run does."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miniagents.ext.graph.events import (
    DecisionTaken,
    GraphEvent,
    GraphFinished,
    NodeFailed,
    NodeFinished,
    NodeRetried,
    NodeSkipped,
    NodeStarted,
)
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

__all__ = ["Progress"]

_STYLES = {"running": "bold blue", "finished": "green", "failed": "bold red", "skipped": "dim", "retried": "yellow"}
_LONGEST_SAID = 60
_MOST_ROWS = 40


@dataclass
class _Row:
    """What the table says of a node."""

    state: str = "waiting"
    visits: int = 0
    retries: int = 0
    began: float | None = None
    seconds: float | None = None
    note: str = ""
    said: str = ""


class Progress:
    """Knows from the reply of a graph, or a workflow, how far its run has come.

    Args:
        alias: What runs.
        more: Gives further lines for below the table.
    """

    def __init__(self, alias: str, more: Callable[[], list[str]] | None = None) -> None:
        self._alias = alias
        self._live: Live | None = None
        self._more = more
        self._rows: dict[str, _Row] = {}
        self._began = time.monotonic()
        self._ended: str | None = None

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Takes the table off the terminal for as long as a person is asked something there."""
        live = self._live
        if live is not None:
            live.stop()
        try:
            yield
        finally:
            if live is not None and self._live is live:
                live.start(refresh=True)

    async def show(self, replies: MessageSequencePromise, console: "Console | None" = None) -> tuple[Message, ...]:
        """Shows a run until it has ended: a live table in a terminal, a line for each event elsewhere.

        Args:
            replies: The reply of a graph, a task graph or a workflow.
            console: Where; standard error otherwise.

        Returns:
            The reply.

        Raises:
            BaseException: What the run fails with.
        """
        from rich.console import Console
        from rich.live import Live

        console = console or Console(stderr=True)
        if console.is_terminal:
            self._live = Live(self, console=console, refresh_per_second=8)
            try:
                with self._live:
                    await self.follow(replies, _ignore)
            finally:
                self._live = None
        else:
            await self.follow(replies, lambda event: console.print(str(event), markup=False, highlight=False))
        return await replies

    async def follow(self, replies: MessageSequencePromise, on_event: Callable[[GraphEvent], None]) -> None:
        """Reads a reply to its end, what nodes say token by token.

        Args:
            replies: The reply.
            on_event: Is told of each event.

        Raises:
            BaseException: What the run fails with.
        """
        speakers: list[asyncio.Task[None]] = []
        try:
            async for promise in replies:
                if not issubclass(promise.message_class, GraphEvent):
                    speakers.append(asyncio.ensure_future(self._listen(promise)))
                    continue
                event = await promise
                assert isinstance(event, GraphEvent)
                self.take(event)
                on_event(event)
        finally:
            for speaker in speakers:
                if not speaker.done():
                    speaker.cancel()
            await asyncio.gather(*speakers, return_exceptions=True)

    async def _listen(self, promise: MessagePromise) -> None:
        row = self._row(str(promise.metadata.get("node", "")))
        row.said = ""
        with suppress(Exception):  # it is raised to who reads the reply
            async for token in promise:
                row.said = (row.said + token)[-2 * _LONGEST_SAID :]

    def take(self, event: GraphEvent) -> None:
        """Notes an event."""
        if isinstance(event, GraphFinished):
            if event.graph == self._alias:
                self._ended = str(event)
            return
        row = self._row(getattr(event, "node", ""))
        if isinstance(event, NodeStarted):
            row.state, row.visits, row.began, row.seconds, row.note = "running", event.visit, time.monotonic(), None, ""
        elif isinstance(event, NodeRetried):
            row.state, row.note = "retried", f"{event.error_type}: {event.error}"
            row.retries += 1
        elif isinstance(event, NodeFinished):
            row.state, row.seconds, row.note = "finished", event.seconds, ""
        elif isinstance(event, NodeFailed):
            row.state, row.seconds, row.note = "failed", event.seconds, f"{event.error_type}: {event.error}"
        elif isinstance(event, NodeSkipped):
            row.state, row.note = "skipped", event.reason
        elif isinstance(event, DecisionTaken):
            row.note = f"goes on with {', '.join(event.targets)}"

    def _row(self, node: str) -> _Row:
        return self._rows.setdefault(node, _Row())

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        seconds = time.monotonic() - self._began
        counts: dict[str, int] = {}
        for row in self._rows.values():
            counts[row.state] = counts.get(row.state, 0) + 1
        summary = ", ".join(f"{count} {state}" for state, count in counts.items())
        last = self._ended or f"{self._alias}: {summary} ({seconds:.1f} s)"
        more = [] if self._more is None else self._more()
        return Group(self._table(), *map(Text, more), Text(last, style="bold"))

    def _table(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for title, justify in (("node", "left"), ("state", "left"), ("visit", "right"), ("retries", "right")):
            table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("", overflow="ellipsis", no_wrap=True)
        for name, row in self._shown():
            seconds = row.seconds
            if seconds is None and row.began is not None and row.state in ("running", "retried"):
                seconds = time.monotonic() - row.began
            said = row.said.replace("\n", " ").strip()[-_LONGEST_SAID:]
            table.add_row(
                Text(name),
                Text(row.state, style=_STYLES.get(row.state, "")),
                str(row.visits or ""),
                str(row.retries or ""),
                "" if seconds is None else f"{seconds:.1f} s",
                Text(row.note.replace("\n", " ") or said),
            )
        return table

    def _shown(self) -> list[tuple[str, _Row]]:
        """The rows that there is room for: what runs comes first, then what has happened last."""
        rows = [(name, row) for name, row in self._rows.items() if name]
        if len(rows) <= _MOST_ROWS:
            return rows
        at_work = [pair for pair in rows if pair[1].state in ("running", "retried")][:_MOST_ROWS]
        rest = [pair for pair in rows if pair not in at_work]
        return [*rest[len(rest) - (_MOST_ROWS - len(at_work)) :], *at_work] if len(at_work) < _MOST_ROWS else at_work


def _ignore(_: Any) -> None:
    pass
