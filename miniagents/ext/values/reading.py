"""Reading values: back to what they were, and nothing else than values of known classes."""

import json
from collections.abc import Callable
from dataclasses import is_dataclass
from enum import Enum, Flag
from typing import Any, NoReturn

from pydantic import BaseModel, RootModel, ValidationError

from miniagents.canonical import CLASS_KEY
from miniagents.ext.values.atoms import ATOMS
from miniagents.ext.values.classes import UnreadableValueError, class_named, fields_to_call_with
from miniagents.ext.values.writing import PRIVATE_KEY, REFERENCE_KEY, UNSET_KEY
from miniagents.frozen import FrozenDict

__all__ = ["decode"]


def decode(data: bytes, *, resolve: Callable[[str], Any] | None = None) -> Any:
    """Reads what `encode` has written.

    Models are validated, by the names of their fields. Dataclasses are called with their fields. No other code is run,
    and nothing is imported.

    Args:
        data: The JSON.
        resolve: Gives what `refer` of `encode` has given a name.

    Returns:
        The value: a new object, with new parts.

    Raises:
        UnreadableValueError: The data is no value, or one of a class that is not known here, or no longer valid.

    Example:
        ```python
        assert decode(encode((1, {"two"}))) == (1, {"two"})
        ```
    """
    try:
        text = data.decode("utf-8", "surrogatepass")
        if '"$' not in text:
            return _loads(text)
        return _loads_tagged(text) if resolve is None else _decoder(_object_or_reference(resolve)).decode(text)
    except UnreadableValueError:
        raise
    except RecursionError:
        raise UnreadableValueError("what is stored is nested too deeply to be read from here") from None
    except ValueError as error:
        raise UnreadableValueError(f"what is stored is no value: {error}") from None


def _object(plain: dict[str, Any]) -> Any:
    """Makes what an object of JSON stands for; what is inside of it has been made already."""
    for key in plain:
        if key[:1] == "$":
            break
    else:
        return plain
    tag = next(iter(plain))
    if tag == CLASS_KEY:
        return _object_of_class(plain)
    read = _READERS.get(tag)
    if read is not None and len(plain) == 1:
        try:
            return read(plain[tag])
        except UnreadableValueError:
            raise
        except Exception as error:
            raise UnreadableValueError(f"what is stored under {tag!r} cannot be read as such") from error
    return _unescaped(plain)


def _object_or_reference(resolve: Callable[[str], Any]) -> Callable[[dict[str, Any]], Any]:
    def made(plain: dict[str, Any]) -> Any:
        return resolve(plain[REFERENCE_KEY]) if len(plain) == 1 and REFERENCE_KEY in plain else _object(plain)

    return made


def _unescaped(plain: dict[str, Any]) -> dict[str, Any]:
    for key in plain:
        if key[:1] == "$" and key[:2] != "$$":
            raise UnreadableValueError(f"what is stored has a key {key!r:.100}, which has no meaning there")
    return {key.removeprefix("$"): item for key, item in plain.items()}


def _object_of_class(plain: dict[str, Any]) -> Any:
    name = plain.pop(CLASS_KEY)
    unset, private = plain.pop(UNSET_KEY, {}), plain.pop(PRIVATE_KEY, {})
    if not isinstance(name, str) or type(unset) is not dict or type(private) is not dict:
        raise UnreadableValueError(f"what is stored under {CLASS_KEY!r} is not the name of a class with its fields")
    cls, content = class_named(name), _unescaped(plain)
    try:
        if issubclass(cls, BaseModel):
            return _model(cls, content, unset, private)
        if is_dataclass(cls):
            return _dataclass(cls, content)
    except ValidationError as error:
        raise UnreadableValueError(f"a stored {name} is not valid: {_problems(error)}") from None
    except Exception as error:
        raise UnreadableValueError(f"a stored {name} cannot be made: {type(error).__name__}: {error}") from error
    raise UnreadableValueError(f"a value of the class {name} is stored, which is neither a model nor a dataclass here")


def _model(cls: type[BaseModel], content: dict[str, Any], unset: dict[str, Any], private: dict[str, Any]) -> Any:
    everything: Any = {**content, **unset}
    if issubclass(cls, RootModel):
        everything = everything["root"]
    made = cls.__pydantic_validator__.validate_python(
        # Into an object that is there already, since a constructor of the class's own may want something else; and not
        # strictly, since tuples of frozen objects are lists here.
        everything, self_instance=cls.__new__(cls), strict=False, by_alias=False, by_name=True
    )  # fmt: skip
    if unset:
        object.__setattr__(made, "__pydantic_fields_set__", made.model_fields_set - unset.keys())
    if private:
        made.__pydantic_private__.update(private)
    return made


def _dataclass(cls: Any, content: dict[str, Any]) -> Any:
    taken = fields_to_call_with(cls)
    made = object.__new__(cls) if taken is None else cls(**{name: content[name] for name in taken & content.keys()})
    for name, item in content.items():  # those that are made by the class itself, too, and what it has changed
        if name not in cls.__dataclass_fields__:
            raise TypeError(f"it has no field {name!r}")
        object.__setattr__(made, name, item)
    return made


def _problems(error: ValidationError) -> str:
    """What pydantic found, without the values, which may be secret."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg']}" for problem in found[:5])


def _member(stored: list[Any]) -> Enum:
    name, of_member = stored
    cls = class_named(name)
    if not issubclass(cls, Enum):
        raise UnreadableValueError(f"a member of the enum {name} is stored, which is no enum here")
    if isinstance(of_member, int) and issubclass(cls, Flag):
        made = cls(of_member)
        if made.value == of_member:  # some versions of Python drop the bits that the enum does not have
            return made
    if of_member not in cls.__members__:
        raise UnreadableValueError(f"the enum {name} has no member {of_member!r:.100} here, which is what is stored")
    return cls[str(of_member)]


def _checked(kind: type[Any], make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read(stored: Any) -> Any:
        if type(stored) is not kind:
            raise TypeError(f"no {kind.__name__}")
        return make(stored)

    return read


_READERS: dict[str, Callable[[Any], Any]] = {
    **{atom.tag: _checked(str, atom.read) for atom in ATOMS.values()},
    "$tuple": _checked(list, tuple),
    "$set": _checked(list, set),
    "$frozenset": _checked(list, frozenset),
    "$frozendict": _checked(dict, FrozenDict),
    "$enum": _checked(list, _member),
}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _decoder(make_object: Callable[[dict[str, Any]], Any] | None) -> json.JSONDecoder:
    return json.JSONDecoder(parse_constant=_refuse_constant, object_hook=make_object)


_loads = _decoder(None).decode
_loads_tagged = _decoder(_object).decode
