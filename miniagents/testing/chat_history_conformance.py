"""`ChatHistoryConformance`: the tests that every chat history passes. It needs pytest and pytest-asyncio."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, ClassVar, Protocol, TypeAlias

import pytest

from miniagents.agents import MiniAgent
from miniagents.context import MiniAgents
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.testing.quiescence import quiescence
from miniagents.testing.sample_messages import SAMPLE_MESSAGES, RatedMessage
from promising.errors import PromiseCancelledError

__all__ = ["ChatHistoryConformance"]

_MANY = 8


class History(Protocol):
    """What is tested: a `miniagents.ext.history_agents.ChatHistory`, which this layer does not know."""

    @property
    def logging_agent(self) -> MiniAgent:
        """See `ChatHistory`."""
        ...

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """See `ChatHistory`."""
        ...

    async def record(self, promise: MessagePromise) -> Message:
        """See `ChatHistory`."""
        ...

    async def record_interrupted(self, promise: MessagePromise) -> None:
        """See `ChatHistory`."""

    def open(self) -> None:
        """See `ChatHistory`."""

    def close(self) -> None:
        """See `ChatHistory`."""


Reopen: TypeAlias = Callable[[], Awaitable[History]]


class NumberedMessage(Message):
    """The how many-th message of a writer it is."""

    writer: int
    number: int


class ChatHistoryConformance:
    """Tests whether a chat history does what each has to do. Derive from it, and override the fixture `history`.

    Override `reopen`, too, where the history outlives its object: a fixture that gives an async function, which makes
    another object for what `history` keeps.

    Attributes:
        keeps_lone_surrogates: Whether half characters come back as they were, and not as U+FFFD.
        keeps_undeclared_enums: Whether members of enums come back as such in fields that are not declared.
        many_writers: Whether several objects can write at the same time. If not, `reopen` should close those before.

    Example:
        ```python
        class TestMyHistory(ChatHistoryConformance):
            @pytest_asyncio.fixture
            async def history(self, tmp_path):
                history = MyHistory(tmp_path / "chat")
                yield history
                history.close()

            @pytest_asyncio.fixture
            async def reopen(self, history):
                async def another():
                    return MyHistory(history.path)

                return another
        ```
    """

    pytestmark: ClassVar[Any] = pytest.mark.asyncio

    keeps_lone_surrogates: ClassVar[bool] = True
    keeps_undeclared_enums: ClassVar[bool] = True
    many_writers: ClassVar[bool] = True

    @pytest.fixture
    def history(self) -> Any:
        """The history to test, without any message."""
        raise NotImplementedError(f"override the fixture `history` in {type(self).__name__}; it gives the one to test")

    @pytest.fixture
    def reopen(self, history: History) -> Any:
        """Makes further objects for the same history; by default there is only the one."""

        async def the_same() -> History:
            return history

        return the_same

    # --- what is kept ---

    async def test_it_begins_empty(self, history: History) -> None:
        """Nothing is there before anything is added, and opening adds nothing."""
        assert await history.aload_chat_history() == ()
        history.open()
        assert await history.aload_chat_history() == ()

    @pytest.mark.parametrize("name", SAMPLE_MESSAGES)
    async def test_any_message_comes_back_equal(self, history: History, reopen: Reopen, name: str) -> None:
        """Class, role, text, metadata and hash key are what they were, between two other messages."""
        message = SAMPLE_MESSAGES[name]
        messages = (Message("before"), message, Message("after"))
        await _record(history, *messages)
        loaded = await (await reopen()).aload_chat_history()
        if name == "enum_in_metadata" and not self.keeps_undeclared_enums:
            assert [str(each) for each in loaded] == ["before", str(message), "after"]
            return
        assert loaded == messages
        assert [each.hash_key for each in loaded] == [each.hash_key for each in messages]
        assert type(loaded[1]) is type(message)
        assert loaded[1].text == message.text
        assert str(loaded[1]) == str(message)
        assert [type(inner) for inner in loaded[1].iter_nested()] == [type(inner) for inner in message.iter_nested()]

    async def test_half_a_character(self, history: History, reopen: Reopen) -> None:
        """A lone surrogate, which a cut stream may end with, disturbs nothing."""
        await _record(history, Message("a\ud83d", note="\ude00b"), Message("after"))
        first, after = await (await reopen()).aload_chat_history()
        if self.keeps_lone_surrogates:
            assert first == Message("a\ud83d", note="\ude00b")
        else:
            assert first.text == "a\ufffd"
        assert after == Message("after")

    async def test_a_big_message(self, history: History, reopen: Reopen) -> None:
        """A message of some megabytes comes back whole."""
        message = Message("0123456789abcde\n" * 200_000, payload=bytes(500_000))
        await _record(history, message)
        assert await (await reopen()).aload_chat_history() == (message,)

    async def test_the_order_is_kept(self, history: History, reopen: Reopen) -> None:
        """Messages come back in the order in which they were added, equal ones as often as they were."""
        messages = [Message(f"{number % 7}") for number in range(60)]
        await _record(history, *messages[:30])
        assert await history.aload_chat_history() == tuple(messages[:30])
        another = await reopen()
        await _record(another, *messages[30:])
        assert await another.aload_chat_history() == tuple(messages)

    async def test_it_can_be_used_after_closing(self, history: History) -> None:
        """Closing is no end: a later use opens the history again, and finds what was there."""
        await _record(history, Message("one"))
        history.close()
        history.close()
        assert await history.aload_chat_history() == (Message("one"),)
        history.close()
        await _record(history, Message("two"))
        assert await history.aload_chat_history() == (Message("one"), Message("two"))

    # --- recording ---

    async def test_record_gives_the_message(self, history: History) -> None:
        """`record` waits for a message, adds it and returns it."""
        async with MiniAgents():
            promise = Message.promise(
                _streamer("Hel", "lo", then=lambda: promise.add_metadata(usage=3)), role="assistant"
            )
            assert await history.record(promise) == Message("Hello", role="assistant", usage=3)
        assert await history.aload_chat_history() == (Message("Hello", role="assistant", usage=3),)

    async def test_logging_agent_replies_with_what_it_records(self, history: History) -> None:
        """The logging agent passes on all messages, and has recorded them at the end of its reply."""
        sent = (SAMPLE_MESSAGES["role"], RatedMessage("Well done", stars=5), Message("and more"))
        async with MiniAgents():
            assert await history.logging_agent.inquire([sent[0], [sent[1:]]]) == sent
            assert await history.aload_chat_history() == sent

    async def test_tokens_pass_before_the_message_is_complete(self, history: History) -> None:
        """The logging agent streams: its readers get a token while the next one is not even made."""
        may_go_on = asyncio.Event()

        async def tokens(_: MessagePromise) -> AsyncIterator[str]:
            yield "Hel"
            await may_go_on.wait()
            yield "lo"

        seen = []
        async with asyncio.timeout(30), MiniAgents():
            async for promise in history.logging_agent.inquire(["Hi", Message.promise(tokens)]):
                async for token in promise:
                    if token == "Hel":
                        await quiescence()
                        assert Message("Hello") not in await history.aload_chat_history()
                        may_go_on.set()
                    seen.append(token)
        assert seen == ["Hi", "Hel", "lo"]
        assert await history.aload_chat_history() == (Message("Hi"), Message("Hello"))

    # --- what goes wrong ---

    async def test_a_message_that_breaks_off_is_kept_and_marked(self, history: History, reopen: Reopen) -> None:
        """What has come of a message that fails is kept, marked as interrupted; its error arrives as it is."""
        error = ConnectionError("cut")
        async with MiniAgents():
            with pytest.raises(ConnectionError) as raised:
                await history.record(Message.promise(_streamer("Hel", "lo", error=error), role="assistant"))
        assert raised.value is error
        expected = Message("Hello", role="assistant", interrupted=True)
        assert await (await reopen()).aload_chat_history() == (expected,)

    async def test_a_message_that_fails_at_once_leaves_nothing(self, history: History) -> None:
        """Of a message without any token nothing is kept."""
        async with MiniAgents():
            with pytest.raises(ConnectionError):
                await history.record(Message.promise(_streamer(error=ConnectionError("refused")), role="assistant"))
        assert await history.aload_chat_history() == ()

    async def test_a_message_that_lacks_what_its_class_demands(self, history: History) -> None:
        """If a message breaks off before all of its fields are known, its text is kept as a plain message."""
        async with MiniAgents():
            with pytest.raises(ConnectionError):
                await history.record(RatedMessage.promise(_streamer("Well", error=ConnectionError("cut")), by="Ada"))
        assert await history.aload_chat_history() == (Message("Well", by="Ada", interrupted=True),)

    async def test_errors_pass_through_the_logging_agent(self, history: History) -> None:
        """A failing message fails for the reader of the reply, too, and the messages around it are recorded."""
        error = ConnectionError("cut")
        failing = Message.promise(_streamer("Hel", error=error))
        async with MiniAgents():
            replies = history.logging_agent.inquire(["before", failing, "after"])
            with pytest.raises(ConnectionError) as raised:
                await replies
        assert raised.value is error
        expected = (Message("before"), Message("Hel", interrupted=True), Message("after"))
        assert await history.aload_chat_history() == expected

    async def test_an_error_that_nobody_reads_is_no_secret(
        self, history: History, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Recording a failing message is no way to deal with its error: it is logged if nobody asks for the reply."""
        async with MiniAgents():
            history.logging_agent.inquire(Message.promise(_streamer("Hel", error=ConnectionError("cut"))))
        assert "cut" in caplog.text
        assert await history.aload_chat_history() == (Message("Hel", interrupted=True),)

    async def test_a_cancelled_message_is_kept_and_marked(self, history: History) -> None:
        """What has come of a message whose producer is cancelled is kept."""
        async with MiniAgents():
            promise = Message.promise(_streamer("Hel", then=asyncio.Event().wait))
            recording = asyncio.ensure_future(history.record(promise))
            await quiescence()
            promise.cancel()
            with pytest.raises(PromiseCancelledError):
                await recording
        assert await history.aload_chat_history() == (Message("Hel", interrupted=True),)

    async def test_a_cancelled_recording_is_kept_and_marked(self, history: History) -> None:
        """Cancelling the recording keeps what has come, and does not disturb the message."""
        may_end = asyncio.Event()
        async with MiniAgents():
            promise = Message.promise(_streamer("Hel", then=may_end.wait))
            recording = asyncio.ensure_future(history.record(promise))
            await quiescence()
            recording.cancel()
            with pytest.raises(asyncio.CancelledError):
                await recording
            may_end.set()
            assert await promise == Message("Hel")
        assert await history.aload_chat_history() == (Message("Hel", interrupted=True),)

    async def test_record_interrupted_keeps_what_has_come(self, history: History) -> None:
        """What has come of a message can be kept before it is known how it ends."""
        async with MiniAgents():
            promise = Message.promise(_streamer("Hel", then=asyncio.Event().wait), role="assistant")
            await quiescence()
            await history.record_interrupted(promise)
            promise.cancel()
        assert await history.aload_chat_history() == (Message("Hel", role="assistant", interrupted=True),)

    async def test_a_cancelled_addition_is_whole_or_not_at_all(self, history: History, reopen: Reopen) -> None:
        """Wherever an addition is cancelled, the message is there or not, and the next ones are added as ever."""
        messages = _numbered(0, 40)
        confirmed: list[Message] = []
        for message in messages:
            recording = asyncio.ensure_future(history.record(MessagePromise.of(message)))
            for _ in range(int(1.2**message.number) - 1):
                await asyncio.sleep(0)
            recording.cancel()
            await asyncio.wait([recording])
            if not recording.cancelled():
                confirmed.append(recording.result())
        await _record(history, last := Message("last"))
        loaded = await (await reopen()).aload_chat_history()
        assert [message for message in [*messages, last] if message in loaded] == list(loaded)
        assert _keys([*confirmed, last]) <= _keys(loaded)

    # --- many at once ---

    async def test_many_writers(self, history: History, reopen: Reopen) -> None:
        """Of many writers at once nothing is lost or doubled, and the order of each is kept."""
        writers = await self._objects(history, reopen, _MANY)
        count = 20
        await asyncio.gather(
            *(_record(writer, *_numbered(number, count)) for number, writer in enumerate([*writers, *writers]))
        )
        loaded = await (await reopen()).aload_chat_history()
        for number in range(2 * _MANY):
            of_writer = [each for each in loaded if isinstance(each, NumberedMessage) and each.writer == number]
            assert of_writer == _numbered(number, count)
        assert len(loaded) == 2 * _MANY * count

    async def test_loading_while_others_write(self, history: History, reopen: Reopen) -> None:
        """A load finds all that is confirmed before it, in the order that all other loads find, without gaps."""
        writers = await self._objects(history, reopen, _MANY)
        confirmed: list[Message] = []

        async def write(number: int, writer: History) -> None:
            for message in _numbered(number, 10):
                await _record(writer, message)
                confirmed.append(message)
                await asyncio.sleep(0)  # a history in memory does not wait by itself

        async def load(reader: History) -> tuple[Message, ...]:
            loaded: tuple[Message, ...] = ()
            while len(loaded) < _MANY * 10:
                before, expected = loaded, _keys(confirmed)
                loaded = await reader.aload_chat_history()
                assert loaded[: len(before)] == before
                assert expected <= _keys(loaded)
                await asyncio.sleep(0)
            return loaded

        readers = await self._objects(history, reopen, 2)
        async with asyncio.TaskGroup() as group:
            loads = [group.create_task(load(reader)) for reader in readers]
            for number, writer in enumerate(writers):
                group.create_task(write(number, writer))
        assert loads[0].result() == loads[1].result()

    async def _objects(self, history: History, reopen: Reopen, count: int) -> list[History]:
        if not self.many_writers:
            return [history] * count
        return [history, *[await reopen() for _ in range(count - 1)]]


def _streamer(
    *tokens: str, then: Callable[[], Any] | None = None, error: Exception | None = None
) -> Callable[[MessagePromise], AsyncIterator[str]]:
    """Makes what streams the tokens, does something then, and fails if there is an error."""

    async def stream(_: MessagePromise) -> AsyncIterator[str]:
        for token in tokens:
            yield token
        if then is not None:
            waiting = then()
            if isinstance(waiting, Awaitable):
                await waiting
        if error is not None:
            raise error

    return stream


async def _record(history: History, *messages: Message) -> None:
    for message in messages:
        await history.record(MessagePromise.of(message))


def _numbered(writer: int, count: int) -> list[NumberedMessage]:
    return [NumberedMessage(f"{number} of {writer} " * 9, writer=writer, number=number) for number in range(count)]


def _keys(messages: Iterable[Message]) -> set[str]:
    return {message.hash_key for message in messages}
