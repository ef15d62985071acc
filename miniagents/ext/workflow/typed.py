"""Typed values: objects of dataclasses and pydantic models, whose fields are what they are declared to be."""

import dataclasses
import sys
import warnings
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, RootModel, TypeAdapter, ValidationError
from pydantic.warnings import ArbitraryTypeWarning
from pydantic_core.core_schema import is_instance_schema

from miniagents.ext.values import register
from miniagents.ext.workflow.errors import StateTypeError
from miniagents.frozen import Frozen
from promising.sentinels import NO_VALUE

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

    So are the objects of dataclasses and models in its fields, and in containers in these.

    Args:
        key: The key that it is set for.
        value: The object.

    Raises:
        StateTypeError: It is none, or a field is of another type; it says which.
    """
    if not _has_fields(value):
        raise StateTypeError(
            f"{key!r} is set to a {type(value).__name__}, which is no object of a dataclass or pydantic model; "
            "decorate its class by @dataclass, or use set_state"
        )
    _check_within(key, value, set())


def check_type(key: str, value: Any, expected: Any) -> None:
    """Makes sure that a value is of a type.

    Args:
        key: Its key.
        value: The value.
        expected: The type; whatever pydantic knows, such as `list[int]`.

    Raises:
        StateTypeError: It is of another type, or that is no type that a value can be checked against, such as a
            protocol that is not `runtime_checkable`.
    """
    fits = _is_instance(value, expected)
    if fits is None:
        fits = _fits(value, expected, _adapter_of(expected))
    if fits is None:
        raise StateTypeError(f"{expected!r:.100} is no type that a value can be checked against; give a class")
    if not fits:
        wanted = getattr(expected, "__name__", None) if isinstance(expected, type) else None
        raise StateTypeError(f"{key!r} is a {type(value).__name__}, not a {wanted or expected}")


def updated(key: str, value: Any, changes: dict[str, Any]) -> Any:
    """Makes an object with other values of some fields.

    The values are not converted to the types of the fields, unless the configuration of a model says `strict=False`,
    or the field has a validator of its own. Messages and other frozen objects convert what they are given.

    Args:
        key: The key of the object.
        value: The object.
        changes: The new values, by the names of the fields, whatever aliases these have.

    Returns:
        The new object.

    Raises:
        StateTypeError: It has no such fields, or a value is of another type.
    """
    if not _has_fields(value):
        raise StateTypeError(f"{key!r} is a {type(value).__name__}, which has no fields to update; use set_state")
    cls: Any = type(value)
    if isinstance(value, BaseModel):
        known = set(cls.__pydantic_fields__)
    else:
        known = {field.name for field in dataclasses.fields(value) if field.init}
    unknown = [name for name in changes if name not in known]
    if unknown:
        has = ", ".join(sorted(known))
        raise StateTypeError(f"{key!r} is a {cls.__name__}, without a field {', '.join(unknown)}; it has {has}")
    try:
        _refuse_conversions(cls, changes)
        if isinstance(value, Frozen):
            return value.model_copy(update=changes)
        if isinstance(value, BaseModel):
            return _validated(value, changes)
        made: Any = dataclasses.replace(value, **changes)
    except ValidationError as error:  # its text shows the values
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors(include_url=False)
        )
        raise StateTypeError(f"{key!r} cannot be updated: {wrong}") from None
    except (TypeError, ValueError) as error:
        raise StateTypeError(f"{key!r} cannot be updated: {error}") from error
    return made


def _has_fields(value: Any) -> bool:
    return isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _check_within(key: str, value: Any, seen: set[int]) -> None:
    """Checks the fields of all objects in a value."""
    if id(value) in seen or isinstance(value, Frozen):  # what is frozen was checked when it was made
        return
    parts: Iterable[Any]
    if _has_fields(value):
        parts = _checked_fields(key, value)
    elif isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        parts = value
    else:
        return
    seen.add(id(value))
    for part in parts:
        if type(part) not in _PLAIN:
            _check_within(key, part, seen)


def _checked_fields(key: str, value: Any) -> list[Any]:
    cls: Any = type(value)
    for field in _fields_of(cls):
        found = getattr(value, field.name, NO_VALUE)
        if found is not NO_VALUE and found is not field.unchecked and field.fits(found) is False:
            raise StateTypeError(f"{key!r}: {field.complaint(cls, found)}")
    names = cls.__pydantic_fields__ if isinstance(value, BaseModel) else [one.name for one in dataclasses.fields(cls)]
    return [getattr(value, name, None) for name in names]


def _refuse_conversions(cls: Any, changes: dict[str, Any]) -> None:
    """Raises a TypeError if pydantic would convert a value. Dataclasses of the standard library do not."""
    config = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", {})
    if not hasattr(cls, "__pydantic_fields__") or issubclass(cls, Frozen) or config.get("strict") is False:
        return
    for field in _fields_of(cls):
        if field.name in changes and not field.converts and field.fits(changes[field.name]) is False:
            raise TypeError(field.complaint(cls, changes[field.name]))


def _validated(value: BaseModel, changes: dict[str, Any]) -> BaseModel:
    """Makes a model of the fields of another one and some changes, as `miniagents.ext.values` does when it reads."""
    cls, unset = type(value), type(value).__pydantic_fields__.keys() - value.model_fields_set - changes.keys()
    fields = {name: item for name, item in value.__dict__.items() if name in cls.__pydantic_fields__}
    content: Any = {**(value.__pydantic_extra__ or {}), **fields, **changes}
    made: BaseModel = cls.__pydantic_validator__.validate_python(
        # Into an object that is there already, since a constructor of the class's own may want something else.
        content["root"] if isinstance(value, RootModel) else content,
        self_instance=cls.__new__(cls), by_alias=False, by_name=True,
    )  # fmt: skip
    made.__pydantic_fields_set__.difference_update(unset)
    return made


class _Field(NamedTuple):
    """A field whose type is known.

    Attributes:
        name: Its name.
        hint: Its type.
        adapter: What checks values against the type; None if pydantic cannot.
        unchecked: A value that need not be of the type: the default of a model, which pydantic does not check either.
        converts: Whether the class wants values of other types to be converted for this field.
    """

    name: str
    hint: Any
    adapter: "TypeAdapter[Any] | None"
    unchecked: Any = NO_VALUE
    converts: bool = False

    def fits(self, value: Any) -> bool | None:
        """Whether a value is of the type; None if that cannot be checked."""
        return _fits(value, self.hint, self.adapter)

    def complaint(self, cls: type[Any], found: Any) -> str:
        """Says that a value does not fit, without the value, which may be a secret."""
        hint = self.hint
        wanted = hint.__name__ if isinstance(hint, type) else hint
        return f"the field {self.name!r} of {cls.__name__} is a {type(found).__name__}; it should be {wanted}"


@lru_cache(maxsize=1024)
def _fields_of(cls: Any) -> tuple[_Field, ...]:
    """How to check the fields of a dataclass or model, as far as their types are known."""
    found = _fields_of_model(cls) if hasattr(cls, "__pydantic_fields__") else _fields_of_dataclass(cls)
    return tuple(found)


def _fields_of_dataclass(cls: Any) -> Iterable[_Field]:
    for field in dataclasses.fields(cls):
        bases = [base for base in cls.__mro__ if getattr(base, "__dataclass_fields__", {}).get(field.name) is field]
        hint = _resolved(field.type, bases[-1])
        if hint is not NO_VALUE:
            yield _Field(field.name, hint, _adapter_of(hint))


def _fields_of_model(cls: Any) -> Iterable[_Field]:
    """All but those with validators of their own: what these make of a value may be of any type."""
    config = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", {})
    if config.get("use_enum_values"):  # then the fields are not what they are declared to be
        return
    validated = {name for one in cls.__pydantic_decorators__.field_validators.values() for name in one.info.fields}
    for name, field in cls.__pydantic_fields__.items():
        has_own = any(hasattr(part, "__get_pydantic_core_schema__") for part in field.metadata)
        hint = _resolved(field.annotation, cls)
        if not has_own and validated.isdisjoint((name, "*")) and hint is not NO_VALUE:
            converts = any(getattr(part, "strict", None) is False for part in field.metadata)
            yield _Field(name, hint, _adapter_of(hint), field.default, converts)


def _resolved(annotation: Any, cls: type[Any]) -> Any:
    """The type that an annotation in a class stands for; `NO_VALUE` if it is known only where the class was defined."""
    holder = SimpleNamespace(__annotations__={"hint": annotation})
    around = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
    try:
        return get_type_hints(holder, {**vars(cls), cls.__name__: cls}, around)["hint"]
    except Exception:
        return NO_VALUE


def _adapter_of(hint: Any) -> "TypeAdapter[Any] | None":
    for config in (ConfigDict(arbitrary_types_allowed=True), None):  # models have a configuration of their own
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", ArbitraryTypeWarning)  # it is no type at all
                adapter = TypeAdapter(_by_class(hint), config=config)
        except PydanticUserError:
            continue
        except Exception:
            return None
        return adapter if adapter.pydantic_complete else None
    return None


class _OfClass:
    """Marks a class in a type for pydantic: only objects of it will do. Else a dict would do for a model."""

    def __get_pydantic_core_schema__(self, source: Any, _: Any) -> Any:
        return is_instance_schema(source)


def _by_class(hint: Any) -> Any:
    """A type in which objects of dataclasses and models are known by their classes; their fields are checked apart."""
    origin: Any = get_origin(hint)
    arguments = get_args(hint)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return Annotated[hint.__pydantic_generic_metadata__["origin"] or hint, _OfClass()]
    if dataclasses.is_dataclass(origin or hint):
        return Annotated[origin or hint, _OfClass()]
    if origin is Union or origin is UnionType:
        return Union[tuple(map(_by_class, arguments))]  # noqa: UP007
    return origin[tuple(map(_by_class, arguments))] if origin in _CONTAINERS and arguments else hint


def _fits(value: Any, hint: Any, adapter: "TypeAdapter[Any] | None") -> bool | None:
    """Whether a value is of a type; None if that cannot be checked."""
    if type(value) is hint:
        return True
    if adapter is None:
        return _is_instance(value, hint)
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError:
        return False
    except Exception:  # an error in how the type validates
        return None
    return True


def _is_instance(value: Any, hint: Any) -> bool | None:
    """Whether a value is an object of a class; None if `hint` is no class, or one of those that cannot say so."""
    try:
        return isinstance(value, hint) if isinstance(hint, type) else None
    except TypeError:  # typing.Any, a TypedDict, a protocol
        return None


_CONTAINERS: frozenset[Any] = frozenset(
    {list, dict, tuple, set, frozenset, deque, defaultdict, OrderedDict, Sequence, Mapping}
)
_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
