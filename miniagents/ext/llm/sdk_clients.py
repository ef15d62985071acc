"""The clients of the providers' SDKs: one for each event loop, key and address, closed with the context.

A client owns pooled connections, and these belong to an event loop. Importing an SDK takes up to two seconds: that is
done with the first call, and in a thread, so that the other agents go on meanwhile.
"""

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

from miniagents.ext.llm.llm_common import ModelError
from promising.context import PromisingContext

__all__ = ["borrowed_client", "check_installed", "parameters_of", "sdk"]

_imported: dict[str, Any] = {}  # `sys.modules` has a package before it is complete
_parameters: dict[str, frozenset[str]] = {}
_shared: "WeakKeyDictionary[PromisingContext, dict[Any, Any]]" = WeakKeyDictionary()


async def sdk(name: str) -> Any:
    """Imports an SDK without holding up the event loop.

    Args:
        name: The name of its package.

    Returns:
        The package.
    """
    package = _imported.get(name)
    if package is None:
        package = _imported[name] = await asyncio.to_thread(import_module, name)
    return package


def check_installed(module: str, extra: str, who: str) -> None:
    """Checks that what an SDK needs beside itself is there, before it fails in words of its own.

    Args:
        module: The module that is needed.
        extra: Which extra of this package brings it.
        who: Who needs it, for the error.

    Raises:
        ModelError: It is not installed.
    """
    try:
        found = find_spec(module)
    except ModuleNotFoundError:  # not even the package that it would be in
        found = None
    if found is None:
        raise ModelError(f'{who} needs the package {module}: pip install "miniagents[{extra}]"')


@asynccontextmanager
async def borrowed_client(make: Callable[..., Any], **options: Any) -> AsyncIterator[Any]:
    """Lends a client.

    Args:
        make: The class of the client.
        **options: What to make it with; hashable. Calls with equal options share a client. `proxy` is the address of an
            HTTP proxy; an `http_client` is the caller's own and is not closed.

    Yields:
        The client. It is closed when the outermost open context of this event loop ends, or at the end of this block
        where there is none.
    """
    context = PromisingContext.outermost()
    if context is None:
        client = _made(make, options)
        try:
            yield client
        finally:
            if "http_client" not in options:
                await client.close()
        return
    clients = _shared.setdefault(context, {})
    key = (make, *sorted(options.items(), key=lambda option: option[0]))
    if key not in clients:
        client = clients[key] = _made(make, options)

        async def close() -> None:
            del clients[key]  # before it is closed, so that a call that another clean-up makes gets a new one
            if "http_client" not in options:
                await client.close()

        context.call_on_exit(close)
    yield clients[key]


def _made(make: Callable[..., Any], options: dict[str, Any]) -> Any:
    if "proxy" not in options:
        return make(**options)
    http_client = sys.modules[make.__module__.partition(".")[0]].DefaultAsyncHttpxClient(proxy=options["proxy"])
    return make(**{name: value for name, value in options.items() if name != "proxy"}, http_client=http_client)


def parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    """The names of the parameters that a function of an SDK takes.

    Args:
        function: The function.

    Returns:
        The names. They are looked up once: it takes milliseconds.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    found = _parameters.get(name)
    if found is None:
        found = _parameters[name] = frozenset(inspect.signature(function).parameters)
    return found
