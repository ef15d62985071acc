"""Reading from and writing to the terminal, or the pipe that stands in its place."""

import asyncio
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Console", "PipeConsole", "TerminalConsole", "console_here", "one_line"]


class Console(ABC):
    """Where a person reads and writes."""

    @abstractmethod
    async def read(self) -> str:
        """Waits for what the person says next.

        Returns:
            The text, which may be blank.

        Raises:
            EOFError: The input has ended.
            KeyboardInterrupt: The person pressed Ctrl+C.
        """

    def write(self, token: str) -> None:
        """Shows a token at once."""
        sys.stdout.write(token.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        sys.stdout.flush()

    def begin_answer(self) -> None:  # noqa: B027  (there is nothing that has to be done)
        """Is called before the first token of a message."""

    def end_answer(self) -> None:
        """Is called after the last token of a message."""
        self.write("\n")

    def note(self, text: str, error: BaseException | None = None) -> None:
        """Tells the person something that nobody has said; raises the error where there is no person to tell."""
        if error is not None:
            raise error

    def report(self, error: Exception) -> None:
        """Tells the person of an error in one line; raises it where there is no person to tell."""
        raise error

    @contextmanager
    def interrupts(self, action: Callable[[], Any]) -> Iterator[None]:
        """Does the action in place of ending the program when Ctrl+C is pressed inside."""
        yield


class PipeConsole(Console):
    """Input and output that are no terminal: one line is one message."""

    def __init__(self) -> None:
        self._rest = b""

    async def read(self) -> str:
        """See `Console`."""
        while b"\n" not in self._rest:
            data = await _read_in_thread()
            if not data:
                line, self._rest = self._rest, b""
                if not line:
                    raise EOFError("the input has ended")
                return line.decode("utf-8", "replace")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8", "replace").removesuffix("\r")


class TerminalConsole(Console):
    """A terminal with a line editor."""

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.key_binding import KeyBindings
        from rich.console import Console as RichConsole

        keys = KeyBindings()
        keys.add("enter")(lambda event: event.current_buffer.validate_and_handle())
        keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
        self._session: Any = PromptSession(multiline=True, key_bindings=keys, prompt_continuation="     ")
        self._rich = RichConsole(highlight=False)

    async def read(self) -> str:
        """See `Console`."""
        text: str = await self._session.prompt_async([("bold ansigreen", "you> ")])
        return text

    def write(self, token: str) -> None:
        """Shows a token at once. What controls a terminal is made visible instead."""
        super().write(token.replace("\x1b", "\u241b").replace("\r\n", "\n").replace("\r", "\u240d"))

    def begin_answer(self) -> None:
        """See `Console`."""
        self._rich.print("[bold cyan]agent>[/] ", end="")

    def note(self, text: str, error: BaseException | None = None) -> None:
        """See `Console`."""
        self._rich.print(text, style="dim", markup=False)

    def report(self, error: Exception) -> None:
        """See `Console`."""
        self._rich.print(f"error: {one_line(error)}", style="red", markup=False)

    @contextmanager
    def interrupts(self, action: Callable[[], Any]) -> Iterator[None]:
        """See `Console`."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        before = signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(action))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def console_here() -> Console:
    """Makes the console for what standard input and output are connected to."""
    return TerminalConsole() if sys.stdin.isatty() and sys.stdout.isatty() else PipeConsole()


def one_line(error: BaseException) -> str:
    """Says in one line what has happened.

    Args:
        error: The error.

    Returns:
        Its kind and the first line of its message, at most 400 characters.
    """
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    kind = type(error).__name__
    return (f"{kind}: {first}" if first else kind)[:400]


async def _read_in_thread() -> bytes:
    """Reads what comes next from standard input, in a thread that nobody has to wait for at the end of the program."""
    loop = asyncio.get_running_loop()
    data: asyncio.Future[bytes] = loop.create_future()

    def deliver(found: bytes) -> None:
        if not data.done():
            data.set_result(found)

    def read() -> None:
        try:
            found = os.read(0, 65536)
        except OSError:
            found = b""
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, found)

    threading.Thread(target=read, daemon=True).start()
    return await data
