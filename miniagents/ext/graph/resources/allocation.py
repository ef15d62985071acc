"""What somebody holds of a resource pool, until it is released."""

from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import TYPE_CHECKING

from miniagents.ext.graph.resources.requirements import ResourceRequirements

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from miniagents.ext.graph.resources.accounts import Account
    from miniagents.ext.graph.resources.admission import Admission

__all__ = ["Allocation"]


class Allocation:
    """A part of a pool, made by its `acquire` and `try_acquire`. It is given back by `release`, or the end of a `with`.

    Attributes:
        name: Who holds it.
        owner: Whose quota it counts for.
        requirements: How much it is.
        preemptible: Whether a request of a higher priority may ask for it back. Never for one that was admitted because
            it had been overtaken too often.
        is_held: Whether it has been given and not been released.
        is_preempted: Whether it has been asked back.

    Example:
        ```python
        async with await pool.acquire("train", ResourceRequirements(gpu_units=1.0)):
            ...
        ```
    """

    __slots__ = (
        "_admission", "_context", "_on_preempt", "_quota", "is_held", "is_preempted", "name", "owner", "preemptible",
        "requirements",
    )  # fmt: skip

    def __init__(
        self,
        admission: "Admission",
        name: str,
        requirements: ResourceRequirements,
        owner: str,
        quota: "Account | None",
        on_preempt: Callable[[], None] | None,
    ) -> None:
        self.name = name
        self.requirements = requirements
        self.owner = owner
        self.preemptible = on_preempt is not None
        self.is_held = False
        self.is_preempted = False
        self._admission = admission
        self._quota = quota
        self._on_preempt = on_preempt
        self._context = None if on_preempt is None else copy_context()

    def release(self) -> None:
        """Gives it back, and wakes those who can go on now. Doing so twice is as good as once."""
        if self.is_held:
            self.is_held = False
            self._admission.take_back(self)

    def ask_back(self, loop: "AbstractEventLoop") -> None:
        """Tells the holder to release it, at the next turn of the loop and in the context in which it was asked for.

        Args:
            loop: The event loop.
        """
        self.is_preempted = True
        loop.call_soon(self._tell_holder, context=self._context)

    def _tell_holder(self) -> None:
        if self.is_held and self._on_preempt is not None:
            self._on_preempt()

    def __enter__(self) -> "Allocation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    async def __aenter__(self) -> "Allocation":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Allocation of {self.name}: {'held' if self.is_held else 'not held'}>"
