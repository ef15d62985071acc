"""Tasks: their fields, and the ways of their status."""

import threading
import time
from itertools import product
from uuid import UUID

import pytest

from miniagents.ext.cache import MemoryCache
from miniagents.ext.graph import GraphError
from miniagents.ext.task_graph import Task, TaskStatus, TaskTransitionError
from tests.ext.task_graph.helpers import new_task

LEGAL = {
    ("waiting", "executing"),
    ("waiting", "failed"),
    ("executing", "complete"),
    ("executing", "failed"),
    ("executing", "partial"),
}


def task_in(status: str) -> Task:
    return Task(type="t", objective="o", status=TaskStatus(status))


def test_fields() -> None:
    """A new task has an id of its own, no parameters, no result, no error, and waits."""
    one, other = (Task(type="processing", objective="Process data") for _ in range(2))
    assert isinstance(one.id, UUID)
    assert one.id != other.id
    assert (one.type, one.objective, one.params) == ("processing", "Process data", {})
    assert (one.status, one.result, one.error) == (TaskStatus.WAITING, None, None)


@pytest.mark.parametrize(("before", "after"), list(product(TaskStatus, TaskStatus)))
def test_transitions(before: TaskStatus, after: TaskStatus) -> None:
    """A status only goes forwards; whatever else is asked for is refused and changes nothing."""
    for change in (lambda task: task.update_status(after), lambda task: setattr(task, "status", after)):
        task = task_in(before)
        if (before, after) in LEGAL:
            change(task)
            assert task.status is after
        else:
            with pytest.raises(TaskTransitionError, match=rf"{task.id} is {before} and cannot become {after}"):
                change(task)
            assert task.status is before


def test_refusals_say_what_is_possible() -> None:
    """The error names what can follow, and is an error of graphs and a ValueError."""
    with pytest.raises(TaskTransitionError, match="what can follow: executing, failed") as caught:
        new_task().complete()
    assert isinstance(caught.value, GraphError)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(TaskTransitionError, match="nothing; make a new task"):
        task_in("complete").set_executing()


def test_the_shortcuts() -> None:
    """Each shortcut sets the status with what goes with it."""
    task = task_in("executing")
    task.complete({"a": 1})
    assert (task.status, task.result, task.error) == (TaskStatus.COMPLETE, {"a": 1}, None)
    task = task_in("executing")
    task.partial({"a": 1}, "b failed")
    assert (task.status, task.result, task.error) == (TaskStatus.PARTIAL, {"a": 1}, "b failed")
    task = new_task()
    task.fail("no server")
    assert (task.status, task.error) == (TaskStatus.FAILED, "no server")
    assert [task_in(status).is_over for status in TaskStatus] == [False, False, True, True, True]


def test_a_status_in_words() -> None:
    """A status can be given as a text, and is one of `TaskStatus`; anything else is refused."""
    task = task_in("executing")
    task.status = "complete"  # type: ignore[assignment]
    assert task.status is TaskStatus.COMPLETE
    task = task_in("executing")
    task.update_status("partial")  # type: ignore[arg-type]
    assert task.status is TaskStatus.PARTIAL
    with pytest.raises(ValueError, match="nonsense"):
        task_in("executing").update_status("nonsense")  # type: ignore[arg-type]


class Slow(Task):
    """A task with time between the look at its status and the change."""

    def _check(self, status: TaskStatus) -> None:
        super()._check(status)
        time.sleep(0.01)


def settled_by_threads(task: Task, number: int) -> list[int | None]:
    """Lets threads settle a task at the same moment; None for one that was refused."""
    begin = threading.Barrier(number)
    outcomes: list[int | None] = []

    def settle(result: int) -> None:
        begin.wait()
        try:
            task.complete(result)
            outcomes.append(result)
        except TaskTransitionError:
            outcomes.append(None)

    threads = [threading.Thread(target=settle, args=(result,)) for result in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_one_of_many_threads_gets_a_transition() -> None:
    """Of threads that want the same transition at the same moment one gets it, and the others are told."""
    for kind in (Task, Slow):
        task = kind(type="t", objective="o", status=TaskStatus.EXECUTING)
        outcomes = settled_by_threads(task, 8)
        assert len(outcomes) == 8
        assert [result for result in outcomes if result is not None] == [task.result]


def test_a_status_comes_with_what_goes_with_it() -> None:
    """A thread that sees the new status sees the result and the error, too."""

    class Watched(Task):
        def __setattr__(self, name: str, value: object) -> None:
            if name in ("result", "error"):
                seen.append((name, self.status))
            super().__setattr__(name, value)

    seen: list[tuple[str, TaskStatus]] = []
    task = Watched(type="t", objective="o", status=TaskStatus.EXECUTING)
    task.partial("half", "the other half")
    assert seen == [("result", TaskStatus.EXECUTING), ("error", TaskStatus.EXECUTING)]
    assert task.status is TaskStatus.PARTIAL


async def test_a_task_is_a_value_of_caches() -> None:
    """What comes out of a cache is an equal task, and another object."""
    cache, task = MemoryCache(), task_in("executing")
    task.partial({"a": [1, 2]}, "half")
    await cache.set("task", task)
    found = await cache.get("task")
    assert found == task
    assert found is not task
