"""People in the loop: questions, their answers, and the wait in between, which may be longer than a process lives."""

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging import getLogger
from typing import TYPE_CHECKING, Any, NamedTuple

from miniagents.agents import MiniAgent
from miniagents.ext.checkpoints import Entry, NewEntry
from miniagents.ext.workflow.errors import HumanInputError
from miniagents.ext.workflow.questions import OpenQuestion
from miniagents.message import Message

if TYPE_CHECKING:
    from miniagents.ext.graph.visit import Visit
    from miniagents.ext.workflow.context import Context
    from miniagents.ext.workflow.run import WorkflowRun

__all__ = ["People"]

_logger = getLogger("miniagents")


class _Told(NamedTuple):
    """An answer that has come.

    Attributes:
        text: The answer.
        number: The number of its entry; None if the agent that asks has brought it.
        time: When it came, in seconds since 1970.
    """

    text: str
    number: int | None = None
    time: float = 0.0


class People:
    """The questions of one run.

    Args:
        run: The run.
        asks: The agent that asks; None where answers come from elsewhere.

    Attributes:
        open: The questions that wait for their answers, by their ids.
        waiting: The visits that wait for a person.
    """

    def __init__(self, run: "WorkflowRun", asks: MiniAgent | None) -> None:
        self._run = run
        self._asks = asks
        self.open: dict[str, OpenQuestion] = {}
        self.waiting: dict[Visit, int] = {}
        self._prompts: dict[str, str] = {}
        self._answers: dict[str, str] = {}
        self._told: dict[str, deque[_Told]] = {}
        self._news: dict[str, asyncio.Event] = {}  # of the questions that are waited for
        self._asked = asyncio.Event()

    # --- what is known of questions ---

    async def until_asked(self, seconds: float) -> None:
        """Waits until a question is waited for, but no longer than so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()

    def restore(self, entry: Entry) -> None:
        """Takes up what was recorded of a question."""
        key = entry.data["id"]
        if entry.kind == "question":
            self._note(OpenQuestion(**entry.data, run_id=self._run.run_id))
        elif entry.kind == "answer":
            self.tell(key, entry.data["text"], entry.attempt, entry.time)
        elif entry.kind == "refused":
            told = self._told.get(key, ())
            self._told[key] = deque(one for one in told if one.number != entry.data["answer"])
        else:
            self.open.pop(key, None)
            self._told.pop(key, None)
            if entry.kind == "answered":
                self._answers[key] = entry.data["text"]

    def tell(self, question_id: str, text: str, number: int, time: float) -> None:
        """Hands over an answer that has come from elsewhere.

        Args:
            question_id: The question.
            text: The answer.
            number: What tells it from other answers.
            time: When it came, in seconds since 1970.
        """
        if question_id in self.open:
            self._told.setdefault(question_id, deque()).append(_Told(text, number, time))
            if question_id in self._news:
                self._news[question_id].set()

    def close(self, state: str) -> None:
        """Forgets what a state that is over has asked."""
        if self.open:
            for question in [question for question in self.open.values() if question.state == state]:
                del self.open[question.id]

    def _note(self, question: OpenQuestion) -> None:
        self.open[question.id] = question
        self._prompts[question.id] = question.prompt

    # --- asking ---

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
        question = await self._question(context, number, prompt, timeout)
        if question.id in self._answers:
            return self._answers[question.id]
        with self._waiting_in(context._visit):
            text = await self._answer_to(context, question, validator, default)
            await context._visit.step_in()
        if text is None:
            raise HumanInputError(f"nobody has answered in time: {prompt}")
        return text

    @contextmanager
    def _waiting_in(self, visit: "Visit") -> Iterator[None]:
        """A time in which a visit waits for a person, or for its place afterwards, which others may have meanwhile."""
        self.waiting[visit] = self.waiting.get(visit, 0) + 1
        visit.step_out()
        self._asked.set()
        try:
            yield
        finally:
            self.waiting[visit] -= 1
            if not self.waiting[visit]:
                del self.waiting[visit]
            if not self.waiting:
                self._asked.clear()

    async def _answer_to(
        self,
        context: "Context",
        question: OpenQuestion,
        validator: Callable[[str], Any] | None,
        default: str | None,
    ) -> str | None:
        """The answer, recorded; None if there is none. Another attempt finds it, also if this one is stopped now."""
        text = await self._accepted(context, question, validator)
        text = default if text is None else text
        self.open.pop(question.id, None)
        if text is None:
            await self._record("withdrawn", context, question.id)
        else:
            self._answers[question.id] = text
            await self._record("answered", context, question.id, text=text)
        return text

    async def _question(self, context: "Context", number: int, prompt: str, timeout: float | None) -> OpenQuestion:
        """The question as it was asked before this process, or by an attempt that has failed; else a new one."""
        first = question_id = f"{context.state_name}-{context._visit.number}-{number}"
        version = 1
        while self._prompts.get(question_id, prompt) != prompt:  # an answer to something else would be no answer
            if question_id in self.open:
                await self._record("withdrawn", context, question_id)
                self.open.pop(question_id, None)
            version += 1
            question_id = f"{first}.{version}"
        known = self.open.get(question_id)
        if known is not None:
            return known
        deadline = None if timeout is None else self._run.time() + timeout
        question = OpenQuestion(question_id, prompt, deadline, context.state_name, context.run_id)
        if question_id not in self._answers:
            await self._record("question", context, question_id, prompt=prompt, deadline=deadline, state=question.state)
            self._note(question)
            if self._asks is None:
                _logger.info("%s waits for an answer to %s: %s", context.run_id, question.id, question.prompt)
        return question

    async def _accepted(
        self, context: "Context", question: OpenQuestion, validator: Callable[[str], Any] | None
    ) -> str | None:
        """Waits for an answer that will do; None if there was none in time."""
        news = self._news[question.id] = asyncio.Event()
        refused: str | None = None
        refusals = 0
        try:
            while (told := await self._next_answer(context._visit, question, refused)) is not None:
                if await self._will_do(question, told, validator):
                    return told.text
                refused = told.text
                refusals += 1
                if refusals > 1 and told.number is None:  # an agent that is wrong again and again is no reason to spin
                    await asyncio.sleep(min(0.01 * 2**refusals, 5))
                await self._record("refused", context, question.id, text=refused, answer=told.number)
            return None
        finally:
            if self._news.get(question.id) is news:
                del self._news[question.id]

    async def _will_do(self, question: OpenQuestion, told: _Told, validator: Callable[[str], Any] | None) -> bool:
        try:
            return validator is None or await _accepts(validator, told.text)
        except asyncio.CancelledError:  # it is looked at by the next attempt
            self._told.setdefault(question.id, deque()).appendleft(told)
            raise

    async def _next_answer(self, visit: "Visit", question: OpenQuestion, refused: str | None) -> _Told | None:
        """The next answer, from the agent that asks or from elsewhere; None if there is none in time."""
        left = None if question.deadline is None else question.deadline - self._run.time()
        told = self._take(question)
        if told is not None or (left is not None and left <= 0):
            return told
        self._run.note_waiting(visit)
        limit = asyncio.timeout(left)
        try:
            async with limit:
                if self._asks is None:
                    await self._until_told(question)
                else:
                    return await self._ask_for(question, refused, self._asks)
        except TimeoutError:
            if not limit.expired():
                raise
            return None
        return self._take(question)

    def _take(self, question: OpenQuestion) -> _Told | None:
        """An answer that has come from elsewhere, unless it came too late."""
        told = self._told.get(question.id)
        while told:
            one = told.popleft()
            if question.deadline is None or one.time <= question.deadline:
                return one
        return None

    async def _until_told(self, question: OpenQuestion) -> None:
        news = self._news[question.id]
        while not self._told.get(question.id):
            news.clear()
            await news.wait()

    async def _ask_for(self, question: OpenQuestion, refused: str | None, asks: MiniAgent) -> _Told | None:
        prompt = question.prompt if refused is None else f"{refused!r} will not do. {question.prompt}"
        message = Message(prompt, question_id=question.id, state=question.state)
        replies = asks.inquire(message, errors_as_messages=False)
        told = asyncio.ensure_future(self._until_told(question))
        asked = asyncio.ensure_future(replies.aresolve_messages())
        try:
            await asyncio.wait([told, asked], return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                return self._take(question)
            messages = asked.result()
        except EOFError as error:
            why = f" ({error})" if str(error) else ""
            failure = HumanInputError(f"nobody can be asked any more{why}: {question.prompt}")
            if self._run.journal.is_recorded:  # it can be answered when the run is resumed
                self._run.crash(failure)
            raise failure from error
        finally:
            told.cancel()
            asked.cancel()
            replies.cancel()
            await asyncio.gather(told, asked, return_exceptions=True)
        return _Told(str(messages[-1]) if messages else "")

    async def _record(self, kind: str, context: "Context", question_id: str, **data: Any) -> None:
        entry = NewEntry(kind, context.state_name, context._visit.number, context.attempt, {"id": question_id, **data})
        writing = self._run.journal.add(entry)
        if writing is not None:
            await writing


async def _accepts(validator: Callable[[str], Any], text: str) -> bool:
    try:
        accepted = validator(text)
        return bool(await accepted if inspect.isawaitable(accepted) else accepted)
    except (ValueError, TypeError, LookupError):
        return False  # such as that of `int(text)`
