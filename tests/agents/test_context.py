"""`MiniAgents`: running, and handing messages to handlers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import miniagents
from miniagents import (
    InteractionContext,
    Message,
    MessagePromise,
    MessageSequence,
    MiniAgents,
    join_messages,
    miniagent,
    split_messages,
)
from miniagents.testing import Timeline, quiescence
from promising import Promise, PromisingContext, StreamAppender


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Replies with what it is sent."""
    ctx.reply(ctx.message_promises)


def test_run() -> None:
    """`run` takes coroutines and replies, several times, and is there as a function, too."""
    mini_agents = MiniAgents()

    async def main() -> str:
        assert MiniAgents.current() is mini_agents
        return str((await echo.inquire("x"))[0])

    assert mini_agents.run(main()) == "x"
    assert mini_agents.run(echo.inquire("Hi")) == (Message("Hi"),)
    assert miniagents.run(echo.inquire("Hi")) == (Message("Hi"),)


async def test_run_inside_a_loop() -> None:
    """In a running loop `run` says what to use, and `arun` works."""
    with pytest.raises(RuntimeError, match="arun"):
        MiniAgents().run(asyncio.sleep(0))
    assert await MiniAgents().arun(echo.inquire("Hi")) == (Message("Hi"),)


async def test_current_context() -> None:
    """The innermost open `MiniAgents` is found through contexts of other classes."""
    async with MiniAgents() as outer, PromisingContext():
        assert MiniAgents.current() is outer
    assert MiniAgents.current() is None


@pytest.mark.parametrize("how", ["constructor", "decorator"])
async def test_each_message_is_handed_over_once(how: str) -> None:
    """Handlers get each message object once, whatever way it takes, those inside of it first."""
    handed: list[Message] = []

    async def handler(message: Message) -> None:
        await asyncio.sleep(0)
        handed.append(message)

    context = MiniAgents(on_persist_message=handler if how == "constructor" else ())
    if how == "decorator":
        context.on_persist_message(handler)

    async def stream(_: Any) -> AsyncIterator[str]:
        yield "str"
        yield "eamed"

    async with context:
        inner = Message("inner")
        outer = Message("outer", about=[inner])
        replies = echo.inquire(["text", outer, Message.promise(stream)])
        await echo.inquire([replies, outer])
        appender = StreamAppender[str]()
        MessageSequence(Message.promise(appender)).close()
        with appender:
            appender.append("appended")
        Message.promise(stream, start_soon=False)
    assert sorted(str(message) for message in handed) == ["appended", "inner", "outer", "streamed", "text"]
    assert handed.index(inner) < handed.index(outer)


async def test_messages_of_other_contexts_are_not_handed_over() -> None:
    """A handler gets the messages of its own context only, and nothing when its context has ended."""
    handed: list[str] = []

    async def handler(message: Message) -> None:
        handed.append(str(message))

    async with MiniAgents(on_persist_message=handler):
        await echo.inquire("mine")
    async with MiniAgents():
        await echo.inquire("not mine")
    assert handed == ["mine"]


async def test_a_failing_message_is_not_handed_over_and_stays_unconsumed(caplog: pytest.LogCaptureFixture) -> None:
    """To persist is not to consume: the error of a message that nobody reads is still reported."""
    handed: list[Message] = []

    async def handler(message: Message) -> None:
        handed.append(message)

    async with MiniAgents(on_persist_message=handler):
        appender = StreamAppender[str]()
        MessageSequence(Message.promise(appender)).close()
        await quiescence()
        appender.close(ValueError("never read"))
    assert not handed
    assert "never read" in caplog.text


