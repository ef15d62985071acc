"""Tools: what a model may call. Functions, agents and entries of a registry become tools by `tool` and `as_tool`."""

import dataclasses
import functools
import inspect
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, overload

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from miniagents.agents import MiniAgent
from miniagents.ext.llm.hooks import Caller
from miniagents.ext.llm.llm_common import UserMessage
from miniagents.ext.llm.parts import ImagePart
from miniagents.ext.threads import in_thread
from miniagents.ext.tools.schema import (
    CALLER_FIELDS,
    arguments_model,
    documentation_of,
    json_schema_of,
    problems_of,
)
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise

__all__ = ["Tool", "ToolArgumentsError", "ToolError", "as_tool", "as_tools", "tool"]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ENTRY = ("name", "function_schema", "func", "timeout", "requires_approval", "strict")


class ToolError(Exception):
    """A tool could not do what it was to do. The model is told the text."""


class ToolArgumentsError(ToolError):
    """The arguments that a model has written do not fit the tool."""


@dataclasses.dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Tool:
    """Something that a model may call. Make one with `tool` or `as_tool`.

    Attributes:
        name: What models call it: letters, digits, "_" and "-", 64 at most.
        description: What it does.
        parameters: The JSON schema of its arguments, an object.
        run: What is called with the arguments by name: sync (in a thread) or async function, or async generator.
        validate: Turns arguments that a model has written into those of `run`, or raises a `ToolArgumentsError`.
        agent: The agent that it is, if it is one.
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
    strict: bool = False
    timeout: float | None = None
    requires_approval: bool = False

    def __post_init__(self) -> None:
        """Refuses what no provider takes."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"{self.name!r} is no name of a tool: it takes 1 to 64 letters, digits, _ and -; give another `name=`"
            )
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError(
                f"the timeout of the tool {self.name} is {self.timeout}; give a positive number of seconds"
            )

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
        return self.validate({name: value for name, value in found.items() if name not in CALLER_FIELDS})

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
            reply: MessageSequencePromise = self.run(**arguments, **_wanted(self.agent._function, caller))
            return reply
        return MessageSequencePromise(lambda _: _outcome(self.run, {**arguments, **_wanted(self.run, caller)}))

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
    times = Counter(one.name for one in made)
    # Names of different servers may clash; those of one program should not.
    renamed = [
        dataclasses.replace(one, name=getattr(one.run, "clash_name", one.name)) if times[one.name] > 1 else one
        for one in made
    ]
    twice = [name for name, count in Counter(one.name for one in renamed).items() if count > 1]
    if twice:
        raise ValueError(f"two tools are called {twice[0]}; give one of them another name: tool(..., name=)")
    return tuple(renamed)


def _flattened(things: Iterable[Any]) -> Iterator[Tool]:
    seen: set[int] = set()
    for thing in things:
        for made in _flattened(thing) if isinstance(thing, (list, tuple)) else (as_tool(thing),):
            if id(made) not in seen:
                seen.add(id(made))
                yield made


def _made(func: Any, *, name: str | None, description: str | None, parameters: Any, **options: Any) -> Tool:
    if isinstance(func, Tool):
        changes = {"name": name, "description": description, "parameters": parameters, **options}
        return dataclasses.replace(func, **{field: value for field, value in changes.items() if value})
    if isinstance(func, MiniAgent):
        return _of_agent(func, name, description, parameters, options)
    if not callable(func):
        raise TypeError(f"{func!r:.100} cannot be called, so it is no tool")
    name = name or _name_of(func)
    if parameters is not None:
        return _with_schema(func, name, description, parameters, options)
    model = arguments_model(func, name)
    if description is None:
        described = func.func if isinstance(func, functools.partial) else func
        description = documentation_of(described).description
    return Tool(
        name=name,
        description=description,
        parameters=json_schema_of(model, name),
        run=func,
        validate=functools.partial(_validated, model),
        **options,
    )


