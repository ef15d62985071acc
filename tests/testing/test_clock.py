"""The virtual clock, quiescence and leftovers."""

import asyncio
import gc
import inspect
import itertools
import logging
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop

from miniagents import testing
from miniagents.testing import (
    DeadlockError,
    Timeline,
    VirtualClockEventLoop,
    assert_no_leftovers,
    clock,
    quiescence,
    run_with_virtual_clock,
)

LOOPS = pytest.mark.parametrize(
    "new_loop",
    [asyncio.SelectorEventLoop, VirtualClockEventLoop, uvloop.new_event_loop],
    ids=["asyncio", "virtual", "uvloop"],
)
NewLoop = Callable[[], asyncio.AbstractEventLoop]
A_MOMENT = 0.1  # what a real thread or process takes here, in real seconds


def run_in(new_loop: NewLoop, main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


def this_loop() -> VirtualClockEventLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockEventLoop)
    return loop


async def for_ever() -> None:
    await asyncio.Event().wait()


def test_sleeping_takes_no_real_time() -> None:
    """An hour on the loop's clock passes at once on the wall's."""
    begin = time.monotonic()
    run_with_virtual_clock(asyncio.sleep(3600))
    assert time.monotonic() - begin < 10


def test_time_is_exact() -> None:
    """Whole seconds add up to whole seconds, from 0."""

    async def main() -> list[float]:
        times = [this_loop().time()]
        for _ in range(3):
            await asyncio.sleep(1)
            times.append(this_loop().time())
        return times

    assert run_with_virtual_clock(main()) == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("seconds", [86400 * 365, 1e12, 1e-12])
def test_any_length_of_sleep_is_exact(seconds: float) -> None:
    """Also where the steps between floats are larger, or the sleep is shorter, than what asyncio's clock resolves."""

    async def main() -> float:
        await asyncio.sleep(seconds)
        await asyncio.sleep(seconds)
        return this_loop().time()

    assert run_with_virtual_clock(main()) == 2 * seconds


def test_times_closer_than_a_real_clock_resolves_stay_apart() -> None:
    """Who wakes first does not see the time of the next one."""

    async def main() -> list[tuple[float, Any]]:
        timeline = Timeline()
        for seconds in (1 + 1e-10, 1.0):
            this_loop().call_later(seconds, timeline.note, seconds)
        await asyncio.sleep(2)
        return timeline.entries

    assert run_with_virtual_clock(main()) == [(1.0, 1.0), (1 + 1e-10, 1 + 1e-10)]


def test_a_timer_does_not_run_before_its_time() -> None:
    """Not even by less than what asyncio's clock resolves, when the loop is busy."""

    async def main() -> list[tuple[float, Any]]:
        timeline = Timeline()
        this_loop().call_later(1e-10, timeline.note, "timer")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        timeline.note("busy")
        await asyncio.sleep(1)
        return timeline.entries

    assert run_with_virtual_clock(main()) == [(0.0, "busy"), (1e-10, "timer")]


def test_timers_run_in_the_order_of_their_times() -> None:
    """However they were set."""

    async def main() -> list[tuple[float, Any]]:
        timeline = Timeline()
        for seconds in (3, 1, 2):
            this_loop().call_later(seconds, timeline.note, seconds)
        await asyncio.sleep(4)
        return timeline.entries

    assert run_with_virtual_clock(main()) == [(1.0, 1), (2.0, 2), (3.0, 3)]


def test_timers_of_one_time_run_in_the_order_in_which_they_were_set() -> None:
    """A hundred that are due together, some cancelled in between, keep their order."""

    async def main() -> list[int]:
        seen: list[int] = []
        timers = [this_loop().call_later(1, seen.append, number) for number in range(100)]
        for timer in timers[::3]:
            timer.cancel()
        await asyncio.sleep(1)
        return seen

    assert run_with_virtual_clock(main()) == [number for number in range(100) if number % 3]


