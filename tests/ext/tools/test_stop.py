"""The stop signal: it ends what is at work wherever that is, what was said is kept, and nobody waits for the signal."""

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.llm.stop import Stopped, StopSwitch
from miniagents.ext.tools import FunctionCallStart, ManualStop, tool
from miniagents.testing import quiescence
from tests.ext.llm.helpers import Provider
from tests.ext.tools.helpers import (
    Cast,
    Follower,
    Running,
    agent_called,
    call_of,
    calling,
    resolved,
    results_sent,
    roles,
    saying,
    soon,
)
from tests.support.llm_server import Gate, Reply, ToolCall


class Signal:
    """A stop signal that is slow, as one that listens at a queue: it waits until it is given, then says True."""

    def __init__(self) -> None:
        self.given = asyncio.Event()
        self.began = asyncio.Event()
        self.was_cancelled = False
        self.asked: list[tuple[Any, Any]] = []

    async def __call__(self, user_id: str, chat_id: str) -> bool:
        self.asked.append((user_id, chat_id))
        self.began.set()
        try:
            await self.given.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return True


@pytest.fixture
def signal() -> Signal:
    return Signal()


@pytest.fixture
def agent(provider: Provider, signal: Signal) -> Any:
    return provider.agent.fork(alias="HELPER", manual_stop_signal_function=signal, user_id="u1", chat_id="c1")


async def can_be_sent_again(provider: Provider, messages: Any) -> list[str]:
    """Sends a conversation again, to the strict server, and gives the results in it."""
    provider.server.script(saying("Well."))
    number = len(provider.server.requests)
    async with MiniAgents():
        *_, answer = await provider.agent.inquire(["Hi", *messages])
    assert str(answer) == "Well."
    return results_sent(provider.server.requests[number])


# --- when nothing is to be stopped ---


async def test_no_signal(provider: Provider) -> None:
    """A signal that never comes changes nothing, and is asked with user and chat."""
    asked: list[tuple[Any, Any]] = []

    async def signal(user_id: str, chat_id: str) -> bool:
        asked.append((user_id, chat_id))
        return False

    provider.server.script(calling("thing"), saying("Fine."))
    async with MiniAgents():
        replies = provider.agent.inquire(
            "Hi", tools=[tool(_ok, name="thing")], manual_stop_signal_function=signal, user_id="u1", chat_id="c1"
        )
        messages = await resolved(replies)
    assert [str(message) for message in messages] == ["", "ok", "Fine."]
    assert all(message.stop_reason is None for message in messages)
    assert set(asked) == {("u1", "c1")}


async def _ok() -> str:
    return "ok"


async def test_a_complete_answer_does_not_wait(agent: Any, signal: Signal, provider: Provider) -> None:
    """An answer that is complete is there, while the slow signal function still waits; that is cancelled."""
    gate = Gate()
    provider.server.script(Reply((gate, "Fine.")))
    async with MiniAgents():
        replies = agent.inquire("Hi")
        await soon(signal.began.wait())
        gate.open()
        (answer,) = await soon(resolved(replies))
    assert (str(answer), answer.stop_reason) == ("Fine.", None)
    assert signal.was_cancelled
    assert len(signal.asked) == 1


async def test_a_complete_answer_does_not_wait_for_a_blocking_signal(provider: Provider) -> None:
    """A sync signal function that blocks holds up neither the answer nor the event loop."""
    released, began = threading.Event(), threading.Event()
    gate = Gate()
    waited: list[bool] = []

    def signal(*_: Any) -> bool:
        began.set()
        waited.append(released.wait(5))
        return False

    provider.server.script(Reply((gate, "Fine.")))
    try:
        async with MiniAgents():
            replies = provider.agent.inquire("Hi", manual_stop_signal_function=signal)
            await asyncio.to_thread(began.wait, 10)
            assert began.is_set()
            gate.open()
            (answer,) = await soon(replies)
            assert str(answer) == "Fine."
            assert waited == []
    finally:
        released.set()