async def test_a_failing_handler_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The error of a handler is logged; an interrupt is raised at the exit."""

    async def failing(message: Message) -> None:
        raise ValueError("disk full")

    async def interrupting(message: Message) -> None:
        raise KeyboardInterrupt

    async with MiniAgents(on_persist_message=failing):
        assert await echo.inquire("x") == (Message("x"),)
    assert "disk full" in caplog.text
    with pytest.raises(KeyboardInterrupt):
        async with MiniAgents(on_persist_message=interrupting):
            await echo.inquire("x")


class Report(Message):
    chapters: tuple[Message, ...] = ()
    author: Message | None = None


async def slow_stream(_: Any) -> AsyncIterator[str]:
    """Streams two tokens, a second each."""
    for token in ("slow ", "stream"):
        await asyncio.sleep(1)
        yield token


class Handed(list[Message]):
    """A handler that remembers what it was handed, after some work."""

    async def __call__(self, message: Message) -> None:
        self.append(message)
        await asyncio.sleep(0)

    @property
    def texts(self) -> list[str]:
        return sorted(str(message.text) for message in self)


def _appended(text: str) -> MessagePromise:
    with StreamAppender[str]() as appender:
        for token in text:
            appender.append(token)
    return Message.promise(appender)


async def _later(value: Any) -> Any:
    await asyncio.sleep(1)
    return value


async def _generate(*values: Any) -> AsyncIterator[Any]:
    for value in values:
        await asyncio.sleep(0)
        yield value


KINDS: dict[str, Callable[[], Any]] = {
    "text": lambda: "m",
    "message": lambda: Message("m"),
    "dict": lambda: {"text": "m"},
    "stream": lambda: Message.promise(lambda _: _generate("m")),
    "lazy stream": lambda: Message.promise(lambda _: _generate("m"), start_soon=False),
    "appender": lambda: _appended("m"),
    "prefilled": lambda: Message.promise(text="m"),
    "of another promise": lambda: Message.promise(_appended("m"), role="user"),
    "generator": lambda: _generate("m"),
    "coroutine": lambda: _later("m"),
    "promise": lambda: Promise(lambda _: _later(Message("m"))),
    "joined": lambda: join_messages(["", "m"]),
    "split": lambda: split_messages("m"),
    "reply": lambda: echo.inquire("m"),
    "nested lists": lambda: [[], [["m"]]],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["sent", "replied", "sequence"])
async def test_whatever_becomes_a_message_is_handed_over(kind: str, way: str) -> None:
    """A message is handed over once, in whatever form it comes and however many sequences it passes."""
    handed = Handed()

    @miniagent
    async def replier(ctx: InteractionContext) -> None:
        ctx.reply(KINDS[kind]())

    async with MiniAgents(on_persist_message=handed):
        if way == "sent":
            replies = echo.inquire(KINDS[kind]())
        elif way == "replied":
            replies = replier.inquire()
        else:
            with MessageSequence() as sequence:
                sequence.append(KINDS[kind]())
            replies = sequence.sequence_promise
        (message,) = await echo.inquire([echo.inquire(replies)])
        assert await replies == (message,)
    same = [one for one in handed if one is message]
    assert len(same) == 1
    assert {str(one) for one in handed} <= {"m", ""}  # "": the empty message that is joined with it


@pytest.mark.parametrize("kind", ["appender", "prefilled", "of another promise", "stream", "lazy stream", "joined"])
async def test_messages_that_enter_no_sequence(kind: str) -> None:
    """A message counts, too, when its promise resolves in the context."""
    handed = Handed()
    async with MiniAgents(on_persist_message=handed):
        message = await KINDS[kind]()
    if kind != "prefilled":  # that one has not resolved here, it came resolved
        assert sum(one is message for one in handed) == 1


async def test_messages_without_a_reader() -> None:
    """Messages are handed over also where nobody reads them."""
    handed = Handed()

    @miniagent
    async def speaker(ctx: InteractionContext) -> None:
        ctx.reply([Message.promise(slow_stream), "text", _later("later")])

    async with MiniAgents(on_persist_message=handed):
        speaker.inquire()
    assert handed.texts == ["later", "slow stream", "text"]


async def test_nested_messages_come_first() -> None:
    """In typed fields, lists and dicts at any depth: those inside before those around them, each once."""
    handed = Handed()
    inner = [Message(name) for name in "abcd"]
    middle = Message("middle", deep={"list": [{"message": inner[0]}, inner[1]]})
    report = Report("report", chapters=(middle, inner[2], middle), author=inner[3])
    async with MiniAgents(on_persist_message=handed):
        await echo.inquire([report, inner[0], report])
        await echo.inquire(middle)
    assert len(handed) == len({id(message) for message in handed}) == 6
    order = [str(message.text) for message in handed]
    assert order.index("middle") > max(order.index("a"), order.index("b"))
    assert order.index("report") == 5


async def test_a_late_field_with_a_message() -> None:
    """A message that a streamed one gets as metadata at its end is handed over before it."""
    handed = Handed()

    async def stream(promise: MessagePromise) -> AsyncIterator[str]:
        yield "outer"
        promise.add_metadata(source=Message("inner"))

    async with MiniAgents(on_persist_message=handed):
        await echo.inquire(Message.promise(stream))
    assert [str(message.text) for message in handed] == ["inner", "outer"]


async def test_equal_messages_are_different_objects() -> None:
    """Two equal messages are two objects, and each object is handed over once."""
    handed = Handed()
    message = Message("m")
    async with MiniAgents(on_persist_message=handed):
        await echo.inquire([message, Message("m"), message, "m"])
    assert len(handed) == 3


async def test_messages_are_handed_over_as_soon_as_they_are_there() -> None:
    """A handler gets a message when it is resolved and need not wait for the others."""
    timeline = Timeline()

    async def handler(message: Message) -> None:
        timeline.note(str(message))

    async with MiniAgents(on_persist_message=handler):
        await echo.inquire(["at once", Message.promise(slow_stream), _later("later")])
    assert timeline.entries == [(0.0, "at once"), (1.0, "later"), (2.0, "slow stream")]


async def test_the_context_waits_for_its_handlers() -> None:
    """The context ends when all handlers have; several get each message one after the other."""
    log: list[str] = []

    async def first(message: Message) -> None:
        await asyncio.sleep(5)
        log.append(f"first {message}")

    async def second(message: Message) -> None:
        log.append(f"second {message}")

    timeline = Timeline()
    async with MiniAgents(on_persist_message=[first, second]):
        await echo.inquire("m")
        assert timeline.elapsed == 0
    assert timeline.elapsed == 5
    assert log == ["first m", "second m"]


async def test_a_handler_can_call_agents() -> None:
    """What a handler makes is handed over in its turn."""
    handed: list[str] = []

    async def handler(message: Message) -> None:
        handed.append(str(message))
        if len(handed) < 3:
            await echo.inquire(f"{message}!")

    async with MiniAgents(on_persist_message=handler):
        await echo.inquire("m")
    assert handed == ["m", "m!", "m!!"]


async def test_each_message_once_where_errors_are_messages() -> None:
    """That errors travel as messages makes no second object of a message that is all right."""
    handed = Handed()

    @miniagent
    async def speaker(ctx: InteractionContext) -> None:
        ctx.reply([Message.promise(slow_stream), "text"])
        raise ValueError("wrong")

    async with MiniAgents(on_persist_message=handed, errors_as_messages=True):
        messages = await echo.inquire(echo.inquire(speaker.inquire()))
    assert [str(message) for message in messages] == ["slow stream", "text", "ValueError: wrong"]
    assert handed.texts == sorted(str(message) for message in messages)


@pytest.mark.parametrize("how", ["message", "reply"])
async def test_messages_from_an_outer_context(how: str) -> None:
    """A message that is still streamed in an outer context counts when it enters a sequence of the inner one."""
    handed = Handed()

    @miniagent
    async def speaker(ctx: InteractionContext) -> None:
        ctx.reply(Message.promise(slow_stream))

    async with MiniAgents():
        source = speaker.inquire() if how == "reply" else Message.promise(slow_stream)
        async with MiniAgents(on_persist_message=handed):
            await echo.inquire(source)
    assert handed.texts == ["slow stream"]


async def test_a_context_of_promises_inside() -> None:
    """A context of promises alone, inside of that of agents, hides nothing from its handlers."""
    handed = Handed()
    async with MiniAgents(on_persist_message=handed), PromisingContext():
        await echo.inquire([Message.promise(slow_stream), "text"])
    assert handed.texts == ["slow stream", "text"]


async def test_nested_contexts_have_their_own_handlers() -> None:
    """Each context hands its messages to its own handlers, and is itself again behind an inner one."""
    outer, inner = Handed(), Handed()
    async with MiniAgents(on_persist_message=outer) as first:
        await echo.inquire("before")
        async with MiniAgents(on_persist_message=inner) as second:
            assert MiniAgents.current() is second
            await echo.inquire("inside")
        assert MiniAgents.current() is first
        await echo.inquire("after")
    assert (outer.texts, inner.texts) == (["after", "before"], ["inside"])


async def test_nested_contexts_do_not_share_their_options() -> None:
    """What the inner context says counts inside of it."""

    @miniagent
    async def fails(ctx: InteractionContext) -> None:
        raise ValueError("x")

    async with MiniAgents(errors_as_messages=True):
        async with MiniAgents():
            with pytest.raises(ValueError, match="x"):
                await fails.inquire()
        assert len(await fails.inquire()) == 1


async def test_an_inner_context_that_fails_leaves_the_outer_one_alone() -> None:
    """When the inner context is left by an error its agents are cancelled, and those of the outer one go on."""
    log: list[str] = []

    @miniagent
    async def slow(ctx: InteractionContext, name: str) -> None:
        try:
            await asyncio.sleep(10)
            ctx.reply(name)
        except asyncio.CancelledError:
            log.append(f"{name} cancelled")
            raise

    async with MiniAgents():
        outer = slow.inquire(name="outer")
        with pytest.raises(KeyError):
            async with MiniAgents():
                slow.inquire(name="inner")
                await quiescence()
                raise KeyError("out")
        assert log == ["inner cancelled"]
        assert await outer == (Message("outer"),)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("how", ["constructor", "decorator", "many"])
async def test_interrupts_of_handlers_do_not_hang(kind: type[BaseException], how: str) -> None:
    """An interrupt in a handler is raised at the exit of the context, after all agents have ended."""

    async def interrupting(message: Message) -> None:
        raise kind

    context = MiniAgents(on_persist_message=() if how == "decorator" else interrupting)
    if how == "decorator":
        assert context.on_persist_message(interrupting) is interrupting
    ended = False
    with pytest.raises(kind):
        async with context:
            assert len(await echo.inquire(["x"] * (50 if how == "many" else 1))) >= 1
            assert await echo.inquire(Message.promise(slow_stream)) == (Message("slow stream"),)
            ended = True
    assert ended


async def test_a_failing_handler_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """An error of a handler concerns one message: the next messages are handed over as before."""
    handed: list[str] = []

    async def handler(message: Message) -> None:
        handed.append(str(message))
        if len(handed) == 1:
            raise OSError("disk full")

    async with MiniAgents(on_persist_message=handler):
        assert len(await echo.inquire(["a", "b", "c"])) == 3
    assert handed == ["a", "b", "c"]
    assert caplog.text.count("OSError: disk full") == 1


async def test_a_second_handler_gets_what_the_first_has_failed_with() -> None:
    """One handler's error does not keep a message from the next handler."""
    handed = Handed()

    async def failing(message: Message) -> None:
        raise OSError("disk full")

    async with MiniAgents(on_persist_message=[failing, handed]):
        await echo.inquire("m")
    assert handed.texts == ["m"]


