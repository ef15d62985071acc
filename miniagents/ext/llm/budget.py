"""Budgets: limits for what a piece of work may spend on models, whoever in it asks them.

A budget holds for a call (`agent.inquire(..., budget=)`), a fork, a context (`MiniAgents(budget=)`) or a block (`with
budget:`), and for everything that is called below. It is one account: all that carry the same one share it. Budgets
nest; a request has to fit into all that hold where it is made. Before a request is sent its estimated input and the
longest answer that it allows are reserved, so that calls side by side cannot overshoot together.
"""

from contextvars import ContextVar
from decimal import Decimal
from types import TracebackType
from typing import Any

from miniagents.usage import NO_USAGE, Usage

__all__ = ["Budget", "BudgetExceededError", "Reservation", "UnknownPriceError", "current_budgets", "reserve"]

_budgets: "ContextVar[tuple[Budget, ...]]" = ContextVar("miniagents.budgets", default=())


class BudgetExceededError(Exception):
    """A request was not sent, because it might have exceeded a budget.

    Attributes:
        budget: The budget.
        spent: What has been spent of it.
    """

    def __init__(self, text: str, budget: "Budget", spent: Usage) -> None:
        super().__init__(text)
        self.budget = budget
        self.spent = spent


class UnknownPriceError(Exception):
    """The price of a model is not known, so that it cannot be asked under a budget in money."""


class Budget:
    """An account with a limit.

    Args:
        money: How many US dollars may be spent.
        tokens: How many tokens, those sent and those of the answers together.
        requests: How many requests may be sent; those that are sent again count again.
        name: What to call it in errors.

    Raises:
        ValueError: There is no limit, or a negative one.

    Example:
        ```python
        budget = Budget(money=0.50, requests=100)
        try:
            await researcher.inquire("What is new?", budget=budget)
        except BudgetExceededError as error:
            print(error, budget.spent.cost)
        ```
    """

    def __init__(
        self,
        money: Decimal | float | str | None = None,
        tokens: int | None = None,
        requests: int | None = None,
        name: str = "the budget",
    ) -> None:
        self.money = None if money is None else Decimal(str(money))
        self.tokens = tokens
        self.requests = requests
        self.name = name
        limits = [limit for limit in (self.money, tokens, requests) if limit is not None]
        if not limits or min(limits) < 0:
            raise ValueError("a budget limits `money=`, `tokens=` or `requests=`, to something that is not negative")
        self._spent = NO_USAGE
        self._reserved_money = Decimal(0)
        self._reserved_tokens = 0

    @property
    def spent(self) -> Usage:
        """What has been spent so far."""
        return self._spent

    def __enter__(self) -> "Budget":
        _budgets.set((*_budgets.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        held = list(_budgets.get())
        if self in held:  # a fixture may leave it elsewhere than it entered it
            del held[len(held) - 1 - held[::-1].index(self)]
        _budgets.set(tuple(held))

    def __repr__(self) -> str:
        limits = (("money", self.money), ("tokens", self.tokens), ("requests", self.requests))
        return f"<Budget {', '.join(f'{name}={limit}' for name, limit in limits if limit is not None)}>"

    def _check(self, tokens: int, money: Decimal | None, model: str) -> None:
        spent = self._spent
        if self.requests is not None and spent.requests + 1 > self.requests:
            raise self._exceeded(model, f"{spent.requests} of {self.requests} requests")
        total = spent.total_tokens + self._reserved_tokens
        if self.tokens is not None and total + tokens > self.tokens:
            raise self._exceeded(
                model,
                f"{spent.total_tokens} of {self.tokens} tokens (and up to {self._reserved_tokens} by requests under "
                f"way, and {tokens} by this one)",
            )
        if self.money is not None:
            if money is None:
                raise UnknownPriceError(
                    f"the price of {model} is not known, so it cannot be asked under a limit in money ({self!r}); "
                    "limit tokens or requests, or ask a model whose price is known"
                )
            cost = spent.cost or Decimal(0)
            if cost + self._reserved_money + money > self.money:
                raise self._exceeded(
                    model,
                    f"${cost:f} of ${self.money:f} (and up to ${self._reserved_money:f} by requests under way, and "
                    f"${money:f} by this one)",
                )

    def _exceeded(self, model: str, spent: str) -> BudgetExceededError:
        return BudgetExceededError(
            f"a request to {model} was not sent, because it might exceed {self.name}: spent are {spent}. Allow more, "
            "or limit the answer by `max_tokens=`",
            self,
            self._spent,
        )


class Reservation:
    """What is set aside for one request, in all budgets that hold where it is made."""

    __slots__ = ("_budgets", "_money", "_tokens")

    def __init__(self, budgets: tuple[Budget, ...], tokens: int, money: Decimal | None) -> None:
        self._budgets = budgets
        self._tokens = tokens
        self._money = money or Decimal(0)
        for budget in budgets:
            budget._reserved_tokens += tokens
            budget._reserved_money += self._money
            budget._spent += Usage(cost=Decimal(0))  # it is sent now, whatever comes of it

    def settle(self, usage: Usage | None) -> None:
        """Gives back what was set aside, and charges what was used. A second call changes nothing.

        Args:
            usage: What the request has cost; None if nothing is charged for it.
        """
        budgets, self._budgets = self._budgets, ()
        for budget in budgets:
            budget._reserved_tokens -= self._tokens
            budget._reserved_money -= self._money
            if usage is not None:
                budget._spent = _plus(budget._spent, usage)


def current_budgets() -> tuple[Budget, ...]:
    """The budgets that hold here, the outermost first."""
    return _budgets.get()


def reserve(tokens: int, money: Decimal | None, model: str) -> Reservation:
    """Sets aside what a request may cost, in all budgets that hold here, or in none if one of them is exceeded.

    Args:
        tokens: The tokens of the request and of the longest answer.
        money: Their price; None if it is not known.
        model: The model.

    Returns:
        What has to be settled when the request is over.

    Raises:
        BudgetExceededError: It might be too much.
        UnknownPriceError: There is a limit in money, and no price.
    """
    budgets = tuple(dict.fromkeys(_budgets.get()))  # one that was given twice is one account
    for budget in budgets:
        budget._check(tokens, money, model)
    return Reservation(budgets, tokens, money)


def _plus(spent: Usage, usage: Usage) -> Usage:
    """The sum, in which the request itself was counted when it was sent, and an unknown price counts as nothing."""
    fields: dict[str, Any] = {name: getattr(spent, name) + getattr(usage, name) for name in _COUNTS}
    return Usage(**fields, cost=(spent.cost or Decimal(0)) + (usage.cost or Decimal(0)), requests=spent.requests)


_COUNTS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