async def test_a_signal_that_comes_too_late(agent: Any, signal: Signal, provider: Provider) -> None:
    """A signal after the end changes nothing."""
    provider.server.script(saying("Fine."))
    async with MiniAgents():
        replies = agent.inquire("Hi")
        (answer,) = await replies
        signal.given.set()
        await quiescence()
        assert (await replies)[0] is answer
    assert answer.stop_reason is None


# --- the signal function ---


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def stopped_by(provider: Provider, gate: Gate, function: Any, **options: Any) -> Any:
    """The answer that a signal function stops in mid-stream."""
    provider.server.script(Reply(("so far", gate)))
    async with MiniAgents():
        replies = provider.agent.inquire(
            "Hi", manual_stop_signal_function=function, check_for_stop_signal_time=0.001, **options
        )
        (answer,) = await soon(resolved(replies))
        await provider.server.client_disconnected(0)
    assert answer.stop_reason == "manual_stop"
    return answer


def number_of_polls(gate: Gate, after: int) -> Any:
    """A function that says no at first, and until an answer has begun."""
    polls = 0

    def signal(*_: Any) -> bool:
        nonlocal polls
        polls += gate.reached.is_set()
        return polls > after

    return signal


async def test_a_sync_signal(provider: Provider, gate: Gate) -> None:
    """A sync function is asked again and again until it says True."""
    await stopped_by(provider, gate, number_of_polls(gate, 3))


async def test_an_async_signal(provider: Provider, gate: Gate) -> None:
    """An async function is asked again and again until it says True."""
    is_given = number_of_polls(gate, 3)

    async def signal(user_id: str, chat_id: str) -> bool:
        return bool(is_given())

    await stopped_by(provider, gate, signal)


class Bound:
    def __init__(self, given: Any) -> None:
        self._given = given

    async def ask(self, user_id: str, chat_id: str) -> bool:
        return bool(self._given())

    def asked(self, user_id: str, chat_id: str) -> Any:
        return self.ask(user_id, chat_id)

    async def with_more(self, more: str, user_id: str, chat_id: str) -> bool:
        return bool(self._given())


@pytest.mark.parametrize("kind", ["method", "returns something to await", "partial"])
async def test_other_callables(provider: Provider, gate: Gate, kind: str) -> None:
    """A method, a function that returns something to await, and a partial function are signals, too."""
    bound = Bound(number_of_polls(gate, 2))
    signals = {"method": bound.ask, "partial": functools.partial(bound.with_more, "more")}
    await stopped_by(provider, gate, signals.get(kind, bound.asked))


