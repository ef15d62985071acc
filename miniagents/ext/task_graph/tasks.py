"""Tasks: what an agent is to do, and how far it has come."""

import threading
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel, Field

from miniagents.ext.task_graph.errors import TaskTransitionError
from miniagents.ext.values import register

__all__ = ["Task", "TaskStatus"]


@register
class TaskStatus(StrEnum):
    """How far a task has come."""

    WAITING = "waiting"
    EXECUTING = "executing"
    COMPLETE = "complete"
    FAILED = "failed"
    PARTIAL = "partial"


_NEXT = {
    TaskStatus.WAITING: {TaskStatus.EXECUTING, TaskStatus.FAILED},
    TaskStatus.EXECUTING: {TaskStatus.COMPLETE, TaskStatus.FAILED, TaskStatus.PARTIAL},
    TaskStatus.COMPLETE: set(),
    TaskStatus.FAILED: set(),
    TaskStatus.PARTIAL: set(),
}
_lock = threading.Lock()  # one for all, since it is held for a few instructions only


class Task(BaseModel):
    """What an agent is to do. Its status changes atomically, and only forwards.

    Attributes:
        id: Its id, its own among all tasks.
        type: What kind of task it is, in the words of the application.
        objective: What is to be reached.
        params: Whatever else there is to say; conditions see it as `task.name`.
        status: How far it has come: WAITING, EXECUTING, then COMPLETE, FAILED or PARTIAL.
        result: What has come of it.
        error: Why it failed, in part or as a whole.

    Raises:
        TaskTransitionError: The status is set to one that cannot follow.

    Example:
        ```python
        task = Task(type="processing", objective="Process data", params={"input": "data"})
        await agent.run_task(task)
        print(task.status, task.result)
        ```
    """

    id: UUID = Field(default_factory=uuid4)
    type: str
    objective: str
    params: dict[str, Any] = Field(default_factory=dict)
    status: TaskStatus = TaskStatus.WAITING
    result: Any = None
    error: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing can follow."""
        return not _NEXT[self.status]

    def update_status(self, status: TaskStatus, *, result: Any = None, error: str | None = None) -> None:
        """Goes on to another status.

        Args:
            status: The status.
            result: What has come of the task.
            error: Why it failed.

        Raises:
            TaskTransitionError: The status cannot follow the present one.
        """
        with _lock:
            self._check(status)
            if result is not None:
                self.result = result
            if error is not None:
                self.error = error
            super().__setattr__("status", TaskStatus(status))  # last, so that who sees it sees what goes with it

    def set_executing(self) -> None:
        """Notes that work has begun; see `update_status`."""
        self.update_status(TaskStatus.EXECUTING)

    def complete(self, result: Any = None) -> None:
        """Notes that all of it was done; see `update_status`."""
        self.update_status(TaskStatus.COMPLETE, result=result)

    def fail(self, error: str, result: Any = None) -> None:
        """Notes that nothing of it was done; see `update_status`."""
        self.update_status(TaskStatus.FAILED, result=result, error=error)

    def partial(self, result: Any, error: str) -> None:
        """Notes that a part of it was done; see `update_status`."""
        self.update_status(TaskStatus.PARTIAL, result=result, error=error)

    def _check(self, status: TaskStatus) -> None:
        following = _NEXT[self.status]
        if status not in following:
            names = ", ".join(sorted(one.value for one in following)) or "nothing; make a new task"
            raise TaskTransitionError(
                f"the task {self.id} is {self.status.value} and cannot become {TaskStatus(status).value}; "
                f"what can follow: {names}"
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "status":
            self.update_status(TaskStatus(value))
        else:
            super().__setattr__(name, value)
