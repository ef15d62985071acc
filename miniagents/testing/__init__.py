"""What your own tests of agents need: a scripted model, a clock that jumps, and a way to wait for rest."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from miniagents.testing.clock import DeadlockError, Timeline, VirtualClockEventLoop, run_with_virtual_clock
from miniagents.testing.quiescence import assert_no_leftovers, quiescence
from miniagents.testing.scripted_model import Request, ScriptedModel, ScriptedReply

if TYPE_CHECKING:
    from miniagents.testing.cache_conformance import CacheConformance
    from miniagents.testing.chat_history_conformance import ChatHistoryConformance
    from miniagents.testing.checkpoint_store_conformance import CheckpointStoreConformance

__all__ = [
    "CacheConformance",
    "ChatHistoryConformance",
    "CheckpointStoreConformance",
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

_CONFORMANCE_SUITES = {
    "CacheConformance": "miniagents.testing.cache_conformance",
    "ChatHistoryConformance": "miniagents.testing.chat_history_conformance",
    "CheckpointStoreConformance": "miniagents.testing.checkpoint_store_conformance",
}


def __getattr__(name: str) -> Any:
    module = _CONFORMANCE_SUITES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest  # which users need for these alone

    if module not in sys.modules:
        pytest.register_assert_rewrite(module)  # so that a failure shows what was compared
    return getattr(import_module(module), name)
