"""What states share: who sees what, values in place, conflicts, reducers, typed values, and calls of agents."""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.checkpoints import CheckpointStore
from miniagents.ext.workflow import (
    Agent,
    Context,
    StateConflictError,
    StateTypeError,
    TypedContextData,
    WorkflowError,
)
from tests.ext.workflow.helpers import agent_of, goes_to, started_task, stopped, until_recorded


async def run_one(function: Any, **values: Any) -> dict[str, Any]:
    """Runs a state after one that has set values."""

    async def start(context: Context) -> str:
        for key, value in values.items():
            context.set_state(key, value)
        return "look"

    agent = agent_of(start)
    agent.add_state("look", function)
    return await agent.run()


# --- the basic methods ---


async def test_set_get_has_remove() -> None:
    """A state sees at once what it does itself."""

    async def look(context: Context) -> None:
        assert context.get_state("a") == 1
        assert context.get_state("nothing") is None
        assert context.get_state("nothing", 5) == 5
        assert context.get_state("none", 5) is None
        assert (context.has_state("none"), context.has_state("nothing")) == (True, False)
        assert context.remove_state("a")
        assert not context.remove_state("a")
        assert (context.get_state("a", 7), context.has_state("a")) == (7, False)
        context.set_state("b", 2)
        assert (context.get_state("b"), sorted(context.keys())) == (2, ["b", "none"])
        assert context.remove_state("b")
        context.set_state("a", 3)
        with pytest.raises(TypeError, match="no string"):
            context.set_state(5, 5)  # type: ignore[arg-type]

    assert await run_one(look, a=1, none=None) == {"a": 3, "none": None}


async def test_who_and_what_it_is() -> None:
    """A state knows its run, its name, its attempt, and a key that is the same for all attempts of a visit."""
    seen = []

    async def look(context: Context) -> str | None:
        seen.append((context.run_id, context.state_name, context.attempt, context.idempotency_key))
        if context.attempt == 1:
            raise ValueError
        return "look" if len(seen) < 4 else None

    agent = agent_of()
    agent.add_state("look", look, max_retries=1)
    await agent.run(run_id="r")
    assert seen == [("r", "look", 1 + number % 2, f"r/look/{1 + number // 2}") for number in range(4)]


# --- who sees what when ---


async def test_others_see_what_a_state_sets_when_it_has_completed() -> None:
    """All of it at once, and nothing before."""
    seen = []

    async def write(context: Context) -> None:
        context.set_state("a", 1)
        await asyncio.sleep(2)
        context.set_state("b", 2)

    async def look(context: Context) -> None:
        for _ in range(3):
            seen.append((context.get_state("a"), context.get_state("b")))
            await asyncio.sleep(1.5)

    await agent_of(goes_to("start", ["write", "look"]), write, look).run()
    assert seen == [(None, None), (None, None), (1, 2)]


async def test_an_attempt_that_fails_leaves_nothing() -> None:
    """What was set, removed or changed in place in a failed attempt is undone."""

    async def look(context: Context) -> None:
        assert (context.get_state("log"), context.get_state("kept"), context.has_state("new")) == (["start"], 1, False)
        context.get_state("log").append(context.attempt)
        context.remove_state("kept")
        context.set_state("new", {"attempt": context.attempt})
        if context.attempt < 3:
            raise ValueError

    async def start(context: Context) -> str:
        context.set_state("log", ["start"])
        context.set_state("kept", 1)
        return "look"

    agent = agent_of(start)
    agent.add_state("look", look, max_retries=2)
    assert await agent.run() == {"log": ["start", 3], "new": {"attempt": 3}}


async def test_a_failed_attempt_is_in_nobodys_way() -> None:
    """What a failed attempt has set is no conflict with what another state sets."""

    async def fail(context: Context) -> None:
        if context.attempt == 1:
            context.set_state("key", "failed")
            raise ValueError

    async def write(context: Context) -> None:
        await asyncio.sleep(0.1)
        context.set_state("key", "written")

    agent = agent_of(goes_to("start", ["fail", "write"]), write)
    agent.add_state("fail", fail, max_retries=1)
    assert await agent.run() == {"key": "written"}


@dataclass
class Profile(TypedContextData):
    name: str
    tags: list[str] = field(default_factory=list)


class Model(BaseModel):
    numbers: list[int] = []