def _of_agent(agent: MiniAgent, name: str | None, description: str | None, parameters: Any, options: Any) -> Tool:
    name = name or re.sub("[^a-zA-Z0-9_-]+", "_", agent.alias).strip("_").lower()
    signature = inspect.signature(agent._function)
    left_out: set[str] = set()
    is_configured = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    rest = list(signature.parameters.values())
    if not isinstance(inspect.unwrap(agent._function), type):  # the constructor of a class is not given the context
        left_out.add(rest.pop(0).name)
    typed = [
        parameter
        for parameter in rest
        if parameter.name not in agent._arguments
        and parameter.name not in CALLER_FIELDS
        and parameter.annotation is not parameter.empty
    ]
    if description is None:
        description = agent.description or ""
        if description == inspect.getdoc(inspect.unwrap(agent._function)):
            description = documentation_of(inspect.unwrap(agent._function)).description
            # How an agent is configured is nothing that a model has to know.
            description = description.partition("\n\n")[0] if is_configured else description
    if is_configured or not typed:  # arbitrary arguments configure an agent, as they do `openai_agent`
        schema = {"type": "object", "properties": {"message": _MESSAGE}, "required": ["message"]}
        return Tool(
            name=name,
            description=description,
            parameters=parameters or schema,
            run=lambda message, **others: agent.inquire(UserMessage(message), **others),
            validate=_validated_message,
            agent=agent,
            **options,
        )
    left_out |= {parameter.name for parameter in rest} - {parameter.name for parameter in typed}
    model = arguments_model(agent._function, name, left_out)
    return Tool(
        name=name,
        description=description,
        parameters=parameters or json_schema_of(model, name),
        run=lambda **arguments: agent.inquire(**arguments),
        validate=functools.partial(_validated, model),
        agent=agent,
        **options,
    )


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
    options = {key: entry[key] for key in ("timeout", "requires_approval", "strict") if key in entry}
    parameters = schema.get("parameters") or {"type": "object", "properties": {}}
    if isinstance(entry["func"], MiniAgent):
        return _of_agent(entry["func"], name, schema.get("description"), parameters, options)
    if not callable(entry["func"]):
        raise TypeError(f"the func of the tool {name!r} cannot be called")
    return _with_schema(entry["func"], str(name), schema.get("description"), parameters, options)


def _with_schema(func: Any, name: str, description: str | None, parameters: Mapping[str, Any], options: Any) -> Tool:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
    from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]

    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        raise ValueError(f"the parameters of the tool {name!r} are no JSON schema: {error.message}") from None
    validator = Draft202012Validator(parameters)

    def validated(arguments: dict[str, Any]) -> dict[str, Any]:
        problems = [
            f"{'.'.join(str(step) for step in problem.absolute_path) or 'the arguments'}: {problem.message}"
            for problem in validator.iter_errors(arguments)
        ]
        if problems:
            raise ToolArgumentsError(f"its arguments do not fit: {'; '.join(problems[:20])}")
        return arguments

    if description is None:
        description = documentation_of(func).description
    return Tool(name=name, description=description, parameters=parameters, run=func, validate=validated, **options)


def _name_of(func: Any) -> str:
    if isinstance(func, functools.partial):
        return _name_of(func.func)
    return str(getattr(func, "__name__", None) or type(func).__name__)


def _validated(model: type[BaseModel], arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        made = model.model_validate(arguments)
    except ValidationError as error:
        raise ToolArgumentsError(f"its arguments do not fit: {problems_of(error)}") from None
    given = {
        field.alias or name: getattr(made, name)
        for name, field in model.model_fields.items()
        if name in made.model_fields_set
    }
    return {**given, **(made.model_extra or {})}


def _validated_message(arguments: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(arguments.get("message"), str) or len(arguments) > 1:
        raise ToolArgumentsError('its arguments do not fit: it takes one text, {"message": "..."}')
    return arguments


def _wanted(function: Any, caller: Caller) -> dict[str, Any]:
    """What of the caller a function takes. Its defaults stay where nothing is known."""
    parameters = inspect.signature(function).parameters
    found: dict[str, Any] = {}
    for name in CALLER_FIELDS:
        value = getattr(caller, name)
        if name in parameters and (value is not None or parameters[name].default is inspect.Parameter.empty):
            found[name] = value
    return found


async def _outcome(function: Any, arguments: dict[str, Any]) -> AsyncIterator[Any]:
    """Calls a function, and gives what it returns as something that can be sent."""
    target = function if inspect.isroutine(function) else getattr(function, "__call__", function)
    bare = inspect.unwrap(function.func if isinstance(function, functools.partial) else target)
    if inspect.isasyncgenfunction(bare):
        yield Message.promise(lambda _: _texts(function(**arguments)))
        return
    if inspect.iscoroutinefunction(bare):
        outcome = await function(**arguments)
    else:
        outcome = await in_thread(function, **arguments)
        if inspect.isawaitable(outcome) and not isinstance(outcome, (MessagePromise, MessageSequencePromise)):
            outcome = await outcome
    yield _sendable(outcome)


async def _texts(pieces: AsyncIterator[Any]) -> AsyncIterator[str]:
    async for piece in pieces:
        yield piece if isinstance(piece, str) else _as_json(piece)


def _sendable(outcome: Any) -> Any:
    if isinstance(outcome, (str, Message, MessagePromise, MessageSequencePromise)):
        return outcome
    if isinstance(outcome, ImagePart):
        return UserMessage(parts=[outcome])
    if isinstance(outcome, (list, tuple)) and any(isinstance(item, ImagePart) for item in outcome):
        texts = [
            item if isinstance(item, str) else _as_json(item) for item in outcome if not isinstance(item, ImagePart)
        ]
        return UserMessage("\n\n".join(texts) or None, parts=[item for item in outcome if isinstance(item, ImagePart)])
    return _as_json(outcome)


def _as_json(value: Any) -> str:
    try:
        return to_json(value).decode()
    except Exception:  # it is something of which nothing but its text is known
        return str(value)


_MESSAGE = {"type": "string", "description": "What to say to it."}
