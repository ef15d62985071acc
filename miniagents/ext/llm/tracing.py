"""Where requests and calls of tools tell that they begin and end, for whoever traces them. By default nobody does."""

from typing import Any

__all__ = ["NO_TRACE", "Trace", "Tracer", "set_tracer", "trace_chat", "trace_tool", "tracer"]


class Trace:
    """What follows one piece of work. This one does nothing."""

    __slots__ = ()

    def event(self, name: str, **attributes: Any) -> None:
        """Something has happened in the middle of the work."""

    def end(self, error: BaseException | None = None, **details: Any) -> None:
        """The work is over.

        Args:
            error: What it has failed with.
            **details: What has come of it.
        """


class Tracer:
    """Who makes traces. Both methods are called in the task that does the work, at its beginning."""

    def chat(self, **details: Any) -> Trace:
        """A request to a model begins.

        Args:
            **details: `call`, `provider`, `endpoint`, `messages`, as `miniagents.ext.llm.asking` knows them.

        Returns:
            What follows it.
        """
        raise NotImplementedError

    def tool(self, **details: Any) -> Trace:
        """A call of a tool begins.

        Args:
            **details: `call`, `tool`, `caller`, as `miniagents.ext.tools.calls` knows them.

        Returns:
            What follows it.
        """
        raise NotImplementedError


NO_TRACE = Trace()

tracer: Tracer | None = None
"""Who traces now."""


def set_tracer(new: Tracer | None) -> None:
    """Says who traces from now on; None for nobody."""
    global tracer
    tracer = new


def trace_chat(**details: Any) -> Trace:
    """See `Tracer.chat`."""
    return NO_TRACE if tracer is None else tracer.chat(**details)


def trace_tool(**details: Any) -> Trace:
    """See `Tracer.tool`."""
    return NO_TRACE if tracer is None else tracer.tool(**details)
