"""The classes that are known in this process, by their names.

A name is `module.Qualified.Name`, or the one that `register` was given. Pydantic models, and with them every `Frozen`,
are known by being defined; dataclasses and enums by `register`, or by the first object of theirs that is written.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import lru_cache
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from miniagents.ext.values.atoms import ATOMS

__all__ = ["UnreadableValueError", "class_named", "fields_to_call_with", "name_of", "note", "register"]

ClassT = TypeVar("ClassT", bound=type[Any])


class UnreadableValueError(ValueError):
    """What should be read is no value, or one of a class that is not known in this process.

    If the message names a class: import the module that defines it before reading, or `register` it.
    """


@overload
def register(cls: ClassT, *, name: str | None = None) -> ClassT: ...
@overload
def register(cls: None = None, *, name: str | None = None) -> Callable[[ClassT], ClassT]: ...
def register(cls: Any = None, *, name: str | None = None) -> Any:
    """Makes a class known, so that its objects can be read. For dataclasses and enums; models are known anyway.

    Args:
        cls: The class. Without it, what to decorate a class with.
        name: What objects of it are written with in place of its module and name, so that both can change.

    Returns:
        The class.

    Raises:
        ValueError: Another class has that name.

    Example:
        ```python
        @register
        @dataclass
        class Point:
            x: int
            y: int
        ```
    """
    if cls is None:
        return lambda decorated: register(decorated, name=name)
    if not isinstance(cls, type):
        raise TypeError(f"{cls!r:.100} is no class, so it cannot be registered")
    own = _own_name(cls)
    if name is not None:
        other = _registered.get(name)
        if other is not None and _own_name(other) != own:
            raise ValueError(f"the name {name!r} stands for {_own_name(other)} already; give {own} another one")
        _registered[name] = cls
        _given_names[cls] = name
    _registered[own] = cls
    return cls


def note(cls: type[Any]) -> None:
    """Makes a class known of which an object is written; a class that was registered under its name stays."""
    _noted[_own_name(cls)] = cls


def name_of(cls: type[Any]) -> str:
    """Gives the name that stands for a class."""
    return _given_names.get(cls) or _own_name(cls)


def class_named(name: str) -> type[Any]:
    """Finds a class.

    Args:
        name: Its name, see `name_of`.

    Returns:
        The class. If several of that name have been defined (in a function, or because its module was loaded again),
        the last one.

    Raises:
        UnreadableValueError: There is none.
    """
    found = _registered.get(name) or _noted.get(name) or _model_named(name) or _parametrized(name)
    if found is None:
        raise UnreadableValueError(
            f"no class {name!r:.300} is known in this process; import the module that defines it before reading, and "
            "decorate it with `miniagents.ext.values.register` if it is a dataclass or an enum"
        )
    return found


@lru_cache(maxsize=1024)
def fields_to_call_with(cls: Any) -> frozenset[str] | None:
    """Gives the names of the fields that a dataclass is to be called with.

    Args:
        cls: The dataclass.

    Returns:
        The names, or None if it has no `__init__`.

    Raises:
        TypeError: It needs something else, too, or is derived from a dataclass without being one.
    """
    if "__dataclass_fields__" not in vars(cls):
        raise TypeError(f"{cls.__name__} is derived from a dataclass without being one; decorate it, too")
    if cls.__init__ is object.__init__:
        return None
    names = {field.name for field in fields(cls) if field.init}
    taken = set()
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            return frozenset(names)
        if parameter.name in names and parameter.kind is not parameter.POSITIONAL_ONLY:
            taken.add(parameter.name)
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL:
            raise TypeError(
                f"{cls.__name__} cannot be made of its fields: it has to be called with {parameter.name!r}, too, which "
                "is no field that it keeps; give that a default"
            )
    return frozenset(taken)


_registered: dict[str, type[Any]] = {}
_given_names: dict[type[Any], str] = {}
_noted: dict[str, type[Any]] = {}
_models: dict[str, type[Any]] = {}


def _own_name(cls: type[Any]) -> str:
    generic = getattr(cls, "__pydantic_generic_metadata__", None)
    if generic and generic["origin"] is not None:
        return f"{name_of(generic['origin'])}[{', '.join(map(_argument_name, generic['args']))}]"
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _argument_name(argument: Any) -> str:
    return name_of(argument) if isinstance(argument, type) else repr(argument)


def _model_named(name: str) -> type[Any] | None:
    found = _models.get(name)
    if found is None or not _is_current(found):
        models = {name_of(model): model for model in _derived(BaseModel)}
        found = models.get(name)
        _models.clear()  # other threads that look now look for themselves
        _models.update(models)
    return found


def _derived(base: type[Any]) -> Iterator[type[Any]]:
    for derived in base.__subclasses__():
        yield derived
        yield from _derived(derived)


def _is_current(cls: type[Any]) -> bool:
    """Whether no class of that name has been defined since: it is what its module has, or the last of its siblings."""
    return _in_module(cls) is cls or all(
        _is_last(base) for base in cls.__mro__ if issubclass(base, BaseModel) and base is not BaseModel
    )


def _in_module(cls: type[Any]) -> Any:
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, "__dict__", {}).get(part)  # not by `getattr`, which may run something
    return found


def _is_last(cls: type[Any]) -> bool:
    base = next(base for base in cls.__bases__ if issubclass(base, BaseModel))
    place = cls.__module__, cls.__qualname__
    for sibling in reversed(base.__subclasses__()):
        if (sibling.__module__, sibling.__qualname__) == place:
            return sibling is cls
    return False


_PLAIN_ARGUMENTS: dict[str, Any] = {
    _own_name(kind): kind for kind in (*ATOMS, str, bool, int, float, list, dict, tuple, set, frozenset, type(None))
}


def _parametrized(name: str) -> type[Any] | None:
    """Makes `app.Box[app.Item]` of a generic model and arguments that are known; others have to be there already."""
    origin_name, bracket, rest = name.partition("[")
    if not bracket or not rest.endswith("]"):
        return None
    origin: Any = class_named(origin_name)
    if not issubclass(origin, BaseModel):
        return None
    arguments = tuple(_PLAIN_ARGUMENTS.get(part) or class_named(part) for part in _split(rest[:-1]))
    try:
        made: type[Any] = origin[arguments]
    except TypeError:
        return None
    return made if isinstance(made, type) and name_of(made) == name else None


def _split(arguments: str) -> Iterator[str]:
    """Splits at the commas that are not inside of brackets."""
    depth = start = 0
    for index, character in enumerate(arguments):
        depth += (character == "[") - (character == "]")
        if not depth and character == ",":
            yield arguments[start:index]
            start = index + 2
    yield arguments[start:]
