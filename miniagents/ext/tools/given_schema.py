"""JSON schemas that were written by somebody: those of entries of a registry, and of MCP servers."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from miniagents.ext.tools.errors import ToolArgumentsError
from miniagents.ext.tools.schema import CALLER_FIELDS, PROBLEMS_SHOWN

__all__ = ["GivenParameters", "checked_schema"]

_SAY_MORE = ("additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref")
_LONGEST_PROBLEM = 300


class GivenParameters:
    """Parameters that are described by a JSON schema.

    Args:
        schema: What `checked_schema` has returned.
        takes_others: Whether arguments are let through of which the schema says nothing.
        ignored: Arguments that are ignored if a model writes them.

    Attributes:
        schema: The schema.
    """

    __slots__ = ("_ignored", "_knows", "_validator", "schema")

    def __init__(self, schema: dict[str, Any], *, takes_others: bool, ignored: Collection[str] = CALLER_FIELDS) -> None:
        self.schema = schema
        self._ignored = ignored
        # JSON schemas allow what they do not name, but a function has parameters that are none of a model's business.
        is_open = takes_others or any(word in schema for word in _SAY_MORE)
        self._knows: Collection[str] | None = None if is_open else schema["properties"]
        self._validator = _validator_of(schema)

    def validate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Checks what a model has written.

        Args:
            arguments: The arguments, read from JSON.

        Returns:
            The same, without those that are ignored.

        Raises:
            ToolArgumentsError: They do not fit.
        """
        given = {name: value for name, value in arguments.items() if name not in self._ignored}
        problems = [_in_words(problem) for problem in self._validator.iter_errors(given)]
        if self._knows is not None:
            problems += [f"{name}: there is no such argument, leave it out" for name in given.keys() - self._knows]
        if problems:
            raise ToolArgumentsError(f"its arguments do not fit: {'; '.join(problems[:PROBLEMS_SHOWN])}")
        return given


def checked_schema(parameters: Any, name: str, *, without: Collection[str] = CALLER_FIELDS) -> dict[str, Any]:
    """Checks and copies a schema, so that nobody can change it afterwards.

    Args:
        parameters: The JSON schema of an object.
        name: What the tool is called, for errors.
        without: Properties to leave out, since no model is to fill them in.

    Returns:
        The copy.

    Raises:
        TypeError: It is no dict.
        ValueError: It is no JSON schema of an object, or refers to something that is not in it.
    """
    from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]
    from jsonschema.validators import validator_for  # type: ignore[import-untyped]

    if not isinstance(parameters, Mapping):
        raise TypeError(f"the parameters of the tool {name!r} are no dict, but {parameters!r:.60}")
    schema: dict[str, Any] = {"type": "object", **_copied(parameters)}
    try:
        validator_for(schema, default=_default_validator()).check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"the parameters of the tool {name!r} are no JSON schema: {error.message}") from None
    if schema["type"] != "object":
        raise ValueError(
            f"the parameters of the tool {name!r} are the schema of a {schema['type']}; write that of an object, "
            'whose properties are the arguments: {"type": "object", "properties": {...}}'
        )
    _check_references(schema, name)
    schema["properties"] = {key: item for key, item in schema.get("properties", {}).items() if key not in without}
    if "required" in schema:
        schema["required"] = [key for key in schema["required"] if key not in without]
    return schema


def _copied(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {key: _copied(item) for key, item in part.items()}
    return [_copied(item) for item in part] if isinstance(part, (list, tuple)) else part


def _default_validator() -> Any:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    return Draft202012Validator


def _validator_of(schema: dict[str, Any]) -> Any:
    from jsonschema.validators import validator_for
    from referencing import Registry

    # A registry of its own, because the one of the library asks servers for what a schema refers to.
    return validator_for(schema, default=_default_validator())(schema, registry=Registry())


def _check_references(schema: dict[str, Any], name: str) -> None:
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    lookup: Callable[[str], Any] = Registry().resolver_with_root(DRAFT202012.create_resource(schema)).lookup
    pending: list[Any] = [schema]
    while pending:
        part = pending.pop()
        pending += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        reference = part.get("$ref") if isinstance(part, dict) else None
        if isinstance(reference, str):
            try:
                lookup(reference)
            except (Unresolvable, ValueError):
                raise ValueError(
                    f"the parameters of the tool {name!r} refer to {reference}, which is not in them; write it out"
                ) from None


def _in_words(problem: Any) -> str:
    from jsonschema.exceptions import best_match

    closest = best_match([problem])  # of several alternatives the one that was probably meant
    path = ".".join(str(step) for step in closest.absolute_path) or "the arguments"
    return f"{path}: {closest.message[:_LONGEST_PROBLEM]}"