IN_PLACE: list[tuple[Any, Any, Any]] = [
    ([1], lambda value: value.append(2), [1, 2]),
    ({"a": [1]}, lambda value: value["a"].append(2), {"a": [1, 2]}),
    ({1}, lambda value: value.add(2), {1, 2}),
    (([1],), lambda value: value[0].append(2), ([1, 2],)),
    (bytearray(b"1"), lambda value: value.extend(b"2"), bytearray(b"12")),
    (Profile("Ada"), lambda value: value.tags.append("x"), Profile("Ada", ["x"])),
    (Profile("Ada"), lambda value: setattr(value, "name", "Eva"), Profile("Eva")),
    (Model(), lambda value: value.numbers.append(1), Model(numbers=[1])),
    (Counter("a"), lambda value: value.update("a"), Counter("aa")),
    (deque([1]), lambda value: value.append(2), deque([1, 2])),
    ([Profile("Ada")], lambda value: value[0].tags.append("x"), [Profile("Ada", ["x"])]),
]


@pytest.mark.parametrize(("before", "change", "after"), IN_PLACE, ids=lambda value: type(value).__name__)
async def test_values_that_are_changed_in_place(before: Any, change: Any, after: Any) -> None:
    """A change in place counts like a new value: others see it when the state has completed."""
    seen = []

    async def change_it(context: Context) -> str:
        value = context.get_state("key")
        change(value)
        assert context.get_state("key") == after
        seen.append(agent.get_state("key") == after)
        return "look"

    async def look(context: Context) -> None:
        seen.append(context.get_state("key") == after)

    async def start(context: Context) -> str:
        context.set_state("key", before)
        return "change_it"

    agent = agent_of(start, change_it, look)
    assert await agent.run() == {"key": after}
    assert seen == [False, True]


async def test_what_a_state_keeps_is_not_what_the_others_have() -> None:
    """A value that is changed after its state has completed does not change the shared state."""
    kept = [1]

    async def write(context: Context) -> str:
        context.set_state("key", kept)
        return "look"

    async def look(context: Context) -> None:
        kept.append(2)
        assert context.get_state("key") == [1]

    assert await agent_of(write, look).run() == {"key": [1]}


async def test_objects_that_are_no_data_are_shared() -> None:
    """A client, say, is the same object for all states, alone or in a list."""

    class Client:
        pass

    client = Client()

    async def look(context: Context) -> None:
        assert context.get_state("client") is client
        assert context.get_state("clients")[0] is client

    result = await run_one(look, client=client, clients=[client])
    assert result["client"] is client


async def test_values_that_contain_themselves() -> None:
    """A ring is copied as a ring."""
    ring: list[Any] = [1]
    ring.append(ring)

    async def look(context: Context) -> None:
        found = context.get_state("ring")
        assert found is not ring
        assert found[1] is found

    await run_one(look, ring=ring)


# --- conflicts, and reducers ---


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("slow", ["left", "right"])
async def test_two_parallel_states_must_not_set_one_key(slow: str, limit: int | None) -> None:
    """It is an error that names both and the key, whoever is quicker, and also where one runs after the other."""

    def write(name: str) -> Any:
        async def work(context: Context) -> None:
            await asyncio.sleep(2 if name == slow else 1)
            context.set_state("key", name)

        return work

    agent = agent_of(goes_to("start", ["left", "right"]), max_concurrent=limit)
    agent.add_state("left", write("left"))
    agent.add_state("right", write("right"))
    with pytest.raises(StateConflictError, match=r"(left|right) sets 'key', and (left|right), .*reducers=\{'key'"):
        await agent.run()


async def test_a_conflict_further_down_a_branch() -> None:
    """Also what follows in one branch runs beside the other branch."""

    async def write(context: Context) -> None:
        context.set_state("key", context.state_name)

    agent = agent_of(goes_to("start", ["a", "b"]))
    agent.add_state("a", goes_to("a", "a2"), next_states=["a2"])
    agent.add_state("a2", write, next_states=[])
    agent.add_state("b", write, next_states=[])
    with pytest.raises(StateConflictError, match="a2 sets 'key', and b"):
        await agent.run()


async def test_states_that_follow_each_other_may_set_one_key() -> None:
    """Before a fork, in one branch, and after the join there is no conflict."""

    async def write(context: Context) -> Any:
        context.set_state("key", [*context.get_state("key", []), context.state_name])
        return {"start": ["a", "b"], "a": "a2"}.get(context.state_name, "end")

    async def beside(context: Context) -> str:
        return "end"

    agent = agent_of()
    for name, following in (("start", ["a", "b"]), ("a", ["a2"]), ("a2", ["end"])):
        agent.add_state(name, write, next_states=following)
    agent.add_state("b", beside)

    async def end(context: Context) -> None:
        context.set_state("key", [*context.get_state("key"), "end"])

    agent.add_state("end", end)
    assert await agent.run() == {"key": ["start", "a", "a2", "end"]}


