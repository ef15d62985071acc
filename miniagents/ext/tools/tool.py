"""Tools: what a model may call. Functions, agents and entries of a registry become tools by `tool` and `as_tool`."""

import dataclasses
import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, overload

from pydantic_core import from_json

from miniagents.agents import MiniAgent
from miniagents.ext.llm.hooks import Caller
from miniagents.ext.llm.llm_common import UserMessage
from miniagents.ext.tools.documentation import documentation_of, plain_function
from miniagents.ext.tools.errors import ToolArgumentsError, ToolError
from miniagents.ext.tools.given_schema import GivenParameters, checked_schema
from miniagents.ext.tools.results import as_text, outcome_of
from miniagents.ext.tools.schema import CALLER_FIELDS, Parameters, bound_names, parameters_of, takes_any
from miniagents.sequences import MessageSequencePromise

__all__ = ["Tool", "ToolArgumentsError", "ToolError", "as_tool", "as_tools", "tool"]

_LONGEST_NAME = 64
_NAME = re.compile(f"[a-zA-Z0-9_-]{{1,{_LONGEST_NAME}}}")
_ENTRY = ("name", "function_schema", "func", "timeout", "requires_approval", "strict")


@dataclasses.dataclass(frozen=True, slots=True, repr=False, eq=False, kw_only=True)
class Tool:
    """Something that a model may call. Make one with `tool` or `as_tool`.

    Attributes:
        name: What models call it: letters, digits, "_" and "-", 64 at most.
        description: What it does.
        parameters: The JSON schema of its arguments, an object.
        run: What is called with the arguments by name: sync (in a thread) or async function, or async generator.
        validate: Turns arguments that a model has written into those of `run`, or raises a `ToolArgumentsError`.
        agent: The agent that it is, if it is one.
        server: The MCP server that it is of, if it is of one.
        strict: Whether providers that can are asked to keep models to the schema.
        timeout: How many seconds it may take.
        requires_approval: Whether somebody is asked before it runs.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[..., Any]
    validate: Callable[[dict[str, Any]], dict[str, Any]]
    agent: MiniAgent | None = None
    server: str | None = None
    strict: bool = False
    timeout: float | None = None
    requires_approval: bool = False

    def __post_init__(self) -> None:
        """Refuses what no provider takes."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"{self.name!r} is no name of a tool: it takes 1 to 64 letters, digits, _ and -; give another `name=`"
            )
        timeout: Any = self.timeout
        if timeout is not None and not (isinstance(timeout, (int, float)) and timeout > 0):
            raise ValueError(f"the timeout of the tool {self.name} is {timeout!r}; give a positive number of seconds")

    def parse(self, arguments: str) -> dict[str, Any]:
        """Reads and checks what a model has written.

        Args:
            arguments: JSON; an empty text is for no arguments.

        Returns:
            The arguments for `start`.

        Raises:
            ToolArgumentsError: They are no JSON object, or do not fit the schema; the text says what is wrong.
        """
        try:
            found = from_json(arguments) if arguments.strip() else {}
        except ValueError as error:
            raise ToolArgumentsError(
                f"its arguments are no valid JSON ({error}): write a complete JSON object"
            ) from None
        if not isinstance(found, dict):
            raise ToolArgumentsError(f"its arguments are {type(found).__name__}; write a JSON object of them by name")
        return self.validate(found)

    def start(self, arguments: dict[str, Any], caller: Caller) -> MessageSequencePromise:
        """Starts the tool.

        Args:
            arguments: What `parse` has returned.
            caller: For whom it runs.

        Returns:
            What it replies, at once: of a function one message, of an agent its reply. It fails with what the tool
            fails with; cancelling it cancels the tool.
        """
        if self.agent is not None:
            wanted = _wanted(self.agent._function, caller, self.agent._arguments)
            reply: MessageSequencePromise = self.run(**arguments, **wanted)
            return reply
        wanted = _wanted(self.run, caller, bound_names(self.run))
        return MessageSequencePromise(lambda _: outcome_of(self.run, {**arguments, **wanted}))

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"


