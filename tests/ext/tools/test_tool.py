"""What becomes a tool, its schema, its arguments and its results."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.llm.hooks import Caller
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.llm.parts import ImagePart, parts_of
from miniagents.ext.tools import Tool, ToolArgumentsError, as_tool, as_tools, tool

CALLER = Caller(user_id="u1", chat_id="c1", agent_name="A")
IMAGE = ImagePart(url="https://here/x.png")


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    city: str
    zip_code: int = Field(0, description="The postal code.")


@dataclass
class Size:
    width: int


@dataclass
class Later:
    text: str

    async def __call__(self) -> str:
        return self.text


class Named(str, Enum):  # noqa: UP042  # of which `str` says "Named.RED"
    RED = "red"


class Strange:
    def __repr__(self) -> str:
        return "strange"


def find(  # noqa: D417
    place: Place,
    what: Literal["cafe", "bar"],
    color: Color = Color.RED,
    on: date | None = None,
    tags: Annotated[list[str], Field(description="Any of them.")] = [],  # noqa: B006
    size: Size | None = None,
) -> str:
    """Finds a place.

    It may take a while.

    Args:
        place: Where to look.
        what: What to look for.
        color: Of the door.

    Returns:
        A text.
    """
    return f"{type(place).__name__} {place.city} {what} {color!r} {on!r} {tags} {size}"


async def outcome(thing: Any, arguments: str = "{}", caller: Caller = CALLER) -> Message:
    made = tool(thing, name="it") if getattr(thing, "__name__", "") == "<lambda>" else as_tool(thing)
    (message,) = await made.start(made.parse(arguments), caller)
    return message


async def text_of(thing: Any, arguments: str = "{}", caller: Caller = CALLER) -> str:
    return str(await outcome(thing, arguments, caller))


def test_the_schema_of_a_function() -> None:
    """It comes from the signature, the types and the docstring."""
    made = tool(find)
    assert (made.name, made.description) == ("find", "Finds a place.\n\nIt may take a while.")
    schema = made.parameters
    assert schema["required"] == ["place", "what"]
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert properties["what"] == {"description": "What to look for.", "enum": ["cafe", "bar"], "type": "string"}
    assert properties["color"]["description"] == "Of the door."
    assert properties["tags"]["description"] == "Any of them."
    assert properties["place"]["description"] == "Where to look."
    assert properties["place"]["properties"]["zip_code"]["description"] == "The postal code."
    assert "title" not in str(schema)


@pytest.mark.parametrize(
    "docstring",
    [
        "Looks.\n\n:param city: The city.\n:type city: str\n",
        "Looks.\n\nParameters\n----------\ncity : str\n    The city.\n",
        "Looks.\n\nArgs:\n    city (str): The city.\n",
    ],
)
def test_styles_of_docstrings(docstring: str) -> None:
    """Sphinx, NumPy and Google."""

    def look(city: str) -> None: ...

    look.__doc__ = docstring
    made = tool(look)
    assert made.description == "Looks."
    assert made.parameters["properties"]["city"] == {"description": "The city.", "type": "string"}


async def test_arguments_arrive_as_what_they_are() -> None:
    """Models, enums, dates and dataclasses are made of what the model has written."""
    arguments = '{"place": {"city": "Rome"}, "what": "bar", "color": "blue", "on": "2026-01-02", "size": {"width": 3}}'
    found = await text_of(find, arguments)
    assert found == "Place Rome bar <Color.BLUE: 'blue'> datetime.date(2026, 1, 2) [] Size(width=3)"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('{"place": {"city": "Rome"}', "no valid JSON"),
        ("[1]", "list"),
        ('"text"', "str"),
        ('{"what": "bar"}', "place: Field required"),
        ('{"place": {"city": "Rome"}, "what": "pub"}', "what: Input should be 'cafe' or 'bar'"),
        ('{"place": {"city": 1}, "what": "bar"}', "place.city"),
        ('{"place": {"city": "Rome"}, "what": "bar", "wat": 1}', "wat"),
    ],
)
def test_arguments_that_do_not_fit(arguments: str, says: str) -> None:
    """The error says what is wrong with which of them."""
    with pytest.raises(ToolArgumentsError, match=says.replace(".", r"\.")):
        tool(find).parse(arguments)


def test_no_arguments() -> None:
    """Some models write nothing where there is nothing to write."""

    def now() -> str:
        return "now"

    assert tool(now).parse("") == {}
    assert tool(now).parameters["properties"] == {}


async def test_who_calls() -> None:
    """What says for whom a tool runs is no part of the schema, and no model can choose it."""

    async def whoami(city: str, user_id: str, chat_id: str, agent_name: str) -> str:
        return f"{city} {user_id} {chat_id} {agent_name}"

    assert list(tool(whoami).parameters["properties"]) == ["city"]
    assert await text_of(whoami, '{"city": "Rome", "user_id": "root"}') == "Rome u1 c1 A"


async def test_defaults_stay_where_nobody_is_known() -> None:
    """A parameter with a default keeps it, one without gets None."""

    def who(user_id: str | None, chat_id: str = "none") -> str:
        return f"{user_id} {chat_id}"

    assert await text_of(who, caller=Caller(agent_name="A")) == "None none"
    assert await text_of(who) == "u1 c1"


async def test_sync_functions_run_in_threads() -> None:
    """The event loop goes on meanwhile."""
    assert await text_of(lambda: threading.current_thread() is threading.main_thread()) == "false"


async def test_async_generators_stream() -> None:
    """Pieces can be read as they come."""
    gate = asyncio.Event()

    async def count() -> AsyncIterator[str]:
        yield "one "
        await gate.wait()
        yield "two"

    made = tool(count)
    async with MiniAgents():
        async for message in made.start({}, CALLER):
            tokens = aiter(message)
            assert await anext(tokens) == "one "
            gate.set()
            assert str(await message) == "one two"


class Callable:
    """An object that can be called."""

    async def __call__(self, x: int) -> int:
        return x + 1

    def method(self, x: int) -> int:
        """A method."""
        return x + 2

    @staticmethod
    async def static(x: int) -> int:
        return x + 3


async def test_all_that_can_be_called() -> None:
    """Methods, objects, partial functions: what is given already is no part of the schema."""
    assert await text_of(Callable().method, '{"x": 1}') == "3"
    assert await text_of(Callable.static, '{"x": 1}') == "4"
    assert await text_of(tool(Callable(), name="call"), '{"x": 1}') == "2"

    async def add(x: int, y: int) -> int:
        """Adds."""
        return x + y

    made = tool(functools.partial(add, y=10))
    assert made.name == "add"
    assert made.description == "Adds."
    assert made.parameters["required"] == ["x"]
    assert await text_of(made, '{"x": 1}') == "11"


def test_what_cannot_be_a_tool() -> None:
    """It is said at once, with what would do."""

    def star(*cities: str) -> None: ...

    def strange(x: threading.Thread) -> None: ...

    with pytest.raises(TypeError, match=r"star takes \*cities"):
        tool(star)
    with pytest.raises(TypeError, match="strange"):
        tool(strange)
    with pytest.raises(TypeError, match="give a function"):
        as_tool(5)
    with pytest.raises(TypeError, match=r"tools=\["):
        as_tools(star)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="another `name=`"):
        tool(lambda: 1, name="a name")
    with pytest.raises(ValueError, match="positive"):
        tool(test_no_arguments, timeout=0)
    with pytest.raises(ValueError, match="positive"):
        tool(test_no_arguments, timeout="5")  # type: ignore[call-overload]  # pyright: ignore


async def test_what_wraps_an_async_function_may_block() -> None:
    """Only what is async itself is called on the event loop; all else runs in a thread, whatever it wraps."""

    async def five() -> int:
        return 5

    @functools.wraps(five)
    def run() -> int:
        return asyncio.run(five())

    @functools.wraps(five)
    def passed_on() -> Any:
        return five()

    assert await text_of(run) == "5"
    assert await text_of(passed_on) == "5"


async def test_generators() -> None:
    """Those that are returned stream; sync ones run in the thread to their end."""

    async def count() -> AsyncIterator[Any]:
        yield "one "
        yield {"two": 2}

    def spell() -> Any:
        yield "a"
        yield str(threading.current_thread() is threading.main_thread())

    def numbers() -> Any:
        yield 1
        yield 2

    assert await text_of(lambda: count()) == 'one {"two":2}'
    assert await text_of(spell) == "aFalse"
    assert await text_of(numbers) == "[1,2]"


async def test_classes() -> None:
    """What a class makes is the result."""
    assert await text_of(Size, '{"width": 3}') == '{"width":3}'
    assert "said" in await text_of(Later, '{"text": "said"}')


async def test_context_variables_reach_threads() -> None:
    """A sync function sees what is set where it is called."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    variable.set("set")
    assert await text_of(lambda: variable.get()) == "set"