def test_a_timeline_proves_what_runs_in_parallel() -> None:
    """Two sleeps side by side take as long as the longer one."""

    async def main() -> list[tuple[float, Any]]:
        await asyncio.sleep(5)
        timeline = Timeline()

        async def work(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            timeline.note(name)

        await asyncio.gather(work("slow", 2), work("fast", 1))
        assert timeline.elapsed == 2.0
        await work("after", 1)
        return timeline.entries

    assert run_with_virtual_clock(main()) == [(1.0, "fast"), (2.0, "slow"), (3.0, "after")]


def test_ready_callbacks_run_before_time_passes() -> None:
    """A timer waits for all that can run without it, however many turns that takes."""

    async def main() -> float:
        timer = asyncio.create_task(asyncio.sleep(1))
        for _ in range(1000):
            await asyncio.sleep(0)
        before = this_loop().time()
        await timer
        return before

    assert run_with_virtual_clock(main()) == 0.0


def test_timeouts_are_of_the_virtual_clock() -> None:
    """`asyncio.timeout` fires at its time."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await for_ever()
        return this_loop().time()

    assert run_with_virtual_clock(main()) == 30.0


def test_many_timers_take_linear_time() -> None:
    """A jump does not look at all timers."""

    async def main() -> float:
        await asyncio.gather(*(asyncio.sleep(number) for number in range(20_000)))
        return this_loop().time()

    begin = time.process_time()
    assert run_with_virtual_clock(main()) == 19_999.0
    assert time.process_time() - begin < 15


def test_a_thread_stops_the_clock() -> None:
    """No timer overtakes `asyncio.to_thread`."""

    async def main() -> list[tuple[float, Any]]:
        timeline = Timeline()
        timer = asyncio.create_task(asyncio.sleep(0.001))
        timer.add_done_callback(lambda _: timeline.note("timer"))
        await asyncio.to_thread(time.sleep, A_MOMENT)
        timeline.note("thread")
        await timer
        await asyncio.sleep(0)
        return timeline.entries

    assert run_with_virtual_clock(main()) == [(0.0, "thread"), (0.001, "timer")]


def test_an_executor_of_ones_own_stops_the_clock() -> None:
    """And its errors arrive, after which the clock goes on."""

    def fail() -> None:
        time.sleep(A_MOMENT)
        raise LookupError("no")

    async def main() -> float:
        with ThreadPoolExecutor(1) as pool:
            timer = asyncio.create_task(asyncio.sleep(1))
            with pytest.raises(LookupError):
                await this_loop().run_in_executor(pool, fail)
            assert not timer.done()
            await timer
        return this_loop().time()

    assert run_with_virtual_clock(main()) == 1.0


def test_a_cancelled_thread_stops_the_clock_until_it_ends() -> None:
    """A thread cannot be cancelled; what it does still happens at the time at which it began."""
    seen: list[float] = []

    async def main() -> None:
        loop, go_on, started = this_loop(), threading.Event(), threading.Event()

        def work() -> None:
            started.set()
            go_on.wait(10)
            time.sleep(A_MOMENT)
            seen.append(loop.time())

        task = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.sleep(0)
        assert started.wait(10)
        task.cancel()
        go_on.set()
        await asyncio.sleep(60)

    run_with_virtual_clock(main())
    assert seen == [0.0]


def test_a_job_cancelled_before_its_start_does_not_stop_the_clock() -> None:
    """It never runs, so nothing waits for it."""

    async def main() -> float:
        go_on = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            first = this_loop().run_in_executor(pool, go_on.wait, 10)
            second = this_loop().run_in_executor(pool, go_on.wait, 10)
            second.cancel()
            go_on.set()
            await first
            await asyncio.sleep(1)
        return this_loop().time()

    assert run_with_virtual_clock(main()) == 1.0


class SlowToTell(Future[None]):
    """A job that ends between the registrations of its first and its second callback, and then tells them late."""

    worker: threading.Thread | None = None

    def add_done_callback(self, callback: Callable[[Future[None]], object]) -> None:
        super().add_done_callback(callback)
        if self.worker is None:
            self.worker = threading.Thread(target=self.set_result, args=(None,))
            self.worker.start()
            self.result(10)

    def _invoke_callbacks(self) -> None:
        time.sleep(A_MOMENT)
        super()._invoke_callbacks()  # type: ignore[misc]


class SlowExecutor(Executor):
    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        return SlowToTell()


def test_no_result_of_a_thread_is_overtaken_on_its_way() -> None:
    """The end of a job and the arrival of its result are not one moment."""

    async def main() -> float:
        timer = asyncio.create_task(asyncio.sleep(1))
        await asyncio.sleep(0)
        await this_loop().run_in_executor(SlowExecutor(), int)
        arrived = this_loop().time()
        await timer
        return arrived

    assert run_with_virtual_clock(main()) == 0.0


def test_a_thread_that_outlives_the_loop_ends_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    """There is nobody left whom it could tell."""
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as pool:

        async def main() -> None:
            this_loop().run_in_executor(pool, go_on.wait, 10).cancel()
            await asyncio.sleep(0)

        run_with_virtual_clock(main())
        go_on.set()
    assert not caplog.records


def test_no_work_is_taken_after_the_shutdown_of_the_executor() -> None:
    """As with asyncio's own."""

    async def main() -> None:
        await this_loop().shutdown_default_executor()
        with pytest.raises(RuntimeError, match="shutdown"):
            this_loop().run_in_executor(None, int)

    run_with_virtual_clock(main())


def test_threads_of_ones_own_are_waited_for_inside_hold_clock() -> None:
    """`call_soon_threadsafe` is in time, and neither a deadlock nor a timeout comes before it."""

    async def main() -> float:
        loop, answer = this_loop(), this_loop().create_future()

        def work() -> None:
            time.sleep(A_MOMENT)
            loop.call_soon_threadsafe(answer.set_result, None)

        thread = threading.Thread(target=work)
        thread.start()
        with loop.hold_clock():
            await asyncio.wait_for(answer, 0.001)
        thread.join()
        await asyncio.sleep(1)
        return loop.time()

    assert run_with_virtual_clock(main()) == 1.0


def test_hold_clock_nests() -> None:
    """The clock goes on after the last one has ended."""

    async def main() -> tuple[bool, float]:
        timer = asyncio.create_task(asyncio.sleep(1))
        with this_loop().hold_clock():
            with this_loop().hold_clock():
                pass
            await asyncio.to_thread(time.sleep, A_MOMENT)
            held = not timer.done()
        await timer
        return held, this_loop().time()

    assert run_with_virtual_clock(main()) == (True, 1.0)


def test_sockets_are_asked_before_a_jump() -> None:
    """What two sides of a connection in one loop tell each other takes no virtual time."""

    async def main() -> tuple[bytes, float]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hi\n")
            async with asyncio.timeout(0.001):
                answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        return answer, this_loop().time()

    assert run_with_virtual_clock(main()) == (b"HI\n", 0.0)


def test_a_slow_socket_gets_the_time_that_was_asked_for() -> None:
    """`seconds_for_sockets` is how long a jump waits for the other side."""

    async def main() -> float:
        read_end, write_end = os.pipe()
        writer = threading.Timer(A_MOMENT, os.write, (write_end, b"x"))
        arrived = asyncio.Event()
        this_loop().add_reader(read_end, arrived.set)
        writer.start()
        await asyncio.wait_for(arrived.wait(), 60)
        this_loop().remove_reader(read_end)
        writer.join()
        os.close(read_end)
        os.close(write_end)
        return this_loop().time()

    assert run_in(partial(VirtualClockEventLoop, seconds_for_sockets=30), main()) == 0.0


def test_an_open_socket_does_not_stop_timers() -> None:
    """An idle server is no reason to stand still for ever."""

    async def main() -> float:
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0):
            await asyncio.sleep(3600)
        return this_loop().time()

    assert run_with_virtual_clock(main()) == 3600.0


