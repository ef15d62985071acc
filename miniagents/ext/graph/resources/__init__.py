"""What work that runs side by side shares: pools of CPUs, memory, GPUs and the like.

* `pool`: `ResourcePool`; `requirements`: what is asked for; `allocation`: what is held
* `waiting_line`: who is admitted next, and why nobody waits for ever; `admission`: the waits
* `preemption`: making room for a higher priority; `accounts`: sums, and quotas; `stats`: looking at it
"""

from miniagents.ext.graph.resources.accounts import Quota
from miniagents.ext.graph.resources.allocation import Allocation
from miniagents.ext.graph.resources.pool import ResourcePool
from miniagents.ext.graph.resources.requirements import (
    Priority,
    ResourceError,
    ResourceRequirements,
    ResourceTimeoutError,
    ResourceType,
)
from miniagents.ext.graph.resources.stats import ResourceUsageStats, WaitingState

__all__ = [
    "Allocation",
    "Priority",
    "Quota",
    "ResourceError",
    "ResourcePool",
    "ResourceRequirements",
    "ResourceTimeoutError",
    "ResourceType",
    "ResourceUsageStats",
    "WaitingState",
]