async def test_what_ends_programs_passes() -> None:
    """`SystemExit` in a tool is no result of it, from a thread neither."""

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await outcome(leave)


async def test_cancelling_a_tool() -> None:
    """Who cancels what `start` has returned cancels the tool."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with MiniAgents():
        replies = tool(wait).start({}, CALLER)
        await began.wait()
        assert replies.cancel()
        await ended.wait()


async def test_what_its_owner_has_set_stays() -> None:
    """A partial function or a fork that says for whom it works does so, whoever calls."""

    def who(user_id: str) -> str:
        return user_id

    assert await text_of(functools.partial(who, user_id="mine")) == "mine"
    assert await text_of(searcher.fork(user_id="mine"), '{"query": "cats"}') == "cats 3 mine ()"


async def test_more_arguments_if_the_function_takes_them() -> None:
    """`**kwargs` lets a model write what it likes."""

    def anything(**kwargs: Any) -> Any:
        return kwargs

    assert await text_of(anything, '{"a": [1]}') == '{"a":[1]}'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        (None, "null"),
        ({"a": (1, "ü")}, '{"a":[1,"ü"]}'),
        (Place(city="Rome", zip_code=0), '{"city":"Rome","zip_code":0}'),
        (Size(1), '{"width":1}'),
        (Message("said"), "said"),
        (Named.RED, "red"),
        (b"\xff", "b'\\xff'"),
        (Strange(), "strange"),
        ([Strange()], "[strange]"),
    ],
)
async def test_results(value: Any, text: str) -> None:
    """Text as it is, data as JSON, messages as they are."""
    assert await text_of(lambda: value) == text


async def test_images_in_results() -> None:
    """They become parts of the message."""
    message = await outcome(lambda: ["Look:", IMAGE])
    assert (str(message), parts_of(message)) == ("Look:", (IMAGE,))
    assert parts_of(await outcome(lambda: IMAGE)) == (IMAGE,)


REGISTERED = {
    "name": "get_weather",
    "function_schema": {
        "name": "get_weather",
        "description": "Looks at the sky.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


async def test_entries_of_a_registry() -> None:
    """The schema is that of the entry, and arguments are checked against it."""

    async def get_weather(city: str, user_id: str) -> str:
        return f"{city} {user_id}"

    made = as_tool({**REGISTERED, "func": get_weather, "timeout": 3, "requires_approval": True})
    assert (made.description, made.timeout, made.requires_approval) == ("Looks at the sky.", 3, True)
    assert await text_of(made, '{"city": "Rome"}') == "Rome u1"
    with pytest.raises(ToolArgumentsError, match="city: 1 is not of type 'string'"):
        made.parse('{"city": 1}')
    with pytest.raises(ToolArgumentsError, match="'city' is a required property"):
        made.parse("{}")
    wrapped = {**REGISTERED, "function_schema": {"type": "function", "function": REGISTERED["function_schema"]}}
    assert as_tool({**wrapped, "func": get_weather}).parameters["required"] == ["city"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"func": None}, "cannot be called"),
        ({"fun": 1}, "fun"),
        ({"function_schema": {"parameters": {"type": "nonsense"}}}, "no JSON schema"),
        ({"function_schema": 5}, "no dict"),
        ({"name": None, "function_schema": {}}, "None for its name"),
    ],
)
def test_entries_that_are_none(change: dict[str, Any], says: str) -> None:
    """What is wrong with an entry is said when the tool is made."""
    with pytest.raises((TypeError, ValueError), match=says):
        as_tool({**REGISTERED, "func": test_no_arguments, **change})
    with pytest.raises(ValueError, match="no func"):
        as_tool(REGISTERED)


def test_strict_stands_in_the_schema_of_an_entry_too() -> None:
    """OpenAI has it there."""
    schema = {**REGISTERED["function_schema"], "strict": True}  # type: ignore[dict-item]
    assert as_tool({**REGISTERED, "function_schema": schema, "func": test_no_arguments}).strict
    assert not as_tool({**REGISTERED, "function_schema": schema, "func": test_no_arguments, "strict": False}).strict


@miniagent
async def searcher(  # noqa: D417
    ctx: InteractionContext, query: str, limit: int = 3, user_id: str | None = None
) -> None:
    """Searches.

    Args:
        ctx: Nothing.
        query: What for.
    """
    ctx.reply(f"{query} {limit} {user_id} {await ctx.message_promises}")


@miniagent(alias="Echo Agent")
async def echo(ctx: InteractionContext) -> None:
    """Says the same."""
    ctx.reply(ctx.message_promises)


async def test_agents_with_typed_parameters() -> None:
    """The parameters that are not set yet are the schema."""
    made = as_tool(searcher)
    assert (made.name, made.agent) == ("searcher", searcher)
    assert made.description.startswith("Searches.")
    assert list(made.parameters["properties"]) == ["query", "limit"]
    assert made.parameters["properties"]["query"]["description"] == "What for."
    assert await text_of(made, '{"query": "cats"}') == "cats 3 u1 ()"
    assert list(as_tool(searcher.fork(limit=5)).parameters["properties"]) == ["query"]
    assert await text_of(searcher.fork(limit=5), '{"query": "cats"}') == "cats 5 u1 ()"


async def test_agents_that_take_messages() -> None:
    """An agent without parameters, or one that is configured by any, is sent one message."""
    made = as_tool(echo)
    assert (made.name, made.description) == ("echo_agent", "Says the same.")
    assert made.parameters["required"] == ["message"]
    assert await text_of(made, '{"message": "hello"}') == "hello"
    with pytest.raises(ToolArgumentsError, match="message"):
        made.parse('{"text": "hello"}')
    assert list(as_tool(openai_agent).parameters["properties"]) == ["message"]


async def test_entries_for_agents() -> None:
    """The schema is that of the entry; `message` is what the agent is sent, and no model configures it beyond that."""

    @miniagent
    async def configured(ctx: InteractionContext, tone: str = "flat", **options: Any) -> None:
        ctx.reply(f"{await ctx.message_promises} {tone} {options}")

    parameters = {"type": "object", "properties": {"message": {"type": "string"}, "tone": {"enum": ["high", "low"]}}}
    made = as_tool({"name": "ask", "function_schema": {"parameters": parameters}, "func": configured})
    assert made.parameters["additionalProperties"] is False
    assert await text_of(made, '{"message": "Hi", "tone": "low"}') == "(UserMessage(text='Hi'),) low {}"
    with pytest.raises(ToolArgumentsError, match="base_url"):
        made.parse('{"message": "Hi", "base_url": "https://evil"}')


def test_agents_that_no_model_can_call() -> None:
    """It is said when the tool is made."""

    @miniagent
    async def untyped(ctx: InteractionContext, query) -> None: ...  # type: ignore[no-untyped-def]

    @miniagent
    async def clashing(ctx: InteractionContext, budget: int) -> None: ...

    with pytest.raises(TypeError, match="UNTYPED takes query and does not say of which type"):
        as_tool(untyped)
    assert list(as_tool(untyped.fork(query="x")).parameters["properties"]) == ["message"]
    with pytest.raises(TypeError, match="CLASHING takes budget, which is an argument of `inquire`"):
        as_tool(clashing)


async def test_classes_that_are_agents() -> None:
    """The arguments are those of the constructor, as the docstring of the class describes them."""

    @miniagent
    class Finder:
        """Finds.

        Args:
            query: What.
        """

        def __init__(self, query: str) -> None:
            self.query = query

        async def __call__(self, ctx: InteractionContext) -> None:
            ctx.reply(self.query)

    made = as_tool(Finder)
    assert (made.name, made.description) == ("finder", "Finds.")
    assert made.parameters["properties"] == {"query": {"type": "string", "description": "What."}}
    assert await text_of(made, '{"query": "cats"}') == "cats"


def test_long_names_of_agents() -> None:
    """They are cut to what providers take."""
    assert as_tool(echo.fork(alias="A" * 80)).name == "a" * 64


def test_tools_can_be_keys() -> None:
    """Each is equal to itself only."""
    made = tool(find)
    assert {made: 1}[made] == 1
    assert made != tool(find)


def test_two_of_one_name() -> None:
    """They are refused, and both are named, unless they are one and the same."""
    clash = "two tools are called find, tests.ext.tools.test_tool.find and the agent ECHO AGENT"
    with pytest.raises(ValueError, match=clash.replace(".", r"\.").replace("ECHO AGENT", "Echo Agent")):
        as_tools([find, tool(echo, name="find")])
    made = tool(find)
    assert as_tools([[made], (made,)]) == (made,)


def test_the_decorator() -> None:
    """`@tool(...)` makes a tool of the function below it, and a tool can be made anew with other settings."""

    @tool(timeout=5, requires_approval=True)
    def delete(path: str) -> None:
        """Deletes."""

    assert isinstance(delete, Tool)
    assert (delete.name, delete.timeout, delete.requires_approval) == ("delete", 5, True)
    assert tool(delete, name="remove").name == "remove"
    assert tool(delete, name="remove").timeout == 5


def test_no_secret_in_the_representation() -> None:
    """What a partial function was given may be a key."""

    def call(key: str, x: int) -> None: ...

    assert "sk-secret" not in repr(tool(functools.partial(call, key="sk-secret")))
