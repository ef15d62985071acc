"""What docstrings say about functions and their parameters."""

import functools
import inspect
import logging
from collections.abc import Mapping
from typing import Any

__all__ = ["Documentation", "documentation_of", "plain_function"]


class Documentation:
    """What a docstring says.

    Attributes:
        description: What the function does.
        parameters: What its parameters are, by their names.
    """

    __slots__ = ("description", "parameters")

    def __init__(self, description: str = "", parameters: Mapping[str, str] | None = None) -> None:
        self.description = description
        self.parameters = dict(parameters or {})


def documentation_of(function: Any) -> Documentation:
    """Reads the docstring of a function, in Google's, NumPy's or Sphinx's style.

    Args:
        function: The function. Of an object that can be called it is the docstring of its `__call__` or else its class.

    Returns:
        What it says.
    """
    text = _docstring_of(plain_function(function))
    if "\n" not in text:
        return Documentation(text)
    import griffe

    logger = logging.getLogger("griffe")
    before, logger.disabled = logger.disabled, True  # it misses the types, which are in the signature
    try:
        sections = griffe.Docstring(text, lineno=1).parse("auto")
    finally:
        logger.disabled = before
    kinds = griffe.DocstringSectionKind
    descriptions: list[str] = []
    parameters: dict[str, str] = {}
    for section in sections:
        if section.kind is kinds.text and not parameters:
            descriptions.append(str(section.value).strip())
        elif section.kind in (kinds.parameters, kinds.other_parameters):
            parameters |= {item.name: " ".join(item.description.split()) for item in section.value}
    return Documentation("\n\n".join(descriptions), parameters)


def plain_function(function: Any) -> Any:
    """What stands behind partial functions.

    Args:
        function: Whatever can be called.

    Returns:
        It, or of a partial function what that calls.
    """
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _docstring_of(function: Any) -> str:
    if inspect.isroutine(function) or isinstance(function, type):
        return inspect.getdoc(function) or inspect.getdoc(inspect.unwrap(function)) or ""
    # Not of the object: for one whose class has none, `inspect.getdoc` finds that of some base class.
    return inspect.cleandoc(type(function).__call__.__doc__ or type(function).__doc__ or "")
