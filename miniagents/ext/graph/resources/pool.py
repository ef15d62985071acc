"""Pools of resources that work which runs side by side shares: who gets how much, and who has to wait.

Nothing is measured or enforced: a pool counts what its users say that they take. Who is admitted when, and why nobody
waits for ever, is said in `miniagents.ext.graph.resources.waiting_line`.
"""

from collections.abc import Callable, Mapping

from miniagents.ext.graph.resources.accounts import Account, Quota, quota_totals
from miniagents.ext.graph.resources.admission import Admission
from miniagents.ext.graph.resources.allocation import Allocation
from miniagents.ext.graph.resources.requirements import (
    TYPES,
    ResourceError,
    ResourceRequirements,
    ResourceType,
    described,
    units_of,
)
from miniagents.ext.graph.resources.stats import (
    ResourceUsageStats,
    WaitingState,
    state_allocations,
    usage_stats,
    waiting_states,
)
from miniagents.ext.graph.resources.waiting_line import Request

__all__ = ["ResourcePool"]


class ResourcePool:
    """Resources that are shared, for one event loop at a time. It is not thread-safe.

    Who asks for more than is free waits: those of a higher priority first, those of the same one in the order in which
    they have come. Others may use what somebody who waits does not need, or not yet; nobody waits for ever while others
    end. Amounts are counted in millionths.

    Args:
        total_cpu: How many CPU cores there are.
        total_memory: How many MB of memory.
        total_io: How much input and output, in a measure of your own.
        total_network: How much network traffic, in a measure of your own.
        total_gpu: How many GPUs.
        enable_preemption: Whether who waits makes those of a lower priority that are `preemptible` give back what they
            have, if that is enough.
        enable_quotas: Whether there are quotas.
        quotas: What names or groups may hold at most; see `set_quota`.
        max_overtakes: How often later ones may be given something of what the one that waits longest lacks, because
            their priority is higher; then it goes first.

    Raises:
        ValueError: A total is negative or not a finite number, `max_overtakes` is less than 1, a quota is none, or
            there are quotas but `enable_quotas` is not set.

    Example:
        ```python
        pool = ResourcePool(total_cpu=8.0, total_gpu=2.0)
        async with await pool.acquire("train", ResourceRequirements(cpu_units=2.0, gpu_units=1.0)):
            print(pool.get_usage_stats()[ResourceType.GPU].current_usage)  # 1.0
        ```
    """

    def __init__(
        self,
        total_cpu: float = 4.0,
        total_memory: float = 4096.0,
        total_io: float = 100.0,
        total_network: float = 100.0,
        total_gpu: float = 0.0,
        enable_preemption: bool = False,
        enable_quotas: bool = False,
        *,
        quotas: Mapping[str, Quota] | None = None,
        max_overtakes: int = 16,
    ) -> None:
        if max_overtakes < 1:
            raise ValueError(f"max_overtakes is {max_overtakes}; give at least 1, or priorities would mean nothing")
        totals = {
            ResourceType.CPU: units_of("total_cpu", total_cpu),
            ResourceType.MEMORY: units_of("total_memory", total_memory),
            ResourceType.IO: units_of("total_io", total_io),
            ResourceType.NETWORK: units_of("total_network", total_network),
            ResourceType.GPU: units_of("total_gpu", total_gpu),
        }
        self._has_quotas = enable_quotas
        self._account = Account(totals[kind] for kind in TYPES)
        self._admission = Admission(self._account, max_overtakes, preemption=enable_preemption)
        self._quotas: dict[str, Account] = {}
        for owner, quota in (quotas or {}).items():
            self.set_quota(owner, quota)

    # --- asking ---

    def check(self, requirements: ResourceRequirements, *, where: str, owner: str | None = None) -> None:
        """Makes sure that something can be given at all.

        Args:
            requirements: What will be asked for.
            where: What asks for it, for people.
            owner: Whose quota has to allow it.

        Raises:
            ResourceError: It is more than the pool has, or than the quota allows; it says of which types, how much is
                asked for and how much there is.
        """
        quota = None if owner is None else self._quotas.get(owner)
        for account, what in ((self._account, "the pool has"), (quota, f"the quota of {owner!r} allows")):
            too_much = () if account is None else account.too_much(requirements._needs)
            if account is not None and too_much:
                there_is = tuple((index, account.totals[index]) for index, _ in too_much)
                raise ResourceError(
                    f"{where} asks for {described(too_much)}, but {what} {described(there_is)}; "
                    f"ask for less, or make {'the pool larger' if account is self._account else 'the quota larger'}"
                )

    def try_acquire(
        self,
        name: str,
        requirements: ResourceRequirements,
        *,
        preemptible: bool = False,
        on_preempt: Callable[[], None] | None = None,
        group: str | None = None,
    ) -> Allocation | None:
        """Takes resources if they can be had without waiting.

        Args:
            name: Who takes them.
            requirements: How much. Its `timeout` does not matter here.
            preemptible: See `acquire`.
            on_preempt: See `acquire`.
            group: See `acquire`.

        Returns:
            What was taken; None if it is not free, or others who wait for it come first.

        Raises:
            ResourceError: It is more than the pool has, or than the quota allows.
            ValueError: It is preemptible, but there is no `on_preempt`.
        """
        allocation = self._allocation(name, requirements, preemptible, on_preempt, group)
        if self._admission.admit_now(allocation):
            return allocation
        self.check(requirements, where=repr(name), owner=allocation.owner)
        return None

    async def acquire(
        self,
        name: str,
        requirements: ResourceRequirements,
        *,
        preemptible: bool = False,
        on_preempt: Callable[[], None] | None = None,
        group: str | None = None,
    ) -> Allocation:
        """Takes resources as soon as it is their turn. A wait that is cancelled holds nothing.

        Args:
            name: Who takes them.
            requirements: How much.
            preemptible: Whether they can be asked back for a request of a higher priority.
            on_preempt: Is called when they are; then release them soon. They remain taken until then.
            group: Whose quota it counts for; that of the name otherwise.

        Returns:
            What was taken; give it back with `release`, or use it in an `async with`.

        Raises:
            ResourceError: It is more than the pool has, or than the quota allows.
            ResourceTimeoutError: It took longer than the `timeout` of the requirements.
            ValueError: It is preemptible, but there is no `on_preempt`.
        """
        allocation = self._allocation(name, requirements, preemptible, on_preempt, group)
        if not self._admission.admit_now(allocation):
            self.check(requirements, where=repr(name), owner=allocation.owner)
            await self._admission.wait_for(allocation)
        return allocation

    # --- quotas ---

    def set_quota(self, owner: str, quota: Quota | None) -> None:
        """Says how much of the pool a name or a group may hold at most. What it holds already it keeps.

        Args:
            owner: A name, or a group that is given to `acquire`.
            quota: A share of the whole pool, such as 0.5; or amounts, such as `{ResourceType.CPU: 2.0}`; None for no
                quota any more.

        Raises:
            ValueError: It is no such share or amount, or the pool has no quotas.
        """
        if not self._has_quotas:
            raise ValueError(f"{owner!r} gets a quota in a pool without quotas; make it with enable_quotas=True")
        account = None if quota is None else Account(quota_totals(owner, quota, self._account.totals))
        if account is None:
            self._quotas.pop(owner, None)
        else:
            self._quotas[owner] = account
        for allocation in self._admission.held:
            if allocation.owner == owner:
                allocation._quota = account
                if account is not None:
                    account.take(allocation.requirements._needs)
        for request in self._admission.line:
            if request.allocation.owner == owner:
                request.allocation._quota = account
                self._refuse_if_too_large(request)
        self._admission.line.requeue()
        self._admission.admit_waiting()

    def _refuse_if_too_large(self, request: Request) -> None:
        allocation = request.allocation
        try:
            self.check(allocation.requirements, where=repr(allocation.name), owner=allocation.owner)
        except ResourceError as error:
            request.resolve(error)

    # --- looking at it ---

    def get_usage_stats(self) -> dict[ResourceType, ResourceUsageStats]:
        """Tells how much of each type is used.

        Returns:
            The figures for each single type.
        """
        return usage_stats(self._account)

    def get_state_allocations(self) -> dict[str, dict[ResourceType, float]]:
        """Tells who holds what.

        Returns:
            By name the amounts by type; all that is held under one name, summed up.
        """
        return state_allocations(self._admission.held)

    def get_waiting_states(self) -> dict[str, WaitingState]:
        """Tells who waits.

        Returns:
            Those who wait by name, the first in line first; of several under one name the first.
        """
        return waiting_states(self._admission.line, self._account)

    def __repr__(self) -> str:
        totals = tuple((index, units) for index, units in enumerate(self._account.totals) if units)
        return f"<ResourcePool of {described(totals)}: {len(self._admission.held)} allocations>"

    def _allocation(
        self,
        name: str,
        requirements: ResourceRequirements,
        preemptible: bool,
        on_preempt: Callable[[], None] | None,
        group: str | None,
    ) -> Allocation:
        if preemptible and on_preempt is None:
            raise ValueError(f"{name!r} is preemptible, but cannot be told so; give `on_preempt=`")
        owner = name if group is None else group
        quota = self._quotas.get(owner) if self._quotas else None
        told = on_preempt if preemptible else None
        return Allocation(self._admission, name, requirements, owner, quota, told)
