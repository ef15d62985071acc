"""Errors of tools, whose text is for the model that has called them.

ToolError
└── ToolArgumentsError    the arguments that the model has written do not fit
"""

__all__ = ["ToolArgumentsError", "ToolError"]


class ToolError(Exception):
    """A tool could not do what it was to do. The model is told the text."""


class ToolArgumentsError(ToolError):
    """The arguments that a model has written do not fit the tool. The text says which of them, and what would fit."""
