"""The clients of the providers' SDKs: one for each event loop, key and address, closed with the context.

A client owns pooled connections, and these belong to an event loop. Importing an SDK takes seconds, so that it is done in
a thread, when the first call is made.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

from promising.context import PromisingContext

__all__ = ["borrowed_client", "parameters_of", "sdk"]

_shared: "WeakKeyDictionary[PromisingContext, dict[Any, Any]]" = WeakKeyDictionary()


async def sdk(name: str) -> Any:
    """Imports an SDK without holding up the event loop.

    Args:
        name: The name of its package.

    Returns:
        The package.
    """
    return await asyncio.to_thread(import_module, name)


@asynccontextmanager
async def borrowed_client(make: Callable[..., Any], **options: Any) -> AsyncIterator[Any]:
    """Lends a client.

    Args:
        make: The class of the client.
        **options: What to make it with. Calls with equal options share a client.

    Yields:
        The client. It is closed when the outermost open context ends, or at the end of this block where there is none.
    """
    context = PromisingContext.outermost()
    if context is None:
        client = make(**options)
        try:
            yield client
        finally:
            await client.close()
        return
    clients = _shared.setdefault(context, {})
    key = (make, *sorted(options.items(), key=lambda option: option[0]))
    if key not in clients:
        client = clients[key] = make(**options)

        async def close() -> None:
            clients.pop(key, None)
            await client.close()

        context.call_on_exit(close)
    yield clients[key]


def parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    """The names of the parameters that a function of an SDK takes.

    Args:
        function: The function.

    Returns:
        The names.
    """
    return frozenset(inspect.signature(function).parameters)
