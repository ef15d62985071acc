"""JSON schemas of functions: from the signature, the types and the docstring."""

import functools
import inspect
import logging
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError

__all__ = ["CALLER_FIELDS", "Documentation", "arguments_model", "documentation_of", "json_schema_of", "problems_of"]

CALLER_FIELDS = ("user_id", "chat_id", "agent_name")
"""Parameters that no model fills in: they say for whom a tool runs."""


class Documentation:
    """What a docstring says.

    Attributes:
        description: What the function does.
        parameters: What its parameters are, by their names.
    """

    __slots__ = ("description", "parameters")

    def __init__(self, description: str = "", parameters: Mapping[str, str] | None = None) -> None:
        self.description = description
        self.parameters = dict(parameters or {})


def documentation_of(function: Any) -> Documentation:
    """Reads the docstring of a function, in Google's, NumPy's or Sphinx's style.

    Args:
        function: The function.

    Returns:
        What it says.
    """
    text = inspect.getdoc(function)
    if not text:
        return Documentation()
    if "\n" not in text:
        return Documentation(text)
    import griffe

    logger = logging.getLogger("griffe")
    before, logger.disabled = logger.disabled, True  # it misses the types, which are in the signature
    try:
        sections = griffe.Docstring(text, lineno=1).parse("auto")
    finally:
        logger.disabled = before
    descriptions: list[str] = []
    parameters: dict[str, str] = {}
    for section in sections:
        if section.kind is griffe.DocstringSectionKind.text and not parameters:
            descriptions.append(str(section.value).strip())
        elif section.kind is griffe.DocstringSectionKind.parameters:
            parameters |= {item.name: " ".join(item.description.split()) for item in section.value}
    return Documentation("\n\n".join(descriptions), parameters)


def arguments_model(function: Any, name: str, without: Iterable[str] = ()) -> type[BaseModel]:
    """Makes a pydantic model of the parameters of a function.

    Args:
        function: The function.
        name: What it is called, for errors.
        without: Parameters to leave out, beside those of the caller.

    Returns:
        The model. Its fields are the parameters.

    Raises:
        TypeError: The function takes `*args`, or a parameter has a type that pydantic does not know.
    """
    documentation = documentation_of(function)
    hints = _hints_of(function)
    left_out = {*without, *CALLER_FIELDS}
    fields: dict[str, Any] = {}
    extra = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise TypeError(
                f"the tool {name} takes *{parameter.name}, which a model cannot fill in; take a list instead"
            )
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = True
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"the tool {name} takes {parameter.name} by position only; let it be given by name")
        elif parameter.name not in left_out:
            annotation = hints.get(parameter.name, Any)
            default = ... if parameter.default is parameter.empty else parameter.default
            described = documentation.parameters.get(parameter.name)
            details: dict[str, Any] = {"description": described} if described else {}
            fields[_field_name(parameter.name)] = (annotation, Field(default, alias=parameter.name, **details))
    config = ConfigDict(extra="allow" if extra else "forbid", arbitrary_types_allowed=False, populate_by_name=False)
    try:
        return create_model(name, __config__=config, **fields)
    except PydanticUserError as error:
        raise TypeError(f"the tool {name} has a parameter of a type that has no JSON schema: {error}") from error


def json_schema_of(model: type[BaseModel], name: str) -> dict[str, Any]:
    """The JSON schema of the parameters of a tool.

    Args:
        model: What `arguments_model` has made.
        name: What the tool is called, for errors.

    Returns:
        The schema, without the titles that pydantic makes of the names.

    Raises:
        TypeError: A type has no JSON schema.
    """
    try:
        schema = model.model_json_schema()
    except PydanticUserError as error:
        raise TypeError(f"the tool {name} has a parameter of a type that has no JSON schema: {error}") from error
    cleaned: dict[str, Any] = _without_titles(schema)
    cleaned.setdefault("properties", {})
    return cleaned


def problems_of(error: ValidationError) -> str:
    """Says what is wrong with arguments, for a model that is to do better.

    Args:
        error: What pydantic found.

    Returns:
        One line for each problem.
    """
    return "; ".join(
        f"{'.'.join(str(step) for step in problem['loc']) or 'the arguments'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)[:20]
    )


def _hints_of(function: Any) -> dict[str, Any]:
    target = function
    while isinstance(target, functools.partial):
        target = target.func
    target = inspect.unwrap(target)
    if isinstance(target, type):
        target = target.__init__  # type: ignore[misc]
    elif not inspect.isroutine(target):
        target = type(target).__call__
    try:
        return typing.get_type_hints(inspect.unwrap(target), include_extras=True)
    except Exception:  # a name that exists for type checkers only
        return {
            name: parameter.annotation if not isinstance(parameter.annotation, str) else Any
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.annotation is not parameter.empty
        }


def _field_name(name: str) -> str:
    """Pydantic does not take every name of a parameter for a field."""
    return f"parameter_{name.strip('_')}"


def _without_titles(part: Any, *, is_names: bool = False) -> Any:
    if isinstance(part, list):
        return [_without_titles(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        key: _without_titles(item, is_names=key in ("properties", "$defs") and not is_names)
        for key, item in part.items()
        if is_names or key != "title"
    }