def test_waiting_for_a_process_is_no_deadlock() -> None:
    """Not even for one without pipes, which no socket tells of."""

    async def main() -> int:
        program = f"import time; time.sleep({A_MOMENT}); raise SystemExit(7)"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
        return await process.wait()

    assert run_with_virtual_clock(main()) == 7


@pytest.mark.parametrize("turns", range(1, 8))
def test_the_start_of_a_process_can_be_cancelled(turns: int) -> None:
    """At any point; the end of what had been started is no deadlock."""

    async def main() -> None:
        start = asyncio.create_subprocess_exec("sleep", "60", stdin=asyncio.subprocess.PIPE)
        task = asyncio.create_task(start)
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            task.result().kill()
            await task.result().communicate()

    run_with_virtual_clock(main())


def test_the_output_of_a_process_is_waited_for_inside_hold_clock() -> None:
    """A timeout does not overtake it."""

    async def main() -> tuple[bytes, float]:
        process = await asyncio.create_subprocess_shell(f"sleep {A_MOMENT}; echo hi", stdout=asyncio.subprocess.PIPE)
        with this_loop().hold_clock():
            async with asyncio.timeout(0.001):
                out, _ = await process.communicate()
        return out, this_loop().time()

    assert run_with_virtual_clock(main()) == (b"hi\n", 0.0)


