"""What goes wrong with Lua."""

import re

__all__ = ["LuaProblem", "UnfitValue"]

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class LuaProblem(Exception):
    """A script does not compile, has raised an error or reached a limit. The message is for who wrote the script."""


class UnfitValue(LuaProblem):
    """A value that Lua cannot be given.

    Args:
        why: What is the matter with it.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self._why = why
        self._path = ""

    def within(self, key: object) -> "UnfitValue":
        """Says that it is a part of something else.

        Args:
            key: Under which key, as Lua knows it.

        Returns:
            The same error.
        """
        step = f".{key}" if isinstance(key, str) and _IDENTIFIER.fullmatch(key) else f"[{key!r:.50}]"
        if len(self._path) < 200:  # what is nested for ever has a path without end
            self._path = step + self._path
        return self

    def __str__(self) -> str:
        return f"{self._path.removeprefix('.')}: {self._why}"
