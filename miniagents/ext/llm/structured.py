"""Answers that are objects: their JSON schema, their validation, and what there is of them while they stream."""

from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, create_model
from pydantic_core import from_json

from miniagents.ext.llm.llm_common import AssistantMessage
from miniagents.messages import MessagePromise

__all__ = ["AnswerPromise", "ReplyType", "strict_schema"]

_VALUE = "value"


class ReplyType:
    """A type that an answer has to be of.

    Args:
        kind: A pydantic model, a dataclass, a typed dict, a list of such, or whatever else pydantic knows.

    Attributes:
        name: What models and providers are to call it.
        schema: Its JSON schema, which is that of an object: other values are wrapped into one.

    Raises:
        TypeError: Pydantic has no JSON schema for it.
    """

    __slots__ = ("_adapter", "_kind", "_wrapped", "name", "schema")

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(kind)
            schema = self._adapter.json_schema()
        except Exception as error:
            raise TypeError(f"reply_type={kind!r:.100} is no type that pydantic has a JSON schema for") from error
        self._wrapped = schema.get("type") != "object"
        if self._wrapped:
            definitions = schema.pop("$defs", None)
            schema = {"type": "object", "properties": {_VALUE: schema}, "required": [_VALUE]}
            if definitions:
                schema["$defs"] = definitions
        self.schema: dict[str, Any] = schema
        name = getattr(kind, "__name__", "") or "reply"
        self.name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)[:60]

    def validate_json(self, text: str) -> Any:
        """Makes the object.

        Args:
            text: The whole answer.

        Returns:
            The object.

        Raises:
            pydantic.ValidationError: The answer does not fit.
        """
        text = _without_fence(text)
        if not self._wrapped:
            return self._adapter.validate_json(text)
        try:
            content = from_json(text)
        except ValueError:
            return self._adapter.validate_json(text)  # which says in pydantic's words what is wrong
        has_value = isinstance(content, dict) and _VALUE in content
        return self._adapter.validate_python(content[_VALUE] if has_value else content)

    def partial(self, text: str) -> Any:
        """Makes what there is of the object.

        Args:
            text: The answer so far.

        Returns:
            For a pydantic model, an object of a class derived from it, in which None stands for what has not come; for
            other types, the data so far; None where there is nothing yet.
        """
        try:
            content = from_json(_without_fence(text), allow_partial="trailing-strings")
            if self._wrapped:
                content = content.get(_VALUE)
            return _partial_adapter(self._kind).validate_python(content) if content not in (None, {}, []) else None
        except (ValueError, AttributeError):  # a ValidationError is one, too: it cannot be judged yet
            return None


class AnswerPromise(MessagePromise):
    """The promise of an answer of a model. Of one that is to be an object, the parts can be read while they come."""

    __slots__ = ("_reply_type",)

    _reply_type: ReplyType | None

    async def partial_objects(self) -> AsyncIterator[Any]:
        """Gives what there is of the object that was asked for by `reply_type=`, each time that there is more.

        Yields:
            See `ReplyType.partial`; the last one is the validated object itself.

        Raises:
            TypeError: No `reply_type=` was given.
            pydantic.ValidationError: The answer does not fit, at the end.
        """
        if self._reply_type is None:
            raise TypeError("this answer is a text; give `reply_type=` to the agent to have an object of it")
        text = ""
        latest: Any = None
        async for token in self:
            text += token
            partial = self._reply_type.partial(text)
            if partial is not None and partial != latest:
                latest = partial
                yield partial
        yield self._reply_type.validate_json(text)

    def _make_whole(self) -> Any:
        message = super()._make_whole()
        if isinstance(message, AssistantMessage):
            message._adapter = self._reply_type
        return message


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Makes a schema such as providers want it that keep to it strictly: all properties required, and no others.

    Args:
        schema: A JSON schema.

    Returns:
        The schema; None where that cannot be, since it has objects with arbitrary keys.
    """
    try:
        strict: dict[str, Any] = _strict(schema)
    except ValueError:
        return None
    return strict


def _strict(part: Any) -> Any:
    if isinstance(part, list):
        return [_strict(item) for item in part]
    if not isinstance(part, Mapping):
        return part
    made = {name: _strict(item) for name, item in part.items() if name != "default"}
    if part.get("type") == "object" or "properties" in part:
        if part.get("additionalProperties"):
            raise ValueError
        properties = part.get("properties") or {}
        if not properties and "additionalProperties" not in part:
            raise ValueError
        made["properties"] = {name: _strict(item) for name, item in properties.items()}
        made["required"] = list(properties)
        made["additionalProperties"] = False
    return made


def _without_fence(text: str) -> str:
    """Models that are not held to JSON like to put it between ``` lines."""
    stripped = text.strip()
    if not stripped.startswith("```"):
        return stripped
    return stripped.partition("\n")[2].removesuffix("```").strip()


@lru_cache(maxsize=256)
def _partial_adapter(kind: Any) -> "TypeAdapter[Any]":
    return TypeAdapter(_partial_type(kind))


@lru_cache(maxsize=256)
def _partial_type(kind: Any) -> Any:
    """The type with nothing in it required. What is not made of pydantic models stands for any data."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        loose: dict[str, Any] = {}
        for name, field in kind.model_fields.items():
            annotation: Any = field.annotation
            loose[name] = (_partial_type(annotation) | None, None)
        return create_model(f"Partial{kind.__name__}", __base__=kind, **loose)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (list, tuple, set, frozenset) and arguments:
        return list[_partial_type(arguments[0])]  # type: ignore[misc]
    if origin is dict and len(arguments) == 2:
        return dict[str, _partial_type(arguments[1])]  # type: ignore[misc]
    if origin is not None and type(None) in arguments:
        return Union[tuple(_partial_type(argument) for argument in arguments)]  # noqa: UP007
    return Any
