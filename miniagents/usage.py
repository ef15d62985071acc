"""What work with models has cost, per call of an agent: what its sub-agents spend is charged to it, too."""

from contextvars import Context, ContextVar
from decimal import Decimal
from typing import TYPE_CHECKING

from miniagents.frozen import Frozen
from promising.run import Run, owner_at_work

if TYPE_CHECKING:
    from miniagents.context import MiniAgents
    from miniagents.sequences import MessageSequencePromise
    from promising.run import Owner

__all__ = ["NO_USAGE", "Usage", "charge", "payers", "remember_payers"]


class Usage(Frozen):
    """What requests to models have cost: tokens as the provider counts them, and money.

    Attributes:
        input_tokens: The tokens sent, those that came from a cache or went into one included.
        output_tokens: The tokens of the answers, reasoning included.
        cached_tokens: Those of `input_tokens` that the provider had in its cache.
        cache_write_tokens: Those of `input_tokens` that the provider has put into its cache.
        reasoning_tokens: Those of `output_tokens` that the model has spent on thinking.
        cost: The price in US dollars; None where the price of a model is not known.
        requests: The number of requests.

    Example:
        ```python
        reply = agent.inquire("Hi")
        usage = await reply.usage()
        print(usage.input_tokens, usage.cost)
        ```
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost: Decimal | None = None
    requests: int = 1

    @property
    def total_tokens(self) -> int:
        """The tokens sent and those of the answers together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "Usage") -> "Usage":
        if not isinstance(other, Usage):
            return NotImplemented
        if not self.requests or not other.requests:  # nothing was spent, and nothing is the sum with something unknown
            return other if not self.requests else self
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cost=None if self.cost is None or other.cost is None else self.cost + other.cost,
            requests=self.requests + other.requests,
        )


_known_before: "ContextVar[tuple[MessageSequencePromise | MiniAgents, ...]]" = ContextVar(
    "miniagents.payers", default=()
)

NO_USAGE = Usage(cost=Decimal(0), requests=0)
"""What costs nothing: where a sum begins."""


def payers() -> "tuple[MessageSequencePromise | MiniAgents, ...]":
    """Who pays for what is asked for here: the call of the agent at work, the calls above it, and their contexts.

    Returns:
        Whom to charge. Take it where a request is made, which may be long before it is sent.
    """
    from miniagents.context import MiniAgents
    from miniagents.sequences import MessageSequencePromise

    found: list[MessageSequencePromise | MiniAgents] = []
    owner: Owner | None = owner_at_work()
    while owner is not None:
        account = owner._promise if isinstance(owner, Run) else owner
        if isinstance(account, (MessageSequencePromise, MiniAgents)):
            found.append(account)
        owner = owner._successor()
    return (*found, *(account for account in _known_before.get() if all(account is not known for known in found)))


def remember_payers(context: Context) -> None:
    """Notes who pays for a call that starts later, when those who have made it may have ended.

    Args:
        context: The context variables of the call.
    """
    accounts = payers()
    if accounts:
        context.run(_known_before.set, accounts)


def charge(usage: Usage, accounts: "tuple[MessageSequencePromise | MiniAgents, ...] | None" = None) -> None:
    """Charges what was spent. Whoever asks a model of a provider that is none of ours calls this for each request.

    Args:
        usage: What was spent.
        accounts: Who pays; those who would pay for what is asked for here otherwise.
    """
    for account in payers() if accounts is None else accounts:
        account._spent = getattr(account, "_spent", NO_USAGE) + usage
