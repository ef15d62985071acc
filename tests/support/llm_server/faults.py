"""Answers that fail now and then."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from itertools import count
from types import MappingProxyType
from typing import TypeAlias

from tests.support.llm_server.replies import Malformed, Piece, Reply, Request, Responder, StreamError, echo
from tests.support.llm_server.waiting import Gate

Fault: TypeAlias = Callable[[Reply], Reply]


def _half(reply: Reply) -> tuple[Piece, ...]:
    pieces = tuple(reply.pieces)
    return pieces[: (len(pieces) + 1) // 2]


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "429": lambda reply: Reply(status=429, headers={"retry-after": "0"}),
        "500": lambda reply: Reply(status=500),
        "529": lambda reply: Reply(status=529),
        "cut": lambda reply: replace(reply, pieces=_half(reply), ending="cut"),
        "reset": lambda reply: replace(reply, pieces=_half(reply), ending="reset"),
        "silent": lambda reply: Reply(ending="silent"),
        "malformed": lambda reply: replace(reply, pieces=(*_half(reply), Malformed())),
        "error": lambda reply: replace(reply, pieces=(*_half(reply), StreamError())),
        "truncated": lambda reply: replace(reply, pieces=_half(reply), finish=None),
        "stalled": lambda reply: replace(reply, pieces=(*_half(reply), Gate())),
    }
)
"""What can go wrong.

All but the first three and "silent" send half of the answer, if it streams. After "stalled" nothing comes until the
client gives up; "error", in an answer that does not stream, is none.
"""


class Faults:
    """A responder that fails at a given rate, in the same requests whenever it has the same seed.

    Args:
        responder: What answers otherwise, and whose answers are broken.
        rate: The part of the requests that fail.
        seed: What decides which requests fail, and how, together with their number.
        kinds: Names of `FAULTS`.
        retry_after: After how many seconds a 429 says to ask again. The SDKs' own retries take 0 for no answer and
            wait half a second; they heed "0.001".

    Attributes:
        injected: How often each fault happened.
        count: How many requests were answered.
    """

    def __init__(
        self,
        responder: Responder = echo,
        *,
        rate: float = 0.05,
        seed: int = 0,
        kinds: tuple[str, ...] = tuple(FAULTS),
        retry_after: str = "0",
    ) -> None:
        self.injected: Counter[str] = Counter()
        self.count = 0
        self._responder = responder
        self._rate = rate
        self._seed = seed
        self._kinds = kinds
        limited = Reply(status=429, headers={"retry-after": retry_after})
        self._faults: dict[str, Fault] = {**FAULTS, "429": lambda reply: limited}
        self._numbers = count()

    def fault(self, number: int) -> str | None:
        """What happens to a request, counted from 0."""
        chance = random.Random(self._seed * 1_000_003 + number)
        return chance.choice(self._kinds) if chance.random() < self._rate else None

    def __call__(self, request: Request) -> Reply | Awaitable[Reply]:
        kind = self.fault(next(self._numbers))
        self.count += 1
        answer = self._responder(request)
        if kind is None:
            return answer
        self.injected[kind] += 1
        if isinstance(answer, Reply):
            return self._faults[kind](answer)
        return self._broken(self._faults[kind], answer)

    async def _broken(self, fault: Fault, answer: Awaitable[Reply]) -> Reply:
        return fault(await answer)
