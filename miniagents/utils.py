"""Loops and text tools under their documented names."""

from miniagents.loops import achain_loop, adialog_loop
from miniagents.text import join_messages, split_messages

__all__ = ["achain_loop", "adialog_loop", "join_messages", "split_messages"]