def test_a_process_that_has_ended_hides_no_deadlock() -> None:
    """Only those that run are waited for."""

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        await process.wait()
        await for_ever()

    with pytest.raises(DeadlockError):
        run_with_virtual_clock(main())


def test_a_deadlock_is_an_error_that_names_who_waits_where() -> None:
    """At once, with each task and the coroutines in which it is suspended."""

    async def main() -> None:
        asyncio.current_task().set_name("the main one")  # type: ignore[union-attr]
        other = asyncio.create_task(for_ever(), name="the other one")
        await other

    with pytest.raises(DeadlockError) as caught:
        run_with_virtual_clock(main())
    first, *tasks = str(caught.value).split("\n")
    assert first == "nothing is left that could wake any of these 2 tasks:"
    assert re.fullmatch(r"- the main one: \S+\.main \(test_clock\.py:\d+\)", tasks[0])
    assert re.fullmatch(r"- the other one: for_ever \(test_clock\.py:\d+\) > Event\.wait \(locks\.py:\d+\)", tasks[1])


def test_a_deadlock_of_very_many_tasks_names_some() -> None:
    """The message stays readable."""

    async def main() -> None:
        await asyncio.gather(*(for_ever() for _ in range(1000)))

    with pytest.raises(DeadlockError, match="1001 tasks") as caught:
        run_with_virtual_clock(main())
    assert str(caught.value).endswith("- and 981 more")
    assert len(str(caught.value).split("\n")) == 22


def test_after_a_deadlock_the_loop_cleans_up(caplog: pytest.LogCaptureFixture) -> None:
    """Tasks are cancelled and may still sleep, generators are closed; nothing is left to be complained about."""
    seen: list[Any] = []

    async def pieces() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append("generator closed")

    generator = pieces()

    async def main() -> None:
        await anext(generator)
        try:
            await for_ever()
        finally:
            await asyncio.sleep(5)
            seen.append(this_loop().time())

    gc.collect()  # what other tests have left is no concern of this one
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "asyncio"), pytest.raises(DeadlockError):
        run_with_virtual_clock(main())
    gc.collect()
    assert seen == [5.0, "generator closed"]
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_after_a_deadlock_the_loop_can_still_be_used() -> None:
    """The same runner runs the next coroutine."""
    with asyncio.Runner(loop_factory=VirtualClockEventLoop) as runner:
        with pytest.raises(DeadlockError):
            runner.run(for_ever())
        assert runner.run(asyncio.sleep(1, "fine")) == "fine"


def test_a_clean_up_that_hangs_is_an_error_too() -> None:
    """Instead of a hang at the end, after which the first error is still there to be read."""

    async def main() -> None:
        try:
            await for_ever()
        finally:
            await for_ever()

    with pytest.raises(DeadlockError) as caught:
        run_with_virtual_clock(main())
    assert isinstance(caught.value.__context__, DeadlockError)


def test_a_sleep_without_end_is_a_deadlock() -> None:
    """The clock does not jump to infinity."""
    with pytest.raises(DeadlockError):
        run_with_virtual_clock(asyncio.sleep(math.inf))


