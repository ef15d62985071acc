"""JSON schemas of functions: from the signature, the types and the docstring; and arguments that fit them."""

import functools
import inspect
import types
import typing
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticUndefined, to_json

from miniagents.ext.tools.documentation import documentation_of, plain_function
from miniagents.ext.tools.errors import ToolArgumentsError

__all__ = ["CALLER_FIELDS", "PROBLEMS_SHOWN", "Parameters", "bound_names", "parameters_of", "takes_any"]

CALLER_FIELDS = ("user_id", "chat_id", "agent_name")
"""Parameters that no model fills in: they say for whom a tool runs."""

PROBLEMS_SHOWN = 20

_DEFINITIONS = "#/$defs/"
_VALUES = ("default", "examples", "enum", "const")  # keys of a schema below which there is data, and no schema


class Parameters:
    """The parameters of a function that a model fills in.

    Args:
        function: The function.
        name: What the tool is called, for errors.
        without: Parameters to leave out, beside those of the caller and those that a partial function has set.

    Attributes:
        schema: Their JSON schema, an object.

    Raises:
        TypeError: The function takes `*args`, or a parameter has a type that has no JSON schema, or there is no
            signature to read.
    """

    __slots__ = ("_fixed", "_model", "_with_field_as_default", "schema")

    schema: dict[str, Any]

    def __init__(self, function: Any, name: str, without: Iterable[str] = ()) -> None:
        self._fixed = frozenset({*without, *bound_names(function)})
        self._with_field_as_default: set[str] = set()
        signature = parameters_of(function, name)
        try:
            self._model = create_model(
                name,
                __config__=ConfigDict(extra="allow" if takes_any(signature) else "forbid"),
                **self._fields(function, name, signature),
            )
            schema = self._model.model_json_schema(schema_generator=_QuietGenerator)
        except PydanticUserError as error:
            raise TypeError(f"the tool {name} has a parameter of a type that has no JSON schema: {error}") from error
        self.schema = _with_definitions_in_place(_without_titles(schema))
        self.schema.setdefault("properties", {})

    def validate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Makes of what a model has written what the function takes.

        Args:
            arguments: The arguments, read from JSON.

        Returns:
            The arguments of the function by name: models, dates and the like where these are the types. What the model
            has not given is missing, so that the defaults of the function hold.

        Raises:
            ToolArgumentsError: They do not fit.
        """
        given = {name: value for name, value in arguments.items() if name not in CALLER_FIELDS}
        taken = sorted(self._fixed & given.keys())
        if taken:  # a function with **kwargs would take them, in place of what its owner has set
            raise ToolArgumentsError(f"its arguments do not fit: leave out {', '.join(taken)}")
        try:
            # As JSON, since strict models take dates and the like as text from there only.
            made = self._model.model_validate_json(to_json(given, inf_nan_mode="constants"))
        except ValidationError as error:
            raise ToolArgumentsError(f"its arguments do not fit: {_problems_of(error)}") from None
        return {
            **{
                str(field.alias): getattr(made, name)
                for name, field in self._model.model_fields.items()
                if name in made.model_fields_set or name in self._with_field_as_default
            },
            **(made.model_extra or {}),
        }

    def _fields(self, function: Any, name: str, signature: Iterable[inspect.Parameter]) -> dict[str, Any]:
        described = documentation_of(function).parameters
        hints = _hints_of(function)
        fields: dict[str, Any] = {}
        for parameter in signature:
            if parameter.kind is parameter.VAR_POSITIONAL:
                raise TypeError(
                    f"the tool {name} takes *{parameter.name}, which a model cannot fill in; take a list instead"
                )
            if parameter.name in self._fixed or parameter.name in CALLER_FIELDS:
                continue
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise TypeError(f"the tool {name} takes {parameter.name} by position only; let it be given by name")
            if parameter.kind is not parameter.VAR_KEYWORD:
                field = f"parameter_{len(fields)}"  # since pydantic does not take every name for a field
                if isinstance(parameter.default, FieldInfo):
                    self._with_field_as_default.add(field)
                hint = hints.get(parameter.name, Any)
                fields[field] = _field(parameter, hint, described.get(parameter.name))
        return fields


def parameters_of(function: Any, name: str) -> list[inspect.Parameter]:
    """Reads the signature of a function.

    Args:
        function: Whatever can be called.
        name: What the tool is called, for errors.

    Returns:
        The parameters, in order.

    Raises:
        TypeError: It has no signature that can be read, as it is with some functions written in C.
    """
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:
        raise TypeError(
            f"the signature of the tool {name} cannot be read; put it into a function of your own with named parameters"
        ) from None


def takes_any(parameters: Iterable[inspect.Parameter]) -> bool:
    """Whether arbitrary arguments are taken by name."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def bound_names(function: Any) -> set[str]:
    """The parameters that a partial function has set. They are its owner's business, and may hold keys."""
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names |= set(function.keywords)
        function = function.func
    return names


