"""What your own tests of agents need: a scripted model, a clock that jumps, and a way to wait for rest."""

from miniagents.testing.clock import DeadlockError, Timeline, VirtualClockEventLoop, run_with_virtual_clock
from miniagents.testing.quiescence import assert_no_leftovers, quiescence
from miniagents.testing.scripted_model import Request, ScriptedModel, ScriptedReply

__all__ = [
    "DeadlockError",
    "Request",
    "ScriptedModel",
    "ScriptedReply",
    "Timeline",
    "VirtualClockEventLoop",
    "assert_no_leftovers",
    "quiescence",
    "run_with_virtual_clock",
]