async def test_a_failing_signal(provider: Provider, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """What a signal function raises is logged; it is asked again, and can still stop."""
    is_given = number_of_polls(gate, 2)

    async def signal(*_: Any) -> bool:
        if not is_given():
            raise ConnectionError("redis is away")
        return True

    with caplog.at_level(logging.ERROR, "miniagents"):
        await stopped_by(provider, gate, signal)
    assert "redis is away" in caplog.text


async def test_a_signal_that_was_cancelled_elsewhere(
    provider: Provider, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """A signal function whose own work was cancelled has failed, too, and is asked again."""
    is_given = number_of_polls(gate, 2)

    async def signal(*_: Any) -> bool:
        if not is_given():
            raise asyncio.CancelledError
        return True

    await stopped_by(provider, gate, signal)


async def test_polls_never_overlap(provider: Provider) -> None:
    """The next poll begins when the one before it has ended, however short the time between them is."""
    at_work = most = 0
    polls: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def signal(*_: Any) -> bool:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        ended = asyncio.Event()
        polls.put_nowait(ended)
        await ended.wait()
        at_work -= 1
        return False

    gate = Gate()
    provider.server.script(Reply((gate, "Fine.")))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", manual_stop_signal_function=signal, check_for_stop_signal_time=1e-6)
        for _ in range(5):
            poll = await soon(polls.get())
            await quiescence()
            assert polls.empty()
            poll.set()
        gate.open()
        await soon(replies)
    assert most == 1


async def test_conversations_are_asked_for_apart(provider: Provider) -> None:
    """Of two conversations the one is stopped whose chat the signal is for."""
    given = asyncio.Event()

    async def signal(user_id: str, chat_id: str) -> bool:
        await given.wait()
        return chat_id == "c1"

    gates = Gate(), Gate()
    provider.server.script(Reply(("one", gates[0])), Reply(("two", gates[1], " and the rest")))
    agent = provider.agent.fork(manual_stop_signal_function=signal, user_id="u1")
    async with MiniAgents():
        first = agent.inquire("Hi", chat_id="c1")
        await gates[0].reached.wait()
        second = agent.inquire("Hi", chat_id="c2")
        await gates[1].reached.wait()
        given.set()
        (stopped,) = await soon(first)
        gates[1].open()
        (complete,) = await soon(second)
    assert (str(stopped), stopped.stop_reason) == ("one", "manual_stop")
    assert (str(complete), complete.stop_reason) == ("two and the rest", None)


@pytest.mark.parametrize("seconds", [0, -1.0])
async def test_the_time_between_polls_is_positive(provider: Provider, seconds: float) -> None:
    """Asking without a pause is refused."""
    async with MiniAgents():
        with pytest.raises(ValueError, match="check_for_stop_signal_time"):
            await provider.agent.inquire("Hi", check_for_stop_signal_time=seconds)


# --- where it stops ---


async def test_before_the_first_token(agent: Any, signal: Signal, provider: Provider) -> None:
    """A request that has not been answered yet is given up; the answer is empty, and no error."""
    gate = Gate()
    provider.server.script(Reply(("never",), hold=gate))
    async with MiniAgents():
        replies = agent.inquire("Hi")
        await gate.reached.wait()
        signal.given.set()
        (answer,) = await soon(resolved(replies))
        await provider.server.client_disconnected(0)
    assert (str(answer), answer.role, answer.agent, answer.stop_reason) == ("", "assistant", "HELPER", "manual_stop")
    assert await can_be_sent_again(provider, [answer, "Go on"]) == []


async def test_in_mid_stream(agent: Any, signal: Signal, provider: Provider) -> None:
    """The text so far is kept, the stream ends without an error, and the HTTP response is closed."""
    gate = Gate()
    provider.server.script(Reply(("so ", "far", gate, "never")))
    events: list[Any] = []
    async with MiniAgents():
        replies = agent.inquire("Hi", hooks={"on_manual_stop": events.append})
        follower = Follower(replies)
        await follower.hears("HELPER", "assistant", "far")
        signal.given.set()
        await follower.ends()
        assert follower.error is None
        (answer,) = await soon(resolved(replies))
        await provider.server.client_disconnected(0)
    assert (answer.text, answer.stop_reason, answer.interrupted) == ("so far", "manual_stop", True)
    assert [event.text for event in events] == ["so far"]
    assert await can_be_sent_again(provider, [answer, "Go on"]) == []


async def test_without_streaming(agent: Any, signal: Signal, provider: Provider) -> None:
    """A request for an answer at once is given up in the same way."""
    gate = Gate()
    provider.server.script(Reply(("never", gate)))
    async with MiniAgents():
        replies = agent.inquire("Hi", stream=False)
        await gate.reached.wait()
        signal.given.set()
        (answer,) = await soon(replies)
        await provider.server.client_disconnected(0)
    assert (str(answer), answer.stop_reason) == ("", "manual_stop")


async def test_in_the_middle_of_a_call(agent: Any, signal: Signal, provider: Provider) -> None:
    """A call whose arguments have not all come is not run; it is answered with "cancelled", and can be sent again."""
    gate = Gate()
    runs: list[str] = []

    async def thing(city: str = "") -> str:
        runs.append(city)
        return city

    provider.server.script(Reply(("Let me see.", ToolCall("thing", ('{"ci', gate, 'ty": "Rome"}')))))
    async with MiniAgents():
        replies = agent.inquire("Hi", tools=[thing])
        await gate.reached.wait()
        follower = Follower(replies)
        await follower.hears("HELPER", "assistant", "Let me see.")
        signal.given.set()
        messages = await soon(resolved(replies))
        await provider.server.client_disconnected(0)
    assert runs == []
    assert str(messages[0]) == "Let me see."
    assert {message.stop_reason for message in messages} == {"manual_stop"}
    if len(messages) > 1:  # the beginning of the call may not have been read
        assert [str(message) for message in messages[1:]] == ["cancelled"]
    await can_be_sent_again(provider, [*messages, "Go on"])


async def test_while_it_waits_to_try_again(agent: Any, signal: Signal, provider: Provider) -> None:
    """A pause between two attempts is ended at once."""
    provider.server.script(Reply(status=429, headers={"retry-after": "50"}))
    async with MiniAgents():
        replies = agent.inquire("Hi", max_retries=3)
        await provider.server.request(0)
        await provider.server.requests[0].finished.wait()
        signal.given.set()
        (answer,) = await soon(replies)
    assert answer.stop_reason == "manual_stop"


async def test_while_what_is_sent_is_on_its_way(agent: Any, signal: Signal, provider: Provider) -> None:
    """An agent that waits for its question is stopped, and sends nothing; the question is left alone."""
    goes_on = asyncio.Event()

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        await goes_on.wait()
        ctx.reply("the question")

    async with MiniAgents():
        question = slow.inquire()
        replies = agent.inquire(question)
        await soon(signal.began.wait())
        signal.given.set()
        await quiescence()
        was_stopped = replies.done()
        goes_on.set()
        assert str((await question)[0]) == "the question"
        assert was_stopped
        assert (await replies)[0].stop_reason == "manual_stop"
    assert provider.server.requests == []


async def test_async_tools(agent: Any, signal: Signal, provider: Provider) -> None:
    """Running tools are cancelled at once; results that were there are kept, the others are "cancelled"."""
    fast, slow, events = Running("fast", "fast"), Running("slow"), []
    fast.may_end.set()
    provider.server.script(calling("fast", "slow", text="Let me see."))
    async with MiniAgents():
        replies = agent.inquire("Hi", tools=[fast, slow], hooks={"on_manual_stop": events.append})
        follower = Follower(replies)
        await follower.hears("HELPER", "tool", "fast")
        await soon(slow.began.wait())
        signal.given.set()
        messages = await soon(resolved(replies))
        assert slow.was_cancelled
    assert [str(message) for message in messages] == ["Let me see.", "fast", "cancelled"]
    assert [message.stop_reason for message in messages] == [None, None, "manual_stop"]
    assert [message.is_error for message in messages[1:]] == [False, True]
    assert [type(event) for event in events] == [ManualStop]
    assert len(provider.server.requests) == 1
    assert await can_be_sent_again(provider, messages) == ["fast", "cancelled"]


async def test_tools_one_after_the_other(agent: Any, signal: Signal, provider: Provider) -> None:
    """Tools that have not begun do not begin, nor is their beginning announced; they are "cancelled", too."""
    first, second, events = Running("first"), Running("second"), []
    provider.server.script(calling("first", "second"))
    async with MiniAgents():
        replies = agent.inquire(
            "Hi",
            tools=[first, second],
            execute_function_concurrently=False,
            hooks={"on_function_call_start": events.append},
        )
        await soon(first.began.wait())
        signal.given.set()
        messages = await soon(resolved(replies))
    assert not second.began.is_set()
    assert [str(message) for message in messages] == ["", "cancelled", "cancelled"]
    assert [event.function_name for event in events if isinstance(event, FunctionCallStart)] == ["first"]
    assert await can_be_sent_again(provider, messages) == ["cancelled", "cancelled"]


async def test_tools_in_threads(agent: Any, signal: Signal, provider: Provider) -> None:
    """A blocking function cannot be ended, but nobody waits for it any more."""
    began, released = threading.Event(), threading.Event()
    waited: list[bool] = []

    def blocking() -> str:
        began.set()
        waited.append(released.wait(5))
        return "late"

    provider.server.script(calling("blocking"))
    try:
        async with MiniAgents():
            replies = agent.inquire("Hi", tools=[blocking])
            await asyncio.to_thread(began.wait, 10)
            signal.given.set()
            messages = await soon(resolved(replies))
            assert waited == []
    finally:
        released.set()
    assert [str(message) for message in messages] == ["", "cancelled"]


async def test_tools_that_take_their_time(agent: Any, signal: Signal, provider: Provider) -> None:
    """Nobody waits for a tool that does not end at once when it is cancelled; the context does, when it is left."""
    began, cleaning, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stubborn() -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await may_end.wait()
        return "never"

    provider.server.script(calling("stubborn"))
    async with MiniAgents():
        replies = agent.inquire("Hi", tools=[stubborn])
        await soon(began.wait())
        signal.given.set()
        messages = await soon(resolved(replies))
        assert [str(message) for message in messages] == ["", "cancelled"]
        await soon(cleaning.wait())
        may_end.set()


async def test_tools_that_stream(agent: Any, signal: Signal, provider: Provider) -> None:
    """What a tool has yielded is kept, with a word on its end; its generator is closed."""
    closed: list[str] = []

    async def report() -> AsyncIterator[str]:
        try:
            yield "half"
            await asyncio.Event().wait()
        finally:
            closed.append("report")

    provider.server.script(calling("report"))
    async with MiniAgents():
        replies = agent.inquire("Hi", tools=[report])
        follower = Follower(replies)
        await follower.hears("HELPER", "tool", "half")
        signal.given.set()
        messages = await soon(resolved(replies))
    assert str(messages[1]) == "half\ncancelled"
    assert closed == ["report"]


async def test_inner_agents(agent: Any, signal: Signal, provider: Provider) -> None:
    """The request of an agent inside of a tool is closed; what it has said stays in the outer reply."""
    gate = Gate()
    inner = agent_called(provider, "INNER")
    cast = Cast(OUTER=[calling(call_of("inner", message="Hi"))], INNER=[Reply(("half", gate))])
    provider.server.default = cast
    async with MiniAgents():
        replies = agent.fork(system="OUTER").inquire("Hi", tools=[inner])
        follower = Follower(replies)
        await follower.hears("INNER", "assistant", "half")
        signal.given.set()
        call, said, result = await soon(resolved(replies))
        await provider.server.client_disconnected(1)
    assert (str(said), said.agent, said.inside_tool_call, said.interrupted) == (
        "half",
        "INNER",
        call.tool_calls[0].id,
        True,
    )
    assert (str(result), result.stop_reason) == ("cancelled", "manual_stop")
    cast.assert_all_said()


async def test_while_somebody_is_asked(agent: Any, signal: Signal, provider: Provider) -> None:
    """A question whether a tool may run is taken back."""
    asked = Running("asked")

    async def approver(_: Any) -> bool:
        return bool(await asked())

    provider.server.script(calling("thing"))
    async with MiniAgents():
        replies = agent.inquire("Hi", tools=[tool(_ok, name="thing", requires_approval=True)], approver=approver)
        await soon(asked.began.wait())
        signal.given.set()
        messages = await soon(resolved(replies))
    assert asked.was_cancelled
    assert str(messages[1]) == "cancelled"


@pytest.mark.parametrize("hook", ["on_after_request", "on_function_call_end", "on_before_request"])
async def test_between_the_stages(agent: Any, signal: Signal, provider: Provider, hook: str) -> None:
    """A signal that comes while nothing is to be cancelled ends the conversation at the next step, and it says so."""
    turns = 0

    async def hooked(event: Any) -> None:
        signal.given.set()
        await quiescence()

    async def thing() -> str:
        nonlocal turns
        turns += 1
        return "ok"

    if hook != "on_before_request":
        provider.server.script(calling("thing"))
    async with MiniAgents():
        replies = agent.inquire("Hi", tools=[thing], hooks={hook: hooked})
        messages = await soon(resolved(replies))
    assert "manual_stop" in [message.stop_reason for message in messages]
    assert turns == (1 if hook == "on_function_call_end" else 0)
    assert len(provider.server.requests) == (0 if hook == "on_before_request" else 1)
    await can_be_sent_again(provider, [*messages, "Go on"])


async def test_between_two_turns(agent: Any, signal: Signal, provider: Provider) -> None:
    """After results that are all there, too, the last message says that it was stopped, and the hook fires once."""
    events: list[Any] = []

    async def hooked(_: Any) -> None:
        signal.given.set()
        await quiescence()

    provider.server.script(calling("thing"))
    async with MiniAgents():
        replies = agent.inquire(
            "Hi",
            tools=[tool(_ok, name="thing")],
            hooks={"on_function_call_end": hooked, "on_manual_stop": events.append, "on_before_request": events.append},
        )
        messages = await soon(resolved(replies))
    assert [str(message) for message in messages[:2]] == ["", "ok"]
    assert messages[1].stop_reason is None
    assert messages[-1].stop_reason == "manual_stop"
    assert [event.hook for event in events] == ["on_before_request", "on_manual_stop"]


async def test_a_second_turn(agent: Any, signal: Signal, provider: Provider) -> None:
    """In a later turn it stops as in the first; the turns before are kept."""
    gate = Gate()
    provider.server.script(calling("thing"), Reply(("It is", gate)))
    async with MiniAgents():
        replies = agent.inquire("Hi", tools=[tool(_ok, name="thing")])
        follower = Follower(replies)
        await follower.hears("HELPER", "assistant", "It is")
        signal.given.set()
        messages = await soon(resolved(replies))
        await provider.server.client_disconnected(1)
    assert roles(messages) == ["assistant", "tool", "assistant"]
    assert [message.stop_reason for message in messages] == [None, None, "manual_stop"]
    assert str(messages[2]) == "It is"


async def test_a_stopped_agent_can_be_asked_again(agent: Any, signal: Signal, provider: Provider) -> None:
    """The switch belongs to one conversation."""
    gate = Gate()
    provider.server.script(Reply(("so far", gate)), saying("Fine."))
    async with MiniAgents():
        replies = agent.inquire("Hi")
        await gate.reached.wait()
        signal.given.set()
        await soon(replies)
        signal.given.clear()
        (answer,) = await soon(agent.inquire("Hi again"))
    assert (str(answer), answer.stop_reason) == ("Fine.", None)


async def test_usage_so_far(agent: Any, signal: Signal, provider: Provider) -> None:
    """What a stopped answer has cost is counted."""
    gate = Gate()
    provider.server.script(Reply(("so far", gate)))
    async with MiniAgents():
        replies = agent.inquire("Hi")
        await gate.reached.wait()
        signal.given.set()
        await soon(replies)
        assert (await replies.usage()).requests == 1


# --- the switch ---


async def test_the_switch_tells_its_own_cancellation() -> None:
    """A cancellation by others is none of the switch, also when it is pressed at the same time."""
    switch, began = StopSwitch(), asyncio.Event()

    async def work() -> str:
        try:
            async with switch.scope():
                began.set()
                await asyncio.Event().wait()
        except Stopped:
            return "stopped"
        return "ended"

    stopped = asyncio.create_task(work())
    await began.wait()
    switch.press()
    switch.press()
    assert await stopped == "stopped"
    assert await work() == "stopped"  # it stays pressed

    switch = StopSwitch()
    began.clear()
    cancelled = asyncio.create_task(work())
    await began.wait()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    switch.press()  # nothing is left to press for

    began.clear()
    switch = StopSwitch()
    both = asyncio.create_task(work())
    await began.wait()
    switch.press()
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both


async def test_what_ends_by_itself_is_not_stopped() -> None:
    """A result, and an error, of what a scope holds pass through it; a TimeoutError is no stop."""
    switch = StopSwitch()
    async with switch.scope():
        pass
    with pytest.raises(TimeoutError):
        async with switch.scope():
            raise TimeoutError
    assert not switch.is_on