async def test_a_change_in_place_is_a_conflict_too() -> None:
    """Two parallel states that change one list have set it both."""

    async def left(context: Context) -> None:
        context.get_state("log").append(1)

    right = left

    async def start(context: Context) -> list[str]:
        context.set_state("log", [])
        return ["left", "right"]

    agent = agent_of(start, left)
    agent.add_state("right", right)
    with pytest.raises(StateConflictError):
        await agent.run()


async def test_states_that_dependencies_start_side_by_side() -> None:
    """Who runs beside whom is seen by the time where no state has named them together."""

    async def write(context: Context) -> None:
        await asyncio.sleep(1)
        context.set_state("key", context.state_name)

    from miniagents.ext.workflow import DependencyType

    agent = agent_of(goes_to("start", None))
    for name in ("a", "b"):
        agent.add_state(name, write, dependencies={"start": DependencyType.REQUIRED})
    with pytest.raises(StateConflictError):
        await agent.run()


async def test_reducers_put_values_together_in_the_order_of_completion() -> None:
    """Each state gives its part; the result has all of them, and what was there before."""
    shown = []

    async def start(context: Context) -> list[str]:
        context.set_state("log", ["start"])
        return ["c", "a", "b"]

    def write(seconds: float) -> Any:
        async def work(context: Context) -> str:
            await asyncio.sleep(seconds)
            context.set_state("log", [context.state_name])
            shown.append(context.get_state("log"))
            return "end"

        return work

    agent = agent_of(start, reducers={"log": lambda there, more: there + more})
    for name, seconds in (("a", 1), ("b", 2), ("c", 3)):
        agent.add_state(name, write(seconds))
    agent.add_state("end", goes_to("end", None))
    assert await agent.run() == {"log": ["start", "a", "b", "c"]}
    assert shown == [["start", "a"], ["start", "a", "b"], ["start", "a", "b", "c"]]


async def test_a_reducer_may_change_what_it_is_given() -> None:
    """What a reducer appends to belongs to nobody else: not to a state, nor to a checkpoint."""
    mine = ["a"]

    def extend(there: list[str], more: list[str]) -> list[str]:
        there.extend(more)
        return there

    async def a(context: Context) -> str:
        context.set_state("log", mine)
        return "b"

    async def b(context: Context) -> None:
        context.set_state("log", ["b"])

    agent = agent_of(a, b, reducers={"log": extend})
    assert await agent.run() == {"log": ["a", "b"]}
    assert mine == ["a"]
    agent.store = None
    await agent.restore_from_checkpoint(agent.create_checkpoint())
    assert await agent.run() == {"log": ["a", "b"]}


async def test_what_a_reducer_makes_is_not_changed_in_place() -> None:
    """It would be put together with itself; the error says what to do."""

    async def look(context: Context) -> None:
        context.get_state("log").append(1)

    async def start(context: Context) -> str:
        context.set_state("log", [])
        return "look"

    with pytest.raises(StateConflictError, match="in place.*set what is to be put together"):
        await agent_of(start, look, reducers={"log": list.__add__}).run()


async def test_a_reducer_that_fails() -> None:
    """The error says of which key it was."""

    async def write(context: Context) -> str | None:
        context.set_state("key", object())
        return "write" if context.idempotency_key.endswith("/1") else None

    with pytest.raises(TypeError) as caught:
        await agent_of(write, reducers={"key": lambda there, more: there + more}).run()
    assert "in the reducer of 'key'" in caught.value.__notes__


# --- typed values ---


@dataclass
class User(TypedContextData):
    name: str
    age: int
    scores: list[float] = field(default_factory=list)
    friend: "User | None" = None


class Strict(BaseModel):
    age: int


async def test_typed_values() -> None:
    """Dataclasses and models are set, got by their class or a base of it, and updated."""

    async def look(context: Context) -> None:
        context.set_typed("user", User("Ada", 28, [1.5, 2], User("Eva", 3)))
        context.set_typed("model", Strict(age=1))
        assert context.get_typed("user", TypedContextData) == context.get_typed("user", User)
        assert context.update_typed("user", age=29, name="Ida") == User("Ida", 29, [1.5, 2], User("Eva", 3))
        assert context.update_typed("model", age=2) == Strict(age=2)
        context.set_state("numbers", [1, 2])
        assert context.get_typed("numbers", list[int]) == [1, 2]
        assert context.get_typed("numbers", list) == [1, 2]

    result = await run_one(look)
    assert result["user"].age == 29