def test_a_cancelled_timer_hides_no_deadlock() -> None:
    """Nor does it make time pass."""

    async def main() -> None:
        this_loop().call_later(1, print).cancel()
        await for_ever()

    with asyncio.Runner(loop_factory=VirtualClockEventLoop) as runner:
        with pytest.raises(DeadlockError):
            runner.run(main())
        assert runner.get_loop().time() == 0.0


class Watchdog:
    """Looks after something once a second, for ever."""

    is_background = True

    def __init__(self, looks: Callable[[int], object] = lambda _: None) -> None:
        self._looks = looks
        self._count = 0
        this_loop().call_later(1, self.look)

    def look(self) -> None:
        self._count += 1
        self._looks(self._count)
        this_loop().call_later(1, self.look)


def test_a_watchdog_hides_no_deadlock() -> None:
    """Nor does a timer that was cancelled, wherever in the queue it still is."""

    async def main() -> None:
        Watchdog()
        this_loop().call_later(60, print).cancel()
        await for_ever()

    with asyncio.Runner(loop_factory=VirtualClockEventLoop) as runner:
        with pytest.raises(DeadlockError):
            runner.run(main())
        assert runner.get_loop().time() == 3.0


def test_a_watchdog_has_a_few_rounds_to_end_a_wait() -> None:
    """As the search for rings of promises does."""

    async def main() -> float:
        ended = asyncio.Event()
        Watchdog(lambda count: ended.set() if count == 3 else None)
        await ended.wait()
        return this_loop().time()

    assert run_with_virtual_clock(main()) == 3.0


@pytest.mark.parametrize("soon", [True, False])
def test_rounds_of_a_watchdog_are_counted_only_while_nothing_else_happens(soon: bool) -> None:
    """A callback in between, ready or timed, shows that all is well."""

    async def main() -> float:
        ended = asyncio.Event()

        def act(count: int) -> None:
            if count == 20:
                ended.set()
            elif count % 2 == 0:
                this_loop().call_soon(int) if soon else this_loop().call_later(0.5, int)

        Watchdog(act)
        await ended.wait()
        return this_loop().time()

    assert run_with_virtual_clock(main()) == 20.0


def test_ctrl_c_ends_a_loop_that_waits_for_a_socket() -> None:
    """A signal gets through where the loop waits in real time."""

    async def main() -> None:
        read_end, write_end = os.pipe()
        this_loop().add_reader(read_end, lambda: None)
        killer = threading.Timer(A_MOMENT, os.kill, (os.getpid(), signal.SIGINT))
        killer.start()
        try:
            await for_ever()
        finally:
            killer.join()
            this_loop().remove_reader(read_end)
            os.close(read_end)
            os.close(write_end)

    with pytest.raises(KeyboardInterrupt):
        run_with_virtual_clock(main())


def test_a_loop_in_debug_mode_works_too() -> None:
    """Threads, timers and their checks."""

    async def main() -> float:
        await asyncio.to_thread(int)
        await asyncio.sleep(1)
        return this_loop().time()

    with asyncio.Runner(loop_factory=VirtualClockEventLoop, debug=True) as runner:
        assert runner.run(main()) == 1.0


def test_a_closed_loop_takes_no_work() -> None:
    """As with asyncio's own."""
    loop = VirtualClockEventLoop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_in_executor(None, int)
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)