def test_run_twice_with_a_handler() -> None:
    """The same context can be run again, one after the other, with its handlers."""
    handed = Handed()
    mini_agents = MiniAgents(on_persist_message=handed)

    async def main(text: str) -> tuple[Message, ...]:
        return await echo.inquire(text)

    assert [mini_agents.run(main(text)) for text in "ab"] == [(Message("a"),), (Message("b"),)]
    assert handed.texts == ["a", "b"]


@pytest.mark.parametrize("what", ["m", Message("m"), ["m"]], ids=repr)
def test_what_was_sent_before_the_context_was_open(what: Any) -> None:
    """`mini_agents.run(agent.inquire("Hi"))` hands over what was sent, too: it enters the context with the call."""
    handed = Handed()
    assert MiniAgents(on_persist_message=handed).run(echo.inquire(what)) == (Message("m"),)
    assert handed.texts == ["m"]


async def test_open_twice() -> None:
    """An open context cannot be opened again; the error says to make another one."""
    async with MiniAgents() as context:
        with pytest.raises(RuntimeError, match="another one"):
            async with context:
                pass
        assert await echo.inquire("still fine") == (Message("still fine"),)


def test_errors_of_run() -> None:
    """`run` raises what its awaitable raises, an interrupt included."""

    async def fail(error: BaseException) -> None:
        raise error

    for error in (ValueError("x"), KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)):
            MiniAgents().run(fail(error))


def test_run_waits_for_what_was_started() -> None:
    """`run` returns when all agents that were called have ended, also those that nobody awaits."""
    log: list[str] = []

    @miniagent
    async def background(ctx: InteractionContext) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        log.append("done")

    async def main() -> str:
        background.inquire()
        return "returned"

    assert MiniAgents().run(main()) == "returned"
    assert log == ["done"]


async def test_contexts_side_by_side() -> None:
    """Several tasks can each have a context of their own."""

    async def one(name: str) -> str:
        assert MiniAgents.current() is None
        async with MiniAgents() as context:
            await asyncio.sleep(1)
            assert MiniAgents.current() is context
            return str((await echo.inquire(name))[0])

    timeline = Timeline()
    assert await asyncio.gather(*map(one, "abc")) == ["a", "b", "c"]
    assert timeline.elapsed == 1
