"""Typed values: objects of dataclasses and pydantic models, whose fields are what they are declared to be."""

import dataclasses
from functools import lru_cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from miniagents.ext.values import register
from miniagents.ext.workflow.errors import StateTypeError

__all__ = ["TypedContextData", "check_fields", "check_type", "updated"]


class TypedContextData:
    """The base of dataclasses that are kept in a context.

    Example:
        ```python
        @dataclass
        class UserProfile(TypedContextData):
            name: str
            age: int
        ```
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls)


def check_fields(key: str, value: Any) -> None:
    """Makes sure that something is an object of a dataclass or model, with the types of fields that this declares.

    Args:
        key: The key that it is set for.
        value: The object.

    Raises:
        StateTypeError: It is none, or a field is of another type; it says which.
    """
    if isinstance(value, type) or not (dataclasses.is_dataclass(value) or isinstance(value, BaseModel)):
        raise StateTypeError(
            f"{key!r} is set to {value!r:.100}, which is no object of a dataclass or pydantic model; decorate its "
            "class by @dataclass, or use set_state"
        )
    cls: Any = type(value)
    for name, adapter in _adapters_of(cls):
        if hasattr(value, name) and not _fits(getattr(value, name), adapter):
            raise _wrong_field(key, value, name)


def check_type(key: str, value: Any, expected: Any) -> None:
    """Makes sure that a value is of a type.

    Args:
        key: Its key.
        value: The value.
        expected: The type; whatever pydantic knows, such as `list[int]`.

    Raises:
        StateTypeError: It is of another type.
    """
    if isinstance(expected, type) and not hasattr(expected, "__origin__"):
        fits = isinstance(value, expected)
    else:
        adapter = _adapter_of(expected)
        if adapter is None:
            raise StateTypeError(f"{expected!r:.100} is no type that a value can be checked against; give a class")
        fits = _fits(value, adapter)
    if not fits:
        wanted = getattr(expected, "__name__", None) if isinstance(expected, type) else None
        raise StateTypeError(f"{key!r} is a {type(value).__name__}, not a {wanted or expected}")


def updated(key: str, value: Any, changes: dict[str, Any]) -> Any:
    """Makes an object with other values of some fields.

    Args:
        key: The key of the object.
        value: The object.
        changes: The new values.

    Returns:
        The new object.

    Raises:
        StateTypeError: It has no such fields, or a value is of another type.
    """
    if isinstance(value, BaseModel):
        known = set(type(value).model_fields)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = {field.name for field in dataclasses.fields(value) if field.init}
    else:
        raise StateTypeError(f"{key!r} is a {type(value).__name__}, which has no fields to update; use set_state")
    unknown = [name for name in changes if name not in known]
    if unknown:
        has = ", ".join(sorted(known))
        raise StateTypeError(f"{key!r} is a {type(value).__name__}, without a field {', '.join(unknown)}; it has {has}")
    try:
        if isinstance(value, BaseModel):
            return type(value).model_validate({**dict(value), **changes})
        made: Any = dataclasses.replace(value, **changes)
    except (TypeError, ValueError) as error:
        raise StateTypeError(f"{key!r} cannot be updated: {error}") from error
    return made


@lru_cache(maxsize=1024)
def _adapters_of(cls: type[Any]) -> tuple[tuple[str, "TypeAdapter[Any]"], ...]:
    """How to check the fields of a dataclass, as far as their types are known. Models have checked theirs."""
    if issubclass(cls, BaseModel):
        return ()
    try:
        hints = get_type_hints(cls)
    except Exception:  # a type that is known only where the class was defined
        return ()
    found = [(field.name, _adapter_of(hints.get(field.name, Any))) for field in dataclasses.fields(cls)]
    return tuple((name, adapter) for name, adapter in found if adapter is not None)


def _adapter_of(hint: Any) -> "TypeAdapter[Any] | None":
    for config in (ConfigDict(arbitrary_types_allowed=True), None):  # models have a configuration of their own
        try:
            return TypeAdapter(hint, config=config)
        except PydanticUserError:
            continue
        except Exception:
            return None
    return None


def _fits(value: Any, adapter: "TypeAdapter[Any]") -> bool:
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _wrong_field(key: str, value: Any, name: str) -> StateTypeError:
    found, cls = getattr(value, name), type(value)
    hint = get_type_hints(cls)[name]
    wanted = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__origin__") else hint
    return StateTypeError(
        f"{key!r}: the field {name!r} of {cls.__name__} is {found!r:.60}, which is a {type(found).__name__}; it should "
        f"be {wanted}"
    )