@overload
def tool(
    func: Any,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    requires_approval: bool = False,
    strict: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    requires_approval: bool = False,
    strict: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> Callable[[Any], Tool]: ...


def tool(
    func: Any = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    requires_approval: bool = False,
    strict: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> Any:
    """Makes a tool of a function or of an agent. It can be used as a decorator.

    Parameters of a function that are called `user_id`, `chat_id` and `agent_name` are filled in by the agent whose
    model calls the tool, and never by the model.

    Args:
        func: A sync function, which runs in a thread; an async function; an async generator function, whose pieces
            stream; or an agent, which is sent one `message`, or called with its typed parameters where it has some.
            What a partial function or a fork has set already is no business of the model.
        name: What models call it; its own name otherwise.
        description: What it does; its docstring otherwise.
        timeout: How many seconds it may take.
        requires_approval: Whether somebody is asked before it runs.
        strict: Whether providers that can are asked to keep models to the schema.
        parameters: The JSON schema of the arguments, in place of the one made of the signature.

    Returns:
        The tool, or where no function was given, the decorator.

    Raises:
        TypeError: It cannot be called, or has parameters that have no JSON schema.
        ValueError: The name is none that providers take.

    Example:
        ```python
        @tool(timeout=10)
        async def get_weather(city: str) -> str:
            "Looks up the weather of a city."
            return f"Sunny in {city}"
        ```
    """
    options: dict[str, Any] = {
        "name": name,
        "description": description,
        "timeout": timeout,
        "requires_approval": requires_approval,
        "strict": strict,
        "parameters": parameters,
    }
    if func is None:
        return lambda found: _made(found, **options)
    return _made(func, **options)


def as_tool(thing: Any) -> Tool:
    """Makes a tool of whatever can be one.

    Args:
        thing: A `Tool`, a function, an agent, or an entry of a registry: `{"name": ..., "function_schema": ..., "func":
            ...}` with a JSON schema in OpenAI's style, and `timeout`, `requires_approval` or `strict` where wanted.

    Returns:
        The tool.

    Raises:
        TypeError: It cannot be one.
        ValueError: An entry lacks something, or has something that is not known.
    """
    if isinstance(thing, Tool):
        return thing
    if isinstance(thing, Mapping):
        return _from_entry(thing)
    if isinstance(thing, MiniAgent) or callable(thing):
        return tool(thing)
    raise TypeError(
        f"{thing!r:.100} is no tool; give a function, an agent, a `tool(...)`, or an entry with name, function_schema "
        "and func"
    )


def as_tools(things: Iterable[Any]) -> tuple[Tool, ...]:
    """Makes tools of whatever can be some.

    Args:
        things: See `as_tool`; lists of such are taken apart.

    Returns:
        The tools.

    Raises:
        ValueError: Two of them have the same name.
    """
    if isinstance(things, Mapping) or callable(things):
        raise TypeError(f"tools are a list; write tools=[{things!r:.60}]")
    made = list(_flattened(things))
    of_name: dict[str, list[Tool]] = {}
    for one in made:
        of_name.setdefault(one.name, []).append(one)
    # Names of different servers may clash; those of one program should not.
    renamed = [_with_prefix(one) if _is_clash_of_servers(of_name[one.name]) else one for one in made]
    times = Counter(one.name for one in renamed)
    clashing = [one for one in renamed if times[one.name] > 1]
    if clashing:
        one, other = [found for found in clashing if found.name == clashing[0].name][:2]
        raise ValueError(
            f"two tools are called {one.name}, {_origin(one)} and {_origin(other)}; give one of them another name: "
            f"{'mcp_tools(..., name=)' if one.server or other.server else 'tool(..., name=)'}"
        )
    return tuple(renamed)


def _is_clash_of_servers(tools: list[Tool]) -> bool:
    return len(tools) > 1 and all(one.server for one in tools)


def _with_prefix(one: Tool) -> Tool:
    return dataclasses.replace(one, name=f"{_valid_name(one.server or '')}_{one.name}"[:_LONGEST_NAME])


def _origin(one: Tool) -> str:
    if one.server is not None:
        return f"that of the MCP server {one.server}"
    if one.agent is not None:
        return f"the agent {one.agent.alias}"
    function = plain_function(one.run)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _flattened(things: Iterable[Any]) -> Iterator[Tool]:
    seen: set[int] = set()
    for thing in things:
        for made in _flattened(thing) if isinstance(thing, (list, tuple)) else (as_tool(thing),):
            if id(made) not in seen:
                seen.add(id(made))
                yield made


def _made(func: Any, *, name: str | None, description: str | None, parameters: Any, **options: Any) -> Tool:
    if isinstance(func, Tool):
        changes = {"name": name, "description": description, **options}
        if parameters is not None:
            given = GivenParameters(checked_schema(parameters, name or func.name), takes_others=False)
            changes |= {"parameters": given.schema, "validate": given.validate}
        return dataclasses.replace(func, **{field: value for field, value in changes.items() if value})
    if isinstance(func, MiniAgent):
        return _of_agent(func, name, description, parameters, options)
    if not callable(func):
        raise TypeError(f"{func!r:.100} cannot be called, so it is no tool")
    name = name or _name_of(func)
    made: Parameters | GivenParameters
    if parameters is None:
        made = Parameters(func, name)
    else:
        made = GivenParameters(checked_schema(parameters, name), takes_others=takes_any(parameters_of(func, name)))
    return Tool(
        name=name,
        description=documentation_of(func).description if description is None else description,
        parameters=made.schema,
        run=func,
        validate=made.validate,
        **options,
    )


def _of_agent(agent: MiniAgent, name: str | None, description: str | None, parameters: Any, options: Any) -> Tool:
    name = name or _valid_name(agent.alias).lower()[:_LONGEST_NAME]
    function = inspect.unwrap(agent._function)
    signature = parameters_of(agent._function, name)
    rest = signature if isinstance(function, type) else signature[1:]  # constructors are not given the context
    is_configured = takes_any(rest)  # arbitrary arguments configure an agent, as they do `openai_agent`
    if description is None:
        description = agent.description or ""
        if description == inspect.getdoc(function):
            description = documentation_of(function).description
            # How an agent is configured is nothing that a model has to know.
            description = description.partition("\n\n")[0] if is_configured else description
    typed = [] if is_configured else _typed(agent, rest, name, is_given=parameters is not None)
    made: Parameters | GivenParameters
    if parameters is not None or not typed:
        schema = checked_schema(_ONE_MESSAGE if parameters is None else parameters, name)
        schema.setdefault("additionalProperties", False)  # else a model could configure the agent
        made = GivenParameters(schema, takes_others=False)
    else:
        left_out = {parameter.name for parameter in signature} - {parameter.name for parameter in typed}
        made = Parameters(agent._function, name, left_out)
    is_sent_message = "message" not in [parameter.name for parameter in rest]
    return Tool(
        name=name,
        description=description,
        parameters=made.schema,
        run=functools.partial(_inquire, agent, is_sent_message),
        validate=made.validate,
        agent=agent,
        **options,
    )


def _typed(
    agent: MiniAgent, parameters: Iterable[inspect.Parameter], name: str, *, is_given: bool
) -> list[inspect.Parameter]:
    """The parameters of an agent that a model can fill in."""
    found = [
        parameter
        for parameter in parameters
        if parameter.name not in agent._arguments and parameter.name not in CALLER_FIELDS
    ]
    taken = [parameter.name for parameter in found if parameter.name in _OF_INQUIRE]
    if taken:
        raise TypeError(
            f"the agent {agent.alias} takes {taken[0]}, which is an argument of `inquire` itself; give the parameter "
            "another name"
        )
    typed = [parameter for parameter in found if parameter.annotation is not parameter.empty]
    untyped = [
        parameter.name
        for parameter in found
        if parameter not in typed
        and parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if untyped and not is_given:
        raise TypeError(
            f"the agent {agent.alias} takes {untyped[0]} and does not say of which type, so that no model can be told "
            f"what it is; annotate it, or set it: tool(agent.fork({untyped[0]}=...), name={name!r})"
        )
    return typed


def _inquire(agent: MiniAgent, is_sent_message: bool, /, **arguments: Any) -> MessageSequencePromise:
    if is_sent_message and "message" in arguments:
        return agent.inquire(UserMessage(as_text(arguments.pop("message"))), **arguments)
    return agent.inquire(**arguments)


def _from_entry(entry: Mapping[str, Any]) -> Tool:
    name = entry.get("name")
    unknown = [key for key in entry if key not in _ENTRY]
    if unknown:
        raise ValueError(f"the tool {name!r} has {', '.join(map(str, unknown))}; an entry takes {', '.join(_ENTRY)}")
    missing = [key for key in ("function_schema", "func") if key not in entry]
    if missing:
        raise ValueError(f"the tool {name!r} has no {' and no '.join(missing)}")
    schema = entry["function_schema"]
    if not isinstance(schema, Mapping):
        raise TypeError(f"the function_schema of the tool {name!r} is no dict")
    schema = schema.get("function", schema) if schema.get("type") == "function" else schema
    name = name or schema.get("name")
    if not isinstance(name, str):
        raise ValueError(
            f"an entry of a registry has {name!r} for its name; give it one: {{'name': 'get_weather', ...}}"
        )
    func = entry["func"]
    if not isinstance(func, MiniAgent) and not callable(func):
        raise TypeError(f"the func of the tool {name!r} cannot be called")
    options = {key: entry[key] for key in ("timeout", "requires_approval") if key in entry}
    options["strict"] = bool(entry.get("strict", schema.get("strict", False)))
    parameters = schema.get("parameters")
    return _made(
        func,
        name=name,
        description=schema.get("description"),
        parameters={"type": "object", "properties": {}} if parameters is None else parameters,
        **options,
    )


def _name_of(func: Any) -> str:
    plain = plain_function(func)
    return str(getattr(plain, "__name__", None) or type(plain).__name__)


def _valid_name(text: str) -> str:
    return re.sub("[^a-zA-Z0-9_-]+", "_", text).strip("_")


def _wanted(function: Any, caller: Caller, already_set: Iterable[str]) -> dict[str, Any]:
    """What of the caller a function takes. Its defaults stay where nothing is known, and so does what its owner set."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # some functions written in C have none
        return {}
    found: dict[str, Any] = {}
    for name in CALLER_FIELDS:
        value = getattr(caller, name)
        if name not in parameters or name in already_set:
            continue
        if value is not None or parameters[name].default is inspect.Parameter.empty:
            found[name] = value
    return found


_OF_INQUIRE = frozenset(inspect.signature(MiniAgent.inquire).parameters) - {"self", "arguments"}
_ONE_MESSAGE = {
    "type": "object",
    "properties": {"message": {"type": "string", "description": "What to say to it."}},
    "required": ["message"],
    "additionalProperties": False,
}
