"""Graphs: a node with all policies against a task without any, and with the same by hand; very many nodes; memory."""

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from benchmarks.measure import Row, compare_async
from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.graph import ConcurrencyLimit, Graph, NodePolicy

__all__ = ["rows"]

_NODES, _WIDTH, _FAN = 1000, 100, 3
_MANY_NODES = 100_000
_ATTEMPTS, _SECONDS, _VISITS, _AT_ONCE = 3, 60, 5, 1000


@miniagent
async def work(ctx: InteractionContext) -> None:
    """Replies."""
    ctx.reply("done")


def before(number: int) -> list[int]:
    """What a node depends on: three nodes of the layer before."""
    layer, position = divmod(number, _WIDTH)
    return [(layer - 1) * _WIDTH + (position + step) % _WIDTH for step in range(_FAN)] if layer else []


def layered(count: int) -> Graph:
    """A graph whose nodes have all policies."""
    policy = NodePolicy(
        attempts=_ATTEMPTS, timeout=_SECONDS, max_visits=_VISITS, concurrency=(ConcurrencyLimit(_AT_ONCE),)
    )
    graph = Graph("LAYERED")
    for number in range(count):
        graph.add_node(f"{number}", work, after=[f"{one}" for one in before(number)], policy=policy)
    graph.plan()
    return graph


async def work_by_hand() -> str:
    return "done"


async def task(dependencies: list["asyncio.Task[str]"]) -> str:
    for dependency in dependencies:
        await dependency
    return await work_by_hand()


async def tasks(count: int = _NODES) -> None:
    """Waits for the tasks before, and works."""
    loop = asyncio.get_running_loop()
    started: list[asyncio.Task[str]] = []
    for number in range(count):
        started.append(loop.create_task(task([started[one] for one in before(number)])))
    for one in started:
        await one


async def careful_task(
    number: int, dependencies: list["asyncio.Task[str]"], places: asyncio.Semaphore, visits: list[int]
) -> str:
    for dependency in dependencies:
        await dependency
    if visits[number] >= _VISITS:
        raise RuntimeError("visited too often")
    visits[number] += 1
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with places, asyncio.timeout(_SECONDS):
                return await work_by_hand()
        except Exception:
            if attempt == _ATTEMPTS:
                raise
            await asyncio.sleep(0.05 * 2**attempt)
    raise AssertionError


async def careful_tasks(count: int = _NODES) -> None:
    """The same with the policies by hand."""
    loop = asyncio.get_running_loop()
    places, visits = asyncio.Semaphore(_AT_ONCE), [0] * count
    started: list[asyncio.Task[str]] = []
    for number in range(count):
        dependencies = [started[one] for one in before(number)]
        started.append(loop.create_task(careful_task(number, dependencies, places, visits)))
    for one in started:
        await one


def run(graph: Graph, *, progress: bool = True, read: bool = False) -> Callable[[], Awaitable[None]]:
    """A run of a graph."""

    async def ours() -> None:
        async with MiniAgents():
            replies = graph.inquire(progress=progress)
            if read:
                await replies

    return ours


async def wait_for_ever() -> str:
    await asyncio.get_running_loop().create_future()
    return "never"


async def weight_of_nodes(count: int) -> tuple[float, float, float]:
    """Bytes of a node that waits: what was said of it, and of its state in a run; and of a task that waits."""

    @miniagent
    async def hold(_: InteractionContext) -> None:
        await wait_for_ever()

    def weigh() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async with MiniAgents():
        tracemalloc.start()
        empty = weigh()
        graph = Graph("WAITING").add_node("first", hold)
        for number in range(count):
            graph.add_node(f"{number}", work, after=[f"{one}" for one in before(number)] or ["first"])
        graph.plan()
        assert graph.dependents  # it is made when it is first asked for
        defined = weigh()
        replies = graph.inquire()
        await asyncio.sleep(0.1)
        waiting = weigh()
        replies.cancel()
    first = asyncio.ensure_future(wait_for_ever())
    empty_again = weigh()
    started = [first]
    for number in range(count):
        started.append(asyncio.ensure_future(task([started[one + 1] for one in before(number)] or [first])))
    await asyncio.sleep(0.1)
    of_tasks = weigh() - empty_again
    tracemalloc.stop()
    for one in started:
        one.cancel()
    await asyncio.gather(*started, return_exceptions=True)
    return (defined - empty) / count, (waiting - defined) / count, of_tasks / count


@contextmanager
def without_collector() -> Iterator[None]:
    """Leaves out the garbage collector."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def rows() -> list[Row]:
    """Measures."""
    graph, micro = layered(_NODES), 1e6 / _NODES
    name = f"{_NODES:,} nodes in ten layers, all policies"
    told, mine, bare = compare_async(run(graph), tasks)
    quiet, mine_quiet, _ = compare_async(run(graph, progress=False), tasks)
    careful, _, by_hand = compare_async(run(graph), careful_tasks)
    _, mine_read, _ = compare_async(run(graph, read=True), tasks, runs=3)
    scale = _MANY_NODES / _NODES
    logging.getLogger("promising").setLevel(logging.ERROR)  # contexts that take long to end say so, else
    many = run(layered(_MANY_NODES))
    _, mine_many, bare_many = compare_async(many, lambda: tasks(_MANY_NODES), runs=3)
    with without_collector():
        alone, _, _ = compare_async(many, run(graph), runs=2)
    defined, waiting, of_task = asyncio.run(weight_of_nodes(10_000))
    return [
        Row(
            f"{name}, against bare tasks",
            told,
            4.0,
            3.0,
            f"{mine * micro:.1f} against {bare * micro:.1f} us per node; {mine_read * micro:.0f} us if all is read",
        ),
        Row(f"{name}, without progress, against bare tasks", quiet, 4.0, 3.0, f"{mine_quiet * micro:.1f} us per node"),
        Row(f"{name}, against tasks with the same by hand", careful, 2.0, 1.5, f"{by_hand * micro:.1f} us per task"),
        Row(
            f"cost of a node among {_MANY_NODES:,}, against one of {_NODES:,}",
            mine_many / mine / scale,
            1.3,
            1.1,
            f"{mine_many * micro / scale:.1f} us; of bare tasks {bare_many / bare / scale:.2f}x",
        ),
        Row("the same without the garbage collector", alone / scale, 1.3, 1.1),
        Row(
            "memory of a node that waits, against a task that waits",
            waiting / of_task,
            0.5,
            0.25,
            f"{waiting:.0f} against {of_task:.0f} bytes, and {defined:.0f} for its definition",
        ),
    ]