def test_the_recipe_for_pytest_works(tmp_path: Path) -> None:
    """The conftest of the module's description makes a test of an hour pass, and a deadlock fail."""
    (recipe,) = re.findall(r"```python\n(.*?)```", inspect.getdoc(clock) or "", re.DOTALL)
    (tmp_path / "conftest.py").write_text(recipe)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
            import asyncio

            async def test_of_an_hour():
                await asyncio.sleep(3600)
                assert asyncio.get_running_loop().time() == 3600.0

            async def test_that_hangs():
                await asyncio.Event().wait()
        """)
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist"]
    ran = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert "1 failed, 1 passed" in ran.stdout, ran.stdout + ran.stderr
    assert "DeadlockError: nothing is left that could wake any of these 1 tasks" in ran.stdout


@LOOPS
def test_at_quiescence_all_that_could_run_has_run(new_loop: NewLoop) -> None:
    """A chain of tasks, each of which wakes the next, has come to its end."""

    async def main() -> int:
        events = [asyncio.Event() for _ in range(100)]
        passed = []

        async def relay(number: int) -> None:
            await events[number].wait()
            await asyncio.sleep(0)
            passed.append(number)
            if number + 1 < len(events):
                events[number + 1].set()

        tasks = [asyncio.create_task(relay(number)) for number in range(len(events))]
        events[0].set()
        await quiescence()
        assert all(task.done() for task in tasks)
        return len(passed)

    assert run_in(new_loop, main()) == 100


@LOOPS
def test_quiescence_leaves_those_who_wait_waiting(new_loop: NewLoop) -> None:
    """It waits for neither a timer nor an event that nobody sets, and takes no time of the loop's clock."""

    async def main() -> bool:
        tasks = [asyncio.create_task(asyncio.sleep(3600)), asyncio.create_task(for_ever())]
        begin = asyncio.get_running_loop().time()
        await quiescence()
        assert asyncio.get_running_loop().time() - begin < 60
        waiting = not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        return waiting

    assert run_in(new_loop, main())


def test_quiescence_waits_for_callbacks_that_no_task_shows() -> None:
    """Callbacks that call each other soon are seen by their queue."""

    async def main() -> int:
        left = 50

        def again() -> None:
            nonlocal left
            left -= 1
            if left:
                this_loop().call_soon(again)

        again()
        await quiescence()
        return left

    assert run_with_virtual_clock(main()) == 0


@LOOPS
def test_a_loop_that_never_rests_is_an_error_that_names_the_task(new_loop: NewLoop) -> None:
    """After as many turns as one allows."""

    async def main() -> None:
        async def spin() -> None:
            while True:
                await asyncio.sleep(0)

        task = asyncio.create_task(spin(), name="the restless one")
        with pytest.raises(RuntimeError, match=r"within 100 turns.*the restless one"):
            await quiescence(max_turns=100)
        task.cancel()

    run_in(new_loop, main())


@LOOPS
def test_a_task_that_is_left_is_an_error_that_names_it(new_loop: NewLoop) -> None:
    """One that ended, or had been there before, is not."""

    async def main() -> None:
        before = asyncio.create_task(for_ever())
        async with assert_no_leftovers():
            asyncio.create_task(asyncio.sleep(0))  # noqa: RUF006
        tasks = []
        with pytest.raises(AssertionError, match="still running: the forgotten one"):
            async with assert_no_leftovers():
                tasks.append(asyncio.create_task(for_ever(), name="the forgotten one"))
        for task in (before, *tasks):
            task.cancel()

    run_in(new_loop, main())


def test_the_interface_is_exact_and_sorted() -> None:
    """All that is listed is there."""
    for module in (testing, clock):
        assert sorted(module.__all__) == list(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


@LOOPS
def test_quiescence_sees_through_callbacks_between_tasks(new_loop: NewLoop) -> None:
    """A task at the end of a row of futures has been woken."""

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[None]] = [loop.create_future() for _ in range(50)]

        def wake(following: asyncio.Future[None], _: asyncio.Future[None]) -> None:
            following.set_result(None)

        for future, following in itertools.pairwise(futures):
            future.add_done_callback(partial(wake, following))
        task = asyncio.create_task(asyncio.wait_for(futures[-1], None))
        await quiescence()
        futures[0].set_result(None)
        await quiescence()
        return task.done()

    assert run_in(new_loop, main())


@LOOPS
def test_an_async_generator_that_is_left_open_is_an_error_that_names_it(new_loop: NewLoop) -> None:
    """One that was read to its end, or closed, or begun before, is not."""

    async def pieces() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def main() -> None:
        before, closed, forgotten = pieces(), pieces(), pieces()
        await anext(before)
        async with assert_no_leftovers():
            assert [piece async for piece in pieces()] == [1, 2]
            await anext(closed)
            await closed.aclose()  # type: ignore[attr-defined]
        with pytest.raises(AssertionError, match=r"async generators still open: .*pieces"):
            async with assert_no_leftovers():
                await anext(forgotten)

    run_in(new_loop, main())
