"""People in the loop: questions, their answers, and the wait in between, which may be longer than a process lives."""

import asyncio
import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miniagents.agents import MiniAgent
from miniagents.ext.checkpoints import Entry, NewEntry
from miniagents.ext.workflow.errors import HumanInputError
from miniagents.message import Message

if TYPE_CHECKING:
    from miniagents.ext.graph.visit import Visit
    from miniagents.ext.workflow.context import Context
    from miniagents.ext.workflow.run import WorkflowRun

__all__ = ["OpenQuestion", "People", "open_questions_of"]


@dataclass(frozen=True)
class OpenQuestion:
    """A question that waits for its answer.

    Attributes:
        id: Its id, to answer it by.
        prompt: What is asked.
        deadline: Until when the answer is waited for, in seconds since 1970; None for as long as it takes.
        state: The state that asks.
    """

    id: str
    prompt: str
    deadline: float | None
    state: str


class People:
    """The questions of one run.

    Args:
        run: The run.
        asks: The agent that asks; None where answers come from elsewhere.
    """

    def __init__(self, run: "WorkflowRun", asks: MiniAgent | None) -> None:
        self._run = run
        self._asks = asks
        self.open: dict[str, OpenQuestion] = {}
        self.waiting: set[Visit] = set()
        self._answers: dict[str, str] = {}
        self._asked = asyncio.Event()
        self._told: dict[str, asyncio.Queue[str]] = {}

    async def until_asked(self, seconds: float) -> None:
        """Waits until a question is open, but no longer than so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()

    def restore(self, entry: Entry) -> None:
        """Takes up what was recorded of a question."""
        if entry.kind == "question":
            self.open[entry.data["id"]] = OpenQuestion(**entry.data)
        elif entry.kind == "answered":
            self._answers[entry.data["id"]] = entry.data["text"]
            self.open.pop(entry.data["id"], None)
            self._told.pop(entry.data["id"], None)
        elif entry.kind == "refused":
            queue = self._told.get(entry.data["id"])
            if queue is not None and not queue.empty():
                queue.get_nowait()
        elif entry.kind == "answer":
            self.tell(entry.data["id"], entry.data["text"])

    def tell(self, question_id: str, text: str) -> None:
        """Hands over an answer that has come from elsewhere."""
        if question_id not in self._answers:
            self._told.setdefault(question_id, asyncio.Queue()).put_nowait(text)

    async def ask(
        self,
        context: "Context",
        number: int,
        prompt: str,
        timeout: float | None,
        validator: Callable[[str], Any] | None,
        default: str | None,
    ) -> str:
        """See `Context.human_in_the_loop`."""
        visit = context._visit
        question_id = f"{context.state_name}-{visit.number}-{number}"
        if question_id in self._answers:
            return self._answers[question_id]
        question = self.open.get(question_id)
        if question is None:
            deadline = None if timeout is None else self._run.time() + timeout
            question = OpenQuestion(question_id, prompt, deadline, context.state_name)
            await self._run.journal.write(
                NewEntry("question", context.state_name, visit.number, number, dict(vars(question)))
            )
            self.open[question_id] = question
        if self._asks is None and self._run.journal.store is None:
            self._run.log_open_question(question)
        self.waiting.add(visit)
        self._asked.set()
        try:
            text = await self._accepted(context, question, validator)
        except TimeoutError:
            if default is None:
                raise HumanInputError(f"nobody has answered in time: {prompt}") from None
            text = default
        finally:
            self.waiting.discard(visit)
            if not self.waiting:
                self._asked.clear()
        await self._record("answered", context, question_id, text)
        self._answers[question_id] = text
        self.open.pop(question_id, None)
        return text

    async def _accepted(
        self, context: "Context", question: OpenQuestion, validator: Callable[[str], Any] | None
    ) -> str:
        refused: str | None = None
        left = None if question.deadline is None else question.deadline - self._run.time()
        async with asyncio.timeout(left):
            while True:
                text = await self._next_answer(question, refused)
                if validator is None or await _accepts(validator, text):
                    return text
                refused = text
                await self._record("refused", context, question.id, text)

    async def _next_answer(self, question: OpenQuestion, refused: str | None) -> str:
        """The first answer that comes, from the agent that asks or from elsewhere."""
        queue = self._told.setdefault(question.id, asyncio.Queue())
        if not queue.empty() or self._asks is None:
            return await queue.get()
        told = asyncio.ensure_future(queue.get())
        prompt = question.prompt if refused is None else f"{refused!r} will not do. {question.prompt}"
        replies = self._asks.inquire(Message(prompt, question_id=question.id, state=question.state))
        asked = asyncio.ensure_future(replies.aresolve_messages())
        try:
            await asyncio.wait([told, asked], return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                return told.result()
            return "\n".join(map(str, asked.result()))
        finally:
            told.cancel()
            asked.cancel()
            replies.cancel()
            await asyncio.gather(told, asked, return_exceptions=True)

    async def _record(self, kind: str, context: "Context", question_id: str, text: str) -> None:
        number = len(self._run.journal.entries)  # a question may be refused any number of times
        entry = NewEntry(kind, context.state_name, context._visit.number, number, {"id": question_id, "text": text})
        await self._run.journal.write(entry)


def open_questions_of(entries: list[Entry]) -> list[OpenQuestion]:
    """Finds the questions in a journal that wait for their answers."""
    answered = {entry.data["id"] for entry in entries if entry.kind == "answered"}
    asked = [OpenQuestion(**entry.data) for entry in entries if entry.kind == "question"]
    return [question for question in asked if question.id not in answered]


async def _accepts(validator: Callable[[str], Any], text: str) -> bool:
    try:
        accepted = validator(text)
        return bool(await accepted if inspect.isawaitable(accepted) else accepted)
    except (ValueError, TypeError, LookupError):
        return False  # such as that of `int(text)`
