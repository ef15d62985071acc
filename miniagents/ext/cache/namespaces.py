"""How the whole keys of a cache are made, so that no namespace can see into another.

A whole key is `prefix:key`, or `prefix:key::suffix` where there is a suffix; `:` stands for the separator of the cache.
What could be mistaken for a separator is percent-encoded: the separator inside of a prefix or suffix, and a doubled one
inside of a key. So `user:1` with the prefix `a` is just `a:user:1`.
"""

from typing import NamedTuple
from urllib.parse import unquote

__all__ = ["DEFAULT_PREFIX", "RESERVED", "Namespace"]

DEFAULT_PREFIX = "miniagents"
"""The prefix of keys that have been given none, so that `clear` never empties a server that others use, too."""

RESERVED = "~miniagents/"
"""What the keys of mailboxes, and whatever else is no key of a user, begin with."""

_OF_ESCAPES = frozenset("%0123456789ABCDEF")


class Namespace(NamedTuple):
    """A place for keys: one prefix and one suffix.

    Attributes:
        head: What stands before each key.
        tail: What stands behind each key.
        separator: What stands between the parts.
        prefix: The prefix as it was given; empty for none.
        suffix: The suffix as it was given; empty for none.
    """

    head: str
    tail: str
    separator: str
    prefix: str
    suffix: str

    @classmethod
    def of(cls, prefix: str, suffix: str, separator: str) -> "Namespace":
        """Makes a namespace.

        Args:
            prefix: Its prefix; empty for none.
            suffix: Its suffix; empty for none.
            separator: What stands between the parts of a key.

        Returns:
            The namespace.

        Raises:
            TypeError: A prefix or suffix is no string.
            ValueError: The prefix is reserved, or the separator is not one character, or one of `%`, `0-9` and `A-F`.
        """
        for what, given in (("prefix", prefix), ("suffix", suffix), ("separator", separator)):
            if not isinstance(given, str):
                raise TypeError(f"the {what} of a cache is {given!r:.100}; give a string")
        if len(separator) != 1 or separator in _OF_ESCAPES:
            raise ValueError(f"the separator {separator!r} cannot separate keys; give one character, such as ':'")
        if prefix.startswith(RESERVED):
            raise ValueError(f"prefixes that begin with {RESERVED!r} are reserved; give another one than {prefix!r}")
        head = _escaped(prefix or DEFAULT_PREFIX, separator) + separator
        tail = separator * 2 + _escaped(suffix, separator) if suffix else ""
        return cls(head, tail, separator, prefix, suffix)

    def whole_key(self, key: str) -> str:
        """Makes the whole key of a key.

        Args:
            key: The key, as a user knows it.

        Returns:
            The key, as it is stored.

        Raises:
            TypeError: The key is no string.
        """
        if type(key) is not str and not isinstance(key, str):
            raise TypeError(f"the key {key!r:.100} is no string; give the string that it stands for")
        if "%" in key:
            key = key.replace("%", "%25")
        doubled = self.separator * 2
        if doubled in key:
            key = key.replace(doubled, _percent(self.separator) * 2)
        return f"{self.head}{key}{self.tail}"

    def key_of(self, whole_key: str) -> str:
        """Gives the key, as a user knows it, of a whole key that belongs to this namespace."""
        key = whole_key[len(self.head) : len(whole_key) - len(self.tail)]
        return unquote(key, errors="surrogatepass") if "%" in key else key

    def has(self, whole_key: str) -> bool:
        """Whether a whole key belongs to this namespace."""
        if not whole_key.startswith(self.head):
            return False
        rest = whole_key[len(self.head) :]
        if self.tail:
            return rest.endswith(self.tail) and self.separator * 2 not in rest[: -len(self.tail)]
        return self.separator * 2 not in rest


def _escaped(part: str, separator: str) -> str:
    return part.replace("%", "%25").replace(separator, _percent(separator))


def _percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))