class _QuietGenerator(GenerateJsonSchema):
    """Says nothing of defaults that are no JSON: they are left out, and the warning would show what they hold."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}


def _field(parameter: inspect.Parameter, hint: Any, description: str | None) -> tuple[Any, Any]:
    details: dict[str, Any] = {"alias": parameter.name}
    if description:
        details["description"] = description
    default: Any = ... if parameter.default is parameter.empty else parameter.default
    if isinstance(default, FieldInfo):  # `limit: int = Field(5, description=...)`
        hint = Annotated[hint, default]
        if default.description:
            details.pop("description", None)
        if default.default_factory is not None:
            return hint, Field(default_factory=default.default_factory, **details)
        default = ... if default.default is PydanticUndefined else default.default
    elif default is None:
        hint = _or_none(hint)  # `limit: int = None` is what many write
    return hint, Field(default, **details)


def _or_none(hint: Any) -> Any:
    if get_origin(hint) is Annotated:
        kind, *metadata = get_args(hint)
        return Annotated[(_or_none(kind), *metadata)]
    if hint is Any or (get_origin(hint) in (typing.Union, types.UnionType) and type(None) in get_args(hint)):
        return hint
    return typing.Optional[hint]  # noqa: UP045  # `|` does not do for all that can be a hint


def _hints_of(function: Any) -> dict[str, Any]:
    target = inspect.unwrap(plain_function(function))
    if isinstance(target, type):
        return {**_hints_in(target), **_hints_in(target.__init__)}  # type: ignore[misc]
    return _hints_in(target if inspect.isroutine(target) else inspect.unwrap(type(target).__call__))


def _hints_in(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception:  # a name that exists for type checkers only; the other parameters keep their types
        target = inspect.unwrap(getattr(target, "__func__", target))
    found: dict[str, Any] = {}
    for name, hint in getattr(target, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: hint})
        try:
            found |= typing.get_type_hints(alone, getattr(target, "__globals__", {}), include_extras=True)
        except Exception:
            continue
    return found


def _problems_of(error: ValidationError) -> str:
    """Says what is wrong with arguments, for a model that is to do better."""
    return "; ".join(
        f"{'.'.join(str(step) for step in problem['loc']) or 'the arguments'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)[:PROBLEMS_SHOWN]
    )


def _without_titles(part: Any, *, is_names: bool = False) -> Any:
    """Leaves out the titles that pydantic makes of the names."""
    if isinstance(part, list):
        return [_without_titles(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        key: item
        if key in _VALUES and not is_names
        else _without_titles(item, is_names=key in ("properties", "$defs") and not is_names)
        for key, item in part.items()
        if is_names or key != "title"
    }


def _with_definitions_in_place(schema: dict[str, Any]) -> dict[str, Any]:
    """Puts definitions where they are used, as far as that makes a schema simpler: those used once, and enums."""
    definitions = schema.pop("$defs", {})
    uses = Counter(_references(schema)) + Counter(_references(definitions))
    pinned = set(_pinned([schema, definitions]))
    in_place = {
        name: definition
        for name, definition in definitions.items()
        if name not in pinned and (uses[name] == 1 or ("enum" in definition and "properties" not in definition))
    }
    made: dict[str, Any] = _resolved(schema, in_place)
    rest = {name: _resolved(item, in_place) for name, item in definitions.items() if name not in in_place}
    return {**made, "$defs": rest} if rest else made


def _references(part: Any) -> Iterator[str]:
    for inner in part if isinstance(part, list) else part.values() if isinstance(part, dict) else ():
        yield from _references(inner)
    if isinstance(part, dict) and isinstance(reference := part.get("$ref"), str):
        yield reference.removeprefix(_DEFINITIONS)


def _pinned(part: Any) -> Iterator[str]:
    """The definitions that a discriminator names, which has to find them where they are."""
    for inner in part if isinstance(part, list) else part.values() if isinstance(part, dict) else ():
        yield from _pinned(inner)
    if isinstance(part, dict) and isinstance(found := part.get("discriminator"), dict):
        yield from (str(name).removeprefix(_DEFINITIONS) for name in (found.get("mapping") or {}).values())


def _resolved(part: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_resolved(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    made = {key: _resolved(item, definitions) for key, item in part.items()}
    reference = made.get("$ref")
    if isinstance(reference, str) and (name := reference.removeprefix(_DEFINITIONS)) in definitions:
        del made["$ref"]
        return {**_resolved(definitions[name], definitions), **made}  # what stands beside a reference is closer
    return made