WRONG: list[tuple[str, str]] = [
    ("set_typed('key', 5)", "no object of a dataclass"),
    ("set_typed('key', User)", "no object of a dataclass"),
    ("set_typed('key', {'name': 'Ada'})", "no object of a dataclass"),
    ("set_typed('key', User('Ada', '28'))", "the field 'age' of User is a str; it should be int"),
    ("set_typed('key', User('Ada', 28, ['x']))", "the field 'scores' of User"),
    ("set_typed('key', User('Ada', 28, friend=5))", "the field 'friend' of User"),
    ("get_typed('user', Strict)", "'user' is a User, not a Strict"),
    ("get_typed('user', list[int])", "'user' is a User, not a list"),
    ("update_typed('user', age='old')", "the field 'age' of User is a str"),
    ("update_typed('user', height=2)", "without a field height; it has age, friend, name, scores"),
    ("update_typed('number', age=2)", "no fields to update"),
    ("update_typed('strict', age='old')", "cannot be updated"),
    ("update_typed('strict', height=2)", "without a field height"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
async def test_values_of_a_wrong_type(call: str, message: str) -> None:
    """The error says what is wrong and where; nothing is set."""

    async def look(context: Context) -> None:
        with pytest.raises(StateTypeError, match=message):
            eval(f"context.{call}", {**globals(), "context": context})
        assert isinstance(StateTypeError(), (TypeError, WorkflowError))

    assert "key" not in await run_one(look, user=User("Ada", 28), number=5, strict=Strict(age=1))


async def test_a_typed_value_that_there_is_not() -> None:
    """The error says what there is."""

    async def look(context: Context) -> None:
        for call in (lambda: context.get_typed("usr", User), lambda: context.update_typed("usr", age=1)):
            with pytest.raises(KeyError, match="'usr' is not set; there are: number, user"):
                call()

    await run_one(look, user=User("Ada", 28), number=5)


# --- calling agents ---


@miniagent
async def speaker(ctx: InteractionContext, fails: bool = False) -> None:
    async def tokens(_: Any) -> Any:
        for token in ("Hello", " ", "there"):
            await asyncio.sleep(1)
            yield token

    ctx.reply(Message.promise(tokens))
    if fails:
        await asyncio.sleep(5)
        raise ValueError("no voice")


async def test_tokens_of_an_agent_are_in_the_stream_of_the_run() -> None:
    """They come while the agent speaks, with the name of the state."""
    loop = asyncio.get_running_loop()

    async def ask(context: Context) -> None:
        replies = await context.inquire(speaker, "Hi")
        context.set_state("said", str(replies[0]))

    seen = []
    async with MiniAgents():
        began = loop.time()
        async for promise in agent_of(ask).inquire():
            if promise.metadata.get("node") == "ask" and promise.message_class is Message:
                async for token in promise:
                    seen.append((loop.time() - began, token))
    assert seen == [(1, "Hello"), (2, " "), (3, "there")]


async def test_an_error_of_an_agent_is_where_its_reply_is_awaited() -> None:
    """A state can catch it, and go on."""

    async def ask(context: Context) -> str:
        try:
            await context.inquire(speaker, fails=True)
        except ValueError as error:
            context.set_state("caught", str(error))
        return "end"

    agent = agent_of(ask, goes_to("end", None))
    assert await agent.run() == {"caught": "no voice"}
    assert agent.completed_states == {"ask", "end"}


async def test_an_error_that_nobody_awaits_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    """It does not fail the state, but it is told at the end."""

    async def ask(context: Context) -> None:
        context.inquire(speaker, fails=True)

    async with MiniAgents():
        await agent_of(ask).run()
    assert "no voice" in caplog.text


async def test_an_agent_is_stopped_with_its_state() -> None:
    """When a state is cancelled, so is what it has called."""
    stopped = []

    @miniagent
    async def forever(ctx: InteractionContext) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            stopped.append(True)

    async def ask(context: Context) -> None:
        await context.inquire(forever)

    agent = Agent("work", ask=None)
    agent.add_state("ask", ask, timeout=2)
    task = started_task(agent.run())
    with pytest.raises(TimeoutError, match="ask took longer than 2 s"):
        await task
    assert stopped == [True]


async def test_a_state_that_was_stopped_claims_nothing() -> None:
    """What it sets while it cleans up is for nobody, and no conflict for others."""
    agent = agent_of(goes_to("start", ["a", "b"]))

    @agent.state
    async def a(context: Context) -> None:
        try:
            await asyncio.sleep(9)
        finally:
            context.set_state("key", 1)
            assert context.get_state("key") == 1

    @agent.state
    async def b(context: Context) -> str:
        await asyncio.sleep(2)
        return "c"

    @agent.state
    async def c(context: Context) -> None:
        context.set_state("key", 2)

    task = started_task(agent.run())
    await asyncio.sleep(1)
    agent.cancel_state("a")
    assert await task == {"key": 2}


async def test_what_is_set_after_a_state_has_completed_is_an_error() -> None:
    """Nobody would see it."""
    agent = Agent("work", ask=None)
    kept: list[Context] = []

    @agent.state
    async def first(context: Context) -> str:
        kept.append(context)
        return "second"

    @agent.state
    async def second(context: Context) -> None:
        with pytest.raises(WorkflowError, match="first sets 'key' after it has completed"):
            kept[0].set_state("key", 1)
        context.set_state("key", 2)

    assert await agent.run() == {"key": 2}


@pytest.mark.parametrize("is_resumed", [False, True])
async def test_a_state_sets_several_values_to_be_put_together(is_resumed: bool, store: CheckpointStore) -> None:
    """Each of them counts, in their order, and the state sees that at once."""
    agent = Agent("work", store=store, reducers={"items": lambda there, item: [*there, item]}, ask=None)

    @agent.state
    async def add(context: Context) -> str:
        for number in (1, 2, 3):
            context.set_state("items", number)
        assert context.get_state("items") == [0, 1, 2, 3]
        return "end"

    @agent.state
    async def end(context: Context) -> None:
        if is_resumed and context.attempt == 1:
            await asyncio.sleep(1000)
        context.set_state("items", 4)

    task = started_task(agent.run("r", values={"items": [0]}))
    if is_resumed:
        await until_recorded(store, "r", "finished")
        await stopped(task)
        task = started_task(agent.resume_run("r"))
    assert await task == {"items": [0, 1, 2, 3, 4]}


async def test_what_a_part_has_changed_is_taken_over_also_where_it_is_equal() -> None:
    """Such as a field that is not compared."""

    @dataclass
    class Noted(TypedContextData):
        note: str = field(default="", compare=False)

    part = Agent("part", ask=None)

    @part.state
    async def change(context: Context) -> None:
        context.update_typed("noted", note="set")
        context.set_state("items", [True])

    async def start(context: Context) -> Any:
        context.set_typed("noted", Noted())
        context.set_state("items", [1])
        return part, "change"

    result = await agent_of(start).run()
    assert (result["noted"].note, result["items"][0] is True) == ("set", True)


async def test_a_reducer_that_changes_what_it_is_given_makes_no_reader_a_writer() -> None:
    """What a state looks at is not changed by others."""

    def extend(there: list[int], more: list[int]) -> list[int]:
        there.extend(more)
        return there

    agent = agent_of(goes_to("fork", ["reads", "adds"]), reducers={"items": extend})
    agent.add_state("first", goes_to("first", None))

    @agent.state
    async def reads(context: Context) -> None:
        assert context.get_state("items") == [0]
        await asyncio.sleep(2)

    @agent.state
    async def adds(context: Context) -> str:
        await asyncio.sleep(1)
        context.set_state("items", [1])
        return "adds_more"

    @agent.state
    async def adds_more(context: Context) -> None:
        context.set_state("items", [2])

    assert await agent.run(values={"items": [0]}) == {"items": [0, 1, 2]}


@pytest.mark.parametrize("is_resumed", [False, True])
async def test_a_value_that_was_removed_is_put_together_with_nothing(is_resumed: bool, store: CheckpointStore) -> None:
    """What is set afterwards is all that there is."""

    def made() -> Agent:
        agent = Agent("work", store=store, reducers={"sum": lambda there, more: there + more}, ask=None)

        @agent.state
        async def start(context: Context) -> str:
            context.remove_state("sum")
            context.set_state("sum", 5)
            context.set_state("sum", 1)
            return "end"

        @agent.state
        async def end(context: Context) -> None:
            if is_resumed and context.attempt == 1:
                await asyncio.sleep(1000)

        return agent

    task = started_task(made().run("r", values={"sum": 10}))
    if is_resumed:
        await until_recorded(store, "r", "finished")
        await stopped(task)
        task = started_task(made().resume_run("r"))
    assert await task == {"sum": 6}
