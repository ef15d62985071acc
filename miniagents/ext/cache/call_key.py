"""What makes two calls of an agent equal: the key under which its reply is recorded."""

import dataclasses
import functools
import inspect
import json
from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from miniagents.agents import MiniAgent
from miniagents.canonical import canonical_json, sha256_hex
from miniagents.frozen import Frozen, freeze, key_of_nested
from miniagents.message import Message

__all__ = ["CallKeys"]

_FORMAT = 1  # of what is recorded: another one is another key


class CallKeys:
    """Makes the keys of the calls of one agent. They are hashes: nothing of a call can be read in them.

    Args:
        agent: The agent.
        version: What its user calls the present form of it.
        ignored: The names of arguments that are no part of the key.
    """

    __slots__ = ("_agent", "_ignored")

    def __init__(self, agent: MiniAgent, version: str, ignored: Iterable[str]) -> None:
        self._agent = sha256_hex(json.dumps([_FORMAT, _place_of(agent._function), version]))
        self._ignored = frozenset(ignored)

    def key_of(self, alias: str, arguments: Mapping[str, Any], messages: tuple[Message, ...]) -> str:
        """Makes the key of a call.

        Args:
            alias: What the agent is called.
            arguments: The arguments of its function, those of its forks included.
            messages: What it is sent.

        Returns:
            The key.

        Raises:
            TypeError: An argument cannot be part of a key. The message names it and says what to do.
        """
        known = self._hash_of(alias, arguments) if arguments else ""
        content = "\n".join((alias, self._agent, known, *[message.hash_key for message in messages]))
        return f"cached/{alias}/{sha256_hex(content)}"

    def _hash_of(self, alias: str, arguments: Mapping[str, Any]) -> str:
        describe = _Describer(self._ignored)
        known = {}
        for name, value in arguments.items():
            if name not in self._ignored:
                try:
                    known[name] = freeze(describe(value, name))
                except (TypeError, ValueError, RecursionError) as error:
                    reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
                    raise TypeError(_NO_KEY.format(alias=alias, name=name, reason=reason)) from None
        return sha256_hex(canonical_json({"arguments": known}, "Call", key_of_nested)) if known else ""


class _Described(Frozen):
    """What stands in a key for something that is no data."""

    kind: str
    name: str
    parts: Any


class _Describer:
    """Freezes data, and puts data in place of what is none but can be told apart by data.

    Args:
        ignored: The names of arguments of agents that do not count.
    """

    def __init__(self, ignored: frozenset[str]) -> None:
        self._ignored = ignored

    def __call__(self, value: Any, path: str) -> Any:
        if value is None or isinstance(value, (str, int, float, Frozen)):
            return freeze(value, path)
        if isinstance(value, Mapping):
            freeze(dict.fromkeys(value), path)  # for the error, if a key is no string
            return {key: self(item, f"{path}.{key}") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self(item, f"{path}[{position}]") for position, item in enumerate(value)]
        if isinstance(value, MiniAgent):
            return self._agent(value, path)
        if isinstance(value, FunctionType):
            return self._function(value, path)
        if isinstance(value, functools.partial):
            parts = self([value.func, value.args, value.keywords], path)
            return _Described(kind="partial", name="", parts=parts)
        if get_origin(value) is not None:  # `list[int]` and the like
            return _Described(kind="generic", name=str(get_origin(value)), parts=self(get_args(value), path))
        if isinstance(value, type):
            return _class(value)
        if isinstance(value, BaseModel):
            return _Described(kind="object", name=_place_of(type(value)), parts=self(dict(value), path))
        return self._dataclass(value, path) if dataclasses.is_dataclass(value) else freeze(value, path)

    def _agent(self, agent: MiniAgent, path: str) -> _Described:
        """Another agent, a tool for example: by the same as the agent itself, and by what models are told of it."""
        arguments = {name: value for name, value in agent._arguments.items() if name not in self._ignored}
        parts = [agent.alias, agent.description, self(arguments, path)]
        return _Described(kind="agent", name=_place_of(agent._function), parts=parts)

    def _function(self, function: FunctionType, path: str) -> _Described:
        place = _place_of(function)
        if "<lambda>" in place or getattr(inspect.unwrap(function), "__closure__", None):
            raise TypeError(
                f"{path}: there can be many functions {place} with different values in them; give one that has what it "
                "needs as arguments, by `functools.partial` for example"
            )
        defaults = self([function.__defaults__, function.__kwdefaults__], path)
        return _Described(kind="function", name=place, parts=defaults)

    def _dataclass(self, value: Any, path: str) -> _Described:
        from miniagents.ext.tools.tool import Tool

        content = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(value, Tool):
            del content["validate"]  # it is made of the others
            if value.server is not None or value.agent is not None:  # the function that calls that is no part of it
                del content["run"]
        return _Described(kind="object", name=_place_of(type(value)), parts=self(content, path))


def _class(cls: type[Any]) -> _Described:
    """A class, which an answer may be wanted of: by its name and, if it is a model, by its schema."""
    schema = json.dumps(cls.model_json_schema()) if issubclass(cls, BaseModel) else None
    return _Described(kind="class", name=_place_of(cls), parts=schema)


def _place_of(target: Any) -> str:
    """Where something is defined; of an object that is called like a function, where its class is."""
    plain = inspect.unwrap(target)
    while isinstance(plain, functools.partial):
        plain = inspect.unwrap(plain.func)
    if not hasattr(plain, "__qualname__"):
        plain = type(plain)
    return f"{plain.__module__}.{plain.__qualname__}"


_NO_KEY = (
    "this call of {alias} cannot be cached, because its argument {name} cannot be part of a key ({reason}). If the "
    "reply does not depend on it, say so: cached(agent, ignore=[{name!r}]); else give it as data."
)
