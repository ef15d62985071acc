"""Which names a Lua script reads, so that all of their values can be fetched before it runs."""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple

from miniagents.ext.graph.lua.errors import LuaProblem

__all__ = ["Names", "names_in", "tokens_of"]

_TOKEN = re.compile(
    r"""
      (?P<skipped> \s+ | --\[(?P<level>=*)\[.*?\](?P=level)\] | --[^\r\n]* )
    | (?P<text> "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | \[(?P<depth>=*)\[.*?\](?P=depth)\] )
    | (?P<number> 0[xX](?:[pP][+-]?|[\dA-Fa-f.])* | \.?\d(?:[eE][+-]?|[\dA-Fa-f.])* )
    | (?P<name> [A-Za-z_]\w* )
    | (?P<symbol> \.\.\.? | :: | . )
    """,
    re.ASCII | re.DOTALL | re.VERBOSE,
)

# fmt: off
_KEYWORDS = frozenset({
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local", "nil",
    "not", "or", "repeat", "return", "then", "true", "until", "while",
})
_FUNCTIONS = frozenset({"assert", "error", "ipairs", "next", "pairs", "select", "tonumber", "tostring", "type"})
_LIBRARIES = frozenset({"math", "string", "table", "utf8"})
# fmt: on


class Token(NamedTuple):
    """A word of Lua: its kind (`text`, `number`, `name`, `symbol`) and how it is written."""

    kind: str
    text: str


class Names(NamedTuple):
    """What a script may read. There may be names of local variables among them.

    Attributes:
        fields: The names that stand alone, but for those of the language, each with the fields that are read of it, or
            None where the script does more with it than that.
        keys: The keys that `cache` is indexed with.
    """

    fields: Mapping[str, Set[str] | None]
    keys: frozenset[str]


def tokens_of(source: str) -> list[Token]:
    """Takes a script that compiles apart. Comments and white space are left out."""
    return [Token(found.lastgroup or "", found[0]) for found in _TOKEN.finditer(source) if not found["skipped"]]


def names_in(tokens: Sequence[Token], text_of: Callable[[str], str]) -> Names:
    """Finds the names that a script reads.

    Args:
        tokens: The script.
        text_of: Gives what a literal stands for.

    Raises:
        LuaProblem: The script uses `cache` for anything but a key that is written out, or `_ENV`.
    """
    fields: dict[str, set[str] | None] = {}
    keys = set()
    for index, (kind, name) in enumerate(tokens):
        if kind != "name" or name in _KEYWORDS or (index and tokens[index - 1].text in (".", ":")):
            continue
        following = tokens[index + 1 : index + 4]
        field = _index(following, text_of)
        if name == "_ENV":
            raise LuaProblem("there is no _ENV; read keys by their names, or as cache['key']")
        if name == "cache":
            if field is None:
                raise LuaProblem("`cache` takes a key that is written out, as in cache['some:key'], and nothing else")
            keys.add(field)
        elif not _is_of_language(name, following):
            known = fields.setdefault(name, set())
            if field is None:
                fields[name] = None
            elif known is not None:
                known.add(field)
    return Names(fields, frozenset(keys))


def _index(following: Sequence[Token], text_of: Callable[[str], str]) -> str | None:
    """The key in `.key`, `["key"]` or `[ [[key]] ]`; None where something else follows."""
    match following:
        case [Token("symbol", "."), Token("name", name), *_]:
            return name
        case [Token("symbol", "["), Token("text", literal), Token("symbol", "]"), *_]:
            return text_of(literal)
    return None


def _is_of_language(name: str, following: Sequence[Token]) -> bool:
    """Whether Lua's own function is called, or its library indexed. Elsewhere the same name is a key of the cache."""
    if not following:
        return False
    kind, text = following[0]
    if name in _FUNCTIONS:
        return kind == "text" or text in ("(", "{")
    return name in _LIBRARIES and text in (".", "[")
