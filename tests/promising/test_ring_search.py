"""The search for rings finds all of them and nothing else, whatever waits for whatever."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from miniagents.testing import run_with_virtual_clock
from promising import CircularWaitError, Promise, PromisingContext
from tests.promising.at_rest import outcome

Waits = st.integers(2, 12).flatmap(
    lambda size: st.tuples(
        st.tuples(*[st.lists(st.integers(0, size - 1), max_size=3) for _ in range(size)]),
        st.lists(st.sampled_from([0, 0.1, 0.5, 3]), min_size=size, max_size=size),
        st.permutations(range(size)),
    )
)


@given(Waits)
@settings(max_examples=60)
def test_errors_exactly_where_there_are_rings(case: Any) -> None:
    """Of producers that wait for each other at random, those fail that reach a ring, and no others."""
    waits, delays, order = case

    def ends(number: int, on_the_way: tuple[int, ...] = ()) -> bool:
        return number not in on_the_way and all(ends(other, (*on_the_way, number)) for other in waits[number])

    async def check() -> None:
        promises: dict[int, Promise[Any]] = {}

        async def member(number: int) -> str:
            await asyncio.sleep(delays[number])
            for other in waits[number]:
                await promises[other]
            return "value"

        async with PromisingContext():
            for number in order:
                promises[number] = Promise(lambda _, number=number: member(number))
            outcomes = {number: await outcome(promise) for number, promise in promises.items()}
        for number, result in outcomes.items():
            assert result == "value" if ends(number) else isinstance(result, CircularWaitError)
        assert asyncio.get_running_loop().time() <= 3 + 3 * len(waits)

    run_with_virtual_clock(check())
